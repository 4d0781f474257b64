//! A flat map from dotted names to arrays, as a tree: PyTorch's state dict, candle's `VarMap`, the
//! tensors of a safetensors file.
//!
//! How names are walked as a tree stands in `names.rs`.

use std::fmt;

use bytemuck::checked;
use ndarray::{Array, ArrayD, ArrayViewD, Dimension, IxDyn};

use super::axes::Shape;
use super::bounds::Bounds;
use super::dyn_tree::{AnyArray, array_of};
use super::identity::{Guarded, Identity};
use super::key::{order_of_names, push_segment};
use super::leaf::{LeafRef, Source};
use super::names::{self, OpenKeys};
use super::{Builder, Key, Tree, UnderGuard, Visitor, VisitorMut};
use crate::element::{Dtype, Element};
use crate::error::{Error, FirstError, Result};

/// A flat map whose keys are dotted paths, as a tree: what PyTorch calls a state dict.
///
/// The names need no escapes: `layers.0.weight` is the leaf that a nested model has at that path,
/// so that a state dict stands wherever a tree does: a layout is planned from it, and a nested
/// model's layout gathers values and gradients from it. Entries are sorted by name, numbers by
/// value (`layers.2` before `layers.10`), whatever the order they came in: two hash maps of the
/// same tensors give one layout.
///
/// Arrays that are references are lent and not copied, if their elements are in row-major order;
/// such entries cannot be written in place ([`into_owned`](StateDict::into_owned) copies them).
///
/// ```
/// use flatleaf::{Layout, StateDict, Tree};
/// use ndarray::{arr1, arr2, Array1, Array2, ArrayD};
/// use std::collections::HashMap;
///
/// #[derive(Tree)]
/// struct Dense { weight: Array2<f32>, bias: Array1<f32> }
///
/// let model = vec![Dense { weight: arr2(&[[1.0, 2.0]]), bias: arr1(&[3.0]) }];
/// let layout = Layout::of(&model)?;
///
/// let tensors: HashMap<String, ArrayD<f32>> = HashMap::from([
///     ("0.weight".into(), arr2(&[[4.0, 5.0]]).into_dyn()),
///     ("0.bias".into(), arr1(&[6.0]).into_dyn()),
/// ]);
/// let state_dict = StateDict::from_iter(&tensors)?; // lends the arrays
/// assert_eq!(layout.gather(&state_dict)?, [4.0, 5.0, 6.0]);
/// assert_eq!(*layout.gather_grad(&state_dict)?, [4.0, 5.0, 6.0]);
///
/// let out = StateDict::of(&model)?; // lends the model's
/// assert_eq!(out.names().collect::<Vec<_>>(), ["0.bias", "0.weight"]);
/// assert_eq!(out.get::<f32>("0.bias"), Some(arr1(&[3.0]).view().into_dyn()));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct StateDict<'a> {
    /// In the order of the names; none is another's beginning.
    entries: Vec<(String, StateArray<'a>)>,
}

/// One array of a [`StateDict`], of any element type, lent or owned.
///
/// Made from an ndarray array, a `Vec` or a slice, and from references to them.
///
/// ```
/// use flatleaf::{Dtype, StateArray, StateDict};
/// use ndarray::arr2;
///
/// let weight = arr2(&[[1.0_f32, 2.0]]);
/// let entries = [("weight", StateArray::from(&weight)), ("steps", StateArray::from(vec![7_i64]))];
/// let state_dict = StateDict::from_iter(entries)?;
/// for (name, array) in &state_dict {
///     assert_eq!(array.dtype(), if name == "steps" { Dtype::I64 } else { Dtype::F32 });
/// }
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone)]
pub struct StateArray<'a>(ArrayMemory<'a>);

#[derive(Clone)]
enum ArrayMemory<'a> {
    Owned(Box<dyn AnyArray>),
    /// Row-major elements, as bytes.
    Borrowed {
        dtype: Dtype,
        shape: Shape,
        bytes: &'a [u8],
    },
}

impl<'a> StateDict<'a> {
    /// A state dict of names and arrays, in any order: pairs, or any map of arrays.
    ///
    /// The arrays may be of one type or, as [`StateArray`]s, of several. References are lent.
    ///
    /// # Errors
    /// `is_duplicate`: a name that comes twice, and a name that is both a leaf's and the beginning
    /// of another's, with both names.
    ///
    /// ```
    /// use flatleaf::StateDict;
    ///
    /// let state_dict = StateDict::from_iter([("b.10", vec![1.0_f32]), ("b.9", vec![2.0]), ("a", vec![3.0])])?;
    /// assert_eq!(state_dict.names().collect::<Vec<_>>(), ["a", "b.9", "b.10"]);
    ///
    /// let error = StateDict::from_iter([("w", vec![1.0_f32]), ("w.absmax", vec![2.0])]).unwrap_err();
    /// assert_eq!((error.path(), error.other_path()), (Some("w"), Some("w.absmax")));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    // It cannot be `FromIterator`'s, since not all names go together.
    #[allow(clippy::should_implement_trait)]
    pub fn from_iter<N, A>(entries: impl IntoIterator<Item = (N, A)>) -> Result<Self>
    where
        N: Into<String>,
        A: Into<StateArray<'a>>,
    {
        let entries = entries.into_iter();
        let entries = entries.map(|(name, array)| (name.into(), array.into()));
        let mut entries: Vec<(String, StateArray<'a>)> = entries.collect();
        entries.sort_by(|(a, _), (b, _)| order_of_names(a, b));
        let names = entries.iter().map(|(name, _)| name.as_str());
        names::check(names)?;
        Ok(StateDict { entries })
    }

    /// The leaves of any tree under their paths, frozen and carried ones too. A tied leaf stands
    /// there at each of its places.
    ///
    /// Arrays in row-major order are lent; what lies behind a lock, in another order or elsewhere
    /// is copied.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels; `is_cycle`; `is_poisoned`, `is_borrowed`: a lock or
    /// cell that cannot be read; `is_shape`: an array of more than 64 axes that has to be copied;
    /// what reading a foreign leaf returns.
    ///
    /// ```
    /// use flatleaf::{tree, StateDict};
    ///
    /// let model = tree!({ "layers": [{ "w": [1.0, 2.0] }, { "w": [3.0] }] });
    /// let state_dict = StateDict::of(&model)?;
    /// assert_eq!(state_dict.names().collect::<Vec<_>>(), ["layers.0.w", "layers.1.w"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<T: Tree + ?Sized>(tree: &'a T) -> Result<Self> {
        let mut collector = Collector::default();
        let visited = tree.visit(&mut collector);
        visited.map_err(|error| error.or_at(|| collector.path.clone()))?;
        collector.failed.into_result()?;
        StateDict::from_iter(collector.entries)
    }

    /// The number of arrays: of names, that is, and not of their elements. An array that is tied
    /// stands under each of its names and counts at each.
    ///
    /// ```
    /// use flatleaf::StateDict;
    ///
    /// assert_eq!(StateDict::from_iter([("a", vec![1.0_f32]), ("b", vec![2.0])])?.len(), 2);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no array, as after [`default`](Default::default) and of a tree without
    /// leaves. An array without elements is an array.
    ///
    /// ```
    /// use flatleaf::StateDict;
    ///
    /// assert!(StateDict::default().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names in their order, which is that of the leaves in a layout: compared key by key,
    /// numbers by value before other keys. `layers.2.w` comes before `layers.10.b`.
    ///
    /// ```
    /// use flatleaf::StateDict;
    ///
    /// let state_dict = StateDict::from_iter([("w.1", vec![1.0_f32]), ("w.0", vec![2.0])])?;
    /// assert_eq!(state_dict.names().collect::<Vec<_>>(), ["w.0", "w.1"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.0.as_str())
    }

    /// The array of this name, seen without a copy, if its elements are `E`; `None` if there is
    /// none of this name, or one of another element type. Takes time in the logarithm of the number
    /// of names.
    ///
    /// ```
    /// use flatleaf::StateDict;
    ///
    /// let state_dict = StateDict::from_iter([("w", vec![1.0_f32, 2.0])])?;
    /// assert_eq!(state_dict.get::<f32>("w").unwrap()[[1]], 2.0);
    /// assert!(state_dict.get::<f64>("w").is_none());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn get<E: Element>(&self, name: &str) -> Option<ArrayViewD<'_, E>> {
        let found = self
            .entries
            .binary_search_by(|entry| order_of_names(&entry.0, name));
        self.entries[found.ok()?].1.view()
    }

    /// Copies the arrays that are lent, so that the state dict outlives them and can be written in
    /// place; those that it owns are moved. Costs memory for the elements that are copied.
    ///
    /// ```
    /// use flatleaf::{Layout, StateDict};
    ///
    /// let weight = vec![1.0_f32];
    /// let mut state_dict = StateDict::from_iter([("w", &weight[..])])?.into_owned();
    /// let layout = Layout::of(&state_dict)?;
    /// layout.restructure_into(&mut state_dict, &[2.0])?;
    /// assert_eq!(state_dict.get::<f32>("w").unwrap()[[0]], 2.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn into_owned(self) -> StateDict<'static> {
        let entries = self.entries.into_iter();
        let owned = entries.map(|(name, array)| (name, array.into_owned()));
        StateDict {
            entries: owned.collect(),
        }
    }
}

impl<'a> StateArray<'a> {
    /// The length of each axis, outermost first; empty for a 0-d array, which has one element. An
    /// array that was made of a `Vec` or a slice has one axis.
    ///
    /// ```
    /// use flatleaf::StateArray;
    /// use ndarray::arr2;
    ///
    /// assert_eq!(StateArray::from(arr2(&[[1.0_f32, 2.0]])).shape(), [1, 2]);
    /// ```
    pub fn shape(&self) -> &[usize] {
        match &self.0 {
            ArrayMemory::Owned(array) => array.shape(),
            ArrayMemory::Borrowed { shape, .. } => shape,
        }
    }

    /// The element type, known at run time only: a state dict holds `f32` weights, `i64` counters
    /// and `bool` masks side by side. [`view`](StateArray::view) needs it to be the type that is
    /// asked for.
    ///
    /// ```
    /// use flatleaf::{Dtype, StateArray};
    ///
    /// assert_eq!(StateArray::from(vec![true, false]).dtype(), Dtype::Bool);
    /// ```
    pub fn dtype(&self) -> Dtype {
        match &self.0 {
            ArrayMemory::Owned(array) => array.dtype(),
            ArrayMemory::Borrowed { dtype, .. } => *dtype,
        }
    }

    /// The array, seen without a copy, if its elements are `E`; `None` if they are of another type.
    /// Nothing is converted: [`Layout::gather`](crate::Layout::gather) does that.
    ///
    /// ```
    /// use flatleaf::StateArray;
    ///
    /// let array = StateArray::from(vec![1.0_f32, 2.0]);
    /// assert_eq!(array.view::<f32>().unwrap().sum(), 3.0);
    /// assert!(array.view::<i32>().is_none());
    /// ```
    pub fn view<E: Element>(&self) -> Option<ArrayViewD<'_, E>> {
        match &self.0 {
            ArrayMemory::Owned(array) => {
                let array: &ArrayD<E> = array.as_any().downcast_ref()?;
                Some(array.view())
            }
            ArrayMemory::Borrowed {
                dtype,
                shape,
                bytes,
            } => {
                if *dtype != E::DTYPE {
                    return None;
                }
                let elements = checked::try_cast_slice(bytes).ok()?;
                ArrayViewD::from_shape(IxDyn(shape), elements).ok()
            }
        }
    }

    fn borrowed<E: Element>(shape: &[usize], elements: &'a [E]) -> Self {
        StateArray(ArrayMemory::Borrowed {
            dtype: E::DTYPE,
            shape: shape.into(),
            bytes: bytemuck::cast_slice(elements),
        })
    }

    fn into_owned(self) -> StateArray<'static> {
        let storage = match self.0 {
            ArrayMemory::Owned(array) => ArrayMemory::Owned(array),
            ArrayMemory::Borrowed {
                dtype,
                shape,
                bytes,
            } => {
                let leaf = LeafRef::new(dtype, &shape, Source::Borrowed(bytes));
                let copy = array_of(&leaf).expect("what was an array can be copied as one");
                ArrayMemory::Owned(copy)
            }
        };
        StateArray(storage)
    }

    fn visit<'t>(&'t self, visitor: &mut dyn Visitor<'t>) -> Result<()> {
        match &self.0 {
            ArrayMemory::Owned(array) => array.as_tree().visit(visitor),
            ArrayMemory::Borrowed {
                dtype,
                shape,
                bytes,
            } => {
                // Two names may lend one array, which is then one parameter; and none is written.
                visitor.read_only();
                visitor.leaf(LeafRef::new(*dtype, shape, Source::Borrowed(bytes)))
            }
        }
    }

    fn visit_mut<'t>(&'t mut self, visitor: &mut dyn VisitorMut<'t>) -> Result<()> {
        match &mut self.0 {
            ArrayMemory::Owned(array) => array.as_tree_mut().visit_mut(visitor),
            // Refused when the tree was checked, if it was to be written.
            ArrayMemory::Borrowed { .. } => Ok(()),
        }
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        match &self.0 {
            ArrayMemory::Owned(array) => {
                Ok(StateArray(ArrayMemory::Owned(array.rebuild(builder)?)))
            }
            ArrayMemory::Borrowed { .. } if builder.changes() => {
                Err(Error::read_only("an array that a state dict was lent"))
            }
            ArrayMemory::Borrowed { .. } => Ok(self.clone()),
        }
    }
}

impl<E: Element, D: Dimension> From<Array<E, D>> for StateArray<'_> {
    fn from(array: Array<E, D>) -> Self {
        StateArray(ArrayMemory::Owned(Box::new(array.into_dyn())))
    }
}

/// Lent if its elements are in row-major order, otherwise copied.
impl<'a, E: Element, D: Dimension> From<&'a Array<E, D>> for StateArray<'a> {
    fn from(array: &'a Array<E, D>) -> Self {
        match array.as_slice() {
            Some(elements) => StateArray::borrowed(array.shape(), elements),
            None => array.to_owned().into(),
        }
    }
}

impl<E: Element> From<Vec<E>> for StateArray<'_> {
    fn from(elements: Vec<E>) -> Self {
        ndarray::Array1::from_vec(elements).into()
    }
}

impl<'a, E: Element> From<&'a Vec<E>> for StateArray<'a> {
    fn from(elements: &'a Vec<E>) -> Self {
        elements.as_slice().into()
    }
}

impl<'a, E: Element> From<&'a [E]> for StateArray<'a> {
    fn from(elements: &'a [E]) -> Self {
        StateArray::borrowed(&[elements.len()], elements)
    }
}

/// Shape and element type.
impl fmt::Debug for StateArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype(), self.shape())
    }
}

/// Names, shapes and element types.
impl fmt::Debug for StateDict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.iter().map(|(name, array)| (name, array));
        f.debug_map().entries(entries).finish()
    }
}

impl<'a> IntoIterator for StateDict<'a> {
    type Item = (String, StateArray<'a>);
    type IntoIter = std::vec::IntoIter<(String, StateArray<'a>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'d, 'a> IntoIterator for &'d StateDict<'a> {
    type Item = &'d (String, StateArray<'a>);
    type IntoIter = std::slice::Iter<'d, (String, StateArray<'a>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

/// Every name is a leaf at that path. What is owned can be written; what is lent cannot.
impl Tree for StateDict<'_> {
    fn visit<'t>(&'t self, visitor: &mut dyn Visitor<'t>) -> Result<()> {
        let mut open = OpenKeys::default();
        for (name, array) in &self.entries {
            open.go_to(name, visitor)?;
            array.visit(visitor)?;
        }
        open.leave_to(0, visitor);
        Ok(())
    }

    fn visit_mut<'t>(&'t mut self, visitor: &mut dyn VisitorMut<'t>) -> Result<()> {
        let mut open = OpenKeys::default();
        for (name, array) in &mut self.entries {
            open.go_to(name, visitor)?;
            array.visit_mut(visitor)?;
        }
        open.leave_to(0, visitor);
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let mut open = OpenKeys::default();
        let mut entries = Vec::with_capacity(self.entries.len());
        for (name, array) in &self.entries {
            open.go_to(name, builder)?;
            let rebuilt = array.rebuild(builder)?;
            entries.push((name.clone(), rebuilt));
        }
        open.leave_to(0, builder);
        Ok(StateDict { entries })
    }

    crate::rebuild_object!();
}

/// Writes the leaves of a tree down with their paths.
#[derive(Default)]
struct Collector<'a> {
    entries: Vec<(String, StateArray<'a>)>,
    /// Where the walk is, and how long the path was at every level above.
    path: String,
    lengths: Vec<usize>,
    bounds: Bounds,
    failed: FirstError,
}

impl Collector<'_> {
    /// Remembers an error, should the tree keep it to itself: a state dict that lacks a leaf would
    /// pass for one that is whole.
    fn noted(&mut self, error: Error) -> Error {
        self.failed.note(error, || self.path.clone())
    }
}

impl<'a> Visitor<'a> for Collector<'a> {
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let storage = match leaf.source {
            Source::Borrowed(bytes) if bytes.len() == leaf.size() => ArrayMemory::Borrowed {
                dtype: leaf.dtype,
                shape: leaf.shape.into(),
                bytes,
            },
            _ => {
                let copied = array_of(&leaf);
                let array = copied.map_err(|error| self.noted(error))?;
                ArrayMemory::Owned(array)
            }
        };
        let path = self.path.clone();
        self.entries.push((path, StateArray(storage)));
        Ok(())
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        let read = cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self)));
        read.map_err(|error| self.noted(error))
    }

    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        let level = self.bounds.enter()?;
        self.lengths.push(self.path.len());
        if key != Key::Same {
            push_segment(&mut self.path, key);
        }
        Ok(level)
    }

    fn leave(&mut self, _key: Key<'_>) {
        self.bounds.leave();
        if let Some(len) = self.lengths.pop() {
            self.path.truncate(len);
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.bounds.enter_shared(identity, || self.path.clone())
    }

    fn leave_shared(&mut self) {
        self.bounds.leave_shared();
    }
}
