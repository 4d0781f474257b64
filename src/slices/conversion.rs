//! Which conversion is meant by two float types that are known at run time only.
//!
//! One match stands before a loop over all elements, and each arm is a loop of its own, which the
//! compiler vectorises: a match for each element would cost more than the conversion.

use crate::element::Dtype;
use crate::ops::convert::{
    bf16_to_f32, convert, f16_to_f32, f32_to_bf16, f32_to_f16, f32_to_f64, f64_to_bf16, f64_to_f16,
    f64_to_f32,
};

/// Converts floats of one type into those of another, both as bytes: exact where it fits, otherwise
/// rounded to nearest, ties to even, once.
///
/// ***Panics*** if they are not as many, or of one type, or no floats.
#[inline(never)]
pub(crate) fn convert_floats(from_type: Dtype, from: &[u8], to_type: Dtype, to: &mut [u8]) {
    use Dtype::{BF16, F16, F32, F64};
    macro_rules! convert {
        ($from:ident, $one:ident) => {
            convert(from, to, |bytes| {
                let number = $from::from_ne_bytes(bytes);
                $one(number).to_ne_bytes()
            })
        };
    }
    match (from_type, to_type) {
        (F32, F64) => convert!(f32, f32_to_f64),
        (F32, F16) => convert!(f32, f32_to_f16),
        (F32, BF16) => convert!(f32, f32_to_bf16),
        (F64, F32) => convert!(f64, f64_to_f32),
        (F64, F16) => convert!(f64, f64_to_f16),
        (F64, BF16) => convert!(f64, f64_to_bf16),
        (F16, F32) => convert!(u16, f16_to_f32),
        (F16, F64) => convert!(u16, f16_to_f64),
        (F16, BF16) => convert!(u16, f16_to_bf16),
        (BF16, F32) => convert!(u16, bf16_to_f32),
        (BF16, F64) => convert!(u16, bf16_to_f64),
        (BF16, F16) => convert!(u16, bf16_to_f16),
        _ => unreachable!("these are floats, of two types"),
    }
}

// The half types meet each other and f64 by way of f32, which holds both without loss.

#[inline(always)]
fn f16_to_f64(half: u16) -> f64 {
    f32_to_f64(f16_to_f32(half))
}

#[inline(always)]
fn f16_to_bf16(half: u16) -> u16 {
    f32_to_bf16(f16_to_f32(half))
}

#[inline(always)]
fn bf16_to_f64(half: u16) -> f64 {
    f32_to_f64(bf16_to_f32(half))
}

#[inline(always)]
fn bf16_to_f16(half: u16) -> u16 {
    f32_to_f16(bf16_to_f32(half))
}
