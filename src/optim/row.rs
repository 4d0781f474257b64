//! The piece of a step that is in registers: sixteen parameters with their gradient and state, on
//! their way through all stages.
//!
//! A row goes through the whole chain before the next one is read, so a step is one loop over the
//! vectors, bound by memory. (Stage by stage over chunks in the L1 cache, a step of AdamW and a
//! moving average took 1.7–2.3 times as long: each stage waits for its own vectors, and the next
//! one cannot begin to read.)
#![allow(clippy::needless_range_loop)] // indices vectorise better than iterators here

use std::cell::Cell;
use std::ops::{ControlFlow, Range};

use smallvec::SmallVec;

use super::kernel::Kernel;
use super::measure::{Measure, Measured};
use crate::ops::dispatch;

/// Elements of a row: the widest registers hold as many.
const ROW: usize = 16;

/// The elements of a row.
type Elements = [f32; ROW];

/// Sixteen consecutive elements on their way through the stages of a rule: the parameters as they
/// are, the direction that is subtracted from them in the end (at first the gradient), and the
/// state of the stage at hand.
///
/// The end of a leaf is filled up with zeros, and what becomes of them is dropped.
pub struct Row<'r> {
    x: Elements,
    dx: Elements,
    states: States<'r>,
    /// Which of the states are those of the stage at hand.
    stage: Range<usize>,
    context: Context<'r>,
    /// The number of the next norm.
    norm: usize,
    asked: Option<Asked>,
    /// Whether a stage has changed the direction.
    is_changed: bool,
}

/// What is the same for all rows of a part.
#[derive(Clone, Copy)]
pub(super) struct Context<'r> {
    pub(super) leaf: usize,
    /// Norms by their number; those that no kernel has asked for yet are not there.
    pub(super) measured: &'r [Option<Measured>],
}

/// A norm that a kernel asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) norm: usize,
    pub(super) measure: Measure,
    /// Whether it is of the gradient as it came: no stage before has changed it.
    pub(super) is_of_gradient: bool,
}

/// The vectors that the stages keep. A vector is read and written only where a stage asks for it.
enum States<'r> {
    Live {
        columns: &'r [&'r [Cell<Elements>]],
        at: usize,
    },
    /// Stages write to copies, made as they ask.
    Copied {
        real: &'r [&'r [f32]],
        at: usize,
        copies: &'r [Copied],
    },
}

type Copied = Cell<Option<Elements>>;

impl<'r> Row<'r> {
    #[inline(always)]
    fn new(x: Elements, dx: Elements, states: States<'r>, context: Context<'r>) -> Self {
        let stage = 0..states.len();
        Row {
            x,
            dx,
            states,
            stage,
            context,
            norm: 0,
            asked: None,
            is_changed: false,
        }
    }

    /// See [`each`](super::each).
    #[inline(always)]
    pub(super) fn each<const N: usize, F: Fn(f32, f32, &mut [f32; N]) -> f32>(
        &mut self,
        change: &F,
    ) {
        assert!(
            N <= self.stage.len(),
            "`each`: expected a rule with {N} state vectors, found {}",
            self.stage.len()
        );
        // Local arrays and plain loops, so that the compiler keeps all of it in registers.
        let (x, mut dx, mut columns) = (self.x, self.dx, [[0.0; ROW]; N]);
        for k in 0..N {
            columns[k] = self.states.get(self.stage.start + k);
        }
        for i in 0..ROW {
            let mut elements = [0.0; N];
            for k in 0..N {
                elements[k] = columns[k][i];
            }
            dx[i] = change(x[i], dx[i], &mut elements);
            for k in 0..N {
                columns[k][i] = elements[k];
            }
        }
        for k in 0..N {
            self.states.set(self.stage.start + k, columns[k]);
        }
        (self.dx, self.is_changed) = (dx, true);
    }

    /// What was measured; while it is measured, stops.
    #[inline(always)]
    pub(super) fn measure(&mut self, measure: Measure) -> ControlFlow<(), [f64; 2]> {
        let norm = self.norm;
        self.norm += 1;
        match &self.context.measured[norm] {
            Some(measured) => ControlFlow::Continue(measured.at(self.context.leaf)),
            None => {
                self.asked = Some(Asked {
                    norm,
                    measure,
                    is_of_gradient: !self.is_changed,
                });
                ControlFlow::Break(())
            }
        }
    }

    /// Leaves out the norms that another choice would have asked for.
    #[inline(always)]
    pub(super) fn pass_norms(&mut self, count: usize) {
        self.norm += count;
    }

    /// Narrows the states to those of one stage; gives back what they were.
    #[inline(always)]
    pub(super) fn enter(&mut self, start: usize, len: usize) -> Range<usize> {
        let start = self.stage.start + start;
        std::mem::replace(&mut self.stage, start..start + len)
    }

    #[inline(always)]
    pub(super) fn leave(&mut self, before: Range<usize>) {
        self.stage = before;
    }

    #[inline(always)]
    fn moved(&self) -> Elements {
        let mut moved = self.x;
        for i in 0..ROW {
            moved[i] -= self.dx[i];
        }
        moved
    }
}

impl States<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        match self {
            States::Live { columns, .. } => columns.len(),
            States::Copied { real, .. } => real.len(),
        }
    }

    #[inline(always)]
    fn get(&self, state: usize) -> Elements {
        match self {
            States::Live { columns, at } => columns[state][*at].get(),
            States::Copied { real, at, copies } => copies[state]
                .get()
                .unwrap_or_else(|| filled_up(&real[state][*at..])),
        }
    }

    #[inline(always)]
    fn set(&self, state: usize, elements: Elements) {
        match self {
            States::Live { columns, at } => columns[state][*at].set(elements),
            States::Copied { copies, .. } => copies[state].set(Some(elements)),
        }
    }
}

/// The first elements; zeros where there are no more.
#[inline(always)]
fn filled_up(elements: &[f32]) -> Elements {
    match elements.first_chunk() {
        Some(row) => *row,
        None => std::array::from_fn(|i| elements.get(i).copied().unwrap_or(0.0)),
    }
}

/// Elements that are at the same step, with their slices of the state vectors.
pub(super) struct Slices<'v, 's> {
    pub(super) x: &'s mut [f32],
    pub(super) grad: &'s [f32],
    pub(super) states: &'s mut [&'v mut [f32]],
}

/// Takes the step: all stages, row by row.
pub(super) fn step(slices: Slices<'_, '_>, kernel: &impl Kernel, context: Context<'_>) {
    let (x, x_end) = slices.x.as_chunks_mut();
    let (grad, grad_end) = slices.grad.as_chunks();
    let mut columns: SmallVec<[&[Cell<Elements>]; 4]> = SmallVec::new();
    let mut ends: SmallVec<[&mut [f32]; 4]> = SmallVec::new();
    for state in slices.states {
        let (column, end) = state.as_chunks_mut();
        columns.push(Cell::from_mut(column).as_slice_of_cells());
        ends.push(end);
    }
    dispatch::run(Step, x, grad, (kernel, &columns[..], context));
    if !x_end.is_empty() {
        step_end(
            Slices {
                x: x_end,
                grad: grad_end,
                states: &mut ends,
            },
            kernel,
            context,
        );
    }
}

struct Step;

impl<K: Kernel>
    dispatch::Kernel<&mut [Elements], &[Elements], (&K, &[&[Cell<Elements>]], Context<'_>)>
    for Step
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &mut [Elements],
        grad: &[Elements],
        (kernel, columns, context): (&K, &[&[Cell<Elements>]], Context<'_>),
    ) {
        for (at, (x, grad)) in x.iter_mut().zip(grad).enumerate() {
            let mut row = Row::new(*x, *grad, States::Live { columns, at }, context);
            if kernel.run(&mut row).is_continue() {
                *x = row.moved();
            }
        }
    }
}

/// The last elements, fewer than a row.
fn step_end(slices: Slices<'_, '_>, kernel: &impl Kernel, context: Context<'_>) {
    let Slices { x, grad, states } = slices;
    let copies: SmallVec<[Copied; 4]> = states.iter().map(|_| Cell::default()).collect();
    {
        let real: SmallVec<[&[f32]; 4]> = states.iter().map(|state| &**state).collect();
        let mut row = Row::new(
            filled_up(x),
            filled_up(grad),
            States::Copied {
                real: &real,
                at: 0,
                copies: &copies,
            },
            context,
        );
        if kernel.run(&mut row).is_continue() {
            x.copy_from_slice(&row.moved()[..x.len()]);
        }
    }
    for (state, copy) in states.iter_mut().zip(&copies) {
        if let Some(copy) = copy.get() {
            state.copy_from_slice(&copy[..state.len()]);
        }
    }
}

/// What a kernel asks for that has not been measured: it is run on nothing.
pub(super) fn asks(kernel: &impl Kernel, states: usize, context: Context<'_>) -> Option<Asked> {
    let real: SmallVec<[&[f32]; 4]> = SmallVec::from_elem(&[][..], states);
    let copies: SmallVec<[Copied; 4]> = real.iter().map(|_| Cell::default()).collect();
    let mut row = Row::new(
        [0.0; ROW],
        [0.0; ROW],
        States::Copied {
            real: &real,
            at: 0,
            copies: &copies,
        },
        context,
    );
    // Whether it breaks because it asks or because it does not go on makes no difference here.
    let _ = kernel.run(&mut row);
    row.asked
}

/// Runs the stages up to the one that asks for a norm, on copies of their states: `dx`, the
/// gradient at first, becomes the direction there.
pub(super) fn rehearse(
    x: &[f32],
    dx: &mut [f32],
    states: &[&[f32]],
    kernel: &impl Kernel,
    context: Context<'_>,
) {
    let copies: SmallVec<[Copied; 4]> = states.iter().map(|_| Cell::default()).collect();
    dispatch::run(Rehearse, x, dx, (kernel, states, &copies[..], context));
}

struct Rehearse;

impl<K: Kernel> dispatch::Kernel<&[f32], &mut [f32], (&K, &[&[f32]], &[Copied], Context<'_>)>
    for Rehearse
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &[f32],
        dx: &mut [f32],
        (kernel, real, copies, context): (&K, &[&[f32]], &[Copied], Context<'_>),
    ) {
        for at in (0..x.len()).step_by(ROW) {
            copies.iter().for_each(|copy| copy.set(None));
            let mut row = Row::new(
                filled_up(&x[at..]),
                filled_up(&dx[at..]),
                States::Copied { real, at, copies },
                context,
            );
            let _ = kernel.run(&mut row);
            match dx[at..].first_chunk_mut() {
                Some(dx) => *dx = row.dx,
                None => dx[at..].copy_from_slice(&row.dx[..x.len() - at]),
            }
        }
    }
}
