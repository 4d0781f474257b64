//! Who takes part in a step, at which step of their own, and what has to be measured before it.

use super::measure::{Measured, Partial, clip_scale};
use super::optimizer::{Clipped, LeafProgress, Report};
use super::pass::{self, Part};
use super::rule::{Kernel, Rule};
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

impl Plan {
    pub(super) fn new(layout: &Layout, leaves: &[LeafProgress], is_present: impl Fn(usize) -> bool) -> Self {
        let mut plan = Plan { parts: Vec::with_capacity(leaves.len()), kernels: Vec::new() };
        for (index, (leaf, progress)) in layout.leaves().iter().zip(leaves).enumerate() {
            if progress.is_frozen || !is_present(index) {
                continue;
            }
            let kernel = (progress.group, progress.steps.saturating_add(1));
            if plan.kernels.last() != Some(&kernel) {
                plan.kernels.push(kernel);
            }
            plan.parts.push(Part { range: leaf.range(), leaf: index, kernel: plan.kernels.len() - 1 });
        }
        plan
    }

    pub(super) fn kernels<'g, R: Rule>(&self, groups: &'g [R]) -> Vec<impl Kernel + use<'g, R>> {
        self.kernels.iter().map(|&(group, step)| groups[group as usize].kernel(step)).collect()
    }

    /// Neighbours at the same step as one part.
    pub(super) fn merged_parts(&self) -> Vec<Part> {
        let mut merged: Vec<Part> = Vec::new();
        for part in &self.parts {
            match merged.last_mut() {
                Some(last) if last.kernel == part.kernel && last.range.end == part.range.start => last.range.end = part.range.end,
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

    /// Measures all that the stages need to know before the step; `None` if the step is to be skipped.
    ///
    /// # Errors
    /// A norm that is infinite or NaN, of a stage that will not have it.
    pub(super) fn measure<'v>(
        &self,
        layout: &Layout,
        states: &[Vec<f32>],
        kernels: &[impl Kernel],
        slices: impl FnOnce() -> Vec<(&'v [f32], &'v [f32])>,
    ) -> Result<Option<(Vec<Measured>, Report)>> {
        let (mut measured, mut report) = (Vec::new(), Report::default());
        let mut asked = self.first_asking(states, kernels, &measured);
        let slices = if asked.is_some() { slices() } else { Vec::new() };
        while let Some(Partial { measure, .. }) = asked {
            let partials = pass::rehearse(&self.parts, &slices, states, kernels, &measured);
            let total = partials.iter().flatten().copied().fold(Partial::empty(measure), Partial::merge).norms();
            match measure.non_finite {
                NonFinite::Error if !total[1].is_finite() => return Err(self.at_fault(layout, &partials, &slices)),
                NonFinite::Skip if !total[1].is_finite() => return Ok(None),
                _ => {}
            }
            if measure.is_global {
                report.clips.extend(measure.max.map(|max| Clipped { norm: total[1], scale: clip_scale(total[1], max) }));
                measured.push(Measured::Global(total));
            } else {
                measured.push(Measured::Leaves(self.leaf_norms(layout, &partials)));
            }
            asked = self.first_asking(states, kernels, &measured);
        }
        Ok(Some((measured, report)))
    }

    /// The next measurement that any of the kernels needs.
    fn first_asking(&self, states: &[Vec<f32>], kernels: &[impl Kernel], measured: &[Measured]) -> Option<Partial> {
        let leaf = self.parts.first()?.leaf;
        kernels.iter().find_map(|kernel| pass::asks(kernel, states, leaf, measured))
    }

    fn leaf_norms(&self, layout: &Layout, partials: &[Option<Partial>]) -> Vec<[f64; 2]> {
        let mut leaves = vec![[0.0; 2]; layout.leaves().len()];
        let norms = partials.iter().map(|partial| partial.map_or([0.0; 2], Partial::norms));
        self.parts.iter().zip(norms).for_each(|(part, norms)| leaves[part.leaf] = norms);
        leaves
    }

    /// The error for the first leaf whose norm is not finite.
    #[cold]
    fn at_fault(&self, layout: &Layout, partials: &[Option<Partial>], slices: &[(&[f32], &[f32])]) -> Error {
        let is_at_fault = |partial: &Option<Partial>| partial.is_some_and(|partial| !partial.norms()[1].is_finite());
        let at = partials.iter().position(is_at_fault).unwrap_or(0);
        let path = layout.leaves()[self.parts[at].leaf].path();
        let grad = slices[at].1;
        match ops::first_non_finite(grad) {
            Some(index) => Error::non_finite(index, grad[index]).at(path),
            None => Error::non_finite_step().at(path),
        }
    }
}
