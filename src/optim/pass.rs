//! All elements of a step: cut to pieces for the threads, measured and moved. Knows nothing of trees.

use std::ops::Range;

use smallvec::SmallVec;

use super::kernel::Kernel;
use super::measure::Measured;
use super::row::{self, Asked, Context, Slices};
use crate::transfer;

/// Elements that one thread takes at a time. Part of the numbers: norms are merged from parts of so many.
const PIECE: usize = 1 << 15;

/// A step costs about so many times as much as a copy, so that a shorter vector is worth a second thread.
const WEIGHT: usize = 8;

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
    kernel: usize,
    x: &'v mut [f32],
    grad: &'v [f32],
    states: StateSlices<'v>,
}

/// Takes the step. The slices of parameters and gradients are those of the parts, in ascending order of their ranges.
pub(super) fn step<'v>(
    parts: &[Part],
    slices: impl Iterator<Item = (&'v mut [f32], &'v [f32])>,
    states: &'v mut [Vec<f32>],
    kernels: &[impl Kernel],
    measured: &[Option<Measured>],
) {
    let mut pieces = pieces(parts, slices, states);
    transfer::share(
        &mut pieces,
        |piece| WEIGHT * piece.x.len(),
        |piece| {
            let slices = Slices { x: &mut *piece.x, grad: piece.grad, states: &mut piece.states };
            row::step(slices, &kernels[piece.kernel], Context { leaf: piece.leaf, measured });
        },
    );
}

/// Cuts the states as the parts are, and all of it to pieces for the threads.
fn pieces<'v>(parts: &[Part], slices: impl Iterator<Item = (&'v mut [f32], &'v [f32])>, states: &'v mut [Vec<f32>]) -> Vec<Piece<'v>> {
    let mut rest: StateSlices<'v> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let mut at = 0;
    let mut pieces = Vec::with_capacity(parts.len());
    for (part, (x, grad)) in parts.iter().zip(slices) {
        take_each(&mut rest, part.range.start - at);
        let states = take_each(&mut rest, part.range.len());
        at = part.range.end;
        let mut piece = Piece { leaf: part.leaf, kernel: part.kernel, x, grad, states };
        while piece.x.len() > PIECE {
            pieces.push(piece.split_off(PIECE));
        }
        pieces.push(piece);
    }
    pieces
}

/// The first elements of every vector. By `push`: collecting took 200 instructions more for every small leaf.
fn take_each<'v>(rest: &mut [&'v mut [f32]], len: usize) -> StateSlices<'v> {
    let mut taken = StateSlices::new();
    for rest in rest {
        taken.push(take(rest, len));
    }
    taken
}

/// The first elements, which leave `rest`.
fn take<'v>(rest: &mut &'v mut [f32], len: usize) -> &'v mut [f32] {
    rest.split_off_mut(..len).expect("as long as the flat vector")
}

impl<'v> Piece<'v> {
    fn split_off(&mut self, len: usize) -> Piece<'v> {
        let grad = self.grad.split_off(..len).expect("as long as the parameters");
        let states = take_each(&mut self.states, len);
        Piece { x: take(&mut self.x, len), grad, states, ..*self }
    }
}

/// Measures `this` norm: what every part, each of one leaf, adds to it. The kernels ask each for its own of `asked`, and those that ask for
/// another one add nothing.
pub(super) fn measure(
    parts: &[Part],
    slices: &[(&[f32], &[f32])],
    states: &[Vec<f32>],
    kernels: &[impl Kernel],
    asked: &[Option<Asked>],
    (this, measured): (Asked, &[Option<Measured>]),
) -> Vec<[f64; 2]> {
    let measure = this.measure;
    let mut pieces: Vec<Measurement> = parts.iter().enumerate().flat_map(|(index, part)| measurements(index, part)).collect();
    let of_piece = |Measurement { part: index, range, total }: &mut Measurement| {
        let (part, (x, grad)) = (&parts[*index], slices[*index]);
        let (x, grad) = (&x[range.clone()], &grad[range.clone()]);
        *total = match asked[part.kernel].filter(|asked| asked.norm == this.norm) {
            None => [0.0; 2],
            Some(asked) if asked.is_of_gradient => measure.slice(x, grad),
            Some(_) => {
                let range = part.range.start + range.start..part.range.start + range.end;
                let states: SmallVec<[&[f32]; 4]> = states.iter().map(|state| &state[range.clone()]).collect();
                row::rehearse((x, grad, &states), measure, &kernels[part.kernel], Context { leaf: part.leaf, measured })
            }
        };
    };
    transfer::share(&mut pieces, |piece| WEIGHT * piece.range.len(), of_piece);
    let of_leaf = pieces.chunk_by(|a, b| a.part == b.part);
    of_leaf.map(|pieces| pieces.iter().map(|piece| piece.total).fold([0.0; 2], |a, b| measure.merge(a, b))).collect()
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
    let starts = (0..len.max(1)).step_by(PIECE);
    starts.map(move |start| Measurement { part: index, range: start..(start + PIECE).min(len), total: [0.0; 2] })
}
