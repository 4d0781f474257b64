//! Several trees at once, and what names leaves: companions, norms, clipping.
#![cfg(feature = "derive")]

mod companions;
mod leaf_measures;
