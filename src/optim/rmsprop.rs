//! Steps divided by the root of the last squares.

use super::decay::penalty;
use super::kernel::{Kernel, choose, each_as};
use super::limits::{check_decay_rate, check_eps, check_non_negative};
use super::moments::Average;
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Divides the gradient by the root of a moving average of its square, or by its standard
/// deviation, so that steps do not depend on the gradient's scale.
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
/// below 0, and where squares overflow it is ∞ − ∞, and PyTorch's parameters become NaN. Optax'
/// alpha is 0.9, its eps stands inside the root, and its momentum keeps lr·b. Optimisers.jl's lr
/// and alpha are 0.001 and 0.9, and it has no momentum.
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
    serde(default, deny_unknown_fields)
)]
pub struct RmsProp {
    /// The learning rate: about the length of an element's step once the average has filled, in the
    /// parameters' unit. Finite and 0 or more; 0.01, PyTorch's default.
    pub lr: f64,
    /// Decay rate of the averages: what share of the old average is kept at a step. There is no
    /// bias correction. From 0 to below 1; 0.99, PyTorch's default.
    pub alpha: f64,
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before the averages see
    /// it. Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
    /// What share of the buffer, the sum of past directions, is kept at a step. Finite and 0 or
    /// more; 0, PyTorch's default, is no momentum and keeps no buffer.
    pub momentum: f64,
    /// Whether to divide by the standard deviation, for which an average of the gradient is kept
    /// too, in place of the root of the mean square. `false`, PyTorch's default.
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
        check_non_negative("lr", self.lr)?;
        check_decay_rate("alpha", self.alpha)?;
        check_eps("eps", self.eps)?;
        check_non_negative("weight_decay", self.weight_decay)?;
        check_non_negative("momentum", self.momentum)
    }

    /// The rarest last, since a kernel is given the first few.
    fn states(&self) -> Vec<&'static str> {
        vec!["square_avg", "momentum_buffer", "grad_avg"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for RmsProp {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl RmsProp {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let average = Average::new(self.alpha);
        let eps = E::from_f64(self.eps);
        let lr = E::from_f64(self.lr);
        let momentum = E::from_f64(self.momentum);
        let by_root = move |grad: E, squares: &mut E| {
            *squares = average.mix_square(*squares, grad);
            grad / (squares.sqrt() + eps)
        };
        let by_deviation = move |grad: E, squares: &mut E, mean: &mut E| {
            *squares = average.mix_square(*squares, grad);
            *mean = average.mix(*mean, grad);
            let deviation = variance(*squares, *mean).sqrt();
            grad / (deviation + eps)
        };
        let without_momentum = each_as::<E, _>(move |_, dx, [squares]| {
            let scaled = by_root(dx, squares);
            lr * scaled
        });
        let with_momentum = each_as::<E, _>(move |_, dx, [squares, buffer]| {
            *buffer = momentum * *buffer + by_root(dx, squares);
            lr * *buffer
        });
        let centered = each_as::<E, _>(move |_, dx, [squares, buffer, mean]| {
            *buffer = momentum * *buffer + by_deviation(dx, squares, mean);
            lr * *buffer
        });
        let is_plain = momentum == E::zero();
        let by_momentum = choose(is_plain, without_momentum, with_momentum);
        let step = choose(self.centered, centered, by_momentum);
        (penalty(self.weight_decay), step)
    }
}

/// The mean square less the mean's square: 0 where that rounds to below 0, infinite where the mean
/// square is, and NaN of NaN, where `f32::max` would lose it.
#[inline(always)]
fn variance<E: FlatElement>(squares: E, mean: E) -> E {
    // The mean's square may overflow too, and ∞ − ∞ is NaN.
    let variance = if squares == E::infinity() {
        squares
    } else {
        squares - mean * mean
    };
    if variance < E::zero() {
        E::zero()
    } else {
        variance
    }
}
