//! Random bits of an element by its index.
//!
//! ```text
//! key        ← mix64(mix64(mix64(seed) + step) + state / 8)         once a step and eight vectors
//! k          ← lower half of mix64(key + upper half of the index)   once for 2³² elements
//! x          ← k + (index + 1) · 0x9e3779b1                         a sum an element: they follow each other
//! mixed      ← x ⊕ (x >> 15)                                        once for the vectors of a step
//! bits       ← mixed · mₛ, s = state mod 8                          of which the upper half is used
//! ```
//!
//! Keys are mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, *Fast splittable
//! pseudorandom number generators*, 2014), so steps and seeds have nothing to do with each other.
//! Elements of one step only have to be rounded without a pattern, and a step with compact state is
//! bound by arithmetic, so they are mixed once: multiples of 2³² over the golden ratio are spread
//! evenly, and one round of a shift and a product (as in Wellons' `lowbias32`, 2018) breaks up
//! their order. The vectors of a step share the round up to the product and have a multiplier each:
//! those that mixing functions of the kind are known to be good with. For each of them, and for
//! each two of them, the upper halves of elements up to 2,000 apart are not correlated by more than
//! as many true random numbers are. (With both rounds of `lowbias32` half of the time of rounding
//! went into random bits; with the product alone neighbours 256 apart were correlated; with one
//! multiplier and keys of their own two vectors were, by up to 0.04 under some keys. And one draw
//! was once to serve two vectors, 16 bits for each: then their rounding errors would be
//! correlated. A second key, behind the shift, made them no better, to a look at the correlations
//! of eight vectors under a dozen keys, and was 1 to 3 hundredths of a step.)
#![allow(clippy::needless_range_loop)] // indices vectorise better than iterators here

use std::ops::Range;

/// The random bits of the elements of one vector at one step.
///
/// ```
/// use flatleaf::ops::compact::RandomBits;
///
/// let bits = RandomBits::new(0, 1, 0);
/// assert_eq!(bits.of(7), bits.of(7));
/// assert_ne!(bits.of(7), bits.of(8));
/// assert_ne!(bits.of(7), RandomBits::new(0, 2, 0).of(7)); // another step
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RandomBits {
    key: u64,
    multiplier: u32,
}

impl RandomBits {
    /// Those of a run's seed, a step, and one of the vectors that are rounded at it.
    ///
    /// ```
    /// use flatleaf::ops::compact::RandomBits;
    ///
    /// assert_ne!(RandomBits::new(0, 1, 0).of(3), RandomBits::new(0, 1, 1).of(3)); // another vector
    /// ```
    pub fn new(seed: u64, step: u64, state: u64) -> Self {
        let key = mix64(mix64(seed).wrapping_add(step));
        RandomBits {
            key: mix64(key.wrapping_add(state / SHARING as u64)),
            // Where a `usize` has 32 bits, what is cut off is a multiple of eight.
            multiplier: multiplier(state as usize),
        }
    }

    /// Those of one element: 32 bits of which the upper half is well mixed.
    ///
    /// ```
    /// use flatleaf::ops::compact::RandomBits;
    ///
    /// let bits = RandomBits::new(1, 1, 1);
    /// let ones: u32 = (0..1000).map(|index| bits.of(index) >> 31).sum();
    /// assert!((450..550).contains(&ones));
    /// ```
    pub fn of(self, index: u64) -> u32 {
        self.sequence(index).next()
    }

    /// Those of elements that follow each other, if their indices have one upper half.
    pub(crate) fn one_run(self, first: u64, len: usize) -> Option<Sequence> {
        let mut runs = self.runs(first, len);
        let (elements, sequence) = runs.next()?;
        (elements.len() == len).then_some(sequence)
    }

    /// From an element on.
    fn sequence(self, index: u64) -> Sequence {
        let key = mix64(self.key.wrapping_add(index >> 32));
        Sequence {
            x: (key as u32).wrapping_add((index as u32).wrapping_mul(GOLDEN)),
            multiplier: self.multiplier,
        }
    }

    /// Runs of elements whose indices have one upper half: that is all of them, unless the vector
    /// is longer than 2³² and they lie across such a border.
    pub(super) fn runs(
        self,
        first: u64,
        len: usize,
    ) -> impl Iterator<Item = (Range<usize>, Sequence)> {
        let mut start = 0;
        std::iter::from_fn(move || {
            if start == len {
                return None;
            }
            let index = first + start as u64;
            let to_border = (1 << 32) - (index & u64::from(u32::MAX));
            let end = (start as u64).saturating_add(to_border).min(len as u64) as usize;
            Some((
                std::mem::replace(&mut start, end)..end,
                self.sequence(index),
            ))
        })
    }
}

/// 2³² over the golden ratio.
const GOLDEN: u32 = 0x9e37_79b1;

/// One for each vector of a step.
const MULTIPLIERS: [u32; 8] = [
    0x846c_a68b,
    0xac4c_1b51,
    0x3184_8bab,
    0xed5a_d4bb,
    0x2c1b_3c6d,
    0xc2b2_ae35,
    0xd168_aaad,
    0xb278_e4ad,
];

/// As many vectors, from the first on, have bits of one sequence that is mixed once.
pub(crate) const SHARING: usize = MULTIPLIERS.len();

/// That of a state vector.
#[inline(always)]
pub(crate) fn multiplier(state: usize) -> u32 {
    MULTIPLIERS[state % SHARING]
}

/// Bits of elements that follow each other.
#[derive(Clone, Copy)]
pub(crate) struct Sequence {
    /// Of the one before.
    x: u32,
    multiplier: u32,
}

impl Sequence {
    /// From the element on that is so many places further.
    #[inline(always)]
    pub(crate) fn behind(self, places: usize) -> Self {
        Sequence {
            x: self.x.wrapping_add((places as u32).wrapping_mul(GOLDEN)),
            ..self
        }
    }

    /// The bits of the next element.
    #[inline(always)]
    pub(super) fn next(&mut self) -> u32 {
        // A sum and not a product with the place, which the compiler would not make one.
        self.x = self.x.wrapping_add(GOLDEN);
        mixed(self.x).wrapping_mul(self.multiplier)
    }

    /// Those of the next elements.
    #[inline(always)]
    pub(crate) fn row<const N: usize>(self) -> SequenceRow<N> {
        SequenceRow {
            x: std::array::from_fn(|i| self.behind(i + 1).x),
        }
    }
}

#[inline(always)]
fn mixed(x: u32) -> u32 {
    x ^ (x >> 15)
}

/// Some elements of a sequence that follow each other: those of a first row, from which those of
/// the others are made all at once, in registers.
#[derive(Clone, Copy)]
pub(crate) struct SequenceRow<const N: usize> {
    x: [u32; N],
}

impl<const N: usize> SequenceRow<N> {
    /// The bits, up to the product, of the row that is so many places further.
    #[inline(always)]
    pub(crate) fn mixed(&self, places: usize) -> [u32; N] {
        let behind = (places as u32).wrapping_mul(GOLDEN);
        let mut bits = self.x;
        for i in 0..N {
            bits[i] = mixed(bits[i].wrapping_add(behind));
        }
        bits
    }
}

/// The bits of elements of one vector.
#[inline(always)]
pub(crate) fn multiplied<const N: usize>(mixed: [u32; N], multiplier: u32) -> [u32; N] {
    let mut bits = mixed;
    for i in 0..N {
        bits[i] = bits[i].wrapping_mul(multiplier);
    }
    bits
}

fn mix64(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
