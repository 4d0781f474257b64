//! An equal average of the parameters as the last stage of a chain.

use super::ema;
use super::kernel::{Kernel, choose};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// Keeps the mean of the parameters as some steps leave them, in the state vector `average`: all of
/// them weigh the same, however long ago they were.
///
/// ```text
/// average ← average + (x − average)/n        at a leaf's steps start + every, start + 2·every, …,
///                                            the nth that is taken in
/// ```
///
/// Stochastic weight averaging (Izmailov et al. 2018, “Averaging Weights Leads to Wider Optima and
/// Better Generalization”), as PyTorch 2.9's `AveragedModel` does it with its default function,
/// `start` and `every` being what a loop around that one decides. With a schedule of cycles `every`
/// is the length of a cycle.
///
/// How many were taken in is counted for every leaf and stored with it, so `start` and `every` may
/// be changed in the middle of a run: what has been taken in stays and weighs what all weigh.
///
/// It has to be the last stage. A leaf of which nothing was taken in has no average: zeros. To get
/// the average of a whole model, with such leaves as the model has them, ask for
/// [`Optimizer::state_over`](super::Optimizer::state_over).
///
/// ```
/// use flatleaf::optim::{Optimizer, Swa};
/// use flatleaf::Layout;
///
/// let mut flat = [0.0_f32];
/// let mut optimizer = Optimizer::new(((), Swa { start: 1, every: 1 }), &Layout::of(&flat)?)?;
/// for grad in [-100.0, 98.0, -4.0] {
///     optimizer.step(&mut flat, &[grad])?; // to 100, which is left out, 2 and 6
/// }
/// assert_eq!(optimizer.state_of("average"), Some(&[4.0][..]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Swa {
    /// How many of a leaf's first steps are left out; 0.
    pub start: u64,
    /// After those, one step of so many is taken in, the last; 1 or more, and 1 is the default.
    pub every: u64,
}

impl Default for Swa {
    fn default() -> Self {
        Swa { start: 0, every: 1 }
    }
}

impl Rule for Swa {
    fn validate(&self) -> Result<()> {
        if self.every > 0 {
            Ok(())
        } else {
            Err(Error::argument("1 or more", self.every).at("every"))
        }
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["average"]
    }

    fn counters(&self) -> Vec<&'static str> {
        vec!["averaged"]
    }

    /// As if all steps so far had been taken by this configuration.
    fn kernel(&self, step: u64) -> impl Kernel {
        let steps_before = (step - 1).saturating_sub(self.start);
        self.average(step, (steps_before / self.every) as f64)
    }

    fn kernel_with(&self, step: u64, counters: &[f64]) -> impl Kernel {
        self.average(step, counters[0])
    }

    fn advance(&self, step: u64, counters: &mut [f64]) -> bool {
        if self.takes_in(step) {
            counters[0] += 1.0;
        }
        true
    }

    fn has_state(&self, _steps: u64, counters: &[f64]) -> bool {
        counters[0] > 0.0
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl RuleFor<f64> for Swa {
    fn kernel_as(&self, _shape: &[usize], step: u64, counters: &[f64]) -> impl Kernel<f64> {
        self.average(step, counters[0])
    }
}

impl Swa {
    fn takes_in(&self, step: u64) -> bool {
        step > self.start && (step - self.start).is_multiple_of(self.every)
    }

    /// The step of a leaf of whose parameters so many were taken in before.
    fn average<E>(&self, step: u64, averaged: f64) -> impl Kernel<E> + use<E>
    where
        E: FlatElement,
    {
        let fresh = 1.0 / (averaged + 1.0);
        choose(self.takes_in(step), ema::move_average(fresh), ())
    }
}
