//! Steps divided by the root of all squares so far.

use super::decay::penalty;
use super::kernel::{Kernel, each_as};
use super::limits::{check_eps, check_non_negative};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Divides by the root of the sum of all squares so far, so that elements whose gradients are rare
/// or small move as far as the others. Steps shrink as the sum grows.
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
    serde(default, deny_unknown_fields)
)]
pub struct AdaGrad {
    /// The learning rate: the length of an element's first step, in the parameters' unit; later
    /// ones are shorter. Finite and 0 or more; 0.01, PyTorch's default.
    pub lr: f64,
    /// How fast the learning rate falls: it is divided by 1 plus this times the steps that the leaf
    /// has taken. Finite and 0 or more; 0, PyTorch's default, keeps it.
    pub lr_decay: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before it is squared.
    /// Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
    /// What the sum of squares begins with, in the gradient's unit squared: more makes the first
    /// steps shorter. Finite and 0 or more; 0, PyTorch's default.
    pub initial_accumulator_value: f64,
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-10, PyTorch's default.
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
        check_non_negative("lr", self.lr)?;
        check_non_negative("lr_decay", self.lr_decay)?;
        check_non_negative("weight_decay", self.weight_decay)?;
        check_non_negative("initial_accumulator_value", self.initial_accumulator_value)?;
        check_eps("eps", self.eps)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["sum"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for AdaGrad {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl AdaGrad {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let initial = match step {
            1 => E::from_f64(self.initial_accumulator_value),
            _ => E::zero(),
        };
        let steps_before = (step - 1) as f64;
        let decayed = self.lr / (1.0 + steps_before * self.lr_decay);
        let rate = E::from_f64(decayed);
        let eps = E::from_f64(self.eps);
        let ratio = each_as::<E, _>(move |_, dx, [sum]| {
            *sum = *sum + initial + dx * dx;
            let root = sum.sqrt();
            rate * dx / (root + eps)
        });
        (penalty(self.weight_decay), ratio)
    }
}
