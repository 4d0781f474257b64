//! The writing walk: a tree that has been validated is written where it is, and ties stay ties.
//!
//! A leaf that is owned is written directly. What several handles share needs a decision, and the
//! validating walk has found out what it depends on ([`Validated`](super::validated::Validated)):
//!
//! | the shared node | what happens to it |
//! | --- | --- |
//! | nothing in it is written | it is passed by |
//! | all that is written in it is in cells | it stays; the cells are written through, once |
//! | this is its only handle | it is written where it is |
//! | otherwise | a new node is made, once; every handle of the tree is pointed at it |
//!
//! The last row is what `Rc::make_mut` does for one handle. Done handle by handle it would break
//! ties: each would get a copy of its own. So a tree is walked twice. The first walk ([`Prepare`])
//! makes all new nodes and writes nothing: a node that cannot be rebuilt is an error that leaves
//! the tree as it was. The second writes, and collects the handles that will point at a new node.
//! Only when it is over are these turned over, one after the other: a tree that panics or fails on
//! the way leaves no tie of which one handle is new and another is old. (Handles that are kept in a
//! lock or cell are turned over at once, as no guard is held for longer than its content is
//! visited.)
//!
//! # An example
//!
//! The model of `validate.rs`, whose `Arc` somebody outside holds too, gets new values 7, 8 and 9:
//!
//! ```text
//! embed: Arc<[1 2]>                 ─┐ one node with three handles: two here, one elsewhere
//! norm:  Rc<{ scale: RefCell<[3]>,   │
//!             mean: [4] (frozen) }>  │ a shared node with a cell in it
//! head:  Arc<[1 2]>                 ─┘
//! ```
//!
//! 1. *Prepare.* At `embed`: written, not through cells, not the only handle. The builder makes
//!    `Arc<[7 8]>` and keeps it under the old node's identity. At `norm`: all that is written is in
//!    a cell, nothing to make. At `head`: the builder has a node for this identity already.
//! 2. *Write.* At `embed`: there is a new node, so the handle is collected and its place marked as
//!    met. At `norm`: the node is entered for reading, its cell is locked and `scale` becomes 9;
//!    the identity is remembered, so that another handle of it would not write again. At `head`:
//!    the handle is collected.
//! 3. *Turn over.* `embed` gets the new node, and then `head` does: `Arc<[7 8]>` with two handles.
//!    Who holds the old one outside still reads 1 and 2.
//!
//! Without the handle outside, the order matters: once `embed` points at the new node, `head` is
//! the only handle of the old one. It is no less a part of the tie, so a node that the builder has
//! a new one for is never taken for unique.
//!
//! # A leaf that cannot be written
//!
//! A writer of one's own may fail when others have been written already. What was overwritten is
//! gone, and to keep it would cost a second copy of every tree. So the walk goes on: in the end
//! every leaf is new but for those that the error names.
//!
//! # Why not simpler
//!
//! To turn a handle over where it is met needs no list of handles, and was done so at first. But a
//! panic in a later leaf then left a tie of which one handle was new and another old. To make a new
//! node where the writing walk meets its first handle would save the preparing walk. But a node
//! that cannot be rebuilt would then be found when other leaves have been written.
//!
//! A shorter way for plain leaves that come next, as the validating walk has one, was tried and
//! dropped: with it, checking and writing a leaf of 8 elements beside a tie took 616 instructions,
//! without it 601.

use std::collections::HashSet;

use crate::error::{Error, Findings, FirstError, Result};
use crate::layout::{LayoutData, NodeId, Place};
use crate::traversal::guarded_slice;
use crate::traversal::rebuild::Rebuilding;
use crate::traversal::seen_places::SeenPlaces;
use crate::tree::{
    Builder, Guarded, Identity, Key, LeafMut, LeafRef, Shared, Tree, UnderGuard, Visitor,
    VisitorMut,
};

/// Writes leaves, as the writing walk meets them.
pub(crate) trait WriteLeaf<'a> {
    /// Whether the leaf at a place is written at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there.
    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()>;
}

/// Walks a tree and gives its wanted leaves to `writer`; what has to be new is made by the builder.
///
/// # Errors
/// A tree that is not as it was validated. What `writer` returned for leaves that could not be
/// written: all others have been, and ties are whole.
pub(crate) fn write<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a mut T,
    builder: Rebuilding<'_>,
    writer: &mut impl WriteLeaf<'a>,
) -> Result<()> {
    let mut walk = InPlace::new(layout, builder, writer);
    walk.prepare_all(tree)?;
    let visited = tree.visit_mut(&mut walk);
    visited.map_err(|error| error.or_at(|| walk.builder.path()))?;
    std::mem::take(&mut walk.failed).into_result()?;
    walk.find_missing()?;
    walk.renew_all()?;
    std::mem::take(&mut walk.unwritten).into_result()
}

/// Whether [`write`] will be able to make what has to be new; writes nothing.
///
/// # Errors
/// A node that cannot be rebuilt.
pub(crate) fn check_renewable<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &mut T,
    builder: Rebuilding<'_>,
    writer: &mut impl WriteLeaf<'a>,
) -> Result<()> {
    InPlace::new(layout, builder, writer).prepare_all(tree)
}

/// An array without elements is wanted like any other, but never changes: it is no reason to make
/// the shared node around it anew.
fn is_written<'a>(writer: &impl WriteLeaf<'a>, place: &Place) -> bool {
    place.len > 0 && writer.wants(place)
}

struct InPlace<'l, 'b, 'p, 'a, P> {
    layout: &'l LayoutData,
    builder: Rebuilding<'b>,
    writer: &'p mut P,
    seen: SeenPlaces,
    written_through: HashSet<Identity>,
    /// Handles that will point at a new node, and where they are.
    to_renew: Vec<(NodeId, &'a mut dyn Shared)>,
    /// The first error that was returned to the tree, which may keep it to itself.
    failed: FirstError,
    /// What the writer says of leaves that it could not write.
    unwritten: Findings,
}

impl<'l, 'b, 'p, 'a, P: WriteLeaf<'a>> InPlace<'l, 'b, 'p, 'a, P> {
    fn new(layout: &'l LayoutData, builder: Rebuilding<'b>, writer: &'p mut P) -> Self {
        // Which places are written is asked for again and again below shared nodes, and the writer
        // cannot be asked then, because it belongs to the walk.
        let written = |place| is_written(writer, place);
        let written = if builder.meets_shared_nodes() {
            layout.places.iter().map(written).collect()
        } else {
            Vec::new()
        };
        let builder = builder.writing(written);
        InPlace {
            layout,
            builder,
            writer,
            seen: SeenPlaces::default(),
            written_through: HashSet::new(),
            to_renew: Vec::new(),
            failed: FirstError::default(),
            unwritten: Findings::default(),
        }
    }

    /// Makes the new nodes that writing will need, all before anything is written.
    fn prepare_all<T: Tree + ?Sized>(&mut self, tree: &mut T) -> Result<()> {
        // Without shared nodes everything is written where it is: this walk would find nothing.
        if !self.builder.meets_shared_nodes() {
            return Ok(());
        }
        tree.visit_mut(&mut Prepare(&mut *self))
            .map_err(|error| error.or_at(|| self.builder.path()))
    }

    /// All that is wanted has been met.
    fn find_missing(&self) -> Result<()> {
        let all = &self.layout.places;
        let missing = self.seen.missing(all.len());
        let mut places = missing.iter().map(|&index| &all[index]);
        let Some(place) = places.find(|place| is_written(self.writer, place)) else {
            return Ok(());
        };
        let path = self.layout.paths.render(place.node);
        let error = Error::unstable("a `visit_mut` that does not name it");
        Err(error.at(&path))
    }

    fn renew_all(&mut self) -> Result<()> {
        for (node, handle) in std::mem::take(&mut self.to_renew) {
            self.builder.cursor.go_to(node);
            handle
                .renew(&mut Builder::new(&mut self.builder))
                .map_err(|error| error.or_at(|| self.builder.path()))?;
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()> {
        self.write_leaf(leaf)
            .map_err(|error| self.failed.note(error, || self.builder.path()))
    }

    fn write_leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let Some(index) = self.builder.cursor.place() else {
            return Ok(());
        };
        let place = self.layout.place(index);
        if !self.seen.mark(index) {
            return Err(Error::duplicate(self.builder.path()));
        }
        if !self.writer.wants(place) {
            return Ok(());
        }
        // The tree was validated by another visit, and nothing keeps it from answering differently.
        if !place.has_shape(leaf.shape) || leaf.dtype != place.dtype {
            return Err(Error::changed_leaf());
        }
        let written = self.writer.write_leaf(place, leaf);
        self.note_unwritten(written);
        Ok(())
    }

    #[inline]
    fn note_unwritten(&mut self, written: Result<()>) {
        if let Err(error) = written {
            let error = error.or_at(|| self.builder.path());
            // The message begins with the first leaf and says that the others have been written.
            let is_first = self.unwritten.is_empty();
            let error = if is_first { error.but_for() } else { error };
            self.unwritten.add(error);
        }
    }

    /// Writes a shared node; `visit` visits it as a tree with this handle only, `renew` points the
    /// handle at the new node.
    fn shared<'h>(
        &mut self,
        handle: &'h mut dyn Shared,
        visit: impl FnOnce(&mut Self, &'h mut dyn Shared) -> Result<()>,
        renew: impl FnOnce(&mut Self, &'h mut dyn Shared) -> Result<()>,
    ) -> Result<()> {
        if self.written_below().next().is_none() {
            return Ok(());
        }
        let identity = handle.identity();
        if self.builder.is_written_through(&identity) {
            // Through the first handle it is written for all of them.
            if self.written_through.insert(identity.clone()) {
                return handle.visit_content(&mut WriteThroughCells {
                    walk: self,
                    in_shared_cells: 1,
                });
            }
            self.mark_all_below();
            return Ok(());
        }
        // Once the other handles point at the new node, the last old one is the only one: it is no
        // less a part of the tie.
        if !self.builder.has_new(&identity) && handle.is_unique() {
            return visit(self, handle);
        }
        // A new node keeps the shared cells that are in it: these are written through, here as at
        // their other places.
        handle.visit_content(&mut WriteThroughCells {
            walk: self,
            in_shared_cells: 0,
        })?;
        self.mark_all_below();
        renew(self, handle)
    }

    /// Makes the new nodes that writing will need, all before anything is written: a node that
    /// cannot be rebuilt is an error that leaves the tree as it was.
    fn prepare<'h>(
        &mut self,
        handle: &'h mut dyn Shared,
        visit: impl FnOnce(&mut Self, &'h mut dyn Shared) -> Result<()>,
    ) -> Result<()> {
        if self.written_below().next().is_none()
            || self.builder.is_written_through(&handle.identity())
        {
            return Ok(());
        }
        if handle.is_unique() {
            visit(self, handle)
        } else {
            handle.prepare(&mut Builder::new(&mut self.builder))
        }
    }

    fn written_below(&self) -> impl Iterator<Item = &Place> {
        let node = self.builder.node();
        node.into_iter()
            .flat_map(|node| self.layout.places_below(node))
            .filter(|place| is_written(self.writer, place))
    }

    /// What is below need not be visited, or has been.
    fn mark_all_below(&mut self) {
        let Some(node) = self.builder.node() else {
            return;
        };
        for place in self.layout.place_ids_below(node) {
            self.seen.mark(place);
        }
    }
}

impl<'a, P: WriteLeaf<'a>> VisitorMut<'a> for InPlace<'_, '_, '_, 'a, P> {
    #[inline]
    fn leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()> {
        InPlace::leaf(self, leaf)
    }

    fn shared(&mut self, handle: &'a mut dyn Shared) -> Result<()> {
        InPlace::shared(
            self,
            handle,
            |walk, handle| handle.visit_unique(walk),
            |walk, handle| {
                // Turned over at the end, so that no error or panic leaves half a tie.
                let node = walk.builder.node();
                walk.to_renew.extend(node.map(|node| (node, handle)));
                Ok(())
            },
        )
    }

    #[inline]
    fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.builder.cursor.enter(key)
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.builder.cursor.leave(key);
    }
}

/// The content of a cell, which lives only as long as the guard.
struct UnderGuardMut<'w, W>(&'w mut W);

impl<'guard, 'a, P: WriteLeaf<'a>> VisitorMut<'guard>
    for UnderGuardMut<'_, InPlace<'_, '_, '_, 'a, P>>
{
    fn leaf(&mut self, leaf: LeafMut<'_, 'guard>) -> Result<()> {
        guarded_slice::as_writer(leaf, |leaf| self.0.leaf(leaf))
    }

    fn shared(&mut self, handle: &'guard mut dyn Shared) -> Result<()> {
        // The handle is gone when the guard is, so it cannot wait for the end of the walk.
        self.0.shared(
            handle,
            |walk, handle| handle.visit_unique(&mut UnderGuardMut(walk)),
            |walk, handle| handle.renew(&mut Builder::new(&mut walk.builder)),
        )
    }

    fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.0.enter(key)
    }

    fn leave(&mut self, key: Key<'_>) {
        self.0.leave(key);
    }
}

/// Walks as [`InPlace`] does and writes nothing.
struct Prepare<'w, W>(&'w mut W);

impl<'any, 'a, P: WriteLeaf<'a>> VisitorMut<'any> for Prepare<'_, InPlace<'_, '_, '_, 'a, P>> {
    fn leaf(&mut self, _leaf: LeafMut<'_, 'any>) -> Result<()> {
        Ok(())
    }

    fn shared(&mut self, handle: &'any mut dyn Shared) -> Result<()> {
        self.0.prepare(handle, |walk, handle| {
            handle.visit_unique(&mut Prepare(walk))
        })
    }

    fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.0.builder.cursor.enter(key)
    }

    fn leave(&mut self, key: Key<'_>) {
        self.0.builder.cursor.leave(key);
    }
}

/// Looks in a shared node for shared nodes of which all is in cells, and writes through these.
struct WriteThroughCells<'w, W> {
    walk: &'w mut W,
    /// How many such nodes are around.
    in_shared_cells: usize,
}

impl<'s, 'a, P: WriteLeaf<'a>> Visitor<'s> for WriteThroughCells<'_, InPlace<'_, '_, '_, 'a, P>> {
    fn leaf(&mut self, _leaf: LeafRef<'_, 's>) -> Result<()> {
        Ok(())
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    fn guarded(&mut self, cell: &'s dyn Guarded) -> Result<()> {
        if self.in_shared_cells > 0 {
            return cell
                .write(&mut |content| content.visit_mut(&mut UnderGuardMut(&mut *self.walk)));
        }
        cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self)))
    }

    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        self.walk.builder.cursor.enter(key)
    }

    fn leave(&mut self, key: Key<'_>) {
        self.walk.builder.cursor.leave(key);
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        // What is in cells of such a node is written through its first handle, wherever that is.
        let is_cells = self.walk.builder.is_written_through(&identity);
        if is_cells && !self.walk.written_through.insert(identity) {
            self.walk.mark_all_below();
            return Ok(false);
        }
        // Nodes within it are counted too, so that each leaving of a node finds its entering.
        self.in_shared_cells += usize::from(is_cells || self.in_shared_cells > 0);
        Ok(true)
    }

    fn leave_shared(&mut self) {
        self.in_shared_cells = self.in_shared_cells.saturating_sub(1);
    }
}
