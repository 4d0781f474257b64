//! Where a walk over a tree stands in the paths of a layout.

use super::paths::{Kind, MAX_LEVELS, NodeId, Paths, ROOT, push_segment};
use crate::error::{Error, Result};
use crate::tree::Key;

/// Follows a walk, one segment at a time: through the layout's nodes where it knows them, by name where it does not.
pub(crate) struct Cursor<'l> {
    paths: &'l Paths,
    node: NodeId,
    /// The child that should come next.
    next: NodeId,
    levels: usize,
    /// The keys below `node` that the layout has not got.
    unknown: Vec<String>,
}

impl<'l> Cursor<'l> {
    pub(crate) fn new(paths: &'l Paths) -> Self {
        Cursor { paths, node: ROOT, next: ROOT + 1, levels: 0, unknown: Vec::new() }
    }

    /// Goes down to a child; its level.
    #[inline]
    pub(crate) fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        if key == Key::Same {
            return Ok(self.levels);
        }
        if self.unknown.is_empty()
            && let Some(node) = self.paths.child(self.node, key, self.next)
        {
            (self.node, self.next) = (node, node + 1);
            return Ok(self.levels);
        }
        self.enter_unknown(key);
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
        if key == Key::Same || self.unknown.pop().is_some() {
            return;
        }
        let node = self.paths.node(self.node);
        (self.node, self.next) = (node.parent, node.end);
    }

    /// The node the walk is at, if the layout knows it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.unknown.is_empty().then_some(self.node)
    }

    /// The place the walk is at, if the layout has a leaf here.
    #[inline]
    pub(crate) fn place(&self) -> Option<u32> {
        match self.paths.node(self.node).kind {
            Kind::Place(place) if self.unknown.is_empty() => Some(place),
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
