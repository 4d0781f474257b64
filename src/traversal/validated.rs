//! What the validating walk found out about a tree, for the walk that writes it or makes a new one.

use std::collections::{HashMap, HashSet};

use crate::tree::Identity;

/// A tree that agrees with its layout, and what a second walk over it has to know.
#[derive(Default)]
pub(crate) struct Validated {
    /// What is below its shared nodes.
    pub(super) shared: HashMap<Identity, SharedContent>,
    /// Trainable leaves whose elements are not in row-major order.
    pub(super) strided: HashSet<u32>,
}

/// What is below a node that several handles share: it decides whether the node is kept, written
/// through its cells, or replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SharedContent {
    /// A leaf that is moved, outside of any cell within the node. One without elements does not
    /// count: it may be trainable at one place of the node and frozen at another.
    pub(crate) has_unguarded_leaf: bool,
    /// A leaf that is moved, in a cell within the node.
    pub(crate) has_guarded_leaf: bool,
    pub(crate) has_cell: bool,
}

impl Validated {
    pub(crate) fn content_of(&self, identity: &Identity) -> Option<SharedContent> {
        self.shared.get(identity).copied()
    }

    pub(crate) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    pub(crate) fn is_strided(&self, leaf: usize) -> bool {
        self.strided.contains(&(leaf as u32))
    }
}

impl SharedContent {
    /// Nothing in it is moved and nothing can change.
    pub(crate) fn is_constant(self) -> bool {
        !self.has_unguarded_leaf && !self.has_guarded_leaf && !self.has_cell
    }

    /// Whether all that is moved in it is in cells, so that the node itself can stay.
    pub(crate) fn is_written_through_cells(self) -> bool {
        self.has_guarded_leaf && !self.has_unguarded_leaf
    }

    /// Takes in what an inner shared node holds; `in_cell` says whether a cell is between the two.
    pub(super) fn include(&mut self, inner: SharedContent, in_cell: bool) {
        self.has_cell |= inner.has_cell || in_cell;
        self.has_unguarded_leaf |= inner.has_unguarded_leaf && !in_cell;
        // What is free of cells in the inner node is guarded by the one around it.
        let is_guarded_here = inner.has_unguarded_leaf && in_cell;
        self.has_guarded_leaf |= inner.has_guarded_leaf || is_guarded_here;
    }
}
