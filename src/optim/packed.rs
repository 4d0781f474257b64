//! State vectors in fewer bytes: as they are kept, and some elements of one that are read into f32
//! and rounded back.
//!
//! The blocks of a vector of 8 bits are counted from the start of every leaf, so that a leaf's state
//! depends on no other leaf, and on no thread: pieces of a step begin at multiples of 8,192 elements
//! of a leaf, and members of a run cut leaves at multiples of 32,768. A leaf's last block ends with
//! it, so where a leaf's scales begin is looked up.

use std::ops::Range;

use super::storage::Rounding;
use crate::error::Result;
#[cfg(feature = "safetensors")]
use crate::layout::{Layout, Leaf};
use crate::memory;
use crate::ops::compact::{self, BLOCK, Codes, RandomBits};

/// In what a state vector is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Full,
    Bf16,
    EightBits(Codes),
}

/// A state vector in fewer bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PackedVector {
    Bf16(Vec<u16>),
    EightBits {
        codes: Vec<u8>,
        /// One of each block, leaf by leaf.
        scales: Vec<f32>,
        kind: Codes,
    },
}

impl PackedVector {
    /// Of zeros; `None` of a vector that is kept full.
    pub(super) fn try_zeroed(form: Form, len: usize, blocks: usize) -> Result<Option<Self>> {
        Ok(match form {
            Form::Full => None,
            Form::Bf16 => Some(PackedVector::Bf16(memory::try_zeroed(len)?)),
            Form::EightBits(kind) => Some(PackedVector::EightBits {
                codes: memory::try_zeroed(len)?,
                scales: memory::try_zeroed(blocks)?,
                kind,
            }),
        })
    }

    pub(super) fn form(&self) -> Form {
        match self {
            PackedVector::Bf16(_) => Form::Bf16,
            PackedVector::EightBits { kind, .. } => Form::EightBits(*kind),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            PackedVector::Bf16(halves) => halves.len(),
            PackedVector::EightBits { codes, .. } => codes.len(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            PackedVector::Bf16(halves) => size_of_val(&halves[..]),
            PackedVector::EightBits { codes, scales, .. } => {
                size_of_val(&codes[..]) + size_of_val(&scales[..])
            }
        }
    }

    /// How many scales there are; of a vector that has none as many as there should be.
    pub(super) fn has_scales(&self, blocks: usize) -> bool {
        match self {
            PackedVector::Bf16(_) => true,
            PackedVector::EightBits { scales, .. } => scales.len() == blocks,
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        match self {
            PackedVector::Bf16(halves) => halves.iter().all(|half| *half == 0),
            PackedVector::EightBits { scales, .. } => scales.iter().all(|x| x.to_bits() == 0),
        }
    }

    /// Elements from the start of a block on, and which block of the vector that is.
    pub(super) fn part(&self, elements: Range<usize>, first_block: usize) -> Packed<'_> {
        match self {
            PackedVector::Bf16(halves) => Packed::Bf16(&halves[elements]),
            PackedVector::EightBits {
                codes,
                scales,
                kind,
            } => {
                let blocks = elements.len().div_ceil(BLOCK);
                Packed::EightBits {
                    scales: &scales[first_block..][..blocks],
                    codes: &codes[elements],
                    kind: *kind,
                }
            }
        }
    }

    pub(super) fn part_mut(&mut self, elements: Range<usize>, first_block: usize) -> PackedMut<'_> {
        match self {
            PackedVector::Bf16(halves) => PackedMut::Bf16(&mut halves[elements]),
            PackedVector::EightBits {
                codes,
                scales,
                kind,
            } => {
                let blocks = elements.len().div_ceil(BLOCK);
                PackedMut::EightBits {
                    scales: &mut scales[first_block..][..blocks],
                    codes: &mut codes[elements],
                    kind: *kind,
                }
            }
        }
    }

    /// All elements, of all leaves.
    pub(super) fn all_mut(&mut self) -> PackedMut<'_> {
        match self {
            PackedVector::Bf16(halves) => PackedMut::Bf16(halves),
            PackedVector::EightBits {
                codes,
                scales,
                kind,
            } => PackedMut::EightBits {
                codes,
                scales,
                kind: *kind,
            },
        }
    }
}

/// Elements that follow each other; of codes from the start of a block on.
#[derive(Clone, Copy)]
pub(super) enum Packed<'s> {
    Bf16(&'s [u16]),
    EightBits {
        codes: &'s [u8],
        scales: &'s [f32],
        kind: Codes,
    },
}

/// Elements that are to be written.
pub(super) enum PackedMut<'s> {
    Bf16(&'s mut [u16]),
    EightBits {
        codes: &'s mut [u8],
        scales: &'s mut [f32],
        kind: Codes,
    },
}

impl Packed<'_> {
    /// Reads elements from a place on, which is a multiple of 256.
    pub(super) fn read(self, start: usize, to: &mut [f32]) {
        let range = start..start + to.len();
        match self {
            Packed::Bf16(halves) => compact::widen(&halves[range], to),
            Packed::EightBits {
                codes,
                scales,
                kind,
            } => {
                let scales = &scales[blocks_of(&range)];
                compact::decode((&codes[range], scales), kind, to)
            }
        }
    }

    /// Whether elements from a place on are these, to the bit. Most often the first are others.
    fn holds(self, start: usize, elements: &[f32]) -> bool {
        let mut buffer = [0.0; BLOCK];
        let places = (start..).step_by(BLOCK);
        places.zip(elements.chunks(BLOCK)).all(|(start, elements)| {
            let own = &mut buffer[..elements.len()];
            self.read(start, own);
            bytemuck::cast_slice::<f32, u32>(own) == bytemuck::cast_slice::<f32, u32>(elements)
        })
    }
}

/// What is drawn for elements that are rounded at random, of which the first has this index.
pub(super) type Random = Option<(RandomBits, u64)>;

impl<'s> PackedMut<'s> {
    pub(super) fn as_ref(&self) -> Packed<'_> {
        match self {
            PackedMut::Bf16(halves) => Packed::Bf16(halves),
            PackedMut::EightBits {
                codes,
                scales,
                kind,
            } => Packed::EightBits {
                codes,
                scales,
                kind: *kind,
            },
        }
    }

    pub(super) fn reborrow(&mut self) -> PackedMut<'_> {
        match self {
            PackedMut::Bf16(halves) => PackedMut::Bf16(halves),
            PackedMut::EightBits {
                codes,
                scales,
                kind,
            } => PackedMut::EightBits {
                codes,
                scales,
                kind: *kind,
            },
        }
    }

    /// Writes elements from a place on, which is a multiple of 256, unless they are there already: a
    /// vector that no stage touches costs no memory, and is not rounded again.
    pub(super) fn write(&mut self, start: usize, from: &[f32], random: Random) {
        if self.as_ref().holds(start, from) {
            return;
        }
        let range = start..start + from.len();
        match self {
            PackedMut::Bf16(halves) => compact::narrow(from, &mut halves[range], random),
            PackedMut::EightBits {
                codes,
                scales,
                kind,
            } => {
                let scales = &mut scales[blocks_of(&range)];
                compact::encode(from, *kind, (&mut codes[range], scales), random);
            }
        }
    }

    pub(super) fn fill_zero(self) {
        match self {
            PackedMut::Bf16(halves) => halves.fill(0),
            PackedMut::EightBits { codes, scales, .. } => {
                codes.fill(0);
                scales.fill(0.0);
            }
        }
    }

    /// Takes over what is kept in one form, or rounds what is kept in another to the nearest.
    pub(super) fn copy(mut self, from: Packed<'_>) {
        match (&mut self, from) {
            (PackedMut::Bf16(to), Packed::Bf16(from)) => to.copy_from_slice(from),
            (
                PackedMut::EightBits {
                    codes,
                    scales,
                    kind,
                },
                Packed::EightBits {
                    codes: from_codes,
                    scales: from_scales,
                    kind: from_kind,
                },
            ) if *kind == from_kind => {
                codes.copy_from_slice(from_codes);
                scales.copy_from_slice(from_scales);
            }
            (_, from) => {
                let len = self.as_ref().len();
                let mut buffer = [0.0; BLOCK];
                for start in (0..len).step_by(BLOCK) {
                    let block = &mut buffer[..BLOCK.min(len - start)];
                    from.read(start, block);
                    self.write(start, block, None);
                }
            }
        }
    }

    /// The first elements, which leave; whole blocks, or all that a leaf has left.
    pub(super) fn split_off(&mut self, len: usize) -> PackedMut<'s> {
        const LONG_ENOUGH: &str = "as long as the flat vector";
        match self {
            PackedMut::Bf16(halves) => {
                PackedMut::Bf16(halves.split_off_mut(..len).expect(LONG_ENOUGH))
            }
            PackedMut::EightBits {
                codes,
                scales,
                kind,
            } => PackedMut::EightBits {
                codes: codes.split_off_mut(..len).expect(LONG_ENOUGH),
                scales: scales
                    .split_off_mut(..len.div_ceil(BLOCK))
                    .expect(LONG_ENOUGH),
                kind: *kind,
            },
        }
    }

    /// Leaves out elements, and scales, that belong to leaves which do not move.
    pub(super) fn pass(&mut self, elements: usize, blocks: usize) {
        match self {
            PackedMut::Bf16(halves) => drop(halves.split_off_mut(..elements)),
            PackedMut::EightBits { codes, scales, .. } => {
                let _ = codes.split_off_mut(..elements);
                let _ = scales.split_off_mut(..blocks);
            }
        }
    }
}

impl Packed<'_> {
    fn len(self) -> usize {
        match self {
            Packed::Bf16(halves) => halves.len(),
            Packed::EightBits { codes, .. } => codes.len(),
        }
    }
}

/// The blocks of elements that begin where a block does.
fn blocks_of(elements: &Range<usize>) -> Range<usize> {
    debug_assert!(elements.start.is_multiple_of(BLOCK));
    elements.start / BLOCK..elements.end.div_ceil(BLOCK)
}

/// How the random bits of a state vector at a step are made.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub(super) rounding: Rounding,
    pub(super) step: u64,
    /// Which of the state vectors.
    pub(super) state: usize,
}

impl Draw {
    /// What is drawn for elements that begin there in the flat vector.
    pub(super) fn from(self, first: usize) -> Random {
        let Rounding::Stochastic { seed } = self.rounding else {
            return None;
        };
        let bits = RandomBits::new(seed, self.step, self.state as u64);
        Some((bits, first as u64))
    }
}

/// Where the elements of every leaf, and its blocks, begin among those of a vector.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockStarts {
    /// One more than there are leaves; none where no vector has blocks.
    starts: Vec<Start>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Start {
    element: usize,
    block: usize,
}

impl BlockStarts {
    /// Of leaves of so many elements each. Lengths that were read may say anything: what is beyond
    /// any memory fits no vector.
    pub(super) fn of(lens: impl Iterator<Item = usize>) -> Self {
        let ends = lens.scan(Start::default(), |end, len| {
            *end = Start {
                element: end.element.saturating_add(len),
                block: end.block.saturating_add(len.div_ceil(BLOCK)),
            };
            Some(*end)
        });
        BlockStarts {
            starts: std::iter::once(Start::default()).chain(ends).collect(),
        }
    }

    /// The first block of a leaf's elements from a place on, which is a multiple of 256.
    pub(super) fn start(&self, leaf: usize, place: usize) -> usize {
        match self.starts.get(leaf) {
            Some(start) => start.block + place / BLOCK,
            None => 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.starts.last().map_or(0, |end| end.block)
    }

    /// All elements of every leaf.
    #[cfg(feature = "serde")]
    pub(super) fn leaves(&self) -> impl Iterator<Item = OfLeaf> {
        let leaves = self.starts.windows(2).enumerate();
        leaves.map(|(leaf, ends)| OfLeaf {
            leaf,
            place: 0,
            range: ends[0].element..ends[1].element,
        })
    }
}

/// How many blocks there are before an element of a layout's flat vector, at which one begins or the
/// vector ends.
#[cfg(feature = "safetensors")]
pub(crate) fn blocks_before(layout: &Layout, offset: usize) -> usize {
    let before = |leaf: &Leaf| {
        let range = leaf.range();
        (offset.clamp(range.start, range.end) - range.start).div_ceil(BLOCK)
    };
    layout.leaves().iter().map(before).sum()
}

/// Elements of a leaf: where they are in the vectors, and from which place in what is kept of the
/// leaf, a multiple of 256.
#[derive(Clone, Debug)]
pub(super) struct OfLeaf {
    pub(super) leaf: usize,
    pub(super) place: usize,
    pub(super) range: Range<usize>,
}
