//! All elements of a step: cut to pieces for the threads, measured and moved. Knows nothing of
//! trees.

use std::iter;
use std::ops::Range;

use smallvec::SmallVec;

use super::loops::{self, AnyKernel, Kernels, Slices};
use super::measure::{Measure, Measured};
use super::packed::{BlockStarts, Draw, PackedMut};
use super::part_gradient::PartGradient;
use super::row::Context;
use super::scan::{ChangeOfLeaf, Request};
use super::staged::{self, Buffers, PackedPart, STAGE};
use super::states::{KeptStates, StateVector};
use super::storage::Storage;
use crate::communicator::NORM_PIECE;
use crate::element::FlatElement;
use crate::error::Result;
use crate::memory;
use crate::ops::compact;
use crate::slices::{self, Floats, FloatsMut};
use crate::threads;

/// Elements that are moved together: few, so that no thread waits long for another's last ones.
const PIECE: usize = 1 << 13;

/// Elements whose direction is measured together, in the L1 cache. Determines rounding: changing it
/// changes the result bits.
const BLOCK: usize = 1 << 10;

/// How many times as much as copying it an element's step costs, about: so that a shorter vector is
/// worth a second thread.
fn weight(states: usize) -> usize {
    1 + 2 * states
}

/// Consecutive elements that are at the same step: of one leaf, or of several.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// In the flat vector and in the states.
    pub(super) range: Range<usize>,
    /// The leaf, or the first of several.
    pub(super) leaf: usize,
    /// Where in the leaf it begins: 0, but for what a member of a run keeps of a leaf that is cut.
    pub(super) start: usize,
    /// Which kernel is theirs.
    pub(super) kernel: usize,
}

/// The state vectors, and where in the flat vector they begin.
pub(super) struct StateVectors<'s, E> {
    pub(super) states: &'s KeptStates<E>,
    pub(super) start: usize,
}

// Not derived: a reference is copied whatever it is to.
impl<E> Clone for StateVectors<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for StateVectors<'_, E> {}

/// Neighbours that share a kernel as one part.
fn merged_parts(parts: &[Part]) -> Vec<Part> {
    let mut merged: Vec<Part> = Vec::new();
    for part in parts {
        match merged.last_mut() {
            Some(last) if last.kernel == part.kernel && last.range.end == part.range.start => {
                last.range.end = part.range.end
            }
            _ => merged.push(part.clone()),
        }
    }
    merged
}

/// One slice a state vector that is kept full.
type StateSlices<'v, E> = SmallVec<[&'v mut [E]; 4]>;

/// The elements of every state vector.
pub(super) struct PartStates<'v, E> {
    full: StateSlices<'v, E>,
    /// Most often none, which costs no allocation.
    packed: Vec<PackedPart<'v>>,
}

impl<'v, E> PartStates<'v, E> {
    fn count(&self) -> usize {
        self.full.len() + self.packed.len()
    }

    /// As short as the parameters are there.
    fn reborrow(&mut self) -> PartStates<'_, E> {
        PartStates {
            full: self.full.iter_mut().map(|state| &mut **state).collect(),
            packed: self.packed.iter_mut().map(PackedPart::reborrow).collect(),
        }
    }

    /// The first elements, which leave.
    fn split_off(&mut self, len: usize) -> PartStates<'v, E> {
        let packed = self.packed.iter_mut();
        PartStates {
            full: take_each(&mut self.full, len),
            packed: packed.map(|packed| packed.split_off(len)).collect(),
        }
    }
}

/// The slices of a part, of its parameters and its gradient.
pub(super) type PartSlices<'s, E> = (&'s [E], PartGradient<'s, E>);

/// A part with its slices.
struct Piece<'v, E> {
    leaf: usize,
    /// Where in the leaf it begins.
    start: usize,
    kernel: usize,
    x: &'v mut [E],
    grad: PartGradient<'v, E>,
    states: PartStates<'v, E>,
    /// Where the parameters are written to as well, once they have moved.
    written: Option<FloatsMut<'v>>,
}

/// Takes the step. The slices of parameters and gradients are those of the parts, in ascending
/// order of their ranges.
pub(super) fn step<'v, E: FlatElement>(
    parts: &[Part],
    slices: impl Iterator<Item = (&'v mut [E], PartGradient<'v, E>)>,
    states: StatesInOrder<'v, E>,
    kernels: &Kernels<'_, E>,
    measured: &[Option<Measured<E>>],
) {
    step_and_write(parts, slices, Vec::new(), states, kernels, measured);
}

/// Takes the step, and writes the parameters of each part to a place of any float type too, if there
/// is one.
pub(super) fn step_and_write<'v, E: FlatElement>(
    parts: &[Part],
    slices: impl Iterator<Item = (&'v mut [E], PartGradient<'v, E>)>,
    written: Vec<FloatsMut<'v>>,
    mut states: StatesInOrder<'v, E>,
    kernels: &Kernels<'_, E>,
    measured: &[Option<Measured<E>>],
) {
    // Cut before threads take them, so that none is left with one large leaf at the end.
    let mut pieces = Vec::with_capacity(parts.len());
    let written = written
        .into_iter()
        .map(Some)
        .chain(iter::repeat_with(|| None));
    for ((part, (x, grad)), written) in parts.iter().zip(slices).zip(written) {
        let piece = Piece {
            written,
            ..Piece::of(part, x, grad, states.next(part))
        };
        piece.cut_into(&mut pieces);
    }
    step_pieces(&mut pieces, kernels, measured);
}

/// Takes the step on slices of flat vectors.
pub(super) fn step_flat<'v, E: FlatElement>(
    parts: &[Part],
    flat: &'v mut [E],
    grad: PartGradient<'v, E>,
    states: StatesInOrder<'v, E>,
    kernels: &Kernels<'_, E>,
    measured: &[Option<Measured<E>>],
) {
    // Small leaves that share all numbers are moved as one.
    let has_numbers_of_its_own = |norms: &Measured<E>| !norms.is_global();
    let has_own = measured.iter().flatten().any(has_numbers_of_its_own) || states.has_blocks();
    let merged = match has_own {
        false => Some(merged_parts(parts)),
        true => None,
    };
    let parts = merged.as_deref().unwrap_or(parts);
    let gradients = parts.iter().map(|part| grad.slice(part.range.clone()));
    let slices = slices_mut(flat, parts).zip(gradients);
    step(parts, slices, states, kernels, measured);
}

/// The slices of a flat vector that are those of parts in ascending order.
pub(super) fn slices_mut<'v, E>(
    flat: &'v mut [E],
    parts: &[Part],
) -> impl Iterator<Item = &'v mut [E]> {
    // What lies between two parts is cut off too, and nobody gets it.
    let mut rest = flat;
    let mut at = 0;
    parts.iter().map(move |part| {
        let (x, after) =
            std::mem::take(&mut rest)[part.range.start - at..].split_at_mut(part.range.len());
        (rest, at) = (after, part.range.end);
        x
    })
}

/// Takes the step of one part, whose parameters are there for the length of the call only. All
/// threads share it if it is large; a small one costs no allocation.
pub(super) fn step_part<E: FlatElement>(
    part: &Part,
    (x, grad): (&mut [E], PartGradient<'_, E>),
    states: &mut PartStates<'_, E>,
    kernels: &Kernels<'_, E>,
    measured: &[Option<Measured<E>>],
) {
    let mut piece = Piece::of(part, x, grad, states.reborrow());
    // Most leaves: no vector is made for a single piece.
    if piece.x.len() <= PIECE {
        return piece.step(kernels, measured);
    }
    let mut pieces = Vec::with_capacity(piece.x.len().div_ceil(PIECE));
    piece.cut_into(&mut pieces);
    step_pieces(&mut pieces, kernels, measured);
}

fn step_pieces<E: FlatElement>(
    pieces: &mut [Piece<'_, E>],
    kernels: &Kernels<'_, E>,
    measured: &[Option<Measured<E>>],
) {
    threads::share(
        pieces,
        |piece| weight(piece.states.count()) * piece.x.len(),
        |piece| piece.step(kernels, measured),
    );
}

/// The state vectors, handed out part after part.
pub(super) struct StatesInOrder<'v, E> {
    full: StateSlices<'v, E>,
    /// Those that are kept in fewer bytes, with their places among all.
    packed: Vec<(usize, PackedMut<'v>)>,
    /// Where in the flat vector the rest begins, and at which block.
    at: usize,
    block: usize,
    blocks: &'v BlockStarts,
    storage: Storage,
    /// The step that the leaves of each kernel take.
    steps: &'v [u64],
}

impl<'v, E> StatesInOrder<'v, E> {
    /// Vectors that begin there in the flat vector, for a step that is each kernel's so many'th.
    pub(super) fn of(states: &'v mut KeptStates<E>, start: usize, steps: &'v [u64]) -> Self {
        let mut full = StateSlices::new();
        let mut packed = Vec::new();
        for (place, vector) in states.vectors.iter_mut().enumerate() {
            match vector {
                StateVector::Full(elements) => full.push(&mut elements[..]),
                StateVector::Packed(vector) => packed.push((place, vector.all_mut())),
            }
        }
        StatesInOrder {
            full,
            packed,
            at: start,
            block: 0,
            blocks: &states.blocks,
            storage: states.storage,
            steps,
        }
    }

    fn has_blocks(&self) -> bool {
        self.blocks.count() > 0
    }

    /// Those of the next part; parts come in ascending order.
    pub(super) fn next(&mut self, part: &Part) -> PartStates<'v, E> {
        let range = &part.range;
        // What lies between two parts belongs to leaves that do not move.
        let passed = range.start - self.at;
        self.at = range.end;
        take_each(&mut self.full, passed);
        PartStates {
            full: take_each(&mut self.full, range.len()),
            packed: self.next_packed(part, passed),
        }
    }

    fn next_packed(&mut self, part: &Part, passed: usize) -> Vec<PackedPart<'v>> {
        let (Storage::Bf16(rounding) | Storage::EightBits(rounding)) = self.storage else {
            return Vec::new();
        };
        let len = part.range.len();
        let block = self.blocks.start(part.leaf, 0);
        // A block ends with its leaf, so blocks that are passed are not elements by 256.
        let passed_blocks = block - self.block;
        if self.has_blocks() {
            self.block = block + len.div_ceil(compact::BLOCK);
        }
        // What is drawn depends on the leaf's own step, which leaves of one kernel share.
        let step = self.steps[part.kernel];
        let start = part.range.start;
        let packed = self.packed.iter_mut().map(|(state, rest)| {
            rest.pass(passed, passed_blocks);
            let own = rest.split_off(len);
            let draw = Draw {
                rounding,
                step,
                state: *state,
            };
            PackedPart::new(own, draw, start)
        });
        packed.collect()
    }
}

/// The first elements of every vector. By `push`: collecting took 200 instructions more for every
/// small leaf.
fn take_each<'v, E>(rest: &mut [&'v mut [E]], len: usize) -> StateSlices<'v, E> {
    let mut taken = StateSlices::new();
    for rest in rest {
        taken.push(take(rest, len));
    }
    taken
}

/// The first elements, which leave `rest`.
fn take<'v, E>(rest: &mut &'v mut [E], len: usize) -> &'v mut [E] {
    rest.split_off_mut(..len)
        .expect("as long as the flat vector")
}

impl<'v, E: FlatElement> Piece<'v, E> {
    fn of(
        part: &Part,
        x: &'v mut [E],
        grad: PartGradient<'v, E>,
        states: PartStates<'v, E>,
    ) -> Self {
        Piece {
            leaf: part.leaf,
            start: part.start,
            kernel: part.kernel,
            x,
            grad,
            states,
            written: None,
        }
    }

    /// Pieces of one part follow each other, so that a thread that takes several reads on.
    fn cut_into(mut self, pieces: &mut Vec<Piece<'v, E>>) {
        while self.x.len() > PIECE {
            pieces.push(self.split_off(PIECE));
        }
        pieces.push(self);
    }

    fn step(&mut self, kernels: &Kernels<'_, E>, measured: &[Option<Measured<E>>]) {
        self.step_vector(kernels, measured);
        if let Some(written) = &mut self.written {
            // While the piece is in the cache.
            slices::copy(Floats::of(self.x), written.reborrow());
        }
    }

    fn step_vector(&mut self, kernels: &Kernels<'_, E>, measured: &[Option<Measured<E>>]) {
        let slices = Slices {
            x: &mut *self.x,
            grad: self.grad,
            states: &mut self.states.full,
        };
        let context = Context {
            leaf: self.leaf,
            start: self.start,
            measured,
        };
        let kernel = &*kernels[self.kernel];
        let packed = &mut self.states.packed[..];
        // Three loops, the first for most steps; the last takes any mixture, and is the slowest.
        if packed.is_empty() {
            return loops::step(slices, kernel, context);
        }
        if kernel.takes_halves()
            && slices.states.is_empty()
            && let Some((mut halves, random)) = staged::all_halves(packed)
        {
            let x = slices.x;
            let grad = slices.grad;
            return loops::step_halves((x, grad), (&mut halves, random), kernel, context);
        }
        staged::step(slices, packed, kernel, context)
    }

    fn split_off(&mut self, len: usize) -> Piece<'v, E> {
        let grad = self.grad.slice(0..len);
        self.grad = self.grad.slice(len..self.grad.len());
        let states = self.states.split_off(len);
        let written = self.written.as_mut().map(|written| written.split_off(len));
        let first = Piece {
            x: take(&mut self.x, len),
            grad,
            states,
            written,
            ..*self
        };
        self.start += len;
        first
    }
}

/// Measures a norm, by what the kernels ask for.
pub(super) struct Measuring<'m, E> {
    states: StateVectors<'m, E>,
    kernels: &'m Kernels<'m, E>,
    requests: &'m [Option<Request>],
    measured: &'m [Option<Measured<E>>],
    /// Of the parts at hand; kept, so that parts that come one by one allocate nothing.
    pieces: Vec<Measurement>,
    /// What every part so far, each of one leaf, adds to the norm.
    totals: Vec<[f64; 2]>,
}

impl<'m, E: FlatElement> Measuring<'m, E> {
    /// For so many parts.
    pub(super) fn of(
        parts: usize,
        states: StateVectors<'m, E>,
        kernels: &'m Kernels<'m, E>,
        requests: &'m [Option<Request>],
        measured: &'m [Option<Measured<E>>],
    ) -> Self {
        Measuring {
            states,
            kernels,
            requests,
            measured,
            pieces: Vec::new(),
            totals: Vec::with_capacity(parts),
        }
    }

    /// Measures further parts.
    pub(super) fn add(&mut self, parts: &[Part], slices: &[PartSlices<'_, E>]) {
        let pieces = self.measure_pieces(parts, slices);
        // Added up in order by one thread, so that the bits do not depend on who measured what.
        for pieces in pieces.chunk_by(|a, b| a.part == b.part) {
            let totals = pieces.iter().map(|piece| piece.total);
            let total = self.merged(&parts[pieces[0].part], totals);
            self.totals.push(total);
        }
        self.pieces = pieces;
    }

    /// Measures parts of a run's member: what each of their pieces adds.
    pub(super) fn of_pieces(
        &mut self,
        parts: &[Part],
        slices: &[PartSlices<'_, E>],
    ) -> impl Iterator<Item = [f64; 2]> + use<E> {
        let pieces = self.measure_pieces(parts, slices);
        pieces.into_iter().map(|piece| piece.total)
    }

    fn measure_pieces(&mut self, parts: &[Part], slices: &[PartSlices<'_, E>]) -> Vec<Measurement> {
        // Taken out to be lent to threads, and put back with its memory by who adds further parts.
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        pieces.reserve(parts.len());
        for (index, part) in parts.iter().enumerate() {
            pieces.extend(measurements(index, part));
        }
        // A norm of the gradient is one read of it, one of a direction a run of the stages.
        let weight_of = |part: usize| match self.requests[parts[part].kernel] {
            Some(request) if !request.is_of_gradient => weight(self.states.states.vectors.len()),
            _ => 1,
        };
        threads::share(
            &mut pieces,
            |piece| weight_of(piece.part) * piece.range.len(),
            |piece| piece.total = self.total(&parts[piece.part], slices[piece.part], &piece.range),
        );
        pieces
    }

    /// What a part adds, of what its pieces add, in their order.
    pub(super) fn merged(&self, part: &Part, pieces: impl Iterator<Item = [f64; 2]>) -> [f64; 2] {
        let Some(Request { measure, .. }) = self.requests[part.kernel] else {
            return [0.0; 2];
        };
        pieces.fold([0.0; 2], |sum, piece| measure.merge::<E>(sum, piece))
    }

    /// What a piece of a part adds.
    fn total(&self, part: &Part, (x, grad): PartSlices<'_, E>, piece: &Range<usize>) -> [f64; 2] {
        let Some(request) = self.requests[part.kernel] else {
            return [0.0; 2];
        };
        let grad = match request.is_undivided {
            true => grad.undivided(),
            false => grad,
        };
        let grad = grad.slice(piece.clone());
        if !request.needs_parameters() {
            return request.measure.slice(&[], grad);
        }
        let x = &x[piece.clone()];
        // No stage has to run for the norm of the gradient as it came.
        if request.is_of_gradient {
            return request.measure.slice(x, grad);
        }
        let context = Context {
            leaf: part.leaf,
            start: part.start + piece.start,
            measured: self.measured,
        };
        let kernel = &*self.kernels[part.kernel];
        let states = (self.states, (part, piece.start));
        of_direction(request.measure, (x, grad), states, kernel, context)
    }

    /// What every part adds, in their order.
    pub(super) fn totals(self) -> Vec<[f64; 2]> {
        self.totals
    }
}

/// Measures the direction at the stage that asks, block by block. A block stays in the cache between
/// the stages that make it and the norm that reads it.
fn of_direction<E: FlatElement>(
    measure: Measure,
    (x, grad): PartSlices<'_, E>,
    (states, (part, place)): (StateVectors<'_, E>, (&Part, usize)),
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) -> [f64; 2] {
    // On the stack: threads need no memory of their own, and nothing is allocated for a step.
    let mut buffer = [E::zeroed(); BLOCK];
    let mut buffers = Buffers::new();
    staged::make_buffers(&mut buffers, states);
    let mut total = [0.0; 2];
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let len = x.len();
        let dx = &mut buffer[..len];
        let offset = block * BLOCK;
        grad.slice(offset..offset + len).read(dx);
        let at = (place + offset, len);
        let states = staged::read(states, part, at, &mut buffers);
        let start = context.start + offset;
        let context = Context { start, ..context };
        loops::direction(x, dx, &states, kernel, context);
        let of_block = measure.slice(x, PartGradient::of(dx));
        total = measure.merge::<E>(total, of_block);
    }
    total
}

/// Changes the direction of a whole leaf, all threads together on it, since one matrix may be most
/// of the work.
///
/// # Errors
/// What the change returns; no memory for the direction.
pub(super) fn change_leaf<E: FlatElement>(
    part: &Part,
    (x, grad): PartSlices<'_, E>,
    states: StateVectors<'_, E>,
    (kernel, change): (&dyn AnyKernel<E>, &ChangeOfLeaf<E>),
    measured: &[Option<Measured<E>>],
) -> Result<Vec<E>> {
    let context = Context {
        leaf: part.leaf,
        start: 0,
        measured,
    };
    let mut direction = memory::try_zeroed(grad.len())?;
    grad.read(&mut direction);
    make_direction(x, &mut direction, (states, part), kernel, context);
    change(&mut direction)?;
    Ok(direction)
}

/// Makes of a leaf's gradient the direction at the stage that asks.
fn make_direction<E: FlatElement>(
    x: &[E],
    dx: &mut [E],
    (states, part): (StateVectors<'_, E>, &Part),
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    // A thread reads state that is packed into a buffer, so it takes no more than fits there.
    let len = match states.states.is_packed() {
        false => PIECE,
        true => STAGE,
    };
    let starts = (0..x.len()).step_by(len);
    let pieces = starts.zip(x.chunks(len)).zip(dx.chunks_mut(len));
    threads::share(
        &mut pieces.collect::<Vec<_>>(),
        |((_, x), _)| weight(states.states.vectors.len()) * x.len(),
        |((start, x), dx)| {
            let start = *start;
            let mut buffers = Buffers::new();
            staged::make_buffers(&mut buffers, states);
            let at = (start, x.len());
            let states = staged::read(states, part, at, &mut buffers);
            let context = Context { start, ..context };
            loops::direction(x, dx, &states, kernel, context);
        },
    );
}

/// What a piece of a part adds to what is measured.
struct Measurement {
    part: usize,
    /// Within the part.
    range: Range<usize>,
    total: [f64; 2],
}

/// How many pieces a leaf of so many elements is measured in. A leaf without elements is one piece:
/// every part has a total.
pub(super) fn pieces_of(len: usize) -> usize {
    len.div_ceil(NORM_PIECE).max(1)
}

fn measurements(index: usize, part: &Part) -> impl Iterator<Item = Measurement> {
    let len = part.range.len();
    let starts = (0..pieces_of(len)).map(|piece| piece * NORM_PIECE);
    starts.map(move |start| Measurement {
        part: index,
        range: start..(start + NORM_PIECE).min(len),
        total: [0.0; 2],
    })
}
