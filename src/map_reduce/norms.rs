//! Norms by leaf, and of a gradient tree without a vector in between.

use std::ops::Deref;

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::{Layout, Leaf};
use crate::ops;
use crate::threads;
use crate::traversal::leaf_slices;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

impl Layout {
    /// The norm of every leaf's part of a flat vector, in flat order; `p` as in [`ops::norm`].
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [3.0, 4.0], "b": [0.0], "c": [5.0, 12.0] }))?;
    /// assert_eq!(layout.leaf_norms(&[3.0, 4.0, 0.0, 5.0, 12.0], 2.0)?, [5.0, 0.0, 13.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_norms(&self, flat: &[f32], p: f64) -> Result<Vec<f64>> {
        self.leaf_norms_as(flat, p)
    }

    /// The norm of every leaf's part of a vector of another element type, in flat order; `p` as in
    /// [`ops::norm`].
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{destructure_as, Layout};
    ///
    /// let (flat, layout) = destructure_as::<f64>(&(vec![3e-200_f64, 4e-200], vec![0.1_f64]))?;
    /// let norms = layout.leaf_norms_as(&flat, 2.0)?;
    /// assert!((norms[0] / 5e-200 - 1.0).abs() < 1e-15 && norms[1] == 0.1);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_norms_as<E>(&self, flat: &[E], p: f64) -> Result<Vec<f64>>
    where
        E: FlatElement,
    {
        self.check_len("the flat vector", flat.len())?;
        let leaves = self.leaves().iter();
        let norm_of = |leaf: &Leaf| {
            let part = &flat[leaf.range()];
            ops::norm(part, p)
        };
        Ok(leaves.map(norm_of).collect())
    }

    /// The L2 norm of a gradient tree's trainable part, in one pass over its leaves: a tie's
    /// gradients are summed before they are squared. Equals the norm of
    /// [`gather_grad`](Layout::gather_grad) but for the rounding of the last bit of an f32.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32, unless
    /// the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), shared))?;
    /// assert_eq!(layout.norm_l2(&(vec![1.0_f32], vec![2.0_f32]))?, 3.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn norm_l2<T: Tree + ?Sized>(&self, grads: &T) -> Result<f64> {
        self.norm_l2_as::<f32>(grads)
    }

    /// The L2 norm of a gradient tree's trainable part, as [`norm_l2`](Layout::norm_l2) has it, of
    /// numbers of another element type: `f64` for a gradient that is more than `f32` holds.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers; of vectors of `f64` no float type is an
    /// error. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let grads = (vec![0.3_f64], vec![0.4_f64]);
    /// assert_eq!(Layout::of(&grads)?.norm_l2_as::<f64>(&grads)?, 0.5);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn norm_l2_as<E>(&self, grads: &(impl Tree + ?Sized)) -> Result<f64>
    where
        E: FlatElement,
    {
        let slices = leaf_slices::gradients(self, grads, TiedGrads::Sum)?;
        let leaves: Vec<&[E]> = slices.iter().flatten().map(Deref::deref).collect();
        // In flat order, whichever thread was the first to be done.
        let norms = threads::map(&leaves, |x| x.len(), |x| ops::norm_l2(x));
        if E::HAS_SQUARES {
            let squares = norms.iter().map(|norm| norm * norm);
            return Ok(squares.sum::<f64>().sqrt());
        }
        Ok(ops::norm_l2(&norms))
    }
}
