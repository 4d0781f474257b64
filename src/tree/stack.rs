//! Room on the stack for deep trees: 1,024 levels are allowed, and how large the frames of a level
//! are is the tree's affair.

use crate::error::{Error, Result};

/// More levels than this are an error.
pub(crate) const MAX_LEVELS: usize = 1024;

/// Levels between two looks at the stack, so that a look costs nothing per leaf.
const EVERY: usize = 32;
/// What these levels must get by with: 8 KiB each, in a debug build too.
const RESERVE: usize = 256 << 10;
const GROWTH: usize = 2 << 20;

/// An error if the stack runs out: pointers in pointers are no levels, but there may be any number
/// of them.
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

/// Visits what is at a level of the tree; now and then on a new piece of stack, if the old one runs
/// out.
#[inline]
pub(crate) fn with_stack_space<R>(level: usize, visit: impl FnOnce() -> Result<R>) -> Result<R> {
    if level.is_multiple_of(EVERY) {
        stacker::maybe_grow(RESERVE, GROWTH, visit)
    } else {
        visit()
    }
}
