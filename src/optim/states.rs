//! The state vectors of an optimiser, each kept full or in fewer bytes, leaf by leaf.

use std::borrow::Cow;
use std::sync::Arc;

use super::packed::{BlockStarts, Form, OfLeaf, Packed, PackedVector};
use super::rule::{Rule, StageState};
use super::storage::{Moment, Storage};
use crate::element::{Dtype, FlatElement};
use crate::error::Result;
use crate::memory;
use crate::ops::compact::Codes;

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct KeptStates<E> {
    pub(super) vectors: Vec<StateVector<E>>,
    pub(super) storage: Storage,
    /// Shared with the snapshots of these vectors.
    pub(super) blocks: Arc<BlockStarts>,
}

#[derive(Clone, Debug)]
pub(super) enum StateVector<E> {
    Full(Vec<E>),
    /// Of vectors of f32 only.
    Packed(PackedVector),
}

/// A state vector that is read, and the blocks of its leaves.
#[derive(Clone, Copy)]
pub(crate) enum LentVector<'s, E> {
    Full(&'s [E]),
    Packed(&'s PackedVector, &'s BlockStarts),
}

/// In what the vectors of a rule are kept, in their order.
pub(super) fn forms<R: Rule>(rule: &R, storage: Storage) -> Vec<Form> {
    let mut forms = Vec::new();
    let mut counted = vec![0.0; 1 + rule.counters().len()];
    let mut push_forms = |stage: StageState<'_>| {
        for name in stage.vectors {
            let mut moments = stage.moments.iter();
            let moment = moments.find(|(vector, _)| vector == name);
            let moment = moment.map(|(_, moment)| *moment);
            forms.push(form(storage, moment));
        }
    };
    rule.for_each_stage(&mut counted, &mut push_forms);
    forms
}

fn form(storage: Storage, moment: Option<Moment>) -> Form {
    match storage {
        Storage::Full => Form::Full,
        Storage::Bf16(_) => Form::Bf16,
        Storage::EightBits(_) => match moment {
            Some(Moment::First) => Form::EightBits(Codes::Signed),
            Some(Moment::Second) => Form::EightBits(Codes::Unsigned),
            // A vector that is no moment stays full.
            None => Form::Full,
        },
    }
}

impl<E: FlatElement> KeptStates<E> {
    /// Vectors of zeros, of leaves of which so many elements are kept.
    ///
    /// # Errors
    /// No memory for one.
    pub(super) fn try_zeroed(
        forms: &[Form],
        storage: Storage,
        leaves: impl Iterator<Item = usize> + Clone,
    ) -> Result<Self> {
        let is_in_blocks = |form: &Form| matches!(form, Form::EightBits(_));
        let blocks = match forms.iter().any(is_in_blocks) {
            true => BlockStarts::of(leaves.clone()),
            false => BlockStarts::default(),
        };
        let len = leaves.sum();
        let mut vectors = Vec::with_capacity(forms.len());
        for form in forms {
            let packed = PackedVector::try_zeroed(*form, len, blocks.count())?;
            vectors.push(match packed {
                Some(packed) => StateVector::Packed(packed),
                None => StateVector::Full(memory::try_zeroed(len)?),
            });
        }
        Ok(KeptStates {
            vectors,
            storage,
            blocks: Arc::new(blocks),
        })
    }

    pub(super) fn lent(&self, vector: usize) -> LentVector<'_, E> {
        match &self.vectors[vector] {
            StateVector::Full(elements) => LentVector::Full(elements),
            StateVector::Packed(packed) => LentVector::Packed(packed, &self.blocks),
        }
    }

    /// The elements of a vector that is kept full.
    pub(super) fn full(&self, vector: usize) -> Option<&[E]> {
        match self.lent(vector) {
            LentVector::Full(elements) => Some(elements),
            LentVector::Packed(..) => None,
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        let is_packed = |vector: &StateVector<E>| matches!(vector, StateVector::Packed(_));
        self.vectors.iter().any(is_packed)
    }

    /// Writes elements of a leaf, rounded to the nearest.
    pub(super) fn write(&mut self, vector: usize, at: &OfLeaf, from: &[E]) {
        let whole = OfLeaf {
            range: 0..from.len(),
            ..at.clone()
        };
        self.copy(vector, at, (LentVector::Full(from), &whole));
    }

    /// Takes elements of a leaf over from another vector: as they are where that is kept alike,
    /// otherwise rounded to the nearest.
    pub(super) fn copy(
        &mut self,
        vector: usize,
        at: &OfLeaf,
        (from, from_at): (LentVector<'_, E>, &OfLeaf),
    ) {
        let block = self.blocks.start(at.leaf, at.place);
        let range = at.range.clone();
        let to = match &mut self.vectors[vector] {
            StateVector::Full(to) => return from.read(from_at, &mut to[range]),
            StateVector::Packed(to) => to,
        };
        let mut to = to.part_mut(range, block);
        match from {
            LentVector::Full(from) => {
                let from = &from[from_at.range.clone()];
                to.write(0, as_f32(from), None);
            }
            LentVector::Packed(from, blocks) => {
                to.copy(part(from, blocks, from_at));
            }
        }
    }

    pub(super) fn fill_zero(&mut self, vector: usize, at: &OfLeaf) {
        let block = self.blocks.start(at.leaf, at.place);
        let range = at.range.clone();
        match &mut self.vectors[vector] {
            StateVector::Full(elements) => elements[range].fill(E::zeroed()),
            StateVector::Packed(packed) => {
                let part = packed.part_mut(range, block);
                part.fill_zero();
            }
        }
    }
}

impl<E: FlatElement> StateVector<E> {
    pub(super) fn form(&self) -> Form {
        match self {
            StateVector::Full(_) => Form::Full,
            StateVector::Packed(packed) => packed.form(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            StateVector::Full(elements) => size_of_val(&elements[..]),
            StateVector::Packed(packed) => packed.bytes(),
        }
    }
}

impl<'s, E: FlatElement> LentVector<'s, E> {
    /// Reads elements of a leaf.
    pub(super) fn read(self, at: &OfLeaf, to: &mut [E]) {
        match self {
            LentVector::Full(elements) => {
                let from = &elements[at.range.clone()];
                to.copy_from_slice(from);
            }
            LentVector::Packed(packed, blocks) => {
                let from = part(packed, blocks, at);
                from.read(0, as_f32_mut(to));
            }
        }
    }

    /// The elements of a leaf, without a copy where they are kept full.
    pub(super) fn elements(self, at: &OfLeaf) -> Cow<'s, [E]> {
        match self {
            LentVector::Full(elements) => Cow::Borrowed(&elements[at.range.clone()]),
            LentVector::Packed(..) => {
                let mut elements = vec![E::zeroed(); at.range.len()];
                self.read(at, &mut elements);
                Cow::Owned(elements)
            }
        }
    }
}

fn part<'s>(packed: &'s PackedVector, blocks: &BlockStarts, at: &OfLeaf) -> Packed<'s> {
    let first_block = blocks.start(at.leaf, at.place);
    packed.part(at.range.clone(), first_block)
}

/// Elements of what is kept in fewer bytes, which is always of vectors of f32.
fn as_f32<E: FlatElement>(elements: &[E]) -> &[f32] {
    debug_assert_eq!(E::DTYPE, Dtype::F32);
    bytemuck::cast_slice(elements)
}

pub(super) fn as_f32_mut<E: FlatElement>(elements: &mut [E]) -> &mut [f32] {
    debug_assert_eq!(E::DTYPE, Dtype::F32);
    bytemuck::cast_slice_mut(elements)
}
