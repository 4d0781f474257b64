//! Arrays of elements that nothing here calculates with, kept as their bytes: floats of 8 bits of
//! a file, which a copy of it has to carry.

use std::any::Any;

use super::dyn_tree::AnyArray;
use super::{Builder, LeafMut, LeafRef, NewElements, Source, Tree, Visitor, VisitorMut};
use crate::element::{Dtype, Sink};
use crate::error::{Error, Result};
use crate::memory;

#[derive(Clone, PartialEq)]
pub(crate) struct OpaqueArray {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl OpaqueArray {
    /// `None` if these are not the bytes of such an array.
    #[cfg(feature = "serde")]
    pub(crate) fn new(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Option<Self> {
        let mut lengths = shape.iter();
        let size = lengths.try_fold(dtype.size(), |size, &len| size.checked_mul(len))?;
        (dtype.is_opaque() && size == bytes.len()).then_some(OpaqueArray {
            dtype,
            shape,
            bytes,
        })
    }

    /// # Errors
    /// What reading the leaf returns.
    pub(crate) fn copy_of(leaf: &LeafRef<'_, '_>) -> Result<Self> {
        let mut bytes = memory::try_zeroed(leaf.size())?;
        leaf.read_bytes(&mut bytes)?;
        Ok(OpaqueArray {
            dtype: leaf.dtype,
            shape: leaf.shape.to_vec(),
            bytes,
        })
    }
}

impl Tree for OpaqueArray {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let source = Source::Borrowed(&self.bytes);
        visitor.leaf(LeafRef::new(self.dtype, &self.shape, source))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visitor.leaf(LeafMut {
            dtype: self.dtype,
            shape: &self.shape,
            sink: Sink::Bytes(&mut self.bytes),
        })
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let Some(new) = builder.new_leaf(&self.shape, self.dtype)? else {
            return Ok(self.clone());
        };
        let NewElements::Bytes(bytes) = new.elements else {
            return Err(Error::unstable("a leaf of another element type"));
        };
        Ok(OpaqueArray {
            bytes: bytes.into_owned(),
            ..self.clone()
        })
    }
}

impl AnyArray for OpaqueArray {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<Self>() == Some(self)
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn head(&self, count: usize) -> String {
        let elements = self.bytes.chunks(self.dtype.size());
        let hex = |bytes: &[u8]| -> String {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        };
        let shown: Vec<String> = elements.take(count).map(hex).collect();
        shown.join(", ")
    }

    #[cfg(feature = "serde")]
    fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}
