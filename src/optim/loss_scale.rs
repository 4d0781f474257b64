//! Loss scaling: a step by the gradient of a loss that was multiplied.
//!
//! A gradient in f16 below 6e-8 is 0. So the loss is multiplied with a large number, every gradient
//! is that much larger, and the step divides. Which number is right changes during training, so it is
//! found by trying (Micikevicius et al. 2018, “Mixed Precision Training”): it grows after many steps
//! that went well, and falls when a gradient has overflowed, whose step is left out.

use super::any_optimizer::{AnyOptimizer, steps};
use super::gradient::Gradient;
use super::limits::{check_positive, check_that};
use super::optimizer::Optimizer;
use super::report::StepReport;
use super::rule::{Rule, RuleFor};
use crate::communicator::Communicator;
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::{Object, Tree};

/// What a loss is multiplied with before its gradient is computed, and how that changes: PyTorch's
/// `GradScaler`, with its defaults.
///
/// A step by such a gradient is one of [`Optimizer::with_loss_scale`]. If an element is infinite or
/// NaN, the step is left out, the report names the leaf
/// ([`overflow`](StepReport::overflow)) and the scale falls by
/// [`backoff_factor`](LossScale::backoff_factor); after
/// [`growth_interval`](LossScale::growth_interval) steps without, it grows by
/// [`growth_factor`](LossScale::growth_factor). It is plain data: with the feature `serde` it can be
/// stored beside a checkpoint, and a run that goes on with it goes on as it would have.
///
/// Every gradient counts here, also one that an [`Accumulate`](super::Accumulate) keeps: what it keeps
/// has been divided already, so the scale may change within a window, which PyTorch forbids.
///
/// ```
/// use flatleaf::optim::{LossScale, Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "w": [1.0] });
/// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// let mut loss_scale = LossScale { scale: 1024.0, growth_interval: 1, ..Default::default() };
///
/// // The gradient of 1,024 times the loss has overflowed: nothing moves.
/// let grads = tree!({ "w": (vec![f32::INFINITY]) });
/// let report = optimizer.with_loss_scale(&mut loss_scale).update(&mut model, &grads)?;
/// assert_eq!((report.skipped, report.overflow, loss_scale.scale), (true, Some(0), 512.0));
///
/// let grads = tree!({ "w": [512.0] }); // of 512 times the loss
/// let report = optimizer.with_loss_scale(&mut loss_scale).update(&mut model, &grads)?;
/// assert_eq!((report.overflow, loss_scale.scale), (None, 1024.0));
/// assert_eq!(model, tree!({ "w": [0.5] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct LossScale {
    /// What the next loss is to be multiplied with: above 0 and finite as an f32; 65,536 at first.
    pub scale: f64,
    /// What it is multiplied with when it grows: 1 or more; 2.
    pub growth_factor: f64,
    /// What it is multiplied with after an overflow: above 0 and below 1; 0.5.
    pub backoff_factor: f64,
    /// How many steps without an overflow there are before it grows: 1 or more; 2,000.
    pub growth_interval: u64,
    /// The steps without an overflow since it last changed.
    pub growth_tracker: u64,
    /// An overflow for which it would have to fall below this is an error: a loss that overflows
    /// whatever it is multiplied with will not be trained by skipping steps. 1e-4, as in fairseq;
    /// PyTorch goes on for ever, as 0 does here.
    pub min_scale: f64,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale {
            scale: 65_536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2_000,
            growth_tracker: 0,
            min_scale: 1e-4,
        }
    }
}

impl LossScale {
    fn validate(&self) -> Result<()> {
        check_positive("scale", self.scale)?;
        check_positive("growth_factor", self.growth_factor)?;
        let growth = self.growth_factor;
        let backoff = self.backoff_factor;
        check_that("growth_factor", growth, growth >= 1.0, "1 or more")?;
        let falls = 0.0 < backoff && backoff < 1.0;
        check_that("backoff_factor", backoff, falls, "above 0 and below 1")?;
        let least = self.min_scale;
        check_that("min_scale", least, least >= 0.0, "0 or more")?;
        match self.growth_interval {
            0 => Err(Error::argument("1 or more", 0).at("growth_interval")),
            _ => Ok(()),
        }
    }

    /// That of the next step, behind one with or without an overflow.
    fn next(self, overflow: bool) -> Self {
        if overflow {
            return LossScale {
                scale: self.scale * self.backoff_factor,
                growth_tracker: 0,
                ..self
            };
        }
        let growth_tracker = self.growth_tracker + 1;
        if growth_tracker < self.growth_interval {
            return LossScale {
                growth_tracker,
                ..self
            };
        }
        // A loss is an f32 most often, and does not grow beyond it by what it is multiplied with.
        let grown = self.scale * self.growth_factor;
        LossScale {
            scale: match (grown as f32).is_finite() {
                true => grown,
                false => self.scale,
            },
            growth_tracker: 0,
            ..self
        }
    }

    /// Whether the next gradient cannot be had of a smaller scale.
    fn is_at_its_least(&self) -> bool {
        let lower = self.scale * self.backoff_factor;
        // Below the least f32 there is no scale at all.
        lower < self.min_scale || lower as f32 == 0.0
    }
}

/// What the gradient of a loss that was multiplied is to be multiplied with, if with anything but 1:
/// as in PyTorch, with the reciprocal, which of a power of two is the division.
pub(super) fn unscale<E: FlatElement>(loss_scale: Option<f64>) -> Option<E> {
    let scale = loss_scale.filter(|scale| *scale != 1.0)?;
    Some(E::from_f64(1.0 / scale))
}

/// An optimiser whose next gradients are those of a loss that was multiplied. Made by
/// [`Optimizer::with_loss_scale`]; its steps are those of [`Optimizer`] by the same names, and what
/// they cost and which errors they have is said there.
///
/// ```
/// use flatleaf::optim::{LossScale, Optimizer, ScaledLoss, Sgd};
/// use flatleaf::Layout;
///
/// let mut flat = [1.0_f32];
/// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&flat)?)?;
/// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
/// let mut scaled: ScaledLoss<'_, Sgd> = optimizer.with_loss_scale(&mut loss_scale);
/// scaled.step(&mut flat, &[2.0])?; // 4 times 0.5
/// assert_eq!(flat, [0.5]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct ScaledLoss<'o, R, E = f32> {
    optimizer: &'o mut Optimizer<R, E>,
    loss_scale: &'o mut LossScale,
}

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// For a step by the gradient of a loss that was multiplied with
    /// [`loss_scale.scale`](LossScale::scale): the gradient is divided by it as the step reads it, in
    /// the same pass, and the scale becomes that of the next loss.
    ///
    /// The step is that of the divided gradient in every bit: clipping, decay and what is
    /// accumulated know nothing of the scale. Whether an element is infinite or NaN is found before
    /// anything moves, by the norm that a first [`ClipNorm`](super::ClipNorm) measures anyway; without
    /// one it costs a read of the gradient. Such a step is skipped even where a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error): an overflow is expected here.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, ClipNorm, LossScale, Optimizer};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0] }))?;
    /// let mut optimizer = Optimizer::new((ClipNorm::default(), AdamW::default()), &layout)?;
    /// let mut loss_scale = LossScale::default();
    /// for _batch in 0..3 {
    ///     let scale = loss_scale.scale as f32;
    ///     let grad = flat.iter().map(|x| 2.0 * x * scale).collect::<Vec<f32>>(); // of scale · Σ x²
    ///     let report = optimizer.with_loss_scale(&mut loss_scale).step(&mut flat, &grad)?;
    ///     assert!(report.clips[0].norm_before < 5.0); // of the gradient of Σ x² itself
    /// }
    /// assert_eq!(loss_scale.growth_tracker, 3);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn with_loss_scale<'o>(
        &'o mut self,
        loss_scale: &'o mut LossScale,
    ) -> ScaledLoss<'o, R, E> {
        ScaledLoss {
            optimizer: self,
            loss_scale,
        }
    }
}

impl<R: RuleFor<E>, E: FlatElement> ScaledLoss<'_, R, E> {
    /// Moves the flat vector by a flat gradient of the multiplied loss, as
    /// [`Optimizer::step`] does by that of the loss itself.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of [`Optimizer::step`]. Then
    /// neither the vector, the state nor the scale has changed.
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut flat = [1.0_f32];
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&flat)?)?;
    /// let mut loss_scale = LossScale { scale: 1.0, min_scale: 1.0, ..Default::default() };
    /// let error = optimizer.with_loss_scale(&mut loss_scale).step(&mut flat, &[f32::NAN]).unwrap_err();
    /// assert!(error.is_non_finite() && flat == [1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step<'g>(
        &mut self,
        flat: &mut [E],
        grad: impl Into<Gradient<'g, E>>,
    ) -> Result<StepReport>
    where
        E: 'g,
    {
        let grad = grad.into();
        self.take(|optimizer| steps().step(optimizer, flat, grad))
    }

    /// Moves the leaves of a tree by a gradient tree of the multiplied loss, as
    /// [`Optimizer::update`] does by that of the loss itself.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of [`Optimizer::update`].
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut model = vec![1.0_f32];
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
    /// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    /// optimizer.with_loss_scale(&mut loss_scale).update(&mut model, &[2.0_f32])?;
    /// assert_eq!(model, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update<T, G>(&mut self, model: &mut T, grads: &G) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        self.update_with(model, grads, TiedGrads::Sum)
    }

    /// Moves the leaves of a tree by a gradient tree of the multiplied loss, whose places of a tie
    /// may hold its whole gradient already, as [`Optimizer::update_with`] does.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of [`Optimizer::update_with`].
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::{Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let mut model = (shared.clone(), shared);
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
    /// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    /// let totals = (vec![2.0_f32], vec![2.0_f32]);
    /// optimizer.with_loss_scale(&mut loss_scale).update_with(&mut model, &totals, TiedGrads::AlreadyTotal)?;
    /// assert_eq!(*model.0, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_with<T, G>(
        &mut self,
        mut model: &mut T,
        grads: &G,
        tied: TiedGrads,
    ) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        self.take(|optimizer| steps().update(optimizer, &mut model, &Object(grads), tied))
    }

    /// Moves a master vector by a gradient tree of the multiplied loss and writes the model, as
    /// [`Optimizer::update_with_master`] does.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of
    /// [`Optimizer::update_with_master`].
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::destructure;
    /// use half::f16;
    ///
    /// let mut model = vec![f16::ONE];
    /// let (mut master, layout) = destructure(&model)?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout)?;
    /// let mut loss_scale = LossScale { scale: 65_536.0, ..Default::default() };
    /// let grads = vec![f16::ONE]; // of 2⁻¹⁶, which is less than f16 has of full precision
    /// optimizer.with_loss_scale(&mut loss_scale).update_with_master(&mut model, &mut master, &grads)?;
    /// assert_eq!((master[0], model[0]), (1.0 - 0.5_f32.powi(16), f16::ONE));
    /// # }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_with_master<T, G>(
        &mut self,
        mut model: &mut T,
        master: &mut [E],
        grads: &G,
    ) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        self.take(|optimizer| {
            steps().update_with_master(optimizer, &mut model, master, &Object(grads))
        })
    }

    /// Moves leaves that are lent one at a time by gradients of the multiplied loss, as
    /// [`Optimizer::update_each`] does by those of the loss itself.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of [`Optimizer::update_each`].
    ///
    /// # Panics
    /// If `lend` does; the scale is as it was.
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut parameter = [1.0_f32];
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&parameter)?)?;
    /// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    /// let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    /// scaled.update_each(&[Some(&[2.0])], |_, step| Ok(step(&mut parameter)))?;
    /// assert_eq!(parameter, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_each(
        &mut self,
        grads: &[Option<&[E]>],
        mut lend: impl FnMut(usize, &mut dyn FnMut(&mut [E])) -> Result<()>,
    ) -> Result<StepReport> {
        self.take(|optimizer| steps().update_each(optimizer, grads, &mut lend))
    }

    /// Moves leaves while their owner goes through them by gradients of the multiplied loss, as
    /// [`Optimizer::update_along`] does by those of the loss itself.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: the gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. Those of [`Optimizer::update_along`].
    ///
    /// # Panics
    /// If `walk` does; the scale is as it was.
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut parameter = [1.0_f32];
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&parameter)?)?;
    /// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    /// let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    /// scaled.update_along(&[Some(&[2.0])], |step| Ok(step(0, &mut parameter)))?;
    /// assert_eq!(parameter, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_along(
        &mut self,
        grads: &[Option<&[E]>],
        mut walk: impl FnMut(&mut dyn FnMut(usize, &mut [E])) -> Result<()>,
    ) -> Result<StepReport> {
        self.take(|optimizer| steps().update_along(optimizer, grads, &mut walk))
    }

    /// Takes a step, and has the scale follow.
    fn take(
        &mut self,
        step: impl FnOnce(AnyOptimizer<'_, E>) -> Result<StepReport>,
    ) -> Result<StepReport> {
        self.loss_scale.validate()?;
        let optimizer = AnyOptimizer {
            loss_scale: Some(self.loss_scale.scale),
            ..self.optimizer.any()
        };
        let report = step(optimizer)?;
        self.follow(report)
    }

    /// Has the scale follow a step.
    fn follow(&mut self, report: StepReport) -> Result<StepReport> {
        if let Some(leaf) = report.overflow
            && self.loss_scale.is_at_its_least()
        {
            let path = self.optimizer.layout.leaves()[leaf].path();
            return Err(Error::overflow_at_least_scale(self.loss_scale.scale).at(path));
        }
        *self.loss_scale = self.loss_scale.next(report.overflow.is_some());
        Ok(report)
    }
}

impl<R: Rule> ScaledLoss<'_, R> {
    /// Moves a flat vector that all members of a run have by the mean of their gradients of the
    /// multiplied loss, as [`Optimizer::step_with`] does by those of the loss itself. All members
    /// have one scale, and all skip a step if any of their gradients has overflowed.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense; the path is its name.
    /// `is_non_finite`: a gradient has overflowed and the scale is at its
    /// [least](LossScale::min_scale); the path is the leaf's. `is_member`: members have other
    /// scales. Those of [`Optimizer::step_with`].
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::{destructure, tree, Communicator, FlatGrad, Result, Threads};
    ///
    /// let ends = Threads::run(2, |member| -> Result<f32> {
    ///     let (mut flat, layout) = destructure(&tree!([0.0]))?;
    ///     let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout)?;
    ///     let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    ///     for gradients in [[4.0, 12.0], [4.0, f32::INFINITY]] {
    ///         let mut grad = FlatGrad::from_flat(&layout, vec![gradients[member.rank()]])?;
    ///         optimizer.with_loss_scale(&mut loss_scale).step_with(member, &mut flat, &mut grad)?;
    ///     }
    ///     assert_eq!(loss_scale.scale, 2.0); // on both
    ///     Ok(flat[0])
    /// });
    /// assert!(ends.into_iter().all(|x| x.unwrap() == -2.0));
    /// ```
    pub fn step_with(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        grad: &mut FlatGrad,
    ) -> Result<StepReport> {
        self.step_weighted_with(communicator, flat, grad, 1.0)
    }

    /// Moves a flat vector that all members of a run have by the weighted mean of their gradients of
    /// the multiplied loss, as [`Optimizer::step_weighted_with`] does by those of the loss itself.
    ///
    /// # Errors
    /// `is_argument`: a field of the [`LossScale`] makes no sense, a weight that is negative or not
    /// finite, or 0 on all members. `is_non_finite`: a gradient has overflowed and the scale is at
    /// its [least](LossScale::min_scale). `is_member`: members have other scales. Those of
    /// [`Optimizer::step_with`].
    ///
    /// ```
    /// use flatleaf::optim::{LossScale, Optimizer, Sgd};
    /// use flatleaf::{destructure, tree, Alone, FlatGrad};
    ///
    /// let (mut flat, layout) = destructure(&tree!([0.0]))?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout)?;
    /// let mut loss_scale = LossScale { scale: 4.0, ..Default::default() };
    /// let mut grad = FlatGrad::from_flat(&layout, vec![2.0])?;
    /// let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    /// scaled.step_weighted_with(&mut Alone, &mut flat, &mut grad, 32.0)?;
    /// assert_eq!(flat, [-0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step_weighted_with(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        grad: &mut FlatGrad,
        weight: f64,
    ) -> Result<StepReport> {
        // What is wrong with a field is wrong on all members, which have one scale.
        self.loss_scale.validate()?;
        let how = (weight, Some(self.loss_scale.scale));
        let report = self.optimizer.step_members(communicator, flat, grad, how)?;
        self.follow(report)
    }
}
