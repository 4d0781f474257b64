//! What the relatives of Adam share: moving averages, and a step that is one over the root of
//! another.
//!
//! Adam and AdamW have a leaner quotient of their own, without eps_root and look ahead: with this
//! one their steps take a tenth longer in the cache.

use super::limits::{check_decay_rates, check_eps, check_non_negative, saturating};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// What the numbers that most of them have may be.
///
/// # Errors
/// The first that may not, with the name of its field.
pub(super) fn validate(lr: f64, betas: (f64, f64), eps: f64, weight_decay: f64) -> Result<()> {
    check_non_negative("lr", lr)?;
    check_decay_rates("betas", betas)?;
    check_eps("eps", eps)?;
    check_non_negative("weight_decay", weight_decay)
}

/// The state vectors of Adam and of most of its relatives, by PyTorch's names: the averages of the
/// gradient and of its square.
pub(super) const AVERAGES: [(&str, Moment); 2] =
    [("exp_avg", Moment::First), ("exp_avg_sq", Moment::Second)];

/// a ← β·a + (1 − β)·new. The complement is taken in f64: 1 − 0.999 in f32 is off by 1.3e-5.
#[derive(Clone, Copy)]
pub(super) struct Average<E> {
    kept: E,
    fresh: E,
}

impl<E: FlatElement> Average<E> {
    pub(super) fn new(beta: f64) -> Self {
        Average {
            kept: E::from_f64(beta),
            fresh: E::from_f64(1.0 - beta),
        }
    }

    #[inline(always)]
    pub(super) fn mix(self, average: E, new: E) -> E {
        self.kept * average + self.fresh * new
    }

    /// Of the square. It is multiplied into the share and not formed by itself, as in PyTorch: of
    /// 1.85e19 and more it is infinite, a thousandth of it only of 5.8e20 and more.
    #[inline(always)]
    pub(super) fn mix_square(self, average: E, new: E) -> E {
        self.kept * average + self.fresh * new * new
    }
}

/// 1 − βᵗ: how much of the first `step` values there is in an average that began with 0.
pub(super) fn weight(beta: f64, step: u64) -> f64 {
    1.0 - beta.powf(step as f64)
}

/// (of_average·m + of_grad·g) / (√(correction·v + eps_root) + eps)
#[derive(Clone, Copy)]
pub(super) struct Quotient<E> {
    of_average: E,
    of_grad: E,
    correction: E,
    eps_root: E,
    eps: E,
}

impl<E: FlatElement> Quotient<E> {
    pub(super) fn new(of_average: f64, of_grad: f64, correction: f64, eps: f64) -> Self {
        Quotient {
            of_average: saturating(of_average),
            of_grad: saturating(of_grad),
            correction: saturating(correction),
            eps_root: E::zeroed(),
            eps: E::from_f64(eps),
        }
    }

    /// rate·m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + eps), with Optax' look ahead if `nesterov`: in place of
    /// m/(1 − β₁ᵗ) there is β₁·m/(1 − β₁ᵗ⁺¹) + (1 − β₁)·g/(1 − β₁ᵗ).
    pub(super) fn adam(
        rate: f64,
        (beta1, beta2): (f64, f64),
        eps: f64,
        nesterov: bool,
        step: u64,
    ) -> Self {
        let correction = weight(beta2, step).recip();
        let rate_now = rate / weight(beta1, step);
        if !nesterov {
            return Quotient::new(rate_now, 0.0, correction, eps);
        }
        let of_average = rate * beta1 / weight(beta1, step.saturating_add(1));
        let of_grad = rate_now * (1.0 - beta1);
        Quotient::new(of_average, of_grad, correction, eps)
    }

    pub(super) fn with_eps_root(self, eps_root: f64) -> Self {
        Quotient {
            eps_root: E::from_f64(eps_root),
            ..self
        }
    }

    #[inline(always)]
    pub(super) fn of(self, grad: E, m: E, v: E) -> E {
        (self.of_average * m + self.of_grad * grad)
            / ((self.correction * v + self.eps_root).sqrt() + self.eps)
    }
}

/// m ← β₁·m + (1 − β₁)·g, v ← β₂·v + (1 − β₂)·g², and their quotient.
#[derive(Clone, Copy)]
pub(super) struct Direction<E> {
    first: Average<E>,
    second: Average<E>,
    quotient: Quotient<E>,
}

impl<E: FlatElement> Direction<E> {
    pub(super) fn new((beta1, beta2): (f64, f64), quotient: Quotient<E>) -> Self {
        Direction {
            first: Average::new(beta1),
            second: Average::new(beta2),
            quotient,
        }
    }

    #[inline(always)]
    pub(super) fn step(self, grad: E, m: &mut E, v: &mut E) -> E {
        *m = self.first.mix(*m, grad);
        *v = self.second.mix_square(*v, grad);
        self.quotient.of(grad, *m, *v)
    }
}
