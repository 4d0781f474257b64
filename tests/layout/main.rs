//! The plan of a tree: which leaves are in it and under which paths, and plans that are stored.
#![cfg(feature = "derive")]

#[path = "../common/mod.rs"]
mod common;

mod freezing;
#[cfg(feature = "serde")]
mod layout_serde;
mod paths;
