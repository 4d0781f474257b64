//! Sums, products, extremes, and whether all is finite.

use super::lanes::{self, Range};
use super::{assert_equal_lengths, parallel};

/// Σ x, the sum of all elements.
///
/// Computed in f64, in a fixed grouping, and rounded to f32 nowhere. Empty gives 0; an infinity gives that infinity, both signs or a NaN give NaN.
/// The bits depend neither on the number of threads nor on the CPU's vector width. Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::sum(&[0.5, 1.0, 2.0]), 3.5);
/// assert_eq!(ops::sum(&[1e20, 1.0]), f64::from(1e20_f32) + 1.0);
/// ```
pub fn sum(x: &[f32]) -> f64 {
    sum_of(x, f64::from)
}

/// Σ x·y, the inner product.
///
/// Computed in f64, where each product is exact. Empty gives 0; NaN and infinity times zero give
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
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
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
/// Computed in f64, where the squares are exact and neither overflow nor vanish. Empty gives 0, a
/// NaN anywhere NaN. The bits depend neither on the number of threads nor on the CPU's vector width.
/// Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::mean_square(&[500.0, 5.0]).sqrt() as f32, 353.57107);
/// ```
pub fn mean_square(x: &[f32]) -> f64 {
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
/// assert_eq!(ops::min_max(&[]), None);
/// assert!(ops::min_max(&[1.0, f32::NAN]).is_some_and(|(min, max)| min.is_nan() && max.is_nan()));
/// ```
pub fn min_max(x: &[f32]) -> Option<(f32, f32)> {
    let Range { least, greatest } = range_of(x, ordered);
    let (min, max) = (from_ordered(least), from_ordered(greatest));
    let any_nan = min.is_nan() || max.is_nan();
    (!x.is_empty()).then_some(if any_nan {
        (f32::NAN, f32::NAN)
    } else {
        (min, max)
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
pub fn all_finite(x: &[f32]) -> bool {
    range_of(x, magnitude).greatest < INFINITY
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
pub fn first_non_finite(x: &[f32]) -> Option<usize> {
    if all_finite(x) {
        None
    } else {
        x.iter().position(|x| !x.is_finite())
    }
}

/// Σ term(x), in the order that [`lanes`] and [`parallel`] fix.
pub(super) fn sum_of(x: &[f32], term: impl Fn(f32) -> f64 + Sync) -> f64 {
    settle(parallel::fold(x, |x| lanes::sum(x, &term), |a, b| a + b))
}

pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    sum_of(x, square)
}

#[inline(always)]
pub(super) fn square(x: f32) -> f64 {
    f64::from(x) * f64::from(x)
}

pub(super) fn range_of(x: &[f32], key: impl Fn(f32) -> i32 + Sync) -> Range {
    parallel::fold(x, |x| lanes::range(x, &key), Range::with)
}

/// [`magnitude`] of infinity: those above are NaN.
pub(super) const INFINITY: i32 = 0x7f80_0000;

/// |x| as an integer of the same order, with NaN above infinity.
#[inline(always)]
pub(super) fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// x as an integer of the same order, with NaNs beyond the infinities of their sign.
#[inline(always)]
fn ordered(x: f32) -> i32 {
    // Floats are sign and magnitude, integers two's complement: of negative numbers all bits but
    // the sign are turned round, so that the greater magnitude is the lesser integer.
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) & 0x7fff_ffff)
}

fn from_ordered(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) & 0x7fff_ffff)) as u32)
}

/// Which NaN comes out of an addition of two is the compiler's choice; the same one always comes
/// out of here.
pub(super) fn settle(total: f64) -> f64 {
    if total.is_nan() { f64::NAN } else { total }
}
