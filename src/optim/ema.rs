//! A moving average of the parameters as the last stage of a chain.

use super::kernel::{Kernel, each_as, seldom};
use super::limits::check_that;
use super::rule::{Rule, RuleFor};
use crate::element::FlatElement;
use crate::error::Result;

/// Keeps a moving average of the parameters as the step leaves them, in the state vector `average`.
///
/// ```text
/// average ← x                                             at a leaf's first step
/// average ← average + (1 − d)·(x − average)               from then on, with d = decay
/// d = min(decay, (1 + t)/(10 + t))                        if warm_up
/// average ← average + (1 − d)/(1 − ∏ᵢ dᵢ)·(x − average)   if debias
/// ```
///
/// PyTorch 2.9's `AveragedModel` with `get_ema_avg_fn`, and its default decay. Debiased, it is the
/// average that begins with zeros divided by its weight, as Optax' `ema(debias=True)` returns it:
/// all parameters so far count by their age alone, where otherwise the first counts for all before
/// it. Here the vector itself is always what people want to read. The warm-up is TensorFlow's
/// `ExponentialMovingAverage(num_updates)`.
///
/// It has to be the last stage. A leaf that takes no step keeps its average, and one that never
/// took any has none: zeros. To get the average of a whole model, with such leaves as the model has
/// them, ask for [`Optimizer::state_over`](super::Optimizer::state_over).
///
/// ```
/// use flatleaf::optim::{Ema, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!([6.0]);
/// let mut optimizer = Optimizer::new(((), Ema { decay: 0.75, ..Default::default() }), &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([1.0]))?; // x is 5
/// optimizer.update(&mut model, &tree!([-4.0]))?; // x is 9
/// assert_eq!(optimizer.state_of("average"), Some(&[6.0][..]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Ema {
    /// The weight of the average so far, from 0 to 1; 0.999.
    pub decay: f64,
    /// Whether the decay rises to its value over the first steps; no.
    pub warm_up: bool,
    /// Whether to weigh the first parameters as all others; no.
    pub debias: bool,
}

impl Default for Ema {
    fn default() -> Self {
        Ema {
            decay: 0.999,
            warm_up: false,
            debias: false,
        }
    }
}

impl Rule for Ema {
    fn validate(&self) -> Result<()> {
        check_that(
            "decay",
            self.decay,
            (0.0..=1.0).contains(&self.decay),
            "a number from 0 to 1",
        )
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["average"]
    }

    fn counters(&self) -> Vec<&'static str> {
        vec!["weight"]
    }

    /// As if all steps so far had been at the rates of this configuration.
    fn kernel(&self, step: u64) -> impl Kernel {
        self.average(step, 1.0 - self.product(step - 1))
    }

    fn kernel_with(&self, step: u64, counters: &[f64]) -> impl Kernel {
        self.average(step, counters[0])
    }

    fn advance(&self, step: u64, counters: &mut [f64]) -> bool {
        counters[0] = self.weight_with(step, counters[0]);
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl RuleFor<f64> for Ema {
    fn kernel_as(&self, _shape: &[usize], step: u64, counters: &[f64]) -> impl Kernel<f64> {
        self.average(step, counters[0])
    }
}

impl Ema {
    /// The step of a leaf whose average has this weight so far.
    fn average<E>(&self, step: u64, weight: f64) -> impl Kernel<E> + use<E>
    where
        E: FlatElement,
    {
        move_average(self.fresh(step, weight))
    }

    /// The weight of the new parameters.
    fn fresh(&self, step: u64, weight: f64) -> f64 {
        let fresh = 1.0 - self.decay_at(step);
        match step {
            1 => 1.0,
            _ if self.debias && fresh > 0.0 => fresh / self.weight_with(step, weight),
            _ => fresh,
        }
    }

    /// 1 − ∏ dᵢ, the weight of all parameters in an average that began with zeros, by recurrence:
    /// the rates are those that the steps were taken at, whatever the configuration is now.
    fn weight_with(&self, step: u64, weight: f64) -> f64 {
        let decay = self.decay_at(step);
        decay * weight + (1.0 - decay)
    }

    fn decay_at(&self, step: u64) -> f64 {
        if self.warm_up {
            self.decay.min(warm(step))
        } else {
            self.decay
        }
    }

    /// ∏ dᵢ over the steps up to this one. While the warm-up lasts, the factors (1 + i)/(10 + i)
    /// cancel but for nine.
    fn product(&self, step: u64) -> f64 {
        let warm_steps = if self.warm_up {
            self.warm_steps().min(step as f64)
        } else {
            0.0
        };
        let warm: f64 = (2..=10)
            .map(|i| f64::from(i) / (warm_steps + f64::from(i)))
            .product();
        warm * self.decay.powf(step as f64 - warm_steps)
    }

    /// How many steps have (1 + t)/(10 + t) below the decay.
    fn warm_steps(&self) -> f64 {
        if self.decay < 1.0 {
            ((10.0 * self.decay - 1.0) / (1.0 - self.decay))
                .ceil()
                .max(1.0)
                - 1.0
        } else {
            f64::INFINITY
        }
    }
}

/// `average ← average + fresh · (x − average)`, of the parameters as the step leaves them.
pub(super) fn move_average<E: FlatElement>(fresh: f64) -> impl Kernel<E> {
    let complement = E::from_f64(1.0 - fresh);
    let fresh = E::from_f64(fresh);
    // Two forms, so that both ends are exact, as `ops::lerp`.
    let of_small = each_as::<E, _>(move |x, dx, [average]| {
        let way = x - dx - *average;
        *average += fresh * way;
        dx
    });
    let of_large = each_as::<E, _>(move |x, dx, [average]| {
        let moved = x - dx;
        let way = moved - *average;
        *average = moved - way * complement;
        dx
    });
    let is_large = fresh >= E::from_f64(0.5);
    seldom(is_large, of_large, of_small)
}

fn warm(step: u64) -> f64 {
    (1.0 + step as f64) / (10.0 + step as f64)
}
