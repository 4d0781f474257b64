//! f32 as codes of 8 bits, with a scale for every block of 256.
//!
//! Dynamic quantisation (Dettmers, Lewis, Shleifer and Zettlemoyer, *8-bit Optimizers via
//! Block-wise Quantization*, 2022): a block is divided by its largest element, and what is then
//! between −1 and 1 becomes the nearest of 256 values. These are spread over seven decades, and a
//! decade has twice as many as the one below it, evenly spaced:
//!
//! ```text
//! decade i, 10^(i−6)·(0.1 … 1), i from 0 to 6:   10^(i−6)·(0.1 + 0.9·(k + ½)/n),  k from 0 to n − 1
//! signed    n = 2^i        and their negatives, 0 and 1
//! unsigned  n = 2^(i+1)                         0 and 1
//! ```
//!
//! Blocks of 256 and not of the paper's 2,048, as `bitsandbytes` has them by now: an element that
//! is far larger than the others coarsens 255 others and not 2,047, and a scale costs an eighth of
//! a bit an element. Three things differ from there. A scale has the sign of the largest element,
//! so that it becomes 1 and is kept exactly whatever its sign (−1 is none of the values, and −0.993
//! would shrink it at every step). An element of an unsigned block that is not zero does not become
//! zero (it may be a divisor). And codes count from zero, 1 up for the values above and 255 down
//! for those below it, so that memory of zeros is a vector of zeros.
//!
//! # Rounding
//! Codes count the values, so a number between two of them has a *position* between two whole
//! numbers. Rounding the position to the nearest whole number rounds the number to the nearest
//! value; adding a random number from −½ to ½ before makes it the value above or below with a
//! probability by how near they are. (Of random bits there are 12, so the expected value is within
//! 2⁻¹³ of the distance of two values.)
//!
//! The position as a function of the number is a line in every decade and from each to the next.
//! Each line is less steep than the one before it, by 3 and by 5/3 in turn, up to the last value
//! below 1. So it is the least of all the lines, with no question in which decade the number is:
//! products, sums and minima, which every vector unit has. From the last value to 1 the distance is
//! half as long, and the position is the greater of the least and that line. (Two other ways: a
//! table by the upper bits of the number and one comparison to correct it, which is a load that
//! depends on a load, element by element; and a binary search, which `bitsandbytes` does where
//! registers hold the whole table.)

use super::random::{RandomBits, Sequence};
use crate::ops::dispatch::{self, Kernel};

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// Which values codes stand for.
///
/// ```
/// use flatleaf::ops::compact::{self, Codes};
///
/// let (mut codes, mut scales, mut back) = ([0; 2], [0.0], [0.0; 2]);
/// for (kind, expected) in [(Codes::Signed, 0.71171875), (Codes::Unsigned, 0.7152344)] {
///     compact::encode(&[8.0, 5.7], kind, (&mut codes, &mut scales), None);
///     compact::decode((&codes, &scales), kind, &mut back);
///     assert_eq!(back, [8.0, 8.0 * expected]);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// Of both signs.
    Signed,
    /// Of 0 and more, with twice as many values.
    Unsigned,
}

/// to ← the values of the codes, times the scale of their block.
///
/// ***Panics*** if there are not as many codes as elements, and a scale for each 256 of them.
///
/// ```
/// use flatleaf::ops::compact::{self, Codes};
///
/// let mut to = [1.0; 3];
/// compact::decode((&[0, 128, 255], &[-2.0]), Codes::Signed, &mut to);
/// assert_eq!(to, [0.0, -2.0, 1.1e-6]);
/// ```
pub fn decode((codes, scales): (&[u8], &[f32]), kind: Codes, to: &mut [f32]) {
    check(to.len(), codes.len(), scales.len());
    let values = match kind {
        Codes::Signed => &SIGNED.values,
        Codes::Unsigned => &UNSIGNED.values,
    };
    dispatch::run(Decode, codes, to, (scales, values));
}

/// Codes and scales of elements, rounded: at random, the first element having the index `first`, or
/// without random bits to the nearest value.
///
/// The element of a block that is largest in magnitude is kept exactly. A block with an element
/// that is infinite or NaN, or of unsigned codes with a negative one, has NaN for its scale, so
/// that all of it is NaN when it is read.
///
/// ***Panics*** if there are not as many codes as elements, and a scale for each 256 of them.
///
/// ```
/// use flatleaf::ops::compact::{self, Codes};
///
/// let (mut codes, mut scales, mut back) = ([0; 3], [0.0], [0.0; 3]);
/// compact::encode(&[-5.0, 0.0, 1.0], Codes::Signed, (&mut codes, &mut scales), None);
/// compact::decode((&codes, &scales), Codes::Signed, &mut back);
/// assert_eq!((back[0], back[1]), (-5.0, 0.0));
/// assert!((back[2] - 1.0).abs() < 0.036);
///
/// compact::encode(&[-5.0, f32::INFINITY, 1.0], Codes::Signed, (&mut codes, &mut scales), None);
/// assert!(scales[0].is_nan());
/// ```
pub fn encode(
    from: &[f32],
    kind: Codes,
    (codes, scales): (&mut [u8], &mut [f32]),
    random: Option<(RandomBits, u64)>,
) {
    check(from.len(), codes.len(), scales.len());
    let blocks = from.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
    let blocks = blocks.zip(scales).enumerate();
    for (block, ((from, codes), scale)) in blocks {
        *scale = match kind {
            Codes::Signed => scale_of(from),
            Codes::Unsigned => unsigned_scale_of(from),
        };
        let Some(division) = Division::by(*scale) else {
            codes.fill(0);
            continue;
        };
        let Some((random, first)) = random else {
            encode_block(from, codes, kind, (division, None));
            continue;
        };
        let first = first + (block * BLOCK) as u64;
        for (range, run) in random.runs(first, from.len()) {
            let codes = &mut codes[range.clone()];
            encode_block(&from[range], codes, kind, (division, Some(run)));
        }
    }
}

fn check(elements: usize, codes: usize, scales: usize) {
    assert!(
        codes == elements && scales == elements.div_ceil(BLOCK),
        "expected {elements} codes and a scale for each {BLOCK} of them, found {codes} and {scales}"
    );
}

fn encode_block(
    from: &[f32],
    codes: &mut [u8],
    kind: Codes,
    (by, random): (Division, Option<Sequence>),
) {
    // A loop of its own for each, in which nothing has to be decided.
    match (kind, random) {
        (Codes::Signed, None) => dispatch::run(EncodeSigned, from, codes, (by, Nearest)),
        (Codes::Signed, Some(run)) => dispatch::run(EncodeSigned, from, codes, (by, run)),
        (Codes::Unsigned, None) => dispatch::run(EncodeUnsigned, from, codes, (by, Nearest)),
        (Codes::Unsigned, Some(run)) => dispatch::run(EncodeUnsigned, from, codes, (by, run)),
    }
}

/// The element of largest magnitude, or NaN if one is infinite or NaN.
fn scale_of(block: &[f32]) -> f32 {
    let extreme = dispatch::run(Extreme, block, (), ());
    // Its sign stands in the last place, so that of magnitudes that are alike it decides.
    let scale = f32::from_bits(extreme.rotate_right(1));
    if scale.is_finite() { scale } else { f32::NAN }
}

/// So too, and NaN if one is negative.
fn unsigned_scale_of(block: &[f32]) -> f32 {
    let scale = scale_of(block).abs();
    if dispatch::run(AnyNegative, block, (), ()) {
        return f32::NAN;
    }
    scale
}

struct Extreme;

impl Kernel<&[f32], (), ()> for Extreme {
    type Output = u32;

    #[inline(always)]
    fn run(block: &[f32], (): (), (): ()) -> u32 {
        // As integers, since maxima of floats lose a NaN.
        let magnitude_and_sign = |x: &f32| x.to_bits().rotate_left(1);
        block.iter().map(magnitude_and_sign).fold(0, u32::max)
    }
}

struct AnyNegative;

impl Kernel<&[f32], (), ()> for AnyNegative {
    type Output = bool;

    #[inline(always)]
    fn run(block: &[f32], (): (), (): ()) -> bool {
        block.iter().fold(false, |any, x| any | (*x < 0.0))
    }
}

/// Division by a scale, as two products: of a scale near the ends of f32 the reciprocal is beyond
/// them.
#[derive(Clone, Copy)]
struct Division {
    shift: f32,
    reciprocal: f32,
}

impl Division {
    /// `None` for a scale that has no codes: 0 and NaN.
    fn by(scale: f32) -> Option<Self> {
        const BINADES: f32 = (1_u64 << 63) as f32;
        let shift = match scale.abs() {
            magnitude if magnitude < 1.0 / BINADES => BINADES,
            magnitude if magnitude > BINADES => 1.0 / BINADES,
            _ => 1.0,
        };
        let is_number = scale != 0.0 && !scale.is_nan();
        is_number.then(|| Division {
            shift,
            reciprocal: 1.0 / (scale * shift),
        })
    }

    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        x * self.shift * self.reciprocal
    }
}

/// What is added to a position before it is rounded to the nearest whole number.
trait Jitter: Copy {
    /// To that of the next element.
    fn next(&mut self) -> f32;
}

#[derive(Clone, Copy)]
struct Nearest;

impl Jitter for Nearest {
    #[inline(always)]
    fn next(&mut self) -> f32 {
        0.0
    }
}

impl Jitter for Sequence {
    /// In the middle of one of 4,096 equal parts of −½ to ½. So it keeps from ±½ by more than a
    /// position is off by its own rounding, and what is a value already stays.
    #[inline(always)]
    fn next(&mut self) -> f32 {
        const PART: f32 = 1.0 / (1 << 12) as f32;
        // By way of i32, which every vector unit converts.
        let part = (Sequence::next(self) >> 20) as i32;
        part as f32 * PART + (0.5 * PART - 0.5)
    }
}

/// The nearest whole number, of one from −½ to 2²².
#[inline(always)]
fn rounded(x: f32) -> u32 {
    // The sum has no places behind the point, so adding rounds, and it ends in the whole number. A
    // cast would saturate, in four more instructions.
    const NO_FRACTION: f32 = (3 << 22) as f32;
    (x + NO_FRACTION).to_bits() & 0xffff
}

struct EncodeSigned;

impl<J: Jitter> Kernel<&[f32], &mut [u8], (Division, J)> for EncodeSigned {
    type Output = ();

    #[inline(always)]
    fn run(from: &[f32], codes: &mut [u8], (division, mut jitter): (Division, J)) {
        for (code, x) in codes.iter_mut().zip(from) {
            let y = division.of(*x);
            let above = rounded(SIGNED.position(y.abs()) + jitter.next());
            // There is no −1.
            let below = above.min(127).wrapping_neg();
            *code = (if y < 0.0 { below } else { above }) as u8;
        }
    }
}

struct EncodeUnsigned;

impl<J: Jitter> Kernel<&[f32], &mut [u8], (Division, J)> for EncodeUnsigned {
    type Output = ();

    #[inline(always)]
    fn run(from: &[f32], codes: &mut [u8], (division, mut jitter): (Division, J)) {
        for (code, x) in codes.iter_mut().zip(from) {
            let y = division.of(*x);
            let value = rounded(UNSIGNED.position(y) + jitter.next());
            *code = value.max(u32::from(*x > 0.0)) as u8;
        }
    }
}

struct Decode;

impl Kernel<&[u8], &mut [f32], (&[f32], &[f32; 256])> for Decode {
    type Output = ();

    #[inline(always)]
    fn run(codes: &[u8], to: &mut [f32], (scales, values): (&[f32], &[f32; 256])) {
        let blocks = codes.chunks(BLOCK).zip(to.chunks_mut(BLOCK)).zip(scales);
        for ((codes, to), scale) in blocks {
            for (to, code) in to.iter_mut().zip(codes) {
                // The sum makes 0 of −0, which a negative scale makes of 0.
                *to = values[usize::from(*code)] * scale + 0.0;
            }
        }
    }
}

/// What codes stand for, and the lines of the position.
struct CodeMap {
    values: [f32; 256],
    slopes: [f32; LINES],
    offsets: [f32; LINES],
    /// From the last value below 1 to 1.
    last_slope: f32,
    last_offset: f32,
}

/// From 0 to the least value, one in each decade, and one from each to the next.
const LINES: usize = 14;

static SIGNED: CodeMap = CodeMap::new(Codes::Signed);
static UNSIGNED: CodeMap = CodeMap::new(Codes::Unsigned);

impl CodeMap {
    const fn new(kind: Codes) -> Self {
        const TENTHS: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let of_least = match kind {
            Codes::Signed => 1,
            Codes::Unsigned => 2,
        };
        let mut map = CodeMap {
            values: [0.0; 256],
            slopes: [0.0; LINES],
            offsets: [0.0; LINES],
            last_slope: 0.0,
            last_offset: 0.0,
        };
        // Of f64, so that each number is rounded once.
        let mut last = 0.0;
        let mut code = 0;
        let mut line = 0;
        let mut decade = 0;
        while decade < 7 {
            let count = of_least << decade;
            let distance = 0.9 * TENTHS[decade] / count as f64;
            let first = 0.1 * TENTHS[decade] + 0.5 * distance;
            map.set_line(line, (code as f64, last), first - last);
            map.set_line(line + 1, ((code + 1) as f64, first), distance);
            let mut k = 0;
            while k < count {
                last = first + k as f64 * distance;
                code += 1;
                map.set_value(code, last, kind);
                k += 1;
            }
            line += 2;
            decade += 1;
        }
        map.last_slope = (1.0 / (1.0 - last)) as f32;
        map.last_offset = (code as f64 - last / (1.0 - last)) as f32;
        map.values[code + 1] = 1.0;
        map
    }

    const fn set_value(&mut self, code: usize, value: f64, kind: Codes) {
        self.values[code] = value as f32;
        if matches!(kind, Codes::Signed) {
            self.values[256 - code] = -value as f32;
        }
    }

    /// The line through a position and its value, with the distance of two values.
    const fn set_line(&mut self, line: usize, (position, value): (f64, f64), distance: f64) {
        self.slopes[line] = (1.0 / distance) as f32;
        self.offsets[line] = (position - value / distance) as f32;
    }

    /// Where among the values a number from 0 to 1 is.
    #[inline(always)]
    fn position(&self, y: f32) -> f32 {
        let mut least = f32::INFINITY;
        for line in 0..LINES {
            let position = self.slopes[line] * y + self.offsets[line];
            least = if position < least { position } else { least };
        }
        let last = self.last_slope * y + self.last_offset;
        if last > least { last } else { least }
    }
}
