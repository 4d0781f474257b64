//! Clipping by value and by the norm of the whole slice.

use super::reduce::{first_non_finite, settle, square};
use super::{elementwise, lanes, norm_l2, parallel};
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// What clipping by norm measured and did.
///
/// ```
/// use flatleaf::ops;
///
/// let clip = ops::clip_norm(&mut [6.0, 8.0], 5.0)?;
/// assert_eq!(clip, ops::Clip { norm_before: 10.0, norm_after: 5.0, scale: 0.5 });
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[must_use = "whether and how much was clipped is worth a line in a log"]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The L2 norm that the slice came with.
    pub norm_before: f64,
    /// The L2 norm that it has now, measured: elements are rounded, so it may miss the maximum by a
    /// relative 1e-7, of f64 by 1e-15.
    pub norm_after: f64,
    /// The factor that was applied, 1 where nothing changed.
    pub scale: f64,
}

/// What to do about a norm that is infinite or NaN. The norm of finite elements never is, but for
/// one of `f64` above 1.8e308.
///
/// ```
/// use flatleaf::ops::{clip_norm_with, NonFinite};
///
/// let mut x = [1.0, f32::INFINITY];
/// assert!(clip_norm_with(&mut x, 1.0, NonFinite::Error).unwrap_err().is_non_finite());
/// assert_eq!(clip_norm_with(&mut x, 1.0, NonFinite::Skip)?.norm_before, f64::INFINITY);
/// assert_eq!(x, [1.0, f32::INFINITY]);
/// let _ = clip_norm_with(&mut x, 1.0, NonFinite::Propagate)?;
/// assert!(x[0] == 0.0 && x[1].is_nan());
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NonFinite {
    /// An error that names the first element at fault; nothing is written.
    #[default]
    Error,
    /// Leave the slice as it is: `scale` is 1 and `norm_before` says why, so that the caller can
    /// skip the step.
    Skip,
    /// Scale by the formula all the same. A NaN makes all elements NaN; an infinity makes itself
    /// NaN and the finite ones 0. An infinite norm is within an infinite maximum, and then nothing
    /// changes.
    Propagate,
}

/// Scales `x` so that its L2 norm is at most `max`.
///
/// The factor is `max / norm`, Optax' form. A norm up to and including `max` changes nothing, not a
/// bit: PyTorch's `max / (norm + 1e-6)` shrinks a gradient whose norm is exactly `max`, and Optax'
/// own gives NaN where norm and `max` are both 0. Elements are scaled in f64, so that a small
/// factor does not vanish. An infinite `max` only measures.
///
/// This is the norm of the slice as a whole: for clipping each leaf by itself, call it on each
/// leaf's slice.
///
/// Reads `x` once, and once more and writes it where it is clipped.
///
/// ***Errors***, before anything is written: `is_argument` if `max` is negative or NaN;
/// `is_non_finite` if an element is infinite or NaN, to which [`clip_norm_with`] has other answers.
///
/// ```
/// use flatleaf::ops;
///
/// let mut gradient = [3.0_f32, 4.0];
/// let clip = ops::clip_norm(&mut gradient, 1.0)?;
/// assert_eq!(gradient, [0.6, 0.8]);
/// assert_eq!((clip.norm_before, clip.scale), (5.0, 0.2));
///
/// let again = ops::clip_norm(&mut [3.0, 4.0], 5.0)?;
/// assert_eq!(again, ops::Clip { norm_before: 5.0, norm_after: 5.0, scale: 1.0 });
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn clip_norm<E: FlatElement>(x: &mut [E], max: f64) -> Result<Clip> {
    clip_norm_with(x, max, NonFinite::Error)
}

/// Scales `x` so that its L2 norm is at most `max`, with a choice of what happens where that norm
/// is infinite or NaN: an error, no change, or the formula all the same; see [`NonFinite`].
///
/// For gradients under mixed precision, whose infinities are a reason to skip a step and not to end
/// the run. Reads `x` once, and once more and writes it where it is clipped.
///
/// ***Errors***, before anything is written: `is_argument` if `max` is negative or NaN;
/// `is_non_finite`, with [`NonFinite::Error`], if an element is infinite or NaN.
///
/// ```
/// use flatleaf::ops::{self, NonFinite};
///
/// let mut gradient = [1.0, f32::NAN];
/// assert!(ops::clip_norm(&mut gradient, 1.0).unwrap_err().is_non_finite());
///
/// let clip = ops::clip_norm_with(&mut gradient, 1.0, NonFinite::Skip)?;
/// assert!(clip.norm_before.is_nan() && gradient[0] == 1.0);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn clip_norm_with<E: FlatElement>(
    x: &mut [E],
    max: f64,
    non_finite: NonFinite,
) -> Result<Clip> {
    check_max(max)?;
    let norm = norm_l2(x);
    match non_finite {
        NonFinite::Error if !norm.is_finite() => Err(at_fault(x)),
        NonFinite::Skip if !norm.is_finite() => Ok(unchanged(norm)),
        _ if norm <= max => Ok(unchanged(norm)),
        _ => Ok(shrink(x, norm, max / norm)),
    }
}

/// Limits every element to `-max_abs`…`max_abs`, each by itself, so that the direction of `x` may
/// change: PyTorch's `clip_grad_value_`. NaN stays NaN.
///
/// Reads and writes `x` once.
///
/// ***Errors***, before anything is written: `is_argument` if `max_abs` is negative or NaN.
///
/// ```
/// use flatleaf::ops;
///
/// let mut gradient = [500.0, -5.0, 0.5];
/// ops::clip_value(&mut gradient, 1.0)?;
/// assert_eq!(gradient, [1.0, -1.0, 0.5]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn clip_value<E: FlatElement>(x: &mut [E], max_abs: E) -> Result<()> {
    check_max(max_abs.into())?;
    elementwise::clamp(x, -max_abs, max_abs);
    Ok(())
}

fn check_max(max: f64) -> Result<()> {
    if max >= 0.0 {
        Ok(())
    } else {
        Err(Error::argument("a maximum of 0 or more", max))
    }
}

#[cold]
fn at_fault<E: FlatElement>(x: &[E]) -> Error {
    match first_non_finite(x) {
        Some(index) => Error::non_finite(index, x[index]),
        None => Error::non_finite_norm(),
    }
}

fn unchanged(norm: f64) -> Clip {
    Clip {
        norm_before: norm,
        norm_after: norm,
        scale: 1.0,
    }
}

/// Scales, and measures each chunk while it is in the cache.
fn shrink<E: FlatElement>(x: &mut [E], norm: f64, scale: f64) -> Clip {
    let scaled = move |x: E| E::from_f64(x.into() * scale);
    // The new norm is measured and not computed: elements were rounded, and some may have become 0.
    let shrink_chunk = |x: &mut [E]| {
        elementwise::map_chunk(x, &scaled);
        lanes::sum(x, square)
    };
    let norm_after = if E::HAS_SQUARES {
        settle(parallel::fold(x, shrink_chunk, |a, b| a + b)).sqrt()
    } else {
        elementwise::map(x, scaled);
        norm_l2(x)
    };
    Clip {
        norm_before: norm,
        norm_after,
        scale,
    }
}
