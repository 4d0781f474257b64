//! The trainable leaves of a tree, all at once: read as slices of f32, and changed where they are.
//!
//! A leaf is a slice where the tree lends one, otherwise a copy: a tie's summed gradient, what is behind a guard, what is strided or of
//! another type.

use std::borrow::Cow;

use crate::check::{self, Contents, Purpose, Take};
use crate::elements::{TiedPlaces, changed_length, elements_of, write_floats};
use crate::error::{Error, Result};
use crate::floats::{Floats, FloatsMut};
use crate::gradient::TiedGrads;
use crate::in_place::{self, Put};
use crate::layout::{Inner, Layout, Place};
use crate::transfer;
use crate::tree::{Builder, Dtype, LeafMut, LeafRef, Sink, Tree, Values};

/// One slice a leaf, in flat order; `None` for one that is absent.
pub(crate) type Slices<'a> = Vec<Option<Cow<'a, [f32]>>>;

/// The values of a tree's leaves, all of them there.
///
/// # Errors
/// As [`Layout::gather`].
pub(crate) fn values<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a T) -> Result<Slices<'a>> {
    Collect::walk(layout, tree, Purpose::ReadValues).map(|(collect, _)| collect.finish(TiedGrads::Sum))
}

/// The gradients of the leaves, those of a tie summed.
///
/// # Errors
/// As [`Layout::gather_grad`].
pub(crate) fn gradients<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a T, tied: TiedGrads) -> Result<Slices<'a>> {
    Collect::walk(layout, tree, Purpose::ReadGradients).map(|(collect, _)| collect.finish(tied))
}

/// The leaves of a tree that is to be changed, as they are.
///
/// # Errors
/// As [`Layout::gather`] and [`Layout::restructure_into`].
pub(crate) fn to_change<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a T) -> Result<ToChange<'a>> {
    let (mut collect, contents) = Collect::walk(layout, tree, Purpose::Change)?;
    let is_lent = std::mem::take(&mut collect.is_lent);
    Ok(ToChange { values: collect.finish(TiedGrads::Sum), is_lent, contents })
}

/// A tree that is to be changed, as it is.
pub(crate) struct ToChange<'a> {
    pub(crate) values: Slices<'a>,
    /// Leaves that can be changed where they are.
    is_lent: Vec<bool>,
    contents: Contents,
}

/// What it takes to change a tree, without the tree.
pub(crate) struct Change {
    is_lent: Vec<bool>,
    contents: Contents,
    /// Of the leaves that cannot be changed where they are.
    copies: Vec<Vec<f32>>,
}

impl ToChange<'_> {
    /// Lets go of the tree.
    pub(crate) fn release(self) -> Change {
        let copy = |(value, is_lent): (Option<Cow<'_, [f32]>>, &bool)| match value {
            Some(value) if !is_lent => value.into_owned(),
            _ => Vec::new(),
        };
        let copies = self.values.into_iter().zip(&self.is_lent).map(copy).collect();
        Change { is_lent: self.is_lent, contents: self.contents, copies }
    }
}

impl Change {
    /// Calls `change` once, with a slice for every wanted leaf, and writes back those that are copies.
    ///
    /// # Errors
    /// A tree that is not as it was read.
    pub(crate) fn run<T: Tree + ?Sized>(
        mut self,
        layout: &Layout,
        tree: &mut T,
        is_wanted: impl Fn(usize) -> bool,
        change: impl FnOnce(Vec<Option<&mut [f32]>>),
    ) -> Result<()> {
        let (is_lent, builder) = (&self.is_lent, |copies| Builder::new(&layout.inner, Values::Leaves(copies), &self.contents).in_place());
        let mut lend = Lend { is_wanted: |leaf| is_wanted(leaf) && is_lent[leaf], slices: is_lent.iter().map(|_| None).collect() };
        in_place::write(&layout.inner, tree, builder(Cow::Borrowed(&[])), &mut lend)?;
        let slices = lend.slices.into_iter().zip(&mut self.copies).zip(is_lent);
        change(slices.map(|((lent, copy), is_lent)| if *is_lent { lent } else { Some(&mut **copy) }).collect());

        let is_copied = |leaf: usize| is_wanted(leaf) && !is_lent[leaf];
        if (0..is_lent.len()).any(is_copied) {
            let large = transfer::is_parallel(layout.len()).then(Vec::new);
            let mut put_back = PutBack { layout: &layout.inner, is_copied, copies: &self.copies, large };
            in_place::write(&layout.inner, tree, builder(Cow::Borrowed(&self.copies)), &mut put_back)?;
            transfer::copy_all(put_back.large.unwrap_or_default());
        }
        Ok(())
    }
}

struct Collect<'l, 'a> {
    layout: &'l Inner,
    purpose: Purpose,
    slices: Slices<'a>,
    is_lent: Vec<bool>,
    /// Leaves that are lent, but not of `f32`.
    other_types: Vec<(usize, Floats<'a>)>,
    tied: TiedPlaces<'a, f32>,
    /// Shared nodes around what is visited.
    shared: usize,
}

impl<'l, 'a> Collect<'l, 'a> {
    fn walk<T: Tree + ?Sized>(layout: &'l Layout, tree: &'a T, purpose: Purpose) -> Result<(Self, Contents)> {
        layout.check_f32()?;
        let leaves = layout.leaves().len();
        let slices = (0..leaves).map(|_| None).collect();
        let is_lent = if purpose == Purpose::Change { vec![false; leaves] } else { Vec::new() };
        let (other_types, tied) = (Vec::new(), TiedPlaces::default());
        let mut collect = Collect { layout: &layout.inner, purpose, slices, is_lent, other_types, tied, shared: 0 };
        let contents = check::check_and_take(&layout.inner, tree, purpose, &mut collect)?;
        Ok((collect, contents))
    }

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
        self.slices
    }
}

impl<'a> Take<'a> for Collect<'_, 'a> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && if self.purpose == Purpose::ReadGradients { !place.frozen } else { place.first }
    }

    #[inline]
    fn take(&mut self, place: &Place, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        let is_alone = place.plain || self.purpose != Purpose::ReadGradients;
        if let Some(floats) = lent_of_other_type(place, &leaf)
            && is_alone
        {
            self.other_types.push((index, floats));
            return Ok(());
        }
        let elements = elements_of(self.layout, place, &leaf)?;
        if let Some(is_lent) = self.is_lent.get_mut(index) {
            *is_lent = self.shared == 0 && place.plain && !leaf.may_overlap && matches!(elements, Cow::Borrowed(_));
        }
        if is_alone {
            self.slices[index] = Some(elements);
        } else {
            self.tied.push(place, elements);
        }
        Ok(())
    }

    fn enter_shared(&mut self) {
        self.shared += 1;
    }

    fn leave_shared(&mut self) {
        self.shared -= 1;
    }
}

/// The elements of a leaf of another type than `f32`, if it is large, lent, and shown as it is: such leaves are converted together.
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

/// Takes the slices that a tree lends.
struct Lend<'a, W> {
    is_wanted: W,
    slices: Vec<Option<&'a mut [f32]>>,
}

impl<'a, W: Fn(usize) -> bool> Put<'a> for Lend<'a, W> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && (self.is_wanted)(place.leaf.index as usize)
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let Sink::Bytes(bytes) = leaf.sink else { return Err(Error::unstable("a leaf that lends no slice any more")) };
        let slice = bytemuck::try_cast_slice_mut(bytes).ok().filter(|slice: &&mut [f32]| slice.len() == place.len);
        self.slices[place.leaf.index as usize] = Some(slice.ok_or_else(changed_length)?);
        Ok(())
    }
}

/// Writes copies back.
struct PutBack<'l, 'a, W> {
    layout: &'l Inner,
    is_copied: W,
    copies: &'l [Vec<f32>],
    /// To be written by all threads, where that is worth it.
    large: Option<Vec<(FloatsMut<'a>, Floats<'l>)>>,
}

impl<'a, W: Fn(usize) -> bool> Put<'a> for PutBack<'_, 'a, W> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && (self.is_copied)(place.leaf.index as usize)
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let copy = &self.copies[place.leaf.index as usize];
        match (leaf.sink, &mut self.large) {
            (Sink::Bytes(bytes), Some(large)) if place.axes.is_none() && transfer::is_large(place.len) => {
                let to = FloatsMut::from_bytes(leaf.dtype, bytes).filter(|to| to.has_len(copy.len()));
                large.push((to.ok_or_else(changed_length)?, Floats::of(copy)));
                Ok(())
            }
            (sink, _) => write_floats(self.layout, place, LeafMut { sink, ..leaf }, copy),
        }
    }
}
