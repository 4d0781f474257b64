//! What the function of an objective returns: a loss, and a gradient as a tree or as a vector.

use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// What the function of an [`Objective`](crate::Objective) returns: `(loss, gradient)`, or a
/// `Result` of it.
///
/// The loss is `f32` or `f64`; one that is infinite or NaN is handed on as it is. The gradient is a
/// tree of any type, which is read as by [`Layout::gather_grad`], or a [`FlatGrad`]; `()` will do
/// where no solver asks for a gradient. The error of a `Result` is the error of the objective's
/// methods; it has to hold flatleaf's own too.
///
/// ```
/// use flatleaf::{destructure, objective, Error};
///
/// let model = [3.0_f32];
/// let (flat, layout) = destructure(&model)?;
/// let square = objective(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
/// assert_eq!(square.value(&flat)?, 9.0);
///
/// let refusing = objective(&layout, &model, |_| Err::<(f32, ()), _>(Error::custom("no data")))?;
/// assert!(refusing.value(&flat).unwrap_err().is_custom());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Evaluation {
    /// The gradient.
    type Grads: GradientSource;
    /// What may go wrong.
    type Error: From<Error>;

    /// The loss and the gradient.
    ///
    /// # Errors
    /// The user's.
    ///
    /// ```
    /// use flatleaf::Evaluation;
    ///
    /// assert_eq!((0.5_f32, [1.0_f32]).into_result()?, (0.5_f64, [1.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn into_result(self) -> Result<(f64, Self::Grads), Self::Error>;
}

impl<L: Into<f64>, G: GradientSource> Evaluation for (L, G) {
    type Grads = G;
    type Error = Error;

    fn into_result(self) -> Result<(f64, G)> {
        Ok((self.0.into(), self.1))
    }
}

impl<L: Into<f64>, G: GradientSource, E: From<Error>> Evaluation for Result<(L, G), E> {
    type Grads = G;
    type Error = E;

    fn into_result(self) -> Result<(f64, G), E> {
        self.map(|(loss, grads)| (loss.into(), grads))
    }
}

/// A gradient that an [`Objective`](crate::Objective) reads: a tree of any type, or a [`FlatGrad`]
/// of the objective's layout.
///
/// A tree's ties are summed, or not, as the objective was told; a flat gradient has none any more.
/// Leaves that are absent in either are absent. A gradient of another float type than the
/// objective's is converted, rounded to nearest. There is nothing to implement: every [`Tree`] is a
/// source.
///
/// ```
/// use flatleaf::{destructure, objective, FlatGrad, GradientSource};
///
/// fn gradient_of(source: impl GradientSource) -> flatleaf::Result<Vec<f32>> {
///     let model = [1.0_f32, 2.0];
///     let (flat, layout) = destructure(&model)?;
///     let mut source = Some(source);
///     let once = objective(&layout, &model, |_| (0.0, source.take().expect("one evaluation")))?;
///     let mut gradient = vec![0.0; flat.len()];
///     once.gradient(&flat, &mut gradient)?;
///     Ok(gradient)
/// }
///
/// let layout = flatleaf::Layout::of(&[0.0_f32; 2])?;
/// assert_eq!(gradient_of([3.0_f32, 4.0])?, [3.0, 4.0]);
/// assert_eq!(gradient_of(FlatGrad::from_flat(&layout, vec![3.0_f32, 4.0])?)?, [3.0, 4.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait GradientSource {
    #[doc(hidden)]
    fn write_to<X: FlatElement>(
        &self,
        layout: &Layout,
        tied: TiedGrads,
        to: &mut FlatGrad<X>,
    ) -> Result<()>;
}

impl<T: Tree> GradientSource for T {
    fn write_to<X: FlatElement>(
        &self,
        layout: &Layout,
        tied: TiedGrads,
        to: &mut FlatGrad<X>,
    ) -> Result<()> {
        layout.gather_grad_into_tied(self, to, tied)
    }
}

impl<E: FlatElement> GradientSource for FlatGrad<E> {
    fn write_to<X: FlatElement>(
        &self,
        _layout: &Layout,
        _tied: TiedGrads,
        to: &mut FlatGrad<X>,
    ) -> Result<()> {
        to.copy_from(self)
    }
}
