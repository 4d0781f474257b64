//! The trainable leaves of a tree as slices to be written, where the tree is plain: one walk that
//! checks and collects, in place of one that checks and one that writes.
//!
//! Plain is a tree whose leaves come in the order of the layout, each at one place, outside of
//! shared nodes, and lend their slices. At the first thing that is otherwise the walk is given up,
//! with nothing written, and the caller goes the long way, which knows what to say about it.

use crate::element::Sink;
use crate::error::{Error, Result};
use crate::layout::{Cursor, LayoutData};
use crate::memory::pool::Pool;
use crate::slices::FloatsMut;
use crate::tree::{Key, LeafMut, Shared, Tree, VisitorMut};

thread_local! {
    static SLICES: Pool<FloatsMut<'static>> = const { Pool::new() };
}

/// Keeps the allocation of a list of slices for the next call.
pub(crate) fn give_back(slices: Vec<FloatsMut<'_>>) {
    Pool::give(&SLICES, slices);
}

/// One for each trainable leaf, in flat order; `None` if the tree is not plain.
pub(crate) fn borrow_all_mut<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a mut T,
) -> Option<Vec<FloatsMut<'a>>> {
    if !layout.is_plain {
        return None;
    }
    let mut slices: Vec<FloatsMut<'a>> = Pool::take(&SLICES);
    slices.reserve_exact(layout.leaves.len());
    let mut borrow = BorrowAll {
        layout,
        cursor: Cursor::new(&layout.paths),
        next: 0,
        slices,
    };
    let visited = tree.visit_mut(&mut borrow);
    let is_visited = visited.is_ok() && borrow.next as usize == layout.places.len();
    // A tree may have gone on after an error.
    let is_plain = is_visited && borrow.slices.len() == layout.leaves.len();
    is_plain.then_some(borrow.slices)
}

struct BorrowAll<'l, 'a> {
    layout: &'l LayoutData,
    cursor: Cursor<'l>,
    /// The place that should come next.
    next: u32,
    slices: Vec<FloatsMut<'a>>,
}

impl<'a> BorrowAll<'_, 'a> {
    #[inline]
    fn borrow_next(&mut self, index: Option<u32>, leaf: LeafMut<'_, 'a>) -> Result<()> {
        if index != Some(self.next) {
            return Err(given_up());
        }
        let place = self.layout.place(self.next);
        // Places that are not trainable are counted too: one of them that is missing is an error
        // that the long way has to name.
        self.next += 1;
        if !place.leaf.trainable {
            return Ok(());
        }
        let Sink::Bytes(bytes) = leaf.sink else {
            return Err(given_up());
        };
        let is_as_planned = leaf.dtype == place.dtype && place.has_shape(leaf.shape);
        match FloatsMut::from_bytes(leaf.dtype, bytes) {
            // A tree may lend a slice that is shorter than the shape it names.
            Some(floats) if is_as_planned && floats.has_len(place.len) => self.slices.push(floats),
            _ => return Err(given_up()),
        }
        Ok(())
    }
}

/// Nobody reads it.
#[cold]
fn given_up() -> Error {
    Error::unstable("a tree that is not plain")
}

impl<'a> VisitorMut<'a> for BorrowAll<'_, 'a> {
    fn leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()> {
        self.borrow_next(self.cursor.place(), leaf)
    }

    #[inline]
    fn leaf_at(&mut self, key: Key<'_>, leaf: LeafMut<'_, 'a>) -> Result<()> {
        self.borrow_next(self.cursor.next_leaf(key), leaf)?;
        self.cursor.pass_leaf();
        Ok(())
    }

    fn shared(&mut self, _handle: &'a mut dyn Shared) -> Result<()> {
        Err(given_up())
    }

    #[inline]
    fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.cursor.enter(key)
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.cursor.leave(key);
    }
}
