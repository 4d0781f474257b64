//! Which leaves of a flat gradient there are, apart from its elements.

use crate::layout::Layout;
use crate::traversal::tied_places::TieReading;

/// Which leaves of a flat gradient had one, and how the places of ties were read.
///
/// A [`FlatGrad`](crate::FlatGrad) keeps it beside its elements. Where gradients stand in rows of a
/// matrix, one a sample or a perturbation, [`Layout::gather_grad_into_slice`] returns it by itself.
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
/// let mut rows = vec![f32::NAN; 2 * layout.len()]; // whatever stood there before
/// let samples = [tree!({ "w": [1.0, 2.0] }), tree!({ "w": [3.0, 4.0], "b": [5.0] })];
/// let mut present = Vec::new();
/// for (row, grads) in rows.chunks_mut(layout.len()).zip(&samples) {
///     present.push(layout.gather_grad_into_slice(grads, row)?);
/// }
/// assert_eq!(rows, [1.0, 2.0, 0.0, 3.0, 4.0, 5.0]);
/// assert!(!present[0].is_present_at("b") && present[1].is_present_at("b"));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Presence {
    layout: Layout,
    leaves: Vec<LeafState>,
    /// Sorted by leaf. Few leaves are tied.
    readings: Vec<(usize, TieReading)>,
}

/// Two are equal if the same leaves of equal layouts are present, however ties were read.
impl PartialEq for Presence {
    fn eq(&self, other: &Self) -> bool {
        self.leaves == other.leaves && self.layout == other.layout
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeafState {
    Absent,
    Present,
    /// Absent, unless the gradient that is being gathered turns out to have it; its elements in the
    /// vector are not known to be zeros.
    Stale,
}

/// Which elements of a vector are known to be zeros before a gradient is gathered into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// All: the vector is new. Nobody has to touch its memory again.
    Everywhere,
    /// Those of absent leaves.
    WhereAbsent,
    Nowhere,
}

impl Presence {
    /// Nothing is present.
    pub(crate) fn none(layout: &Layout) -> Self {
        Presence {
            layout: layout.clone(),
            leaves: vec![LeafState::Absent; layout.leaves().len()],
            readings: Vec::new(),
        }
    }

    pub(crate) fn all(layout: &Layout) -> Self {
        let mut presence = Presence::none(layout);
        presence.leaves.fill(LeafState::Present);
        presence
    }

    /// Whether leaf `index` of [`Layout::leaves`] had a gradient at any of its places.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let presence = layout.gather_grad_into_slice(&tree!({ "b": [0.0] }), &mut [0.0; 2])?;
    /// assert_eq!((presence.is_present(0), presence.is_present(1)), (false, true));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present(&self, index: usize) -> bool {
        self.leaves[index] == LeafState::Present
    }

    /// Whether the leaf at a path, any of its places, had a gradient at any of its places.
    ///
    /// # Panics
    /// If the layout has no trainable leaf at the path: a misspelt path is no absent leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let presence = layout.gather_grad_into_slice(&tree!({ "b": [0.0] }), &mut [0.0; 2])?;
    /// assert!(presence.is_present_at("b") && !presence.is_present_at("w"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present_at(&self, path: &str) -> bool {
        self.is_present(self.index_at(path))
    }

    pub(crate) fn index_at(&self, path: &str) -> usize {
        let index = self.layout.index_of(path);
        index.unwrap_or_else(|| panic!("the layout has no trainable leaf at `{path}`"))
    }

    /// How the gradients at the places of leaf `index` were read, if several of its places had one.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{Layout, TieReading};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32]);
    /// let model = (shared.clone(), shared);
    /// let layout = Layout::of(&model)?;
    /// // A tree of the model's type, made of a flat gradient, holds the whole of it at both places.
    /// let grads = layout.restructure(&model, &[3.0])?;
    /// let mut row = [0.0];
    /// let presence = layout.gather_grad_into_slice(&grads, &mut row)?;
    /// assert_eq!((row, presence.tie_reading(0)), ([6.0], Some(TieReading::SummedSameObject)));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn tie_reading(&self, index: usize) -> Option<TieReading> {
        assert!(index < self.leaves.len(), "no leaf has the index {index}");
        let found = self
            .readings
            .binary_search_by_key(&index, |reading| reading.0);
        found.ok().map(|at| self.readings[at].1)
    }

    /// The layout it belongs to.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let presence = layout.gather_grad_into_slice(&tree!({ "b": [0.0] }), &mut [0.0; 2])?;
    /// let leaves = presence.layout().leaves().iter().enumerate();
    /// let absent: Vec<_> = leaves.filter(|(index, _)| !presence.is_present(*index)).map(|(_, leaf)| leaf.path()).collect();
    /// assert_eq!(absent, ["w"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn set(&mut self, index: usize, is_present: bool) {
        self.leaves[index] = if is_present {
            LeafState::Present
        } else {
            LeafState::Absent
        };
    }

    /// Begins to gather into a vector of which so much is known.
    pub(crate) fn begin(&mut self, zeros: Zeros) {
        self.readings.clear();
        for leaf in &mut self.leaves {
            let is_zero = match zeros {
                Zeros::Everywhere => true,
                Zeros::WhereAbsent => *leaf == LeafState::Absent,
                Zeros::Nowhere => false,
            };
            *leaf = if is_zero {
                LeafState::Absent
            } else {
                LeafState::Stale
            };
        }
    }

    /// A leaf is there, read so at its places; leaves come in order of their indices.
    pub(crate) fn found_tied(&mut self, index: usize, reading: Option<TieReading>) {
        self.set(index, true);
        self.readings
            .extend(reading.map(|reading| (index, reading)));
    }

    /// The leaves that were not found and whose elements are to be overwritten by zeros; they are
    /// absent from now on.
    pub(crate) fn take_stale(&mut self, mut overwrite: impl FnMut(std::ops::Range<usize>)) {
        for (leaf, state) in self.layout.leaves().iter().zip(&mut self.leaves) {
            if *state == LeafState::Stale {
                overwrite(leaf.range());
                *state = LeafState::Absent;
            }
        }
    }
}
