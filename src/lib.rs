//! flatleaf: a model's trainable parameters as one contiguous `Vec<f32>`, and back.
//!
//! A model is a tree whose leaves are arrays: some trainable, some frozen, some at several places.
//! Its gradient is another tree that knows none of this. flatleaf walks the model once, writes down
//! which leaf is where in one vector, a [`Layout`], and from then on the rest is arithmetic on
//! slices.
//!
//! ```text
//! model ──Layout::of──▶ layout          which leaf is where: paths, shapes, offsets, ties, frozen leaves
//! model ──gather──────▶ flat: Vec<f32>  ──ops, any flat-vector solver──▶ flat'
//! grads ──gather_grad─▶ flat gradient   ties summed, absent leaves remembered
//! flat' ──restructure─▶ model'          a new tree, or into the old one in place; ties stay ties
//! ```
//!
//! Start with [`destructure`] or [`Layout::of`]; [`ops`] is the arithmetic; [`Layout::map_reduce`],
//! [`Layout::map_into`] and [`Layout::norm_l2`] walk a model beside its [`Companion`]s without a
//! vector in between. [`optim`] moves a model by its gradients, and [`objective()`] hands its loss
//! to any other solver.
//!
//! Leaves may be of any float type. A vector of `f32` holds `f16` and `bf16` exactly; one of `f64`,
//! by the methods whose names end in `_as` ([`destructure_as`]), holds all.
//!
//! [`design`] says why things are as they are, and what they are called elsewhere.

// A module uses what stands above it in this list, and nothing below. What all of them stand on:
mod error;

mod element;
mod memory;
mod threads;

// kernels over slices, and slices of any float type:
pub mod ops;
mod slices;

// what a tree is:
mod tree;

// which leaf is where:
mod layout;

// a tree met by a layout:
mod traversal;

// tree ↔ vector:
mod flat;

// several trees at once, and what names leaves:
mod map_reduce;

// members of a run, and what they exchange:
mod communicator;

// rules that move a vector or a tree:
pub mod optim;

// a model's loss as a function of the vector, for outside solvers:
mod solvers;
#[cfg(feature = "argmin")]
pub use solvers::argmin;

// layout and vector as files:
#[cfg(feature = "safetensors")]
pub mod checkpoint;

pub use communicator::{Alone, Communicator, Threads};
pub use element::{Dtype, Element, FlatElement};
pub use error::{Error, Result};
pub use flat::gather::{destructure, destructure_as};
pub use flat::gradient::FlatGrad;
pub use flat::restructure::deep_clone;
pub use flat::views::{Views, ViewsMut};
/// ```
/// use flatleaf::{Layout, Tree};
///
/// #[derive(Tree)]
/// struct Dense {
///     weight: Vec<f32>,
///     #[tree(frozen)]
///     mean: Vec<f32>,
///     #[tree(param)]
///     temperature: f32,
///     #[tree(skip)]
///     activation: fn(f32) -> f32,
/// }
///
/// let layer = Dense { weight: vec![1.0, 2.0], mean: vec![0.5], temperature: 3.0, activation: f32::tanh };
/// let layout = Layout::of(&layer)?;
/// assert_eq!(layout.gather(&layer)?, [1.0, 2.0, 3.0]);
/// let other = layout.restructure(&layer, &[4.0, 5.0, 6.0])?;
/// assert_eq!((other.weight, other.mean, other.temperature), (vec![4.0, 5.0], vec![0.5], 6.0));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[cfg(feature = "derive")]
pub use flatleaf_derive::Tree;
pub use layout::{Layout, Leaf, Planner};
pub use map_reduce::measure::{Flat, LeafStats};
pub use map_reduce::{Companion, LeafAt};
pub use solvers::objective::{Evaluation, Objective, objective, objective_f64};
pub use traversal::tied_places::TiedGrads;
pub use tree::{
    Builder, DynTree, Guarded, Identity, Key, LeafMut, LeafRef, Reader, Shared, Slot, StateArray,
    StateDict, Tree, Visitor, VisitorMut, Writer,
};

#[doc(hidden)]
pub mod __private {
    pub use std::boxed::Box;

    pub use crate::element::{ReadBytes, Sink, WriteBytes};
    pub use crate::tree::{Literal, param};

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

#[doc = include_str!("design.md")]
pub mod design {}

/// The examples of the README.
#[cfg(all(doctest, feature = "derive", feature = "safetensors"))]
#[doc = include_str!("../README.md")]
struct Readme;
