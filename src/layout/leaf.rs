//! A leaf of a layout.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::axes::Shape;
use super::paths::{NodeId, Paths};
use super::pattern::Pattern;
use crate::tree::Dtype;

/// A leaf of a [`Layout`](super::Layout): one parameter, wherever it stands in the tree.
#[derive(Debug)]
pub struct Leaf {
    paths: Arc<Paths>,
    /// The first trainable place first, then the others in walk order; all in walk order if none is trainable.
    pub(crate) nodes: SmallVec<[NodeId; 2]>,
    pub(crate) shape: Shape,
    pub(crate) dtype: Dtype,
    pub(crate) trainable: bool,
    pub(crate) start: usize,
    pub(crate) len: usize,
    rendered: OnceLock<Box<[String]>>,
}

impl Leaf {
    pub(crate) fn new(paths: Arc<Paths>, nodes: SmallVec<[NodeId; 2]>, shape: Shape, dtype: Dtype, trainable: bool, start: usize) -> Self {
        let len = shape.iter().product();
        Leaf { paths, nodes, shape, dtype, trainable, start, len, rendered: OnceLock::new() }
    }

    /// Where the leaf stands: its first trainable place, or its first if none is, as a dotted path. Empty for a tree that is one leaf.
    ///
    /// Written on the first call and kept.
    pub fn path(&self) -> &str {
        &self.places()[0]
    }

    /// All its places: the first trainable one, then the others in the order of the walk; all in that order if none is trainable. More
    /// than one is a tie.
    pub fn places(&self) -> &[String] {
        self.rendered.get_or_init(|| self.nodes.iter().map(|&node| self.paths.render(node)).collect())
    }

    pub(crate) fn matches(&self, pattern: &Pattern) -> bool {
        self.nodes.iter().any(|&node| pattern.matches(&self.paths, node))
    }

    /// The length of each axis; empty for a 0-d leaf.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where its elements are in the flat vector, in row-major order. Empty for a leaf that is not trainable.
    pub fn range(&self) -> Range<usize> {
        if self.trainable { self.start..self.start + self.len } else { 0..0 }
    }

    /// The number of its elements, trainable or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of its elements in the tree.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether it is in the flat vector. A leaf that is not is frozen, or carried if it holds no floats.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        let Leaf { paths, nodes, shape, dtype, trainable, start, .. } = self;
        Leaf::new(Arc::clone(paths), nodes.clone(), shape.clone(), *dtype, *trainable, *start)
    }
}
