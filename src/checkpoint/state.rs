//! State vectors as tensors: one for a vector that is full or of bf16; for one of 8 bits one of its
//! codes and one of the scales of its blocks.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::cast_slice;
use safetensors::Dtype;

use super::open::Checkpoint;
use crate::element::{self, Element, FlatElement, to_elements};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::optim::{BlockStarts, Form, LentVector, PackedVector, SavedElements, blocks_before};

/// A tensor of an optimiser's state, of which a member of a run may have a part only.
pub(crate) struct StateTensor<'e> {
    /// Below the part's name.
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    /// None of zeros.
    pub(crate) bytes: Option<&'e [u8]>,
    /// Which of its elements are here, and how many there are.
    pub(crate) range: Range<usize>,
    pub(crate) len: usize,
    /// Whether it has an element for each block of the flat vector, and not for each element.
    pub(crate) is_scales: bool,
}

/// What is kept of a state: of which elements of the flat vector, in a layout.
pub(crate) struct Keeper<'l> {
    pub(crate) layout: &'l Layout,
    pub(crate) range: Range<usize>,
}

/// The tensors of a state vector, those of zeros too.
pub(crate) fn tensors_of<'e, E: FlatElement>(
    (index, name): (usize, &str),
    form: Form,
    elements: Option<LentVector<'e, E>>,
    keeper: &Keeper<'_>,
) -> Vec<StateTensor<'e>> {
    let (values, scales): (Option<&[u8]>, Option<&[u8]>) = match elements {
        None => (None, None),
        Some(LentVector::Full(elements)) => (Some(cast_slice(elements)), None),
        Some(LentVector::Packed(PackedVector::Bf16(halves), _)) => (Some(cast_slice(halves)), None),
        Some(LentVector::Packed(PackedVector::EightBits { codes, scales, .. }, _)) => {
            (Some(codes), Some(cast_slice(scales)))
        }
    };
    let mut tensors = vec![StateTensor {
        name: super::optimizer::vector_name(index, name),
        dtype: dtype_of::<E>(form),
        bytes: values,
        range: keeper.range.clone(),
        len: keeper.layout.len(),
        is_scales: false,
    }];
    // Scales are listed for zeros too: all members of a run have to list as many tensors.
    if let Form::EightBits(_) = form {
        tensors.push(StateTensor {
            name: scales_name(index, name),
            dtype: Dtype::F32,
            bytes: scales,
            range: blocks_of(keeper.layout, &keeper.range),
            len: blocks_before(keeper.layout, keeper.layout.len()),
            is_scales: true,
        });
    }
    tensors
}

/// The blocks of elements of the flat vector that begin and end where blocks do.
pub(crate) fn blocks_of(layout: &Layout, elements: &Range<usize>) -> Range<usize> {
    blocks_before(layout, elements.start)..blocks_before(layout, elements.end)
}

fn dtype_of<E: FlatElement>(form: Form) -> Dtype {
    match form {
        Form::Full if E::DTYPE == element::Dtype::F64 => Dtype::F64,
        Form::Full => Dtype::F32,
        Form::Bf16 => Dtype::BF16,
        Form::EightBits(_) => Dtype::U8,
    }
}

/// The name of the scales of a vector, below the part's.
fn scales_name(index: usize, name: &str) -> String {
    super::optimizer::vector_name(index, &format!("{name}_scales"))
}

impl Checkpoint {
    /// A state vector; none of one that was all zeros.
    ///
    /// # Errors
    /// A tensor of another type; codes without scales.
    pub(super) fn state_vector<E: FlatElement>(
        &self,
        (index, name): (usize, &str),
        form: Form,
        blocks: &Arc<BlockStarts>,
    ) -> Result<Option<SavedElements<'_, E>>> {
        let tensor = super::optimizer::vector_name(index, name);
        let dtype = dtype_of::<E>(form);
        // Vectors of zeros are not written.
        if self.tensor(&tensor).is_none() {
            return Ok(None);
        }
        let packed = match form {
            Form::Full => {
                let elements = self.elements_of(&tensor, dtype)?;
                return Ok(Some(SavedElements::Full(elements)));
            }
            Form::Bf16 => PackedVector::Bf16(self.elements_of(&tensor, dtype)?.into_owned()),
            Form::EightBits(kind) => {
                let scales = scales_name(index, name);
                if self.tensor(&scales).is_none() {
                    return Err(Error::missing_tensors(vec![scales]));
                }
                PackedVector::EightBits {
                    codes: self.elements_of(&tensor, dtype)?.into_owned(),
                    scales: self.elements_of(&scales, Dtype::F32)?.into_owned(),
                    kind,
                }
            }
        };
        Ok(Some(SavedElements::Packed(
            Cow::Owned(packed),
            Arc::clone(blocks),
        )))
    }

    /// The elements of a tensor of this type, whose numbers are `E`s or their bits.
    fn elements_of<E: Element + bytemuck::Pod>(
        &self,
        name: &str,
        dtype: Dtype,
    ) -> Result<Cow<'_, [E]>> {
        // Bits of another type could be cast as well, and would be read as nonsense.
        let tensor = self.tensor(name);
        let found = tensor.map_or_else(String::new, |tensor| tensor.type_name());
        let expected = dtype.to_string();
        if found != expected {
            return Err(Error::element_type(name.to_owned(), expected, found));
        }
        let bytes = self.bytes(name)?;
        Ok(match bytemuck::try_cast_slice(bytes) {
            Ok(elements) => Cow::Borrowed(elements),
            // Nothing in the format aligns a tensor within a file.
            Err(_) => Cow::Owned(to_elements(bytes)),
        })
    }
}
