//! Visiting what is under a guard.

use super::identity::{Cell, Identity};
use super::{Key, LeafRef, Visitor};
use crate::error::Result;

/// Shows the content of a cell, which lives only as long as the guard, to a visitor of the whole
/// tree: slices are lent for the call.
pub(crate) struct Brief<'v, 'a>(pub(crate) &'v mut dyn Visitor<'a>);

impl<'guard> Visitor<'guard> for Brief<'_, '_> {
    fn leaf(&mut self, leaf: LeafRef<'_, 'guard>) -> Result<()> {
        self.0.leaf(leaf.brief())
    }

    fn no_leaf(&mut self) -> Result<()> {
        self.0.no_leaf()
    }

    fn cell(&mut self, cell: &'guard dyn Cell) -> Result<()> {
        self.0.enter_cell();
        cell.read(&mut |content| content.visit(&mut Brief(&mut *self.0)))?;
        self.0.leave_cell();
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

    fn enter_cell(&mut self) {
        self.0.enter_cell();
    }

    fn leave_cell(&mut self) {
        self.0.leave_cell();
    }
}
