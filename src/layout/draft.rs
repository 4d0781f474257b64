//! The one validator: every layout, planned or read from a file, is a draft first.

use std::sync::Arc;

use smallvec::SmallVec;

use super::axes::{AxisMap, Shape};
use super::leaf::Leaf;
use super::paths::{Kind, NodeId, Paths};
use super::{Inner, LeafId, Place};
use crate::error::{Error, Result};
use crate::tree::Dtype;

/// What a layout is made of, before anything is known to agree.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Nodes of kind `Place(index)` count through `places`; frozen nodes are marked with all that is below them.
    pub(crate) paths: Paths,
    pub(crate) leaves: Vec<DraftLeaf>,
    /// In walk order.
    pub(crate) places: Vec<DraftPlace>,
}

#[derive(Clone, Debug)]
pub(crate) struct DraftLeaf {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    /// Whether it may be trained; it is if it also holds floats and one of its places is not frozen.
    pub(crate) trainable: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct DraftPlace {
    pub(crate) node: NodeId,
    pub(crate) leaf: u32,
    /// How the place shows the leaf, if not as it is.
    pub(crate) axes: Option<AxisMap>,
}

impl Draft {
    pub(crate) fn new(paths: Paths, leaves: Vec<DraftLeaf>, places: Vec<DraftPlace>) -> Self {
        Draft { paths, leaves, places }
    }

    /// Frozen float leaves count as trainable.
    pub(crate) fn everything(mut self) -> Self {
        for node in self.paths.ids() {
            self.paths.node_mut(node).frozen = false;
        }
        self
    }

    /// Trains only leaves for whose places, by index, `trained` says so.
    pub(crate) fn with_trainable(mut self, trained: impl Fn(usize) -> bool) -> Self {
        for (index, place) in self.places.iter().enumerate() {
            self.leaves[place.leaf as usize].trainable = trained(index);
        }
        self
    }

    /// Checks the draft and numbers its leaves.
    ///
    /// # Errors
    /// A path that stands twice; a leaf without a place, of a shape that no memory holds, or whose places do not fit it; too many
    /// elements.
    pub(crate) fn assemble(self) -> Result<Inner> {
        if let Some(node) = self.paths.duplicate_child() {
            return Err(Error::duplicate(self.paths.render(node)));
        }
        let nodes = self.nodes_of_leaves()?;
        let ids = self.number(&nodes);
        let places = self.places.iter().map(|place| self.place(place, &nodes, &ids)).collect::<Result<Vec<_>>>()?;
        let (paths, drafts) = (Arc::new(self.paths), self.leaves);
        let (mut leaves, mut others) = (Vec::new(), Vec::new());
        let mut len = 0;
        for (draft, nodes) in in_order(&drafts, nodes, &ids) {
            let trainable = ids[draft].trainable;
            let DraftLeaf { dtype, shape, .. } = drafts[draft].clone();
            let count = count(&shape).ok_or_else(|| too_large(&paths, nodes[0]))?;
            let leaf = Leaf::new(Arc::clone(&paths), nodes, shape, dtype, trainable, if trainable { len } else { 0 });
            if trainable {
                len = checked_sum(len, count)?;
                leaves.push(leaf);
            } else {
                others.push(leaf);
            }
        }
        Ok(Inner::new(paths, places, leaves, others, len))
    }

    /// The places of every leaf, the first trainable one first.
    fn nodes_of_leaves(&self) -> Result<Vec<SmallVec<[NodeId; 2]>>> {
        let mut nodes = vec![SmallVec::new(); self.leaves.len()];
        for (index, place) in self.places.iter().enumerate() {
            if self.paths.node(place.node).kind != Kind::Place(index as u32) {
                return Err(Error::invalid_layout("a place that is no leaf of the tree"));
            }
            let nodes: &mut SmallVec<_> = nodes.get_mut(place.leaf as usize).ok_or_else(|| Error::invalid_layout("a place of no leaf"))?;
            nodes.push(place.node);
        }
        for nodes in nodes.iter_mut().filter(|nodes| nodes.len() > 1) {
            if let Some(first) = nodes.iter().position(|&node| !self.paths.node(node).frozen) {
                nodes[..=first].rotate_right(1);
            }
        }
        Ok(nodes)
    }

    fn is_trainable(&self, leaf: &DraftLeaf, nodes: &[NodeId]) -> bool {
        leaf.trainable && leaf.dtype.is_float() && nodes.first().is_some_and(|&first| !self.paths.node(first).frozen)
    }

    /// Leaves in the order of their first places, trainable and others counted apart. A tie is counted where it is first trainable.
    fn number(&self, nodes: &[SmallVec<[NodeId; 2]>]) -> Vec<LeafId> {
        let mut ids = vec![LeafId { index: u32::MAX, trainable: false }; self.leaves.len()];
        let (mut leaves, mut others) = (0, 0);
        for place in &self.places {
            let leaf = place.leaf as usize;
            if nodes[leaf][0] == place.node {
                let trainable = self.is_trainable(&self.leaves[leaf], &nodes[leaf]);
                let counter = if trainable { &mut leaves } else { &mut others };
                ids[leaf] = LeafId { index: *counter, trainable };
                *counter += 1;
            }
        }
        ids
    }

    fn place(&self, place: &DraftPlace, nodes: &[SmallVec<[NodeId; 2]>], ids: &[LeafId]) -> Result<Place> {
        let leaf = place.leaf as usize;
        let shape = &self.leaves[leaf].shape;
        let first = nodes[leaf][0] == place.node;
        let axes = place.axes.as_ref().filter(|axes| !axes.is_identity(shape));
        if let Some(axes) = axes {
            axes.validate(shape)?;
            if first {
                return Err(Error::invalid_layout("a leaf that is not as its first place shows it"));
            }
        }
        let frozen = self.paths.node(place.node).frozen;
        Ok(Place { node: place.node, leaf: ids[leaf], first, frozen, axes: axes.cloned().map(Box::new) })
    }
}

/// The drafts' indices and nodes, by number; a leaf without a place has none and is left out.
fn in_order(
    drafts: &[DraftLeaf],
    mut nodes: Vec<SmallVec<[NodeId; 2]>>,
    ids: &[LeafId],
) -> impl Iterator<Item = (usize, SmallVec<[NodeId; 2]>)> {
    let mut order: Vec<usize> = (0..drafts.len()).filter(|&draft| !nodes[draft].is_empty()).collect();
    if !order.is_sorted_by_key(|&draft| ids[draft].index) {
        order.sort_by_key(|&draft| ids[draft].index);
    }
    order.into_iter().map(move |draft| (draft, std::mem::take(&mut nodes[draft])))
}

/// The number of elements, if an array of the shape can exist.
fn count(shape: &[usize]) -> Option<usize> {
    let nonzero = shape.iter().filter(|&&len| len != 0).try_fold(1_usize, |count, &len| count.checked_mul(len))?;
    let fits = nonzero <= isize::MAX as usize / size_of::<f64>();
    fits.then(|| if shape.contains(&0) { 0 } else { nonzero })
}

fn checked_sum(len: usize, count: usize) -> Result<usize> {
    let sum = len.checked_add(count).filter(|&sum| sum <= isize::MAX as usize / size_of::<f64>());
    sum.ok_or_else(|| Error::invalid_layout("more elements than memory has"))
}

fn too_large(paths: &Paths, node: NodeId) -> Error {
    Error::invalid_layout(format!("a shape that no memory holds, at `{}`", paths.render(node)))
}
