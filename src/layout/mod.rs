//! The plan: which leaf is where in the flat vector.
//!
//! One walk over a tree drafts it ([`build`]), one validator guards it ([`draft`]), and from then on
//! a tree is matched to it segment by segment ([`cursor`]). A layout is plain data: paths, shapes,
//! offsets, ties, never addresses. Invariant: nothing here moves elements.

mod build;
mod cursor;
mod display;
mod draft;
mod leaf;
mod nearest;
mod overlap;
mod paths;
mod pattern;
mod planner;
mod rename;
#[cfg(feature = "serde")]
mod serde;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub(crate) use cursor::Cursor;
pub use leaf::Leaf;
pub(crate) use paths::{NodeId, NodeKind, Paths};
pub(crate) use pattern::Pattern;
pub use planner::Planner;
#[cfg(feature = "safetensors")]
pub(crate) use rename::NamePattern;
pub(crate) use rename::Rename;

use crate::element::{Dtype, FlatElement};
use crate::error::{Error, Findings, Result};
use crate::tree::Tree;
use crate::tree::axes::{AxisMap, Shape};

/// Which leaf of a tree is where in one flat vector.
///
/// Made once from a model with [`Layout::of`]; good for every tree with the same paths. Cheap to
/// clone. Printing it gives a table.
///
/// ```
/// use std::sync::Arc;
/// use flatleaf::{Layout, Tree};
/// use ndarray::{arr1, arr2, Array1, Array2};
///
/// #[derive(Tree)]
/// struct Net {
///     embed: Arc<Array2<f32>>,
///     bias: Array1<f32>,
///     #[tree(frozen)]
///     mean: Array1<f32>,
///     head: Arc<Array2<f32>>,
/// }
///
/// let embed = Arc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
/// let net = Net { embed: embed.clone(), bias: arr1(&[5.0]), mean: arr1(&[0.5]), head: embed };
/// let layout = Layout::of(&net)?;
///
/// assert_eq!(layout.len(), 5);
/// let leaf = layout.leaf("head").unwrap();
/// assert_eq!(leaf.path(), "embed");
/// assert_eq!(leaf.places(), ["embed", "head"]);
/// assert_eq!(leaf.range(), 0..4);
/// assert_eq!(layout.others()[0].path(), "mean");
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone)]
pub struct Layout {
    pub(crate) inner: Arc<LayoutData>,
}

pub(crate) struct LayoutData {
    pub(crate) paths: Arc<Paths>,
    /// In walk order.
    pub(crate) places: Vec<Place>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) others: Vec<Leaf>,
    pub(crate) len: usize,
    /// Whether a vector of `f32` may hold all trainable leaves: none is `f64`, or those are to be
    /// rounded.
    takes_f32: bool,
    /// Whether there are trainable leaves of `f64` that are rounded in a vector of `f32`.
    pub(crate) rounds_f64: bool,
    fingerprint: OnceLock<u64>,
    /// Whether every trainable leaf has one place, and leaves are met in flat order.
    pub(crate) is_plain: bool,
}

/// One path at which a leaf is reached, with all that a walk over small leaves needs to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Of the array here, which may be permuted.
    pub(crate) shape: Shape,
    /// Where the leaf starts in the flat vector, and its number of elements.
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) leaf: LeafId,
    pub(crate) node: NodeId,
    pub(crate) dtype: Dtype,
    /// Whether it is the place that names the leaf.
    pub(crate) first: bool,
    pub(crate) frozen: bool,
    /// Whether the leaf is trainable and has no other place.
    pub(crate) plain: bool,
    pub(crate) axes: Option<Box<AxisMap>>,
}

impl Place {
    /// Where the leaf is in the flat vector, if it is trainable.
    #[inline]
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    #[inline]
    pub(crate) fn has_shape(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(|(a, b)| a == b)
    }
}

/// An index into a layout's leaves, or into the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeafId {
    pub(crate) index: u32,
    pub(crate) trainable: bool,
}

impl LayoutData {
    fn new(
        paths: Arc<Paths>,
        places: Vec<Place>,
        leaves: Vec<Leaf>,
        others: Vec<Leaf>,
        len: usize,
        round_f64: bool,
    ) -> Self {
        let has_f64 = leaves.iter().any(|leaf| leaf.dtype == Dtype::F64);
        let (takes_f32, rounds_f64) = (!has_f64 || round_f64, has_f64 && round_f64);
        let is_plain = places
            .iter()
            .all(|place| place.plain || !place.leaf.trainable);
        LayoutData {
            paths,
            places,
            leaves,
            others,
            len,
            takes_f32,
            rounds_f64,
            is_plain,
            fingerprint: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn leaf(&self, id: LeafId) -> &Leaf {
        if id.trainable {
            &self.leaves[id.index as usize]
        } else {
            &self.others[id.index as usize]
        }
    }

    #[inline]
    pub(crate) fn place(&self, index: u32) -> &Place {
        &self.places[index as usize]
    }

    pub(crate) fn all_leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.leaves.iter().chain(&self.others)
    }

    /// All that makes a leaf what it is to a layout; its places with their axes.
    fn signature<'l>(&'l self, leaf: &'l Leaf) -> Signature<'l> {
        let place = |node| self.paths.place(node).map(|place| self.place(place));
        let signature = |&node| {
            let place = place(node);
            (
                self.paths.render(node),
                place.is_some_and(|place| place.frozen),
                place.and_then(|place| place.axes.as_deref()),
            )
        };
        let places = leaf.nodes.iter().map(signature).collect();
        (leaf.trainable, leaf.dtype, leaf.shape(), places)
    }

    /// The places at a node or below it, in walk order.
    pub(crate) fn places_below(&self, node: NodeId) -> impl Iterator<Item = &Place> {
        self.place_ids_below(node).map(|place| self.place(place))
    }

    pub(crate) fn place_ids_below(&self, node: NodeId) -> impl Iterator<Item = u32> {
        (node..self.paths.node(node).end).filter_map(|node| self.paths.place(node))
    }

    pub(crate) fn leaves_below(&self, node: NodeId) -> impl Iterator<Item = LeafId> {
        self.places_below(node).map(|place| place.leaf)
    }
}

impl Layout {
    /// Plans a tree: one walk, depth first, fields in declaration order, maps by key. A tied leaf
    /// stands at its first trainable place. About 100 ns a leaf; memory is linear in the tree.
    ///
    /// Float leaves are trainable unless frozen; integer and boolean arrays are carried along.
    ///
    /// # Errors
    /// Views that share some elements but not all; a shared node that contains itself; more than
    /// 1,024 levels; more than 2²⁰ extra places of shared nodes; a path that stands twice; a
    /// poisoned lock or a cell that is borrowed.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [0.5] }))?;
    /// let paths: Vec<_> = layout.leaves().iter().map(|leaf| (leaf.path(), leaf.range())).collect();
    /// assert_eq!(paths, [("w", 0..2), ("b", 2..3)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<T: Tree + ?Sized>(tree: &T) -> Result<Layout> {
        Layout::planner().of(tree)
    }

    /// Plans a tree with its frozen float leaves as trainable ones: to average or compare whole
    /// models.
    ///
    /// # Errors
    /// As [`Layout::of`].
    ///
    /// ```
    /// use flatleaf::{Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32> }
    ///
    /// let norm = Norm { scale: vec![1.0], mean: vec![0.5] };
    /// assert_eq!(Layout::of(&norm)?.gather(&norm)?, [1.0]);
    /// assert_eq!(Layout::everything(&norm)?.gather(&norm)?, [1.0, 0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn everything<T: Tree + ?Sized>(tree: &T) -> Result<Layout> {
        Layout::planner().everything().of(tree)
    }

    /// Plans a tree with some of its leaves frozen, by path pattern or by predicate.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "encoder": { "w": [1.0] }, "head": { "w": [2.0] } });
    /// let layout = Layout::planner().freeze("encoder.**").of(&model)?;
    /// assert_eq!(layout.gather(&model)?, [2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn planner<'p>() -> Planner<'p> {
        Planner::default()
    }

    pub(crate) fn new(inner: LayoutData) -> Self {
        Layout {
            inner: Arc::new(inner),
        }
    }

    /// The number of elements of the flat vector.
    ///
    /// ```
    /// use flatleaf::{Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32> }
    ///
    /// let layout = Layout::of(&Norm { scale: vec![1.0, 1.0], mean: vec![0.0, 0.0] })?;
    /// assert_eq!(layout.len(), 2); // the frozen mean does not count
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.inner.len
    }

    /// Whether the flat vector has no elements.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// assert!(Layout::of(&(vec![7_u64], "no array"))?.is_empty());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The trainable leaves, in flat order.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [3.0, 4.0], "b": [2.0] }))?;
    /// let largest: Vec<f32> = layout.leaves().iter().map(|leaf| flat[leaf.range()].iter().copied().fold(0.0, f32::max)).collect();
    /// assert_eq!(largest, [4.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaves(&self) -> &[Leaf] {
        &self.inner.leaves
    }

    /// The leaves that are not in the flat vector: frozen ones, and integers and booleans that are
    /// carried along. In walk order.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], vec![7_u64]))?;
    /// assert_eq!((layout.leaves()[0].path(), layout.others()[0].path()), ("0", "1"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn others(&self) -> &[Leaf] {
        &self.inner.others
    }

    /// The bare floats of the model that are no parameters, with their element types: settings, or
    /// numbers that were meant to be trained and lack `#[tree(param)]`.
    ///
    /// They are no leaves and hold no place in the flat vector: a new tree takes them over from the
    /// old one. Printing the layout lists them too.
    ///
    /// ```
    /// use flatleaf::{Dtype, Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Spring { rest: Vec<f64>, #[tree(param)] k: f64, damping: f64 }
    ///
    /// let layout = Layout::of(&Spring { rest: vec![1.0], k: 2.0, damping: 0.1 })?;
    /// assert_eq!(layout.settings().collect::<Vec<_>>(), [("damping".to_owned(), Dtype::F64)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn settings(&self) -> impl Iterator<Item = (String, Dtype)> {
        let paths = &self.inner.paths;
        paths.ids().filter_map(|id| match paths.node(id).kind {
            NodeKind::NoLeaf(Some(dtype)) if dtype.is_float() => Some((paths.render(id), dtype)),
            _ => None,
        })
    }

    /// The trainable leaf with this path among its places.
    ///
    /// Sorts the paths on the first call; then **O(length of the path · log n)**.
    ///
    /// ```
    /// use flatleaf::Layout;
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), shared, vec![7_u64]))?;
    /// assert_eq!(layout.leaf("1").unwrap().path(), "0"); // a tie answers to each of its places
    /// assert!(layout.leaf("2").is_none()); // integers are carried along
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf(&self, path: &str) -> Option<&Leaf> {
        self.index_of(path).map(|index| &self.leaves()[index])
    }

    /// The index in [`leaves`](Layout::leaves) of the leaf with this path among its places.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [1.0], "b": [2.0] }))?;
    /// assert_eq!((layout.index_of("b"), layout.index_of("c")), (Some(1), None));
    /// assert_eq!(layout.leaf("b").map(|leaf| leaf.range()), Some(1..2));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn index_of(&self, path: &str) -> Option<usize> {
        let node = self.inner.paths.find(path)?;
        match self.inner.paths.node(node).kind {
            NodeKind::Place(place) => Some(self.inner.place(place).leaf)
                .filter(|leaf| leaf.trainable)
                .map(|leaf| leaf.index as usize),
            _ => None,
        }
    }

    /// A number that two layouts have in common if they have the same paths, shapes, element types,
    /// ties and trainability, and round the same leaves; others hardly ever. The same on every
    /// machine and for every release with this layout format.
    ///
    /// Computed on the first call: FNV-1a over the leaves.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let of = |tree| Layout::of(&tree).map(|layout| layout.fingerprint());
    /// assert_eq!(of(tree!({ "a": [1.0] }))?, of(tree!({ "a": [9.0] }))?);
    /// assert_ne!(of(tree!({ "a": [1.0] }))?, of(tree!({ "b": [1.0] }))?);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn fingerprint(&self) -> u64 {
        *self
            .inner
            .fingerprint
            .get_or_init(|| fingerprint(&self.inner))
    }

    /// Whether two layouts have the same paths, shapes, element types, ties and trainability, and
    /// round the same leaves.
    pub(crate) fn is_same(&self, other: &Layout) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.fingerprint() == other.fingerprint() && self.has_same_leaves(other))
    }

    fn has_same_leaves(&self, other: &Layout) -> bool {
        let leaves = |layout: &Layout| layout.leaves().len() + layout.others().len();
        let pairs = || self.inner.all_leaves().zip(other.inner.all_leaves());
        let counts = |layout: &Layout| (leaves(layout), layout.inner.rounds_f64);
        counts(self) == counts(other)
            && pairs().all(|(a, b)| self.inner.signature(a) == other.inner.signature(b))
    }

    /// An error if a gradient is one of another layout.
    pub(crate) fn check_same(&self, other: &Layout) -> Result<()> {
        if self.is_same(other) {
            return Ok(());
        }
        let describe = |layout: &Layout| {
            let (leaves, elements) = (layout.leaves().len() as u128, layout.len() as u128);
            let (leaves, elements) = (
                display::counted(leaves, "leaf", "leaves"),
                display::counted(elements, "element", "elements"),
            );
            format!(
                "{leaves}, {elements}, fingerprint {:016x}",
                layout.fingerprint()
            )
        };
        Err(Error::other_layout(
            format!("a gradient of this layout ({})", describe(self)),
            format!("one of a layout of {}", describe(other)),
        ))
    }

    /// An error that names the trainable leaves that a vector of `E` does not hold.
    pub(crate) fn check_element<E: FlatElement>(&self) -> Result<()> {
        if E::DTYPE == Dtype::F64 || self.inner.takes_f32 {
            Ok(())
        } else {
            Err(self.f64_leaves())
        }
    }

    /// The same for a vector of `f32`.
    pub(crate) fn check_f32(&self) -> Result<()> {
        self.check_element::<f32>()
    }

    #[cold]
    fn f64_leaves(&self) -> Error {
        const FITTING: &str = "f32, f16 or bf16, for a vector of f32";
        const ADVICE: &str = " (a vector of f64 holds all: `destructure_as::<f64>`, `gather_as::<f64>`, …; `Layout::planner().round_f64()` rounds)";
        let mut findings = Findings::default();
        for leaf in self.leaves().iter().filter(|leaf| leaf.dtype == Dtype::F64) {
            let advice = if findings.is_empty() { ADVICE } else { "" };
            findings.add(Error::element_type(
                leaf.path().to_owned(),
                format!("{FITTING}{advice}"),
                leaf.dtype.to_string(),
            ));
        }
        findings.into_result().expect_err("there is one")
    }

    /// An error if `what`, a flat vector or a gradient, is not as long as the layout.
    pub(crate) fn check_len(&self, what: &'static str, found: usize) -> Result<()> {
        if found == self.len() {
            Ok(())
        } else {
            Err(Error::length(what, self.len(), found))
        }
    }
}

fn fingerprint(inner: &LayoutData) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    if inner.rounds_f64 {
        hash.field(b"f64 rounded to f32");
    }
    for leaf in inner.all_leaves() {
        let (trainable, dtype, shape, places) = inner.signature(leaf);
        hash.field(&[u8::from(trainable)]);
        hash.field(dtype.name().as_bytes());
        hash.numbers(shape);
        for (path, frozen, axes) in places {
            hash.field(path.as_bytes());
            hash.field(&[u8::from(frozen)]);
            axes.iter().for_each(|map| {
                hash.numbers(&map.shape);
                map.axes
                    .iter()
                    .for_each(|&(axis, reversed)| hash.numbers(&[axis, usize::from(reversed)]));
            });
        }
    }
    hash.0
}

/// Trainability, element type, shape, and the places: path, frozen or not, axes.
type Signature<'l> = (
    bool,
    Dtype,
    &'l [usize],
    Vec<(String, bool, Option<&'l AxisMap>)>,
);

/// The 64-bit FNV-1a hash, each field with its length before it.
struct Fnv(u64);

impl Fnv {
    fn numbers(&mut self, numbers: &[usize]) {
        numbers
            .iter()
            .for_each(|&number| self.field(&(number as u64).to_le_bytes()));
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Equal if paths, shapes, element types, ties and trainability are, and the same leaves are
/// rounded.
impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

impl Eq for Layout {}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Layout({} leaves, {} others, {} elements)",
            self.leaves().len(),
            self.others().len(),
            self.len()
        )
    }
}
