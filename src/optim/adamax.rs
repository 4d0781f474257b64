//! Adam by the infinity norm.

use super::decay::penalty;
use super::kernel::{Kernel, each_as};
use super::limits::saturating;
use super::moments::{Average, validate, weight};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Adam with the greatest magnitude of the gradients so far, which fades, in place of the root of
/// an average of squares. Nothing is squared, so nothing overflows.
///
/// ```text
/// g ← g + weight_decay·x
/// m ← β₁·m + (1 − β₁)·g
/// u ← max(β₂·u, |g| + eps)
/// x ← x − lr/(1 − β₁ᵗ) · m/u
/// ```
///
/// Kingma and Ba, *Adam: a method for stochastic optimization*, 2015, section 7.1. Formula and
/// defaults: PyTorch 2.9's `Adamax`, and but for the rate Optax' `adamax`. Optimisers.jl's `AdaMax`
/// adds eps to u in the divisor.
///
/// ```
/// use flatleaf::optim::{Adamax, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(Adamax { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first step is lr, whatever the gradient
/// assert!((model[0] - 0.5).abs() < 1e-6 && (model[1] + 0.5).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Adamax {
    /// The learning rate: the greatest length of an element's step, about, in the parameters' unit.
    /// Finite and 0 or more; 0.002, PyTorch's default.
    pub lr: f64,
    /// Decay rates of the average of the gradient and of the greatest magnitude: what share of
    /// either is kept at a step. Each from 0 to below 1; (0.9, 0.999), PyTorch's default.
    pub betas: (f64, f64),
    /// Added to the magnitude of every gradient, in its unit. Finite and 0 or more, but at 0 an
    /// element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before the averages see
    /// it. Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Adamax {
            lr: 2e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl Rule for Adamax {
    fn validate(&self) -> Result<()> {
        validate(self.lr, self.betas, self.eps, self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_inf"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Adamax {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl Adamax {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let (beta1, beta2) = self.betas;
        let average = Average::new(beta1);
        let fade = E::from_f64(beta2);
        let eps = E::from_f64(self.eps);
        let rate: E = saturating(self.lr / weight(beta1, step));
        let ratio = each_as::<E, _>(move |_, dx, [m, greatest]| {
            *m = average.mix(*m, dx);
            let faded = fade * *greatest;
            let new = dx.abs() + eps;
            // Not `max`, which would lose a NaN of the gradient.
            *greatest = if faded > new { faded } else { new };
            rate * *m / *greatest
        });
        (penalty(self.weight_decay), ratio)
    }
}
