//! A step that the members of a run take together: each with the state of all elements, or each
//! with the state of its own range (ZeRO, Rajbhandari et al. 2020, stage 1).
//!
//! What two members exchange in a sharded step of `(ClipNorm, AdamW)`, member 0 keeping elements
//! 0..4 and member 1 elements 4..6:
//!
//! 1. They meet ([`meet`]): one exchange of nine numbers a member says what is wrong on any of
//!    them, how much each one's gradient counts, whether a leaf is absent somewhere, which range
//!    each keeps, and whether layouts, steps and settings are alike. What follows depends on these
//!    numbers alone, which all have, so that either all of them go on or none.
//! 2. Only if a leaf is absent somewhere, one number a leaf says on how many members it is there.
//! 3. Gradients are summed: member 0 gets the sums of 0..4, member 1 those of 4..6, and divides
//!    them by the sum of the weights.
//! 4. The norm. Each member measures what it has of each leaf, in the pieces that one alone would
//!    measure: shards are cut nowhere else. A vector with a place for every piece is summed, each
//!    place having one member that adds something and others that add 0, which is exact. All merge
//!    the pieces in the order of one alone, so the norm is the same bits. A rule without norms
//!    exchanges nothing here.
//! 5. If the norm is not finite, all refuse or skip the step: none has moved.
//! 6. Each moves its own range and its state, and gives the range to all.

use std::ops::Range;

use super::loss_scale::unscale;
use super::optimizer::Optimizer;
use super::part_gradient::PartGradient;
use super::pass::{self, Measuring, Part, PartSlices, StatesInOrder, pieces_of};
use super::plan::{Plan, Prepared};
use super::report::StepReport;
use super::rule::Rule;
use super::scan::Request;
use super::sharded::parts_within;
use super::show::{See, ShowParts, non_finite};
use crate::communicator::{
    Communicator, NORM_PIECE, check_together, check_total, check_weight, divide, failure_told,
    halves, message_of, weigh, whole,
};
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::memory;
use crate::ops;

impl<R: Rule> Optimizer<R> {
    /// Moves a flat vector that all members of a run have by the mean of their gradients, as
    /// [`step`](Optimizer::step) would by that mean; all members call it.
    ///
    /// If every member's optimiser keeps the whole state, each takes the whole step. If each was
    /// made [of a range](Optimizer::of_range), and the ranges follow each other by rank and are the
    /// whole vector together, each moves its range and gives it to the others. Both give the same
    /// bits, on any number of members. A member sends about twice the vector, less its share,
    /// either way.
    ///
    /// A leaf that is absent on some members has the mean of the others' gradients and zeros; one
    /// that is absent on all is absent. What `grad` holds afterwards is the mean where this member
    /// moved, and anything elsewhere: gather the next gradient into it.
    ///
    /// # Errors
    /// On all members, before anything has moved: what [`step`](Optimizer::step) refuses on any of
    /// them, `is_member` where another one is the reason; `is_non_finite`, which names the member
    /// that keeps the element; `is_other_layout`, `is_member`: members with other layouts, other
    /// settings or at other steps; `is_argument`: ranges that are not the vector together, or one
    /// that cuts a leaf which the rule changes as a whole
    /// ([`shards_of_whole_leaves`](Layout::shards_of_whole_leaves) does not). Learning rates, norms
    /// to clip at, what is frozen and step counts are compared, other settings are not.
    ///
    /// What the communicator returns: then members may have come differently far, and the run is
    /// over.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
    /// use flatleaf::{destructure, tree, Communicator, Result, Threads};
    ///
    /// let train = |member: &mut Threads, is_sharded: bool| -> Result<Vec<f32>> {
    ///     let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    ///     let rule = (ClipNorm::default(), AdamW::default());
    ///     let range = if is_sharded { layout.shards(member.size())[member.rank()].clone() } else { 0..3 };
    ///     let mut optimizer = Optimizer::of_range(rule, &layout, range)?;
    ///     for _ in 0..3 {
    ///         let mut grad = layout.gather_grad(&tree!({ "w": [1.0, -1.0], "b": (vec![member.rank() as f32]) }))?;
    ///         optimizer.step_with(member, &mut flat, &mut grad)?;
    ///     }
    ///     Ok(flat)
    /// };
    /// let sharded = Threads::run(2, |member| train(member, true).unwrap());
    /// let replicated = Threads::run(2, |member| train(member, false).unwrap());
    /// assert!(sharded.iter().chain(&replicated).all(|flat| *flat == sharded[0]));
    /// ```
    pub fn step_with(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        grad: &mut FlatGrad,
    ) -> Result<StepReport> {
        self.step_weighted_with(communicator, flat, grad, 1.0)
    }

    /// Moves a flat vector that all members of a run have by the weighted mean of their gradients,
    /// `Σ weight · gradient / Σ weight`, as [`step_with`](Optimizer::step_with) does by the mean.
    ///
    /// A weight is the number of examples that a member's gradient is of, say. One with a weight of
    /// 0 takes part in the exchanges and its gradient does not, whatever it holds: so a member that
    /// has run out of data goes on to call it.
    ///
    /// # Errors
    /// Those of [`step_with`](Optimizer::step_with): before anything has moved, what any member
    /// refuses; and `is_argument`: a weight that is negative or not finite, or 0 on all members.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{destructure, tree, Communicator, FlatGrad, Result, Threads};
    ///
    /// let ends = Threads::run(3, |member| -> Result<f32> {
    ///     let (mut flat, layout) = destructure(&tree!([0.0]))?;
    ///     let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout)?;
    ///     let (weight, x) = [(3.0, 1.0), (1.0, 5.0), (0.0, f32::NAN)][member.rank()];
    ///     let mut grad = FlatGrad::from_flat(&layout, vec![x])?;
    ///     optimizer.step_weighted_with(member, &mut flat, &mut grad, weight)?;
    ///     Ok(flat[0])
    /// });
    /// assert!(ends.into_iter().all(|x| x.unwrap() == -2.0)); // (3 · 1 + 1 · 5) / 4
    /// ```
    pub fn step_weighted_with(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        grad: &mut FlatGrad,
        weight: f64,
    ) -> Result<StepReport> {
        self.step_members(communicator, flat, grad, (weight, None))
    }

    /// Takes the step, of gradients of a loss that was multiplied with a scale or not.
    pub(super) fn step_members(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        grad: &mut FlatGrad,
        (weight, loss_scale): (f64, Option<f64>),
    ) -> Result<StepReport> {
        let checked = self.check_own(flat, Some(grad), weight);
        let plan = self.any().plan(|_| true);
        let counts = checked.is_ok() && weight > 0.0;
        let lacks_leaf = counts && plan.parts.iter().any(|part| !grad.is_present(part.leaf));
        let said = self.said(&plan, (weight, lacks_leaf), loss_scale);
        let met = meet(communicator, &self.layout, said, checked)?;

        let leaves = self.layout.leaves().len();
        let mut plan = match met.lacks_leaf {
            false => plan,
            true => {
                // A sum of ones counts the members on which a leaf is there.
                let one_if_here = |leaf| match counts && grad.is_present(leaf) {
                    true => 1.0,
                    false => 0.0,
                };
                let mut members: Vec<f64> = (0..leaves).map(one_if_here).collect();
                communicator.all_reduce(&mut members)?;
                let is_present = |leaf: usize| members[leaf] > 0.0;
                // Alike on all members, as what is frozen and whether absence is denied is.
                self.any().check_absent(is_present)?;
                self.any().plan(is_present)
            }
        };
        mean(communicator, grad.elements_mut(), weight, &met)?;
        if met.lacks_leaf || !counts {
            let is_present = plan.moving(&self.layout);
            let all = self.any().plan(|_| true);
            for part in all.parts {
                grad.set_present(part.leaf, is_present[part.leaf]);
            }
        }
        plan.may_overflow = loss_scale.is_some();
        let grad = PartGradient::of(grad).times(unscale(loss_scale));
        self.move_with(communicator, plan, flat, grad, &met)
    }

    /// Ends the windows of an [`Accumulate`](super::Accumulate) early on all members of a run, as
    /// [`flush`](Optimizer::flush) does on one; all members call it.
    ///
    /// # Errors
    /// Those of [`step_with`](Optimizer::step_with), but of gradients: on all members, before
    /// anything has moved.
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
    /// use flatleaf::{Alone, FlatGrad, Layout};
    ///
    /// let mut flat = [0.0_f32];
    /// let layout = Layout::of(&flat)?;
    /// let rule = (Accumulate { steps: 4 }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, &layout)?;
    /// optimizer.step_with(&mut Alone, &mut flat, &mut FlatGrad::from_flat(&layout, vec![3.0])?)?;
    /// assert_eq!(optimizer.flush_with(&mut Alone, &mut flat)?.leaves, 1);
    /// assert_eq!(flat, [-3.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flush_with(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
    ) -> Result<StepReport> {
        let none = memory::try_zeroed(self.layout.len());
        let checked = self.check_own(flat, None, 1.0);
        let (none, checked) = match none {
            Ok(none) => (none, checked),
            Err(error) => (Vec::new(), checked.and(Err(error))),
        };
        let plan = self.any().plan_flush();
        let said = self.said(&plan, (1.0, false), None);
        let met = meet(communicator, &self.layout, said, checked)?;
        self.move_with(communicator, plan, flat, PartGradient::of(&none), &met)
    }

    /// What this member alone can find wrong.
    fn check_own(&self, flat: &[f32], grad: Option<&FlatGrad>, weight: f64) -> Result<()> {
        self.layout.check_len("the flat vector", flat.len())?;
        if let Some(grad) = grad {
            self.layout.check_same(grad.layout())?;
        }
        check_weight(weight)
    }

    fn said(
        &self,
        plan: &Plan,
        (weight, lacks_leaf): (f64, bool),
        loss_scale: Option<f64>,
    ) -> Said {
        let prepared = plan.prepare::<f32>(&self.groups);
        let mut settings = plan.fingerprint(&prepared);
        settings ^= self.states.storage.fingerprint();
        // Members whose losses have other scales would add up gradients of other sizes.
        let rates = self.groups.iter().filter_map(Rule::lr);
        for rate in rates.chain(loss_scale) {
            settings = settings.rotate_left(7) ^ rate.to_bits();
        }
        Said {
            message: 0,
            // Of a weight that is wrong there is a message.
            weight: if weight.is_finite() { weight } else { 0.0 },
            lacks_leaf,
            range: self.range.clone(),
            layout: self.layout.fingerprint(),
            settings: settings.rotate_left(1) ^ u64::from(self.denies_absent),
        }
    }

    fn move_with(
        &mut self,
        communicator: &mut impl Communicator,
        plan: Plan,
        flat: &mut [f32],
        grad: PartGradient<'_, f32>,
        met: &Met,
    ) -> Result<StepReport> {
        let prepared = plan.prepare(&self.groups);
        check_uncut(&self.layout, &plan, &prepared, met)?;
        let own = match met.is_sharded {
            true => parts_within(&plan.parts, &self.range),
            false => plan.parts.clone(),
        };
        let mut shown = OwnParts {
            communicator: &mut *communicator,
            own: &own,
            is_sharded: met.is_sharded,
            flat,
            grad,
        };
        let states = self.state_vectors();
        let (measured, report) = plan.measure(&self.layout, states, &prepared, &mut shown)?;
        if report.skipped {
            return Ok(report);
        }
        let advanced = plan.advanced::<f32>(&self.groups);
        let states = StatesInOrder::of(&mut self.states, self.range.start, &prepared.steps);
        pass::step_flat(&own, flat, grad, states, &prepared.kernels, &measured);
        for part in &plan.parts {
            prepared.count(part, &advanced, &mut self.progress);
        }
        if met.is_sharded {
            communicator.all_gather(flat, &met.ranges)?;
        }
        Ok(report)
    }
}

/// What a member says before a step.
struct Said {
    /// The length of its error's message, 0 if it has none.
    message: usize,
    weight: f64,
    /// Whether a leaf that moves has no gradient here.
    lacks_leaf: bool,
    range: Range<usize>,
    /// Fingerprints of the layout, and of what it will do.
    layout: u64,
    settings: u64,
}

/// How many numbers a member says it in.
const NUMBERS: usize = 9;

impl Said {
    /// As numbers that an f64 holds exactly: lengths are below 2⁵³, fingerprints go in halves.
    fn numbers(&self) -> [f64; NUMBERS] {
        let [layout_high, layout_low] = halves(self.layout);
        let [settings_high, settings_low] = halves(self.settings);
        [
            self.message as f64,
            self.weight,
            f64::from(u8::from(self.lacks_leaf)),
            self.range.start as f64,
            self.range.end as f64,
            layout_high,
            layout_low,
            settings_high,
            settings_low,
        ]
    }

    fn of_numbers(numbers: &[f64]) -> Self {
        Said {
            message: numbers[0] as usize,
            weight: numbers[1],
            lacks_leaf: numbers[2] > 0.0,
            range: numbers[3] as usize..numbers[4] as usize,
            layout: whole([numbers[5], numbers[6]]),
            settings: whole([numbers[7], numbers[8]]),
        }
    }
}

/// What all members know after they have met.
struct Met {
    /// The sum of the weights.
    weight: f64,
    /// Whether a leaf is absent on some member that counts.
    lacks_leaf: bool,
    /// By rank.
    ranges: Vec<Range<usize>>,
    is_sharded: bool,
}

/// All members say what they have and hear what the others have; nobody has an error, or all have.
///
/// # Errors
/// The member's own, or another one's; members that do not fit together.
fn meet<C: Communicator>(
    communicator: &mut C,
    layout: &Layout,
    said: Said,
    checked: Result<()>,
) -> Result<Met> {
    let own = checked.err();
    let message = message_of(own.as_ref());
    let said = Said {
        message: message.len(),
        ..said
    };
    let mut numbers = vec![0.0; NUMBERS * communicator.size()];
    let at = NUMBERS * communicator.rank();
    numbers[at..][..NUMBERS].copy_from_slice(&said.numbers());
    communicator.all_reduce(&mut numbers)?;
    let members = numbers.chunks_exact(NUMBERS);
    let all: Vec<Said> = members.map(Said::of_numbers).collect();

    let lengths = all.iter().map(|said| said.message as f64);
    let lengths: Vec<f64> = lengths.collect();
    if let Some(error) = failure_told(communicator, &lengths, &message, own)? {
        return Err(error);
    }
    // From here on every member finds the same.
    let first = &all[0];
    let has_other_layout = |said: &Said| said.layout != first.layout;
    if let Some(rank) = all.iter().position(has_other_layout) {
        let found = all[rank].layout;
        return Err(Error::layout_of_member(rank, first.layout, found));
    }
    let has_other_settings = |said: &Said| said.settings != first.settings;
    if let Some(rank) = all.iter().position(has_other_settings) {
        let found = "its optimiser is at other steps or has other settings than that of member 0";
        return Err(Error::member(rank, found));
    }
    let weight = all.iter().map(|said| said.weight).sum();
    check_total(weight)?;
    let lacks_leaf = all.iter().any(|said| said.lacks_leaf);
    let ranges: Vec<Range<usize>> = all.into_iter().map(|said| said.range).collect();
    let is_whole = |range: &Range<usize>| *range == (0..layout.len());
    let is_sharded = !ranges.iter().all(is_whole);
    if is_sharded {
        check_together(&ranges, layout.len())?;
    }
    Ok(Met {
        weight,
        lacks_leaf,
        ranges,
        is_sharded,
    })
}

/// The weighted mean of the members' gradients, with the bits of [`Communicator::mean`]: of the own
/// range if the run is sharded, otherwise of all.
fn mean<C: Communicator>(
    communicator: &mut C,
    grad: &mut [f32],
    weight: f64,
    met: &Met,
) -> Result<()> {
    weigh(grad, weight);
    let own = match met.is_sharded {
        true => {
            communicator.reduce_scatter(grad, &met.ranges)?;
            met.ranges[communicator.rank()].clone()
        }
        false => {
            communicator.sum(grad)?;
            0..grad.len()
        }
    };
    divide(&mut grad[own], met.weight);
    Ok(())
}

/// No leaf that is changed as a whole is kept by two members.
fn check_uncut(
    layout: &Layout,
    plan: &Plan,
    prepared: &Prepared<'_, f32>,
    met: &Met,
) -> Result<()> {
    if !met.is_sharded {
        return Ok(());
    }
    for part in &plan.parts {
        if !prepared.scans[part.kernel].changes_leaf() {
            continue;
        }
        let leaf = &part.range;
        let mut cuts = met.ranges.iter().map(|range| range.end);
        let is_inside = |cut: &usize| leaf.start < *cut && *cut < leaf.end;
        if let Some(cut) = cuts.find(is_inside) {
            let expected = "one member to keep a leaf whose direction is changed as a whole \
                            (`Layout::shards_of_whole_leaves` cuts none)";
            let found = format!("its elements {leaf:?} cut at {cut}");
            let path = layout.leaves()[part.leaf].path();
            return Err(Error::argument(expected, found).at(path));
        }
    }
    Ok(())
}

/// What a member shows of the parts: its own, and of the others what they measured.
struct OwnParts<'s, C> {
    communicator: &'s mut C,
    own: &'s [Part],
    is_sharded: bool,
    flat: &'s [f32],
    grad: PartGradient<'s, f32>,
}

impl<C: Communicator> OwnParts<'_, C> {
    fn slices(&self) -> Vec<PartSlices<'_, f32>> {
        let of_part = |part: &Part| {
            let range = &part.range;
            let x = &self.flat[range.clone()];
            let grad = self.grad.slice(range.clone());
            (x, grad)
        };
        self.own.iter().map(of_part).collect()
    }

    /// The place in its leaf and the value of the first such element that this member keeps.
    fn first_non_finite(&self, part: &Part) -> Option<(usize, f32)> {
        let own = self.own.iter().find(|own| own.leaf == part.leaf)?;
        let grad = self.grad.slice(own.range.clone()).all();
        let index = ops::first_non_finite(&grad)?;
        Some((own.start + index, grad[index]))
    }
}

impl<C: Communicator> ShowParts<f32> for OwnParts<'_, C> {
    fn show(&mut self, _: &[Part], _: &dyn Fn(&Part) -> bool, see: See<'_, f32>) -> Result<()> {
        see(self.own, &self.slices())
    }

    fn totals(
        &mut self,
        parts: &[Part],
        mut measuring: Measuring<'_, f32>,
        _: &[Option<Request>],
    ) -> Result<Vec<[f64; 2]>> {
        if !self.is_sharded {
            measuring.add(parts, &self.slices());
            return Ok(measuring.totals());
        }
        // A place for every piece of every part; here what this member keeps.
        let pieces = parts.iter().map(|part| pieces_of(part.range.len()));
        let mut all = vec![0.0; 2 * pieces.sum::<usize>()];
        let mut measured = measuring.of_pieces(self.own, &self.slices());
        let mut own = self.own.iter().peekable();
        let mut first = 0;
        for part in parts {
            if let Some(own) = own.next_if(|own| own.leaf == part.leaf) {
                let start = first + own.start / NORM_PIECE;
                let places = all.chunks_exact_mut(2).skip(start);
                let count = pieces_of(own.range.len());
                for (place, total) in places.zip(measured.by_ref().take(count)) {
                    place.copy_from_slice(&total);
                }
            }
            first += pieces_of(part.range.len());
        }
        self.communicator.all_reduce(&mut all)?;
        let (totals, _) = all.as_chunks::<2>();
        let mut totals = totals.iter().copied();
        let merge = |part: &Part| {
            let count = pieces_of(part.range.len());
            let pieces = totals.by_ref().take(count);
            measuring.merged(part, pieces)
        };
        Ok(parts.iter().map(merge).collect())
    }

    fn at_fault(&mut self, part: &Part) -> Result<Error> {
        if !self.is_sharded {
            return Ok(non_finite(self.grad.slice(part.range.clone())));
        }
        // Only who keeps an element knows it, and all are to say the same.
        let mut told = vec![0.0; 3 * self.communicator.size()];
        if let Some((index, element)) = self.first_non_finite(part) {
            let place = &mut told[3 * self.communicator.rank()..][..3];
            let bits = f64::from(element.to_bits());
            place.copy_from_slice(&[1.0, index as f64, bits]);
        }
        self.communicator.all_reduce(&mut told)?;
        // Ranges are in the order of the ranks, so the first that tells has the first element.
        let (members, _) = told.as_chunks::<3>();
        let tells = |[found, ..]: &[f64; 3]| *found > 0.0;
        let Some(rank) = members.iter().position(tells) else {
            return Ok(Error::non_finite_step());
        };
        let [_, index, bits] = members[rank];
        let element = f32::from_bits(bits as u32);
        let error = Error::non_finite(index as usize, element);
        let keeper = format!(", which member {rank} keeps");
        Ok(error.and(&keeper))
    }

    fn agree(&mut self, result: Result<()>) -> Result<()> {
        self.communicator.agree(result)
    }
}
