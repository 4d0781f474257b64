//! Element types on disk and in memory, and the way from one to the other.

use safetensors::Dtype as OnDisk;

use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::slices::{self, Floats, FloatsMut};

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
        Dtype::F8E4M3 => OnDisk::F8_E4M3,
        Dtype::F8E5M2 => OnDisk::F8_E5M2,
        Dtype::F8E8M0 => OnDisk::F8_E8M0,
        Dtype::F8E4M3FNUZ => OnDisk::F8_E4M3FNUZ,
        Dtype::F8E5M2FNUZ => OnDisk::F8_E5M2FNUZ,
        Dtype::Isize if dtype.size() == 8 => OnDisk::I64,
        Dtype::Isize => OnDisk::I32,
        Dtype::Usize if dtype.size() == 8 => OnDisk::U64,
        Dtype::Usize => OnDisk::U32,
        Dtype::I128 | Dtype::U128 => {
            let expected =
                "an element type that safetensors has: floats, integers of up to 64 bits, bool";
            return Err(Error::element_type(
                String::new(),
                expected.into(),
                dtype.to_string(),
            ));
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
        OnDisk::F8_E4M3 => Dtype::F8E4M3,
        OnDisk::F8_E5M2 => Dtype::F8E5M2,
        OnDisk::F8_E8M0 => Dtype::F8E8M0,
        OnDisk::F8_E4M3FNUZ => Dtype::F8E4M3FNUZ,
        OnDisk::F8_E5M2FNUZ => Dtype::F8E5M2FNUZ,
        _ => return None,
    })
}

/// Whether a leaf of one type takes a tensor of the other: floats any floats, others their own.
pub(crate) fn is_convertible(from: OnDisk, to: Dtype) -> bool {
    let is_float = in_memory(from).is_some_and(Dtype::is_float);
    if is_float && to.is_float() {
        return true;
    }
    on_disk(to).is_ok_and(|own| own == from)
}

/// Elements of one type as those of another, which [`is_convertible`] allows.
pub(crate) fn convert(from: Dtype, bytes: &[u8], to: Dtype, out: &mut [u8]) {
    let from = Floats::from_bytes(from, bytes);
    let to = FloatsMut::from_bytes(to, out);
    match (from, to) {
        (Some(from), Some(to)) => slices::copy(from, to),
        // Elements of no float type stay what they are.
        _ => out.copy_from_slice(bytes),
    }
}

/// Elements as `f64`: exact for floats and for integers below 2⁵³.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f64]) {
    if let Some(from) = Floats::from_bytes(dtype, bytes) {
        return slices::copy(from, FloatsMut::of(out));
    }
    macro_rules! widen {
        ($integer:ident) => {
            decode(bytes, out, |bytes| {
                let integer = $integer::from_le_bytes(bytes);
                integer as f64
            })
        };
    }
    match dtype {
        Dtype::I8 => widen!(i8),
        Dtype::I16 => widen!(i16),
        Dtype::I32 => widen!(i32),
        Dtype::I64 => widen!(i64),
        Dtype::U8 | Dtype::Bool => widen!(u8),
        Dtype::U16 => widen!(u16),
        Dtype::U32 => widen!(u32),
        Dtype::U64 => widen!(u64),
        _ => unreachable!("no tensor has elements of {dtype}"),
    }
}

/// Numbers as floats of a type, rounded to nearest.
///
/// ***Panics*** if the type is no float.
pub(crate) fn narrow(values: &[f64], dtype: Dtype, out: &mut [u8]) {
    let out = FloatsMut::from_bytes(dtype, out);
    let out = out.expect("a type of floats");
    slices::copy(Floats::of(values), out);
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f64], one: impl Fn([u8; N]) -> f64) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (out, element) in out.iter_mut().zip(elements) {
        *out = one(*element);
    }
}
