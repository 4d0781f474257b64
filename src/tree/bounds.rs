//! What keeps a walk that copies a tree within bounds, whatever the tree says.

use std::collections::HashSet;

use super::Identity;
use super::stack::MAX_LEVELS;
use crate::error::{Error, Result};

/// A diamond of shared nodes is copied for every way down; more extra nodes than this are an error.
const MAX_EXTRA_NODES: usize = 1 << 20;

/// Counts levels and what is met again, and knows the shared nodes that the walk is in.
#[derive(Default)]
pub(crate) struct Bounds {
    levels: usize,
    /// Shared nodes around, the innermost last.
    open: Vec<Identity>,
    met: HashSet<Identity>,
    /// How many of the open shared nodes are there for a second time, or in one that is.
    met_again: usize,
    extra_nodes: usize,
}

impl Bounds {
    /// Goes down to a child; its level.
    ///
    /// # Errors
    /// `is_too_deep`, `is_too_many_places`.
    pub(crate) fn enter(&mut self) -> Result<usize> {
        self.extra_nodes += usize::from(self.met_again > 0);
        if self.extra_nodes > MAX_EXTRA_NODES {
            return Err(Error::too_many_places());
        }
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        Ok(self.levels)
    }

    pub(crate) fn leave(&mut self) {
        self.levels -= 1;
    }

    /// Goes into a shared node, which is always visited: it is copied at each of its places.
    ///
    /// # Errors
    /// `is_cycle`: a node that is around itself.
    pub(crate) fn enter_shared(
        &mut self,
        identity: Identity,
        path: impl FnOnce() -> String,
    ) -> Result<bool> {
        if self.open.contains(&identity) {
            return Err(Error::cycle(path()));
        }
        if self.met_again > 0 || !self.met.insert(identity.clone()) {
            self.met_again += 1;
        }
        self.open.push(identity);
        Ok(true)
    }

    pub(crate) fn leave_shared(&mut self) {
        self.open.pop();
        self.met_again = self.met_again.saturating_sub(1);
    }
}
