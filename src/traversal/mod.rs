//! A tree met by a layout: validated, borrowed, written in place, rebuilt, or read leaf by leaf.

pub(crate) mod borrow_all;
pub(crate) mod deferred_copies;
mod guarded_slice;
pub(crate) mod holder;
pub(crate) mod in_place;
pub(crate) mod leaf_slices;
pub(crate) mod place_elements;
pub(crate) mod purpose;
pub(crate) mod read_leaf;
pub(crate) mod rebuild;
pub(crate) mod seen_places;
mod shared_nodes;
pub(crate) mod tied_places;
pub(crate) mod tied_values;
mod unmatched;
pub(crate) mod validate;
pub(crate) mod validated;
