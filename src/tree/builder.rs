//! What a tree is rebuilt with: a face that implementations of `Tree` see, over the walk that knows
//! what is new.
//!
//! A tree rebuilds itself field by field, and asks the builder for each child and leaf in the order
//! in which it visits them. The walk behind the builder follows along the layout's paths, so that
//! it knows at every leaf which elements are meant. An example: `(a, a)`, two handles of one
//! `Rc<Vec<f32>>`, restructured from `[2.0]`.
//!
//! 1. The tuple asks for child `0`: the walk goes down to the path `0`.
//! 2. The `Rc` asks for the shared node of its identity. None has been made, so its content is
//!    rebuilt: the vector asks for its leaf, which is `[2.0]`, and a new `Rc` is kept in
//!    [`MadeParts`].
//! 3. The tuple asks for child `1`, and the `Rc` for the shared node of the same identity: it gets
//!    a clone of the new handle, and the tie is one again.
//!
//! Cloning the tree and then writing its leaves was tried first: it writes all elements twice, and
//! took 19 to 23 ms on the shapes of ResNet-50 where this takes 9 to 12.

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
use std::collections::HashMap;

use ndarray::{ArcArray, ArrayViewD, IxDyn};

use super::axes::{AxisMap, Shape};
use super::elements::{self, ArrayElement};
use super::identity::Identity;
use super::leaf::LeafRef;
use super::{Key, Tree, stack};
use crate::element::{Dtype, Element, to_elements};
use crate::error::{Error, Result};
use crate::memory;
use crate::slices::{AnyVec, Floats};

/// Makes a new tree after an old one: what [`Tree::rebuild`] is given.
///
/// An implementation asks it for its children ([`child`](Builder::child)) and leaves
/// ([`leaf`](Builder::leaf)), in the order in which it visits them, and puts the answers together
/// to a new value. Ties, frozen leaves and conversions of element types are the builder's affair: a
/// leaf that gets no new elements is answered with its old ones.
///
/// ```
/// use flatleaf::{destructure, Builder, Key, Result, Tree};
/// # use flatleaf::{Visitor, VisitorMut};
///
/// struct Dense { weight: Vec<f32>, bias: Vec<f32>, name: &'static str }
///
/// impl Tree for Dense {
///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///     #     visitor.child(Key::Name("weight"), &self.weight)?;
///     #     visitor.child(Key::Name("bias"), &self.bias)
///     # }
///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///     #     visitor.child(Key::Name("weight"), &mut self.weight)?;
///     #     visitor.child(Key::Name("bias"), &mut self.bias)
///     # }
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         Ok(Dense {
///             weight: builder.child(Key::Name("weight"), &self.weight)?,
///             bias: builder.child(Key::Name("bias"), &self.bias)?,
///             name: self.name,
///         })
///     }
///     // and `visit` and `visit_mut`, which name the same children in the same order
/// }
///
/// let dense = Dense { weight: vec![1.0, 2.0], bias: vec![3.0], name: "head" };
/// let (flat, layout) = destructure(&dense)?;
/// let doubled = layout.restructure(&dense, &flat.iter().map(|x| 2.0 * x).collect::<Vec<_>>())?;
/// assert_eq!((doubled.weight, doubled.bias, doubled.name), (vec![2.0, 4.0], vec![6.0], "head"));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct Builder<'b>(&'b mut (dyn Rebuild + 'b));

/// What a builder asks of the walk that it stands for: a private trait, so that what a tree is
/// needs to know nothing of layouts.
pub(crate) trait Rebuild {
    /// Goes down to a child; its level, which says when to look for space on the stack.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels; `is_unstable`: a child that the first visit did not
    /// show.
    fn enter(&mut self, key: Key<'_>) -> Result<usize>;

    fn leave(&mut self, key: Key<'_>);

    /// What the leaf here becomes, if it has this shape and element type as on the first visit;
    /// `None` if it keeps its elements.
    fn new_leaf(&mut self, shape: &[usize], dtype: Dtype) -> Result<Option<NewLeaf<'_>>>;

    /// What a child that is a leaf becomes, in one call in place of `enter`, `new_leaf` and `leave`,
    /// if it is the leaf that comes next in the layout. Otherwise nothing has happened.
    fn new_child_leaf(&mut self, key: Key<'_>, shape: &[usize], dtype: Dtype) -> NewChild<'_>;

    /// How the leaf here is tied: by which number all its places know it, and how this place lies
    /// on it. `None` for a leaf with one place.
    fn tied_place(&self) -> Option<TiedPlace<'_>>;

    /// Whether the shared node here stays in the new tree as it is: it does if no leaf of it gets
    /// new elements and no cell in it could change later.
    fn keeps_node(&self, identity: &Identity) -> bool;

    /// Whether anything here or below gets a new value. What cannot be made anew, a reference or a
    /// file, is taken over where nothing does, and is an error elsewhere.
    fn has_new_values_below(&self) -> bool;

    /// What has been made for shared nodes and ties so far. It outlives the builder: writing in
    /// place prepares all new nodes before the first handle is pointed at one.
    fn made_parts(&mut self) -> &mut MadeParts;
}

/// The new nodes of shared pointers and the new arrays of ties, so that every later place gets the
/// same one.
#[derive(Default)]
pub(crate) struct MadeParts {
    pub(crate) nodes: HashMap<Identity, Box<dyn Any>>,
    pub(crate) arrays: HashMap<usize, Box<dyn Any>>,
}

/// The new elements of a leaf, and how the place where it is asked for shows them.
pub(crate) struct NewLeaf<'b> {
    pub(crate) elements: NewElements<'b>,
    /// The leaf's own shape, in which the elements are in row-major order.
    pub(crate) shape: &'b [usize],
    pub(crate) axes: Option<&'b AxisMap>,
}

/// The answer about a child that may be the leaf that comes next.
pub(crate) enum NewChild<'b> {
    New(NewLeaf<'b>),
    KeepsOld,
    /// It has to be entered, where more is known about it, or an error found.
    NotNext,
}

pub(crate) enum NewElements<'b> {
    /// Already in a vector of their own, which is given away.
    Ready(AnyVec),
    /// To be copied, and converted where the leaf is of another type.
    Floats(Floats<'b>),
    /// Of the leaf's type, as bytes that need not be aligned.
    Bytes(Cow<'b, [u8]>),
}

/// A leaf of several places.
pub(crate) struct TiedPlace<'b> {
    /// The same number at all of its places, and at no other leaf's.
    pub(crate) id: usize,
    pub(crate) shape: &'b [usize],
    /// How the place here shows the leaf.
    pub(crate) axes: Option<&'b AxisMap>,
}

impl<'b> Builder<'b> {
    pub(crate) fn new(walk: &'b mut (dyn Rebuild + 'b)) -> Self {
        Builder(walk)
    }

    /// Rebuilds a child: a new one like `tree`, with the new elements of the leaves below the key.
    ///
    /// # Errors
    /// What rebuilding it returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{deep_clone, Builder, Key, Result, Tree};
    /// # use flatleaf::{Visitor, VisitorMut};
    ///
    /// struct Stack { layers: Vec<Vec<f32>> }
    ///
    /// impl Tree for Stack {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     self.layers.iter().enumerate().try_for_each(|(index, layer)| visitor.child(Key::Index(index), layer))
    ///     # }
    ///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///     #     self.layers.iter_mut().enumerate().try_for_each(|(index, layer)| visitor.child(Key::Index(index), layer))
    ///     # }
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let layers = self.layers.iter().enumerate().map(|(index, layer)| builder.child(Key::Index(index), layer));
    ///         Ok(Stack { layers: layers.collect::<Result<_>>()? })
    ///     }
    ///     // and `visit` and `visit_mut`
    /// }
    ///
    /// let stack = Stack { layers: vec![vec![1.0], vec![2.0, 3.0]] };
    /// assert_eq!(deep_clone(&stack)?.layers, stack.layers);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[inline]
    pub fn child<T: Tree>(&mut self, key: Key<'_>, tree: &T) -> Result<T> {
        tree.rebuild_at(key, self)
    }

    /// The new elements of the leaf here; none where it keeps its own.
    pub(crate) fn new_leaf(
        &mut self,
        shape: &[usize],
        dtype: Dtype,
    ) -> Result<Option<NewLeaf<'_>>> {
        self.0.new_leaf(shape, dtype)
    }

    /// Rebuilds what is below a key without an object for it that is a tree, as
    /// [`Visitor`](super::Visitor)'s `within` visits it.
    ///
    /// # Errors
    /// What `rebuild` returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{destructure, Builder, Key, LeafRef, Result, Tree};
    /// # use flatleaf::{LeafMut, Visitor, VisitorMut};
    ///
    /// /// `block.w`, as another library names it.
    /// struct Named { w: Vec<f32> }
    ///
    /// impl Tree for Named {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.within(Key::Name("block"), |visitor| {
    ///     #         visitor.child_leaf(Key::Name("w"), LeafRef::from_slice(&[self.w.len()], &self.w))
    ///     #     })
    ///     # }
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let shape = [self.w.len()];
    ///         let old = LeafRef::from_slice(&shape, &self.w);
    ///         let w = builder.within(Key::Name("block"), |builder| builder.child_leaf(Key::Name("w"), old))?;
    ///         Ok(Named { w })
    ///     }
    ///     // and `visit` and `visit_mut`
    /// }
    ///
    /// let named = Named { w: vec![1.0, 2.0] };
    /// let (_, layout) = destructure(&named)?;
    /// assert_eq!(layout.restructure(&named, &[3.0, 4.0])?.w, [3.0, 4.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn within<R>(
        &mut self,
        key: Key<'_>,
        rebuild: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        let level = self.0.enter(key)?;
        let rebuilt = stack::with_stack_space(level, || rebuild(self))?;
        self.0.leave(key);
        Ok(rebuilt)
    }

    /// The elements of a child that is one leaf, in row-major order: those of the flat vector, or
    /// the old ones if the leaf is frozen or carried.
    ///
    /// # Errors
    /// `is_unstable`: a leaf whose shape or element type is not what the first visit saw; what
    /// reading it returns.
    ///
    /// ```
    /// use flatleaf::{destructure, Builder, Key, LeafRef, Result, Tree};
    /// # use flatleaf::{LeafMut, Visitor, VisitorMut};
    ///
    /// struct Bias(f32);
    ///
    /// impl Tree for Bias {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.child_leaf(Key::Name("bias"), LeafRef::from_slice(&[], std::slice::from_ref(&self.0)))
    ///     # }
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let old = LeafRef::from_slice(&[], std::slice::from_ref(&self.0));
    ///         builder.child_leaf(Key::Name("bias"), old).map(|elements: Vec<f32>| Bias(elements[0]))
    ///     }
    ///     // and `visit` and `visit_mut`
    /// }
    ///
    /// let (_, layout) = destructure(&Bias(1.0))?;
    /// assert_eq!(layout.restructure(&Bias(1.0), &[2.0])?.0, 2.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn child_leaf<E>(&mut self, key: Key<'_>, old: LeafRef<'_, '_>) -> Result<Vec<E>>
    where
        E: Element,
    {
        self.within(key, |builder| builder.leaf(old))
    }

    /// The elements of the leaf here, in row-major order: those of the flat vector, or the old ones
    /// if the leaf is frozen or carried.
    ///
    /// They come in a vector of their own, as many as the shape of `old` has.
    ///
    /// # Errors
    /// `is_unstable`: a leaf whose shape or element type is not what the first visit saw, and an
    /// `E` that is not the type of `old`; what reading `old` returns.
    ///
    /// ```
    /// use flatleaf::{destructure, Builder, LeafRef, Result, Tree};
    /// # use flatleaf::{LeafMut, Visitor, VisitorMut};
    ///
    /// struct Point { xy: [f32; 2] }
    ///
    /// impl Tree for Point {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.leaf(LeafRef::from_slice(&[2], &self.xy))
    ///     # }
    ///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///     #     visitor.leaf(LeafMut::from_slice(&[2], &mut self.xy))
    ///     # }
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let new = builder.leaf(LeafRef::from_slice(&[2], &self.xy))?;
    ///         Ok(Point { xy: [new[0], new[1]] })
    ///     }
    ///     // and `visit` and `visit_mut`
    /// }
    ///
    /// let point = Point { xy: [1.0, 2.0] };
    /// let (_, layout) = destructure(&point)?;
    /// assert_eq!(layout.restructure(&point, &[3.0, 4.0])?.xy, [3.0, 4.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf<E: Element>(&mut self, old: LeafRef<'_, '_>) -> Result<Vec<E>> {
        match self.new_elements(old.shape, None)? {
            Some(elements) => Ok(elements),
            None => old.to_vec(),
        }
    }

    /// The new elements of the leaf here, in the order of an array of this shape whose axes are
    /// permuted so; `None` if it keeps the old ones.
    pub(crate) fn new_elements<E: Element>(
        &mut self,
        shape: &[usize],
        order: Option<&[usize]>,
    ) -> Result<Option<Vec<E>>> {
        let new = self.0.new_leaf(shape, E::DTYPE)?;
        new.map(|new| new.arranged(order)).transpose()
    }

    /// The new elements of a child that is a leaf, as [`new_elements`](Self::new_elements) has them
    /// of the leaf here. Small leaves come by the thousand, and one call of the walk in place of
    /// three is a tenth of their cost.
    pub(crate) fn new_child_elements<E: Element>(
        &mut self,
        key: Key<'_>,
        shape: &[usize],
        order: Option<&[usize]>,
    ) -> Result<Option<Vec<E>>> {
        match self.0.new_child_leaf(key, shape, E::DTYPE) {
            NewChild::New(new) => new.arranged(order).map(Some),
            NewChild::KeepsOld => Ok(None),
            NewChild::NotNext => self.within(key, |builder| builder.new_elements(shape, order)),
        }
    }

    /// The new node behind a shared pointer: made for the first handle of its identity, cloned for
    /// the others, so that a tie is one allocation again.
    ///
    /// `old` is the handle here. It is cloned instead if nothing below it is trainable and nothing
    /// in it can change: a frozen part without cells is shared by both trees.
    ///
    /// # Errors
    /// What `make` returns; `is_object`: a node that the tree holds as two types; `is_too_deep`:
    /// pointers in pointers until the stack is used up.
    ///
    /// ```
    /// use flatleaf::{destructure, Builder, Identity, Result, Tree};
    /// # use flatleaf::{Visitor, VisitorMut};
    /// use std::rc::Rc;
    ///
    /// #[derive(Clone)]
    /// struct Handle(Rc<Vec<f32>>);
    ///
    /// impl Tree for Handle {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.shared(Identity::address(Rc::as_ptr(&self.0)), &*self.0)
    ///     # }
    ///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///     #     visitor.shared(&mut self.0)
    ///     # }
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let identity = Identity::address(Rc::as_ptr(&self.0));
    ///         builder.shared(identity, self, |builder| Ok(Handle(Rc::new((*self.0).rebuild(builder)?))))
    ///     }
    ///     // and `visit` and `visit_mut`
    /// }
    ///
    /// let handle = Handle(Rc::new(vec![1.0]));
    /// let model = (handle.clone(), handle);
    /// let (_, layout) = destructure(&model)?;
    /// let new = layout.restructure(&model, &[2.0])?;
    /// assert!(Rc::ptr_eq(&new.0.0, &new.1.0) && !Rc::ptr_eq(&new.0.0, &model.0.0));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn shared<H: Clone + 'static>(
        &mut self,
        identity: Identity,
        old: &H,
        make: impl FnOnce(&mut Self) -> Result<H>,
    ) -> Result<H> {
        if self.0.keeps_node(&identity) {
            return Ok(old.clone());
        }
        if let Some(made) = self.0.made_parts().nodes.get(&identity) {
            // One allocation seen as two types, an `Rc<[f32; 2]>` and the `Rc<[f32]>` made of it
            // say: a new one could be cloned as only one of them.
            let handle = made.downcast_ref::<H>().cloned();
            return handle.ok_or_else(Error::two_types);
        }
        // A pointer is no level: a chain of them ends here before the stack does.
        stack::check_stack_space()?;
        let made = make(self)?;
        let nodes = &mut self.0.made_parts().nodes;
        nodes.insert(identity, Box::new(made.clone()));
        Ok(made)
    }

    /// The array of a tied leaf as the place here shows it, made at the first of its places and
    /// kept; `None` for a leaf with one place, and for one that `make` keeps as it is.
    pub(crate) fn tied_array<E: ArrayElement>(
        &mut self,
        make: impl FnOnce(&mut Self) -> Result<Option<ArcArray<E, IxDyn>>>,
    ) -> Result<Option<ArcArray<E, IxDyn>>> {
        let Some(tied) = self.0.tied_place() else {
            return Ok(None);
        };
        let Some((id, (shape, axes))) = tied.of_elements::<E>() else {
            return Ok(None);
        };
        // Arrays are kept by leaf and not by identity: views of one parameter have different
        // addresses.
        let known = self.0.made_parts().arrays.get(&id);
        let known: Option<&ArcArray<E, IxDyn>> = known.and_then(|made| made.downcast_ref());
        let array = match known {
            Some(array) => array.clone(),
            None => {
                let Some(array) = make(self)? else {
                    return Ok(None);
                };
                // Kept as the leaf shows it: the place that comes first may show it transposed or
                // reversed, and later places are told how they lie on the leaf and not on this one.
                let array = match &axes {
                    Some(axes) => axes.to_leaf(array, &shape),
                    None => array,
                };
                let arrays = &mut self.0.made_parts().arrays;
                arrays.insert(id, Box::new(array.clone()));
                array
            }
        };
        Ok(Some(match axes {
            Some(axes) => axes.to_place(array),
            None => array,
        }))
    }

    /// Whether anything here or below gets a new value.
    pub(crate) fn changes(&self) -> bool {
        self.0.has_new_values_below()
    }

    /// Goes down to a child; its level.
    pub(crate) fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.0.enter(key)
    }

    pub(crate) fn leave(&mut self, key: Key<'_>) {
        self.0.leave(key);
    }

    /// Rebuilds into a box, of a sized type or of a trait object.
    pub(crate) fn boxed<T>(&mut self, tree: &T) -> Result<Box<T>>
    where
        T: Tree + ?Sized + 'static,
    {
        stack::check_stack_space()?;
        // What is in the box is known to itself only: it is asked to put a box of this type here.
        let mut made: Option<Box<T>> = None;
        let mut slot = Slot {
            wanted: TypeId::of::<T>(),
            made: &mut made,
            concrete: None,
        };
        tree.rebuild_object(self, &mut slot)?;
        let concrete = slot.concrete.unwrap_or("the type in it");
        made.ok_or_else(|| Error::object(type_name::<T>(), concrete))
    }
}

/// Takes a rebuilt tree as the type of box that holds it.
///
/// A `Box<dyn Layer>` does not know what is in it, and what is in it does not know in which box it
/// stands. So the box asks its content to [offer](Slot::offer) itself as every type that it can be
/// boxed as, and keeps the one that it is. [`rebuild_object!`](crate::rebuild_object) and
/// `#[tree(object = "dyn Layer")]` write that.
///
/// ```
/// use flatleaf::{deep_clone, Builder, Result, Slot, Tree};
/// # use flatleaf::{Visitor, VisitorMut};
///
/// trait Layer: Tree {}
/// struct Scale(Vec<f32>);
/// impl Layer for Scale {}
///
/// impl Tree for Scale {
///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> { self.0.visit(visitor) }
///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> { self.0.visit_mut(visitor) }
///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> { self.0.rebuild(builder).map(Scale) }
///     fn rebuild_object(&self, builder: &mut Builder<'_>, slot: &mut Slot<'_>) -> Result<()> {
///         slot.offer::<dyn Layer>(|| Ok(Box::new(self.rebuild(builder)?)))
///     }
///     // and the rest
/// }
///
/// let layer: Box<dyn Layer> = Box::new(Scale(vec![1.0]));
/// assert!(deep_clone(&layer).is_ok());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct Slot<'s> {
    wanted: TypeId,
    made: &'s mut dyn Any,
    /// The name of the type in the box, which is the first that is offered.
    concrete: Option<&'static str>,
}

impl Slot<'_> {
    /// Remembers what is in the box, for the error if nobody offers what is wanted.
    pub(crate) fn set_concrete<T: ?Sized>(&mut self) {
        self.concrete.get_or_insert(type_name::<T>());
    }

    /// Calls `make` if what is wanted is a `Box<T>`, and does nothing otherwise. To be called once
    /// for every type as which this tree may be boxed; if none is the wanted one, the operation
    /// fails (`is_object`).
    ///
    /// # Errors
    /// What `make` returns.
    ///
    /// ```
    /// use flatleaf::{deep_clone, Builder, Result, Slot, Tree};
    /// # use flatleaf::{Visitor, VisitorMut};
    ///
    /// struct Scale(Vec<f32>);
    ///
    /// impl Tree for Scale {
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> { self.0.visit(visitor) }
    ///     # fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> { self.0.visit_mut(visitor) }
    ///     # fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> { self.0.rebuild(builder).map(Scale) }
    ///     fn rebuild_object(&self, builder: &mut Builder<'_>, slot: &mut Slot<'_>) -> Result<()> {
    ///         slot.offer::<dyn Tree>(|| Ok(Box::new(self.rebuild(builder)?)))
    ///     }
    ///     // and the rest
    /// }
    ///
    /// let in_any_box: Box<dyn Tree> = Box::new(Scale(vec![1.0]));
    /// assert!(deep_clone(&in_any_box).is_ok());
    /// let in_its_own: Box<Scale> = Box::new(Scale(vec![1.0]));
    /// assert!(deep_clone(&in_its_own).is_err_and(|error| error.is_object())); // nobody offers a `Box<Scale>`
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn offer<T: ?Sized + 'static>(
        &mut self,
        make: impl FnOnce() -> Result<Box<T>>,
    ) -> Result<()> {
        self.set_concrete::<T>();
        // The slot is an `Option<Box<wanted>>` behind `dyn Any`, which only the wanted type fits.
        if self.wanted == TypeId::of::<T>()
            && let Some(made) = self.made.downcast_mut::<Option<Box<T>>>()
        {
            *made = Some(make()?);
        }
        Ok(())
    }
}

/// Inside an `impl Tree`: lets a tree be rebuilt inside a `Box`, `Rc` or `Arc`, as itself and as
/// the trait objects that are named.
///
/// `#[derive(Tree)]` writes it; `#[tree(object = "dyn Layer")]` names a trait object.
///
/// ```
/// use flatleaf::{Builder, Key, Result, Tree, Visitor, VisitorMut};
///
/// trait Layer: Tree {}
/// struct Scale(Vec<f32>);
/// impl Layer for Scale {}
///
/// impl Tree for Scale {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.child(Key::Index(0), &self.0)
///     }
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         visitor.child(Key::Index(0), &mut self.0)
///     }
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         Ok(Scale(builder.child(Key::Index(0), &self.0)?))
///     }
///     flatleaf::rebuild_object!(dyn Layer);
/// }
///
/// let layers: Vec<Box<dyn Layer>> = vec![Box::new(Scale(vec![1.0, 2.0]))];
/// let (flat, layout) = flatleaf::destructure(&layers)?;
/// let doubled: Vec<f32> = flat.iter().map(|x| 2.0 * x).collect();
/// assert_eq!(layout.gather(&layout.restructure(&layers, &doubled)?)?, [2.0, 4.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[macro_export]
macro_rules! rebuild_object {
    ($($object:ty),* $(,)?) => {
        fn rebuild_object(&self, builder: &mut $crate::Builder<'_>, slot: &mut $crate::Slot<'_>) -> $crate::Result<()>
        where
            Self: 'static,
        {
            slot.offer::<Self>(|| {
                let rebuilt = $crate::Tree::rebuild(self, builder)?;
                Ok(::std::boxed::Box::new(rebuilt))
            })?;
            $(
                slot.offer::<$object>(|| {
                    let rebuilt = $crate::Tree::rebuild(self, builder)?;
                    Ok(::std::boxed::Box::new(rebuilt))
                })?;
            )*
            Ok(())
        }
    };
}

/// The shape of a leaf, and how a place shows it.
type Shown = (Shape, Option<AxisMap>);

impl TiedPlace<'_> {
    /// Of an array of elements: the number, and shape and map without the axes of an element. `None`
    /// if the place shows those in another order, in which no two arrays of elements are one.
    fn of_elements<E: ArrayElement>(&self) -> Option<(usize, Shown)> {
        let inner = elements::axes_of::<E>();
        let shape = self.shape.strip_suffix(&inner[..])?;
        let axes = match self.axes {
            Some(axes) => Some(axes.without_last(&inner)?),
            None => None,
        };
        Some((self.id, (shape.into(), axes)))
    }
}

impl NewLeaf<'_> {
    /// The elements as the place shows them, in the order of its axes permuted so.
    fn arranged<E: Element>(self, order: Option<&[usize]>) -> Result<Vec<E>> {
        let NewLeaf {
            elements,
            shape,
            axes,
        } = self;
        if axes.is_none() && order.is_none() {
            return elements.into_vec();
        }
        // Elements come in the order of the leaf, and are wanted in the order in which the old
        // array of this place lies in memory.
        let elements = elements.borrowed::<E>()?;
        let leaf = ArrayViewD::from_shape(IxDyn(shape), &elements);
        let leaf = leaf.map_err(|_| Error::changed_length())?;
        let place = match axes {
            Some(axes) => axes.to_place(leaf),
            None => leaf,
        };
        let in_memory = match order {
            Some(order) => {
                // The numbers of an element stand behind the axes of its array.
                let inner = order.len()..place.ndim();
                let order: Shape = order.iter().copied().chain(inner).collect();
                place.permuted_axes(&order[..])
            }
            None => place,
        };
        Ok(in_memory.iter().copied().collect())
    }
}

impl<'b> NewElements<'b> {
    fn into_vec<E: Element>(self) -> Result<Vec<E>> {
        match self {
            NewElements::Ready(vector) => vector.into_vec().ok_or_else(Error::changed_length),
            elements => Ok(match elements.borrowed()? {
                Cow::Borrowed(elements) => memory::copy_of(elements),
                Cow::Owned(elements) => elements,
            }),
        }
    }

    fn borrowed<E: Element>(self) -> Result<Cow<'b, [E]>> {
        match self {
            NewElements::Ready(vector) => vector
                .into_vec()
                .map(Cow::Owned)
                .ok_or_else(Error::changed_length),
            NewElements::Floats(floats) => Ok(floats.elements()),
            NewElements::Bytes(bytes) => Ok(Cow::Owned(to_elements(&bytes))),
        }
    }
}
