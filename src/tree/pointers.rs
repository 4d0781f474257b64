//! Boxes, references, shared pointers, cells and locks.
//!
//! A shared pointer is a node with an identity: every handle is a place of the same parameters. A
//! cell is written through; the guard covers its content and no sibling, and identity is looked up
//! before a guard is taken, so a tie cannot deadlock.
//!
//! An example: `(a, b)` with two handles of one `Rc<RefCell<Vec<f32>>>`. Visiting `0` tells the
//! visitor the identity of the allocation, which is new, so it goes in: the cell lends its vector
//! under a guard, the leaf is met, and the guard is given back. Visiting `1` tells the identity
//! again, the visitor knows it, and the cell is not borrowed a second time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use super::identity::{Guarded, Identity, Shared};
use super::{Builder, Tree, Visitor, VisitorMut, stack};
use crate::error::{Error, Result};

/// Adds no segment to the path.
impl<T: Tree + ?Sized + 'static> Tree for Box<T> {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        // A box in a box is no level, so that no count of levels stops a chain of them.
        stack::check_stack_space()?;
        (**self).visit(visitor)
    }

    #[inline]
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        stack::check_stack_space()?;
        (**self).visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        builder.boxed(&**self)
    }

    crate::rebuild_object!();
}

const A_REFERENCE: &str = "one behind a `&` reference";

/// For reading only: writing where something is trainable is an error.
impl<T: Tree + ?Sized> Tree for &T {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.read_only();
        (**self).visit(visitor)
    }

    // Whatever is trainable below has been refused when the tree was checked, and where nothing is
    // there is nothing to write.
    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        if builder.changes() {
            return Err(Error::read_only(A_REFERENCE));
        }
        Ok(self)
    }
}

/// Written through; a new tree cannot be made of it.
impl<T: Tree + ?Sized> Tree for &mut T {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        (**self).visit(visitor)
    }

    #[inline]
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        (**self).visit_mut(visitor)
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Err(Error::read_only(
            "a new tree that would hold a `&mut` reference",
        ))
    }
}

macro_rules! shared_pointers {
    ($($pointer:ident),*) => {$(
        /// Every handle is a place of the same parameters. Adds no segment to the path.
        impl<T: Tree + ?Sized + 'static> Tree for $pointer<T> {
            #[inline]
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.shared(self.identity(), &**self)
            }

            #[inline]
            fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                visitor.shared(self)
            }

            fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                builder.shared(self.identity(), self, |builder| {
                    // By way of a box, which a trait object can be put into.
                    let content = builder.boxed(&**self)?;
                    Ok(content.into())
                })
            }

            crate::rebuild_object!();
        }

        impl<T: Tree + ?Sized + 'static> Shared for $pointer<T> {
            fn identity(&self) -> Identity {
                Identity::address($pointer::as_ptr(self))
            }

            fn is_unique(&mut self) -> bool {
                $pointer::get_mut(self).is_some()
            }

            fn visit_unique<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                stack::check_stack_space()?;
                // Between `is_unique` and here no other handle can have been made but by the tree
                // itself, which then is not what it was.
                let Some(content) = $pointer::get_mut(self) else {
                    return Err(Error::unstable("a handle that was the only one"));
                };
                content.visit_mut(visitor)
            }

            fn visit_content<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                (**self).visit(visitor)
            }

            fn prepare(&self, builder: &mut Builder<'_>) -> Result<()> {
                self.rebuild(builder).map(drop)
            }

            fn renew(&mut self, builder: &mut Builder<'_>) -> Result<()> {
                *self = Tree::rebuild(&*self, builder)?;
                Ok(())
            }
        }
    )*};
}

shared_pointers!(Rc, Arc);

/// Borrowed while its content is visited; adds no segment to the path.
impl<T: Tree> Tree for RefCell<T> {
    #[inline]
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.guarded(self)
    }

    // Who has the cell itself mutably needs no guard, and nobody else can hold one.
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.get_mut().visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        // Never `borrow`: a cell that is borrowed elsewhere is an error with its path, and no
        // panic.
        let content = self.try_borrow();
        let content = content.map_err(|_| Error::borrowed())?;
        let rebuilt = content.rebuild(builder)?;
        Ok(RefCell::new(rebuilt))
    }

    crate::rebuild_object!();
}

impl<T: Tree> Guarded for RefCell<T> {
    fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()> {
        let content = self.try_borrow();
        let content = content.map_err(|_| Error::borrowed())?;
        visit(&*content)
    }

    fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()> {
        let content = self.try_borrow_mut();
        let mut content = content.map_err(|_| Error::borrowed())?;
        visit(&mut *content)
    }
}

macro_rules! locks {
    ($($lock:ident: $read:ident / $write:ident),*) => {$(
        /// Locked while its content is visited; adds no segment to the path. A poisoned lock is an
        /// error.
        impl<T: Tree> Tree for $lock<T> {
            #[inline]
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.guarded(self)
            }

            fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                let content = self.get_mut();
                let content = content.map_err(|_| Error::poisoned())?;
                content.visit_mut(visitor)
            }

            fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                let content = self.$read();
                let content = content.map_err(|_| Error::poisoned())?;
                let rebuilt = content.rebuild(builder)?;
                Ok($lock::new(rebuilt))
            }

            crate::rebuild_object!();
        }

        impl<T: Tree> Guarded for $lock<T> {
            fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()> {
                let content = self.$read();
                let content = content.map_err(|_| Error::poisoned())?;
                visit(&*content)
            }

            fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()> {
                let content = self.$write();
                let mut content = content.map_err(|_| Error::poisoned())?;
                visit(&mut *content)
            }
        }
    )*};
}

locks!(Mutex: lock / lock, RwLock: read / write);
