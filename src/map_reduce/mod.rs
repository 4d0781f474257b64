//! Map and reduce over a model and its companions: the model decides what is trainable, in what
//! order, and what is one parameter.
//!
//! Every tree is walked by itself and its leaves are noted down as slices (`leaves.rs`). Then the
//! closure is called once per leaf with one slice per tree. Two plain trees are zipped where they
//! are.

mod mask;
pub(crate) mod measure;

use std::borrow::Cow;
use std::ops::Deref;

use crate::error::Result;
use crate::layout::{Layout, Leaf};
use crate::memory;
use crate::threads;
use crate::traversal::leaf_slices::{self, Slices};
use crate::traversal::rebuild::{Values, rebuild};
use crate::traversal::tied_places::TiedGrads;
use crate::traversal::validate::{self, Purpose};
use crate::tree::Tree;

/// A tree that is walked beside a model, and what it holds at the places of a tie.
///
/// ```
/// use flatleaf::Companion::{Grads, Totals};
/// use flatleaf::{ops, Layout};
/// use std::rc::Rc;
///
/// let shared = Rc::new(vec![2.0_f32]);
/// let model = (shared.clone(), shared);
/// let (layout, grads) = (Layout::of(&model)?, (vec![3.0_f32], vec![3.0_f32]));
/// let product = |companion| layout.map_reduce(&model, [companion], |_, x, [dx]| ops::dot(x, dx), |a, b| a + b);
/// assert_eq!((product(Grads(&grads))?, product(Totals(&grads))?), (Some(12.0), Some(6.0)));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy)]
pub enum Companion<'t> {
    /// Gradients: summed over the places of a tie; a leaf may be absent.
    Grads(&'t dyn Tree),
    /// Gradients that are a tie's whole at every place: the first place that has one is read; a
    /// leaf may be absent.
    Totals(&'t dyn Tree),
    /// Values, such as another model or a moving average: a tie is read once; every leaf must be
    /// there.
    Values(&'t dyn Tree),
}

/// A leaf as a closure meets it: a [`Leaf`], and which of the companions have it.
///
/// ```
/// use flatleaf::{ops, tree, Companion::Grads, Layout};
///
/// let (mut model, grads) = (tree!({ "w": [1.0], "b": [1.0] }), tree!({ "w": [2.0], "b": [2.0] }));
/// Layout::of(&model)?.map_into(&mut model, [Grads(&grads)], |leaf, x, [dx]| {
///     let rate = if leaf.path().ends_with('b') { 0.0 } else { 0.5 }; // all that a `Leaf` knows
///     ops::axpy(x, -rate, dx);
/// })?;
/// assert_eq!(model, tree!({ "w": [0.0], "b": [1.0] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct LeafAt<'w, const K: usize> {
    leaf: &'w Leaf,
    index: usize,
    present: [bool; K],
}

impl<const K: usize> LeafAt<'_, K> {
    /// Whether companion `k` has the leaf. The slice of one that has not is zeros.
    ///
    /// # Panics
    /// If there is no such companion.
    ///
    /// ```
    /// use flatleaf::{tree, Companion::Grads, Layout};
    ///
    /// let (mut model, grads) = (tree!({ "w": [1.0], "b": [1.0] }), tree!({ "w": [0.0] }));
    /// Layout::of(&model)?.map_into(&mut model, [Grads(&grads)], |leaf, x, [_]| {
    ///     if leaf.is_present(0) {
    ///         x[0] *= 0.5; // decays although its gradient is zero
    ///     }
    /// })?;
    /// assert_eq!(model, tree!({ "w": [0.5], "b": [1.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present(&self, k: usize) -> bool {
        self.present[k]
    }

    /// Its index in [`Layout::leaves`].
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let (mut model, rates) = (tree!({ "w": [1.0], "b": [1.0] }), [0.5, 0.25]);
    /// Layout::of(&model)?.map_into(&mut model, [], |leaf, x, []| x[0] *= rates[leaf.index()])?;
    /// assert_eq!(model, tree!({ "w": [0.5], "b": [0.25] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }
}

impl<const K: usize> Deref for LeafAt<'_, K> {
    type Target = Leaf;

    fn deref(&self) -> &Leaf {
        self.leaf
    }
}

impl Layout {
    /// Calls `map` once for every trainable leaf, in flat order, with the model's slice and one of
    /// every companion, and merges the results from left to right. `None` if there is no leaf.
    ///
    /// Nothing is copied of plain trees. Cost: one walk over each tree.
    ///
    /// # Errors
    /// As [`gather`](Layout::gather) for the model and values, as
    /// [`gather_grad`](Layout::gather_grad) for gradients.
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
        mut map: impl FnMut(LeafAt<'_, K>, &[f32], [&[f32]; K]) -> R,
        mut reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>> {
        self.fold(model, companions, None, |merged, leaf, x, others| {
            let mapped = map(leaf, x, others);
            Some(match merged {
                Some(merged) => reduce(merged, mapped),
                None => mapped,
            })
        })
    }

    /// Calls `step` once for every trainable leaf, in flat order, with what the last call returned.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce).
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
        mut step: impl FnMut(A, LeafAt<'_, K>, &[f32], [&[f32]; K]) -> A,
    ) -> Result<A> {
        let model = leaf_slices::values(self, model)?;
        let companions = Companions::read(self, companions)?;
        let leaves = model.iter().enumerate();
        Ok(leaves.fold(start, |folded, (index, x)| {
            step(
                folded,
                companions.leaf(index),
                x.as_deref().unwrap_or_default(),
                companions.at(index),
            )
        }))
    }

    /// [`map_reduce`](Layout::map_reduce) with the calls of `map` shared among all threads. The
    /// results are merged in flat order, so they do not depend on the number of threads.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce).
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
    pub fn par_map_reduce<T: Tree + ?Sized, R: Send, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &[f32], [&[f32]; K]) -> R + Sync,
        reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>> {
        let model = leaf_slices::values(self, model)?;
        let companions = Companions::read(self, companions)?;
        let indices: Vec<usize> = (0..model.len()).collect();
        let map = |&index: &usize| {
            map(
                companions.leaf(index),
                model[index].as_deref().unwrap_or_default(),
                companions.at(index),
            )
        };
        Ok(
            threads::map(&indices, |&index| self.leaves()[index].len(), map)
                .into_iter()
                .reduce(reduce),
        )
    }

    /// A new tree: the model with `map` called once on every trainable leaf, in flat order. Ties
    /// stay ties; frozen leaves are copied.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce) and [`restructure`](Layout::restructure).
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
        mut map: impl FnMut(LeafAt<'_, K>, &mut [f32], [&[f32]; K]),
    ) -> Result<T> {
        self.check_f32()?;
        let contents = validate::check(&self.inner, model, Purpose::Rebuild)?;
        let companions = Companions::read(self, companions)?;
        let values = leaf_slices::values(self, model)?;
        let mut new: Vec<Vec<f32>> = values
            .into_iter()
            .map(|slice| slice.unwrap_or_default().into_owned())
            .collect();
        for (index, x) in new.iter_mut().enumerate() {
            map(companions.leaf(index), x, companions.at(index));
        }
        rebuild(
            &self.inner,
            model,
            Values::Leaves(Cow::Owned(new)),
            &contents,
        )
    }

    /// Calls `map` once on every trainable leaf of `target`, in flat order, in place. Ties stay
    /// ties.
    ///
    /// Leaves that are shared, behind a guard, strided or of another type are mapped as copies and
    /// written back in the end. If `map` panics, the leaf that it was given holds what it left
    /// there, and every other one is old or new.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce) and [`restructure_into`](Layout::restructure_into);
    /// then nothing has been written.
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
        mut map: impl FnMut(LeafAt<'_, K>, &mut [f32], [&[f32]; K]),
    ) -> Result<()> {
        let companions = Companions::read(self, companions)?;
        leaf_slices::change(
            self,
            target,
            |_| true,
            |slices| {
                for (index, x) in slices.into_iter().enumerate() {
                    map(companions.leaf(index), x, companions.at(index));
                }
                Ok(())
            },
        )
    }

    /// [`map_into`](Layout::map_into) with the calls shared among all threads.
    ///
    /// # Errors
    /// As [`map_into`](Layout::map_into).
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
        let companions = Companions::read(self, companions)?;
        leaf_slices::change(
            self,
            target,
            |_| true,
            |slices| {
                let mut tasks: Vec<(usize, &mut [f32])> = slices.into_iter().enumerate().collect();
                threads::share(
                    &mut tasks,
                    |task| task.1.len(),
                    |(index, x)| map(companions.leaf(*index), x, companions.at(*index)),
                );
                Ok(())
            },
        )
    }

    /// The L2 norm of a gradient tree's trainable part, in one pass over its leaves: a tie's
    /// gradients are summed before they are squared. Equals the norm of
    /// [`gather_grad`](Layout::gather_grad) but for the rounding of the last bit of an f32.
    ///
    /// # Errors
    /// As [`gather_grad`](Layout::gather_grad).
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
        let slices = leaf_slices::gradients(self, grads, TiedGrads::Sum)?;
        let mut squares: Vec<(&[f32], f64)> = slices
            .iter()
            .flatten()
            .map(|slice| (&**slice, 0.0))
            .collect();
        threads::share(
            &mut squares,
            |leaf| leaf.0.len(),
            |(x, square)| *square = crate::ops::norm_l2(x).powi(2),
        );
        Ok(squares.iter().map(|leaf| leaf.1).sum::<f64>().sqrt())
    }
}

/// The slices of all companions, and zeros for what they have not got.
struct Companions<'l, 'a, const K: usize> {
    layout: &'l Layout,
    trees: [Slices<'a>; K],
    zeros: Vec<f32>,
}

impl<'l, 'a, const K: usize> Companions<'l, 'a, K> {
    fn read(layout: &'l Layout, companions: [Companion<'a>; K]) -> Result<Self> {
        let mut trees = Vec::with_capacity(K);
        for companion in companions {
            trees.push(match companion {
                Companion::Grads(tree) => leaf_slices::gradients(layout, tree, TiedGrads::Sum)?,
                Companion::Totals(tree) => {
                    leaf_slices::gradients(layout, tree, TiedGrads::AlreadyTotal)?
                }
                Companion::Values(tree) => leaf_slices::values(layout, tree)?,
            });
        }
        let is_absent = |index: &usize| trees.iter().any(|tree| tree[*index].is_none());
        let longest_absent = (0..layout.leaves().len())
            .filter(is_absent)
            .map(|index| layout.leaves()[index].len())
            .max();
        let zeros = memory::try_zeroed(longest_absent.unwrap_or(0))?;
        let trees = trees
            .try_into()
            .unwrap_or_else(|_| unreachable!("one for each companion"));
        Ok(Companions {
            layout,
            trees,
            zeros,
        })
    }

    fn leaf(&self, index: usize) -> LeafAt<'l, K> {
        let present = std::array::from_fn(|k| self.trees[k][index].is_some());
        LeafAt {
            leaf: &self.layout.leaves()[index],
            index,
            present,
        }
    }

    fn at(&self, index: usize) -> [&[f32]; K] {
        let zeros = || &self.zeros[..self.layout.leaves()[index].len()];
        std::array::from_fn(|k| self.trees[k][index].as_deref().unwrap_or_else(zeros))
    }
}
