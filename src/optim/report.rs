//! What a step did.

use crate::ops::Clip;

/// What a step did: which leaves moved, which were held back, and what every clipping stage
/// measured.
///
/// Nothing is left out of it silently: a leaf that took part is counted in
/// [`leaves`](StepReport::leaves) or in [`held_back`](StepReport::held_back), and there is an entry
/// for every clipping stage whether or not it was reached.
///
/// ```
/// use flatleaf::ops::NonFinite;
/// use flatleaf::optim::{Accumulate, ClipNorm, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "encoder": [1.0], "head": [1.0] });
/// let clip = ClipNorm { non_finite: NonFinite::Skip, ..Default::default() };
/// let mut optimizer = Optimizer::new((Accumulate { steps: 2 }, clip), &Layout::of(&model)?)?;
///
/// let report = optimizer.update(&mut model, &tree!({ "head": [2.0] }))?; // none for the encoder
/// assert_eq!((report.skipped, report.leaves, report.held_back), (false, 0, 1));
/// assert_eq!(report.clips[0].norm_before, 0.0); // nothing has come that far
///
/// assert!(optimizer.update(&mut model, &tree!({ "head": (vec![f32::NAN]) }))?.skipped);
/// let report = optimizer.update(&mut model, &tree!({ "head": [4.0] }))?;
/// assert_eq!((report.leaves, report.held_back, report.clips[0].norm_before), (1, 0, 3.0));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Whether it was left out, because a norm was infinite or NaN and its stage says
    /// [`NonFinite::Skip`](crate::ops::NonFinite::Skip), or for an
    /// [`overflow`](StepReport::overflow): nothing has moved and nothing is counted.
    pub skipped: bool,
    /// The first leaf, by its index in [`Layout::leaves`](crate::Layout::leaves), whose gradient is
    /// infinite or NaN, if the step was left out for it: of a step by the gradient of a
    /// [scaled loss](super::LossScale).
    pub overflow: Option<usize>,
    /// How many leaves took the step: not those that are frozen, had no gradient, or were held
    /// back.
    pub leaves: usize,
    /// How many leaves a stage held back, as [`Accumulate`](super::Accumulate) does until its window
    /// is full: their gradient is kept, and they have not moved.
    pub held_back: usize,
    /// What each [`ClipNorm`](super::ClipNorm) measured and did, in the order of the chain, also if
    /// the step was skipped for it. A stage that no leaf reached has the norm of nothing, 0, and the
    /// scale 1. Groups with another maximum have another scale. `norm_after` is not measured again:
    /// it is `norm_before` times `scale`.
    pub clips: Vec<Clip>,
    /// What each [`ClipNormPerLeaf`](super::ClipNormPerLeaf) measured and did, in the order of the
    /// chain: for every leaf, by its index in [`Layout::leaves`](crate::Layout::leaves), `None` if it
    /// did not come that far.
    pub leaf_clips: Vec<Vec<Option<Clip>>>,
}

impl StepReport {
    /// The step was left out: what was measured stays, nobody has moved.
    pub(super) fn skip(self) -> Self {
        StepReport {
            skipped: true,
            leaves: 0,
            held_back: 0,
            ..self
        }
    }

    /// The step was left out for the gradient of this leaf.
    pub(super) fn skip_for(self, leaf: usize) -> Self {
        StepReport {
            overflow: Some(leaf),
            ..self.skip()
        }
    }
}

/// What clipping does to a norm. A norm that is not above `max` stays.
pub(super) fn clip(norm: f64, max: f64) -> Clip {
    let scale = super::measure::clip_scale(norm, max);
    Clip {
        norm_before: norm,
        norm_after: if scale == 1.0 { norm } else { norm * scale },
        scale,
    }
}

/// A clipping stage that nothing has reached.
pub(super) fn unreached() -> Clip {
    clip(0.0, 0.0)
}
