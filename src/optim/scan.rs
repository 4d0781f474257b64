//! Which norms a kernel will ask for, and which directions of whole leaves, found by going through
//! it without any elements.
//!
//! Norms are numbered in the order of the chain, those of options that were not taken too, so that
//! groups of leaves with other options mean the same norm by the same number.

use std::sync::Arc;

use smallvec::SmallVec;

use super::measure::Measure;
use crate::element::FlatElement;
use crate::error::Result;
use crate::ops::NonFinite;

/// What one kernel will ask for, in the order in which it does.
#[doc(hidden)]
#[derive(Clone)]
pub struct Scan<E> {
    requests: SmallVec<[Request; 2]>,
    /// Changes of the direction of a whole leaf, with their numbers among the norms.
    changes: Vec<(usize, ChangeOfLeaf<E>)>,
    /// Number of the next norm.
    next: usize,
    /// Whether a stage so far has changed the direction.
    is_changed: bool,
    /// The first gate that is closed: nothing behind it runs.
    closed: Option<Request>,
    /// Clipping stages, those behind a closed gate too, which the report lists all the same.
    clips: SmallVec<[ClipStage; 2]>,
    /// The strictest answer to norms that are not finite among all stages.
    non_finite: NonFinite,
    /// Whether a stage, one behind a closed gate too, measures all leaves together.
    is_over_all_leaves: bool,
}

/// What becomes of the direction of a whole leaf.
pub(super) type ChangeOfLeaf<E> = Arc<dyn Fn(&mut [E]) -> Result<()> + Send + Sync>;

/// A norm that a kernel asks for.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) norm: usize,
    pub(super) measure: Measure,
    /// Whether it is of the gradient as it came, so that no stage has to run to measure it.
    pub(super) is_of_gradient: bool,
    /// Whether it is of the gradient of a loss that was multiplied, which nobody has divided: to know
    /// whether it is finite that need not be done.
    pub(super) is_undivided: bool,
}

impl Request {
    /// For the norm of the gradient as it came, which no stage asks for.
    pub(super) fn of_gradient() -> Self {
        Request {
            norm: 0,
            measure: Measure::global(),
            is_of_gradient: true,
            is_undivided: true,
        }
    }

    /// Whether it takes more than the gradient as it came: stages may look at the parameters.
    pub(super) fn needs_parameters(&self) -> bool {
        !self.is_of_gradient || self.measure.of_parameters
    }
}

/// A stage that clips by a norm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClipStage {
    pub(super) norm: usize,
    /// Over all leaves together, or over each by itself.
    pub(super) is_global: bool,
}

impl<E: FlatElement> Scan<E> {
    pub(super) fn new() -> Self {
        Scan {
            requests: SmallVec::new(),
            changes: Vec::new(),
            next: 0,
            is_changed: false,
            closed: None,
            clips: SmallVec::new(),
            non_finite: NonFinite::Propagate,
            is_over_all_leaves: false,
        }
    }

    /// A stage changes the direction.
    pub(super) fn changes(&mut self) {
        self.is_changed = true;
    }

    /// A stage scales the direction by a norm of it.
    pub(super) fn norm(&mut self, measure: Measure) {
        let request = self.request(measure);
        // Behind a closed gate too: what is held back now comes to this stage at a later step.
        self.non_finite = stricter(self.non_finite, measure.non_finite);
        self.is_over_all_leaves |= measure.is_global;
        if measure.max.is_some() {
            self.clips.push(ClipStage {
                norm: request.norm,
                is_global: measure.is_global,
            });
        }
        if self.closed.is_none() {
            self.requests.push(request);
        }
        // A norm scales what it measures: the next one is not of the gradient as it came.
        self.is_changed = true;
    }

    /// A stage changes the direction of the whole leaf.
    pub(super) fn change_of_leaf(&mut self, change: ChangeOfLeaf<E>) {
        let number = self.next;
        // Counted whether it is asked for or not, so that numbers do not depend on gates.
        self.next += 1;
        if self.closed.is_none() {
            self.changes.push((number, change));
        }
        self.is_changed = true;
    }

    /// A stage lets the direction pass or holds it back.
    pub(super) fn gate(&mut self, is_open: bool) {
        // An open gate has a number too: leaves whose gates differ agree on the norms behind them.
        let request = self.request(Measure::leaf());
        if !is_open && self.closed.is_none() {
            self.closed = Some(request);
        }
    }

    /// Norms of an option that was not taken.
    pub(super) fn pass_norms(&mut self, count: usize) {
        self.next += count;
    }

    fn request(&mut self, measure: Measure) -> Request {
        let norm = self.next;
        self.next += 1;
        Request {
            norm,
            measure,
            is_of_gradient: !self.is_changed,
            is_undivided: false,
        }
    }

    /// Whether a gate is closed, so that the leaf does not move.
    pub(super) fn is_held_back(&self) -> bool {
        self.closed.is_some()
    }

    pub(super) fn is_over_all_leaves(&self) -> bool {
        self.is_over_all_leaves
    }

    pub(super) fn clips(&self) -> &[ClipStage] {
        &self.clips
    }

    /// The request for this norm, if there is one.
    ///
    /// At a closed gate what is held back is measured as strictly as the strictest stage of the
    /// chain would: a NaN that is added to an accumulated gradient unseen would spoil every later
    /// step, and the stage that refuses it stands behind the gate and never sees the one that
    /// brought it.
    pub(super) fn request_for(&self, norm: usize) -> Option<Request> {
        let requested = self.requests.iter().find(|request| request.norm == norm);
        let held_back = || {
            let closed = self.closed.filter(|closed| closed.norm == norm)?;
            (self.non_finite != NonFinite::Propagate).then_some(Request {
                measure: Measure {
                    of_parameters: false,
                    non_finite: self.non_finite,
                    ..closed.measure
                },
                ..closed
            })
        };
        requested.copied().or_else(held_back)
    }

    /// The change of the leaf that has this number, if there is one.
    pub(super) fn change_for(&self, number: usize) -> Option<&ChangeOfLeaf<E>> {
        let mut changes = self.changes.iter();
        changes
            .find(|change| change.0 == number)
            .map(|change| &change.1)
    }

    /// Whether the direction of a whole leaf is changed.
    pub(super) fn changes_leaf(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Hands on, as numbers, all that decides what is measured and changed before the step.
    pub(super) fn tell(&self, mut number: impl FnMut(u64)) {
        let requests = self.requests.iter().chain(&self.closed);
        for Request {
            norm,
            measure,
            is_of_gradient,
            ..
        } in requests
        {
            number(*norm as u64);
            number(measure.p.to_bits());
            number(measure.max.map_or(u64::MAX, f64::to_bits));
            number(measure.non_finite as u64);
            let flags = [measure.is_global, measure.of_parameters, *is_of_gradient];
            number(
                flags
                    .iter()
                    .fold(0, |bits, flag| bits << 1 | u64::from(*flag)),
            );
        }
        for (change, _) in &self.changes {
            number(*change as u64);
        }
        number(self.closed.is_some().into());
        number(self.non_finite as u64);
    }

    /// Whether anything has to be found before the step.
    pub(super) fn asks_for_anything(&self) -> bool {
        // What a closed gate holds back is measured for nobody but to be finite.
        let is_checked = self.closed.is_some() && self.non_finite != NonFinite::Propagate;
        is_checked || !self.requests.is_empty() || !self.changes.is_empty()
    }
}

/// An error before a skipped step before a NaN that goes its way.
pub(super) fn stricter(a: NonFinite, b: NonFinite) -> NonFinite {
    if (a as u8) < (b as u8) { a } else { b }
}
