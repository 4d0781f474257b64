//! A step on a vector that stands behind a model: the vector in f32, the model in bf16 or f16.
//!
//! A bf16 has 8 bits, so a step of less than a 256th of a parameter is rounded away, every time. So
//! training in mixed precision keeps the parameters once more in full, moves those, and rounds them
//! into the model (Micikevicius et al. 2018). In one pass: a piece of the vector is moved, and is
//! rounded into the model while it is still in the cache.
//!
//! ```text
//! gradient   bf16  2 bytes read  ┐
//! state      f32   8 + 8         ├─ the piece moves ─→ master  f32   4 read, 4 written
//!                                ┘                  └→ model   bf16  2 written
//! ```

use super::any_optimizer::steps;
use super::optimizer::Optimizer;
use super::report::StepReport;
use super::rule::RuleFor;
use crate::element::FlatElement;
use crate::error::Result;
use crate::tree::{Object, Tree};

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// Moves a flat vector by a gradient tree, and writes the leaves that moved into a model whose
    /// leaves hold less than the vector: a model of bf16 or f16 with its parameters in f32, in one
    /// pass over both.
    ///
    /// The vector, made by [`destructure`](crate::destructure) of the model, is what moves: small
    /// steps add up in it that the model's type would round away. The model is written and not read,
    /// so a model that has been changed otherwise (loaded, say) has to be gathered again. Leaves that
    /// do not take part are not written.
    ///
    /// Gradients are read in their own type, and may be of any float type. Gives the bits of
    /// [`step`](Optimizer::step) on the vector by the gathered gradient, and of
    /// [`restructure_into`](crate::Layout::restructure_into) behind it. A model with ties, cells or
    /// strided leaves costs a copy of its leaves and a second pass over them.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_shape`, `is_missing`, `is_unknown`,
    /// `is_element_type`: the model is not the layout's, or the gradient has a leaf that the model
    /// has not, or one of another shape. `is_non_finite`: a norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](crate::ops::NonFinite::Error). `is_missing`: a leaf has no gradient after
    /// [`deny_absent`](Optimizer::deny_absent). Then nothing has moved.
    ///
    /// A leaf that is written through a callback may fail when all has been checked and moved: the
    /// step has been taken and is counted, and the error names the leaf.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::destructure;
    /// use half::bf16;
    ///
    /// let mut model = vec![bf16::ONE];
    /// let (mut master, layout) = destructure(&model)?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0 / 1024.0, ..Default::default() }, &layout)?;
    /// for _ in 0..8 {
    ///     optimizer.update_with_master(&mut model, &mut master, &vec![bf16::ONE])?;
    /// }
    /// // Below 1 the next bf16 is 1 − 1/256: each step alone would have been lost.
    /// assert_eq!((master[0], model[0].to_f32()), (1.0 - 8.0 / 1024.0, 1.0 - 2.0 / 256.0));
    /// # }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn update_with_master<T, G>(
        &mut self,
        mut model: &mut T,
        master: &mut [E],
        grads: &G,
    ) -> Result<StepReport>
    where
        T: Tree + ?Sized,
        G: Tree + ?Sized,
    {
        steps().update_with_master(self.any(), &mut model, master, &Object(grads))
    }
}
