//! Adam that trusts its second average only when it has seen enough.

use super::decay::{coupling, penalty, shrinkage};
use super::kernel::{Kernel, choose, each_as};
use super::limits::saturating;
use super::moments::{AVERAGES, Average, Direction, Quotient, validate, weight};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Rectified Adam: the divisor of the first steps, an average of too few squares, is left out, and
/// counts little in the next, so that training needs no warm-up of the rate.
///
/// ```text
/// g  ← g + weight_decay·x                  unless decoupled_weight_decay, which subtracts lr·weight_decay·x instead
/// m  ← β₁·m + (1 − β₁)·g
/// v  ← β₂·v + (1 − β₂)·g²
/// ρ∞ = 2/(1 − β₂) − 1,  ρₜ = ρ∞ − 2·t·β₂ᵗ/(1 − β₂ᵗ),  r² = (ρₜ − 4)(ρₜ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρₜ)
/// x  ← x − lr · r · m/(1 − β₁ᵗ) · √(1 − β₂ᵗ) / (√v + eps)    if ρₜ > 5, from the sixth step with the default rates
/// x  ← x − lr · m/(1 − β₁ᵗ)                                   otherwise
/// ```
///
/// The first steps are as long as the gradient; clip it where that may be too much. Liu et al., *On
/// the variance of the adaptive learning rate and beyond*, 2020. Formula and defaults: PyTorch
/// 2.9's `RAdam`. The paper and Optimisers.jl rectify from ρₜ > 4, Optax from 5 on; both systems
/// add eps to the corrected root.
///
/// ```
/// use flatleaf::optim::{Optimizer, RAdam};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(RAdam { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first steps are those of descent with momentum
/// assert!((model[0] - 1.5).abs() < 1e-6 && (model[1] + 0.125).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct RAdam {
    /// The learning rate: a factor of the gradient's average at the first steps, later about the
    /// length of an element's step. Finite and 0 or more; 0.001, PyTorch's default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its square. Each from 0 to below 1; (0.9,
    /// 0.999), PyTorch's default. With a second of 2/3 or less there is never a divisor.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// Weight decay: this times the parameters is added to the gradient, or, decoupled, this times
    /// the learning rate is taken off them. Finite and 0 or more; 0, PyTorch's default.
    pub weight_decay: f64,
    /// Whether the weight decay shrinks the parameters by themselves, as that of
    /// [`AdamW`](super::AdamW), in place of being part of the gradient. `false`, PyTorch's default.
    pub decoupled_weight_decay: bool,
}

impl Default for RAdam {
    fn default() -> Self {
        RAdam {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
        }
    }
}

impl Rule for RAdam {
    fn validate(&self) -> Result<()> {
        validate(self.lr, self.betas, self.eps, self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        AVERAGES.to_vec()
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for RAdam {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl RAdam {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let (beta1, beta2) = self.betas;
        let rectification = self.rectification(step);
        let rate = self.lr / weight(beta1, step);
        let correction = weight(beta2, step).sqrt();
        let rectified_rate = rate * rectification.unwrap_or(0.0) * correction;
        let quotient = Quotient::new(rectified_rate, 0.0, 1.0, self.eps);
        let direction = Direction::new(self.betas, quotient);
        let first = Average::new(beta1);
        let second = Average::new(beta2);
        let rate: E = saturating(rate);
        let rectified = each_as::<E, _>(move |_, dx, [m, v]| direction.step(dx, m, v));
        // Not the quotient with a factor of 0 before v: v is infinite where the square of a
        // gradient overflows, at 5.8e20 with the default rates, and 0·∞ is NaN.
        let without_divisor = each_as::<E, _>(move |_, dx, [m, v]| {
            *m = first.mix(*m, dx);
            *v = second.mix_square(*v, dx);
            rate * *m
        });
        let (coupled, decoupled) =
            coupling(self.lr, self.weight_decay, self.decoupled_weight_decay);
        let is_rectified = rectification.is_some();
        (
            penalty(coupled),
            choose(is_rectified, rectified, without_divisor),
            shrinkage(decoupled),
        )
    }
}

impl RAdam {
    /// r, where ρₜ is above 5.
    fn rectification(&self, step: u64) -> Option<f64> {
        let beta = self.betas.1;
        let end = 2.0 / (1.0 - beta) - 1.0;
        let kept = weight(beta, step);
        let now = end - 2.0 * step as f64 * (1.0 - kept) / kept;
        let of_now = (now - 4.0) * (now - 2.0) / now;
        let of_end = (end - 4.0) * (end - 2.0) / end;
        (now > 5.0).then(|| (of_now / of_end).sqrt())
    }
}
