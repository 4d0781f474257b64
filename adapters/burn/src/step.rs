//! A step of a module, in place, in one walk.
//!
//! burn moves a module by mapping it, parameter by parameter, and a storage is written without a
//! copy only by who has the one hold on it. So the module itself is mapped and no clone of it, as
//! burn's own optimisers have it; and in the place that the caller lends stands a hollow module
//! meanwhile, one of the same type whose tensors are empty:
//!
//! ```text
//! caller's place   module ──▶ hollow ─────────────────────────────────▶ module
//! taken out               └──▶ map: take a, step a, put a back; the same for b, c ──┘
//! ```
//!
//! A map cannot be turned back half-way, so all that can be wrong is looked at before: one visit
//! holds the module against the layout and burn's autodiff against its ties
//! ([`Route`](crate::route::Route)), the gradients are taken out of burn's container by id and held
//! against the layout, and the optimiser measures its norms on them. A visit costs a few hundredths
//! of a map. What cannot be known without moving, which is whether a device hands its tensors out,
//! is not left to the map: such modules go through [`change`](crate::change), which takes all of
//! them out first.
//!
//! A tie has one storage with several holds, of which all but the first are let go in a map before.
//!
//! Dropped: the module taken apart by one map and put together by another, as `change` does it.
//! Each takes every parameter out of its box and makes a new one. Also dropped: to look at nothing
//! in the second step of the same module. A module is the same only if its ids and shapes are, and
//! to know that is to look.
//!
//! Of ten thousand small leaves, almost all of a step is burn's. By samples: 29 % makes each leaf
//! known to autodiff (a dozen allocations, four hash maps of one entry each), 20 % is to take
//! tensors out of their parameters and to make new ones, 10 % to take gradients out of their
//! container, 11 % is the rule; the look is 6 %, the rest is to let go. Looked for in burn's
//! interface, and not there: a way to write the elements of a tensor that keeps its node
//! (autodiff's tensor gives both away and is made with a node of its own, and a `FlexTensor` is
//! copied by whoever writes to it while it is shared); a parameter's mapper without its tensor
//! (`consume` clones it, and `Param::initialized` would lose the mapper); a leaf in the graph of
//! another. Handles that are kept between steps would be second holds, which have everybody else
//! copy. An allocator that gives nothing back to the system makes no difference.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn_core::module::{Module, ModuleMapper, Param};
use burn_core::tensor::{Bool, Int, Tensor};
use burn_optim::GradientsParams;
use flatleaf::optim::{Optimizer, Rule, StepReport};
use flatleaf::{Layout, Result, StateArray, StateDict, TiedGrads};

use crate::change::change;
use crate::flat::Flat;
use crate::params::Params;
use crate::route::{Route, Stop, refused_at};
use crate::tensor::{Handle, with_rank};

impl Flat {
    /// A step of any rule or chain of flatleaf, in place: norms are of the whole model, a parameter
    /// at several places moves once, by its whole gradient, and stays one tensor. One without a
    /// gradient does not move, and the report counts those that did: 0 where the gradients are of
    /// another module than the one that is stepped.
    ///
    /// On burn's CPU backend the storage of each parameter stays where it is, unless somebody else
    /// holds it too: a clone of the module, a view, a graph that has not been run backward. These
    /// keep the old values. The module is whole after an error and after a panic.
    ///
    /// # Errors
    /// Nothing has moved then. A parameter whose places burn's autodiff takes for several tensors:
    /// [`retie`](Flat::retie) the module. `is_shape`, `is_missing`, `is_unknown`: another module
    /// than the layout's; `is_shape`: a gradient of another shape than its parameter. A gradient
    /// that is quantised; one of another float type than its parameter is read as `f32`.
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
    pub fn step<M: Module + 'static, R: Rule>(
        &self,
        optimizer: &mut Optimizer<R>,
        module: &mut M,
        mut grads: GradientsParams,
    ) -> Result<StepReport> {
        let (route, can_walk) = self.route_of_a_step(module)?;
        // Whoever plans another layout than the optimiser's is told so by the optimiser.
        if !can_walk || optimizer.layout() != self.layout() {
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
        let mut hollow = Some(self.hollow(module));
        let report = optimizer.update_along(&slices, |step| {
            let placeholder = hollow.take().expect("put back by the walk before");
            let full = std::mem::replace(module, placeholder);
            let (stepped, panic) = walk(full, &route, &slices, step);
            hollow = Some(std::mem::replace(module, stepped));
            // The module is whole again.
            panic.map_or(Ok(()), |panic| resume_unwind(panic))
        });
        self.keep_hollow(hollow);
        report
    }
}

/// The gradient of each leaf, as `f32`.
///
/// # Errors
/// With the parameter's path. `is_shape`: a gradient of another shape than its parameter; elements
/// that no leaf can have, such as quantised ones.
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
        let (grad, _) = grad.map_err(|error| refused_at(layout.leaves()[leaf].path(), &error))?;
        let grad = grad.into_f32();
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

/// What a panic says.
type Panic = Box<dyn Any + Send>;

/// Goes through a module that nobody else holds and calls `step` with each leaf that has a
/// gradient. Gives the module back whole even if `step` panics, together with the panic.
fn walk<M: Module>(
    module: M,
    route: &Route,
    grads: &[Option<&[f32]>],
    step: &mut dyn FnMut(usize, &mut [f32]),
) -> (M, Option<Panic>) {
    let stops = || Stops {
        stops: route.stops.iter(),
        grads,
    };
    let module = match route.has_ties {
        true => module.map(&mut LetGo(stops())),
        false => module,
    };
    let mut mapper = Walk {
        stops: stops(),
        step,
        tied: Vec::new(),
        panic: None,
    };
    (module.map(&mut mapper), mapper.panic)
}

/// The floats of a module, in order.
struct Stops<'w> {
    stops: std::slice::Iter<'w, Stop>,
    grads: &'w [Option<&'w [f32]>],
}

impl<'w> Stops<'w> {
    /// The next one with its leaf, if it is one that moves.
    fn next(&mut self) -> Option<(&'w Stop, usize)> {
        let stop = self.stops.next()?;
        let leaf = stop.leaf.filter(|&leaf| self.grads[leaf].is_some())?;
        Some((stop, leaf))
    }
}

/// Leaves a tie to the first of its places.
struct LetGo<'w>(Stops<'w>);

impl ModuleMapper for LetGo<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.next() {
            Some((stop, _)) if !stop.is_first => emptied(param),
            _ => param,
        }
    }
}

struct Walk<'w> {
    stops: Stops<'w>,
    step: &'w mut dyn FnMut(usize, &mut [f32]),
    /// The new tensors that stand at several places, by leaf.
    tied: Vec<(usize, Box<dyn Any>)>,
    panic: Option<Panic>,
}

impl Walk<'_> {
    /// Moves a leaf, unless one before has panicked: the others only go back to their places then.
    fn step(&mut self, leaf: usize, handle: &mut Handle) {
        if self.panic.is_some() {
            return;
        }
        let step = &mut self.step;
        let mut stepping = || handle.with_f32(&mut |elements| step(leaf, elements));
        self.panic = catch_unwind(AssertUnwindSafe(&mut stepping)).err();
    }

    fn first_of_tie<const D: usize>(&self, leaf: usize) -> Tensor<D> {
        let mut tied = self.tied.iter();
        let (_, tensor) = tied
            .find(|(tied, _)| *tied == leaf)
            .expect("a place before");
        tensor
            .downcast_ref::<Tensor<D>>()
            .expect("its rank")
            .clone()
    }
}

impl ModuleMapper for Walk<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((stop, leaf)) = self.stops.next() else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        if !stop.is_first {
            return Param::from_mapped_value(id, self.first_of_tie(leaf), mapper);
        }
        let (mut handle, tracking) = Handle::of_float(tensor).expect("on the host, as was seen");
        self.step(leaf, &mut handle);
        let tensor: Tensor<D> = handle.into_float(tracking, id);
        if stop.is_tied {
            self.tied.push((leaf, Box::new(tensor.clone())));
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// A module that has the type of this one and none of its elements.
pub(crate) fn hollow_of<M: Module>(module: &M) -> M {
    // Running statistics are shared by clones, and would be emptied in the module too; `valid` has
    // some of its own.
    module.valid().map(&mut Empty)
}

struct Empty;

impl ModuleMapper for Empty {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        emptied(param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|tensor| Tensor::empty([0; D], &tensor.device()))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param.map(|tensor| Tensor::empty([0; D], &tensor.device()))
    }
}

fn emptied<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    let (id, _, mapper) = param.consume();
    Param::from_mapped_value(id, Handle::empty(), mapper)
}
