//! A vector of floats whose element type is known at run time only: the new elements of one leaf,
//! filled before the leaf itself is asked which type it wants.

use std::any::Any;

use super::floats::Floats;
use crate::element::{Dtype, Element};
use crate::memory::blocks::Blocks;

/// A vector of floats of any type.
pub(crate) struct AnyVec(Box<dyn FloatVec>);

trait FloatVec: Any + Send {
    fn push(&mut self, floats: Floats<'_>, is_streamed: bool);
}

impl<T: Element> FloatVec for Vec<T> {
    fn push(&mut self, floats: Floats<'_>, is_streamed: bool) {
        if is_streamed {
            floats.push_streamed_to(self)
        } else {
            floats.push_to(self)
        }
    }
}

impl AnyVec {
    pub(crate) fn of<T: Element>(vector: Vec<T>) -> AnyVec {
        AnyVec(Box::new(vector))
    }

    /// An empty one with capacity for so many elements. `None` if no type of this name is known
    /// here: without the feature `half` there is neither `f16` nor `bf16`.
    pub(crate) fn with_capacity(len: usize, dtype: Dtype, blocks: &mut Blocks) -> Option<AnyVec> {
        match dtype {
            Dtype::F32 => Some(empty::<f32>(len, blocks)),
            Dtype::F64 => Some(empty::<f64>(len, blocks)),
            #[cfg(feature = "half")]
            Dtype::F16 => Some(empty::<half::f16>(len, blocks)),
            #[cfg(feature = "half")]
            Dtype::BF16 => Some(empty::<half::bf16>(len, blocks)),
            _ => None,
        }
    }

    /// Puts elements behind those that it has, past the caches if that is wanted.
    pub(crate) fn push(&mut self, floats: Floats<'_>, is_streamed: bool) {
        self.0.push(floats, is_streamed);
    }

    /// The vector, if it is one of `T`.
    pub(crate) fn into_vec<T: Element>(self) -> Option<Vec<T>> {
        let any: Box<dyn Any> = self.0;
        let vector = any.downcast().ok()?;
        Some(*vector)
    }
}

fn empty<T: Element>(len: usize, blocks: &mut Blocks) -> AnyVec {
    let vector: Vec<T> = blocks.with_capacity(len);
    AnyVec::of(vector)
}
