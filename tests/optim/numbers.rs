//! Numbers to fill vectors with, and how near they have to be.

use flatleaf::{FlatElement, FlatGrad, Layout};

/// After so many elements they begin again. Not in step with rows or pieces, so that a misplaced
/// element shows; and few, so that none of them happens to cancel its weight decay, after which the
/// sign of a gradient would be a matter of rounding.
const PERIOD: usize = 35;

/// Some parameters: −2 to 2, with a 0 now and then.
pub(crate) fn parameters(length: usize) -> Vec<f32> {
    let of = |i: usize| ((i * 37 + 11) % 41) as f32 / 10.0 - 2.0;
    let or_zero = |x: f32| if x.abs() < 0.15 { 0.0 } else { x };
    periodic(length, |i| or_zero(of(i)))
}

/// Gradients of several magnitudes whose signs change from step to step, with a 0 now and then.
pub(crate) fn gradient(length: usize, step: usize) -> Vec<f32> {
    let of =
        |i: usize| (((i * 29 + step * 13) % 23) as f32 / 11.0 - 1.0) * [1.0, 0.01, 3.0, 0.2][i % 4];
    periodic(length, of)
}

/// Copies one period, since these vectors are made many thousand times, in debug builds too.
fn periodic(length: usize, of: impl Fn(usize) -> f32) -> Vec<f32> {
    let period: Vec<f32> = (0..PERIOD).map(of).collect();
    let mut elements = period.repeat(length.div_ceil(PERIOD));
    elements.truncate(length);
    elements
}

/// Present at every leaf.
pub(crate) fn flat_grad(layout: &Layout, elements: &[f32]) -> FlatGrad {
    FlatGrad::from_flat(layout, elements.to_vec()).unwrap()
}

pub(crate) fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// To 1e-6 of max(|expected|, 1): the roundings of a few steps in f32.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_close_to(1e-6, what, found, expected);
}

/// To a share of max(|expected|, 1).
#[track_caller]
pub(crate) fn assert_close_to<E: FlatElement>(
    share: f64,
    what: &str,
    found: &[E],
    expected: &[f64],
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let allowed = share * expected.abs().max(1.0);
        let distance: f64 = found.into() - expected;
        assert!(
            distance.abs() <= allowed,
            "{what}: expected {expected}, found {found} at {i}"
        );
    }
}

/// To a relative 1e-6.
#[track_caller]
pub(crate) fn assert_near(found: &[f32], expected: &[f64]) {
    let is_near = |(&x, &y): (&f32, &f64)| (f64::from(x) - y).abs() <= 1e-6 * y.abs();
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(is_near),
        "expected {expected:?}, found {found:?}"
    );
}
