//! Element by element, in place: the destination is the first argument.
//!
//! One rounding an operation and no `mul_add`, so that the bits are the same on every machine;
//! which NaN a NaN becomes is not promised. Large slices are split over all threads.

use super::dispatch::{self, Kernel};
use super::{assert_equal_lengths, parallel};
use crate::element::FlatElement;

/// y ← y + x, element by element: a gradient added to what has been accumulated.
///
/// Each sum is rounded once, to f32. Reads both once and writes `y` once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// let mut y = [1.0, 2.0];
/// ops::add(&mut y, &[10.0, 20.0]);
/// assert_eq!(y, [11.0, 22.0]);
/// ```
#[track_caller]
pub fn add<E: FlatElement>(y: &mut [E], x: &[E]) {
    assert_equal_lengths("add", y, x);
    add_elements(y, x);
}

/// y ← y + x for slices of equal length, of any type that a flat vector has.
pub(crate) fn add_elements<E: FlatElement>(y: &mut [E], x: &[E]) {
    zip(y, x, |mut y, x| {
        y += x;
        y
    });
}

/// y ← y − x, element by element: the difference of two models' vectors, in place of the first.
///
/// Each difference is rounded once, to f32. Reads both once and writes `y` once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// let mut y = [1.0, 2.0];
/// ops::sub(&mut y, &[10.0, 20.0]);
/// assert_eq!(y, [-9.0, -18.0]);
/// ```
#[track_caller]
pub fn sub<E: FlatElement>(y: &mut [E], x: &[E]) {
    assert_equal_lengths("sub", y, x);
    zip(y, x, |y, x| y - x);
}

/// x ← c·x, element by element; with `c` = 1 / n the mean of what `n` calls of [`add`] summed.
///
/// Each product is rounded once, to f32. NaN stays NaN, and infinity times 0 becomes it. Reads and
/// writes `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// let mut x = [1.0, -2.0];
/// ops::scale(&mut x, 0.5);
/// assert_eq!(x, [0.5, -1.0]);
/// ```
pub fn scale<E: FlatElement>(x: &mut [E], c: E) {
    map(x, move |x| c * x);
}

/// y ← y + alpha·x.
///
/// The product is rounded to f32 and then the sum, as in a loop without `mul_add`. A NaN or an
/// infinity in `x` shows with `alpha` = 0 too. Reads both once and writes `y` once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// let mut weights = [1.0, 2.0];
/// ops::axpy(&mut weights, -0.5, &[2.0, 4.0]);
/// assert_eq!(weights, [0.0, 0.0]);
/// ```
#[track_caller]
pub fn axpy<E: FlatElement>(y: &mut [E], alpha: E, x: &[E]) {
    assert_equal_lengths("axpy", y, x);
    zip(y, x, move |y, x| y + alpha * x);
}

/// a ← (1 − w)·a + w·b: a moving average of `a`, with weight `w` on the new value `b`.
///
/// Written as PyTorch writes it, in two forms, so that both ends are exact: for finite elements `w`
/// = 0 leaves `a` and `w` = 1 gives `b` (but a −0 may become +0), and where `a` = `b` every weight
/// leaves it.
///
/// ```text
/// w < ½:     a + w·(b − a)
/// otherwise: b − (b − a)·(1 − w)
/// ```
///
/// Weights beyond 0…1 extrapolate. A NaN in either makes the element NaN at every weight, 0
/// included, so none goes unnoticed. An infinity in either gives an infinity or NaN, at weight 0
/// too (0·∞ is NaN), and so does a difference `b − a` beyond 3.4e38.
///
/// Reads both once and writes `a` once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// let mut average = [1.0, 2.0];
/// ops::lerp(&mut average, &[3.0, 6.0], 0.25);
/// assert_eq!(average, [1.5, 3.0]);
/// ```
#[track_caller]
pub fn lerp<E: FlatElement>(a: &mut [E], b: &[E], w: E) {
    assert_equal_lengths("lerp", a, b);
    if w < E::from_f64(0.5) {
        zip(a, b, move |a, b| a + w * (b - a));
    } else {
        let rest = E::one() - w;
        zip(a, b, move |a, b| b - (b - a) * rest);
    }
}

/// x ← x limited to `lo`…`hi`, element by element: an element below becomes `lo`, one above `hi`.
///
/// NaN stays NaN. Reads and writes `x` once.
///
/// ***Panics*** if `lo` is above `hi` or either is NaN, as `f32::clamp` does.
///
/// ```
/// use flatleaf::ops;
///
/// let mut x = [-2.0, 0.25, 7.0];
/// ops::clamp(&mut x, -1.0, 1.0);
/// assert_eq!(x, [-1.0, 0.25, 1.0]);
/// ```
#[track_caller]
pub fn clamp<E: FlatElement>(x: &mut [E], lo: E, hi: E) {
    assert!(
        lo <= hi,
        "`clamp`: expected bounds in order, found {lo} and {hi}"
    );
    map(x, move |x| x.clamp(lo, hi));
}

/// x ← v: every element becomes `v`, by all threads where `x` is large.
///
/// Writes `x` once. For an accumulator that begins anew, zeros are written and not allocated again.
///
/// ```
/// use flatleaf::ops;
///
/// let mut x = [1.0, 2.0];
/// ops::fill(&mut x, 0.0);
/// assert_eq!(x, [0.0, 0.0]);
/// ```
pub fn fill<E: FlatElement>(x: &mut [E], v: E) {
    parallel::each(x, |x| x.fill(v));
}

/// x ← f(x), element by element, for what has no function of its own here.
///
/// `f` is called once an element, in no order: large slices are split over threads. Plain
/// arithmetic is vectorised; what the closure needs is best captured with `move`. Reads and writes
/// `x` once.
///
/// ```
/// use flatleaf::ops;
///
/// let mut x = [1.0, -2.0];
/// ops::map(&mut x, |x| x * x);
/// assert_eq!(x, [1.0, 4.0]);
/// ```
pub fn map<E: FlatElement>(x: &mut [E], f: impl Fn(E) -> E + Sync) {
    parallel::each(x, |x| map_chunk(x, &f));
}

/// y ← f(y, x), element by element, for what has no function of its own here.
///
/// `f` is called once a pair, in no order: large slices are split over threads. Plain arithmetic is
/// vectorised; what the closure needs is best captured with `move`. Reads both once and writes `y`
/// once.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops;
///
/// let mut greatest = [1.0, 5.0];
/// ops::zip_map(&mut greatest, &[3.0, 4.0], f32::max);
/// assert_eq!(greatest, [3.0, 5.0]);
/// ```
#[track_caller]
pub fn zip_map<E: FlatElement>(y: &mut [E], x: &[E], f: impl Fn(E, E) -> E + Sync) {
    assert_equal_lengths("zip_map", y, x);
    zip(y, x, f);
}

/// One chunk of [`map`], by the thread that calls.
pub(super) fn map_chunk<E: FlatElement>(x: &mut [E], f: &impl Fn(E) -> E) {
    dispatch::run(Map, x, (), f);
}

fn zip<E>(y: &mut [E], x: &[E], f: impl Fn(E, E) -> E + Sync)
where
    E: Copy + Send + Sync,
{
    parallel::each((y, x), |(y, x)| dispatch::run(Zip, y, x, &f));
}

struct Map;

impl<E: FlatElement, F: Fn(E) -> E> Kernel<&mut [E], (), &F> for Map {
    type Output = ();

    #[inline(always)]
    fn run(x: &mut [E], (): (), f: &F) {
        for x in x {
            *x = f(*x);
        }
    }
}

struct Zip;

impl<E: Copy, F: Fn(E, E) -> E> Kernel<&mut [E], &[E], &F> for Zip {
    type Output = ();

    #[inline(always)]
    fn run(y: &mut [E], x: &[E], f: &F) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f(*y, *x);
        }
    }
}
