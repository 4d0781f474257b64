//! A tree met by a layout: validated, borrowed, written in place, rebuilt, or read leaf by leaf.

pub(crate) mod borrow;
pub(crate) mod deferred_copies;
pub(crate) mod elements;
pub(crate) mod in_place;
pub(crate) mod leaf_slices;
pub(crate) mod validate;
