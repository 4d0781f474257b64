//! One burn tensor, of any rank and any device, as numbers in host memory.
//!
//! This is the only file that knows burn's tensors from within. On burn's CPU backend, `burn-flex`,
//! a [`Handle`] is a second hold on the storage that the module has: reading it copies nothing, and
//! writing it copies nothing once the module has let go of its own hold. A tensor on another device
//! is downloaded when the handle is made and uploaded when it becomes a tensor again.

use std::ops::Range;

use burn_autodiff::{Autodiff, NodeId};
use burn_core::backend::{
    BackendTensor, BackendTypes, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
};
use burn_core::module::ParamId;
use burn_core::tensor::kind::Basic;
use burn_core::tensor::{
    BoolStore, DType, Device, Element as BurnElement, Shape, Tensor, TensorData, bf16, f16,
};
use burn_flex::{Flex, FlexTensor, Layout as Strides};
use bytemuck::Pod;
use flatleaf::{Builder, Dtype, Error, LeafMut, LeafRef, Reader, Result, Writer, ops};

/// A hold on the elements of one tensor, row-major and in host memory.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    tensor: FlexTensor,
    /// Where a tensor goes back to that is not on the CPU backend.
    device: Option<Device>,
}

/// What a parameter is to burn's autodiff, apart from its elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracking {
    context: DispatchAutodiffContext,
    pub(crate) requires_grad: bool,
    is_distributed: bool,
}

impl Tracking {
    /// Of a tensor without autodiff.
    pub(crate) const NONE: Tracking = Tracking {
        context: DispatchAutodiffContext::Disabled,
        requires_grad: false,
        is_distributed: false,
    };

    /// Makes a new tensor, on the device that the old one was on, what the old one was.
    fn put_on<const D: usize>(self, tensor: Tensor<D>, id: ParamId) -> Tensor<D> {
        let tensor = match self.context {
            DispatchAutodiffContext::Disabled => tensor,
            DispatchAutodiffContext::Enabled(strategy) => Tensor::from_inner(tensor)
                .with_gradient_checkpointing_strategy(strategy)
                .set_require_grad(self.requires_grad),
        };
        self.distributed(tensor, id)
    }

    fn distributed<const D: usize>(self, tensor: Tensor<D>, id: ParamId) -> Tensor<D> {
        match self.is_distributed {
            true => tensor.set_distributed(id),
            false => tensor,
        }
    }
}

/// A tensor that burn's autodiff knows.
type Tracked = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// Calls a function that is generic over the rank with a rank that is known at run time only.
macro_rules! with_rank {
    ($rank:expr, $D:ident => $call:expr) => {
        with_rank!(@ $rank, $D => $call, 0 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $rank:expr, $D:ident => $call:expr, $($number:literal)*) => {
        match $rank {
            $($number => {
                const $D: usize = $number;
                $call
            })*
            rank => unreachable!("burn has no tensors of {rank} axes"),
        }
    };
}
pub(crate) use with_rank;

impl Handle {
    /// The handle of a float tensor, and what autodiff knows of it.
    ///
    /// # Errors
    /// Elements of a type that no leaf has, such as quantised ones.
    pub(crate) fn of_float<const D: usize>(tensor: Tensor<D>) -> Result<(Self, Tracking)> {
        let tracking = Tracking {
            context: DispatchAutodiffContext::Disabled,
            requires_grad: tensor.is_require_grad(),
            is_distributed: tensor.is_require_grad() && tensor.is_distributed(),
        };
        let DispatchTensor { kind, autodiff } = tensor.into_dispatch();
        let tracking = Tracking {
            context: autodiff,
            ..tracking
        };
        let handle = match kind {
            DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Self::on_host(tensor),
            DispatchTensorKind::Autodiff(inner) => match *inner {
                DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => {
                    Self::on_host(tensor.into_primitive())
                }
                inner => Self::downloaded(Tensor::<D>::from_dispatch(DispatchTensor {
                    kind: DispatchTensorKind::Autodiff(Box::new(inner)),
                    autodiff,
                }))?,
            },
            kind => Self::downloaded(Tensor::<D>::from_dispatch(DispatchTensor {
                kind,
                autodiff,
            }))?,
        };
        Ok((handle, tracking))
    }

    /// The handle of a tensor of integers or booleans.
    ///
    /// # Errors
    /// What burn says if the tensor cannot be downloaded.
    pub(crate) fn of_other<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Result<Self> {
        let DispatchTensor { kind, autodiff } = tensor.into_dispatch();
        match kind {
            DispatchTensorKind::Flex(BackendTensor::Int(tensor) | BackendTensor::Bool(tensor)) => {
                Ok(Self::on_host(tensor))
            }
            kind => Self::downloaded(Tensor::<D, K>::from_dispatch(DispatchTensor {
                kind,
                autodiff,
            })),
        }
    }

    /// Waits for the device of the tensor.
    fn downloaded<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Result<Self> {
        if let DType::QFloat(_) = tensor.dtype() {
            return Err(Error::custom(
                "expected floats, found quantised elements: dequantise them first",
            ));
        }
        let device = tensor.device();
        let data = tensor.try_into_data().map_err(Error::custom)?;
        Ok(Handle {
            tensor: FlexTensor::from_data(data),
            device: Some(device),
        })
    }

    /// A tensor without elements, where a module must have one.
    pub(crate) fn empty<const D: usize>() -> Tensor<D> {
        let shape = Shape::new([0; D]);
        let tensor = BackendTensor::Float(FlexTensor::empty(shape, DType::F32));
        Tensor::from_dispatch(DispatchTensor {
            kind: DispatchTensorKind::Flex(tensor),
            autodiff: DispatchAutodiffContext::Disabled,
        })
    }

    fn on_host(tensor: FlexTensor) -> Self {
        // What is transposed or broadcast has no slice.
        let tensor = match tensor.is_contiguous() {
            true => tensor,
            false => tensor.to_contiguous(),
        };
        Handle {
            tensor,
            device: None,
        }
    }

    /// A part of a vector that several tensors share.
    pub(crate) fn view_of(vector: &FlexTensor, shape: &[usize], start: usize) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis] as isize;
        }
        let view = Strides::new(Shape::from(shape.to_vec()), strides, start);
        Handle {
            tensor: FlexTensor::from_arc(vector.data_arc(), view, DType::F32),
            device: None,
        }
    }

    /// The tensor of this rank that holds these elements.
    pub(crate) fn into_float<const D: usize>(self, tracking: Tracking, id: ParamId) -> Tensor<D> {
        if let Some(device) = self.device {
            let dtype = self.tensor.dtype();
            let tensor = Tensor::<D>::from_data(self.tensor.into_data(), (&device, dtype));
            return tracking.put_on(tensor, id);
        }
        let kind = match tracking.context {
            DispatchAutodiffContext::Disabled => {
                DispatchTensorKind::Flex(BackendTensor::Float(self.tensor))
            }
            DispatchAutodiffContext::Enabled(_) => {
                let mut tensor = Tracked::new(self.tensor);
                if tracking.requires_grad {
                    tensor = tensor.require_grad();
                }
                let tensor = DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor));
                DispatchTensorKind::Autodiff(Box::new(tensor))
            }
        };
        let tensor = Tensor::from_dispatch(DispatchTensor {
            kind,
            autodiff: tracking.context,
        });
        tracking.distributed(tensor, id)
    }

    /// The tensor of integers or booleans that holds these elements, as `template` does.
    pub(crate) fn into_other<const D: usize, K: Basic>(
        self,
        template: Tensor<D, K>,
    ) -> Tensor<D, K> {
        let device = template.device();
        Tensor::from_data(self.tensor.into_data(), (&device, template.dtype()))
    }

    pub(crate) fn len(&self) -> usize {
        self.range().len()
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.tensor.layout().shape().as_slice()
    }

    /// The element type as flatleaf calls it; `None` for those that it has not got.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        Some(match self.tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
            DType::I16 => Dtype::I16,
            DType::I8 => Dtype::I8,
            DType::U64 => Dtype::U64,
            DType::U32 => Dtype::U32,
            DType::U16 => Dtype::U16,
            DType::U8 => Dtype::U8,
            DType::Bool(BoolStore::Native | BoolStore::U8) => Dtype::Bool,
            _ => return None,
        })
    }
}

/// Runs an expression with the Rust type of a leaf's elements; booleans, which burn keeps as bytes
/// that may hold any number, have one of their own.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $call:expr, bool => $bool:expr, none => $none:expr) => {
        with_element!(@ $dtype, $E => $call, $bool, $none,
            F64 f64, F32 f32, F16 f16, BF16 bf16,
            I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8)
    };
    (@ $dtype:expr, $E:ident => $call:expr, $bool:expr, $none:expr, $($variant:ident $type:ident),*) => {
        match $dtype {
            $(Some(Dtype::$variant) => {
                type $E = $type;
                $call
            })*
            Some(Dtype::Bool) => $bool,
            _ => $none,
        }
    };
}

impl Handle {
    /// Shows the elements to `read` as a leaf that lives as long as the handle.
    pub(crate) fn visit<'a>(
        &'a self,
        read: impl FnOnce(LeafRef<'_, 'a>) -> Result<()>,
    ) -> Result<()> {
        let shape = self.shape();
        with_element!(self.dtype(),
            E => read(LeafRef::from_slice(shape, self.elements::<E>().expect("of its own type"))),
            bool => {
                let reader = Reader::new(|out: &mut [bool]| {
                    out.iter_mut().zip(self.bytes()).for_each(|(x, byte)| *x = *byte != 0);
                    Ok(())
                });
                read(LeafRef::from_reader(shape, &reader))
            },
            none => Err(self.no_leaf()))
    }

    /// Shows the elements to `write` as a leaf that is written where it is.
    pub(crate) fn visit_mut<'a>(
        &'a mut self,
        shape: &[usize],
        write: impl FnOnce(LeafMut<'_, 'a>) -> Result<()>,
    ) -> Result<()> {
        with_element!(self.dtype(),
            E => write(LeafMut::from_slice(shape, self.elements_mut::<E>())),
            bool => {
                let mut writer = Writer::new(|values: &[bool]| {
                    let bytes = self.elements_mut::<u8>();
                    bytes.iter_mut().zip(values).for_each(|(byte, x)| *byte = u8::from(*x));
                    Ok(())
                });
                write(LeafMut::from_writer(shape, &mut writer))
            },
            none => Err(self.no_leaf()))
    }

    /// As [`visit`](Handle::visit) does, with the two axes of a matrix exchanged.
    pub(crate) fn visit_transposed<'a>(
        &self,
        read: impl FnOnce(LeafRef<'_, 'a>) -> Result<()>,
    ) -> Result<()> {
        let &[rows, columns] = self.shape() else {
            return Err(self.no_leaf());
        };
        with_element!(self.dtype(),
            E => {
                let elements = self.elements::<E>().expect("of its own type");
                let reader = Reader::new(|out: &mut [E]| {
                    transpose(elements, out, columns);
                    Ok(())
                });
                read(LeafRef::from_reader(&[columns, rows], &reader))
            },
            bool => Err(self.no_leaf()),
            none => Err(self.no_leaf()))
    }

    /// As [`visit_mut`](Handle::visit_mut) does, with the two axes of a matrix exchanged.
    pub(crate) fn visit_transposed_mut<'a>(
        &'a mut self,
        shape: &[usize],
        write: impl FnOnce(LeafMut<'_, 'a>) -> Result<()>,
    ) -> Result<()> {
        let &[rows, columns] = shape else {
            return Err(self.no_leaf());
        };
        with_element!(self.dtype(),
            E => {
                let mut writer = Writer::new(|values: &[E]| {
                    transpose(values, self.elements_mut::<E>(), rows);
                    Ok(())
                });
                write(LeafMut::from_writer(&[columns, rows], &mut writer))
            },
            bool => Err(self.no_leaf()),
            none => Err(self.no_leaf()))
    }

    /// A new tensor with the elements that the builder has for this leaf.
    pub(crate) fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let mut rebuilt = None;
        self.visit(|leaf| {
            let shape = leaf.shape().to_vec();
            let data = with_element!(self.dtype(),
                E => TensorData::new(builder.leaf::<E>(leaf)?, shape),
                bool => TensorData::new(builder.leaf::<bool>(leaf)?, shape),
                none => return Err(self.no_leaf()));
            rebuilt = Some(Handle {
                tensor: FlexTensor::from_data(data),
                device: self.device.clone(),
            });
            Ok(())
        })?;
        rebuilt.ok_or_else(|| self.no_leaf())
    }

    #[cold]
    fn no_leaf(&self) -> Error {
        Error::custom(format_args!(
            "expected floats, integers or booleans, found {:?}",
            self.tensor.dtype()
        ))
    }

    fn range(&self) -> Range<usize> {
        let (start, end) = self
            .tensor
            .layout()
            .contiguous_offsets()
            .expect("row-major");
        start..end
    }

    fn bytes(&self) -> &[u8] {
        let size = self.tensor.dtype().size();
        &self.tensor.bytes()[self.range().start * size..self.range().end * size]
    }

    /// The elements, if they are of this type.
    pub(crate) fn elements<E: BurnElement + Pod>(&self) -> Option<&[E]> {
        self.tensor.as_slice()
    }

    /// The elements where they are, or, if another tensor shares their storage, in a copy of their
    /// own: of these elements and not of all the storage, which may be that of a whole model.
    ///
    /// # Panics
    /// If they are not of this type.
    pub(crate) fn elements_mut<E: BurnElement + Pod>(&mut self) -> &mut [E] {
        if !self.tensor.is_unique() {
            let data = TensorData::from_bytes_vec(
                self.bytes().to_vec(),
                self.shape().to_vec(),
                self.tensor.dtype(),
            );
            self.tensor = FlexTensor::from_data(data);
        }
        let range = self.range();
        &mut self.tensor.storage_mut()[range]
    }

    /// Copies the elements as `f32`, to which those of `f64` are rounded.
    ///
    /// # Panics
    /// If they are of another number, or no floats.
    pub(crate) fn copy_to(&self, to: &mut [f32]) {
        if let Some(elements) = self.elements::<f32>() {
            to.copy_from_slice(elements);
        } else if let Some(elements) = self.elements::<f16>() {
            convert(elements, to, f16::to_f32);
        } else if let Some(elements) = self.elements::<bf16>() {
            convert(elements, to, bf16::to_f32);
        } else if let Some(elements) = self.elements::<f64>() {
            convert(elements, to, |x| x as f32);
        } else {
            unreachable!("floats")
        }
    }

    /// Calls `step` with the elements, which are floats of 32 bits or fewer: narrower ones are
    /// widened for it, and rounded to nearest afterwards.
    pub(crate) fn with_f32(&mut self, step: &mut dyn FnMut(&mut [f32])) {
        if self.dtype() == Some(Dtype::F32) {
            return step(self.elements_mut());
        }
        let mut wide = vec![0.0; self.len()];
        self.copy_to(&mut wide);
        step(&mut wide);
        match self.dtype() {
            Some(Dtype::F16) => convert(&wide, self.elements_mut(), f16::from_f32),
            _ => convert(&wide, self.elements_mut(), bf16::from_f32),
        }
    }

    /// The elements as `f32`; a copy, if they are of another type.
    pub(crate) fn into_f32(self) -> Self {
        if self.dtype() == Some(Dtype::F32) {
            return self;
        }
        let mut elements = vec![0.0; self.len()];
        self.copy_to(&mut elements);
        let data = TensorData::new(elements, self.shape().to_vec());
        Handle {
            tensor: FlexTensor::from_data(data),
            device: None,
        }
    }

    /// Multiplies each element.
    ///
    /// # Panics
    /// If they are no floats.
    pub(crate) fn scale(&mut self, factor: f64) {
        let half = |x: f32| (f64::from(x) * factor) as f32;
        match self.dtype() {
            Some(Dtype::F32) => ops::scale(self.elements_mut::<f32>(), factor as f32),
            Some(Dtype::F64) => self
                .elements_mut::<f64>()
                .iter_mut()
                .for_each(|x| *x *= factor),
            Some(Dtype::F16) => {
                let elements = self.elements_mut::<f16>().iter_mut();
                elements.for_each(|x| *x = f16::from_f32(half(x.to_f32())));
            }
            Some(Dtype::BF16) => {
                let elements = self.elements_mut::<bf16>().iter_mut();
                elements.for_each(|x| *x = bf16::from_f32(half(x.to_f32())));
            }
            _ => unreachable!("gradients are floats"),
        }
    }

    /// Where the first element is.
    pub(crate) fn address(&self) -> usize {
        self.bytes().as_ptr() as usize
    }

    /// Whether both hold the same elements of the same storage.
    pub(crate) fn is_same(&self, other: &Handle) -> bool {
        self.address() == other.address() && self.shape() == other.shape()
    }

    /// Whether both hold equal bits.
    pub(crate) fn is_equal(&self, other: &Handle) -> bool {
        self.is_same(other)
            || (self.shape() == other.shape()
                && self.tensor.dtype() == other.tensor.dtype()
                && self.bytes() == other.bytes())
    }
}

/// The name that burn's autodiff has for a tensor, if it knows it.
pub(crate) fn node_of<const D: usize>(tensor: Tensor<D>) -> Option<NodeId> {
    let DispatchTensorKind::Autodiff(inner) = tensor.into_dispatch().kind else {
        return None;
    };
    match *inner {
        DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => Some(tensor.id()),
        _ => None,
    }
}

/// Writes each element in another type.
///
/// # Panics
/// If there are not as many of both.
fn convert<From: Copy, To>(from: &[From], to: &mut [To], one: impl Fn(From) -> To) {
    assert_eq!(from.len(), to.len(), "elements of a leaf");
    to.iter_mut().zip(from).for_each(|(to, x)| *to = one(*x));
}

/// Writes a matrix of so many columns the other way round.
fn transpose<E: Copy>(matrix: &[E], transposed: &mut [E], columns: usize) {
    let rows = matrix.len() / columns.max(1);
    for (row, elements) in matrix.chunks_exact(columns.max(1)).enumerate() {
        let column = transposed[row..].iter_mut().step_by(rows);
        column.zip(elements).for_each(|(to, x)| *to = *x);
    }
}

/// A leaf that takes new elements and drops them, since another place of its tie has them.
pub(crate) fn written_elsewhere<'a>(
    dtype: Option<Dtype>,
    shape: &[usize],
    is_transposed: bool,
    write: impl FnOnce(LeafMut<'_, 'a>) -> Result<()>,
) -> Result<()> {
    let transposed: Vec<usize> = shape.iter().rev().copied().collect();
    let shape = if is_transposed { &transposed } else { shape };
    with_element!(dtype,
        E => write(LeafMut::from_writer(shape, &mut Writer::new(|_: &[E]| Ok(())))),
        bool => write(LeafMut::from_writer(shape, &mut Writer::new(|_: &[bool]| Ok(())))),
        none => Err(Error::custom("a leaf that cannot be written")))
}
