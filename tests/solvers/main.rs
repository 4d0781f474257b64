//! A model's loss as a function of a vector, for solvers that know nothing of trees.
#![cfg(feature = "derive")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "argmin")]
mod argmin;
#[cfg(feature = "rayon")]
mod hangs;
mod objective;
