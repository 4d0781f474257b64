//! Trees that are walked beside a model, and what a closure is told of a leaf.

use std::ops::Deref;

use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::layout::{Layout, Leaf, Pattern};
use crate::memory;
use crate::traversal::leaf_slices::{self, LeafSlices};
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// A tree that is walked beside a model, and what it holds at the places of a tie.
///
/// ```
/// use flatleaf::Companion::{Grads, Totals};
/// use flatleaf::{ops, Layout};
/// use std::rc::Rc;
///
/// let shared = Rc::new(vec![2.0_f32]);
/// let model = (shared.clone(), shared);
/// let (layout, grads) = (Layout::of(&model)?, (vec![3.0_f32], vec![3.0_f32]));
/// let product = |companion| layout.map_reduce(&model, [companion], |_, x, [dx]| ops::dot(x, dx), |a, b| a + b);
/// assert_eq!((product(Grads(&grads))?, product(Totals(&grads))?), (Some(12.0), Some(6.0)));
/// # Ok::<(), flatleaf::Error>(())
/// ```
///
/// A tree whose size is not known, a `&dyn Layer` say, is passed by a reference to the reference. A
/// student that has an adapter beside its teacher's leaves:
///
/// ```
/// use flatleaf::Companion::ValuesWithExtra;
/// use flatleaf::{ops, tree, Layout};
///
/// let mut teacher = tree!({ "w": [0.0] });
/// let student = tree!({ "w": [1.0], "adapter": { "down": [9.0], "up": [9.0] } });
/// let layout = Layout::of(&teacher)?;
/// layout.map_into(&mut teacher, [ValuesWithExtra(&student, &["adapter.**"])], |_, t, [s]| ops::lerp(t, s, 0.5))?;
/// assert_eq!(teacher, tree!({ "w": [0.5] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy)]
pub enum Companion<'t> {
    /// Gradients: summed over the places of a tie, one cell or lock at several of them counted
    /// once; a leaf may be absent.
    Grads(&'t dyn Tree),
    /// Gradients that are a tie's whole at every place: the first place that has one is read; a
    /// leaf may be absent.
    Totals(&'t dyn Tree),
    /// Values, such as another model or a moving average: a tie is read once; every leaf must be
    /// there, and nothing else.
    Values(&'t dyn Tree),
    /// Values of a tree that may hold more than the model: every leaf of the model must be there,
    /// and extra leaves, which the model has not got, are passed by if one of the patterns matches
    /// their path. `**` matches all. A pattern that matches no leaf at all is an error.
    ValuesWithExtra(&'t dyn Tree, &'t [&'t str]),
}

/// A leaf as a closure meets it: a [`Leaf`], and which of the companions have it.
///
/// ```
/// use flatleaf::{ops, tree, Companion::Grads, Layout};
///
/// let (mut model, grads) = (tree!({ "w": [1.0], "b": [1.0] }), tree!({ "w": [2.0], "b": [2.0] }));
/// Layout::of(&model)?.map_into(&mut model, [Grads(&grads)], |leaf, x, [dx]| {
///     let rate = if leaf.path().ends_with('b') { 0.0 } else { 0.5 }; // all that a `Leaf` knows
///     ops::axpy(x, -rate, dx);
/// })?;
/// assert_eq!(model, tree!({ "w": [0.0], "b": [1.0] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct LeafAt<'w, const K: usize> {
    pub(super) leaf: &'w Leaf,
    pub(super) index: usize,
    pub(super) present: [bool; K],
}

impl<const K: usize> LeafAt<'_, K> {
    /// Whether companion `k` has the leaf. The slice of one that has not is zeros.
    ///
    /// # Panics
    /// If there is no such companion.
    ///
    /// ```
    /// use flatleaf::{tree, Companion::Grads, Layout};
    ///
    /// let (mut model, grads) = (tree!({ "w": [1.0], "b": [1.0] }), tree!({ "w": [0.0] }));
    /// Layout::of(&model)?.map_into(&mut model, [Grads(&grads)], |leaf, x, [_]| {
    ///     if leaf.is_present(0) {
    ///         x[0] *= 0.5; // decays although its gradient is zero
    ///     }
    /// })?;
    /// assert_eq!(model, tree!({ "w": [0.5], "b": [1.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present(&self, k: usize) -> bool {
        self.present[k]
    }

    /// Its index in [`Layout::leaves`].
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let (mut model, rates) = (tree!({ "w": [1.0], "b": [1.0] }), [0.5, 0.25]);
    /// Layout::of(&model)?.map_into(&mut model, [], |leaf, x, []| x[0] *= rates[leaf.index()])?;
    /// assert_eq!(model, tree!({ "w": [0.5], "b": [0.25] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }
}

impl<const K: usize> Deref for LeafAt<'_, K> {
    type Target = Leaf;

    fn deref(&self) -> &Leaf {
        self.leaf
    }
}

/// The slices of all companions, and zeros for what they have not got.
pub(super) struct Companions<'l, 'a, E: FlatElement, const K: usize> {
    layout: &'l Layout,
    trees: [LeafSlices<'a, E>; K],
    zeros: Vec<E>,
}

impl<'l, 'a, E: FlatElement, const K: usize> Companions<'l, 'a, E, K> {
    pub(super) fn read(layout: &'l Layout, companions: [Companion<'a>; K]) -> Result<Self> {
        let mut trees: Vec<LeafSlices<'a, E>> = Vec::with_capacity(K);
        for companion in companions {
            let slices = match companion {
                Companion::Grads(tree) => leaf_slices::gradients(layout, tree, TiedGrads::Sum),
                Companion::Totals(tree) => {
                    leaf_slices::gradients(layout, tree, TiedGrads::AlreadyTotal)
                }
                Companion::Values(tree) => leaf_slices::values(layout, tree),
                Companion::ValuesWithExtra(tree, patterns) => {
                    values_with_extra(layout, tree, patterns)
                }
            };
            trees.push(slices?);
        }
        // One vector stands for all leaves that are absent somewhere, each as long as it is.
        let mut longest_absent = 0;
        for (index, leaf) in layout.leaves().iter().enumerate() {
            if trees.iter().any(|tree| tree[index].is_none()) {
                longest_absent = longest_absent.max(leaf.len());
            }
        }
        let zeros = memory::try_zeroed(longest_absent)?;
        let Ok(trees) = trees.try_into() else {
            unreachable!("one for each companion");
        };
        Ok(Companions {
            layout,
            trees,
            zeros,
        })
    }

    pub(super) fn leaf(&self, index: usize) -> LeafAt<'l, K> {
        let present = std::array::from_fn(|k| self.trees[k][index].is_some());
        LeafAt {
            leaf: &self.layout.leaves()[index],
            index,
            present,
        }
    }

    pub(super) fn slices(&self, index: usize) -> [&[E]; K] {
        let leaf = &self.layout.leaves()[index];
        std::array::from_fn(|k| {
            let slice = self.trees[k][index].as_deref();
            slice.unwrap_or_else(|| &self.zeros[..leaf.len()])
        })
    }
}

/// The values of a tree that may hold more leaves than the model.
fn values_with_extra<'a, E: FlatElement>(
    layout: &Layout,
    tree: &'a dyn Tree,
    patterns: &[&str],
) -> Result<LeafSlices<'a, E>> {
    let patterns = patterns.iter().map(|text| Pattern::parse(text));
    let patterns: Vec<Pattern> = patterns.collect::<Result<_>>()?;
    let mut is_used = vec![false; patterns.len()];
    let values = leaf_slices::values_with_extra(layout, tree, |path| {
        let mut is_allowed = false;
        for (pattern, is_used) in patterns.iter().zip(&mut is_used) {
            let matches = pattern.matches_path(path);
            *is_used |= matches;
            is_allowed |= matches;
        }
        is_allowed
    })?;
    for (pattern, is_used) in patterns.iter().zip(is_used) {
        let text = pattern.text();
        // `**` is a choice and no path that could be misspelt.
        if is_used || text == "**" {
            continue;
        }
        let leaves = layout.leaves().iter();
        let mut places = leaves.flat_map(|leaf| leaf.places());
        if !places.any(|place| pattern.matches_path(place)) {
            let expected = "a pattern that matches a leaf of the companion";
            return Err(Error::pattern(text, expected, "none that it matches"));
        }
    }
    Ok(values)
}
