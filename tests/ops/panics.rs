//! Unequal lengths panic with both, before anything is written, at the caller's line.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use flatleaf::ops;

fn message(work: impl FnOnce()) -> String {
    let panic = panic::catch_unwind(AssertUnwindSafe(work)).expect_err("a panic");
    panic
        .downcast_ref::<String>()
        .expect("a formatted message")
        .clone()
}

#[test]
fn unequal_lengths_panic_with_both() {
    type Pair = (&'static str, fn(&mut [f32], &[f32]));
    let pairs: [Pair; 6] = [
        ("dot", |y, x| assert!(ops::dot(y, x).is_nan())),
        ("add", |y, x| ops::add(y, x)),
        ("sub", |y, x| ops::sub(y, x)),
        ("axpy", |y, x| ops::axpy(y, 2.0, x)),
        ("lerp", |y, x| ops::lerp(y, x, 0.5)),
        ("zip_map", |y, x| ops::zip_map(y, x, |y, _| y)),
    ];
    for (name, kernel) in pairs {
        for (long, short) in [(3, 2), (2, 3), (40_000, 0)] {
            let mut y = vec![1.0; long];
            let expected = format!(
                "`{name}`: expected slices of equal length, found {long} and {short} elements"
            );
            assert_eq!(message(|| kernel(&mut y, &vec![1.0; short])), expected);
            assert_eq!(y, vec![1.0; long]);
        }
    }
}

#[test]
fn bounds_out_of_order_panic() {
    for (lo, hi) in [(1.0, -1.0), (f32::NAN, 1.0), (0.0, f32::NAN)] {
        let text = message(|| ops::clamp(&mut [], lo, hi));
        assert_eq!(
            text,
            format!("`clamp`: expected bounds in order, found {lo} and {hi}")
        );
    }
}

#[test]
fn the_panic_points_at_the_caller() {
    thread_local!(static LINE: Cell<u32> = const { Cell::new(0) });
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        LINE.set(
            info.location()
                .filter(|location| location.file() == file!())
                .map_or(0, |location| location.line()),
        );
        before(info);
    }));
    message(|| ops::add(&mut [1.0], &[]));
    assert_eq!(LINE.get(), line!() - 1);
}
