//! The trainable leaves of a tree, all at once: read as slices of f32, and changed where they are.
//!
//! A leaf is a slice where the tree lends one, otherwise a copy: a tie's summed gradient, what is
//! behind a guard, what is strided or of another type.

use std::borrow::Cow;

use crate::element::{Dtype, Sink};
use crate::error::{Error, Result};
use crate::layout::{Layout, LayoutData, Leaf, Place};
use crate::slices::copies::{self, Copies};
use crate::slices::{Floats, FloatsMut};
use crate::threads;
use crate::traversal::borrow::lend;
use crate::traversal::in_place::{self, Put};
use crate::traversal::place_elements::{changed_length, elements_of, write_floats};
use crate::traversal::rebuild::{Rebuilding, Values};
use crate::traversal::tied_places::TiedGrads;
use crate::traversal::tied_places::TiedPlaces;
use crate::traversal::validate::{self, Contents, Purpose, Take};
use crate::tree::{LeafMut, LeafRef, Tree};

/// One slice a leaf, in flat order; `None` for one that is absent.
pub(crate) type Slices<'a> = Vec<Option<Cow<'a, [f32]>>>;

/// The values of a tree's leaves, all of them there.
///
/// # Errors
/// As [`Layout::gather`].
pub(crate) fn values<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a T) -> Result<Slices<'a>> {
    Collect::walk(layout, tree, Purpose::ReadValues)
        .map(|(collect, _)| collect.finish(TiedGrads::Sum))
}

/// The gradients of the leaves, those of a tie summed.
///
/// # Errors
/// As [`Layout::gather_grad`].
pub(crate) fn gradients<'a, T: Tree + ?Sized>(
    layout: &Layout,
    tree: &'a T,
    tied: TiedGrads,
) -> Result<Slices<'a>> {
    Collect::walk(layout, tree, Purpose::ReadGradients).map(|(collect, _)| collect.finish(tied))
}

/// Calls `change` once, with a slice for every leaf of a tree, in flat order: where it is if the
/// tree lends it, otherwise a copy, which is written back if it is wanted. If `change` fails
/// nothing is.
///
/// # Errors
/// As [`Layout::gather`] and [`Layout::restructure_into`], and what `change` returns.
pub(crate) fn change<T: Tree + ?Sized, R>(
    layout: &Layout,
    tree: &mut T,
    is_wanted: impl Fn(usize) -> bool,
    change: impl FnOnce(Vec<&mut [f32]>) -> Result<R>,
) -> Result<R> {
    layout.check_f32()?;
    if let Some(slices) = lend_f32(layout, tree) {
        return change(slices);
    }
    let mut copied = Copied::read(layout, tree)?;
    copied.check_new(layout, tree, &is_wanted)?;
    let changed = change(copied.slices(layout, tree)?)?;
    copied.write_back(layout, tree, &is_wanted)?;
    Ok(changed)
}

fn lend_f32<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a mut T) -> Option<Vec<&'a mut [f32]>> {
    lend(&layout.inner, tree)?
        .into_iter()
        .map(FloatsMut::into_slice)
        .collect()
}

/// A tree that is not plain, without the tree.
struct Copied {
    /// Leaves that can be changed where they are.
    is_lent: Vec<bool>,
    /// The others.
    copies: Vec<Vec<f32>>,
    contents: Contents,
}

impl Copied {
    fn read<T: Tree + ?Sized>(layout: &Layout, tree: &T) -> Result<Self> {
        let (mut collect, contents) = Collect::walk(layout, tree, Purpose::Change)?;
        let is_lent = std::mem::take(&mut collect.is_lent);
        let copy = |(value, is_lent): (Option<Cow<'_, [f32]>>, &bool)| match value {
            Some(value) if !is_lent => value.into_owned(),
            _ => Vec::new(),
        };
        let copies = collect
            .finish(TiedGrads::Sum)
            .into_iter()
            .zip(&is_lent)
            .map(copy)
            .collect();
        Ok(Copied {
            is_lent,
            copies,
            contents,
        })
    }

    /// What is to be written back can be: known before anything changes.
    fn check_new<T: Tree + ?Sized>(
        &self,
        layout: &Layout,
        tree: &mut T,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        in_place::check_new(
            &layout.inner,
            tree,
            self.builder(layout),
            &mut self.put_back(layout, &is_wanted),
        )
    }

    fn slices<'a, T: Tree + ?Sized>(
        &'a mut self,
        layout: &Layout,
        tree: &'a mut T,
    ) -> Result<Vec<&'a mut [f32]>> {
        let mut lent = LendSome {
            is_lent: &self.is_lent,
            slices: self.is_lent.iter().map(|_| None).collect(),
        };
        in_place::write(&layout.inner, tree, self.builder(layout), &mut lent)?;
        let slices = lent
            .slices
            .into_iter()
            .zip(&mut self.copies)
            .map(|(lent, copy)| lent.unwrap_or(copy));
        let of_leaf = |(slice, leaf): (&'a mut [f32], &Leaf)| {
            if slice.len() == leaf.len() {
                Ok(slice)
            } else {
                Err(changed_length().at(leaf.path()))
            }
        };
        slices.zip(layout.leaves()).map(of_leaf).collect()
    }

    fn write_back<T: Tree + ?Sized>(
        &self,
        layout: &Layout,
        tree: &mut T,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut put_back = self.put_back(layout, &is_wanted);
        if !layout
            .inner
            .places
            .iter()
            .any(|place| put_back.wants(place))
        {
            return Ok(());
        }
        in_place::write(&layout.inner, tree, self.builder(layout), &mut put_back)?;
        put_back.writes.finish();
        Ok(())
    }

    fn builder<'b>(&'b self, layout: &'b Layout) -> Rebuilding<'b> {
        Rebuilding::new(
            &layout.inner,
            Values::Leaves(Cow::Borrowed(&self.copies)),
            &self.contents,
        )
        .in_place()
    }

    fn put_back<'l, 'a, W>(&'l self, layout: &'l Layout, is_wanted: W) -> PutBack<'l, 'a, W> {
        PutBack {
            layout: &layout.inner,
            is_wanted,
            copied: self,
            writes: Copies::of(layout.len()),
        }
    }
}

struct Collect<'l, 'a> {
    layout: &'l LayoutData,
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
    fn walk<T: Tree + ?Sized>(
        layout: &'l Layout,
        tree: &'a T,
        purpose: Purpose,
    ) -> Result<(Self, Contents)> {
        layout.check_f32()?;
        let leaves = layout.leaves().len();
        let slices = (0..leaves).map(|_| None).collect();
        let is_lent = if purpose == Purpose::Change {
            vec![false; leaves]
        } else {
            Vec::new()
        };
        let (other_types, tied) = (Vec::new(), TiedPlaces::default());
        let mut collect = Collect {
            layout: &layout.inner,
            purpose,
            slices,
            is_lent,
            other_types,
            tied,
            shared: 0,
        };
        let contents = validate::check_and_take(&layout.inner, tree, purpose, &mut collect)?;
        Ok((collect, contents))
    }

    fn finish(mut self, tied: TiedGrads) -> Slices<'a> {
        for (leaf, copy) in widened(self.other_types) {
            self.slices[leaf] = Some(Cow::Owned(copy));
        }
        for (leaf, places) in self.tied.by_leaf() {
            let count = if tied == TiedGrads::Sum {
                places.len()
            } else {
                1
            };
            self.slices[leaf] = places.into_iter().take(count).reduce(|mut sum, elements| {
                copies::add(sum.to_mut(), &elements);
                sum
            });
        }
        self.slices
    }
}

impl<'a> Take<'a> for Collect<'_, 'a> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable
            && if self.purpose == Purpose::ReadGradients {
                !place.frozen
            } else {
                place.first
            }
    }

    #[inline]
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        let is_alone = place.plain || self.purpose != Purpose::ReadGradients;
        if let Some(floats) = lent_of_other_type(place, leaf)
            && is_alone
        {
            self.other_types.push((index, floats));
            return Ok(());
        }
        let elements = elements_of(self.layout, place, leaf)?;
        if let Some(is_lent) = self.is_lent.get_mut(index) {
            *is_lent = self.shared == 0
                && place.plain
                && !leaf.may_overlap
                && matches!(elements, Cow::Borrowed(_));
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

/// The elements of a leaf of another type than `f32`, if it is large, lent, and shown as it is:
/// such leaves are converted together.
#[inline]
fn lent_of_other_type<'a>(place: &Place, leaf: &LeafRef<'_, 'a>) -> Option<Floats<'a>> {
    if leaf.dtype == Dtype::F32 || place.axes.is_some() || !copies::is_large(place.len) {
        return None;
    }
    leaf.borrowed_floats()
}

/// Copies as `f32`, made by all threads if they are many.
fn widened(leaves: Vec<(usize, Floats<'_>)>) -> Vec<(usize, Vec<f32>)> {
    threads::map(
        &leaves,
        |leaf| leaf.1.len(),
        |&(leaf, floats)| (leaf, floats.to_vec()),
    )
}

/// Takes the slices that a tree lends.
struct LendSome<'l, 'a> {
    is_lent: &'l [bool],
    slices: Vec<Option<&'a mut [f32]>>,
}

impl<'a> Put<'a> for LendSome<'_, 'a> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && self.is_lent[place.leaf.index as usize]
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let Sink::Bytes(bytes) = leaf.sink else {
            return Err(Error::unstable("a leaf that lends no slice any more"));
        };
        let slice = bytemuck::try_cast_slice_mut(bytes)
            .ok()
            .filter(|slice: &&mut [f32]| slice.len() == place.len);
        self.slices[place.leaf.index as usize] = Some(slice.ok_or_else(changed_length)?);
        Ok(())
    }
}

/// Writes copies back.
struct PutBack<'l, 'a, W> {
    layout: &'l LayoutData,
    is_wanted: W,
    copied: &'l Copied,
    writes: Copies<'a, 'l>,
}

impl<'a, W: Fn(usize) -> bool> Put<'a> for PutBack<'_, 'a, W> {
    fn wants(&self, place: &Place) -> bool {
        let leaf = place.leaf.index as usize;
        place.leaf.trainable && !self.copied.is_lent[leaf] && (self.is_wanted)(leaf)
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let copy = &self.copied.copies[place.leaf.index as usize];
        match leaf.sink {
            Sink::Bytes(bytes) if place.axes.is_none() => {
                let to =
                    FloatsMut::from_bytes(leaf.dtype, bytes).filter(|to| to.has_len(copy.len()));
                self.writes
                    .add(to.ok_or_else(changed_length)?, Floats::of(copy));
                Ok(())
            }
            sink => write_floats(self.layout, place, LeafMut { sink, ..leaf }, copy),
        }
    }
}
