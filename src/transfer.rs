//! Copies between slices. Knows nothing of trees.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

/// From so many elements in all, copies are shared among the threads. Measured: below 2¹⁸ elements (1 MiB) waking a thread costs more than it
/// brings.
const PARALLEL: usize = 1 << 18;

/// Leaves of fewer elements are copied where they are met: noting one down costs as much as copying it.
const SMALL: usize = 1 << 12;

/// Whether a transfer of so many elements is worth more than one thread.
pub(crate) fn is_parallel(elements: usize) -> bool {
    cfg!(feature = "rayon") && elements >= PARALLEL && threads() > 1
}

/// Whether a leaf of so many elements is worth noting down for a parallel copy.
pub(crate) fn is_large(elements: usize) -> bool {
    elements >= SMALL
}

#[cfg(feature = "rayon")]
fn threads() -> usize {
    rayon::current_num_threads()
}

#[cfg(not(feature = "rayon"))]
fn threads() -> usize {
    1
}

/// Elements that one thread copies at a time: half a huge page, so that two threads seldom fault in the same one.
#[cfg(feature = "rayon")]
const CHUNK: usize = 1 << 18;

/// Copies every source to its destination, which is as long.
#[cfg(feature = "rayon")]
pub(crate) fn copy_all(pairs: &mut [(&mut [f32], &[f32])]) {
    pairs.par_iter_mut().for_each(|(to, from)| {
        if to.len() <= CHUNK {
            return to.copy_from_slice(from);
        }
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
    });
}

/// Copies every source to its destination, which is as long.
#[cfg(not(feature = "rayon"))]
pub(crate) fn copy_all(pairs: &mut [(&mut [f32], &[f32])]) {
    pairs.iter_mut().for_each(|(to, from)| to.copy_from_slice(from));
}

/// Adds a slice to another that is as long.
pub(crate) fn add(to: &mut [f32], from: &[f32]) {
    #[cfg(feature = "rayon")]
    if is_parallel(to.len()) {
        let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        return chunks.for_each(|(to, from)| add_serial(to, from));
    }
    add_serial(to, from);
}

fn add_serial(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Copies of every range of a slice, in vectors of their own.
pub(crate) fn copies(flat: &[f32], ranges: &[std::ops::Range<usize>]) -> Vec<Vec<f32>> {
    let copy = |range: &std::ops::Range<usize>| crate::memory::copy_of(&flat[range.clone()]);
    #[cfg(feature = "rayon")]
    return ranges.par_iter().map(copy).collect();
    #[cfg(not(feature = "rayon"))]
    return ranges.iter().map(copy).collect();
}
