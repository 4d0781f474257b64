//! What makes two places one parameter: an identity, which is an address or an identifier, never a value.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::{Builder, Tree, Visitor, VisitorMut};
use crate::error::Result;

/// The identity of a shared node or leaf. Two places of equal identity are one parameter.
///
/// ```
/// use flatleaf::Identity;
///
/// #[derive(Clone, PartialEq, Eq, Hash)]
/// struct TensorId(u64);
///
/// assert_eq!(Identity::of(TensorId(7)), Identity::of(TensorId(7)));
/// assert_ne!(Identity::of(TensorId(7)), Identity::of(7_u64));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Address(usize),
    Own(OwnIdentity),
}

impl Identity {
    /// The allocation behind a shared pointer.
    ///
    /// An address is an identity only while the object lives, so it is compared within one borrow of a tree and never stored.
    /// Pointers of one allocation are equal whatever type they see it as.
    pub fn address<T: ?Sized>(pointer: *const T) -> Self {
        Identity(Kind::Address(pointer.cast::<()>() as usize))
    }

    /// An identifier that the library behind a foreign leaf gives out: candle's `TensorId`, burn's `ParamId`.
    pub fn of<I: Clone + Eq + Hash + Send + Sync + 'static>(identifier: I) -> Self {
        Identity(Kind::Own(OwnIdentity(Box::new(identifier))))
    }
}

struct OwnIdentity(Box<dyn Identifier>);

trait Identifier: Any + Send + Sync {
    fn boxed(&self) -> Box<dyn Identifier>;
    fn equals(&self, other: &dyn Any) -> bool;
    fn hash_into(&self, state: &mut dyn Hasher);
}

impl<I: Clone + Eq + Hash + Send + Sync + 'static> Identifier for I {
    fn boxed(&self) -> Box<dyn Identifier> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<I>() == Some(self)
    }

    fn hash_into(&self, mut state: &mut dyn Hasher) {
        self.hash(&mut state);
    }
}

impl Clone for OwnIdentity {
    fn clone(&self) -> Self {
        OwnIdentity((*self.0).boxed())
    }
}

impl PartialEq for OwnIdentity {
    fn eq(&self, other: &Self) -> bool {
        (*self.0).equals(&*other.0)
    }
}

impl Eq for OwnIdentity {}

impl Hash for OwnIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self.0).hash_into(state);
    }
}

impl fmt::Debug for OwnIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnIdentity")
    }
}

/// A node with interior mutability: what it holds can be written through a shared reference, under its guard.
///
/// Implement it for a lock of one's own; [`Tree::visit`](super::Tree::visit) then reports the lock with
/// [`cell`](super::Visitor::cell) and never holds a guard while a sibling is visited. The content must be what the cell keeps, not a
/// temporary made for the call: an address is an identity only while the object lives.
pub trait Cell {
    /// Calls `visit` with the content, for reading.
    ///
    /// # Errors
    /// What `visit` returns; a poisoned lock, or a cell that is borrowed for writing.
    fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()>;

    /// Calls `visit` with the content, for writing.
    ///
    /// # Errors
    /// What `visit` returns; a poisoned lock, or a cell that is borrowed.
    fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()>;
}

/// A handle to a node that other handles may share: what writing in place needs to know about it.
///
/// Implemented for `Rc`, `Arc` and `ArcArray`; implement it for a shared pointer of one's own.
pub trait Shared {
    /// The identity of what is shared.
    fn identity(&self) -> Identity;

    /// Whether this is the only handle, so that the node can be written where it is.
    fn is_unique(&mut self) -> bool;

    /// Visits the node for writing; called only on a unique handle.
    ///
    /// # Errors
    /// What the visitor returns.
    fn visit_unique<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()>;

    /// Visits the node for reading, to reach the cells in it.
    ///
    /// # Errors
    /// What the visitor returns.
    fn visit_content<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()>;

    /// Makes that new node and lets the builder keep it, so that [`renew`](Shared::renew) cannot fail.
    ///
    /// # Errors
    /// What rebuilding the node returns.
    fn prepare(&self, builder: &mut Builder<'_>) -> Result<()>;

    /// Points the handle at a new node, the same one for every handle of this identity.
    ///
    /// # Errors
    /// What rebuilding the node returns.
    fn renew(&mut self, builder: &mut Builder<'_>) -> Result<()>;
}
