//! Ends, limits and what becomes of NaN, beyond what the twins compare.

use flatleaf::ops;

const VALUES: [f32; 8] = [0.0, 1.0, -1.5, 0.1, 1e-45, 3e-20, 1e20, -1.7e38];

/// Both ends are exact, except that a −0 may become +0.
#[test]
fn lerp_is_exact_at_both_ends() {
    for a in VALUES {
        for b in VALUES {
            let mut at = [a, a];
            let (zero, one) = at.split_at_mut(1);
            ops::lerp(zero, &[b], 0.0);
            ops::lerp(one, &[b], 1.0);
            assert_eq!(at, [a, b]);
        }
    }
}

#[test]
fn lerp_of_equals_changes_nothing() {
    for w in [0.0, 0.1, 0.3, 0.5, 0.7, 0.999, 1.0, 2.0] {
        let mut a = VALUES;
        ops::lerp(&mut a, &VALUES, w);
        assert_eq!(a, VALUES, "w = {w}");
    }
}

/// J.E12, P.G1
#[test]
fn moving_averages() {
    let mut average = [1.0, 2.0];
    ops::lerp(&mut average, &[3.0, 4.0], 0.01);
    assert_eq!(average, [1.02, 2.02]);

    let mut average = [0.0_f32];
    ops::lerp(&mut average, &[5.0], 0.1);
    assert_eq!(average, [0.5]);
    ops::lerp(&mut average, &[7.0], 0.1);
    assert!((average[0] - 1.15).abs() < 1e-6);
}

/// P.G6
#[test]
fn lerp_passes_nan_on_at_every_weight() {
    for w in [0.0, 0.3, 0.5, 1.0, f32::NAN] {
        for (a, b) in [(1.0, f32::NAN), (f32::NAN, 1.0)] {
            let mut a = [a];
            ops::lerp(&mut a, &[b], w);
            assert!(a[0].is_nan(), "w = {w}, b = {b}");
        }
    }
}

/// P.F9, P.F13
#[test]
fn clamping() {
    let mut x = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5];
    ops::clamp(&mut x, -1.0, 1.0);
    assert!(x[0].is_nan() && x[1].is_nan());
    assert_eq!(x[2..], [1.0, -1.0, 0.5]);

    let mut x: Vec<f32> = (-50..50).map(|i| i as f32 / 5.0).collect();
    ops::clip_value(&mut x, 2.5).unwrap();
    assert_eq!(ops::min_max(&x), Some((-2.5, 2.5)));
    assert_eq!(x.iter().filter(|x| x.abs() < 2.5).count(), 25);
}

#[test]
fn no_alpha_hides_a_nan() {
    let mut y = [1.0, 2.0];
    ops::axpy(&mut y, 0.0, &[f32::NAN, f32::INFINITY]);
    assert!(y.iter().all(|y| y.is_nan()));
}

#[test]
fn map_calls_once_an_element() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let calls = AtomicUsize::new(0);
    ops::map(&mut vec![0.0; crate::edges::LARGE], |x| {
        calls.fetch_add(1, Ordering::Relaxed);
        x
    });
    assert_eq!(calls.into_inner(), crate::edges::LARGE);
}
