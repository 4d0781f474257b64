//! The piece of a step that is in registers: sixteen parameters with their gradient and state, on
//! their way through all stages.
//!
//! A row goes through the whole chain before the next one is read, so a step is one loop over the
//! vectors, bound by memory. (Stage by stage over chunks in the L1 cache, a step of AdamW and a
//! moving average took 1.7–2.3 times as long: each stage waits for its own vectors, and the next
//! one cannot begin to read.)
#![allow(clippy::needless_range_loop)] // indices vectorise better than iterators here

use std::array;
use std::cell::Cell;

use bytemuck::Zeroable;

use super::measure::Measured;
use crate::element::{Dtype, FlatElement};
use crate::ops::compact::{self, Sequence, SequenceRow};

/// Elements of a row: the widest registers hold as many.
pub(super) const ROW: usize = 16;

/// The elements of a row.
pub(super) type Elements<E> = [E; ROW];

/// What is the same for all rows of a part.
#[derive(Clone, Copy)]
pub struct Context<'r, E> {
    pub(super) leaf: usize,
    /// Where in the leaf the slices begin, in elements.
    pub(super) start: usize,
    /// The norms that a piece and those behind it ask for, in the order in which
    /// [`Kernel::scan`](super::Kernel::scan) lists them; those that have not been measured yet are
    /// not there.
    pub(super) measured: &'r [Option<Measured<E>>],
}

impl<'r, E: FlatElement> Context<'r, E> {
    /// With so many of the norms, which leave this one; fewer if there are no more.
    #[inline(always)]
    pub(super) fn take(&mut self, count: usize) -> Self {
        // Taken away in front, so that a piece finds its own at 0, wherever it stands in the chain.
        let (measured, rest) = self.measured.split_at(count.min(self.measured.len()));
        self.measured = rest;
        Context { measured, ..*self }
    }

    /// With these norms, or none at all for what is not to run: nobody's closure is called with the
    /// norms of another option.
    #[inline(always)]
    pub(super) fn only_if(self, condition: bool) -> Self {
        let measured = if condition { self.measured } else { &[] };
        Context { measured, ..self }
    }

    /// The first norms: that of the leaf's parameters and that of the direction, if they have been
    /// measured.
    #[inline(always)]
    pub(super) fn norms(self) -> Option<[f64; 2]> {
        let first = self.measured.first()?.as_ref()?;
        // A global norm is the same for all leaves; which kind it is the norms know themselves.
        Some(first.at(self.leaf))
    }

    /// The direction from the part on, if the leaf's has been changed, which is the first.
    #[inline(always)]
    pub(super) fn direction(self) -> Option<&'r [E]> {
        let first = self.measured.first()?.as_ref()?;
        Some(&first.direction(self.leaf)[self.start..])
    }
}

/// Sixteen consecutive elements on their way through the stages of a rule: the parameters as they
/// are, and the direction that is subtracted from them in the end (at first the gradient).
///
/// The end of a leaf is filled up with zeros, and what becomes of them is dropped.
pub struct Row<E> {
    x: Elements<E>,
    pub(super) dx: Elements<E>,
    /// Which row of the part it is.
    at: usize,
}

impl<E: FlatElement> Row<E> {
    #[inline(always)]
    pub(super) fn new(x: Elements<E>, dx: Elements<E>, at: usize) -> Self {
        Row { x, dx, at }
    }

    /// See [`each`](super::each).
    #[inline(always)]
    pub(super) fn each<const N: usize>(
        &mut self,
        change: &impl Fn(E, E, &mut [E; N]) -> E,
        vectors: &impl Vectors<E, N>,
    ) {
        // Local arrays and plain loops, so that the compiler keeps all of it in registers. States
        // are read before the loop and written behind it: within, every one is a register.
        let (x, mut dx, mut columns) = (self.x, self.dx, vectors.read(self.at));
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
        vectors.write(self.at, columns);
        self.dx = dx;
    }

    /// Multiplies the direction by both factors.
    #[inline(always)]
    pub(super) fn scale(&mut self, [first, second]: [E; 2]) {
        for i in 0..ROW {
            self.dx[i] = self.dx[i] * first * second;
        }
    }

    /// Takes the direction from that of the part, as it has been changed.
    #[inline(always)]
    pub(super) fn replace(&mut self, direction: &[E]) {
        // The direction ends with the leaf, and its last row may be shorter than this one.
        self.dx = filled_up(&direction[self.at * ROW..]);
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

/// The state vectors that a stage sees, of so many rows.
///
/// A stage asks once a part for those that it changes, and not once a row: then their places are in
/// registers, and the compiler knows that a row is within them.
pub trait States<'s, E>: Copy {
    /// Whether their rows can take what is [`seldom`](super::kernel::seldom) asked for.
    const TAKE_WHAT_IS_SELDOM: bool = true;

    /// So many of them.
    type First<const N: usize>: Vectors<E, N>;

    /// The first ones.
    fn first<const N: usize>(self) -> Self::First<N>;

    /// Those of one stage alone.
    fn of_stage(self, start: usize, len: usize) -> Self;

    /// As many rows as the parameters have: said once more in the loop itself, where the compiler
    /// is to know it.
    fn of_rows(self, rows: usize) -> Self;
}

/// State vectors whose rows are read and written together.
pub trait Vectors<E, const N: usize> {
    /// Those of the row at this place.
    fn read(&self, at: usize) -> [Elements<E>; N];

    fn write(&self, at: usize, elements: [Elements<E>; N]);
}

/// The first of some columns, if a stage has as many.
#[inline(always)]
fn first<T: Copy, const N: usize>(columns: &[T]) -> [T; N] {
    let found = columns.len();
    match columns.first_chunk() {
        Some(columns) => *columns,
        None => panic!("`each`: expected a rule with {N} state vectors, found {found}"),
    }
}

/// Vectors of the parameters' own type.
#[derive(Clone, Copy)]
pub(super) struct FullStates<'s, E> {
    pub(super) columns: &'s [&'s [Cell<Elements<E>>]],
    pub(super) rows: usize,
}

impl<'s, E: FlatElement> States<'s, E> for FullStates<'s, E> {
    type First<const N: usize> = [&'s [Cell<Elements<E>>]; N];

    #[inline(always)]
    fn first<const N: usize>(self) -> Self::First<N> {
        // Cut to the rows that there are, which tells the compiler that no row lies beyond.
        let columns: [_; N] = first(self.columns);
        array::from_fn(|k| &columns[k][..self.rows])
    }

    #[inline(always)]
    fn of_stage(self, start: usize, len: usize) -> Self {
        let columns = &self.columns[start..start + len];
        FullStates { columns, ..self }
    }

    #[inline(always)]
    fn of_rows(self, rows: usize) -> Self {
        FullStates { rows, ..self }
    }
}

impl<E: FlatElement, const N: usize> Vectors<E, N> for [&[Cell<Elements<E>>]; N] {
    #[inline(always)]
    fn read(&self, at: usize) -> [Elements<E>; N] {
        let mut elements = [[E::zeroed(); ROW]; N];
        for k in 0..N {
            elements[k] = self[k][at].get();
        }
        elements
    }

    #[inline(always)]
    fn write(&self, at: usize, elements: [Elements<E>; N]) {
        for k in 0..N {
            self[k][at].set(elements[k]);
        }
    }
}

/// Vectors that are kept as bf16, of parameters of f32 only, and what is drawn for them.
///
/// A row is widened and rounded in registers, so memory is read and written in the order in which
/// full vectors are. (By way of a buffer in the L1 cache for 1,024 elements of each vector, a step
/// of AdamW took twice as long; of copies that are rounded when all stages have run, 1.4 times as
/// long as of what is rounded as it is written, which is why kernels whose pieces read what others
/// of them wrote go by the buffer. A choice within a row that is the same for all, as of the way to
/// round or of AMSGrad, costs more than its jump: nothing is moved across it to fill the time in
/// which a root or a quotient is awaited. To round element by element within the loop of a stage was
/// no faster. To ask memory for rows 16 to 24 ahead was 7 hundredths faster in one run in turns and
/// 5 slower in another, on two threads and vectors that fit no cache.)
#[derive(Clone, Copy)]
pub(super) struct HalfStates<'s> {
    pub(super) columns: &'s [&'s [Cell<[u16; ROW]>]],
    pub(super) rows: usize,
    /// What is drawn for all of the vectors.
    pub(super) random: Sequence,
    /// Which of all vectors the first is.
    pub(super) state: usize,
}

/// Some of the vectors of [`HalfStates`].
pub(super) struct HalfVectors<'s, const N: usize> {
    columns: [&'s [Cell<[u16; ROW]>]; N],
    random: SequenceRow<ROW>,
    /// What makes each vector's bits of those that all share.
    multipliers: [u32; N],
}

impl<'s, E: FlatElement> States<'s, E> for HalfStates<'s> {
    const TAKE_WHAT_IS_SELDOM: bool = false;

    type First<const N: usize> = HalfVectors<'s, N>;

    #[inline(always)]
    fn first<const N: usize>(self) -> HalfVectors<'s, N> {
        let columns: [_; N] = first(self.columns);
        HalfVectors {
            columns: array::from_fn(|k| &columns[k][..self.rows]),
            // The bits of a first row are made here, and each row adds its place to them: made anew
            // in every row, the first of its elements was one for itself, and all left registers.
            random: self.random.row(),
            multipliers: array::from_fn(|k| compact::multiplier(self.state + k)),
        }
    }

    #[inline(always)]
    fn of_stage(self, start: usize, len: usize) -> Self {
        HalfStates {
            columns: &self.columns[start..start + len],
            state: self.state + start,
            ..self
        }
    }

    #[inline(always)]
    fn of_rows(self, rows: usize) -> Self {
        HalfStates { rows, ..self }
    }
}

impl<E: FlatElement, const N: usize> Vectors<E, N> for HalfVectors<'_, N> {
    #[inline(always)]
    fn read(&self, at: usize) -> [Elements<E>; N] {
        let mut elements = [[E::zeroed(); ROW]; N];
        for k in 0..N {
            elements[k] = from_f32(compact::widened(self.columns[k][at].get()));
        }
        elements
    }

    #[inline(always)]
    fn write(&self, at: usize, elements: [Elements<E>; N]) {
        // Mixed once for all vectors.
        let mixed = self.random.mixed(at * ROW);
        for k in 0..N {
            let bits = compact::multiplied(mixed, self.multipliers[k]);
            let elements = to_f32(elements[k]);
            self.columns[k][at].set(compact::narrowed_at_random(elements, bits));
        }
    }
}

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

/// The rows of a vector that is only read, with a place for what stages make of one.
pub(super) type WithCopy<'s, E> = (&'s [Elements<E>], Copied<E>);

/// Vectors that are only read, with a place for what stages make of a row of each: they write to
/// copies.
#[derive(Clone, Copy)]
pub(super) struct CopiedStates<'s, E> {
    pub(super) columns: &'s [WithCopy<'s, E>],
    pub(super) rows: usize,
}

impl<'s, E: FlatElement> States<'s, E> for CopiedStates<'s, E> {
    type First<const N: usize> = [(&'s [Elements<E>], &'s Copied<E>); N];

    #[inline(always)]
    fn first<const N: usize>(self) -> Self::First<N> {
        assert!(N <= self.columns.len());
        array::from_fn(|k| {
            let (real, copy) = &self.columns[k];
            (&real[..self.rows], copy)
        })
    }

    #[inline(always)]
    fn of_stage(self, start: usize, len: usize) -> Self {
        let columns = &self.columns[start..start + len];
        CopiedStates { columns, ..self }
    }

    #[inline(always)]
    fn of_rows(self, rows: usize) -> Self {
        CopiedStates { rows, ..self }
    }
}

impl<E: FlatElement, const N: usize> Vectors<E, N> for [(&[Elements<E>], &Copied<E>); N] {
    /// A piece of a kernel reads what the pieces before it wrote.
    #[inline(always)]
    fn read(&self, at: usize) -> [Elements<E>; N] {
        let mut elements = [[E::zeroed(); ROW]; N];
        for k in 0..N {
            let (real, copy) = self[k];
            elements[k] = copy.get().unwrap_or_else(|| real[at]);
        }
        elements
    }

    #[inline(always)]
    fn write(&self, _at: usize, elements: [Elements<E>; N]) {
        for k in 0..N {
            self[k].1.set(Some(elements[k]));
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
