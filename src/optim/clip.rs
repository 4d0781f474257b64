//! Clipping as a stage of a chain.

use super::kernel::{Kernel, Scale, each_as};
use super::limits::check_that;
use super::measure::{Measure, clip_scale};
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;
use crate::ops::NonFinite;

/// Limits every element of the direction to `-max`…`max`. NaN stays NaN.
///
/// PyTorch's `clip_grad_value_`, Optax' `clip`, Optimisers.jl's `ClipGrad`. Default: 1.
///
/// ```
/// use flatleaf::optim::{ClipValue, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([10.0, 10.0]);
/// Optimizer::new(ClipValue { max: 2.0 }, &Layout::of(&model)?)?.update(&mut model, &tree!([1.0, 100.0]))?;
/// assert_eq!(model, tree!([9.0, 8.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct ClipValue {
    /// The greatest magnitude that is left.
    #[cfg_attr(feature = "serde", serde(with = "super::non_finite::number"))]
    pub max: f64,
}

impl Default for ClipValue {
    fn default() -> Self {
        ClipValue { max: 1.0 }
    }
}

impl Rule for ClipValue {
    fn validate(&self) -> Result<()> {
        check_that("max", self.max, self.max >= 0.0, "a maximum of 0 or more")
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }
}

impl RuleFor<f64> for ClipValue {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl ClipValue {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let max = E::from_f64(self.max);
        each_as::<E, _>(move |_, dx, []| dx.clamp(-max, max))
    }
}

/// Scales the direction so that its norm over all leaves that take a step is at most `max`; see
/// [`ops::clip_norm`](crate::ops::clip_norm).
///
/// Absent leaves and those that are frozen do not count. What was measured and done is in the
/// [`StepReport`](super::StepReport). Costs one read of the gradient before the step, if it is the first
/// stage; behind others, these are run once more.
///
/// PyTorch's `clip_grad_norm_` but for its 1e-6, Optax' `clip_by_global_norm`. (Optimisers.jl's
/// `ClipNorm` and burn's `Norm` are [`ClipNormPerLeaf`].) Defaults: 1, the L2 norm, and an error on
/// norms that are infinite or NaN; [`NonFinite::Skip`] leaves the whole step out.
///
/// ```
/// use flatleaf::optim::{ClipNorm, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "a": [0.0], "b": [0.0] });
/// let mut optimizer = Optimizer::new(ClipNorm { max: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
/// let report = optimizer.update(&mut model, &tree!({ "a": [-3.0], "b": [-4.0] }))?;
/// assert_eq!((report.clips[0].norm_before, report.clips[0].scale), (5.0, 0.2));
/// assert_eq!(model, tree!({ "a": [0.6], "b": [0.8] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct ClipNorm {
    /// The greatest norm that is left.
    #[cfg_attr(feature = "serde", serde(with = "super::non_finite::number"))]
    pub max: f64,
    /// Which norm: above 0, infinity too.
    #[cfg_attr(feature = "serde", serde(with = "super::non_finite::number"))]
    pub p: f64,
    /// What to do about a norm that is infinite or NaN.
    pub non_finite: NonFinite,
}

impl Default for ClipNorm {
    fn default() -> Self {
        ClipNorm {
            max: 1.0,
            p: 2.0,
            non_finite: NonFinite::Error,
        }
    }
}

impl Rule for ClipNorm {
    fn validate(&self) -> Result<()> {
        validate(self.max, self.p)
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }
}

impl RuleFor<f64> for ClipNorm {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl ClipNorm {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let ClipNorm { max, p, non_finite } = *self;
        clip(Measure::clip(true, p, max, non_finite), max)
    }
}

/// Scales the direction of every leaf by itself, so that the norm of each is at most `max`.
///
/// Optimisers.jl's `ClipNorm`; Optax has `clip_by_block_rms`, a relative. What it measured is in the
/// report's [`leaf_clips`](super::StepReport::leaf_clips). Costs one read of the gradient before the
/// step, if it is the first stage; behind others, these are run once more. Defaults: 1, the L2 norm,
/// and an error on norms that are infinite or NaN; [`NonFinite::Skip`] leaves the whole step out.
///
/// ```
/// use flatleaf::optim::{ClipNormPerLeaf, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "a": [0.0, 0.0], "b": [0.0] });
/// let mut optimizer = Optimizer::new(ClipNormPerLeaf { max: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!({ "a": [-3.0, -4.0], "b": [-0.5] }))?;
/// assert_eq!(model, tree!({ "a": [0.6, 0.8], "b": [0.5] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct ClipNormPerLeaf {
    /// The greatest norm that is left.
    #[cfg_attr(feature = "serde", serde(with = "super::non_finite::number"))]
    pub max: f64,
    /// Which norm: above 0, infinity too.
    #[cfg_attr(feature = "serde", serde(with = "super::non_finite::number"))]
    pub p: f64,
    /// What to do about a norm that is infinite or NaN.
    pub non_finite: NonFinite,
}

impl Default for ClipNormPerLeaf {
    fn default() -> Self {
        ClipNormPerLeaf {
            max: 1.0,
            p: 2.0,
            non_finite: NonFinite::Error,
        }
    }
}

impl Rule for ClipNormPerLeaf {
    fn validate(&self) -> Result<()> {
        validate(self.max, self.p)
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        self.stages()
    }
}

impl RuleFor<f64> for ClipNormPerLeaf {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages()
    }
}

impl ClipNormPerLeaf {
    fn stages<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
        let ClipNormPerLeaf { max, p, non_finite } = *self;
        clip(Measure::clip(false, p, max, non_finite), max)
    }
}

fn validate(max: f64, p: f64) -> Result<()> {
    check_that("max", max, max >= 0.0, "a maximum of 0 or more")?;
    check_that("p", p, p > 0.0, "an order above 0")
}

fn clip<E: FlatElement>(measure: Measure, max: f64) -> impl Kernel<E> {
    Scale {
        measure,
        factor: move |[_, norm]: [f64; 2]| clip_scale(norm, max),
    }
}
