//! Which conversion is meant by two float types that are known at run time only.
//!
//! One match stands before a loop over all elements, and each arm is a loop of its own, which the
//! compiler vectorises: a match for each element would cost more than the conversion.

use crate::element::Dtype;
use crate::ops::convert::{self as one, convert};

/// Converts floats of one type into those of another, both as bytes: exact where it fits, otherwise
/// rounded to nearest, ties to even, once.
///
/// ***Panics*** if they are not as many, or of one type, or no floats.
#[inline(never)]
pub(crate) fn convert_floats(from_type: Dtype, from: &[u8], to_type: Dtype, to: &mut [u8]) {
    use Dtype::{BF16, F16, F32, F64};
    macro_rules! convert {
        ($from:ident, $to:ident, $one:expr) => {
            convert(from, to, |bytes| {
                $one($from::from_ne_bytes(bytes)).to_ne_bytes()
            })
        };
    }
    // The half types meet each other and f64 by way of f32, which holds both without loss.
    match (from_type, to_type) {
        (F32, F64) => convert!(f32, f64, one::f32_to_f64),
        (F32, F16) => convert!(f32, u16, one::f32_to_f16),
        (F32, BF16) => convert!(f32, u16, one::f32_to_bf16),
        (F64, F32) => convert!(f64, f32, one::f64_to_f32),
        (F64, F16) => convert!(f64, u16, one::f64_to_f16),
        (F64, BF16) => convert!(f64, u16, one::f64_to_bf16),
        (F16, F32) => convert!(u16, f32, one::f16_to_f32),
        (F16, F64) => convert!(u16, f64, |half| one::f32_to_f64(one::f16_to_f32(half))),
        (F16, BF16) => convert!(u16, u16, |half| one::f32_to_bf16(one::f16_to_f32(half))),
        (BF16, F32) => convert!(u16, f32, one::bf16_to_f32),
        (BF16, F64) => convert!(u16, f64, |half| one::f32_to_f64(one::bf16_to_f32(half))),
        (BF16, F16) => convert!(u16, u16, |half| one::f32_to_f16(one::bf16_to_f32(half))),
        _ => unreachable!("these are floats, of two types"),
    }
}
