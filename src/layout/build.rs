//! The one walk that writes a layout down.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::draft::{Draft, DraftLeaf, DraftPlace};
use super::overlap;
use super::paths::{NodeId, NodeKind, Paths, ROOT};
use crate::element::Dtype;
use crate::error::{Error, FirstError, Result};
use crate::tree::axes::{Shape, StridedView};
use crate::tree::stack::MAX_LEVELS;
use crate::tree::{Guarded, Identity, Key, LeafRef, Tree, UnderGuard, Visitor};

/// A diamond of shared nodes has a place for every way down; more extra ones than this are an
/// error.
const MAX_EXTRA_PLACES: usize = 1 << 20;
/// The same for the nodes on the way, with leaves or without.
const MAX_EXTRA_NODES: usize = 1 << 22;

/// Walks a tree. Of `everything`, frozen leaves are planned as if they were not.
///
/// # Errors
/// See [`Layout::of`](super::Layout::of).
pub(crate) fn walk<T: Tree + ?Sized>(tree: &T, everything: bool) -> Result<Draft> {
    let mut builder = LayoutBuilder::new();
    tree.visit(&mut builder)
        .map_err(|error| error.or_at(|| builder.paths.render(builder.node)))?;
    std::mem::take(&mut builder.failed).into_result()?;
    if everything {
        builder.paths.thaw();
    }
    builder.finish()
}

struct LayoutBuilder {
    paths: Paths,
    node: NodeId,
    levels: usize,
    leaves: Vec<DraftLeaf>,
    /// Leaves that may share memory with others, and where they lie.
    views: Vec<(u32, StridedView)>,
    shared: HashMap<Identity, SharedNode>,
    open: Vec<Identity>,
    identified: HashMap<Identity, u32>,
    extra_places: usize,
    extra_nodes: usize,
    /// The level from which on the tree is a reference to another.
    borrowed_from: usize,
    failed: FirstError,
}

struct SharedNode {
    node: NodeId,
    open: bool,
}

impl LayoutBuilder {
    fn new() -> Self {
        LayoutBuilder {
            paths: Paths::new(),
            node: ROOT,
            levels: 0,
            leaves: Vec::new(),
            views: Vec::new(),
            shared: HashMap::new(),
            open: Vec::new(),
            identified: HashMap::new(),
            extra_places: 0,
            extra_nodes: 0,
            borrowed_from: usize::MAX,
            failed: FirstError::default(),
        }
    }

    fn finish(mut self) -> Result<Draft> {
        self.paths.close(ROOT);
        self.paths.inherit_frozen();
        let (ids, views): (Vec<_>, Vec<_>) = std::mem::take(&mut self.views).into_iter().unzip();
        let leaders = overlap::group(&views).map_err(|(first, second)| {
            let path = |view: usize| first_place(&self.paths, ids[view]);
            Error::overlap(path(first), path(second))
        })?;
        let ties = ids
            .iter()
            .zip(leaders)
            .map(|(&id, leader)| (id, ids[leader]))
            .collect();
        let views = ids.iter().copied().zip(views).collect();
        Ok(self.into_draft(&TiedViews { ties, views }))
    }

    /// Numbers the places in walk order and gives each tie to one leaf.
    fn into_draft(mut self, views: &TiedViews) -> Draft {
        let mut places = Vec::with_capacity(self.leaves.len());
        for node in self.paths.ids() {
            if let NodeKind::Place(seen) = self.paths.node(node).kind {
                self.paths.node_mut(node).kind = NodeKind::Place(places.len() as u32);
                places.push(DraftPlace {
                    node,
                    leaf: seen,
                    axes: None,
                });
            }
        }
        let mut draft = Draft::new(self.paths, self.leaves, places);
        if !views.ties.is_empty() {
            views.resolve(&mut draft.places);
            draft.show_first_places();
        }
        draft
    }

    /// Remembers an error, should the tree keep it to itself.
    #[cold]
    fn noted(&mut self, error: Error) -> Error {
        self.failed.note(error, || self.paths.render(self.node))
    }

    fn met_node(&mut self, key: Key<'_>, frozen: bool) -> Result<usize> {
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        if self.paths.node(self.node).kind != NodeKind::Branch {
            return Err(Error::unstable(
                "a node that is both a leaf and something else",
            ));
        }
        if key != Key::Same {
            self.node = self.paths.push(self.node, key, frozen)?;
        } else if frozen {
            let in_shared_node = self
                .open
                .last()
                .is_some_and(|identity| self.shared[identity].node == self.node);
            let node = self.paths.node_mut(self.node);
            if in_shared_node {
                node.frozen_content = true
            } else {
                node.frozen = true
            }
        }
        Ok(self.levels)
    }

    fn met_shared(&mut self, identity: Identity) -> Result<bool> {
        match self.shared.entry(identity.clone()) {
            Entry::Occupied(seen) if seen.get().open => {
                Err(Error::cycle(self.paths.render(seen.get().node)))
            }
            Entry::Occupied(seen) => {
                let original = seen.get().node;
                self.alias(original).map(|()| false)
            }
            Entry::Vacant(new) => {
                new.insert(SharedNode {
                    node: self.node,
                    open: true,
                });
                self.open.push(identity);
                Ok(true)
            }
        }
    }

    fn met_leaf(&mut self, leaf: &LeafRef<'_, '_>) -> Result<()> {
        let id = match leaf.identity {
            Some(identity) if !leaf.shape.contains(&0) => self.identified(identity, leaf)?,
            _ => self.add_leaf(leaf)?,
        };
        self.set_kind(NodeKind::Place(id))
    }

    fn add_leaf(&mut self, leaf: &LeafRef<'_, '_>) -> Result<u32> {
        let id = u32::try_from(self.leaves.len()).map_err(|_| Error::too_many_places())?;
        self.leaves.push(DraftLeaf {
            dtype: leaf.dtype,
            shape: Shape::from_slice(leaf.shape),
            trainable: leaf.dtype.is_float(),
        });
        if let Some(view) = self.view(leaf) {
            self.views.push((id, view));
        }
        Ok(id)
    }

    /// Where a leaf lies that may share memory: a view always, a plain array behind a reference.
    fn view(&self, leaf: &LeafRef<'_, '_>) -> Option<StridedView> {
        let may_overlap = leaf.may_overlap || self.levels >= self.borrowed_from;
        if !may_overlap || leaf.shape.contains(&0) {
            return None;
        }
        let (address, strides) = leaf.geometry()?;
        Some(StridedView::new(
            address,
            leaf.shape,
            &strides,
            leaf.dtype.size(),
        ))
    }

    /// A leaf with an identity of its own is the same leaf wherever that is met.
    fn identified(&mut self, identity: &Identity, leaf: &LeafRef<'_, '_>) -> Result<u32> {
        if let Some(&id) = self.identified.get(identity) {
            let known = &self.leaves[id as usize];
            if *known.shape != *leaf.shape {
                return Err(Error::shape(
                    self.paths.render(self.node),
                    &known.shape,
                    leaf.shape,
                ));
            }
            if known.dtype != leaf.dtype {
                let (expected, found) = (known.dtype.to_string(), leaf.dtype.to_string());
                return Err(Error::element_type(
                    self.paths.render(self.node),
                    expected,
                    found,
                ));
            }
            return Ok(id);
        }
        let id = self.add_leaf(leaf)?;
        self.identified.insert(identity.clone(), id);
        Ok(id)
    }

    fn set_kind(&mut self, kind: NodeKind) -> Result<()> {
        let id = self.node;
        let is_last = self.paths.len() == id as usize + 1;
        let node = self.paths.node_mut(id);
        if node.kind != NodeKind::Branch || !is_last {
            return Err(Error::unstable(
                "a node that is both a leaf and something else",
            ));
        }
        node.kind = kind;
        Ok(())
    }

    /// Another place of a shared node: its leaves are the same, under other paths.
    fn alias(&mut self, original: NodeId) -> Result<()> {
        let first_copy = self.paths.len() as NodeId;
        self.extra_nodes += (self.paths.node(original).end - original) as usize;
        if self.extra_nodes > MAX_EXTRA_NODES {
            return Err(Error::too_many_places());
        }
        self.paths.copy_subtree(original, self.node)?;
        let kind = self.paths.node(original).kind;
        if kind != NodeKind::Branch {
            self.set_kind(kind)?;
        }
        let (node, end) = (self.node, self.paths.len() as NodeId);
        let copies = || std::iter::once(node).chain(first_copy..end);
        copies().try_for_each(|copy| self.separate_if_empty(copy))?;
        self.extra_places += copies()
            .filter(|&id| matches!(self.paths.node(id).kind, NodeKind::Place(_)))
            .count();
        if self.extra_places > MAX_EXTRA_PLACES {
            Err(Error::too_many_places())
        } else {
            Ok(())
        }
    }
}

impl LayoutBuilder {
    /// An array without elements is never a tie, not even with itself.
    fn separate_if_empty(&mut self, node: NodeId) -> Result<()> {
        let Some(seen) = self.paths.place(node) else {
            return Ok(());
        };
        if self.leaves[seen as usize].shape.contains(&0) {
            let id = u32::try_from(self.leaves.len()).map_err(|_| Error::too_many_places())?;
            self.leaves.push(self.leaves[seen as usize].clone());
            self.paths.node_mut(node).kind = NodeKind::Place(id);
        }
        Ok(())
    }
}

fn first_place(paths: &Paths, leaf: u32) -> String {
    let place = paths
        .ids()
        .find(|&id| paths.node(id).kind == NodeKind::Place(leaf));
    place.map(|id| paths.render(id)).unwrap_or_default()
}

/// What is known of the leaves that may share memory.
struct TiedViews {
    /// For each of them the leaf that leads its tie.
    ties: HashMap<u32, u32>,
    views: HashMap<u32, StridedView>,
}

impl TiedViews {
    /// Gives all places of a tie to its leader.
    fn resolve(&self, places: &mut [DraftPlace]) {
        for place in places {
            let seen = place.leaf;
            place.leaf = self.ties.get(&seen).copied().unwrap_or(seen);
            place.axes = (seen != place.leaf)
                .then(|| Box::new(self.views[&seen].on(&self.views[&place.leaf])));
        }
    }
}

impl<'a> Visitor<'a> for LayoutBuilder {
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.met_leaf(&leaf).map_err(|error| self.noted(error))
    }

    fn no_leaf(&mut self) -> Result<()> {
        self.set_kind(NodeKind::NoLeaf(None))
    }

    fn bare_number(&mut self, dtype: Dtype) -> Result<()> {
        self.set_kind(NodeKind::NoLeaf(Some(dtype)))
    }

    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        let visited = cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self)));
        visited.map_err(|error| self.noted(error))
    }

    fn read_only(&mut self) {
        self.borrowed_from = self.borrowed_from.min(self.levels);
    }

    fn enter(&mut self, key: Key<'_>, frozen: bool) -> Result<usize> {
        self.met_node(key, frozen)
            .map_err(|error| self.noted(error))
    }

    fn leave(&mut self, key: Key<'_>) {
        self.levels -= 1;
        if self.levels < self.borrowed_from {
            self.borrowed_from = usize::MAX;
        }
        if key != Key::Same {
            self.paths.close(self.node);
            self.node = self.paths.node(self.node).parent;
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.met_shared(identity).map_err(|error| self.noted(error))
    }

    fn leave_shared(&mut self) {
        let identity = self.open.pop().expect("a shared node was entered");
        self.shared.get_mut(&identity).expect("it was noted").open = false;
    }
}
