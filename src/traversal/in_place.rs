//! Writing a tree where it is, after it has been checked.
//!
//! A plain leaf is written directly. A shared node is written where it is if its only handle is
//! here; if all that is written in it is in cells, it is written through them; otherwise it is
//! rebuilt, once for all its handles. These are pointed at the new node when the walk is over: a
//! tree that panics or fails on the way leaves no tie of which one handle is new and another is
//! old. (Handles that are kept in a lock or cell are pointed there at once, as no guard is held for
//! longer than its content is visited.)

use std::collections::HashSet;

use crate::element::{Dtype, Sink, WriteBytes};
use crate::error::{Error, FirstError, Result};
use crate::layout::{LayoutData, NodeId, Place};
use crate::traversal::rebuild::Rebuilding;
use crate::traversal::validate::Seen;
use crate::tree::{
    Builder, Guarded, Identity, Key, LeafMut, LeafRef, Shared, Tree, UnderGuard, Visitor,
    VisitorMut,
};

/// Writes the leaves of a tree.
pub(crate) trait Put<'a> {
    /// Whether the leaf at a place is written at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there.
    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()>;
}

/// Walks a tree and gives its wanted leaves to `put`; what has to be new is made by the builder.
///
/// # Errors
/// What `put` returns; a tree that is not as it was checked.
pub(crate) fn write<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a mut T,
    builder: Rebuilding<'_>,
    put: &mut impl Put<'a>,
) -> Result<()> {
    let mut walk = InPlace::new(layout, builder, put);
    walk.prepare_all(tree)?;
    tree.visit_mut(&mut walk)
        .map_err(|error| error.or_at(|| walk.builder.path()))?;
    std::mem::take(&mut walk.failed).into_result()?;
    walk.find_missing()?;
    walk.renew_all()
}

/// Whether [`write`] will be able to make what has to be new; writes nothing.
///
/// # Errors
/// A node that cannot be rebuilt.
pub(crate) fn check_new<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &mut T,
    builder: Rebuilding<'_>,
    put: &mut impl Put<'a>,
) -> Result<()> {
    InPlace::new(layout, builder, put).prepare_all(tree)
}

/// An array without elements is wanted like any other, but never changes: it is no reason to make
/// the shared node around it anew.
fn is_written<'a>(put: &impl Put<'a>, place: &Place) -> bool {
    place.len > 0 && put.wants(place)
}

struct InPlace<'l, 'b, 'p, 'a, P> {
    layout: &'l LayoutData,
    builder: Rebuilding<'b>,
    put: &'p mut P,
    seen: Seen,
    written_through: HashSet<Identity>,
    /// Handles that will point at a new node, and where they are.
    to_renew: Vec<(NodeId, &'a mut dyn Shared)>,
    failed: FirstError,
}

impl<'l, 'b, 'p, 'a, P: Put<'a>> InPlace<'l, 'b, 'p, 'a, P> {
    fn new(layout: &'l LayoutData, builder: Rebuilding<'b>, put: &'p mut P) -> Self {
        let written = |place| is_written(put, place);
        let written = if builder.meets_shared_nodes() {
            layout.places.iter().map(written).collect()
        } else {
            Vec::new()
        };
        let builder = builder.writing(written);
        InPlace {
            layout,
            builder,
            put,
            seen: Seen::default(),
            written_through: HashSet::new(),
            to_renew: Vec::new(),
            failed: FirstError::default(),
        }
    }

    /// Makes the new nodes that writing will need, all before anything is written.
    fn prepare_all<T: Tree + ?Sized>(&mut self, tree: &mut T) -> Result<()> {
        if !self.builder.meets_shared_nodes() {
            return Ok(());
        }
        tree.visit_mut(&mut Prepare(&mut *self))
            .map_err(|error| error.or_at(|| self.builder.path()))
    }

    /// All that is wanted has been met.
    fn find_missing(&self) -> Result<()> {
        let mut missing = self
            .seen
            .missing(self.layout.places.len())
            .into_iter()
            .map(|place| &self.layout.places[place]);
        let Some(place) = missing.find(|place| is_written(self.put, place)) else {
            return Ok(());
        };
        Err(Error::unstable("a `visit_mut` that does not name it")
            .at(&self.layout.paths.render(place.node)))
    }

    fn renew_all(mut self) -> Result<()> {
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
        if !self.put.wants(place) {
            return Ok(());
        }
        if !place.has_shape(leaf.shape) || leaf.dtype != place.dtype {
            return Err(Error::unstable(
                "a leaf that changed its shape or element type between two visits",
            ));
        }
        self.put.put(place, leaf)
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
            if self.written_through.insert(identity.clone()) {
                return handle.visit_content(&mut Through {
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
        handle.visit_content(&mut Through {
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
            .filter(|place| is_written(self.put, place))
    }

    /// What is below need not be visited, or has been.
    fn mark_all_below(&mut self) {
        let Some(node) = self.builder.node() else {
            return;
        };
        for place in (node..self.layout.paths.node(node).end)
            .filter_map(|node| self.layout.paths.place(node))
        {
            self.seen.mark(place);
        }
    }
}

impl<'a, P: Put<'a>> VisitorMut<'a> for InPlace<'_, '_, '_, 'a, P> {
    #[inline]
    fn leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()> {
        InPlace::leaf(self, leaf)
    }

    #[inline]
    fn leaf_at(&mut self, key: Key<'_>, leaf: LeafMut<'_, 'a>) -> Result<()> {
        if let Some(index) = self.builder.cursor.next_leaf(key) {
            let place = self.layout.place(index);
            let fits = place.plain && place.has_shape(leaf.shape) && leaf.dtype == place.dtype;
            if fits && self.put.wants(place) && self.seen.mark_next(index) {
                self.put.put(place, leaf)?;
                self.builder.cursor.pass_leaf();
                return Ok(());
            }
        }
        self.enter(key)?;
        self.leaf(leaf)?;
        self.builder.cursor.leave(key);
        Ok(())
    }

    fn shared(&mut self, handle: &'a mut dyn Shared) -> Result<()> {
        InPlace::shared(
            self,
            handle,
            |walk, handle| handle.visit_unique(walk),
            |walk, handle| {
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

impl<'guard, 'a, P: Put<'a>> VisitorMut<'guard> for UnderGuardMut<'_, InPlace<'_, '_, '_, 'a, P>> {
    fn leaf(&mut self, leaf: LeafMut<'_, 'guard>) -> Result<()> {
        let LeafMut { dtype, shape, sink } = leaf;
        match sink {
            Sink::Bytes(bytes) => self.0.leaf(LeafMut {
                dtype,
                shape,
                sink: Sink::Writer(&mut Overwrite(bytes)),
            }),
            Sink::Booleans(elements) => self.0.leaf(LeafMut {
                dtype,
                shape,
                sink: Sink::Writer(&mut Overwrite(elements)),
            }),
            Sink::Writer(writer) => self.0.leaf(LeafMut {
                dtype,
                shape,
                sink: Sink::Writer(writer),
            }),
        }
    }

    fn shared(&mut self, handle: &'guard mut dyn Shared) -> Result<()> {
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

/// A slice under a guard, for the call.
struct Overwrite<'s, E>(&'s mut [E]);

impl WriteBytes for Overwrite<'_, u8> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        LeafMut {
            dtype: Dtype::U8,
            shape: &[],
            sink: Sink::Bytes(self.0),
        }
        .write_bytes(values)
    }
}

impl WriteBytes for Overwrite<'_, bool> {
    fn write_bytes(&mut self, values: &[u8]) -> Result<()> {
        LeafMut {
            dtype: Dtype::Bool,
            shape: &[],
            sink: Sink::Booleans(self.0),
        }
        .write_bytes(values)
    }
}

/// Walks as [`InPlace`] does and writes nothing.
struct Prepare<'w, W>(&'w mut W);

impl<'any, 'a, P: Put<'a>> VisitorMut<'any> for Prepare<'_, InPlace<'_, '_, '_, 'a, P>> {
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
struct Through<'w, W> {
    walk: &'w mut W,
    /// How many such nodes are around.
    in_shared_cells: usize,
}

impl<'s, 'a, P: Put<'a>> Visitor<'s> for Through<'_, InPlace<'_, '_, '_, 'a, P>> {
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
        let is_cells = self.walk.builder.is_written_through(&identity);
        if is_cells && !self.walk.written_through.insert(identity) {
            self.walk.mark_all_below();
            return Ok(false);
        }
        self.in_shared_cells += usize::from(is_cells || self.in_shared_cells > 0);
        Ok(true)
    }

    fn leave_shared(&mut self) {
        self.in_shared_cells = self.in_shared_cells.saturating_sub(1);
    }
}
