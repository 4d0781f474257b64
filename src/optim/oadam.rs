//! Optimistic Adam, for games.

use super::kernel::{Kernel, each};
use super::moments::{Direction, Quotient};
use super::rule::{Rule, fractions, non_negative};
use crate::error::Result;

/// Adam that expects its next direction to change as the last did, which keeps two players of a
/// game from circling each other.
///
/// ```text
/// r ← m̂ / (√(v/(1 − β₂ᵗ) + eps_root) + eps)                  m, v as for Adam
/// x ← x − lr · ((alpha + beta)·r − beta·r of the step before)      at the first step lr·alpha·r
/// ```
///
/// m̂ is m/(1 − β₁ᵗ), or if `nesterov` β₁·m/(1 − β₁ᵗ⁺¹) + (1 − β₁)·g/(1 − β₁ᵗ). Daskalakis et al.,
/// *Training GANs with optimism*, 2018. Formula and defaults: Optax 0.2.8's `optimistic_adam_v2`;
/// its lr has no default there and is Optimisers.jl's here, whose first step is twice as long,
/// which has betas of (0.5, 0.9), no Nesterov momentum, and keeps lr·r.
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
    serde(deny_unknown_fields)
)]
pub struct OAdam {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// The weight of the direction; 1.
    pub alpha: f64,
    /// The weight of its change; 1.
    pub beta: f64,
    /// Decay rates of the two averages; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// The same within the root; 0.
    pub eps_root: f64,
    /// Whether to look ahead by the momentum; yes.
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
        non_negative("lr", self.lr)?;
        non_negative("alpha", self.alpha)?;
        non_negative("beta", self.beta)?;
        fractions("betas", self.betas)?;
        non_negative("eps", self.eps)?;
        non_negative("eps_root", self.eps_root)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq", "previous"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let quotient = Quotient::adam(1.0, self.betas, self.eps, self.nesterov, step)
            .with_eps_root(self.eps_root);
        let (direction, is_first) = (Direction::new(self.betas, quotient), step == 1);
        let (of_new, of_previous) = (
            (self.lr * (self.alpha + self.beta)) as f32,
            (self.lr * self.beta) as f32,
        );
        each(move |_, dx, [m, v, previous]| {
            let new = direction.step(dx, m, v);
            let moved = of_new * new - of_previous * if is_first { new } else { *previous };
            *previous = new;
            moved
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
