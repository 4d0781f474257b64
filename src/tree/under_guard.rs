//! Visiting what is under a guard.

use super::identity::{Guarded, Identity};
use super::{Key, LeafRef, Visitor};
use crate::error::Result;

/// Shows the content of a cell, which lives only as long as the guard, to a visitor of the whole
/// tree: slices are lent for the call.
pub(crate) struct UnderGuard<'v, 'a>(pub(crate) &'v mut dyn Visitor<'a>);

impl<'guard> Visitor<'guard> for UnderGuard<'_, '_> {
    fn leaf(&mut self, leaf: LeafRef<'_, 'guard>) -> Result<()> {
        self.0.leaf(leaf.for_this_call())
    }

    fn no_leaf(&mut self) -> Result<()> {
        self.0.no_leaf()
    }

    fn guarded(&mut self, cell: &'guard dyn Guarded) -> Result<()> {
        let is_writing = self.0.enter_guarded(cell);
        if is_writing {
            cell.write(&mut |content| content.visit(&mut UnderGuard(&mut *self.0)))?;
        } else {
            cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self.0)))?;
        }
        self.0.leave_guarded();
        Ok(())
    }

    fn read_only(&mut self) {
        self.0.read_only();
    }

    fn enter(&mut self, key: Key<'_>, frozen: bool) -> Result<usize> {
        self.0.enter(key, frozen)
    }

    fn leave(&mut self, key: Key<'_>) {
        self.0.leave(key);
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.0.enter_shared(identity)
    }

    fn leave_shared(&mut self) {
        self.0.leave_shared();
    }

    fn enter_guarded(&mut self, cell: &dyn Guarded) -> bool {
        self.0.enter_guarded(cell)
    }

    fn leave_guarded(&mut self) {
        self.0.leave_guarded();
    }
}
