//! Slices of floats of any type, as bytes beside the type, and copies between them. Knows nothing
//! of trees.

pub(crate) mod copies;

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;

use bytemuck::checked;

use crate::element::{Dtype, Element, FlatElement, Sink};
use crate::memory::blocks::Blocks;
use crate::memory::{self, streamed};
use crate::ops::convert::{self as to, convert};

/// Elements of one float type.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Floats<'a> {
    #[inline]
    pub(crate) fn of<E: FlatElement>(elements: &'a [E]) -> Self {
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

    #[inline]
    fn push_by<T: Element>(self, vector: &mut Vec<T>, push: impl Fn(&mut Vec<T>, &[T])) {
        /// So many elements are converted beside the vector, in the cache.
        const PART: usize = 1 << 10;
        if let Some(elements) = self.typed() {
            return push(vector, elements);
        }
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
        copy(
            self,
            FloatsMut {
                dtype,
                bytes: &mut bytes,
            },
        );
        Cow::Owned(bytes)
    }

    #[inline]
    fn typed<T: Element>(self) -> Option<&'a [T]> {
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
    pub(crate) fn of<E: FlatElement>(elements: &'a mut [E]) -> Self {
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
    pub(crate) fn into_slice<E: FlatElement>(self) -> Option<&'a mut [E]> {
        if self.dtype == E::DTYPE {
            bytemuck::try_cast_slice_mut(self.bytes).ok()
        } else {
            None
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

/// A vector of floats of any type.
pub(crate) struct AnyVec(Box<dyn FloatVec>);

trait FloatVec: Any + Send {
    fn push(&mut self, floats: Floats<'_>, is_streamed: bool);
}

impl<T: Element> FloatVec for Vec<T> {
    fn push(&mut self, floats: Floats<'_>, is_streamed: bool) {
        if is_streamed {
            floats.push_by(self, streamed::push)
        } else {
            floats.push_to(self)
        }
    }
}

impl AnyVec {
    pub(crate) fn of<T: Element>(vector: Vec<T>) -> AnyVec {
        AnyVec(Box::new(vector))
    }

    /// An empty one with capacity for so many elements. `None` if no type of this name is known here: without the
    /// feature `half` there is neither `f16` nor `bf16`.
    pub(crate) fn with_capacity(len: usize, dtype: Dtype, blocks: &mut Blocks) -> Option<AnyVec> {
        Some(AnyVec(match dtype {
            Dtype::F32 => Box::new(blocks.with_capacity::<f32>(len)),
            Dtype::F64 => Box::new(blocks.with_capacity::<f64>(len)),
            #[cfg(feature = "half")]
            Dtype::F16 => Box::new(blocks.with_capacity::<half::f16>(len)),
            #[cfg(feature = "half")]
            Dtype::BF16 => Box::new(blocks.with_capacity::<half::bf16>(len)),
            _ => return None,
        }))
    }

    /// Puts elements behind those that it has, past the caches if that is wanted.
    pub(crate) fn push(&mut self, floats: Floats<'_>, is_streamed: bool) {
        self.0.push(floats, is_streamed);
    }

    /// The vector, if it is one of `T`.
    pub(crate) fn into_vec<T: Element>(self) -> Option<Vec<T>> {
        (self.0 as Box<dyn Any>)
            .downcast()
            .ok()
            .map(|vector| *vector)
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
        copy_converted(from, to)
    }
}

/// Copies elements past the caches, for what is larger than these, from one type into the other: see
/// [`streamed`].
///
/// ***Panics*** if they are not as many.
pub(crate) fn copy_streamed(from: Floats<'_>, to: FloatsMut<'_>) {
    if from.dtype == to.dtype {
        streamed::copy(to.bytes, from.bytes)
    } else {
        copy_converted(from, to)
    }
}

#[inline(never)]
fn copy_converted(from: Floats<'_>, to: FloatsMut<'_>) {
    use Dtype::{BF16, F16, F32, F64};
    macro_rules! convert {
        ($from:ident, $to:ident, $one:expr) => {
            convert(from.bytes, to.bytes, |bytes| {
                $one($from::from_ne_bytes(bytes)).to_ne_bytes()
            })
        };
    }
    match (from.dtype, to.dtype) {
        (F32, F64) => convert!(f32, f64, to::f32_to_f64),
        (F32, F16) => convert!(f32, u16, to::f32_to_f16),
        (F32, BF16) => convert!(f32, u16, to::f32_to_bf16),
        (F64, F32) => convert!(f64, f32, to::f64_to_f32),
        (F64, F16) => convert!(f64, u16, to::f64_to_f16),
        (F64, BF16) => convert!(f64, u16, to::f64_to_bf16),
        (F16, F32) => convert!(u16, f32, to::f16_to_f32),
        (F16, F64) => convert!(u16, f64, |half| to::f32_to_f64(to::f16_to_f32(half))),
        (F16, BF16) => convert!(u16, u16, |half| to::f32_to_bf16(to::f16_to_f32(half))),
        (BF16, F32) => convert!(u16, f32, to::bf16_to_f32),
        (BF16, F64) => convert!(u16, f64, |half| to::f32_to_f64(to::bf16_to_f32(half))),
        (BF16, F16) => convert!(u16, u16, |half| to::f32_to_f16(to::bf16_to_f32(half))),
        _ => unreachable!("these are floats, of two types"),
    }
}
