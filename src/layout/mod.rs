//! The plan: which leaf is where in the flat vector.
//!
//! One walk over a tree drafts it ([`build`]), one validator guards it ([`validate`]), and from
//! then on a tree is matched to it segment by segment ([`cursor`]). A layout is plain data: paths,
//! shapes, offsets, ties, never addresses. Invariant: nothing here moves elements.

mod build;
mod checks;
mod cursor;
mod data;
mod display;
mod draft;
mod error;
mod fingerprint;
mod leaf;
mod overlap;
mod paths;
mod pattern;
mod planner;
mod rename;
#[cfg(feature = "serde")]
mod serde;
mod steps;
mod suggest;
mod validate;

use std::fmt;
use std::sync::Arc;

pub(crate) use cursor::Cursor;
pub(crate) use data::{LayoutData, LeafId, Place};
pub use leaf::Leaf;
pub(crate) use paths::{NodeId, NodeKind};
pub(crate) use pattern::Pattern;
pub use planner::Planner;
#[cfg(feature = "safetensors")]
pub(crate) use rename::NamePattern;
pub(crate) use rename::Rename;

use crate::element::Dtype;
use crate::error::Result;
use crate::tree::Tree;

/// Which leaf of a tree is where in one flat vector.
///
/// Made once from a model with [`Layout::of`], and good for every tree with the same paths: other
/// models of the type, gradients, averages. It holds no elements and no addresses, so it can be
/// stored, compared and sent; cloning it clones a pointer. Printing it gives a table of its leaves.
///
/// The methods of this page in the order of a day's work: plan ([`of`](Layout::of)), look
/// ([`leaves`](Layout::leaves), [`leaf`](Layout::leaf)), gather
/// ([`gather`](Layout::gather), [`gather_grad`](Layout::gather_grad)), put back
/// ([`restructure_into`](Layout::restructure_into)), see a leaf in the vector
/// ([`view`](Layout::view)), and walk several trees at once ([`map_reduce`](Layout::map_reduce)).
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

impl Layout {
    /// Plans a tree: one walk, depth first, fields in declaration order, maps by key. A tied leaf
    /// stands at its first trainable place. About 100 ns a leaf; memory is linear in the tree.
    ///
    /// Float leaves are trainable unless frozen; integer and boolean arrays are carried along.
    ///
    /// # Errors
    /// `is_overlap`: views that share some elements but not all. `is_cycle`: a shared node that
    /// contains itself. `is_too_deep`: more than 1,024 levels. `is_too_many_places`: more than 2²⁰
    /// extra places of shared nodes. `is_duplicate`: a path that stands twice. `is_invalid_layout`:
    /// a shape that no memory holds, or of more than 64 axes. `is_poisoned`, `is_borrowed`: a lock
    /// or a cell that cannot be read. `is_unstable`: a node that is a leaf and a branch.
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

    /// Plans a tree with its frozen float leaves as trainable ones, so that the vector holds all
    /// that the model has in floats: to average or compare whole models, running means included.
    /// Integers and booleans stay outside.
    ///
    /// # Errors
    /// `is_overlap`, `is_cycle`, `is_too_deep`, `is_too_many_places`, `is_duplicate`,
    /// `is_invalid_layout`, `is_poisoned`, `is_borrowed`, `is_unstable`: what no layout can be of,
    /// as [`Layout::of`] says in full.
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

    /// Plans a tree with some of its leaves frozen, by path pattern or by predicate: the returned
    /// [`Planner`] collects what is asked for, and its [`of`](Planner::of) walks the tree.
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

    /// The number of elements of the flat vector: those of the trainable leaves, a tied one counted
    /// once. Every vector and gradient that is given to this layout has to be as long.
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

    /// Whether the flat vector has no elements: nothing in the tree is trainable, or all that is
    /// has a length of zero. Such a layout gathers and restructures like any other.
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

    /// The trainable leaves, in flat order: the ranges of their elements follow each other without
    /// a gap. An index into this slice is what `is_present`, the norms by leaf and
    /// [`index_of`](Layout::index_of) speak of.
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
    /// A bare number is no leaf and is not among them, nor is what a field marked `skip` holds. A bare
    /// float is a setting: [`settings`](Layout::settings) lists it, and so does the printed table, where
    /// one that lacks its `#[tree(param)]` is seen. It stays out of this list because a leaf has an
    /// array that a gradient, a checkpoint and `copy_frozen` may meet, and a setting has none.
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
            NodeKind::NoLeaf(Some(dtype)) if dtype.is_float() => {
                let path = paths.render(id);
                Some((path, dtype))
            }
            _ => None,
        })
    }

    /// The trainable leaf with this path among its places; `None` where there is none, or one that
    /// is frozen or carried. A loop that needs a leaf at every step keeps its
    /// [index](Layout::index_of).
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

    /// The index in [`leaves`](Layout::leaves) of the leaf with this path among its places: a
    /// handle that costs no further look-up, and the number by which gradients and reports know the
    /// leaf.
    ///
    /// Sorts the paths on the first call; then **O(length of the path · log n)**.
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
        let place = self.inner.paths.place(node)?;
        let leaf = self.inner.place(place).leaf;
        leaf.trainable.then_some(leaf.index as usize)
    }

    /// The indices in [`leaves`](Layout::leaves) of the leaves that a path pattern matches, in flat
    /// order. A pattern matches a leaf by any of its places: `*` is any run of characters within a
    /// segment, `**` any number of segments, none included.
    ///
    /// A pattern without stars is looked up as [`index_of`](Layout::index_of) does; another is
    /// compared with every place.
    ///
    /// # Errors
    /// `is_pattern`: the pattern is malformed or matches no trainable leaf; the message says what
    /// there is instead.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": { "w": [1.0], "b": [2.0] }, "head": { "w": [3.0] } }))?;
    /// assert_eq!(layout.matching("encoder.**")?, [0, 1]);
    /// assert_eq!(layout.matching("*.w")?, [0, 2]);
    /// assert!(layout.matching("decoder.**").unwrap_err().is_pattern());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn matching(&self, pattern: &str) -> Result<Vec<usize>> {
        let pattern = Pattern::parse(pattern)?;
        let matching = self.matched_by(&pattern);
        if matching.is_empty() {
            return Err(self.unmatched(&pattern, "a pattern that matches a trainable leaf"));
        }
        Ok(matching)
    }

    /// What to call an element of the flat vector in a report: the path of its leaf, and where it
    /// is in the leaf's array unless that has one element and no axes.
    ///
    /// A tied element is named by the leaf's first place. Where the array holds structs, or complex
    /// numbers, the field stands behind it: `gaussians[7].position[2]`, `spectrum[3].im`.
    /// **O(log n)** in the number of leaves.
    ///
    /// # Panics
    /// If the vector has no element of this index.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let model = tree!({ "spring": { "k": 4.0 }, "w": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]] });
    /// let (flat, layout) = destructure(&model)?;
    /// assert_eq!(layout.element_name(0), "spring.k");
    /// let largest = (0..flat.len()).max_by(|&a, &b| flat[a].total_cmp(&flat[b])).unwrap();
    /// assert_eq!(layout.element_name(largest), "w[2, 1]");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn element_name(&self, index: usize) -> String {
        let len = self.len();
        assert!(
            index < len,
            "`element_name`: expected the index of one of {len} elements, found {index}"
        );
        // Leaves without elements end where they start, so that none of them is taken.
        let leaf = self
            .leaves()
            .partition_point(|leaf| leaf.range().end <= index);
        let leaf = &self.leaves()[leaf];
        leaf.element_name(index - leaf.range().start)
    }

    /// A number that two layouts have in common if they have the same paths, shapes, element types,
    /// ties and trainability, and round the same leaves; others hardly ever. It is one number on
    /// every machine and for every release with this layout format, so it can be written beside
    /// what was made with the layout.
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
            .get_or_init(|| fingerprint::fingerprint(&self.inner))
    }
}

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
