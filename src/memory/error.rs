//! What the system says when it has no memory.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn out_of_memory(bytes: usize) -> Self {
        Problem::new(ErrorKind::OutOfMemory)
            .expected(format!("{bytes} bytes of memory"))
            .found("less")
            .into()
    }
}
