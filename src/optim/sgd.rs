//! Stochastic gradient descent.

use super::kernel::{Kernel, choose, each};
use super::rule::{Rule, non_negative};
use crate::error::{Error, Result};

/// Stochastic gradient descent, with momentum.
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
/// with b = 0, which is the same without dampening, and have none. Optimisers.jl's `Momentum` keeps
/// lr·b in place of b, so that a change of the rate shows only gradually.
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
    serde(deny_unknown_fields)
)]
pub struct Sgd {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// How much of the direction so far is kept; 0.
    pub momentum: f64,
    /// How much of the gradient is left out of the momentum; 0.
    pub dampening: f64,
    /// An L2 penalty: this times the parameters is added to the gradient; 0.
    pub weight_decay: f64,
    /// Whether to look ahead by the momentum; no. Needs momentum and no dampening.
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
        non_negative("lr", self.lr)?;
        non_negative("momentum", self.momentum)?;
        non_negative("dampening", self.dampening)?;
        non_negative("weight_decay", self.weight_decay)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(
                Error::argument("momentum above 0 and dampening of 0", "another").at("nesterov"),
            );
        }
        Ok(())
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["momentum_buffer"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let (lr, momentum, weight_decay) = (
            self.lr as f32,
            self.momentum as f32,
            self.weight_decay as f32,
        );
        let fresh = if step == 1 {
            1.0
        } else {
            (1.0 - self.dampening) as f32
        };
        let advance = move |x: f32, dx: f32, buffer: &mut f32| {
            let dx = dx + weight_decay * x;
            *buffer = momentum * *buffer + fresh * dx;
            dx
        };
        let plain = each(move |x, dx, []| lr * (dx + weight_decay * x));
        let heavy = each(move |x, dx, [buffer]| {
            advance(x, dx, buffer);
            lr * *buffer
        });
        let looking_ahead =
            each(move |x, dx, [buffer]| lr * (advance(x, dx, buffer) + momentum * *buffer));
        choose(
            momentum == 0.0,
            plain,
            choose(self.nesterov, looking_ahead, heavy),
        )
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
