//! A module as one vector: planned once, then gathered, written and stepped without paths.

use std::any::Any;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use burn_core::module::{Module, ModuleVisitor, Param};
use burn_core::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;
use burn_optim::GradientsParams;
use flatleaf::optim::{Optimizer, Rule};
use flatleaf::{Dtype, Error, FlatGrad, Layout, Planner, Result, TiedGrads};

use crate::change::{Stripped, change};
use crate::params::Params;
use crate::route::{Look, Route, Stop};
use crate::step::hollow_of;
use crate::tensor::Handle;

/// A module's trainable parameters as one vector, planned once.
///
/// It holds a [`Layout`] and knows which of burn's parameters each leaf is; it holds no elements, so
/// it serves every module of this structure: the one that is trained, its copies, one that is made
/// anew and loads a file. A parameter that stands at several places (one `ParamId`) is one leaf.
///
/// ```
/// use burn_core::tensor::{Device, Tensor};
/// use burn_nn::LinearConfig;
/// use burn_optim::GradientsParams;
/// use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
/// use flatleaf_burn::Flat;
///
/// let device = Device::flex().autodiff();
/// let mut linear = LinearConfig::new(2, 1).init(&device);
/// let flat = Flat::of(&linear)?;
/// let rule = (ClipNorm { max: 1.0, ..Default::default() }, AdamW::default());
/// let mut optimizer = Optimizer::new(rule, flat.layout())?;
///
/// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &linear);
/// let report = flat.step(&mut optimizer, &mut linear, grads)?;
/// assert_eq!(report.clips[0].norm_before, 26_f64.sqrt()); // of the whole model: 3, 4 and 1
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Debug)]
pub struct Flat {
    layout: Layout,
    /// The way through the module that came last.
    route: Mutex<Arc<Route>>,
    /// What stands in a module's place during a step, from the step before.
    hollow: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Clone for Flat {
    fn clone(&self) -> Self {
        Flat {
            layout: self.layout.clone(),
            route: Mutex::new(self.known_route()),
            hollow: Mutex::default(),
        }
    }
}

impl Flat {
    /// Plans a module: every float that requires a gradient is trainable.
    ///
    /// Lazy parameters are initialised. Where burn freezes a parameter later, the layout still has
    /// it: it is in the vector, and without a gradient no step moves it.
    ///
    /// # Errors
    /// No float requires a gradient, as in what `valid()` returns: plan on the module that is
    /// trained. Elements that no leaf can have, such as quantised ones.
    ///
    /// ```
    /// use burn_core::{module::Module, tensor::Device};
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Flat;
    ///
    /// let linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
    /// assert_eq!(Flat::of(&linear)?.layout().len(), 8);
    ///
    /// let error = Flat::of(&linear.valid()).unwrap_err();
    /// assert!(error.to_string().contains("requires a gradient"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<M: Module>(module: &M) -> Result<Self> {
        Self::planned(module, &Layout::planner())
    }

    /// Plans a module with some of it frozen, by path or by predicate, on top of what burn's
    /// `no_grad` has frozen.
    ///
    /// # Errors
    /// As [`of`](Flat::of) has; nothing is left to train; `is_pattern`: a pattern that matches no
    /// leaf.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf::Layout;
    /// use flatleaf_burn::Flat;
    ///
    /// let layers = vec![LinearConfig::new(3, 2).init(&Device::flex().autodiff())];
    /// let flat = Flat::planned(&layers, &Layout::planner().freeze("**.bias"))?;
    /// assert_eq!(flat.layout().leaves()[0].path(), "0.weight");
    /// assert_eq!(flat.layout().len(), 6);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn planned<M: Module>(module: &M, planner: &Planner<'_>) -> Result<Self> {
        let params = Params::of(module)?;
        let layout = layout_of_trained(&params, planner)?;
        let route = Route::of(&params, &layout);
        Ok(Flat {
            layout,
            route: Mutex::new(Arc::new(route)),
            hollow: Mutex::default(),
        })
    }

    /// The layout: which parameter is where in the vector. Printing it gives a table.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Flat;
    ///
    /// let linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
    /// let flat = Flat::of(&linear)?;
    /// assert_eq!(flat.layout().leaf("bias").unwrap().range(), 6..8);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn known_route(&self) -> Arc<Route> {
        let route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        route.clone()
    }

    /// The way through this module.
    ///
    /// # Errors
    /// What the layout has against the module: paths, shapes, ties.
    pub(crate) fn route<M: Module>(&self, module: &M) -> Result<Arc<Route>> {
        let route = self.known_route();
        let look = route.look(module, &self.layout);
        if look.fits && look.ties_hold {
            return Ok(route);
        }
        let params = Params::of(module)?;
        self.layout.gather(&params)?;
        let route = Arc::new(Route::of(&params, &self.layout));
        *self.route.lock().unwrap_or_else(PoisonError::into_inner) = route.clone();
        Ok(route)
    }

    /// The way through a module whose ties may hold different values, and what there is to see.
    ///
    /// # Errors
    /// What else the layout has against the module: paths and shapes.
    pub(crate) fn route_whatever_ties<M: Module>(&self, module: &M) -> Result<(Arc<Route>, Look)> {
        let route = self.known_route();
        let look = route.look(module, &self.layout);
        if look.fits {
            return Ok((route, look));
        }
        let (route, refused) = match self.route(module) {
            Ok(route) => (route, None),
            Err(error) if error.is_broken_tie() => {
                let route = Route::of(&Params::of(module)?, &self.layout);
                (Arc::new(route), Some(error))
            }
            Err(error) => return Err(error),
        };
        let look = route.look(module, &self.layout);
        match refused {
            // Its ties are not all that is wrong with it.
            Some(error) if !look.fits => Err(error),
            _ => Ok((route, look)),
        }
    }

    /// A module of this type without elements: that of the step before, or, if there was none or
    /// another thread has it, one of its own.
    pub(crate) fn hollow<M: Module + 'static>(&self, module: &M) -> M {
        let mut kept = self.hollow.lock().unwrap_or_else(PoisonError::into_inner);
        let hollow = kept.take().and_then(|hollow| hollow.downcast::<M>().ok());
        drop(kept);
        hollow.map_or_else(|| hollow_of(module), |hollow| *hollow)
    }

    pub(crate) fn keep_hollow<M: Module + 'static>(&self, hollow: Option<M>) {
        let mut kept = self.hollow.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = hollow.map(|hollow| Box::new(hollow) as Box<dyn Any + Send>);
    }

    /// The values of the trainable parameters, in a new vector.
    ///
    /// # Errors
    /// Those of [`flatten_into`](Flat::flatten_into).
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::{Initializer, LinearConfig};
    /// use flatleaf_burn::Flat;
    ///
    /// let ones = LinearConfig::new(2, 1).with_initializer(Initializer::Ones);
    /// let linear = ones.init(&Device::flex().autodiff());
    /// assert_eq!(Flat::of(&linear)?.flatten(&linear)?, [1.0, 1.0, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flatten<M: Module>(&self, module: &M) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.layout.len()];
        self.flatten_into(module, &mut flat)?;
        Ok(flat)
    }

    /// The values of the trainable parameters, in a vector that is there already: to make one costs
    /// more than to fill it.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_shape`, `is_missing`,
    /// `is_unknown`: another module than the layout's. `is_broken_tie`: the places of one parameter
    /// hold different values, as after a step of burn's optimiser. `is_element_type`: a parameter
    /// of `f64`. The vector is untouched then.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::{Initializer, LinearConfig};
    /// use flatleaf_burn::Flat;
    ///
    /// let ones = LinearConfig::new(2, 1).with_initializer(Initializer::Ones);
    /// let linear = ones.init(&Device::flex().autodiff());
    /// let mut flat = [0.0; 3];
    /// Flat::of(&linear)?.flatten_into(&linear, &mut flat)?;
    /// assert_eq!(flat, [1.0, 1.0, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flatten_into<M: Module>(&self, module: &M, flat: &mut [f32]) -> Result<()> {
        if !self.has_narrow_floats() || flat.len() != self.layout.len() {
            return self.layout.gather_into(&Params::of(module)?, flat);
        }
        let route = self.route(module)?;
        let mut read = Read {
            stops: route.stops.iter(),
            layout: &self.layout,
            flat,
            failed: None,
        };
        module.visit(&mut read);
        read.failed.map_or(Ok(()), Err)
    }

    /// Whether every parameter is of a type that `f32` holds without loss.
    pub(crate) fn has_narrow_floats(&self) -> bool {
        let mut leaves = self.layout.leaves().iter();
        leaves.all(|leaf| leaf.dtype() != Dtype::F64)
    }

    /// Gives a module the values of a vector.
    ///
    /// A slice is copied into the module's tensors, which stay where they are. A `Vec` is not
    /// copied on burn's CPU backend: the tensors become views of it, and it is freed with the last
    /// of them. The next step gives each parameter a storage of its own again, once. A parameter
    /// that stands at several places is one tensor at all of them afterwards, also to burn's
    /// autodiff.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_shape`, `is_missing`,
    /// `is_unknown`: another module than the layout's. `is_element_type`: a parameter of `f64`. The
    /// module is untouched then.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Flat;
    ///
    /// let mut linear = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
    /// let flat = Flat::of(&linear)?;
    /// flat.unflatten(&mut linear, &[1.0, 2.0, 3.0][..])?; // copied
    /// flat.unflatten(&mut linear, vec![4.0, 5.0, 6.0])?; // moved
    /// assert_eq!(flat.flatten(&linear)?, [4.0, 5.0, 6.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn unflatten<'v, M: Module>(
        &self,
        module: &mut M,
        values: impl Into<Cow<'v, [f32]>>,
    ) -> Result<()> {
        let mut leaves = self.layout.leaves().iter();
        match values.into() {
            Cow::Owned(vector)
                if vector.len() == self.layout.len()
                    && leaves.all(|leaf| leaf.dtype() == Dtype::F32) =>
            {
                self.share_out(module, vector)
            }
            values => change(module, |params| {
                self.layout.restructure_into(params, &values)
            }),
        }
    }

    /// Makes the module's tensors views of a vector.
    fn share_out<M: Module>(&self, module: &mut M, vector: Vec<f32>) -> Result<()> {
        let (route, _) = self.route_whatever_ties(module)?;
        let shape = [vector.len()];
        let vector = FlexTensor::from_data(TensorData::new(vector, shape));
        let view = |stop: &Stop| {
            let leaf = &self.layout.leaves()[stop.leaf?];
            Some(Handle::view_of(&vector, leaf.shape(), leaf.range().start))
        };
        let mut stripped = Stripped::of(module)?;
        stripped.params.set_floats(route.stops.iter().map(view));
        Ok(())
    }

    /// The way through a module that is to be stepped, and whether a map can go it.
    ///
    /// # Errors
    /// What the layout has against the module; a tie that has come apart.
    pub(crate) fn route_of_a_step<M: Module>(&self, module: &M) -> Result<(Arc<Route>, bool)> {
        let (route, look) = self.route_whatever_ties(module)?;
        route.check_nodes(module, &self.layout)?;
        if !look.ties_hold {
            // Autodiff, which would have told, does not know this module.
            self.route(module)?;
        }
        Ok((route, look.can_walk))
    }

    /// Makes each parameter that stands at several places one tensor again, after what takes them
    /// apart: `load_record`, `valid().train()`, a step of burn's optimiser. Nothing is copied.
    ///
    /// # Errors
    /// `is_broken_tie`: the places hold different values, as they do after a step of burn's
    /// optimiser; [`unflatten`](Flat::unflatten) says which ones are right.
    ///
    /// ```
    /// use burn_core::{module::Module, tensor::Device};
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Flat;
    ///
    /// let layer = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
    /// let mut tied = vec![layer.clone(), layer]; // clones share their ids: one layer, twice
    /// let flat = Flat::of(&tied)?;
    /// assert_eq!(flat.layout().len(), 3);
    ///
    /// tied = tied.valid().train(); // now burn loses the gradients of `tied[0]`
    /// flat.retie(&mut tied)?;
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn retie<M: Module>(&self, module: &mut M) -> Result<()> {
        self.layout.gather(&Params::of(module)?)?;
        change(module, |_| Ok(()))
    }

    /// A module with the moving averages of an optimiser that ends in
    /// [`Ema`](flatleaf::optim::Ema) or [`Swa`](flatleaf::optim::Swa), to be evaluated: what
    /// `valid()` returns, with the averages in place of the parameters. A parameter that no step
    /// has moved has its own value. Running statistics are those of the module.
    ///
    /// # Errors
    /// Those of [`flatten_into`](Flat::flatten_into); `is_argument`: the rule keeps no average.
    ///
    /// ```
    /// use burn_core::tensor::{Device, Tensor};
    /// use burn_nn::{Initializer, LinearConfig};
    /// use burn_optim::GradientsParams;
    /// use flatleaf::optim::{Ema, Optimizer, Sgd};
    /// use flatleaf_burn::Flat;
    ///
    /// let device = Device::flex().autodiff();
    /// let ones = LinearConfig::new(1, 1).with_initializer(Initializer::Ones);
    /// let mut linear = ones.init(&device);
    /// let flat = Flat::of(&linear)?;
    /// let rule = (Sgd { lr: 0.5, ..Default::default() }, Ema { decay: 0.5, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, flat.layout())?;
    /// for _ in 0..2 {
    ///     let loss = linear.forward(Tensor::<2>::from_floats([[1.0]], &device)).sum();
    ///     let grads = GradientsParams::from_grads(loss.backward(), &linear);
    ///     flat.step(&mut optimizer, &mut linear, grads)?;
    /// }
    /// let average = flat.average(&linear, &optimizer)?;
    /// assert_eq!(flat.flatten(&linear)?, [0.0, 0.0]);
    /// assert_eq!(flat.flatten(&average)?, [0.25, 0.25]); // of 0.5 and 0.0
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn average<M: Module, R: Rule>(&self, module: &M, optimizer: &Optimizer<R>) -> Result<M> {
        let average = optimizer.state_over("average", &self.flatten(module)?)?;
        let mut averaged = module.valid();
        self.unflatten(&mut averaged, average)?;
        Ok(averaged)
    }

    /// The gradients of a backward pass as one vector. A parameter that stands at several places
    /// has its whole gradient once; one without a gradient is absent, which is not zero.
    ///
    /// # Errors
    /// A parameter whose places burn's autodiff takes for several tensors, when it has lost a part
    /// of its gradient: [`retie`](Flat::retie) the module before the next pass. `is_shape`: a
    /// gradient of another shape than its parameter, with its path.
    ///
    /// ```
    /// use burn_core::tensor::{Device, Tensor};
    /// use burn_nn::LinearConfig;
    /// use burn_optim::GradientsParams;
    /// use flatleaf_burn::Flat;
    ///
    /// let device = Device::flex().autodiff();
    /// let linear = LinearConfig::new(2, 1).init(&device);
    /// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device)).sum();
    /// let grads = GradientsParams::from_grads(loss.backward(), &linear);
    /// assert_eq!(*Flat::of(&linear)?.flatten_grads(&linear, &grads)?, [3.0, 4.0, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn flatten_grads<M: Module>(
        &self,
        module: &M,
        grads: &GradientsParams,
    ) -> Result<FlatGrad> {
        let (route, _) = self.route_whatever_ties(module)?;
        route.check_nodes(module, &self.layout)?;
        let grads = Params::grads(module, grads)?;
        self.layout
            .gather_grad_with(&grads, TiedGrads::AlreadyTotal)
    }
}

/// The layout of what is trained. That nothing is, where there are floats, is an error.
pub(crate) fn layout_of_trained(params: &Params, planner: &Planner<'_>) -> Result<Layout> {
    let layout = planner.of(params)?;
    if layout.is_empty() && params.floats().next().is_some() {
        let message = if Layout::of(params)?.is_empty() {
            "expected a float that requires a gradient, found none: plan on the module that is \
             trained, on an autodiff device, and not on what `valid()` or `no_grad()` returns"
        } else {
            "expected a float that is not frozen, found that the planner freezes all"
        };
        return Err(Error::custom(message));
    }
    Ok(layout)
}

/// Copies each leaf to its range.
struct Read<'r, 'f> {
    stops: std::slice::Iter<'r, Stop>,
    layout: &'r Layout,
    flat: &'f mut [f32],
    failed: Option<Error>,
}

impl ModuleVisitor for Read<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(Stop {
            leaf: Some(leaf),
            is_first: true,
            ..
        }) = self.stops.next()
        else {
            return;
        };
        let to = &mut self.flat[self.layout.leaves()[*leaf].range()];
        match Handle::of_float(param.base()) {
            Ok((handle, _)) => handle.copy_to(to),
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }
}
