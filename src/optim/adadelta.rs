//! Steps of the size of the last steps.

use super::decay::penalty;
use super::kernel::{Kernel, each_as};
use super::limits::{check_decay_rate, check_eps, check_non_negative};
use super::moments::Average;
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Scales the gradient by the root of the average square of past steps over that of past gradients,
/// so that steps have the parameters' unit and no rate has to be chosen.
///
/// ```text
/// g ← g + weight_decay·x
/// s ← rho·s + (1 − rho)·g²
/// d ← g · √(a + eps) / √(s + eps)
/// a ← rho·a + (1 − rho)·d²
/// x ← x − lr·d
/// ```
///
/// Zeiler, *ADADELTA: an adaptive learning rate method*, 2012. Formula and defaults: PyTorch 2.9's
/// `Adadelta` and Optax' `adadelta`. Optimisers.jl has no lr, and an eps of 1e-8, with which the
/// first steps are a tenth as long.
///
/// ```
/// use flatleaf::optim::{AdaDelta, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(AdaDelta::default(), &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first step is √(eps/(1 − rho)), whatever the gradient
/// assert!((model[0] - 0.00316).abs() < 1e-5 && (model[1] + 0.00316).abs() < 1e-5);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct AdaDelta {
    /// What steps are multiplied with; the averages do not see it. Finite and 0 or more; 1,
    /// PyTorch's default and the method's own, takes them as they are.
    pub lr: f64,
    /// Decay rate of the averages of squared gradients and squared steps: what share of either is
    /// kept at a step. From 0 to below 1; 0.9, PyTorch's default.
    pub rho: f64,
    /// Added to both averages within the roots: the size that the first steps grow from, squared.
    /// Finite and 0 or more, but at 0 parameters become NaN; 1e-6, PyTorch's default.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before the averages see
    /// it. Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
}

impl Default for AdaDelta {
    fn default() -> Self {
        AdaDelta {
            lr: 1.0,
            rho: 0.9,
            eps: 1e-6,
            weight_decay: 0.0,
        }
    }
}

impl Rule for AdaDelta {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_decay_rate("rho", self.rho)?;
        check_eps("eps", self.eps)?;
        check_non_negative("weight_decay", self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["square_avg", "acc_delta"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for AdaDelta {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl AdaDelta {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let average = Average::new(self.rho);
        let lr = E::from_f64(self.lr);
        let eps = E::from_f64(self.eps);
        let ratio = each_as::<E, _>(move |_, dx, [squares, deltas]| {
            *squares = average.mix_square(*squares, dx);
            let of_deltas = (*deltas + eps).sqrt();
            let of_squares = (*squares + eps).sqrt();
            let delta = of_deltas / of_squares * dx;
            *deltas = average.mix_square(*deltas, delta);
            lr * delta
        });
        (penalty(self.weight_decay), ratio)
    }
}
