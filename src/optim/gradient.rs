//! What a step on the flat vector takes as its gradient.

use std::fmt::Debug;

use super::part_gradient::PartGradient;
use crate::element::{FlatElement, FloatElement};
use crate::error::Result;
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::slices::Floats;

/// A gradient of a flat vector: a [`FlatGrad`], which knows which leaves are absent, or a slice, of
/// which all are present.
///
/// Made by [`Optimizer::step`](super::Optimizer::step) of a `&FlatGrad`, a slice, or a reference to a
/// vector or an array.
///
/// ```
/// use flatleaf::optim::{Gradient, Optimizer, Sgd};
/// use flatleaf::{FlatGrad, Layout};
///
/// let mut flat = vec![1.0_f32, 2.0];
/// let layout = Layout::of(&flat)?;
/// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
/// let by_hand: Vec<f32> = flat.iter().map(|x| 2.0 * x).collect();
/// optimizer.step(&mut flat, &by_hand)?;
/// assert_eq!(flat, [0.0, 0.0]);
/// optimizer.step(&mut flat, Gradient::from(&FlatGrad::zeros(&layout)))?;
/// assert_eq!(flat, [0.0, 0.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Gradient<'g, E = f32>(Kind<'g, E>);

#[derive(Clone, Copy, Debug)]
enum Kind<'g, E> {
    Flat(&'g dyn AnyFlatGrad),
    AllPresent(&'g [E]),
}

/// A flat gradient, whatever its element type.
trait AnyFlatGrad: Debug + Sync {
    fn layout(&self) -> &Layout;

    fn is_present(&self, leaf: usize) -> bool;

    fn floats(&self) -> Floats<'_>;
}

impl<E: FloatElement> AnyFlatGrad for FlatGrad<E> {
    fn layout(&self) -> &Layout {
        self.layout()
    }

    fn is_present(&self, leaf: usize) -> bool {
        self.is_present(leaf)
    }

    fn floats(&self) -> Floats<'_> {
        Floats::of(self)
    }
}

impl<'g, E: FlatElement> Gradient<'g, E> {
    /// A flat gradient of any float type, for a vector of `E`: one of `bf16` is read as it is by a
    /// step on a vector of `f32`.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use flatleaf::optim::{Gradient, Optimizer, Sgd};
    /// use flatleaf::Layout;
    /// use half::bf16;
    ///
    /// let mut flat = vec![1.0_f32, 2.0];
    /// let layout = Layout::of(&flat)?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// let grad = layout.gather_grad_as::<bf16>(&vec![bf16::ONE; 2])?;
    /// optimizer.step(&mut flat, Gradient::of(&grad))?;
    /// assert_eq!(flat, [0.5, 1.5]);
    /// # }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    // A method and no `From`, by which `&FlatGrad::zeros(&layout)` would have several types to be.
    pub fn of<F: FloatElement>(grad: &'g FlatGrad<F>) -> Self {
        Gradient(Kind::Flat(grad))
    }

    pub(super) fn check(&self, layout: &Layout) -> Result<()> {
        match self.0 {
            Kind::Flat(grad) => layout.check_same(grad.layout()),
            Kind::AllPresent(grad) => layout.check_len("the flat gradient", grad.len()),
        }
    }

    pub(super) fn is_present(&self, leaf: usize) -> bool {
        match self.0 {
            Kind::Flat(grad) => grad.is_present(leaf),
            Kind::AllPresent(_) => true,
        }
    }

    pub(super) fn elements(&self) -> PartGradient<'g, E> {
        match self.0 {
            Kind::Flat(grad) => PartGradient::of_floats(grad.floats()),
            Kind::AllPresent(grad) => PartGradient::of(grad),
        }
    }
}

impl<'g, E: FloatElement> From<&'g FlatGrad<E>> for Gradient<'g, E> {
    fn from(grad: &'g FlatGrad<E>) -> Self {
        Gradient(Kind::Flat(grad))
    }
}

impl<'g, E> From<&'g [E]> for Gradient<'g, E> {
    fn from(grad: &'g [E]) -> Self {
        Gradient(Kind::AllPresent(grad))
    }
}

impl<'g, E> From<&'g Vec<E>> for Gradient<'g, E> {
    fn from(grad: &'g Vec<E>) -> Self {
        Gradient(Kind::AllPresent(grad))
    }
}

impl<'g, E, const N: usize> From<&'g [E; N]> for Gradient<'g, E> {
    fn from(grad: &'g [E; N]) -> Self {
        Gradient(Kind::AllPresent(grad))
    }
}
