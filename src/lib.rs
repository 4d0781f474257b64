//! flatleaf: a model's trainable parameters as one contiguous `Vec<f32>`, and back.
//!
//! A model is a tree whose leaves are arrays: some trainable, some frozen, some at several places. Its gradient is another tree that
//! knows none of this. flatleaf walks the model once, writes down which leaf is where in one vector, a [`Layout`], and from then on
//! the rest is arithmetic on slices.
//!
//! ```text
//! model ──Layout::of──▶ layout          which leaf is where: paths, shapes, offsets, ties, frozen leaves
//! model ──gather──────▶ flat: Vec<f32>  ──any arithmetic on slices──▶ flat'
//! grads ──gather_grad─▶ flat gradient   ties summed, absent leaves remembered
//! flat' ──restructure─▶ model'          a new tree, or into the old one in place; ties stay ties
//! ```

// In the order in which the data runs.
mod check;
mod error;
mod gather;
mod gradient;
mod in_place;
mod layout;
mod matched;
mod memory;
mod restructure;
mod transfer;
mod tree;

pub use error::{Error, Result};
#[cfg(feature = "derive")]
pub use flatleaf_derive::Tree;
pub use gather::destructure;
pub use gradient::{FlatGrad, TiedGrads};
pub use layout::{Layout, Leaf, Planner, Views, ViewsMut};
pub use restructure::deep_clone;
pub use tree::{
    Builder, Cell, Dtype, DynTree, Element, Identity, Key, LeafMut, LeafRef, Reader, Shared, Slot, Tree, Visitor, VisitorMut, Writer,
};

#[doc(hidden)]
pub mod __private {
    pub use std::boxed::Box;

    pub use crate::tree::{Literal, ReadBytes, Sink, WriteBytes, param};

    /// A field that is skipped and comes into a new tree by `Clone`.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be cloned into a new tree",
        label = "skipped, and not `Clone`",
        note = "`#[tree(skip, default)]` fills the field with `Default::default()` instead"
    )]
    pub trait Skipped: Clone {}

    #[diagnostic::do_not_recommend]
    impl<T: Clone> Skipped for T {}

    pub fn clone_skipped<T: Skipped>(field: &T) -> T {
        field.clone()
    }
}

/// The examples of the README.
#[cfg(all(doctest, feature = "derive"))]
#[doc = include_str!("../README.md")]
struct Readme;
