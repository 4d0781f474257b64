//! Who takes part in a step, at which step of their own, and what has to be measured before it.

use super::kernel::Kernel;
use super::measure::{Measure, Measured, clip_scale};
use super::optimizer::{Clipped, LeafProgress, Report};
use super::pass::{self, Part};
use super::row::{self, Asked, Context};
use super::rule::Rule;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ops::{self, NonFinite};

/// The leaves that move, and the kernels that move them.
pub(super) struct Plan {
    /// One for each leaf, in flat order.
    pub(super) parts: Vec<Part>,
    /// Group and step of every kernel.
    kernels: Vec<(u32, u64)>,
}

/// One for each norm that a kernel may ask for.
fn none_measured<K: Kernel>(_: &[K]) -> Vec<Option<Measured>> {
    (0..K::NORMS).map(|_| None).collect()
}

impl Plan {
    pub(super) fn new(
        layout: &Layout,
        leaves: &[LeafProgress],
        is_present: impl Fn(usize) -> bool,
    ) -> Self {
        let mut plan = Plan {
            parts: Vec::with_capacity(leaves.len()),
            kernels: Vec::new(),
        };
        for (index, (leaf, progress)) in layout.leaves().iter().zip(leaves).enumerate() {
            if progress.is_frozen || !is_present(index) {
                continue;
            }
            let kernel = (progress.group, progress.steps.saturating_add(1));
            if plan.kernels.last() != Some(&kernel) {
                plan.kernels.push(kernel);
            }
            plan.parts.push(Part {
                range: leaf.range(),
                leaf: index,
                kernel: plan.kernels.len() - 1,
            });
        }
        plan
    }

    pub(super) fn kernels<'g, R: Rule>(&self, groups: &'g [R]) -> Vec<impl Kernel + use<'g, R>> {
        self.kernels
            .iter()
            .map(|&(group, step)| groups[group as usize].kernel(step))
            .collect()
    }

    /// Neighbours at the same step as one part.
    pub(super) fn merged_parts(&self) -> Vec<Part> {
        let mut merged: Vec<Part> = Vec::new();
        for part in &self.parts {
            match merged.last_mut() {
                Some(last) if last.kernel == part.kernel && last.range.end == part.range.start => {
                    last.range.end = part.range.end
                }
                _ => merged.push(part.clone()),
            }
        }
        merged
    }

    /// Notes down that the step has been taken.
    pub(super) fn count(&self, leaves: &mut [LeafProgress]) {
        for part in &self.parts {
            leaves[part.leaf].steps = self.kernels[part.kernel].1;
        }
    }

    /// Measures all that the stages need to know before the step; `None` if the step is to be
    /// skipped.
    ///
    /// # Errors
    /// A norm that is infinite or NaN, of a stage that will not have it.
    pub(super) fn measure<'v>(
        &self,
        layout: &Layout,
        states: &[Vec<f32>],
        kernels: &[impl Kernel],
        slices: impl FnOnce() -> Vec<(&'v [f32], &'v [f32])>,
    ) -> Result<Option<(Vec<Option<Measured>>, Report)>> {
        let (mut measured, mut report) = (
            none_measured(kernels),
            Report {
                leaves: self.parts.len(),
                ..Report::default()
            },
        );
        let mut asked = self.asked(kernels, states.len(), &measured);
        let slices = if asked.iter().any(Option::is_some) {
            slices()
        } else {
            Vec::new()
        };
        while let Some(norm) = asked.iter().flatten().map(|asked| asked.norm).min() {
            let asking = asking(&asked, norm);
            let totals = pass::measure(&self.parts, &slices, states, kernels, &asking, &measured);
            if !self.goes_on(layout, &asking, &totals, &slices)? {
                return Ok(None);
            }
            measured[norm] = Some(match global(&asking) {
                Some(measure) => {
                    let norms =
                        measure.norms(totals.iter().fold([0.0; 2], |a, b| measure.merge(a, *b)));
                    report.clips.extend(measure.max.map(|max| Clipped {
                        norm: norms[1],
                        scale: clip_scale(norms[1], max),
                    }));
                    Measured::Global(norms)
                }
                None => Measured::Leaves(self.leaf_norms(layout, &asking, &totals)),
            });
            asked = self.asked(kernels, states.len(), &measured);
        }
        Ok(Some((measured, report)))
    }

    /// The next measurement that each of the kernels needs.
    fn asked(
        &self,
        kernels: &[impl Kernel],
        states: usize,
        measured: &[Option<Measured>],
    ) -> Vec<Option<Asked>> {
        let Some(first) = self.parts.first() else {
            return Vec::new();
        };
        let context = Context {
            leaf: first.leaf,
            measured,
        };
        kernels
            .iter()
            .map(|kernel| row::asks(kernel, states, context))
            .collect()
    }

    fn leaf_norms(
        &self,
        layout: &Layout,
        asking: &[Option<Asked>],
        totals: &[[f64; 2]],
    ) -> Vec<[f64; 2]> {
        let mut leaves = vec![[0.0; 2]; layout.leaves().len()];
        for (part, total) in self.parts.iter().zip(totals) {
            leaves[part.leaf] =
                asking[part.kernel].map_or([0.0; 2], |asked| asked.measure.norms(*total));
        }
        leaves
    }

    /// Whether the step is taken, as the stages say that ask for a norm, each of its leaves.
    ///
    /// # Errors
    /// The first leaf whose norm is infinite or NaN, and whose stage will not have it.
    fn goes_on(
        &self,
        layout: &Layout,
        asking: &[Option<Asked>],
        totals: &[[f64; 2]],
        slices: &[(&[f32], &[f32])],
    ) -> Result<bool> {
        let mut goes_on = true;
        for (index, part) in self
            .parts
            .iter()
            .enumerate()
            .filter(|(index, _)| !totals[*index][1].is_finite())
        {
            match asking[part.kernel].map(|asked| asked.measure.non_finite) {
                Some(NonFinite::Error) => {
                    return Err(at_fault(layout.leaves()[part.leaf].path(), slices[index].1));
                }
                Some(NonFinite::Skip) => goes_on = false,
                Some(NonFinite::Propagate) | None => {}
            }
        }
        Ok(goes_on)
    }
}

#[cold]
fn at_fault(path: &str, grad: &[f32]) -> Error {
    match ops::first_non_finite(grad) {
        Some(index) => Error::non_finite(index, grad[index]).at(path),
        None => Error::non_finite_step().at(path),
    }
}

/// What is asked for this norm. Of a norm over all leaves there is one measure, the first group's,
/// with the strictest group's answer to what is not finite.
fn asking(asked: &[Option<Asked>], norm: usize) -> Vec<Option<Asked>> {
    let mut asking: Vec<Option<Asked>> = asked
        .iter()
        .map(|asked| asked.filter(|asked| asked.norm == norm))
        .collect();
    if let Some(first) = global(&asking) {
        let answers = asking
            .iter()
            .flatten()
            .map(|asked| asked.measure.non_finite);
        let non_finite = answers
            .min_by_key(|answer| *answer as u8)
            .unwrap_or_default();
        asking.iter_mut().flatten().for_each(|asked| {
            asked.measure = Measure {
                non_finite,
                ..first
            }
        });
    }
    asking
}

/// The measure of a norm over all leaves; `None` if it is one of each leaf.
fn global(asking: &[Option<Asked>]) -> Option<Measure> {
    asking
        .iter()
        .flatten()
        .next()
        .map(|asked| asked.measure)
        .filter(|measure| measure.is_global)
}
