//! Steps in proportion to the parameters' own size, leaf by leaf: for batches of many thousands.

use super::decay::penalty;
use super::kernel::{Kernel, choose, each_as, scale_by_leaf_norms};
use super::limits::{check_decay_rates, check_eps, check_non_negative};
use super::moments::{AVERAGES, Direction, Quotient};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Adam whose step on a leaf is as long as the leaf's norm, times the rate, so that no layer moves
/// by more than its own size allows: for large batches.
///
/// ```text
/// d ← m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ) + eps_root) + eps) + weight_decay·x      m, v as for Adam
/// x ← x − lr · ‖x‖/‖d‖ · d
/// ```
///
/// The ratio of a leaf's norms is 1 where either is 0. An infinity or a NaN in a leaf's gradient
/// makes the whole leaf NaN. You et al., *Large batch optimization for deep learning: training BERT
/// in 76 minutes*, 2020. Formula and defaults: Optax 0.2.8's `lamb`, where lr has no default; 0.001
/// is ours.
///
/// Costs a read of the gradient and of the averages before the step.
///
/// ```
/// use flatleaf::optim::{Lamb, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![3.0_f32, 4.0];
/// let mut optimizer = Optimizer::new(Lamb { lr: 0.1, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![0.0_f32, 20.0])?; // a tenth of the norm, 5, along the sign
/// assert!(model[0] == 3.0 && (model[1] - 3.5).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Lamb {
    /// The learning rate: the length of a leaf's step as a share of the leaf's norm. Finite and 0
    /// or more; 0.001 is ours, since Optax has no default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its square: what share of the old average
    /// is kept at a step. Each from 0 to below 1; (0.9, 0.999), Optax' default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-6, Optax' default.
    pub eps: f64,
    /// Added to the second average within the root, in the gradient's unit squared. Finite and 0 or
    /// more; 0, Optax' default.
    pub eps_root: f64,
    /// The parameters' weight in the direction, whose length the ratio then sets: it turns the step
    /// and does not lengthen it. Finite and 0 or more; 0, Optax' default.
    pub weight_decay: f64,
}

impl Default for Lamb {
    fn default() -> Self {
        Lamb {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-6,
            eps_root: 0.0,
            weight_decay: 0.0,
        }
    }
}

impl Rule for Lamb {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_decay_rates("betas", self.betas)?;
        check_eps("eps", self.eps)?;
        check_eps("eps_root", self.eps_root)?;
        check_non_negative("weight_decay", self.weight_decay)
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

impl RuleFor<f64> for Lamb {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl Lamb {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let quotient = Quotient::adam(1.0, self.betas, self.eps, false, step);
        let quotient = quotient.with_eps_root(self.eps_root);
        let direction = Direction::new(self.betas, quotient);
        let moments = each_as::<E, _>(move |_, dx, [m, v]| direction.step(dx, m, v));
        let lr = self.lr;
        let scale = scale_by_leaf_norms(move |x, dx| {
            let ratio = trust_ratio(x, dx, 1.0, 0.0);
            lr * ratio
        });
        (moments, penalty(self.weight_decay), scale)
    }
}

/// Descent with momentum whose step on a leaf is in proportion to the leaf's norm, so that layers
/// with small weights and large gradients do not diverge: for large batches.
///
/// ```text
/// g ← g + weight_decay·x
/// d ← lr · trust_coefficient·‖x‖/(‖g‖ + eps) · g
/// b ← momentum·b + d
/// x ← x − (d + momentum·b)    if nesterov,    x ← x − b    otherwise
/// ```
///
/// Where either norm of a leaf is 0, d is lr·g. An infinity or a NaN in a leaf's gradient makes the
/// whole leaf NaN. You, Gitman and Ginsburg, *Large batch training of convolutional networks*,
/// 2017. Formula and defaults: Optax 0.2.8's `lars`, where lr has no default; 0.001 is ours, and
/// rates of 1 and more are usual. The momentum has the rate in it, so that a change of the rate
/// shows only gradually, and the paper's local rate has the norms of gradient and decay apart.
///
/// Costs a read of the gradient and of the parameters before the step.
///
/// ```
/// use flatleaf::optim::{Lars, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![3.0_f32, 4.0];
/// let rule = Lars { lr: 0.5, trust_coefficient: 0.5, ..Default::default() };
/// Optimizer::new(rule, &Layout::of(&model)?)?.update(&mut model, &vec![0.0_f32, 20.0])?; // a quarter of the norm, 5
/// assert_eq!(model, [3.0, 2.75]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Lars {
    /// The learning rate, which multiplies `trust_coefficient`; rates of 1 and more are usual.
    /// Finite and 0 or more; 0.001 is ours, since Optax has no default.
    pub lr: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before its norm is taken.
    /// Finite and 0 or more; 0, Optax' default, is no penalty.
    pub weight_decay: f64,
    /// The length of a leaf's step as a share of the leaf's norm, before `lr` and momentum. Finite
    /// and 0 or more; 0.001, Optax' default and the paper's.
    pub trust_coefficient: f64,
    /// Added to the norm that is divided by, in the gradient's unit. Finite and 0 or more; 0,
    /// Optax' default, is safe, since a norm of 0 has a ratio of 1.
    pub eps: f64,
    /// What share of the buffer, the sum of past steps, is kept at a step. Finite and 0 or more;
    /// 0.9, Optax' default. With 0 no buffer is kept.
    pub momentum: f64,
    /// Whether to step to where the momentum will have carried the parameters, and not only along
    /// it. `false`, Optax' default.
    pub nesterov: bool,
}

impl Default for Lars {
    fn default() -> Self {
        Lars {
            lr: 1e-3,
            weight_decay: 0.0,
            trust_coefficient: 1e-3,
            eps: 0.0,
            momentum: 0.9,
            nesterov: false,
        }
    }
}

impl Rule for Lars {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_non_negative("weight_decay", self.weight_decay)?;
        check_non_negative("trust_coefficient", self.trust_coefficient)?;
        check_eps("eps", self.eps)?;
        check_non_negative("momentum", self.momentum)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["momentum_buffer"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        vec![("momentum_buffer", Moment::First)]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Lars {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl Lars {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let Lars {
            lr,
            trust_coefficient,
            eps,
            nesterov,
            ..
        } = *self;
        let momentum = E::from_f64(self.momentum);
        let heavy = each_as::<E, _>(move |_, dx, [buffer]| {
            *buffer = momentum * *buffer + dx;
            if nesterov {
                dx + momentum * *buffer
            } else {
                *buffer
            }
        });
        (
            penalty(self.weight_decay),
            scale_by_leaf_norms(move |x, dx| lr * trust_ratio(x, dx, trust_coefficient, eps)),
            choose(momentum == E::zero(), (), heavy),
        )
    }
}

/// The norms are those of a leaf's parameters and of its direction.
fn trust_ratio(x: f64, dx: f64, coefficient: f64, eps: f64) -> f64 {
    if x == 0.0 || dx == 0.0 {
        1.0
    } else {
        coefficient * x / (dx + eps)
    }
}
