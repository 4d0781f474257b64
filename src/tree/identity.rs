//! What makes two places one parameter: an identity, which is an address or an identifier, never a
//! value.
//!
//! Two handles that are equal by value are two parameters, and must stay two: a layer that was
//! initialised like another is trained apart from it. Two handles of one allocation are one, and
//! must stay one: written as two, the last one written would win.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::{Builder, Tree, Visitor, VisitorMut};
use crate::error::Result;

/// The identity of a shared node or leaf. Two places of equal identity are one parameter.
///
/// Either the address of an allocation ([`Identity::address`]), which is compared within one borrow
/// of a tree only, or an identifier that another library gives out ([`Identity::of`]). Equal values
/// are no identity.
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
pub struct Identity(IdentityKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum IdentityKind {
    Address(usize),
    Own(OwnIdentity),
}

impl Identity {
    /// The allocation behind a shared pointer.
    ///
    /// An address is an identity only while the object lives, so it is compared within one borrow
    /// of a tree and never stored. Pointers of one allocation are equal whatever type they see it
    /// as.
    ///
    /// ```
    /// use flatleaf::Identity;
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new([1.0_f32]);
    /// let as_slice: Rc<[f32]> = shared.clone();
    /// assert_eq!(Identity::address(Rc::as_ptr(&shared)), Identity::address(Rc::as_ptr(&as_slice)));
    /// assert_ne!(Identity::address(Rc::as_ptr(&shared)), Identity::address(Rc::as_ptr(&Rc::new([1.0_f32]))));
    /// ```
    pub fn address<T: ?Sized>(pointer: *const T) -> Self {
        // The metadata of a fat pointer (a length, a vtable) says how the allocation is seen, and
        // vtables of one type may differ between compilation units.
        Identity(IdentityKind::Address(pointer.cast::<()>() as usize))
    }

    /// An identifier that the library behind a foreign leaf gives out: candle's `TensorId`, burn's
    /// `ParamId`.
    ///
    /// Two of them are equal if they are of one type and equal as values, so that numbers of two
    /// libraries never meet. The library must keep it while the tensor lives, and give it to no
    /// other.
    ///
    /// ```
    /// use flatleaf::Identity;
    ///
    /// #[derive(Clone, PartialEq, Eq, Hash)]
    /// struct ParamId(String);
    ///
    /// let id = ParamId("embed".into());
    /// assert_eq!(Identity::of(id.clone()), Identity::of(id));
    /// assert_ne!(Identity::of(ParamId("embed".into())), Identity::of("embed".to_owned())); // the type is a part of it
    /// ```
    pub fn of<I: Clone + Eq + Hash + Send + Sync + 'static>(identifier: I) -> Self {
        Identity(IdentityKind::Own(OwnIdentity(Box::new(identifier))))
    }
}

impl Identity {
    /// Whether it is the address of an object, which proves that two handles hold the same one.
    pub(crate) fn is_address(&self) -> bool {
        matches!(self.0, IdentityKind::Address(_))
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

    // Identifiers of two types are never equal, whatever numbers they hold: one library's tensor 7
    // is not the other's.
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

/// A node with interior mutability: what it holds can be written through a shared reference, under
/// its guard.
///
/// Implement it for a lock of one's own; [`Tree::visit`](super::Tree::visit) then reports the lock
/// with [`guarded`](super::Visitor::guarded) and never holds a guard while a sibling is visited.
/// The content must be what the cell keeps, not a temporary made for the call: an address is an
/// identity only while the object lives.
///
/// ```
/// use flatleaf::{destructure, Builder, Guarded, Result, Tree, Visitor, VisitorMut};
/// use std::sync::{Arc, Mutex, PoisonError};
///
/// /// A lock that forgives the panic of who held it.
/// struct Forgiving(Mutex<Vec<f32>>);
///
/// impl Guarded for Forgiving {
///     fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()> {
///         visit(&*self.0.lock().unwrap_or_else(PoisonError::into_inner))
///     }
///     fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()> {
///         visit(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
///     }
/// }
///
/// impl Tree for Forgiving {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.guarded(self)
///     }
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         self.0.get_mut().unwrap_or_else(PoisonError::into_inner).visit_mut(visitor)
///     }
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         Ok(Forgiving(Mutex::new(content.rebuild(builder)?)))
///     }
///     flatleaf::rebuild_object!();
/// }
///
/// let weight = Arc::new(Forgiving(Mutex::new(vec![1.0])));
/// let (_, layout) = destructure(&weight)?;
/// layout.restructure_into(&mut weight.clone(), &[2.0])?; // through the lock, although it is shared
/// assert_eq!(*weight.0.lock().unwrap(), [2.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Guarded {
    /// Calls `visit` with the content, for reading, while the guard is held.
    ///
    /// # Errors
    /// What `visit` returns; an error of its own where no guard is to be had: a poisoned lock, a
    /// cell that is borrowed for writing.
    fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()>;

    /// Calls `visit` with the content, for writing, while the guard is held.
    ///
    /// # Errors
    /// What `visit` returns; an error of its own where no guard is to be had: a poisoned lock, a
    /// cell that is borrowed at all.
    fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()>;
}

/// A handle to a node that other handles may share: what writing in place needs to know about it.
///
/// Implemented for `Rc`, `Arc` and `ArcArray`; implement it for a shared pointer of one's own.
///
/// ```
/// use flatleaf::{destructure, Builder, Identity, Result, Shared, Tree, Visitor, VisitorMut};
/// use std::rc::Rc;
///
/// #[derive(Clone)]
/// struct Handle(Rc<Vec<f32>>);
///
/// impl Shared for Handle {
///     fn identity(&self) -> Identity {
///         Identity::address(Rc::as_ptr(&self.0))
///     }
///     fn is_unique(&mut self) -> bool {
///         Rc::get_mut(&mut self.0).is_some()
///     }
///     fn visit_unique<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         Rc::get_mut(&mut self.0).expect("asked for on a unique handle").visit_mut(visitor)
///     }
///     fn visit_content<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         (*self.0).visit(visitor)
///     }
///     fn prepare(&self, builder: &mut Builder<'_>) -> Result<()> {
///         self.rebuild(builder).map(drop)
///     }
///     fn renew(&mut self, builder: &mut Builder<'_>) -> Result<()> {
///         *self = Tree::rebuild(&*self, builder)?;
///         Ok(())
///     }
/// }
///
/// impl Tree for Handle {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.shared(self.identity(), &*self.0)
///     }
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         visitor.shared(self)
///     }
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         builder.shared(self.identity(), self, |builder| Ok(Handle(Rc::new((*self.0).rebuild(builder)?))))
///     }
/// }
///
/// let handle = Handle(Rc::new(vec![1.0]));
/// let mut model = (handle.clone(), handle.clone());
/// let (_, layout) = destructure(&model)?;
/// layout.restructure_into(&mut model, &[2.0])?;
/// assert!(Rc::ptr_eq(&model.0.0, &model.1.0)); // still one
/// assert_eq!((&*model.0.0, &*handle.0), (&vec![2.0], &vec![1.0])); // who holds it outside the model keeps the old one
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Shared {
    /// The identity of what is shared, equal for all handles of one node: usually the
    /// [`address`](Identity::address) of the allocation. Asked for several times while a tree is
    /// borrowed, and answered alike each time.
    fn identity(&self) -> Identity;

    /// Whether this is the only handle, inside and outside the tree, so that the node can be
    /// written where it is: `Rc::get_mut(..).is_some()` for an `Rc`. A handle that says so and is
    /// not the only one changes what others hold.
    fn is_unique(&mut self) -> bool;

    /// Visits the node for writing where it is. Called only right after
    /// [`is_unique`](Shared::is_unique) has said yes.
    ///
    /// # Errors
    /// What the visitor returns, unchanged: it adds the path.
    fn visit_unique<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()>;

    /// Visits the node for reading. Called where other handles share it, so that the node cannot be
    /// written but the cells and locks in it can, under their guards.
    ///
    /// # Errors
    /// What the visitor returns, unchanged: it adds the path.
    fn visit_content<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()>;

    /// Makes the new node that [`renew`](Shared::renew) points to and lets the builder keep it, so
    /// that `renew` cannot fail.
    ///
    /// # Errors
    /// What rebuilding the node returns.
    fn prepare(&self, builder: &mut Builder<'_>) -> Result<()>;

    /// Points the handle at a new node, one for all handles of this identity:
    /// [`Builder::shared`] makes it at the first and hands it out to the others. Called after
    /// [`prepare`](Shared::prepare) on every such handle, when nothing is left to fail.
    ///
    /// # Errors
    /// What rebuilding the node returns.
    fn renew(&mut self, builder: &mut Builder<'_>) -> Result<()>;
}
