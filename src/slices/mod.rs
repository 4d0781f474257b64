//! Slices and vectors of floats of any type, and copies between them. Knows nothing of trees.

mod any_vec;
mod conversion;
pub(crate) mod copies;
mod floats;

pub(crate) use any_vec::AnyVec;
pub(crate) use floats::{Floats, FloatsMut, add, copy};
