//! Copies between slices. Knows nothing of trees.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use crate::floats::{self, Floats, FloatsMut};
use crate::tree::FlatElement;

/// From so many elements in all, copies are shared among the threads. Measured: below 2²⁰ elements (4 MiB) waking a thread that
/// sleeps costs more than it brings; 269,000 elements took 1.6 times as long with two threads as with one.
const PARALLEL: usize = 1 << 20;

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

/// Elements that one thread copies at a time: half a huge page of f32, so that two threads seldom fault in the same one.
#[cfg(feature = "rayon")]
const CHUNK: usize = 1 << 18;

/// From so many elements in all, copies go past the caches: what they write is larger than the last one, so nothing would be found there. At
/// 32 MiB of f32 they take two thirds of the time, at 16 MiB as long.
const STREAMED: usize = 1 << 23;

/// Whether a transfer of so many elements goes past the caches.
pub(crate) fn is_streamed(elements: usize) -> bool {
    elements >= STREAMED
}

fn copy_for(pairs: &[(FloatsMut<'_>, Floats<'_>)]) -> fn(Floats<'_>, FloatsMut<'_>) {
    let elements: usize = pairs.iter().map(|pair| pair.1.len()).sum();
    if is_streamed(elements) { floats::copy_streamed } else { floats::copy }
}

/// Copies every source to its destination, which is as long, converted if it is of another type.
#[cfg(feature = "rayon")]
pub(crate) fn copy_all(pairs: Vec<(FloatsMut<'_>, Floats<'_>)>) {
    let copy = copy_for(&pairs);
    pairs.into_par_iter().for_each(|(to, from)| {
        if to.has_len(from.len()) && from.len() <= CHUNK {
            return copy(from, to);
        }
        let parts: Vec<_> = to.chunks(CHUNK).zip(from.chunks(CHUNK)).collect();
        parts.into_par_iter().for_each(|(to, from)| copy(from, to));
    });
}

/// Copies every source to its destination, which is as long, converted if it is of another type.
#[cfg(not(feature = "rayon"))]
pub(crate) fn copy_all(pairs: Vec<(FloatsMut<'_>, Floats<'_>)>) {
    let copy = copy_for(&pairs);
    pairs.into_iter().for_each(|(to, from)| copy(from, to));
}

/// Copies of which the small ones are made as they come, and the large ones together by all threads.
pub(crate) struct Copies<'t, 'f> {
    /// None where all together are not worth more than one thread.
    large: Option<Vec<(FloatsMut<'t>, Floats<'f>)>>,
}

impl<'t, 'f> Copies<'t, 'f> {
    /// Copies of so many elements in all.
    pub(crate) fn of(elements: usize) -> Self {
        Copies { large: is_parallel(elements).then(Vec::new) }
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

/// Adds a slice to another that is as long.
pub(crate) fn add<E: FlatElement>(to: &mut [E], from: &[E]) {
    #[cfg(feature = "rayon")]
    if is_parallel(to.len()) {
        let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        return chunks.for_each(|(to, from)| add_serial(to, from));
    }
    add_serial(to, from);
}

fn add_serial<E: FlatElement>(to: &mut [E], from: &[E]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
}

/// What `make` makes of every item, in their order, by all threads: a vector is filled by the thread that allocated it.
#[cfg(feature = "rayon")]
pub(crate) fn make_all<T: Sync, R: Send>(items: &[T], make: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    items.par_iter().map(make).collect()
}

/// What `make` makes of every item.
#[cfg(not(feature = "rayon"))]
pub(crate) fn make_all<T, R>(items: &[T], make: impl Fn(&T) -> R) -> Vec<R> {
    items.iter().map(make).collect()
}

/// Does the work of every task, all threads together: halves of equal weight, and halves of these.
#[cfg(feature = "rayon")]
pub(crate) fn share<T: Send>(tasks: &mut [T], weight: impl Fn(&T) -> usize + Sync, work: impl Fn(&mut T) + Sync) {
    if !is_parallel(tasks.iter().map(&weight).sum()) {
        return tasks.iter_mut().for_each(work);
    }
    if rayon::current_thread_index().is_some() {
        return split(tasks, &weight, &work);
    }
    // A caller outside the pool does its part instead of sleeping, and keeps its CPU.
    let (mine, others) = cut(tasks, &weight, threads());
    rayon::in_place_scope(|scope| {
        scope.spawn(|_| split(others, &weight, &work));
        mine.iter_mut().for_each(&work);
    });
}

/// Does the work of every task.
#[cfg(not(feature = "rayon"))]
pub(crate) fn share<T>(tasks: &mut [T], _weight: impl Fn(&T) -> usize, work: impl Fn(&mut T)) {
    tasks.iter_mut().for_each(work);
}

/// Tasks of less weight are not worth handing over.
#[cfg(feature = "rayon")]
const GRAIN: usize = 1 << 15;

#[cfg(feature = "rayon")]
fn split<T: Send>(tasks: &mut [T], weight: &(impl Fn(&T) -> usize + Sync), work: &(impl Fn(&mut T) + Sync)) {
    if tasks.len() < 2 || tasks.iter().map(weight).sum::<usize>() < GRAIN {
        return tasks.iter_mut().for_each(work);
    }
    let (left, right) = cut(tasks, weight, 2);
    rayon::join(|| split(left, weight, work), || split(right, weight, work));
}

/// Cuts where the left part first weighs a share of all, such as half; neither part is empty if there are two tasks.
#[cfg(feature = "rayon")]
fn cut<'t, T>(tasks: &'t mut [T], weight: &impl Fn(&T) -> usize, shares: usize) -> (&'t mut [T], &'t mut [T]) {
    let total: usize = tasks.iter().map(weight).sum();
    let mut left = 0;
    let at = tasks.iter().position(|task| {
        left += weight(task);
        shares * left >= total
    });
    let at = (at.unwrap_or(0) + 1).min(tasks.len().saturating_sub(1)).max(1).min(tasks.len());
    tasks.split_at_mut(at)
}
