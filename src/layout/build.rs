//! The one walk that writes a layout down, as a [`Draft`] that the validator then checks.
//!
//! The walk keeps the node it is at and adds one node for each segment of a path it enters, so the
//! nodes stand in walk order and a subtree is a run of them. A leaf gets a number when it is first
//! met; a node that holds one is marked with that number. What may be met again is remembered: a
//! shared pointer by its identity, with the node of its first place; a view by the memory it shows.
//!
//! Take a model with a tie, a cell and a shared node:
//!
//! ```text
//! struct Block { w: Vec<f32>, b: Vec<f32> }
//! struct Net   { embed: Arc<Array>, gate: RefCell<Vec<f32>>, block: Rc<Block>, again: Rc<Block>, head: Arc<Array> }
//! // `head` is the Arc of `embed`, `again` the Rc of `block`
//! ```
//!
//! ```text
//! the walk meets              nodes                       what is written down
//! embed                       1 embed                     its Arc is new: remembered with node 1
//!   an array                  1 embed = leaf 0            leaf 0
//! gate                        2 gate
//!   a cell                                                its content is visited under the borrow
//!     a list                  2 gate = leaf 1             leaf 1
//! block                       3 block                     its Rc is new: remembered with node 3
//!   w, b                      4 w = leaf 2, 5 b = leaf 3  leaves 2 and 3
//! again                       6 again                     its Rc is known: nodes 4 and 5 are copied
//!   (not walked)              7 w = leaf 2, 8 b = leaf 3  no new leaf
//! head                        9 head = leaf 0             its Arc is known: node 1 is copied
//! ```
//!
//! Then the places are numbered in the order of the nodes (`embed`, `gate`, `block.w`, `block.b`,
//! `again.w`, `again.b`, `head`), and leaf 0 has the places 0 and 6. The validator lets each leaf
//! stand at its first trainable place: were the field `block` frozen, nodes 3 to 5 would be, and
//! the leaves 2 and 3 would be trained and named at `again.w` and `again.b`. A `frozen` within
//! `Block` holds at all its places, so it is kept with the content and copied with it.
//!
//! A shared node is not walked at its second place. Walking it again would find the same, but a
//! node that contains itself would never end, a lock would be taken while it is held, and a chain
//! of nodes that each hold the next one twice would take a walk for every way down. Here copying
//! costs the nodes at that place, which are places of the layout anyway, and what would be too many
//! is an error before they are made.
//!
//! Views (`ArcArray`, or plain arrays behind references) have no identity of their own. They are
//! collected, and [`overlap`] finds those that show one memory once all are known.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::draft::{Draft, DraftLeaf, DraftPlace};
use super::overlap;
use super::paths::{NodeId, NodeKind, Paths, ROOT, number};
use crate::element::Dtype;
use crate::error::{Error, FirstError, Result};
use crate::tree::axes::{Shape, StridedView};
use crate::tree::stack::MAX_LEVELS;
use crate::tree::{Guarded, Identity, Key, LeafRef, Tree, UnderGuard, Visitor};

/// A diamond of shared nodes has a place for every way down; more extra ones than this are an
/// error.
const MAX_EXTRA_PLACES: usize = 1 << 20;
/// Nodes without leaves are copied too, and are bounded by themselves.
const MAX_EXTRA_NODES: usize = 1 << 22;

/// Walks a tree. With `everything`, frozen leaves are planned as if they were not.
///
/// # Errors
/// What [`Layout::of`](super::Layout::of) lists, but for a path that stands twice.
pub(crate) fn draft<T: Tree + ?Sized>(tree: &T, everything: bool) -> Result<Draft> {
    let mut builder = LayoutBuilder::new();
    if let Err(error) = tree.visit(&mut builder) {
        return Err(error.or_at(|| builder.path()));
    }
    // A tree may answer `Ok` although a visit within it failed.
    let failed = std::mem::take(&mut builder.failed);
    failed.into_result()?;
    if everything {
        builder.paths.thaw();
    }
    builder.finish()
}

const BOTH: &str = "a node that is both a leaf and something else";

struct LayoutBuilder {
    paths: Paths,
    /// Where the walk is.
    node: NodeId,
    levels: usize,
    leaves: Vec<DraftLeaf>,
    /// Leaves that may share memory with others, and where they lie.
    views: Vec<(u32, StridedView)>,
    /// Shared nodes that have been met.
    shared: HashMap<Identity, MetNode>,
    /// Those that the walk is within.
    open: Vec<Identity>,
    /// Leaves that have an identity of their own.
    identified: HashMap<Identity, u32>,
    extra_places: usize,
    extra_nodes: usize,
    /// The level from which on the tree is a reference to another.
    borrowed_from: usize,
    failed: FirstError,
}

/// A shared node that has been met.
struct MetNode {
    /// Where it was first met.
    node: NodeId,
    /// Whether the walk is within it: meeting it now is a cycle.
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
        let views = std::mem::take(&mut self.views);
        let ties = self.tied_views(views)?;
        let places = self.number_places();
        let mut draft = Draft::new(self.paths, self.leaves, places);
        if !ties.leaders.is_empty() {
            ties.resolve(&mut draft.places);
            draft.show_first_places();
        }
        Ok(draft)
    }

    /// # Errors
    /// Views that share some elements without being one parameter.
    fn tied_views(&self, views: Vec<(u32, StridedView)>) -> Result<TiedViews> {
        // A walk numbers its views in its own order, and only some leaves are views.
        let (leaves, views): (Vec<u32>, Vec<StridedView>) = views.into_iter().unzip();
        let path = |view: usize| first_place(&self.paths, leaves[view]);
        let leaders = overlap::group(&views);
        let leaders = leaders.map_err(|(first, second)| {
            let first = path(first);
            Error::overlap(first, path(second))
        })?;
        let mut ties = TiedViews::default();
        for (index, view) in views.into_iter().enumerate() {
            let leaf = leaves[index];
            let leader = leaves[leaders[index]];
            ties.leaders.insert(leaf, leader);
            ties.views.insert(leaf, view);
        }
        Ok(ties)
    }

    /// Counts the places in walk order. A node knew its leaf until now, and knows its place after.
    fn number_places(&mut self) -> Vec<DraftPlace> {
        let mut places = Vec::with_capacity(self.leaves.len());
        for node in self.paths.ids() {
            let Some(leaf) = self.paths.place(node) else {
                continue;
            };
            let place = places.len() as u32;
            self.paths.node_mut(node).kind = NodeKind::Place(place);
            places.push(DraftPlace {
                node,
                leaf,
                axes: None,
            });
        }
        places
    }

    /// Remembers an error, should the tree keep it to itself.
    #[cold]
    fn remember(&mut self, error: Error) -> Error {
        let path = || self.paths.render(self.node);
        self.failed.note(error, path)
    }

    /// Where the walk is, for an error.
    fn path(&self) -> String {
        self.paths.render(self.node)
    }

    fn met_node(&mut self, key: Key<'_>, frozen: bool) -> Result<usize> {
        // Wrappers count too: a chain of boxes adds no segment and still takes the stack.
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        if self.paths.node(self.node).kind != NodeKind::Branch {
            return Err(Error::unstable(BOTH));
        }
        if key != Key::Same {
            self.node = self.paths.push(self.node, key, frozen)?;
        } else if frozen {
            self.freeze_here();
        }
        Ok(self.levels)
    }

    /// Freezes the node for what is declared by a wrapper that adds no segment. Within a shared
    /// node the declaration is the content's, and goes where that goes.
    fn freeze_here(&mut self) {
        let is_content = match self.open.last() {
            Some(innermost) => self.shared[innermost].node == self.node,
            None => false,
        };
        let node = self.paths.node_mut(self.node);
        if is_content {
            node.frozen_content = true;
        } else {
            node.frozen = true;
        }
    }

    fn met_shared(&mut self, identity: Identity) -> Result<bool> {
        match self.shared.entry(identity.clone()) {
            Entry::Occupied(seen) => {
                let MetNode { node, open } = *seen.get();
                // It contains itself: going on would never end.
                if open {
                    let path = self.paths.render(node);
                    return Err(Error::cycle(path));
                }
                self.copy_shared(node)?;
                Ok(false)
            }
            Entry::Vacant(new) => {
                new.insert(MetNode {
                    node: self.node,
                    open: true,
                });
                self.open.push(identity);
                Ok(true)
            }
        }
    }

    fn met_leaf(&mut self, leaf: &LeafRef<'_, '_>) -> Result<()> {
        // An array without elements is never a tie: there is nothing that two places could share.
        let id = match leaf.identity {
            Some(identity) if !leaf.shape.contains(&0) => self.identified(identity, leaf)?,
            _ => self.add_leaf(leaf)?,
        };
        self.set_kind(NodeKind::Place(id))
    }

    fn add_leaf(&mut self, leaf: &LeafRef<'_, '_>) -> Result<u32> {
        let id = number(self.leaves.len())?;
        self.leaves.push(DraftLeaf {
            dtype: leaf.dtype,
            shape: Shape::from_slice(leaf.shape),
            trainable: leaf.dtype.is_float(),
            fields: leaf.fields.map(|fields| Arc::new(fields())),
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
        // A leaf that is read by a call has no memory of its own to share.
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
        let Some(&id) = self.identified.get(identity) else {
            let id = self.add_leaf(leaf)?;
            self.identified.insert(identity.clone(), id);
            return Ok(id);
        };
        // Whoever implements `Tree` hands out identities, so two leaves that have one in common may
        // still differ.
        let known = &self.leaves[id as usize];
        if *known.shape != *leaf.shape {
            let path = self.path();
            return Err(Error::shape(path, &known.shape, leaf.shape));
        }
        if known.dtype != leaf.dtype {
            let expected = known.dtype.to_string();
            let found = leaf.dtype.to_string();
            return Err(Error::element_type(self.path(), expected, found));
        }
        Ok(id)
    }

    fn set_kind(&mut self, kind: NodeKind) -> Result<()> {
        let id = self.node;
        // A node with children has others behind it.
        let is_last = self.paths.len() == id as usize + 1;
        let node = self.paths.node_mut(id);
        if node.kind != NodeKind::Branch || !is_last {
            return Err(Error::unstable(BOTH));
        }
        node.kind = kind;
        Ok(())
    }

    /// Another place of a shared node: its leaves are the same, under other paths.
    fn copy_shared(&mut self, original: NodeId) -> Result<()> {
        let first_copy = self.paths.len() as NodeId;
        let copied = self.paths.node(original).end - original;
        self.extra_nodes += copied as usize;
        // Before the copy: a few levels of a diamond are more nodes than there is memory for.
        if self.extra_nodes > MAX_EXTRA_NODES {
            return Err(Error::too_many_places());
        }
        self.paths.copy_subtree(original, self.node)?;
        let kind = self.paths.node(original).kind;
        if kind != NodeKind::Branch {
            self.set_kind(kind)?;
        }
        // The node itself stood there before; what is below it is new.
        let last_copy = self.paths.len() as NodeId;
        self.count_copy(self.node)?;
        for copy in first_copy..last_copy {
            self.count_copy(copy)?;
        }
        if self.extra_places > MAX_EXTRA_PLACES {
            return Err(Error::too_many_places());
        }
        Ok(())
    }

    fn count_copy(&mut self, copy: NodeId) -> Result<()> {
        let Some(leaf) = self.paths.place(copy) else {
            return Ok(());
        };
        self.extra_places += 1;
        let is_empty = self.leaves[leaf as usize].shape.contains(&0);
        if is_empty {
            self.separate(copy, leaf)?;
        }
        Ok(())
    }

    /// Gives the copy of an array without elements a leaf of its own: it is never a tie, not even
    /// with itself.
    fn separate(&mut self, copy: NodeId, leaf: u32) -> Result<()> {
        let id = number(self.leaves.len())?;
        let leaf = self.leaves[leaf as usize].clone();
        self.leaves.push(leaf);
        self.paths.node_mut(copy).kind = NodeKind::Place(id);
        Ok(())
    }
}

fn first_place(paths: &Paths, leaf: u32) -> String {
    // Until the places are numbered, a node is marked with its leaf.
    let is_place = |&id: &NodeId| paths.place(id) == Some(leaf);
    match paths.ids().find(is_place) {
        Some(id) => paths.render(id),
        None => String::new(),
    }
}

/// What is known of the leaves that may share memory.
#[derive(Default)]
struct TiedViews {
    /// For each of them the first leaf that is one parameter with it, itself if none was before.
    leaders: HashMap<u32, u32>,
    views: HashMap<u32, StridedView>,
}

impl TiedViews {
    /// Gives all places of a tie to its leader, with the axes as which they show it.
    fn resolve(&self, places: &mut [DraftPlace]) {
        for place in places {
            let own = place.leaf;
            let Some(&leader) = self.leaders.get(&own) else {
                continue;
            };
            if leader != own {
                let axes = self.views[&own].on(&self.views[&leader]);
                place.leaf = leader;
                place.axes = Some(Box::new(axes));
            }
        }
    }
}

impl<'a> Visitor<'a> for LayoutBuilder {
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.met_leaf(&leaf).map_err(|error| self.remember(error))
    }

    fn no_leaf(&mut self) -> Result<()> {
        self.set_kind(NodeKind::NoLeaf(None))
    }

    fn bare_number(&mut self, dtype: Dtype) -> Result<()> {
        self.set_kind(NodeKind::NoLeaf(Some(dtype)))
    }

    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        // What is borrowed from a guard lives for this call only, and the walk keeps none of it.
        let visited = cell.read(&mut |content| {
            let mut visitor = UnderGuard(&mut *self);
            content.visit(&mut visitor)
        });
        visited.map_err(|error| self.remember(error))
    }

    fn read_only(&mut self) {
        self.borrowed_from = self.borrowed_from.min(self.levels);
    }

    fn enter(&mut self, key: Key<'_>, frozen: bool) -> Result<usize> {
        self.met_node(key, frozen)
            .map_err(|error| self.remember(error))
    }

    fn leave(&mut self, key: Key<'_>) {
        self.levels -= 1;
        if self.levels < self.borrowed_from {
            self.borrowed_from = usize::MAX;
        }
        if key != Key::Same {
            // All that is below a node stands behind it by now, so that its subtree is a run.
            self.paths.close(self.node);
            self.node = self.paths.node(self.node).parent;
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.met_shared(identity)
            .map_err(|error| self.remember(error))
    }

    fn leave_shared(&mut self) {
        let identity = self.open.pop().expect("a shared node was entered");
        let shared = self.shared.get_mut(&identity);
        shared.expect("it was remembered when it was entered").open = false;
    }
}
