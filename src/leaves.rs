//! The trainable leaves of a tree all at once: read as slices, and changed where they are.

use std::borrow::Cow;

use crate::check::{self, Contents, Purpose};
use crate::elements::elements_of;
use crate::error::{Error, Result};
use crate::gradient::TiedGrads;
use crate::in_place::{self, Put};
use crate::layout::{Inner, Layout, Place};
use crate::matched::Take;
use crate::restructure::at_place;
use crate::tree::{Builder, LeafMut, LeafRef, Sink, Tree, Values};
use crate::walk::Slices;

/// The gradient of every leaf, summed over the places of a tie; `None` for one that is absent.
pub(crate) fn gradients<'a, T: Tree + ?Sized>(layout: &Layout, grads: &'a T, tied: TiedGrads) -> Result<Vec<Option<Cow<'a, [f32]>>>> {
    Slices::read(layout, grads, Purpose::ReadGradients, tied).map(|read| read.slices)
}

/// The values of the leaves of a tree that is to be changed, and how to change them.
pub(crate) struct Readable<'a> {
    pub(crate) values: Vec<Cow<'a, [f32]>>,
    changeable: Changeable,
}

/// What it takes to change a tree, without the tree.
pub(crate) struct Changeable {
    contents: Contents,
    /// Leaves that the tree will lend as slices; the others are changed as copies.
    is_lent: Vec<bool>,
    copies: Vec<Vec<f32>>,
}

/// Checks that the trainable leaves of a tree can be written, and reads them.
///
/// # Errors
/// As [`Layout::restructure_into`] and [`Layout::gather`].
pub(crate) fn read<'a, T: Tree + ?Sized>(layout: &Layout, tree: &'a T) -> Result<Readable<'a>> {
    layout.check_f32()?;
    let contents = check::check(&layout.inner, tree, Purpose::WriteTrainable)?;
    let leaves = layout.leaves().len();
    let mut read = Read { layout: &layout.inner, values: vec![Cow::Borrowed(&[][..]); leaves], is_lent: vec![false; leaves], shared: 0 };
    check::check_and_take(&layout.inner, tree, Purpose::ReadValues, &mut read)?;
    Ok(Readable { values: read.values, changeable: Changeable { contents, is_lent: read.is_lent, copies: Vec::new() } })
}

impl Readable<'_> {
    /// Lets go of the tree, with copies of those leaves that cannot be changed where they are.
    pub(crate) fn release(self) -> Changeable {
        let copy = |(value, is_lent): (Cow<'_, [f32]>, &bool)| if *is_lent { Vec::new() } else { value.into_owned() };
        let copies = self.values.into_iter().zip(&self.changeable.is_lent).map(copy).collect();
        Changeable { copies, ..self.changeable }
    }
}

impl Changeable {
    /// Calls `change` with a slice for every wanted leaf, in one call, and writes back what were copies.
    ///
    /// # Errors
    /// A tree that is not as it was read.
    pub(crate) fn change<T: Tree + ?Sized>(
        mut self,
        layout: &Layout,
        tree: &mut T,
        is_wanted: &[bool],
        change: impl FnOnce(Vec<Option<&mut [f32]>>),
    ) -> Result<()> {
        let is_copied = |leaf: usize| is_wanted[leaf] && !self.is_lent[leaf];
        let any_copied = (0..is_wanted.len()).any(is_copied);
        let builder = Builder::new(&layout.inner, Values::Leaves(Cow::Borrowed(&[])), &self.contents).in_place();
        let mut lent = Lent { is_wanted: |leaf| is_wanted[leaf] && self.is_lent[leaf], slices: is_wanted.iter().map(|_| None).collect() };
        in_place::write(&layout.inner, tree, builder, &mut lent)?;
        let copies = self.copies.iter_mut().zip(lent.slices).enumerate();
        let slice = |(leaf, (copy, lent)): (usize, (_, _))| if self.is_lent[leaf] { lent } else { Some(Vec::as_mut_slice(copy)) };
        change(copies.map(slice).collect());
        if any_copied {
            let builder = Builder::new(&layout.inner, Values::Leaves(Cow::Borrowed(&self.copies)), &self.contents).in_place();
            let is_copied = |leaf: usize| is_wanted[leaf] && !self.is_lent[leaf];
            in_place::write(&layout.inner, tree, builder, &mut WriteBack { layout: &layout.inner, is_copied, copies: &self.copies })?;
        }
        Ok(())
    }
}

struct Read<'l, 'a> {
    layout: &'l Inner,
    values: Vec<Cow<'a, [f32]>>,
    is_lent: Vec<bool>,
    /// Shared nodes around what is visited.
    shared: usize,
}

impl<'a> Take<'a> for Read<'_, 'a> {
    fn wants(&self, place: &Place) -> bool {
        place.first && place.leaf.trainable
    }

    fn take(&mut self, place: &Place, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        self.is_lent[index] = self.shared == 0 && place.plain && !leaf.may_overlap && leaf.lent::<f32>().is_some();
        self.values[index] = elements_of(self.layout, place, &leaf)?;
        Ok(())
    }

    fn enter_shared(&mut self) {
        self.shared += 1;
    }

    fn leave_shared(&mut self) {
        self.shared -= 1;
    }
}

struct Lent<'a, W> {
    is_wanted: W,
    slices: Vec<Option<&'a mut [f32]>>,
}

impl<'a, W: Fn(usize) -> bool> Put<'a> for Lent<'a, W> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && (self.is_wanted)(place.leaf.index as usize)
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let Sink::Bytes(bytes) = leaf.sink else { return Err(Error::unstable("a leaf that lends no slice any more")) };
        self.slices[place.leaf.index as usize] = Some(bytemuck::cast_slice_mut(bytes));
        Ok(())
    }
}

struct WriteBack<'l, W> {
    layout: &'l Inner,
    is_copied: W,
    copies: &'l [Vec<f32>],
}

impl<'a, W: Fn(usize) -> bool> Put<'a> for WriteBack<'_, W> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && (self.is_copied)(place.leaf.index as usize)
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let copy = &self.copies[place.leaf.index as usize];
        match &place.axes {
            None => leaf.write_bytes(bytemuck::cast_slice(copy)),
            Some(axes) => leaf.write_bytes(bytemuck::cast_slice(&at_place(axes, self.layout.leaf(place.leaf).shape(), copy))),
        }
    }
}
