//! Vectors of f32 in fewer bytes: bf16, and 8 bits with a scale for every block.
//!
//! What is stored so is what an optimiser keeps from step to step. It is read into f32, changed a
//! little, and rounded again, thousands of times, so how it is rounded matters more than once: a
//! number that moves by less than half of its last place stays where it is for ever if it is
//! rounded to the nearest. Rounded up or down at random, by how near either is, it is right on
//! average.
//!
//! Random bits come from a counter ([`RandomBits`]) and not from a generator that is drawn from, so
//! that an element's bits depend on where it is and at which step, and on nothing else.

mod bf16;
mod eight_bits;
mod random;

pub use bf16::{narrow, widen};
pub(crate) use bf16::{narrowed_at_random, widened};
pub use eight_bits::{BLOCK, Codes, decode, encode};
pub use random::RandomBits;
pub(crate) use random::{SHARING, Sequence, SequenceRow, multiplied, multiplier};
