//! Adam by how far the gradient is from what was expected.

use super::kernel::{Kernel, each_as};
use super::limits::{check_decay_rates, check_eps, check_non_negative};
use super::moments::{Average, Quotient};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Adam that divides by how far gradients are from their average in place of how large they are, so
/// that it takes long steps where they agree.
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
/// which has one eps for both. PyTorch has no such rule.
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
    serde(default, deny_unknown_fields)
)]
pub struct AdaBelief {
    /// The learning rate: about the length of an element's step while its gradients are noise, in
    /// the parameters' unit. Finite and 0 or more; 0.001, Optimisers.jl's default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its squared distance from the first
    /// average. Each from 0 to below 1; (0.9, 0.999), Optax' default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more; 1e-16,
    /// Optax' default, for gradients far below 1.
    pub eps: f64,
    /// Added to the second average at every step, in the gradient's unit squared, so that it never
    /// is 0. Finite and 0 or more; 1e-16, Optax' default.
    pub eps_root: f64,
    /// Whether to step to where the momentum will have carried the parameters, as
    /// [`NAdam`](super::NAdam) does with another momentum. `false`, Optax' default.
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
        check_non_negative("lr", self.lr)?;
        check_decay_rates("betas", self.betas)?;
        check_eps("eps", self.eps)?;
        check_eps("eps_root", self.eps_root)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_var"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        vec![("exp_avg", Moment::First), ("exp_avg_var", Moment::Second)]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for AdaBelief {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl AdaBelief {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let first = Average::new(self.betas.0);
        let second = Average::new(self.betas.1);
        let quotient = Quotient::adam(self.lr, self.betas, self.eps, self.nesterov, step);
        let eps_root = E::from_f64(self.eps_root);
        each_as::<E, _>(move |_, dx, [m, s]| {
            *m = first.mix(*m, dx);
            let deviation = dx - *m;
            *s = second.mix_square(*s, deviation) + eps_root;
            quotient.of(dx, *m, *s)
        })
    }
}
