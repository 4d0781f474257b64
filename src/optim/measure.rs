//! Norms that a stage has to know before it can go on: measured in a pass of their own, leaf by leaf, so that their bits depend
//! neither on the number of threads nor on where a step begins and ends a slice.

use crate::ops::{self, NonFinite};

/// What a stage asks for.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// Over all leaves together, or over each by itself.
    pub(super) is_global: bool,
    pub(super) p: f64,
    /// What the norm of the direction is to be at most, where it is asked for to clip.
    pub(super) max: Option<f64>,
    pub(super) non_finite: NonFinite,
    /// Whether the parameters' norm is wanted too.
    of_parameters: bool,
}

/// A chunk's part, or that of several: of the parameters and of the direction.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub(super) measure: Measure,
    /// Sums of powers, or the greatest magnitudes.
    total: [f64; 2],
}

/// What was measured: norms of the parameters and of the direction.
pub(super) enum Measured {
    Global([f64; 2]),
    Leaves(Vec<[f64; 2]>),
}

impl Measured {
    pub(super) fn at(&self, leaf: usize) -> [f64; 2] {
        match self {
            Measured::Global(norms) => *norms,
            Measured::Leaves(leaves) => leaves[leaf],
        }
    }

    pub(super) fn is_global(&self) -> bool {
        matches!(self, Measured::Global(_))
    }
}

impl Measure {
    pub(super) fn global() -> Self {
        Measure { is_global: true, p: 2.0, max: None, non_finite: NonFinite::Propagate, of_parameters: false }
    }

    pub(super) fn leaf() -> Self {
        Measure { is_global: false, of_parameters: true, ..Measure::global() }
    }

    pub(super) fn clip(is_global: bool, p: f64, max: f64, non_finite: NonFinite) -> Self {
        Measure { is_global, p, max: Some(max), non_finite, of_parameters: false }
    }

    pub(super) fn part(self, x: &[f32], dx: &[f32]) -> Partial {
        let of_parameters = if self.of_parameters { self.total(x) } else { 0.0 };
        Partial { measure: self, total: [of_parameters, self.total(dx)] }
    }

    /// Sums of squares and of magnitudes do not overflow in f64; other powers may, so their norms are merged.
    fn total(self, x: &[f32]) -> f64 {
        if self.p == 2.0 { ops::sum_of_squares(x) } else { ops::norm(x, self.p) }
    }

    fn merge(self, a: f64, b: f64) -> f64 {
        match self.p {
            1.0 | 2.0 => a + b,
            f64::INFINITY => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
            _ if a == 0.0 || b == 0.0 || !(a + b).is_finite() => a + b,
            p => {
                let greater = a.max(b);
                greater * ((a / greater).powf(p) + (b / greater).powf(p)).powf(1.0 / p)
            }
        }
    }
}

impl Partial {
    /// Of no elements.
    pub(super) fn empty(measure: Measure) -> Self {
        Partial { measure, total: [0.0; 2] }
    }

    pub(super) fn merge(self, other: Partial) -> Partial {
        let total = std::array::from_fn(|k| self.measure.merge(self.total[k], other.total[k]));
        Partial { total, ..self }
    }

    pub(super) fn norms(self) -> [f64; 2] {
        if self.measure.p == 2.0 { self.total.map(f64::sqrt) } else { self.total }
    }
}

/// The factor that brings a norm down to `max`; 1 for a norm that is not above it.
pub(super) fn clip_scale(norm: f64, max: f64) -> f64 {
    if norm <= max { 1.0 } else { max / norm }
}
