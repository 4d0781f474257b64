//! Fallible allocation: memory for as many elements as a tree or a stored layout says that it has, which may be more than
//! any machine holds.
//!
//! The standard library makes vectors of zeros whose pages nobody has touched, but none that may
//! fail: it aborts the process. So a large vector is asked for and given back before it is made,
//! which costs two calls of the system and touches nothing.

use bytemuck::Zeroable;

use crate::error::{Error, Result};

/// Vectors of fewer bytes are made without a question.
const LARGE: usize = 64 << 20;

/// # Errors
/// No memory for so many elements.
fn check<E>(len: usize) -> Result<()> {
    if bytes::<E>(len) < LARGE {
        return Ok(());
    }
    let mut vector = Vec::<E>::new();
    let answer = vector.try_reserve_exact(len);
    // Otherwise the compiler may leave the question out, as nobody uses the memory.
    std::hint::black_box(&mut vector);
    answer.map_err(|_| Error::out_of_memory(bytes::<E>(len)))
}

/// As many as there are numbers for if it is too large.
fn bytes<E>(len: usize) -> usize {
    len.saturating_mul(size_of::<E>())
}

/// # Errors
/// No memory for so many elements.
pub(crate) fn try_zeroed<E: Zeroable + Clone>(len: usize) -> Result<Vec<E>> {
    check::<E>(len)?;
    Ok(super::zeroed(len))
}

/// An empty vector for so many elements.
///
/// # Errors
/// No memory for so many elements.
pub(crate) fn try_with_capacity<E>(len: usize) -> Result<Vec<E>> {
    check::<E>(len)?;
    Ok(super::with_capacity(len))
}

/// Adds so many zeros to a vector; where its first new element is.
///
/// # Errors
/// No memory for so many elements.
pub(crate) fn try_extend_zeroed<E: Zeroable + Clone>(
    vector: &mut Vec<E>,
    len: usize,
) -> Result<usize> {
    vector
        .try_reserve(len)
        .map_err(|_| Error::out_of_memory(bytes::<E>(len)))?;
    let end = vector.len();
    vector.resize(end + len, E::zeroed());
    Ok(end)
}
