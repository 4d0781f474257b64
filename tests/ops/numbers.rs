//! Numbers that other systems test, and those that accumulating in f32 gets wrong.

use flatleaf::ops;

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs(),
        "expected {expected}, found {found}"
    );
}

#[test]
fn empty_gives_zero() {
    for p in [
        f64::NEG_INFINITY,
        -3.0,
        -0.5,
        0.0,
        0.5,
        1.0,
        2.0,
        3.0,
        f64::INFINITY,
    ] {
        assert_eq!(ops::norm::<f32>(&[], p), 0.0, "norm {p}");
    }
    let measures = [
        ops::sum::<f32>,
        ops::mean_square,
        ops::norm_l1,
        ops::norm_l2,
        ops::norm_inf,
    ]
    .map(|measure| measure(&[]));
    assert_eq!(measures, [0.0; 5]);
    assert_eq!(ops::dot::<f32>(&[], &[]), 0.0);
    assert_eq!(ops::min_max::<f32>(&[]), None);
    assert!(ops::all_finite::<f32>(&[]));
}

/// J.E6
#[test]
fn norms_of_every_order() {
    let x = [1.0, 0.0, -3.0, 4.0];
    let below_zero = [f64::NEG_INFINITY, -3.0, -1.0];
    assert_eq!(below_zero.map(|p| ops::norm(&x, p)), [0.0; 3]);
    assert_eq!(ops::norm(&x, 0.0), 3.0);
    assert_eq!(ops::norm(&x, -0.0), 3.0);
    assert_close(
        ops::norm(&x, 0.5),
        (1.0 + 3_f64.sqrt() + 2.0).powi(2),
        1e-15,
    );
    assert_eq!(ops::norm(&x, 1.0), 8.0);
    assert_close(
        ops::norm(&x, 1.5),
        (9.0 + 27_f64.sqrt()).powf(1.0 / 1.5),
        1e-15,
    );
    assert_eq!(ops::norm(&x, 2.0), 26_f64.sqrt());
    assert_close(ops::norm(&x, 3.0), 92_f64.cbrt(), 1e-15);
    assert_eq!(ops::norm(&x, f64::INFINITY), 4.0);
}

/// P.E1
#[test]
fn norms_of_three_and_four() {
    let x = [3.0, 4.0];
    assert_eq!(
        (ops::norm_l1(&x), ops::norm_l2(&x), ops::norm_inf(&x)),
        (7.0, 5.0, 4.0)
    );
    assert_close(ops::norm(&x, 3.0), 4.497941445, 1e-9);
    assert_close(ops::norm(&x, 0.5), 13.9282032, 1e-8);
    assert_eq!(
        (ops::norm(&x, f64::NEG_INFINITY), ops::norm(&x, 0.0)),
        (3.0, 2.0)
    );
    assert_close(ops::norm(&x, -1.0), 12.0 / 7.0, 1e-15);
}

/// P.E2, P.E3
#[test]
fn norms_that_torch_tests() {
    let mut x: Vec<f32> = (1..=100).map(|i| i as f32).collect();
    assert_eq!(ops::norm_l2(&x), 338_350_f64.sqrt());
    x.extend([0.001; 10]);
    let expected = [
        (0.5, 451287.2598),
        (1.0, 5050.01),
        (1.5, 1179.3574048),
        (2.0, 581.6786054257),
        (3.0, 294.3478844),
        (4.0, 212.7924025),
    ];
    for (p, norm) in expected {
        assert_close(ops::norm(&x, p), norm, 1e-9);
    }
    assert_eq!(ops::norm_inf(&x), 100.0);
}

/// P.E10
#[test]
fn small_terms_beside_a_large_one() {
    let mut x = vec![1.0; 1001];
    x[0] = 1e4;
    assert_eq!(ops::norm_l2(&x), 100_001_000_f64.sqrt());
    assert_close(ops::norm_l2(&x), 10000.04999988, 1e-12);
}

#[test]
fn twenty_million_ones() {
    let ones = vec![1.0; 20_000_000];
    assert_eq!(ops::norm_l2(&ones), 2e7_f64.sqrt());
    assert_eq!(
        (ops::sum(&ones), ops::norm_l1(&ones), ops::norm(&ones, 0.0)),
        (2e7, 2e7, 2e7)
    );
}

#[test]
fn nothing_overflows_or_vanishes() {
    for x in [1e20, 3.4e38, 1e-23, 1e-45_f32] {
        let two = [x, -x];
        assert_close(ops::norm_l2(&two), f64::from(x) * 2_f64.sqrt(), 1e-15);
        assert_eq!(ops::dot(&two, &two), 2.0 * f64::from(x) * f64::from(x));
        for p in [0.5, 3.0, 10.0, 64.0, 1000.0, 1e6, 1e300] {
            assert_close(
                ops::norm(&two, p),
                f64::from(x) * 2_f64.powf(1.0 / p),
                1e-15,
            );
            assert_close(
                ops::norm(&two, -p),
                f64::from(x) * 2_f64.powf(-1.0 / p),
                1e-15,
            );
        }
    }
    assert_eq!(ops::sum(&[3.4e38_f32; 4]), 4.0 * f64::from(3.4e38_f32));
    assert_eq!(ops::norm_l2(&[0.0_f32, 1e-45]), f64::from(1e-45_f32));
}

/// P.E13
#[test]
fn infinities() {
    let (inf, x) = (f64::INFINITY, [f32::INFINITY, f32::NEG_INFINITY]);
    for p in [0.5, 1.0, 1.5, 2.0, 3.0, inf, -inf, -2.0, -0.5] {
        assert_eq!(ops::norm(&x, p), inf, "norm {p}");
    }
    assert_eq!(ops::norm(&x, 0.0), 2.0);
    assert!(ops::sum(&x).is_nan());
    assert_eq!(ops::norm(&[f32::INFINITY, 2.0], -1.0), 2.0);
    assert_eq!(ops::norm(&[f32::INFINITY, 2.0], -inf), 2.0);
    assert_eq!(ops::norm(&[f32::INFINITY, 0.0], -2.0), 0.0);
    assert!(ops::norm(&[1.0], f64::NAN).is_nan());
}

/// P.E15, P.E16, P.E18
#[test]
fn squares_and_products() {
    assert_close(ops::mean_square(&[500.0, 5.0]).sqrt(), 353.5710678, 1e-9);
    assert_eq!(ops::norm_l2(&[11.0, 0.0]).powi(2), 121.0);
    assert_eq!(
        ops::dot(&[1.0, 1.0, 1.0, 1.0, 1.0], &[1.0, 2.0, 3.0, 4.0, 5.0]),
        15.0
    );
}

#[test]
fn one_element_is_its_own_norm() {
    for x in [1e-45_f32, 0.1, 1.0, 3.0, 12345.678, 3.4e38] {
        for p in [-1024.0, -3.5, -1.0, 0.5, 1.0, 2.0, 3.0, 7.0, 33.3, 1024.0] {
            assert_eq!(ops::norm(&[-x], p), f64::from(x), "norm {p} of {x}");
        }
    }
}

#[test]
fn extremes_keep_signs_of_zero() {
    let bits = |x: &[f32]| ops::min_max(x).map(|(min, max)| (min.to_bits(), max.to_bits()));
    assert_eq!(bits(&[0.0, -0.0]), Some(((-0.0_f32).to_bits(), 0)));
    assert_eq!(bits(&[-0.0, 0.0]), bits(&[0.0, -0.0]));
    assert_eq!(
        ops::min_max(&[f32::NEG_INFINITY, 1.0, f32::INFINITY]),
        Some((f32::NEG_INFINITY, f32::INFINITY))
    );
}

/// Squares of f64 overflow above 1.3e154 and vanish below 1.5e-154, 1e300 times before the norm does.
#[test]
fn norms_of_f64_neither_overflow_nor_vanish() {
    let is_near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 4e-16;
    for unit in [1e-320_f64, 1e-308, 1e-200, 1e-160, 1.0, 1e154, 1e200, 1e307] {
        let x = [3.0 * unit, -4.0 * unit];
        let (a, b) = (x[0] / unit, x[1] / unit); // subnormal numbers have few digits
        let expected = (a * a + b * b).sqrt() * unit;
        let norm = ops::norm_l2(&x);
        assert!(is_near(norm, expected), "{unit:e}: {norm:e}");
        assert_eq!(ops::norm(&x, 2.0), norm);
        for p in [0.5, 1.0, 3.0, f64::INFINITY] {
            let norm = ops::norm(&x, p);
            assert!(norm.is_finite() && norm > 0.0, "{unit:e}, {p}: {norm:e}");
        }
    }
    // Small ones count where they are many, beside large ones they do not.
    let mut many = vec![1e-170; 40_000];
    assert!((ops::norm_l2(&many) / 2e-168 - 1.0).abs() < 1.2e-13);
    many.push(1e200);
    assert_eq!(ops::norm_l2(&many), 1e200);
    assert_eq!(ops::norm_l2(&[f64::MAX, f64::MAX]), f64::INFINITY);
    assert_eq!(ops::norm_l2(&[0.0_f64, -0.0]), 0.0);
    assert!(ops::norm_l2(&[1e200, f64::NAN]).is_nan());
    assert_eq!(ops::norm_l2(&[f64::NEG_INFINITY, 1.0]), f64::INFINITY);
}

#[test]
fn sums_of_f64_keep_their_digits() {
    let tenths = vec![0.1; 1_000_000];
    // A lane adds 1,024 of them; one after the other they would be off by 1.3e-11.
    assert!((ops::sum(&tenths) / 1e5 - 1.0).abs() < 1.2e-13);
    assert!((ops::dot(&tenths, &tenths) / 1e4 - 1.0).abs() < 1.2e-13);
    assert_eq!(ops::min_max(&[0.1, -0.0, 0.0, 5e-324]), Some((-0.0, 0.1)));
    assert!(ops::min_max(&[0.1, f64::NAN]).is_some_and(|(min, max)| min.is_nan() && max.is_nan()));
}

#[test]
fn clipping_of_f64_goes_beyond_where_squares_do() {
    let mut x = [3e200_f64, 4e200];
    let clip = ops::clip_norm(&mut x, 1e190).unwrap();
    assert!((clip.norm_before / 5e200 - 1.0).abs() < 1e-15, "{clip:?}");
    assert!((clip.norm_after / 1e190 - 1.0).abs() < 1e-15, "{clip:?}");
    assert!((x[0] / 6e189 - 1.0).abs() < 1e-15, "{x:?}");

    // The norm itself is beyond f64: no element is at fault.
    let mut beyond = [1.5e308, 1.5e308];
    let error = ops::clip_norm(&mut beyond, 1.0).unwrap_err();
    assert!(error.is_non_finite(), "{error}");
    assert_eq!(
        error.to_string(),
        "expected a finite norm, found one beyond f64, of finite elements"
    );
    assert_eq!(beyond, [1.5e308, 1.5e308]);
}
