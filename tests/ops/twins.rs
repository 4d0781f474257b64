//! Every kernel does what its loop says, at every length and offset, of f32 and of f64.

use flatleaf::{FlatElement, ops};

use crate::edges::{exact, exact_too, slices};
use crate::kernels::{POWERS, changes, measures};
use crate::naive;

#[test]
fn measures_are_exact_where_sums_are() {
    measures_are_exact_where_sums_are_of::<f32>();
    measures_are_exact_where_sums_are_of::<f64>();
}

fn measures_are_exact_where_sums_are_of<E: FlatElement>() {
    slices(exact::<E>, |x| {
        for &(name, kernel, twin) in &measures::<E>() {
            assert_eq!(kernel(x), twin(x), "{name} of {} elements", x.len());
        }
    });
}

#[test]
fn powers_agree_with_the_plain_formula() {
    powers_agree_with_the_plain_formula_of::<f32>();
    powers_agree_with_the_plain_formula_of::<f64>();
}

fn powers_agree_with_the_plain_formula_of<E: FlatElement>() {
    for &p in POWERS {
        for length in [1, 2, 15, 16, 17, 33, 16 * 1024 + 1] {
            let x = exact::<E>(length);
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
    changes_give_the_bits_of_the_loop_of::<f32>();
    changes_give_the_bits_of_the_loop_of::<f64>();
}

fn changes_give_the_bits_of_the_loop_of<E: FlatElement>() {
    slices(exact::<E>, |y| {
        let x = exact_too(y.len());
        for &(name, kernel, twin) in &changes::<E>() {
            let (mut fast, mut plain) = (y.to_vec(), y.to_vec());
            kernel(&mut fast, &x);
            naive::each(&mut plain, &x, twin);
            assert_eq!(fast, plain, "{name} of {} elements", y.len());
        }
    });
}

#[test]
fn changes_leave_the_neighbours_alone() {
    changes_leave_the_neighbours_alone_of::<f32>();
    changes_leave_the_neighbours_alone_of::<f64>();
}

fn changes_leave_the_neighbours_alone_of<E: FlatElement>() {
    for &(name, kernel, _) in &changes::<E>() {
        for length in [0, 1, 15, 16, 17, 35] {
            let (mut y, x) = (exact::<E>(length + 2), exact_too(length));
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
    what_is_not_finite_is_found_at_every_place_of::<f32>();
    what_is_not_finite_is_found_at_every_place_of::<f64>();
}

fn what_is_not_finite_is_found_at_every_place_of<E: FlatElement>() {
    slices(exact::<E>, |x| {
        assert_eq!(ops::first_non_finite(x), None);
        for bad in [E::nan(), -E::nan(), E::infinity(), E::neg_infinity()] {
            for place in [0, x.len() / 2, x.len().saturating_sub(1)]
                .into_iter()
                .filter(|&place| place < x.len())
            {
                let mut x = x.to_vec();
                x[place] = bad;
                assert!(!ops::all_finite(&x));
                assert_eq!(ops::first_non_finite(&x), Some(place));
            }
        }
    });
}

#[test]
fn no_measure_loses_a_nan() {
    no_measure_loses_a_nan_of::<f32>();
    no_measure_loses_a_nan_of::<f64>();
}

fn no_measure_loses_a_nan_of<E: FlatElement>() {
    for length in [1, 2, 16, 17, 35, 16 * 1024 + 1] {
        for place in [0, length / 2, length - 1] {
            let signalling = E::from_f64(f64::from_bits(0x7ff0_0000_2000_0000));
            for nan in [E::nan(), -E::nan(), signalling] {
                let mut x = vec![E::infinity(); length];
                x[place] = nan;
                for &(name, kernel, _) in &measures::<E>() {
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
