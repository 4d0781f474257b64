//! Steps divided by the root of all squares so far.

use super::kernel::{Kernel, each};
use super::rule::{Rule, non_negative};
use crate::error::Result;

/// Divides by the root of the sum of all squares so far, so that what moved much moves less.
///
/// ```text
/// g ← g + weight_decay·x
/// s ← initial_accumulator_value + g²          at the first step
/// s ← s + g²                                  from then on
/// x ← x − lr/(1 + (t − 1)·lr_decay) · g/(√s + eps)
/// ```
///
/// Duchi, Hazan and Singer, *Adaptive subgradient methods for online learning and stochastic
/// optimization*, 2011. Formula and defaults: PyTorch 2.9's `Adagrad`. Optax has its eps of 1e-7
/// inside the root and begins with 0.1, so that its first steps are shorter; Optimisers.jl begins
/// with eps, 1e-8, and its rate is 0.1.
///
/// ```
/// use flatleaf::optim::{AdaGrad, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![1.0_f32];
/// let mut optimizer = Optimizer::new(AdaGrad { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![3.0_f32])?; // 3/√9
/// assert_eq!(model, [0.5]);
/// optimizer.update(&mut model, &vec![4.0_f32])?; // 4/√25
/// assert!((model[0] - 0.1).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct AdaGrad {
    /// The learning rate; 0.01.
    pub lr: f64,
    /// How fast the learning rate falls; 0.
    pub lr_decay: f64,
    /// An L2 penalty: this times the parameters is added to the gradient; 0.
    pub weight_decay: f64,
    /// What the sum begins with; 0.
    pub initial_accumulator_value: f64,
    /// Keeps the divisor from 0; 1e-10.
    pub eps: f64,
}

impl Default for AdaGrad {
    fn default() -> Self {
        AdaGrad {
            lr: 1e-2,
            lr_decay: 0.0,
            weight_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
        }
    }
}

impl Rule for AdaGrad {
    fn validate(&self) -> Result<()> {
        non_negative("lr", self.lr)?;
        non_negative("lr_decay", self.lr_decay)?;
        non_negative("weight_decay", self.weight_decay)?;
        non_negative("initial_accumulator_value", self.initial_accumulator_value)?;
        non_negative("eps", self.eps)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["sum"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let initial = if step == 1 {
            self.initial_accumulator_value as f32
        } else {
            0.0
        };
        let rate = (self.lr / (1.0 + (step - 1) as f64 * self.lr_decay)) as f32;
        let (weight_decay, eps) = (self.weight_decay as f32, self.eps as f32);
        each(move |x, dx, [sum]| {
            let dx = dx + weight_decay * x;
            *sum = *sum + initial + dx * dx;
            rate * dx / (sum.sqrt() + eps)
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
