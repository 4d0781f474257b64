//! Work shared among threads. Knows nothing of trees.
//!
//! # What may wait for what
//! Who shares work waits until all of it is done, and the other threads do some of it only when
//! they are free. rayon's threads take up other tasks of their pool while they wait. Three things
//! follow, and all of them hang:
//!
//! - A lock that is held while work is shared, and that other tasks of the pool want: the thread
//!   that waits takes up such a task, and it waits for the lock below it on its own stack. In this
//!   crate nothing is shared behind a lock: who holds one works [`alone`].
//! - A caller outside of the pool who holds a lock of its own that all threads of the pool wait
//!   for: none of them is free to finish the caller's work.
//! - A process that was forked: the child has the pool, but none of its threads.
//!
//! `design.md` says so to users, under "When may a call hang?".

use std::cell::Cell;

#[cfg(feature = "rayon")]
mod queue;

thread_local! {
    /// Whether what this thread does is its own.
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work` such that whatever flatleaf does in it stays on this thread: for who holds a lock
/// that other tasks of rayon's pool may want.
///
/// A thread that shares work takes up other tasks of its pool while it waits, and such a task may
/// want the lock that lies below it on the same stack; or all threads of the pool wait for the lock,
/// and none is free to finish the work of its holder. Results have the same bits with one thread as
/// with several.
///
/// ```
/// use flatleaf::implementing::alone;
/// use flatleaf::ops;
/// use std::sync::Mutex;
///
/// let weights = Mutex::new(vec![3.0_f32, 4.0]);
/// let locked = weights.lock().unwrap();
/// assert_eq!(alone(|| ops::norm_l2(&locked)), 5.0);
/// ```
pub fn alone<R>(work: impl FnOnce() -> R) -> R {
    /// A panic ends it too.
    struct Restore(bool);

    impl Drop for Restore {
        fn drop(&mut self) {
            IS_ALONE.set(self.0);
        }
    }

    let _restore = Restore(IS_ALONE.replace(true));
    work()
}

/// From so many elements in all, work is shared. Below, waking a thread that sleeps costs more than
/// it brings: from 2¹⁸ on, a moving average of 269,000 elements took 16 µs in place of 20 where one
/// call followed the other at once, and 35 µs where something else came between.
const PARALLEL: usize = 1 << 20;

/// Whether copying so many elements is worth more than one thread.
pub(crate) fn is_parallel(elements: usize) -> bool {
    elements >= PARALLEL && count() > 1
}

/// Threads that may share this thread's work.
#[cfg(feature = "rayon")]
pub(crate) fn count() -> usize {
    if IS_ALONE.get() {
        1
    } else {
        rayon::current_num_threads()
    }
}

#[cfg(not(feature = "rayon"))]
fn count() -> usize {
    1
}

/// Does the work of every task, all threads together. A task weighs as much as copying so many
/// elements.
#[cfg(feature = "rayon")]
pub(crate) fn share<T: Send>(
    tasks: &mut [T],
    weight: impl Fn(&T) -> usize + Sync,
    work: impl Fn(&mut T) + Sync,
) {
    let total = tasks.iter().map(&weight).sum();
    if is_parallel(total) {
        queue::share(tasks, total, weight, work)
    } else {
        tasks.iter_mut().for_each(work)
    }
}

/// Does the work of every task.
#[cfg(not(feature = "rayon"))]
pub(crate) fn share<T>(tasks: &mut [T], _weight: impl Fn(&T) -> usize, work: impl Fn(&mut T)) {
    tasks.iter_mut().for_each(work);
}

/// What `make` makes of every item, in their order: shared as by [`share`].
pub(crate) fn map<T, R>(
    items: &[T],
    weight: impl Fn(&T) -> usize + Sync,
    make: impl Fn(&T) -> R + Sync,
) -> Vec<R>
where
    T: Sync,
    R: Send,
{
    let mut tasks: Vec<(&T, Option<R>)> = items.iter().map(|item| (item, None)).collect();
    share(
        &mut tasks,
        |task| weight(task.0),
        |(item, made)| *made = Some(make(item)),
    );
    tasks.into_iter().filter_map(|task| task.1).collect()
}
