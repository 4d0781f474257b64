//! What a tree is: the derive, pointers and ties, maps and trees made at run time, leaves that are no
//! slice in memory.

#[cfg(feature = "derive")]
#[path = "../common/mod.rs"]
mod common;

mod callback_leaves;
#[cfg(feature = "derive")]
mod derive;
#[cfg(feature = "serde")]
mod dyn_tree;
#[cfg(feature = "derive")]
mod elements;
#[cfg(feature = "derive")]
mod maps;
#[cfg(feature = "derive")]
mod pointers;
#[cfg(feature = "derive")]
mod ties;
