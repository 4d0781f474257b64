//! Element types: which numbers an array leaf may hold.

use std::fmt;

use bytemuck::{CheckedBitPattern, NoUninit, Pod, checked};
use ndarray::NdFloat;

use crate::error::Result;

/// The element type of a leaf.
///
/// Floats are parameters; integers and booleans are *carried*: they stay with the tree and never
/// enter the flat vector. So are floats of 8 bits, which only files bring: they are kept as their
/// bytes. A complex number is two floats, and has no type of its own.
///
/// ```
/// use flatleaf::{Dtype, Layout};
///
/// let layout = Layout::of(&(vec![1.0_f32], vec![0.5_f64], vec![7_u64]))?;
/// assert_eq!(layout.leaves()[1].dtype(), Dtype::F64);
/// assert_eq!(layout.others()[0].dtype(), Dtype::U64); // carried
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
#[allow(missing_docs)] // each variant is the Rust type, or the type in a file, of the same name
pub enum Dtype {
    F32,
    F64,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    I128,
    Isize,
    U8,
    U16,
    U32,
    U64,
    U128,
    Usize,
    Bool,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    F8E4M3FNUZ,
    F8E5M2FNUZ,
}

impl Dtype {
    /// Whether leaves of this type are parameters unless frozen: `f32`, `f64`, `f16` and `bf16`
    /// are. A leaf of any other type is carried: it is in the tree and in a checkpoint, and in no
    /// flat vector.
    ///
    /// ```
    /// use flatleaf::{Dtype, Layout};
    ///
    /// assert!(Dtype::BF16.is_float() && !Dtype::Bool.is_float());
    /// let layout = Layout::planner().freeze("0").of(&(vec![1.0_f32], vec![7_u64]))?;
    /// let frozen: Vec<_> = layout.others().iter().filter(|leaf| leaf.dtype().is_float()).map(|leaf| leaf.path()).collect();
    /// assert_eq!(frozen, ["0"]); // the other one is carried
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16)
    }

    /// Whether nothing here calculates with such elements: floats of 8 bits, which come from files,
    /// are carried as their bytes, and go into files again.
    pub(crate) fn is_opaque(self) -> bool {
        use Dtype::{F8E4M3, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0};
        matches!(self, F8E4M3 | F8E5M2 | F8E8M0 | F8E4M3FNUZ | F8E5M2FNUZ)
    }

    /// The bytes that one element takes in memory, and in a file: 1 for `bool`, 2 for `bf16`, 4 for
    /// `f32`. Times the number of elements it is what a leaf occupies. `isize` and `usize` have the
    /// size of this machine's.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32; 3], vec![0.5_f64; 2]))?;
    /// let bytes: usize = layout.leaves().iter().map(|leaf| leaf.len() * leaf.dtype().size()).sum();
    /// assert_eq!(bytes, 3 * 4 + 2 * 8);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn size(self) -> usize {
        match self {
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F8E8M0 => 1,
            Dtype::F8E4M3FNUZ | Dtype::F8E5M2FNUZ => 1,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::I128 | Dtype::U128 => 16,
            Dtype::Isize | Dtype::Usize => size_of::<usize>(),
        }
    }

    /// The name in lower case, which is that of the Rust type where there is one: as errors, the
    /// table of a layout and a serialised layout show it. A safetensors file has names of its own,
    /// `F32` for `f32` and `BOOL` for `bool`.
    ///
    /// ```
    /// use flatleaf::Dtype;
    ///
    /// assert_eq!((Dtype::BF16.name(), Dtype::Usize.name()), ("bf16", "usize"));
    /// assert_eq!(format!("{:>6}", Dtype::F32), "   f32"); // it is also how they print
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::I8 => "i8",
            Dtype::I16 => "i16",
            Dtype::I32 => "i32",
            Dtype::I64 => "i64",
            Dtype::I128 => "i128",
            Dtype::Isize => "isize",
            Dtype::U8 => "u8",
            Dtype::U16 => "u16",
            Dtype::U32 => "u32",
            Dtype::U64 => "u64",
            Dtype::U128 => "u128",
            Dtype::Usize => "usize",
            Dtype::Bool => "bool",
            Dtype::F8E4M3 => "f8e4m3",
            Dtype::F8E5M2 => "f8e5m2",
            Dtype::F8E8M0 => "f8e8m0",
            Dtype::F8E4M3FNUZ => "f8e4m3fnuz",
            Dtype::F8E5M2FNUZ => "f8e5m2fnuz",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A number that array leaves may hold: the floats, the integers and `bool`.
///
/// Code that is generic over it reads and writes leaves of one element type, whichever that is:
/// `LeafRef::from_slice`, `DynTree::as_array`, `Builder::leaf`. It is sealed, because [`Dtype`]
/// names every type there is; a number of another kind, a quantised code say, is a leaf by way of a
/// [`Reader`](crate::Reader) of one of these.
///
/// ```
/// use flatleaf::{Element, Layout};
///
/// fn bytes_as<E: Element>(layout: &Layout) -> usize {
///     layout.leaves().iter().filter(|leaf| leaf.dtype() == E::DTYPE).map(|leaf| leaf.len() * size_of::<E>()).sum()
/// }
///
/// let layout = Layout::of(&(vec![1.0_f32; 3], vec![0.5_f64; 2]))?;
/// assert_eq!((bytes_as::<f32>(&layout), bytes_as::<f64>(&layout)), (12, 16));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Element:
    NoUninit + CheckedBitPattern + Default + PartialEq + fmt::Debug + Send + Sync + private::Sealed
{
    /// The [`Dtype`] that says at run time what this type says to the compiler: what a leaf of
    /// these elements has for its [`dtype`](crate::LeafRef::dtype), and what is compared before its
    /// bytes are taken for elements.
    const DTYPE: Dtype;

    #[doc(hidden)]
    fn sink<'call, 'a>(elements: &'a mut [Self]) -> Sink<'call, 'a>;

    /// The bytes as elements that may be overwritten, if any byte is good for that and they are
    /// aligned.
    #[doc(hidden)]
    fn overwritable(bytes: &mut [u8]) -> Option<&mut [Self]>;
}

/// A number that flat vectors are made of: `f32` and `f64`.
///
/// Sealed: `f16` and `bf16` are types of leaves only, since sums over a vector of them would lose
/// what they sum. It has the arithmetic of ndarray's [`NdFloat`], so that code which is generic
/// over it calculates as with a float, and multiplies matrices.
///
/// A vector of `f32` holds leaves of `f32`, `f16` and `bf16` without loss, a vector of `f64` those
/// of any float type. On the way back numbers are rounded to the nearest one of their leaf's type,
/// ties to even, once. What is only carried through comes back bit for bit: −0, subnormal numbers
/// and the payloads of NaNs too.
///
/// ```
/// use flatleaf::{destructure_as, FlatElement, Result, Tree};
///
/// fn total<E: FlatElement>(model: &impl Tree) -> Result<E> {
///     let mut total = E::default();
///     destructure_as::<E>(model)?.0.into_iter().for_each(|x| total += x);
///     Ok(total)
/// }
///
/// let model = (vec![1.0_f32], vec![0.1_f64]);
/// assert_eq!(total::<f64>(&model)?, 1.1);
/// assert!(total::<f32>(&model).unwrap_err().is_element_type());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait FlatElement: FloatElement + Pod + NdFloat + Into<f64> {
    /// The number of this type that is nearest to an `f64`, ties to even: of a setting, which is an
    /// `f64` whatever the vectors are. For `f64` it is the number itself. What is beyond the
    /// greatest `f32` becomes infinite there.
    ///
    /// ```
    /// use flatleaf::FlatElement;
    ///
    /// fn third<E: FlatElement>() -> E {
    ///     E::from_f64(1.0 / 3.0)
    /// }
    ///
    /// assert_eq!((third::<f32>(), third::<f64>()), (0.33333334, 0.3333333333333333));
    /// ```
    fn from_f64(number: f64) -> Self;

    /// An integer of as many bits, by which floats are compared without losing a NaN.
    #[doc(hidden)]
    type Key: Copy + Ord + Send + Sync;

    /// The least and the greatest key.
    #[doc(hidden)]
    const KEYS: (Self::Key, Self::Key);

    /// The [`magnitude`](FlatElement::magnitude) of infinity: those above are NaN.
    #[doc(hidden)]
    const INFINITE: Self::Key;

    /// Whether squares of all numbers are exact in an f64, and neither overflow nor vanish there.
    #[doc(hidden)]
    const HAS_SQUARES: bool;

    #[doc(hidden)]
    fn slice(elements: &[Self]) -> FlatSlice<'_>;

    /// The one of two that goes with this type.
    #[doc(hidden)]
    fn choose<F: PerElement>(of_both: (F::Of<f32>, F::Of<f64>)) -> F::Of<Self>;

    #[doc(hidden)]
    fn bits(self) -> u64;

    /// `None` of bits that are more than it has.
    #[doc(hidden)]
    fn of_bits(bits: u64) -> Option<Self>;

    /// |x| as an integer of the same order, with NaN above infinity.
    #[doc(hidden)]
    fn magnitude(self) -> Self::Key;

    #[doc(hidden)]
    fn of_magnitude(key: Self::Key) -> Self;

    /// x as an integer of the same order, with NaNs beyond the infinities of their sign.
    #[doc(hidden)]
    fn ordered(self) -> Self::Key;

    #[doc(hidden)]
    fn of_ordered(key: Self::Key) -> Self;
}

/// Types of which one goes with each type of elements: of code, say, that is compiled here for both
/// and chosen by who calls, so that it is not compiled again there.
#[doc(hidden)]
pub trait PerElement {
    type Of<E: FlatElement>;
}

/// A float that leaves may be trained of, and that a flat gradient may be kept in: `f32`, `f64` and,
/// with the feature `half`, `f16` and `bf16`.
///
/// Parameters are a vector of a [`FlatElement`], `f32` or `f64`. A gradient is read once by a step,
/// which computes in the type of the parameters, so a [`FlatGrad`](crate::FlatGrad) may be of fewer
/// bytes: half of them in `bf16`. Sealed.
///
/// ```
/// use flatleaf::{FlatGrad, FloatElement, Layout};
///
/// fn bytes<E: FloatElement>(grad: &FlatGrad<E>) -> usize {
///     grad.len() * E::DTYPE.size()
/// }
///
/// let layout = Layout::of(&vec![0.0_f32; 3])?;
/// assert_eq!(bytes(&FlatGrad::<f32>::zeros(&layout)), 12);
/// # #[cfg(feature = "half")]
/// assert_eq!(bytes(&FlatGrad::<half::bf16>::zeros(&layout)), 6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait FloatElement: Element + Pod {
    /// The type in which such elements are added up.
    #[doc(hidden)]
    type Sum: FlatElement;
}

impl FloatElement for f32 {
    type Sum = f32;
}

impl FloatElement for f64 {
    type Sum = f64;
}

#[cfg(feature = "half")]
impl FloatElement for half::f16 {
    type Sum = f32;
}

#[cfg(feature = "half")]
impl FloatElement for half::bf16 {
    type Sum = f32;
}

/// Elements of a flat vector, across a call that is not generic, so that the loops behind it are
/// compiled once, here, and not by everybody who calls.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum FlatSlice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

macro_rules! flat_elements {
    ($($float:ty, $name:ident, $key:ty, $bits:ty, $has_squares:literal, $place:tt;)*) => {$(
        impl FlatElement for $float {
            type Key = $key;

            const KEYS: ($key, $key) = (<$key>::MIN, <$key>::MAX);
            const INFINITE: $key = <$float>::INFINITY.to_bits() as $key;
            const HAS_SQUARES: bool = $has_squares;

            #[inline(always)]
            fn from_f64(number: f64) -> Self {
                number as $float
            }

            #[inline]
            fn slice(elements: &[Self]) -> FlatSlice<'_> {
                FlatSlice::$name(elements)
            }

            #[inline]
            fn choose<F: PerElement>(of_both: (F::Of<f32>, F::Of<f64>)) -> F::Of<Self> {
                of_both.$place
            }

            #[inline(always)]
            fn bits(self) -> u64 {
                self.to_bits().into()
            }

            fn of_bits(bits: u64) -> Option<Self> {
                <$bits>::try_from(bits).ok().map(<$float>::from_bits)
            }

            #[inline(always)]
            fn magnitude(self) -> $key {
                (self.to_bits() & (<$bits>::MAX >> 1)) as $key
            }

            #[inline(always)]
            fn of_magnitude(key: $key) -> Self {
                <$float>::from_bits(key as $bits)
            }

            #[inline(always)]
            fn ordered(self) -> $key {
                // Floats are sign and magnitude, integers two's complement: of negative numbers all
                // bits but the sign are turned round, so that the greater magnitude is the lesser
                // integer.
                let bits = self.to_bits() as $key;
                bits ^ ((bits >> (<$key>::BITS - 1)) & <$key>::MAX)
            }

            #[inline(always)]
            fn of_ordered(key: $key) -> Self {
                let bits = key ^ ((key >> (<$key>::BITS - 1)) & <$key>::MAX);
                <$float>::from_bits(bits as $bits)
            }
        }
    )*};
}

flat_elements! {
    f32, F32, i32, u32, true, 0;
    f64, F64, i64, u64, false, 1;
}

mod private {
    pub trait Sealed {}
}

macro_rules! pod_elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl private::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;

            #[inline]
            fn sink<'call, 'a>(elements: &'a mut [Self]) -> Sink<'call, 'a> {
                Sink::Bytes(bytemuck::cast_slice_mut(elements))
            }

            #[inline]
            fn overwritable(bytes: &mut [u8]) -> Option<&mut [Self]> {
                bytemuck::try_cast_slice_mut(bytes).ok()
            }
        }
    )*};
}

pod_elements! {
    f32 => F32, f64 => F64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64, i128 => I128, isize => Isize,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, u128 => U128, usize => Usize,
}

#[cfg(feature = "half")]
pod_elements! { half::f16 => F16, half::bf16 => BF16 }

impl private::Sealed for bool {}
impl Element for bool {
    const DTYPE: Dtype = Dtype::Bool;

    // A `&mut [bool]` is no `&mut [u8]`: most bytes are no booleans.
    fn sink<'call, 'a>(elements: &'a mut [Self]) -> Sink<'call, 'a> {
        Sink::Booleans(elements)
    }

    fn overwritable(_bytes: &mut [u8]) -> Option<&mut [Self]> {
        None
    }
}

#[doc(hidden)]
pub enum Sink<'call, 'a> {
    Bytes(&'a mut [u8]),
    Booleans(&'a mut [bool]),
    Writer(&'call mut dyn WriteBytes),
}

#[doc(hidden)]
pub trait ReadBytes {
    fn read_bytes(&self, out: &mut [u8]) -> Result<()>;

    /// The address of the first element and the strides, in elements, of what lies in memory.
    fn geometry(&self) -> Option<(usize, Vec<isize>)> {
        None
    }
}

#[doc(hidden)]
pub trait WriteBytes {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()>;
}

/// Elements out of bytes that may not be aligned.
pub(crate) fn to_elements<E: Element>(bytes: &[u8]) -> Vec<E> {
    bytes
        .chunks_exact(size_of::<E>())
        .map(checked::pod_read_unaligned)
        .collect()
}
