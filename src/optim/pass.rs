//! Kernels over slices: the rehearsals that measure, and the step itself. Knows nothing of trees.

use std::ops::Range;

use super::chunk::{CHUNK, Chunk, StateSlices, States};
use super::measure::{Measured, Partial};
use super::rule::Kernel;
use crate::ops;
use crate::transfer;

/// Elements that one thread takes at a time. Part of the numbers: norms are merged from parts of so many.
const PIECE: usize = 1 << 16;

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

/// A part with its slices.
struct Piece<'v> {
    part: Part,
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
    measured: &[Measured],
) {
    let mut pieces = pieces(parts, slices, states);
    let weight = |piece: &Piece<'_>| WEIGHT * piece.x.len();
    transfer::share_slices(&mut pieces, weight, |pieces| {
        let mut dx = [0.0; CHUNK];
        pieces.iter_mut().for_each(|piece| piece.step(&kernels[piece.part.kernel], measured, &mut dx));
    });
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
        let mut piece = Piece { part: part.clone(), x, grad, states };
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
        Piece { part: self.part.clone(), x: take(&mut self.x, len), grad, states }
    }

    fn step(&mut self, kernel: &impl Kernel, measured: &[Measured], dx: &mut [f32; CHUNK]) {
        while self.x.len() > CHUNK {
            self.split_off(CHUNK).step_chunk(kernel, measured, dx);
        }
        self.step_chunk(kernel, measured, dx);
    }

    fn step_chunk(&mut self, kernel: &impl Kernel, measured: &[Measured], dx: &mut [f32; CHUNK]) {
        let dx = &mut dx[..self.x.len()];
        dx.copy_from_slice(self.grad);
        let mut states = StateSlices::new();
        for state in &mut self.states {
            states.push(state);
        }
        let states = States::Live(states);
        if kernel(&mut Chunk::new(self.x, dx, states, self.part.leaf, measured)).is_continue() {
            ops::sub(self.x, dx);
        }
    }
}

/// A leaf, or a piece of a long one, in a rehearsal.
struct Rehearsed<'v> {
    part: &'v Part,
    x: &'v [f32],
    grad: &'v [f32],
    /// Where in the leaf it starts.
    start: usize,
    result: Option<Partial>,
}

/// Runs all stages up to the first that asks for what is not measured yet, on copies of their states: what every part, each of one
/// leaf, adds to it.
pub(super) fn rehearse(
    parts: &[Part],
    slices: &[(&[f32], &[f32])],
    states: &[Vec<f32>],
    kernels: &[impl Kernel],
    measured: &[Measured],
) -> Vec<Option<Partial>> {
    let mut pieces: Vec<Rehearsed<'_>> = parts.iter().zip(slices).flat_map(|(part, &(x, grad))| rehearsed(part, x, grad)).collect();
    transfer::share_slices(
        &mut pieces,
        |piece| WEIGHT * piece.x.len(),
        |pieces| {
            let (mut dx, mut copies) = ([0.0; CHUNK], vec![Vec::new(); states.len()]);
            pieces.iter_mut().for_each(|piece| piece.rehearse(states, &kernels[piece.part.kernel], measured, &mut dx, &mut copies));
        },
    );
    let of_leaf = pieces.chunk_by(|a, b| std::ptr::eq(a.part, b.part));
    of_leaf.map(|pieces| pieces.iter().filter_map(|piece| piece.result).reduce(Partial::merge)).collect()
}

fn rehearsed<'v>(part: &'v Part, x: &'v [f32], grad: &'v [f32]) -> impl Iterator<Item = Rehearsed<'v>> {
    let starts = (0..x.len().max(1)).step_by(PIECE);
    starts.map(move |start| {
        let range = start..(start + PIECE).min(x.len());
        Rehearsed { part, x: &x[range.clone()], grad: &grad[range], start, result: None }
    })
}

impl Rehearsed<'_> {
    fn rehearse(
        &mut self,
        states: &[Vec<f32>],
        kernel: &impl Kernel,
        measured: &[Measured],
        dx: &mut [f32; CHUNK],
        copies: &mut [Vec<f32>],
    ) {
        for start in (0..self.x.len()).step_by(CHUNK) {
            let range = start..(start + CHUNK).min(self.x.len());
            let dx = &mut dx[..range.len()];
            dx.copy_from_slice(&self.grad[range.clone()]);
            let at = self.part.range.start + self.start + start;
            copies.iter_mut().for_each(Vec::clear);
            let states = States::Rehearsal { real: states, at, copies };
            let mut chunk = Chunk::new(&self.x[range], dx, states, self.part.leaf, measured);
            // Whether it breaks because it measured or because it does not go on makes no difference here.
            let _ = kernel(&mut chunk);
            let result = chunk.into_pending();
            self.result = [self.result, result].into_iter().flatten().reduce(Partial::merge);
        }
    }
}

/// Whether a kernel asks for a measurement that has not been made: it is run on nothing.
pub(super) fn asks(kernel: &impl Kernel, states: &[Vec<f32>], leaf: usize, measured: &[Measured]) -> Option<Partial> {
    let mut copies = vec![Vec::new(); states.len()];
    let states = States::Rehearsal { real: states, at: 0, copies: &mut copies };
    let mut chunk = Chunk::new(&[], &mut [], states, leaf, measured);
    let _ = kernel(&mut chunk);
    chunk.into_pending()
}
