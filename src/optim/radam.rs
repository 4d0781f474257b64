//! Adam that trusts its second average only when it has seen enough.

use super::kernel::{Kernel, each};
use super::moments::{Direction, Quotient, coupling, validate, weight};
use super::rule::Rule;
use crate::error::Result;

/// Rectified Adam: the divisor of the first steps, an average of too few squares, is left out, and
/// counts little in the next.
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
/// Liu et al., *On the variance of the adaptive learning rate and beyond*, 2020. Formula and
/// defaults: PyTorch 2.9's `RAdam`. The paper and Optimisers.jl rectify from ρₜ > 4, Optax from 5
/// on; both systems add eps to the corrected root.
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
    serde(deny_unknown_fields)
)]
pub struct RAdam {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// Decay rates of the two averages; (0.9, 0.999). With a second of 2/3 or less there is never a
    /// divisor.
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// This times the parameters is added to the gradient, or to the step; 0.
    pub weight_decay: f64,
    /// Whether the weight decay is kept out of the averages, as by [`AdamW`](super::AdamW); no.
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

    fn kernel(&self, step: u64) -> impl Kernel {
        let direction = Direction::new(self.betas, self.quotient(step));
        let (coupled, decoupled) =
            coupling(self.lr, self.weight_decay, self.decoupled_weight_decay);
        each(move |x, dx, [m, v]| decoupled * x + direction.step(dx + coupled * x, m, v))
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RAdam {
    fn quotient(&self, step: u64) -> Quotient {
        let rate = self.lr / weight(self.betas.0, step);
        match self.rectification(step) {
            Some(r) => Quotient::new(
                rate * r * weight(self.betas.1, step).sqrt(),
                0.0,
                1.0,
                self.eps,
            ),
            None => Quotient::new(rate, 0.0, 0.0, 1.0), // a divisor of 1
        }
    }

    /// r, where ρₜ is above 5.
    fn rectification(&self, step: u64) -> Option<f64> {
        let beta = self.betas.1;
        let end = 2.0 / (1.0 - beta) - 1.0;
        let now = end - 2.0 * step as f64 * (1.0 - weight(beta, step)) / weight(beta, step);
        (now > 5.0)
            .then(|| ((now - 4.0) * (now - 2.0) * end / ((end - 4.0) * (end - 2.0) * now)).sqrt())
    }
}
