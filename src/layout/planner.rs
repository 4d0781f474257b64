//! Planning with some leaves frozen.

use super::draft::Draft;
use super::pattern::Pattern;
use super::{Layout, LayoutData, Leaf, build};
use crate::error::Result;
use crate::tree::Tree;

type Predicate<'p> = Box<dyn Fn(&Leaf) -> bool + 'p>;

/// Plans a [`Layout`] of which only some leaves are trainable. Made by [`Layout::planner`].
///
/// A leaf is trainable if the tree says so, if one of the [`train_only`](Planner::train_only)
/// patterns matches it (where there are any), no [`freeze`](Planner::freeze) pattern does, and
/// every predicate accepts it. A pattern matches a leaf by any of its places: `*` is any run within
/// a segment, `**` any number of segments.
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let model = tree!({ "encoder": { "weight": [1.0], "bias": [2.0] }, "head": { "weight": [3.0], "bias": [4.0] } });
/// let paths = |layout: Layout| layout.leaves().iter().map(|leaf| leaf.path().to_owned()).collect::<Vec<_>>();
///
/// assert_eq!(paths(Layout::planner().freeze("encoder.**").of(&model)?), ["head.weight", "head.bias"]);
/// assert_eq!(paths(Layout::planner().train_only("*.bias").of(&model)?), ["encoder.bias", "head.bias"]);
/// assert_eq!(paths(Layout::planner().keep(|leaf| leaf.path().starts_with("head")).of(&model)?), ["head.weight", "head.bias"]);
/// assert!(Layout::planner().freeze("decoder.**").of(&model).unwrap_err().is_pattern());
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct Planner<'p> {
    everything: bool,
    round_f64: bool,
    freeze: Vec<String>,
    train_only: Vec<String>,
    keep: Vec<Predicate<'p>>,
}

impl<'p> Planner<'p> {
    /// Frozen float leaves count as trainable.
    ///
    /// ```
    /// use flatleaf::{Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32>, #[tree(frozen)] var: Vec<f32> }
    ///
    /// let norm = Norm { scale: vec![1.0], mean: vec![0.5], var: vec![2.0] };
    /// let layout = Layout::planner().everything().freeze("var").of(&norm)?;
    /// assert_eq!(layout.gather(&norm)?, [1.0, 0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn everything(mut self) -> Self {
        self.everything = true;
        self
    }

    /// Lets leaves of `f64` into vectors of `f32`: rounded to the nearest `f32` on the way in and
    /// widened on the way back, so that a leaf loses the rest of its digits even where nothing is
    /// changed. Without it they are an error there.
    ///
    /// Stored with the layout, and a part of its fingerprint if there is such a leaf. Vectors of
    /// `f64` hold them exactly as before.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let model = (vec![0.1_f64], vec![1.0_f32]);
    /// let layout = Layout::planner().round_f64().of(&model)?;
    /// let flat = layout.gather(&model)?;
    /// assert_eq!(flat, [0.1, 1.0]);
    /// assert_eq!(layout.restructure(&model, &flat)?.0, [f64::from(0.1_f32)]);
    /// assert_eq!(layout.gather_as::<f64>(&model)?, [0.1, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn round_f64(mut self) -> Self {
        self.round_f64 = true;
        self
    }

    /// Freezes the leaves that a path pattern matches.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "layers": [{ "w": [1.0], "b": [2.0] }, { "w": [3.0], "b": [4.0] }] });
    /// let layout = Layout::planner().freeze("layers.0.*").freeze("**.b").of(&model)?;
    /// assert_eq!(layout.gather(&model)?, [3.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn freeze(mut self, pattern: impl Into<String>) -> Self {
        self.freeze.push(pattern.into());
        self
    }

    /// Trains only leaves that this pattern, or another one given so, matches.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "w": [1.0], "lora_a": [2.0], "lora_b": [3.0], "head": [4.0] });
    /// let layout = Layout::planner().train_only("lora_*").train_only("head").of(&model)?;
    /// assert_eq!(layout.gather(&model)?, [2.0, 3.0, 4.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn train_only(mut self, pattern: impl Into<String>) -> Self {
        self.train_only.push(pattern.into());
        self
    }

    /// Trains only leaves that the predicate accepts.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "w": [[1.0, 2.0]], "b": [3.0] });
    /// let layout = Layout::planner().keep(|leaf| leaf.shape().len() > 1).of(&model)?; // matrices only
    /// assert_eq!(layout.gather(&model)?, [1.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn keep(mut self, predicate: impl Fn(&Leaf) -> bool + 'p) -> Self {
        self.keep.push(Box::new(predicate));
        self
    }

    /// Plans a tree.
    ///
    /// # Errors
    /// As [`Layout::of`], and a pattern that is malformed or matches no leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let planner = Layout::planner().freeze("encoder"); // good for any number of trees
    /// assert_eq!(planner.of(&tree!({ "encoder": [1.0], "head": [2.0] }))?.len(), 1);
    /// assert_eq!(planner.of(&tree!({ "encoder": [1.0], "head": [2.0, 3.0] }))?.len(), 2);
    /// assert!(planner.of(&tree!({ "head": [2.0] })).unwrap_err().is_pattern()); // nothing to freeze
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<T: Tree + ?Sized>(&self, tree: &T) -> Result<Layout> {
        let draft = build::walk(tree, self.everything)?.rounding_f64(self.round_f64);
        if self.freeze.is_empty() && self.train_only.is_empty() && self.keep.is_empty() {
            return draft.assemble().map(Layout::new);
        }
        self.narrow(draft)
    }

    fn narrow(&self, draft: Draft) -> Result<Layout> {
        let whole = Layout::new(draft.clone().assemble()?);
        let freeze = matching(&self.freeze, &whole)?;
        let train_only = matching(&self.train_only, &whole)?;
        let is_kept = |index: usize, leaf: &Leaf| {
            !freeze[index]
                && (self.train_only.is_empty() || train_only[index])
                && self.keep.iter().all(|keep| keep(leaf))
        };
        let kept: Vec<bool> = whole
            .leaves()
            .iter()
            .enumerate()
            .map(|(index, leaf)| is_kept(index, leaf))
            .collect();
        draft
            .with_trainable(|place| trained(&whole.inner, place, &kept))
            .assemble()
            .map(Layout::new)
    }
}

fn trained(whole: &LayoutData, place: usize, kept: &[bool]) -> bool {
    let leaf = whole.places[place].leaf;
    leaf.trainable && kept[leaf.index as usize]
}

/// Which trainable leaves one of the patterns matches.
fn matching(patterns: &[String], layout: &Layout) -> Result<Vec<bool>> {
    let mut matched = vec![false; layout.leaves().len()];
    for text in patterns {
        let pattern = Pattern::parse(text)?;
        let any = layout
            .matching(&pattern)
            .map(|index| matched[index] = true)
            .count();
        let frozen_only = || layout.others().iter().any(|leaf| leaf.matches(&pattern));
        if any == 0 && !frozen_only() {
            return Err(layout.unmatched(&pattern, "a pattern that matches a leaf"));
        }
    }
    Ok(matched)
}

impl Layout {
    /// The indices of the leaves that a pattern matches.
    pub(crate) fn matching(&self, pattern: &Pattern) -> impl Iterator<Item = usize> {
        self.leaves()
            .iter()
            .enumerate()
            .filter(|(_, leaf)| leaf.matches(pattern))
            .map(|(index, _)| index)
    }
}
