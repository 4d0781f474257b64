//! Elements that are more than a number: `[f32; 3]`, a complex number, a struct of floats. An array
//! of them is one leaf, whose last axes are those of an element.
//!
//! ```text
//! Vec<[f32; 3]>, 7 points      shape [7, 3]       element 4:  [1, 1]
//! Array2<Complex<f64>>, 2 × 5  shape [2, 5, 2]    element 3:  [0, 1].im
//! Vec<Gaussian>, 7 of 4        shape [7, 4]       element 5:  [1].position[1]
//! ```
//!
//! Such an array is a leaf of numbers to all that walks trees: here it is cast to its numbers, and
//! new numbers are cast back. Both cost nothing, whatever the length.
//!
//! Two traits know of it. [`ArrayElement`] is what an element is, and what ndarray's arrays ask of
//! theirs. A `Vec<T>` takes any tree for its `T`, so it asks `T` itself whether a list of it is a
//! leaf, by the hidden methods of `Tree`: `with_elements`, `with_elements_mut` and
//! `rebuild_elements`. They are given the shape of the list, and each `[T; N]` adds its axis to the
//! shape before it asks its own `T`: so `Vec<[[f32; 2]; 3]>` is a leaf, and `Vec<[Vec<f32>; 2]>`,
//! where `Vec<f32>` says no, is a list of lists. A bound on `T` could not tell the two apart: that
//! would take one implementation for trees and one for elements, of one type.

use std::fmt::Write as _;
use std::marker::PhantomData;
use std::sync::Arc;
use std::{iter, slice};

use bytemuck::{Pod, Zeroable};

use super::axes::Shape;
use super::leaf::{LeafMut, LeafRef, Source};
use super::{Builder, Key, Visitor, VisitorMut};
use crate::element::Element;
use crate::error::Result;
use crate::memory;

/// What arrays may hold to be one leaf: a number, or several numbers of one type side by side.
///
/// Implemented for every [`Element`]; for arrays of what it is implemented for, `[f32; 3]` and
/// `[[f64; 2]; 2]`; with the feature `num-complex` for `Complex<f32>` and `Complex<f64>`; and, by
/// `#[derive(Tree)]` with `#[tree(element)]`, for a struct of floats of one's own, which is
/// `#[repr(C)]` and `bytemuck::Pod`. With `#[tree(element = f32)]` the struct may hold another
/// library's type.
///
/// `Vec`, `Box<[_]>`, `[_; N]` and ndarray's arrays of them are one leaf each. Its last axes are
/// those of an element: `[n, 3]` for `Vec<[f32; 3]>`, `[n, 2]` (real and imaginary part, as
/// PyTorch's `view_as_real` has it) for `Vec<Complex<f32>>`, and `[n, k]` for a struct of `k`
/// floats. Norms and optimisers see the numbers.
///
/// ```
/// use flatleaf::{ArrayElement, Layout, Tree, destructure};
/// use ndarray::Array2;
///
/// /// Points on a grid, in as many dimensions as an element has.
/// #[derive(Tree)]
/// struct Grid<E: ArrayElement> { points: Array2<E> }
///
/// let (flat, layout) = destructure(&Grid { points: Array2::from_elem((4, 2), [0.0_f32, 1.0, 2.0]) })?;
/// assert_eq!((layout.leaves()[0].shape(), flat.len()), (&[4, 2, 3][..], 24));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "an array of `{Self}` is no leaf",
    label = "no number, and not several of one type",
    note = "`#[derive(Tree)]` and `#[tree(element)]` make a `#[repr(C)]` and `bytemuck::Pod` struct of floats an element",
    note = "another library's `bytemuck::Pod` type is an element in a struct with `#[tree(element = f32)]`"
)]
pub trait ArrayElement: Copy + 'static {
    /// The type of the numbers, which is that of the leaf: `f32` for `[f32; 3]`.
    type Number: Element;

    /// The axes that an element adds to a shape; none for a number.
    #[doc(hidden)]
    const AXES: Option<&'static ElementAxes>;

    /// The fields of the last axis, if they have names.
    #[doc(hidden)]
    const FIELDS: Option<Fields>;

    #[doc(hidden)]
    fn numbers(elements: &[Self]) -> &[Self::Number];

    #[doc(hidden)]
    fn numbers_mut(elements: &mut [Self]) -> &mut [Self::Number];

    /// The numbers as elements; `None` if they lie where no element may, or are not as many.
    #[doc(hidden)]
    fn of_numbers(numbers: &[Self::Number]) -> Option<&[Self]>;

    #[doc(hidden)]
    fn of_numbers_mut(numbers: &mut [Self::Number]) -> Option<&mut [Self]>;

    /// Elements out of as many numbers as whole ones take, which is not nothing.
    #[doc(hidden)]
    fn from_numbers(numbers: Vec<Self::Number>) -> Vec<Self>;

    #[doc(hidden)]
    fn zero() -> Self;

    /// Adds the fields of an element by this name, of which there are as many as `shape` has.
    #[doc(hidden)]
    fn add_fields(name: String, shape: Vec<usize>, fields: &mut Vec<ElementField>);
}

/// An axis of an element, and those within it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct ElementAxes {
    pub len: usize,
    pub inner: Option<&'static ElementAxes>,
}

/// A function that lists the fields of an element.
#[doc(hidden)]
pub type Fields = fn() -> Vec<ElementField>;

/// Numbers of an element that have one name: `position`, of shape `[3]`.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementField {
    pub name: String,
    pub shape: Vec<usize>,
}

/// The fields of a leaf; `None` if its numbers have no names. Nearly no leaf has any, and each pays
/// for the size of this.
pub(crate) type LeafFields = Option<Arc<Vec<ElementField>>>;

impl ElementField {
    /// One number of this name.
    #[cfg(feature = "safetensors")]
    pub(crate) fn number(name: &str) -> ElementField {
        ElementField {
            name: name.to_owned(),
            shape: Vec::new(),
        }
    }

    /// How many numbers it has; `None` if none could be as many.
    pub(crate) fn count(&self) -> Option<usize> {
        let mut lengths = self.shape.iter();
        lengths.try_fold(1_usize, |count, &len| count.checked_mul(len))
    }

    /// What one of its numbers is called, as Rust writes it.
    pub(crate) fn name_of(&self, number: usize) -> String {
        let mut rest = number;
        let mut name = self.name.clone();
        let mut position = self.shape.clone();
        for axis in position.iter_mut().rev() {
            (rest, *axis) = (rest / *axis, rest % *axis);
        }
        for index in position {
            let _ = write!(name, "[{index}]");
        }
        name
    }
}

/// The fields of a complex number.
#[cfg(feature = "safetensors")]
pub(crate) fn complex_fields() -> Vec<ElementField> {
    ["re", "im"].map(ElementField::number).into()
}

/// The lengths of an element's axes.
pub(crate) fn lengths(axes: Option<&'static ElementAxes>) -> impl Iterator<Item = usize> {
    iter::successors(axes, |axes| axes.inner).map(|axes| axes.len)
}

impl<E: Element> ArrayElement for E {
    type Number = E;

    const AXES: Option<&'static ElementAxes> = None;
    const FIELDS: Option<Fields> = None;

    #[inline]
    fn numbers(elements: &[E]) -> &[E] {
        elements
    }

    #[inline]
    fn numbers_mut(elements: &mut [E]) -> &mut [E] {
        elements
    }

    #[inline]
    fn of_numbers(numbers: &[E]) -> Option<&[E]> {
        Some(numbers)
    }

    #[inline]
    fn of_numbers_mut(numbers: &mut [E]) -> Option<&mut [E]> {
        Some(numbers)
    }

    #[inline]
    fn from_numbers(numbers: Vec<E>) -> Vec<E> {
        numbers
    }

    fn zero() -> E {
        E::default()
    }

    fn add_fields(name: String, shape: Vec<usize>, fields: &mut Vec<ElementField>) {
        fields.push(ElementField { name, shape });
    }
}

impl<E: ArrayElement, const N: usize> ArrayElement for [E; N] {
    type Number = E::Number;

    const AXES: Option<&'static ElementAxes> = Some(&ElementAxes {
        len: N,
        inner: E::AXES,
    });
    const FIELDS: Option<Fields> = E::FIELDS;

    #[inline]
    fn numbers(elements: &[Self]) -> &[E::Number] {
        E::numbers(elements.as_flattened())
    }

    #[inline]
    fn numbers_mut(elements: &mut [Self]) -> &mut [E::Number] {
        E::numbers_mut(elements.as_flattened_mut())
    }

    #[inline]
    fn of_numbers(numbers: &[E::Number]) -> Option<&[Self]> {
        let elements = E::of_numbers(numbers)?;
        if N == 0 {
            return None;
        }
        let (arrays, rest) = elements.as_chunks();
        rest.is_empty().then_some(arrays)
    }

    #[inline]
    fn of_numbers_mut(numbers: &mut [E::Number]) -> Option<&mut [Self]> {
        let elements = E::of_numbers_mut(numbers)?;
        if N == 0 {
            return None;
        }
        let (arrays, rest) = elements.as_chunks_mut();
        rest.is_empty().then_some(arrays)
    }

    #[inline]
    fn from_numbers(numbers: Vec<E::Number>) -> Vec<Self> {
        let elements = E::from_numbers(numbers);
        let len = elements.len().checked_div(N).unwrap_or(0);
        memory::into_arrays(elements, len)
    }

    fn zero() -> Self {
        [E::zero(); N]
    }

    fn add_fields(name: String, mut shape: Vec<usize>, fields: &mut Vec<ElementField>) {
        if E::FIELDS.is_none() {
            shape.push(N);
            return E::add_fields(name, shape, fields);
        }
        // Fields of structs have names of their own: `corner[1].position`.
        for index in 0..N {
            E::add_fields(format!("{name}[{index}]"), shape.clone(), fields);
        }
    }
}

/// The axes that an element adds.
pub(crate) fn axes_of<E: ArrayElement>() -> Shape {
    lengths(E::AXES).collect()
}

/// Calls with the shape of a leaf: that of its array, and the axes of an element behind it.
#[inline]
pub(crate) fn with_shape<E: ArrayElement, R>(
    array: &[usize],
    call: impl FnOnce(&[usize]) -> R,
) -> R {
    if E::AXES.is_none() {
        return call(array);
    }
    let mut shape = Shape::from_slice(array);
    shape.extend(lengths(E::AXES));
    call(&shape)
}

/// Shows elements in row-major order, an array of this shape, as the leaf that they are.
#[doc(hidden)]
#[inline]
pub fn with_leaf<'a, E: ArrayElement, R>(
    elements: &'a [E],
    array: &[usize],
    visit: impl FnOnce(LeafRef<'_, 'a>) -> R,
) -> R {
    with_shape::<E, R>(array, |shape| {
        let bytes = bytemuck::cast_slice(E::numbers(elements));
        visit(leaf_of_elements::<E>(shape, Source::Borrowed(bytes)))
    })
}

/// A leaf of elements, of the whole shape.
#[inline]
pub(crate) fn leaf_of_elements<'call, 'a, E: ArrayElement>(
    shape: &'call [usize],
    source: Source<'call, 'a>,
) -> LeafRef<'call, 'a> {
    LeafRef::new(E::Number::DTYPE, shape, source).with_fields(E::FIELDS)
}

/// Shows elements in row-major order as the leaf that is to be written.
#[doc(hidden)]
#[inline]
pub fn with_leaf_mut<'a, E: ArrayElement, R>(
    elements: &'a mut [E],
    array: &[usize],
    visit: impl FnOnce(LeafMut<'_, 'a>) -> R,
) -> R {
    with_shape::<E, R>(array, |shape| {
        visit(LeafMut {
            dtype: E::Number::DTYPE,
            shape,
            sink: E::Number::sink(E::numbers_mut(elements)),
        })
    })
}

/// The new elements of the leaf here, an array of this shape in row-major order.
///
/// # Errors
/// `is_unstable`: a leaf of another shape or type than the first visit saw.
#[doc(hidden)]
pub fn rebuild<E: ArrayElement>(
    old: &[E],
    array: &[usize],
    builder: &mut Builder<'_>,
) -> Result<Vec<E>> {
    let new = with_shape::<E, _>(array, |shape| builder.new_elements(shape, None))?;
    Ok(match new {
        Some(numbers) if size_of::<E>() > 0 => E::from_numbers(numbers),
        // Elements without numbers are all alike.
        _ => old.to_vec(),
    })
}

/// What an element does that is `Pod`: casts, checked by the compiler.
#[doc(hidden)]
pub mod pod {
    use super::*;

    // The one axis of an element `P` of numbers `E`.
    pub struct Axes<P, E>(PhantomData<(P, E)>);

    impl<P, E> Axes<P, E> {
        // Refuses at compile time what is no whole number of aligned numbers.
        pub const AXES: ElementAxes = {
            assert!(
                size_of::<P>() > 0 && size_of::<P>().is_multiple_of(size_of::<E>()),
                "the size of an element is that of several numbers: this is no multiple of one"
            );
            assert!(
                align_of::<P>() >= align_of::<E>(),
                "an element lies where its numbers may: this one is aligned to less"
            );
            ElementAxes {
                len: size_of::<P>() / size_of::<E>(),
                inner: None,
            }
        };
    }

    /// What a struct has to be for its casts to be safe.
    #[doc(hidden)]
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is no element: it is not `bytemuck::Pod`",
        label = "not plain old data",
        note = "derive `bytemuck::Pod` and `bytemuck::Zeroable`, with the feature `derive` of bytemuck"
    )]
    pub trait PodStruct: Pod {}

    #[diagnostic::do_not_recommend]
    impl<P: Pod> PodStruct for P {}

    // Refuses at compile time an element that is larger than its fields together.
    pub const fn check_sizes<P>(fields: usize) {
        assert!(
            size_of::<P>() == fields,
            "an element consists of numbers: this one has padding between or behind its fields"
        );
    }

    pub fn fields<E: ArrayElement>() -> Vec<ElementField> {
        let mut fields = Vec::new();
        E::add_fields(String::new(), Vec::new(), &mut fields);
        fields
    }

    // Adds the fields of a field: `position` of `gaussian` is `gaussian.position`.
    pub fn add_field<E, N>(outer: &str, name: &str, fields: &mut Vec<ElementField>)
    where
        E: ArrayElement<Number = N>,
        N: Element,
    {
        let name = if outer.is_empty() {
            name.to_owned()
        } else {
            format!("{outer}.{name}")
        };
        E::add_fields(name, Vec::new(), fields);
    }

    // Adds numbers that have no names of their own, as one more axis.
    pub fn add_unnamed<E: ArrayElement>(
        name: String,
        mut shape: Vec<usize>,
        fields: &mut Vec<ElementField>,
    ) {
        shape.extend(lengths(E::AXES));
        fields.push(ElementField { name, shape });
    }

    #[inline]
    pub fn numbers<P: Pod, E: Pod>(elements: &[P]) -> &[E] {
        bytemuck::cast_slice(elements)
    }

    #[inline]
    pub fn numbers_mut<P: Pod, E: Pod>(elements: &mut [P]) -> &mut [E] {
        bytemuck::cast_slice_mut(elements)
    }

    #[inline]
    pub fn of_numbers<P: Pod, E: Pod>(numbers: &[E]) -> Option<&[P]> {
        bytemuck::try_cast_slice(numbers).ok()
    }

    #[inline]
    pub fn of_numbers_mut<P, E>(numbers: &mut [E]) -> Option<&mut [P]>
    where
        P: Pod,
        E: Pod,
    {
        bytemuck::try_cast_slice_mut(numbers).ok()
    }

    pub fn from_numbers<P: Pod, E: Pod>(numbers: Vec<E>) -> Vec<P> {
        // What is aligned to more than its numbers has to be copied.
        bytemuck::try_cast_vec(numbers).unwrap_or_else(|(_, numbers)| {
            let mut elements = memory::zeroed(size_of_val(&numbers[..]) / size_of::<P>());
            let out = bytemuck::cast_slice_mut(&mut elements);
            out.copy_from_slice(&numbers);
            elements
        })
    }

    pub fn zero<P: Zeroable>() -> P {
        P::zeroed()
    }
}

/// What a tree does that is one element: a leaf of the element's axes.
#[doc(hidden)]
pub mod alone {
    use super::*;

    pub fn visit<'a, E>(element: &'a E, visitor: &mut dyn Visitor<'a>) -> Result<()>
    where
        E: ArrayElement,
    {
        with_leaf(slice::from_ref(element), &[], |leaf| visitor.leaf(leaf))
    }

    #[inline]
    pub fn visit_at<'a, E: ArrayElement>(
        element: &'a E,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        with_leaf(slice::from_ref(element), &[], |leaf| {
            visitor.leaf_at(key, frozen, leaf)
        })
    }

    pub fn visit_mut<'a, E: ArrayElement>(
        element: &'a mut E,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        with_leaf_mut(slice::from_mut(element), &[], |leaf| visitor.leaf(leaf))
    }

    #[inline]
    pub fn visit_mut_at<'a, E: ArrayElement>(
        element: &'a mut E,
        key: Key<'_>,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        with_leaf_mut(slice::from_mut(element), &[], |leaf| {
            visitor.leaf_at(key, leaf)
        })
    }

    pub fn rebuild<E>(element: &E, builder: &mut Builder<'_>) -> Result<E>
    where
        E: ArrayElement,
    {
        // A leaf of an element's axes has one element.
        let list = slice::from_ref(element);
        let rebuilt = super::rebuild(list, &[], builder)?;
        Ok(rebuilt[0])
    }
}
