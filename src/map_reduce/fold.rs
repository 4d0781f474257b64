//! One result of a model and its companions.

use super::companions::{Companion, Companions, LeafAt};
use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::Layout;
use crate::threads;
use crate::traversal::leaf_slices;
use crate::tree::Tree;

impl Layout {
    /// One result of a model and the trees beside it: a dot product, a distance, a norm. Calls
    /// `map` once for every trainable leaf, in flat order, with the model's slice and one of every
    /// [`Companion`], and merges the results from left to right. `None` if there is no leaf.
    ///
    /// All slices of a leaf are of its length, in row-major order. A companion of gradients may
    /// lack a leaf: its slice is zeros then, and [`LeafAt::is_present`] says so. A parameter at
    /// several places is one leaf. Cost: one walk over each tree; a leaf is copied only if it is
    /// strided, behind a guard, of another type than f32, or the sum of a tie's gradients.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{ops, tree, Companion::{Grads, Values}, Layout};
    ///
    /// let model = tree!({ "w": [1.0, 2.0], "b": [3.0] });
    /// let (grads, state) = (tree!({ "w": [10.0, 10.0], "b": null }), tree!({ "w": [0.5, 0.5], "b": [0.5] }));
    /// let layout = Layout::of(&model)?;
    /// let total = layout.map_reduce(
    ///     &model,
    ///     [Grads(&grads), Values(&state)],
    ///     |_, x, [dx, s]| ops::dot(x, dx) + ops::sum(s),
    ///     |a, b| a + b,
    /// )?;
    /// assert_eq!(total, Some(31.5));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map_reduce<T: Tree + ?Sized, R, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        map: impl FnMut(LeafAt<'_, K>, &[f32], [&[f32]; K]) -> R,
        reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>> {
        self.map_reduce_as(model, companions, map, reduce)
    }

    /// One result of a model and the trees beside it, as [`map_reduce`](Layout::map_reduce) makes
    /// it, of slices of another element type: `f64` for a model that has leaves of `f64`. The type
    /// is that of the closure's slices, where they say it.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{ops, Companion::Grads, Layout};
    ///
    /// let (model, grads) = (vec![0.1_f64, 0.2], vec![10.0_f64, 10.0]);
    /// let layout = Layout::of(&model)?;
    /// let product = layout.map_reduce_as(&model, [Grads(&grads)], |_, x: &[f64], [dx]| ops::dot(x, dx), |a, b| a + b)?;
    /// assert_eq!(product, Some(3.0)); // by f32 it would be 3.0000000447
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map_reduce_as<E: FlatElement, R, const K: usize>(
        &self,
        model: &(impl Tree + ?Sized),
        companions: [Companion<'_>; K],
        mut map: impl FnMut(LeafAt<'_, K>, &[E], [&[E]; K]) -> R,
        mut reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>> {
        self.fold_as(model, companions, None, |merged, leaf, x: &[E], others| {
            let mapped = map(leaf, x, others);
            Some(match merged {
                Some(merged) => reduce(merged, mapped),
                None => mapped,
            })
        })
    }

    /// Calls `step` once for every trainable leaf, in flat order, with what the last call returned,
    /// the model's slice and one of every companion. What the last call returns is the result;
    /// `start` if there is no leaf. For what [`map_reduce`](Layout::map_reduce) cannot say because
    /// a leaf's part depends on those before it.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "a": [1.0, 2.0], "b": [5.0] });
    /// let sizes = Layout::of(&model)?.fold(&model, [], String::new(), |all, leaf, x, []| format!("{all}{}[{}] ", leaf.path(), x.len()))?;
    /// assert_eq!(sizes, "a[2] b[1] ");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn fold<T: Tree + ?Sized, A, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        start: A,
        step: impl FnMut(A, LeafAt<'_, K>, &[f32], [&[f32]; K]) -> A,
    ) -> Result<A> {
        self.fold_as(model, companions, start, step)
    }

    /// Calls `step` once for every trainable leaf, as [`fold`](Layout::fold) does, with slices of
    /// another element type: `f64` for a model that has leaves of `f64`. The type is that of the
    /// closure's slices, where they say it.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let model = (vec![0.1_f64, 0.2], vec![1.0_f32]);
    /// let greatest = Layout::of(&model)?.fold_as(&model, [], 0.0, |greatest: f64, _, x: &[f64], []| x.iter().fold(greatest, |a, b| a.max(*b)))?;
    /// assert_eq!(greatest, 1.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn fold_as<E: FlatElement, A, const K: usize>(
        &self,
        model: &(impl Tree + ?Sized),
        companions: [Companion<'_>; K],
        start: A,
        mut step: impl FnMut(A, LeafAt<'_, K>, &[E], [&[E]; K]) -> A,
    ) -> Result<A> {
        let model = leaf_slices::values(self, model)?;
        let companions = Companions::read(self, companions)?;
        let leaves = model.iter().enumerate();
        let folded = leaves.fold(start, |folded, (index, x)| {
            let leaf = companions.leaf(index);
            let x = x.as_deref().unwrap_or_default();
            let others = companions.slices(index);
            step(folded, leaf, x, others)
        });
        Ok(folded)
    }

    /// One result of a model and the trees beside it, with the calls of `map` shared among all
    /// threads, in no order. The results are merged from left to right in flat order, as
    /// [`map_reduce`](Layout::map_reduce) merges them, so they do not depend on the number of
    /// threads. `None` if there is no leaf.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::Companion::Grads;
    /// use flatleaf::{ops, tree, Layout};
    ///
    /// let (model, grads) = (tree!({ "a": [1.0, 2.0], "b": [5.0] }), tree!({ "a": [3.0, 4.0] }));
    /// let product = Layout::of(&model)?.par_map_reduce(&model, [Grads(&grads)], |_, x, [dx]| ops::dot(x, dx), |a, b| a + b)?;
    /// assert_eq!(product, Some(11.0));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn par_map_reduce<T, R, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &[f32], [&[f32]; K]) -> R + Sync,
        reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>>
    where
        T: Tree + ?Sized,
        R: Send,
    {
        self.par_map_reduce_as(model, companions, map, reduce)
    }

    /// One result of a model and the trees beside it, with the calls of `map` shared among all
    /// threads, as [`par_map_reduce`](Layout::par_map_reduce) makes it, of slices of another
    /// element type.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{ops, Layout};
    ///
    /// let model = (vec![3e200_f64], vec![4e200_f64]);
    /// let norm = Layout::of(&model)?.par_map_reduce_as(&model, [], |_, x: &[f64], []| ops::norm_l2(x), f64::hypot)?.unwrap();
    /// assert!((norm / 5e200 - 1.0).abs() < 1e-15);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn par_map_reduce_as<E, R, const K: usize>(
        &self,
        model: &(impl Tree + ?Sized),
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &[E], [&[E]; K]) -> R + Sync,
        reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>>
    where
        E: FlatElement,
        R: Send,
    {
        let model = leaf_slices::values(self, model)?;
        let companions = Companions::read(self, companions)?;
        let indices: Vec<usize> = (0..model.len()).collect();
        let map = |&index: &usize| {
            let leaf = companions.leaf(index);
            let x = model[index].as_deref().unwrap_or_default();
            let others = companions.slices(index);
            map(leaf, x, others)
        };
        let weight = |&index: &usize| self.leaves()[index].len();
        let mapped = threads::map(&indices, weight, map);
        // Whoever has mapped a leaf, its result is merged where the leaf stands in flat order.
        Ok(mapped.into_iter().reduce(reduce))
    }
}
