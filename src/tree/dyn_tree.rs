//! A tree of any shape, made at run time: for gradients that come from anywhere.

use std::any::Any;
use std::fmt;

use ndarray::{Array, ArrayD, Dimension, IxDyn};

use super::bounds::Bounds;
use super::elements::Fields;
use super::identity::{Guarded, Identity};
use super::key::{keys_of_name, push_segment};
use super::leaf::check_axes;
use super::opaque::OpaqueArray;
use super::under_guard::UnderGuard;
use super::{Builder, Key, LeafRef, Tree, Visitor, VisitorMut, stack};
use crate::element::{Dtype, Element};
use crate::error::{Error, FirstError, Result};

/// A tree made at run time: maps, lists and arrays, any of them absent.
///
/// Written down with [`tree!`](crate::tree!), built by hand, taken from any other tree with
/// [`DynTree::of`], or read with serde (feature `serde`). Leaves may be of any [`Element`] type.
///
/// ```
/// use flatleaf::{tree, DynTree, Layout};
/// use ndarray::arr1;
///
/// let by_hand = DynTree::map([("x", DynTree::from(arr1(&[1.0_f32, 2.0]))), ("y", DynTree::absent())]);
/// assert_eq!(by_hand, tree!({ "x": [1.0, 2.0], "y": null }));
/// assert_eq!(by_hand, DynTree::of(&by_hand)?);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Default)]
pub struct DynTree(DynNode);

/// A tree may be nested far deeper than one stack allows, and so here and below.
impl Clone for DynTree {
    fn clone(&self) -> Self {
        stack::with_grown_stack(|| DynTree(self.0.clone()))
    }
}

impl PartialEq for DynTree {
    fn eq(&self, other: &Self) -> bool {
        stack::with_grown_stack(|| self.0 == other.0)
    }
}

#[derive(Clone, PartialEq, Default)]
enum DynNode {
    #[default]
    Absent,
    Leaf(Box<dyn AnyArray>),
    List(Vec<DynTree>),
    Map(Vec<(String, DynTree)>),
}

impl DynTree {
    /// Nothing: the gradient of a leaf that has none. As a gradient it is ignored wherever it
    /// stands, and the leaf it stands for is absent, which is not zero.
    ///
    /// ```
    /// use flatleaf::{DynTree, Layout};
    ///
    /// let grads = DynTree::list([DynTree::absent(), DynTree::from(vec![2.0_f32])]);
    /// let grad = Layout::of(&(vec![1.0_f32], vec![1.0_f32]))?.gather_grad(&grads)?;
    /// assert!(!grad.is_present(0) && grad.is_present(1));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn absent() -> Self {
        DynTree(DynNode::Absent)
    }

    /// A branch whose children are numbered: the first is at the path `0`, as in a `Vec` or a
    /// tuple. An absent child keeps its number, so that the gradient of a list of layers may lack
    /// one of them.
    ///
    /// ```
    /// use flatleaf::{destructure, DynTree};
    ///
    /// let layers = DynTree::list((1..=3).map(|width| DynTree::from(vec![0.5_f32; width])));
    /// let (flat, layout) = destructure(&layers)?;
    /// assert_eq!((flat.len(), layout.leaves()[2].path()), (6, "2"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn list(items: impl IntoIterator<Item = DynTree>) -> Self {
        DynTree(DynNode::List(items.into_iter().collect()))
    }

    /// A branch whose children are named, as the fields of a struct. They keep their order, which
    /// is that of the flat vector; a gradient's order does not matter. A name with a dot in it is
    /// one key and no path.
    ///
    /// # Panics
    /// If a key comes twice.
    ///
    /// ```
    /// use flatleaf::{destructure, DynTree};
    ///
    /// let layers = DynTree::map(["up", "down"].map(|name| (format!("layer_{name}"), DynTree::from(vec![1.0_f32]))));
    /// let (_, layout) = destructure(&layers)?;
    /// assert_eq!((layout.leaves()[0].path(), layout.leaves()[1].path()), ("layer_up", "layer_down"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn map<K>(entries: impl IntoIterator<Item = (K, DynTree)>) -> Self
    where
        K: Into<String>,
    {
        let entries: Vec<(String, DynTree)> = entries
            .into_iter()
            .map(|(key, tree)| (key.into(), tree))
            .collect();
        // Both would have one path.
        if let Some(key) = duplicate(&entries) {
            panic!("a map has the key {key:?} twice");
        }
        DynTree(DynNode::Map(entries))
    }

    /// A copy of any tree: its leaves, frozen and carried ones too, under the same paths. Ties
    /// become copies; what holds no array is left out. Keys that number the children from 0 on make
    /// a list.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels; `is_cycle`: a node in itself; `is_too_many_places`:
    /// more than 1,048,576 extra nodes of shared parts; `is_shape`: an array of more than 64 axes;
    /// `is_poisoned`, `is_borrowed`: a lock or cell that cannot be read; what reading a foreign
    /// leaf returns.
    ///
    /// ```
    /// use flatleaf::{DynTree, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Net { weight: Vec<f32>, seen: Vec<u64>, name: String }
    ///
    /// let copy = DynTree::of(&Net { weight: vec![1.0], seen: vec![7], name: "net".into() })?;
    /// assert_eq!(copy, DynTree::map([("weight", DynTree::from(vec![1.0_f32])), ("seen", DynTree::from(vec![7_u64]))]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<T: Tree + ?Sized>(tree: &T) -> Result<Self> {
        let mut copy = CopyingVisitor::default();
        tree.visit(&mut copy)
            .map_err(|error| error.or_at(|| copy.path()))?;
        copy.failed.into_result()?;
        Ok(copy.root.into_tree())
    }

    #[cfg(feature = "serde")]
    pub(crate) fn of_array(array: Box<dyn AnyArray>) -> Self {
        DynTree(DynNode::Leaf(array))
    }

    /// A list if the keys are 0, 1, 2 and so on, a map if they are others, absent without children.
    pub(crate) fn branch(children: Vec<(String, DynTree)>) -> Self {
        // A list of layers and a map with the keys 0, 1, 2 have the same paths, so that it does not
        // matter to a layout which of the two it is; people write lists.
        let mut keys = children.iter().map(|child| &child.0).enumerate();
        if children.is_empty() {
            DynTree::absent()
        } else if keys.all(|(index, key)| *key == index.to_string()) {
            DynTree::list(children.into_iter().map(|child| child.1))
        } else {
            DynTree(DynNode::Map(children))
        }
    }

    /// Whether there is nothing here, `null` in JSON: no array and no branch, not even one without
    /// children. In a gradient it is a parameter that the loss does not depend on, which an
    /// optimiser leaves as it is.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let grads = layout.mask(&tree!({ "w": [0.0] }))?;
    /// assert!(!grads.get("w").unwrap().is_absent() && grads.get("b").unwrap().is_absent());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_absent(&self) -> bool {
        matches!(self.0, DynNode::Absent)
    }

    /// The part at a dotted path; the empty path is the tree itself. `None` if there is none.
    ///
    /// A key with a dot in it is escaped, `\\.`. What stands for no key of ours stands for itself,
    /// so that `a..b` is looked for too. Looks through the keys of every map on the way.
    ///
    /// ```
    /// use flatleaf::tree;
    ///
    /// let tree = tree!({ "layers": [{ "w": [1.0] }, { "w": [2.0] }] });
    /// assert_eq!(tree.get("layers.1.w"), Some(&tree!([2.0])));
    /// assert_eq!(tree.get("layers.2"), None);
    /// ```
    pub fn get(&self, path: &str) -> Option<&DynTree> {
        if path.is_empty() {
            return Some(self);
        }
        keys_of_name(path).try_fold(self, |tree, key| tree.child(&key))
    }

    fn child(&self, key: &str) -> Option<&DynTree> {
        match &self.0 {
            // `07` is a name and no index: no list has it.
            DynNode::List(items) => match Key::Name(key).canonical() {
                Key::Index(index) => items.get(index),
                _ => None,
            },
            DynNode::Map(entries) => entries
                .iter()
                .find(|entry| entry.0 == key)
                .map(|entry| &entry.1),
            _ => None,
        }
    }

    /// The array, if this is a leaf whose elements are `E`; `None` for a branch, for nothing, and
    /// for an array of another element type.
    ///
    /// ```
    /// use flatleaf::tree;
    ///
    /// let tree = tree!({ "w": [[1.0, 2.0], [3.0, 4.0]] });
    /// let w = tree.get("w").unwrap();
    /// assert_eq!(w.as_array::<f32>().unwrap()[[1, 0]], 3.0);
    /// assert!(w.as_array::<f64>().is_none() && tree.as_array::<f32>().is_none());
    /// ```
    pub fn as_array<E: Element>(&self) -> Option<&ArrayD<E>> {
        match &self.0 {
            DynNode::Leaf(array) => array.as_any().downcast_ref(),
            _ => None,
        }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn parts(&self) -> DynParts<'_> {
        match &self.0 {
            DynNode::Absent => DynParts::Absent,
            DynNode::Leaf(array) => DynParts::Leaf(&**array),
            DynNode::List(items) => DynParts::List(items),
            DynNode::Map(entries) => DynParts::Map(entries),
        }
    }
}

#[cfg(feature = "serde")]
pub(crate) enum DynParts<'t> {
    Absent,
    Leaf(&'t dyn AnyArray),
    List(&'t [DynTree]),
    Map(&'t [(String, DynTree)]),
}

pub(crate) fn duplicate(entries: &[(String, DynTree)]) -> Option<&str> {
    // Sorted, and not each compared with all others: a text may have a million keys in one map.
    let keys = entries.iter().map(|entry| entry.0.as_str());
    let mut keys: Vec<&str> = keys.collect();
    keys.sort_unstable();
    keys.windows(2)
        .find(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
}

/// An array of some element type.
pub(crate) trait AnyArray: AsTree + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn equals(&self, other: &dyn Any) -> bool;
    fn shape(&self) -> &[usize];
    fn dtype(&self) -> Dtype;
    /// The first few elements.
    fn head(&self, count: usize) -> String;
    #[cfg(feature = "serde")]
    fn bytes(&self) -> Vec<u8>;
}

/// What any array can as the tree that it is, and as a type that is cloned.
pub(crate) trait AsTree {
    fn as_tree(&self) -> &dyn Tree;
    fn as_tree_mut(&mut self) -> &mut dyn Tree;
    fn boxed(&self) -> Box<dyn AnyArray>;
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Box<dyn AnyArray>>;
}

impl<A: AnyArray + Tree + Clone + 'static> AsTree for A {
    fn as_tree(&self) -> &dyn Tree {
        self
    }

    fn as_tree_mut(&mut self) -> &mut dyn Tree {
        self
    }

    fn boxed(&self) -> Box<dyn AnyArray> {
        Box::new(self.clone())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Box<dyn AnyArray>> {
        Ok(Box::new(Tree::rebuild(self, builder)?))
    }
}

impl<E: Element> AnyArray for ArrayD<E> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<Self>() == Some(self)
    }

    fn shape(&self) -> &[usize] {
        ArrayD::shape(self)
    }

    fn dtype(&self) -> Dtype {
        E::DTYPE
    }

    fn head(&self, count: usize) -> String {
        let elements: Vec<String> = self
            .iter()
            .take(count)
            .map(|element| format!("{element:?}"))
            .collect();
        elements.join(", ")
    }

    #[cfg(feature = "serde")]
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(bytemuck::bytes_of).copied().collect()
    }
}

/// An array of which the numbers along the last axis have names: they say what it is an array of to
/// whoever writes it into a file, or names an element. Otherwise it is the array.
#[derive(Clone)]
struct ArrayOfFields<E: Element> {
    array: ArrayD<E>,
    fields: Fields,
}

impl<E: Element> Tree for ArrayOfFields<E> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        // What was copied is in row-major order, and so is all that is rebuilt of it.
        let elements = self.array.as_slice().ok_or_else(Error::changed_length)?;
        let leaf = LeafRef::from_slice(self.array.shape(), elements);
        visitor.leaf(leaf.with_fields(Some(self.fields)))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.array.visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let array = Tree::rebuild(&self.array, builder)?;
        Ok(ArrayOfFields { array, ..*self })
    }
}

impl<E: Element> AnyArray for ArrayOfFields<E> {
    fn as_any(&self) -> &dyn Any {
        &self.array
    }

    fn equals(&self, other: &dyn Any) -> bool {
        self.array.equals(other)
    }

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn dtype(&self) -> Dtype {
        E::DTYPE
    }

    fn head(&self, count: usize) -> String {
        self.array.head(count)
    }

    #[cfg(feature = "serde")]
    fn bytes(&self) -> Vec<u8> {
        self.array.bytes()
    }
}

impl Clone for Box<dyn AnyArray> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

impl PartialEq for Box<dyn AnyArray> {
    fn eq(&self, other: &Self) -> bool {
        (**self).equals((**other).as_any())
    }
}

impl<E: Element, D: Dimension> From<Array<E, D>> for DynTree {
    fn from(array: Array<E, D>) -> Self {
        DynTree(DynNode::Leaf(Box::new(array.into_dyn())))
    }
}

impl<E: Element, D: Dimension> From<&Array<E, D>> for DynTree {
    fn from(array: &Array<E, D>) -> Self {
        array.to_owned().into()
    }
}

impl<E: Element> From<Vec<E>> for DynTree {
    fn from(elements: Vec<E>) -> Self {
        ndarray::Array1::from_vec(elements).into()
    }
}

/// A 0-d leaf.
impl<E: Element> From<E> for DynTree {
    fn from(number: E) -> Self {
        ndarray::arr0(number).into()
    }
}

impl Tree for DynTree {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        match &self.0 {
            DynNode::Absent => Ok(()),
            DynNode::Leaf(array) => array.as_tree().visit(visitor),
            DynNode::List(items) => items.visit(visitor),
            DynNode::Map(entries) => {
                for (key, tree) in entries {
                    visitor.child(Key::Name(key), tree)?;
                }
                Ok(())
            }
        }
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        match &mut self.0 {
            DynNode::Absent => Ok(()),
            DynNode::Leaf(array) => array.as_tree_mut().visit_mut(visitor),
            DynNode::List(items) => items.visit_mut(visitor),
            DynNode::Map(entries) => {
                for (key, tree) in entries {
                    visitor.child(Key::Name(key), tree)?;
                }
                Ok(())
            }
        }
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let node = match &self.0 {
            DynNode::Absent => DynNode::Absent,
            DynNode::Leaf(array) => {
                let array = array.rebuild(builder)?;
                DynNode::Leaf(array)
            }
            DynNode::List(items) => {
                let items = Tree::rebuild(items, builder)?;
                DynNode::List(items)
            }
            DynNode::Map(entries) => {
                let mut rebuilt = Vec::with_capacity(entries.len());
                for (key, tree) in entries {
                    let child = builder.child(Key::Name(key), tree)?;
                    rebuilt.push((key.clone(), child));
                }
                DynNode::Map(rebuilt)
            }
        };
        Ok(DynTree(node))
    }

    crate::rebuild_object!();
}

/// A tree may be nested far deeper than the stack allows: children are dropped from a list.
impl Drop for DynTree {
    fn drop(&mut self) {
        // What is dropped at the end of the loop has no children left, so that its own drop returns
        // at once.
        let mut children = Vec::new();
        self.take_branches(&mut children);
        while let Some(mut child) = children.pop() {
            child.take_branches(&mut children);
        }
    }
}

impl DynTree {
    fn take_branches(&mut self, children: &mut Vec<DynTree>) {
        let is_branch = |tree: &DynTree| matches!(tree.0, DynNode::List(_) | DynNode::Map(_));
        match &mut self.0 {
            DynNode::List(items) => {
                let items = items.drain(..);
                children.extend(items.filter(is_branch));
            }
            DynNode::Map(entries) => {
                let values = entries.drain(..).map(|(_, tree)| tree);
                children.extend(values.filter(is_branch));
            }
            _ => {}
        }
    }
}

/// Elements shown of one array, and branches shown within branches.
const SHOWN: usize = 8;
const SHOWN_LEVELS: usize = 64;

/// One line; big arrays are elided.
impl fmt::Debug for DynTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

/// One line; big arrays are elided.
impl fmt::Display for DynTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl DynTree {
    fn write(&self, f: &mut fmt::Formatter<'_>, level: usize) -> fmt::Result {
        match &self.0 {
            _ if level > SHOWN_LEVELS => f.write_str("…"),
            DynNode::Absent => f.write_str("null"),
            DynNode::Leaf(array) => write_array(f, &**array),
            DynNode::List(items) => {
                let children = items.iter().map(|item| (None, item));
                write_children(f, ['[', ']'], level, children)
            }
            DynNode::Map(entries) => {
                let children = entries.iter().map(|(key, tree)| (Some(key), tree));
                write_children(f, ['{', '}'], level, children)
            }
        }
    }
}

fn write_array(f: &mut fmt::Formatter<'_>, array: &dyn AnyArray) -> fmt::Result {
    let len: usize = array.shape().iter().product();
    let rest = if len > SHOWN { ", …" } else { "" };
    write!(
        f,
        "{}{:?}[{}{rest}]",
        array.dtype(),
        array.shape(),
        array.head(SHOWN)
    )
}

fn write_children<'t>(
    f: &mut fmt::Formatter<'_>,
    brackets: [char; 2],
    level: usize,
    children: impl Iterator<Item = (Option<&'t String>, &'t DynTree)>,
) -> fmt::Result {
    let line_break = |f: &mut fmt::Formatter<'_>, level: usize| {
        if f.alternate() {
            write!(f, "\n{:width$}", "", width = 4 * level)
        } else {
            Ok(())
        }
    };
    // With `{:#?}` every child has a line of its own, and the comma needs no space behind it.
    let separator = if f.alternate() { "," } else { ", " };
    write!(f, "{}", brackets[0])?;
    let mut any = false;
    for (key, tree) in children {
        if any {
            f.write_str(separator)?;
        }
        line_break(f, level + 1)?;
        key.map_or(Ok(()), |key| write!(f, "{key:?}: "))?;
        tree.write(f, level + 1)?;
        any = true;
    }
    if any {
        line_break(f, level)?;
    }
    write!(f, "{}", brackets[1])
}

/// Copies a tree as it is visited.
#[derive(Default)]
struct CopyingVisitor {
    root: Branch,
    /// The branches the walk is in, below the root.
    open: Vec<(String, Branch)>,
    bounds: Bounds,
    failed: FirstError,
}

#[derive(Default)]
struct Branch {
    leaf: Option<Box<dyn AnyArray>>,
    is_part: bool,
    children: Vec<(String, DynTree)>,
}

impl Branch {
    fn into_tree(mut self) -> DynTree {
        if let Some(leaf) = self.leaf {
            return DynTree(DynNode::Leaf(leaf));
        }
        // A list grows to four at once, and a tree of long names is nothing but branches of one.
        self.children.shrink_to_fit();
        DynTree::branch(self.children)
    }
}

impl CopyingVisitor {
    fn here(&mut self) -> &mut Branch {
        self.open
            .last_mut()
            .map_or(&mut self.root, |open| &mut open.1)
    }

    /// Remembers an error, should the tree keep it to itself: a copy that lacks a leaf would pass
    /// for one that is whole.
    fn noted(&mut self, error: Error) -> Error {
        let path = self.path();
        self.failed.note(error, || path)
    }

    fn path(&self) -> String {
        path_of(self.open.iter().map(|open| &open.0))
    }
}

fn path_of<'k>(keys: impl Iterator<Item = &'k String>) -> String {
    let mut path = String::new();
    keys.for_each(|key| push_segment(&mut path, Key::Name(key)));
    path
}

impl<'a> Visitor<'a> for CopyingVisitor {
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let copy = array_of(&leaf).map_err(|error| self.noted(error))?;
        // A tie becomes copies: this tree owns its arrays, and one array of two places would have
        // to be shared.
        self.here().leaf = Some(copy);
        Ok(())
    }

    fn no_leaf(&mut self) -> Result<()> {
        // A name or a setting would come back as an absent parameter.
        self.here().is_part = false;
        Ok(())
    }

    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self)))
            .map_err(|error| self.noted(error))
    }

    // Frozen or not is the layout's affair, and a copy has all leaves.
    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        let level = self.bounds.enter()?;
        if key != Key::Same {
            let branch = Branch {
                is_part: true,
                ..Branch::default()
            };
            self.open.push((key.text(), branch));
        }
        Ok(level)
    }

    fn leave(&mut self, key: Key<'_>) {
        self.bounds.leave();
        // A wrapper has opened no branch: its content is its parent's.
        if key == Key::Same {
            return;
        }
        let Some((name, branch)) = self.open.pop() else {
            return;
        };
        if branch.is_part {
            let tree = branch.into_tree();
            self.here().children.push((name, tree));
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        let keys = &self.open;
        self.bounds
            .enter_shared(identity, || path_of(keys.iter().map(|open| &open.0)))
    }

    fn leave_shared(&mut self) {
        self.bounds.leave_shared();
    }
}

macro_rules! arrays_by_type {
    ($leaf:expr, $($(#[$meta:meta])* $dtype:ident => $type:ty),* $(,)?) => {
        match $leaf.dtype {
            $($(#[$meta])* Dtype::$dtype => copy_array::<$type>($leaf),)*
            dtype if dtype.is_opaque() => {
                Ok(Box::new(OpaqueArray::copy_of($leaf)?))
            }
            // Without the feature `half` there are two types that no array here can hold.
            #[allow(unreachable_patterns)]
            other => Err(Error::element_type(String::new(), "an element type of this build".into(), other.to_string())),
        }
    };
}

/// A copy of a leaf, as an array of its own element type.
pub(crate) fn array_of(leaf: &LeafRef<'_, '_>) -> Result<Box<dyn AnyArray>> {
    check_axes(leaf.shape.len())?;
    arrays_by_type! { leaf,
        F32 => f32, F64 => f64,
        #[cfg(feature = "half")] F16 => half::f16,
        #[cfg(feature = "half")] BF16 => half::bf16,
        I8 => i8, I16 => i16, I32 => i32, I64 => i64, I128 => i128, Isize => isize,
        U8 => u8, U16 => u16, U32 => u32, U64 => u64, U128 => u128, Usize => usize, Bool => bool,
    }
}

fn copy_array<E: Element>(leaf: &LeafRef<'_, '_>) -> Result<Box<dyn AnyArray>> {
    let elements: Vec<E> = leaf.to_vec()?;
    let array = ArrayD::from_shape_vec(IxDyn(leaf.shape), elements);
    let array = array.map_err(|_| Error::changed_length())?;
    Ok(match leaf.fields {
        Some(fields) => Box::new(ArrayOfFields { array, fields }),
        None => Box::new(array),
    })
}
