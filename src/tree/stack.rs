//! Stack space for deep trees. 1,024 levels are allowed, and how large the frames of a level are is
//! the tree's affair, so the walk looks now and then how much of the stack is left and goes on upon
//! a new piece of it where too little is.
//!
//! Boxes and shared pointers are no levels, and there may be any number of them one in another.
//! They look too, but do not grow the stack: a chain of a hundred thousand boxes is an error, in
//! reading as in rebuilding, where the stack would run out otherwise.

use crate::error::{Error, Result};

/// More levels than this are an error.
pub(crate) const MAX_LEVELS: usize = 1024;

/// Levels between two looks at the stack, so that a look costs nothing per leaf.
const EVERY: usize = 8;
/// What is left after a look: twice what these levels need at 8 KiB each, in a debug build too. The
/// other half is for pointers between them. Threads with as small a stack as this work.
const RESERVE: usize = 128 << 10;
const GROWTH: usize = 2 << 20;

/// An error if the stack runs out within pointers in pointers, which are no levels.
#[inline]
pub(crate) fn check_stack_space() -> Result<()> {
    if stacker::remaining_stack().is_some_and(|left| left < RESERVE / 2) {
        Err(Error::too_deep(MAX_LEVELS))
    } else {
        Ok(())
    }
}

/// Goes on, on a new piece of stack if the old one runs out: for what is as deep as its maker made
/// it.
pub(crate) fn with_grown_stack<R>(work: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(RESERVE, GROWTH, work)
}

/// Visits what is at a level of the tree; every few levels on a new piece of stack, if the old one
/// runs out.
#[inline]
pub(crate) fn with_stack_space<R>(level: usize, visit: impl FnOnce() -> Result<R>) -> Result<R> {
    if level.is_multiple_of(EVERY) {
        with_grown_stack(visit)
    } else {
        visit()
    }
}
