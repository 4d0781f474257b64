//! Several gradients for one step.

use super::kernel::{Kernel, choose, each_as, go_on_if};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// Holds gradients back and hands on the mean of every `steps` of them; in between nothing behind
/// it in the chain moves.
///
/// What a leaf's window holds is counted for every leaf by itself and stored with it: a leaf without
/// a gradient goes on where it was, and if `steps` is changed a window that has begun ends when it
/// holds the new number. [`Optimizer::flush`](super::Optimizer::flush) ends windows early, after the
/// last batch of an epoch. Stages behind count the steps that they take.
///
/// If a stage behind refuses or skips gradients that are not finite, so does this one when it adds
/// one up: nothing is added, and the next good gradient counts.
///
/// Optimisers.jl's `AccumGrad`, Optax' `MultiSteps`. To add up gradients of one flat vector outside
/// of an optimiser there is [`FlatGrad::add`](crate::FlatGrad::add).
///
/// ```
/// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([0.0]);
/// let rule = (Accumulate { steps: 2 }, Sgd { lr: 1.0, ..Default::default() });
/// let mut optimizer = Optimizer::new(rule, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([1.0]))?;
/// assert_eq!(model, tree!([0.0]));
/// optimizer.update(&mut model, &tree!([2.0]))?;
/// assert_eq!(model, tree!([-1.5]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Accumulate {
    /// How many gradients make a step; 1 or more.
    pub steps: u64,
}

impl Default for Accumulate {
    fn default() -> Self {
        Accumulate { steps: 4 }
    }
}

impl Rule for Accumulate {
    fn validate(&self) -> Result<()> {
        if self.steps > 0 {
            Ok(())
        } else {
            Err(Error::argument("1 or more", self.steps).at("steps"))
        }
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["accumulated"]
    }

    fn counters(&self) -> Vec<&'static str> {
        vec!["held"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.window(((step - 1) % self.steps) as f64)
    }

    fn kernel_with(&self, _step: u64, counters: &[f64]) -> impl Kernel {
        self.window(counters[0])
    }

    fn advance(&self, _step: u64, counters: &mut [f64]) -> bool {
        let held = &mut counters[0];
        let is_last = self.is_last_of_window(*held);
        *held = if is_last { 0.0 } else { *held + 1.0 };
        is_last
    }

    /// What is held becomes negative: the window ends, and no gradient comes.
    fn begin_flush(&self, counters: &mut [f64]) -> Option<bool> {
        let holds = counters[0] > 0.0;
        counters[0] = -counters[0];
        Some(holds)
    }
}

impl RuleFor<f64> for Accumulate {
    fn kernel_as(&self, _shape: &[usize], _step: u64, counters: &[f64]) -> impl Kernel<f64> {
        self.window(counters[0])
    }
}

impl Accumulate {
    /// A window that has begun ends when it holds as many gradients as are wanted now, or more.
    fn is_last_of_window(&self, held: f64) -> bool {
        held < 0.0 || held + 1.0 >= self.steps as f64
    }

    /// The step of a leaf of which so many gradients are held.
    fn window<E: FlatElement>(&self, held: f64) -> impl Kernel<E> + use<E> {
        let is_last = self.is_last_of_window(held);
        let is_flushed = held < 0.0;
        let count = if is_flushed { -held } else { held + 1.0 };
        let divisor = match is_last {
            true => E::from_f64(count),
            false => E::one(),
        };
        let first = each_as::<E, _>(move |_, dx, [sum]| {
            *sum = dx;
            *sum / divisor
        });
        // Of a window that is ended without a gradient what stages in front make of none is left out.
        let taken = if is_flushed { E::zero() } else { E::one() };
        let further = each_as::<E, _>(move |_, dx, [sum]| {
            *sum += taken * dx;
            *sum / divisor
        });
        let sum = choose(held == 0.0, first, further);
        (sum, go_on_if(is_last))
    }
}
