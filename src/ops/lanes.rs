//! Reductions of one chunk: a fixed number of accumulators, whatever the vector registers.
//!
//! ```text
//! lane:   0     1     2   …  15          element i goes to lane i % 16
//!         x0    x1    x2  …  x15         f32, widened to f64 before anything is done with it
//!       + x16   x17   x18 …  x31
//!       + x32   x33                      the end of the slice, in the same lanes
//! ```
//!
//! then lane 0 + 8, 1 + 9, …, then 0 + 4, …, down to one. The grouping is written in the source, so
//! it does not depend on the registers. Sixteen are two AVX-512 registers of doubles, four of AVX2,
//! eight of SSE2: enough additions under way to reach 69–89 ps an element in the cache, three times
//! what memory delivers. With 32 the compiler unrolls some loops first and then fails to vectorise
//! them (400 ps); indices do better than iterators here for the same reason.
//!
//! In f64 the squares and products of f32 are exact, 1e20 squared is far from overflow and 1e-23
//! squared far from zero. A lane adds 1,024 elements of a chunk, so its rounding error is below
//! 1,024 · 2⁻⁵³.

use super::dispatch::{self, Kernel};

/// Accumulators. Determines rounding, as the chunk size does: another number adds in another order.
const LANES: usize = 16;

/// Σ `term(x)` over one chunk.
#[inline]
pub(super) fn sum(x: &[f32], term: impl Fn(f32) -> f64) -> f64 {
    dispatch::run(Sum, x, (), &term)
}

/// Σ `x·y` over one chunk of both.
#[inline]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    dispatch::run(Dot, x, y, ())
}

/// The least and the greatest `key(x)` over one chunk; for no elements [`Range::EMPTY`].
#[inline]
pub(super) fn range(x: &[f32], key: impl Fn(f32) -> i32) -> Range {
    dispatch::run(Extremes, x, (), &key)
}

/// Least and greatest, as integers: those vectorise, and unlike `f32::max` they keep NaN.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) least: i32,
    pub(super) greatest: i32,
}

impl Range {
    const EMPTY: Range = Range {
        least: i32::MAX,
        greatest: i32::MIN,
    };

    #[inline(always)]
    pub(super) fn with(self, other: Range) -> Range {
        Range {
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }
}

struct Sum;

impl<F: Fn(f32) -> f64> Kernel<&[f32], (), &F> for Sum {
    type Output = f64;

    #[inline(always)]
    fn run(x: &[f32], (): (), term: &F) -> f64 {
        let mut lanes = [0.0; LANES];
        let (rows, end) = x.as_chunks::<LANES>();
        // Indices and a constant bound: the compiler makes the inner loop a few vector additions.
        for row in rows {
            for i in 0..LANES {
                lanes[i] += term(row[i]);
            }
        }
        for i in 0..end.len() {
            lanes[i] += term(end[i]);
        }
        fold(lanes)
    }
}

struct Dot;

impl Kernel<&[f32], &[f32], ()> for Dot {
    type Output = f64;

    #[inline(always)]
    fn run(x: &[f32], y: &[f32], (): ()) -> f64 {
        let mut lanes = [0.0; LANES];
        let (x_rows, x_end) = x.as_chunks::<LANES>();
        let (y_rows, y_end) = y.as_chunks::<LANES>();
        for (x, y) in x_rows.iter().zip(y_rows) {
            for i in 0..LANES {
                lanes[i] += f64::from(x[i]) * f64::from(y[i]);
            }
        }
        for i in 0..x_end.len() {
            lanes[i] += f64::from(x_end[i]) * f64::from(y_end[i]);
        }
        fold(lanes)
    }
}

#[inline(always)]
fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    // Written out pair by pair, so that no register's width has a say in the grouping.
    while width > 0 {
        let (left, right) = lanes.split_at_mut(width);
        left.iter_mut()
            .zip(right)
            .for_each(|(left, right)| *left += *right);
        width /= 2;
    }
    lanes[0]
}

struct Extremes;

impl<F: Fn(f32) -> i32> Kernel<&[f32], (), &F> for Extremes {
    type Output = Range;

    /// No lanes needed: integer minima and maxima may be grouped in any way, so the compiler does.
    #[inline(always)]
    fn run(x: &[f32], (): (), key: &F) -> Range {
        x.iter().fold(Range::EMPTY, |range, &x| {
            range.with(Range {
                least: key(x),
                greatest: key(x),
            })
        })
    }
}
