//! A step of a module, in place.
//!
//! burn moves a module by mapping it, parameter by parameter, and a storage is written without a
//! copy only by who has the one hold on it. So a step maps the module twice:
//!
//! 1. Gradients are taken out of burn's container by id, and held against the layout.
//! 2. The first map takes the tensors of those that have one out of the module. They are kept by
//!    leaf, so that the optimiser can ask for any of them, and as often as its norms need.
//! 3. The optimiser is lent one after the other.
//! 4. The second map puts them back. It runs in `Drop`, so that the module is whole after an error
//!    and after a panic.
//!
//! Not a tree of handles in place of 2, as [`change`](crate::change) makes it: that has the name and the
//! shape of each parameter, which a step does not ask for.

use std::any::Any;

use burn_core::module::{Module, ModuleMapper, Param};
use burn_core::tensor::Tensor;
use burn_optim::GradientsParams;
use flatleaf::optim::{Optimizer, Rule, StepReport};
use flatleaf::{Layout, Result, StateArray, StateDict, TiedGrads};

use crate::change::change;
use crate::flat::Flat;
use crate::params::Params;
use crate::route::{Route, Stop};
use crate::tensor::{Handle, Tracking, with_rank};

impl Flat {
    /// A step of any rule or chain of flatleaf, in place: norms are of the whole model, a parameter
    /// at several places moves once, by its whole gradient, and stays one tensor.
    ///
    /// On burn's CPU backend the storage of each parameter stays where it is, unless somebody else
    /// holds it too: a clone of the module, a view, a graph that has not been run backward. These
    /// keep the old values. The module is whole after an error and after a panic.
    ///
    /// # Errors
    /// Nothing has moved then. A parameter whose places burn's autodiff takes for several tensors:
    /// [`retie`](Flat::retie) the module. `is_shape`, `is_missing`, `is_unknown`: another module
    /// than the layout's; `is_shape`: a gradient of another shape than its parameter.
    /// `is_non_finite`: a gradient that is infinite or NaN, where a stage refuses that.
    /// `is_element_type`: a parameter of `f64`.
    ///
    /// ```
    /// use burn_core::tensor::{Device, Tensor};
    /// use burn_nn::{Initializer, LinearConfig};
    /// use burn_optim::GradientsParams;
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf_burn::Flat;
    ///
    /// let device = Device::flex().autodiff();
    /// let ones = LinearConfig::new(2, 1).with_initializer(Initializer::Ones);
    /// let mut linear = ones.init(&device);
    /// let flat = Flat::of(&linear)?;
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.25, ..Default::default() }, flat.layout())?;
    /// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device)).sum();
    /// let grads = GradientsParams::from_grads(loss.backward(), &linear);
    /// flat.step(&mut optimizer, &mut linear, grads)?;
    /// assert_eq!(flat.flatten(&linear)?, [0.25, 0.0, 0.75]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn step<M: Module, R: Rule>(
        &self,
        optimizer: &mut Optimizer<R>,
        module: &mut M,
        mut grads: GradientsParams,
    ) -> Result<StepReport> {
        let route = self.route_whatever_ties(module)?;
        route.check_nodes(module, self.layout())?;
        // Whoever plans another layout than the optimiser's is told so by the optimiser.
        if !self.has_narrow_floats() || optimizer.layout() != self.layout() {
            let grads = Params::grads(module, &grads)?;
            return change(module, |params| {
                optimizer.update_with(params, &grads, TiedGrads::AlreadyTotal)
            });
        }
        let grads = take_grads(&route, self.layout(), &mut grads)?;
        let slices: Vec<Option<&[f32]>> = grads
            .iter()
            .map(|grad| grad.as_ref().and_then(Handle::elements::<f32>))
            .collect();
        let mut hollow = Hollow::of(module, &route, &slices)?;
        optimizer.update_each(&slices, |leaf, step| {
            let (handle, _) = hollow.taken[leaf].as_mut().expect("one with a gradient");
            handle.with_f32(step);
            Ok(())
        })
    }
}

/// The gradient of each leaf, as `f32`.
///
/// # Errors
/// `is_shape`: a gradient of another shape than its parameter.
fn take_grads(
    route: &Route,
    layout: &Layout,
    grads: &mut GradientsParams,
) -> Result<Vec<Option<Handle>>> {
    let mut taken: Vec<Option<Handle>> = vec![None; layout.leaves().len()];
    for stop in route.stops.iter().filter(|stop| stop.is_first) {
        let Some(leaf) = stop.leaf else { continue };
        let grad = with_rank!(stop.rank, D => grads.remove::<D>(stop.id).map(Handle::of_float));
        let Some(grad) = grad else { continue };
        let grad = grad?.0.into_f32();
        check_shape(layout, leaf, &grad)?;
        taken[leaf] = Some(grad);
    }
    Ok(taken)
}

fn check_shape(layout: &Layout, leaf: usize, grad: &Handle) -> Result<()> {
    let leaf = &layout.leaves()[leaf];
    if leaf.shape() == grad.shape() {
        return Ok(());
    }
    // flatleaf says it, with the path and both shapes.
    let mut refused = Ok(());
    grad.visit(|found| {
        let zeros = ndarray::ArrayD::<f32>::zeros(found.shape());
        let grads = StateDict::from_iter([(leaf.path(), StateArray::from(zeros))])?;
        refused = layout.gather_grad(&grads).map(drop);
        Ok(())
    })?;
    refused
}

/// A module without the parameters that move, and these.
struct Hollow<'m, M: Module> {
    module: &'m mut M,
    route: &'m Route,
    /// By leaf.
    taken: Vec<Option<(Handle, Tracking)>>,
}

impl<'m, M: Module> Hollow<'m, M> {
    fn of(module: &'m mut M, route: &'m Route, grads: &[Option<&[f32]>]) -> Result<Self> {
        let mut take = Take {
            stops: route.stops.iter(),
            grads,
            taken: vec![None; grads.len()],
            failed: Ok(()),
        };
        let hollow = module.clone().map(&mut take);
        take.failed?;
        // The module's own holds end here.
        *module = hollow;
        Ok(Hollow {
            module,
            route,
            taken: take.taken,
        })
    }
}

impl<M: Module> Drop for Hollow<'_, M> {
    fn drop(&mut self) {
        let mut back = PutBack {
            stops: self.route.stops.iter(),
            taken: std::mem::take(&mut self.taken),
            tied: Vec::new(),
        };
        *self.module = self.module.clone().map(&mut back);
    }
}

struct Take<'r, 'g> {
    stops: std::slice::Iter<'r, Stop>,
    grads: &'r [Option<&'g [f32]>],
    taken: Vec<Option<(Handle, Tracking)>>,
    failed: Result<()>,
}

impl ModuleMapper for Take<'_, '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(leaf) = self.stops.next().and_then(|stop| stop.leaf) else {
            return param;
        };
        if self.grads[leaf].is_none() {
            return param;
        }
        let (id, tensor, mapper) = param.consume();
        // Another place of a tie is the same tensor.
        if self.taken[leaf].is_none() {
            match Handle::of_float(tensor) {
                Ok(taken) => self.taken[leaf] = Some(taken),
                Err(error) => self.failed = Err(error),
            }
        }
        Param::from_mapped_value(id, Handle::empty(), mapper)
    }
}

struct PutBack<'r> {
    stops: std::slice::Iter<'r, Stop>,
    taken: Vec<Option<(Handle, Tracking)>>,
    /// The new tensors that stand at several places, by leaf.
    tied: Vec<(usize, Box<dyn Any>)>,
}

impl ModuleMapper for PutBack<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((stop, leaf)) = self.stops.next().and_then(|stop| Some((stop, stop.leaf?))) else {
            return param;
        };
        if let Some((handle, tracking)) = self.taken[leaf].take() {
            let (id, _, mapper) = param.consume();
            let tensor: Tensor<D> = handle.into_float(tracking, id);
            if stop.is_tied {
                self.tied.push((leaf, Box::new(tensor.clone())));
            }
            return Param::from_mapped_value(id, tensor, mapper);
        }
        let first = self
            .tied
            .iter()
            .find(|(tied, _)| stop.is_tied && *tied == leaf);
        match first.and_then(|(_, tensor)| tensor.downcast_ref::<Tensor<D>>()) {
            Some(tensor) => {
                let (id, _, mapper) = param.consume();
                Param::from_mapped_value(id, tensor.clone(), mapper)
            }
            None => param,
        }
    }
}
