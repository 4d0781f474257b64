//! A step along a walk of who owns the leaves: for parameters that are there, one after the other,
//! only while their owner goes through them.
//!
//! [`update_each`](Optimizer::update_each) asks for one leaf after the other, which suits an owner
//! that can find each of them. Some can only be walked: a framework that changes a model by mapping
//! it, say, takes it apart and puts it together again, and whoever asks for leaves has to take all of
//! them out first and to put all of them back afterwards. Here the owner drives: it goes through its
//! leaves once, and calls the step at each.
//!
//! ```text
//! update_each:  take a, b, c out   ask for a, b, c   put a, b, c back
//! update_along: take a, step a, put a back   the same for b   the same for c
//! ```

use super::any_optimizer::{Walk, steps};
use super::optimizer::Optimizer;
use super::part_gradient::PartGradient;
use super::pass::Part;
use super::report::StepReport;
use super::rule::RuleFor;
use super::show::{See, ShowParts, gradients_alone, non_finite};
use crate::element::FlatElement;
use crate::error::{Error, Findings, Result};
use crate::layout::{Layout, Leaf};

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// Moves leaves while their owner goes through them, by gradients that are slices: for a
    /// framework that shows its parameters in a walk of its own and at no other time. Gives the bits
    /// of [`step`](Optimizer::step).
    ///
    /// `grads` has an entry for each leaf of [`Layout::leaves`](crate::Layout::leaves), in their
    /// order, each as long as the leaf and in row-major order; `None` is absent. `walk(step)` calls
    /// `step(leaf, elements)` once for each leaf that has a gradient, in ascending order, with its
    /// elements in row-major order. Calls for leaves that are absent or frozen do nothing.
    ///
    /// There is one walk to move. There is one more, before anything moves, for each norm or change
    /// of a whole leaf that needs more than gradients, as
    /// [`update_each`](Optimizer::update_each) lists them: nothing is written then. A small leaf
    /// costs no allocation, and all threads share a large one.
    ///
    /// # Errors
    /// `is_argument`: not one gradient for each leaf. `is_length`: a gradient that is not as long
    /// as its leaf, with its path. `is_non_finite`: a norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_missing`: a leaf is absent after
    /// [`deny_absent`](Optimizer::deny_absent). Then nothing has moved.
    ///
    /// What `walk` returns; with the leaf's path, `is_length`: a slice that is not as long as the
    /// leaf; `is_argument`: `step` was not called for it, not in ascending order, or once more, which
    /// does nothing. While norms are measured nothing has moved then. While leaves move, the others
    /// move all the same, and the error names all leaves at fault: each says whether it has taken
    /// its step. State and step count of a leaf always go with its step.
    ///
    /// # Panics
    /// If `walk` does. Leaves that had moved are counted, the others are as they were, and the
    /// optimiser goes on with the next step.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// // Changed by whoever takes them and gives others.
    /// let mut model = vec![vec![1.0_f32, 2.0], vec![3.0]];
    /// let layout = Layout::of(&tree!([[1.0, 2.0], [3.0]]))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// let report = optimizer.update_along(&[Some(&[2.0, 0.0]), Some(&[4.0])], |step| {
    ///     let taken = std::mem::take(&mut model).into_iter().enumerate();
    ///     model = taken
    ///         .map(|(leaf, mut elements)| {
    ///             step(leaf, &mut elements);
    ///             elements
    ///         })
    ///         .collect();
    ///     Ok(())
    /// })?;
    /// assert_eq!((report.leaves, model), (2, vec![vec![0.0, 2.0], vec![1.0]]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_along(
        &mut self,
        grads: &[Option<&[E]>],
        mut walk: impl FnMut(&mut dyn FnMut(usize, &mut [E])) -> Result<()>,
    ) -> Result<StepReport> {
        steps().update_along(self.any(), grads, &mut walk)
    }
}

/// A leaf that was not walked as agreed.
pub(super) struct Fault {
    leaf: usize,
    pub(super) has_moved: bool,
    pub(super) error: Error,
}

/// What is done with a part, its elements and its gradient.
pub(super) type Work<'w, E> = &'w mut dyn FnMut(&Part, &mut [E], PartGradient<'_, E>);

/// Parts whose gradients are all there, and through whose parameters their owner goes.
pub(super) struct WalkedParts<'s, 'g, E> {
    pub(super) layout: &'s Layout,
    pub(super) gradient_of: &'s dyn Fn(&Part) -> PartGradient<'g, E>,
    pub(super) walk: Walk<'s, E>,
}

impl<E: FlatElement> WalkedParts<'_, '_, E> {
    /// Has the owner go through the parts and calls `work` with each. What the owner returns, and
    /// the parts that were not met as agreed.
    pub(super) fn walk(&mut self, parts: &[Part], work: Work<'_, E>) -> (Result<()>, Vec<Fault>) {
        let leaves = self.layout.leaves();
        let gradient_of = self.gradient_of;
        let mut faults: Vec<Fault> = Vec::new();
        let mut ahead = 0;
        let answer = (self.walk)(&mut |leaf, elements| {
            let at = parts.partition_point(|part| part.leaf < leaf);
            // Who is absent or frozen has no part.
            let Some(part) = parts.get(at).filter(|part| part.leaf == leaf) else {
                return;
            };
            if at < ahead {
                // One that was passed by has been named.
                if faults.iter().all(|fault| fault.leaf != leaf) {
                    faults.push(Fault {
                        leaf,
                        has_moved: true,
                        error: walked_times("another one").at(leaves[leaf].path()),
                    });
                }
                return;
            }
            let passed_by = parts[ahead..at].iter();
            faults.extend(passed_by.map(|part| Fault::not_walked(part.leaf, leaves)));
            ahead = at + 1;
            let expected = part.range.len();
            if elements.len() != expected {
                let error = Error::lent_length(expected, elements.len());
                return faults.push(Fault {
                    leaf,
                    has_moved: false,
                    error: error.at(leaves[leaf].path()),
                });
            }
            work(part, elements, gradient_of(part));
        });
        let never_met = parts[ahead..].iter();
        faults.extend(never_met.map(|part| Fault::not_walked(part.leaf, leaves)));
        (answer, faults)
    }
}

impl Fault {
    fn not_walked(leaf: usize, leaves: &[Leaf]) -> Self {
        Fault {
            leaf,
            has_moved: false,
            error: walked_times("none, or none in order").at(leaves[leaf].path()),
        }
    }
}

impl<E: FlatElement> ShowParts<E> for WalkedParts<'_, '_, E> {
    fn show(
        &mut self,
        parts: &[Part],
        needs_parameters: &dyn Fn(&Part) -> bool,
        see: See<'_, E>,
    ) -> Result<()> {
        if !parts.iter().any(needs_parameters) {
            return see(parts, &gradients_alone(parts, self.gradient_of));
        }
        let mut seen = Ok(());
        let (answer, faults) = self.walk(parts, &mut |part, x, gradient| {
            if seen.is_ok() {
                seen = see(std::slice::from_ref(part), &[(x, gradient)]);
            }
        });
        let mut findings = Findings::default();
        faults
            .into_iter()
            .for_each(|fault| findings.add(fault.error));
        seen.and(answer).and(findings.into_result())
    }

    fn at_fault(&mut self, part: &Part) -> Result<Error> {
        Ok(non_finite((self.gradient_of)(part)))
    }
}

#[cold]
fn walked_times(found: &str) -> Error {
    Error::argument(
        "one call of `step` for each leaf with a gradient, in ascending order",
        found,
    )
}
