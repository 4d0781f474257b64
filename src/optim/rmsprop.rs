//! Steps divided by the root of the last squares.

use super::kernel::{Kernel, choose, each};
use super::moments::Average;
use super::rule::{Rule, fraction, non_negative};
use crate::error::Result;

/// Divides by the root of a moving average of squares, or by the standard deviation.
///
/// ```text
/// g ← g + weight_decay·x
/// s ← alpha·s + (1 − alpha)·g²
/// a ← alpha·a + (1 − alpha)·g,  s' = max(s − a², 0)    if centered, otherwise s' = s
/// b ← momentum·b + g/(√s' + eps)
/// x ← x − lr·b
/// ```
///
/// Tieleman and Hinton, lecture 6.5 of *Neural networks for machine learning*, 2012; centered:
/// Graves, *Generating sequences with recurrent neural networks*, 2013. Formula and defaults:
/// PyTorch 2.9's `RMSprop`, but for the maximum: where all gradients are equal, s − a² may round to
/// below 0, and PyTorch's parameters become NaN. Optax' alpha is 0.9, its eps stands inside the
/// root, and its momentum keeps lr·b. Optimisers.jl's lr and alpha are 0.001 and 0.9, and it has no
/// momentum.
///
/// ```
/// use flatleaf::optim::{Optimizer, RmsProp};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(RmsProp::default(), &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first step is lr/√(1 − alpha), whatever the gradient
/// assert!((model[0] - 0.1).abs() < 1e-6 && (model[1] + 0.1).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct RmsProp {
    /// The learning rate; 0.01.
    pub lr: f64,
    /// Decay rate of the averages; 0.99.
    pub alpha: f64,
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient; 0.
    pub weight_decay: f64,
    /// How much of the direction so far is kept; 0.
    pub momentum: f64,
    /// Whether to divide by the standard deviation; no.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp {
            lr: 1e-2,
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
        }
    }
}

impl Rule for RmsProp {
    fn validate(&self) -> Result<()> {
        non_negative("lr", self.lr)?;
        fraction("alpha", self.alpha)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        non_negative("momentum", self.momentum)
    }

    /// The rarest last, since a kernel is given the first few.
    fn states(&self) -> Vec<&'static str> {
        vec!["square_avg", "momentum_buffer", "grad_avg"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        let (average, eps) = (Average::new(self.alpha), self.eps as f32);
        let (lr, momentum, weight_decay) = (
            self.lr as f32,
            self.momentum as f32,
            self.weight_decay as f32,
        );
        let plain = move |grad: f32, squares: &mut f32| {
            *squares = average.mix(*squares, grad * grad);
            grad / (squares.sqrt() + eps)
        };
        let by_deviation = move |grad: f32, squares: &mut f32, mean: &mut f32| {
            *squares = average.mix(*squares, grad * grad);
            *mean = average.mix(*mean, grad);
            grad / (non_negative_part(*squares - *mean * *mean).sqrt() + eps)
        };
        let without_momentum =
            each(move |x, dx, [squares]| lr * plain(dx + weight_decay * x, squares));
        let with_momentum = each(move |x, dx, [squares, buffer]| {
            *buffer = momentum * *buffer + plain(dx + weight_decay * x, squares);
            lr * *buffer
        });
        let centered = each(move |x, dx, [squares, buffer, mean]| {
            *buffer = momentum * *buffer + by_deviation(dx + weight_decay * x, squares, mean);
            lr * *buffer
        });
        choose(
            self.centered,
            centered,
            choose(momentum == 0.0, without_momentum, with_momentum),
        )
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

/// NaN of NaN, where `f32::max` would lose it.
#[inline(always)]
fn non_negative_part(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}
