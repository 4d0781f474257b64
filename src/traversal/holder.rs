//! Which object holds the gradient at a place, so that one object at two places can be told from
//! two equal ones.

use std::mem::size_of_val;

use crate::tree::{Guarded, Identity, LeafRef};

/// The object that holds a leaf of a gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The leaf of this number within the innermost cell or lock around it.
    Cell { cell: CellId, number: u32 },
    /// Memory outside of any cell.
    Memory { address: usize, strides: Vec<isize> },
    /// A leaf with an identity, outside of any cell.
    Identity(Identity),
    /// Nothing is known that could be compared.
    Unknown,
}

/// A cell, which lives as long as the tree is borrowed. The size is there because a cell may begin
/// with another one, at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellId {
    address: usize,
    size: usize,
}

impl CellId {
    pub(crate) fn of(cell: &dyn Guarded) -> Self {
        CellId {
            address: std::ptr::from_ref(cell).cast::<()>() as usize,
            size: size_of_val(cell),
        }
    }
}

/// The cells around the leaf that a walk is at, from the outermost to the innermost.
#[derive(Default)]
pub(crate) struct OpenCells(Vec<OpenCell>);

struct OpenCell {
    id: CellId,
    /// How many leaves have been met in it, but not in a cell within it.
    leaves: u32,
}

impl OpenCells {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn enter(&mut self, id: CellId) {
        self.0.push(OpenCell { id, leaves: 0 });
    }

    pub(crate) fn leave(&mut self) {
        self.0.pop();
    }

    /// A leaf has been met. A tree answers twice alike, so the number of a leaf in its cell is the
    /// same at every place of the cell.
    #[inline]
    pub(crate) fn count_leaf(&mut self) {
        if let Some(cell) = self.0.last_mut() {
            cell.leaves += 1;
        }
    }

    /// The object that holds the leaf that has been counted last.
    pub(crate) fn holder_of(&self, leaf: &LeafRef<'_, '_>) -> Holder {
        if let Some(cell) = self.0.last() {
            return Holder::Cell {
                cell: cell.id,
                number: cell.leaves,
            };
        }
        if let Some(identity) = leaf.identity {
            return Holder::Identity(identity.clone());
        }
        match leaf.geometry() {
            Some((address, strides)) => Holder::Memory { address, strides },
            None => Holder::Unknown,
        }
    }
}
