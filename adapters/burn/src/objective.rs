//! A module's loss as a function of a vector.

use burn_core::module::Module;
use burn_core::tensor::Tensor;
use burn_optim::GradientsParams;
use flatleaf::{FlatGrad, Objective, Result};

use crate::flat::Flat;

/// The loss of a module as a function of its flat vector, for solvers that know vectors only:
/// L-BFGS and others of argmin, with the feature `argmin`, or one of your own.
///
/// Each point is written into one copy of the module, in place, and evaluated there; value and
/// gradient at one point cost one evaluation. The copy has running statistics of its own, which
/// move with every evaluation of a module that trains. `module` is left as it is:
/// [`Flat::unflatten`] takes the point that was found there.
///
/// # Errors
/// Those of [`Flat::flatten`]. An evaluation returns those of [`Flat::flatten_grads`], and
/// `is_missing` where no parameter has a gradient.
///
/// ```
/// use burn_core::tensor::{Device, Tensor};
/// use burn_nn::LinearConfig;
/// use flatleaf_burn::{Flat, objective};
///
/// let device = Device::flex().autodiff();
/// let mut linear = LinearConfig::new(1, 1).init(&device);
/// let flat = Flat::of(&linear)?;
/// let x = Tensor::<2>::from_floats([[0.0], [1.0], [2.0]], &device);
/// let y = Tensor::<2>::from_floats([[1.0], [3.0], [5.0]], &device); // 2 x + 1
/// let loss = objective(&flat, &linear, |linear| {
///     (linear.forward(x.clone()) - y.clone()).powi_scalar(2).mean()
/// })?;
///
/// let (mut point, mut gradient) = (flat.flatten(&linear)?, vec![0.0; 2]);
/// for _ in 0..200 { // any solver: gradient descent
///     loss.value_and_gradient(&point, &mut gradient)?;
///     flatleaf::ops::axpy(&mut point, -0.2, &gradient);
/// }
/// flat.unflatten(&mut linear, point)?;
/// let found = flat.flatten(&linear)?;
/// assert!((found[0] - 2.0).abs() < 1e-4 && (found[1] - 1.0).abs() < 1e-4, "{found:?}");
/// # Ok::<(), flatleaf::Error>(())
/// ```
// The closure has no name.
#[allow(clippy::type_complexity)]
pub fn objective<M: Module, L: FnMut(&M) -> Tensor<1>>(
    flat: &Flat,
    module: &M,
    mut loss: L,
) -> Result<Objective<Vec<f32>, impl FnMut(&Vec<f32>) -> Result<(f64, FlatGrad)> + use<M, L>>> {
    let flat = flat.clone();
    // What `clone` returns has its running statistics in common with the module.
    let mut copy = module.valid().train();
    flat.unflatten(&mut copy, flat.flatten(module)?)?;
    let layout = flat.layout().clone();
    Objective::over_vector(&layout, move |point: &Vec<f32>| {
        flat.unflatten(&mut copy, &point[..])?;
        let loss = loss(&copy);
        let value = loss.clone().into_scalar::<f64>();
        let grads = GradientsParams::from_grads(loss.backward(), &copy);
        Ok((value, flat.flatten_grads(&copy, &grads)?))
    })
}
