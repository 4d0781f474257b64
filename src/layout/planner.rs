//! Planning with some leaves frozen, by path pattern or by predicate.

use super::draft::Draft;
use super::pattern::Pattern;
use super::{Layout, Leaf, build};
use crate::error::Result;
use crate::tree::Tree;

/// Leaves that somebody names.
enum Selection<'p> {
    /// By a path pattern.
    Pattern(String),
    /// By what they are.
    Where(Box<dyn Fn(&Leaf) -> bool + 'p>),
}

/// Plans a [`Layout`] of which only some leaves are trainable. Made by [`Layout::planner`].
///
/// A leaf is trainable if the tree says so, if what is given to [`train_only`](Planner::train_only)
/// or [`train_only_where`](Planner::train_only_where) names it (where anything is), and nothing that
/// is given to [`freeze`](Planner::freeze) or [`freeze_where`](Planner::freeze_where) does. A
/// pattern matches a leaf by any of its places: `*` is any run of characters within a segment, `**`
/// any number of segments. A predicate sees the leaves that the tree calls trainable, with their
/// ranges in the vector that they would have together.
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let model = tree!({ "encoder": { "weight": [1.0], "bias": [2.0] }, "head": { "weight": [3.0], "bias": [4.0] } });
/// let paths = |layout: Layout| layout.leaves().iter().map(|leaf| leaf.path().to_owned()).collect::<Vec<_>>();
///
/// assert_eq!(paths(Layout::planner().freeze("encoder.**").of(&model)?), ["head.weight", "head.bias"]);
/// assert_eq!(paths(Layout::planner().train_only("*.bias").of(&model)?), ["encoder.bias", "head.bias"]);
/// assert_eq!(paths(Layout::planner().freeze_where(|leaf| leaf.path().ends_with("bias")).of(&model)?), ["encoder.weight", "head.weight"]);
/// assert!(Layout::planner().freeze("decoder.**").of(&model).unwrap_err().is_pattern());
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct Planner<'p> {
    everything: bool,
    round_f64: bool,
    freeze: Vec<Selection<'p>>,
    train_only: Vec<Selection<'p>>,
}

impl<'p> Planner<'p> {
    /// Frozen float leaves count as trainable: what the tree's type froze is in the vector, unless
    /// this planner freezes it again. Integers and booleans stay outside.
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

    /// Freezes the leaves that a path pattern matches: they leave the vector and are listed by
    /// [`others`](Layout::others). A pattern that matches no leaf, trainable or not, is an error of
    /// [`of`](Planner::of).
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
        self.freeze.push(Selection::Pattern(pattern.into()));
        self
    }

    /// Freezes the leaves of which a predicate says so: by shape, by length, by element type. That
    /// it says so of none is no error, as nothing is misspelt then.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "w": [[1.0, 2.0]], "b": [3.0], "scale": 0.5 });
    /// let layout = Layout::planner().freeze_where(|leaf| leaf.shape().len() < 2).of(&model)?;
    /// assert_eq!(layout.gather(&model)?, [1.0, 2.0]); // matrices only
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn freeze_where(mut self, predicate: impl Fn(&Leaf) -> bool + 'p) -> Self {
        self.freeze.push(Selection::Where(Box::new(predicate)));
        self
    }

    /// Trains only leaves that this pattern matches, or that something else given to `train_only` or
    /// [`train_only_where`](Planner::train_only_where) names. A pattern that matches no leaf,
    /// trainable or not, is an error of [`of`](Planner::of).
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
        self.train_only.push(Selection::Pattern(pattern.into()));
        self
    }

    /// Trains only leaves of which this predicate says so, or that something else given to
    /// [`train_only`](Planner::train_only) or `train_only_where` names.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "embed": [[1.0, 2.0]], "w": [[3.0]], "b": [4.0] });
    /// let planner = Layout::planner().train_only_where(|leaf| leaf.shape().len() == 1).train_only("embed");
    /// assert_eq!(planner.of(&model)?.gather(&model)?, [1.0, 2.0, 4.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn train_only_where(mut self, predicate: impl Fn(&Leaf) -> bool + 'p) -> Self {
        self.train_only.push(Selection::Where(Box::new(predicate)));
        self
    }

    /// Trains only leaves that the predicate accepts, whatever else names them: it freezes those
    /// that it does not accept, as [`freeze_where`](Planner::freeze_where) of its opposite would.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "w": [[1.0, 2.0]], "b": [3.0] });
    /// let layout = Layout::planner().keep(|leaf| leaf.shape().len() > 1).of(&model)?; // matrices only
    /// assert_eq!(layout.gather(&model)?, [1.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn keep(self, predicate: impl Fn(&Leaf) -> bool + 'p) -> Self {
        self.freeze_where(move |leaf| !predicate(leaf))
    }

    /// Plans a tree. The planner can be used again, for any number of trees; every one of them has
    /// to have what its patterns name.
    ///
    /// # Errors
    /// `is_pattern`: a pattern is malformed or matches no leaf. `is_overlap`, `is_cycle`,
    /// `is_too_deep`, `is_too_many_places`, `is_duplicate`, `is_invalid_layout`, `is_poisoned`,
    /// `is_borrowed`, `is_unstable`: what no layout can be of, as [`Layout::of`] says in full.
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
        let draft = build::draft(tree, self.everything)?;
        let draft = draft.rounding_f64(self.round_f64);
        if self.freeze.is_empty() && self.train_only.is_empty() {
            return draft.assemble().map(Layout::new);
        }
        self.narrow(draft)
    }

    /// Patterns and predicates speak of leaves with paths and ranges, so the whole tree is assembled
    /// first, and then the part of it that is trained.
    fn narrow(&self, draft: Draft) -> Result<Layout> {
        let whole = Layout::new(draft.clone().assemble()?);
        let frozen = selected(&self.freeze, &whole)?;
        let mut trained = selected(&self.train_only, &whole)?;
        if self.train_only.is_empty() {
            trained.fill(true);
        }
        let is_trained = |leaf: usize| trained[leaf] && !frozen[leaf];
        let places = &whole.inner.places;
        let narrowed = draft.with_trainable(|place| {
            let leaf = places[place].leaf;
            leaf.trainable && is_trained(leaf.index as usize)
        });
        narrowed.assemble().map(Layout::new)
    }
}

/// Which trainable leaves are named by at least one of the selections.
fn selected(selections: &[Selection<'_>], layout: &Layout) -> Result<Vec<bool>> {
    let mut selected = vec![false; layout.leaves().len()];
    for selection in selections {
        match selection {
            Selection::Pattern(text) => {
                let matched = matched(text, layout)?;
                matched.into_iter().for_each(|leaf| selected[leaf] = true);
            }
            Selection::Where(predicate) => {
                for (leaf, selected) in layout.leaves().iter().zip(&mut selected) {
                    *selected |= predicate(leaf);
                }
            }
        }
    }
    Ok(selected)
}

/// # Errors
/// A pattern that is malformed or matches no leaf at all. One that matches leaves that are not
/// trainable anyway is none: it says what is so.
fn matched(text: &str, layout: &Layout) -> Result<Vec<usize>> {
    let pattern = Pattern::parse(text)?;
    let matched = layout.matched_by(&pattern);
    if !matched.is_empty() {
        return Ok(matched);
    }
    let mut others = layout.others().iter();
    let matches_another = others.any(|leaf| leaf.matches(&pattern));
    if !matches_another {
        return Err(layout.unmatched(&pattern, "a pattern that matches a leaf"));
    }
    Ok(matched)
}
