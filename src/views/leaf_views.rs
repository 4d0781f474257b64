//! The leaves of a view that reads, one after the other.

use bytemuck::checked;
use ndarray::{ArrayView, ArrayViewD, Dimension, IxDyn};

use super::Viewable;
use crate::element::Element as _;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::tree::ArrayElement;
use crate::tree::axes::AxisMap;
use crate::tree::elements;
use crate::tree::stack::{self, MAX_LEVELS};

/// Gives the leaves of a view that reads, in the order of [`Tree::visit`](crate::Tree::visit): what
/// an implementation of [`Viewable`] by hand takes its arrays from.
///
/// ```
/// use flatleaf::implementing::{Branches, Builder, Key, LeafViews, LeafViewsMut, Visitor, VisitorMut};
/// use flatleaf::{ArrayMut, Result, Tree, Viewable, destructure};
/// use ndarray::{Array1, ArrayView1, Ix1, arr1};
///
/// struct Scale(Array1<f32>);
///
/// impl Tree for Scale {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.child(Key::Name("scale"), &self.0)
///     }
///     // and `visit_mut` and `rebuild`
///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///     #     visitor.child(Key::Name("scale"), &mut self.0)
///     # }
///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///     #     Ok(Scale(builder.child(Key::Name("scale"), &self.0)?))
///     # }
/// }
///
/// impl Viewable for Scale {
///     type View<'v> = ArrayView1<'v, f32>;
///     type ViewMut<'v> = ArrayMut<'v, f32, Ix1>;
///     type Items = Branches;
///
///     fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
///         leaves.child(&self.0)
///     }
///
///     fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
///         leaves.child(&self.0)
///     }
/// }
///
/// let scale = Scale(arr1(&[1.0, 2.0]));
/// let (_, layout) = destructure(&scale)?;
/// assert_eq!(layout.view_tree(&scale, &[3.0_f32, 4.0])?, arr1(&[3.0, 4.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct LeafViews<'v> {
    /// `None` shows the model's own arrays.
    vector: Option<Vector<'v>>,
    levels: usize,
}

struct Vector<'v> {
    layout: Layout,
    bytes: &'v [u8],
    /// Of each leaf in the order of the walk; `None` if they are those of the layout, in order.
    places: Option<Vec<u32>>,
    next: usize,
}

impl<'v> LeafViews<'v> {
    pub(super) fn of_model() -> Self {
        LeafViews {
            vector: None,
            levels: 0,
        }
    }

    pub(super) fn of_vector(layout: &Layout, bytes: &'v [u8], places: Option<Vec<u32>>) -> Self {
        LeafViews {
            vector: Some(Vector {
                layout: layout.clone(),
                bytes,
                places,
                next: 0,
            }),
            levels: 0,
        }
    }

    /// The view of a child.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels. `is_unstable`: the child has other leaves than its
    /// `visit` has shown.
    ///
    /// ```
    /// use flatleaf::implementing::LeafViews;
    /// use flatleaf::{Result, Viewable};
    ///
    /// /// How a container makes the view of what is in it.
    /// fn pair<'v, T: Viewable>(pair: &'v (T, T), leaves: &mut LeafViews<'v>) -> Result<[T::View<'v>; 2]> {
    ///     Ok([leaves.child(&pair.0)?, leaves.child(&pair.1)?])
    /// }
    /// ```
    #[inline]
    pub fn child<T: Viewable>(&mut self, tree: &'v T) -> Result<T::View<'v>> {
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        let view = stack::with_stack_space(self.levels, || tree.view_from(self))?;
        self.levels -= 1;
        Ok(view)
    }

    /// The next leaf: over the vector if it is trainable, over the model's own array otherwise.
    #[inline]
    pub(super) fn array<E, D>(&mut self, own: ArrayView<'v, E, D>) -> Result<ArrayView<'v, E, D>>
    where
        E: ArrayElement,
        D: Dimension,
    {
        let Some(vector) = &mut self.vector else {
            return Ok(own);
        };
        match vector.next::<E>()? {
            None => Ok(own),
            Some((elements, None)) => {
                ArrayView::from_shape(own.raw_dim(), elements).map_err(other_leaves)
            }
            Some((elements, Some(turn))) => turn.view(elements),
        }
    }

    /// The next leaf, which is one element.
    #[inline]
    pub(super) fn element<E: ArrayElement>(&mut self, own: &'v E) -> Result<&'v E> {
        let Some(vector) = &mut self.vector else {
            return Ok(own);
        };
        match vector.next::<E>()? {
            None => Ok(own),
            Some((elements, _)) => elements.first().ok_or_else(Error::other_leaves_in_view),
        }
    }

    /// # Errors
    /// Leaves that the view has not taken.
    pub(super) fn finish(self) -> Result<()> {
        match self.vector {
            Some(vector) if vector.next < vector.count() => Err(Error::other_leaves_in_view()),
            _ => Ok(()),
        }
    }
}

/// The elements of a leaf, and how its place is turned if it is.
type Turnable<'v, 't, E> = (&'v [E], Option<Turn<'t>>);

impl<'v> Vector<'v> {
    fn count(&self) -> usize {
        let listed = self.places.as_ref().map(Vec::len);
        listed.unwrap_or(self.layout.inner.places.len())
    }

    /// Which of the layout's places comes next.
    #[inline]
    fn next_index(&self) -> Option<usize> {
        let Some(places) = &self.places else {
            return Some(self.next);
        };
        let place = places.get(self.next)?;
        Some(*place as usize)
    }

    #[inline]
    fn next<E: ArrayElement>(&mut self) -> Result<Option<Turnable<'v, '_, E>>> {
        let Some(index) = self.next_index() else {
            return Err(Error::other_leaves_in_view());
        };
        let place = self.layout.inner.places.get(index);
        let place = place.ok_or_else(Error::other_leaves_in_view)?;
        self.next += 1;
        // Elements without numbers are nowhere in the vector.
        if !place.leaf.trainable || size_of::<E>() == 0 {
            return Ok(None);
        }
        if place.dtype != E::Number::DTYPE {
            return Err(Error::other_leaves_in_view());
        }
        let number = size_of::<E::Number>();
        let start = place.start * number;
        let size = place.len * number;
        let bytes = &self.bytes[start..][..size];
        let numbers = checked::cast_slice(bytes);
        let elements = aligned_alike::<E, _>(E::of_numbers(numbers))?;
        let turn = place.axes.as_deref().map(|axes| Turn {
            axes,
            leaf: self.layout.inner.leaf(place.leaf).shape(),
        });
        Ok(Some((elements, turn)))
    }
}

/// Elements where numbers lie, of which some are refused at compile time.
///
/// # Errors
/// Numbers that are no whole elements.
#[inline]
pub(super) fn aligned_alike<E: ArrayElement, S>(elements: Option<S>) -> Result<S> {
    const {
        assert!(
            align_of::<E>() == align_of::<E::Number>(),
            "elements that are aligned to more than their numbers have no view: the numbers of a \
             flat vector lie closer"
        );
    }
    elements.ok_or_else(Error::other_leaves_in_view)
}

/// How a place shows its leaf, if not as it is.
#[derive(Clone, Copy)]
pub(super) struct Turn<'t> {
    pub(super) axes: &'t AxisMap,
    /// The leaf's shape.
    pub(super) leaf: &'t [usize],
}

impl<'t> Turn<'t> {
    /// The shape and the map of an array of elements, without the axes of an element.
    ///
    /// # Errors
    /// A place that shows the axes of an element in another order.
    pub(super) fn of_elements<E: ArrayElement>(self) -> Result<(&'t [usize], AxisMap)> {
        let inner = elements::axes_of::<E>();
        let shape = self.leaf.strip_suffix(&inner[..]);
        let axes = self.axes.without_last(&inner);
        let of_elements = shape.zip(axes);
        of_elements.ok_or_else(Error::other_leaves_in_view)
    }

    // Few leaves are turned, and the code for all others is faster without this in it.
    #[inline(never)]
    fn view<'v, E, D>(self, elements: &'v [E]) -> Result<ArrayView<'v, E, D>>
    where
        E: ArrayElement,
        D: Dimension,
    {
        let (shape, axes) = self.of_elements::<E>()?;
        let leaf = ArrayViewD::from_shape(IxDyn(shape), elements).map_err(other_leaves)?;
        let place = axes.to_place(leaf);
        place.into_dimensionality().map_err(other_leaves)
    }
}

#[cold]
pub(super) fn other_leaves(_: ndarray::ShapeError) -> Error {
    Error::other_leaves_in_view()
}
