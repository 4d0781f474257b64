//! What is wrong between a tree and its layout, and with a layout by itself.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn shape(path: String, expected: &[usize], found: &[usize]) -> Self {
        Problem::new(ErrorKind::Shape)
            .at(path)
            .expected(format!("shape {expected:?}"))
            .found(format!("shape {found:?}"))
            .into()
    }

    pub(crate) fn missing(path: String, expected: String) -> Self {
        Problem::new(ErrorKind::Missing)
            .at(path)
            .expected(expected)
            .found("no leaf")
            .into()
    }

    pub(crate) fn unknown(path: String, expected: &str, found: String) -> Self {
        Problem::new(ErrorKind::Unknown)
            .at(path)
            .expected(expected)
            .found(found)
            .into()
    }

    pub(crate) fn broken_tie(first: String, second: String, expected: &str, found: &str) -> Self {
        Problem::new(ErrorKind::BrokenTie)
            .at(first)
            .and_at(second)
            .expected(expected)
            .found(found)
            .into()
    }

    pub(crate) fn overlap(first: String, second: String) -> Self {
        Problem::new(ErrorKind::Overlap)
            .at(first)
            .and_at(second)
            .expected("views of the same elements in another axis order, or of none in common")
            .found("views that share some elements")
            .into()
    }

    pub(crate) fn other_layout(expected: String, found: String) -> Self {
        Problem::new(ErrorKind::OtherLayout)
            .expected(expected)
            .found(found)
            .into()
    }

    pub(crate) fn pattern(pattern: &str, expected: &str, found: &str) -> Self {
        Problem::new(ErrorKind::Pattern)
            .at(pattern)
            .expected(expected)
            .found(found)
            .into()
    }

    pub(crate) fn invalid_layout(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidLayout)
            .expected("a layout that agrees with itself")
            .found(found)
            .into()
    }
}
