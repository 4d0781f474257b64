//! Adam with Nesterov's momentum.

use super::kernel::{Kernel, each};
use super::moments::{Direction, Quotient, coupling, validate, weight};
use super::rule::{Rule, non_negative};
use crate::error::Result;

/// Adam that looks ahead by its momentum, which rises over the first steps.
///
/// ```text
/// g  ← g + weight_decay·x                  unless decoupled_weight_decay, which subtracts lr·weight_decay·x instead
/// m  ← β₁·m + (1 − β₁)·g
/// v  ← β₂·v + (1 − β₂)·g²
/// μᵢ = β₁·(1 − ½·0.96^(i·momentum_decay)),  Mᵢ = μ₁·…·μᵢ
/// x  ← x − lr · ((1 − μₜ)·g/(1 − Mₜ) + μₜ₊₁·m/(1 − Mₜ₊₁)) / (√(v/(1 − β₂ᵗ)) + eps)
/// ```
///
/// Dozat, *Incorporating Nesterov momentum into Adam*, 2016. Formula and defaults: PyTorch 2.9's
/// `NAdam`, which keeps M as state, where here it is that of the present rates. The momentum of
/// Optax' `nadam` and of Optimisers.jl does not rise, and the latter multiplies v by β₂.
///
/// ```
/// use flatleaf::optim::{NAdam, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(NAdam { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // as Adam, the first step depends on the sign alone
/// assert!(model[0] > 0.5 && (model[0] + model[1]).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct NAdam {
    /// The learning rate; 0.002.
    pub lr: f64,
    /// Decay rates of the two averages; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// This times the parameters is added to the gradient, or to the step; 0.
    pub weight_decay: f64,
    /// How fast the momentum rises to β₁; 0.004. With 0 it stays at half of it.
    pub momentum_decay: f64,
    /// Whether the weight decay is kept out of the averages, as by [`AdamW`](super::AdamW); no.
    pub decoupled_weight_decay: bool,
}

impl Default for NAdam {
    fn default() -> Self {
        NAdam {
            lr: 2e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            momentum_decay: 4e-3,
            decoupled_weight_decay: false,
        }
    }
}

impl Rule for NAdam {
    fn validate(&self) -> Result<()> {
        validate(self.lr, self.betas, self.eps, self.weight_decay)?;
        non_negative("momentum_decay", self.momentum_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let (momentum, next) = (self.momentum(step), self.momentum(step.saturating_add(1)));
        let product = self.momentum_product(step);
        let of_grad = self.lr * (1.0 - momentum) / (1.0 - product);
        let of_average = self.lr * next / (1.0 - product * next);
        let direction = Direction::new(
            self.betas,
            Quotient::new(
                of_average,
                of_grad,
                weight(self.betas.1, step).recip(),
                self.eps,
            ),
        );
        let (coupled, decoupled) =
            coupling(self.lr, self.weight_decay, self.decoupled_weight_decay);
        each(move |x, dx, [m, v]| decoupled * x + direction.step(dx + coupled * x, m, v))
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl NAdam {
    /// μᵢ
    fn momentum(&self, step: u64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96_f64.powf(step as f64 * self.momentum_decay))
    }

    /// Mₜ in closed form, so that it needs no state and no loop over the steps:
    ///
    /// ```text
    /// ln ∏ᵢ (1 − qⁱ/2) = −∑ᵢ ∑ₖ (qⁱ/2)ᵏ/k = −∑ₖ 2⁻ᵏ/k · (qᵏ + q²ᵏ + … + qᵗᵏ)      q = 0.96^momentum_decay
    /// ```
    ///
    /// of which terms beyond k = 52 do not show.
    fn momentum_product(&self, step: u64) -> f64 {
        let (steps, ln_q) = (step as f64, self.momentum_decay * 0.96_f64.ln());
        let terms = (1..=52)
            .map(|k| 0.5_f64.powi(k) / f64::from(k) * geometric_sum(f64::from(k) * ln_q, steps));
        self.betas.0.powf(steps) * (-terms.sum::<f64>()).exp()
    }
}

/// r + r² + … + rⁿ, given ln r.
fn geometric_sum(ln_r: f64, n: f64) -> f64 {
    if ln_r == 0.0 {
        n
    } else {
        ln_r.exp() * (n * ln_r).exp_m1() / ln_r.exp_m1()
    }
}
