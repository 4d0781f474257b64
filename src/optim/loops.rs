//! Loops of a kernel over slices: the step itself, and the direction at a norm in the middle of a
//! chain, which is found without writing anything.

use std::cell::Cell;
use std::slice;

use smallvec::SmallVec;

use super::kernel::Kernel;
use super::row::{Context, Copied, Elements, HalfColumn, ROW, Row, States, filled_up};
use crate::element::FlatElement;
use crate::ops::compact::Sequence;
use crate::ops::dispatch;

/// Elements that are at the same step, with their slices of the state vectors.
pub(super) struct Slices<'v, 's, E> {
    pub(super) x: &'s mut [E],
    pub(super) grad: &'s [E],
    pub(super) states: &'s mut [&'v mut [E]],
}

/// Takes the step: all stages, row by row. The last elements of a part, fewer than a row, go through
/// the stages as a row that is filled up with zeros.
pub(super) fn step<E: FlatElement>(
    slices: Slices<'_, '_, E>,
    kernel: &impl Kernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = slices.x.as_chunks_mut();
    let (grad, grad_end) = slices.grad.as_chunks();
    let mut columns: SmallVec<[&[Cell<Elements<E>>]; 4]> = SmallVec::new();
    let mut ends: SmallVec<[&mut [E]; 4]> = SmallVec::new();
    for state in slices.states {
        // Cells, since each row reads and writes columns that all rows share.
        let (column, end) = state.as_chunks_mut();
        columns.push(Cell::from_mut(column).as_slice_of_cells());
        ends.push(end);
    }
    dispatch::run(Step, x, grad, (kernel, &columns[..], context));
    if !x_end.is_empty() {
        let start = context.start + x.len() * ROW;
        step_end(
            Slices {
                x: x_end,
                grad: grad_end,
                states: &mut ends,
            },
            kernel,
            Context { start, ..context },
        );
    }
}

struct Step;

/// The rows of every state vector.
trait Columns<'c, E>: Copy {
    /// Those of the row at this place.
    fn at(self, at: usize) -> States<'c, E>;
}

impl<'c, E> Columns<'c, E> for &'c [&'c [Cell<Elements<E>>]] {
    #[inline(always)]
    fn at(self, at: usize) -> States<'c, E> {
        States::Live { columns: self, at }
    }
}

impl<'c, E> Columns<'c, E> for &'c [HalfColumn<'c>] {
    #[inline(always)]
    fn at(self, at: usize) -> States<'c, E> {
        States::Halves { columns: self, at }
    }
}

impl<'c, E: FlatElement, K: Kernel<E>, C: Columns<'c, E>>
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
    slices: Slices<'_, '_, E>,
    kernel: &impl Kernel<E>,
    context: Context<'_, E>,
) {
    let Slices { x, grad, states } = slices;
    let (mut moved, grad) = ([filled_up(x)], [filled_up(grad)]);
    let filled = states.iter().map(|state| Cell::new(filled_up(state)));
    let filled: SmallVec<[Cell<Elements<E>>; 4]> = filled.collect();
    let columns: SmallVec<[&[Cell<Elements<E>>]; 4]> = filled.iter().map(slice::from_ref).collect();
    dispatch::run(Step, &mut moved, &grad, (kernel, &columns[..], context));
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
    (x, grad): (&mut [E], &[E]),
    states: &mut [Halves<'_>],
    kernel: &impl Kernel<E>,
    context: Context<'_, E>,
) {
    let (x, x_end) = x.as_chunks_mut();
    let (grad, grad_end) = grad.as_chunks();
    let mut columns: SmallVec<[HalfColumn<'_>; 4]> = SmallVec::new();
    let mut ends: SmallVec<[Halves<'_>; 4]> = SmallVec::new();
    for (state, random) in states {
        let (column, end) = state.as_chunks_mut();
        columns.push((Cell::from_mut(column).as_slice_of_cells(), *random));
        ends.push((end, random.map(|random| random.behind(x.len() * ROW))));
    }
    dispatch::run(Step, x, grad, (kernel, &columns[..], context));
    if x_end.is_empty() {
        return;
    }
    // The end is filled up to a row, as that of full vectors is.
    let start = context.start + x.len() * ROW;
    let (mut moved, grad) = ([filled_up(x_end)], [filled_up(grad_end)]);
    let filled = ends.iter().map(|(end, _)| {
        let mut row = [0; ROW];
        row[..end.len()].copy_from_slice(end);
        Cell::new(row)
    });
    let filled: SmallVec<[Cell<[u16; ROW]>; 4]> = filled.collect();
    let columns = filled.iter().zip(&ends);
    let columns: SmallVec<[HalfColumn<'_>; 4]> = columns
        .map(|(row, (_, random))| (slice::from_ref(row), *random))
        .collect();
    let context = Context { start, ..context };
    dispatch::run(Step, &mut moved, &grad, (kernel, &columns[..], context));
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
/// neither parameters nor states: `dx`, the gradient at first, becomes the direction there.
pub(super) fn direction<E: FlatElement>(
    x: &[E],
    dx: &mut [E],
    states: &[&[E]],
    kernel: &impl Kernel<E>,
    context: Context<'_, E>,
) {
    let copies: SmallVec<[Copied<E>; 4]> = states.iter().map(|_| Cell::default()).collect();
    dispatch::run(Direction, x, dx, (kernel, states, &copies[..], context));
}

struct Direction;

impl<E: FlatElement, K: Kernel<E>>
    dispatch::Kernel<&[E], &mut [E], (&K, &[&[E]], &[Copied<E>], Context<'_, E>)> for Direction
{
    type Output = ();

    #[inline(always)]
    fn run(
        x: &[E],
        dx: &mut [E],
        (kernel, real, copies, context): (&K, &[&[E]], &[Copied<E>], Context<'_, E>),
    ) {
        for at in (0..x.len()).step_by(ROW) {
            // Another stage may read what one has written, so copies last for the row, not longer.
            copies.iter().for_each(|copy| copy.set(None));
            let mut row = Row::new(
                filled_up(&x[at..]),
                filled_up(&dx[at..]),
                States::Copied { real, at, copies },
                context,
            );
            // It stops at the norm that is wanted, or runs through; the row has the direction.
            let _ = kernel.run(&mut row);
            match dx[at..].first_chunk_mut() {
                Some(dx) => *dx = row.dx,
                None => dx[at..].copy_from_slice(&row.dx[..x.len() - at]),
            }
        }
    }
}
