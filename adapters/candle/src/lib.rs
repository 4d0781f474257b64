//! flatleaf for [candle](candle_core): its models as one flat vector, and its variables moved where
//! they are by any rule.
//!
//! ```text
//! VarMap ──VarTree::of──▶ a tree ──Layout::of──▶ which variable is where in the vector
//! VarTree ──gather──▶ Vec<f32> ──restructure_into──▶ the model's own variables
//! GradStore ──Grads::of──▶ a tree of gradients, those that are absent known by name
//! FlatOptimizer::of(&vars, rule) ──update(&store)──▶ variables moved in place, a report
//! ```
//!
//! What flatleaf does with any [`Tree`](flatleaf::Tree) it does with a [`VarTree`]: checkpoints
//! ([`flatleaf::checkpoint`]), norms by leaf, maps over several models, the table of parameters. Where
//! a trait of candle's asks for one, errors are candle's; elsewhere they are [`flatleaf::Error`].
//!
//! # Locks
//! candle keeps each tensor behind a lock. A tree of variables and a step lock one variable at a
//! time, and share no work among threads meanwhile, so that other threads may evaluate the model
//! whenever they like: they see each variable as it was or as it is, and the model as a mixture.
//! [`VarTree::lend`] holds all guards for reading until it is dropped.
//!
//! # Devices
//! Variables in host memory are moved without a copy. Those on a GPU (features `cuda` and `metal`,
//! which are candle's) go through copies in host memory, two transfers for each variable and step. No
//! GPU has run it yet; the same code runs in tests on the CPU, by [`VarTree::through_copies`].
//!
//! The minor version is candle's: both break their interface at every 0.x.

mod elements;
mod error;
mod grads;
mod objective;
mod optimizer;
mod var_tree;

pub use error::{from_candle, to_candle};
pub use grads::Grads;
pub use objective::objective;
pub use optimizer::FlatOptimizer;
pub use var_tree::{Lent, Untied, VarTree};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
