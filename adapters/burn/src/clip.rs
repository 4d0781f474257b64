//! Clipping by the norm of the whole model, for who stays with burn's optimisers.

use burn_core::module::Module;
use burn_optim::GradientsParams;
use flatleaf::ops::Clip;
use flatleaf::{Error, Result, ops};

use crate::flat::Flat;
use crate::route::refused_at;
use crate::tensor::{Handle, Tracking, with_rank};

impl Flat {
    /// Scales all gradients by one factor, so that the L2 norm over the whole model is at most
    /// `max`; then any optimiser of burn takes them. burn's own `GradientClippingConfig::Norm`
    /// clips each tensor by its own norm.
    ///
    /// Gradients of parameters that the layout freezes are left as they are, and do not count.
    /// Nothing is copied on burn's CPU backend.
    ///
    /// # Errors
    /// `is_argument`: `max` is negative or NaN. `is_non_finite`: the norm is infinite or NaN, with
    /// the path of the first parameter at fault. `is_shape`, `is_missing`, `is_unknown`: another
    /// module than the layout's. A parameter whose places have come apart, see
    /// [`flatten_grads`](Flat::flatten_grads). The gradients are untouched then.
    ///
    /// ```
    /// use burn_core::tensor::{Device, Tensor};
    /// use burn_nn::LinearConfig;
    /// use burn_optim::{GradientsParams, SgdConfig};
    /// use flatleaf_burn::Flat;
    ///
    /// let device = Device::flex().autodiff();
    /// let mut linear = LinearConfig::new(2, 1).with_bias(false).init(&device);
    /// let flat = Flat::of(&linear)?;
    /// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device)).sum();
    /// let mut grads = GradientsParams::from_grads(loss.backward(), &linear);
    ///
    /// let clip = flat.clip_norm(&linear, &mut grads, 1.0)?;
    /// assert_eq!((clip.norm_before, clip.scale), (5.0, 0.2));
    /// assert_eq!(*flat.flatten_grads(&linear, &grads)?, [0.6, 0.8]);
    /// linear = SgdConfig::new().init().step(0.1, linear, grads); // burn's own
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn clip_norm<M: Module>(
        &self,
        module: &M,
        grads: &mut GradientsParams,
        max: f64,
    ) -> Result<Clip> {
        let route = self.route(module)?;
        route.check_nodes(module, self.layout())?;
        let leaves = || {
            let first = route.stops.iter().filter(|stop| stop.is_first);
            first.filter(|stop| stop.leaf.is_some())
        };
        let mut sum = 0.0;
        for stop in leaves() {
            let grad = with_rank!(stop.rank, D => grads.get::<D>(stop.id).map(Handle::of_float));
            let (Some(grad), Some(leaf)) = (grad, stop.leaf) else {
                continue;
            };
            let (grad, _) =
                grad.map_err(|error| refused_at(self.layout().leaves()[leaf].path(), &error))?;
            sum += grad.sum_of_squares();
        }
        let norm = f64::sqrt(sum);
        if !norm.is_finite() || max.is_nan() || max < 0.0 {
            return Err(self.clip_error(module, grads, max));
        }
        let scale = if norm > max { max / norm } else { 1.0 };
        if scale == 1.0 {
            return Ok(Clip {
                norm_before: norm,
                norm_after: norm,
                scale,
            });
        }
        let mut sum = 0.0;
        for stop in leaves() {
            with_rank!(stop.rank, D => {
                if let Some(grad) = grads.remove::<D>(stop.id) {
                    let (mut grad, _) = Handle::of_float(grad)?;
                    grad.scale(scale);
                    sum += grad.sum_of_squares();
                    grads.register(stop.id, grad.into_float::<D>(Tracking::NONE, stop.id));
                }
            });
        }
        Ok(Clip {
            norm_before: norm,
            norm_after: f64::sqrt(sum),
            scale,
        })
    }

    /// What flatleaf says of these gradients as one vector.
    #[cold]
    fn clip_error<M: Module>(&self, module: &M, grads: &GradientsParams, max: f64) -> Error {
        let clipped = self
            .flatten_grads(module, grads)
            .and_then(|mut grad| self.layout().clip_norm(&mut grad, max));
        match clipped {
            Err(error) => error,
            Ok(_) => Error::custom("a norm of the gradients that is not finite"),
        }
    }
}

impl Handle {
    fn sum_of_squares(&self) -> f64 {
        match self.elements::<f32>() {
            Some(elements) => ops::dot(elements, elements),
            None => {
                let mut wide = vec![0.0; self.len()];
                self.copy_to(&mut wide);
                ops::dot(&wide, &wide)
            }
        }
    }
}
