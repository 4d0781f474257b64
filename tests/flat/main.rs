//! Tree ↔ flat vector: values and gradients, of every type of element.
#![cfg(feature = "derive")]

#[path = "../common/mod.rs"]
mod common;

mod element_types;
mod flatten;
mod gradients;
mod presence;
