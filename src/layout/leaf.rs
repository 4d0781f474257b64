//! A leaf of a layout.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::paths::{NodeId, Paths};
use super::pattern::Pattern;
use crate::element::Dtype;
use crate::tree::axes::Shape;
use crate::tree::elements::LeafFields;
#[cfg(feature = "safetensors")]
use crate::tree::elements::complex_fields;

/// A leaf of a [`Layout`](super::Layout): one parameter, wherever it stands in the tree. It knows
/// its paths, its shape and where its elements are in the flat vector; the elements themselves are
/// in the tree or in the vector, never here.
///
/// ```
/// use flatleaf::{tree, Dtype, Layout};
///
/// let layout = Layout::of(&tree!({ "encoder": { "w": [[1.0, 2.0, 3.0]] }, "b": [4.0] }))?;
/// let leaf = &layout.leaves()[0];
/// assert_eq!((leaf.path(), leaf.shape(), leaf.dtype()), ("encoder.w", &[1, 3][..], Dtype::F32));
/// assert_eq!(leaf.range(), 0..3);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Debug)]
pub struct Leaf {
    paths: Arc<Paths>,
    /// The first trainable place first, then the others in walk order; all in walk order if none is
    /// trainable.
    pub(crate) nodes: SmallVec<[NodeId; 2]>,
    pub(crate) shape: Shape,
    pub(crate) dtype: Dtype,
    pub(crate) trainable: bool,
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// What the numbers along the last axis are called.
    pub(super) fields: LeafFields,
    rendered: OnceLock<Box<[String]>>,
}

impl Leaf {
    pub(crate) fn new(
        paths: Arc<Paths>,
        nodes: SmallVec<[NodeId; 2]>,
        shape: Shape,
        dtype: Dtype,
        trainable: bool,
        start: usize,
        fields: LeafFields,
    ) -> Self {
        let len = shape.iter().product();
        Leaf {
            paths,
            nodes,
            shape,
            dtype,
            trainable,
            start,
            len,
            fields,
            rendered: OnceLock::new(),
        }
    }

    /// Where the leaf stands: its first trainable place, or its first if none is, as a dotted path
    /// in which `\` escapes `.`, `\` and `*` within a key. Empty for a tree that is one leaf;
    /// messages call that place "the root".
    ///
    /// Written on the first call and kept.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&vec![vec![vec![1.0_f32]], vec![vec![2.0], vec![3.0]]])?;
    /// assert_eq!(layout.leaves()[2].path(), "1.1");
    /// assert_eq!(Layout::of(&vec![1.0_f32])?.leaves()[0].path(), "");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn path(&self) -> &str {
        &self.places()[0]
    }

    /// All its places as dotted paths: the first trainable one, then the others in the order of the
    /// walk; all in that order if none is trainable. More than one is a tie: one parameter that the
    /// tree holds several times.
    ///
    /// Written on the first call and kept.
    ///
    /// ```
    /// use flatleaf::Layout;
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), vec![2.0_f32], shared))?;
    /// let ties: Vec<_> = layout.leaves().iter().filter(|leaf| leaf.places().len() > 1).collect();
    /// assert_eq!((ties.len(), ties[0].places()), (1, &["0".to_owned(), "2".to_owned()][..]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn places(&self) -> &[String] {
        self.rendered.get_or_init(|| {
            self.nodes
                .iter()
                .map(|&node| self.paths.render(node))
                .collect()
        })
    }

    /// Whether a pattern matches one of its places.
    /// What to call one of its elements: the path, where it is in the array, and the field.
    pub(super) fn element_name(&self, index: usize) -> String {
        let mut rest = index;
        let mut position: Vec<usize> = self.shape.to_vec();
        for axis in position.iter_mut().rev() {
            let len = *axis;
            *axis = rest % len;
            rest /= len;
        }
        let number = position.pop_if(|_| self.fields.is_some());
        let field = number.and_then(|number| self.field_name(number));
        let array = match (self.path(), &position[..], &field) {
            ("", [], None) => "the root".to_owned(),
            (path, [], _) => path.to_owned(),
            (path, position, _) => format!("{path}{position:?}"),
        };
        match field {
            None => array,
            Some(field) if array.is_empty() => field,
            Some(field) => format!("{array}.{field}"),
        }
    }

    /// The name of a number of the last axis, as Rust writes it: `position[2]`.
    fn field_name(&self, number: usize) -> Option<String> {
        let mut rest = number;
        for field in self.fields.iter().flat_map(|fields| fields.iter()) {
            // The validator has counted them.
            let count = field.count()?;
            if rest < count {
                return Some(field.name_of(rest));
            }
            rest -= count;
        }
        None
    }

    /// The shape of the array of complex numbers that these are; `None` if they are none. A struct
    /// of two floats called `re` and `im` is one too.
    #[cfg(feature = "safetensors")]
    pub(crate) fn complex_shape(&self) -> Option<&[usize]> {
        let (_, array) = self.shape.split_last()?;
        let fields = self.fields.as_ref()?;
        (**fields == complex_fields()).then_some(array)
    }

    pub(crate) fn matches(&self, pattern: &Pattern) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|&node| pattern.matches(&self.paths, node))
    }

    /// The length of each axis, as the first place shows the leaf; empty for a 0-d leaf, which has
    /// one element. Other places of a tie may show the axes in another order.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "temperature": 0.7 }))?;
    /// assert_eq!(layout.leaves()[0].shape(), [3, 2]);
    /// assert!(layout.leaves()[1].shape().is_empty());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where its elements are in the flat vector, in row-major order whatever the order in memory
    /// is in the tree. Empty, `0..0`, for a leaf that is not trainable.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0], "b": [3.0, 4.0] }))?;
    /// flat[layout.leaf("b").unwrap().range()].fill(0.0);
    /// assert_eq!(flat, [1.0, 2.0, 0.0, 0.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn range(&self) -> Range<usize> {
        if self.trainable {
            self.start..self.start + self.len
        } else {
            0..0
        }
    }

    /// The number of its elements, trainable or not: the product of its shape, 1 for a 0-d leaf. A
    /// tie counts once, however many places it has.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [5.0] }))?;
    /// let largest = layout.leaves().iter().max_by_key(|leaf| leaf.len()).unwrap();
    /// assert_eq!((largest.path(), largest.len()), ("w", 4));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements, because an axis has length 0. Such a leaf is one all the same:
    /// it has a path, is listed, and its range is empty.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], Vec::<f32>::new()))?;
    /// assert!(layout.leaves()[1].is_empty()); // a leaf all the same
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of its elements in the tree. In the vector they are `f32`, or `f64` where a
    /// method's name ends in `_as`; an optimiser's state may have another type.
    ///
    /// ```
    /// use flatleaf::{Dtype, Layout};
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], vec![0.5_f64], vec![true]))?;
    /// assert_eq!(layout.leaf("1").unwrap().dtype(), Dtype::F64);
    /// assert_eq!(layout.others()[0].dtype(), Dtype::Bool);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether it is in the flat vector. A leaf that is not stands among the
    /// [`others`](super::Layout::others): frozen, or carried along if it holds no floats.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::planner().freeze("encoder").of(&tree!({ "encoder": [1.0], "head": [2.0] }))?;
    /// assert!(layout.leaves()[0].is_trainable() && !layout.others()[0].is_trainable());
    /// assert_eq!(layout.others()[0].range(), 0..0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        let paths = Arc::clone(&self.paths);
        let nodes = self.nodes.clone();
        let shape = self.shape.clone();
        let dtype = self.dtype;
        let trainable = self.trainable;
        let start = self.start;
        let fields = self.fields.clone();
        Leaf::new(paths, nodes, shape, dtype, trainable, start, fields)
    }
}
