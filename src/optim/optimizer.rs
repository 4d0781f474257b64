//! The optimiser: a rule, what it keeps, and which leaf has taken how many steps by which
//! configuration of it.

use std::fmt;
use std::ops::Range;

use super::any_optimizer::{AnyOptimizer, check_is_whole, steps};
use super::carried::Carried;
use super::gradient::Gradient;
use super::packed::Form;
use super::pass::StateVectors;
use super::plan::Plan;
use super::progress::{LeafProgress, Progress};
use super::report::StepReport;
use super::rule::{Rule, RuleFor, StageState};
use super::states::KeptStates;
use super::storage::Storage;
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::{Object, Tree};

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
/// assert_eq!((report.clips[0].norm_before, report.clips[0].scale), (5.0, 0.2));
/// assert_eq!((optimizer.step_count("encoder"), optimizer.step_count("head")), (Some(0), Some(1)));
///
/// optimizer.adjust("head", |(_, adamw, _)| adamw.lr = 0.01)?; // a group of its own
/// optimizer.freeze("enc*")?;
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone)]
pub struct Optimizer<R, E = f32> {
    pub(super) layout: Layout,
    /// The configurations: the first is the one it was made with, further ones come of
    /// [`Optimizer::adjust`].
    pub(super) groups: Vec<R>,
    /// How many leaves each configuration has; counted again when it is not as long as they are.
    pub(super) group_sizes: Vec<usize>,
    pub(super) progress: Progress,
    /// Which elements of the flat vector the states are of: all, but on a member of a sharded run.
    pub(super) range: Range<usize>,
    pub(super) states: KeptStates<E>,
    pub(super) denies_absent: bool,
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
        Optimizer::new_as(rule, layout)
    }

    /// An optimiser of vectors of another element type, at step 0, all its state zero: of `f64`
    /// where a computation is `f64` throughout. The type may also come from where the optimiser
    /// goes, `let optimizer: Optimizer<_, f64> = …`.
    ///
    /// Settings are `f64` either way; in vectors of `f64` they are not rounded. What
    /// [`new`](Optimizer::new) refuses of them for `f32` is refused here too.
    ///
    /// # Errors
    /// `is_argument`: what the rule's [`validate`](Rule::validate) refuses; a kernel that uses more
    /// vectors than the rule names. `is_out_of_memory`: no memory for a state vector of the layout's
    /// length.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
    /// use flatleaf::{destructure_as, Layout};
    ///
    /// let (mut flat, layout) = destructure_as::<f64>(&vec![1.0_f64, 2.0])?;
    /// let rule = (ClipNorm::default(), AdamW::default());
    /// let mut optimizer = Optimizer::new_as::<f64>(rule, &layout)?;
    /// optimizer.step(&mut flat, &[0.3, -0.4])?;
    /// let moments: &[f64] = optimizer.state_of("exp_avg").unwrap();
    /// assert!((moments[0] - 0.03).abs() < 1e-16);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn new_as<E: FlatElement>(rule: R, layout: &Layout) -> Result<Optimizer<R, E>>
    where
        R: RuleFor<E>,
    {
        Optimizer::with_range(rule, layout, 0..layout.len())
    }
}

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// An optimiser that keeps the state of some elements, at step 0.
    pub(super) fn with_range(rule: R, layout: &Layout, range: Range<usize>) -> Result<Self> {
        let forms = vec![Form::Full; rule.states().len()];
        Optimizer::with_forms(rule, layout, range, (&forms, Storage::Full))
    }

    /// So too, that keeps each of its vectors in a form of its own.
    pub(super) fn with_forms(
        rule: R,
        layout: &Layout,
        range: Range<usize>,
        (forms, storage): (&[Form], Storage),
    ) -> Result<Self> {
        rule.validate()?;
        rule.check_kernel()?;
        let states = steps().zeroed_states(layout, &range, forms, storage)?;
        let leaves = layout.leaves().len();
        Ok(Optimizer {
            layout: layout.clone(),
            progress: Progress::new(leaves, rule.counters().len()),
            // All leaves are one group, until one of them is adjusted.
            groups: vec![rule],
            group_sizes: vec![leaves],
            range,
            states,
            denies_absent: false,
        })
    }

    /// Moves a flat vector by a flat gradient: a [`FlatGrad`](crate::FlatGrad), or a slice, of which
    /// all leaves count as present. Absent leaves, their state and their step counts stay as they
    /// are.
    ///
    /// # Errors
    /// `is_length`: the vector or the slice is not as long as the layout. `is_other_layout`: the
    /// gradient is of another one. `is_non_finite`, with the leaf and the index of the first element
    /// at fault: a norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_missing`: a leaf is absent after
    /// [`deny_absent`](Optimizer::deny_absent). Then nothing has moved.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// optimizer.step(&mut flat, &layout.gather_grad(&tree!({ "w": [2.0, 0.0] }))?)?;
    /// assert_eq!(flat, [0.0, 2.0]);
    /// optimizer.step(&mut flat, &[0.0, 2.0])?; // a gradient that a solver made
    /// assert_eq!(flat, [0.0, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step<'g>(
        &mut self,
        flat: &mut [E],
        grad: impl Into<Gradient<'g, E>>,
    ) -> Result<StepReport> {
        steps().step(self.any(), flat, grad.into())
    }

    /// Ends the windows of an [`Accumulate`](super::Accumulate) early, as after the last batch of an
    /// epoch: leaves of which it holds gradients take a step by the mean of what it holds. Leaves of
    /// which it holds none, and frozen ones, stay. In a chain with several, the first one's windows
    /// end, and the next takes the mean as one gradient. A stage in front of it takes a step by a
    /// gradient of zero.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_non_finite`: a norm behind it is
    /// infinite or NaN, and its stage says [`NonFinite::Error`](crate::ops::NonFinite::Error).
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut flat = [0.0_f32];
    /// let rule = (Accumulate { steps: 4 }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, &Layout::of(&flat)?)?;
    /// optimizer.step(&mut flat, &[1.0])?;
    /// optimizer.step(&mut flat, &[2.0])?;
    /// assert_eq!(optimizer.flush(&mut flat)?.leaves, 1);
    /// assert_eq!(flat, [-1.5]);
    /// assert_eq!(optimizer.flush(&mut flat)?.leaves, 0); // nothing is held any more
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flush(&mut self, flat: &mut [E]) -> Result<StepReport> {
        steps().flush(self.any(), flat)
    }

    /// Ends the windows of an [`Accumulate`](super::Accumulate) early, as
    /// [`flush`](Optimizer::flush) does, and moves the leaves of a tree where they are.
    ///
    /// # Errors
    /// Those of a model in [`update`](Optimizer::update), and `is_non_finite`: a norm behind the
    /// stage is infinite or NaN, and its stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error).
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!([0.0]);
    /// let rule = (Accumulate { steps: 4 }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!([3.0]))?;
    /// optimizer.flush_tree(&mut model)?;
    /// assert_eq!(model, tree!([-3.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flush_tree<T>(&mut self, mut model: &mut T) -> Result<StepReport>
    where
        T: Tree + ?Sized,
    {
        steps().flush_tree(self.any(), &mut model)
    }

    /// Moves the leaves of a tree by a gradient tree, where they are: Optimisers.jl's `update!`. A
    /// tie's gradients are summed and it moves once. The gradient tree is matched as by
    /// [`Layout::gather_grad`]; nothing is gathered of plain trees.
    ///
    /// Gives the bits that [`step`](Optimizer::step) gives on the gathered vectors where leaves are
    /// `f32`; others are rounded by every update.
    ///
    /// # Errors
    /// `is_shape`, `is_missing`, `is_unknown`, `is_element_type`: the model is not the layout's, or
    /// the gradient has a leaf that the model has not, or one of another shape. `is_non_finite`: a
    /// norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_missing`: a leaf has no gradient after
    /// [`deny_absent`](Optimizer::deny_absent). Then neither the model nor the state has moved, of
    /// trees that answer twice alike.
    ///
    /// A leaf that is written through a callback may fail when all has been checked and moved. Then
    /// the step has been taken and is counted; the error names the leaf, which is as it was, and
    /// says what else is.
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
    pub fn update<T, G>(&mut self, model: &mut T, grads: &G) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        self.update_with(model, grads, TiedGrads::Sum)
    }

    /// Moves the leaves of a tree by a gradient tree whose places of a tie hold its whole gradient
    /// already ([`TiedGrads::AlreadyTotal`]), as candle and PyTorch give them, or a part of it
    /// ([`TiedGrads::Sum`]), which is what [`update`](Optimizer::update) takes them for.
    ///
    /// # Errors
    /// Those of [`update`](Optimizer::update): of the model, of the gradient, and of norms that are
    /// not finite.
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
    pub fn update_with<T, G>(
        &mut self,
        mut model: &mut T,
        grads: &G,
        tied: TiedGrads,
    ) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        // A reference to a tree is a tree whose size is known, as `dyn` wants it.
        steps().update(self.any(), &mut model, &Object(grads), tied)
    }

    /// It without the type of its rule.
    pub(super) fn any(&mut self) -> AnyOptimizer<'_, E> {
        AnyOptimizer {
            layout: &self.layout,
            groups: &self.groups,
            progress: &mut self.progress,
            range: &self.range,
            states: &mut self.states,
            loss_scale: None,
            denies_absent: self.denies_absent,
        }
    }

    pub(super) fn state_vectors(&self) -> StateVectors<'_, E> {
        StateVectors {
            states: &self.states,
            start: self.range.start,
        }
    }
}

impl<R, E> fmt::Debug for Optimizer<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Optimizer({} leaves, {} groups, {} state vectors)",
            self.progress.leaves.len(),
            self.groups.len(),
            self.states.vectors.len()
        )
    }
}

/// What can be seen.
impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
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

    /// How many steps have moved the leaf with this path among its places: not those that it was
    /// frozen for, had no gradient for, or was held back at. `None` if there is no such leaf.
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
        self.progress_at(path).map(|leaf| leaf.steps)
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
        self.progress_at(path).map(|leaf| leaf.is_frozen)
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
        self.progress_at(path)
            .map(|leaf| &self.groups[leaf.group as usize])
    }

    /// Whether a stage measures all leaves together, as [`ClipNorm`](super::ClipNorm) and
    /// [`scale_by_global_norm`](super::scale_by_global_norm) do, so that how a leaf moves depends on
    /// the others; one that no gradient reaches yet, behind [`Accumulate`](super::Accumulate), too.
    ///
    /// For whoever is shown one parameter at a time and has an optimiser for each: there such a rule
    /// would measure one leaf alone and say nothing. Asked of the next step of all leaves.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, ClipNorm, ClipNormPerLeaf, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// let together = Optimizer::new((ClipNorm::default(), AdamW::default()), &layout)?;
    /// let each_alone = Optimizer::new((ClipNormPerLeaf::default(), AdamW::default()), &layout)?;
    /// assert_eq!([together.measures_all_leaves(), each_alone.measures_all_leaves()], [true, false]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn measures_all_leaves(&self) -> bool {
        let plan = Plan::new(
            &self.layout,
            &self.progress,
            self.groups[0].sees_shape(),
            |_| true,
        );
        plan.prepare::<E>(&self.groups).is_over_all_leaves()
    }

    /// The vectors that the rule keeps, each as long as the flat vector and in its order, with
    /// their names; of an optimiser [of a range](Optimizer::of_range) as long as that.
    ///
    /// # Panics
    /// At a vector that is kept in [fewer bytes](super::Storage), of which there is no slice:
    /// [`state_to_vec`](Optimizer::state_to_vec) copies any.
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
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &[E])> {
        let names = self.groups[0].states().into_iter().enumerate();
        names.map(|(vector, name)| {
            // There is no place for an error, and to leave the vector out would be silent.
            let Some(elements) = self.states.full(vector) else {
                let storage = self.states.storage;
                panic!(
                    "expected a state vector that is kept full, found `{name}` in {storage:?} \
                     (`state_to_vec` copies it)"
                );
            };
            (name, elements)
        })
    }

    /// The vector of this name, the first if there are several. `None` if there is none, or if it is
    /// kept in [fewer bytes](super::Storage), so that there is no slice of it:
    /// [`storage_of`](Optimizer::storage_of) tells which, and
    /// [`state_to_vec`](Optimizer::state_to_vec) copies any.
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
    pub fn state_of(&self, name: &str) -> Option<&[E]> {
        self.states.full(self.index_of_state(name)?)
    }

    /// A copy of a flat vector in which the leaves whose state of this name has been set are those of
    /// the state vector, the first if there are several: the moving average of a whole model, with
    /// leaves that have none, since they never moved or were held back so far, as the model has
    /// them.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_argument`: no stage has a state of
    /// this name.
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
    pub fn state_over(&self, name: &str, flat: &[E]) -> Result<Vec<E>> {
        self.layout.check_len("the flat vector", flat.len())?;
        check_is_whole(&self.layout, &self.range)?;
        let vector = self.index_of_state(name).ok_or_else(|| {
            Error::argument("the name of a state vector", format_args!("`{name}`"))
        })?;
        // A leaf that never took a step has no average: its own value stands for it.
        let mut filled = flat.to_vec();
        for leaf in self.leaves_kept() {
            if self.has_state(leaf.leaf, name) {
                let to = &mut filled[leaf.range.clone()];
                self.states.lent(vector).read(&leaf, to);
            }
        }
        Ok(filled)
    }

    /// Whether the first stage with a state vector of this name has written to it.
    fn has_state(&self, leaf: usize, name: &str) -> bool {
        let mut has_state = None;
        let mut look_at = |stage: StageState<'_>| {
            // Stages may keep vectors of one name; the first is the one that the name means.
            if stage.vectors.contains(&name) {
                has_state.get_or_insert(stage.has_state);
            }
        };
        let rule = &self.groups[self.progress.leaves[leaf].group as usize];
        // Of a copy: stages may change what they count, and this only asks.
        rule.for_each_stage(&mut self.progress.of(leaf).to_vec(), &mut look_at);
        has_state == Some(true)
    }

    /// Sets how far a leaf is, of what was counted of it by a rule, this one or another.
    pub(super) fn restore(
        &mut self,
        leaf: usize,
        progress: LeafProgress,
        (counted, carried): (&[f64], &Carried),
    ) {
        self.progress.leaves[leaf] = progress;
        carried.count(counted, progress.steps, self.progress.of_mut(leaf));
    }

    fn progress_at(&self, path: &str) -> Option<&LeafProgress> {
        let leaf = self.layout.index_of(path)?;
        Some(&self.progress.leaves[leaf])
    }
}
