//! Steps on state that is kept in 8 bits, or in fewer bytes in part only: so many elements of each
//! such vector at a time become f32 in a buffer, the stages run over it as over any other slice,
//! and it is rounded back. (State that is all in bf16, rounded at random, goes by registers, in
//! `loops::step_halves`, unless an option is taken that few rules are run with. Such options, and
//! rounding to the nearest, were branches of that loop: without them a clip, AdamW and a moving
//! average took 0.78 times as long in the caches.)
//!
//! A buffer of 1,024 elements is 4 KB: those of AdamW lie in the L1 cache beside the parameters and
//! gradients that go with them, so memory sees the fewer bytes only. Rules and kernels know nothing
//! of it and are not compiled again.

use std::ops::Range;

use smallvec::SmallVec;

use super::loops::{self, AnyKernel, Slices};
use super::packed::{Draw, OfLeaf, PackedMut, Random};
use super::pass::{Part, StateVectors};
use super::row::Context;
use super::states::{LentVector, StateVector, as_f32_mut};
use crate::element::FlatElement;
use crate::ops::compact::{SHARING, Sequence};

/// Elements that are in buffers together: whole blocks, and whole rows.
pub(super) const STAGE: usize = 1 << 10;

/// One for each vector that is kept in fewer bytes.
pub(super) type Buffers<E> = SmallVec<[[E; STAGE]; 4]>;

/// Elements of a state vector that is kept in fewer bytes.
pub(super) struct PackedPart<'v> {
    /// Which of the state vectors.
    pub(super) state: usize,
    pub(super) slices: PackedMut<'v>,
    pub(super) random: Random,
}

impl<'v> PackedPart<'v> {
    pub(super) fn new(slices: PackedMut<'v>, draw: Draw, first: usize) -> Self {
        PackedPart {
            state: draw.state,
            slices,
            random: draw.from(first),
        }
    }

    /// As short as the parameters are there.
    pub(super) fn reborrow(&mut self) -> PackedPart<'_> {
        PackedPart {
            state: self.state,
            slices: self.slices.reborrow(),
            random: self.random,
        }
    }

    fn halves(&mut self) -> Option<&mut [u16]> {
        match &mut self.slices {
            PackedMut::Bf16(halves) => Some(halves),
            PackedMut::EightBits { .. } => None,
        }
    }

    /// The first elements, which leave.
    pub(super) fn split_off(&mut self, len: usize) -> PackedPart<'v> {
        let random = self.random;
        self.random = behind(random, len);
        PackedPart {
            state: self.state,
            slices: self.slices.split_off(len),
            random,
        }
    }
}

/// What is drawn for the elements so many places further.
fn behind(random: Random, places: usize) -> Random {
    random.map(|(bits, first)| (bits, first + places as u64))
}

/// Elements of vectors that are kept as bf16.
type Halves<'v> = SmallVec<[&'v mut [u16]; 4]>;

/// All of them with what is drawn for them, if all are kept as bf16, are rounded at random, and draw
/// from one run of random bits. (Indices of elements have two halves of 32 bits, and where the upper
/// one changes another run begins: once in 2³² elements. And a run serves so many vectors, which is
/// more than all but the longest chains keep.)
pub(super) fn all_halves<'p>(packed: &'p mut [PackedPart<'_>]) -> Option<(Halves<'p>, Sequence)> {
    if packed.len() > SHARING {
        return None;
    }
    let (bits, first) = packed.first()?.random?;
    let halves = packed.iter_mut().map(PackedPart::halves);
    let halves: Halves<'p> = halves.collect::<Option<_>>()?;
    let run = bits.one_run(first, halves[0].len())?;
    Some((halves, run))
}

/// Takes the step: `slices` has the state vectors that are full, in their order.
// Buffers make a large frame, which a step on full vectors does without.
#[inline(never)]
pub(super) fn step<E: FlatElement>(
    slices: Slices<'_, '_, E>,
    packed: &mut [PackedPart<'_>],
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let Slices { x, grad, states } = slices;
    let mut buffers = Buffers::new();
    packed
        .iter()
        .for_each(|_| buffers.push([E::zeroed(); STAGE]));
    for (stage, x) in x.chunks_mut(STAGE).enumerate() {
        let start = stage * STAGE;
        let len = x.len();
        let grad = grad.slice(start..start + len);
        for (packed, buffer) in packed.iter().zip(&mut buffers) {
            // A vector that an option leaves alone costs nothing.
            if kernel.changes(packed.state) {
                let buffer = as_f32_mut(&mut buffer[..len]);
                packed.slices.as_ref().read(start, buffer);
            }
        }
        let mut all = in_order(states, packed, &mut buffers, start..start + len);
        let slices = Slices {
            x,
            grad,
            states: &mut all,
        };
        let context = Context {
            start: context.start + start,
            ..context
        };
        loops::step(slices, kernel, context);
        drop(all);
        for (packed, buffer) in packed.iter_mut().zip(&mut buffers) {
            if kernel.changes(packed.state) {
                let random = behind(packed.random, start);
                let buffer = as_f32_mut(&mut buffer[..len]);
                packed.slices.write(start, buffer, random);
            }
        }
    }
}

/// The elements of all state vectors in their order, those that are packed in their buffers.
fn in_order<'s, E>(
    full: &'s mut [&mut [E]],
    packed: &[PackedPart<'_>],
    buffers: &'s mut Buffers<E>,
    range: Range<usize>,
) -> SmallVec<[&'s mut [E]; 4]> {
    let mut all: SmallVec<[&mut [E]; 4]> = SmallVec::new();
    let len = range.len();
    let full = full.iter_mut();
    let mut full = full.map(|state| &mut state[range.clone()]);
    for (packed, buffer) in packed.iter().zip(buffers) {
        let before = packed.state - all.len();
        all.extend(full.by_ref().take(before));
        all.push(&mut buffer[..len]);
    }
    all.extend(full);
    all
}

/// Makes buffers to read the state vectors by. In place, since they are large to be moved.
pub(super) fn make_buffers<E>(buffers: &mut Buffers<E>, states: StateVectors<'_, E>)
where
    E: FlatElement,
{
    for vector in &states.states.vectors {
        if let StateVector::Packed(_) = vector {
            buffers.push([E::zeroed(); STAGE]);
        }
    }
}

/// So many elements of every state vector, from a place in a part on; at most as many as a buffer
/// holds, if any vector is kept in fewer bytes.
pub(super) fn read<'b, E: FlatElement>(
    states: StateVectors<'b, E>,
    part: &Part,
    (place, len): (usize, usize),
    buffers: &'b mut Buffers<E>,
) -> SmallVec<[&'b [E]; 4]> {
    let start = part.range.start - states.start + place;
    let at = OfLeaf {
        leaf: part.leaf,
        place,
        range: start..start + len,
    };
    let mut buffers = buffers.iter_mut();
    let mut slice = |vector| match states.states.lent(vector) {
        LentVector::Full(elements) => &elements[at.range.clone()],
        packed => {
            let buffer = buffers.next().expect("one for each vector");
            packed.read(&at, &mut buffer[..len]);
            &buffer[..len]
        }
    };
    (0..states.states.vectors.len()).map(&mut slice).collect()
}
