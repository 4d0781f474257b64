//! The sign of a moving average.

use super::decay::sign;
use super::kernel::{Kernel, each};
use super::moments::Average;
use super::rule::{Rule, fractions, non_negative};
use crate::error::Result;

/// Steps of one size, by the sign of an average of gradients, with weight decay of its own. Keeps
/// one vector where Adam keeps two.
///
/// ```text
/// x ← x − lr · (sign(β₁·m + (1 − β₁)·g) + weight_decay·x)
/// m ← β₂·m + (1 − β₂)·g
/// ```
///
/// Chen et al., *Symbolic discovery of optimization algorithms*, 2023. Formula and defaults: Optax
/// 0.2.8's `lion`; its lr has no default there and is Optimisers.jl's here. A tenth of Adam's rate
/// and ten times its weight decay are a good start. In Optimisers.jl `beta[2]` is the weight of the
/// new gradient, and there is no decay. The sign of 0 is 0.
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
    serde(deny_unknown_fields)
)]
pub struct Lion {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// How much of the average is in the sign, and how much of it is kept; (0.9, 0.99).
    pub betas: (f64, f64),
    /// A step shrinks the parameters by this times the learning rate; 0.001.
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
        non_negative("lr", self.lr)?;
        fractions("betas", self.betas)?;
        non_negative("weight_decay", self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        let (direction, average) = (Average::new(self.betas.0), Average::new(self.betas.1));
        let (lr, decay) = (self.lr as f32, (self.lr * self.weight_decay) as f32);
        each(move |x, dx, [m]| {
            let moved = decay * x + lr * sign(direction.mix(*m, dx));
            *m = average.mix(*m, dx);
            moved
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
