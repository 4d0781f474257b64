//! The trainable leaves of a tree, all at once: read as slices of f32 or f64, and changed where
//! they are.
//!
//! A leaf is a slice where the tree lends one, otherwise a copy: a tie's summed gradient, what is
//! behind a guard, what is strided or of another type.

use std::borrow::Cow;

use crate::element::{FlatElement, Sink};
use crate::error::{Error, Result};
use crate::layout::{Layout, LayoutData, Leaf, Place};
use crate::slices::copies::{self, Copies};
use crate::slices::{Floats, FloatsMut};
use crate::threads;
use crate::traversal::borrow_all::borrow_all_mut;
use crate::traversal::holder::Holder;
use crate::traversal::in_place::{self, WriteLeaf};
use crate::traversal::place_elements::{PlaceElements, elements_of, write_floats};
use crate::traversal::purpose::Purpose;
use crate::traversal::read_leaf::ReadLeaf;
use crate::traversal::rebuild::{Rebuilding, Values};
use crate::traversal::tied_places::{TiedGrads, TiedPlaces};
use crate::traversal::validate;
use crate::traversal::validated::Validated;
use crate::tree::{LeafMut, LeafRef, Tree};

/// One slice a leaf, in flat order; `None` for one that is absent.
pub(crate) type LeafSlices<'a, E> = Vec<Option<Cow<'a, [E]>>>;

/// The values of a tree's leaves, all of them there.
///
/// # Errors
/// A tree that does not agree with the layout, or an f64 leaf that is not to be rounded.
pub(crate) fn values<'a, T, E>(layout: &Layout, tree: &'a T) -> Result<LeafSlices<'a, E>>
where
    T: Tree + ?Sized,
    E: FlatElement,
{
    Collect::walk(layout, tree, Purpose::ReadValues)
        .map(|(collect, _)| collect.finish(TiedGrads::Sum))
}

/// The values of a tree's leaves, all of them there, and perhaps leaves that the layout has not got
/// and whose path `is_allowed` accepts.
///
/// # Errors
/// A tree that does not agree with the layout otherwise.
pub(crate) fn values_with_extra<'a, E: FlatElement>(
    layout: &Layout,
    tree: &'a dyn Tree,
    is_allowed: impl FnMut(&str) -> bool,
) -> Result<LeafSlices<'a, E>> {
    let mut collect = Collect::new(layout, Purpose::ReadValues)?;
    let purpose = Purpose::ReadValues;
    validate::validate_but_for(&layout.inner, tree, purpose, &mut collect, is_allowed)?;
    Ok(collect.finish(TiedGrads::Sum))
}

/// The gradients of the leaves as they come: in the float type in which the tree lends them. Those
/// of a tie are summed; of an absent leaf there is `None`.
///
/// # Errors
/// A tree that does not agree with the layout, or an f64 leaf that is not to be rounded.
pub(crate) fn gradients_as_they_come<'a, T, E>(
    layout: &Layout,
    tree: &'a T,
    tied: TiedGrads,
) -> Result<Vec<Option<PlaceElements<'a, E>>>>
where
    T: Tree + ?Sized,
    E: FlatElement,
{
    let mut collect = Collect::new(layout, Purpose::ReadGradients)?;
    collect.as_they_come = true;
    let layout = &layout.inner;
    let purpose = Purpose::ReadGradients;
    validate::validate_and_read(layout, tree, purpose, &mut collect)?;
    Ok(collect.finish_as_they_come(tied))
}

/// The gradients of the leaves, those of a tie summed.
///
/// # Errors
/// A tree that does not agree with the layout, or an f64 leaf that is not to be rounded.
pub(crate) fn gradients<'a, T, E>(
    layout: &Layout,
    tree: &'a T,
    tied: TiedGrads,
) -> Result<LeafSlices<'a, E>>
where
    T: Tree + ?Sized,
    E: FlatElement,
{
    Collect::walk(layout, tree, Purpose::ReadGradients).map(|(collect, _)| collect.finish(tied))
}

/// Calls `change` once, with a slice for every leaf of a tree, in flat order: where it is if the
/// tree lends it, otherwise a copy, which is written back if it is wanted.
///
/// What `change` returns comes with whether all copies could be written back. A leaf that cannot
/// take its new elements (a device that is gone) is found when the others are changed already, and
/// to take those back would need a second copy of the whole tree. So all others are written, and
/// the error names the leaves that were not: the caller counts what it did as done.
///
/// # Errors
/// A tree that does not agree with the layout or cannot be written, and what `change` returns; then
/// nothing has been written.
pub(crate) fn change<T, R, E>(
    layout: &Layout,
    tree: &mut T,
    is_wanted: impl Fn(usize) -> bool,
    change: impl FnOnce(Vec<&mut [E]>) -> Result<R>,
) -> Result<(R, Result<()>)>
where
    T: Tree + ?Sized,
    E: FlatElement,
{
    layout.check_element::<E>()?;
    if let Some(slices) = borrow_all(layout, tree) {
        return Ok((change(slices)?, Ok(())));
    }
    // Whether everything can be written back is known before anything changes: `change` may count
    // a step, and what it did cannot be taken back.
    let mut copied = CopiedTree::read(layout, tree)?;
    copied.check_renewable(layout, tree, &is_wanted)?;
    let changed = change(copied.slices(layout, tree)?)?;
    let written = copied.write_back(layout, tree, &is_wanted);
    Ok((changed, written))
}

/// The leaves of a plain tree where they are, each in the float type that it has; `None` if the tree
/// does not lend all of them at once.
pub(crate) fn borrow_all_as_they_are<'a, T: Tree + ?Sized>(
    layout: &Layout,
    tree: &'a mut T,
) -> Option<Vec<FloatsMut<'a>>> {
    borrow_all_mut(&layout.inner, tree)
}

fn borrow_all<'a, T, E>(layout: &Layout, tree: &'a mut T) -> Option<Vec<&'a mut [E]>>
where
    T: Tree + ?Sized,
    E: FlatElement,
{
    borrow_all_as_they_are(layout, tree)?
        .into_iter()
        .map(FloatsMut::into_slice)
        .collect()
}

/// A tree that is not plain, without the tree.
struct CopiedTree<E> {
    /// Leaves that can be changed where they are.
    is_lent: Vec<bool>,
    /// The others.
    copies: Vec<Vec<E>>,
    validated: Validated,
}

impl<E: FlatElement> CopiedTree<E> {
    fn read<T: Tree + ?Sized>(layout: &Layout, tree: &T) -> Result<Self> {
        let (mut collect, validated) = Collect::walk(layout, tree, Purpose::Change)?;
        let is_lent = std::mem::take(&mut collect.is_lent);
        let copy = |(value, is_lent): (Option<Cow<'_, [E]>>, &bool)| match value {
            Some(value) if !is_lent => value.into_owned(),
            _ => Vec::new(),
        };
        let copies = collect
            .finish(TiedGrads::Sum)
            .into_iter()
            .zip(&is_lent)
            .map(copy)
            .collect();
        Ok(CopiedTree {
            is_lent,
            copies,
            validated,
        })
    }

    /// What is to be written back can be: known before anything changes.
    fn check_renewable<T: Tree + ?Sized>(
        &self,
        layout: &Layout,
        tree: &mut T,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let builder = self.builder(layout);
        let mut writes_back = self.writes_back(layout, &is_wanted);
        in_place::check_renewable(&layout.inner, tree, builder, &mut writes_back)
    }

    fn slices<'a, T: Tree + ?Sized>(
        &'a mut self,
        layout: &Layout,
        tree: &'a mut T,
    ) -> Result<Vec<&'a mut [E]>> {
        let mut lent = BorrowSome {
            layout: &layout.inner,
            is_lent: &self.is_lent,
            slices: self.is_lent.iter().map(|_| None).collect(),
            failed: None,
        };
        in_place::write(&layout.inner, tree, self.builder(layout), &mut lent)?;
        if let Some(error) = lent.failed {
            return Err(error);
        }
        let slices = lent
            .slices
            .into_iter()
            .zip(&mut self.copies)
            .map(|(lent, copy)| lent.unwrap_or(copy));
        let of_leaf = |(slice, leaf): (&'a mut [E], &Leaf)| {
            if slice.len() == leaf.len() {
                Ok(slice)
            } else {
                Err(Error::changed_length().at(leaf.path()))
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
        let mut writes_back = self.writes_back(layout, &is_wanted);
        let mut places = layout.inner.places.iter();
        // An optimiser that skips every copied leaf need not take another walk.
        if !places.any(|place| writes_back.wants(place)) {
            return Ok(());
        }
        let written = in_place::write(&layout.inner, tree, self.builder(layout), &mut writes_back);
        // Leaves that could be written are, even if another one could not.
        writes_back.writes.finish();
        written
    }

    fn builder<'b>(&'b self, layout: &'b Layout) -> Rebuilding<'b> {
        let copies = Cow::Borrowed(&self.copies[..]);
        let values = Values::Leaves(Box::new(copies));
        let builder = Rebuilding::new(&layout.inner, values, &self.validated);
        builder.in_place()
    }

    fn writes_back<'l, 'a, W>(
        &'l self,
        layout: &'l Layout,
        is_wanted: W,
    ) -> WriteBack<'l, 'a, W, E> {
        WriteBack {
            layout: &layout.inner,
            is_wanted,
            copied: self,
            writes: Copies::of(layout.len()),
        }
    }
}

struct Collect<'l, 'a, E: FlatElement> {
    layout: &'l LayoutData,
    purpose: Purpose,
    slices: LeafSlices<'a, E>,
    is_lent: Vec<bool>,
    /// Leaves that are lent, but not of `E`: large ones, or all if they are wanted as they come.
    other_types: Vec<(usize, Floats<'a>)>,
    as_they_come: bool,
    tied: TiedPlaces<PlaceElements<'a, E>>,
    /// Shared nodes around what is visited.
    shared: usize,
}

impl<'l, 'a, E: FlatElement> Collect<'l, 'a, E> {
    fn new(layout: &'l Layout, purpose: Purpose) -> Result<Self> {
        layout.check_element::<E>()?;
        let leaves = layout.leaves().len();
        let is_changed = purpose == Purpose::Change;
        Ok(Collect {
            layout: &layout.inner,
            purpose,
            slices: (0..leaves).map(|_| None).collect(),
            is_lent: vec![false; if is_changed { leaves } else { 0 }],
            other_types: Vec::new(),
            as_they_come: false,
            tied: TiedPlaces::default(),
            shared: 0,
        })
    }

    fn walk<T: Tree + ?Sized>(
        layout: &'l Layout,
        tree: &'a T,
        purpose: Purpose,
    ) -> Result<(Self, Validated)> {
        let mut collect = Collect::new(layout, purpose)?;
        let validated = validate::validate_and_read(&layout.inner, tree, purpose, &mut collect)?;
        Ok((collect, validated))
    }

    fn finish(mut self, tied: TiedGrads) -> LeafSlices<'a, E> {
        // Put off until the whole tree is known to be right, so that all threads can share the
        // work.
        for (leaf, copy) in widened(self.other_types) {
            self.slices[leaf] = Some(Cow::Owned(copy));
        }
        for gradient in self.tied.by_leaf(tied) {
            let sum = PlaceElements::sum(gradient.terms);
            self.slices[gradient.leaf] = sum.map(PlaceElements::into_elements);
        }
        self.slices
    }

    fn finish_as_they_come(self, tied: TiedGrads) -> Vec<Option<PlaceElements<'a, E>>> {
        let slices = self.slices.into_iter();
        let mut gradients: Vec<Option<PlaceElements<'a, E>>> = slices
            .map(|slice| slice.map(PlaceElements::Elements))
            .collect();
        for (leaf, floats) in self.other_types {
            gradients[leaf] = Some(PlaceElements::OtherType(floats));
        }
        for gradient in self.tied.by_leaf(tied) {
            gradients[gradient.leaf] = PlaceElements::sum(gradient.terms);
        }
        gradients
    }

    // Beside the walk, which is a loop over leaves of the vector's type most often.
    #[inline(never)]
    fn read_other_type(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        match PlaceElements::of(self.layout, place, leaf)? {
            PlaceElements::OtherType(floats) => self.other_types.push((index, floats)),
            PlaceElements::Elements(copy) => self.slices[index] = Some(copy),
        }
        Ok(())
    }
}

impl<'a, E: FlatElement> ReadLeaf<'a> for Collect<'_, 'a, E> {
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
    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let index = place.leaf.index as usize;
        // Most leaves are of the vector's type, and small ones cost little to copy at once.
        if leaf.dtype != E::DTYPE && (self.as_they_come || copies::is_large(place.len)) {
            return self.read_other_type(place, leaf);
        }
        let elements = elements_of(self.layout, place, leaf)?;
        // In a shared node a slice can be read but not written in place, and what may overlap
        // another leaf cannot be borrowed beside it.
        if let Some(is_lent) = self.is_lent.get_mut(index) {
            *is_lent = self.shared == 0
                && place.plain
                && !leaf.may_overlap
                && matches!(elements, Cow::Borrowed(_));
        }
        self.slices[index] = Some(elements);
        Ok(())
    }

    fn read_tied_gradient(
        &mut self,
        place: &Place,
        leaf: &LeafRef<'_, 'a>,
        holder: Holder,
    ) -> Result<()> {
        // What the places add up to depends on which objects hold them: known after the walk.
        let elements = PlaceElements::of(self.layout, place, leaf)?;
        self.tied.push(place, elements, holder);
        Ok(())
    }

    fn enter_shared(&mut self) {
        self.shared += 1;
    }

    fn leave_shared(&mut self) {
        self.shared -= 1;
    }
}

/// Copies as `E`, made by all threads if they are many.
fn widened<E: FlatElement>(leaves: Vec<(usize, Floats<'_>)>) -> Vec<(usize, Vec<E>)> {
    threads::map(
        &leaves,
        |leaf| leaf.1.len(),
        |&(leaf, floats)| (leaf, floats.to_vec()),
    )
}

/// Borrows the slices of those leaves that lend theirs. Writes nothing, so what it has against a
/// leaf is its own error and not one of a leaf that could not be written.
struct BorrowSome<'l, 'a, E> {
    layout: &'l LayoutData,
    is_lent: &'l [bool],
    slices: Vec<Option<&'a mut [E]>>,
    failed: Option<Error>,
}

impl<'a, E: FlatElement> WriteLeaf<'a> for BorrowSome<'_, 'a, E> {
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && self.is_lent[place.leaf.index as usize]
    }

    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        // Between two walks a tree may change its mind: a slice that was lent may be none now.
        let slice = match leaf.sink {
            Sink::Bytes(bytes) => bytemuck::try_cast_slice_mut(bytes).ok(),
            _ => None,
        };
        let slice = slice.filter(|slice: &&mut [E]| slice.len() == place.len);
        if slice.is_none() {
            let error = || {
                let path = self.layout.paths.render(place.node);
                Error::changed_length().at(&path)
            };
            self.failed.get_or_insert_with(error);
        }
        self.slices[place.leaf.index as usize] = slice;
        Ok(())
    }
}

/// Writes copies back.
struct WriteBack<'l, 'a, W, E> {
    layout: &'l LayoutData,
    is_wanted: W,
    copied: &'l CopiedTree<E>,
    writes: Copies<'a, 'l>,
}

impl<'a, E: FlatElement, W: Fn(usize) -> bool> WriteLeaf<'a> for WriteBack<'_, 'a, W, E> {
    fn wants(&self, place: &Place) -> bool {
        let leaf = place.leaf.index as usize;
        place.leaf.trainable && !self.copied.is_lent[leaf] && (self.is_wanted)(leaf)
    }

    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let copy = &self.copied.copies[place.leaf.index as usize];
        let bytes = match leaf.sink {
            Sink::Bytes(bytes) if place.axes.is_none() => bytes,
            _ => return write_floats(self.layout, place, leaf, copy),
        };
        let to = FloatsMut::from_bytes(leaf.dtype, bytes);
        let to = to.filter(|to| to.has_len(copy.len()));
        let Some(to) = to else {
            return Err(Error::changed_length());
        };
        self.writes.add(to, Floats::of(copy));
        Ok(())
    }
}
