//! What goes wrong half-way: panics in a user's code, trees that lie, locks that break, sizes that
//! no memory holds.
#![cfg(feature = "derive")]

mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod liars;
mod locks;
mod out_of_memory;
mod panics;
mod sizes;
