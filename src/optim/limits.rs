//! What the numbers of a configuration may be, for rules of this crate and of one's own.
//!
//! Configurations are f64 and the elements that they meet mostly f32, so a number is checked as what
//! it becomes there: a rate of 1e39 would be infinite and make NaN of a gradient of 0, and an eps
//! of 1e-50 would be 0 and keep no divisor from it. Vectors of f64 have the same limits, since a
//! configuration does not know what it will move.

use crate::element::FlatElement;
use crate::error::{Error, Result};

/// Checks that a field is 0 or more, and finite as an f32: for learning rates, penalties and
/// momenta, where a number too small for an f32 does what 0 does.
///
/// # Errors
/// `is_argument`, with the name of the field and the number: it is below 0, infinite or NaN, or
/// beyond the greatest f32, 3.4e38.
///
/// ```
/// use flatleaf::optim::check_non_negative;
///
/// assert!(check_non_negative("lr", 0.0).is_ok());
/// let error = check_non_negative("lr", -1.0).unwrap_err();
/// assert_eq!(error.to_string(), "`lr`: expected a finite number of 0 or more, found -1");
/// let error = check_non_negative("lr", 1e39).unwrap_err();
/// assert!(error.to_string().contains("finite as an f32"), "{error}");
/// ```
pub fn check_non_negative(field: &str, value: f64) -> Result<()> {
    let is_right = value >= 0.0 && value.is_finite();
    check_that(field, value, is_right, "a finite number of 0 or more")?;
    check_finite_f32(field, value)
}

/// Checks a number that keeps a divisor from 0: 0 or more and finite, and not 0 as an f32 unless it
/// is 0. 1e-50 is refused, which would let through the division that it is there to prevent.
///
/// # Errors
/// `is_argument`, with the name of the field and the number: it is below 0, infinite or NaN, beyond
/// the greatest f32, 3.4e38, or above 0 and below the least, 1.4e-45.
///
/// ```
/// use flatleaf::optim::check_eps;
///
/// assert!(check_eps("eps", 1e-8).is_ok() && check_eps("eps", 0.0).is_ok());
/// let error = check_eps("eps", 1e-50).unwrap_err();
/// assert!(error.to_string().contains("not 0 as an f32"), "{error}");
/// ```
pub fn check_eps(field: &str, value: f64) -> Result<()> {
    check_non_negative(field, value)?;
    check_not_vanishing(field, value)
}

/// Checks that a field is above 0 and finite, both as an f32: for what is divided by, or a factor
/// that may not vanish.
///
/// # Errors
/// `is_argument`, with the name of the field and the number: it is 0 or below, infinite or NaN, or
/// so large or so small that an f32 cannot hold it.
///
/// ```
/// use flatleaf::optim::check_positive;
///
/// assert!(check_positive("eps", 1e-8).is_ok());
/// let error = check_positive("eps", 0.0).unwrap_err();
/// assert_eq!(error.to_string(), "`eps`: expected a finite number above 0, found 0");
/// assert!(check_positive("eps", 1e-50).is_err());
/// ```
pub fn check_positive(field: &str, value: f64) -> Result<()> {
    let is_right = value > 0.0 && value.is_finite();
    check_that(field, value, is_right, "a finite number above 0")?;
    check_finite_f32(field, value)?;
    check_not_vanishing(field, value)
}

/// Checks that a field is from 0 to below 1, as an f32 too: for the decay rate β of a moving
/// average, whose bias correction divides by 1 − βᵗ. 0.99999999 rounds to 1, which would forget
/// nothing, and is refused.
///
/// # Errors
/// `is_argument`, with the name of the field and the number: it is below 0, NaN, or 1 or above.
///
/// ```
/// use flatleaf::optim::check_decay_rate;
///
/// assert!(check_decay_rate("momentum", 0.9).is_ok());
/// let error = check_decay_rate("momentum", 1.0).unwrap_err();
/// assert_eq!(error.to_string(), "`momentum`: expected a number from 0 to below 1, found 1");
/// assert!(check_decay_rate("momentum", 0.99999999).is_err());
/// ```
pub fn check_decay_rate(field: &str, value: f64) -> Result<()> {
    let is_right = (0.0..1.0).contains(&value);
    check_that(field, value, is_right, "a number from 0 to below 1")?;
    let expected = "a number from 0 to below 1 as an f32";
    check_that(field, value, (value as f32) < 1.0, expected)
}

/// Checks both fields of a pair of decay rates, such as the betas of Adam: each from 0 to below 1,
/// as an f32 too.
///
/// # Errors
/// `is_argument` for the first that is below 0, NaN, or 1 or above, with the name of the field and
/// `.0` or `.1` behind it.
///
/// ```
/// use flatleaf::optim::check_decay_rates;
///
/// assert!(check_decay_rates("betas", (0.9, 0.999)).is_ok());
/// assert_eq!(check_decay_rates("betas", (0.9, 1.0)).unwrap_err().path(), Some("betas.1"));
/// ```
pub fn check_decay_rates(field: &str, (first, second): (f64, f64)) -> Result<()> {
    check_decay_rate(&format!("{field}.0"), first)?;
    check_decay_rate(&format!("{field}.1"), second)
}

/// Refuses a number that the caller found wrong, in the caller's words.
///
/// # Errors
/// The field, what it may be and what it is, unless it is right.
pub(super) fn check_that(field: &str, value: f64, is_right: bool, expected: &str) -> Result<()> {
    if is_right {
        Ok(())
    } else {
        Err(Error::argument(expected, value).at(field))
    }
}

/// Checks that a number of either sign is finite, as an f32 too.
///
/// # Errors
/// The field, what it may be and what it is.
pub(super) fn check_finite_f32(field: &str, value: f64) -> Result<()> {
    let expected = "a number that is finite as an f32, at most 3.4e38";
    check_that(field, value, (value as f32).is_finite(), expected)
}

fn check_not_vanishing(field: &str, value: f64) -> Result<()> {
    let is_right = value == 0.0 || value as f32 != 0.0;
    let expected = "a number that is not 0 as an f32, at least 1.4e-45";
    check_that(field, value, is_right, expected)
}

/// What the fields make together, as an element: saturates at the greatest. A rate of 1e38 is right by
/// itself, but lr/(1 − β₁) may be beyond any f32, and infinity times a gradient of 0 is NaN.
pub(super) fn saturating<E: FlatElement>(value: f64) -> E {
    E::from_f64(value).clamp(E::min_value(), E::max_value())
}
