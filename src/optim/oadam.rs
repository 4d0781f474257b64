//! Optimistic Adam, for games.

use super::kernel::{Kernel, choose, each_as};
use super::limits::{check_decay_rates, check_eps, check_non_negative, saturating};
use super::moments::{AVERAGES, Direction, Quotient};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Adam that expects its next direction to change as the last did, which keeps two players of a
/// game, such as a generator and its critic, from circling each other.
///
/// ```text
/// r ← m̂ / (√(v/(1 − β₂ᵗ) + eps_root) + eps)                  m, v as for Adam
/// x ← x − lr · ((alpha + beta)·r − beta·r of the step before)      at the first step lr·alpha·r
/// ```
///
/// m̂ is m/(1 − β₁ᵗ), or if `nesterov` β₁·m/(1 − β₁ᵗ⁺¹) + (1 − β₁)·g/(1 − β₁ᵗ). Daskalakis et al.,
/// *Training GANs with optimism*, 2018. Formula and defaults: Optax 0.2.8's `optimistic_adam_v2`;
/// its lr has no default there and is Optimisers.jl's here, whose first step is twice as long,
/// which has betas of (0.5, 0.9), no Nesterov momentum, and keeps lr·r. PyTorch has no such rule.
///
/// ```
/// use flatleaf::optim::{OAdam, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(OAdam { lr: 0.5, nesterov: false, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // as Adam, the first step is lr, whatever the gradient
/// assert!((model[0] - 0.5).abs() < 1e-6 && (model[1] + 0.5).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct OAdam {
    /// The learning rate: about the length of an element's step while its gradients agree, in the
    /// parameters' unit. Finite and 0 or more; 0.001, Optimisers.jl's default.
    pub lr: f64,
    /// The weight of the direction. Finite and 0 or more; 1, Optax' default, steps as far as Adam
    /// where the direction does not change.
    pub alpha: f64,
    /// The weight of the direction's change since the step before: how much optimism. Finite and 0
    /// or more; 1, Optax' default. With 0 it is Adam.
    pub beta: f64,
    /// Decay rates of the averages of the gradient and of its square: what share of the old average
    /// is kept at a step. Each from 0 to below 1; (0.9, 0.999), Optax' default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, Optax' default.
    pub eps: f64,
    /// Added to the second average within the root, in the gradient's unit squared. Finite and 0 or
    /// more; 0, Optax' default.
    pub eps_root: f64,
    /// Whether to step to where the momentum will have carried the parameters, as
    /// [`NAdam`](super::NAdam) does with another momentum. `true`, Optax' default.
    pub nesterov: bool,
}

impl Default for OAdam {
    fn default() -> Self {
        OAdam {
            lr: 1e-3,
            alpha: 1.0,
            beta: 1.0,
            betas: (0.9, 0.999),
            eps: 1e-8,
            eps_root: 0.0,
            nesterov: true,
        }
    }
}

impl Rule for OAdam {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_non_negative("alpha", self.alpha)?;
        check_non_negative("beta", self.beta)?;
        check_decay_rates("betas", self.betas)?;
        check_eps("eps", self.eps)?;
        check_eps("eps_root", self.eps_root)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq", "previous"]
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

impl RuleFor<f64> for OAdam {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl OAdam {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let quotient = Quotient::adam(1.0, self.betas, self.eps, self.nesterov, step);
        let quotient = quotient.with_eps_root(self.eps_root);
        let direction = Direction::new(self.betas, quotient);
        let of_first: E = saturating(self.lr * self.alpha);
        let both = self.alpha + self.beta;
        let of_new: E = saturating(self.lr * both);
        let of_previous: E = saturating(self.lr * self.beta);
        let first = each_as::<E, _>(move |_, dx, [m, v, previous]| {
            *previous = direction.step(dx, m, v);
            of_first * *previous
        });
        let later = each_as::<E, _>(move |_, dx, [m, v, previous]| {
            let new = direction.step(dx, m, v);
            let moved = of_new * new - of_previous * *previous;
            *previous = new;
            moved
        });
        choose(step == 1, first, later)
    }
}
