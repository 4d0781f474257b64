//! An optimiser that moves candle's variables where they are.
//!
//! # One lock at a time
//! A step holds candle's guards for reading on the gradients, which belong to nobody else, and
//! lends the rule one variable after the other, each under its lock for writing. To hold all of them
//! at once, by operations in place nested in each other, was tried in a prototype: it was no faster,
//! and it hung as soon as another thread evaluated the model, which locks a weight and then a bias
//! while we hold the bias and wait for the weight.
//!
//! No work is shared among threads meanwhile ([`alone`]): a thread of a pool that waits takes up
//! other tasks, and one that evaluates the model would wait for the lock below it on its own stack.

use candle_core::backprop::GradStore;
use candle_core::{DType, Var};
use flatleaf::implementing::alone;
use flatleaf::optim::{Optimizer, Rule, StepReport};
use flatleaf::{Error, FlatGrad, Layout, Planner, Result};
use half::slice::HalfFloatSliceExt;
use typed_arena::Arena;

use crate::elements;
use crate::grads::{Addresses, Grads, plain_gradients};
use crate::var_tree::{Entry, VarTree};
use crate::{from_candle, to_candle};

/// Moves candle's variables by any [`Rule`] or chain of rules, where they are; it is a
/// [`candle_nn::Optimizer`] too.
///
/// Variables of f32 in host memory are moved without a copy, one locked at a time. Those of f16 and
/// bf16 are widened, moved in f32 and rounded to the nearest even. Those on a device are copied to
/// host memory, moved there and copied back, which costs both transfers for each variable and step:
/// no GPU has run it yet. A step runs on the thread that calls it.
///
/// Every variable has a step count of its own: one without a gradient is left alone, with its state.
/// A variable of several names moves once, by its total gradient.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap, linear, loss::mse};
/// use flatleaf::optim::{AdamW, ClipNorm, Ema};
/// use flatleaf_candle::{FlatOptimizer, VarTree};
///
/// let map = VarMap::new();
/// let model = linear(2, 1, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
/// let rule = (ClipNorm { max: 1.0, ..Default::default() }, AdamW { lr: 0.1, ..Default::default() }, Ema::default());
/// let mut optimizer = FlatOptimizer::of(&VarTree::of(&map)?, rule)?;
///
/// let inputs = Tensor::new(&[[1.0_f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[3.0_f32], [-1.0]], &Device::Cpu)?;
/// for _ in 0..200 {
///     let loss = mse(&model.forward(&inputs)?, &targets)?;
///     let report = optimizer.update(&loss.backward()?)?;
///     assert_eq!(report.leaves, 2); // weight and bias
/// }
/// assert!(mse(&model.forward(&inputs)?, &targets)?.to_scalar::<f32>()? < 1e-3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FlatOptimizer<R> {
    vars: VarTree,
    layout: Layout,
    optimizer: Optimizer<R>,
    /// Which variable each leaf of the layout is.
    positions: Vec<usize>,
    addresses: Addresses,
    /// Where each leaf's elements lay when they were seen last.
    lies_at: Vec<usize>,
    /// A rate that `set_learning_rate` could not take, which has no way to say so.
    refused: Option<Error>,
}

impl<R: Rule> FlatOptimizer<R> {
    /// An optimiser at step 0 for the trainable variables of a tree.
    ///
    /// # Errors
    /// What the rule's [`validate`](Rule::validate) refuses. `is_element_type`, with its name: a
    /// variable of f64, of which a vector of f32 holds no more than seven digits;
    /// [`planned`](FlatOptimizer::planned) takes a planner that
    /// [rounds](flatleaf::Planner::round_f64) it. `is_custom`: an element type that flatleaf has no
    /// arrays of.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::Sgd;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let w = Var::new(&[3.0_f32, 4.0], &Device::Cpu)?;
    /// let vars = VarTree::named([("w", w.clone())])?;
    /// let mut optimizer = FlatOptimizer::of(&vars, Sgd { lr: 0.25, ..Default::default() })?;
    /// optimizer.update(&w.sqr()?.sum_all()?.backward()?)?;
    /// assert_eq!(w.to_vec1::<f32>()?, [1.5, 2.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(vars: &VarTree, rule: R) -> Result<Self> {
        FlatOptimizer::planned(vars, rule, &Layout::planner())
    }

    /// An optimiser for the variables that a planner leaves trainable: with some frozen by pattern,
    /// or with variables of f64.
    ///
    /// # Errors
    /// `is_pattern`: a pattern that matches no variable. What [`of`](FlatOptimizer::of) refuses.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::Layout;
    /// use flatleaf::optim::Sgd;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let var = || Var::new(&[1.0_f32], &Device::Cpu);
    /// let vars = VarTree::named([("body.w", var()?), ("head.w", var()?)])?;
    /// let planner = Layout::planner().freeze("body.**");
    /// let optimizer = FlatOptimizer::planned(&vars, Sgd::default(), &planner)?;
    /// assert_eq!(optimizer.layout().leaves()[0].path(), "head.w");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn planned(vars: &VarTree, rule: R, planner: &Planner<'_>) -> Result<Self> {
        let optimizer = Optimizer::new(rule, &planner.of(vars)?)?;
        FlatOptimizer::with_optimizer(vars, optimizer)
    }

    /// An optimiser that goes on from the state of another: of one that was resumed from a file, or
    /// that moved a flat vector so far.
    ///
    /// # Errors
    /// `is_missing`, `is_unknown`, `is_shape`, `is_element_type`, with its name: the variables are not
    /// those of the optimiser's layout.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::checkpoint::{self, Extras, LoadOptions};
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-candle-resume-{}", std::process::id()));
    ///
    /// let w = Var::new(&[3.0_f32], &Device::Cpu)?;
    /// let mut vars = VarTree::named([("w", w.clone())])?;
    /// let mut optimizer = FlatOptimizer::of(&vars, AdamW::default())?;
    /// optimizer.update(&w.sqr()?.backward()?)?;
    /// checkpoint::save_with(&path, &vars, &Extras::new().optimizer("opt", optimizer.optimizer()))?;
    ///
    /// // Another process, later.
    /// let file = checkpoint::open(&path)?;
    /// file.load_into(&mut vars, &LoadOptions::new())?;
    /// let resumed: Optimizer<AdamW> = file.part("opt")?.resume(optimizer.layout())?;
    /// let optimizer = FlatOptimizer::with_optimizer(&vars, resumed)?;
    /// assert_eq!(optimizer.optimizer().step_count("w"), Some(1));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_optimizer(vars: &VarTree, optimizer: Optimizer<R>) -> Result<Self> {
        let layout = optimizer.layout().clone();
        // Says what does not agree, if anything does not.
        layout.gather(vars)?;
        let names = vars.dotted_names();
        let position = |path| {
            let position = names.position(path)?;
            Some(vars.entries()[position].first)
        };
        let positions = layout.leaves().iter().map(|leaf| position(leaf.path()));
        let positions = positions.collect::<Option<_>>();
        Ok(FlatOptimizer {
            positions: positions.ok_or_else(|| Error::custom("a leaf that is no variable"))?,
            addresses: Addresses::of(vars)?,
            lies_at: vec![0; layout.leaves().len()],
            vars: vars.clone(),
            layout,
            optimizer,
            refused: None,
        })
    }

    /// Moves the variables by the gradients of a backward pass, and says what the step did.
    ///
    /// # Errors
    /// `is_shape`, `is_element_type`, with the variable's name: a gradient of another shape or type.
    /// `is_non_finite`: a norm is infinite or NaN, and a stage says
    /// [`NonFinite::Error`](flatleaf::ops::NonFinite::Error). `is_missing`: a variable has no gradient,
    /// after [`deny_absent`](Optimizer::deny_absent). `is_argument`: the learning rate that was set
    /// last. `is_other_layout`: the optimiser was replaced by one of other variables. Then nothing has
    /// moved.
    ///
    /// `is_custom`: a device fails in the middle of the step. The error says of each variable at
    /// fault whether it has moved; all others have.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::{ClipNorm, Sgd};
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let w = Var::new(&[1.5_f32, 2.0], &Device::Cpu)?;
    /// let rule = (ClipNorm { max: 1.0, ..Default::default() }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = FlatOptimizer::of(&VarTree::named([("w", w.clone())])?, rule)?;
    /// let report = optimizer.update(&w.sqr()?.sum_all()?.backward()?)?;
    /// assert_eq!((report.clips[0].norm_before, report.clips[0].scale), (5.0, 0.2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn update(&mut self, store: &GradStore) -> Result<StepReport> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        self.check_layout()?;
        let (held, others, gathered);
        held = Arena::with_capacity(self.positions.len());
        let (vars, addresses) = (&self.vars, &self.addresses);
        let plain = plain_gradients(store, vars, &self.positions, addresses, &held)?;
        let slices = match plain {
            Some(slices) => slices,
            None => {
                others = Grads::with_addresses(store, vars, addresses)?;
                gathered = self.layout.gather_grad(&others)?;
                slices_of(&gathered)
            }
        };
        let mut lending = Lending::of(&self.vars, &self.positions, &mut self.lies_at);
        let optimizer = &mut self.optimizer;
        let report =
            alone(|| optimizer.update_each(&slices, |leaf, step| lending.lend(leaf, step)));
        let moved_to = lending.moved_to;
        self.addresses.extend(moved_to);
        report
    }

    /// Ends the windows of an [`Accumulate`](flatleaf::optim::Accumulate) early, as after the last
    /// batch of an epoch: variables of which it holds gradients take a step by their mean.
    ///
    /// # Errors
    /// `is_non_finite`: a norm behind the stage is infinite or NaN, and its stage says
    /// [`NonFinite::Error`](flatleaf::ops::NonFinite::Error). `is_argument`: the learning rate that was
    /// set last. `is_custom`: a device fails.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::{Accumulate, Sgd};
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let w = Var::new(1.0_f32, &Device::Cpu)?;
    /// let rule = (Accumulate { steps: 4 }, Sgd { lr: 0.25, ..Default::default() });
    /// let mut optimizer = FlatOptimizer::of(&VarTree::named([("w", w.clone())])?, rule)?;
    /// optimizer.update(&w.sqr()?.backward()?)?;
    /// assert_eq!(optimizer.flush()?.leaves, 1);
    /// assert_eq!(w.to_scalar::<f32>()?, 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&mut self) -> Result<StepReport> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        self.check_layout()?;
        let mut lending = Lending::of(&self.vars, &self.positions, &mut self.lies_at);
        let optimizer = &mut self.optimizer;
        let report = alone(|| optimizer.flush_each(|leaf, step| lending.lend(leaf, step)));
        self.addresses.extend(lending.moved_to);
        report
    }

    fn check_layout(&self) -> Result<()> {
        if *self.optimizer.layout() == self.layout {
            return Ok(());
        }
        // The error that names the two.
        let mut own: FlatGrad = FlatGrad::zeros(&self.layout);
        own.add(&FlatGrad::zeros(self.optimizer.layout()))
    }
}

/// What can be seen and changed between two steps.
impl<R: Rule> FlatOptimizer<R> {
    /// The variables that it moves.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::Sgd;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let vars = VarTree::named([("w", Var::new(1.0_f32, &Device::Cpu)?)])?;
    /// let optimizer = FlatOptimizer::of(&vars, Sgd::default())?;
    /// let flat = optimizer.layout().gather(optimizer.vars())?;
    /// assert_eq!(flat, [1.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn vars(&self) -> &VarTree {
        &self.vars
    }

    /// Which variable is where in the flat vector, and in the state. Printed it is a table.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::Sgd;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let vars = VarTree::named([("w", Var::new(&[1.0_f32, 2.0], &Device::Cpu)?)])?;
    /// assert_eq!(FlatOptimizer::of(&vars, Sgd::default())?.layout().len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The optimiser of the flat vector that does the work: its step counts, rules and state, and
    /// what a checkpoint writes.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::Adam;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let vars = VarTree::named([("w", Var::new(1.0_f32, &Device::Cpu)?)])?;
    /// let optimizer = FlatOptimizer::of(&vars, Adam::default())?;
    /// assert_eq!(optimizer.optimizer().state_of("exp_avg"), Some(&[0.0][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn optimizer(&self) -> &Optimizer<R> {
        &self.optimizer
    }

    /// The optimiser of the flat vector, to be changed between two steps: groups by pattern, frozen
    /// variables, rates, state.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::AdamW;
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let var = || Var::new(1.0_f32, &Device::Cpu);
    /// let vars = VarTree::named([("body.weight", var()?), ("body.bias", var()?), ("head.weight", var()?)])?;
    /// let mut optimizer = FlatOptimizer::of(&vars, AdamW::default())?;
    /// optimizer.optimizer_mut().adjust("**.bias", |adamw| adamw.weight_decay = 0.0)?;
    /// optimizer.optimizer_mut().freeze("body.**")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn optimizer_mut(&mut self) -> &mut Optimizer<R> {
        &mut self.optimizer
    }

    /// The optimiser of the flat vector, without the variables.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let vars = VarTree::named([("w", Var::new(1.0_f32, &Device::Cpu)?)])?;
    /// let optimizer: Optimizer<Sgd> = FlatOptimizer::of(&vars, Sgd::default())?.into_inner();
    /// assert_eq!(optimizer.step_count("w"), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> Optimizer<R> {
        self.optimizer
    }

    /// Writes a state vector of the rule over variables of another model: the moving average of
    /// [`Ema`](flatleaf::optim::Ema) into the model that is evaluated. Variables of which there is no
    /// such state yet, since they never moved, are written as they are here.
    ///
    /// `target` is written in place and may be a part of a larger map: it has the layout's names.
    ///
    /// # Errors
    /// `is_argument`: no stage has a state of this name. `is_missing`, `is_unknown`, `is_shape`: the
    /// target has not the layout's variables. Then nothing is written.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::optim::{Ema, Sgd};
    /// use flatleaf_candle::{FlatOptimizer, VarTree};
    ///
    /// let (w, smooth) = (Var::new(1.0_f32, &Device::Cpu)?, Var::new(0.0_f32, &Device::Cpu)?);
    /// let rule = (Sgd { lr: 0.25, ..Default::default() }, Ema { decay: 0.5, ..Default::default() });
    /// let mut optimizer = FlatOptimizer::of(&VarTree::named([("w", w.clone())])?, rule)?;
    /// optimizer.update(&w.sqr()?.backward()?)?; // 1.0 to 0.5
    /// optimizer.update(&w.sqr()?.backward()?)?; // and to 0.25
    /// optimizer.write_state("average", &mut VarTree::named([("w", smooth.clone())])?)?;
    /// assert_eq!(smooth.to_scalar::<f32>()?, 0.375);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_state(&self, name: &str, target: &mut VarTree) -> Result<()> {
        let flat = self.layout.gather(&self.vars)?;
        let state = self.optimizer.state_over(name, &flat)?;
        self.layout.restructure_into(target, &state)
    }
}

/// As candle's own optimisers: `backward_step(&loss)` is a backward pass and a step.
///
/// [`new`](candle_nn::Optimizer::new) names the variables by their numbers, in the order that they
/// come in; [`FlatOptimizer::of`] knows their names.
impl<R: Rule> candle_nn::Optimizer for FlatOptimizer<R> {
    type Config = R;

    fn new(vars: Vec<Var>, rule: R) -> candle_core::Result<Self> {
        let names = (0..vars.len()).map(|number| number.to_string());
        let vars = VarTree::named(names.zip(vars));
        vars.and_then(|vars| FlatOptimizer::of(&vars, rule))
            .map_err(to_candle)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.update(grads).map(drop).map_err(to_candle)
    }

    /// The rate of the rule; where groups have several, that which most variables have. NaN of a
    /// rule that has none.
    fn learning_rate(&self) -> f64 {
        match self.usual_rate() {
            Some(rate) if rate.abs() <= STANDSTILL => 0.0,
            Some(rate) => rate,
            None => f64::NAN,
        }
    }

    /// Sets the rate; where groups have several, all are multiplied, so that their ratios stay. What
    /// the rule refuses, a negative rate say, is the error of every step until another rate is set.
    fn set_learning_rate(&mut self, lr: f64) {
        self.refused = self.set_rates(lr).err();
    }
}

/// The rate that stands for 0 where several groups have several: too small to move an f32, and the
/// ratio of the groups is still in it.
const STANDSTILL: f64 = 1e-290;

impl<R: Rule> FlatOptimizer<R> {
    fn set_rates(&mut self, lr: f64) -> Result<()> {
        let usual = match (self.optimizer.lr(), self.usual_rate()) {
            (None, Some(usual)) if usual != 0.0 => usual,
            _ => return self.optimizer.set_lr(lr),
        };
        let lr = if lr == 0.0 { STANDSTILL } else { lr };
        let factor = lr / usual;
        let multiply = |rule: &mut R| {
            if let Some(rate) = rule.lr() {
                rule.set_lr(rate * factor);
            }
        };
        self.optimizer.adjust_where(|_| true, multiply)
    }

    fn usual_rate(&self) -> Option<f64> {
        if let Some(rate) = self.optimizer.lr() {
            return Some(rate);
        }
        let rules = self
            .layout
            .leaves()
            .iter()
            .map(|leaf| self.optimizer.rule(leaf.path()));
        let mut rates: Vec<f64> = rules.filter_map(|rule| rule?.lr()).collect();
        rates.sort_by(f64::total_cmp);
        let runs = rates.chunk_by(|a, b| a == b);
        runs.max_by_key(|run| run.len()).map(|run| run[0])
    }
}

fn slices_of(grad: &FlatGrad) -> Vec<Option<&[f32]>> {
    let leaves = grad.layout().leaves().iter().enumerate();
    let slice = |index: usize, range| grad.is_present(index).then(|| &grad[range]);
    leaves
        .map(|(index, leaf)| slice(index, leaf.range()))
        .collect()
}

/// Lends the rule one variable after the other.
struct Lending<'v> {
    vars: &'v VarTree,
    positions: &'v [usize],
    /// Where each leaf's elements lay when they were seen last, and where those lie that have moved.
    lies_at: &'v mut [usize],
    moved_to: Vec<usize>,
    /// A variable's elements as f32, from variable to variable.
    buffer: Vec<f32>,
}

impl<'v> Lending<'v> {
    fn of(vars: &'v VarTree, positions: &'v [usize], lies_at: &'v mut [usize]) -> Self {
        Lending {
            vars,
            positions,
            lies_at,
            moved_to: Vec::new(),
            buffer: Vec::new(),
        }
    }

    fn lend(&mut self, leaf: usize, step: &mut dyn FnMut(&mut [f32])) -> Result<()> {
        let Entry { var, plain, .. } = &self.vars.entries()[self.positions[leaf]];
        if let Some(range) = plain.as_ref().filter(|_| self.vars.may_lend()) {
            let lent = elements::change_at(var, range, |elements: &mut [f32]| {
                let address = elements.as_ptr().addr();
                if self.lies_at[leaf] != address {
                    self.lies_at[leaf] = address;
                    self.moved_to.push(address);
                }
                step(elements)
            });
            return lent.map_err(from_candle);
        }
        let lent = match var.dtype() {
            DType::F32 => elements::change(var, self.vars.may_lend(), step),
            DType::F16 => self.widened::<half::f16>(var, step),
            DType::BF16 => self.widened::<half::bf16>(var, step),
            _ => self.rounded(var, step),
        };
        lent.map_err(from_candle)
    }

    /// A variable of half precision: exact in f32, and rounded to the nearest even on the way back.
    fn widened<E>(&mut self, var: &Var, step: &mut dyn FnMut(&mut [f32])) -> candle_core::Result<()>
    where
        E: elements::Stored,
        [E]: HalfFloatSliceExt,
    {
        let buffer = &mut self.buffer;
        elements::change(var, self.vars.may_lend(), |elements: &mut [E]| {
            buffer.resize(elements.len(), 0.0);
            elements.convert_to_f32_slice(buffer);
            step(buffer);
            elements.convert_from_f32_slice(buffer);
        })
    }

    /// A variable of f64, which the planner was told to round.
    fn rounded(&mut self, var: &Var, step: &mut dyn FnMut(&mut [f32])) -> candle_core::Result<()> {
        let buffer = &mut self.buffer;
        elements::change(var, self.vars.may_lend(), |elements: &mut [f64]| {
            buffer.clear();
            buffer.extend(elements.iter().map(|&x| x as f32));
            step(buffer);
            for (x, &new) in elements.iter_mut().zip(&*buffer) {
                *x = f64::from(new);
            }
        })
    }
}
