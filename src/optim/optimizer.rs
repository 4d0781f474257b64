//! The optimiser: a rule, what it keeps, and which leaf has taken how many steps by which
//! configuration of it.

use std::fmt;

use super::measure::Measured;
use super::pass::{self, Part};
use super::plan::Plan;
use super::rule::Rule;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::memory;
use crate::traversal::leaf_slices;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// Runs a [`Rule`] over the leaves of a layout, on the flat vector ([`step`](Optimizer::step)) or
/// on a tree in place ([`update`](Optimizer::update)).
///
/// Every leaf has a step count of its own. A leaf without a gradient, or frozen here, is left alone
/// with its state and its count, where a gradient of zero is a gradient: momentum and weight decay
/// go on moving the leaf. A step is one pass over the vectors however many stages the chain has;
/// each [norm](super::ClipNorm) that has to be known before costs one read of the gradient more,
/// and of what the stages in front of it need.
///
/// Steps give the same bits for any number of threads, and where leaves are `f32` for `step` and
/// for `update`.
///
/// If a rule of one's own panics, the leaves that some thread was moving hold, with their state,
/// what was left in them, and no step is counted.
///
/// ```
/// use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
/// use flatleaf::{tree, DynTree, Layout};
///
/// let mut model = tree!({ "encoder": [1.0, 2.0], "head": [3.0] });
/// let layout = Layout::of(&model)?;
/// let rule = (ClipNorm { max: 1.0, ..Default::default() }, AdamW { lr: 0.1, ..Default::default() }, Ema::default());
/// let mut optimizer = Optimizer::new(rule, &layout)?;
///
/// let report = optimizer.update(&mut model, &tree!({ "encoder": null, "head": [5.0] }))?;
/// assert_eq!((report.clips[0].norm, report.clips[0].scale), (5.0, 0.2));
/// assert_eq!((optimizer.step_count("encoder"), optimizer.step_count("head")), (Some(0), Some(1)));
///
/// optimizer.adjust("head", |(_, adamw, _)| adamw.lr = 0.01)?; // a group of its own
/// optimizer.freeze("enc*")?;
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone)]
pub struct Optimizer<R> {
    pub(super) layout: Layout,
    /// The configurations: the first is the one it was made with, further ones come of
    /// [`Optimizer::adjust`].
    pub(super) groups: Vec<R>,
    pub(super) leaves: Vec<LeafProgress>,
    pub(super) states: Vec<Vec<f32>>,
}

/// How far a leaf is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LeafProgress {
    /// Steps taken; stays at the type's greatest number.
    pub(super) steps: u64,
    pub(super) group: u32,
    pub(super) is_frozen: bool,
}

/// What a step did.
///
/// ```
/// use flatleaf::ops::NonFinite;
/// use flatleaf::optim::{ClipNorm, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "encoder": [1.0], "head": [1.0] });
/// let rule = ClipNorm { non_finite: NonFinite::Skip, ..Default::default() };
/// let mut optimizer = Optimizer::new(rule, &Layout::of(&model)?)?;
///
/// let report = optimizer.update(&mut model, &tree!({ "head": [0.5] }))?;
/// assert_eq!((report.skipped, report.leaves), (false, 1)); // the encoder had no gradient
/// assert!(optimizer.update(&mut model, &tree!({ "head": (vec![f32::NAN]) }))?.skipped);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Whether it was left out, because a norm was infinite or NaN and its stage says
    /// [`NonFinite::Skip`](crate::ops::NonFinite::Skip): nothing has moved.
    pub skipped: bool,
    /// How many leaves took the step: not those that are frozen or had no gradient.
    pub leaves: usize,
    /// What each clipping by the norm of all leaves measured and did, in the order of the chain.
    pub clips: Vec<Clipped>,
}

/// What clipping by a norm measured and did.
///
/// ```
/// use flatleaf::optim::{ClipNorm, Clipped, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(ClipNorm { max: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
/// let report = optimizer.update(&mut model, &[3.0_f32, 4.0])?;
/// assert_eq!(report.clips, [Clipped { norm: 5.0, scale: 0.2 }]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipped {
    /// The norm before.
    pub norm: f64,
    /// The factor that was applied, 1 where nothing changed. Groups with another maximum have
    /// another factor.
    pub scale: f64,
}

impl<R: Rule> Optimizer<R> {
    /// An optimiser at step 0, all its state zero.
    ///
    /// # Errors
    /// What the rule's [`validate`](Rule::validate) refuses; a kernel that uses more vectors than
    /// the rule names; no memory for a state vector of the layout's length.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// let optimizer = Optimizer::new(Adam::default(), &layout)?;
    /// assert_eq!(optimizer.state_of("exp_avg"), Some(&[0.0, 0.0][..]));
    ///
    /// let error = Optimizer::new(Adam { lr: -1.0, ..Default::default() }, &layout).unwrap_err();
    /// assert_eq!((error.is_argument(), error.path()), (true, Some("lr")));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn new(rule: R, layout: &Layout) -> Result<Self> {
        rule.validate()?;
        rule.check_states()?;
        let states = rule
            .states()
            .iter()
            .map(|_| memory::try_zeroed(layout.len()))
            .collect::<Result<_>>()?;
        Ok(Optimizer {
            layout: layout.clone(),
            groups: vec![rule],
            leaves: vec![LeafProgress::default(); layout.leaves().len()],
            states,
        })
    }

    /// Moves a flat vector by a flat gradient. Absent leaves, their state and their step counts
    /// stay as they are.
    ///
    /// # Errors
    /// A vector of another length, a gradient of another layout; an infinite or NaN norm where a
    /// stage says [`NonFinite::Error`](crate::ops::NonFinite::Error), with the leaf and the index
    /// of the first element at fault. Then nothing has moved.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// optimizer.step(&mut flat, &layout.gather_grad(&tree!({ "w": [2.0, 0.0] }))?)?;
    /// assert_eq!(flat, [0.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step(&mut self, flat: &mut [f32], grad: &FlatGrad) -> Result<Report> {
        self.layout.check_len("the flat vector", flat.len())?;
        self.layout.check_same(grad.layout())?;
        let plan = Plan::new(&self.layout, &self.leaves, |leaf| grad.is_present(leaf));
        let kernels = plan.kernels(&self.groups);
        let slices = || {
            plan.parts
                .iter()
                .map(|part| (&flat[part.range.clone()], &grad[part.range.clone()]))
                .collect()
        };
        let Some((measured, report)) =
            plan.measure(&self.layout, &self.states, &kernels, slices)?
        else {
            return Ok(Report::skipped());
        };
        let merged = measured
            .iter()
            .flatten()
            .all(Measured::is_global)
            .then(|| plan.merged_parts());
        let parts = merged.as_ref().unwrap_or(&plan.parts);
        pass::step(
            parts,
            slices_mut(flat, grad, parts),
            &mut self.states,
            &kernels,
            &measured,
        );
        drop(kernels);
        plan.count(&mut self.leaves);
        Ok(report)
    }

    /// Moves the leaves of a tree by a gradient tree, where they are: Optimisers.jl's `update!`. A
    /// tie's gradients are summed and it moves once. The gradient tree is matched as by
    /// [`Layout::gather_grad`]; nothing is gathered of plain trees.
    ///
    /// Gives the bits that [`step`](Optimizer::step) gives on the gathered vectors where leaves are
    /// `f32`; others are rounded by every update.
    ///
    /// # Errors
    /// As [`Layout::restructure_into`] for the model, as [`Layout::gather_grad`] for the gradient,
    /// and as [`step`](Optimizer::step). Then neither the model nor the state has moved, of trees
    /// that answer twice alike.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::Layout;
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let mut model = (shared.clone(), shared);
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &(vec![1.0_f32], vec![1.0_f32]))?;
    /// assert_eq!(*model.0, [0.0]); // once, by the sum
    /// assert!(Rc::ptr_eq(&model.0, &model.1));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update<T: Tree + ?Sized, G: Tree + ?Sized>(
        &mut self,
        model: &mut T,
        grads: &G,
    ) -> Result<Report> {
        self.update_with(model, grads, TiedGrads::Sum)
    }

    /// The same, where the gradients at the places of a tie may be its whole gradient already.
    ///
    /// # Errors
    /// As [`update`](Optimizer::update).
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let mut model = (shared.clone(), shared);
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
    /// let totals = (vec![1.0_f32], vec![1.0_f32]); // as candle and PyTorch give them
    /// optimizer.update_with(&mut model, &totals, TiedGrads::AlreadyTotal)?;
    /// assert_eq!(*model.0, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_with<T: Tree + ?Sized, G: Tree + ?Sized>(
        &mut self,
        model: &mut T,
        grads: &G,
        tied: TiedGrads,
    ) -> Result<Report> {
        let grads = leaf_slices::gradients(&self.layout, grads, tied)?;
        let plan = Plan::new(&self.layout, &self.leaves, |leaf| grads[leaf].is_some());
        let kernels = plan.kernels(&self.groups);
        let grad = |part: &Part| grads[part.leaf].as_deref().expect("it is present");
        let mut moves = vec![false; grads.len()];
        plan.parts.iter().for_each(|part| moves[part.leaf] = true);
        let (report, written) = leaf_slices::change(
            &self.layout,
            model,
            |leaf| moves[leaf],
            |mut leaves| {
                let slices = || {
                    plan.parts
                        .iter()
                        .map(|part| (&*leaves[part.leaf], grad(part)))
                        .collect()
                };
                let Some((measured, report)) =
                    plan.measure(&self.layout, &self.states, &kernels, slices)?
                else {
                    return Ok(Report::skipped());
                };
                let slices = plan
                    .parts
                    .iter()
                    .map(|part| (std::mem::take(&mut leaves[part.leaf]), grad(part)));
                pass::step(&plan.parts, slices, &mut self.states, &kernels, &measured);
                Ok(report)
            },
        )?;
        drop(kernels);
        if !report.skipped {
            plan.count(&mut self.leaves);
        }
        // A leaf that could not take its new elements does not undo the step of the others.
        written.map(|()| report)
    }
}

impl<R> fmt::Debug for Optimizer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Optimizer({} leaves, {} groups, {} state vectors)",
            self.leaves.len(),
            self.groups.len(),
            self.states.len()
        )
    }
}

impl Report {
    fn skipped() -> Self {
        Report {
            skipped: true,
            ..Report::default()
        }
    }
}

fn slices_mut<'v>(
    flat: &'v mut [f32],
    grad: &'v [f32],
    parts: &'v [Part],
) -> impl Iterator<Item = (&'v mut [f32], &'v [f32])> {
    let (mut rest, mut at) = (flat, 0);
    parts.iter().map(move |part| {
        let (x, after) =
            std::mem::take(&mut rest)[part.range.start - at..].split_at_mut(part.range.len());
        (rest, at) = (after, part.range.end);
        (x, &grad[part.range.clone()])
    })
}

/// What can be changed between two steps.
impl<R: Rule> Optimizer<R> {
    /// Leaves alone the leaves that a [path pattern](crate::Planner) matches, with their state and
    /// their step counts, until they are thawed. They do not count in a clip norm. The layout stays
    /// as it is.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0] } });
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
    /// optimizer.freeze("encoder.**")?;
    /// let report = optimizer.update(&mut model, &tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0] } }))?;
    /// assert_eq!((report.leaves, model), (1, tree!({ "encoder": { "w": [1.0] }, "head": { "w": [0.0] } })));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn freeze(&mut self, pattern: &str) -> Result<()> {
        self.layout
            .matching(pattern)?
            .into_iter()
            .for_each(|leaf| self.leaves[leaf].is_frozen = true);
        Ok(())
    }

    /// Moves the leaves that a [path pattern](crate::Planner) matches again, from the state in
    /// which they were frozen.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": { "w": [1.0], "b": [1.0] } }))?;
    /// let mut optimizer = Optimizer::new(Sgd::default(), &layout)?;
    /// optimizer.freeze("encoder.**")?;
    /// optimizer.thaw("**.b")?;
    /// assert_eq!(["encoder.w", "encoder.b"].map(|path| optimizer.is_frozen(path)), [Some(true), Some(false)]);
    /// assert!(optimizer.thaw("decoder.**").unwrap_err().is_pattern());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn thaw(&mut self, pattern: &str) -> Result<()> {
        self.layout
            .matching(pattern)?
            .into_iter()
            .for_each(|leaf| self.leaves[leaf].is_frozen = false);
        Ok(())
    }

    /// Sets the learning rate of every stage that has one, for all leaves, whatever
    /// [`adjust`](Optimizer::adjust) gave some of them. State is kept. (A schedule that keeps
    /// groups apart multiplies: `adjust("**", |rule| rule.lr *= 0.5)`, where `**` is the [path
    /// pattern](crate::Planner) of all leaves.)
    ///
    /// # Errors
    /// A rate that the rule refuses, a rule without a rate; then nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, ClipNorm, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0] }))?;
    /// let mut optimizer = Optimizer::new((ClipNorm::default(), Adam::default()), &layout)?;
    /// optimizer.set_lr(0.01)?;
    /// assert_eq!(optimizer.rule("w").unwrap().1.lr, 0.01);
    /// assert_eq!(optimizer.set_lr(-1.0).unwrap_err().path(), Some("lr"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let mut groups = self.groups.clone();
        for group in &mut groups {
            if !group.set_lr(lr) {
                return Err(Error::argument("a rule with a learning rate", "none").at("lr"));
            }
            group.validate()?;
        }
        self.groups = groups;
        Ok(())
    }

    /// Changes the configuration for the leaves that a [path pattern](crate::Planner) matches; `**`
    /// matches all. State and step counts are kept; what a configuration says only of the first
    /// step has been said.
    ///
    /// Leaves that get another configuration than others that they had one with are a group of
    /// their own from then on.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf, a configuration that the rule
    /// refuses; then nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": [1.0], "head": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Adam { lr: 1e-3, ..Default::default() }, &layout)?;
    /// optimizer.adjust("head", |adam| adam.lr = 1e-2)?;
    /// optimizer.adjust("**", |adam| adam.lr /= 10.0)?; // a schedule that keeps the groups
    /// assert_eq!(["encoder", "head"].map(|path| optimizer.rule(path).unwrap().lr), [1e-4, 1e-3]);
    /// assert!(optimizer.adjust("body", |_| ()).unwrap_err().is_pattern());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn adjust(&mut self, pattern: &str, mut change: impl FnMut(&mut R)) -> Result<()> {
        let matching = self.layout.matching(pattern)?;
        let (mut groups, mut leaves) = (self.groups.clone(), self.leaves.clone());
        for group in 0..self.groups.len() as u32 {
            let of_group = |leaf: &usize| self.leaves[*leaf].group == group;
            let matched: Vec<usize> = matching.iter().copied().filter(of_group).collect();
            if matched.is_empty() {
                continue;
            }
            let mut changed = self.groups[group as usize].clone();
            change(&mut changed);
            changed.validate()?;
            if matched.len() == (0..self.leaves.len()).filter(of_group).count() {
                groups[group as usize] = changed;
            } else {
                matched
                    .iter()
                    .for_each(|&leaf| leaves[leaf].group = groups.len() as u32);
                groups.push(changed);
            }
        }
        (self.groups, self.leaves) = (groups, leaves);
        Ok(())
    }
}

/// What can be seen.
impl<R: Rule> Optimizer<R> {
    /// The layout that it runs over.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &Layout::of(&tree!({ "w": [1.0, 2.0] }))?)?;
    /// let grad = FlatGrad::from_flat(optimizer.layout(), vec![2.0, 0.0])?; // a gradient that is a vector already
    /// let mut flat = [1.0, 2.0];
    /// optimizer.step(&mut flat, &grad)?;
    /// assert_eq!(flat, [0.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many steps the leaf with this path among its places has taken.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "encoder": [1.0], "head": [1.0] });
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "head": [1.0] }))?;
    /// assert_eq!(["encoder", "head", "body"].map(|path| optimizer.step_count(path)), [Some(0), Some(1), None]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step_count(&self, path: &str) -> Option<u64> {
        self.progress(path).map(|leaf| leaf.steps)
    }

    /// Whether the leaf with this path among its places is frozen here.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&tree!({ "encoder": [1.0], "head": [1.0] }))?)?;
    /// optimizer.freeze("encoder")?;
    /// assert_eq!(["encoder", "head", "body"].map(|path| optimizer.is_frozen(path)), [Some(true), Some(false), None]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_frozen(&self, path: &str) -> Option<bool> {
        self.progress(path).map(|leaf| leaf.is_frozen)
    }

    /// The configuration that the leaf with this path among its places moves by.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": [1.0], "head": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// optimizer.adjust("head", |sgd| sgd.momentum = 0.9)?;
    /// assert_eq!(["encoder", "head"].map(|path| optimizer.rule(path).unwrap().momentum), [0.0, 0.9]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn rule(&self, path: &str) -> Option<&R> {
        self.progress(path)
            .map(|leaf| &self.groups[leaf.group as usize])
    }

    /// The vectors that the rule keeps, each as long as the flat vector and in its order, with
    /// their names.
    ///
    /// ```
    /// use flatleaf::optim::{Ema, Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// let optimizer = Optimizer::new((Sgd::default(), Ema::default()), &layout)?;
    /// let state: Vec<(&str, &[f32])> = optimizer.state().collect();
    /// assert_eq!(state, [("momentum_buffer", &[0.0, 0.0][..]), ("average", &[0.0, 0.0])]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        self.groups[0]
            .states()
            .into_iter()
            .zip(self.states.iter().map(Vec::as_slice))
    }

    /// The vector of this name, the first if there are several.
    ///
    /// ```
    /// use flatleaf::optim::{Ema, Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0] });
    /// let mut optimizer = Optimizer::new((Sgd { lr: 0.5, ..Default::default() }, Ema::default()), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0] }))?;
    /// assert_eq!(optimizer.state_of("average"), Some(&[0.5][..]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn state_of(&self, name: &str) -> Option<&[f32]> {
        self.state()
            .find(|state| state.0 == name)
            .map(|state| state.1)
    }

    /// A copy of a flat vector in which the leaves that have taken a step are those of the state
    /// vector of this name, the first if there are several: the moving average of a whole model,
    /// with leaves that never moved, frozen or without gradients, as the model has them.
    ///
    /// # Errors
    /// A vector of another length; a name that no stage has.
    ///
    /// ```
    /// use flatleaf::optim::{Ema, Optimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let mut model = tree!({ "encoder": [7.0], "head": [1.0] });
    /// let (_, layout) = destructure(&model)?;
    /// let mut optimizer = Optimizer::new((Sgd { lr: 0.5, ..Default::default() }, Ema::default()), &layout)?;
    /// optimizer.freeze("encoder")?;
    /// optimizer.update(&mut model, &tree!({ "head": [1.0] }))?;
    ///
    /// assert_eq!(optimizer.state_of("average"), Some(&[0.0, 0.5][..]));
    /// let average = optimizer.state_over("average", &layout.gather(&model)?)?;
    /// assert_eq!(layout.restructure(&model, &average)?, tree!({ "encoder": [7.0], "head": [0.5] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn state_over(&self, name: &str, flat: &[f32]) -> Result<Vec<f32>> {
        self.layout.check_len("the flat vector", flat.len())?;
        let state = self.state_of(name).ok_or_else(|| {
            Error::argument("the name of a state vector", format_args!("`{name}`"))
        })?;
        let mut filled = flat.to_vec();
        let moved = self
            .layout
            .leaves()
            .iter()
            .zip(&self.leaves)
            .filter(|(_, progress)| progress.steps > 0);
        for range in moved.map(|(leaf, _)| leaf.range()) {
            filled[range.clone()].copy_from_slice(&state[range]);
        }
        Ok(filled)
    }

    fn progress(&self, path: &str) -> Option<&LeafProgress> {
        self.layout.index_of(path).map(|leaf| &self.leaves[leaf])
    }
}
