//! What one member of a run learns of another.

use std::fmt::Display;

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    /// Another member of a run is the reason.
    pub(crate) fn member(rank: usize, message: impl Display) -> Self {
        Problem::new(ErrorKind::Member)
            .expected("every member to go on")
            .found(format!("member {rank}: {message}"))
            .into()
    }
}
