//! The one validator: every layout, planned or read from a file, is a draft first.
//!
//! What it makes of a draft follows from the draft alone: which place is a leaf's first, the order
//! of the leaves and where they start. A layout that is read states these too, and is refused if
//! they differ.

use std::sync::Arc;

use smallvec::SmallVec;

use super::data::{LayoutData, LeafId, Place};
use super::draft::{Draft, DraftLeaf, DraftPlace};
use super::leaf::Leaf;
use super::paths::{NodeId, NodeKind};
use crate::error::{Error, Quoted, Result};
use crate::memory;
use crate::tree::MAX_AXES;
use crate::tree::axes::{AxisMap, Shape};

/// The nodes at which a leaf stands; few leaves are ties.
type Nodes = SmallVec<[NodeId; 2]>;

impl Draft {
    /// Checks the draft and numbers its leaves.
    ///
    /// # Errors
    /// A path that stands twice; a leaf without a place, of a shape that no memory holds, or whose
    /// places do not fit it; a tie of arrays without elements; too many elements.
    pub(crate) fn assemble(self) -> Result<LayoutData> {
        if let Some(node) = self.paths.duplicate_child() {
            return Err(Error::duplicate(self.paths.render(node)));
        }
        let mut nodes = self.nodes_of_leaves()?;
        let order = self.order(&nodes)?;
        let places = self.places(&nodes, &order)?;
        let (paths, mut drafts) = (Arc::new(self.paths), self.leaves);
        let mut leaf = |draft: u32, trainable: bool| {
            let draft = draft as usize;
            let nodes = std::mem::take(&mut nodes[draft]);
            let shape = std::mem::take(&mut drafts[draft].shape);
            let (dtype, start) = (drafts[draft].dtype, order.starts[draft]);
            Leaf::new(Arc::clone(&paths), nodes, shape, dtype, trainable, start)
        };
        let mut trainable = memory::with_capacity(order.trainable.len());
        trainable.extend(order.trainable.iter().map(|&draft| leaf(draft, true)));
        let others = order.others.iter().map(|&draft| leaf(draft, false));
        let others = others.collect();
        let (len, round_f64) = (order.len, self.round_f64);
        Ok(LayoutData::new(
            paths, places, trainable, others, len, round_f64,
        ))
    }

    /// The places of every leaf, the first trainable one first; in walk order if none is trainable.
    fn nodes_of_leaves(&self) -> Result<Vec<Nodes>> {
        let mut nodes: Vec<Nodes> = (0..self.leaves.len()).map(|_| Nodes::new()).collect();
        for (index, place) in self.places.iter().enumerate() {
            if self.paths.node(place.node).kind != NodeKind::Place(index as u32) {
                return Err(Error::invalid_layout("a place that is no leaf of the tree"));
            }
            let nodes = nodes.get_mut(place.leaf as usize);
            let nodes = nodes.ok_or_else(|| Error::invalid_layout("a place of no leaf"))?;
            nodes.push(place.node);
        }
        let ties = self.leaves.iter().zip(&mut nodes);
        for (leaf, nodes) in ties.filter(|(_, nodes)| nodes.len() > 1) {
            let first = nodes.iter().position(|&node| self.is_trainable(leaf, node));
            if let Some(first) = first {
                nodes[..=first].rotate_right(1);
            }
        }
        Ok(nodes)
    }

    /// Leaves in the order of their first places. A tie is counted where it is first trainable.
    fn order(&self, nodes: &[Nodes]) -> Result<Order> {
        let mut order = Order {
            ids: vec![NOWHERE; self.leaves.len()],
            starts: vec![0; self.leaves.len()],
            ..Order::default()
        };
        for place in &self.places {
            let nodes = &nodes[place.leaf as usize];
            if nodes[0] == place.node {
                let count = self.count(place, nodes.len())?;
                order.push(place.leaf, self.is_trainable_at(place), count)?;
            }
        }
        Ok(order)
    }

    /// The elements of the leaf at this place, one of so many.
    fn count(&self, place: &DraftPlace, places: usize) -> Result<usize> {
        let wrong = |what: &str| {
            let path = self.paths.render(place.node);
            Error::invalid_layout(format!("{what}, at {}", Quoted(&path)))
        };
        let leaf = &self.leaves[place.leaf as usize];
        // Axes of length 1 cost no elements, but work at every place.
        if leaf.shape.len() > MAX_AXES {
            return Err(wrong("a shape of more than 64 axes"));
        }
        match leaf.count() {
            None => Err(wrong("a shape that no memory holds")),
            // Without elements there is nothing that two places could share.
            Some(0) if places > 1 => Err(wrong("a tie of arrays without elements")),
            Some(count) => Ok(count),
        }
    }

    fn places(&self, nodes: &[Nodes], order: &Order) -> Result<Vec<Place>> {
        let mut places = memory::with_capacity(self.places.len());
        for place in &self.places {
            let leaf = place.leaf as usize;
            let DraftLeaf { dtype, shape, .. } = &self.leaves[leaf];
            let axes = self.axes(place, nodes[leaf][0])?;
            places.push(Place {
                shape: Shape::from_slice(axes.map_or(shape, |axes| &axes.shape)),
                start: order.starts[leaf],
                len: shape.iter().product(),
                leaf: order.ids[leaf],
                node: place.node,
                dtype: *dtype,
                first: nodes[leaf][0] == place.node,
                frozen: self.paths.node(place.node).frozen,
                plain: order.ids[leaf].trainable && nodes[leaf].len() == 1,
                axes: axes.cloned().map(Box::new),
            });
        }
        Ok(places)
    }

    /// How a place shows its leaf, if not as it is.
    fn axes<'d>(&self, place: &'d DraftPlace, first: NodeId) -> Result<Option<&'d AxisMap>> {
        let Some(axes) = &place.axes else {
            return Ok(None);
        };
        let shape = &self.leaves[place.leaf as usize].shape;
        if axes.shape.len() > MAX_AXES {
            let path = self.paths.render(place.node);
            let found = format!("a shape of more than 64 axes, at {}", Quoted(&path));
            return Err(Error::invalid_layout(found));
        }
        axes.validate(shape)?;
        if axes.is_identity(shape) {
            return Ok(None);
        }
        if first == place.node {
            return Err(Error::invalid_layout(
                "a leaf that is not as its first place shows it",
            ));
        }
        Ok(Some(axes))
    }
}

/// Of a leaf that has no place; none is left when all places are counted.
const NOWHERE: LeafId = LeafId {
    index: u32::MAX,
    trainable: false,
};

/// The leaves by number, and where they start.
#[derive(Default)]
struct Order {
    trainable: Vec<u32>,
    others: Vec<u32>,
    /// For each leaf of the draft.
    ids: Vec<LeafId>,
    starts: Vec<usize>,
    /// Elements of the trainable ones so far.
    len: usize,
}

impl Order {
    fn push(&mut self, leaf: u32, trainable: bool, count: usize) -> Result<()> {
        let list = if trainable {
            &mut self.trainable
        } else {
            &mut self.others
        };
        let index = list.len() as u32;
        list.push(leaf);
        self.ids[leaf as usize] = LeafId { index, trainable };
        if trainable {
            self.starts[leaf as usize] = self.len;
            self.len = checked_sum(self.len, count)?;
        }
        Ok(())
    }
}

fn checked_sum(len: usize, count: usize) -> Result<usize> {
    let sum = len.checked_add(count);
    // As elements of `f64`, which are the largest that a vector has.
    let sum = sum.filter(|&sum| sum <= isize::MAX as usize / size_of::<f64>());
    sum.ok_or_else(|| Error::invalid_layout("more elements than memory has"))
}
