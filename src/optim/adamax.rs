//! Adam by the infinity norm.

use super::kernel::{Kernel, each};
use super::moments::{Average, validate, weight};
use super::rule::Rule;
use crate::error::Result;

/// Adam with the greatest magnitude of the gradients so far, which fades, in place of the root of
/// an average.
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
    serde(deny_unknown_fields)
)]
pub struct Adamax {
    /// The learning rate; 0.002.
    pub lr: f64,
    /// Decay rates of the average and of the greatest magnitude; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient; 0.
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
        let (average, fade, eps) = (
            Average::new(self.betas.0),
            self.betas.1 as f32,
            self.eps as f32,
        );
        let (rate, weight_decay) = (
            (self.lr / weight(self.betas.0, step)) as f32,
            self.weight_decay as f32,
        );
        each(move |x, dx, [m, greatest]| {
            let dx = dx + weight_decay * x;
            *m = average.mix(*m, dx);
            let (faded, new) = (fade * *greatest, dx.abs() + eps);
            *greatest = if faded > new { faded } else { new };
            rate * *m / *greatest
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
