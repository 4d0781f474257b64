//! Clipping of flat gradients where leaves have to be named; the kernels are those of [`ops`].

use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::{Layout, Leaf};
use crate::ops::{self, Clip, NonFinite};

/// A flat vector of `f32` or `f64`: a [`FlatGrad`], which knows its layout, or a vector or slice,
/// which must be as long. Sealed.
///
/// ```
/// use flatleaf::{tree, Flat, Layout, Result};
///
/// fn clip(layout: &Layout, grad: &mut (impl Flat + ?Sized)) -> Result<f64> {
///     Ok(layout.clip_norm(grad, 1.0)?.norm_before)
/// }
///
/// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
/// assert_eq!(clip(&layout, &mut layout.gather_grad(&tree!({ "w": [3.0, 4.0] }))?)?, 5.0);
/// assert_eq!(clip(&layout, &mut vec![3.0, 4.0])?, 5.0);
/// assert!(clip(&layout, &mut [3.0][..]).unwrap_err().is_length());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Flat: sealed::Flat {}

impl<F: sealed::Flat + ?Sized> Flat for F {}

mod sealed {
    use super::*;

    pub trait Flat {
        type Element: FlatElement;

        fn elements_of(&mut self, layout: &Layout) -> Result<&mut [Self::Element]>;

        /// Zeros at absent leaves again, after all has been multiplied by what is not finite.
        fn clear_absent(&mut self) {}
    }

    impl<E: FlatElement> Flat for FlatGrad<E> {
        type Element = E;

        fn elements_of(&mut self, layout: &Layout) -> Result<&mut [E]> {
            layout.check_same(self.layout())?;
            Ok(self.elements_mut())
        }

        fn clear_absent(&mut self) {
            FlatGrad::clear_absent(self);
        }
    }

    impl<E: FlatElement> Flat for [E] {
        type Element = E;

        fn elements_of(&mut self, layout: &Layout) -> Result<&mut [E]> {
            layout.check_len("the flat vector", self.len())?;
            Ok(self)
        }
    }

    impl<E: FlatElement> Flat for Vec<E> {
        type Element = E;

        fn elements_of(&mut self, layout: &Layout) -> Result<&mut [E]> {
            self.as_mut_slice().elements_of(layout)
        }
    }
}

impl Layout {
    /// Scales a flat gradient, or any flat vector, so that its L2 norm is at most `max`: all its
    /// leaves together, by the factor `max / norm`, or not at all if the norm is not above `max`.
    /// [`ops::clip_norm`] does so too, but cannot say which leaf holds what is not finite.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_argument`](crate::Error::is_argument): a negative or NaN `max`.
    /// [`is_non_finite`](crate::Error::is_non_finite): an infinite or NaN element, with the path of
    /// its leaf and its index there. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0, 0.0] }))?;
    /// let mut grad = layout.gather_grad(&tree!({ "a": [3.0], "b": [0.0, 4.0] }))?;
    /// let clip = layout.clip_norm(&mut grad, 1.0)?;
    /// assert_eq!((clip.norm_before, *grad == [0.6, 0.0, 0.8]), (5.0, true));
    ///
    /// grad[2] = f32::NAN;
    /// let error = layout.clip_norm(&mut grad, 1.0).unwrap_err();
    /// assert_eq!(error.to_string(), "`b`: expected finite elements, found NaN at index 1");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn clip_norm<G: Flat + ?Sized>(&self, grad: &mut G, max: f64) -> Result<Clip> {
        self.clip_norm_with(grad, max, NonFinite::Error)
    }

    /// Scales a flat gradient, or any flat vector, so that its L2 norm is at most `max`, with a
    /// choice of what happens to a norm that is infinite or NaN: an error, nothing, or the
    /// arithmetic of IEEE 754, which makes every present leaf NaN or zero.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_argument`](crate::Error::is_argument): a negative or NaN `max`.
    /// [`is_non_finite`](crate::Error::is_non_finite): an infinite or NaN element, with the path of
    /// its leaf and its index there. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{ops::NonFinite, tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] }))?;
    /// let mut grad = vec![1.0, f32::INFINITY];
    /// let clip = layout.clip_norm_with(&mut grad, 1.0, NonFinite::Skip)?;
    /// assert_eq!((clip.norm_before, clip.scale), (f64::INFINITY, 1.0)); // a step to leave out
    /// assert_eq!(grad, [1.0, f32::INFINITY]);
    /// assert_eq!(layout.clip_norm_with(&mut grad, 1.0, NonFinite::Error).unwrap_err().path(), Some("b"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn clip_norm_with<G: Flat + ?Sized>(
        &self,
        grad: &mut G,
        max: f64,
        non_finite: NonFinite,
    ) -> Result<Clip> {
        let elements = grad.elements_of(self)?;
        let clip = match ops::clip_norm_with(elements, max, non_finite) {
            Err(error) if error.is_non_finite() => return Err(self.name_element(elements)),
            clip => clip?,
        };
        if !clip.scale.is_finite() {
            grad.clear_absent();
        }
        Ok(clip)
    }

    /// Scales every leaf of a flat gradient by itself, so that the L2 norm of each is at most
    /// `max`. What was measured and done, in flat order.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_argument`](crate::Error::is_argument): a negative or NaN `max`.
    /// [`is_non_finite`](crate::Error::is_non_finite): an infinite or NaN element, with the path of
    /// its leaf and its index there. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0] }))?;
    /// let mut grad = layout.gather_grad(&tree!({ "a": [3.0, 4.0], "b": [0.5] }))?;
    /// let clips = layout.clip_norm_per_leaf(&mut grad, 1.0)?;
    /// assert_eq!(*grad, [0.6, 0.8, 0.5]);
    /// assert_eq!((clips[0].norm_before, clips[0].scale, clips[1].scale), (5.0, 0.2, 1.0));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn clip_norm_per_leaf<G: Flat + ?Sized>(
        &self,
        grad: &mut G,
        max: f64,
    ) -> Result<Vec<Clip>> {
        let grad = grad.elements_of(self)?;
        // Without a leaf there would be nobody to refuse the bound.
        let _ = ops::clip_norm::<G::Element>(&mut [], max)?;
        if ops::first_non_finite(grad).is_some() {
            return Err(self.name_element(grad));
        }
        // Of f64 the norm of finite elements may be beyond all numbers, and nothing is written yet.
        let is_beyond = |leaf: &&Leaf| !ops::norm_l2(&grad[leaf.range()]).is_finite();
        let mut leaves = self.leaves().iter().filter(|_| !G::Element::HAS_SQUARES);
        if let Some(leaf) = leaves.find(is_beyond) {
            return Err(Error::non_finite_norm().at(leaf.path()));
        }
        self.leaves()
            .iter()
            .map(|leaf| ops::clip_norm(&mut grad[leaf.range()], max))
            .collect()
    }

    /// The error for the first element of a flat vector that is not finite.
    pub(crate) fn name_element<E: FlatElement>(&self, flat: &[E]) -> Error {
        let Some(index) = ops::first_non_finite(flat) else {
            return Error::non_finite_norm();
        };
        let leaf = self.leaf_of(index);
        let index_in_leaf = index - leaf.range().start;
        Error::non_finite(index_in_leaf, flat[index]).at(leaf.path())
    }

    /// The leaf that an element of the flat vector belongs to.
    fn leaf_of(&self, index: usize) -> &Leaf {
        let leaves = self.leaves();
        // Leaves without elements end where the one before them does, and are passed by.
        let after = leaves.partition_point(|leaf| leaf.range().end <= index);
        &leaves[after]
    }
}
