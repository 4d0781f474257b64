//! A second walk over a tree that has been checked: hands every leaf that the layout knows to what moves its elements.

use crate::check::Seen;
use crate::error::{Error, Result};
use crate::layout::{Cursor, Inner, Place};
use crate::tree::{Brief, Cell, Identity, Key, LeafRef, Tree, Visitor};

/// Takes the leaves of a tree.
pub(crate) trait Take<'a> {
    /// Whether the leaf at a place is wanted at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there. A reference: moving a leaf costs as much as comparing it.
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()>;

    /// A node that others may hold too begins here, and so does what is in it.
    fn enter_shared(&mut self) {}

    fn leave_shared(&mut self) {}
}

/// Walks a tree and gives its wanted leaves to `take`.
///
/// # Errors
/// What `take` returns; a tree that is not as it was checked.
pub(crate) fn walk<'a, T: Tree + ?Sized>(layout: &Inner, tree: &'a T, take: &mut impl Take<'a>) -> Result<Seen> {
    let mut matched = Matched { layout, cursor: Cursor::new(&layout.paths), seen: Seen::default(), take };
    tree.visit(&mut matched).map_err(|error| error.or_at(|| matched.cursor.path()))?;
    Ok(matched.seen)
}

/// As [`walk`], over a tree in which every place was found.
pub(crate) fn walk_all<'a, T: Tree + ?Sized>(layout: &Inner, tree: &'a T, take: &mut impl Take<'a>) -> Result<()> {
    let seen = walk(layout, tree, take)?;
    if seen.is_complete(layout.places.len()) { Ok(()) } else { Err(Error::unstable("a tree that lost leaves between two visits")) }
}

struct Matched<'l, 't, T> {
    layout: &'l Inner,
    cursor: Cursor<'l>,
    seen: Seen,
    take: &'t mut T,
}

impl<'a, T: Take<'a>> Matched<'_, '_, T> {
    /// A leaf that is not the one that comes next, or has something about it.
    #[cold]
    #[inline(never)]
    fn other_leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.enter(key, frozen)?;
        self.leaf(leaf)?;
        self.leave(key);
        Ok(())
    }
}

impl<'a, T: Take<'a>> Visitor<'a> for Matched<'_, '_, T> {
    #[inline]
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let Some(index) = self.cursor.place() else { return Ok(()) };
        let place = self.layout.place(index);
        if !self.seen.mark(index) {
            return Err(Error::duplicate(self.cursor.path()));
        }
        if !self.take.wants(place) {
            return Ok(());
        }
        if !place.has_shape(leaf.shape) {
            return Err(Error::unstable("a leaf that changed its shape between two visits"));
        }
        self.take.take(place, &leaf)
    }

    #[inline]
    fn leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        if let Some(index) = self.cursor.next_leaf(key) {
            let place = self.layout.place(index);
            if place.plain && self.take.wants(place) && place.has_shape(leaf.shape) && self.seen.mark_next(index) {
                self.take.take(place, &leaf)?;
                self.cursor.pass_leaf();
                return Ok(());
            }
        }
        self.other_leaf_at(key, frozen, leaf)
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    fn cell(&mut self, cell: &'a dyn Cell) -> Result<()> {
        cell.read(&mut |content| content.visit(&mut Brief(&mut *self)))
    }

    #[inline]
    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        self.cursor.enter(key)
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.cursor.leave(key);
    }

    /// Below a path that the layout does not know nothing is wanted: a node there is not worth a visit.
    fn enter_shared(&mut self, _identity: Identity) -> Result<bool> {
        let is_known = self.cursor.node().is_some();
        if is_known {
            self.take.enter_shared();
        }
        Ok(is_known)
    }

    fn leave_shared(&mut self) {
        self.take.leave_shared();
    }
}
