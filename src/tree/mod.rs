//! What a tree is: the trait, its promise of order, and what a visitor is told.

mod arrays;
pub(crate) mod axes;
mod bounds;
mod builder;
mod collections;
mod dyn_tree;
pub mod elements;
mod error;
mod identity;
pub(crate) mod key;
mod leaf;
mod literal;
mod names;
mod object;
mod opaque;
mod pointers;
mod scalars;
#[cfg(feature = "serde")]
mod serialize;
pub(crate) mod stack;
mod state_dict;
mod under_guard;

pub use builder::{Builder, Slot};
pub(crate) use builder::{MadeParts, NewChild, NewElements, NewLeaf, Rebuild, TiedPlace};
pub(crate) use collections::{by_key, for_each_tuple};
pub use dyn_tree::DynTree;
pub use elements::ArrayElement;
pub use identity::{Guarded, Identity, Shared};
pub use key::Key;
pub use leaf::{LeafMut, LeafRef, Reader, Writer};
pub(crate) use leaf::{MAX_AXES, Source};
#[doc(hidden)]
pub use literal::Literal;
pub use names::DottedNames;
pub(crate) use object::Object;
#[doc(hidden)]
pub use scalars::param;
pub use state_dict::{StateArray, StateDict};
pub(crate) use under_guard::UnderGuard;

use crate::element::Dtype;
use crate::error::Result;

/// A tree of arrays: a model, a gradient, or any part of one.
///
/// Usually derived with `#[derive(Tree)]`. An implementation visits its children in one fixed
/// order, the same in all three methods, and answers twice alike while it is borrowed; the order of
/// the flat vector is this order, depth first. An implementation that breaks the promise gets an
/// error, never memory that is not its own.
///
/// # A container of one's own
///
/// ```
/// use flatleaf::{destructure, Builder, Key, Result, Tree, Visitor, VisitorMut};
///
/// struct Stack<T>(Vec<T>);
///
/// impl<T: Tree> Tree for Stack<T> {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         self.0.iter().enumerate().try_for_each(|(index, layer)| visitor.child(Key::Index(index), layer))
///     }
///
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         self.0.iter_mut().enumerate().try_for_each(|(index, layer)| visitor.child(Key::Index(index), layer))
///     }
///
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         let layers = self.0.iter().enumerate().map(|(index, layer)| builder.child(Key::Index(index), layer));
///         layers.collect::<Result<_>>().map(Stack)
///     }
/// }
///
/// let stack = Stack(vec![vec![1.0_f32], vec![2.0, 3.0]]);
/// let (flat, layout) = destructure(&stack)?;
/// assert_eq!(layout.leaves()[1].path(), "1");
/// assert_eq!(layout.restructure(&stack, &[7.0, 8.0, 9.0])?.0, [vec![7.0], vec![8.0, 9.0]]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
///
/// # A leaf of one's own
///
/// A leaf that is no slice in memory is read and written by callbacks, and may carry an identity of
/// its own:
///
/// ```
/// use std::cell::RefCell;
/// use flatleaf::{destructure, Builder, Identity, LeafMut, LeafRef, Reader, Result, Tree, Visitor, VisitorMut, Writer};
///
/// /// A tensor that lives elsewhere: here behind a `RefCell`.
/// struct Tensor { id: u64, shape: Vec<usize>, device: RefCell<Vec<f32>> }
///
/// impl Tree for Tensor {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         let download = Reader::new(|out: &mut [f32]| {
///             out.copy_from_slice(&self.device.borrow());
///             Ok(())
///         });
///         visitor.leaf(LeafRef::from_reader(&self.shape, &download).with_identity(&Identity::of(self.id)))
///     }
///
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         let device = &self.device;
///         let mut upload = Writer::new(|values: &[f32]| {
///             device.borrow_mut().copy_from_slice(values);
///             Ok(())
///         });
///         visitor.leaf(LeafMut::from_writer(&self.shape, &mut upload))
///     }
///
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         let download = Reader::new(|out: &mut [f32]| {
///             out.copy_from_slice(&self.device.borrow());
///             Ok(())
///         });
///         let values = builder.leaf(LeafRef::from_reader(&self.shape, &download))?;
///         Ok(Tensor { id: self.id, shape: self.shape.clone(), device: RefCell::new(values) })
///     }
/// }
///
/// let tensor = Tensor { id: 3, shape: vec![2], device: RefCell::new(vec![1.0, 2.0]) };
/// let (flat, _) = destructure(&tensor)?;
/// assert_eq!(flat, [1.0, 2.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no tree of parameters",
    label = "not a `Tree`",
    note = "a type of your own becomes a tree with `#[derive(Tree)]`",
    note = "a field that holds no parameters and need not be a tree is marked `#[tree(skip)]`",
    note = "a flat vector or `FlatGrad` is no tree: `Optimizer::step` takes a flat gradient"
)]
pub trait Tree {
    /// Tells the visitor about this node: its children in order, or that it is a leaf, or that it
    /// holds no parameter.
    ///
    /// # Errors
    /// What the visitor returns; a lock that is poisoned, a cell that is borrowed.
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()>;

    /// Tells the visitor about this node for writing: the children in the order of
    /// [`visit`](Tree::visit), each mutably, or the leaf as a slice or callback to be written.
    ///
    /// # Errors
    /// What the visitor returns; `is_read_only` from a tree that cannot be written.
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()>;

    /// Makes a new tree like this one, field by field, with the builder's values in its leaves.
    ///
    /// The children are asked for in the order of [`visit`](Tree::visit), each once. What is no
    /// part of the tree is cloned or made anew by the implementation.
    ///
    /// # Errors
    /// What the builder returns; `is_read_only` from a tree that a new one cannot be made of.
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self>
    where
        Self: Sized;

    /// Rebuilds into a box of another type: a tree behind `Box<dyn Layer>` puts a `Box<dyn Layer>`
    /// into the slot. [`rebuild_object!`](crate::rebuild_object) writes it; without it a new tree
    /// of such a box is an error (`is_object`), while reading and writing in place work.
    ///
    /// # Errors
    /// What [`rebuild`](Tree::rebuild) returns.
    fn rebuild_object(&self, builder: &mut Builder<'_>, slot: &mut Slot<'_>) -> Result<()>
    where
        Self: 'static,
    {
        let _ = builder;
        slot.set_concrete::<Self>();
        Ok(())
    }

    /// Rebuilds this as a child, a leaf in one call.
    #[doc(hidden)]
    #[inline]
    fn rebuild_at(&self, key: Key<'_>, builder: &mut Builder<'_>) -> Result<Self>
    where
        Self: Sized,
    {
        builder.within(key, |builder| self.rebuild(builder))
    }

    /// Visits this as a child. A leaf says both in one call, which halves the cost of a small one;
    /// other trees need not implement it.
    #[doc(hidden)]
    #[inline]
    fn visit_at<'a>(
        &'a self,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        let level = visitor.enter(key, frozen)?;
        stack::with_stack_space(level, || self.visit(visitor))?;
        visitor.leave(key);
        Ok(())
    }

    /// Visits this for writing as a child. A leaf says both in one call, which halves the cost of a
    /// small one; other trees need not implement it.
    #[doc(hidden)]
    #[inline]
    fn visit_mut_at<'a>(
        &'a mut self,
        key: Key<'_>,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        let level = visitor.enter(key)?;
        stack::with_stack_space(level, || self.visit_mut(visitor))?;
        visitor.leave(key);
        Ok(())
    }

    /// Visits this as a child of a struct of `#[tree(params)]`: a bare float is a parameter there,
    /// a leaf without axes, and every other tree is what it is elsewhere.
    #[doc(hidden)]
    #[inline]
    fn visit_param_at<'a>(
        &'a self,
        key: Key<'_>,
        frozen: bool,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        self.visit_at(key, frozen, visitor)
    }

    /// Visits this for writing as a child of a struct of `#[tree(params)]`: a bare float is written
    /// as a leaf without axes, and every other tree as elsewhere.
    #[doc(hidden)]
    #[inline]
    fn visit_param_mut_at<'a>(
        &'a mut self,
        key: Key<'_>,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        self.visit_mut_at(key, visitor)
    }

    /// Rebuilds this as a child of a struct of `#[tree(params)]`: a bare float is the new element
    /// of a leaf without axes, and every other tree is rebuilt as elsewhere.
    #[doc(hidden)]
    #[inline]
    fn rebuild_param_at(&self, key: Key<'_>, builder: &mut Builder<'_>) -> Result<Self>
    where
        Self: Sized,
    {
        builder.child(key, self)
    }

    /// Whether a list of these is one leaf: how `Vec<f32>` is one although `f32` is none.
    #[doc(hidden)]
    fn is_element() -> bool
    where
        Self: Sized,
    {
        false
    }

    /// Shows a list of these, an array of this shape, as the leaf that it is; `None` if it is a
    /// branch.
    #[doc(hidden)]
    fn with_elements<'a, R>(
        list: &'a [Self],
        array: &[usize],
        visit: impl FnOnce(LeafRef<'_, 'a>) -> R,
    ) -> Option<R>
    where
        Self: Sized,
    {
        let _ = (list, array, visit);
        None
    }

    #[doc(hidden)]
    fn with_elements_mut<'a, R>(
        list: &'a mut [Self],
        array: &[usize],
        visit: impl FnOnce(LeafMut<'_, 'a>) -> R,
    ) -> Option<R>
    where
        Self: Sized,
    {
        let _ = (list, array, visit);
        None
    }

    #[doc(hidden)]
    fn rebuild_elements(
        list: &[Self],
        array: &[usize],
        builder: &mut Builder<'_>,
    ) -> Option<Result<Vec<Self>>>
    where
        Self: Sized,
    {
        let _ = (list, array, builder);
        None
    }
}

/// What is told about a tree that is read. Implementations of [`Tree::visit`] call its methods;
/// flatleaf implements it.
///
/// The lifetime is the borrow of the tree: a leaf that is a slice lends it for that long.
///
/// ```
/// use flatleaf::{destructure, Key, Result, Tree, Visitor};
/// # use flatleaf::{Builder, VisitorMut};
///
/// /// Of two branches only the active one is there.
/// struct Either { uses_gate: bool, gate: Vec<f32>, plain: Vec<f32> }
///
/// impl Tree for Either {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         let (name, branch) = if self.uses_gate { ("gate", &self.gate) } else { ("plain", &self.plain) };
///         visitor.child(Key::Name(name), branch)
///     }
///     // and `visit_mut` and `rebuild`
///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
/// }
///
/// let (flat, layout) = destructure(&Either { uses_gate: true, gate: vec![1.0], plain: vec![2.0] })?;
/// assert_eq!((flat, layout.leaves()[0].path()), (vec![1.0], "gate"));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Visitor<'a> {
    /// This node is a leaf: one array, of a shape and an element type.
    ///
    /// # Errors
    /// What the operation has against the leaf, and what a callback of the leaf's returned. The
    /// operation fails by it even if the tree goes on.
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()>;

    /// This node holds no parameter: a bare number, a string. Gradients at or below it are ignored.
    ///
    /// # Errors
    /// What the operation has against the node.
    fn no_leaf(&mut self) -> Result<()>;

    /// This node is a bare number: no parameter, but layouts list it, so that one that was meant to
    /// be trained is seen.
    #[doc(hidden)]
    fn bare_number(&mut self, dtype: Dtype) -> Result<()> {
        let _ = dtype;
        self.no_leaf()
    }

    /// This node is a cell or lock: its content is visited under its guard, which is given back
    /// before the next child is visited. Writing in place goes through it, shared or not.
    ///
    /// # Errors
    /// `is_poisoned`: a lock that a panic poisoned; `is_borrowed`: a cell that is borrowed
    /// elsewhere; what visiting the content returns.
    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()>;

    /// From here down nothing can be written: told once, by a reference or a file, before what is
    /// in it. A trainable leaf below is an error where the tree is to be written.
    #[doc(hidden)]
    fn read_only(&mut self) {}

    /// Goes down to a child; its level, which says when to look for space on the stack. What
    /// follows until [`leave`](Visitor::leave) is the child's.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels; `is_duplicate`: a key that its parent has had before.
    #[doc(hidden)]
    fn enter(&mut self, key: Key<'_>, frozen: bool) -> Result<usize>;

    #[doc(hidden)]
    fn leave(&mut self, key: Key<'_>);

    /// A child that is a leaf: going down to it, meeting it and coming back in one call. Of small
    /// leaves the calls cost as much as the elements.
    #[doc(hidden)]
    fn leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.enter(key, frozen)?;
        self.leaf(leaf)?;
        self.leave(key);
        Ok(())
    }

    /// Goes into the node of a shared pointer; whether to visit it, which a walk that knows its
    /// leaves from an earlier handle has no need to.
    ///
    /// # Errors
    /// `is_cycle`: the walk is in this very node.
    #[doc(hidden)]
    fn enter_shared(&mut self, identity: Identity) -> Result<bool>;

    #[doc(hidden)]
    fn leave_shared(&mut self);

    #[doc(hidden)]
    /// Whether the cell has to be held by the guard that writes.
    fn enter_guarded(&mut self, cell: &dyn Guarded) -> bool {
        let _ = cell;
        false
    }

    #[doc(hidden)]
    fn leave_guarded(&mut self) {}
}

impl<'a> dyn Visitor<'a> + '_ {
    /// Visits a child under its key. A leaf below it has that key in its path.
    ///
    /// # Errors
    /// What visiting it returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{Key, Layout, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Dense { weight: Vec<Vec<f32>>, bias: Vec<f32> }
    ///
    /// impl Tree for Dense {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.child(Key::Name("weight"), &self.weight)?;
    ///         visitor.child(Key::Name("bias"), &self.bias)
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Dense { weight: vec![vec![1.0], vec![2.0]], bias: vec![3.0] })?;
    /// assert_eq!(layout.leaves().iter().map(|leaf| leaf.path()).collect::<Vec<_>>(), ["weight.0", "weight.1", "bias"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[inline]
    pub fn child<T: Tree + ?Sized>(&mut self, key: Key<'_>, tree: &'a T) -> Result<()> {
        tree.visit_at(key, false, self)
    }

    /// Visits a child that is in the tree but not trainable: carried from tree to tree, ignored in
    /// gradients, no part of the flat vector. Its own children are frozen too.
    ///
    /// # Errors
    /// What visiting it returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{Key, Layout, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Norm { scale: Vec<f32>, mean: Vec<f32> }
    ///
    /// impl Tree for Norm {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.child(Key::Name("scale"), &self.scale)?;
    ///         visitor.frozen(Key::Name("mean"), &self.mean)
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Norm { scale: vec![1.0], mean: vec![0.5] })?;
    /// assert_eq!((layout.leaves()[0].path(), layout.others()[0].path()), ("scale", "mean"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[inline]
    pub fn frozen<T>(&mut self, key: Key<'_>, tree: &'a T) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        tree.visit_at(key, true, self)
    }

    /// Visits what is below a key without an object for it: the nodes between the root and the
    /// leaves of a flat list of dotted names, say.
    ///
    /// `visit` tells what is there: children, one leaf, or nothing. A key may be gone into once.
    ///
    /// # Errors
    /// What `visit` returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{Key, Layout, LeafRef, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// /// `block.w` and `block.b`, as another library lists them.
    /// struct Named { w: Vec<f32>, b: Vec<f32> }
    ///
    /// impl Tree for Named {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.within(Key::Name("block"), |visitor| {
    ///             visitor.child_leaf(Key::Name("w"), LeafRef::from_slice(&[self.w.len()], &self.w))?;
    ///             visitor.child_leaf(Key::Name("b"), LeafRef::from_slice(&[self.b.len()], &self.b))
    ///         })
    ///     }
    ///     // and `visit_mut` and `rebuild`, which go the same ways
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Named { w: vec![1.0, 2.0], b: vec![3.0] })?;
    /// assert_eq!(layout.leaves().iter().map(|leaf| leaf.path()).collect::<Vec<_>>(), ["block.w", "block.b"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn within(
        &mut self,
        key: Key<'_>,
        visit: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let level = self.enter(key, false)?;
        stack::with_stack_space(level, || visit(self))?;
        self.leave(key);
        Ok(())
    }

    /// Visits a child that is one leaf, without an object for it that is a tree.
    ///
    /// # Errors
    /// What the operation has against the leaf, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{Key, Layout, LeafRef, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// /// A matrix and its bias in one list.
    /// struct Linear { columns: usize, elements: Vec<f32> }
    ///
    /// impl Tree for Linear {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         let (bias, weight) = self.elements.split_at(1);
    ///         visitor.child_leaf(Key::Name("bias"), LeafRef::from_slice(&[1], bias))?;
    ///         visitor.child_leaf(Key::Name("weight"), LeafRef::from_slice(&[1, self.columns], weight))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Linear { columns: 2, elements: vec![1.0, 2.0, 3.0] })?;
    /// assert_eq!(layout.leaf("weight").unwrap().shape(), [1, 2]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn child_leaf(&mut self, key: Key<'_>, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.leaf_at(key, false, leaf)
    }

    /// Visits a child that is one leaf and not trainable, without an object for it that is a tree.
    ///
    /// # Errors
    /// What the operation has against the leaf, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{Key, Layout, LeafRef, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Norm { scale: [f32; 2], mean: [f32; 2] }
    ///
    /// impl Tree for Norm {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.child_leaf(Key::Name("scale"), LeafRef::from_slice(&[2], &self.scale))?;
    ///         visitor.frozen_leaf(Key::Name("mean"), LeafRef::from_slice(&[2], &self.mean))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Norm { scale: [1.0; 2], mean: [0.0; 2] })?;
    /// assert_eq!((layout.len(), layout.others()[0].path()), (2, "mean"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn frozen_leaf(&mut self, key: Key<'_>, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.leaf_at(key, true, leaf)
    }

    /// Names a child that is no part of the tree, so that gradients at or below it are ignored.
    ///
    /// # Errors
    /// What the operation has against it.
    ///
    /// ```
    /// use flatleaf::{tree, Key, Layout, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Layer { weight: Vec<f32>, activation: fn(f32) -> f32 }
    ///
    /// impl Tree for Layer {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.child(Key::Name("weight"), &self.weight)?;
    ///         visitor.skipped(Key::Name("activation"))
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let layout = Layout::of(&Layer { weight: vec![1.0], activation: f32::tanh })?;
    /// let grads = tree!({ "weight": [0.5], "activation": { "slope": [9.0] } }); // unknown, were it not named
    /// assert_eq!(*layout.gather_grad(&grads)?, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn skipped(&mut self, key: Key<'_>) -> Result<()> {
        self.enter(key, false)?;
        self.no_leaf()?;
        self.leave(key);
        Ok(())
    }

    /// Visits the content of a shared pointer. Every handle of one identity is a place of the same
    /// parameters.
    ///
    /// # Errors
    /// What visiting it returns, and a node that contains itself.
    ///
    /// ```
    /// use flatleaf::{Identity, Layout, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    /// use std::rc::Rc;
    ///
    /// struct Handle(Rc<Vec<f32>>);
    ///
    /// impl Tree for Handle {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.shared(Identity::address(Rc::as_ptr(&self.0)), &*self.0)
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let shared = Rc::new(vec![1.0]);
    /// let layout = Layout::of(&(Handle(shared.clone()), Handle(shared)))?;
    /// assert_eq!(layout.leaves()[0].places(), ["0", "1"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[inline]
    pub fn shared<T>(&mut self, identity: Identity, tree: &'a T) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        stack::check_stack_space()?;
        if self.enter_shared(identity)? {
            tree.visit(self)?;
            self.leave_shared();
        }
        Ok(())
    }
}

/// What is told about a tree that is written in place. Implementations of [`Tree::visit_mut`] call
/// its methods; flatleaf implements it.
///
/// The children are told in the order of [`Tree::visit`], which has been called before: the tree
/// has been checked as a whole by then, so that an error here is the tree's that answers in two
/// ways.
///
/// ```
/// use flatleaf::{destructure, Key, Result, Tree, VisitorMut};
/// # use flatleaf::{Builder, Visitor};
///
/// struct Dense { weight: Vec<f32>, bias: Vec<f32> }
///
/// impl Tree for Dense {
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         visitor.child(Key::Name("weight"), &mut self.weight)?;
///         visitor.child(Key::Name("bias"), &mut self.bias)
///     }
///     // and `visit` and `rebuild`
///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///     #     visitor.child(Key::Name("weight"), &self.weight)?;
///     #     visitor.child(Key::Name("bias"), &self.bias)
///     # }
///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
/// }
///
/// let mut dense = Dense { weight: vec![1.0], bias: vec![2.0] };
/// let (_, layout) = destructure(&dense)?;
/// layout.restructure_into(&mut dense, &[3.0, 4.0])?;
/// assert_eq!((dense.weight, dense.bias), (vec![3.0], vec![4.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait VisitorMut<'a> {
    /// This node is a leaf whose elements can be written: one array, of a shape and an element
    /// type.
    ///
    /// # Errors
    /// What the operation has against the leaf, and what a callback of the leaf's returned. The
    /// operation fails by it even if the tree goes on.
    fn leaf(&mut self, leaf: LeafMut<'_, 'a>) -> Result<()>;

    /// This node is behind a handle that others may share. The only handle is written through; one
    /// of several is pointed at a new node, one for all of them, so that who holds the old one
    /// outside the tree keeps it as it was.
    ///
    /// # Errors
    /// What visiting or rebuilding the node returns.
    fn shared(&mut self, handle: &'a mut dyn Shared) -> Result<()>;

    /// Goes down to a child; its level. Whether it is frozen is known from the layout.
    ///
    /// # Errors
    /// `is_unstable`: a child that the first visit did not show.
    #[doc(hidden)]
    fn enter(&mut self, key: Key<'_>) -> Result<usize>;

    #[doc(hidden)]
    fn leave(&mut self, key: Key<'_>);

    /// A child that is a leaf: going down to it, meeting it and coming back in one call. Of small
    /// leaves the calls cost as much as the elements.
    #[doc(hidden)]
    fn leaf_at(&mut self, key: Key<'_>, leaf: LeafMut<'_, 'a>) -> Result<()> {
        self.enter(key)?;
        self.leaf(leaf)?;
        self.leave(key);
        Ok(())
    }
}

impl<'a> dyn VisitorMut<'a> + '_ {
    /// Visits a child under its key for writing, frozen or not: what is written is known from the
    /// layout. Called for the children that [`Tree::visit`] shows, in that order.
    ///
    /// # Errors
    /// What visiting it returns; `is_unstable`: a child that [`Tree::visit`] does not show.
    ///
    /// ```
    /// use flatleaf::{destructure, Key, Result, Tree, Visitor, VisitorMut};
    /// # use flatleaf::Builder;
    ///
    /// struct Norm { scale: Vec<f32>, mean: Vec<f32> }
    ///
    /// impl Tree for Norm {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         visitor.child(Key::Name("scale"), &self.scale)?;
    ///         visitor.frozen(Key::Name("mean"), &self.mean)
    ///     }
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         visitor.child(Key::Name("scale"), &mut self.scale)?;
    ///         visitor.child(Key::Name("mean"), &mut self.mean)
    ///     }
    ///     // and `rebuild`
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let mut norm = Norm { scale: vec![1.0], mean: vec![0.5] };
    /// let (_, layout) = destructure(&norm)?;
    /// layout.restructure_into(&mut norm, &[2.0])?;
    /// assert_eq!((norm.scale, norm.mean), (vec![2.0], vec![0.5]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[inline]
    pub fn child<T>(&mut self, key: Key<'_>, tree: &'a mut T) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        tree.visit_mut_at(key, self)
    }

    /// Visits what is below a key without an object for it, as [`Visitor`]'s `within` does for
    /// reading.
    ///
    /// # Errors
    /// What `visit` returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{destructure, Key, LeafMut, Result, Tree, VisitorMut};
    /// # use flatleaf::{Builder, LeafRef, Visitor};
    ///
    /// /// `block.w`, as another library names it.
    /// struct Named { w: Vec<f32> }
    ///
    /// impl Tree for Named {
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         let shape = [self.w.len()];
    ///         visitor.within(Key::Name("block"), |visitor| {
    ///             visitor.child_leaf(Key::Name("w"), LeafMut::from_slice(&shape, &mut self.w))
    ///         })
    ///     }
    ///     // and `visit` and `rebuild`
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.within(Key::Name("block"), |visitor| {
    ///     #         visitor.child_leaf(Key::Name("w"), LeafRef::from_slice(&[self.w.len()], &self.w))
    ///     #     })
    ///     # }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let mut named = Named { w: vec![1.0, 2.0] };
    /// let (_, layout) = destructure(&named)?;
    /// layout.restructure_into(&mut named, &[3.0, 4.0])?;
    /// assert_eq!(named.w, [3.0, 4.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn within(
        &mut self,
        key: Key<'_>,
        visit: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let level = self.enter(key)?;
        stack::with_stack_space(level, || visit(self))?;
        self.leave(key);
        Ok(())
    }

    /// Visits a child that is one leaf, frozen or not, without an object for it that is a tree.
    ///
    /// # Errors
    /// What writing it returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{destructure, Key, LeafMut, Result, Tree, VisitorMut};
    /// # use flatleaf::{Builder, LeafRef, Visitor};
    ///
    /// struct Bias([f32; 1]);
    ///
    /// impl Tree for Bias {
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         visitor.child_leaf(Key::Name("bias"), LeafMut::from_slice(&[1], &mut self.0))
    ///     }
    ///     // and `visit` and `rebuild`
    ///     # fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///     #     visitor.child_leaf(Key::Name("bias"), LeafRef::from_slice(&[1], &self.0))
    ///     # }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let mut bias = Bias([1.0]);
    /// let (_, layout) = destructure(&bias)?;
    /// layout.restructure_into(&mut bias, &[2.0])?;
    /// assert_eq!(bias.0, [2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn child_leaf(&mut self, key: Key<'_>, leaf: LeafMut<'_, 'a>) -> Result<()> {
        self.leaf_at(key, leaf)
    }
}
