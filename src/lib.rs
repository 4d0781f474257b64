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
//! # A model, its vector, a step
//!
#![cfg_attr(feature = "derive", doc = "```")]
#![cfg_attr(not(feature = "derive"), doc = "```ignore")]
//! use flatleaf::optim::{AdamW, Optimizer};
//! use flatleaf::{destructure, tree, Tree};
//! use ndarray::{arr1, arr2, Array1, Array2};
//! use std::sync::Arc;
//!
//! #[derive(Tree)]
//! struct Net {
//!     embed: Arc<Array2<f32>>,
//!     bias: Option<Array1<f32>>,
//!     #[tree(frozen)]
//!     mean: Array1<f32>,
//!     head: Arc<Array2<f32>>, // the array of `embed`: a tie
//! }
//!
//! let embed = Arc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
//! let (bias, mean, head) = (Some(arr1(&[5.0])), arr1(&[0.5]), embed.clone());
//! let mut net = Net { embed, bias, mean, head };
//!
//! let (mut flat, layout) = destructure(&net)?;
//! assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0]); // the tie once, the frozen mean not at all
//! flat[layout.leaf("bias").unwrap().range()].fill(0.0);
//! layout.restructure_into(&mut net, &flat)?;
//!
//! // A gradient from anywhere: one at each place of the tie, none for the bias.
//! let grads = tree!({ "embed": [[1.0, 0.0], [0.0, 0.0]], "head": [[0.0, 0.0], [0.0, 2.0]] });
//! assert_eq!(*layout.gather_grad(&grads)?, [1.0, 0.0, 0.0, 2.0, 0.0]); // summed over the places
//!
//! let mut optimizer = Optimizer::new(AdamW { lr: 0.1, ..Default::default() }, &layout)?;
//! optimizer.update(&mut net, &grads)?; // on the tree, where it is
//! assert!(Arc::ptr_eq(&net.embed, &net.head)); // still one array
//! # Ok::<(), flatleaf::Error>(())
//! ```
//!
//! # Where things are
//!
//! | | |
//! | --- | --- |
//! | a tree from a type | [`#[derive(Tree)]`](derive@Tree), [`Tree`] by hand: [`implementing`] |
//! | a tree made at run time | [`DynTree`], [`tree!`]; [`StateDict`], a map whose keys are paths |
//! | which leaf is where | [`Layout::of`], [`Layout::planner`], [`Leaf`] |
//! | tree ↔ vector | [`destructure`], [`Layout::gather`], [`Layout::restructure_into`], [`Layout::view`] |
//! | the vector as a struct like the model | [`Viewable`], [`Layout::view_tree`], [`Layout::view_grad`], [`view()`]; the page `living_on_the_vector` |
//! | gradients | [`Layout::gather_grad`], [`FlatGrad`], [`TiedGrads`] |
//! | arithmetic on slices | [`ops`] |
//! | several trees at once | [`Layout::map_into`], [`Layout::map_reduce`], [`Layout::norm_l2`], [`Companion`] |
//! | optimisers | [`optim`]: [`Optimizer`](optim::Optimizer) runs a rule, or a chain of them, on the vector or on the tree |
//! | several processes or threads | [`Communicator`], [`Threads`], [`Layout::shards`], [`Optimizer::step_with`](optim::Optimizer::step_with), [`OuterOptimizer`](optim::OuterOptimizer) |
//! | outside solvers | [`objective()`]: a model's loss as a function of slices |
//! | checkpoints | `checkpoint`, with the feature `safetensors` |
//! | what went wrong | [`Error`] |
//! | why it is so, and what it is called elsewhere | [`design`] |
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `derive` (default) | [`#[derive(Tree)]`](derive@Tree) |
//! | `rayon` (default) | large leaves and large vectors are moved by all threads; results have the same bits |
//! | `serde` | [`Layout`], [`DynTree`] and the state of optimisers are serialisable |
//! | `safetensors` | `checkpoint`: models as safetensors files, saved, loaded, compared and averaged |
//! | `mmap` | checkpoints are mapped, not read |
//! | `half` | leaves of `f16` and `bf16` |
//! | `indexmap` | `IndexMap` is a tree, in insertion order |
//! | `num-complex` | arrays of complex numbers are leaves |
//! | `argmin` | `argmin`: the solvers of that crate on the vector |
//!
//! Leaves may be of any float type. A vector of `f32` holds `f16` and `bf16` exactly; one of `f64`,
//! by the methods whose names end in `_as` ([`destructure_as`]), holds all.

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

// the vector as structs that look like the model:
mod views;

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

pub use communicator::{Alone, Communicator, Threads, elastic_average};
pub use element::{Dtype, Element, FlatElement, FloatElement};
pub use error::{Error, Result};
pub use flat::gather::{destructure, destructure_as};
pub use flat::gradient::FlatGrad;
pub use flat::presence::Presence;
pub use flat::restructure::deep_clone;
pub use flat::views::{Views, ViewsMut};
/// Makes a struct or an enum a [`tree`](trait@Tree): its fields are its children, in the order of
/// their declaration, and its field names the segments of their paths.
///
/// A field is `frozen` (in the tree, not trained), a `param` (a bare float that is trained), left
/// out by `skip` (it comes into a new tree by `Clone`, or with `skip, default` by `Default`), or
/// called otherwise by `rename = "…"`. On the type, `view` makes the structs of [`Viewable`] too,
/// and `object = "dyn Layer"` lets a `Box<dyn Layer>` of it be made anew. Unions, and references
/// that are to be written, have no derive.
///
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
pub use map_reduce::{Companion, Flat, LeafAt, LeafStats};
pub use solvers::evaluation::{Evaluation, GradientSource};
pub use solvers::objective::{Objective, objective, objective_f64};
pub use traversal::tied_places::{TieReading, TiedGrads};
pub use tree::{ArrayElement, DynTree, StateArray, StateDict, Tree};
// Implementers' items, which `implementing` shows.
#[doc(hidden)]
pub use tree::{
    Builder, DottedNames, Guarded, Identity, Key, LeafMut, LeafRef, Reader, Shared, Slot, Visitor,
    VisitorMut, Writer,
};
pub use views::{ArrayMut, Lend, TiedMut, Viewable, view};

/// What an implementation of [`Tree`] by hand needs; whoever derives it needs none of this.
///
/// The names stand at the root of the crate too: `flatleaf::Visitor`. [`Tree`] itself shows a
/// container and a leaf of one's own in full.
///
/// | in | what it is |
/// | --- | --- |
/// | [`visit`](Tree::visit) | [`Visitor`] is told of children by their [`Key`], and of leaves by a [`LeafRef`]: a slice, or a [`Reader`] that is called back |
/// | [`visit_mut`](Tree::visit_mut) | [`VisitorMut`] is told of them for writing, by a [`LeafMut`]: a slice, or a [`Writer`] |
/// | [`rebuild`](Tree::rebuild) | [`Builder`] gives the new children and the elements of new leaves, in the same order; [`Slot`] takes a trait object |
/// | sharing | [`Identity`] says which leaves or nodes are one; [`Shared`] is a pointer to a node that stands at several places |
/// | locks | [`Guarded`] is what lies behind a cell or a lock, read and written under its guard; [`alone`](implementing::alone) is for who holds a lock |
/// | flat lists | [`DottedNames`] walks over dotted names, as other libraries list their parameters |
///
/// ```
/// use flatleaf::implementing::{Builder, Key, Visitor, VisitorMut};
/// use flatleaf::{destructure, Result, Tree};
///
/// struct Pair<T>([T; 2]);
///
/// impl<T: Tree> Tree for Pair<T> {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.child(Key::Name("left"), &self.0[0])?;
///         visitor.child(Key::Name("right"), &self.0[1])
///     }
///
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         let [left, right] = &mut self.0;
///         visitor.child(Key::Name("left"), left)?;
///         visitor.child(Key::Name("right"), right)
///     }
///
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         let left = builder.child(Key::Name("left"), &self.0[0])?;
///         let right = builder.child(Key::Name("right"), &self.0[1])?;
///         Ok(Pair([left, right]))
///     }
/// }
///
/// let (flat, layout) = destructure(&Pair([vec![1.0_f32], vec![2.0, 3.0]]))?;
/// assert_eq!((flat, layout.leaves()[1].path()), (vec![1.0, 2.0, 3.0], "right"));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub mod implementing {
    pub use crate::communicator::add_in_rank_order;
    pub use crate::threads::alone;
    #[doc(inline)]
    pub use crate::tree::{
        Builder, DottedNames, Guarded, Identity, Key, LeafMut, LeafRef, Reader, Shared, Slot,
        Visitor, VisitorMut, Writer,
    };
    #[doc(inline)]
    pub use crate::views::{Branches, LeafViews, LeafViewsMut};
}

#[doc(hidden)]
pub mod __private {
    pub use std::boxed::Box;
    pub use std::string::String;
    pub use std::vec::Vec;

    pub use crate::element::{ReadBytes, Sink, WriteBytes};
    pub use bytemuck::Pod;

    pub use crate::tree::elements;
    pub use crate::tree::{Literal, param};
    pub use crate::views::{
        CompoundElements, ElementMut, Items, LeafViews, LeafViewsMut, element_view,
    };

    pub type Param<'v, T> = <<T as crate::Viewable>::Items as Items<T>>::Param<'v>;
    pub type ParamMut<'v, T> = <<T as crate::Viewable>::Items as Items<T>>::ParamMut<'v>;

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

#[cfg(feature = "derive")]
#[doc = include_str!("living_on_the_vector.md")]
pub mod living_on_the_vector {}

/// The examples of the README.
#[cfg(all(doctest, feature = "derive", feature = "safetensors"))]
#[doc = include_str!("../README.md")]
struct Readme;
