//! The sum of the members' vectors: element by element, in the order of the ranks, in `f64`, rounded
//! once. So it has the same bits whatever carries the vectors and however they are cut.

use crate::ops::dispatch::{self, Kernel};

/// Elements whose sums are in the L1 cache while the members' parts are added to them. Does not
/// determine rounding: every element has a sum of its own.
const BLOCK: usize = 512;

/// Adds what all members have of a range to `own`, which holds this member's part of it: those of the
/// ranks `before` it, its own, and those of the ranks `after` it, each as long as `own`.
///
/// For who brings another carrier: the one order in which a
/// [`Communicator`](crate::Communicator) adds. Sums are `f64` and rounded to `f32` once. Reads every
/// part once and writes `own` once; allocates nothing.
///
/// # Panics
/// If a part is shorter than `own`.
///
/// ```
/// use flatleaf::implementing::add_in_rank_order;
///
/// // Rank 1 of 3. In f32, 1e8 + 1 − 1e8 would be 0.
/// let mut own = [1.0, 20.0];
/// add_in_rank_order(&mut own, &[&[1e8, 1.0]], &[&[-1e8, 300.0]]);
/// assert_eq!(own, [1.0, 321.0]);
/// ```
pub fn add_in_rank_order(own: &mut [f32], before: &[&[f32]], after: &[&[f32]]) {
    dispatch::run(Add, own, (before, after), ());
}

struct Add;

impl Kernel<&mut [f32], (&[&[f32]], &[&[f32]]), ()> for Add {
    type Output = ();

    #[inline(always)]
    fn run(own: &mut [f32], (before, after): (&[&[f32]], &[&[f32]]), (): ()) {
        let mut sums = [0.0; BLOCK];
        for (block, own) in own.chunks_mut(BLOCK).enumerate() {
            let start = block * BLOCK;
            let sums = &mut sums[..own.len()];
            // −0 and not 0, to which a sum of nothing but −0 would be added up as 0.
            sums.fill(-0.0);
            for part in before {
                add(sums, &part[start..]);
            }
            add(sums, own);
            for part in after {
                add(sums, &part[start..]);
            }
            for (own, sum) in own.iter_mut().zip(sums) {
                *own = *sum as f32;
            }
        }
    }
}

#[inline(always)]
fn add(sums: &mut [f64], part: &[f32]) {
    let part = &part[..sums.len()];
    for (sum, x) in sums.iter_mut().zip(part) {
        *sum += f64::from(*x);
    }
}
