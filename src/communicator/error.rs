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

    /// A member's layout is not that of member 0; fingerprints of both.
    pub(crate) fn layout_of_member(rank: usize, first: u64, found: u64) -> Self {
        let expected = format!("on member {rank} the layout of member 0, {first:016x}");
        Error::other_layout(expected, format!("{found:016x}"))
    }
}
