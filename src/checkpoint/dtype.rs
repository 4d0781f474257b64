//! Element types on disk and in memory, and the way from one to the other.

use half::{bf16, f16};
use safetensors::Dtype as OnDisk;

use crate::error::{Error, Result};
use crate::tree::Dtype;

/// How a leaf's elements are written.
///
/// # Errors
/// Integers of 128 bits.
pub(crate) fn on_disk(dtype: Dtype) -> Result<OnDisk> {
    Ok(match dtype {
        Dtype::F32 => OnDisk::F32,
        Dtype::F64 => OnDisk::F64,
        Dtype::F16 => OnDisk::F16,
        Dtype::BF16 => OnDisk::BF16,
        Dtype::I8 => OnDisk::I8,
        Dtype::I16 => OnDisk::I16,
        Dtype::I32 => OnDisk::I32,
        Dtype::I64 => OnDisk::I64,
        Dtype::U8 => OnDisk::U8,
        Dtype::U16 => OnDisk::U16,
        Dtype::U32 => OnDisk::U32,
        Dtype::U64 => OnDisk::U64,
        Dtype::Bool => OnDisk::BOOL,
        Dtype::Isize if dtype.size() == 8 => OnDisk::I64,
        Dtype::Isize => OnDisk::I32,
        Dtype::Usize if dtype.size() == 8 => OnDisk::U64,
        Dtype::Usize => OnDisk::U32,
        Dtype::I128 | Dtype::U128 => {
            let expected = "an element type that safetensors has: floats, integers of up to 64 bits, bool";
            return Err(Error::element_type(String::new(), expected.into(), dtype.to_string()));
        }
    })
}

/// The element type of a tensor, if arrays may hold such elements.
pub(crate) fn in_memory(dtype: OnDisk) -> Option<Dtype> {
    Some(match dtype {
        OnDisk::F32 => Dtype::F32,
        OnDisk::F64 => Dtype::F64,
        OnDisk::F16 => Dtype::F16,
        OnDisk::BF16 => Dtype::BF16,
        OnDisk::I8 => Dtype::I8,
        OnDisk::I16 => Dtype::I16,
        OnDisk::I32 => Dtype::I32,
        OnDisk::I64 => Dtype::I64,
        OnDisk::U8 => Dtype::U8,
        OnDisk::U16 => Dtype::U16,
        OnDisk::U32 => Dtype::U32,
        OnDisk::U64 => Dtype::U64,
        OnDisk::BOOL => Dtype::Bool,
        _ => return None,
    })
}

/// Whether a leaf of one type takes a tensor of the other: floats any floats, others their own.
pub(crate) fn is_convertible(from: OnDisk, to: Dtype) -> bool {
    let is_float = in_memory(from).is_some_and(Dtype::is_float);
    (is_float && to.is_float()) || on_disk(to).is_ok_and(|own| own == from)
}

/// Elements that are converted at a time: their `f64`s stay in the first cache.
const CHUNK: usize = 1024;

/// Elements of one type as those of another, which [`is_convertible`] allows: by way of `f64`, which every float fits in, so that each
/// is rounded once, to nearest and ties to even.
pub(crate) fn convert(from: Dtype, bytes: &[u8], to: Dtype, out: &mut [u8]) {
    if bytes.len() == out.len() && (from == to || !to.is_float()) {
        return out.copy_from_slice(bytes);
    }
    let mut values = [0.0; CHUNK];
    let chunks = bytes.chunks(CHUNK * from.size()).zip(out.chunks_mut(CHUNK * to.size()));
    for (bytes, out) in chunks {
        let values = &mut values[..bytes.len() / from.size()];
        widen(from, bytes, values);
        narrow(values, to, out);
    }
}

/// Elements as `f64`: exact for floats and for integers below 2⁵³.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f64]) {
    match dtype {
        Dtype::F64 => decode(bytes, out, f64::from_le_bytes),
        Dtype::F32 => decode(bytes, out, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => decode(bytes, out, |b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        Dtype::I8 => decode(bytes, out, |b| f64::from(i8::from_le_bytes(b))),
        Dtype::I16 => decode(bytes, out, |b| f64::from(i16::from_le_bytes(b))),
        Dtype::I32 => decode(bytes, out, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::I64 => decode(bytes, out, |b| i64::from_le_bytes(b) as f64),
        Dtype::U8 | Dtype::Bool => decode(bytes, out, |b| f64::from(u8::from_le_bytes(b))),
        Dtype::U16 => decode(bytes, out, |b| f64::from(u16::from_le_bytes(b))),
        Dtype::U32 => decode(bytes, out, |b| f64::from(u32::from_le_bytes(b))),
        Dtype::U64 => decode(bytes, out, |b| u64::from_le_bytes(b) as f64),
        Dtype::Isize | Dtype::Usize | Dtype::I128 | Dtype::U128 => unreachable!("no tensor has such elements"),
    }
}

/// Numbers as floats of a type.
pub(crate) fn narrow(values: &[f64], dtype: Dtype, out: &mut [u8]) {
    match dtype {
        Dtype::F64 => encode(values, out, f64::to_le_bytes),
        Dtype::F32 => encode(values, out, |x| (x as f32).to_le_bytes()),
        Dtype::F16 => encode(values, out, |x| f16::from_f32(to_odd(x)).to_le_bytes()),
        Dtype::BF16 => encode(values, out, |x| bf16::from_f32(to_odd(x)).to_le_bytes()),
        _ => unreachable!("only floats are converted"),
    }
}

/// The `f32` next to a number, the odd one of the two if it is between them: a second rounding, to 16 bits, then comes out as if it
/// were the only one (Boldo and Melquiond, *When double rounding is odd*, 2005). `half` rounds an `f64` twice or drops its last bits.
#[inline]
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || x.is_nan() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(f64::from(nearest).abs() > x.abs());
    f32::from_bits(towards_zero | 1)
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f64], one: impl Fn([u8; N]) -> f64) {
    out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, bytes)| *out = one(*bytes));
}

fn encode<const N: usize>(values: &[f64], out: &mut [u8], one: impl Fn(f64) -> [u8; N]) {
    out.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(out, value)| *out = one(*value));
}
