//! Copies between slices. Knows nothing of trees.

use super::floats::{self, Floats, FloatsMut};
use crate::threads;

/// Leaves of fewer elements are copied where they are met: noting one down costs as much as copying
/// it.
const SMALL: usize = 1 << 12;

/// Whether a leaf of so many elements is worth noting down for a parallel copy.
pub(crate) fn is_large(elements: usize) -> bool {
    elements >= SMALL
}

/// Elements that one thread copies at a time: half a huge page of f32, so that two threads seldom
/// fault in the same one.
const CHUNK: usize = 1 << 18;

/// From so many elements in all, copies go past the caches: what they write is larger than the last
/// one, so nothing would be found there. At 32 MiB of f32 they take two thirds of the time, at 16
/// MiB as long.
const STREAMED: usize = 1 << 23;

/// Whether a transfer of so many elements goes past the caches.
pub(crate) fn is_streamed(elements: usize) -> bool {
    elements >= STREAMED
}

/// Copies every source to its destination, which is as long, converted if it is of another type.
pub(crate) fn copy_all(pairs: Vec<(FloatsMut<'_>, Floats<'_>)>) {
    let elements = pairs.iter().map(|pair| pair.1.len()).sum();
    let copy = if is_streamed(elements) {
        floats::copy_streamed
    } else {
        floats::copy
    };
    let parts = pairs
        .into_iter()
        .flat_map(|(to, from)| to.chunks(CHUNK).zip(from.chunks(CHUNK)));
    threads::share(
        &mut parts.collect::<Vec<_>>(),
        |(_, from)| from.len(),
        |(to, from)| copy(*from, to.reborrow()),
    );
}

/// Copies of which the small ones are made as they come, and the large ones together by all
/// threads.
pub(crate) struct Copies<'t, 'f> {
    /// None where all together are not worth more than one thread.
    large: Option<Vec<(FloatsMut<'t>, Floats<'f>)>>,
}

impl<'t, 'f> Copies<'t, 'f> {
    /// Copies of so many elements in all.
    pub(crate) fn of(elements: usize) -> Self {
        Copies {
            large: threads::is_parallel(elements).then(Vec::new),
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, to: FloatsMut<'t>, from: Floats<'f>) {
        match &mut self.large {
            Some(large) if is_large(from.len()) => large.push((to, from)),
            _ => floats::copy(from, to),
        }
    }

    pub(crate) fn finish(self) {
        copy_all(self.large.unwrap_or_default());
    }
}
