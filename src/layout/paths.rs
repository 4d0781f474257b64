//! The paths of a layout: one node a place, in the order of the walk.
//!
//! A path is never stored whole. A node knows its parent, its last segment and where its subtree
//! ends, so memory is linear in the tree however long its paths are, and a tree is matched to the
//! layout one segment at a time: the next child is almost always the node that comes next, which
//! one comparison of segments confirms.

use std::cmp::Ordering;
use std::sync::OnceLock;

use super::steps;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::tree::Key;
use crate::tree::key::{order, push_segment, split, unescape};

/// A node of [`Paths`].
pub(crate) type NodeId = u32;

/// The root of every tree.
pub(crate) const ROOT: NodeId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// Children, or nothing at all: a struct, a list, a `None`.
    Branch,
    /// Known by name, but no part of the tree, or no array; the type of one that is a bare number.
    NoLeaf(Option<Dtype>),
    /// An index into the layout's places.
    Place(u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) parent: NodeId,
    /// One past the last node of the subtree.
    pub(crate) end: NodeId,
    segment: PackedKey,
    pub(crate) kind: NodeKind,
    /// Declared as not trainable: at this node, and after [`Paths::inherit_frozen`] also above it.
    pub(crate) frozen: bool,
    /// Declared as not trainable by what stands here, wherever else that may stand.
    pub(crate) frozen_content: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackedKey {
    Index(u32),
    Name { start: u32, len: u32 },
}

#[derive(Clone, Debug)]
pub(crate) struct Paths {
    nodes: Vec<Node>,
    names: String,
    /// Children of every node, sorted by key: built when a path is looked up or a map comes in
    /// another order.
    sorted: OnceLock<Sorted>,
}

#[derive(Clone, Debug)]
struct Sorted {
    /// Node `n`'s children are `children[starts[n]..starts[n + 1]]`.
    starts: Vec<u32>,
    children: Vec<NodeId>,
}

impl Paths {
    pub(crate) fn new() -> Self {
        let root = Node {
            parent: ROOT,
            end: 1,
            segment: PackedKey::Index(0),
            kind: NodeKind::Branch,
            frozen: false,
            frozen_content: false,
        };
        Paths {
            nodes: vec![root],
            names: String::new(),
            sorted: OnceLock::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    #[inline]
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        steps::count(1);
        &self.nodes[id as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(crate) fn place(&self, id: NodeId) -> Option<u32> {
        match self.node(id).kind {
            NodeKind::Place(place) => Some(place),
            _ => None,
        }
    }

    pub(crate) fn ids(&self) -> std::ops::Range<NodeId> {
        0..self.nodes.len() as NodeId
    }

    /// Adds a node after all others. Its parent's subtree must be the one that is open.
    pub(crate) fn push(&mut self, parent: NodeId, key: Key<'_>, frozen: bool) -> Result<NodeId> {
        let segment = self.segment(key)?;
        self.push_segment(parent, segment, frozen)
    }

    /// Closes the subtree of `id` at the nodes there are.
    pub(crate) fn close(&mut self, id: NodeId) {
        self.nodes[id as usize].end = self.nodes.len() as NodeId;
    }

    /// Adds a copy of the nodes below `from` below `to`, whose subtree must be the one that is
    /// open.
    pub(crate) fn copy_subtree(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        let first = self.nodes.len() as NodeId;
        let frozen_content = self.node(from).frozen_content;
        self.node_mut(to).frozen_content |= frozen_content;
        // A subtree is a run of nodes, so a copy differs from its original by one distance.
        let copy_of = |original: NodeId| first + (original - from - 1);
        for original in from + 1..self.node(from).end {
            let original = *self.node(original);
            let parent = if original.parent == from {
                to
            } else {
                copy_of(original.parent)
            };
            // Names are not copied: both nodes have the same bytes of `names`.
            let id = self.push_segment(parent, original.segment, original.frozen)?;
            *self.node_mut(id) = Node {
                parent,
                end: copy_of(original.end),
                ..original
            };
        }
        Ok(())
    }

    pub(crate) fn thaw(&mut self) {
        for node in &mut self.nodes {
            node.frozen = false;
            node.frozen_content = false;
        }
    }

    /// What lies below a frozen node is frozen.
    pub(crate) fn inherit_frozen(&mut self) {
        // Parents stand before their children, so one pass is enough.
        for id in 0..self.nodes.len() {
            let node = self.nodes[id];
            let is_above = self.nodes[node.parent as usize].frozen;
            self.nodes[id].frozen |= node.frozen_content || is_above;
        }
    }

    fn push_segment(&mut self, parent: NodeId, segment: PackedKey, frozen: bool) -> Result<NodeId> {
        let id = number(self.nodes.len())?;
        self.nodes.push(Node {
            parent,
            end: id + 1,
            segment,
            kind: NodeKind::Branch,
            frozen,
            frozen_content: false,
        });
        Ok(id)
    }

    fn segment(&mut self, key: Key<'_>) -> Result<PackedKey> {
        match key.canonical() {
            Key::Index(index) => number(index).map(PackedKey::Index),
            Key::Name(name) => {
                let start = number(self.names.len())?;
                self.names.push_str(name);
                let end = number(self.names.len())?;
                let len = end - start;
                Ok(PackedKey::Name { start, len })
            }
            Key::Same => unreachable!("a key without a segment makes no node"),
        }
    }

    pub(crate) fn key(&self, id: NodeId) -> Key<'_> {
        self.key_of(self.node(id).segment)
    }

    fn key_of(&self, segment: PackedKey) -> Key<'_> {
        match segment {
            PackedKey::Index(index) => Key::Index(index as usize),
            PackedKey::Name { start, len } => {
                steps::count(len as usize);
                let range = start as usize..(start + len) as usize;
                Key::Name(&self.names[range])
            }
        }
    }

    #[inline]
    pub(crate) fn has_key(&self, node: &Node, key: Key<'_>) -> bool {
        match key {
            Key::Index(index) => {
                matches!(node.segment, PackedKey::Index(known) if known as usize == index)
            }
            Key::Name(name) => self.has_name(node.segment, name),
            Key::Same => false,
        }
    }

    fn has_name(&self, segment: PackedKey, name: &str) -> bool {
        match segment {
            // Bytes are compared, which need no check that they are cut between characters.
            PackedKey::Name { start, len } => {
                let range = start as usize..(start + len) as usize;
                self.names.as_bytes().get(range) == Some(name.as_bytes())
            }
            PackedKey::Index(_) => self.key_of(segment) == Key::Name(name).canonical(),
        }
    }

    /// The child with a key: usually a field or two further on; otherwise the keys come in another
    /// order.
    pub(crate) fn find_child(
        &self,
        parent: NodeId,
        key: Key<'_>,
        expected: NodeId,
    ) -> Option<NodeId> {
        // Fields that a tree leaves out are passed by, and no list of all children is made for it.
        let mut near = self.siblings_from(parent, expected).take(4);
        let found = near.find(|&id| self.has_key(self.node(id), key));
        found.or_else(|| self.search_child(parent, key))
    }

    fn search_child(&self, parent: NodeId, key: Key<'_>) -> Option<NodeId> {
        let sorted = self.sorted.get_or_init(|| self.sort_children());
        let children = sorted.children_of(parent);
        // A name that is written as an index is that index, here as where it was pushed.
        let key = key.canonical();
        let found = children.binary_search_by(|&id| order(self.key(id), key));
        found.ok().map(|index| children[index])
    }

    fn siblings_from(&self, parent: NodeId, first: NodeId) -> impl Iterator<Item = NodeId> {
        let end = self.node(parent).end;
        let mut next = first;
        // Where one subtree ends, the next sibling stands: what is below is never looked at.
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let id = next;
            next = self.node(id).end;
            Some(id)
        })
    }

    pub(crate) fn children(&self, parent: NodeId) -> impl Iterator<Item = NodeId> {
        self.siblings_from(parent, parent + 1)
    }

    fn sort_children(&self) -> Sorted {
        let mut starts = vec![0; self.nodes.len() + 1];
        let mut children = Vec::with_capacity(self.nodes.len());
        for parent in self.ids() {
            let first = children.len();
            children.extend(self.children(parent));
            let siblings = &mut children[first..];
            siblings.sort_by(|&a, &b| order(self.key(a), self.key(b)));
            starts[parent as usize + 1] = children.len() as u32;
        }
        Sorted { starts, children }
    }

    /// A key that two children of one node share, as the second of them.
    pub(crate) fn duplicate_child(&self) -> Option<NodeId> {
        // One list for all nodes: most have few children.
        let mut keys = Vec::new();
        let mut parents = self.ids();
        parents.find_map(|parent| self.duplicate_below(parent, &mut keys))
    }

    fn duplicate_below<'k>(
        &'k self,
        parent: NodeId,
        keys: &mut Vec<(Key<'k>, NodeId)>,
    ) -> Option<NodeId> {
        // Lists and maps are in order, which is seen without a copy.
        if self.has_sorted_children(parent) {
            return None;
        }
        keys.clear();
        for id in self.children(parent) {
            keys.push((self.key(id), id));
        }
        // Nodes with one key stay in walk order: the error is of the second.
        keys.sort_unstable_by(|a, b| order(a.0, b.0).then(a.1.cmp(&b.1)));
        let mut pairs = keys.windows(2);
        let twice = pairs.find(|pair| pair[0].0 == pair[1].0)?;
        let (_, second) = twice[1];
        Some(second)
    }

    fn has_sorted_children(&self, parent: NodeId) -> bool {
        let mut last = None;
        self.children(parent).all(|id| {
            let key = self.key(id);
            let before = last.replace(key);
            before.is_none_or(|before| order(before, key) == Ordering::Less)
        })
    }

    /// The node at a path as [`render`](Self::render) writes it.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        if path.is_empty() {
            return Some(ROOT);
        }
        let mut node = ROOT;
        for segment in split(path) {
            node = self.search_child(node, Key::Name(&unescape(segment)?))?;
        }
        Some(node)
    }

    pub(crate) fn render(&self, id: NodeId) -> String {
        let mut path = String::new();
        for id in self.line(id) {
            push_segment(&mut path, self.key(id));
        }
        path
    }

    /// The nodes from below the root to `id`.
    pub(crate) fn line(&self, id: NodeId) -> Vec<NodeId> {
        let mut line = Vec::new();
        let mut id = id;
        while id != ROOT {
            line.push(id);
            id = self.node(id).parent;
        }
        line.reverse();
        line
    }
}

impl Sorted {
    fn children_of(&self, parent: NodeId) -> &[NodeId] {
        let parent = parent as usize;
        let start = self.starts[parent] as usize;
        let end = self.starts[parent + 1] as usize;
        &self.children[start..end]
    }
}

/// A count of nodes, leaves or bytes of names as it is stored: half of what `usize` takes.
///
/// # Errors
/// More than 32 bits count.
pub(super) fn number(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::too_many_places())
}
