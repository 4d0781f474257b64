//! What a layout is made of, before anything is known to agree: what the walk over a tree writes
//! down, and what is read from a file.

use std::collections::{HashMap, HashSet};

use super::paths::{NodeId, Paths};
use crate::element::Dtype;
use crate::tree::axes::{AxisMap, Shape};
use crate::tree::elements::{ElementField, LeafFields};

/// Leaves, and the places at which they stand. The validator makes a layout of it.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Nodes of kind `Place(index)` count through `places`; frozen nodes are marked with all that
    /// is below them.
    pub(crate) paths: Paths,
    pub(crate) leaves: Vec<DraftLeaf>,
    /// In walk order.
    pub(crate) places: Vec<DraftPlace>,
    /// Whether leaves of `f64` are rounded in a vector of `f32`.
    pub(super) round_f64: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct DraftLeaf {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    /// Whether it may be trained; it is if it also holds floats and one of its places is not
    /// frozen.
    pub(crate) trainable: bool,
    /// What the numbers along the last axis are called.
    pub(crate) fields: LeafFields,
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
        // All places of a leaf get one answer, so that the last of them may stand.
        for (index, place) in self.places.iter().enumerate() {
            let leaf = place.leaf as usize;
            self.leaves[leaf].trainable = trained(index);
        }
        self.show_first_places();
        self
    }

    /// Lets every leaf be as its first trainable place shows it, or the first of all if none is.
    ///
    /// Take a leaf of shape [2, 3] with the places `a`, frozen, which shows it as it is, and `b`,
    /// which shows it transposed. The leaf becomes one of shape [3, 2] that `b` shows as it is and
    /// `a` transposed: elements stand in the vector in the order in which `b` has them.
    pub(crate) fn show_first_places(&mut self) {
        let firsts = self.first_shown();
        for index in 0..self.places.len() {
            let place = &self.places[index];
            let Some(first) = firsts.get(&place.leaf) else {
                continue;
            };
            let axes = self.shown(place).on(first);
            self.places[index].axes = Some(Box::new(axes));
        }
        // Only now: until here the maps are those onto the old shapes.
        for (leaf, first) in firsts {
            let leaf = &mut self.leaves[leaf as usize];
            // Names are those of the last axis, which may be another one there.
            let last = leaf.shape.last().copied();
            if last.is_none_or(|last| first.without_last(&[last]).is_none()) {
                leaf.fields = None;
            }
            leaf.shape = first.shape;
        }
    }

    /// For each leaf that some place shows otherwise than it is: how its first place shows it.
    fn first_shown(&self) -> HashMap<u32, AxisMap> {
        let mut turned = HashSet::new();
        for place in &self.places {
            if place.axes.is_some() {
                turned.insert(place.leaf);
            }
        }
        let mut firsts = HashMap::new();
        // Nearly all layouts have no such leaf, and are spared the two passes below.
        if turned.is_empty() {
            return firsts;
        }
        for trainable in [true, false] {
            for place in &self.places {
                let is_asked_for = self.is_trainable_at(place) == trainable;
                if is_asked_for && turned.contains(&place.leaf) {
                    let first = firsts.entry(place.leaf);
                    first.or_insert_with(|| self.shown(place));
                }
            }
        }
        firsts
    }

    /// How a place shows its leaf.
    fn shown(&self, place: &DraftPlace) -> AxisMap {
        match &place.axes {
            Some(axes) => AxisMap::clone(axes),
            None => AxisMap::identity(&self.leaf_at(place).shape),
        }
    }

    pub(super) fn leaf_at(&self, place: &DraftPlace) -> &DraftLeaf {
        &self.leaves[place.leaf as usize]
    }

    /// Whether a place's leaf is trainable there.
    pub(super) fn is_trainable_at(&self, place: &DraftPlace) -> bool {
        self.is_trainable(self.leaf_at(place), place.node)
    }

    pub(super) fn is_trainable(&self, leaf: &DraftLeaf, node: NodeId) -> bool {
        let is_frozen = self.paths.node(node).frozen;
        leaf.trainable && leaf.dtype.is_float() && !is_frozen
    }
}

impl DraftLeaf {
    /// Whether the fields, if there are any, are together as long as the last axis.
    pub(super) fn has_fitting_fields(&self) -> bool {
        let Some(fields) = &self.fields else {
            return true;
        };
        let mut counts = fields.iter().map(ElementField::count);
        let sum = counts.try_fold(0_usize, |sum, count| sum.checked_add(count?));
        sum.is_some() && sum == self.shape.last().copied()
    }

    /// The number of elements, if such an array can exist, and one of `f64` too.
    pub(super) fn count(&self) -> Option<usize> {
        let mut count = 1_usize;
        // An axis of length 0 hides no other that no memory holds.
        for &len in self.shape.iter().filter(|&&len| len != 0) {
            count = count.checked_mul(len)?;
        }
        let element = self.dtype.size().max(size_of::<f64>());
        let most = isize::MAX as usize / element;
        if count > most {
            None
        } else if self.shape.contains(&0) {
            Some(0)
        } else {
            Some(count)
        }
    }
}
