//! The norms that a stage has to know before it can go on: of which order, over what, and what to do
//! about one that is not finite. Taken leaf by leaf, so that their bits depend neither on the number
//! of threads nor on where a step begins and ends a slice.

use super::part_gradient::PartGradient;
use crate::element::FlatElement;
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
    pub(super) of_parameters: bool,
}

/// What was measured: norms of the parameters and of the direction, or the direction itself.
pub(super) enum Measured<E> {
    Global([f64; 2]),
    Leaves(Vec<[f64; 2]>),
    /// The directions of whole leaves, as they have been changed; empty of others.
    Directions(Vec<Vec<E>>),
}

impl<E> Measured<E> {
    #[inline(always)]
    pub(super) fn at(&self, leaf: usize) -> [f64; 2] {
        match self {
            Measured::Global(norms) => *norms,
            Measured::Leaves(leaves) => leaves[leaf],
            Measured::Directions(_) => unreachable!("a number is that of a norm or of a direction"),
        }
    }

    #[inline(always)]
    pub(super) fn direction(&self, leaf: usize) -> &[E] {
        match self {
            Measured::Directions(leaves) => &leaves[leaf],
            _ => unreachable!("a number is that of a norm or of a direction"),
        }
    }

    pub(super) fn is_global(&self) -> bool {
        matches!(self, Measured::Global(_))
    }
}

impl Measure {
    pub(super) fn global() -> Self {
        Measure {
            is_global: true,
            p: 2.0,
            max: None,
            non_finite: NonFinite::Propagate,
            of_parameters: false,
        }
    }

    pub(super) fn leaf() -> Self {
        Measure {
            is_global: false,
            of_parameters: true,
            ..Measure::global()
        }
    }

    pub(super) fn clip(is_global: bool, p: f64, max: f64, non_finite: NonFinite) -> Self {
        Measure {
            is_global,
            p,
            max: Some(max),
            non_finite,
            of_parameters: false,
        }
    }

    /// Whether slices add sums of squares: those of f32 do not overflow in f64. Other powers may, and
    /// squares of f64, so that slices add norms there.
    fn adds_squares<E: FlatElement>(self) -> bool {
        E::HAS_SQUARES && self.p == 2.0
    }

    /// What a slice adds, of its parameters and of its direction: sums of squares, or norms.
    pub(super) fn slice<E: FlatElement>(self, x: &[E], dx: PartGradient<'_, E>) -> [f64; 2] {
        let of_parameters = match self.of_parameters {
            true => self.total(x),
            false => 0.0,
        };
        let of_direction = match dx.elements() {
            Some(elements) => self.total(elements),
            None => self.total_read(dx),
        };
        [of_parameters, of_direction]
    }

    fn total<E: FlatElement>(self, slice: &[E]) -> f64 {
        match self.adds_squares::<E>() {
            true => ops::sum_of_squares(slice),
            false => ops::norm(slice, self.p),
        }
    }

    fn total_read<E: FlatElement>(self, dx: PartGradient<'_, E>) -> f64 {
        if !self.adds_squares::<E>() {
            // Orders that are read twice, and seldom asked for.
            return ops::norm(&dx.all(), self.p);
        }
        let read = |start: usize, to: &mut [E]| dx.slice(start..start + to.len()).read(to);
        ops::sum_of_squares_read(dx.len(), read)
    }

    pub(super) fn merge<E: FlatElement>(self, a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
        if self.adds_squares::<E>() {
            [a[0] + b[0], a[1] + b[1]]
        } else {
            std::array::from_fn(|k| merged(self.p, a[k], b[k]))
        }
    }

    /// The norms, of all that was merged.
    pub(super) fn norms<E: FlatElement>(self, total: [f64; 2]) -> [f64; 2] {
        if self.adds_squares::<E>() {
            total.map(f64::sqrt)
        } else {
            total
        }
    }
}

/// The p-norm of two slices together, of each one's.
fn merged(p: f64, a: f64, b: f64) -> f64 {
    match p {
        1.0 => a + b,
        f64::INFINITY => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        _ if a == 0.0 || b == 0.0 || !(a.is_finite() && b.is_finite()) => a + b,
        // By operations that are the same on every machine, which a power is not.
        2.0 => {
            let (lesser, greater) = if a < b { (a, b) } else { (b, a) };
            let ratio = lesser / greater;
            greater * (1.0 + ratio * ratio).sqrt()
        }
        p => {
            let greater = a.max(b);
            greater * ((a / greater).powf(p) + (b / greater).powf(p)).powf(1.0 / p)
        }
    }
}

/// The factor that brings a norm down to `max`; 1 for a norm that is not above it.
#[inline(always)]
pub(super) fn clip_scale(norm: f64, max: f64) -> f64 {
    if norm <= max { 1.0 } else { max / norm }
}
