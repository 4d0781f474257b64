//! Norms of every order.

use super::lanes::Range;
use super::reduce::{range_of, settle, square, sum_of};
use crate::element::{FlatElement, FlatSlice};

/// Σ |x|, the sum of all magnitudes.
///
/// Computed in f64, in a fixed grouping; empty gives 0, a NaN anywhere NaN. The bits depend neither
/// on the number of threads nor on the CPU's vector width. Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::norm_l1(&[3.0, -4.0]), 7.0);
/// ```
pub fn norm_l1<E: FlatElement>(x: &[E]) -> f64 {
    sum_of(x, |x| x.abs().into())
}

/// √Σ x², the Euclidean norm.
///
/// Computed in f64, where the squares of `f32` are exact and neither overflow nor vanish. Of `f64`
/// their sum may, and then elements are scaled first, by a power of two, in two reads more; the
/// norm is infinite only if it is beyond f64. Empty gives 0, a NaN anywhere NaN. The bits depend
/// neither on the number of threads nor on the CPU's vector width. Reads `x` once, at the speed of
/// memory.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::norm_l2(&[3.0, -4.0]), 5.0);
/// assert_eq!(ops::norm_l2(&[1e20_f32, 0.0]), f64::from(1e20_f32));
/// assert!((ops::norm_l2(&[3e200, -4e200]) / 5e200 - 1.0).abs() < 1e-15); // squares are beyond f64
/// ```
pub fn norm_l2<E: FlatElement>(x: &[E]) -> f64 {
    norm(x, 2.0)
}

fn norm_l2_of<E: FlatElement>(x: &[E]) -> f64 {
    let squares = sum_of(x, square);
    if E::HAS_SQUARES || (LEAST_SQUARES..=f64::MAX).contains(&squares) {
        squares.sqrt()
    } else {
        scaled_norm_l2(x)
    }
}

/// Of a sum of squares that is less, some may have vanished by more than its rounding: a square
/// below the least normal number, 2⁻¹⁰²², is off by up to 2⁻¹⁰⁷⁵, and 2⁶² elements are off by less
/// than a rounding of this.
const LEAST_SQUARES: f64 = f64::MIN_POSITIVE * (1_u64 << 63) as f64;

/// The Euclidean norm where squares overflow or vanish: each element is divided by the power of two
/// next to the greatest before it is squared, which rounds nothing that counts.
#[cold]
fn scaled_norm_l2<E: FlatElement>(x: &[E]) -> f64 {
    let Some((_, greatest)) = magnitudes(x) else {
        return 0.0;
    };
    if greatest == 0.0 || !greatest.is_finite() {
        return greatest;
    }
    let scale = power_of_two_against(greatest);
    let scaled = |x: E| square::<f64>(x.into() * scale);
    sum_of(x, scaled).sqrt() / scale
}

/// A power of two that brings a positive number near 1. Its reciprocal is a normal number too.
pub(crate) fn power_of_two_against(number: f64) -> f64 {
    let biased_exponent = (number.to_bits() >> 52) & 0x7ff;
    let exponent = biased_exponent as i32 - 1023;
    2.0_f64.powi(-exponent.clamp(-1000, 1000))
}

/// max |x|, the greatest magnitude: exact, as no arithmetic is done.
///
/// Empty gives 0, a NaN anywhere NaN, beside infinities too. Reads `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// assert_eq!(ops::norm_inf(&[3.0, -4.0]), 4.0);
/// assert!(ops::norm_inf(&[f32::INFINITY, f32::NAN]).is_nan());
/// ```
pub fn norm_inf<E: FlatElement>(x: &[E]) -> f64 {
    magnitudes(x).map_or(0.0, |(_, greatest)| greatest)
}

/// (Σ |x|ᵖ)^(1/p) for any real `p`, and its limits.
///
/// | `p` | |
/// | --- | --- |
/// | 0 | the number of elements other than 0 |
/// | 1, 2, +∞ | [`norm_l1`], [`norm_l2`], [`norm_inf`] |
/// | −∞ | min \|x\| |
/// | below 0 | 0 if any element is 0 |
/// | NaN | NaN |
///
/// Below 1 it is no norm in the mathematical sense, and is computed all the same. Empty gives 0 for
/// every `p` but NaN; a NaN element gives NaN for every `p`, 0 included.
///
/// Elements are divided by the greatest (for negative `p`, the least) magnitude before they are
/// raised, so that nothing overflows on the way; the result is infinite where it is beyond f64, as
/// for small `p` it may be. The bits do not depend on the number of threads, and for whole `p` up
/// to ±1024 not on the CPU either; other powers are those of the system's mathematical library.
///
/// Reads `x` once for the orders with a name, otherwise twice. A whole power costs a few
/// multiplications an element, a fractional one a call of `powf`.
///
/// ```
/// use flatleaf::ops;
///
/// let x = [1.0, 0.0, -3.0, 4.0];
/// assert_eq!(ops::norm(&x, 0.0), 3.0);
/// assert_eq!(ops::norm(&x, 1.0), 8.0);
/// assert_eq!(ops::norm(&x, 2.0), 26_f64.sqrt());
/// assert_eq!(ops::norm(&x, f64::INFINITY), 4.0);
/// assert_eq!(ops::norm(&x, f64::NEG_INFINITY), 0.0);
/// ```
pub fn norm<E: FlatElement>(x: &[E], p: f64) -> f64 {
    // Compiled here and not in every crate that runs an optimiser.
    fn of_either(x: FlatSlice<'_>, p: f64) -> f64 {
        match x {
            FlatSlice::F32(x) => norm_of(x, p),
            FlatSlice::F64(x) => norm_of(x, p),
        }
    }

    of_either(E::slice(x), p)
}

fn norm_of<E: FlatElement>(x: &[E], p: f64) -> f64 {
    match p {
        0.0 => sum_of(x, |x| {
            if x.is_nan() {
                f64::NAN
            } else {
                f64::from(x != E::zeroed())
            }
        }),
        1.0 => norm_l1(x),
        2.0 => norm_l2_of(x),
        f64::INFINITY => norm_inf(x),
        f64::NEG_INFINITY => magnitudes(x).map_or(0.0, |(least, _)| least),
        p if p.is_nan() => f64::NAN,
        p => magnitudes(x).map_or(0.0, |(least, greatest)| {
            power_norm(x, p, if p > 0.0 { greatest } else { least })
        }),
    }
}

/// The least and the greatest |x|, both NaN if any is; `None` of no elements.
fn magnitudes<E: FlatElement>(x: &[E]) -> Option<(f64, f64)> {
    if x.is_empty() {
        return None;
    }
    let Range { least, greatest } = range_of(x, E::magnitude);
    // The keys of NaNs are above that of infinity.
    if greatest > E::INFINITE {
        return Some((f64::NAN, f64::NAN));
    }
    let float = |key: E::Key| E::of_magnitude(key).into();
    Some((float(least), float(greatest)))
}

/// `unit · (Σ (|x|/unit)ᵖ)^(1/p)`, where the ratios that are raised to |p| are from 0 to 1 and the
/// one of `unit` itself is 1.
fn power_norm<E: FlatElement>(x: &[E], p: f64, unit: f64) -> f64 {
    const WHOLE: f64 = 1024.0;
    if unit == 0.0 || !unit.is_finite() {
        return unit;
    }
    let exponent = p.abs();
    // Whole powers by multiplications alone: the system's library differs from machine to machine.
    let root = if p.fract() == 0.0 && exponent <= WHOLE {
        let exponent = exponent as u32;
        root(
            sum_of_ratios(x, p, unit, |ratio| power(ratio, exponent)),
            exponent,
        )
    } else {
        sum_of_ratios(x, p, unit, |ratio| ratio.powf(exponent)).powf(1.0 / exponent)
    };
    settle(if p > 0.0 { unit * root } else { unit / root })
}

fn sum_of_ratios<E: FlatElement>(
    x: &[E],
    p: f64,
    unit: f64,
    raise: impl Fn(f64) -> f64 + Sync,
) -> f64 {
    if p > 0.0 {
        sum_of(x, |x| raise(x.abs().into() / unit))
    } else {
        sum_of(x, |x| raise(unit / x.abs().into()))
    }
}

/// `base` to a whole power by squaring: unlike `powi` and `powf`, the same bits on every machine.
#[inline(always)]
fn power(base: f64, exponent: u32) -> f64 {
    let mut result = 1.0;
    let mut square = base;
    let mut left = exponent;
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

/// The greatest y ≥ 1 with `power(y, exponent)` ≤ `of`, by bisection over the bits; for `of` ≥ 1.
///
/// `power` never falls as its base grows, so the answer is unique: again the same on every machine.
fn root(of: f64, exponent: u32) -> f64 {
    // The bits of positive floats are in the order of the floats, so halving the distance between
    // two of them takes 64 steps at most, whatever the numbers.
    let mut low = 1_f64.to_bits();
    let mut high = of.to_bits() + 1;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if power(f64::from_bits(middle), exponent) <= of {
            low = middle
        } else {
            high = middle
        }
    }
    f64::from_bits(low)
}
