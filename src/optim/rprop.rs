//! Steps by sign alone.

use super::decay::sign;
use super::kernel::{Kernel, each};
use super::rule::{Rule, check, non_negative};
use crate::error::Result;

/// Every element has a step size of its own, which grows while the sign of its gradient stays and
/// shrinks where it changes.
///
/// ```text
/// size ← lr                                at the first step
/// size ← clamp(size·η₊)                    if g·before > 0
/// size ← clamp(size·η₋),  g ← 0            if g·before < 0
/// size ← clamp(size)                       otherwise
/// x    ← x − size·sign(g),  before ← g
/// ```
///
/// For gradients of the whole data; noise turns signs. Riedmiller and Braun, *A direct adaptive
/// method for faster backpropagation learning: the RPROP algorithm*, 1993, in the form of iRprop−
/// (Igel and Hüsken, 2000). Formula and defaults: PyTorch 2.9's `Rprop`. Optax clamps sizes only
/// where they change; Optimisers.jl, which does too, has a rate of 0.001.
///
/// ```
/// use flatleaf::optim::{Optimizer, Rprop};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([0.0, 0.0]);
/// let mut optimizer = Optimizer::new(Rprop { lr: 0.5, etas: (0.5, 2.0), ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([-3.0, 0.25]))?;
/// assert_eq!(model, tree!([0.5, -0.5]));
/// optimizer.update(&mut model, &tree!([-1.0, -1.0]))?; // the second has turned and waits
/// assert_eq!(model, tree!([1.5, -0.5]));
/// optimizer.update(&mut model, &tree!([-1.0, -1.0]))?;
/// assert_eq!(model, tree!([3.5, -0.25]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Rprop {
    /// The first step size; 0.01. Later changes matter only to leaves that have not moved yet.
    pub lr: f64,
    /// The factors by which a size shrinks and grows; (0.5, 1.2).
    pub etas: (f64, f64),
    /// The least and the greatest size; (1e-6, 50).
    pub step_sizes: (f64, f64),
}

impl Default for Rprop {
    fn default() -> Self {
        Rprop {
            lr: 1e-2,
            etas: (0.5, 1.2),
            step_sizes: (1e-6, 50.0),
        }
    }
}

impl Rule for Rprop {
    fn validate(&self) -> Result<()> {
        let ((shrinking, growing), (least, greatest)) = (self.etas, self.step_sizes);
        non_negative("lr", self.lr)?;
        check(
            "etas.0",
            shrinking,
            0.0 < shrinking && shrinking < 1.0,
            "a number between 0 and 1",
        )?;
        check(
            "etas.1",
            growing,
            growing > 1.0 && growing.is_finite(),
            "a finite number above 1",
        )?;
        non_negative("step_sizes.0", least)?;
        check(
            "step_sizes.1",
            greatest,
            greatest >= least && greatest.is_finite(),
            "a finite number of `step_sizes.0` or more",
        )
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["prev", "step_size"]
    }

    /// In sums of what is 0 or 1: with branches the loop takes twice as long.
    fn kernel(&self, step: u64) -> impl Kernel {
        let initial = if step == 1 { self.lr as f32 } else { 0.0 }; // sizes are 0 before
        let (shrinking, growing) = (self.etas.0 as f32, self.etas.1 as f32);
        let (least, greatest) = (self.step_sizes.0 as f32, self.step_sizes.1 as f32);
        each(move |_, dx, [before, size]| {
            let agreement = sign(dx * *before);
            let (agrees, turned) = (agreement.max(0.0), (-agreement).max(0.0));
            let factor = agrees * growing + turned * shrinking + (1.0 - agrees - turned);
            *size = (factor * (*size + initial)).max(least).min(greatest);
            *before = dx * (1.0 - turned);
            *size * sign(*before)
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}
