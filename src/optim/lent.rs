//! A step on leaves that are lent one by one: for models whose owner can unlock only one parameter
//! at a time.

use super::any_optimizer::steps;
use super::optimizer::Optimizer;
use super::report::StepReport;
use super::rule::RuleFor;
use crate::element::FlatElement;
use crate::error::Result;

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// Moves leaves that are lent one at a time, by gradients that are slices: for a framework
    /// whose parameters can only be locked one by one, and for parameters that no
    /// [`Tree`](crate::Tree) holds. Gives the bits of [`step`](Optimizer::step).
    ///
    /// `grads` has an entry for each leaf of [`Layout::leaves`](crate::Layout::leaves), in their
    /// order, each as long as the leaf and in row-major order; `None` is absent. `lend(leaf, step)`
    /// calls `step` once, with the elements of the leaf of that index, in row-major order.
    ///
    /// A leaf is lent once to be moved. It is lent once more, before anything moves, for each norm
    /// or change of a whole leaf that needs more than gradients: of [`Lamb`](super::Lamb),
    /// [`Lars`](super::Lars), matrices of [`Muon`](super::Muon), and clipping behind a stage that
    /// changes the direction, as decay in front of [`ClipNorm`](super::ClipNorm). Nothing is
    /// written then. Leaves that are frozen or absent are not lent; those that a stage holds back
    /// are, since stages in front of it may look at them. A small leaf costs no allocation, and all
    /// threads share a large one.
    ///
    /// # Errors
    /// `is_argument`: not one gradient for each leaf. `is_length`: a gradient that is not as long
    /// as its leaf, with its path. `is_non_finite`: a norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_missing`: a leaf is absent after
    /// [`deny_absent`](Optimizer::deny_absent). Then nothing has moved.
    ///
    /// With the leaf's path, what `lend` returns; `is_length`: it lent a slice that is not as long
    /// as the leaf; `is_argument`: it did not call `step`, or called it twice, of which the second
    /// does nothing. While norms are measured nothing has moved then. While leaves move, the others
    /// are lent and move all the same, and the error names all leaves at fault: each says whether
    /// it has taken its step. State and step count of a leaf always go with its step.
    ///
    /// # Panics
    /// If `lend` does. Leaves that had moved are counted, the others are as they were, and the
    /// optimiser goes on with the next step.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    /// use std::sync::Mutex;
    ///
    /// let parameters = [Mutex::new(vec![1.0_f32, 2.0]), Mutex::new(vec![3.0])];
    /// let layout = Layout::of(&tree!([{ "w": [1.0, 2.0] }, { "w": [3.0] }]))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// let report = optimizer.update_each(&[Some(&[2.0, 0.0]), None], |leaf, step| {
    ///     step(&mut parameters[leaf].lock().unwrap());
    ///     Ok(())
    /// })?;
    /// assert_eq!(report.leaves, 1); // the other has no gradient
    /// assert_eq!(*parameters[0].lock().unwrap(), [0.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_each(
        &mut self,
        grads: &[Option<&[E]>],
        mut lend: impl FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>,
    ) -> Result<StepReport> {
        steps().update_each(self.any(), grads, &mut lend)
    }

    /// Ends the windows of an [`Accumulate`](super::Accumulate) early, as
    /// [`flush`](Optimizer::flush) does, and moves leaves that are lent one at a time, as
    /// [`update_each`](Optimizer::update_each) has them lent.
    ///
    /// # Errors
    /// `is_non_finite`: a norm behind the stage is infinite or NaN, and its stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_length`, `is_argument` and what
    /// `lend` returns, with the leaf's path: it was not lent once, as long as it is.
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut parameter = [0.0_f32];
    /// let rule = (Accumulate { steps: 4 }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, &Layout::of(&parameter)?)?;
    /// optimizer.update_each(&[Some(&[3.0])], |_, step| Ok(step(&mut parameter)))?;
    /// optimizer.flush_each(|_, step| Ok(step(&mut parameter)))?;
    /// assert_eq!(parameter, [-3.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flush_each(
        &mut self,
        mut lend: impl FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>,
    ) -> Result<StepReport> {
        steps().flush_each(self.any(), &mut lend)
    }
}
