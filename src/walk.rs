//! Map and reduce over a model and its companions: the model decides what is trainable, in what order, and what is one parameter.
//!
//! Every tree is walked by itself and its leaves are noted down: a slice where the tree lends one, otherwise a copy (a tie's summed
//! gradient, what is behind a guard). Then the closure is called once per leaf with one slice per tree. Two plain trees are zipped
//! where they are.

use std::borrow::Cow;
use std::ops::Deref;

use crate::check::{self, Purpose};
use crate::elements::{TiedPlaces, changed_length, elements_of, read_floats, write_floats};
use crate::error::Result;
use crate::floats::{Floats, FloatsMut};
use crate::gradient::TiedGrads;
use crate::in_place::{self, Put};
use crate::layout::{Inner, Layout, Leaf, Place};
use crate::matched::Take;
use crate::restructure::rebuild;
use crate::transfer;
use crate::tree::{Builder, Dtype, DynTree, LeafMut, LeafRef, Sink, Tree, Values};

/// A tree that is walked beside a model, and what it holds at the places of a tie.
#[derive(Clone, Copy)]
pub enum Companion<'t> {
    /// Gradients: summed over the places of a tie; a leaf may be absent.
    Grads(&'t dyn Tree),
    /// Gradients that are a tie's whole at every place: the first place that has one is read; a leaf may be absent.
    Totals(&'t dyn Tree),
    /// Values, such as another model or a moving average: a tie is read once; every leaf must be there.
    Values(&'t dyn Tree),
}

/// A leaf as a closure meets it: a [`Leaf`], and which of the companions have it.
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
    pub fn is_present(&self, k: usize) -> bool {
        self.present[k]
    }

    /// Its index in [`Layout::leaves`].
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
    /// Calls `map` once for every trainable leaf, in flat order, with the model's slice and one of every companion, and merges the
    /// results from left to right. `None` if there is no leaf.
    ///
    /// Nothing is copied of plain trees. Cost: one walk over each tree.
    ///
    /// # Errors
    /// As [`gather`](Layout::gather) for the model and values, as [`gather_grad`](Layout::gather_grad) for gradients.
    ///
    /// ```
    /// use flatleaf::{ops, tree, Companion::{Grads, Values}, Layout};
    ///
    /// let model = tree!({ "w": [1.0, 2.0], "b": [3.0] });
    /// let (grads, state) = (tree!({ "w": [10.0, 10.0], "b": null }), tree!({ "w": [0.5, 0.5], "b": [0.5] }));
    /// let layout = Layout::of(&model)?;
    /// let total = layout.map_reduce(&model, [Grads(&grads), Values(&state)], |_, x, [dx, s]| ops::dot(x, dx) + ops::sum(s), |a, b| a + b)?;
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
    pub fn fold<T: Tree + ?Sized, A, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        start: A,
        mut step: impl FnMut(A, LeafAt<'_, K>, &[f32], [&[f32]; K]) -> A,
    ) -> Result<A> {
        let model = self.values(model)?;
        let companions = Companions::read(self, companions)?;
        let leaves = model.slices.iter().enumerate();
        Ok(leaves.fold(start, |folded, (index, x)| {
            step(folded, companions.leaf(self, index), x.as_deref().unwrap_or_default(), companions.at(index))
        }))
    }

    /// [`map_reduce`](Layout::map_reduce) with the calls of `map` shared among all threads. The results are merged in flat order, so
    /// they do not depend on the number of threads.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce).
    pub fn par_map_reduce<T: Tree + ?Sized, R: Send, const K: usize>(
        &self,
        model: &T,
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &[f32], [&[f32]; K]) -> R + Sync,
        reduce: impl FnMut(R, R) -> R,
    ) -> Result<Option<R>> {
        let model = self.values(model)?;
        let companions = Companions::read(self, companions)?;
        let mut mapped: Vec<(usize, Option<R>)> = (0..model.slices.len()).map(|index| (index, None)).collect();
        transfer::share(
            &mut mapped,
            |(index, _)| self.leaves()[*index].len(),
            |(index, result)| {
                let x = model.slices[*index].as_deref().unwrap_or_default();
                *result = Some(map(companions.leaf(self, *index), x, companions.at(*index)));
            },
        );
        Ok(mapped.into_iter().filter_map(|(_, result)| result).reduce(reduce))
    }

    /// A new tree: the model with `map` called once on every trainable leaf, in flat order. Ties stay ties; frozen leaves are copied.
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
        let contents = check::check(&self.inner, model, Purpose::Rebuild)?;
        let companions = Companions::read(self, companions)?;
        let slices = self.values(model)?.slices;
        let mut new: Vec<Vec<f32>> = slices.into_iter().map(|slice| slice.unwrap_or_default().into_owned()).collect();
        for (index, x) in new.iter_mut().enumerate() {
            map(companions.leaf(self, index), x, companions.at(index));
        }
        rebuild(&self.inner, model, Values::Leaves(Cow::Owned(new)), &contents)
    }

    /// Calls `map` once on every trainable leaf of `target`, in place; in flat order but for leaves that are shared or behind a
    /// guard, which come first. Ties stay ties.
    ///
    /// # Errors
    /// As [`map_reduce`](Layout::map_reduce) and [`restructure_into`](Layout::restructure_into); then nothing has been written.
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
        self.write_mapped(target, companions, map, |tasks, companions, map| {
            tasks.into_iter().for_each(|(index, x)| map(companions.leaf(self, index), x, companions.at(index)));
        })
    }

    /// [`map_into`](Layout::map_into) with the calls shared among all threads.
    ///
    /// # Errors
    /// As [`map_into`](Layout::map_into).
    pub fn par_map_into<T: Tree + ?Sized, const K: usize>(
        &self,
        target: &mut T,
        companions: [Companion<'_>; K],
        map: impl Fn(LeafAt<'_, K>, &mut [f32], [&[f32]; K]) + Sync,
    ) -> Result<()> {
        let map = &map;
        self.write_mapped(target, companions, map, |mut tasks, companions, _| {
            transfer::share(&mut tasks, |task| task.1.len(), |(index, x)| map(companions.leaf(self, *index), x, companions.at(*index)));
        })
    }

    /// The gradients of the trainable leaves as a tree of the model's paths: a tie's sum at its first place, all else absent.
    ///
    /// It can be walked or flattened again: `gather_grad(&mask(grads)?)` equals `gather_grad(grads)`.
    ///
    /// # Errors
    /// As [`gather_grad`](Layout::gather_grad).
    ///
    /// ```
    /// use flatleaf::{tree, Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32> }
    ///
    /// let layout = Layout::of(&Norm { scale: vec![1.0], mean: vec![0.5] })?;
    /// assert_eq!(layout.mask(&tree!({ "scale": [2.0], "mean": [3.0] }))?, tree!({ "scale": [2.0], "mean": null }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn mask<T: Tree + ?Sized>(&self, grads: &T) -> Result<DynTree> {
        let slices = Slices::read(self, grads, Purpose::ReadGradients, TiedGrads::Sum)?;
        Ok(DynTree::of_layout(&self.inner, |leaf| slices.slices[leaf].as_deref()))
    }

    /// The L2 norm of a gradient tree's trainable part, in one pass over its leaves: a tie's gradients are summed before they are
    /// squared. Equals the norm of [`gather_grad`](Layout::gather_grad) but for the rounding of the last bit of an f32.
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
        let slices = Slices::read(self, grads, Purpose::ReadGradients, TiedGrads::Sum)?.slices;
        let mut squares: Vec<(&[f32], f64)> = slices.iter().flatten().map(|slice| (&**slice, 0.0)).collect();
        transfer::share(&mut squares, |leaf| leaf.0.len(), |(x, square)| *square = crate::ops::norm_l2(x).powi(2));
        Ok(squares.iter().map(|leaf| leaf.1).sum::<f64>().sqrt())
    }

    fn values<'a, T: Tree + ?Sized>(&self, tree: &'a T) -> Result<Slices<'a>> {
        Slices::read(self, tree, Purpose::ReadValues, TiedGrads::Sum)
    }

    /// Maps what is plain where it is, all of it in one call of `run`, and the rest on copies before that.
    fn write_mapped<'c, T: Tree + ?Sized, F, const K: usize>(
        &self,
        target: &mut T,
        companions: [Companion<'c>; K],
        mut map: F,
        run: impl for<'a> Fn(Vec<(usize, &'a mut [f32])>, &Companions<'c, K>, &mut F),
    ) -> Result<()>
    where
        F: FnMut(LeafAt<'_, K>, &mut [f32], [&[f32]; K]),
    {
        self.check_f32()?;
        let contents = check::check(&self.inner, target, Purpose::WriteTrainable)?;
        let companions = Companions::read(self, companions)?;
        let mut copies = Copies { leaves: vec![Vec::new(); self.leaves().len()], other_types: Vec::new(), shared: 0 };
        check::check_and_take(&self.inner, target, Purpose::ReadValues, &mut copies)?;
        let mut copies = copies.finish();
        let copied = copies.iter_mut().enumerate().filter(|leaf| !leaf.1.is_empty());
        run(copied.map(|(index, x)| (index, &mut **x)).collect(), &companions, &mut map);
        let builder = Builder::new(&self.inner, Values::Leaves(Cow::Borrowed(&copies)), &contents).in_place();
        let large = transfer::is_parallel(self.len()).then(Vec::new);
        let mut put = WriteMapped { layout: &self.inner, copies: &copies, plain: Vec::new(), large };
        in_place::write(&self.inner, target, builder, &mut put)?;
        transfer::copy_all(put.large.unwrap_or_default());
        run(put.plain, &companions, &mut map);
        Ok(())
    }
}

/// One slice a leaf, or a copy where there is no slice; `None` for one that is absent.
struct Slices<'a> {
    slices: Vec<Option<Cow<'a, [f32]>>>,
}

impl<'a> Slices<'a> {
    fn read<T: Tree + ?Sized>(layout: &Layout, tree: &'a T, purpose: Purpose, tied: TiedGrads) -> Result<Self> {
        layout.check_f32()?;
        let slices = (0..layout.leaves().len()).map(|_| None).collect();
        let other_types = Vec::new();
        let mut collect = Collect { layout: &layout.inner, purpose, slices, other_types, tied: TiedPlaces::default() };
        check::check_and_take(&layout.inner, tree, purpose, &mut collect)?;
        Ok(collect.finish(tied))
    }
}

struct Collect<'l, 'a> {
    layout: &'l Inner,
    purpose: Purpose,
    slices: Vec<Option<Cow<'a, [f32]>>>,
    /// Leaves that are lent, but not of `f32`.
    other_types: Vec<(usize, Floats<'a>)>,
    tied: TiedPlaces<'a, f32>,
}

impl<'a> Take<'a> for Collect<'_, 'a> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && if self.purpose == Purpose::ReadValues { place.first } else { !place.frozen }
    }

    #[inline]
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        let is_alone = place.plain || self.purpose == Purpose::ReadValues;
        if let Some(floats) = lent_of_other_type(place, leaf).filter(|_| is_alone) {
            self.other_types.push((index, floats));
            return Ok(());
        }
        let elements = elements_of(self.layout, place, leaf)?;
        if is_alone {
            self.slices[index] = Some(elements);
        } else {
            self.tied.push(place, elements);
        }
        Ok(())
    }
}

impl<'a> Collect<'_, 'a> {
    fn finish(mut self, tied: TiedGrads) -> Slices<'a> {
        for (leaf, copy) in widened(self.other_types) {
            self.slices[leaf] = Some(Cow::Owned(copy));
        }
        for (leaf, places) in self.tied.by_leaf() {
            let count = if tied == TiedGrads::Sum { places.len() } else { 1 };
            self.slices[leaf] = places.into_iter().take(count).reduce(|mut sum, elements| {
                transfer::add(sum.to_mut(), &elements);
                sum
            });
        }
        Slices { slices: self.slices }
    }
}

/// The slices of all companions, and zeros for what they have not got.
struct Companions<'a, const K: usize> {
    trees: [Slices<'a>; K],
    zeros: Vec<f32>,
    lens: Vec<usize>,
}

impl<'a, const K: usize> Companions<'a, K> {
    fn read(layout: &Layout, companions: [Companion<'a>; K]) -> Result<Self> {
        let mut trees = Vec::with_capacity(K);
        for companion in companions {
            trees.push(match companion {
                Companion::Grads(tree) => Slices::read(layout, tree, Purpose::ReadGradients, TiedGrads::Sum)?,
                Companion::Totals(tree) => Slices::read(layout, tree, Purpose::ReadGradients, TiedGrads::AlreadyTotal)?,
                Companion::Values(tree) => Slices::read(layout, tree, Purpose::ReadValues, TiedGrads::Sum)?,
            });
        }
        let lens: Vec<usize> = layout.leaves().iter().map(Leaf::len).collect();
        let is_absent = |index: &usize| trees.iter().any(|tree| tree.slices[*index].is_none());
        let longest_absent = (0..lens.len()).filter(is_absent).map(|index| lens[index]).max();
        let zeros = vec![0.0; longest_absent.unwrap_or(0)];
        let trees = trees.try_into().unwrap_or_else(|_| unreachable!("one for each companion"));
        Ok(Companions { trees, zeros, lens })
    }

    fn leaf<'w>(&self, layout: &'w Layout, index: usize) -> LeafAt<'w, K> {
        let present = std::array::from_fn(|k| self.trees[k].slices[index].is_some());
        LeafAt { leaf: &layout.leaves()[index], index, present }
    }

    fn at(&self, index: usize) -> [&[f32]; K] {
        std::array::from_fn(|k| self.trees[k].slices[index].as_deref().unwrap_or_else(|| &self.zeros[..self.lens[index]]))
    }
}

/// The elements of a leaf of another type than `f32`, if it is large, lent, and shown as it is: such leaves are converted together.
#[inline]
fn lent_of_other_type<'a>(place: &Place, leaf: &LeafRef<'_, 'a>) -> Option<Floats<'a>> {
    if leaf.dtype == Dtype::F32 || place.axes.is_some() || !transfer::is_large(place.len) {
        return None;
    }
    leaf.lent_floats()
}

/// Copies as `f32`, made by all threads if they are many.
fn widened(leaves: Vec<(usize, Floats<'_>)>) -> Vec<(usize, Vec<f32>)> {
    let widen = |&(leaf, floats): &(usize, Floats<'_>)| (leaf, floats.to_vec());
    let is_parallel = transfer::is_parallel(leaves.iter().map(|leaf| leaf.1.len()).sum());
    if is_parallel { transfer::make_all(&leaves, widen) } else { leaves.iter().map(widen).collect() }
}

/// Copies of the leaves that cannot be written as slices of the tree: what is shared or guarded, what is strided, what is no `f32`.
struct Copies<'a> {
    leaves: Vec<Vec<f32>>,
    /// Leaves that are lent, but not of `f32`.
    other_types: Vec<(usize, Floats<'a>)>,
    /// Shared nodes around what is visited.
    shared: usize,
}

impl<'a> Copies<'a> {
    #[inline(never)]
    fn copy(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        if let Some(floats) = lent_of_other_type(place, leaf) {
            self.other_types.push((index, floats));
            return Ok(());
        }
        self.leaves[index] = vec![0.0; leaf.len()];
        read_floats(leaf, &mut self.leaves[index])
    }

    fn finish(mut self) -> Vec<Vec<f32>> {
        for (leaf, copy) in widened(self.other_types) {
            self.leaves[leaf] = copy;
        }
        self.leaves
    }
}

impl<'a> Take<'a> for Copies<'a> {
    fn wants(&self, place: &Place) -> bool {
        place.first && place.leaf.trainable
    }

    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let is_slice = self.shared == 0 && place.plain && !leaf.may_overlap && leaf.lent::<f32>().is_some();
        if is_slice { Ok(()) } else { self.copy(place, leaf) }
    }

    fn enter_shared(&mut self) {
        self.shared += 1;
    }

    fn leave_shared(&mut self) {
        self.shared -= 1;
    }
}

struct WriteMapped<'l, 'a> {
    layout: &'l Inner,
    copies: &'l [Vec<f32>],
    plain: Vec<(usize, &'a mut [f32])>,
    /// Copies to be put back by all threads, where that is worth it.
    large: Option<Vec<(FloatsMut<'a>, Floats<'l>)>>,
}

impl<'a> Put<'a> for WriteMapped<'_, 'a> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        let copy = &self.copies[index];
        let is_whole = place.axes.is_none();
        match (leaf.sink, &mut self.large) {
            (Sink::Bytes(bytes), _) if is_whole && copy.is_empty() => {
                // One of no elements may be of another type, and is then not aligned as `f32`.
                self.plain.push((index, bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()));
            }
            (Sink::Bytes(bytes), Some(large)) if is_whole && transfer::is_large(place.len) => {
                let to = FloatsMut::from_bytes(leaf.dtype, bytes).filter(|to| to.has_len(copy.len()));
                large.push((to.ok_or_else(changed_length)?, Floats::of(copy)));
            }
            (sink, _) => return write_floats(self.layout, place, LeafMut { sink, ..leaf }, copy),
        }
        Ok(())
    }
}
