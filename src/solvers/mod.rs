//! A model's loss as a function of a vector, for solvers that know vectors only.

#[cfg(feature = "argmin")]
pub mod argmin;
mod error;
pub(crate) mod evaluation;
pub(crate) mod objective;
