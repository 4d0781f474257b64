//! All elements of a step: cut to pieces for the threads, measured and moved. Knows nothing of
//! trees.

use std::ops::Range;

use smallvec::SmallVec;

use super::kernel::Kernel;
use super::loops::{self, Slices};
use super::measure::{Measure, Measured};
use super::row::Context;
use super::scan::{ChangeOfLeaf, Request};
use crate::error::Error;
use crate::memory;
use crate::threads;

/// Elements that are moved together: few, so that no thread waits long for another's last ones.
const PIECE: usize = 1 << 13;

/// Elements that are measured together. Determines rounding: norms are merged from those of so many,
/// and changing it changes the result bits.
const MEASURED: usize = 1 << 15;

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
    /// Which kernel is theirs.
    pub(super) kernel: usize,
}

/// One slice a state vector.
type StateSlices<'v> = SmallVec<[&'v mut [f32]; 4]>;

/// A part with its slices.
struct Piece<'v> {
    leaf: usize,
    /// Where in the leaf it begins.
    start: usize,
    kernel: usize,
    x: &'v mut [f32],
    grad: &'v [f32],
    states: StateSlices<'v>,
}

/// Takes the step. The slices of parameters and gradients are those of the parts, in ascending
/// order of their ranges.
pub(super) fn step<'v>(
    parts: &[Part],
    slices: impl Iterator<Item = (&'v mut [f32], &'v [f32])>,
    states: &'v mut [Vec<f32>],
    kernels: &[impl Kernel],
    measured: &[Option<Measured>],
) {
    let mut pieces = pieces(parts, slices, states);
    threads::share(
        &mut pieces,
        |piece| weight(piece.states.len()) * piece.x.len(),
        |piece| {
            let slices = Slices {
                x: &mut *piece.x,
                grad: piece.grad,
                states: &mut piece.states,
            };
            loops::step(
                slices,
                &kernels[piece.kernel],
                Context {
                    leaf: piece.leaf,
                    start: piece.start,
                    measured,
                },
            );
        },
    );
}

/// Cuts the states as the parts are, and all of it to pieces for the threads.
fn pieces<'v>(
    parts: &[Part],
    slices: impl Iterator<Item = (&'v mut [f32], &'v [f32])>,
    states: &'v mut [Vec<f32>],
) -> Vec<Piece<'v>> {
    let mut rest: StateSlices<'v> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let mut at = 0;
    let mut pieces = Vec::with_capacity(parts.len());
    for (part, (x, grad)) in parts.iter().zip(slices) {
        // What lies between two parts belongs to leaves that do not move.
        take_each(&mut rest, part.range.start - at);
        let states = take_each(&mut rest, part.range.len());
        at = part.range.end;
        let mut piece = Piece {
            leaf: part.leaf,
            start: 0,
            kernel: part.kernel,
            x,
            grad,
            states,
        };
        // Pieces of one part follow each other, so that a thread that takes several reads on.
        while piece.x.len() > PIECE {
            pieces.push(piece.split_off(PIECE));
        }
        pieces.push(piece);
    }
    pieces
}

/// The first elements of every vector. By `push`: collecting took 200 instructions more for every
/// small leaf.
fn take_each<'v>(rest: &mut [&'v mut [f32]], len: usize) -> StateSlices<'v> {
    let mut taken = StateSlices::new();
    for rest in rest {
        taken.push(take(rest, len));
    }
    taken
}

/// The first elements, which leave `rest`.
fn take<'v>(rest: &mut &'v mut [f32], len: usize) -> &'v mut [f32] {
    rest.split_off_mut(..len)
        .expect("as long as the flat vector")
}

impl<'v> Piece<'v> {
    fn split_off(&mut self, len: usize) -> Piece<'v> {
        let grad = self
            .grad
            .split_off(..len)
            .expect("as long as the parameters");
        let states = take_each(&mut self.states, len);
        let first = Piece {
            x: take(&mut self.x, len),
            grad,
            states,
            ..*self
        };
        self.start += len;
        first
    }
}

/// Measures a norm, by what the kernels ask for: what every part, each of one leaf, adds to it.
pub(super) fn measure(
    parts: &[Part],
    slices: &[(&[f32], &[f32])],
    states: &[Vec<f32>],
    kernels: &[impl Kernel],
    requests: &[Option<Request>],
    measured: &[Option<Measured>],
) -> Vec<[f64; 2]> {
    let mut pieces: Vec<Measurement> = parts
        .iter()
        .enumerate()
        .flat_map(|(index, part)| measurements(index, part))
        .collect();
    let measure_piece = |piece: &mut Measurement| {
        let part = &parts[piece.part];
        let Some(request) = requests[part.kernel] else {
            return;
        };
        let (x, grad) = slices[piece.part];
        let (x, grad) = (&x[piece.range.clone()], &grad[piece.range.clone()]);
        // No stage has to run for the norm of the gradient as it came.
        if request.is_of_gradient {
            piece.total = request.measure.slice(x, grad);
            return;
        }
        let context = Context {
            leaf: part.leaf,
            start: piece.range.start,
            measured,
        };
        let at = part.range.start + piece.range.start;
        let kernel = &kernels[part.kernel];
        piece.total = of_direction(request.measure, (x, grad), (states, at), kernel, context);
    };
    // A norm of the gradient is one read of it, one of a direction a run of the stages.
    let weight_of = |part: usize| match requests[parts[part].kernel] {
        Some(request) if !request.is_of_gradient => weight(states.len()),
        _ => 1,
    };
    threads::share(
        &mut pieces,
        |piece| weight_of(piece.part) * piece.range.len(),
        measure_piece,
    );
    // Added up in order by one thread, so that the bits do not depend on who measured what.
    let of_part = pieces.chunk_by(|a, b| a.part == b.part);
    of_part
        .map(|pieces| merged(pieces, requests[parts[pieces[0].part].kernel]))
        .collect()
}

/// What a part adds, of what its pieces do, in their order.
fn merged(pieces: &[Measurement], request: Option<Request>) -> [f64; 2] {
    let Some(Request { measure, .. }) = request else {
        return [0.0; 2];
    };
    pieces
        .iter()
        .fold([0.0; 2], |sum, piece| measure.merge(sum, piece.total))
}

/// Measures the direction at the stage that asks, block by block. A block stays in the cache between
/// the stages that make it and the norm that reads it.
fn of_direction(
    measure: Measure,
    (x, grad): (&[f32], &[f32]),
    (states, at): (&[Vec<f32>], usize),
    kernel: &impl Kernel,
    context: Context<'_>,
) -> [f64; 2] {
    // On the stack: threads need no memory of their own, and nothing is allocated for a step.
    let mut buffer = [0.0; BLOCK];
    let blocks = x.chunks(BLOCK).zip(grad.chunks(BLOCK)).enumerate();
    blocks.fold([0.0; 2], |total, (block, (x, grad))| {
        let (dx, offset) = (&mut buffer[..x.len()], block * BLOCK);
        dx.copy_from_slice(grad);
        let states = slices_of(states, at + offset, x.len());
        let start = context.start + offset;
        loops::direction(x, dx, &states, kernel, Context { start, ..context });
        measure.merge(total, measure.slice(x, dx))
    })
}

/// So many elements of every state vector.
fn slices_of(states: &[Vec<f32>], at: usize, len: usize) -> SmallVec<[&[f32]; 4]> {
    states.iter().map(|state| &state[at..at + len]).collect()
}

/// Changes the directions of whole leaves, those of the kernels that ask for it: one leaf after the
/// other, all threads together on each, since one matrix may be most of the work.
///
/// # Errors
/// The first leaf whose change fails, or for whose direction there is no memory.
pub(super) fn change_leaves(
    parts: &[Part],
    slices: &[(&[f32], &[f32])],
    states: &[Vec<f32>],
    kernels: &[impl Kernel],
    changes: &[Option<&ChangeOfLeaf>],
    measured: &[Option<Measured>],
) -> std::result::Result<Measured, (usize, Error)> {
    let leaves = parts.last().map_or(0, |part| part.leaf + 1);
    let mut directions = vec![Vec::new(); leaves];
    for (part, &(x, grad)) in parts.iter().zip(slices) {
        let Some(change) = changes[part.kernel] else {
            continue;
        };
        let context = Context {
            leaf: part.leaf,
            start: 0,
            measured,
        };
        let of_leaf = |error| (part.leaf, error);
        let mut direction = memory::try_with_capacity(grad.len()).map_err(of_leaf)?;
        direction.extend_from_slice(grad);
        let states = (states, part.range.start);
        make_direction(x, &mut direction, states, &kernels[part.kernel], context);
        change(&mut direction).map_err(of_leaf)?;
        directions[part.leaf] = direction;
    }
    Ok(Measured::Directions(directions))
}

/// Makes of a leaf's gradient the direction at the stage that asks.
fn make_direction(
    x: &[f32],
    dx: &mut [f32],
    (states, at): (&[Vec<f32>], usize),
    kernel: &impl Kernel,
    context: Context<'_>,
) {
    let starts = (0..x.len()).step_by(PIECE);
    let pieces = starts.zip(x.chunks(PIECE)).zip(dx.chunks_mut(PIECE));
    threads::share(
        &mut pieces.collect::<Vec<_>>(),
        |((_, x), _)| weight(states.len()) * x.len(),
        |((start, x), dx)| {
            let start = *start;
            let states = slices_of(states, at + start, x.len());
            loops::direction(x, dx, &states, kernel, Context { start, ..context });
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

fn measurements(index: usize, part: &Part) -> impl Iterator<Item = Measurement> {
    let len = part.range.len();
    // A leaf without elements is one piece: every part has a total.
    let starts = (0..len.max(1)).step_by(MEASURED);
    starts.map(move |start| Measurement {
        part: index,
        range: start..(start + MEASURED).min(len),
        total: [0.0; 2],
    })
}
