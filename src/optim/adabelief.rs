//! Adam by how far the gradient is from what was expected.

use super::kernel::{Kernel, each};
use super::moments::{Average, Quotient};
use super::rule::{Rule, fractions, non_negative};
use crate::error::Result;

/// Adam that divides by how far gradients are from their average, so that it takes long steps where
/// they agree.
///
/// ```text
/// m ← β₁·m + (1 − β₁)·g
/// s ← β₂·s + (1 − β₂)·(g − m)² + eps_root
/// x ← x − lr · m/(1 − β₁ᵗ) / (√(s/(1 − β₂ᵗ)) + eps)
/// ```
///
/// If `nesterov`, β₁·m/(1 − β₁ᵗ⁺¹) + (1 − β₁)·g/(1 − β₁ᵗ) stands for m/(1 − β₁ᵗ). Zhuang et al.,
/// *AdaBelief optimizer: adapting stepsizes by the belief in observed gradients*, 2020. Formula and
/// defaults: Optax 0.2.8's `adabelief`; its lr has no default there and is Optimisers.jl's here,
/// which has one eps for both.
///
/// ```
/// use flatleaf::optim::{AdaBelief, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(AdaBelief { lr: 0.9, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first gradient is nine tenths from the average that it makes
/// assert!((model[0] - 1.0).abs() < 1e-6 && (model[1] + 1.0).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct AdaBelief {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// Decay rates of the two averages; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-16.
    pub eps: f64,
    /// Added to the second average at every step; 1e-16.
    pub eps_root: f64,
    /// Whether to look ahead by the momentum; no.
    pub nesterov: bool,
}

impl Default for AdaBelief {
    fn default() -> Self {
        AdaBelief {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-16,
            eps_root: 1e-16,
            nesterov: false,
        }
    }
}

impl Rule for AdaBelief {
    fn validate(&self) -> Result<()> {
        non_negative("lr", self.lr)?;
        fractions("betas", self.betas)?;
        non_negative("eps", self.eps)?;
        non_negative("eps_root", self.eps_root)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_var"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let (first, second) = (Average::new(self.betas.0), Average::new(self.betas.1));
        let (quotient, eps_root) = (
            Quotient::adam(self.lr, self.betas, self.eps, self.nesterov, step),
            self.eps_root as f32,
        );
        each(move |_, dx, [m, s]| {
            *m = first.mix(*m, dx);
            let surprise = dx - *m;
            *s = second.mix(*s, surprise * surprise) + eps_root;
            quotient.of(dx, *m, *s)
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
