//! What is wrong with numbers, whatever they belong to.

use std::fmt::Display;

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn argument(expected: &str, found: impl Display) -> Self {
        Problem::new(ErrorKind::Argument)
            .expected(expected)
            .found(found.to_string())
            .into()
    }

    pub(crate) fn non_finite(index: usize, value: impl Display) -> Self {
        Problem::new(ErrorKind::NonFinite)
            .expected("finite elements")
            .found(format!("{value} at index {index}"))
            .into()
    }

    /// `what` names the vector: "the flat vector".
    pub(crate) fn non_finite_norm() -> Self {
        Problem::new(ErrorKind::NonFinite)
            .expected("a finite norm")
            .found("one beyond f64, of finite elements")
            .into()
    }

    pub(crate) fn length(what: impl Into<String>, expected: usize, found: usize) -> Self {
        Problem::new(ErrorKind::Length)
            .about(what)
            .expected(format!("{expected} elements"))
            .found(found.to_string())
            .into()
    }
}
