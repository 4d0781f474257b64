//! Steps by sign alone.

use super::decay::sign;
use super::kernel::{Kernel, each_as};
use super::limits::{check_eps, check_non_negative, check_positive, check_that};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Every element has a step size of its own, which grows while the sign of its gradient stays and
/// shrinks where it changes. The gradient's size plays no part.
///
/// ```text
/// size ← lr                                at the first step
/// size ← clamp(size·η₊)                    if the signs of g and before agree
/// size ← clamp(size·η₋),  g ← 0            if they are opposite
/// size ← clamp(size)                       if either is 0
/// x    ← x − size·sign(g),  before ← g
/// ```
///
/// For gradients of the whole data; noise turns signs. Riedmiller and Braun, *A direct adaptive
/// method for faster backpropagation learning: the RPROP algorithm*, 1993, in the form of iRprop−
/// (Igel and Hüsken, 2000). Formula and defaults: PyTorch 2.9's `Rprop`, which compares signs by
/// the product g·before, so that gradients below 1e-23 agree with none. Optax clamps sizes only
/// where they change; Optimisers.jl, which does too, has a rate of 0.001.
///
/// ```
/// use flatleaf::optim::{Optimizer, Rprop};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([0.0, 0.0]);
/// let mut optimizer = Optimizer::new(Rprop { lr: 0.5, etas: (0.5, 2.0), ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([-3.0, 0.25]))?;
/// assert_eq!(model, tree!([0.5, -0.5]));
/// optimizer.update(&mut model, &tree!([-1.0, -1.0]))?; // the second has turned and waits
/// assert_eq!(model, tree!([1.5, -0.5]));
/// optimizer.update(&mut model, &tree!([-1.0, -1.0]))?;
/// assert_eq!(model, tree!([3.5, -0.25]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Rprop {
    /// The first step size of every element, in the parameters' unit. Finite and 0 or more; 0.01,
    /// PyTorch's default. Later changes matter only to leaves that have not moved yet.
    pub lr: f64,
    /// The factors η₋ and η₊ by which a size shrinks and grows. The first is between 0 and 1, the
    /// second finite and above 1; (0.5, 1.2), PyTorch's default and the paper's.
    pub etas: (f64, f64),
    /// The least and the greatest size of a step, in the parameters' unit. Finite, 0 or more, and
    /// in this order; (1e-6, 50), PyTorch's default.
    pub step_sizes: (f64, f64),
}

impl Default for Rprop {
    fn default() -> Self {
        Rprop {
            lr: 1e-2,
            etas: (0.5, 1.2),
            step_sizes: (1e-6, 50.0),
        }
    }
}

impl Rule for Rprop {
    fn validate(&self) -> Result<()> {
        let ((shrinking, growing), (least, greatest)) = (self.etas, self.step_sizes);
        check_non_negative("lr", self.lr)?;
        let is_between = 0.0 < shrinking && (shrinking as f32) < 1.0;
        check_that("etas.0", shrinking, is_between, "a number between 0 and 1")?;
        check_positive("etas.0", shrinking)?;
        let is_above = growing as f32 > 1.0 && growing.is_finite();
        check_that("etas.1", growing, is_above, "a finite number above 1")?;
        check_positive("etas.1", growing)?;
        check_eps("step_sizes.0", least)?;
        let is_ordered = greatest >= least && greatest.is_finite();
        let expected = "a finite number of `step_sizes.0` or more";
        check_that("step_sizes.1", greatest, is_ordered, expected)?;
        check_eps("step_sizes.1", greatest)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["prev", "step_size"]
    }

    /// In sums of what is 0 or 1: with branches the loop takes twice as long.
    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Rprop {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl Rprop {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let initial = match step {
            1 => E::from_f64(self.lr), // sizes are 0 before
            _ => E::zero(),
        };
        let shrinking = E::from_f64(self.etas.0);
        let growing = E::from_f64(self.etas.1);
        let least = E::from_f64(self.step_sizes.0);
        let greatest = E::from_f64(self.step_sizes.1);
        each_as::<E, _>(move |_, dx, [before, size]| {
            // Of signs, whose product neither vanishes nor overflows.
            let agreement = sign(dx) * sign(*before);
            let agrees = agreement.max(E::zero());
            let turned = (-agreement).max(E::zero());
            let unchanged = E::one() - agrees - turned;
            let factor = agrees * growing + turned * shrinking + unchanged;
            let next = factor * (*size + initial);
            *size = next.max(least).min(greatest);
            // A choice and no product, since ∞·0 is NaN.
            let has_turned = turned == E::one();
            *before = if has_turned { E::zero() } else { dx };
            *size * sign(*before)
        })
    }
}
