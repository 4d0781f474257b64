//! Typed views: structs that look like the model, with arrays over the flat vector in them.
//!
//! A training loop that gathers a gradient tree and restructures a parameter tree copies both in
//! every step. A view copies neither: it is a struct of `ArrayView`s that point into the vector.
//! How it is made, in two walks:
//!
//! 1. [`Met`](met::Met) follows the model through the layout by [`Tree::visit`], compares it, and
//!    writes down which place each leaf is, in the order in which it meets them. Nothing has been
//!    lent yet, so that every error comes from here.
//! 2. [`Viewable`] goes through the model once more, by type: each leaf takes the next slice from
//!    [`LeafViews`] or [`LeafViewsMut`], and each struct is put together from the views of its
//!    fields. It needs no names, since both walks go the same way.
//!
//! An example, with a tie `a`, `c` and a frozen `b`:
//!
//! ```text
//! struct { a: Arc<[1 2]>, #[frozen] b: [3], c: Arc<[1 2]> }       flat: 1 2
//!
//! met       shared node 0 { leaf `a` }, leaf `b`, shared node 0
//! to read   a: flat[0..2],  b: the model's own,  c: flat[0..2]
//! to write  a: a handle,    b: the model's own,  c: the handle of `a`
//! ```
//!
//! To read, both places of a tie may show one slice. To write, there is one slice and two places,
//! so each has a handle that lends it ([`TiedMut`]).
//!
//! # Why not simpler
//!
//! - One walk by type with keys in it, in place of two: each derived type would have to tell its
//!   keys twice, in `visit` and here, and where the two differ a leaf would show another's numbers.
//! - The view of a shared node could be made once and handed to all of its places. But views have a
//!   lifetime, and a store of values of any type holds `'static` ones only, unless with `unsafe`.
//!   So a handle holds the slices, and makes the view each time that it lends them.
//! - A handle could give out a guard. A guard has to give back on drop, and what does something on
//!   drop keeps its borrow until the end of the scope: the vector could not be moved before the
//!   view of the gradient is dropped by hand. A closure needs none.

mod array_mut;
mod arrays;
mod collections;
mod error;
mod leaf_views;
mod leaf_views_mut;
mod met;
mod of_layout;
mod pointers;
mod scalars;
mod tied;

pub use array_mut::ArrayMut;
pub use leaf_views::LeafViews;
pub use leaf_views_mut::LeafViewsMut;
pub use of_layout::view;
#[doc(hidden)]
pub use scalars::element_view;
pub use tied::{Lend, TiedMut};

use crate::error::Result;
use crate::tree::Tree;

/// A tree that can be seen through a struct of its own shape, with arrays over a flat vector in
/// place of its arrays.
///
/// `#[derive(Tree)] #[tree(view)]` implements it for a type of one's own. It is implemented for
/// ndarray's `Array` and `ArcArray`, lists of elements, `Vec`, `Option`, `Box`, tuples, arrays,
/// maps, `Rc` and `Arc` of trees that have a view, and for bare numbers and strings, which are
/// borrowed. Elements of several numbers are seen as what they are: a `Vec<[f32; 3]>` is an
/// `ArrayView1<[f32; 3]>`.
///
/// What has no view: trait objects, whose type is known too late; cells and locks, whose content
/// cannot be borrowed without a guard; trees made at run time; elements that are aligned to more than
/// their numbers, where the compiler stops.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use flatleaf::{Tree, Viewable, destructure};
/// use ndarray::{Array1, Array2, arr1, arr2};
///
/// #[derive(Tree)]
/// #[tree(view)]
/// struct Dense { weight: Array2<f32>, bias: Option<Array1<f32>> }
///
/// impl DenseView<'_> {
///     fn forward(&self, x: &Array1<f32>) -> Array1<f32> {
///         let y = x.dot(&self.weight);
///         match &self.bias {
///             Some(bias) => y + bias,
///             None => y,
///         }
///     }
/// }
///
/// let dense = Dense { weight: arr2(&[[1.0], [2.0]]), bias: Some(arr1(&[5.0])) };
/// let (mut flat, layout) = destructure(&dense)?;
/// flat[2] = 7.0;
/// let x = arr1(&[1.0, 1.0]);
/// assert_eq!(layout.view_tree(&dense, &flat)?.forward(&x)[0], 10.0);
/// assert_eq!(flatleaf::view(&dense)?.forward(&x)[0], 8.0); // over the model's own arrays
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot have a view",
    label = "no `Viewable`",
    note = "a type of your own gets a view with `#[derive(Tree)]` and `#[tree(view)]`",
    note = "trait objects, cells, locks and trees made at run time have none: their arrays cannot be borrowed",
    note = "a field that holds no parameters is borrowed as it is with `#[tree(skip)]`"
)]
pub trait Viewable: Tree + Sized {
    /// What reads: `ArrayView`s in place of arrays.
    type View<'v>
    where
        Self: 'v;

    /// What writes: [`ArrayMut`]s in place of arrays, [`TiedMut`]s where arrays may be shared.
    type ViewMut<'v>
    where
        Self: 'v;

    /// How a list of these looks, and a parameter: [`Branches`] for whoever implements it by hand.
    #[doc(hidden)]
    type Items: Items<Self>;

    /// Makes the view that reads: children in the order of [`Tree::visit`], each leaf once.
    ///
    /// # Errors
    /// What `leaves` returns.
    #[doc(hidden)]
    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>>;

    /// Makes the view that writes: children in the order of [`Tree::visit`], each leaf once.
    ///
    /// # Errors
    /// What `leaves` returns.
    #[doc(hidden)]
    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>>;
}

/// How several values of a type look in a view. Elements in a list are one leaf, other trees are as
/// many views, and the compiler has to know which before it knows the type: so each type names one
/// of these.
#[doc(hidden)]
pub trait Items<T> {
    type List<'v>
    where
        T: 'v;
    type ListMut<'v>
    where
        T: 'v;
    type Array<'v, const N: usize>
    where
        T: 'v;
    type ArrayMut<'v, const N: usize>
    where
        T: 'v;
    /// One that is told to be a parameter, to be written: a float is a leaf without axes.
    type ParamMut<'v>
    where
        T: 'v;
    /// One that is told to be a parameter, to be read.
    type Param<'v>
    where
        T: 'v;
    /// How several `[T; N]` look.
    type InArrays<const N: usize>: Items<[T; N]>;

    fn list<'v>(items: &'v [T], leaves: &mut LeafViews<'v>) -> Result<Self::List<'v>>;

    fn list_mut<'v>(items: &'v [T], leaves: &mut LeafViewsMut<'v>) -> Result<Self::ListMut<'v>>;

    fn array<'v, const N: usize>(
        items: &'v [T; N],
        leaves: &mut LeafViews<'v>,
    ) -> Result<Self::Array<'v, N>>;

    fn array_mut<'v, const N: usize>(
        items: &'v [T; N],
        leaves: &mut LeafViewsMut<'v>,
    ) -> Result<Self::ArrayMut<'v, N>>;

    fn param<'v>(item: &'v T, leaves: &mut LeafViews<'v>) -> Result<Self::Param<'v>>;

    fn param_mut<'v>(item: &'v T, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ParamMut<'v>>;
}

/// Of these a list is a list of views.
#[doc(hidden)]
pub struct Branches;

/// Of these numbers a list is one leaf, and one of them is a parameter if it is told to be.
#[doc(hidden)]
pub struct FloatElements;

/// Of these numbers a list is one leaf, and one of them is never a parameter.
#[doc(hidden)]
pub struct OtherElements;

/// Of these, which are several numbers each, a list is one leaf, and one of them is a leaf too.
#[doc(hidden)]
pub struct CompoundElements;

/// The view that writes of one element.
#[doc(hidden)]
pub type ElementMut<'v, E> = ArrayMut<'v, E, ndarray::Ix0>;
