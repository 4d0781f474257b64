//! In how many bytes the state vectors are kept.

use crate::element::FloatElement;

/// How an [`Optimizer`](super::Optimizer) keeps its state vectors. A step computes in `f32` whichever
/// it is: some elements are read at a time, go through the rule, and are rounded to what they are
/// kept in.
///
/// | | bytes an element | for |
/// | --- | --- | --- |
/// | `Full` | 4 | |
/// | `Bf16` | 2 | every vector of every rule |
/// | `EightBits` | 1.016 | the vectors that a rule names as its [moments](super::Rule::moments); others stay full |
///
/// The [design page](crate::design#can-state-be-kept-in-fewer-bytes) says what each saves, and what
/// rounding to the nearest does to a second moment.
///
/// ```
/// use flatleaf::optim::{AdamW, Ema, Optimizer, Rounding, Storage};
/// use flatleaf::Layout;
///
/// let mut flat = vec![1.0_f32; 1000];
/// let layout = Layout::of(&flat)?;
/// let storage = Storage::EightBits(Rounding::default());
/// let mut optimizer = Optimizer::with_storage((AdamW::default(), Ema::default()), &layout, storage)?;
/// optimizer.step(&mut flat, &vec![0.5; 1000])?;
/// assert_eq!(optimizer.storage_of("exp_avg"), Some(storage));
/// assert_eq!(optimizer.storage_of("average"), Some(Storage::Full)); // no moment of the gradient
/// assert_eq!(optimizer.state_bytes(), 3 * 1016 + 4000); // AdamW's three, and the average
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Storage {
    /// In the type of the flat vector, as a step computes it.
    #[default]
    Full,
    /// In the upper half of an `f32`: its range, and 8 bits of its precision. A step takes some 1.9
    /// times as long, where all of it is in the caches, if it is rounded to the nearest, if a rule
    /// steps by `amsgrad`, or if an average takes in half of a parameter or more: only what most
    /// steps are has a loop of its own.
    Bf16(Rounding),
    /// In 8 bits with a scale for every 256 elements of a leaf: dynamic quantisation (Dettmers et
    /// al., *8-bit Optimizers via Block-wise Quantization*, 2022).
    EightBits(Rounding),
}

impl Storage {
    /// A number that two of them have in common only if they are alike: 0 if all is full.
    pub(super) fn fingerprint(self) -> u64 {
        let (form, rounding) = match self {
            Storage::Full => return 0,
            Storage::Bf16(rounding) => (1, rounding),
            Storage::EightBits(rounding) => (2, rounding),
        };
        let rounding = match rounding {
            Rounding::Nearest => 1,
            Rounding::Stochastic { seed } => seed.rotate_left(32) ^ 2,
        };
        (rounding ^ (form << 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// How a number is rounded that lies between two that can be stored.
///
/// ```
/// use flatleaf::optim::{Optimizer, Rounding, Sgd, Storage};
/// use flatleaf::Layout;
///
/// // A buffer of momentum that takes in a thousandth of every gradient.
/// let rule = Sgd { lr: 1.0, momentum: 0.999, dampening: 0.999, ..Default::default() };
/// let layout = Layout::of(&vec![0.0_f32; 256])?;
/// let after = |rounding| -> flatleaf::Result<f32> {
///     let mut flat = vec![0.0_f32; 256];
///     let mut optimizer = Optimizer::with_storage(rule, &layout, Storage::Bf16(rounding))?;
///     optimizer.step(&mut flat, &vec![1.0; 256])?;
///     for _ in 0..1000 {
///         optimizer.step(&mut flat, &vec![2.0; 256])?;
///     }
///     let buffer = optimizer.state_to_vec("momentum_buffer").unwrap();
///     Ok(buffer.iter().sum::<f32>() / 256.0)
/// };
/// // 2 − 0.999¹⁰⁰⁰ = 1.632. A thousandth of what is missing is less than half of the last place.
/// assert_eq!(after(Rounding::Nearest)?, 1.0);
/// assert!((after(Rounding::Stochastic { seed: 0 })? - 1.632).abs() < 0.01);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Rounding {
    /// To the nearer of the two. What changes by less than half of the distance between them at a
    /// step does not move.
    Nearest,
    /// Up or down at random, by how near either is, so that the expected value is the number. The
    /// random bits are a function of the seed, the leaf's step, the element's place in the flat
    /// vector and the state vector: a step gives the same bits for any number of threads and of
    /// members, and a run that is resumed those of one that was not interrupted.
    Stochastic {
        /// Another seed gives other random bits.
        seed: u64,
    },
}

impl Default for Rounding {
    /// Stochastic, with seed 0.
    fn default() -> Self {
        Rounding::Stochastic { seed: 0 }
    }
}

/// What a state vector is of, so far as that matters for storing it in [8 bits](Storage::EightBits).
///
/// ```
/// use flatleaf::optim::{AdamW, Ema, Moment, Rule};
///
/// let rule = (AdamW::default(), Ema::default());
/// let moments = rule.moments();
/// assert_eq!(moments[..2], [("exp_avg", Moment::First), ("exp_avg_sq", Moment::Second)]);
/// assert!(moments.iter().all(|(name, _)| *name != "average"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A moving average of gradients, or of what is made of them: of both signs. A number that is
    /// small beside the largest of its block may become 0.
    First,
    /// One of squares or magnitudes: 0 or more, and a divisor. What is not 0 does not become 0. A
    /// negative element, which is no such average, makes its block NaN.
    Second,
}

/// A number that state may be stored in, for
/// [`Optimizer::with_state`](super::Optimizer::with_state): `f32`, and `bf16` with the feature
/// `half`.
///
/// ```
/// use flatleaf::optim::{Optimizer, Sgd, Storage};
/// use flatleaf::Layout;
///
/// let layout = Layout::of(&vec![0.0_f32])?;
/// let optimizer = Optimizer::with_state::<f32>(Sgd::default(), &layout)?; // as `new`
/// assert_eq!(optimizer.storage(), Storage::Full);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait StateElement: FloatElement {
    /// How it is stored and rounded.
    #[doc(hidden)]
    const STORAGE: Storage;
}

impl StateElement for f32 {
    const STORAGE: Storage = Storage::Full;
}

#[cfg(feature = "half")]
impl StateElement for half::bf16 {
    const STORAGE: Storage = Storage::Bf16(Rounding::Stochastic { seed: 0 });
}
