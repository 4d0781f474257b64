//! Typed views: structs over the flat vector that look like the model.
#![cfg(feature = "derive")]

mod containers;
mod elements;
mod models;
mod reading;
mod refusals;
mod ties;
mod training;
mod writing;
