//! A leaf as a visitor meets it: its shape, its element type, and a way to its numbers.
//!
//! Numbers come as a slice that lives as long as the tree is borrowed (`'a`), or, where there is no
//! such slice (a strided array, a value behind a guard, a tensor on a device), through a callback
//! that is good for this call only (`'call`). Slices travel as bytes beside a [`Dtype`], so that
//! one visitor serves every element type.

use std::borrow::Cow;
use std::marker::PhantomData;

use bytemuck::checked;

use super::elements::Fields;
use super::identity::Identity;
use crate::element::{Dtype, Element, ReadBytes, Sink, WriteBytes, to_elements};
use crate::error::{Error, Result};
use crate::memory;
use crate::slices::Floats;

/// A leaf that can be read: one array of numbers, with its shape, its element type and a way to its
/// elements, in row-major order.
///
/// An implementation of [`Tree::visit`](crate::Tree::visit) makes one and hands it to the visitor.
/// The elements are a slice ([`from_slice`](LeafRef::from_slice)), which is not copied, or come out
/// of a callback ([`from_reader`](LeafRef::from_reader)).
///
/// ```
/// use flatleaf::{destructure, LeafRef, Result, Tree, Visitor};
/// # use flatleaf::{Builder, LeafMut, VisitorMut};
///
/// /// Two rows of a matrix that is kept as one list.
/// struct Rows { elements: Vec<f32> }
///
/// impl Tree for Rows {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.leaf(LeafRef::from_slice(&[2, self.elements.len() / 2], &self.elements))
///     }
///     // and `visit_mut` and `rebuild`
///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///     #     visitor.leaf(LeafMut::from_slice(&[2, self.elements.len() / 2], &mut self.elements))
///     # }
///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///     #     let elements = builder.leaf(LeafRef::from_slice(&[2, self.elements.len() / 2], &self.elements))?;
///     #     Ok(Rows { elements })
///     # }
/// }
///
/// let (flat, layout) = destructure(&Rows { elements: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] })?;
/// assert_eq!((flat.len(), layout.leaves()[0].shape()), (6, &[2, 3][..]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct LeafRef<'call, 'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'call [usize],
    pub(crate) source: Source<'call, 'a>,
    pub(crate) identity: Option<&'call Identity>,
    /// Whether its memory may be another leaf's too, even in a tree that owns its leaves.
    pub(crate) may_overlap: bool,
    /// What the numbers along the last axis are called, if they have names.
    pub(crate) fields: Option<Fields>,
}

#[derive(Clone, Copy)]
pub(crate) enum Source<'call, 'a> {
    /// Row-major elements, as bytes, for as long as the tree is borrowed.
    Borrowed(&'a [u8]),
    /// Row-major elements, as bytes, for this call only: they lie behind a guard.
    Guarded(&'call [u8]),
    Reader(&'call dyn ReadBytes),
}

impl<'call, 'a> LeafRef<'call, 'a> {
    /// A leaf whose elements lie in one slice, in row-major order. The slice lives as long as the
    /// tree is borrowed and is copied once, into the flat vector; a shape of no axes is a 0-d leaf
    /// of one element.
    ///
    /// # Panics
    /// If `shape` does not multiply to the length of the slice.
    ///
    /// ```
    /// use flatleaf::{Dtype, LeafRef};
    ///
    /// let leaf = LeafRef::from_slice(&[2, 1], &[1.0_f64, 2.0]);
    /// assert_eq!((leaf.shape(), leaf.dtype()), (&[2, 1][..], Dtype::F64));
    /// ```
    pub fn from_slice<E: Element>(shape: &'call [usize], elements: &'a [E]) -> Self {
        check_len(shape, elements.len());
        Self::new(
            E::DTYPE,
            shape,
            Source::Borrowed(bytemuck::cast_slice(elements)),
        )
    }

    /// A leaf that is read through a callback: it fills a slice of as many elements as `shape` has,
    /// in row-major order.
    ///
    /// An error of the callback is the operation's, with the path of the leaf.
    ///
    /// ```
    /// use flatleaf::{destructure, LeafRef, Reader, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Quantised { scale: f32, codes: Vec<i8> }
    ///
    /// impl Tree for Quantised {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         let reader = Reader::new(|out: &mut [f32]| {
    ///             out.iter_mut().zip(&self.codes).for_each(|(x, code)| *x = self.scale * f32::from(*code));
    ///             Ok(())
    ///         });
    ///         visitor.leaf(LeafRef::from_reader(&[self.codes.len()], &reader))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("for reading only")) }
    /// }
    ///
    /// let (flat, _) = destructure(&Quantised { scale: 0.5, codes: vec![2, -3] })?;
    /// assert_eq!(flat, [1.0, -1.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn from_reader<E: Element, F>(shape: &'call [usize], reader: &'call Reader<E, F>) -> Self
    where
        F: Fn(&mut [E]) -> Result<()>,
    {
        Self::new(E::DTYPE, shape, Source::Reader(reader))
    }

    pub(crate) fn new(dtype: Dtype, shape: &'call [usize], source: Source<'call, 'a>) -> Self {
        LeafRef {
            dtype,
            shape,
            source,
            identity: None,
            may_overlap: false,
            fields: None,
        }
    }

    #[inline]
    pub(crate) fn with_fields(self, fields: Option<Fields>) -> Self {
        LeafRef { fields, ..self }
    }

    /// Gives the leaf an identity of its own: two leaves of equal identity are one parameter at two
    /// places.
    ///
    /// For leaves whose memory does not say so: tensors on a device, handles of another library.
    /// The parameter is once in the flat vector, its gradients are added, and both places are
    /// written.
    ///
    /// ```
    /// use flatleaf::{Identity, Layout, LeafRef, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, LeafMut, VisitorMut};
    ///
    /// /// What another library hands out: an identifier, and its own copy of the elements.
    /// struct Tensor { id: u64, elements: Vec<f32> }
    ///
    /// impl Tree for Tensor {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         let shape = [self.elements.len()];
    ///         visitor.leaf(LeafRef::from_slice(&shape, &self.elements).with_identity(&Identity::of(self.id)))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///     #     visitor.leaf(LeafMut::from_slice(&[self.elements.len()], &mut self.elements))
    ///     # }
    ///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///     #     Ok(Tensor { id: self.id, elements: builder.leaf(LeafRef::from_slice(&[self.elements.len()], &self.elements))? })
    ///     # }
    /// }
    ///
    /// let tensor = |id| Tensor { id, elements: vec![1.0] };
    /// let layout = Layout::of(&(tensor(7), tensor(8), tensor(7)))?;
    /// assert_eq!((layout.len(), layout.leaves()[0].places()), (2, &["0".to_owned(), "2".to_owned()][..]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[must_use]
    pub fn with_identity(self, identity: &'call Identity) -> Self {
        LeafRef {
            identity: Some(identity),
            ..self
        }
    }

    pub(crate) fn may_overlap(self) -> Self {
        LeafRef {
            may_overlap: true,
            ..self
        }
    }

    /// The address of the first element and the strides, in elements, of a leaf that lies in
    /// memory.
    pub(crate) fn geometry(&self) -> Option<(usize, Vec<isize>)> {
        match self.source {
            Source::Borrowed(bytes) | Source::Guarded(bytes) => {
                Some((bytes.as_ptr() as usize, row_major(self.shape)))
            }
            Source::Reader(reader) => reader.geometry(),
        }
    }

    /// The length of each axis, outermost first; empty for a 0-d leaf, which has one element. It is
    /// what the leaf was made with, and the elements are as many as it multiplies to.
    ///
    /// ```
    /// use flatleaf::LeafRef;
    ///
    /// assert_eq!(LeafRef::from_slice(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]).shape(), [2, 2]);
    /// assert!(LeafRef::from_slice(&[], &[0.7_f32]).shape().is_empty());
    /// ```
    pub fn shape(&self) -> &[usize] {
        self.shape
    }

    /// The element type of the array: that of the slice or callback the leaf was made of. A leaf of
    /// floats is a parameter unless it is frozen; one of integers or booleans is carried.
    ///
    /// ```
    /// use flatleaf::{Dtype, LeafRef};
    ///
    /// assert_eq!(LeafRef::from_slice(&[3], &[true, false, true]).dtype(), Dtype::Bool);
    /// ```
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn len(&self) -> usize {
        elements_in(self.shape)
    }

    /// In bytes; as many as there are numbers for if it is too large.
    pub(crate) fn size(&self) -> usize {
        self.len().saturating_mul(self.dtype.size())
    }

    /// The leaf for a visitor of another lifetime, good for this call only.
    pub(crate) fn for_this_call<'other>(self) -> LeafRef<'call, 'other>
    where
        'a: 'call,
    {
        let source = match self.source {
            Source::Borrowed(bytes) | Source::Guarded(bytes) => Source::Guarded(bytes),
            Source::Reader(reader) => Source::Reader(reader),
        };
        let LeafRef {
            dtype,
            shape,
            identity,
            may_overlap,
            fields,
            ..
        } = self;
        LeafRef {
            dtype,
            shape,
            source,
            identity,
            may_overlap,
            fields,
        }
    }

    /// The elements as a slice that outlives the call, if there is one and `E` is their type.
    pub(crate) fn borrowed<E: Element>(&self) -> Option<&'a [E]> {
        match self.source {
            Source::Borrowed(bytes) if self.dtype == E::DTYPE => Some(checked::cast_slice(bytes)),
            _ => None,
        }
    }

    /// The elements as they are in memory, if they are floats and outlive the call.
    #[inline]
    pub(crate) fn borrowed_floats(&self) -> Option<Floats<'a>> {
        match self.source {
            Source::Borrowed(bytes) => Floats::from_bytes(self.dtype, bytes),
            _ => None,
        }
    }

    /// The elements as a slice, if there is one and `E` is their type.
    pub(crate) fn slice<E: Element>(&self) -> Option<&[E]> {
        match self.source {
            Source::Borrowed(bytes) | Source::Guarded(bytes) if self.dtype == E::DTYPE => {
                Some(checked::cast_slice(bytes))
            }
            _ => None,
        }
    }

    /// Copies the elements, in row-major order. `E` must be their type and `out` of their number.
    pub(crate) fn read<E: Element + bytemuck::Pod>(&self, out: &mut [E]) -> Result<()> {
        debug_assert_eq!(self.dtype, E::DTYPE);
        self.read_bytes(bytemuck::cast_slice_mut(out))
    }

    /// The elements, in row-major order, if `E` is their type.
    pub(crate) fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        if self.dtype != E::DTYPE {
            return Err(Error::unstable(
                "a leaf of another element type than its own",
            ));
        }
        if let Some(slice) = self.slice() {
            return Ok(slice.to_vec());
        }
        let mut bytes = memory::try_zeroed(self.size())?;
        self.read_bytes(&mut bytes)?;
        Ok(to_elements(&bytes))
    }

    /// The elements as bytes, copied if they are no slice.
    pub(crate) fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self.source {
            Source::Borrowed(bytes) | Source::Guarded(bytes) => Ok(Cow::Borrowed(bytes)),
            Source::Reader(reader) => {
                let mut bytes = memory::try_zeroed(self.size())?;
                reader.read_bytes(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    pub(crate) fn read_bytes(&self, out: &mut [u8]) -> Result<()> {
        match self.source {
            Source::Borrowed(bytes) | Source::Guarded(bytes) if bytes.len() == out.len() => {
                out.copy_from_slice(bytes)
            }
            Source::Borrowed(_) | Source::Guarded(_) => {
                return Err(Error::changed_length());
            }
            Source::Reader(reader) => reader.read_bytes(out)?,
        }
        Ok(())
    }
}

/// A leaf that can be written: one array of numbers, with its shape, its element type and a way to
/// put new elements into it, in row-major order.
///
/// An implementation of [`Tree::visit_mut`](crate::Tree::visit_mut) makes one for each leaf that
/// its `visit` shows, of the same shape and type; another is an error (`is_unstable`).
///
/// ```
/// use flatleaf::{destructure, LeafMut, Result, Tree, VisitorMut};
/// # use flatleaf::{Builder, LeafRef, Visitor};
///
/// /// Two rows of a matrix that is kept as one list.
/// struct Rows { elements: Vec<f32> }
///
/// impl Tree for Rows {
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         visitor.leaf(LeafMut::from_slice(&[2, self.elements.len() / 2], &mut self.elements))
///     }
///     // and `visit` and `rebuild`
///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///     #     visitor.leaf(LeafRef::from_slice(&[2, self.elements.len() / 2], &self.elements))
///     # }
///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///     #     let elements = builder.leaf(LeafRef::from_slice(&[2, self.elements.len() / 2], &self.elements))?;
///     #     Ok(Rows { elements })
///     # }
/// }
///
/// let mut rows = Rows { elements: vec![1.0, 2.0, 3.0, 4.0] };
/// let (_, layout) = destructure(&rows)?;
/// layout.restructure_into(&mut rows, &[5.0, 6.0, 7.0, 8.0])?;
/// assert_eq!(rows.elements, [5.0, 6.0, 7.0, 8.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct LeafMut<'call, 'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'call [usize],
    pub(crate) sink: Sink<'call, 'a>,
}

impl<'call, 'a> LeafMut<'call, 'a> {
    /// A leaf whose elements lie in one slice, in row-major order. New elements are copied into it,
    /// and converted if the vector is of another type; a shape of no axes is a 0-d leaf of one
    /// element.
    ///
    /// # Panics
    /// If `shape` does not multiply to the length of the slice.
    ///
    /// ```
    /// use flatleaf::{destructure, LeafMut, LeafRef, Result, Tree, VisitorMut};
    /// # use flatleaf::{Builder, Visitor};
    /// use std::slice;
    ///
    /// struct Temperature(f32);
    ///
    /// impl Tree for Temperature {
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         visitor.leaf(LeafMut::from_slice(&[], slice::from_mut(&mut self.0))) // 0-d
    ///     }
    ///     // and `visit` and `rebuild`
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.leaf(LeafRef::from_slice(&[], slice::from_ref(&self.0)))
    ///     # }
    ///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///     #     Ok(Temperature(builder.leaf(LeafRef::from_slice(&[], slice::from_ref(&self.0)))?[0]))
    ///     # }
    /// }
    ///
    /// let mut temperature = Temperature(0.7);
    /// let (_, layout) = destructure(&temperature)?;
    /// layout.restructure_into(&mut temperature, &[0.9])?;
    /// assert_eq!(temperature.0, 0.9);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn from_slice<E>(shape: &'call [usize], elements: &'a mut [E]) -> Self
    where
        E: Element,
    {
        check_len(shape, elements.len());
        LeafMut {
            dtype: E::DTYPE,
            shape,
            sink: E::sink(elements),
        }
    }

    /// A leaf that is written through a callback: it is given as many elements as `shape` has, in
    /// row-major order.
    ///
    /// An error of the callback is the operation's, with the path of the leaf; other leaves may
    /// have been written by then.
    ///
    /// ```
    /// use flatleaf::{destructure, LeafMut, Result, Tree, VisitorMut, Writer};
    /// # use flatleaf::{Builder, LeafRef, Reader, Visitor};
    ///
    /// struct Quantised { scale: f32, codes: Vec<i8> }
    ///
    /// impl Tree for Quantised {
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         let (shape, codes) = ([self.codes.len()], &mut self.codes);
    ///         let mut writer = Writer::new(|values: &[f32]| {
    ///             codes.iter_mut().zip(values).for_each(|(code, x)| *code = (x / self.scale).round() as i8);
    ///             Ok(())
    ///         });
    ///         visitor.leaf(LeafMut::from_writer(&shape, &mut writer))
    ///     }
    ///     // and `visit` and `rebuild`
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     let reader = Reader::new(|out: &mut [f32]| {
    ///     #         out.iter_mut().zip(&self.codes).for_each(|(x, code)| *x = self.scale * f32::from(*code));
    ///     #         Ok(())
    ///     #     });
    ///     #     visitor.leaf(LeafRef::from_reader(&[self.codes.len()], &reader))
    ///     # }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("for writing in place")) }
    /// }
    ///
    /// let mut weight = Quantised { scale: 0.5, codes: vec![2, -3] };
    /// let (_, layout) = destructure(&weight)?;
    /// layout.restructure_into(&mut weight, &[1.6, 0.0])?;
    /// assert_eq!(weight.codes, [3, 0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn from_writer<E: Element, F>(
        shape: &'call [usize],
        writer: &'call mut Writer<E, F>,
    ) -> Self
    where
        F: FnMut(&[E]) -> Result<()>,
    {
        LeafMut {
            dtype: E::DTYPE,
            shape,
            sink: Sink::Writer(writer),
        }
    }

    pub(crate) fn write_bytes(self, values: &[u8]) -> Result<()> {
        match self.sink {
            Sink::Bytes(bytes) if bytes.len() == values.len() => bytes.copy_from_slice(values),
            Sink::Booleans(out) if out.len() == values.len() => {
                out.copy_from_slice(checked::cast_slice(values))
            }
            Sink::Writer(writer) => writer.write_bytes(values)?,
            _ => {
                return Err(Error::changed_length());
            }
        }
        Ok(())
    }
}

/// Arrays that are read, from text or from a file, have at most so many axes, as NumPy's have. What
/// more axes would cost has nothing to do with their elements: an array of 9,000 axes of length 1
/// is 18 KB of text, and took a gigabyte to be written down again.
pub(crate) const MAX_AXES: usize = 64;

/// # Errors
/// `is_shape`: more axes than an array that is read may have.
pub(crate) fn check_axes(axes: usize) -> Result<()> {
    if axes > MAX_AXES {
        Err(Error::too_many_axes(MAX_AXES, axes))
    } else {
        Ok(())
    }
}

/// The strides of an array whose elements lie in row-major order.
pub(super) fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut stride = 1;
    let mut strides = vec![0; shape.len()];
    for (out, &len) in strides.iter_mut().zip(shape).rev() {
        *out = stride;
        stride *= len as isize;
    }
    strides
}

/// The number of elements of a shape, whatever a tree may have said.
fn elements_in(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        0
    } else {
        shape
            .iter()
            .fold(1, |count: usize, &len| count.saturating_mul(len))
    }
}

fn check_len(shape: &[usize], len: usize) {
    assert!(
        elements_in(shape) == len,
        "a leaf of shape {shape:?} was given {len} elements"
    );
}

/// Fills a slice with a leaf's elements, in row-major order: for leaves that are no slice in
/// memory, such as a tensor on a device or a weight that is computed from others.
///
/// Made beside the leaf and lent to it ([`LeafRef::from_reader`]). It may be called several times
/// while the tree is borrowed, or not at all.
///
/// ```
/// use flatleaf::{destructure, LeafRef, Reader, Result, Tree, Visitor};
/// # use flatleaf::{Builder, VisitorMut};
///
/// /// The numbers from 0 on: no array anywhere.
/// struct Ramp { len: usize }
///
/// impl Tree for Ramp {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         let reader = Reader::new(|out: &mut [f32]| {
///             out.iter_mut().enumerate().for_each(|(index, x)| *x = index as f32);
///             Ok(())
///         });
///         visitor.leaf(LeafRef::from_reader(&[self.len], &reader))
///     }
///     // and `visit_mut` and `rebuild`
///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Ok(Ramp { len: self.len }) }
/// }
///
/// assert_eq!(destructure(&Ramp { len: 3 })?.0, [0.0, 1.0, 2.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct Reader<E, F>(F, PhantomData<fn(E)>);

impl<E: Element, F: Fn(&mut [E]) -> Result<()>> Reader<E, F> {
    /// Wraps a callback; it is called with a slice of as many elements as the leaf's shape has, and
    /// has to write them all. What the slice holds before is of no meaning. An error that it
    /// returns ends the operation, with the path of the leaf.
    ///
    /// ```
    /// use flatleaf::{destructure, Error, LeafRef, Reader, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Lost;
    ///
    /// impl Tree for Lost {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         let reader = Reader::new(|_: &mut [f32]| Err(Error::custom("the device is gone")));
    ///         visitor.leaf(LeafRef::from_reader(&[2], &reader))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Ok(Lost) }
    /// }
    ///
    /// let error = destructure(&(vec![1.0_f32], Lost)).unwrap_err();
    /// assert_eq!(error.to_string(), "`1`: the device is gone");
    /// ```
    pub fn new(read: F) -> Self {
        Reader(read, PhantomData)
    }
}

/// Takes a leaf's new elements from a slice, in row-major order: for leaves that are no slice in
/// memory, such as a tensor on a device.
///
/// Made beside the leaf and lent to it ([`LeafMut::from_writer`]). It is called once for each time
/// that the leaf is written, after the whole tree has been checked.
///
/// ```
/// use flatleaf::{destructure, LeafMut, LeafRef, Result, Tree, VisitorMut, Writer};
/// # use flatleaf::{Builder, Visitor};
///
/// /// Counts how often it is written.
/// struct Counted { values: [f32; 1], writes: usize }
///
/// impl Tree for Counted {
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         let mut writer = Writer::new(|values: &[f32]| {
///             self.values.copy_from_slice(values);
///             self.writes += 1;
///             Ok(())
///         });
///         visitor.leaf(LeafMut::from_writer(&[1], &mut writer))
///     }
///     // and `visit` and `rebuild`
///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///     #     visitor.leaf(LeafRef::from_slice(&[1], &self.values))
///     # }
///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///     #     Ok(Counted { values: [builder.leaf(LeafRef::from_slice(&[1], &self.values))?[0]], writes: 0 })
///     # }
/// }
///
/// let mut weight = Counted { values: [1.0], writes: 0 };
/// let (_, layout) = destructure(&weight)?;
/// layout.restructure_into(&mut weight, &[2.0])?;
/// assert_eq!((weight.values, weight.writes), ([2.0], 1));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct Writer<E, F>(F, PhantomData<fn(E)>);

impl<E: Element, F: FnMut(&[E]) -> Result<()>> Writer<E, F> {
    /// Wraps a callback; it is called with a slice of as many elements as the leaf's shape has. An
    /// error that it returns ends the operation, with the path of the leaf; leaves before it have
    /// been written by then.
    ///
    /// ```
    /// use flatleaf::{destructure, LeafMut, LeafRef, Result, Tree, VisitorMut, Writer};
    /// # use flatleaf::{Builder, Visitor};
    /// use std::cell::Cell;
    ///
    /// /// Written without a slice to write to.
    /// struct Remote([Cell<f32>; 2]);
    ///
    /// impl Tree for Remote {
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         let mut upload = Writer::new(|values: &[f32]| {
    ///             self.0.iter().zip(values).for_each(|(cell, value)| cell.set(*value));
    ///             Ok(())
    ///         });
    ///         visitor.leaf(LeafMut::from_writer(&[2], &mut upload))
    ///     }
    ///     // and `visit` and `rebuild`
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     let values = [self.0[0].get(), self.0[1].get()];
    ///     #     let download = flatleaf::Reader::new(|out: &mut [f32]| { out.copy_from_slice(&values); Ok(()) });
    ///     #     visitor.leaf(LeafRef::from_reader(&[2], &download))
    ///     # }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Ok(Remote(self.0.clone())) }
    /// }
    ///
    /// let mut remote = Remote([Cell::new(1.0), Cell::new(2.0)]);
    /// let (_, layout) = destructure(&remote)?;
    /// layout.restructure_into(&mut remote, &[3.0, 4.0])?;
    /// assert_eq!((remote.0[0].get(), remote.0[1].get()), (3.0, 4.0));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn new(write: F) -> Self {
        Writer(write, PhantomData)
    }
}

impl<E: Element, F: Fn(&mut [E]) -> Result<()>> ReadBytes for Reader<E, F> {
    fn read_bytes(&self, out: &mut [u8]) -> Result<()> {
        if let Some(elements) = E::overwritable(out) {
            return (self.0)(elements);
        }
        let len = out.len() / size_of::<E>();
        let mut elements = vec![E::default(); len];
        (self.0)(&mut elements)?;
        let bytes: &[u8] = bytemuck::cast_slice(&elements);
        out.copy_from_slice(bytes);
        Ok(())
    }
}

impl<E: Element, F: FnMut(&[E]) -> Result<()>> WriteBytes for Writer<E, F> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        match checked::try_cast_slice(values) {
            Ok(elements) => (self.0)(elements),
            Err(_) => (self.0)(&to_elements(values)),
        }
    }
}
