//! What a step on the flat vector takes as its gradient.

use crate::element::FlatElement;
use crate::error::Result;
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;

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
    Flat(&'g FlatGrad<E>),
    AllPresent(&'g [E]),
}

impl<'g, E: FlatElement> Gradient<'g, E> {
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

    pub(super) fn elements(&self) -> &'g [E] {
        match self.0 {
            Kind::Flat(grad) => grad,
            Kind::AllPresent(grad) => grad,
        }
    }
}

impl<'g, E> From<&'g FlatGrad<E>> for Gradient<'g, E> {
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
