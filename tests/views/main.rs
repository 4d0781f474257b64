//! Typed views: structs over the flat vector that look like the model.

mod models;
mod reading;
mod ties;
mod writing;
