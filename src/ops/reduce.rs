//! Sums, products, extremes, and whether all is finite.

use std::ops::Range;

use super::lanes;
use super::{assert_equal_lengths, parallel};
use crate::element::{FlatElement, FlatSlice};

/// Σ x, the sum of all elements.
///
/// Computed in f64, in a fixed grouping, and rounded to f32 nowhere. Empty gives 0; an infinity
/// gives that infinity, both signs or a NaN give NaN. The bits depend neither on the number of
/// threads nor on the CPU's vector width. Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::sum(&[0.5, 1.0, 2.0]), 3.5);
/// assert_eq!(ops::sum(&[1e20_f32, 1.0]), f64::from(1e20_f32) + 1.0);
/// ```
pub fn sum<E: FlatElement>(x: &[E]) -> f64 {
    sum_of(x, |x| x.into())
}

/// Σ x·y, the inner product.
///
/// Computed in f64, where each product of `f32` is exact; of `f64` it is rounded, and may overflow.
/// Empty gives 0; NaN and infinity times zero give
/// NaN. The bits depend neither on the number of threads nor on the CPU's vector width. Reads both
/// once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
/// ```
#[track_caller]
pub fn dot<E: FlatElement>(x: &[E], y: &[E]) -> f64 {
    assert_equal_lengths("dot", x, y);
    settle(parallel::fold(
        (x, y),
        |(x, y)| lanes::dot(x, y),
        |a, b| a + b,
    ))
}

/// Σ x² / n: the square of the root mean square, a measure of size that does not grow with the
/// number of elements.
///
/// Computed in f64, where the squares of `f32` are exact and neither overflow nor vanish; those of
/// `f64` do above 1e154 and below 1e-162. Empty gives 0, a NaN anywhere NaN. The bits depend
/// neither on the number of threads nor on the CPU's vector width. Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::mean_square(&[500.0, 5.0]).sqrt() as f32, 353.57107);
/// ```
pub fn mean_square<E: FlatElement>(x: &[E]) -> f64 {
    sum_of_squares(x) / x.len().max(1) as f64
}

/// The least and the greatest element, `None` of none.
///
/// A NaN anywhere makes both NaN, where `f32::min` would drop it. −0 counts as less than +0. Reads
/// `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::min_max(&[0.5, -3.0, 2.0]), Some((-3.0, 2.0)));
/// assert_eq!(ops::min_max::<f32>(&[]), None);
/// assert!(ops::min_max(&[1.0, f32::NAN]).is_some_and(|(min, max)| min.is_nan() && max.is_nan()));
/// ```
pub fn min_max<E: FlatElement>(x: &[E]) -> Option<(E, E)> {
    let lanes::Range { least, greatest } = range_of(x, E::ordered);
    let min = E::of_ordered(least);
    let max = E::of_ordered(greatest);
    if x.is_empty() {
        return None;
    }
    let any_nan = min.is_nan() || max.is_nan();
    Some(match any_nan {
        true => (E::nan(), E::nan()),
        false => (min, max),
    })
}

/// Whether no element is infinite or NaN; true of none.
///
/// Reads `x` once and to its end, at the speed of memory.
///
/// ```
/// use flatleaf::ops;
///
/// assert!(ops::all_finite(&[1.0, f32::MAX]));
/// assert!(!ops::all_finite(&[1.0, f32::INFINITY]));
/// ```
pub fn all_finite<E: FlatElement>(x: &[E]) -> bool {
    range_of(x, E::magnitude).greatest < E::INFINITE
}

/// The index of the first element that is infinite or NaN.
///
/// Costs as much as [`all_finite`] where there is none, and a second read up to it where there is
/// one.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::first_non_finite(&[1.0, f32::NAN, f32::INFINITY]), Some(1));
/// assert_eq!(ops::first_non_finite(&[1.0, 2.0]), None);
/// ```
pub fn first_non_finite<E: FlatElement>(x: &[E]) -> Option<usize> {
    fn first<E: FlatElement>(x: &[E]) -> Option<usize> {
        match all_finite(x) {
            true => None,
            false => x.iter().position(|x| !x.is_finite()),
        }
    }

    fn of_either(x: FlatSlice<'_>) -> Option<usize> {
        match x {
            FlatSlice::F32(x) => first(x),
            FlatSlice::F64(x) => first(x),
        }
    }

    of_either(E::slice(x))
}

/// Σ term(x), in the order that [`lanes`] and [`parallel`] fix.
pub(super) fn sum_of<E: FlatElement>(x: &[E], term: impl Fn(E) -> f64 + Sync) -> f64 {
    let sum = parallel::fold(x, |x| lanes::sum(x, &term), |a, b| a + b);
    settle(sum)
}

/// Σ x², compiled here and not in every crate that runs an optimiser.
pub(crate) fn sum_of_squares<E: FlatElement>(x: &[E]) -> f64 {
    fn of_either(x: FlatSlice<'_>) -> f64 {
        match x {
            FlatSlice::F32(x) => sum_of(x, square),
            FlatSlice::F64(x) => sum_of(x, square),
        }
    }

    of_either(E::slice(x))
}

/// Σ x² of elements that `read` hands out from a place on, as many as there is room for: the bits of
/// [`sum_of_squares`] of all of them, which need not be there at once.
pub(crate) fn sum_of_squares_read<E: FlatElement>(
    len: usize,
    read: impl Fn(usize, &mut [E]) + Sync,
) -> f64 {
    let of_chunk = |chunk: Range<usize>| {
        let read = |start: usize, to: &mut [E]| read(chunk.start + start, to);
        lanes::sum_read(chunk.len(), read, square)
    };
    let sum = parallel::fold(0..len, of_chunk, |a, b| a + b);
    settle(sum)
}

#[inline(always)]
pub(super) fn square<E: FlatElement>(x: E) -> f64 {
    lanes::product(x, x)
}

pub(super) fn range_of<E: FlatElement>(
    x: &[E],
    key: impl Fn(E) -> E::Key + Sync,
) -> lanes::Range<E::Key> {
    parallel::fold(x, |x| lanes::range(x, &key), lanes::Range::with)
}

/// Which NaN comes out of an addition of two is the compiler's choice; the same one always comes
/// out of here.
pub(super) fn settle(total: f64) -> f64 {
    if total.is_nan() { f64::NAN } else { total }
}
