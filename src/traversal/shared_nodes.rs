//! The shared nodes that the validating walk has met: which are open, and what is below each.
//!
//! A node is open while its content is visited. What is found in it is noted for the innermost open
//! node, and handed on to the one around it when it is closed, so that in the end every node knows
//! what is anywhere below it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::layout::NodeId;
use crate::traversal::validated::SharedContent;
use crate::tree::Identity;

#[derive(Default)]
pub(super) struct SharedNodes {
    met: HashMap<Identity, SharedNode>,
    /// Those around what is visited, from the outermost to the innermost.
    open: Vec<OpenNode>,
}

/// A shared node that has been met.
struct SharedNode {
    /// Where it was met first, if the layout has a node there.
    first: Option<NodeId>,
    /// Known once the node has been closed.
    content: Option<SharedContent>,
    has_leaf: bool,
}

/// A shared node that is being visited.
struct OpenNode {
    identity: Identity,
    content: SharedContent,
    /// The number of cells around it.
    cells: usize,
    has_leaf: bool,
    /// Whether it has been visited before, at another place of the same leaves.
    again: bool,
}

/// What is known of a shared node where a handle of it is met.
pub(super) enum Meeting {
    New,
    /// It has been visited before.
    Again {
        first: Option<NodeId>,
        has_leaf: bool,
    },
    /// It is around this handle: it contains itself.
    Cycle {
        first: Option<NodeId>,
    },
}

impl SharedNodes {
    /// Meets a handle at a node of the layout, if there is one.
    pub(super) fn meet(&mut self, identity: &Identity, here: Option<NodeId>) -> Meeting {
        match self.met.entry(identity.clone()) {
            Entry::Vacant(new) => {
                new.insert(SharedNode {
                    first: here,
                    content: None,
                    has_leaf: false,
                });
                Meeting::New
            }
            Entry::Occupied(known) => {
                let known = known.get();
                let first = known.first;
                let has_leaf = known.has_leaf;
                // The content is written down when a node is closed, so without it it is open.
                match known.content {
                    Some(_) => Meeting::Again { first, has_leaf },
                    None => Meeting::Cycle { first },
                }
            }
        }
    }

    /// Begins the visit of a node with so many cells around it; `again` says that it has been
    /// visited at another place of the same leaves.
    pub(super) fn open(&mut self, identity: Identity, cells: usize, again: bool) {
        self.open.push(OpenNode {
            identity,
            content: SharedContent::default(),
            cells,
            has_leaf: false,
            again,
        });
    }

    /// Ends the visit of the innermost node; false if none is open.
    pub(super) fn close(&mut self) -> bool {
        let Some(closed) = self.open.pop() else {
            return false;
        };
        if let Some(around) = self.open.last_mut() {
            let is_in_cell = closed.cells > around.cells;
            around.has_leaf |= closed.has_leaf;
            around.content.include(closed.content, is_in_cell);
        }
        if let Some(node) = self.met.get_mut(&closed.identity) {
            node.content = Some(closed.content);
            node.has_leaf |= closed.has_leaf;
        }
        true
    }

    pub(super) fn is_inside_any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether the innermost node has been visited before, at another place of the same leaves.
    pub(super) fn is_directly_inside_known(&self) -> bool {
        self.open.last().is_some_and(|open| open.again)
    }

    /// Whether any node around has been visited before, at another place of the same leaves.
    pub(super) fn is_inside_known(&self) -> bool {
        self.open.iter().any(|open| open.again)
    }

    /// There is a leaf here, whether it is moved or not.
    #[inline]
    pub(super) fn note_leaf(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.has_leaf = true;
        }
    }

    /// There is a leaf here that is moved, with so many cells around it.
    #[inline]
    pub(super) fn note_moved_leaf(&mut self, cells: usize) {
        if let Some(open) = self.open.last_mut() {
            // Cells that are around the node as well do not guard the leaf from it: whoever is at
            // the node has taken them already.
            let is_guarded = cells > open.cells;
            open.content.has_guarded_leaf |= is_guarded;
            open.content.has_unguarded_leaf |= !is_guarded;
        }
    }

    pub(super) fn note_cell(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.content.has_cell = true;
        }
    }

    /// What is below every node that has been closed.
    pub(super) fn into_contents(self) -> HashMap<Identity, SharedContent> {
        let closed = self
            .met
            .into_iter()
            .filter_map(|(identity, node)| Some((identity, node.content?)));
        closed.collect()
    }
}
