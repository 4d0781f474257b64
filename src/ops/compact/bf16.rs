//! f32 as bf16 and back: the upper half of the bits.
//!
//! To round at random, a random number below 2¹⁶ is added to the bits before the lower half is cut
//! off: the lower half is how far the number has come from one bf16 to the next, in 2¹⁶ths, so it
//! carries with just that probability. An example, 1.0039 = 0x3f80_8000, half way between
//! 0x3f80 (1) and 0x3f81 (1.0078): the sum carries for the random numbers from 0x8000 on, so half
//! of the time. What is a bf16 already has nothing to carry and stays, whatever the random number.
#![allow(clippy::needless_range_loop)] // indices vectorise better than iterators here

use super::random::{RandomBits, Sequence};
use crate::ops::convert::{bf16_to_f32, each, f32_to_bf16};
use crate::ops::dispatch::{self, Kernel};

/// to ← from, without loss.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops::compact;
///
/// let mut to = [0.0; 2];
/// compact::widen(&[0x3f80, 0xc000], &mut to);
/// assert_eq!(to, [1.0, -2.0]);
/// ```
pub fn widen(from: &[u16], to: &mut [f32]) {
    each(from, to, bf16_to_f32);
}

/// to ← from, rounded: at random, the first element having the index `first`, or without random
/// bits to the nearest, ties to even.
///
/// At random, an element between two bf16 becomes either with a probability by how near it is, so
/// that the expected value is the element. Numbers beyond the greatest bf16, 3.39e38, may become
/// infinite in both ways; infinities stay. NaNs stay NaNs, and at random all become that of 0xffff.
///
/// ***Panics*** if the lengths differ.
///
/// ```
/// use flatleaf::ops::compact::{self, RandomBits};
///
/// let (from, mut to) = ([1.00390625; 1000], [0; 1000]);
/// compact::narrow(&from, &mut to, Some((RandomBits::new(0, 1, 0), 0)));
/// let up = to.iter().filter(|to| **to == 0x3f81).count();
/// assert!((450..550).contains(&up) && to.iter().all(|to| [0x3f80, 0x3f81].contains(to)));
///
/// compact::narrow(&from, &mut to, None);
/// assert!(to.iter().all(|to| *to == 0x3f80)); // the even one
/// ```
pub fn narrow(from: &[f32], to: &mut [u16], random: Option<(RandomBits, u64)>) {
    let Some((random, first)) = random else {
        return each(from, to, f32_to_bf16);
    };
    let elements = from.len();
    let room = to.len();
    assert!(
        elements == room,
        "expected room for {elements} elements, found {room}"
    );
    for (range, run) in random.runs(first, elements) {
        dispatch::run(AtRandom, &from[range.clone()], &mut to[range], run);
    }
}

struct AtRandom;

impl Kernel<&[f32], &mut [u16], Sequence> for AtRandom {
    type Output = ();

    #[inline(always)]
    fn run(from: &[f32], to: &mut [u16], mut run: Sequence) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = carried(*from, run.next());
        }
    }
}

/// By masks and without a choice: of an `if` the compiler makes a branch for some of the elements
/// of a row, and then none of them stay in a register. (To ask once a row whether any is a NaN, and
/// to call a function if so, took 1.6 times as long for the same reason; to keep a NaN's sign and
/// payload was a tenth of a step of AdamW, and to add no more than there is room for up to the last
/// NaN, which keeps the sign as well, a twentieth.)
#[inline(always)]
fn carried(from: f32, random: u32) -> u16 {
    let number = from.to_bits().wrapping_add(random >> 16);
    // The bits of a NaN are no number to add to: from the last one the sum would go on to zero. All
    // ones are a NaN too.
    let nan = u32::from(from.is_nan()).wrapping_neg();
    ((number | nan) >> 16) as u16
}

/// Some elements that stay in registers.
#[inline(always)]
pub(crate) fn widened<const N: usize>(from: [u16; N]) -> [f32; N] {
    let mut to = [0.0; N];
    for i in 0..N {
        to[i] = bf16_to_f32(from[i]);
    }
    to
}

/// Some elements that stay in registers, rounded at random as [`narrow`] does.
#[inline(always)]
pub(crate) fn narrowed_at_random<const N: usize>(from: [f32; N], random: [u32; N]) -> [u16; N] {
    let mut to = [0; N];
    for i in 0..N {
        to[i] = carried(from[i], random[i]);
    }
    to
}
