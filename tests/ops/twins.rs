//! Every kernel does what its loop says, at every length and offset.

use flatleaf::ops;

use crate::edges::{exact, exact_too, slices};
use crate::kernels::{CHANGES, MEASURES, POWERS};
use crate::naive;

#[test]
fn measures_are_exact_where_sums_are() {
    for &(name, kernel, twin) in MEASURES {
        slices(exact, |x| {
            assert_eq!(kernel(x), twin(x), "{name} of {} elements", x.len())
        });
    }
}

#[test]
fn powers_agree_with_the_plain_formula() {
    for &p in POWERS {
        for length in [1, 2, 15, 16, 17, 33, 16 * 1024 + 1] {
            let x = exact(length);
            let (norm, plain) = (ops::norm(&x, p), naive::norm(&x, p));
            assert!(
                norm == plain || (norm / plain - 1.0).abs() < 1e-12,
                "norm {p} of {length} elements: {norm}, plainly {plain}"
            );
        }
    }
}

#[test]
fn changes_give_the_bits_of_the_loop() {
    for &(name, kernel, twin) in CHANGES {
        slices(exact, |y| {
            let (mut fast, mut plain, x) = (y.to_vec(), y.to_vec(), exact_too(y.len()));
            kernel(&mut fast, &x);
            naive::each(&mut plain, &x, twin);
            assert_eq!(fast, plain, "{name} of {} elements", y.len());
        });
    }
}

#[test]
fn changes_leave_the_neighbours_alone() {
    for &(name, kernel, _) in CHANGES {
        for length in [0, 1, 15, 16, 17, 35] {
            let (mut y, x) = (exact(length + 2), exact_too(length));
            let (first, last) = (y[0], y[length + 1]);
            kernel(&mut y[1..=length], &x);
            assert_eq!(
                (y[0], y[length + 1]),
                (first, last),
                "{name} of {length} elements"
            );
        }
    }
}

#[test]
fn what_is_not_finite_is_found_at_every_place() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        slices(exact, |x| {
            assert_eq!(ops::first_non_finite(x), None);
            for place in [0, x.len() / 2, x.len().saturating_sub(1)]
                .into_iter()
                .filter(|&place| place < x.len())
            {
                let mut x = x.to_vec();
                x[place] = bad;
                assert!(!ops::all_finite(&x));
                assert_eq!(ops::first_non_finite(&x), Some(place));
            }
        });
    }
}

#[test]
fn no_measure_loses_a_nan() {
    for length in [1, 2, 16, 17, 35, 16 * 1024 + 1] {
        for place in [0, length / 2, length - 1] {
            for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
                let mut x = vec![f32::INFINITY; length];
                x[place] = nan;
                for &(name, kernel, _) in MEASURES {
                    assert!(
                        kernel(&x).is_nan(),
                        "{name} of {length} elements, {nan} at {place}"
                    );
                }
                for &p in POWERS {
                    assert!(
                        ops::norm(&x, p).is_nan(),
                        "norm {p} of {length} elements, {nan} at {place}"
                    );
                }
            }
        }
    }
}
