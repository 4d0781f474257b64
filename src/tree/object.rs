//! A tree of any type as `&dyn Tree`.

use super::{Builder, Tree, Visitor, VisitorMut};
use crate::error::{Error, Result};

/// A tree to be read, as what it is: a reference says of itself that it cannot be written. What is
/// done with `&dyn Tree` is compiled once, here, and not for every type of trees in its user's crate.
pub(crate) struct Object<'t, T: ?Sized>(pub(crate) &'t T);

impl<T: Tree + ?Sized> Tree for Object<'_, T> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.0.visit(visitor)
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Err(read_only())
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Err(read_only())
    }
}

#[cold]
fn read_only() -> Error {
    Error::read_only("one that was given to be read")
}
