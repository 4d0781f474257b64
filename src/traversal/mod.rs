//! A tree met by a layout: validated, borrowed, written in place, rebuilt, or read leaf by leaf.

pub(crate) mod borrow;
pub(crate) mod deferred_copies;
pub(crate) mod in_place;
pub(crate) mod leaf_slices;
pub(crate) mod place_elements;
pub(crate) mod rebuild;
pub(crate) mod tied_places;
pub(crate) mod validate;
