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
    rule.for_each_stage(&mut counted, &mut |stage: StageState<'_>| {
        for name in stage.vectors {
            let moment = stage.moments.iter().find(|(moment, _)| moment == name);
            forms.push(form(storage, moment.map(|(_, moment)| *moment)));
        }
    });
    forms
}

fn form(storage: Storage, moment: Option<Moment>) -> Form {
    match (storage, moment) {
        (Storage::Full, _) | (Storage::EightBits(_), None) => Form::Full,
        (Storage::Bf16(_), _) => Form::Bf16,
        (Storage::EightBits(_), Some(Moment::First)) => Form::EightBits(Codes::Signed),
        (Storage::EightBits(_), Some(Moment::Second)) => Form::EightBits(Codes::Unsigned),
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
        let has_blocks = forms.iter().any(|form| matches!(form, Form::EightBits(_)));
        let blocks = Arc::new(match has_blocks {
            true => BlockStarts::of(leaves.clone()),
            false => BlockStarts::default(),
        });
        let len = leaves.sum();
        let zeroed = |form: &Form| {
            Ok(
                match PackedVector::try_zeroed(*form, len, blocks.count())? {
                    Some(packed) => StateVector::Packed(packed),
                    None => StateVector::Full(memory::try_zeroed(len)?),
                },
            )
        };
        Ok(KeptStates {
            vectors: forms.iter().map(zeroed).collect::<Result<_>>()?,
            storage,
            blocks,
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
    pub(super) fn copy(&mut self, vector: usize, at: &OfLeaf, from: (LentVector<'_, E>, &OfLeaf)) {
        let block = self.blocks.start(at.leaf, at.place);
        let range = at.range.clone();
        match (&mut self.vectors[vector], from) {
            (StateVector::Full(to), (from, from_at)) => from.read(from_at, &mut to[range]),
            (StateVector::Packed(to), (LentVector::Full(from), from_at)) => {
                let from = as_f32(&from[from_at.range.clone()]);
                to.part_mut(range, block).write(0, from, None);
            }
            (StateVector::Packed(to), (LentVector::Packed(from, blocks), from_at)) => {
                let from = part(from, blocks, from_at);
                to.part_mut(range, block).copy(from);
            }
        }
    }

    pub(super) fn fill_zero(&mut self, vector: usize, at: &OfLeaf) {
        let block = self.blocks.start(at.leaf, at.place);
        match &mut self.vectors[vector] {
            StateVector::Full(elements) => elements[at.range.clone()].fill(E::zeroed()),
            StateVector::Packed(packed) => packed.part_mut(at.range.clone(), block).fill_zero(),
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
            LentVector::Full(elements) => to.copy_from_slice(&elements[at.range.clone()]),
            LentVector::Packed(packed, blocks) => part(packed, blocks, at).read(0, as_f32_mut(to)),
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
    packed.part(at.range.clone(), blocks.start(at.leaf, at.place))
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
