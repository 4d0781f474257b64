//! The piece of a step that is in the cache: parameters, direction and state of a few elements.

use std::ops::{ControlFlow, Range};

use smallvec::SmallVec;

use super::measure::{Measure, Measured, Partial};
use super::rule::{Flow, GO_ON};
use crate::ops::dispatch::{self, Kernel};

/// Elements that go through all stages before the next ones do. With AdamW and a moving average, five vectors of so
/// many elements and the direction are 24 KiB, within an L1 cache of 32.
pub(super) const CHUNK: usize = 1024;

/// Elements that a loop treats as one row: the widest registers hold as many.
const ROW: usize = 16;

/// Some consecutive elements on their way through the stages of a rule: the parameters as they are, the direction that is subtracted
/// from them in the end (at first the gradient), and the state of the stage at hand.
pub struct Chunk<'c> {
    x: &'c [f32],
    dx: &'c mut [f32],
    states: States<'c>,
    /// Which of the states are those of the stage at hand.
    stage: Range<usize>,
    leaf: usize,
    measured: &'c [Measured],
    /// How many measurements have been asked for.
    asked: usize,
    pending: Option<Partial>,
}

/// One slice a state vector.
pub(super) type StateSlices<'c> = SmallVec<[&'c mut [f32]; 4]>;

/// The vectors that the stages keep.
pub(super) enum States<'c> {
    Live(StateSlices<'c>),
    /// For measuring what a step will be: stages write to copies, empty until they first ask.
    Rehearsal {
        real: &'c [Vec<f32>],
        at: usize,
        copies: &'c mut [Vec<f32>],
    },
}

impl<'c> Chunk<'c> {
    pub(super) fn new(x: &'c [f32], dx: &'c mut [f32], states: States<'c>, leaf: usize, measured: &'c [Measured]) -> Self {
        let stage = 0..states.len();
        Chunk { x, dx, states, stage, leaf, measured, asked: 0, pending: None }
    }

    /// Replaces every element of the direction by what `change` makes of it: it gets the parameter, the direction, and the elements of
    /// the stage's first `N` state vectors, which it may change.
    ///
    /// Compiled for several vector widths; a closure without branches or calls runs at the speed of memory. (A choice that is the same
    /// for all elements goes around the call: a `match` over two calls of `each`.) Always continues.
    ///
    /// # Panics
    /// If the rule does not keep `N` vectors.
    pub fn each<const N: usize>(&mut self, change: impl Fn(f32, f32, &mut [f32; N]) -> f32) -> Flow {
        let states = self.states.first::<N>(&self.stage, self.x.len());
        dispatch::run(Each, self.x, &mut *self.dx, (states, &change));
        GO_ON
    }

    /// The L2 norm of the direction over all leaves that take a step, as it is at this point of the chain.
    ///
    /// Costs one read of what the stages so far need, before the step; they are run on copies of their state.
    pub fn global_norm(&mut self) -> ControlFlow<(), f64> {
        self.measure(Measure::global()).map_continue(|[_, dx]| dx)
    }

    /// The L2 norms of this leaf's parameters and of its direction, at this point of the chain. Costs as
    /// [`global_norm`](Chunk::global_norm).
    pub fn leaf_norms(&mut self) -> ControlFlow<(), (f64, f64)> {
        self.measure(Measure::leaf()).map_continue(|[x, dx]| (x, dx))
    }

    /// What was measured; while it is measured, notes down this chunk's part and stops.
    pub(super) fn measure(&mut self, measure: Measure) -> ControlFlow<(), [f64; 2]> {
        self.asked += 1;
        match self.measured.get(self.asked - 1) {
            Some(measured) => ControlFlow::Continue(measured.at(self.leaf)),
            None => {
                self.pending = Some(measure.part(self.x, self.dx));
                ControlFlow::Break(())
            }
        }
    }

    /// Runs one stage of a chain, whose states are these.
    pub(super) fn stage(&mut self, states: Range<usize>, kernel: &impl Fn(&mut Chunk<'c>) -> Flow) -> Flow {
        let before = self.stage.clone();
        self.stage = before.start + states.start..before.start + states.end;
        let flow = kernel(self);
        self.stage = before;
        flow
    }

    pub(super) fn into_pending(self) -> Option<Partial> {
        self.pending
    }
}

impl States<'_> {
    fn len(&self) -> usize {
        match self {
            States::Live(live) => live.len(),
            States::Rehearsal { real, .. } => real.len(),
        }
    }

    fn first<const N: usize>(&mut self, stage: &Range<usize>, len: usize) -> [&mut [f32]; N] {
        assert!(N <= stage.len(), "`each`: expected a rule with {N} state vectors, found {}", stage.len());
        let states = stage.start..stage.start + N;
        match self {
            States::Live(live) => each_of(live[states].iter_mut().map(|state| &mut **state)),
            States::Rehearsal { real, at, copies } => {
                for state in states.clone() {
                    if copies[state].is_empty() {
                        copies[state].extend_from_slice(&real[state][*at..*at + len]);
                    }
                }
                each_of(copies[states].iter_mut().map(Vec::as_mut_slice))
            }
        }
    }
}

fn each_of<'s, const N: usize>(mut states: impl Iterator<Item = &'s mut [f32]>) -> [&'s mut [f32]; N] {
    std::array::from_fn(|_| states.next().expect("there are as many"))
}

struct Each;

impl<const N: usize, F: Fn(f32, f32, &mut [f32; N]) -> f32> Kernel<&[f32], &mut [f32], ([&mut [f32]; N], &F)> for Each {
    type Output = ();

    /// A row is read, changed and written as a whole, so that the compiler need not know that the vectors do not overlap. Without states
    /// it knows, and a plain loop is vectorised better.
    #[inline(always)]
    fn run(x: &[f32], dx: &mut [f32], (states, change): ([&mut [f32]; N], &F)) {
        if N == 0 {
            return x.iter().zip(dx).for_each(|(x, dx)| *dx = change(*x, *dx, &mut [0.0; N]));
        }
        let (x_rows, x_end) = x.as_chunks::<ROW>();
        let (dx_rows, dx_end) = dx.as_chunks_mut::<ROW>();
        let mut states = states.map(|state| state.as_chunks_mut::<ROW>());
        for (row, (x, dx)) in x_rows.iter().zip(dx_rows).enumerate() {
            let mut columns: [[f32; ROW]; N] = std::array::from_fn(|k| states[k].0[row]);
            let mut changed = *dx;
            for i in 0..ROW {
                let mut elements: [f32; N] = std::array::from_fn(|k| columns[k][i]);
                changed[i] = change(x[i], changed[i], &mut elements);
                (0..N).for_each(|k| columns[k][i] = elements[k]);
            }
            *dx = changed;
            (0..N).for_each(|k| states[k].0[row] = columns[k]);
        }
        for (i, (x, dx)) in x_end.iter().zip(dx_end).enumerate() {
            let mut elements: [f32; N] = std::array::from_fn(|k| states[k].1[i]);
            *dx = change(*x, *dx, &mut elements);
            (0..N).for_each(|k| states[k].1[i] = elements[k]);
        }
    }
}
