//! Arithmetic on slices: what people do with a flat vector or with one leaf of it.
//!
//! Invariant: nothing here mentions a tree or a layout. Slices of `f32` or `f64` go in, f64 comes
//! out; in place, the destination is the first argument.
//!
//! | | |
//! | --- | --- |
//! | measure | [`sum`], [`dot`], [`mean_square`], [`min_max`], [`norm_l1`], [`norm_l2`], [`norm_inf`], [`norm`] |
//! | check | [`all_finite`], [`first_non_finite`] |
//! | change | [`add`], [`sub`], [`scale`], [`axpy`], [`lerp`], [`clamp`], [`fill`], [`map`], [`zip_map`] |
//! | clip | [`clip_norm`], [`clip_norm_with`], [`clip_value`] |
//!
//! ```
//! use flatleaf::ops;
//!
//! let (mut weights, mut gradient) = ([1.0, 2.0, 3.0], [30.0, 0.0, 40.0]);
//! let clip = ops::clip_norm(&mut gradient, 5.0)?;
//! ops::axpy(&mut weights, -1.0, &gradient);
//! assert_eq!(weights, [-2.0, 2.0, -1.0]);
//! assert_eq!(clip.norm_before, 50.0);
//! # Ok::<(), flatleaf::Error>(())
//! ```
//!
//! # Numbers
//!
//! The same input gives the same bits, whatever the number of threads and however wide the CPU's
//! vectors: the grouping of every sum is fixed (see `lanes.rs` for a chunk, `parallel.rs` for many)
//! and a product and a sum are never contracted. Sums are f64 throughout. NaN is never lost. Empty
//! slices give 0 for sums and norms.
//!
//! Of `f32` a sum has every product exactly and cannot overflow. Of `f64` every product is rounded,
//! by a relative 1e-16, and so is every addition, in groups that keep the error of a sum of
//! magnitudes below a relative 1e-12 for any length; a sum that is beyond f64, above 1.8e308, is
//! infinite. Norms of finite `f64` neither overflow nor vanish on the way: they are infinite only if
//! they are beyond f64 themselves.
//!
//! # Speed
//!
//! Loops are compiled for several vector widths, and the widest that the CPU has is taken when the
//! program runs. From 2²⁰ elements on (2¹⁶ inside a rayon pool) all threads of the current pool
//! take part (feature `rayon`), and the call waits for them: see
//! [when that may hang](crate::design#when-may-a-call-hang). Nothing is allocated but a job per
//! thread.
//!
//! # Panics
//!
//! Slices of unequal lengths panic with both lengths, at the caller's line: that is a bug, where a
//! wrong maximum is an [`Error`](crate::Error).

mod clip;
#[doc(hidden)]
pub mod compact;
pub(crate) mod convert;
#[doc(hidden)]
pub mod dispatch;
mod elementwise;
mod error;
mod lanes;
mod norms;
mod parallel;
mod reduce;

pub use clip::{Clip, NonFinite, clip_norm, clip_norm_with, clip_value};
pub(crate) use elementwise::add_elements;
pub use elementwise::{add, axpy, clamp, fill, lerp, map, scale, sub, zip_map};
pub use norms::{norm, norm_inf, norm_l1, norm_l2};
pub use reduce::{all_finite, dot, first_non_finite, mean_square, min_max, sum};
pub(crate) use reduce::{sum_of_squares, sum_of_squares_read};

#[track_caller]
fn assert_equal_lengths<E>(what: &str, a: &[E], b: &[E]) {
    assert!(
        a.len() == b.len(),
        "`{what}`: expected slices of equal length, found {} and {} elements",
        a.len(),
        b.len()
    );
}
