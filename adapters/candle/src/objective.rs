//! The loss of a candle model as a function of a vector.

use candle_core::Tensor;
use flatleaf::{FlatGrad, Layout, Objective, Result};

use crate::from_candle;
use crate::grads::Grads;
use crate::var_tree::VarTree;

/// The function that takes a flat vector to the loss of a candle model and its gradient, for L-BFGS
/// and other solvers that know vectors only: argmin's, with flatleaf's feature `argmin`.
///
/// `loss` computes the loss as a tensor of one element, with whatever model was built on the
/// variables. Every evaluation writes its point into these very variables and runs `loss` and the
/// backward pass, so that a solver leaves the last point that it tried in the model:
/// [`Objective::into_model`] writes the best one.
///
/// # Errors
/// `is_missing`, `is_unknown`, `is_shape`: the variables are not those of the layout.
/// `is_element_type`: a variable of f64, unless the planner rounds it. What `loss` returns is an
/// error of the evaluation (`is_custom`).
///
/// ```
/// use candle_core::{Device, Var};
/// use flatleaf::Layout;
/// use flatleaf_candle::{VarTree, objective};
///
/// let w = Var::new(&[3.0_f32, 4.0], &Device::Cpu)?;
/// let vars = VarTree::named([("w", w.clone())])?;
/// let layout = Layout::of(&vars)?;
/// let square = objective(&layout, &vars, || w.sqr()?.sum_all())?;
///
/// let mut gradient = [0.0; 2];
/// assert_eq!(square.value_and_gradient(&[1.0, 2.0], &mut gradient)?, 5.0);
/// assert_eq!(gradient, [2.0, 4.0]);
/// square.into_model(&[0.0, 0.0])?;
/// assert_eq!(w.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// An alias cannot name what is `impl`.
#[allow(clippy::type_complexity)]
pub fn objective<F>(
    layout: &Layout,
    vars: &VarTree,
    mut loss: F,
) -> Result<Objective<VarTree, impl FnMut(&VarTree) -> Result<(f64, FlatGrad)>>>
where
    F: FnMut() -> candle_core::Result<Tensor>,
{
    let of_vars = layout.clone();
    Objective::new(layout, vars.clone(), move |vars: &VarTree| {
        let (loss, store) = evaluate(&mut loss).map_err(from_candle)?;
        let grad = of_vars.gather_grad(&Grads::of(&store, vars)?)?;
        Ok((loss, grad))
    })
}

fn evaluate(
    loss: &mut impl FnMut() -> candle_core::Result<Tensor>,
) -> candle_core::Result<(f64, candle_core::backprop::GradStore)> {
    let loss = loss()?;
    let value = loss
        .flatten_all()?
        .get(0)?
        .to_dtype(candle_core::DType::F64)?;
    Ok((value.to_scalar()?, loss.backward()?))
}
