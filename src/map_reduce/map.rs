//! A model changed leaf by leaf beside its companions: a new tree, or the old one in place.

use std::borrow::Cow;

use super::companions::{Companion, Companions, LeafAt};
use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::Layout;
use crate::threads;
use crate::traversal::leaf_slices;
use crate::traversal::purpose::Purpose;
use crate::traversal::rebuild::{Values, rebuild};
use crate::traversal::validate;
use crate::tree::Tree;

impl Layout {
    /// A new tree like the model, with `map` called once on every trainable leaf, in flat order: it
    /// is given a copy of the leaf's elements to change, and the slice of every [`Companion`]. The
    /// model stays as it is. A parameter at several places is mapped once and is one new
    /// allocation; frozen and carried leaves are copied.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{ops, tree, Companion::Grads, Layout};
    ///
    /// let model = (vec![1.0_f32, 2.0], vec![3.0_f32]);
    /// let layout = Layout::of(&model)?;
    /// let stepped = layout.map(&model, [Grads(&tree!([[10.0, 0.0], null]))], |_, x, [dx]| ops::axpy(x, -0.1, dx))?;
    /// assert_eq!(stepped, (vec![0.0, 2.0], vec![3.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map<T: Tree, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        map: impl FnMut(LeafAt<'_, K>, &mut [f32], [&[f32]; K]),
    ) -> Result<T> {
        self.map_as(model, companions, map)
    }

    /// A new tree like the model, as [`map`](Layout::map) makes it, from slices of another element
    /// type: `f64` for a model that has leaves of `f64`. The type is that of the closure's slices,
    /// where they say it.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits, or two parameters that the tree holds as one.
    /// [`is_read_only`](crate::Error::is_read_only), [`is_object`](crate::Error::is_object): a tree
    /// that can only be read, or a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{ops, Layout};
    ///
    /// let model = (vec![0.3_f64], vec![1.0_f32]);
    /// let halved = Layout::of(&model)?.map_as(&model, [], |_, x: &mut [f64], []| ops::scale(x, 0.5))?;
    /// assert_eq!(halved, (vec![0.15], vec![0.5]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map_as<E, T, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        mut map: impl FnMut(LeafAt<'_, K>, &mut [E], [&[E]; K]),
    ) -> Result<T>
    where
        E: FlatElement,
        T: Tree,
    {
        self.check_element::<E>()?;
        let validated = validate::validate(&self.inner, model, Purpose::Rebuild)?;
        let companions = Companions::read(self, companions)?;
        let values = leaf_slices::values(self, model)?;
        let copies = values.into_iter().map(|slice| {
            let slice = slice.unwrap_or_default();
            slice.into_owned()
        });
        let mut new: Vec<Vec<E>> = copies.collect();
        for (index, x) in new.iter_mut().enumerate() {
            let leaf = companions.leaf(index);
            let others = companions.slices(index);
            map(leaf, x, others);
        }
        let values = Values::Leaves(Box::new(Cow::Owned(new)));
        rebuild(&self.inner, model, values, &validated)
    }

    /// Calls `map` once on every trainable leaf of `target`, in flat order, in place. Ties stay
    /// ties.
    ///
    /// Leaves that are shared, behind a guard, strided or of another type are mapped as copies and
    /// written back in the end. If `map` panics, the leaf that it was given holds what it left
    /// there, and every other one is old or new.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): two parameters of the layout that the tree
    /// holds as one. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then
    /// nothing has been written. If a writer of a leaf's own fails, every other leaf is written,
    /// and the error names those that are not.
    ///
    /// ```
    /// use flatleaf::{ops, Companion::Values, Layout};
    ///
    /// let (mut target, policy) = (vec![vec![0.0_f32, 0.0]], vec![vec![1.0_f32, 2.0]]);
    /// Layout::of(&policy)?.map_into(&mut target, [Values(&policy)], |_, t, [p]| ops::lerp(t, p, 0.5))?;
    /// assert_eq!(target, [[0.5, 1.0]]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map_into<T: Tree + ?Sized, const K: usize>(
        &self,
        target: &mut T,
        companions: [Companion<'_>; K],
        map: impl FnMut(LeafAt<'_, K>, &mut [f32], [&[f32]; K]),
    ) -> Result<()> {
        self.map_into_as(target, companions, map)
    }

    /// Calls `map` once on every trainable leaf of `target` in place, as
    /// [`map_into`](Layout::map_into) does, with slices of another element type: `f64` for a model
    /// that has leaves of `f64`. The type is that of the closure's slices, where they say it.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits, or two parameters that the tree holds as one.
    /// [`is_read_only`](crate::Error::is_read_only), [`is_object`](crate::Error::is_object): a tree
    /// that can only be read, or a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{ops, Companion::Values, Layout};
    ///
    /// let (mut target, policy) = (vec![0.0_f64, 0.0], vec![0.2_f64, 0.4]);
    /// Layout::of(&policy)?.map_into_as(&mut target, [Values(&policy)], |_, t: &mut [f64], [p]| ops::lerp(t, p, 0.5))?;
    /// assert_eq!(target, [0.1, 0.2]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map_into_as<E: FlatElement, const K: usize>(
        &self,
        target: &mut (impl Tree + ?Sized),
        companions: [Companion<'_>; K],
        mut map: impl FnMut(LeafAt<'_, K>, &mut [E], [&[E]; K]),
    ) -> Result<()> {
        self.change_beside(target, companions, |companions, leaves| {
            for (index, x) in leaves.into_iter().enumerate() {
                let leaf = companions.leaf(index);
                let others = companions.slices(index);
                map(leaf, x, others);
            }
        })
    }

    /// Calls `map` once on every trainable leaf of `target`, in place, with the calls shared among
    /// all threads, in no order. For leaves that are large or costly; the calling thread takes
    /// part, so nothing that another thread holds while it waits for this one may be locked in
    /// `map`.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): two parameters of the layout that the tree
    /// holds as one. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then
    /// nothing has been written.
    ///
    /// ```
    /// use flatleaf::Companion::Values;
    /// use flatleaf::{ops, tree, Layout};
    ///
    /// let (mut target, policy) = (tree!({ "w": [1.0, 2.0] }), tree!({ "w": [3.0, 6.0] }));
    /// Layout::of(&policy)?.par_map_into(&mut target, [Values(&policy)], |_, t, [p]| ops::lerp(t, p, 0.5))?;
    /// assert_eq!(target, tree!({ "w": [2.0, 4.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn par_map_into<T: Tree + ?Sized, const K: usize>(
        &self,
        target: &mut T,
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &mut [f32], [&[f32]; K]) + Sync,
    ) -> Result<()> {
        self.par_map_into_as(target, companions, map)
    }

    /// Calls `map` once on every trainable leaf of `target` in place, with the calls shared among
    /// all threads, as [`par_map_into`](Layout::par_map_into) does, with slices of another element
    /// type.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; of vectors of `f64` no float type is an error.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits, or two parameters that the tree holds as one.
    /// [`is_read_only`](crate::Error::is_read_only), [`is_object`](crate::Error::is_object): a tree
    /// that can only be read, or a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. Then nothing has been written.
    ///
    /// ```
    /// use flatleaf::{ops, Layout};
    ///
    /// let mut model = (vec![0.3_f64], vec![1.0_f32]);
    /// Layout::of(&model)?.par_map_into_as(&mut model, [], |_, x: &mut [f64], []| ops::scale(x, 0.5))?;
    /// assert_eq!(model, (vec![0.15], vec![0.5]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn par_map_into_as<E: FlatElement, const K: usize>(
        &self,
        target: &mut (impl Tree + ?Sized),
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &mut [E], [&[E]; K]) + Sync,
    ) -> Result<()> {
        self.change_beside(target, companions, |companions, leaves| {
            let mut leaves: Vec<(usize, &mut [E])> = leaves.into_iter().enumerate().collect();
            threads::share(
                &mut leaves,
                |leaf| leaf.1.len(),
                |(index, x)| {
                    let leaf = companions.leaf(*index);
                    let others = companions.slices(*index);
                    map(leaf, x, others);
                },
            );
        })
    }

    /// Calls `change` with the companions and the leaves of a target, where they are or as copies
    /// that are written back.
    fn change_beside<E, T, const K: usize>(
        &self,
        target: &mut T,
        companions: [Companion<'_>; K],
        change: impl FnOnce(&Companions<'_, '_, E, K>, Vec<&mut [E]>),
    ) -> Result<()>
    where
        E: FlatElement,
        T: Tree + ?Sized,
    {
        let companions = Companions::read(self, companions)?;
        let change = |leaves: Vec<&mut [E]>| {
            change(&companions, leaves);
            Ok(())
        };
        let ((), written) = leaf_slices::change(self, target, |_| true, change)?;
        written
    }
}
