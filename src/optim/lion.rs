//! The sign of a moving average.

use super::decay::{shrinkage, sign};
use super::kernel::{Kernel, each_as};
use super::limits::{check_decay_rates, check_non_negative};
use super::moments::Average;
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Steps of one size, by the sign of an average of gradients, with decoupled weight decay. Keeps
/// one vector where Adam keeps two.
///
/// ```text
/// x ← x − lr · (sign(β₁·m + (1 − β₁)·g) + weight_decay·x)
/// m ← β₂·m + (1 − β₂)·g
/// ```
///
/// The sign of 0 is 0. Chen et al., *Symbolic discovery of optimization algorithms*, 2023. Formula
/// and defaults: Optax 0.2.8's `lion`; its lr has no default there and is Optimisers.jl's here.
/// PyTorch has no such rule. In Optimisers.jl `beta[2]` is the weight of the new gradient, and
/// there is no decay.
///
/// ```
/// use flatleaf::optim::{Lion, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([1.0, 1.0, 1.0]);
/// let mut optimizer = Optimizer::new(Lion { lr: 0.5, weight_decay: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([-3.0, 0.25, 0.0]))?;
/// assert_eq!(model, tree!([1.25, 0.25, 0.75]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Lion {
    /// The learning rate: the length of every element's step, in the parameters' unit; a tenth of
    /// Adam's is a good start. Finite and 0 or more; 0.001, Optimisers.jl's default.
    pub lr: f64,
    /// What share of the average is in the sign, and what share of it is kept at a step. Each from
    /// 0 to below 1; (0.9, 0.99), Optax' default and the paper's.
    pub betas: (f64, f64),
    /// Decoupled weight decay: a step takes this share, times the learning rate, off the
    /// parameters; ten times Adam's is a good start. Finite and 0 or more; 0.001, Optax' default.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Lion {
            lr: 1e-3,
            betas: (0.9, 0.99),
            weight_decay: 1e-3,
        }
    }
}

impl Rule for Lion {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_decay_rates("betas", self.betas)?;
        check_non_negative("weight_decay", self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        vec![("exp_avg", Moment::First)]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Lion {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl Lion {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let of_sign = Average::new(self.betas.0);
        let average = Average::new(self.betas.1);
        let lr = E::from_f64(self.lr);
        let by_sign = each_as::<E, _>(move |_, dx, [m]| {
            let mixed = of_sign.mix(*m, dx);
            *m = average.mix(*m, dx);
            lr * sign(mixed)
        });
        let share = self.lr * self.weight_decay;
        (by_sign, shrinkage(share))
    }
}
