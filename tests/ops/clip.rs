//! Clipping: exact where nothing is to be done, and nothing written where nothing can be.

use flatleaf::ops::{self, Clip, NonFinite};

use crate::edges::rough;

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// P.F1, P.F10, J.E2
#[test]
fn scales_by_max_over_norm() {
    let mut x = [3.0_f32, 4.0];
    let clip = ops::clip_norm(&mut x, 1.0).unwrap();
    assert_eq!(x, [0.6, 0.8]);
    assert_eq!((clip.norm_before, clip.scale), (5.0, 0.2));

    let mut x = [500.0_f32, 5.0, 300.0, 3.0];
    let clip = ops::clip_norm(&mut x, 1.0).unwrap();
    assert_eq!(
        x,
        [0.857_450_06, 0.008_574_501, 0.514_470_04, 0.005_144_700_4]
    );
    assert!((clip.norm_before - 583.1243435).abs() < 1e-7);

    let mut x = [1.0_f32, 10.0, 100.0];
    let _ = ops::clip_norm(&mut x, 10.0).unwrap();
    let expected = [0.0994987935, 0.9949879346, 9.9498793463];
    assert!(
        x.iter()
            .zip(expected)
            .all(|(&x, expected)| (f64::from(x) / expected - 1.0).abs() < 6e-8),
        "{x:?}"
    );
}

/// P.F2, P.F7, J.E5
#[test]
fn a_norm_up_to_max_changes_no_bit() {
    for (x, max) in [
        (vec![0.3, 0.4], 1.0),
        (vec![3.0, -4.0], 5.0),
        (vec![0.0, -0.0], 0.0),
        (vec![], 0.0),
        (vec![1e20, 1e-40], f64::INFINITY),
    ] {
        let mut y = x.clone();
        let norm = ops::norm_l2(&x);
        assert_eq!(
            ops::clip_norm(&mut y, max).unwrap(),
            Clip {
                norm_before: norm,
                norm_after: norm,
                scale: 1.0
            }
        );
        assert_eq!(bits(&y), bits(&x));
    }
}

#[test]
fn exactly_at_the_norm_nothing_changes() {
    for length in [1, 2, 17, 1000, 40_000] {
        let x = rough(length);
        let mut y = x.clone();
        assert_eq!(ops::clip_norm(&mut y, ops::norm_l2(&x)).unwrap().scale, 1.0);
        assert_eq!(bits(&y), bits(&x));
    }
}

/// P.F6
#[test]
fn reports_what_it_measured() {
    let mut x: Vec<f32> = (1..=100).map(|i| i as f32).chain([0.001; 10]).collect();
    let clip = ops::clip_norm(&mut x, 2.0).unwrap();
    assert!((clip.norm_before - 581.6786054257).abs() < 1e-9);
    assert!((clip.scale - 2.0 / 581.6786054257).abs() < 1e-12);
    assert!((x[99] - 0.343_832_5).abs() < 1e-7);
    assert_eq!(clip.norm_after, ops::norm_l2(&x));
    assert!((clip.norm_after - 2.0).abs() < 2e-7);
}

/// P.F11
#[test]
fn ever_smaller_maxima() {
    let mut x = rough::<f32>(1000);
    for i in 1..=50 {
        let max = 1.0 / f64::from(i);
        let clip = ops::clip_norm(&mut x, max).unwrap();
        assert!((ops::norm_l2(&x) / max - 1.0).abs() < 1e-6, "1/{i}");
        assert_eq!(clip.norm_after, ops::norm_l2(&x));
    }
}

#[test]
fn a_factor_below_f32_does_not_vanish() {
    let mut x = [3e38, -2e38];
    let clip = ops::clip_norm(&mut x, 1e-9).unwrap();
    assert!(clip.scale < 1e-46 && (clip.norm_after - 1e-9).abs() < 1e-16);
}

#[test]
fn a_max_of_zero_clears() {
    let mut x = [3.0, 4.0];
    assert_eq!(
        ops::clip_norm(&mut x, 0.0).unwrap(),
        Clip {
            norm_before: 5.0,
            norm_after: 0.0,
            scale: 0.0
        }
    );
    assert_eq!(x, [0.0, 0.0]);
}

#[test]
fn a_wrong_max_is_an_error_and_writes_nothing() {
    for max in [-1.0, -1e-300, f64::NEG_INFINITY, f64::NAN] {
        for non_finite in [NonFinite::Error, NonFinite::Skip, NonFinite::Propagate] {
            let mut x = [3.0, 4.0];
            let error = ops::clip_norm_with(&mut x, max, non_finite).unwrap_err();
            assert!(error.is_argument());
            assert_eq!(
                error.to_string(),
                format!("expected a maximum of 0 or more, found {max}")
            );
            assert_eq!(x, [3.0, 4.0]);
        }
        let mut x = [3.0, 4.0];
        assert!(
            ops::clip_value(&mut x, max as f32 - 1e-9)
                .unwrap_err()
                .is_argument()
        );
        assert_eq!(x, [3.0, 4.0]);
    }
}

/// P.E14
#[test]
fn not_finite_is_an_error_that_names_the_first() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = [1.0, bad, 2.0, f32::NAN];
        for max in [0.0, 1.0, f64::INFINITY] {
            let mut y = x;
            let error = ops::clip_norm(&mut y, max).unwrap_err();
            assert!(error.is_non_finite());
            assert_eq!(
                error.to_string(),
                format!("expected finite elements, found {bad} at index 1")
            );
            assert_eq!(bits(&y), bits(&x));
        }
    }
}

#[test]
fn not_finite_is_skipped_on_request() {
    for bad in [f32::NAN, f32::INFINITY] {
        let x = [1.0, bad];
        let mut y = x;
        let clip = ops::clip_norm_with(&mut y, 0.5, NonFinite::Skip).unwrap();
        assert_eq!(bits(&y), bits(&x));
        assert_eq!(
            (
                clip.scale,
                clip.norm_before.is_nan(),
                clip.norm_after.is_nan()
            ),
            (1.0, bad.is_nan(), bad.is_nan())
        );
        assert!(!clip.norm_before.is_finite());
    }
}

#[test]
fn not_finite_spreads_on_request() {
    let mut x = [1.0, f32::NAN];
    let clip = ops::clip_norm_with(&mut x, 0.5, NonFinite::Propagate).unwrap();
    assert!(x.iter().all(|x| x.is_nan()) && clip.scale.is_nan());

    let mut x = [1.0, f32::INFINITY];
    let clip = ops::clip_norm_with(&mut x, 0.5, NonFinite::Propagate).unwrap();
    assert!(x[0] == 0.0 && x[1].is_nan());
    assert!(clip.norm_before == f64::INFINITY && clip.norm_after.is_nan() && clip.scale == 0.0);

    let mut x = [1.0, f32::INFINITY];
    let clip = ops::clip_norm_with(&mut x, f64::INFINITY, NonFinite::Propagate).unwrap();
    assert_eq!((x, clip.scale), ([1.0, f32::INFINITY], 1.0));
}
