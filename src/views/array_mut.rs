//! One array of a view that writes.

use std::fmt;
use std::ops::{AddAssign, Deref, DerefMut, DivAssign, MulAssign, SubAssign};

use ndarray::{Array, ArrayRef, ArrayView, ArrayViewMut, Dimension};

use crate::layout::Layout;
use crate::tree::ArrayElement;

/// An array of a view that writes, as [`Layout::view_tree_mut`] and [`Layout::view_grad`] give it.
///
/// It dereferences to ndarray's [`ArrayRef`], mutably too, so that it is used as an `Array` is:
/// indexed, assigned to, added to by `+=`.
///
/// Which leaves are trained is known at run time, so a leaf that is frozen or of integers has this
/// type too. It shows the model's own array. In a view of values it cannot be written: to try
/// panics with its path. In a view of gradients what is written to it is ignored, as
/// [`Layout::gather_grad`] ignores it, so that one backward pass serves a model whatever is frozen;
/// a pass that asks [`is_frozen`](ArrayMut::is_frozen) saves the work, and the memory of one
/// throwaway array.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use flatleaf::{destructure, Tree};
/// use ndarray::{arr2, Array2, Axis};
///
/// #[derive(Tree)]
/// #[tree(view)]
/// struct Dense { weight: Array2<f32> }
///
/// let dense = Dense { weight: arr2(&[[1.0, 2.0], [3.0, 4.0]]) };
/// let (mut flat, layout) = destructure(&dense)?;
/// let mut view = layout.view_tree_mut(&dense, &mut flat)?;
/// view.weight[[0, 0]] = 10.0;
/// view.weight += &dense.weight;
/// view.weight.row_mut(1).fill(0.0);
/// assert_eq!(view.weight.sum_axis(Axis(0))[0], 11.0);
/// assert_eq!(flat, [11.0, 4.0, 0.0, 0.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct ArrayMut<'v, E, D> {
    elements: Elements<'v, E, D>,
}

/// Nearly all are of the vector, and what is in a box does not make those larger.
enum Elements<'v, E, D> {
    OfVector(ArrayViewMut<'v, E, D>),
    OfModel(Box<(ArrayView<'v, E, D>, FrozenLeaf)>),
    /// What was written to a frozen leaf of a gradient.
    Ignored(Box<Array<E, D>>),
}

/// A leaf that is not in the vector.
#[derive(Clone)]
pub(super) struct FrozenLeaf {
    pub(super) layout: Layout,
    pub(super) place: u32,
    pub(super) is_in_gradient: bool,
}

impl<'v, E: ArrayElement, D: Dimension> ArrayMut<'v, E, D> {
    pub(super) fn of_vector(array: ArrayViewMut<'v, E, D>) -> Self {
        ArrayMut {
            elements: Elements::OfVector(array),
        }
    }

    pub(super) fn of_model(array: ArrayView<'v, E, D>, leaf: FrozenLeaf) -> Self {
        ArrayMut {
            elements: Elements::OfModel(Box::new((array, leaf))),
        }
    }

    /// Whether the leaf is not trained, so that there is no part of the vector to write: frozen, or
    /// of integers.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use flatleaf::{FlatGrad, Layout, Tree};
    /// use ndarray::{arr1, Array1};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Net { body: Array1<f32>, head: Array1<f32> }
    ///
    /// let net = Net { body: arr1(&[1.0]), head: arr1(&[2.0]) };
    /// let layout = Layout::planner().freeze("body").of(&net)?;
    /// let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    /// let view = layout.view_grad(&net, &mut grad)?;
    /// assert!(view.body.is_frozen() && !view.head.is_frozen());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_frozen(&self) -> bool {
        !matches!(self.elements, Elements::OfVector(_))
    }

    /// The array over the vector; `None` if the leaf is frozen.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use flatleaf::{Layout, Tree};
    /// use ndarray::{arr1, Array1};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Net { body: Array1<f32>, head: Array1<f32> }
    ///
    /// let net = Net { body: arr1(&[1.0]), head: arr1(&[2.0]) };
    /// let layout = Layout::planner().freeze("body").of(&net)?;
    /// let mut flat = layout.gather(&net)?;
    /// let mut view = layout.view_tree_mut(&net, &mut flat)?;
    /// for array in [&mut view.body, &mut view.head] {
    ///     if let Some(mut array) = array.trainable() {
    ///         array *= 0.5;
    ///     }
    /// }
    /// assert_eq!(flat, [1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn trainable(&mut self) -> Option<ArrayViewMut<'_, E, D>> {
        match &mut self.elements {
            Elements::OfVector(array) => Some(array.view_mut()),
            Elements::OfModel(..) | Elements::Ignored(_) => None,
        }
    }
}

impl FrozenLeaf {
    #[cold]
    #[track_caller]
    fn refuse(&self) -> ! {
        let layout = &self.layout.inner;
        let path = layout.paths.render(layout.place(self.place).node);
        panic!("`{path}` is not trainable and cannot be written: ask `is_frozen` or `trainable`")
    }
}

impl<E: ArrayElement, D: Dimension> Deref for ArrayMut<'_, E, D> {
    type Target = ArrayRef<E, D>;

    #[inline]
    fn deref(&self) -> &ArrayRef<E, D> {
        match &self.elements {
            Elements::OfVector(array) => array,
            Elements::OfModel(model) => &model.0,
            Elements::Ignored(array) => array,
        }
    }
}

impl<E: ArrayElement, D: Dimension> DerefMut for ArrayMut<'_, E, D> {
    #[inline]
    #[track_caller]
    fn deref_mut(&mut self) -> &mut ArrayRef<E, D> {
        if let Elements::OfModel(model) = &self.elements {
            let (array, leaf) = &**model;
            if !leaf.is_in_gradient {
                leaf.refuse();
            }
            let zeros = Array::from_elem(array.raw_dim(), E::zero());
            self.elements = Elements::Ignored(Box::new(zeros));
        }
        match &mut self.elements {
            Elements::OfVector(array) => array,
            Elements::Ignored(array) => array,
            Elements::OfModel(..) => unreachable!("replaced above"),
        }
    }
}

/// By what ndarray's mutable views take: arrays, broadcast where their shapes ask for it, and
/// numbers.
macro_rules! assign_operators {
    ($($operator:ident: $method:ident),*) => {$(
        impl<E: ArrayElement, D: Dimension, R> $operator<R> for ArrayMut<'_, E, D>
        where
            for<'x> ArrayViewMut<'x, E, D>: $operator<R>,
        {
            #[track_caller]
            fn $method(&mut self, right: R) {
                self.view_mut().$method(right);
            }
        }
    )*};
}

assign_operators!(AddAssign: add_assign, SubAssign: sub_assign, MulAssign: mul_assign, DivAssign: div_assign);

impl<E: ArrayElement + fmt::Debug, D: Dimension> fmt::Debug for ArrayMut<'_, E, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
