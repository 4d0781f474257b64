//! The elements of one tensor: lent under candle's guard, or copied.
//!
//! candle keeps the elements of a tensor behind a lock of its own. Reading takes its guard. Writing
//! goes through an operation in place ([`InplaceOp1`]), which is handed the storage for as long as
//! it runs. A tensor that is strided or on a device is copied to host memory, and a variable there
//! is set from such a copy.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, DType, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, Var, WithDType,
};
use half::{bf16, f16};

/// A number that both candle and flatleaf know.
pub(crate) trait Stored: flatleaf::Element + WithDType {
    fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! stored {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl Stored for $type {
            fn of_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        }
    )*};
}

stored! {
    u8 => U8, u32 => U32, i16 => I16, i32 => I32, i64 => I64,
    bf16 => BF16, f16 => F16, f32 => F32, f64 => F64,
}

/// Does `$body` with `$element` as the type of a tensor's elements.
///
/// # Errors
/// The element types that flatleaf has no arrays of: floats of 8 bits and fewer.
macro_rules! with_element_type {
    ($dtype:expr, $element:ident => $body:expr) => {
        with_element_type!($dtype, $element => $body;
            U8: u8, U32: u32, I16: i16, I32: i32, I64: i64,
            BF16: half::bf16, F16: half::f16, F32: f32, F64: f64)
    };
    ($dtype:expr, $element:ident => $body:expr; $($variant:ident: $type:ty),*) => {
        match $dtype {
            $(candle_core::DType::$variant => {
                type $element = $type;
                $body
            })*
            other => Err($crate::elements::not_known(other)),
        }
    };
}
pub(crate) use with_element_type;

#[cold]
pub(crate) fn not_known(dtype: DType) -> flatleaf::Error {
    let dtype = dtype.as_str();
    flatleaf::Error::custom(format_args!(
        "expected elements of f32, f64, f16, bf16 or integers, found {dtype}: convert the variable, or leave it out"
    ))
}

/// A tensor's elements in row-major order, for as long as this is held.
pub(crate) enum Held<'t> {
    Lent {
        guard: StorageRef<'t>,
        range: Range<usize>,
    },
    Copied(CpuStorage),
}

impl<'t> Held<'t> {
    /// Lent where the elements lie in row-major order in host memory, otherwise copied there.
    pub(crate) fn of(tensor: &'t Tensor) -> Result<Self> {
        if let Some((start, end)) = tensor.layout().contiguous_offsets() {
            let guard = tensor.storage_and_layout().0;
            if let Storage::Cpu(_) = &*guard {
                return Ok(Held::Lent {
                    guard,
                    range: start..end,
                });
            }
        }
        Held::copied(tensor)
    }

    pub(crate) fn copied(tensor: &Tensor) -> Result<Self> {
        let copied = with_element_type!(tensor.dtype(), E => {
            return Ok(Held::Copied(E::to_cpu_storage_owned(to_vec::<E>(tensor)?)));
        });
        copied.map_err(crate::to_candle)
    }

    /// None if they are of another type.
    pub(crate) fn elements<E: WithDType>(&self) -> Option<&[E]> {
        match self {
            Held::Lent { guard, range } => match &**guard {
                Storage::Cpu(storage) => slice(storage)?.get(range.clone()),
                _ => None,
            },
            Held::Copied(storage) => slice(storage),
        }
    }

    /// Where the whole storage lies, of which the elements may be a part: equal for tensors that
    /// share it.
    pub(crate) fn address(&self) -> Option<usize> {
        match self {
            Held::Lent { guard, .. } => match &**guard {
                Storage::Cpu(storage) => address(storage),
                _ => None,
            },
            Held::Copied(_) => None,
        }
    }
}

/// candle's own way makes an error, with a backtrace, of what is only another type.
fn slice<E: WithDType>(storage: &CpuStorage) -> Option<&[E]> {
    let is_of_type = storage.dtype() == E::DTYPE;
    is_of_type.then(|| E::cpu_storage_as_slice(storage).ok())?
}

/// Where a storage lies.
pub(crate) fn address(storage: &CpuStorage) -> Option<usize> {
    let address: flatleaf::Result<_> = with_element_type!(storage.dtype(), E => {
        Ok(slice::<E>(storage).map(|elements| elements.as_ptr().addr()))
    });
    address.ok().flatten()
}

fn to_vec<E: Stored>(tensor: &Tensor) -> Result<Vec<E>> {
    tensor.flatten_all()?.to_vec1()
}

/// Calls `read` once with the elements, in row-major order.
pub(crate) fn read<E: Stored, R>(
    tensor: &Tensor,
    may_lend: bool,
    read: impl FnOnce(&[E]) -> R,
) -> Result<R> {
    if may_lend {
        let held = Held::of(tensor)?;
        if let Some(elements) = held.elements() {
            return Ok(read(elements));
        }
    }
    Ok(read(&to_vec(tensor)?))
}

/// Calls `change` once with the elements of a variable, in row-major order: where they are, under
/// the variable's lock, or a copy that the variable is set from.
pub(crate) fn change<E: Stored>(
    var: &Var,
    may_lend: bool,
    mut change: impl FnMut(&mut [E]),
) -> Result<()> {
    if may_lend && var.device().is_cpu() {
        let Some((start, end)) = var.layout().contiguous_offsets() else {
            candle_core::bail!("a variable that is not as it was");
        };
        return change_at(var, &(start..end), change);
    }
    let mut elements = to_vec(var)?;
    change(&mut elements);
    var.set(&Tensor::from_vec(elements, var.shape(), var.device())?)
}

/// Calls `change` once with the elements of a variable in host memory, which are there in its
/// storage.
pub(crate) fn change_at<E: Stored>(
    var: &Var,
    range: &Range<usize>,
    mut change: impl FnMut(&mut [E]),
) -> Result<()> {
    in_place(var, |storage, _| {
        let elements = E::of_mut(storage).and_then(|all| all.get_mut(range.clone()));
        let Some(elements) = elements else {
            candle_core::bail!("a variable that is not as it was");
        };
        change(elements);
        Ok(())
    })
}

/// Hands out the storage of a variable in host memory, under its lock for writing.
pub(crate) fn in_place(
    var: &Var,
    change: impl FnMut(&mut CpuStorage, &Layout) -> Result<()>,
) -> Result<()> {
    var.inplace_op1(&InPlace(RefCell::new(change)))
}

/// candle calls its operations by `&self`, and once.
struct InPlace<F>(RefCell<F>);

impl<F: FnMut(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "flatleaf"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        (self.0.borrow_mut())(storage, layout)
    }
}
