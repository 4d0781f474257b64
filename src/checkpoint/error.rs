//! What is wrong with a file, or between a file and a model.

use std::path::Path;

use crate::error::{Error, ErrorKind, Printable, Problem};

impl Error {
    pub(crate) fn invalid_file(expected: &str, found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidFile)
            .expected(expected)
            .found(Printable(&found.into()).to_string())
            .into()
    }

    pub(crate) fn io(path: &Path, expected: &str, error: &std::io::Error) -> Self {
        Problem::new(ErrorKind::Io(error.kind()))
            .at(path.display().to_string())
            .expected(expected)
            .found(error.to_string())
            .into()
    }

    /// Two names of a file of which one is the beginning of the other's path.
    pub(crate) fn leaf_and_branch(leaf: &str, below: &str) -> Self {
        Problem::new(ErrorKind::InvalidFile)
            .at(leaf)
            .and_at(below)
            .expected("names of which none is the beginning of another's path")
            .found("a tensor of the first name, and one below it")
            .into()
    }

    /// Leaves, at least one, that a file has nothing for.
    pub(crate) fn missing_tensors(paths: Vec<String>) -> Self {
        Problem::new(ErrorKind::Missing)
            .at_all(paths)
            .expected("a tensor in the file")
            .found("none")
            .into()
    }

    /// Tensors, at least one, that are no leaf's.
    pub(crate) fn unexpected_tensors(names: Vec<String>) -> Self {
        Problem::new(ErrorKind::Unknown)
            .at_all(names)
            .expected("a leaf in the model")
            .found("none")
            .into()
    }
}
