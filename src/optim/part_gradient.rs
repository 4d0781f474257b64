//! The gradient of a part as it came: a slice, or elements that are made a few at a time.
//!
//! A gradient may be of another type than the vector, bf16 beside f32, or that of a loss that was
//! multiplied so that small numbers do not vanish. To convert it first takes a vector of its own,
//! which is written once and read once more: eight bytes an element beside the 28 of a step of AdamW.
//! So each loop that reads it has the next block of it made into a buffer, which stays in the L1 cache:
//!
//! ```text
//! bf16 in memory:  …  0x3f80 0x4000 0x4040  …           2 bytes an element
//! buffer:             1.0    2.0    3.0                  widened, 1,024 at a time,
//!                     0.25   0.5    0.75                 and multiplied with 1/4 if the loss was with 4
//! ```
//!
//! Rules see rows of the vector's own type, and are not compiled again for other ones. The bits are
//! those of a step by the converted vector.

use std::borrow::Cow;
use std::ops::Range;

use super::row::{Elements, ROW};
use crate::element::FlatElement;
use crate::ops;
use crate::slices::{self, Floats, FloatsMut};

/// Elements that are made together: whole rows, in the L1 cache beside those of the parameters and
/// states.
pub(super) const GRADIENT_BLOCK: usize = 1 << 10;

/// A gradient, or a range of it, with what its elements are to be multiplied with.
#[derive(Clone, Copy)]
pub(super) struct PartGradient<'g, E> {
    source: Source<'g, E>,
    factor: Option<E>,
}

#[derive(Clone, Copy)]
enum Source<'g, E> {
    Elements(&'g [E]),
    OtherType(Floats<'g>),
}

impl<'g, E: FlatElement> PartGradient<'g, E> {
    pub(super) fn of(elements: &'g [E]) -> Self {
        PartGradient {
            source: Source::Elements(elements),
            factor: None,
        }
    }

    pub(super) fn of_floats(floats: Floats<'g>) -> Self {
        let source = match floats.typed() {
            Some(elements) => Source::Elements(elements),
            None => Source::OtherType(floats),
        };
        PartGradient {
            source,
            factor: None,
        }
    }

    /// Each element is multiplied with this when it is read.
    pub(super) fn times(self, factor: Option<E>) -> Self {
        PartGradient { factor, ..self }
    }

    /// Each element is read as it came.
    pub(super) fn undivided(self) -> Self {
        self.times(None)
    }

    /// The elements as they are, if nothing has to be done to them.
    #[inline]
    pub(super) fn elements(self) -> Option<&'g [E]> {
        match self {
            PartGradient {
                source: Source::Elements(elements),
                factor: None,
            } => Some(elements),
            _ => None,
        }
    }

    pub(super) fn len(self) -> usize {
        match self.source {
            Source::Elements(elements) => elements.len(),
            Source::OtherType(floats) => floats.len(),
        }
    }

    #[inline]
    pub(super) fn slice(self, range: Range<usize>) -> Self {
        let source = match self.source {
            Source::Elements(elements) => Source::Elements(&elements[range]),
            Source::OtherType(floats) => Source::OtherType(floats.slice(range)),
        };
        PartGradient { source, ..self }
    }

    /// Makes the elements, as many as there is room for.
    pub(super) fn read(self, to: &mut [E]) {
        match self.source {
            Source::Elements(elements) => to.copy_from_slice(elements),
            Source::OtherType(floats) => slices::copy(floats, FloatsMut::of(to)),
        }
        if let Some(factor) = self.factor {
            ops::scale(to, factor);
        }
    }

    /// The last elements, fewer than a row, as a row that is filled up with zeros.
    pub(super) fn end_row(self) -> Elements<E> {
        let len = self.len();
        let end = self.slice(len / ROW * ROW..len);
        let mut row = [E::zeroed(); ROW];
        end.read(&mut row[..end.len()]);
        row
    }

    /// All elements at once, with a copy where they have to be made.
    pub(super) fn all(self) -> Cow<'g, [E]> {
        if let Some(elements) = self.elements() {
            return Cow::Borrowed(elements);
        }
        let mut elements = vec![E::zeroed(); self.len()];
        self.read(&mut elements);
        Cow::Owned(elements)
    }
}
