//! The step of an optimiser, with its rule behind `dyn`.
//!
//! A rule's type is known in the crate that names it, so whatever is generic over it is compiled
//! there, at every build. A step is much code: it walks two trees, plans, measures, shares the work
//! among threads and says what is wrong. Of all that only the loops of the kernel know the rule
//! ([`AnyKernel`](super::loops::AnyKernel)), and only what it counts its configuration
//! ([`Groups`]). The rest is here, for both types of elements, and a user's crate calls it by
//! [`steps`]. The page on design says what that is worth.

use std::ops::Range;

use super::along::WalkedParts;
use super::gradient::Gradient;
use super::loss_scale::unscale;
use super::packed::Form;
use super::part_gradient::PartGradient;
use super::pass::{self, Part, StateVectors, StatesInOrder};
use super::plan::Plan;
use super::progress::Progress;
use super::report::StepReport;
use super::rule::Groups;
use super::sharded::intersection;
use super::show::{AllParts, LentParts};
use super::states::KeptStates;
use super::storage::Storage;
use crate::element::{FlatElement, PerElement};
use crate::error::{Error, Findings, Result};
use crate::layout::Layout;
use crate::memory;
use crate::slices::FloatsMut;
use crate::traversal::leaf_slices;
use crate::traversal::place_elements::PlaceElements;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// An optimiser, whatever its rule.
pub(super) struct AnyOptimizer<'o, E> {
    pub(super) layout: &'o Layout,
    pub(super) groups: &'o dyn Groups<E>,
    pub(super) progress: &'o mut Progress,
    pub(super) range: &'o Range<usize>,
    pub(super) states: &'o mut KeptStates<E>,
    pub(super) denies_absent: bool,
    /// What the loss was multiplied with of which a gradient is, if that may have overflowed.
    pub(super) loss_scale: Option<f64>,
}

/// Lends a leaf to be moved.
pub(super) type Lend<'l, E> = &'l mut dyn FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>;

/// Goes through the leaves, to be moved.
pub(super) type Walk<'w, E> = &'w mut dyn FnMut(&mut dyn FnMut(usize, &mut [E])) -> Result<()>;

/// What is done with an optimiser of any rule; its methods are those of
/// [`Optimizer`](super::Optimizer) that have the same names.
pub(super) trait Steps<E>: Sync {
    fn step(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        flat: &mut [E],
        grad: Gradient<'_, E>,
    ) -> Result<StepReport>;

    fn flush(&self, optimizer: AnyOptimizer<'_, E>, flat: &mut [E]) -> Result<StepReport>;

    fn update(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
        grads: &dyn Tree,
        tied: TiedGrads,
    ) -> Result<StepReport>;

    fn update_with_master(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
        master: &mut [E],
        grads: &dyn Tree,
    ) -> Result<StepReport>;

    fn flush_tree(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
    ) -> Result<StepReport>;

    fn update_each(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        grads: &[Option<&[E]>],
        lend: Lend<'_, E>,
    ) -> Result<StepReport>;

    fn flush_each(&self, optimizer: AnyOptimizer<'_, E>, lend: Lend<'_, E>) -> Result<StepReport>;

    fn update_along(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        grads: &[Option<&[E]>],
        walk: Walk<'_, E>,
    ) -> Result<StepReport>;

    /// The state vectors at step 0.
    fn zeroed_states(
        &self,
        layout: &Layout,
        range: &Range<usize>,
        forms: &[Form],
        storage: Storage,
    ) -> Result<KeptStates<E>>;
}

/// The steps of optimisers of such elements, as they are compiled in this crate.
pub(super) fn steps<E: FlatElement>() -> &'static dyn Steps<E> {
    struct OfElement;

    impl PerElement for OfElement {
        type Of<E: FlatElement> = &'static dyn Steps<E>;
    }

    E::choose::<OfElement>((OF_F32, OF_F64))
}

// Statics and no constants: code that a constant refers to is compiled by whoever names it.
static OF_F32: &dyn Steps<f32> = &Compiled;
static OF_F64: &dyn Steps<f64> = &Compiled;

struct Compiled;

impl<E: FlatElement> Steps<E> for Compiled {
    fn step(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        flat: &mut [E],
        grad: Gradient<'_, E>,
    ) -> Result<StepReport> {
        optimizer.check_is_whole()?;
        optimizer.layout.check_len("the flat vector", flat.len())?;
        grad.check(optimizer.layout)?;
        optimizer.check_absent(|leaf| grad.is_present(leaf))?;
        let plan = optimizer.plan(|leaf| grad.is_present(leaf));
        let grad = grad.elements().times(optimizer.unscale());
        optimizer.move_flat(plan, flat, grad)
    }

    fn flush(&self, optimizer: AnyOptimizer<'_, E>, flat: &mut [E]) -> Result<StepReport> {
        optimizer.check_is_whole()?;
        optimizer.layout.check_len("the flat vector", flat.len())?;
        let plan = optimizer.plan_flush();
        // There is no gradient: what stages hold goes on as if zeros had come.
        let none = memory::try_zeroed(optimizer.layout.len())?;
        optimizer.move_flat(plan, flat, PartGradient::of(&none))
    }

    fn update(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
        grads: &dyn Tree,
        tied: TiedGrads,
    ) -> Result<StepReport> {
        let (grads, plan) = optimizer.plan_of_tree(grads, tied)?;
        let unscale = optimizer.unscale();
        let gradient_of = |part: &Part| as_it_came(part, &grads).times(unscale);
        optimizer.move_tree(plan, model, gradient_of)
    }

    fn update_with_master(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
        master: &mut [E],
        grads: &dyn Tree,
    ) -> Result<StepReport> {
        let layout = optimizer.layout;
        layout.check_len("the master vector", master.len())?;
        let (grads, plan) = optimizer.plan_of_tree(grads, TiedGrads::Sum)?;
        let unscale = optimizer.unscale();
        let gradient_of = |part: &Part| as_it_came(part, &grads).times(unscale);
        let moving = plan.moving(layout);
        // A plain model is written piece by piece, as the master vector moves.
        if let Some(leaves) = leaf_slices::borrow_all_as_they_are(layout, model) {
            let leaves = leaves.into_iter().zip(&moving);
            let written = leaves.filter_map(|(leaf, moves)| moves.then_some(leaf));
            let written: Vec<FloatsMut<'_>> = written.collect();
            return optimizer.move_master(plan, master, gradient_of, written);
        }
        let parts = plan.parts.clone();
        let change = |mut leaves: Vec<&mut [E]>| {
            let report = optimizer.move_master(plan, master, gradient_of, Vec::new())?;
            if !report.skipped {
                for part in &parts {
                    let moved = &master[part.range.clone()];
                    leaves[part.leaf].copy_from_slice(moved);
                }
            }
            Ok(report)
        };
        let is_wanted = |leaf: usize| moving[leaf];
        let (report, written) = leaf_slices::change(layout, model, is_wanted, change)?;
        written.map(|()| report)
    }

    fn flush_tree(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        model: &mut dyn Tree,
    ) -> Result<StepReport> {
        optimizer.check_is_whole()?;
        let plan = optimizer.plan_flush();
        let none = optimizer.no_gradient()?;
        optimizer.move_tree(plan, model, |part| zeros_of(part, &none))
    }

    fn update_each(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        grads: &[Option<&[E]>],
        lend: Lend<'_, E>,
    ) -> Result<StepReport> {
        let plan = optimizer.plan_of_slices(grads)?;
        let unscale = optimizer.unscale();
        let gradient_of = |part: &Part| slice_of(part, grads).times(unscale);
        optimizer.move_each(plan, gradient_of, lend)
    }

    fn flush_each(&self, optimizer: AnyOptimizer<'_, E>, lend: Lend<'_, E>) -> Result<StepReport> {
        optimizer.check_is_whole()?;
        let plan = optimizer.plan_flush();
        let none = optimizer.no_gradient()?;
        optimizer.move_each(plan, |part| zeros_of(part, &none), lend)
    }

    fn update_along(
        &self,
        optimizer: AnyOptimizer<'_, E>,
        grads: &[Option<&[E]>],
        walk: Walk<'_, E>,
    ) -> Result<StepReport> {
        let plan = optimizer.plan_of_slices(grads)?;
        let unscale = optimizer.unscale();
        let gradient_of = |part: &Part| slice_of(part, grads).times(unscale);
        optimizer.move_along(plan, &gradient_of, walk)
    }

    fn zeroed_states(
        &self,
        layout: &Layout,
        range: &Range<usize>,
        forms: &[Form],
        storage: Storage,
    ) -> Result<KeptStates<E>> {
        let kept = layout.leaves().iter();
        let kept = kept.map(|leaf| intersection(&leaf.range(), range).len());
        KeptStates::try_zeroed(forms, storage, kept)
    }
}

impl<E: FlatElement> AnyOptimizer<'_, E> {
    fn state_vectors(&self) -> StateVectors<'_, E> {
        StateVectors {
            states: self.states,
            start: 0,
        }
    }

    /// A gradient of zeros for the longest leaf.
    fn no_gradient(&self) -> Result<Vec<E>> {
        // A gradient is only read, so the zeros of the longest leaf serve all of them.
        let lengths = self.layout.leaves().iter().map(|leaf| leaf.len());
        memory::try_zeroed(lengths.max().unwrap_or(0))
    }

    fn check_is_whole(&self) -> Result<()> {
        check_is_whole(self.layout, self.range)
    }

    pub(super) fn check_absent(&self, is_present: impl Fn(usize) -> bool) -> Result<()> {
        if !self.denies_absent {
            return Ok(());
        }
        let mut findings = Findings::default();
        for (index, leaf) in self.layout.leaves().iter().enumerate() {
            if !self.progress.leaves[index].is_frozen && !is_present(index) {
                findings.add(Error::missing(leaf.path().to_owned(), "a gradient".into()));
            }
        }
        findings.into_result()
    }

    fn check_gradients(&self, grads: &[Option<&[E]>]) -> Result<()> {
        let leaves = self.layout.leaves();
        let count = leaves.len();
        if grads.len() != count {
            let expected = format!("one gradient for each of {count} leaves");
            return Err(Error::argument(&expected, grads.len()));
        }
        let mut findings = Findings::default();
        for (leaf, grad) in leaves.iter().zip(grads) {
            let Some(grad) = grad else {
                continue;
            };
            let len = leaf.len();
            if grad.len() != len {
                let error = Error::length("the gradient", len, grad.len());
                findings.add(error.at(leaf.path()));
            }
        }
        findings.into_result()
    }

    /// The gradients of a tree, as they come, and the plan for them.
    fn plan_of_tree<'g>(
        &self,
        grads: &'g dyn Tree,
        tied: TiedGrads,
    ) -> Result<(Vec<Option<PlaceElements<'g, E>>>, Plan)> {
        self.check_is_whole()?;
        let grads = leaf_slices::gradients_as_they_come(self.layout, grads, tied)?;
        self.check_absent(|leaf| grads[leaf].is_some())?;
        let plan = self.plan(|leaf| grads[leaf].is_some());
        Ok((grads, plan))
    }

    /// For gradients that are a slice for each leaf, once they are checked.
    fn plan_of_slices(&self, grads: &[Option<&[E]>]) -> Result<Plan> {
        self.check_is_whole()?;
        self.check_gradients(grads)?;
        let is_present = |leaf: usize| grads[leaf].is_some();
        self.check_absent(is_present)?;
        Ok(self.plan(is_present))
    }

    pub(super) fn plan(&self, takes_part: impl Fn(usize) -> bool) -> Plan {
        let sees_shape = self.groups.sees_shape();
        let mut plan = Plan::new(self.layout, self.progress, sees_shape, takes_part);
        plan.may_overflow = self.loss_scale.is_some();
        plan
    }

    /// What the gradient is to be multiplied with to be that of the loss itself.
    fn unscale(&self) -> Option<E> {
        unscale(self.loss_scale)
    }

    /// The leaves of which a stage holds gradients back, marked so that it hands them on.
    pub(super) fn plan_flush(&self) -> Plan {
        // On a copy: if the flush is refused, nobody has begun one.
        let mut marked = self.progress.clone();
        let mut holds = vec![false; self.layout.leaves().len()];
        for (leaf, holds) in holds.iter_mut().enumerate() {
            let group = marked.leaves[leaf].group as usize;
            let counters = &mut marked.of_mut(leaf)[1..];
            *holds = self.groups.begin_flush(group, counters) == Some(true);
        }
        let sees_shape = self.groups.sees_shape();
        Plan::new(self.layout, &marked, sees_shape, |leaf| holds[leaf])
    }

    fn move_flat(
        self,
        plan: Plan,
        flat: &mut [E],
        grad: PartGradient<'_, E>,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(self.groups);
        let of_part = |part: &Part| (&flat[part.range.clone()], grad.slice(part.range.clone()));
        let mut shown = AllParts::of(of_part);
        let (measured, report) =
            plan.measure(self.layout, self.state_vectors(), &prepared, &mut shown)?;
        if report.skipped {
            return Ok(report);
        }
        // What stages will count is found before anything moves, since a rule's own code may panic.
        let advanced = plan.advanced(self.groups);
        let states = StatesInOrder::of(self.states, 0, &prepared.steps);
        let parts = &plan.parts;
        let kernels = &prepared.kernels;
        pass::step_flat(parts, flat, grad, states, kernels, &measured);
        for part in &plan.parts {
            prepared.count(part, &advanced, self.progress);
        }
        Ok(report)
    }

    fn move_tree<'g>(
        self,
        plan: Plan,
        model: &mut dyn Tree,
        grad: impl Fn(&Part) -> PartGradient<'g, E>,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(self.groups);
        let layout = self.layout;
        let moving = plan.moving(layout);
        let change = |mut leaves: Vec<&mut [E]>| {
            let of_part = |part: &Part| (&*leaves[part.leaf], grad(part));
            let mut shown = AllParts::of(of_part);
            let states = self.state_vectors();
            let (measured, report) = plan.measure(layout, states, &prepared, &mut shown)?;
            if report.skipped {
                return Ok((report, None));
            }
            let advanced = plan.advanced(self.groups);
            // Every leaf has one part at most, so its slice can leave the list.
            let take = |part: &Part| {
                let x = std::mem::take(&mut leaves[part.leaf]);
                (x, grad(part))
            };
            let slices = plan.parts.iter().map(take);
            let kernels = &prepared.kernels;
            let states = StatesInOrder::of(self.states, 0, &prepared.steps);
            pass::step(&plan.parts, slices, states, kernels, &measured);
            Ok((report, Some(advanced)))
        };
        let is_wanted = |leaf: usize| moving[leaf];
        let (moved, written) = leaf_slices::change(layout, model, is_wanted, change)?;
        let (report, advanced) = moved;
        let Some(advanced) = advanced else {
            return Ok(report);
        };
        // The state has moved, so the step counts, also if a leaf could not take its new elements:
        // taken again, the gradient would be in the state twice.
        for part in &plan.parts {
            prepared.count(part, &advanced, self.progress);
        }
        written.map(|()| report)
    }

    /// Moves the flat vector, and writes every part that has moved to where it is wanted: to one place
    /// for each part, or to none.
    fn move_master<'g>(
        self,
        plan: Plan,
        master: &mut [E],
        gradient_of: impl Fn(&Part) -> PartGradient<'g, E>,
        written: Vec<FloatsMut<'_>>,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(self.groups);
        let of_part = |part: &Part| {
            let x = &master[part.range.clone()];
            (x, gradient_of(part))
        };
        let mut shown = AllParts::of(of_part);
        let states = self.state_vectors();
        let (measured, report) = plan.measure(self.layout, states, &prepared, &mut shown)?;
        if report.skipped {
            return Ok(report);
        }
        let advanced = plan.advanced(self.groups);
        let states = StatesInOrder::of(self.states, 0, &prepared.steps);
        let gradients = plan.parts.iter();
        let gradients = gradients.map(|part| -> PartGradient<'_, E> { gradient_of(part) });
        let slices = pass::slices_mut(master, &plan.parts).zip(gradients);
        let parts = &plan.parts;
        let kernels = &prepared.kernels;
        pass::step_and_write(parts, slices, written, states, kernels, &measured);
        for part in &plan.parts {
            prepared.count(part, &advanced, self.progress);
        }
        Ok(report)
    }

    fn move_each<'g>(
        self,
        plan: Plan,
        gradient_of: impl Fn(&Part) -> PartGradient<'g, E>,
        lend: Lend<'_, E>,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(self.groups);
        let mut lent = LentParts {
            layout: self.layout,
            gradient_of,
            lend,
        };
        let (measured, report) =
            plan.measure(self.layout, self.state_vectors(), &prepared, &mut lent)?;
        if report.skipped {
            return Ok(report);
        }
        let advanced = plan.advanced(self.groups);
        let progress = self.progress;
        let mut states = StatesInOrder::of(self.states, 0, &prepared.steps);
        let mut findings = Findings::default();
        for part in &plan.parts {
            let mut states = states.next(part);
            // Counted leaf by leaf, so that a count goes with its state even if `lend` panics.
            let (has_moved, answer) = lent.lend(part, |x, grad| {
                pass::step_part(part, (x, grad), &mut states, &prepared.kernels, &measured);
                prepared.count(part, &advanced, progress);
            });
            // The others move all the same: a step that half of the model has taken is no step.
            if let Err(error) = answer {
                let first = findings.is_empty();
                findings.add(error.in_a_step(has_moved, first));
            }
        }
        findings.into_result().map(|()| report)
    }

    fn move_along<'g>(
        self,
        plan: Plan,
        gradient_of: &dyn Fn(&Part) -> PartGradient<'g, E>,
        walk: Walk<'_, E>,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(self.groups);
        let mut walked = WalkedParts {
            layout: self.layout,
            gradient_of,
            walk,
        };
        let (measured, report) =
            plan.measure(self.layout, self.state_vectors(), &prepared, &mut walked)?;
        if report.skipped {
            return Ok(report);
        }
        let advanced = plan.advanced(self.groups);
        let progress = self.progress;
        let mut states = StatesInOrder::of(self.states, 0, &prepared.steps);
        let (answer, faults) = walked.walk(&plan.parts, &mut |part, x, grad| {
            let mut states = states.next(part);
            pass::step_part(part, (x, grad), &mut states, &prepared.kernels, &measured);
            // Counted leaf by leaf, so that a count goes with its state even if `walk` panics.
            prepared.count(part, &advanced, progress);
        });
        let mut findings = Findings::default();
        for (index, fault) in faults.into_iter().enumerate() {
            findings.add(fault.error.in_a_step(fault.has_moved, index == 0));
        }
        if let Err(error) = answer {
            findings.add(error);
        }
        findings.into_result().map(|()| report)
    }
}

/// The gradient of a leaf, of those of a tree.
fn as_it_came<'g, E: FlatElement>(
    part: &Part,
    grads: &'g [Option<PlaceElements<'_, E>>],
) -> PartGradient<'g, E> {
    let gradient = grads[part.leaf].as_ref().expect("it is present");
    PartGradient::of_floats(gradient.floats())
}

/// The gradient of a leaf, of those that are slices.
fn slice_of<'g, E>(part: &Part, grads: &[Option<&'g [E]>]) -> PartGradient<'g, E>
where
    E: FlatElement,
{
    PartGradient::of(grads[part.leaf].expect("it is present"))
}

/// Zeros as the gradient of a leaf, of those of the longest.
fn zeros_of<'g, E: FlatElement>(part: &Part, zeros: &'g [E]) -> PartGradient<'g, E> {
    PartGradient::of(&zeros[..part.range.len()])
}

/// # Errors
/// It keeps the state of some elements only, so that it takes no step without other members.
pub(super) fn check_is_whole(layout: &Layout, range: &Range<usize>) -> Result<()> {
    if *range == (0..layout.len()) {
        return Ok(());
    }
    let expected = "an optimiser that keeps the state of the whole flat vector";
    let Range { start, end } = range;
    let found =
        format!("that of elements {start}..{end} (`step_with` takes the step of all members)");
    Err(Error::argument(expected, found))
}
