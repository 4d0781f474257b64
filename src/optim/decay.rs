//! Penalties on the parameters as stages of a chain.

use super::kernel::{Kernel, choose, each_as};
use super::limits::{check_non_negative, saturating};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Adds `weight_decay·x` to the direction: in front of a rule this is an L2 penalty, which the
/// rule's averages see; behind it, decoupled weight decay, without the rule's rate as a factor.
///
/// Optax' `add_decayed_weights`, Optimisers.jl's `WeightDecay`, whose default of 5e-4 it has. In
/// PyTorch it is an option of every rule. A parameter that is infinite has an infinite penalty and
/// becomes NaN, in PyTorch too; the decoupled decay of `AdamW` and others leaves it as it is.
///
/// ```
/// use flatleaf::optim::{Optimizer, Sgd, WeightDecay};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([10.0]);
/// let rule = (WeightDecay { weight_decay: 0.1 }, Sgd { lr: 0.5, ..Default::default() });
/// Optimizer::new(rule, &Layout::of(&model)?)?.update(&mut model, &tree!([1.0]))?;
/// assert_eq!(model, tree!([9.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct WeightDecay {
    /// The parameters' weight in the direction. Finite and 0 or more; 5e-4, Optimisers.jl's default
    /// (Optax' is 0). Parameters of 0 or without a gradient are left alone.
    pub weight_decay: f64,
}

impl Default for WeightDecay {
    fn default() -> Self {
        WeightDecay { weight_decay: 5e-4 }
    }
}

impl Rule for WeightDecay {
    fn validate(&self) -> Result<()> {
        check_non_negative("weight_decay", self.weight_decay)
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }
}

impl RuleFor<f64> for WeightDecay {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl WeightDecay {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        penalty(self.weight_decay)
    }
}

/// Adds `sign_decay·sign(x)` to the direction: an L1 penalty, which pulls all parameters towards 0
/// by steps of one size and makes many of them small. The sign of 0 is 0.
///
/// Optimisers.jl's `SignDecay` and its default, 1e-3. PyTorch and Optax have no such stage.
///
/// ```
/// use flatleaf::optim::{Optimizer, SignDecay};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([1.0, -10.0, 0.0]);
/// Optimizer::new(SignDecay { sign_decay: 0.5 }, &Layout::of(&model)?)?.update(&mut model, &tree!([0.0, 0.0, 0.0]))?;
/// assert_eq!(model, tree!([0.5, -9.5, 0.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct SignDecay {
    /// The weight of the parameters' signs in the direction: how far a step pulls, before a rule's
    /// rate behind it. Finite and 0 or more; 1e-3, Optimisers.jl's default.
    pub sign_decay: f64,
}

impl Default for SignDecay {
    fn default() -> Self {
        SignDecay { sign_decay: 1e-3 }
    }
}

impl Rule for SignDecay {
    fn validate(&self) -> Result<()> {
        check_non_negative("sign_decay", self.sign_decay)
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }
}

impl RuleFor<f64> for SignDecay {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl SignDecay {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let sign_decay = E::from_f64(self.sign_decay);
        each_as::<E, _>(move |x, dx, []| dx + sign_decay * sign(x))
    }
}

/// Adds `weight_decay·x` to the direction. Where that is 0 nothing is added, and no product formed:
/// a parameter may be −∞, as those of a mask are, and 0·∞ is NaN.
pub(super) fn penalty<E: FlatElement>(weight_decay: f64) -> impl Kernel<E> {
    let weight_decay: E = saturating(weight_decay);
    choose(
        weight_decay == E::zero(),
        (),
        each_as::<E, _>(move |x, dx, []| dx + weight_decay * x),
    )
}

/// Decoupled weight decay: behind a rule, takes `share·x` off the parameters beside the rule's step.
/// An infinite parameter stays, as in PyTorch, which multiplies x by 1 − share: its share would be
/// infinite too, and ∞ − ∞ is NaN, so the share of the greatest finite number is taken off it.
pub(super) fn shrinkage<E: FlatElement>(share: f64) -> impl Kernel<E> {
    let share: E = saturating(share);
    each_as::<E, _>(move |x, dx, []| {
        let finite = x.clamp(E::min_value(), E::max_value());
        dx + share * finite
    })
}

/// The parameters' weight in the gradient and in the step: one of them is 0.
pub(super) fn coupling(lr: f64, weight_decay: f64, is_decoupled: bool) -> (f64, f64) {
    if is_decoupled {
        (0.0, lr * weight_decay)
    } else {
        (weight_decay, 0.0)
    }
}

/// −1, 0 or 1, of an `f32` or an `f64`; NaN of NaN. Of 0 it is 0, where [`f32::signum`] has 1: what a rule that steps by
/// sign needs, lest elements without a gradient move.
///
/// ```
/// assert_eq!([-3.0, 0.0, 0.5].map(flatleaf::optim::sign), [-1.0, 0.0, 1.0]);
/// ```
#[inline(always)]
pub fn sign<E: FlatElement>(x: E) -> E {
    if x == E::zero() {
        E::zero()
    } else {
        x.signum()
    }
}
