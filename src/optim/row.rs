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

use bytemuck::Zeroable;

use super::measure::Measured;
use crate::element::{Dtype, FlatElement};
use crate::ops::compact::{self, Sequence};

/// Elements of a row: the widest registers hold as many.
pub(super) const ROW: usize = 16;

/// The elements of a row.
pub(super) type Elements<E> = [E; ROW];

/// Sixteen consecutive elements on their way through the stages of a rule: the parameters as they
/// are, the direction that is subtracted from them in the end (at first the gradient), and the
/// state of the stage at hand.
///
/// The end of a leaf is filled up with zeros, and what becomes of them is dropped.
pub struct Row<'r, E> {
    x: Elements<E>,
    pub(super) dx: Elements<E>,
    states: States<'r, E>,
    /// Which of the states are those of the stage at hand.
    stage: Range<usize>,
    context: Context<'r, E>,
    /// The number of the next norm.
    norm: usize,
}

/// What is the same for all rows of a part.
#[derive(Clone, Copy)]
pub(super) struct Context<'r, E> {
    pub(super) leaf: usize,
    /// Where in the leaf the slices begin, in elements.
    pub(super) start: usize,
    /// Norms by their number; those that have not been measured yet are not there.
    pub(super) measured: &'r [Option<Measured<E>>],
}

/// The vectors that the stages keep. A vector is read and written only where a stage asks for it.
pub(super) enum States<'r, E> {
    Live {
        columns: &'r [&'r [Cell<Elements<E>>]],
        at: usize,
    },
    Halves {
        columns: &'r [HalfColumn<'r>],
        at: usize,
    },
    /// Stages write to copies, made as they ask.
    Copied {
        real: &'r [&'r [Elements<E>]],
        at: usize,
        copies: &'r [Copied<E>],
    },
}

/// The rows of a state vector that is kept as bf16, of vectors of f32 only, and what is drawn for
/// them. A row is widened and rounded in registers, so memory is read and written in the order in
/// which full vectors are. (By way of a buffer in the L1 cache for 1,024 elements of each vector, a
/// step of AdamW took twice as long; of copies that are rounded when all stages have run, 1.4 times
/// as long as of what is rounded as it is written, which is why kernels whose pieces read what
/// others of them wrote go by the buffer.)
pub(super) type HalfColumn<'c> = (&'c [Cell<[u16; ROW]>], Option<Sequence>);

/// What is kept as bf16 is of f32, so a vector of another type has no such column.
#[inline(always)]
fn from_f32<E: FlatElement>(elements: [f32; ROW]) -> Elements<E> {
    match E::DTYPE {
        Dtype::F32 => bytemuck::cast(elements),
        _ => unreachable!(),
    }
}

#[inline(always)]
fn to_f32<E: FlatElement>(elements: Elements<E>) -> [f32; ROW] {
    match E::DTYPE {
        Dtype::F32 => bytemuck::cast(elements),
        _ => unreachable!(),
    }
}

/// A state's elements of this row as a stage has changed them; `None` as long as none has.
pub(super) type Copied<E> = Cell<Option<Elements<E>>>;

impl<'r, E: FlatElement> Row<'r, E> {
    #[inline(always)]
    pub(super) fn new(
        x: Elements<E>,
        dx: Elements<E>,
        states: States<'r, E>,
        context: Context<'r, E>,
    ) -> Self {
        let stage = 0..states.len();
        Row {
            x,
            dx,
            states,
            stage,
            context,
            norm: 0,
        }
    }

    /// See [`each`](super::each).
    #[inline(always)]
    pub(super) fn each<const N: usize, F: Fn(E, E, &mut [E; N]) -> E>(&mut self, change: &F) {
        assert!(
            N <= self.stage.len(),
            "`each`: expected a rule with {N} state vectors, found {}",
            self.stage.len()
        );
        // Local arrays and plain loops, so that the compiler keeps all of it in registers.
        let (x, mut dx, mut columns) = (self.x, self.dx, [[E::zeroed(); ROW]; N]);
        // Read before the loop and written behind it: within, every state is a register.
        for k in 0..N {
            columns[k] = self.states.get(self.stage.start + k);
        }
        for i in 0..ROW {
            let mut elements = [E::zeroed(); N];
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
        self.dx = dx;
    }

    /// The norms of this leaf's parameters and of the direction here. Stops where they are still to
    /// be measured: then the row has the direction that they are measured of.
    #[inline(always)]
    pub(super) fn norms(&mut self) -> ControlFlow<(), [f64; 2]> {
        // Counted up also where it stops, so that numbers are those of the scan.
        let norm = self.norm;
        self.norm += 1;
        match &self.context.measured[norm] {
            Some(measured) => ControlFlow::Continue(measured.at(self.context.leaf)),
            None => ControlFlow::Break(()),
        }
    }

    /// Takes the direction from that of the whole leaf, as it has been changed. Stops where that is
    /// still to be done: then the row has the direction that is to be changed.
    #[inline(always)]
    pub(super) fn replace(&mut self) -> ControlFlow<()> {
        let norm = self.norm;
        self.norm += 1;
        let Some(measured) = &self.context.measured[norm] else {
            return ControlFlow::Break(());
        };
        let at = self.context.start + self.states.at();
        self.dx = filled_up(&measured.direction(self.context.leaf)[at..]);
        ControlFlow::Continue(())
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
    pub(super) fn moved(&self) -> Elements<E> {
        let mut moved = self.x;
        // Not masked at the end of a leaf: what becomes of the zeros there is dropped.
        for i in 0..ROW {
            moved[i] -= self.dx[i];
        }
        moved
    }
}

impl<E: FlatElement> States<'_, E> {
    #[inline(always)]
    fn len(&self) -> usize {
        match self {
            States::Live { columns, .. } => columns.len(),
            States::Halves { columns, .. } => columns.len(),
            States::Copied { real, .. } => real.len(),
        }
    }

    /// Where in the slices the row begins, in elements.
    #[inline(always)]
    fn at(&self) -> usize {
        match self {
            States::Live { at, .. } | States::Halves { at, .. } | States::Copied { at, .. } => {
                at * ROW
            }
        }
    }

    #[inline(always)]
    fn get(&self, state: usize) -> Elements<E> {
        match self {
            States::Live { columns, at } => columns[state][*at].get(),
            States::Halves { columns, at } => {
                let (rows, _) = columns[state];
                from_f32(compact::widened(rows[*at].get()))
            }
            // A piece of a kernel reads what the pieces before it wrote.
            States::Copied { real, at, copies } => {
                copies[state].get().unwrap_or_else(|| real[state][*at])
            }
        }
    }

    #[inline(always)]
    fn set(&self, state: usize, elements: Elements<E>) {
        match self {
            States::Live { columns, at } => columns[state][*at].set(elements),
            States::Halves { columns, at } => {
                let (rows, random) = columns[state];
                let random = random.map(|random| random.behind(at * ROW));
                rows[*at].set(compact::narrowed(to_f32(elements), random));
            }
            States::Copied { copies, .. } => copies[state].set(Some(elements)),
        }
    }
}

/// The first elements; zeros where there are no more.
#[inline(always)]
pub(super) fn filled_up<T: Copy + Zeroable>(elements: &[T]) -> [T; ROW] {
    match elements.first_chunk() {
        Some(row) => *row,
        None => std::array::from_fn(|i| elements.get(i).copied().unwrap_or(T::zeroed())),
    }
}
