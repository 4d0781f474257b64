//! Typed views: structs over the flat vector that look like the model.
#![cfg(feature = "derive")]

#[cfg(feature = "indexmap")]
mod containers;
mod elements;
mod models;
mod reading;
#[cfg(feature = "half")]
mod refusals;
mod ties;
#[cfg(feature = "serde")]
mod training;
mod writing;
