//! What is behind a [`Layout`](super::Layout): its leaves, and the places where a walk meets them.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::leaf::Leaf;
use super::paths::{NodeId, Paths};
use crate::element::Dtype;
use crate::tree::axes::{AxisMap, Shape};

pub(crate) struct LayoutData {
    pub(crate) paths: Arc<Paths>,
    /// In walk order.
    pub(crate) places: Vec<Place>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) others: Vec<Leaf>,
    pub(crate) len: usize,
    /// Whether a vector of `f32` may hold all trainable leaves: none is `f64`, or those are to be
    /// rounded.
    pub(super) takes_f32: bool,
    /// Whether there are trainable leaves of `f64` that are rounded in a vector of `f32`.
    pub(crate) rounds_f64: bool,
    pub(super) fingerprint: OnceLock<u64>,
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
        if self.shape.len() != shape.len() {
            return false;
        }
        let mut lengths = self.shape.iter().zip(shape);
        lengths.all(|(a, b)| a == b)
    }
}

/// An index into a layout's leaves, or into the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeafId {
    pub(crate) index: u32,
    pub(crate) trainable: bool,
}

impl LayoutData {
    pub(super) fn new(
        paths: Arc<Paths>,
        places: Vec<Place>,
        leaves: Vec<Leaf>,
        others: Vec<Leaf>,
        len: usize,
        round_f64: bool,
    ) -> Self {
        let has_f64 = leaves.iter().any(|leaf| leaf.dtype == Dtype::F64);
        let takes_f32 = !has_f64 || round_f64;
        let rounds_f64 = has_f64 && round_f64;
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

    /// The places at a node or below it, in walk order.
    pub(crate) fn places_below(&self, node: NodeId) -> impl Iterator<Item = &Place> {
        let places = self.place_ids_below(node);
        places.map(|place| self.place(place))
    }

    pub(crate) fn place_ids_below(&self, node: NodeId) -> impl Iterator<Item = u32> {
        let end = self.paths.node(node).end;
        (node..end).filter_map(|node| self.paths.place(node))
    }

    pub(crate) fn leaves_below(&self, node: NodeId) -> impl Iterator<Item = LeafId> {
        self.places_below(node).map(|place| place.leaf)
    }
}
