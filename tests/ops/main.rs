//! The slice kernels against one-loop twins, at every awkward length, by any number of threads and
//! at every vector width.

mod bits;
mod clip;
mod compact;
mod edges;
mod elementwise;
mod kernels;
mod naive;
mod numbers;
mod panics;
mod twins;
#[path = "../common/widths.rs"]
mod widths;
