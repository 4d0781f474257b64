//! A rule of flatleaf as an optimiser of burn's, for burn's own training loop.

use std::borrow::Cow;

use burn_core::module::{Module, ParamId};
use burn_core::tensor::{Device, Tensor, TensorData};
use burn_optim::{LearningRate, RecordState, StateSink, StateSource};
use flatleaf::optim::{LeafState, Optimizer, Rule};
use flatleaf::{Dtype, Error, Layout, Result};

use crate::flat::layout_of_trained;
use crate::params::Params;
use crate::tensor::Handle;

/// A rule or chain of flatleaf as an optimiser that burn's training loop takes: `.into()` makes it
/// a [`ModuleOptimizer`](burn_optim::ModuleOptimizer).
///
/// burn shows an optimiser one tensor at a time, so this is for rules that need no more. The rate of
/// each step is the one that burn's schedule hands in, and state goes to burn's records and comes
/// back to the bit. A parameter without a gradient is left alone. Parameters move in place on burn's
/// CPU backend.
///
/// [`Flat::step`](crate::Flat::step) does all of it, and what this refuses.
///
/// # Panics
/// burn's optimisers cannot return an error: a step that flatleaf refuses panics with the error's
/// text, as of a gradient that is not finite in front of a stage that refuses those; so does state
/// of another rule in a record. The text has the parameter's shape and not its path, which burn does
/// not show.
///
/// ```
/// use burn_core::tensor::{Device, Tensor};
/// use burn_nn::{Initializer, LinearConfig};
/// use burn_optim::{GradientsParams, ModuleOptimizer};
/// use flatleaf::optim::Lion;
/// use flatleaf_burn::PerTensor;
///
/// let device = Device::flex().autodiff();
/// let mut linear = LinearConfig::new(2, 1).with_initializer(Initializer::Ones).init(&device);
/// let rule = Lion { weight_decay: 0.0, ..Default::default() };
/// let mut optimizer: ModuleOptimizer = PerTensor::of(rule, &linear)?.into();
/// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, -4.0]], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &linear);
/// linear = optimizer.step(0.25, linear, grads); // the rate of this step
/// let weight = linear.weight.val().into_data();
/// assert_eq!(weight.try_to_vec::<f32>().unwrap(), [0.75, 1.25]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PerTensor<R>(R);

impl<R: Rule> PerTensor<R> {
    /// The rule for this module.
    ///
    /// # Errors
    /// The rule cannot be right one tensor at a time: a stage of it takes the norm of the whole model,
    /// or it keeps an average that could not be read. The module has a parameter at several places,
    /// which burn would move at the first only. No float requires a gradient, as in what `valid()`
    /// returns. `is_element_type`: a parameter of `f64`. Those of [`Optimizer::new`].
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf::optim::{AdamW, ClipNorm, ClipNormPerLeaf};
    /// use flatleaf_burn::PerTensor;
    ///
    /// let layer = LinearConfig::new(2, 1).init(&Device::flex().autodiff());
    /// assert!(PerTensor::of((ClipNormPerLeaf::default(), AdamW::default()), &layer).is_ok());
    ///
    /// let error = PerTensor::of((ClipNorm::default(), AdamW::default()), &layer).unwrap_err();
    /// assert!(error.to_string().contains("`Flat::step`"), "{error}");
    ///
    /// let tied = vec![layer.clone(), layer];
    /// let error = PerTensor::of(AdamW::default(), &tied).unwrap_err();
    /// assert!(error.to_string().contains("`0.weight`, `1.weight`"), "{error}");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<M: Module>(rule: R, module: &M) -> Result<Self> {
        let params = Params::of(module)?;
        let layout = layout_of_trained(&params, &Layout::planner())?;
        check_rule(&rule)?;
        let mut tied = layout
            .leaves()
            .iter()
            .filter(|leaf| leaf.places().len() > 1);
        if let Some(leaf) = tied.next() {
            return Err(Error::custom(format_args!(
                "expected each parameter at one place, found one at `{}`: burn's optimiser moves the \
                 first of them only, and `Flat::step` all",
                leaf.places().join("`, `")
            )));
        }
        if layout
            .leaves()
            .iter()
            .any(|leaf| leaf.dtype() == Dtype::F64)
        {
            // flatleaf refuses it with its path.
            layout.gather(&params)?;
        }
        Ok(PerTensor(rule))
    }
}

/// Whether a rule sees no more than a tensor at a time.
fn check_rule<R: Rule>(rule: &R) -> Result<()> {
    // Of one number, since there is no need of state for the whole model.
    let layout = Layout::of(&[0.0_f32])?;
    if Optimizer::new(rule.clone(), &layout)?.measures_all_leaves() {
        return Err(Error::custom(
            "expected a rule that needs one tensor at a time, found one that takes the norm of the \
             whole model, of which burn shows one tensor at a time: `Flat::step` takes it, and \
             `Flat::clip_norm` clips by it for any optimiser",
        ));
    }
    if rule.states().contains(&"average") {
        return Err(Error::custom(
            "expected a rule whose state nobody reads, found one that keeps an average, which burn's \
             optimiser has no way to hand out: `Flat::step` keeps it and `Flat::average` reads it",
        ));
    }
    Ok(())
}

impl<R: Rule + 'static> burn_optim::Optimizer for PerTensor<R> {
    type State<const D: usize> = TensorState<R>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<TensorState<R>>,
    ) -> (Tensor<D>, Option<TensorState<R>>) {
        let shape = tensor.dims();
        let stepped = self.try_step(lr, tensor, grad, state);
        let (tensor, state) = stepped.unwrap_or_else(|error| panic!("{}", told(&error, &shape)));
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(state: TensorState<R>, _device: &Device) -> TensorState<R> {
        // It is in host memory, wherever the parameter is.
        state
    }
}

impl<R: Rule> PerTensor<R> {
    fn try_step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<TensorState<R>>,
    ) -> Result<(Tensor<D>, TensorState<R>)> {
        let (mut handle, tracking) = Handle::of_float(tensor)?;
        if handle.dtype() == Some(Dtype::F64) {
            return Err(Error::custom(
                "expected parameters of 32 bits or fewer, found f64",
            ));
        }
        let grad = Handle::of_float(grad)?.0.into_f32();
        let mut optimizer = match state {
            Some(TensorState::Running(optimizer)) => optimizer,
            Some(TensorState::Stored(stored)) => stored.resume(&self.0, handle.shape())?,
            Some(TensorState::Foreign) => return Err(foreign()),
            None => Box::new(new_optimizer(&self.0, handle.shape())?),
        };
        if self.0.lr().is_some() {
            optimizer.set_lr(lr)?;
        }
        optimizer.update_each(&[grad.elements()], |_, step| {
            handle.with_f32(step);
            Ok(())
        })?;
        // Its id matters to distributed training only, which sets it again.
        let tensor = handle.into_float(tracking, ParamId::from(0));
        Ok((tensor, TensorState::Running(optimizer)))
    }
}

/// What is wrong with a parameter. To flatleaf it is the root of a tree, which says nothing here.
#[cold]
fn told(error: &Error, shape: &[usize]) -> String {
    match (error.expected(), error.found()) {
        (Some(expected), Some(found)) => {
            format!("a parameter of shape {shape:?}: expected {expected}, found {found}")
        }
        _ => format!("a parameter of shape {shape:?}: {error}"),
    }
}

fn new_optimizer<R: Rule>(rule: &R, shape: &[usize]) -> Result<Optimizer<R>> {
    let parameter = ndarray::ArrayD::<f32>::zeros(shape);
    Optimizer::new(rule.clone(), &Layout::of(&parameter)?)
}

/// What [`PerTensor`] keeps of one tensor.
#[derive(Clone, Debug)]
#[doc(hidden)] // burn names it
pub enum TensorState<R> {
    Running(Box<Optimizer<R>>),
    /// From a record, which does not know the rule.
    Stored(Stored),
    /// From a record that another optimiser wrote.
    Foreign,
}

/// The numbers of a [`LeafState`], in its order: burn's reader hands out what it is asked for by
/// name, before there is a rule that knows its names.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct Stored {
    /// What [`hash_of_names`] makes of the names.
    names: u64,
    steps: u64,
    counters: Vec<f64>,
    vectors: Vec<Vec<f32>>,
}

impl Stored {
    fn of(state: &LeafState<'_>) -> Self {
        Stored {
            names: hash_of_names(state),
            steps: state.steps,
            counters: state.counters.iter().map(|(_, number)| *number).collect(),
            vectors: state
                .vectors
                .iter()
                .map(|(_, vector)| vector.to_vec())
                .collect(),
        }
    }

    /// `None` if something else wrote it.
    fn read(prefix: &str, source: &mut StateSource) -> Option<Self> {
        let mut count = |name: &str| u64::try_from(source.take_scalar(prefix, name)?).ok();
        let (names, steps) = (count("names")?, count("steps")?);
        let (counters, vectors) = (count("counters")?, count("vectors")?);
        let counter =
            |index| f64::try_from(source.take_scalar(prefix, &format!("counter_{index}"))?).ok();
        let counters = (0..counters).map(counter).collect::<Option<_>>()?;
        let vector = |index| {
            let data = source.take_tensor(prefix, &format!("vector_{index}"))?;
            data.try_to_vec::<f32>().ok()
        };
        let vectors = (0..vectors).map(vector).collect::<Option<_>>()?;
        Some(Stored {
            names,
            steps,
            counters,
            vectors,
        })
    }

    /// # Errors
    /// It is the state of another rule; `is_invalid_state`: of another tensor.
    fn resume<R: Rule>(self, rule: &R, shape: &[usize]) -> Result<Box<Optimizer<R>>> {
        let mut optimizer = Box::new(new_optimizer(rule, shape)?);
        let own = optimizer.leaf_state("").expect("of the only leaf");
        let is_of_rule = self.names == hash_of_names(&own)
            && self.counters.len() == own.counters.len()
            && self.vectors.len() == own.vectors.len();
        if !is_of_rule {
            return Err(foreign());
        }
        let (counters, vectors) = (own.counters.iter(), own.vectors.iter());
        let state = LeafState {
            steps: self.steps,
            counters: counters.map(owned).zip(self.counters).collect(),
            vectors: vectors
                .map(owned)
                .zip(self.vectors.into_iter().map(Cow::Owned))
                .collect(),
        };
        optimizer.set_leaf_state("", &state)?;
        Ok(optimizer)
    }
}

fn owned<T>((name, _): &(Cow<'_, str>, T)) -> Cow<'static, str> {
    Cow::Owned(name.to_string())
}

/// FNV-1a of the names of counters and vectors: a record holds numbers alone.
fn hash_of_names(state: &LeafState<'_>) -> u64 {
    let counters = state.counters.iter().map(|(name, _)| name);
    let vectors = state.vectors.iter().map(|(name, _)| name);
    let bytes = counters
        .chain(vectors)
        .flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cold]
fn foreign() -> Error {
    Error::custom(
        "expected this rule's state in burn's record, found that of another rule or optimiser: \
         without the record of the optimiser training goes on from the module's, with new state",
    )
}

impl<R: Rule + 'static> RecordState for TensorState<R> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let stored = match self {
            TensorState::Running(optimizer) => {
                Stored::of(&optimizer.leaf_state("").expect("of the only leaf"))
            }
            TensorState::Stored(stored) => stored.clone(),
            // What it was is lost; that it is not of this optimiser is not.
            TensorState::Foreign => return,
        };
        out.push_scalar(prefix, "names", stored.names.into());
        out.push_scalar(prefix, "steps", stored.steps.into());
        out.push_scalar(prefix, "counters", (stored.counters.len() as u64).into());
        out.push_scalar(prefix, "vectors", (stored.vectors.len() as u64).into());
        for (index, number) in stored.counters.into_iter().enumerate() {
            out.push_scalar(prefix, &format!("counter_{index}"), number.into());
        }
        for (index, vector) in stored.vectors.into_iter().enumerate() {
            let shape = [vector.len()];
            out.push_tensor(
                prefix,
                &format!("vector_{index}"),
                TensorData::new(vector, shape),
            );
        }
    }

    /// burn takes `None` for no state, and would start anew in silence: the step has to refuse it.
    fn state_unflatten(prefix: &str, source: &mut StateSource, _device: &Device) -> Option<Self> {
        let stored = Stored::read(prefix, source);
        Some(stored.map_or(TensorState::Foreign, TensorState::Stored))
    }
}
