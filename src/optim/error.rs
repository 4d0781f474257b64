//! What is wrong with a step or with the state that an optimiser goes on from.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn non_finite_step() -> Self {
        Problem::new(ErrorKind::NonFinite)
            .expected("a finite norm of the step")
            .found("one that is not, of a finite gradient")
            .into()
    }

    pub(crate) fn invalid_state(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidState)
            .expected("a state that agrees with itself")
            .found(found)
            .into()
    }
}
