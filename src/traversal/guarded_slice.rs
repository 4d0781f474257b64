//! A leaf under a guard, as one for the length of a call.
//!
//! The slice of such a leaf lives no longer than the guard, and a walk over the whole tree collects
//! slices that live as long as the tree. So it is shown the slice as a writer: it can be written
//! now and cannot be kept.

use crate::element::{Dtype, Sink, WriteBytes};
use crate::error::Result;
use crate::tree::LeafMut;

/// Calls `write` with the leaf as one that is written through a writer.
pub(super) fn as_writer<'a>(
    leaf: LeafMut<'_, '_>,
    write: impl FnOnce(LeafMut<'_, 'a>) -> Result<()>,
) -> Result<()> {
    let LeafMut { dtype, shape, sink } = leaf;
    let mut of_bytes;
    let mut of_booleans;
    let writer: &mut dyn WriteBytes = match sink {
        Sink::Bytes(bytes) => {
            of_bytes = GuardedSlice(bytes);
            &mut of_bytes
        }
        Sink::Booleans(elements) => {
            of_booleans = GuardedSlice(elements);
            &mut of_booleans
        }
        Sink::Writer(writer) => writer,
    };
    let sink = Sink::Writer(writer);
    write(LeafMut { dtype, shape, sink })
}

struct GuardedSlice<'s, E>(&'s mut [E]);

impl WriteBytes for GuardedSlice<'_, u8> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        let leaf = LeafMut {
            dtype: Dtype::U8,
            shape: &[],
            sink: Sink::Bytes(self.0),
        };
        leaf.write_bytes(values)
    }
}

impl WriteBytes for GuardedSlice<'_, bool> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        let leaf = LeafMut {
            dtype: Dtype::Bool,
            shape: &[],
            sink: Sink::Booleans(self.0),
        };
        leaf.write_bytes(values)
    }
}
