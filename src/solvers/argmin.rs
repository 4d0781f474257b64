//! The solvers of [argmin](https://docs.rs/argmin) 0.11 on the flat vector (feature `argmin`).
//!
//! A solver gets `&objective` for its problem and a [`FlatVec`] for its parameters and gradients;
//! its numbers are f64. (An objective made by [`objective_f64`](crate::objective_f64) has argmin's
//! own `Vec<f64>` for both, and no products of the Hessian.)
//!
//! ```
//! use argmin::core::Executor;
//! use argmin::solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS};
//! use flatleaf::argmin::FlatVec;
//! use flatleaf::{destructure, objective, tree};
//!
//! let model = tree!({ "x": [5.0, 6.0] });
//! let (start, layout) = destructure(&model)?;
//! let square = objective(&layout, &model, |model| {
//!     let x = layout.gather(model)?;
//!     let loss = x[0] * x[0] + 10.0 * x[1] * x[1];
//!     Ok::<_, flatleaf::Error>((loss, tree!({ "x": (vec![2.0 * x[0], 20.0 * x[1]]) })))
//! })?;
//!
//! let solver = LBFGS::new(MoreThuenteLineSearch::new(), 7).with_tolerance_grad(1e-4)?;
//! let state = Executor::new(&square, solver).configure(|state| state.param(FlatVec::from(start)).max_iters(50)).run()?.state;
//! let model = square.into_model(&state.best_param.unwrap())?;
//! assert!(layout.gather(&model)?.iter().all(|x| x.abs() < 1e-4));
//! # Ok::<(), argmin::core::Error>(())
//! ```
//!
//! | solver | |
//! | --- | --- |
//! | L-BFGS, its L1 form, nonlinear conjugate gradients, steepest descent, Landweber | with a gradient |
//! | the line searches of Moré and Thuente, of Hager and Zhang, backtracking | with a gradient |
//! | Nelder–Mead | with the loss alone; the function may return `()` for its gradient |
//! | trust region with Steihaug's or Cauchy's step, Newton–CG | with products of the Hessian: [`HessianAt`] |
//! | BFGS, DFP, SR1, dogleg, Newton's and Gauss–Newton's methods | not: they want n × n matrices |
//!
//! # Tolerances
//! Coordinates are f32. argmin's default tolerances are those of f64 and are met, if at all, when
//! nothing changes any more: set them.
//!
//! argmin's trust region widens where the length of a step is its radius to within 2e-15. That of a
//! vector of f32 hardly ever is, so the radius only shrinks: begin with the largest step that you
//! would allow.
//!
//! # Errors
//! What the function returns ends the solver and comes out of `run`, with one exception: argmin's
//! L-BFGS turns an error in its line search into a `TerminationReason::SolverExit` that holds the
//! text.

use std::ops::{Deref, DerefMut};

use ::argmin::core::{CostFunction, Error as ArgminError, Gradient, Hessian};
use argmin_math::{
    ArgminAdd, ArgminConj, ArgminDiv, ArgminDot, ArgminL1Norm, ArgminL2Norm, ArgminMinMax,
    ArgminMul, ArgminSignum, ArgminSub, ArgminZeroLike,
};

use crate::error::Error;
use crate::memory;
use crate::ops;
use crate::solvers::evaluation::Evaluation;
use crate::solvers::objective::Objective;
use crate::tree::Tree;

/// A flat vector that argmin can compute with: a point, a gradient or a direction. Dereferences to
/// its elements.
///
/// Its arithmetic is that of [`ops`]: elements are f32, each operation is computed in f64 and
/// rounded once, and products, norms and factors are f64. The same bits for any number of threads.
/// Vectors of unequal lengths panic with both lengths.
///
/// ```
/// use argmin_math::{ArgminDot, ArgminMul};
/// use flatleaf::argmin::FlatVec;
///
/// let x = FlatVec::from(vec![1.0, 2.0]);
/// let y: FlatVec = x.mul(&0.5);
/// assert_eq!(*y, [0.5, 1.0]);
/// assert_eq!(x.dot(&y), 2.5);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FlatVec(Vec<f32>);

impl From<Vec<f32>> for FlatVec {
    fn from(flat: Vec<f32>) -> Self {
        FlatVec(flat)
    }
}

impl From<FlatVec> for Vec<f32> {
    fn from(flat: FlatVec) -> Self {
        flat.0
    }
}

impl Deref for FlatVec {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for FlatVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl FlatVec {
    fn map(&self, f: impl Fn(f64) -> f64 + Sync) -> FlatVec {
        let mut out = self.clone();
        ops::map(&mut out, move |x| f(x.into()) as f32);
        out
    }

    #[track_caller]
    fn zip(&self, other: &FlatVec, f: impl Fn(f64, f64) -> f64 + Sync) -> FlatVec {
        let mut out = self.clone();
        ops::zip_map(&mut out, other, move |x, y| f(x.into(), y.into()) as f32);
        out
    }
}

/// With another vector, element by element, and with one number for all elements.
macro_rules! arithmetic {
    ($($operation:ident, $method:ident, $f:expr;)*) => {$(
        impl $operation<FlatVec, FlatVec> for FlatVec {
            fn $method(&self, other: &FlatVec) -> FlatVec {
                self.zip(other, $f)
            }
        }

        impl $operation<f64, FlatVec> for FlatVec {
            fn $method(&self, &other: &f64) -> FlatVec {
                self.map(move |x| $f(x, other))
            }
        }
    )*};
}

arithmetic! {
    ArgminAdd, add, |x: f64, y: f64| x + y;
    ArgminSub, sub, |x: f64, y: f64| x - y;
    ArgminMul, mul, |x: f64, y: f64| x * y;
    ArgminDiv, div, |x: f64, y: f64| x / y;
}

/// What argmin's own scaled sums are made of.
impl ArgminMul<FlatVec, FlatVec> for f64 {
    fn mul(&self, x: &FlatVec) -> FlatVec {
        ArgminMul::mul(x, self)
    }
}

impl ArgminDot<FlatVec, f64> for FlatVec {
    fn dot(&self, other: &FlatVec) -> f64 {
        ops::dot(self, other)
    }
}

impl ArgminL1Norm<f64> for FlatVec {
    fn l1_norm(&self) -> f64 {
        ops::norm_l1(self)
    }
}

impl ArgminL2Norm<f64> for FlatVec {
    fn l2_norm(&self) -> f64 {
        ops::norm_l2(self)
    }
}

impl ArgminZeroLike for FlatVec {
    fn zero_like(&self) -> FlatVec {
        FlatVec(memory::zeroed(self.len()))
    }
}

impl ArgminConj for FlatVec {
    fn conj(&self) -> FlatVec {
        self.clone()
    }
}

/// As `f32::signum`: of +0 it is 1, of −0 it is −1. The L1 form of L-BFGS relies on the second.
impl ArgminSignum for FlatVec {
    fn signum(mut self) -> FlatVec {
        ops::map(&mut self, f32::signum);
        self
    }
}

/// NaN in either is NaN.
impl ArgminMinMax for FlatVec {
    fn min(x: &FlatVec, y: &FlatVec) -> FlatVec {
        x.zip(y, |x, y| if x < y || x.is_nan() { x } else { y })
    }

    fn max(x: &FlatVec, y: &FlatVec) -> FlatVec {
        x.zip(y, |x, y| if x > y || x.is_nan() { x } else { y })
    }
}

macro_rules! problem {
    ($($element:ty => $vector:ty),*) => {$(
        impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation<Error: Into<ArgminError>>> CostFunction for &Objective<M, F, R::Error, $element> {
            type Param = $vector;
            type Output = f64;

            fn cost(&self, point: &$vector) -> Result<f64, ArgminError> {
                self.value(point).map_err(Into::into)
            }
        }

        impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation<Error: Into<ArgminError>>> Gradient for &Objective<M, F, R::Error, $element> {
            type Param = $vector;
            type Gradient = $vector;

            fn gradient(&self, point: &$vector) -> Result<$vector, ArgminError> {
                let mut gradient = vec![0.0; point.len()];
                Objective::gradient(self, point, &mut gradient).map_err(Into::into)?;
                Ok(gradient.into())
            }
        }
    )*};
}

problem!(f32 => FlatVec, f64 => Vec<f64>);

impl<'o, M: Tree, F: FnMut(&M) -> R, R: Evaluation<Error: Into<ArgminError>>> Hessian
    for &'o Objective<M, F, R::Error>
{
    type Param = FlatVec;
    type Hessian = HessianAt<'o, M, F, R::Error>;

    fn hessian(&self, point: &FlatVec) -> Result<Self::Hessian, ArgminError> {
        Ok(HessianAt {
            objective: self,
            point: point.clone(),
        })
    }
}

/// The Hessian of an [`Objective`] at a point, without a matrix: it can be multiplied with a
/// vector, and that is all.
///
/// A product costs two evaluations, the central difference of two gradients along the vector
/// (Nocedal and Wright, *Numerical Optimization*, 2006, section 8.1):
///
/// ```text
/// H·v = (∇f(x + εv) − ∇f(x − εv)) / 2ε        ε·‖v‖ = ∛(2⁻²³)·(1 + ‖x‖)
/// ```
///
/// where the error of the difference and the rounding of f32 are about equal: four or five digits.
/// The solvers want no more.
///
/// An error in a product, a product that is not finite among them, cannot be told to argmin: the
/// product is zero, which ends a search for a step, and the solver gets the error when it asks for
/// the next loss or gradient.
///
/// ```
/// use argmin::core::Hessian;
/// use argmin_math::ArgminDot;
/// use flatleaf::argmin::FlatVec;
/// use flatleaf::{destructure, objective};
///
/// let model = [1.0_f32, 1.0];
/// let (flat, layout) = destructure(&model)?;
/// let bowl = objective(&layout, &model, |x| (x[0] * x[0] + 10.0 * x[1] * x[1], [2.0 * x[0], 20.0 * x[1]]))?;
/// let hessian = (&bowl).hessian(&FlatVec::from(flat))?;
/// let product = hessian.dot(&FlatVec::from(vec![1.0, 1.0]));
/// assert!((product[0] - 2.0).abs() < 1e-3 && (product[1] - 20.0).abs() < 1e-3);
/// # Ok::<(), argmin::core::Error>(())
/// ```
pub struct HessianAt<'o, M, F, E = Error> {
    objective: &'o Objective<M, F, E>,
    point: FlatVec,
}

impl<M, F, E> Clone for HessianAt<'_, M, F, E> {
    fn clone(&self) -> Self {
        HessianAt {
            objective: self.objective,
            point: self.point.clone(),
        }
    }
}

impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation> ArgminDot<FlatVec, FlatVec>
    for HessianAt<'_, M, F, R::Error>
{
    fn dot(&self, vector: &FlatVec) -> FlatVec {
        self.product(vector).unwrap_or_else(|error| {
            self.objective.keep(error);
            vector.zero_like()
        })
    }
}

impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation> HessianAt<'_, M, F, R::Error> {
    fn product(&self, vector: &FlatVec) -> Result<FlatVec, R::Error> {
        let length = ops::norm_l2(vector);
        if length == 0.0 {
            return Ok(vector.zero_like());
        }
        let size = 1.0 + ops::norm_l2(&self.point);
        let step = f64::from(f32::EPSILON).cbrt() * size / length;
        let along = |step: f64| {
            let point = self.point.zip(vector, move |x, v| x + step * v);
            let mut gradient = vector.zero_like();
            self.objective.gradient(&point, &mut gradient)?;
            Ok::<_, R::Error>(gradient)
        };
        let product = along(step)?.zip(&along(-step)?, move |ahead, behind| {
            (ahead - behind) / (2.0 * step)
        });
        if ops::all_finite(&product) {
            Ok(product)
        } else {
            Err(self.objective.layout().name_element(&product).into())
        }
    }
}
