//! Loops of a kernel over slices: the step itself, and the direction at a norm in the middle of a
//! chain, which is found without writing anything.

use std::cell::Cell;
use std::ops::Range;
use std::slice;

use smallvec::SmallVec;

use super::kernel::{BoundKernel, Kernel};
use super::part_gradient::{GRADIENT_BLOCK, PartGradient};
use super::row::{
    Context, CopiedStates, Elements, FullStates, HalfStates, ROW, Row, States, WithCopy, filled_up,
};
use super::scan::Scan;
use crate::element::{Dtype, FlatElement};
use crate::ops::compact::Sequence;
use crate::ops::dispatch;

/// Elements that are at the same step, with their slices of the state vectors.
pub(super) struct Slices<'v, 's, E> {
    pub(super) x: &'s mut [E],
    pub(super) grad: PartGradient<'s, E>,
    pub(super) states: &'s mut [&'v mut [E]],
}

/// The rows of every state vector.
#[derive(Clone, Copy)]
pub(super) enum Columns<'c, E> {
    Full(&'c [FullColumn<'c, E>]),
    /// With what is drawn for them.
    Halves(&'c [HalfColumn<'c>], Sequence),
}

/// The rows of one state vector, in cells: each row of a step reads and writes columns that all
/// rows share.
type FullColumn<'c, E> = &'c [Cell<Elements<E>>];
type HalfColumn<'c> = &'c [Cell<[u16; ROW]>];

/// Something for each state vector, of which most rules have few.
type PerState<T> = SmallVec<[T; 4]>;

impl<E> Columns<'_, E> {
    /// Calls `work` with some of the rows.
    fn with_rows(self, rows: Range<usize>, work: impl FnOnce(Columns<'_, E>)) {
        match self {
            Columns::Full(columns) => {
                let columns = columns.iter();
                let columns = columns.map(|column| &column[rows.clone()]);
                let columns: PerState<FullColumn<'_, E>> = columns.collect();
                work(Columns::Full(&columns));
            }
            Columns::Halves(columns, random) => {
                let elements = rows.start * ROW;
                let random = random.behind(elements);
                let columns = columns.iter();
                let columns = columns.map(|column| &column[rows.clone()]);
                let columns: PerState<HalfColumn<'_>> = columns.collect();
                work(Columns::Halves(&columns, random));
            }
        }
    }
}

/// A [`Kernel`] behind `dyn`: its loops over rows are all of a step that is compiled for a rule, in
/// the crate that names it, and everything around them is compiled once, here.
pub(super) trait AnyKernel<E>: Send + Sync {
    fn norms(&self) -> usize;

    fn changes(&self, state: usize) -> bool;

    /// Whether it takes steps of rows of halves.
    fn takes_halves(&self) -> bool;

    fn scan(&self, scan: &mut Scan<E>);

    /// Takes the step of whole rows.
    fn step_rows(
        &self,
        x: &mut [Elements<E>],
        grad: &[Elements<E>],
        states: Columns<'_, E>,
        context: Context<'_, E>,
    );

    /// Makes the direction of whole rows.
    fn direct_rows(
        &self,
        x: &[Elements<E>],
        dx: &mut [Elements<E>],
        states: &[WithCopy<'_, E>],
        context: Context<'_, E>,
    );
}

/// Vectors of f32 only are kept as bf16. Where a piece of the kernel reads what another wrote, it
/// must not be rounded between them.
const fn takes_halves<E: FlatElement, K: Kernel<E>>() -> bool {
    matches!(E::DTYPE, Dtype::F32) && K::WRITERS <= 1
}

/// One for each run of leaves.
pub(super) type Kernels<'k, E> = [Box<dyn AnyKernel<E> + 'k>];

impl<E: FlatElement, K: Kernel<E>> AnyKernel<E> for K {
    fn norms(&self) -> usize {
        K::NORMS
    }

    fn changes(&self, state: usize) -> bool {
        Kernel::changes(self, state)
    }

    fn takes_halves(&self) -> bool {
        takes_halves::<E, K>() && !self.is_seldom()
    }

    fn scan(&self, scan: &mut Scan<E>) {
        Kernel::scan(self, scan);
    }

    fn step_rows(
        &self,
        x: &mut [Elements<E>],
        grad: &[Elements<E>],
        states: Columns<'_, E>,
        context: Context<'_, E>,
    ) {
        let rows = x.len();
        match states {
            Columns::Full(columns) => {
                let states = FullStates { columns, rows };
                dispatch::run(Step, x, grad, (self, states, context));
            }
            Columns::Halves(columns, random) => {
                // A constant, so that a loop that never runs is not compiled.
                if const { takes_halves::<E, K>() } {
                    let states = HalfStates {
                        columns,
                        rows,
                        random,
                        state: 0,
                    };
                    dispatch::run(Step, x, grad, (self, states, context));
                } else {
                    unreachable!("it says that it takes none");
                }
            }
        }
    }

    fn direct_rows(
        &self,
        x: &[Elements<E>],
        dx: &mut [Elements<E>],
        states: &[WithCopy<'_, E>],
        context: Context<'_, E>,
    ) {
        dispatch::run(Direction, x, dx, (self, states, context));
    }
}

/// Takes the step: all stages, row by row. The last elements of a part, fewer than a row, go through
/// the stages as a row that is filled up with zeros.
pub(super) fn step<E: FlatElement>(
    slices: Slices<'_, '_, E>,
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = slices.x.as_chunks_mut();
    let mut columns: PerState<FullColumn<'_, E>> = SmallVec::new();
    let mut ends: PerState<&mut [E]> = SmallVec::new();
    for state in slices.states {
        let (column, end) = state.as_chunks_mut();
        columns.push(Cell::from_mut(column).as_slice_of_cells());
        ends.push(end);
    }
    step_rows(x, slices.grad, Columns::Full(&columns), kernel, context);
    if !x_end.is_empty() {
        let start = context.start + x.len() * ROW;
        let grad = slices.grad.end_row();
        let context = Context { start, ..context };
        step_end((x_end, grad), &mut ends, kernel, context);
    }
}

/// Takes the step of whole rows, which are the first of the gradient's.
fn step_rows<E: FlatElement>(
    x: &mut [Elements<E>],
    grad: PartGradient<'_, E>,
    columns: Columns<'_, E>,
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    match grad.elements() {
        Some(grad) => kernel.step_rows(x, grad.as_chunks().0, columns, context),
        // To fill a long buffer with zeros would take longer than the step of a small leaf.
        None if x.len() <= FEW_ROWS => {
            step_rows_by_blocks::<E, FEW_ROWS>(x, grad, columns, kernel, context)
        }
        None => step_rows_by_blocks::<E, MANY_ROWS>(x, grad, columns, kernel, context),
    }
}

/// Rows whose gradient is made together, of small leaves and of others.
const FEW_ROWS: usize = 8;
const MANY_ROWS: usize = GRADIENT_BLOCK / ROW;

/// Takes the step where the gradient's elements have to be made, block by block.
// The buffer makes a large frame, which a step by a slice does without.
#[inline(never)]
fn step_rows_by_blocks<E: FlatElement, const ROWS: usize>(
    x: &mut [Elements<E>],
    grad: PartGradient<'_, E>,
    columns: Columns<'_, E>,
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let mut buffer = [[E::zeroed(); ROW]; ROWS];
    for (block, x) in x.chunks_mut(ROWS).enumerate() {
        let first = block * ROWS;
        let rows = first..first + x.len();
        let elements = rows.start * ROW..rows.end * ROW;
        let block = &mut buffer[..x.len()];
        let start = context.start + elements.start;
        grad.slice(elements).read(block.as_flattened_mut());
        let context = Context { start, ..context };
        columns.with_rows(rows, |columns| kernel.step_rows(x, block, columns, context));
    }
}

struct Step;

impl<'c, E: FlatElement, K: Kernel<E>, S: States<'c, E>>
    dispatch::Kernel<&mut [Elements<E>], &[Elements<E>], (&'c K, S, Context<'c, E>)> for Step
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &mut [Elements<E>],
        grad: &[Elements<E>],
        (kernel, states, context): (&'c K, S, Context<'c, E>),
    ) {
        // As many rows as the states have, which the compiler has to know.
        let rows = x.len();
        let grad = &grad[..rows];
        let kernel = kernel.bind(states.of_rows(rows), context);
        for at in 0..rows {
            let mut row = Row::new(x[at], grad[at], at);
            // Parameters are written last: a row that is held back leaves them as they were.
            if kernel.run(&mut row).is_continue() {
                x[at] = row.moved();
            }
        }
    }
}

/// The last elements, fewer than a row: they take the step in a row of their own, which is filled up
/// with zeros, through the loop that all rows go through. (A loop of its own, over copies that are
/// made as stages ask, was one more version of the whole chain to compile.)
fn step_end<E: FlatElement>(
    (x, grad): (&mut [E], Elements<E>),
    states: &mut [&mut [E]],
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let mut moved = [filled_up(x)];
    let filled = states.iter().map(|state| Cell::new(filled_up(state)));
    let filled: PerState<Cell<Elements<E>>> = filled.collect();
    let columns = filled.iter().map(slice::from_ref);
    let columns: PerState<FullColumn<'_, E>> = columns.collect();
    kernel.step_rows(&mut moved, &[grad], Columns::Full(&columns), context);
    let [moved] = moved;
    x.copy_from_slice(&moved[..x.len()]);
    for (state, filled) in states.iter_mut().zip(&filled) {
        let changed = &filled.get()[..state.len()];
        // Compared as bits, 0 and −0 are two. A vector that no stage touches is not written, and costs
        // no memory.
        let before: &[u8] = bytemuck::cast_slice(state);
        let after: &[u8] = bytemuck::cast_slice(changed);
        if after != before {
            state.copy_from_slice(changed);
        }
    }
}

/// Takes the step where every state vector is kept as bf16 and rounded at random, with what is drawn
/// for them.
pub(super) fn step_halves<E: FlatElement>(
    (x, grad): (&mut [E], PartGradient<'_, E>),
    (states, random): (&mut [&mut [u16]], Sequence),
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = x.as_chunks_mut();
    let mut columns: PerState<HalfColumn<'_>> = SmallVec::new();
    let mut ends: PerState<&mut [u16]> = SmallVec::new();
    for state in states {
        let (column, end) = state.as_chunks_mut();
        columns.push(Cell::from_mut(column).as_slice_of_cells());
        ends.push(end);
    }
    step_rows(x, grad, Columns::Halves(&columns, random), kernel, context);
    if x_end.is_empty() {
        return;
    }
    // The end is filled up to a row, as that of full vectors is.
    let elements = x.len() * ROW;
    let start = context.start + elements;
    let context = Context { start, ..context };
    let random = random.behind(elements);
    let mut moved = [filled_up(x_end)];
    let grad = [grad.end_row()];
    let filled = ends.iter().map(|end| Cell::new(filled_up(end)));
    let filled: PerState<Cell<[u16; ROW]>> = filled.collect();
    let columns = filled.iter().map(slice::from_ref);
    let columns: PerState<HalfColumn<'_>> = columns.collect();
    let columns = Columns::Halves(&columns, random);
    kernel.step_rows(&mut moved, &grad, columns, context);
    let [moved] = moved;
    x_end.copy_from_slice(&moved[..x_end.len()]);
    for (end, filled) in ends.iter_mut().zip(&filled) {
        let changed = &filled.get()[..end.len()];
        // A vector that no stage touches costs no memory.
        if changed != *end {
            end.copy_from_slice(changed);
        }
    }
}

/// Runs the stages up to the first norm that is not measured or gate that is closed, and writes
/// neither parameters nor states: `dx`, the gradient at first, becomes the direction there. The last
/// elements go through the stages as a row that is filled up with zeros.
pub(super) fn direction<E: FlatElement>(
    x: &[E],
    dx: &mut [E],
    states: &[&[E]],
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = x.as_chunks();
    let (dx, dx_end) = dx.as_chunks_mut();
    let columns = states.iter().map(|state| state.as_chunks().0);
    kernel.direct_rows(x, dx, &with_copies(columns), context);
    if x_end.is_empty() {
        return;
    }
    let start = context.start + x.len() * ROW;
    let context = Context { start, ..context };
    let ends = states.iter().map(|state| {
        let (_, end) = state.as_chunks::<ROW>();
        filled_up(end)
    });
    let ends: PerState<Elements<E>> = ends.collect();
    let columns = with_copies(ends.iter().map(slice::from_ref));
    let mut direction = [filled_up(dx_end)];
    kernel.direct_rows(&[filled_up(x_end)], &mut direction, &columns, context);
    let [direction] = direction;
    dx_end.copy_from_slice(&direction[..dx_end.len()]);
}

fn with_copies<'c, E: FlatElement>(
    columns: impl Iterator<Item = &'c [Elements<E>]>,
) -> PerState<WithCopy<'c, E>> {
    let with_copies = columns.map(|column| (column, Cell::default()));
    with_copies.collect()
}

struct Direction;

impl<'c, E: FlatElement, K: Kernel<E>>
    dispatch::Kernel<
        &[Elements<E>],
        &mut [Elements<E>],
        (&'c K, &'c [WithCopy<'c, E>], Context<'c, E>),
    > for Direction
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &[Elements<E>],
        dx: &mut [Elements<E>],
        (kernel, columns, context): (&'c K, &'c [WithCopy<'c, E>], Context<'c, E>),
    ) {
        let rows = dx.len();
        let x = &x[..rows];
        let states = CopiedStates { columns, rows };
        let kernel = kernel.bind(states, context);
        for at in 0..rows {
            // Another stage may read what one has written, so copies last for the row, not longer.
            columns.iter().for_each(|(_, copy)| copy.set(None));
            let mut row = Row::new(x[at], dx[at], at);
            // It stops at the norm that is wanted, or runs through; the row has the direction.
            let _ = kernel.run(&mut row);
            dx[at] = row.dx;
        }
    }
}
