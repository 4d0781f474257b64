//! How the parameters and gradients of a step are shown while norms are measured: all at once, or
//! one leaf after the other where nobody holds more than one of them at a time.

use super::part_gradient::PartGradient;
use super::pass::{Measuring, Part, PartSlices};
use super::scan::Request;
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ops;

/// What is done with parts that are shown.
pub(super) type See<'s, E> = &'s mut dyn FnMut(&[Part], &[PartSlices<'_, E>]) -> Result<()>;

/// Shows the parameters and the gradients of parts.
pub(super) trait ShowParts<E: FlatElement> {
    /// Calls `see` with all parts, in their order, in one call or in several; on a member of a run
    /// with what it keeps of them. Where a part does not need its parameters, an empty slice may
    /// stand in their place.
    ///
    /// # Errors
    /// Parameters that cannot be shown; what `see` returns.
    fn show(
        &mut self,
        parts: &[Part],
        needs_parameters: &dyn Fn(&Part) -> bool,
        see: See<'_, E>,
    ) -> Result<()>;

    /// What every part adds to a norm.
    ///
    /// # Errors
    /// Parameters that cannot be shown.
    fn totals(
        &mut self,
        parts: &[Part],
        mut measuring: Measuring<'_, E>,
        requests: &[Option<Request>],
    ) -> Result<Vec<[f64; 2]>> {
        let needs_parameters = |part: &Part| {
            let request = requests[part.kernel].as_ref();
            request.is_some_and(Request::needs_parameters)
        };
        let mut measure = |parts: &[Part], slices: &[PartSlices<'_, E>]| {
            measuring.add(parts, slices);
            Ok(())
        };
        self.show(parts, &needs_parameters, &mut measure)?;
        Ok(measuring.totals())
    }

    /// What is wrong with a part whose norm is not finite.
    ///
    /// # Errors
    /// Another member of the run that cannot be asked.
    fn at_fault(&mut self, part: &Part) -> Result<Error>;

    /// Whether all members of a run have come so far; of one that is alone what it says.
    ///
    /// # Errors
    /// Its own; another member's.
    fn agree(&mut self, result: Result<()>) -> Result<()> {
        result
    }
}

/// What is wrong with a leaf whose norm is not finite: the first element of its gradient that is
/// not, or a norm that no element explains.
#[cold]
pub(super) fn non_finite<E: FlatElement>(grad: PartGradient<'_, E>) -> Error {
    let grad = grad.all();
    match ops::first_non_finite(&grad) {
        Some(index) => Error::non_finite(index, grad[index]),
        None => Error::non_finite_step(),
    }
}

/// Parts whose slices are all there.
pub(super) struct AllParts<'s, F, E> {
    slices_of: F,
    /// Those of all parts, from when they are asked for.
    slices: Vec<PartSlices<'s, E>>,
}

impl<'s, E, F: Fn(&Part) -> PartSlices<'s, E>> AllParts<'s, F, E> {
    pub(super) fn of(slices_of: F) -> Self {
        AllParts {
            slices_of,
            slices: Vec::new(),
        }
    }
}

impl<'s, E, F> ShowParts<E> for AllParts<'s, F, E>
where
    E: FlatElement,
    F: Fn(&Part) -> PartSlices<'s, E>,
{
    fn show(&mut self, parts: &[Part], _: &dyn Fn(&Part) -> bool, see: See<'_, E>) -> Result<()> {
        if self.slices.is_empty() {
            self.slices = parts.iter().map(&self.slices_of).collect();
        }
        see(parts, &self.slices)
    }

    fn at_fault(&mut self, part: &Part) -> Result<Error> {
        Ok(non_finite((self.slices_of)(part).1))
    }
}

/// The slices of parts whose parameters nobody asks for. All gradients are there, so that all
/// threads share them even where leaves are small.
pub(super) fn gradients_alone<'g, E: 'g>(
    parts: &[Part],
    gradient_of: impl Fn(&Part) -> PartGradient<'g, E>,
) -> Vec<PartSlices<'g, E>> {
    let slices = parts.iter().map(|part| (&[][..], gradient_of(part)));
    slices.collect()
}

/// Parts whose gradients are all there, and whose parameters are lent leaf by leaf.
pub(super) struct LentParts<'s, G, L> {
    pub(super) layout: &'s Layout,
    pub(super) gradient_of: G,
    pub(super) lend: L,
}

impl<G, L> LentParts<'_, G, L> {
    /// Has the leaf of a part lent and calls `work` once with its elements and its gradient. Says
    /// whether `work` was called, and what is wrong with how the leaf was lent.
    pub(super) fn lend<'g, E>(
        &mut self,
        part: &Part,
        work: impl FnOnce(&mut [E], PartGradient<'g, E>),
    ) -> (bool, Result<()>)
    where
        E: FlatElement,
        G: Fn(&Part) -> PartGradient<'g, E>,
        L: FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>,
    {
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

impl<'g, E, G, L> ShowParts<E> for LentParts<'_, G, L>
where
    E: FlatElement,
    G: Fn(&Part) -> PartGradient<'g, E>,
    L: FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>,
{
    fn show(
        &mut self,
        parts: &[Part],
        needs_parameters: &dyn Fn(&Part) -> bool,
        see: See<'_, E>,
    ) -> Result<()> {
        if !parts.iter().any(needs_parameters) {
            return see(parts, &gradients_alone(parts, &self.gradient_of));
        }
        for part in parts {
            let one = std::slice::from_ref(part);
            if !needs_parameters(part) {
                see(one, &[(&[], (self.gradient_of)(part))])?;
                continue;
            }
            let mut seen = Ok(());
            let (_, lent) = self.lend(part, |x, gradient| seen = see(one, &[(x, gradient)]));
            // A leaf that was lent twice has been seen once; what was wrong in it comes first.
            seen.and(lent)?;
        }
        Ok(())
    }

    fn at_fault(&mut self, part: &Part) -> Result<Error> {
        Ok(non_finite((self.gradient_of)(part)))
    }
}
