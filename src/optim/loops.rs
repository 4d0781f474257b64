//! Loops of a kernel over slices: the step itself, and the direction at a norm in the middle of a
//! chain, which is found without writing anything.

use std::cell::Cell;
use std::ops::Range;
use std::slice;

use smallvec::SmallVec;

use super::kernel::Kernel;
use super::part_gradient::{GRADIENT_BLOCK, PartGradient};
use super::row::{Context, Copied, Elements, HalfColumn, ROW, Row, States, filled_up};
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
    Full(&'c [&'c [Cell<Elements<E>>]]),
    Halves(&'c [HalfColumn<'c>]),
}

impl<E> Columns<'_, E> {
    /// Calls `work` with some of the rows.
    fn with_rows(self, rows: Range<usize>, work: impl FnOnce(Columns<'_, E>)) {
        match self {
            Columns::Full(columns) => {
                let columns = columns.iter().map(|column| &column[rows.clone()]);
                let columns: SmallVec<[&[Cell<Elements<E>>]; 4]> = columns.collect();
                work(Columns::Full(&columns));
            }
            Columns::Halves(columns) => {
                let behind = rows.start * ROW;
                let columns = columns.iter().map(|(column, random)| {
                    let random = random.map(|random| random.behind(behind));
                    (&column[rows.clone()], random)
                });
                let columns: SmallVec<[HalfColumn<'_>; 4]> = columns.collect();
                work(Columns::Halves(&columns));
            }
        }
    }
}

/// Those of vectors that are only read, with a place for what stages make of a row of each.
type Read<'c, E> = (&'c [&'c [Elements<E>]], &'c [Copied<E>]);

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
        states: Read<'_, E>,
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
        takes_halves::<E, K>()
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
        match states {
            Columns::Full(columns) => dispatch::run(Step, x, grad, (self, columns, context)),
            Columns::Halves(columns) => {
                // A constant, so that a loop that never runs is not compiled.
                if const { takes_halves::<E, K>() } {
                    dispatch::run(Step, x, grad, (self, columns, context));
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
        states: Read<'_, E>,
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
    let mut columns: SmallVec<[&[Cell<Elements<E>>]; 4]> = SmallVec::new();
    let mut ends: SmallVec<[&mut [E]; 4]> = SmallVec::new();
    for state in slices.states {
        // Cells, since each row reads and writes columns that all rows share.
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
        let rows = block * ROWS..block * ROWS + x.len();
        let elements = rows.start * ROW..rows.end * ROW;
        let block = &mut buffer[..x.len()];
        let start = context.start + elements.start;
        grad.slice(elements).read(block.as_flattened_mut());
        let context = Context { start, ..context };
        columns.with_rows(rows, |columns| kernel.step_rows(x, block, columns, context));
    }
}

struct Step;

/// Rows of every state vector, of one kind.
trait Rows<'c, E>: Copy {
    /// Those of the row at this place.
    fn at(self, at: usize) -> States<'c, E>;
}

impl<'c, E> Rows<'c, E> for &'c [&'c [Cell<Elements<E>>]] {
    #[inline(always)]
    fn at(self, at: usize) -> States<'c, E> {
        States::Live { columns: self, at }
    }
}

impl<'c, E> Rows<'c, E> for &'c [HalfColumn<'c>] {
    #[inline(always)]
    fn at(self, at: usize) -> States<'c, E> {
        States::Halves { columns: self, at }
    }
}

impl<'c, E: FlatElement, K: Kernel<E>, C: Rows<'c, E>>
    dispatch::Kernel<&mut [Elements<E>], &[Elements<E>], (&K, C, Context<'c, E>)> for Step
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &mut [Elements<E>],
        grad: &[Elements<E>],
        (kernel, columns, context): (&K, C, Context<'c, E>),
    ) {
        for (at, (x, grad)) in x.iter_mut().zip(grad).enumerate() {
            // Parameters are written last: a row that is held back leaves them as they were.
            let mut row = Row::new(*x, *grad, columns.at(at), context);
            if kernel.run(&mut row).is_continue() {
                *x = row.moved();
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
    let filled: SmallVec<[Cell<Elements<E>>; 4]> = filled.collect();
    let columns: SmallVec<[&[Cell<Elements<E>>]; 4]> = filled.iter().map(slice::from_ref).collect();
    kernel.step_rows(&mut moved, &[grad], Columns::Full(&columns), context);
    x.copy_from_slice(&moved[0][..x.len()]);
    for (state, filled) in states.iter_mut().zip(&filled) {
        let changed = &filled.get()[..state.len()];
        // Compared as bits, 0 and −0 are two. A vector that no stage touches is not written, and costs
        // no memory.
        if bytemuck::cast_slice::<E, u8>(changed) != bytemuck::cast_slice::<E, u8>(state) {
            state.copy_from_slice(changed);
        }
    }
}

/// Elements of state vectors that are kept as bf16, with what is drawn for them.
pub(super) type Halves<'v> = (&'v mut [u16], Option<Sequence>);

/// Takes the step where every state vector is kept as bf16.
pub(super) fn step_halves<E: FlatElement>(
    (x, grad): (&mut [E], PartGradient<'_, E>),
    states: &mut [Halves<'_>],
    kernel: &dyn AnyKernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = x.as_chunks_mut();
    let mut columns: SmallVec<[HalfColumn<'_>; 4]> = SmallVec::new();
    let mut ends: SmallVec<[Halves<'_>; 4]> = SmallVec::new();
    for (state, random) in states {
        let (column, end) = state.as_chunks_mut();
        columns.push((Cell::from_mut(column).as_slice_of_cells(), *random));
        ends.push((end, random.map(|random| random.behind(x.len() * ROW))));
    }
    step_rows(x, grad, Columns::Halves(&columns), kernel, context);
    if x_end.is_empty() {
        return;
    }
    // The end is filled up to a row, as that of full vectors is.
    let start = context.start + x.len() * ROW;
    let (mut moved, grad) = ([filled_up(x_end)], [grad.end_row()]);
    let filled = ends.iter().map(|(end, _)| Cell::new(filled_up(end)));
    let filled: SmallVec<[Cell<[u16; ROW]>; 4]> = filled.collect();
    let columns = filled.iter().zip(&ends);
    let columns: SmallVec<[HalfColumn<'_>; 4]> = columns
        .map(|(row, (_, random))| (slice::from_ref(row), *random))
        .collect();
    let context = Context { start, ..context };
    kernel.step_rows(&mut moved, &grad, Columns::Halves(&columns), context);
    x_end.copy_from_slice(&moved[0][..x_end.len()]);
    for ((end, _), filled) in ends.iter_mut().zip(&filled) {
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
    let copies: SmallVec<[Copied<E>; 4]> = states.iter().map(|_| Cell::default()).collect();
    let (x, x_end) = x.as_chunks();
    let (dx, dx_end) = dx.as_chunks_mut();
    let columns = states.iter().map(|state| state.as_chunks().0);
    let columns: SmallVec<[&[Elements<E>]; 4]> = columns.collect();
    kernel.direct_rows(x, dx, (&columns, &copies), context);
    if !x_end.is_empty() {
        let start = context.start + x.len() * ROW;
        let ends = states
            .iter()
            .map(|state| filled_up(state.as_chunks::<ROW>().1));
        let ends: SmallVec<[Elements<E>; 4]> = ends.collect();
        let columns: SmallVec<[&[Elements<E>]; 4]> = ends.iter().map(slice::from_ref).collect();
        let mut direction = [filled_up(dx_end)];
        let context = Context { start, ..context };
        kernel.direct_rows(
            &[filled_up(x_end)],
            &mut direction,
            (&columns, &copies),
            context,
        );
        dx_end.copy_from_slice(&direction[0][..dx_end.len()]);
    }
}

struct Direction;

impl<E: FlatElement, K: Kernel<E>>
    dispatch::Kernel<&[Elements<E>], &mut [Elements<E>], (&K, Read<'_, E>, Context<'_, E>)>
    for Direction
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &[Elements<E>],
        dx: &mut [Elements<E>],
        (kernel, (real, copies), context): (&K, Read<'_, E>, Context<'_, E>),
    ) {
        for (at, (x, dx)) in x.iter().zip(dx).enumerate() {
            // Another stage may read what one has written, so copies last for the row, not longer.
            copies.iter().for_each(|copy| copy.set(None));
            let mut row = Row::new(*x, *dx, States::Copied { real, at, copies }, context);
            // It stops at the norm that is wanted, or runs through; the row has the direction.
            let _ = kernel.run(&mut row);
            *dx = row.dx;
        }
    }
}
