//! Reductions of one chunk: a fixed number of accumulators, whatever the vector registers.
//!
//! ```text
//! lane:   0     1     2   …  15          element i goes to lane i % 16
//!         x0    x1    x2  …  x15         an f32 is widened to f64 before anything is done with it
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
//! squared far from zero; of f64 every square and product is rounded. A lane adds 1,024 elements of
//! a chunk, so its rounding error is below 1,024 · 2⁻⁵³.

use super::dispatch::{self, Kernel};
use crate::element::FlatElement;

/// Accumulators. Determines rounding, as the chunk size does: another number adds in another order.
const LANES: usize = 16;

/// Σ `term(x)` over one chunk.
#[inline]
pub(super) fn sum<E: FlatElement>(x: &[E], term: impl Fn(E) -> f64) -> f64 {
    dispatch::run(Sum, x, (), &term)
}

/// Elements of a chunk that are read into a buffer together: whole rows of lanes, 4 KB of f32, so
/// that they are still in the L1 cache when they are added.
const BLOCK: usize = 1 << 10;

/// So few are read in one go into a buffer of their own: to fill a long one with zeros would take
/// longer than to add them.
const SHORT: usize = 1 << 7;

/// Σ `term(x)` over one chunk of which `read` hands out elements from a place on: the bits of
/// [`sum`].
pub(super) fn sum_read<E: FlatElement>(
    len: usize,
    read: impl Fn(usize, &mut [E]),
    term: impl Fn(E) -> f64,
) -> f64 {
    match len {
        0..=SHORT => sum_blocks::<E, SHORT>(len, read, term),
        _ => sum_blocks::<E, BLOCK>(len, read, term),
    }
}

fn sum_blocks<E: FlatElement, const LEN: usize>(
    len: usize,
    read: impl Fn(usize, &mut [E]),
    term: impl Fn(E) -> f64,
) -> f64 {
    let mut buffer = [E::zeroed(); LEN];
    let mut lanes = [0.0; LANES];
    for start in (0..len).step_by(LEN) {
        let block = &mut buffer[..(len - start).min(LEN)];
        read(start, block);
        lanes = dispatch::run(AddTerms, block, lanes, &term);
    }
    fold(lanes)
}

/// Σ `x·y` over one chunk of both.
#[inline]
pub(super) fn dot<E: FlatElement>(x: &[E], y: &[E]) -> f64 {
    dispatch::run(Dot, x, y, ())
}

/// The least and the greatest `key(x)` over one chunk; of no elements the greatest key there is and
/// the least.
#[inline]
pub(super) fn range<E>(x: &[E], key: impl Fn(E) -> E::Key) -> Range<E::Key>
where
    E: FlatElement,
{
    dispatch::run(Extremes, x, (), &key)
}

/// Least and greatest, as integers: those vectorise, and unlike `f32::max` they keep NaN.
#[derive(Clone, Copy)]
pub(super) struct Range<K> {
    pub(super) least: K,
    pub(super) greatest: K,
}

impl<K: Ord> Range<K> {
    #[inline(always)]
    pub(super) fn with(self, other: Range<K>) -> Range<K> {
        Range {
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }
}

struct Sum;

impl<E: FlatElement, F: Fn(E) -> f64> Kernel<&[E], (), &F> for Sum {
    type Output = f64;

    #[inline(always)]
    fn run(x: &[E], (): (), term: &F) -> f64 {
        fold(AddTerms::run(x, [0.0; LANES], term))
    }
}

/// Adds further elements to the lanes, the first to lane 0. Lanes that go from call to call go by
/// memory, which a norm of 64 elements would feel.
struct AddTerms;

impl<E: FlatElement, F: Fn(E) -> f64> Kernel<&[E], [f64; LANES], &F> for AddTerms {
    type Output = [f64; LANES];

    #[inline(always)]
    fn run(x: &[E], mut lanes: [f64; LANES], term: &F) -> [f64; LANES] {
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
        lanes
    }
}

struct Dot;

impl<E: FlatElement> Kernel<&[E], &[E], ()> for Dot {
    type Output = f64;

    #[inline(always)]
    fn run(x: &[E], y: &[E], (): ()) -> f64 {
        let mut lanes = [0.0; LANES];
        let (x_rows, x_end) = x.as_chunks::<LANES>();
        let (y_rows, y_end) = y.as_chunks::<LANES>();
        for (x, y) in x_rows.iter().zip(y_rows) {
            for i in 0..LANES {
                lanes[i] += product(x[i], y[i]);
            }
        }
        for i in 0..x_end.len() {
            lanes[i] += product(x_end[i], y_end[i]);
        }
        fold(lanes)
    }
}

#[inline(always)]
pub(super) fn product<E: FlatElement>(x: E, y: E) -> f64 {
    let (x, y): (f64, f64) = (x.into(), y.into());
    x * y
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

impl<E: FlatElement, F: Fn(E) -> E::Key> Kernel<&[E], (), &F> for Extremes {
    type Output = Range<E::Key>;

    /// No lanes needed: integer minima and maxima may be grouped in any way, so the compiler does.
    #[inline(always)]
    fn run(x: &[E], (): (), key: &F) -> Range<E::Key> {
        let (least, greatest) = E::KEYS;
        let empty = Range {
            least: greatest,
            greatest: least,
        };
        x.iter().fold(empty, |range, &x| {
            range.with(Range {
                least: key(x),
                greatest: key(x),
            })
        })
    }
}
