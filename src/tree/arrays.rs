//! ndarray's arrays: one leaf each, in logical row-major order whatever their memory layout.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::slice;

use bytemuck::checked;
use ndarray::{
    ArcArray, Array, ArrayRef, ArrayView, ArrayViewMut, Axis, CowArray, Dimension, IxDyn,
};
use smallvec::SmallVec;

use super::elements::{self, ArrayElement};
use super::identity::{Identity, Shared};
use super::leaf::{LeafMut, LeafRef, Source, row_major};
use super::{Builder, Key, Tree, Visitor, VisitorMut};
use crate::element::{Element, ReadBytes, Sink, WriteBytes, to_elements};
use crate::error::{Error, Result};

/// Elements that do not lie in row-major order.
struct Strided<A>(A);

impl<E: ArrayElement, D: Dimension> ReadBytes for Strided<&ArrayRef<E, D>> {
    fn read_bytes(&self, out: &mut [u8]) -> Result<()> {
        match E::Number::overwritable(out).and_then(E::of_numbers_mut) {
            Some(out) => ArrayViewMut::from_shape(self.0.raw_dim(), out)
                .map_err(changed_shape)?
                .assign(self.0),
            // Booleans may not be seen as bytes to be written, nor bytes that are not aligned as
            // elements: they go one by one.
            None => {
                let elements = self.0.iter().map(slice::from_ref);
                let bytes = elements.flat_map(|element| bytes_of(element));
                out.iter_mut()
                    .zip(bytes)
                    .for_each(|(out, byte)| *out = *byte);
            }
        }
        Ok(())
    }

    fn geometry(&self) -> Option<(usize, Vec<isize>)> {
        let array = self.0;
        // In numbers: an element may be several, which then are axes of their own.
        let inner = row_major(&elements::axes_of::<E>());
        let numbers = (size_of::<E>() / size_of::<E::Number>()) as isize;
        let own = array.strides().iter();
        let own = own.map(|stride| stride * numbers);
        let strides = own.chain(inner).collect();
        Some((array.as_ptr() as usize, strides))
    }
}

impl<E: ArrayElement, D: Dimension> WriteBytes for Strided<&mut ArrayRef<E, D>> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        // Elements without numbers are what they were.
        if size_of::<E>() == 0 {
            return Ok(());
        }
        let numbers: Cow<'_, [E::Number]> = match checked::try_cast_slice(values) {
            Ok(numbers) => Cow::Borrowed(numbers),
            // The bytes of a file need not be aligned for its elements.
            Err(_) => Cow::Owned(to_elements(values)),
        };
        let elements: Cow<'_, [E]> = match E::of_numbers(&numbers) {
            Some(elements) => Cow::Borrowed(elements),
            None => Cow::Owned(E::from_numbers(numbers.to_vec())),
        };
        let shape = self.0.raw_dim();
        let values = ArrayView::from_shape(shape, &elements).map_err(changed_shape)?;
        self.0.assign(&values);
        Ok(())
    }
}

fn bytes_of<E: ArrayElement>(elements: &[E]) -> &[u8] {
    bytemuck::cast_slice(E::numbers(elements))
}

fn changed_shape(_: ndarray::ShapeError) -> Error {
    Error::unstable("an array that changed its shape between two visits")
}

#[inline]
fn with_leaf<'a, E, D, R>(array: &'a ArrayRef<E, D>, visit: impl FnOnce(LeafRef<'_, 'a>) -> R) -> R
where
    E: ArrayElement,
    D: Dimension,
{
    elements::with_shape::<E, R>(array.shape(), |shape| {
        let strided = Strided(array);
        let source = match array.as_slice() {
            Some(elements) => Source::Borrowed(bytes_of(elements)),
            None => Source::Reader(&strided),
        };
        visit(elements::leaf_of_elements::<E>(shape, source))
    })
}

/// An array whose memory may be another's too.
fn visit_view<'a, E, D>(array: &'a ArrayRef<E, D>, visitor: &mut dyn Visitor<'a>) -> Result<()>
where
    E: ArrayElement,
    D: Dimension,
{
    with_leaf(array, |leaf| visitor.leaf(leaf.may_overlap()))
}

fn visit_mut<'a, E, D>(
    array: &'a mut ArrayRef<E, D>,
    visitor: &mut dyn VisitorMut<'a>,
) -> Result<()>
where
    E: ArrayElement,
    D: Dimension,
{
    with_leaf_mut(array, |leaf| visitor.leaf(leaf))
}

#[inline]
fn with_leaf_mut<'a, E, D>(
    array: &'a mut ArrayRef<E, D>,
    visit: impl FnOnce(LeafMut<'_, 'a>) -> Result<()>,
) -> Result<()>
where
    E: ArrayElement,
    D: Dimension,
{
    let dim = array.raw_dim();
    // A slice where there is one: it is written by whoever is given it, all threads together if it
    // is large, and a callback by this one.
    if !array.is_standard_layout() {
        return elements::with_shape::<E, _>(dim.slice(), |shape| {
            visit(LeafMut {
                dtype: E::Number::DTYPE,
                shape,
                sink: Sink::Writer(&mut Strided(array)),
            })
        });
    }
    let elements = array
        .as_slice_mut()
        .ok_or_else(|| Error::unstable("an array that changed its layout"))?;
    elements::with_leaf_mut(elements, dim.slice(), visit)
}

/// The axes from the longest stride to the shortest; `None` if that is row-major order.
///
/// A column-major 2×3 matrix has the strides `[1, 2]`, and so the order `[1, 0]`.
fn axis_order<E, D: Dimension>(array: &ArrayRef<E, D>) -> Option<SmallVec<[usize; 4]>> {
    if array.is_standard_layout() {
        return None;
    }
    let mut axes: SmallVec<[usize; 4]> = (0..array.ndim()).collect();
    // Which way an axis runs does not matter: a new array runs along all of them forwards.
    let stride = |axis: usize| array.stride_of(Axis(axis)).unsigned_abs();
    axes.sort_by_key(|&axis| Reverse(stride(axis)));
    Some(axes)
}

/// The new array of the leaf here, its axes in memory as the old one's; `None` if it keeps the old
/// elements.
fn rebuild<E, D>(array: &ArrayRef<E, D>, builder: &mut Builder<'_>) -> Result<Option<Array<E, D>>>
where
    E: ArrayElement,
    D: Dimension,
{
    let order = axis_order(array);
    let new = elements::with_shape::<E, _>(array.shape(), |shape| {
        builder.new_elements(shape, order.as_deref())
    });
    new_array(array, order.as_deref(), new?)
}

/// `None` if there are no new numbers.
fn new_array<E, D>(
    array: &ArrayRef<E, D>,
    order: Option<&[usize]>,
    new: Option<Vec<E::Number>>,
) -> Result<Option<Array<E, D>>>
where
    E: ArrayElement,
    D: Dimension,
{
    match new {
        Some(numbers) if size_of::<E>() > 0 => {
            arrange(array, order, E::from_numbers(numbers)).map(Some)
        }
        _ => Ok(None),
    }
}

/// A copy, its axes in memory as the old one's.
fn copy_of<E, D>(array: &ArrayRef<E, D>) -> Result<Array<E, D>>
where
    E: ArrayElement,
    D: Dimension,
{
    let Some(order) = axis_order(array) else {
        return Ok(array.to_owned());
    };
    let elements = array
        .view()
        .into_dyn()
        .permuted_axes(&order[..])
        .iter()
        .copied()
        .collect();
    arrange(array, Some(&order), elements)
}

fn arrange<E, D>(
    array: &ArrayRef<E, D>,
    order: Option<&[usize]>,
    elements: Vec<E>,
) -> Result<Array<E, D>>
where
    E: ArrayElement,
    D: Dimension,
{
    let Some(order) = order else {
        return Array::from_shape_vec(array.raw_dim(), elements).map_err(changed_shape);
    };
    // The elements come in the order of memory: an array with its axes in that order is row-major,
    // and turning the axes back moves no element.
    let mut shape = array.raw_dim();
    let mut back = D::zeros(array.ndim());
    for (position, &axis) in order.iter().enumerate() {
        shape[position] = array.len_of(Axis(axis));
        back[axis] = position;
    }
    Ok(Array::from_shape_vec(shape, elements)
        .map_err(changed_shape)?
        .permuted_axes(back))
}

impl<E: ArrayElement, D: Dimension> Tree for Array<E, D> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        with_leaf(self, |leaf| visitor.leaf(leaf))
    }

    #[inline]
    fn visit_at<'a>(
        &'a self,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        with_leaf(self, |leaf| visitor.leaf_at(key, frozen, leaf))
    }

    #[inline]
    fn visit_mut_at<'a>(
        &'a mut self,
        key: Key<'_>,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        with_leaf_mut(self, |leaf| visitor.leaf_at(key, leaf))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visit_mut(self, visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        rebuild(self, builder)?.map_or_else(|| copy_of(self), Ok)
    }

    fn rebuild_at(&self, key: Key<'_>, builder: &mut Builder<'_>) -> Result<Self> {
        let order = axis_order(self);
        let order = order.as_deref();
        let new = elements::with_shape::<E, _>(self.shape(), |shape| {
            builder.new_child_elements(key, shape, order)
        })?;
        match new_array(self, order, new)? {
            Some(array) => Ok(array),
            None => copy_of(self),
        }
    }

    crate::rebuild_object!();
}

/// Views of one allocation are one parameter if one is an axis permutation or reversal of the
/// other. A tie stays one allocation; other handles outside the tree keep the old elements.
impl<E: ArrayElement, D: Dimension> Tree for ArcArray<E, D> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visit_view(self, visitor)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visitor.shared(self)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        // A tie that keeps its elements keeps its allocation.
        if let Some(tied) = builder.tied_array(|builder| tied_leaf(self, builder))? {
            return tied.into_dimensionality().map_err(changed_shape);
        }
        let new = rebuild(self, builder)?;
        Ok(new.map_or_else(|| self.clone(), Array::into_shared))
    }

    crate::rebuild_object!();
}

/// The new array of a tied leaf, as its first place shows it, its axes in memory as the array here
/// has them.
fn tied_leaf<E, D>(
    array: &ArcArray<E, D>,
    builder: &mut Builder<'_>,
) -> Result<Option<ArcArray<E, IxDyn>>>
where
    E: ArrayElement,
    D: Dimension,
{
    let Some(new) = rebuild(array, builder)? else {
        return Ok(None);
    };
    // Ties of one parameter may have other numbers of axes, so what is kept has any number.
    let new = new.into_shared().into_dyn();
    Ok(Some(new))
}

impl<E: ArrayElement, D: Dimension> Shared for ArcArray<E, D> {
    fn identity(&self) -> Identity {
        Identity::address(self.as_ptr())
    }

    fn is_unique(&mut self) -> bool {
        ArcArray::is_unique(self)
    }

    fn visit_unique<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visit_mut(self, visitor)
    }

    fn visit_content<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.visit(visitor)
    }

    fn prepare(&self, _builder: &mut Builder<'_>) -> Result<()> {
        // An array whose shape has been checked can be made anew: nothing is left to fail.
        Ok(())
    }

    fn renew(&mut self, builder: &mut Builder<'_>) -> Result<()> {
        *self = Tree::rebuild(&*self, builder)?;
        Ok(())
    }
}

const A_VIEW: &str = "a view";

macro_rules! read_only_arrays {
    ($($array:ident),*) => {$(
        /// For reading only.
        impl<'v, E: ArrayElement, D: Dimension> Tree for $array<'v, E, D> {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.read_only();
                visit_view(self, visitor)
            }

            fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                Ok(())
            }

            fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                if builder.changes() { Err(Error::read_only(A_VIEW)) } else { Ok(self.clone()) }
            }
        }
    )*};
}

read_only_arrays!(ArrayView, CowArray);

/// Written through; a new tree cannot be made of it.
impl<E: ArrayElement, D: Dimension> Tree for ArrayViewMut<'_, E, D> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visit_view(self, visitor)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visit_mut(self, visitor)
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Err(Error::read_only(
            "a new tree that would hold a mutable view",
        ))
    }
}
