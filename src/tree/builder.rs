//! What a tree is rebuilt with: the values of its leaves, and the shared parts that are new
//! already.

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
use std::collections::HashMap;

use ndarray::{ArrayBase, ArrayViewD, IxDyn, RawData};

use super::identity::Identity;
use super::leaf::LeafRef;
use super::{Key, Tree, stack};
use crate::element::to_elements;
use crate::element::{Dtype, Element};
use crate::error::{Error, Result};
use crate::layout::{Cursor, Inner, Leaf, LeafId, NodeId, Place};
use crate::memory;
use crate::slices::{AnyVec, Floats};
use crate::traversal::validate::{Content, Contents};

/// Makes a new tree after an old one. Implementations of [`Tree::rebuild`] ask it for their
/// children and leaves, in the order in which they visit them.
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
pub struct Builder<'b> {
    layout: &'b Inner,
    cursor: Cursor<'b>,
    values: Values<'b>,
    contents: &'b Contents,
    shared: HashMap<Identity, Box<dyn Any>>,
    arrays: HashMap<LeafId, Box<dyn Any>>,
    /// Whether it makes parts of a tree that is written in place.
    in_place: bool,
    /// Which places are then written, if there are shared nodes.
    written: Vec<bool>,
    /// Which trainable leaves the new tree has asked for.
    asked: Vec<bool>,
}

/// Where a builder's values come from.
pub(crate) enum Values<'b> {
    /// From the old tree.
    Template,
    /// Trainable leaves from a flat vector; some may stand ready in vectors of their own.
    Flat {
        flat: Floats<'b>,
        ready: Vec<Option<AnyVec>>,
    },
    /// Trainable leaves from vectors of their own.
    Leaves(Cow<'b, [Vec<f32>]>),
    /// Leaves that are not trainable from these, as bytes.
    Others(&'b [Vec<u8>]),
    /// Any leaves from elsewhere.
    #[cfg(feature = "safetensors")]
    Elsewhere(&'b dyn LeafValues),
}

/// Elements of leaves, as bytes, in row-major order.
#[cfg(feature = "safetensors")]
pub(crate) trait LeafValues {
    fn has(&self, leaf: LeafId) -> bool;

    /// The elements of a leaf that it has, as those of a type.
    fn elements(&self, leaf: LeafId, dtype: Dtype) -> Option<Cow<'_, [u8]>>;
}

impl Values<'_> {
    fn has(&self, leaf: LeafId) -> bool {
        match self {
            Values::Template => false,
            Values::Flat { .. } | Values::Leaves(_) => leaf.trainable,
            Values::Others(_) => !leaf.trainable,
            #[cfg(feature = "safetensors")]
            Values::Elsewhere(values) => values.has(leaf),
        }
    }

    /// The elements of a leaf, if they stand in a vector of their own; each vector is given away
    /// once.
    fn take_ready<E: Element>(&mut self, id: LeafId, leaf: &Leaf) -> Option<Vec<E>> {
        let ready = match self {
            Values::Flat { ready, .. } => ready.get_mut(id.index as usize)?.take()?.into_vec(),
            Values::Leaves(Cow::Owned(leaves))
                if leaf.nodes.len() == 1 && E::DTYPE == Dtype::F32 =>
            {
                leaves
                    .get_mut(id.index as usize)
                    .map(std::mem::take)
                    .and_then(same_type)
            }
            _ => None,
        };
        ready.filter(|ready| ready.len() == leaf.len())
    }

    /// The elements of a leaf that it has, in row-major order.
    fn elements<E: Element>(&self, id: LeafId, leaf: &Leaf) -> Result<Cow<'_, [E]>> {
        let elements = match self {
            Values::Flat { flat, .. } => flat.slice(leaf.range()).elements(),
            Values::Leaves(leaves) => Floats::of(&leaves[id.index as usize]).elements(),
            Values::Others(others) => Cow::Owned(to_elements(&others[id.index as usize])),
            #[cfg(feature = "safetensors")]
            Values::Elsewhere(values) => Cow::Owned(to_elements(
                &values.elements(id, E::DTYPE).unwrap_or_default(),
            )),
            Values::Template => Cow::Borrowed(&[][..]),
        };
        if elements.len() == leaf.len() {
            Ok(elements)
        } else {
            Err(Error::unstable(
                "a leaf of another length than on the first visit",
            ))
        }
    }
}

impl<'b> Builder<'b> {
    pub(crate) fn new(layout: &'b Inner, values: Values<'b>, contents: &'b Contents) -> Self {
        let cursor = Cursor::new(&layout.paths);
        let (shared, arrays, asked) = (
            HashMap::new(),
            HashMap::new(),
            vec![false; layout.leaves.len()],
        );
        Builder {
            layout,
            cursor,
            values,
            contents,
            shared,
            arrays,
            in_place: false,
            written: Vec::new(),
            asked,
        }
    }

    /// For the parts of a tree that is written in place: shared cells stay, and are written
    /// through.
    pub(crate) fn in_place(self) -> Self {
        Builder {
            in_place: true,
            ..self
        }
    }

    /// Which places of the tree are written.
    pub(crate) fn writing(self, written: Vec<bool>) -> Self {
        Builder { written, ..self }
    }

    pub(crate) fn meets_shared_nodes(&self) -> bool {
        self.contents.has_shared()
    }

    pub(crate) fn path(&self) -> String {
        self.cursor.path()
    }

    /// The node the walk is at, if the layout knows it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.cursor.node()
    }

    pub(crate) fn cursor(&mut self) -> &mut Cursor<'b> {
        &mut self.cursor
    }

    /// Rebuilds a child.
    ///
    /// # Errors
    /// What rebuilding it returns.
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
        let level = self.cursor.enter(key)?;
        let rebuilt = stack::with_room(level, || tree.rebuild(self))?;
        self.cursor.leave(key);
        Ok(rebuilt)
    }

    pub(crate) fn at<R>(
        &mut self,
        key: Key<'_>,
        rebuild: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        self.cursor.enter(key)?;
        let rebuilt = rebuild(self)?;
        self.cursor.leave(key);
        Ok(rebuilt)
    }

    /// The elements of the leaf here, in row-major order: those of the flat vector, or the old ones
    /// if the leaf is frozen or carried.
    ///
    /// # Errors
    /// A leaf whose shape or element type is not what the first visit saw; what reading it returns.
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
        axes: Option<&[usize]>,
    ) -> Result<Option<Vec<E>>> {
        let place = self.place(shape, E::DTYPE)?;
        if place.leaf.trainable {
            self.asked[place.leaf.index as usize] = true;
        }
        // In place, what is not written keeps its elements, and with them its ties.
        if !self.values.has(place.leaf)
            || !self
                .cursor
                .place()
                .is_some_and(|place| self.is_written(place))
        {
            return Ok(None);
        }
        let leaf = self.layout.leaf(place.leaf);
        if place.axes.is_none()
            && axes.is_none()
            && let Some(ready) = self.values.take_ready(place.leaf, leaf)
        {
            return Ok(Some(ready));
        }
        let elements = self.values.elements::<E>(place.leaf, leaf)?;
        Ok(Some(match (&place.axes, axes) {
            (None, None) => match elements {
                Cow::Borrowed(elements) => memory::copy_of(elements),
                Cow::Owned(elements) => elements,
            },
            (None, Some(axes)) => in_order(view_of(&leaf.shape, &elements)?, axes),
            (Some(map), None) => map
                .to_place(view_of(&leaf.shape, &elements)?)
                .iter()
                .copied()
                .collect(),
            (Some(map), Some(axes)) => {
                in_order(map.to_place(view_of(&leaf.shape, &elements)?), axes)
            }
        }))
    }

    /// An error if a new tree has been made without the new values of a leaf.
    pub(crate) fn find_missing(&self) -> Result<()> {
        if let Values::Template = self.values {
            return Ok(());
        }
        let mut asked = self.layout.leaves.iter().zip(&self.asked);
        let missing = asked.find(|(leaf, asked)| !**asked && !leaf.is_empty());
        missing.map_or(Ok(()), |(leaf, _)| {
            Err(Error::unstable("a `rebuild` that does not ask for it").at(leaf.path()))
        })
    }

    /// The place the walk is at, if the leaf is as it was seen first.
    fn place(&self, shape: &[usize], dtype: Dtype) -> Result<&'b Place> {
        let place = self.cursor.place().map(|place| self.layout.place(place));
        let place =
            place.ok_or_else(|| Error::unstable("a leaf that was not there on the first visit"))?;
        let is_same = place.has_shape(shape) && dtype == place.dtype;
        let is_same = is_same || !self.values.has(place.leaf);
        if is_same {
            Ok(place)
        } else {
            Err(Error::unstable(
                "a leaf of another shape or element type than on the first visit",
            ))
        }
    }

    /// The new node behind a shared pointer: made for the first handle of its identity, cloned for
    /// the others. A node in which nothing is trainable and nothing can change is shared with the
    /// old tree.
    ///
    /// # Errors
    /// What `make` returns; a node that the tree holds as two types.
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
        let is_kept =
            |content: Content| content.is_constant() || (self.in_place && self.stays(content));
        if self.contents.of(&identity).is_some_and(is_kept) {
            return Ok(old.clone());
        }
        if let Some(made) = self.shared.get(&identity) {
            let handle = made.downcast_ref::<H>().cloned();
            return handle.ok_or_else(Error::two_types);
        }
        let made = make(self)?;
        self.shared.insert(identity, Box::new(made.clone()));
        Ok(made)
    }

    /// The array of a tied leaf, made at the first of its places and kept; `None` for a leaf with
    /// one place.
    pub(crate) fn tied_array<A: Clone + 'static>(
        &mut self,
        make: impl FnOnce(&mut Self) -> Result<A>,
    ) -> Result<Option<(A, &'b Place)>> {
        let Some(place) = self.cursor.place().map(|place| self.layout.place(place)) else {
            return Ok(None);
        };
        if self.layout.leaf(place.leaf).nodes.len() == 1 {
            return Ok(None);
        }
        if let Some(made) = self
            .arrays
            .get(&place.leaf)
            .and_then(|made| made.downcast_ref::<A>())
        {
            return Ok(Some((made.clone(), place)));
        }
        let made = make(self)?;
        self.arrays.insert(place.leaf, Box::new(made.clone()));
        Ok(Some((made, place)))
    }

    /// The array of the place here, as the first place of its leaf shows it.
    pub(crate) fn as_leaf<S: RawData>(&self, array: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn> {
        let place = self.cursor.place().map(|place| self.layout.place(place));
        match place.and_then(|place| place.axes.as_ref().map(|axes| (axes, place))) {
            Some((axes, place)) => axes.to_leaf(array, &self.layout.leaf(place.leaf).shape),
            None => array,
        }
    }

    /// Whether a new node stands ready for a shared one, or a new array for the tied leaf here.
    pub(crate) fn has_new(&self, identity: &Identity) -> bool {
        let leaf = self
            .cursor
            .place()
            .map(|place| self.layout.place(place).leaf);
        self.shared.contains_key(identity)
            || leaf.is_some_and(|leaf| self.arrays.contains_key(&leaf))
    }

    /// Whether the shared node here stays in a tree that is written in place, even within one that
    /// is new: its other handles keep it too. A cell stays, whether anything in it is written or
    /// not.
    fn stays(&self, content: Content) -> bool {
        !content.plain
            || !self.cursor.node().is_some_and(|node| {
                self.layout
                    .place_ids_below(node)
                    .any(|place| self.is_written(place))
            })
    }

    fn is_written(&self, place: u32) -> bool {
        self.written
            .get(place as usize)
            .is_none_or(|&written| written)
    }

    /// Whether all that is new in a shared node is in cells.
    pub(crate) fn is_written_through(&self, identity: &Identity) -> bool {
        self.contents
            .of(identity)
            .is_some_and(|content| content.guarded && !content.plain)
    }

    /// Whether anything here or below gets a new value.
    pub(crate) fn changes(&self) -> bool {
        self.cursor.node().is_some_and(|node| {
            self.layout
                .leaves_below(node)
                .any(|leaf| self.values.has(leaf))
        })
    }

    /// Rebuilds into a box, of a sized type or of a trait object.
    pub(crate) fn boxed<T: Tree + ?Sized + 'static>(&mut self, tree: &T) -> Result<Box<T>> {
        let mut made: Option<Box<T>> = None;
        tree.rebuild_object(
            self,
            &mut Slot {
                wanted: TypeId::of::<T>(),
                made: &mut made,
            },
        )?;
        made.ok_or_else(|| Error::object(type_name::<T>()))
    }
}

/// Takes a rebuilt tree as the type of box that holds it. See
/// [`rebuild_object!`](crate::rebuild_object).
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
}

impl Slot<'_> {
    /// Calls `make` if what is wanted is a `Box<T>`.
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
            slot.offer::<Self>(|| Ok(::std::boxed::Box::new($crate::Tree::rebuild(self, builder)?)))?;
            $(slot.offer::<$object>(|| Ok(::std::boxed::Box::new($crate::Tree::rebuild(self, builder)?)))?;)*
            Ok(())
        }
    };
}

fn view_of<'v, E>(shape: &[usize], elements: &'v [E]) -> Result<ArrayViewD<'v, E>> {
    ArrayViewD::from_shape(IxDyn(shape), elements)
        .map_err(|_| Error::unstable("a leaf of another length"))
}

/// A view's elements in the order of its axes permuted so.
fn in_order<E: Copy>(view: ArrayViewD<'_, E>, axes: &[usize]) -> Vec<E> {
    view.permuted_axes(axes).iter().copied().collect()
}

/// A vector of `f32` as one of `E`, if that is the same type.
fn same_type<E: Element>(vector: Vec<f32>) -> Option<Vec<E>> {
    (&mut Some(vector) as &mut dyn Any)
        .downcast_mut::<Option<Vec<E>>>()
        .and_then(Option::take)
}
