//! The widths of vectors that kernels are compiled for.

use std::sync::{Mutex, PoisonError};

use flatleaf::ops::dispatch::{self, Width};

/// Compares what comes out at the widest vectors with what comes out at each narrower width. The
/// width is a setting of the process, so one test at a time goes through them; those that compare
/// nothing do not notice.
pub(crate) fn at_every_width<T>(outcome: impl Fn() -> T, compare: impl Fn(Width, &T, &T)) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let widest = outcome();
    for width in [Width::Avx2, Width::Baseline] {
        dispatch::limit(width);
        compare(width, &outcome(), &widest);
    }
    dispatch::limit(Width::Widest);
}
