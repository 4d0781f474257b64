//! Slices of floats of any type, and copies from one into the other.
//!
//! What is flattened and restructured is known at run time only: an `f16` leaf of a model whose
//! vector is of `f32`. A slice is therefore its bytes and its element type, and whoever knows the
//! type gets the typed slice back. Every slice here was made of a typed one or checked against its
//! type, so that its bytes are whole elements, and aligned unless they come from a file.

use std::borrow::Cow;
use std::ops::Range;

use bytemuck::checked;

use super::conversion::convert_floats;
use crate::element::{Dtype, Element, FlatElement, FloatElement, Sink};
use crate::memory::{self, streamed};
use crate::ops;

/// Elements of one float type.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Floats<'a> {
    #[inline]
    pub(crate) fn of<E: FloatElement>(elements: &'a [E]) -> Self {
        Floats {
            dtype: E::DTYPE,
            bytes: bytemuck::cast_slice(elements),
        }
    }

    /// `None` if the type is no float.
    #[inline]
    pub(crate) fn from_bytes(dtype: Dtype, bytes: &'a [u8]) -> Option<Self> {
        dtype.is_float().then_some(Floats { dtype, bytes })
    }

    /// Whether these are so many elements.
    #[inline]
    pub(crate) fn has_len(self, len: usize) -> bool {
        self.bytes.len() == len * self.dtype.size()
    }

    pub(crate) fn len(self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    #[inline]
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        let size = self.dtype.size();
        Floats {
            bytes: &self.bytes[range.start * size..range.end * size],
            ..self
        }
    }

    /// Parts of so many elements, the last one of what is left.
    pub(crate) fn chunks(self, len: usize) -> impl Iterator<Item = Floats<'a>> {
        self.bytes
            .chunks(len * self.dtype.size())
            .map(move |bytes| Floats { bytes, ..self })
    }

    /// The elements as `T`, without a copy if that is their type.
    #[inline]
    pub(crate) fn elements<T: Element>(self) -> Cow<'a, [T]> {
        match self.typed() {
            Some(elements) => Cow::Borrowed(elements),
            None => Cow::Owned(self.to_vec()),
        }
    }

    /// The elements as `T` in a vector of their own, each written once.
    #[inline(never)]
    pub(crate) fn to_vec<T: Element>(self) -> Vec<T> {
        let mut vector = memory::with_capacity(self.len());
        self.push_to(&mut vector);
        vector
    }

    /// Puts the elements, as `T`, behind those of a vector.
    #[inline]
    pub(crate) fn push_to<T: Element>(self, vector: &mut Vec<T>) {
        self.push_by(vector, Vec::extend_from_slice);
    }

    /// Puts the elements, as `T`, behind those of a vector, past the caches where they need no
    /// conversion.
    pub(crate) fn push_streamed_to<T: Element>(self, vector: &mut Vec<T>) {
        self.push_by(vector, streamed::push);
    }

    #[inline]
    fn push_by<T>(self, vector: &mut Vec<T>, push: impl Fn(&mut Vec<T>, &[T]))
    where
        T: Element,
    {
        /// So many elements are converted beside the vector, in the cache.
        const PART: usize = 1 << 10;
        if let Some(elements) = self.typed() {
            return push(vector, elements);
        }
        // The end of a vector is not yet of any value, and a conversion writes to what is: a small
        // part is converted on its own and appended, which costs less than zeros for all of it.
        let mut part = vec![T::default(); self.len().min(PART)];
        for chunk in self.chunks(PART) {
            let part = &mut part[..chunk.len()];
            copy(chunk, FloatsMut::of_elements(part));
            vector.extend_from_slice(part);
        }
    }

    /// The elements as those of another float type, as bytes.
    pub(crate) fn to_bytes(self, dtype: Dtype) -> Cow<'a, [u8]> {
        if dtype == self.dtype {
            return Cow::Borrowed(self.bytes);
        }
        let mut bytes = vec![0; self.len() * dtype.size()];
        convert_floats(self.dtype, self.bytes, dtype, &mut bytes);
        Cow::Owned(bytes)
    }

    /// The elements as they are, if `T` is their type.
    #[inline]
    pub(crate) fn typed<T: Element>(self) -> Option<&'a [T]> {
        if self.dtype == T::DTYPE {
            checked::try_cast_slice(self.bytes).ok()
        } else {
            None
        }
    }
}

/// Elements of one float type that are to be written.
pub(crate) struct FloatsMut<'a> {
    dtype: Dtype,
    bytes: &'a mut [u8],
}

impl<'a> FloatsMut<'a> {
    #[inline]
    pub(crate) fn of<E: FloatElement>(elements: &'a mut [E]) -> Self {
        FloatsMut {
            dtype: E::DTYPE,
            bytes: bytemuck::cast_slice_mut(elements),
        }
    }

    /// `None` if the type is no float.
    #[inline]
    pub(crate) fn from_bytes(dtype: Dtype, bytes: &'a mut [u8]) -> Option<Self> {
        dtype.is_float().then_some(FloatsMut { dtype, bytes })
    }

    /// Whether there is room for so many elements.
    #[inline]
    pub(crate) fn has_len(&self, len: usize) -> bool {
        self.bytes.len() == len * self.dtype.size()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The elements as `E`, if that is their type.
    pub(crate) fn into_slice<E: FloatElement>(self) -> Option<&'a mut [E]> {
        if self.dtype == E::DTYPE {
            bytemuck::try_cast_slice_mut(self.bytes).ok()
        } else {
            None
        }
    }

    /// The first elements, which leave.
    ///
    /// ***Panics*** if there are not as many.
    pub(crate) fn split_off(&mut self, len: usize) -> FloatsMut<'a> {
        let bytes = self.bytes.split_off_mut(..len * self.dtype.size());
        FloatsMut {
            bytes: bytes.expect("there are as many elements"),
            ..*self
        }
    }

    pub(crate) fn reborrow(&mut self) -> FloatsMut<'_> {
        FloatsMut {
            bytes: self.bytes,
            ..*self
        }
    }

    /// Parts of so many elements, the last one of what is left.
    pub(crate) fn chunks(self, len: usize) -> impl Iterator<Item = FloatsMut<'a>> {
        let dtype = self.dtype;
        self.bytes
            .chunks_mut(len * dtype.size())
            .map(move |bytes| FloatsMut { dtype, bytes })
    }

    fn of_elements<T: Element>(elements: &'a mut [T]) -> Self {
        match T::sink(elements) {
            Sink::Bytes(bytes) => FloatsMut {
                dtype: T::DTYPE,
                bytes,
            },
            _ => unreachable!("every float may hold any bits"),
        }
    }
}

/// Copies elements, which are as many, from one type into the other: exact where it fits, otherwise
/// rounded to nearest.
///
/// ***Panics*** if they are not as many.
#[inline]
pub(crate) fn copy(from: Floats<'_>, to: FloatsMut<'_>) {
    if from.dtype == to.dtype {
        to.bytes.copy_from_slice(from.bytes)
    } else {
        convert_floats(from.dtype, from.bytes, to.dtype, to.bytes)
    }
}

/// Copies elements past the caches, for what is larger than these, from one type into the other:
/// see [`streamed`].
///
/// ***Panics*** if they are not as many.
pub(crate) fn copy_streamed(from: Floats<'_>, to: FloatsMut<'_>) {
    if from.dtype == to.dtype {
        streamed::copy(to.bytes, from.bytes)
    } else {
        convert_floats(from.dtype, from.bytes, to.dtype, to.bytes)
    }
}

/// Adds elements of any float type to others, a block at a time, so that nothing is copied as a whole.
///
/// ***Panics*** if they are not as many.
pub(crate) fn add<E: FlatElement>(to: &mut [E], from: Floats<'_>) {
    /// So many elements are converted beside the sum, in the cache.
    const BLOCK: usize = 1 << 10;
    if let Some(from) = from.typed() {
        return ops::add_elements(to, from);
    }
    assert_eq!(to.len(), from.len(), "as many elements to add");
    let mut buffer = [E::zeroed(); BLOCK];
    for (to, from) in to.chunks_mut(BLOCK).zip(from.chunks(BLOCK)) {
        let converted = &mut buffer[..to.len()];
        copy(from, FloatsMut::of(converted));
        ops::add_elements(to, converted);
    }
}
