//! Several trees at once, and what has to name leaves: the layout decides what is trainable, in
//! what order, and what is one parameter.
//!
//! Every tree is walked by itself and its leaves are collected as slices, which are the tree's own
//! where it is plain (`traversal/leaf_slices.rs`). Then a closure is called once per leaf with one
//! slice per tree.

mod clip;
mod companions;
mod fold;
mod leaf_stats;
mod map;
mod mask;
mod norms;

pub use clip::Flat;
pub use companions::{Companion, LeafAt};
pub use leaf_stats::LeafStats;
