//! Where a walk over a tree stands in the paths of a layout.

use super::paths::{Node, NodeId, NodeKind, Paths, ROOT};
use crate::error::{Error, Result};
use crate::tree::Key;
use crate::tree::key::push_segment;
use crate::tree::stack::MAX_LEVELS;

/// Follows a walk, one segment at a time: through the layout's nodes where it knows them, by name
/// where it does not.
pub(crate) struct Cursor<'l> {
    paths: &'l Paths,
    nodes: &'l [Node],
    node: NodeId,
    /// The child that should come next.
    next: NodeId,
    kind: NodeKind,
    levels: usize,
    /// The keys below `node` that the layout has not got.
    unknown: Vec<String>,
}

impl<'l> Cursor<'l> {
    pub(crate) fn new(paths: &'l Paths) -> Self {
        let nodes = paths.nodes();
        Cursor {
            paths,
            nodes,
            node: ROOT,
            next: ROOT + 1,
            kind: nodes[0].kind,
            levels: 0,
            unknown: Vec::new(),
        }
    }

    /// Goes down to a child; its level.
    #[inline]
    pub(crate) fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.levels += 1;
        // Most trees come in the layout's order: then this one comparison is all.
        if let Some(next) = self.nodes.get(self.next as usize)
            && next.parent == self.node
            && self.unknown.is_empty()
            && self.levels <= MAX_LEVELS
            && self.paths.has_key(next, key)
        {
            (self.node, self.next, self.kind) = (self.next, self.next + 1, next.kind);
            return Ok(self.levels);
        }
        self.enter_elsewhere(key)
    }

    /// The place of the child that should come next, if it has this key and is a leaf.
    #[inline]
    pub(crate) fn next_leaf(&self, key: Key<'_>) -> Option<u32> {
        let next = self.nodes.get(self.next as usize)?;
        let expected = next.parent == self.node
            && self.unknown.is_empty()
            && self.levels < MAX_LEVELS
            && self.paths.has_key(next, key);
        match next.kind {
            NodeKind::Place(place) if expected => Some(place),
            _ => None,
        }
    }

    /// Passes by the leaf that [`next_leaf`](Self::next_leaf) found.
    #[inline]
    pub(crate) fn pass_leaf(&mut self) {
        self.next += 1;
        self.kind = NodeKind::Branch;
    }

    #[cold]
    #[inline(never)]
    fn enter_elsewhere(&mut self, key: Key<'_>) -> Result<usize> {
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        if key == Key::Same {
            return Ok(self.levels);
        }
        // Below what the layout has not got it has nothing, whatever is called like it elsewhere.
        let found = if self.unknown.is_empty() {
            self.paths.find_child(self.node, key, self.next)
        } else {
            None
        };
        match found {
            Some(node) => self.stand_at(node),
            None => self.enter_unknown(key),
        }
        Ok(self.levels)
    }

    #[cold]
    fn enter_unknown(&mut self, key: Key<'_>) {
        let mut segment = String::new();
        push_segment(&mut segment, key.canonical());
        self.unknown.push(segment);
    }

    #[inline]
    pub(crate) fn leave(&mut self, key: Key<'_>) {
        self.levels -= 1;
        if matches!(key, Key::Same) || self.unknown.pop().is_some() {
            return;
        }
        let node = &self.nodes[self.node as usize];
        // A node that the layout knows children of is a branch.
        (self.node, self.next, self.kind) = (node.parent, node.end, NodeKind::Branch);
    }

    /// Goes to a node that an earlier walk has been at.
    pub(crate) fn go_to(&mut self, node: NodeId) {
        self.unknown.clear();
        self.stand_at(node);
    }

    fn stand_at(&mut self, node: NodeId) {
        self.node = node;
        // The first child, if it has any, stands right behind it.
        self.next = node + 1;
        self.kind = self.nodes[node as usize].kind;
    }

    /// The node the walk is at, if the layout knows it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.unknown.is_empty().then_some(self.node)
    }

    /// The place the walk is at, if the layout has a leaf here.
    #[inline]
    pub(crate) fn place(&self) -> Option<u32> {
        match self.kind {
            NodeKind::Place(place) if self.unknown.is_empty() => Some(place),
            _ => None,
        }
    }

    /// The last node on the way that the layout knows.
    pub(crate) fn known(&self) -> NodeId {
        self.node
    }

    pub(crate) fn levels(&self) -> usize {
        self.levels
    }

    pub(crate) fn path(&self) -> String {
        let mut path = self.paths.render(self.node);
        for segment in &self.unknown {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(segment);
        }
        path
    }
}
