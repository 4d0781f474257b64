//! Who takes part in a step, at which step of their own, and what has to be measured before it.
//!
//! A stage may need a norm of the direction as it is in the middle of the chain, over one leaf or
//! over all, so it can scale no element before all elements have come as far. And if the norm is
//! not finite the step may be refused, when no stage may have changed its state. So every norm is
//! measured before anything is written, in a pass of its own for each, and then one pass moves
//! everything. An example: the chain
//!
//! ```text
//! (ClipNorm { max: 1 }, Sgd { lr: 1, momentum: 0.5 }, ClipNorm { max: 2 })
//! ```
//!
//! on two leaves, a = [0] and b = [0], with gradients 3 and 4 and a momentum buffer that holds 3
//! and 4 from steps before.
//!
//! 1. [`Plan::new`] lists the parts: both leaves, at the same step, so that they share one kernel.
//! 2. The kernel is scanned (`scan.rs`): it will ask for norm 0, of the gradient as it came, and
//!    for norm 1, of a direction that stages have changed. Each norm has its number in the chain.
//! 3. Norm 0 is of the gradient, so it is one read of it: 5. The report notes norm 5 and scale 0.2.
//! 4. Norm 1: each block of a leaf goes through the kernel on copies of its states (`loops.rs`).
//!    Norm 0 is known, so the first stage scales to 0.6 and 0.8; the second makes
//!    0.5·3 + 0.6 = 2.1 and 0.5·4 + 0.8 = 2.8 and writes the buffer's copy, which is dropped; the
//!    third finds norm 1 unknown and stops. What the rows hold then is measured: 3.5. The report
//!    notes norm 3.5 and scale 4/7.
//! 5. Had either norm been infinite or NaN, its stage's [`NonFinite`] would have ended the step
//!    here, with an error or skipped, and nothing would have been written.
//! 6. All norms are known: rows go through the whole chain once more, the buffer becomes 2.1 and
//!    2.8, and the parameters −1.2 and −1.6.
//!
//! Stages in front of a norm run once more for each norm behind them. What was tried in its place:
//! the stages up to the norm run for good, write the direction to a scratch vector, and the stages
//! behind go on from there. Nothing runs twice then, but the scratch vector is written and read
//! once more, and the states have been written when the norm turns out to be NaN: a refused step
//! would have to keep a copy of all of them. In loops of Lamb
//! alone, in turns, it was 1.1 to 1.35 times as fast as running twice; with spare states to write
//! to, so that a refused step can go back, 0.9 to 1.3 times on 16,000 elements to 25.6 million, for
//! twice the memory of the states. It was dropped: it would have stood beside the other way, which
//! needs no memory, and not in its place.
//!
//! A stage that changes the direction of a whole leaf ([`each_leaf`](super::each_leaf)) has a number
//! among the norms, and is found like the norm of a leaf: the stages in front of it run on copies,
//! and what is kept under its number is the changed direction, from which rows read their elements
//! when they come past.
//!
//! The scan, too, had another form: a kernel was run on a row of zeros to see where it would stop,
//! once after every norm. That compiled each chain one more time, and knew only the next norm.

use super::loops::{AnyKernel, Kernels};
use super::measure::{Measure, Measured};
use super::pass::{self, Measuring, Part, PartSlices, StateVectors};
use super::progress::{LeafProgress, Progress};
use super::report::{StepReport, clip, unreached};
use super::rule::{Groups, next_step};
use super::scan::{ChangeOfLeaf, ClipStage, Request, Scan, stricter};
use super::show::ShowParts;
use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::Layout;
use crate::ops::NonFinite;

/// The leaves that take part, and which of them are equally far.
pub(super) struct Plan {
    /// One for each leaf, in flat order.
    pub(super) parts: Vec<Part>,
    runs: Vec<Run>,
    /// Whether the gradient is that of a loss that was multiplied, which may have overflowed.
    pub(super) may_overflow: bool,
}

/// Neighbouring leaves of one configuration that are equally far, and of one shape if the rule sees
/// it: one kernel moves them.
struct Run {
    group: u32,
    /// The shape of each, if the rule sees it; empty otherwise.
    shape: Vec<usize>,
    /// Steps and counters of each.
    progress: Vec<f64>,
}

/// What runs the leaves of a run, and what it will ask for.
pub(super) struct Prepared<'p, E> {
    pub(super) kernels: Vec<Box<dyn AnyKernel<E> + 'p>>,
    /// How many norms a kernel may ask for.
    norms: usize,
    /// The step that the leaves of each kernel take.
    pub(super) steps: Vec<u64>,
    pub(super) scans: Vec<Scan<E>>,
    /// All clipping stages of the chain, in its order.
    clips: Vec<ClipStage>,
}

/// How far the leaves of every run are once the step has been taken: steps and counters of each.
pub(super) struct Advanced {
    counted: Vec<f64>,
}

impl<E: FlatElement> Prepared<'_, E> {
    /// Whether what is measured for one leaf depends on the others.
    pub(super) fn is_over_all_leaves(&self) -> bool {
        self.scans.iter().any(Scan::is_over_all_leaves)
    }
}

impl Plan {
    pub(super) fn new(
        layout: &Layout,
        progress: &Progress,
        sees_shape: bool,
        takes_part: impl Fn(usize) -> bool,
    ) -> Self {
        let mut plan = Plan {
            parts: Vec::with_capacity(progress.leaves.len()),
            runs: Vec::new(),
            may_overflow: false,
        };
        for (index, leaf) in layout.leaves().iter().enumerate() {
            let LeafProgress {
                group, is_frozen, ..
            } = progress.leaves[index];
            if is_frozen || !takes_part(index) {
                continue;
            }
            let counted = progress.of(index);
            let shape = if sees_shape { leaf.shape() } else { &[] };
            // Compared with the last run only: leaves that are equally far but not neighbours get
            // kernels of their own, which keeps planning linear in the leaves.
            let is_alike =
                |run: &Run| run.group == group && run.progress == counted && run.shape == shape;
            if !plan.runs.last().is_some_and(is_alike) {
                plan.runs.push(Run {
                    group,
                    shape: shape.to_vec(),
                    progress: counted.to_vec(),
                });
            }
            plan.parts.push(Part {
                range: leaf.range(),
                leaf: index,
                start: 0,
                kernel: plan.runs.len() - 1,
            });
        }
        plan
    }

    /// Whether each leaf takes part.
    pub(super) fn moving(&self, layout: &Layout) -> Vec<bool> {
        let mut moving = vec![false; layout.leaves().len()];
        self.parts.iter().for_each(|part| moving[part.leaf] = true);
        moving
    }

    /// The kernels of all runs.
    pub(super) fn prepare<'p, E: FlatElement>(
        &'p self,
        groups: &'p dyn Groups<E>,
    ) -> Prepared<'p, E> {
        let step = |run: &Run| next_step(run.progress[0]);
        let kernel = |run: &'p Run| {
            let group = run.group as usize;
            let counters = &run.progress[1..];
            groups.kernel(group, &run.shape, step(run), counters)
        };
        let kernels: Vec<_> = self.runs.iter().map(kernel).collect();
        let scans = kernels.iter().map(|kernel| scan(&**kernel));
        let scans: Vec<Scan<E>> = scans.collect();
        // The report has a place for every stage, even if no leaf takes part.
        // Options may differ from group to group, so their stages are put together.
        let counters = vec![0.0; groups.counters()];
        let first = groups.kernel(0, &[], 1, &counters);
        let mut clips = scan(&*first).clips().to_vec();
        clips.extend(scans.iter().flat_map(Scan::clips));
        clips.sort_unstable();
        clips.dedup();
        Prepared {
            norms: first.norms(),
            kernels,
            steps: self.runs.iter().map(step).collect(),
            scans,
            clips,
        }
    }

    /// A number that two plans have in common if they measure, change and move the same leaves at
    /// the same steps, and most likely not otherwise.
    pub(super) fn fingerprint<E>(&self, prepared: &Prepared<'_, E>) -> u64
    where
        E: FlatElement,
    {
        let mut hash = 0_u64;
        // A multiplication a number: a plan has two for each of maybe 10,000 leaves.
        let mut number = |number: u64| {
            const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
            hash = (hash ^ number).wrapping_mul(ODD).rotate_left(29);
        };
        for part in &self.parts {
            number(part.leaf as u64);
            number(part.kernel as u64);
        }
        for (run, scan) in self.runs.iter().zip(&prepared.scans) {
            for counted in &run.progress {
                number(counted.to_bits());
            }
            scan.tell(&mut number);
        }
        hash
    }

    /// How far the leaves of every run are after this step, as their rules say.
    pub(super) fn advanced<E>(&self, groups: &dyn Groups<E>) -> Advanced {
        let mut counted = Vec::new();
        // Once a run and not once a leaf.
        for run in &self.runs {
            let start = counted.len();
            counted.extend_from_slice(&run.progress);
            let progress = &mut counted[start..];
            let step = next_step(progress[0]);
            progress[0] = step as f64;
            groups.advance(run.group as usize, step, &mut progress[1..]);
        }
        Advanced { counted }
    }

    /// Measures all that the stages need to know before the step, and says what the step will do.
    ///
    /// # Errors
    /// A norm that is infinite or NaN, of a stage that will not have it; a change of a whole leaf
    /// that fails.
    pub(super) fn measure<E: FlatElement>(
        &self,
        layout: &Layout,
        states: StateVectors<'_, E>,
        prepared: &Prepared<'_, E>,
        shown: &mut dyn ShowParts<E>,
    ) -> Result<(Vec<Option<Measured<E>>>, StepReport)> {
        let norms = 0..prepared.norms;
        let nothing = norms.clone().map(|_| None);
        let mut measured: Vec<Option<Measured<E>>> = nothing.collect();
        let mut report = self.report(layout, prepared);
        let overflow_shows_in = match self.may_overflow {
            true => self.first_norm_of_gradient(prepared),
            false => None,
        };
        if self.may_overflow && overflow_shows_in.is_none() {
            let totals = self.totals_of_gradient(states, prepared, shown)?;
            if let Some(leaf) = self.overflow(&totals) {
                return Ok((measured, report.skip_for(leaf)));
            }
        }
        if !prepared.scans.iter().any(Scan::asks_for_anything) {
            return Ok((measured, report));
        }
        // In the order of the chain: a norm further behind is of a direction that those in front of
        // it have scaled already.
        for norm in norms {
            let so_far = (norm, &measured[..]);
            let changed = self.change_leaves(layout, states, prepared, so_far, shown)?;
            if let Some(directions) = changed {
                measured[norm] = Some(directions);
                continue;
            }
            let requests = requests_for(&prepared.scans, norm);
            if requests.iter().all(Option::is_none) {
                continue;
            }
            let kernels: &Kernels<'_, E> = &prepared.kernels;
            let parts = self.parts.len();
            let measuring = Measuring::of(parts, states, kernels, &requests, &measured);
            let totals = shown.totals(&self.parts, measuring, &requests)?;
            if overflow_shows_in == Some(norm)
                && let Some(leaf) = self.overflow(&totals)
            {
                let norms = self.norms(layout, &requests, &totals);
                prepared.note(&mut report, norm, &self.parts, &requests, &norms);
                return Ok((measured, report.skip_for(leaf)));
            }
            let goes_on = self.goes_on(layout, &requests, &totals, shown)?;
            let norms: Measured<E> = self.norms(layout, &requests, &totals);
            prepared.note(&mut report, norm, &self.parts, &requests, &norms);
            // The report has the norm for which the step is skipped.
            if !goes_on {
                return Ok((measured, report.skip()));
            }
            measured[norm] = Some(norms);
        }
        Ok((measured, report))
    }

    /// The norm that is measured first, if it is that of the gradient as it came, at every leaf: it
    /// tells whether the gradient has overflowed.
    fn first_norm_of_gradient<E>(&self, prepared: &Prepared<'_, E>) -> Option<usize>
    where
        E: FlatElement,
    {
        let scans = &prepared.scans;
        let asks = |scan: &Scan<E>, norm: usize| {
            scan.request_for(norm).is_some() || scan.change_for(norm).is_some()
        };
        let is_asked_for = |norm: &usize| scans.iter().any(|scan| asks(scan, *norm));
        let first = (0..prepared.norms).find(is_asked_for)?;
        let is_of_gradient = |scan: &Scan<E>| {
            let Some(request) = scan.request_for(first) else {
                return false;
            };
            // Of an order above 0, so that one infinite element makes it infinite.
            request.is_of_gradient && request.measure.p > 0.0
        };
        scans.iter().all(is_of_gradient).then_some(first)
    }

    /// What every part adds to the norm of the gradient as it came.
    ///
    /// # Errors
    /// Another member of the run.
    fn totals_of_gradient<E: FlatElement>(
        &self,
        states: StateVectors<'_, E>,
        prepared: &Prepared<'_, E>,
        shown: &mut dyn ShowParts<E>,
    ) -> Result<Vec<[f64; 2]>> {
        let requests = vec![Some(Request::of_gradient()); prepared.scans.len()];
        let parts = self.parts.len();
        let kernels: &Kernels<'_, E> = &prepared.kernels;
        let measuring = Measuring::of(parts, states, kernels, &requests, &[]);
        shown.totals(&self.parts, measuring, &requests)
    }

    /// The first leaf whose gradient is infinite or NaN.
    fn overflow(&self, totals: &[[f64; 2]]) -> Option<usize> {
        let mut of_gradient = totals.iter().map(|[_, of_gradient]| of_gradient);
        let part = of_gradient.position(|total| !total.is_finite())?;
        Some(self.parts[part].leaf)
    }

    /// Changes the directions of whole leaves, of those whose kernels ask for it by this number;
    /// `None` if none does.
    ///
    /// # Errors
    /// The first leaf whose change fails, or for whose direction there is no memory.
    fn change_leaves<E: FlatElement>(
        &self,
        layout: &Layout,
        states: StateVectors<'_, E>,
        prepared: &Prepared<'_, E>,
        (number, measured): (usize, &[Option<Measured<E>>]),
        shown: &mut dyn ShowParts<E>,
    ) -> Result<Option<Measured<E>>> {
        let scans = prepared.scans.iter();
        let changes = scans.map(|scan| scan.change_for(number));
        let changes: Vec<Option<&ChangeOfLeaf<E>>> = changes.collect();
        if changes.iter().all(Option::is_none) {
            return Ok(None);
        }
        let leaves = layout.leaves();
        let mut directions = vec![Vec::new(); leaves.len()];
        let is_changed = |part: &Part| changes[part.kernel].is_some();
        let mut change = |parts: &[Part], slices: &[PartSlices<'_, E>]| {
            for (part, slices) in parts.iter().zip(slices) {
                let Some(change) = changes[part.kernel] else {
                    continue;
                };
                let kernel = &*prepared.kernels[part.kernel];
                let changed = pass::change_leaf(part, *slices, states, (kernel, change), measured);
                let path = leaves[part.leaf].path();
                directions[part.leaf] = changed.map_err(|error| error.at(path))?;
            }
            Ok(())
        };
        let changed = shown.show(&self.parts, &is_changed, &mut change);
        shown.agree(changed)?;
        Ok(Some(Measured::Directions(directions)))
    }

    fn report<E>(&self, layout: &Layout, prepared: &Prepared<'_, E>) -> StepReport
    where
        E: FlatElement,
    {
        let is_held = |part: &&Part| prepared.scans[part.kernel].is_held_back();
        let held_back = self.parts.iter().filter(is_held).count();
        let clips = prepared.clips.iter();
        let global = clips.filter(|stage| stage.is_global).count();
        let by_leaf = prepared.clips.len() - global;
        let leaves = layout.leaves().len();
        StepReport {
            skipped: false,
            overflow: None,
            leaves: self.parts.len() - held_back,
            held_back,
            clips: vec![unreached(); global],
            leaf_clips: vec![vec![None; leaves]; by_leaf],
        }
    }

    /// The norms, of what every part adds to them.
    fn norms<E: FlatElement>(
        &self,
        layout: &Layout,
        requests: &[Option<Request>],
        totals: &[[f64; 2]],
    ) -> Measured<E> {
        if let Some(measure) = global(requests) {
            // In the order of the parts, so that the bits do not depend on the threads.
            let mut sum = [0.0; 2];
            for total in totals {
                sum = measure.merge::<E>(sum, *total);
            }
            return Measured::Global(measure.norms::<E>(sum));
        }
        let mut leaves = vec![[0.0; 2]; layout.leaves().len()];
        for (part, total) in self.parts.iter().zip(totals) {
            if let Some(request) = requests[part.kernel] {
                leaves[part.leaf] = request.measure.norms::<E>(*total);
            }
        }
        Measured::Leaves(leaves)
    }

    /// Whether the step is taken, as the stages say that ask for a norm, each of its leaves.
    ///
    /// # Errors
    /// The first leaf whose norm is infinite or NaN, and whose stage will not have it.
    fn goes_on<E: FlatElement>(
        &self,
        layout: &Layout,
        requests: &[Option<Request>],
        totals: &[[f64; 2]],
        shown: &mut dyn ShowParts<E>,
    ) -> Result<bool> {
        let mut goes_on = true;
        for (index, part) in self.parts.iter().enumerate() {
            let Some(request) = requests[part.kernel] else {
                continue;
            };
            // The direction's total and not the parameters': these were bad before this step.
            if totals[index][1].is_finite() {
                continue;
            }
            match request.measure.non_finite {
                NonFinite::Error => {
                    let path = layout.leaves()[part.leaf].path();
                    let error = shown.at_fault(part)?;
                    return Err(error.at(path));
                }
                NonFinite::Skip => goes_on = false,
                NonFinite::Propagate => {}
            }
        }
        Ok(goes_on)
    }
}

impl<E: FlatElement> Prepared<'_, E> {
    /// Counts the step of a part, which has been taken.
    pub(super) fn count(&self, part: &Part, advanced: &Advanced, progress: &mut Progress) {
        let Part { leaf, kernel, .. } = *part;
        let own = progress.of_mut(leaf);
        let width = own.len();
        let start = kernel * width;
        let counted = &advanced.counted[start..][..width];
        own.copy_from_slice(counted);
        // What is held back has seen a gradient, but has not moved.
        if !self.scans[kernel].is_held_back() {
            let steps = &mut progress.leaves[leaf].steps;
            *steps = steps.saturating_add(1);
        }
    }

    /// Notes in the report what a clipping stage measured.
    fn note(
        &self,
        report: &mut StepReport,
        norm: usize,
        parts: &[Part],
        requests: &[Option<Request>],
        measured: &Measured<E>,
    ) {
        let Some(stage) = self.clips.iter().find(|stage| stage.norm == norm) else {
            return;
        };
        let alike = |other: &&ClipStage| other.is_global == stage.is_global && other.norm < norm;
        let place = self.clips.iter().filter(alike).count();
        let clip_at = |leaf: usize, request: &Request| {
            let max = request.measure.max?;
            Some(clip(measured.at(leaf)[1], max))
        };
        if stage.is_global {
            let first = requests.iter().flatten().next();
            let clip = first.and_then(|request| clip_at(0, request));
            report.clips[place] = clip.unwrap_or_else(unreached);
            return;
        }
        let clips = &mut report.leaf_clips[place];
        for part in parts {
            let request = requests[part.kernel].as_ref();
            clips[part.leaf] = request.and_then(|request| clip_at(part.leaf, request));
        }
    }
}

fn scan<E: FlatElement>(kernel: &dyn AnyKernel<E>) -> Scan<E> {
    let mut scan = Scan::new();
    kernel.scan(&mut scan);
    scan
}

/// What each kernel asks for by this number. Of a norm over all leaves there is one measure, the
/// first group's, with the strictest group's answer to what is not finite.
fn requests_for<E>(scans: &[Scan<E>], norm: usize) -> Vec<Option<Request>>
where
    E: FlatElement,
{
    let requests = scans.iter().map(|scan| scan.request_for(norm));
    let mut requests: Vec<Option<Request>> = requests.collect();
    let Some(mut common) = global(&requests) else {
        return requests;
    };
    let answers = requests.iter().flatten();
    let answers = answers.map(|request| request.measure.non_finite);
    common.non_finite = answers.fold(NonFinite::Propagate, stricter);
    for request in requests.iter_mut().flatten() {
        request.measure = common;
    }
    requests
}

/// The measure of a norm over all leaves; `None` if it is one of each leaf.
fn global(requests: &[Option<Request>]) -> Option<Measure> {
    let first = requests.iter().flatten().next()?;
    Some(first.measure).filter(|measure| measure.is_global)
}
