//! The one validator: every layout, planned or read from a file, is a draft first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::leaf::Leaf;
use super::paths::{NodeId, NodeKind, Paths};
use super::{LayoutData, LeafId, Place};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::memory;
use crate::tree::axes::{AxisMap, Shape};

/// What a layout is made of, before anything is known to agree.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Nodes of kind `Place(index)` count through `places`; frozen nodes are marked with all that
    /// is below them.
    pub(crate) paths: Paths,
    pub(crate) leaves: Vec<DraftLeaf>,
    /// In walk order.
    pub(crate) places: Vec<DraftPlace>,
    /// Whether leaves of `f64` are rounded in a vector of `f32`.
    round_f64: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct DraftLeaf {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    /// Whether it may be trained; it is if it also holds floats and one of its places is not
    /// frozen.
    pub(crate) trainable: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct DraftPlace {
    pub(crate) node: NodeId,
    pub(crate) leaf: u32,
    /// How the place shows the leaf, if not as it is.
    pub(crate) axes: Option<Box<AxisMap>>,
}

impl Draft {
    pub(crate) fn new(paths: Paths, leaves: Vec<DraftLeaf>, places: Vec<DraftPlace>) -> Self {
        Draft {
            paths,
            leaves,
            places,
            round_f64: false,
        }
    }

    pub(crate) fn rounding_f64(self, round_f64: bool) -> Self {
        Draft { round_f64, ..self }
    }

    /// Trains only leaves for whose places, by index, `trained` says so.
    pub(crate) fn with_trainable(mut self, trained: impl Fn(usize) -> bool) -> Self {
        for (index, place) in self.places.iter().enumerate() {
            self.leaves[place.leaf as usize].trainable = trained(index);
        }
        self.show_first_places();
        self
    }

    /// Lets every leaf be as its first trainable place shows it, or the first of all if none is.
    pub(crate) fn show_first_places(&mut self) {
        let turned: HashSet<u32> = self
            .places
            .iter()
            .filter(|place| place.axes.is_some())
            .map(|place| place.leaf)
            .collect();
        let mut places: Vec<&DraftPlace> = self
            .places
            .iter()
            .filter(|place| turned.contains(&place.leaf))
            .collect();
        places
            .sort_by_key(|place| !self.is_trainable(&self.leaves[place.leaf as usize], place.node));
        let mut firsts: HashMap<u32, AxisMap> = HashMap::new();
        for place in places {
            firsts
                .entry(place.leaf)
                .or_insert_with(|| self.shown(place));
        }
        for index in 0..self.places.len() {
            if let Some(first) = firsts.get(&self.places[index].leaf) {
                self.places[index].axes = Some(Box::new(self.shown(&self.places[index]).on(first)));
            }
        }
        firsts
            .into_iter()
            .for_each(|(leaf, first)| self.leaves[leaf as usize].shape = first.shape);
    }

    /// How a place shows its leaf.
    fn shown(&self, place: &DraftPlace) -> AxisMap {
        place
            .axes
            .as_deref()
            .cloned()
            .unwrap_or_else(|| AxisMap::identity(&self.leaves[place.leaf as usize].shape))
    }

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
            let (nodes, shape) = (
                std::mem::take(&mut nodes[draft]),
                std::mem::take(&mut drafts[draft].shape),
            );
            Leaf::new(
                Arc::clone(&paths),
                nodes,
                shape,
                drafts[draft].dtype,
                trainable,
                order.starts[draft],
            )
        };
        let mut trainable = memory::with_capacity(order.trainable.len());
        trainable.extend(order.trainable.iter().map(|&draft| leaf(draft, true)));
        let others = order
            .others
            .iter()
            .map(|&draft| leaf(draft, false))
            .collect();
        Ok(LayoutData::new(
            paths,
            places,
            trainable,
            others,
            order.len,
            self.round_f64,
        ))
    }

    /// The places of every leaf, the first trainable one first; in walk order if none is trainable.
    fn nodes_of_leaves(&self) -> Result<Vec<Nodes>> {
        let mut nodes: Vec<Nodes> = (0..self.leaves.len()).map(|_| Nodes::new()).collect();
        for (index, place) in self.places.iter().enumerate() {
            if self.paths.node(place.node).kind != NodeKind::Place(index as u32) {
                return Err(Error::invalid_layout("a place that is no leaf of the tree"));
            }
            let nodes = nodes
                .get_mut(place.leaf as usize)
                .ok_or_else(|| Error::invalid_layout("a place of no leaf"))?;
            nodes.push(place.node);
        }
        for (leaf, nodes) in self
            .leaves
            .iter()
            .zip(&mut nodes)
            .filter(|(_, nodes)| nodes.len() > 1)
        {
            if let Some(first) = nodes.iter().position(|&node| self.is_trainable(leaf, node)) {
                nodes[..=first].rotate_right(1);
            }
        }
        Ok(nodes)
    }

    /// Whether a leaf is trainable at one of its places.
    fn is_trainable(&self, leaf: &DraftLeaf, node: NodeId) -> bool {
        leaf.trainable && leaf.dtype.is_float() && !self.paths.node(node).frozen
    }

    /// Leaves in the order of their first places. A tie is counted where it is first trainable.
    fn order(&self, nodes: &[Nodes]) -> Result<Order> {
        let mut order = Order {
            ids: vec![NOWHERE; self.leaves.len()],
            starts: vec![0; self.leaves.len()],
            ..Order::default()
        };
        for place in &self.places {
            let leaf = place.leaf as usize;
            if nodes[leaf][0] == place.node {
                let count = self.count(place, nodes[leaf].len())?;
                order.push(
                    place.leaf,
                    self.is_trainable(&self.leaves[leaf], place.node),
                    count,
                )?;
            }
        }
        Ok(order)
    }

    /// The elements of the leaf at this place, one of so many. Without elements there is nothing
    /// that two places could share.
    fn count(&self, place: &DraftPlace, places: usize) -> Result<usize> {
        let wrong = |what: &str| {
            Error::invalid_layout(format!("{what}, at `{}`", self.paths.render(place.node)))
        };
        match self.leaves[place.leaf as usize].count() {
            None => Err(wrong("a shape that no memory holds")),
            Some(0) if places > 1 => Err(wrong("a tie of arrays without elements")),
            Some(count) => Ok(count),
        }
    }

    fn places(&self, nodes: &[Nodes], order: &Order) -> Result<Vec<Place>> {
        let mut places = memory::with_capacity(self.places.len());
        for place in &self.places {
            let DraftLeaf {
                dtype, ref shape, ..
            } = self.leaves[place.leaf as usize];
            let (nodes, leaf) = (&nodes[place.leaf as usize], order.ids[place.leaf as usize]);
            let axes = self.axes(place, nodes)?;
            places.push(Place {
                shape: Shape::from_slice(axes.map_or(shape, |axes| &axes.shape)),
                start: order.starts[place.leaf as usize],
                len: shape.iter().product(),
                leaf,
                node: place.node,
                dtype,
                first: nodes[0] == place.node,
                frozen: self.paths.node(place.node).frozen,
                plain: leaf.trainable && nodes.len() == 1,
                axes: axes.cloned().map(Box::new),
            });
        }
        Ok(places)
    }

    /// How a place shows its leaf, if not as it is.
    fn axes<'d>(&self, place: &'d DraftPlace, nodes: &Nodes) -> Result<Option<&'d AxisMap>> {
        let Some(axes) = &place.axes else {
            return Ok(None);
        };
        let shape = &self.leaves[place.leaf as usize].shape;
        axes.validate(shape)?;
        let is_identity = axes.is_identity(shape);
        if !is_identity && nodes[0] == place.node {
            return Err(Error::invalid_layout(
                "a leaf that is not as its first place shows it",
            ));
        }
        Ok((!is_identity).then_some(axes))
    }
}

type Nodes = SmallVec<[NodeId; 2]>;

const NOWHERE: LeafId = LeafId {
    index: u32::MAX,
    trainable: false,
};

/// The leaves by number, and where they start.
#[derive(Default)]
struct Order {
    trainable: Vec<u32>,
    others: Vec<u32>,
    ids: Vec<LeafId>,
    starts: Vec<usize>,
    len: usize,
}

impl Order {
    fn push(&mut self, leaf: u32, trainable: bool, count: usize) -> Result<()> {
        let list = if trainable {
            &mut self.trainable
        } else {
            &mut self.others
        };
        self.ids[leaf as usize] = LeafId {
            index: list.len() as u32,
            trainable,
        };
        list.push(leaf);
        if trainable {
            self.starts[leaf as usize] = self.len;
            self.len = checked_sum(self.len, count)?;
        }
        Ok(())
    }
}

impl DraftLeaf {
    /// The number of elements, if such an array can exist, and one of `f64` too.
    fn count(&self) -> Option<usize> {
        let nonzero = self
            .shape
            .iter()
            .filter(|&&len| len != 0)
            .try_fold(1_usize, |count, &len| count.checked_mul(len))?;
        let fits = nonzero <= isize::MAX as usize / self.dtype.size().max(size_of::<f64>());
        fits.then(|| if self.shape.contains(&0) { 0 } else { nonzero })
    }
}

fn checked_sum(len: usize, count: usize) -> Result<usize> {
    let sum = len
        .checked_add(count)
        .filter(|&sum| sum <= isize::MAX as usize / size_of::<f64>());
    sum.ok_or_else(|| Error::invalid_layout("more elements than memory has"))
}
