//! From a tree to the flat vector and back, and arrays over the vector.

pub(crate) mod gather;
mod gather_grad;
pub(crate) mod gradient;
pub(crate) mod presence;
pub(crate) mod restructure;
pub(crate) mod views;
