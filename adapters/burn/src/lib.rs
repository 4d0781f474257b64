//! [flatleaf](https://docs.rs/flatleaf) for [burn](https://burn.dev): a module's parameters as one
//! vector, and back.
//!
//! ```text
//! module ──Flat::of──▶ flat: which parameter is where
//! module ──flat.flatten──▶ Vec<f32> ──any solver──▶ flat.unflatten──▶ module
//! module, gradients ──flat.step──▶ module, in place, by any rule or chain of flatleaf
//! module ──Params::of──▶ a tree: checkpoints, norms, averages, everything that takes a `Tree`
//! ```
//!
//! On burn's CPU backend, `burn-flex`, nothing is copied on the way and storages stay where they
//! are. Tensors of other devices are downloaded and uploaded.

mod change;
mod clip;
mod flat;
mod objective;
mod params;
mod per_tensor;
mod route;
mod step;
mod tensor;

pub use change::{change, change_torch};
pub use flat::Flat;
pub use objective::objective;
pub use params::Params;
pub use per_tensor::PerTensor;

/// The program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
