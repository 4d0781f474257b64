//! How the parameters and gradients of a step are shown while norms are measured: all at once, or
//! one leaf after the other where nobody holds more than one of them at a time.

use super::pass::{Part, PartSlices};
use crate::error::{Error, Result};
use crate::layout::Layout;

/// What is done with parts that are shown.
pub(super) type See<'s> = &'s mut dyn FnMut(&[Part], &[PartSlices<'_>]) -> Result<()>;

/// Shows the parameters and the gradients of parts.
pub(super) trait ShowParts<'g> {
    fn gradient(&self, part: &Part) -> &'g [f32];

    /// Calls `see` with all parts, in their order, in one call or in several. Where a part does not
    /// need its parameters, an empty slice may stand in their place.
    ///
    /// # Errors
    /// Parameters that cannot be shown; what `see` returns.
    fn show(
        &mut self,
        parts: &[Part],
        needs_parameters: &dyn Fn(&Part) -> bool,
        see: See<'_>,
    ) -> Result<()>;
}

/// Parts whose slices are all there.
pub(super) struct AllParts<'s, F> {
    slices_of: F,
    /// Those of all parts, from when they are asked for.
    slices: Vec<PartSlices<'s>>,
}

impl<'s, F: Fn(&Part) -> PartSlices<'s>> AllParts<'s, F> {
    pub(super) fn of(slices_of: F) -> Self {
        AllParts {
            slices_of,
            slices: Vec::new(),
        }
    }
}

impl<'s, F: Fn(&Part) -> PartSlices<'s>> ShowParts<'s> for AllParts<'s, F> {
    fn gradient(&self, part: &Part) -> &'s [f32] {
        (self.slices_of)(part).1
    }

    fn show(&mut self, parts: &[Part], _: &dyn Fn(&Part) -> bool, see: See<'_>) -> Result<()> {
        if self.slices.is_empty() {
            self.slices = parts.iter().map(&self.slices_of).collect();
        }
        see(parts, &self.slices)
    }
}

/// Parts whose gradients are all there, and whose parameters are lent leaf by leaf.
pub(super) struct LentParts<'s, G, L> {
    pub(super) layout: &'s Layout,
    pub(super) gradient_of: G,
    pub(super) lend: L,
}

impl<'g, G, L> LentParts<'_, G, L>
where
    G: Fn(&Part) -> &'g [f32],
    L: FnMut(usize, &mut dyn FnMut(&mut [f32])) -> Result<()>,
{
    /// Has the leaf of a part lent and calls `work` once with its elements and its gradient. Says
    /// whether `work` was called, and what is wrong with how the leaf was lent.
    pub(super) fn lend(
        &mut self,
        part: &Part,
        work: impl FnOnce(&mut [f32], &'g [f32]),
    ) -> (bool, Result<()>) {
        let leaf = &self.layout.leaves()[part.leaf];
        let gradient = (self.gradient_of)(part);
        let mut work = Some(work);
        let mut refused = Ok(());
        let lent = (self.lend)(part.leaf, &mut |elements| {
            if elements.len() != leaf.len() {
                refused = Err(Error::lent_length(leaf.len(), elements.len()));
                return;
            }
            match work.take() {
                Some(work) => work(elements, gradient),
                None => refused = Err(Error::lent_times("two calls or more")),
            }
        });
        let is_done = work.is_none();
        let answer = lent.and(refused);
        let answer = match answer {
            Ok(()) if !is_done => Err(Error::lent_times("no call")),
            answer => answer,
        };
        (is_done, answer.map_err(|error| error.at(leaf.path())))
    }
}

impl<'g, G, L> ShowParts<'g> for LentParts<'_, G, L>
where
    G: Fn(&Part) -> &'g [f32],
    L: FnMut(usize, &mut dyn FnMut(&mut [f32])) -> Result<()>,
{
    fn gradient(&self, part: &Part) -> &'g [f32] {
        (self.gradient_of)(part)
    }

    fn show(
        &mut self,
        parts: &[Part],
        needs_parameters: &dyn Fn(&Part) -> bool,
        see: See<'_>,
    ) -> Result<()> {
        if !parts.iter().any(needs_parameters) {
            // All gradients are there, so that all threads share them even where leaves are small.
            let slices: Vec<PartSlices<'_>> = parts
                .iter()
                .map(|part| (&[][..], self.gradient(part)))
                .collect();
            return see(parts, &slices);
        }
        for part in parts {
            let one = std::slice::from_ref(part);
            if !needs_parameters(part) {
                see(one, &[(&[], self.gradient(part))])?;
                continue;
            }
            let mut seen = Ok(());
            let (_, lent) = self.lend(part, |x, gradient| seen = see(one, &[(x, gradient)]));
            // A leaf that was lent twice has been seen once; what was wrong in it comes first.
            seen.and(lent)?;
        }
        Ok(())
    }
}
