//! Adam and its decoupled form: moving averages of the gradient and of its square.

use super::decay::{penalty, shrinkage};
use super::kernel::{Kernel, each_as, seldom};
use super::limits::saturating;
use super::moments::{validate, weight};
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Adam: a moving average of the gradient, divided by the root of a moving average of its square,
/// so that steps do not depend on the gradient's scale. The L2 penalty is part of the gradient.
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
    serde(default, deny_unknown_fields)
)]
pub struct Adam {
    /// The learning rate: about the length of an element's step while its gradients agree, in the
    /// parameters' unit. Finite and 0 or more; 0.001, PyTorch's default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its square: what share of the old average
    /// is kept at a step. Each from 0 to below 1; (0.9, 0.999), PyTorch's default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// An L2 penalty: this times the parameters is added to the gradient, before the averages see
    /// it. Finite and 0 or more; 0, PyTorch's default, is no penalty.
    pub weight_decay: f64,
    /// Whether to divide by the root of the greatest second average so far in place of the present
    /// one. Keeps one vector more; `false`, PyTorch's default.
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

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        moments()
    }

    fn zero_at_any_step(&self) -> &'static [&'static str] {
        &MOMENTS[2..]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Adam {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl Adam {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let moments = Moments::new(self.lr, self.betas, self.eps, step);
        (penalty(self.weight_decay), moments.kernel(self.amsgrad))
    }
}

/// Adam with decoupled weight decay: parameters shrink at every step by their own share, which the
/// averages do not see, so that its strength does not depend on the gradient's scale.
///
/// ```text
/// m, v, w as for Adam, of the gradient alone
/// x ← x − lr · (m/(1 − β₁ᵗ) / (√(w/(1 − β₂ᵗ)) + eps) + weight_decay·x)
/// ```
///
/// Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019. Formula and defaults:
/// PyTorch 2.9's `AdamW`, which shrinks x before it steps, a difference of rounding. A parameter of
/// ±∞ stays what it is, as there. Optax' decay is 1e-4; that of Optimisers.jl is multiplied with the
/// rate only on demand.
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
    serde(default, deny_unknown_fields)
)]
pub struct AdamW {
    /// The learning rate: about the length of an element's step while its gradients agree, and a
    /// factor of the weight decay. Finite and 0 or more; 0.001, PyTorch's default.
    pub lr: f64,
    /// Decay rates of the averages of the gradient and of its square: what share of the old average
    /// is kept at a step. Each from 0 to below 1; (0.9, 0.999), PyTorch's default.
    pub betas: (f64, f64),
    /// Added to the root that is divided by, in the gradient's unit. Finite and 0 or more, but at 0
    /// an element that never had a gradient becomes NaN; 1e-8, PyTorch's default.
    pub eps: f64,
    /// Decoupled weight decay: a step takes this share, times the learning rate, off the
    /// parameters. Finite and 0 or more; 0.01, PyTorch's default. 0 gives the steps of [`Adam`].
    pub weight_decay: f64,
    /// Whether to divide by the root of the greatest second average so far in place of the present
    /// one. Keeps one vector more; `false`, PyTorch's default.
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

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        moments()
    }

    fn zero_at_any_step(&self) -> &'static [&'static str] {
        &MOMENTS[2..]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.stages(step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for AdamW {
    fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(step)
    }
}

impl AdamW {
    fn stages<E: FlatElement>(&self, step: u64) -> impl Kernel<E> + use<E> {
        let moments = Moments::new(self.lr, self.betas, self.eps, step);
        (
            moments.kernel(self.amsgrad),
            shrinkage(self.lr * self.weight_decay),
        )
    }
}

/// The step of [`AdamW`] without amsgrad, which keeps the first two of its vectors: for rules that
/// take it for some of the leaves.
pub(super) fn adamw<E: FlatElement>(adamw: AdamW, step: u64) -> impl Kernel<E> {
    let AdamW {
        lr,
        betas,
        eps,
        weight_decay,
        ..
    } = adamw;
    (
        Moments::new(lr, betas, eps, step).by_present(),
        shrinkage(lr * weight_decay),
    )
}

/// PyTorch's names.
const MOMENTS: [&str; 3] = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];

/// The first is an average of gradients, the others of their squares.
fn moments() -> Vec<(&'static str, Moment)> {
    let kinds = [Moment::First, Moment::Second, Moment::Second];
    MOMENTS.into_iter().zip(kinds).collect()
}

/// What a step of Adam does to one element. The rates' complements are taken in f64: 1 − 0.999 in
/// f32 is off by 1.3e-5.
#[derive(Clone, Copy)]
struct Moments<E> {
    beta1: E,
    fresh1: E,
    beta2: E,
    fresh2: E,
    /// lr / (1 − β₁ᵗ)
    rate: E,
    /// 1 / √(1 − β₂ᵗ)
    correction: E,
    eps: E,
}

impl<E: FlatElement> Moments<E> {
    fn new(lr: f64, (beta1, beta2): (f64, f64), eps: f64, step: u64) -> Self {
        // Averages begin with 0: the rate makes up for it in the first, the correction in the other.
        let rate = lr / weight(beta1, step);
        let correction = weight(beta2, step).sqrt().recip();
        Moments {
            beta1: E::from_f64(beta1),
            fresh1: E::from_f64(1.0 - beta1),
            beta2: E::from_f64(beta2),
            fresh2: E::from_f64(1.0 - beta2),
            rate: saturating(rate),
            correction: E::from_f64(correction),
            eps: E::from_f64(eps),
        }
    }

    fn kernel(self, amsgrad: bool) -> impl Kernel<E> {
        let by_greatest = each_as::<E, _>(move |_, dx, [m, v, greatest]| {
            self.advance(dx, m, v);
            *greatest = if *greatest > *v { *greatest } else { *v };
            self.ratio(*m, *greatest)
        });
        seldom(amsgrad, by_greatest, self.by_present())
    }

    fn by_present(self) -> impl Kernel<E> {
        each_as::<E, _>(move |_, dx, [m, v]| {
            self.advance(dx, m, v);
            self.ratio(*m, *v)
        })
    }

    #[inline(always)]
    fn advance(&self, grad: E, m: &mut E, v: &mut E) {
        *m = self.beta1 * *m + self.fresh1 * grad;
        *v = self.beta2 * *v + self.fresh2 * grad * grad;
    }

    #[inline(always)]
    fn ratio(&self, m: E, v: E) -> E {
        self.rate * m / (v.sqrt() * self.correction + self.eps)
    }
}
