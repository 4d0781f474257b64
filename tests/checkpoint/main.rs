//! Checkpoints: what is written, what is read of it, and what hostile or unlucky files get.
#![cfg(all(feature = "safetensors", feature = "derive"))]

#[path = "../common/mod.rs"]
mod common;
mod files;

mod comparing;
#[cfg(feature = "num-complex")]
mod complex;
mod conversions;
#[cfg(feature = "num-complex")]
mod elements;
mod format;
mod hostile;
mod killed;
mod loading;
mod members;
mod memory;
mod opened;
mod optimizers;
mod python;
mod real;
mod renaming;
mod round_trips;
mod saving;
mod sharded;
mod streaming;
mod ties;
