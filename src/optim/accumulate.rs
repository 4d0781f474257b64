//! Several gradients for one step.

use super::kernel::{Kernel, choose, each, go_on_if};
use super::rule::Rule;
use crate::error::{Error, Result};

/// Holds gradients back and hands on the mean of every `steps` of them; in between nothing behind
/// it in the chain moves.
///
/// Counted for every leaf by itself: a leaf without a gradient goes on where it was. Stages behind
/// count what they are handed. Optimisers.jl's `AccumGrad`, Optax' `MultiSteps`. To add up
/// gradients of one flat vector outside of an optimiser there is
/// [`FlatGrad::add`](crate::FlatGrad::add).
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

    fn kernel(&self, step: u64) -> impl Kernel {
        let (is_first, is_last) = (
            (step - 1).is_multiple_of(self.steps),
            step.is_multiple_of(self.steps),
        );
        let divisor = self.steps as f32;
        let first = each(move |_, dx, [sum]| {
            *sum = dx;
            *sum / divisor
        });
        let further = each(move |_, dx, [sum]| {
            *sum += dx;
            *sum / divisor
        });
        (choose(is_first, first, further), go_on_if(is_last))
    }

    fn step_behind(&self, step: u64) -> u64 {
        step.div_ceil(self.steps)
    }
}
