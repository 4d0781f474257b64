//! The elements at a place in the type of a flat vector and the order of its leaf, and the way
//! back.

use std::borrow::Cow;

use ndarray::{ArrayViewD, IxDyn};

use crate::element::{FlatElement, FloatElement, Sink};
use crate::error::{Error, Result};
use crate::layout::{LayoutData, Place};
use crate::memory;
use crate::slices::{self, Floats, FloatsMut};
use crate::tree::axes::AxisMap;
use crate::tree::{LeafMut, LeafRef};

/// A place's elements in the order of its leaf, of the vector's type or as the tree lends them.
pub(crate) enum PlaceElements<'a, E: Copy> {
    Elements(Cow<'a, [E]>),
    /// Floats of another type, which nobody has converted yet.
    OtherType(Floats<'a>),
}

impl<'a, E: FlatElement> PlaceElements<'a, E> {
    /// What the tree lends, of whatever float type; a copy of what it does not lend.
    pub(crate) fn of(layout: &LayoutData, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<Self> {
        let is_other_type = leaf.dtype != E::DTYPE;
        if place.axes.is_none()
            && is_other_type
            && let Some(floats) = leaf.borrowed_floats()
            && floats.has_len(place.len)
        {
            return Ok(PlaceElements::OtherType(floats));
        }
        let elements = elements_of(layout, place, leaf)?;
        Ok(PlaceElements::Elements(elements))
    }

    /// The elements in the type that they have.
    pub(crate) fn floats(&self) -> Floats<'_> {
        match self {
            PlaceElements::Elements(elements) => Floats::of(elements),
            PlaceElements::OtherType(floats) => *floats,
        }
    }

    /// All elements as `E`, with a copy where they are not.
    pub(crate) fn into_elements(self) -> Cow<'a, [E]> {
        match self {
            PlaceElements::Elements(elements) => elements,
            PlaceElements::OtherType(floats) => floats.elements(),
        }
    }

    /// The sum of all terms, of which there is at least one; a single term stays as it is.
    pub(crate) fn sum(terms: Vec<Self>) -> Option<Self> {
        // The first term is the sum's beginning and not added to zeros: 0 + −0 is 0.
        terms.into_iter().reduce(|sum, term| {
            let mut sum = sum.into_elements();
            slices::add(sum.to_mut(), term.floats());
            PlaceElements::Elements(sum)
        })
    }
}

/// A place's elements in the order of its leaf: the slice that the tree lends, or a copy.
#[inline]
pub(crate) fn elements_of<'a, E: FloatElement>(
    layout: &LayoutData,
    place: &Place,
    leaf: &LeafRef<'_, 'a>,
) -> Result<Cow<'a, [E]>> {
    match (&place.axes, leaf.borrowed()) {
        (None, Some(slice)) => Ok(Cow::Borrowed(slice)),
        _ => copy_of(layout, place, leaf).map(Cow::Owned),
    }
}

#[inline(never)]
fn copy_of<E: FloatElement>(
    layout: &LayoutData,
    place: &Place,
    leaf: &LeafRef<'_, '_>,
) -> Result<Vec<E>> {
    // A broadcast array may have more elements than there is memory for.
    let mut elements = memory::try_zeroed(leaf.len())?;
    read_floats(leaf, &mut elements)?;
    let Some(axes) = &place.axes else {
        return Ok(elements);
    };
    let shape = IxDyn(leaf.shape);
    let view = ArrayViewD::from_shape(shape, &elements);
    let view = view.map_err(|_| Error::changed_length())?;
    let leaf_shape = layout.leaf(place.leaf).shape();
    let in_order = axes.to_leaf(view, leaf_shape);
    Ok(in_order.iter().copied().collect())
}

/// A place's elements in the order of its leaf, as bytes: of integers and booleans.
pub(crate) fn other_elements_of(
    layout: &LayoutData,
    place: &Place,
    leaf: &LeafRef<'_, '_>,
) -> Result<Vec<u8>> {
    let bytes = leaf.bytes()?;
    let Some(axes) = &place.axes else {
        return Ok(bytes.into_owned());
    };
    // An axis map moves elements of any kind, and here one is a slice of as many bytes as it has:
    // so one function serves integers and booleans of every width.
    let elements: Vec<&[u8]> = bytes.chunks_exact(leaf.dtype.size()).collect();
    let shape = IxDyn(leaf.shape);
    let view = ArrayViewD::from_shape(shape, &elements);
    let view = view.map_err(|_| Error::changed_length())?;
    let leaf_shape = layout.leaf(place.leaf).shape();
    let in_order = axes.to_leaf(view, leaf_shape);
    Ok(in_order.iter().copied().flatten().copied().collect())
}

/// Reads a leaf of any float type, rounded to nearest where it does not fit.
pub(crate) fn read_floats<E>(leaf: &LeafRef<'_, '_>, out: &mut [E]) -> Result<()>
where
    E: FloatElement,
{
    if leaf.dtype == E::DTYPE {
        return leaf.read(out);
    }
    let bytes = leaf.bytes()?;
    let floats = Floats::from_bytes(leaf.dtype, &bytes).ok_or_else(Error::changed_leaf)?;
    if !floats.has_len(out.len()) {
        return Err(Error::changed_length());
    }
    slices::copy(floats, FloatsMut::of(out));
    Ok(())
}

/// Writes a leaf's elements at one of its places, rounded to nearest where its type does not hold
/// them.
pub(crate) fn write_floats<E: FlatElement>(
    layout: &LayoutData,
    place: &Place,
    leaf: LeafMut<'_, '_>,
    elements: &[E],
) -> Result<()> {
    let elements = match &place.axes {
        Some(axes) => {
            let leaf_shape = layout.leaf(place.leaf).shape();
            Cow::Owned(at_place(axes, leaf_shape, elements))
        }
        None => Cow::Borrowed(elements),
    };
    let from = Floats::of(&elements);
    match leaf.sink {
        // Converted straight into the tree. A writer takes bytes of the leaf's own type, for which
        // the elements have to be converted into a buffer first.
        Sink::Bytes(bytes) => {
            let to = FloatsMut::from_bytes(leaf.dtype, bytes).ok_or_else(Error::changed_leaf)?;
            if !to.has_len(elements.len()) {
                return Err(Error::changed_length());
            }
            slices::copy(from, to);
            Ok(())
        }
        sink => LeafMut { sink, ..leaf }.write_bytes(&from.to_bytes(leaf.dtype)),
    }
}

/// A leaf's elements in the order of one of its places.
pub(crate) fn at_place<E>(axes: &AxisMap, shape: &[usize], elements: &[E]) -> Vec<E>
where
    E: Copy,
{
    let leaf = ArrayViewD::from_shape(IxDyn(shape), elements);
    let leaf = leaf.expect("a leaf has as many elements as its shape");
    let place = axes.to_place(leaf);
    place.iter().copied().collect()
}
