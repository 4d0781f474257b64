//! Adam and its decoupled form: moving averages of the gradient and of its square.

use super::kernel::{Kernel, choose, each};
use super::moments::{validate, weight};
use super::rule::Rule;
use crate::error::Result;

/// Adam, with the L2 penalty in the gradient.
///
/// ```text
/// g ← g + weight_decay·x
/// m ← β₁·m + (1 − β₁)·g
/// v ← β₂·v + (1 − β₂)·g²
/// w ← v,    or max(w, v) if amsgrad
/// x ← x − lr · m/(1 − β₁ᵗ) / (√(w/(1 − β₂ᵗ)) + eps)
/// ```
///
/// Kingma and Ba, *Adam: a method for stochastic optimization*, 2015; amsgrad: Reddi, Kale and
/// Kumar, *On the convergence of Adam and beyond*, 2018. Formula and defaults: PyTorch 2.9's
/// `Adam`. Optax takes the maximum of the corrected v; Optimisers.jl has products of the rates as
/// state, so that a change of a rate acts from then on, where here, as in PyTorch, the powers are
/// those of the present rate.
///
/// ```
/// use flatleaf::optim::{Adam, Optimizer};
/// use flatleaf::Layout;
///
/// let mut model = vec![0.0_f32, 0.0];
/// let mut optimizer = Optimizer::new(Adam { lr: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &vec![-3.0_f32, 0.25])?; // the first step is lr, whatever the gradient
/// assert!((model[0] - 0.5).abs() < 1e-6 && (model[1] + 0.5).abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Adam {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// Decay rates of the two averages; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient; 0.
    pub weight_decay: f64,
    /// Whether to divide by the greatest second average so far; no.
    pub amsgrad: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
        }
    }
}

impl Rule for Adam {
    fn validate(&self) -> Result<()> {
        validate(self.lr, self.betas, self.eps, self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        MOMENTS.to_vec()
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let weight_decay = self.weight_decay as f32;
        let moments = Moments::new(self.lr, self.betas, self.eps, step);
        choose(
            self.amsgrad,
            each(move |x, dx, [m, v, greatest]| {
                moments.amsgrad_step(dx + weight_decay * x, m, v, greatest)
            }),
            each(move |x, dx, [m, v]| moments.step(dx + weight_decay * x, m, v)),
        )
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

/// Adam with weight decay of its own, not in the gradient.
///
/// ```text
/// m, v, w as for Adam, of the gradient alone
/// x ← x − lr · (m/(1 − β₁ᵗ) / (√(w/(1 − β₂ᵗ)) + eps) + weight_decay·x)
/// ```
///
/// Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019. Formula and defaults:
/// PyTorch 2.9's `AdamW`, which shrinks x before it steps, a difference of rounding. Optax' decay
/// is 1e-4; that of Optimisers.jl is multiplied with the rate only on demand.
///
/// ```
/// use flatleaf::optim::{AdamW, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([1.0]);
/// let mut optimizer = Optimizer::new(AdamW { lr: 0.5, weight_decay: 0.5, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([0.0]))?; // a gradient of zero: the decay acts all the same
/// assert_eq!(model, tree!([0.75]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct AdamW {
    /// The learning rate; 0.001.
    pub lr: f64,
    /// Decay rates of the two averages; (0.9, 0.999).
    pub betas: (f64, f64),
    /// Keeps the divisor from 0; 1e-8.
    pub eps: f64,
    /// A step shrinks the parameters by this times the learning rate; 0.01.
    pub weight_decay: f64,
    /// Whether to divide by the greatest second average so far; no.
    pub amsgrad: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
            amsgrad: false,
        }
    }
}

impl Rule for AdamW {
    fn validate(&self) -> Result<()> {
        validate(self.lr, self.betas, self.eps, self.weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        MOMENTS.to_vec()
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let decay = (self.lr * self.weight_decay) as f32;
        let moments = Moments::new(self.lr, self.betas, self.eps, step);
        choose(
            self.amsgrad,
            each(move |x, dx, [m, v, greatest]| {
                decay * x + moments.amsgrad_step(dx, m, v, greatest)
            }),
            each(move |x, dx, [m, v]| decay * x + moments.step(dx, m, v)),
        )
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

/// PyTorch's names.
const MOMENTS: [&str; 3] = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];

/// What a step of Adam does to one element. The rates' complements are taken in f64: 1 − 0.999 in
/// f32 is off by 1.3e-5.
#[derive(Clone, Copy)]
struct Moments {
    beta1: f32,
    fresh1: f32,
    beta2: f32,
    fresh2: f32,
    /// lr / (1 − β₁ᵗ)
    rate: f32,
    /// 1 / √(1 − β₂ᵗ)
    correction: f32,
    eps: f32,
}

impl Moments {
    fn new(lr: f64, (beta1, beta2): (f64, f64), eps: f64, step: u64) -> Self {
        Moments {
            beta1: beta1 as f32,
            fresh1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            fresh2: (1.0 - beta2) as f32,
            rate: (lr / weight(beta1, step)) as f32,
            correction: weight(beta2, step).sqrt().recip() as f32,
            eps: eps as f32,
        }
    }

    #[inline(always)]
    fn step(&self, grad: f32, m: &mut f32, v: &mut f32) -> f32 {
        self.advance(grad, m, v);
        self.ratio(*m, *v)
    }

    #[inline(always)]
    fn amsgrad_step(&self, grad: f32, m: &mut f32, v: &mut f32, greatest: &mut f32) -> f32 {
        self.advance(grad, m, v);
        *greatest = if *greatest > *v { *greatest } else { *v };
        self.ratio(*m, *greatest)
    }

    #[inline(always)]
    fn advance(&self, grad: f32, m: &mut f32, v: &mut f32) {
        *m = self.beta1 * *m + self.fresh1 * grad;
        *v = self.beta2 * *v + self.fresh2 * grad * grad;
    }

    #[inline(always)]
    fn ratio(&self, m: f32, v: f32) -> f32 {
        self.rate * m / (v.sqrt() * self.correction + self.eps)
    }
}
