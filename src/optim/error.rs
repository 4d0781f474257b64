//! What is wrong with a step or with the state that an optimiser goes on from.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn non_finite_step() -> Self {
        Problem::new(ErrorKind::NonFinite)
            .expected("a finite norm of the step")
            .found("one that is not, of a finite gradient")
            .into()
    }

    pub(crate) fn overflow_at_least_scale(scale: f64) -> Self {
        let expected = "a finite gradient at the least loss scale (a loss that overflows whatever it \
                        is multiplied with is seldom a matter of its scale: look at the loss, or \
                        lower `min_scale`)";
        Problem::new(ErrorKind::NonFinite)
            .expected(expected)
            .found(format!("one that is infinite or NaN, at the scale {scale}"))
            .into()
    }

    pub(crate) fn lent_length(expected: usize, found: usize) -> Self {
        Problem::new(ErrorKind::Length)
            .expected(format!("a slice of {expected} elements to be lent"))
            .found(format!("one of {found}"))
            .into()
    }

    pub(crate) fn lent_times(found: &str) -> Self {
        Problem::new(ErrorKind::Argument)
            .expected("`lend` to call `step` once with the elements of the leaf")
            .found(found)
            .into()
    }

    /// For a leaf of a step that has moved others: whether it has moved, and, of the first one, what
    /// the others did.
    pub(crate) fn in_a_step(self, has_moved: bool, is_first: bool) -> Self {
        let became = match has_moved {
            true => "; its step is taken and counted",
            false => "; it is as it was, and so is its step count",
        };
        let error = self.and(became);
        match is_first {
            true => error.about("every leaf that is not named here has taken its step"),
            false => error,
        }
    }

    pub(crate) fn invalid_state(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidState)
            .expected("a state that agrees with itself")
            .found(found)
            .into()
    }
}
