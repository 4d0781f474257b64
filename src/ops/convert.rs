//! One float type into another: exact where it fits, otherwise rounded to the nearest, ties to
//! even, once.
//!
//! It is arithmetic on bits, because instructions and casts make NaNs quiet. Here a NaN keeps as
//! much of its payload as the other type has room for, so whatever is widened comes back bit for
//! bit; a NaN of which nothing would be left becomes the quiet one.
//!
//! To narrow, with m the bits of |x| and s the number of bits to be cut off (Giesen, *Float → half
//! conversions*, 2012):
//!
//! ```text
//! normal      (m − the difference of the biases + 2^(s−1) − 1 + the last bit that stays) >> s     a carry may go up to infinity
//! subnormal   bits of (|x| + c) − bits of c                     c such that the sum ends where the narrow type does
//! ```
//!
//! An f64 becomes 16 bits in one step: by way of f32 it would be rounded twice. Slices are bytes,
//! which need not be aligned.
//!
//! The loops vectorise. Picoseconds an element on one core of a Zen 4, for 16M elements and for
//! 4,096, beside F16C through the `half` crate: fast enough that memory is the limit, so F16C is
//! left alone.
//!
//! | | f16 → f32 | f32 → f16 | bf16 → f32 | f32 → bf16 | f32 → f64 | f64 → f32 | f64 → f16 | memcpy of f32 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | here | 190, 120 | 240, 210 | 220, 35 | 230, 100 | 400, 200 | 390, 200 | 450, 410 | 280, 40 |
//! | `half` | 220, 190 | 270, 190 | 230, 240 | 450, 420 | | | | |

use super::dispatch::{self, Kernel};

/// to ← one(from), element by element, each as bytes.
///
/// ***Panics*** if the slices are not of equally many whole elements.
pub(crate) fn convert<const N: usize, const M: usize>(
    from: &[u8],
    to: &mut [u8],
    one: impl Fn([u8; N]) -> [u8; M],
) {
    let (from, from_end) = from.as_chunks::<N>();
    let (to, to_end) = to.as_chunks_mut::<M>();
    let elements = from.len();
    let room = to.len();
    assert!(
        elements == room && from_end.is_empty() && to_end.is_empty(),
        "expected room for {elements} elements, found {room}"
    );
    dispatch::run(Convert, from, to, one);
}

/// to ← one(from), element by element.
///
/// ***Panics*** if the lengths differ.
pub(super) fn each<A: Copy, B>(from: &[A], to: &mut [B], one: impl Fn(A) -> B) {
    let elements = from.len();
    let room = to.len();
    assert!(
        elements == room,
        "expected room for {elements} elements, found {room}"
    );
    dispatch::run(Convert, from, to, one);
}

struct Convert;

impl<A: Copy, B, F: Fn(A) -> B> Kernel<&[A], &mut [B], F> for Convert {
    type Output = ();

    #[inline(always)]
    fn run(from: &[A], to: &mut [B], one: F) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = one(*from);
        }
    }
}

const F32_INFINITY: u32 = 0x7f80_0000;
const F16_INFINITY: u32 = 0x7c00;

/// `payload`, or the quiet bit if nothing is left of it.
macro_rules! or_quiet {
    ($payload:expr, $quiet:expr) => {
        if $payload == 0 { $quiet } else { $payload }
    };
}

#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    const SMALLEST: f32 = 1.0 / (1 << 24) as f32;
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let shifted = magnitude << 13;
    // Both ways are computed and one is chosen: a branch would keep the loop from vectorising.
    let subnormal = (magnitude as f32 * SMALLEST).to_bits();
    let finite = if magnitude < 1 << 10 {
        subnormal
    } else {
        shifted + ((127 - 15) << 23)
    };
    f32::from_bits(
        sign | if magnitude < F16_INFINITY {
            finite
        } else {
            F32_INFINITY | shifted
        },
    )
}

#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let last = (magnitude >> 13) & 1;
    let normal = magnitude
        .wrapping_sub((127 - 15) << 23)
        .wrapping_add((1 << 12) - 1 + last)
        >> 13;
    // 0.5 ends at 2⁻²⁴, as the subnormal numbers do.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5_f32.to_bits());
    let finite = if magnitude < (127 - 14) << 23 {
        subnormal
    } else {
        normal
    };
    let nan = F16_INFINITY | or_quiet!((magnitude >> 13) & 0x3ff, 0x200);
    let infinite = if magnitude > F32_INFINITY {
        nan
    } else {
        F16_INFINITY
    };
    (sign
        | if magnitude < (127 + 16) << 23 {
            finite
        } else {
            infinite
        }) as u16
}

/// The upper half of an f32 is a bf16.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let upper = bits >> 16;
    // A tie is rounded to even: half of the last place is added, less one unless that place is odd.
    let number = bits.wrapping_add((1 << 15) - 1 + (upper & 1)) >> 16;
    let nan = upper | or_quiet!(upper & 0x7f, 0x40);
    (if bits & 0x7fff_ffff > F32_INFINITY {
        nan
    } else {
        number
    }) as u16
}

#[inline(always)]
pub(crate) fn f32_to_f64(x: f32) -> f64 {
    let bits = x.to_bits();
    let nan =
        (u64::from(bits & 0x8000_0000) << 32) | (0x7ff << 52) | (u64::from(bits & 0x7f_ffff) << 29);
    f64::from_bits(if bits & 0x7fff_ffff > F32_INFINITY {
        nan
    } else {
        f64::from(x).to_bits()
    })
}

#[inline(always)]
pub(crate) fn f64_to_f32(x: f64) -> f32 {
    let bits = x.to_bits();
    let sign = (bits >> 32) as u32 & 0x8000_0000;
    let nan = sign | F32_INFINITY | or_quiet!((bits >> 29) as u32 & 0x7f_ffff, 0x40_0000);
    // The cast would make the NaN quiet, and on some machines lose its payload.
    f32::from_bits(if x.is_nan() {
        nan
    } else {
        (x as f32).to_bits()
    })
}

#[inline(always)]
pub(crate) fn f64_to_f16(x: f64) -> u16 {
    narrow::<10, 15>(x)
}

#[inline(always)]
pub(crate) fn f64_to_bf16(x: f64) -> u16 {
    narrow::<7, 127>(x)
}

/// The 16 bits of a number with so many bits of mantissa and this bias of the exponent.
#[inline(always)]
fn narrow<const MANTISSA: u32, const BIAS: u64>(x: f64) -> u16 {
    let cut = 52 - MANTISSA;
    let sign = (x.to_bits() >> 48) & 0x8000;
    let magnitude = x.to_bits() & (u64::MAX >> 1);
    let last = (magnitude >> cut) & 1;
    let normal = magnitude
        .wrapping_sub((1023 - BIAS) << 52)
        .wrapping_add((1 << (cut - 1)) - 1 + last)
        >> cut;
    // Of this size, so that the last bit of the sum is worth the least subnormal number: adding
    // rounds as wanted.
    let ends_alike = f64::from_bits((1023 + 1 - BIAS + u64::from(cut)) << 52);
    let subnormal = (f64::from_bits(magnitude) + ends_alike)
        .to_bits()
        .wrapping_sub(ends_alike.to_bits());
    let finite = if magnitude < (1023 + 1 - BIAS) << 52 {
        subnormal
    } else {
        normal
    };
    let infinity = (2 * BIAS + 1) << MANTISSA;
    let nan = infinity
        | or_quiet!(
            (magnitude >> cut) & ((1 << MANTISSA) - 1),
            1 << (MANTISSA - 1)
        );
    let infinite = if magnitude > 0x7ff << 52 {
        nan
    } else {
        infinity
    };
    (sign
        | if magnitude < (1023 + 1 + BIAS) << 52 {
            finite
        } else {
            infinite
        }) as u16
}
