//! Adam with Nesterov's momentum.

use super::decay::{coupling, penalty, shrinkage};
use super::kernel::{Kernel, each_as};
use super::limits::check_non_negative;
use super::moments::{AVERAGES, Direction, Quotient, validate, weight};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Adam that steps to where its momentum will have carried the parameters; the momentum rises over
/// the first steps, while the average is of few gradients.
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
    serde(default, deny_unknown_fields)
)]
pub struct NAdam {
    /// The learning rate: about the length of an element's step while its gradients agree, in the
    /// parameters' unit. Finite and 0 or more; 0.002, PyTorch's default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its square: what share of the old average
    /// is kept at a step. Each from 0 to below 1; (0.9, 0.999), PyTorch's default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// Weight decay: this times the parameters is added to the gradient, or, decoupled, this times
    /// the learning rate is taken off them. Finite and 0 or more; 0, PyTorch's default.
    pub weight_decay: f64,
    /// How fast the momentum rises to the first of the betas, from half of it. Finite and 0 or
    /// more; 0.004, PyTorch's default, takes some 4,000 steps. With 0 it stays at half.
    pub momentum_decay: f64,
    /// Whether the weight decay shrinks the parameters by themselves, as that of
    /// [`AdamW`](super::AdamW), in place of being part of the gradient. `false`, PyTorch's default.
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
        check_non_negative("momentum_decay", self.momentum_decay)
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

impl RuleFor<f64> for NAdam {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl NAdam {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let momentum = self.momentum(step);
        let next = self.momentum(step.saturating_add(1));
        let product = self.momentum_product(step);
        // Nesterov's look ahead: the average counts by the next step's momentum, the gradient by
        // what this step's leaves.
        let of_grad = self.lr * (1.0 - momentum) / (1.0 - product);
        let of_average = self.lr * next / (1.0 - product * next);
        let correction = weight(self.betas.1, step).recip();
        let quotient = Quotient::new(of_average, of_grad, correction, self.eps);
        let direction = Direction::new(self.betas, quotient);
        let (coupled, decoupled) =
            coupling(self.lr, self.weight_decay, self.decoupled_weight_decay);
        let moments = each_as::<E, _>(move |_, dx, [m, v]| direction.step(dx, m, v));
        (penalty(coupled), moments, shrinkage(decoupled))
    }
}

impl NAdam {
    /// μᵢ
    fn momentum(&self, step: u64) -> f64 {
        let fading = 0.96_f64.powf(step as f64 * self.momentum_decay);
        self.betas.0 * (1.0 - 0.5 * fading)
    }

    /// Mₜ in closed form, so that it needs no state and no loop over the steps:
    ///
    /// ```text
    /// ln ∏ᵢ (1 − qⁱ/2) = −∑ᵢ ∑ₖ (qⁱ/2)ᵏ/k = −∑ₖ 2⁻ᵏ/k · (qᵏ + q²ᵏ + … + qᵗᵏ)      q = 0.96^momentum_decay
    /// ```
    ///
    /// of which terms beyond k = 52 do not show.
    fn momentum_product(&self, step: u64) -> f64 {
        let steps = step as f64;
        let ln_q = self.momentum_decay * 0.96_f64.ln();
        let term = |k: i32| {
            let sum = geometric_sum(f64::from(k) * ln_q, steps);
            0.5_f64.powi(k) / f64::from(k) * sum
        };
        let ln_product: f64 = -(1..=52).map(term).sum::<f64>();
        self.betas.0.powf(steps) * ln_product.exp()
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
