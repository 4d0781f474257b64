//! What a weighted mean does before and after its sum: `Σ weight · x / Σ weight`.

use crate::error::{Error, Result};

/// Refuses what is no weight of a member in a mean.
pub(crate) fn check_weight(weight: f64) -> Result<()> {
    if weight.is_finite() && weight >= 0.0 {
        return Ok(());
    }
    let expected = "a weight that is 0 or more, and finite";
    Err(Error::argument(expected, weight))
}

/// Refuses a mean in which nobody counts.
pub(crate) fn check_total(total: f64) -> Result<()> {
    if total != 0.0 {
        return Ok(());
    }
    let expected = "a weight above 0 on some member";
    Err(Error::argument(expected, "0 on all"))
}

/// What a member puts into the sum of a weighted mean.
pub(crate) fn weigh(x: &mut [f32], weight: f64) {
    if weight == 0.0 {
        // Not multiplied: what does not count may be NaN, and 0 · NaN is one too.
        x.fill(0.0);
    } else if weight != 1.0 {
        change_each(x, |x| x * weight);
    }
}

/// What a weighted mean makes of the sum.
pub(crate) fn divide(x: &mut [f32], total: f64) {
    if total != 1.0 {
        change_each(x, |x| x / total);
    }
}

fn change_each(x: &mut [f32], change: impl Fn(f64) -> f64) {
    for x in x {
        let changed = change(f64::from(*x));
        *x = changed as f32;
    }
}
