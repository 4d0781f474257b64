//! Stochastic gradient descent.

use super::decay::penalty;
use super::kernel::{Kernel, choose, each_as};
use super::limits::{check_non_negative, saturating};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// Stochastic gradient descent: a step against the gradient, or against a sum of past gradients
/// that fade, which is momentum. Keeps one vector, which costs no memory without momentum.
///
/// ```text
/// g ← g + weight_decay·x
/// b ← g                                     at the first step
/// b ← momentum·b + (1 − dampening)·g        from then on
/// g ← g + momentum·b    if nesterov,    g ← b    otherwise
/// x ← x − lr·g
/// ```
///
/// Formula and defaults: PyTorch 2.9's `SGD`; Nesterov's form is that of Sutskever et al., *On the
/// importance of initialization and momentum in deep learning*, 2013. Optax and Optimisers.jl begin
/// with b = 0, which is equal without dampening, and have no dampening. Optimisers.jl's `Momentum`
/// keeps lr·b in place of b, so that a change of the rate shows only gradually.
///
/// ```
/// use flatleaf::optim::{Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "w": [1.0, 2.0] });
/// let mut optimizer = Optimizer::new(Sgd { lr: 0.1, momentum: 0.9, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!({ "w": [5.0, 0.0] }))?;
/// assert_eq!(model, tree!({ "w": [0.5, 2.0] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Sgd {
    /// The learning rate: a step is this times the gradient, or times the buffer of the momentum.
    /// Finite and 0 or more; 0.001, PyTorch's default.
    pub lr: f64,
    /// What share of the buffer, the direction so far, is kept at a step. Finite and 0 or more, 0.9
    /// where there is any; 0, PyTorch's default, is descent without momentum.
    pub momentum: f64,
    /// What share of the gradient is left out of the buffer, but for the first. Finite and 0 or
    /// more; 0, PyTorch's default. With dampening of `momentum` the buffer is an average.
    pub dampening: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before the buffer sees
    /// it. Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
    /// Whether to step to where the momentum will have carried the parameters, and not only along
    /// it. Needs `momentum` above 0 and `dampening` of 0; `false`, PyTorch's default.
    pub nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd {
            lr: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
        }
    }
}

impl Rule for Sgd {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_non_negative("momentum", self.momentum)?;
        check_non_negative("dampening", self.dampening)?;
        check_non_negative("weight_decay", self.weight_decay)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            let found = format!(
                "momentum of {} and dampening of {}",
                self.momentum, self.dampening
            );
            let expected = "momentum above 0 and dampening of 0";
            return Err(Error::argument(expected, found).at("nesterov"));
        }
        Ok(())
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["momentum_buffer"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        vec![("momentum_buffer", Moment::First)]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Sgd {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl Sgd {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let lr = E::from_f64(self.lr);
        let momentum = E::from_f64(self.momentum);
        let fresh = match step {
            1 => E::one(),
            _ => saturating(1.0 - self.dampening),
        };
        let plain = each_as::<E, _>(move |_, dx, []| lr * dx);
        let heavy = each_as::<E, _>(move |_, dx, [buffer]| {
            *buffer = momentum * *buffer + fresh * dx;
            lr * *buffer
        });
        let looking_ahead = each_as::<E, _>(move |_, dx, [buffer]| {
            *buffer = momentum * *buffer + fresh * dx;
            lr * (dx + momentum * *buffer)
        });
        let with_momentum = choose(self.nesterov, looking_ahead, heavy);
        let is_plain = momentum == E::zero();
        let step = choose(is_plain, plain, with_momentum);
        (penalty(self.weight_decay), step)
    }
}
