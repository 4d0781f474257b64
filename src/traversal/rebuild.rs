//! Making a new tree after an old one, or the shared parts of one that is written in place: which
//! leaf gets which new elements, and what of the old tree stays.
//!
//! A tree rebuilds itself field by field and asks a `Builder` for each leaf and each shared node;
//! this is what answers. It follows the tree with a cursor, as the validating walk does, and says
//! for a leaf: these elements, in the order of this place; for a shared node: keep the old one,
//! here is the new one that another handle has had made already, or make it now.
//!
//! Why a tree is not simply cloned and overwritten stands in `tree/builder.rs`, with the figures.

use std::borrow::Cow;

use crate::element::{Dtype, FlatElement};
use crate::error::{Error, Result};
use crate::layout::{Cursor, LayoutData, Leaf, LeafId, NodeId, Place};
use crate::slices::{AnyVec, Floats};
use crate::traversal::validated::{SharedContent, Validated};
use crate::tree::{
    Builder, Identity, Key, MadeParts, NewChild, NewElements, NewLeaf, Rebuild, TiedPlace, Tree,
};

/// Where a builder's values come from.
pub(crate) enum Values<'b> {
    /// From the old tree.
    Template,
    /// Trainable leaves from a flat vector; some may stand ready in vectors of their own.
    Flat {
        flat: Floats<'b>,
        ready: Vec<Option<AnyVec>>,
    },
    /// Trainable leaves from vectors of their own.
    Leaves(Box<dyn LeafVectors + 'b>),
    /// Leaves that are not trainable from these, as bytes.
    Others(&'b [Vec<u8>]),
    /// Any leaves from elsewhere.
    #[cfg(feature = "safetensors")]
    Elsewhere(&'b dyn LeafValues),
}

/// A vector for every trainable leaf, in row-major order.
pub(crate) trait LeafVectors {
    fn floats(&self, index: usize) -> Floats<'_>;

    /// The vector itself, to be given away, if it may be and is of this type.
    fn take(&mut self, index: usize, dtype: Dtype) -> Option<AnyVec>;
}

impl<E: FlatElement> LeafVectors for Cow<'_, [Vec<E>]> {
    fn floats(&self, index: usize) -> Floats<'_> {
        Floats::of(&self[index])
    }

    fn take(&mut self, index: usize, dtype: Dtype) -> Option<AnyVec> {
        match self {
            Cow::Owned(leaves) if dtype == E::DTYPE => {
                Some(AnyVec::of(std::mem::take(&mut leaves[index])))
            }
            _ => None,
        }
    }
}

/// Elements of leaves, as bytes, in row-major order.
#[cfg(feature = "safetensors")]
pub(crate) trait LeafValues {
    fn has(&self, leaf: LeafId) -> bool;

    /// The elements of a leaf that it has, as those of a type.
    fn elements(&self, leaf: LeafId, dtype: Dtype) -> Option<Cow<'_, [u8]>>;
}

impl Values<'_> {
    fn has(&self, leaf: LeafId) -> bool {
        match self {
            Values::Template => false,
            Values::Flat { .. } | Values::Leaves(_) => leaf.trainable,
            Values::Others(_) => !leaf.trainable,
            #[cfg(feature = "safetensors")]
            Values::Elsewhere(values) => values.has(leaf),
        }
    }

    /// The elements of a leaf that it has, in row-major order. A vector of their own is given away,
    /// once, if the leaf has one place, where nobody asks for it again.
    fn new_elements(&mut self, id: LeafId, leaf: &Leaf, dtype: Dtype) -> NewElements<'_> {
        let index = id.index as usize;
        match self {
            Values::Template => NewElements::Bytes(Cow::Borrowed(&[])),
            Values::Flat { flat, ready } => {
                let ready = ready.get_mut(index);
                if let Some(vector) = ready.and_then(Option::take) {
                    return NewElements::Ready(vector);
                }
                NewElements::Floats(flat.slice(leaf.range()))
            }
            Values::Leaves(leaves) => {
                // At a second place it would be asked for again, and a leaf of another type needs a
                // vector of that type.
                let is_asked_once = leaf.nodes.len() == 1;
                if is_asked_once && let Some(vector) = leaves.take(index, dtype) {
                    return NewElements::Ready(vector);
                }
                NewElements::Floats(leaves.floats(index))
            }
            Values::Others(others) => NewElements::Bytes(Cow::Borrowed(&others[index])),
            #[cfg(feature = "safetensors")]
            Values::Elsewhere(values) => {
                NewElements::Bytes(values.elements(id, dtype).unwrap_or_default())
            }
        }
    }
}

/// A new tree after an old one that has been validated.
pub(crate) fn rebuild<T: Tree>(
    layout: &LayoutData,
    tree: &T,
    values: Values<'_>,
    validated: &Validated,
) -> Result<T> {
    let mut walk = Rebuilding::new(layout, values, validated);
    let rebuilt = tree
        .rebuild(&mut Builder::new(&mut walk))
        .map_err(|error| error.or_at(|| walk.cursor.path()))?;
    walk.find_missing().map(|()| rebuilt)
}

/// The walk behind a [`Builder`].
pub(crate) struct Rebuilding<'b> {
    layout: &'b LayoutData,
    pub(crate) cursor: Cursor<'b>,
    values: Values<'b>,
    validated: &'b Validated,
    made: MadeParts,
    /// Whether it makes parts of a tree that is written in place.
    in_place: bool,
    /// Which places are then written, if there are shared nodes.
    written: Vec<bool>,
    /// Which trainable leaves the new tree has asked for.
    asked: Vec<bool>,
}

impl<'b> Rebuilding<'b> {
    pub(crate) fn new(
        layout: &'b LayoutData,
        values: Values<'b>,
        validated: &'b Validated,
    ) -> Self {
        Rebuilding {
            layout,
            cursor: Cursor::new(&layout.paths),
            values,
            validated,
            made: MadeParts::default(),
            in_place: false,
            written: Vec::new(),
            asked: vec![false; layout.leaves.len()],
        }
    }

    /// For the parts of a tree that is written in place: shared cells stay, and are written
    /// through.
    pub(crate) fn in_place(self) -> Self {
        Rebuilding {
            in_place: true,
            ..self
        }
    }

    /// Which places of the tree are written.
    pub(crate) fn writing(self, written: Vec<bool>) -> Self {
        Rebuilding { written, ..self }
    }

    pub(crate) fn meets_shared_nodes(&self) -> bool {
        self.validated.has_shared()
    }

    /// An error if a new tree has been made without the new values of a leaf.
    fn find_missing(&self) -> Result<()> {
        if let Values::Template = self.values {
            return Ok(());
        }
        // An implementation that forgets a leaf would otherwise hand out a tree with the old one.
        let mut asked = self.layout.leaves.iter().zip(&self.asked);
        let missing = asked.find(|(leaf, asked)| !**asked && !leaf.is_empty());
        let Some((leaf, _)) = missing else {
            return Ok(());
        };
        Err(Error::unstable("a `rebuild` that does not ask for it").at(leaf.path()))
    }

    /// The place the walk is at.
    fn place(&self) -> Option<&'b Place> {
        let place = self.cursor.place();
        place.map(|place| self.layout.place(place))
    }

    /// The place the walk is at, if the leaf is as it was seen first.
    fn unchanged_place(&self, shape: &[usize], dtype: Dtype) -> Result<&'b Place> {
        let place = self.place();
        let place =
            place.ok_or_else(|| Error::unstable("a leaf that was not there on the first visit"))?;
        // Where the old elements stay, the tree copies its own leaf, whatever that has become:
        // there is nothing here that would not fit it.
        let is_same = place.has_shape(shape) && dtype == place.dtype;
        if is_same || !self.values.has(place.leaf) {
            Ok(place)
        } else {
            Err(Error::changed_leaf())
        }
    }

    /// What the leaf at a place becomes; `None` if it keeps its elements.
    #[inline]
    fn new_elements_of(&mut self, index: u32, place: &'b Place) -> Option<NewLeaf<'_>> {
        if place.leaf.trainable {
            self.asked[place.leaf.index as usize] = true;
        }
        // In place, what is not written keeps its elements, and with them its ties.
        if !self.is_written(index) || !self.values.has(place.leaf) {
            return None;
        }
        let leaf = self.layout.leaf(place.leaf);
        Some(NewLeaf {
            elements: self.values.new_elements(place.leaf, leaf, place.dtype),
            shape: &leaf.shape,
            axes: place.axes.as_deref(),
        })
    }

    /// Whether a new node stands ready for a shared one, or a new array for the tied leaf here.
    pub(crate) fn has_new(&self, identity: &Identity) -> bool {
        if self.made.nodes.contains_key(identity) {
            return true;
        }
        let Some(place) = self.place() else {
            return false;
        };
        let array = id_of(place.leaf);
        self.made.arrays.contains_key(&array)
    }

    /// Whether the shared node here stays in a tree that is written in place, even within one that
    /// is new: its other handles keep it too. A cell stays, whether anything in it is written or
    /// not.
    fn keeps_node_in_place(&self, content: SharedContent) -> bool {
        let is_written = |node| {
            let mut places = self.layout.place_ids_below(node);
            places.any(|place| self.is_written(place))
        };
        // The node is replaced for the sake of an unguarded leaf that is written, and of no other.
        !content.has_unguarded_leaf || !self.cursor.node().is_some_and(is_written)
    }

    fn is_written(&self, place: u32) -> bool {
        self.written
            .get(place as usize)
            .is_none_or(|&written| written)
    }

    /// Whether all that is new in a shared node is in cells.
    pub(crate) fn is_written_through(&self, identity: &Identity) -> bool {
        self.validated
            .content_of(identity)
            .is_some_and(SharedContent::is_written_through_cells)
    }

    /// The node the walk is at, if the layout knows it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.cursor.node()
    }

    pub(crate) fn path(&self) -> String {
        self.cursor.path()
    }
}

/// A number that no other leaf has: trainable leaves and others are counted apart.
fn id_of(leaf: LeafId) -> usize {
    2 * leaf.index as usize + usize::from(leaf.trainable)
}

impl Rebuild for Rebuilding<'_> {
    #[inline]
    fn enter(&mut self, key: Key<'_>) -> Result<usize> {
        self.cursor.enter(key)
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.cursor.leave(key);
    }

    fn new_leaf(&mut self, shape: &[usize], dtype: Dtype) -> Result<Option<NewLeaf<'_>>> {
        let place = self.unchanged_place(shape, dtype)?;
        let index = self.cursor.place();
        Ok(index.and_then(|index| self.new_elements_of(index, place)))
    }

    #[inline]
    fn new_child_leaf(&mut self, key: Key<'_>, shape: &[usize], dtype: Dtype) -> NewChild<'_> {
        let Some(index) = self.cursor.next_leaf(key) else {
            return NewChild::NotNext;
        };
        let place = self.layout.place(index);
        if !place.has_shape(shape) || dtype != place.dtype {
            return NewChild::NotNext;
        }
        self.cursor.pass_leaf();
        match self.new_elements_of(index, place) {
            Some(new) => NewChild::New(new),
            None => NewChild::KeepsOld,
        }
    }

    fn tied_place(&self) -> Option<TiedPlace<'_>> {
        let place = self.place()?;
        let leaf = self.layout.leaf(place.leaf);
        (leaf.nodes.len() > 1).then(|| TiedPlace {
            id: id_of(place.leaf),
            shape: &leaf.shape,
            axes: place.axes.as_deref(),
        })
    }

    /// One in which nothing is trainable and nothing can change is shared with the old tree.
    fn keeps_node(&self, identity: &Identity) -> bool {
        // To share what has a cell would let each tree change under the other's hands.
        let is_kept = |content: SharedContent| {
            content.is_constant() || (self.in_place && self.keeps_node_in_place(content))
        };
        self.validated.content_of(identity).is_some_and(is_kept)
    }

    fn has_new_values_below(&self) -> bool {
        let has_new = |node| {
            let mut leaves = self.layout.leaves_below(node);
            leaves.any(|leaf| self.values.has(leaf))
        };
        self.cursor.node().is_some_and(has_new)
    }

    fn made_parts(&mut self) -> &mut MadeParts {
        &mut self.made
    }
}
