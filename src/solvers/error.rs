//! What goes wrong in a solver's problem.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn evaluating() -> Self {
        let expected = "an objective that this thread is not evaluating already: give each task, \
                        and the function, one of its own";
        Problem::new(ErrorKind::Borrowed)
            .expected(expected)
            .found("one in the middle of an evaluation")
            .into()
    }
}
