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
use super::paths::{NodeId, NodeKind, Paths};
use super::steps;
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
            let path = self.paths.render(node);
            return Err(Error::duplicate(path));
        }
        let nodes = self.nodes_of_leaves()?;
        let order = self.order(&nodes)?;
        let places = self.places(&nodes, &order)?;
        let mut parts = LeafParts {
            paths: Arc::new(self.paths),
            drafts: self.leaves,
            nodes,
            starts: order.starts,
        };
        let mut trainable = memory::with_capacity(order.trainable.len());
        for draft in order.trainable {
            trainable.push(parts.take(draft, true));
        }
        let mut others = Vec::with_capacity(order.others.len());
        for draft in order.others {
            others.push(parts.take(draft, false));
        }
        Ok(LayoutData::new(
            parts.paths,
            places,
            trainable,
            others,
            order.len,
            self.round_f64,
        ))
    }

    /// The places of every leaf, the first trainable one first; in walk order if none is trainable.
    fn nodes_of_leaves(&self) -> Result<Vec<Nodes>> {
        let mut nodes = Vec::new();
        nodes.resize_with(self.leaves.len(), Nodes::new);
        for (index, place) in self.places.iter().enumerate() {
            let kind = self.paths.node(place.node).kind;
            if kind != NodeKind::Place(index as u32) {
                let found = "a place that is no leaf of the tree";
                return Err(Error::invalid_layout(found));
            }
            let Some(nodes) = nodes.get_mut(place.leaf as usize) else {
                return Err(Error::invalid_layout("a place of no leaf"));
            };
            nodes.push(place.node);
        }
        for (leaf, nodes) in self.leaves.iter().zip(&mut nodes) {
            if nodes.len() > 1 {
                self.move_trainable_first(leaf, nodes);
            }
        }
        Ok(nodes)
    }

    fn move_trainable_first(&self, leaf: &DraftLeaf, nodes: &mut Nodes) {
        let is_trainable = |&node: &NodeId| self.is_trainable(leaf, node);
        if let Some(first) = nodes.iter().position(is_trainable) {
            // A swap would not leave the others in walk order, which `Leaf::places` promises.
            nodes[..=first].rotate_right(1);
        }
    }

    /// Leaves in the order of their first places. A tie is counted where it is first trainable.
    fn order(&self, nodes: &[Nodes]) -> Result<Order> {
        let leaves = self.leaves.len();
        let mut order = Order {
            ids: vec![NOWHERE; leaves],
            starts: vec![0; leaves],
            ..Order::default()
        };
        for place in &self.places {
            let nodes = &nodes[place.leaf as usize];
            if nodes[0] != place.node {
                continue;
            }
            let count = self.count(place, nodes.len())?;
            let trainable = self.is_trainable_at(place);
            order.push(place.leaf, trainable, count)?;
        }
        Ok(order)
    }

    /// The elements of the leaf at this place, one of so many.
    fn count(&self, place: &DraftPlace, places: usize) -> Result<usize> {
        let leaf = self.leaf_at(place);
        let found = match leaf.count() {
            _ if !leaf.has_fitting_fields() => "fields that are not as long as the last axis",
            // Axes of length 1 cost no elements, but work at every place.
            _ if leaf.shape.len() > MAX_AXES => "a shape of more than 64 axes",
            None => "a shape that no memory holds",
            // Without elements there is nothing that two places could share.
            Some(0) if places > 1 => "a tie of arrays without elements",
            Some(count) => return Ok(count),
        };
        Err(self.invalid_at(place, found))
    }

    fn places(&self, nodes: &[Nodes], order: &Order) -> Result<Vec<Place>> {
        let mut places = memory::with_capacity(self.places.len());
        for place in &self.places {
            let leaf = place.leaf as usize;
            let first = nodes[leaf][0];
            let draft = &self.leaves[leaf];
            let axes = self.axes(place, first)?;
            let shape = axes.map_or(&draft.shape, |axes| &axes.shape);
            steps::count(shape.len());
            let id = order.ids[leaf];
            // What a walk asks of a leaf stands at each of its places: one look-up and not three.
            places.push(Place {
                shape: Shape::from_slice(shape),
                start: order.starts[leaf],
                len: draft.shape.iter().product(),
                leaf: id,
                node: place.node,
                dtype: draft.dtype,
                first: first == place.node,
                frozen: self.paths.node(place.node).frozen,
                plain: id.trainable && nodes[leaf].len() == 1,
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
        // A map is read axis by axis, so its length is bounded before anything looks into it.
        if axes.shape.len() > MAX_AXES {
            let found = "a shape of more than 64 axes";
            return Err(self.invalid_at(place, found));
        }
        steps::count(axes.shape.len());
        let shape = &self.leaf_at(place).shape;
        axes.validate(shape)?;
        if axes.is_identity(shape) {
            return Ok(None);
        }
        // The first place says in which order the elements are, so that there is one vector for
        // one tree, and a layout that is read equals the one that was stored.
        if first == place.node {
            let found = "a leaf that is not as its first place shows it";
            return Err(Error::invalid_layout(found));
        }
        Ok(Some(axes))
    }

    fn invalid_at(&self, place: &DraftPlace, found: &str) -> Error {
        let path = self.paths.render(place.node);
        Error::invalid_layout(format!("{found}, at {}", Quoted(&path)))
    }
}

/// What leaves are made of. Each is asked for once, so its parts are moved and not copied.
struct LeafParts {
    paths: Arc<Paths>,
    drafts: Vec<DraftLeaf>,
    nodes: Vec<Nodes>,
    starts: Vec<usize>,
}

impl LeafParts {
    fn take(&mut self, draft: u32, trainable: bool) -> Leaf {
        let index = draft as usize;
        let draft = &mut self.drafts[index];
        Leaf::new(
            Arc::clone(&self.paths),
            std::mem::take(&mut self.nodes[index]),
            std::mem::take(&mut draft.shape),
            draft.dtype,
            trainable,
            self.starts[index],
            draft.fields.take(),
        )
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
        let id = LeafId {
            index: list.len() as u32,
            trainable,
        };
        list.push(leaf);
        let leaf = leaf as usize;
        self.ids[leaf] = id;
        if trainable {
            self.starts[leaf] = self.len;
            self.len = checked_sum(self.len, count)?;
        }
        Ok(())
    }
}

fn checked_sum(len: usize, count: usize) -> Result<usize> {
    // As elements of `f64`, which are the largest that a vector has.
    const MOST: usize = isize::MAX as usize / size_of::<f64>();
    match len.checked_add(count) {
        Some(sum) if sum <= MOST => Ok(sum),
        _ => Err(Error::invalid_layout("more elements than memory has")),
    }
}
