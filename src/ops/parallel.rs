//! Large slices over all threads, with results that do not know how many there were.
//!
//! A slice is cut in two at a multiple of [`CHUNK`], and so are the halves, until one chunk is
//! left:
//!
//! ```text
//! fold(slice) = leaf(slice)                        if it is one chunk or less
//!             = merge(fold(left), fold(right))     otherwise, left being half of the chunks, rounded down
//! ```
//!
//! The tree depends on the length alone. Threads only decide who computes which half, so every
//! merge has the same operands in the same order, whatever their number: one too. (rayon's own
//! `sum` and `reduce` cut where a thread happens to be idle.) Merging pairwise also keeps the
//! rounding error of a sum at log₂ of the number of chunks (Higham, *The accuracy of floating point
//! summation*, 1993), and there is no list of partial results to allocate.

use std::ops::Range;

#[cfg(feature = "rayon")]
use crate::threads;

/// Elements of one leaf of the tree. Determines rounding: another size adds in another order.
pub(super) const CHUNK: usize = 16 * 1024;

/// What can be cut in two: a slice, or two of equal length cut at the same place.
pub(super) trait Cut: Sized + Send {
    fn len(&self) -> usize;

    fn cut(self, at: usize) -> (Self, Self);
}

impl<E: Sync> Cut for &[E] {
    fn len(&self) -> usize {
        <[E]>::len(self)
    }

    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

impl<E: Send> Cut for &mut [E] {
    fn len(&self) -> usize {
        <[E]>::len(self)
    }

    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

/// Of elements that are not there yet, their places.
impl Cut for Range<usize> {
    fn len(&self) -> usize {
        ExactSizeIterator::len(self)
    }

    fn cut(self, at: usize) -> (Self, Self) {
        let middle = self.start + at;
        (self.start..middle, middle..self.end)
    }
}

impl<A: Cut, B: Cut> Cut for (A, B) {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn cut(self, at: usize) -> (Self, Self) {
        let ((left_a, right_a), (left_b, right_b)) = (self.0.cut(at), self.1.cut(at));
        ((left_a, left_b), (right_a, right_b))
    }
}

/// `leaf` of every chunk, merged pairwise.
pub(super) fn fold<C, R>(
    slices: C,
    leaf: impl Fn(C) -> R + Sync,
    merge: impl Fn(R, R) -> R + Sync,
) -> R
where
    C: Cut,
    R: Send,
{
    let threads = Threads::worth_it(slices.len());
    tree(slices, threads, &leaf, &merge)
}

/// `leaf` of every chunk, for what it does.
pub(super) fn each<C: Cut>(slices: C, leaf: impl Fn(C) + Sync) {
    fold(slices, leaf, |(), ()| ());
}

fn tree<C, R>(
    slices: C,
    threads: Threads,
    leaf: &(impl Fn(C) -> R + Sync),
    merge: &(impl Fn(R, R) -> R + Sync),
) -> R
where
    C: Cut,
    R: Send,
{
    let chunks = slices.len().div_ceil(CHUNK);
    if chunks <= 1 {
        return leaf(slices);
    }
    let (left, right) = slices.cut(chunks / 2 * CHUNK);
    let (left, right) = threads.join(left, right, |half, threads| {
        tree(half, threads, leaf, merge)
    });
    merge(left, right)
}

/// Who does the work.
#[derive(Clone, Copy)]
enum Threads {
    /// The calling thread.
    One,
    /// The calling thread, which belongs to the pool, and the others of the pool.
    #[cfg(feature = "rayon")]
    Pool,
    /// The calling thread, which is outside the pool, a part of at most so many elements, and the
    /// pool the rest.
    ///
    /// rayon's `join` would hand over everything and sleep. The scheduler then often wakes both
    /// workers on the caller's CPU and leaves the other idle for milliseconds; a caller that works
    /// keeps its own CPU.
    #[cfg(feature = "rayon")]
    Beside(usize),
}

#[cfg(not(feature = "rayon"))]
impl Threads {
    fn worth_it(_: usize) -> Self {
        Threads::One
    }

    fn join<C, R>(self, left: C, right: C, work: impl Fn(C, Threads) -> R) -> (R, R) {
        (work(left, self), work(right, self))
    }
}

#[cfg(feature = "rayon")]
impl Threads {
    /// Two threads begin to win where the work outweighs the waking of one that sleeps. The L2 norm
    /// on two cores of a Zen 4 (virtual, shared), median µs of one thread → of two, the pool awake
    /// … asleep:
    ///
    /// | elements | 2¹⁵ | 2¹⁶ | 2¹⁷ | 2¹⁸ | 2¹⁹ | 2²⁰ |
    /// | --- | --- | --- | --- | --- | --- | --- |
    /// | inside the pool | 3 → 3 | 5.5 → 4 | 11 → 7 | 23 → 12 | 45 → 24 | 90 → 48 |
    /// | from outside | | 5.5 → 13 … 21 | 11 → 16 … 27 | 23 → 13 … 28 | 45 → 24 … 54 | 88 → 49 … 108 |
    ///
    /// `cargo bench --bench ops` prints the gains of this machine. The caller's part is its share
    /// of a vector just large enough, and half of it of a large one (from 4·2²⁰ elements, for two
    /// threads): then the pool has something to even out, 5–8 % in all.
    fn worth_it(len: usize) -> Self {
        const INSIDE: usize = 1 << 16;
        const OUTSIDE: usize = 1 << 20;
        let outside = || rayon::current_thread_index().is_none();
        if len < INSIDE || (len < OUTSIDE && outside()) || threads::count() == 1 {
            return Threads::One;
        }
        let share = len / threads::count();
        if outside() {
            Threads::Beside(share.min(OUTSIDE).max(share / 2))
        } else {
            Threads::Pool
        }
    }

    fn join<C, R>(self, left: C, right: C, work: impl Fn(C, Threads) -> R + Sync) -> (R, R)
    where
        C: Cut,
        R: Send,
    {
        match self {
            Threads::One => (work(left, self), work(right, self)),
            Threads::Pool => rayon::join(|| work(left, self), || work(right, self)),
            Threads::Beside(share) => {
                let mine = if left.len() <= share {
                    Threads::One
                } else {
                    self
                };
                beside(|| work(left, mine), || work(right, Threads::Pool))
            }
        }
    }
}

/// `here` by this thread while the pool does `there`.
#[cfg(feature = "rayon")]
fn beside<R>(here: impl FnOnce() -> R, there: impl FnOnce() -> R + Send) -> (R, R)
where
    R: Send,
{
    let mut right = None;
    let left = rayon::in_place_scope(|scope| {
        scope.spawn(|_| right = Some(there()));
        here()
    });
    (left, right.expect("the scope waits for what it spawned"))
}
