//! What a rule is: a configuration, the vectors it keeps, and what it does to one element at a
//! time.

use super::kernel::Kernel;
use super::loops::AnyKernel;
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// A stage of an optimiser, or all of it: it takes a gradient and makes of it what is subtracted
/// from the parameters.
///
/// A rule is plain configuration. It names the vectors that it keeps from step to step, each as
/// long as the flat vector and zero at first, and makes a [kernel](Rule::kernel) for the step at
/// hand, which runs over rows of sixteen elements. A tuple of rules is a chain: the second takes
/// what the first made. `()` is the empty chain, which subtracts the gradient itself.
///
/// What is counted is kept for each leaf by itself: the steps of every stage, and the numbers that a
/// rule names as its [counters](Rule::counters). Rules are compared, so that leaves with equal
/// configurations are moved together.
///
/// ```
/// use flatleaf::optim::{check_decay_rate, check_non_negative, each, sign, Kernel, Optimizer, Rule};
/// use flatleaf::{tree, FlatGrad, Layout, Result};
///
/// /// Steps of one size in the direction that most of the last gradients had.
/// #[derive(Clone, PartialEq)]
/// struct SignMomentum { lr: f64, momentum: f64 }
///
/// impl Rule for SignMomentum {
///     fn validate(&self) -> Result<()> {
///         check_non_negative("lr", self.lr)?;
///         check_decay_rate("momentum", self.momentum)
///     }
///
///     fn states(&self) -> Vec<&'static str> {
///         vec!["momentum_buffer"]
///     }
///
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         let (lr, momentum) = (self.lr as f32, self.momentum as f32);
///         each(move |_x, dx, [buffer]| {
///             *buffer = momentum * *buffer + (1.0 - momentum) * dx;
///             lr * sign(*buffer)
///         })
///     }
/// }
///
/// let layout = Layout::of(&tree!([1.0, 1.0]))?;
/// let mut optimizer = Optimizer::new(SignMomentum { lr: 0.25, momentum: 0.5 }, &layout)?;
/// let mut flat = vec![1.0, 1.0];
/// optimizer.step(&mut flat, &FlatGrad::from_flat(&layout, vec![3.0, -0.1])?)?;
/// assert_eq!(flat, [0.75, 1.25]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Rule: Clone + PartialEq + Send + Sync {
    /// Refuses a configuration that makes no sense; called before it is used.
    ///
    /// # Errors
    /// The field, what it may be and what it is. [`check_non_negative`], [`check_positive`],
    /// [`check_eps`] and [`check_decay_rate`] make such errors.
    ///
    /// [`check_non_negative`]: super::check_non_negative
    /// [`check_positive`]: super::check_positive
    /// [`check_eps`]: super::check_eps
    /// [`check_decay_rate`]: super::check_decay_rate
    ///
    /// ```
    /// use flatleaf::optim::{Rule, Sgd};
    ///
    /// assert_eq!(Sgd { lr: -1.0, ..Default::default() }.validate().unwrap_err().path(), Some("lr"));
    /// ```
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The names of the vectors it keeps. The same for every configuration of the type, so that
    /// [`Optimizer::adjust`] may change any field: a vector that is never touched costs no memory.
    ///
    /// [`Optimizer::adjust`]: super::Optimizer::adjust
    ///
    /// ```
    /// use flatleaf::optim::{Ema, Rule, Sgd};
    ///
    /// assert_eq!((Sgd::default(), Ema::default()).states(), ["momentum_buffer", "average"]);
    /// ```
    fn states(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Those of its vectors that are moving averages of gradients, or of squares of them, with what
    /// they are of: they may be stored in [8 bits](super::Storage::EightBits). None by default: what
    /// is no such average, or is to stay full, is not named. The same for every configuration of
    /// the type.
    ///
    /// ```
    /// use flatleaf::optim::{each, Kernel, Moment, Optimizer, Rounding, Rule, Storage};
    /// use flatleaf::Layout;
    ///
    /// #[derive(Clone, PartialEq)]
    /// struct Heavy { lr: f32 }
    ///
    /// impl Rule for Heavy {
    ///     fn states(&self) -> Vec<&'static str> {
    ///         vec!["buffer"]
    ///     }
    ///
    ///     fn moments(&self) -> Vec<(&'static str, Moment)> {
    ///         vec![("buffer", Moment::First)]
    ///     }
    ///
    ///     fn kernel(&self, _step: u64) -> impl Kernel {
    ///         let lr = self.lr;
    ///         each(move |_x, dx, [buffer]| {
    ///             *buffer = 0.9 * *buffer + dx;
    ///             lr * *buffer
    ///         })
    ///     }
    /// }
    ///
    /// let layout = Layout::of(&vec![0.0_f32; 1000])?;
    /// let storage = Storage::EightBits(Rounding::Nearest);
    /// let optimizer = Optimizer::with_storage(Heavy { lr: 0.1 }, &layout, storage)?;
    /// assert_eq!(optimizer.state_bytes(), 1016); // 1,000 codes and 4 scales
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn moments(&self) -> Vec<(&'static str, Moment)> {
        Vec::new()
    }

    /// What it does at a leaf's `step`th step, 1 being the first.
    ///
    /// Called once for every run of leaves that have taken as many steps, so that powers of a decay
    /// rate are computed here and not for every row. Numbers are f64 up to here. Steps are the
    /// leaf's own: a warm-up of the rate that is computed from them begins later for one that is
    /// thawed later.
    ///
    /// ```
    /// use flatleaf::optim::{each, Kernel, Optimizer, Rule};
    /// use flatleaf::Layout;
    ///
    /// /// The first three steps are shorter.
    /// #[derive(Clone, PartialEq)]
    /// struct WarmUp;
    ///
    /// impl Rule for WarmUp {
    ///     fn kernel(&self, step: u64) -> impl Kernel {
    ///         let factor = (step as f64 / 4.0).min(1.0) as f32;
    ///         each(move |_x, dx, []| factor * dx)
    ///     }
    /// }
    ///
    /// let mut model = vec![1.0_f32];
    /// let mut optimizer = Optimizer::new(WarmUp, &Layout::of(&model)?)?;
    /// for expected in [0.75, 0.25] {
    ///     optimizer.update(&mut model, &[1.0_f32])?;
    ///     assert_eq!(model, [expected]);
    /// }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn kernel(&self, step: u64) -> impl Kernel;

    /// The names of the numbers that it keeps for every leaf beside its steps, such as a place in a
    /// window or a product of rates: each 0 at first, and stored with the leaf's state. The same for
    /// every configuration of the type.
    ///
    /// A rule with counters has [`kernel_with`](Rule::kernel_with) and [`advance`](Rule::advance)
    /// too. One that wraps a chain hands on all three, [`kernel_for`](Rule::kernel_for) with
    /// [`sees_shape`](Rule::sees_shape), and [`moments`](Rule::moments).
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Rule, Sgd};
    ///
    /// assert_eq!(Accumulate { steps: 2 }.counters(), ["held"]);
    /// assert_eq!((Accumulate { steps: 2 }, Sgd::default()).counters(), ["steps", "held", "steps"]);
    /// ```
    fn counters(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// What it does at a leaf's `step`th step, with the leaf's counters as the step before left
    /// them: by default what [`kernel`](Rule::kernel) makes of the step alone.
    ///
    /// ```
    /// use flatleaf::optim::{each, Kernel, Optimizer, Rule};
    /// use flatleaf::Layout;
    ///
    /// /// Steps by its rate; counts the sum of all rates so far, and warms up over it.
    /// #[derive(Clone, PartialEq)]
    /// struct WarmUp { lr: f64 }
    ///
    /// impl Rule for WarmUp {
    ///     fn counters(&self) -> Vec<&'static str> {
    ///         vec!["sum_of_rates"]
    ///     }
    ///
    ///     fn kernel_with(&self, _step: u64, counters: &[f64]) -> impl Kernel {
    ///         let rate = (self.lr * (counters[0] + self.lr).min(1.0)) as f32;
    ///         each(move |_x, dx, []| rate * dx)
    ///     }
    ///
    ///     fn kernel(&self, step: u64) -> impl Kernel {
    ///         let rate = (self.lr * (self.lr * step as f64).min(1.0)) as f32;
    ///         each(move |_x, dx, []| rate * dx)
    ///     }
    ///
    ///     fn advance(&self, _step: u64, counters: &mut [f64]) -> bool {
    ///         counters[0] += self.lr;
    ///         true
    ///     }
    /// }
    ///
    /// let mut model = vec![1.0_f32];
    /// let mut optimizer = Optimizer::new(WarmUp { lr: 0.5 }, &Layout::of(&model)?)?;
    /// for expected in [0.75, 0.25] {
    ///     optimizer.update(&mut model, &[1.0_f32])?;
    ///     assert_eq!(model, [expected]);
    /// }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn kernel_with(&self, step: u64, counters: &[f64]) -> impl Kernel {
        let _ = counters;
        self.kernel(step)
    }

    /// Whether it does something else for leaves of another shape, in
    /// [`kernel_for`](Rule::kernel_for): then neighbouring leaves share a kernel only if their
    /// shapes are equal. The same for every configuration of the type.
    ///
    /// ```
    /// use flatleaf::optim::{ClipNorm, Muon, Rule, Sgd};
    ///
    /// assert!((ClipNorm::default(), Muon::default()).sees_shape());
    /// assert!(!(ClipNorm::default(), Sgd::default()).sees_shape());
    /// ```
    fn sees_shape(&self) -> bool {
        false
    }

    /// What it does at the `step`th step of a leaf of this shape, with the leaf's counters: by
    /// default what [`kernel_with`](Rule::kernel_with) makes, whatever the shape. Of a rule whose
    /// [`sees_shape`](Rule::sees_shape) says `false` the shape is empty here.
    ///
    /// ```
    /// use flatleaf::optim::{each, Kernel, Optimizer, Rule};
    /// use flatleaf::{tree, Layout};
    ///
    /// /// Matrices take smaller steps, by their number of columns.
    /// #[derive(Clone, PartialEq)]
    /// struct ByColumns;
    ///
    /// impl Rule for ByColumns {
    ///     fn sees_shape(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     fn kernel_for(&self, shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel {
    ///         let divisor = shape.get(1).map_or(1.0, |&columns| columns as f32);
    ///         each(move |_x, dx, []| dx / divisor)
    ///     }
    ///
    ///     fn kernel(&self, step: u64) -> impl Kernel {
    ///         self.kernel_for(&[], step, &[])
    ///     }
    /// }
    ///
    /// let mut model = tree!({ "w": [[0.0, 0.0]], "b": [0.0] });
    /// Optimizer::new(ByColumns, &Layout::of(&model)?)?.update(&mut model, &tree!({ "w": [[1.0, 2.0]], "b": [1.0] }))?;
    /// assert_eq!(model, tree!({ "w": [[-0.5, -1.0]], "b": [-1.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn kernel_for(&self, shape: &[usize], step: u64, counters: &[f64]) -> impl Kernel {
        let _ = shape;
        self.kernel_with(step, counters)
    }

    /// Changes the counters of a leaf that has taken its `step`th step, and says whether the
    /// direction went on to the stages behind it: `false` of a stage that held it back.
    ///
    /// Called once for every run of leaves that are equally far, when the step is certain to be
    /// taken; a step that is refused or skipped does not call it.
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Rule};
    ///
    /// let (rule, mut held) = (Accumulate { steps: 2 }, [0.0]);
    /// assert_eq!([1, 2, 3, 4].map(|step| rule.advance(step, &mut held)), [false, true, false, true]);
    /// ```
    fn advance(&self, step: u64, counters: &mut [f64]) -> bool {
        let _ = (step, counters);
        true
    }

    /// Marks the counters of a leaf so that the next kernel hands on what is held back, without a
    /// gradient, and says whether anything is; `None` of a rule that holds nothing back.
    #[doc(hidden)]
    fn begin_flush(&self, counters: &mut [f64]) -> Option<bool> {
        let _ = counters;
        None
    }

    /// Whether the state vectors of a leaf with these counters have been set.
    #[doc(hidden)]
    fn has_state(&self, steps: u64, counters: &[f64]) -> bool {
        let _ = counters;
        steps > 0
    }

    /// Which of its vectors may be zero at any step, so that a relative's state does without them: a
    /// maximum so far, say.
    #[doc(hidden)]
    fn zero_at_any_step(&self) -> &'static [&'static str] {
        &[]
    }

    /// The rules of a chain, or this one, with where their vectors and counters are.
    #[doc(hidden)]
    fn for_each_stage(&self, progress: &mut [f64], stage: &mut dyn FnMut(StageState<'_>)) {
        let (steps, counters) = progress.split_at_mut(1);
        let has_state = self.has_state(steps[0] as u64, counters);
        stage(StageState {
            vectors: &self.states(),
            moments: &self.moments(),
            zero_at_any_step: self.zero_at_any_step(),
            counters: &self.counters(),
            has_state,
            progress,
        });
    }

    /// Its learning rate, to be read and changed; `None` of a rule that has none, which is what a
    /// rule says that does not implement this. Of a chain the first that a stage has.
    ///
    /// A rule with a field `lr` returns `Some(&mut self.lr)`, and schedules and
    /// [`Optimizer::set_lr`](super::Optimizer::set_lr) work.
    ///
    /// ```
    /// use flatleaf::optim::{ClipNorm, Rule, Sgd};
    ///
    /// let mut chain = (ClipNorm::default(), Sgd::default());
    /// *chain.lr_mut().unwrap() *= 0.5;
    /// assert_eq!(chain.1.lr, 0.0005);
    /// ```
    fn lr_mut(&mut self) -> Option<&mut f64> {
        None
    }

    /// The learning rate that [`lr_mut`](Rule::lr_mut) hands out, if there is one. Copies the
    /// configuration, as it has no more than `lr_mut` to look through.
    ///
    /// ```
    /// use flatleaf::optim::{ClipNorm, Rule, Sgd};
    ///
    /// assert_eq!((ClipNorm::default(), Sgd { lr: 0.5, ..Default::default() }).lr(), Some(0.5));
    /// assert_eq!(ClipNorm::default().lr(), None);
    /// ```
    fn lr(&self) -> Option<f64> {
        self.clone().lr_mut().copied()
    }

    /// Sets the learning rate, of a chain that of every stage which has one, and says whether
    /// there was any to set. Nothing is validated here.
    ///
    /// ```
    /// use flatleaf::optim::{ClipNorm, Rule, Sgd};
    ///
    /// let mut chain = (ClipNorm::default(), Sgd::default());
    /// assert!(chain.set_lr(0.5) && chain.1.lr == 0.5);
    /// assert!(!ClipNorm::default().set_lr(0.5));
    /// ```
    fn set_lr(&mut self, lr: f64) -> bool {
        let Some(rate) = self.lr_mut() else {
            return false;
        };
        *rate = lr;
        true
    }

    /// Refuses a rule that names fewer vectors than its kernel uses.
    ///
    /// # Errors
    /// Both numbers, with the name of the type.
    #[doc(hidden)]
    fn check_states(&self) -> Result<()> {
        check_vectors::<Self>(self.states().len(), self.kernel(1).states())
    }

    /// Whether it has to be the last of a chain: it looks at what becomes of the parameters.
    ///
    /// ```
    /// use flatleaf::optim::{Ema, Rule, Sgd};
    ///
    /// assert!(Ema::default().is_last());
    /// assert!((Ema::default(), Sgd::default()).validate().unwrap_err().is_argument());
    /// ```
    fn is_last(&self) -> bool {
        false
    }
}

/// A [`Rule`] that moves vectors of `E`: of `f32` every one, and of `f64` every rule of this crate
/// and chains of such.
///
/// A rule of one's own moves vectors of `f64` once it implements this for `f64`, by a kernel of
/// [`each_as`](super::each_as), which may be one function for both. Everything else is as its
/// [`Rule`] says: settings, names of vectors, counters.
///
/// ```
/// use flatleaf::optim::{each_as, Kernel, Optimizer, Rule, RuleFor};
/// use flatleaf::{destructure_as, FlatElement};
///
/// #[derive(Clone, PartialEq)]
/// struct Descent { lr: f64 }
///
/// impl Descent {
///     fn step<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
///         let lr = E::from_f64(self.lr);
///         each_as::<E, _>(move |_x, dx, []| lr * dx)
///     }
/// }
///
/// impl Rule for Descent {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         self.step()
///     }
/// }
///
/// impl RuleFor<f64> for Descent {
///     fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
///         self.step()
///     }
/// }
///
/// let (mut flat, layout) = destructure_as::<f64>(&vec![1.0_f64])?;
/// let mut optimizer = Optimizer::new_as::<f64>(Descent { lr: 0.1 }, &layout)?;
/// optimizer.step(&mut flat, &[2.0])?;
/// assert_eq!(flat, [0.8]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "the rule `{Self}` has no kernel for vectors of `{E}`",
    label = "moves vectors of other elements only",
    note = "implement `RuleFor<{E}>` for it, with a kernel made by `each_as`; a chain needs it of every stage"
)]
pub trait RuleFor<E: FlatElement>: Rule {
    /// What it does at a leaf's `step`th step, 1 being the first, in vectors of `E`; with the leaf's
    /// shape, empty if [`sees_shape`](Rule::sees_shape) says `false`, and its counters, of which a
    /// rule without any gets none.
    ///
    /// ```
    /// use flatleaf::optim::{each_as, Kernel, Optimizer, Rule, RuleFor};
    /// use flatleaf::Layout;
    ///
    /// /// The first three steps are shorter.
    /// #[derive(Clone, PartialEq)]
    /// struct WarmUp;
    ///
    /// impl Rule for WarmUp {
    ///     fn kernel(&self, step: u64) -> impl Kernel {
    ///         let factor = (step as f32 / 4.0).min(1.0);
    ///         each_as::<f32, _>(move |_x, dx, []| factor * dx)
    ///     }
    /// }
    ///
    /// impl RuleFor<f64> for WarmUp {
    ///     fn kernel_as(&self, _shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
    ///         let factor = (step as f64 / 4.0).min(1.0);
    ///         each_as::<f64, _>(move |_x, dx, []| factor * dx)
    ///     }
    /// }
    ///
    /// let mut flat = [1.0];
    /// Optimizer::new_as::<f64>(WarmUp, &Layout::of(&flat)?)?.step(&mut flat, &[0.4])?;
    /// assert_eq!(flat, [0.9]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn kernel_as(&self, shape: &[usize], step: u64, counters: &[f64]) -> impl Kernel<E>;

    /// Refuses a rule that names fewer vectors than its kernel uses.
    ///
    /// # Errors
    /// Both numbers, with the name of the type.
    #[doc(hidden)]
    fn check_kernel(&self) -> Result<()> {
        let counters = vec![0.0; self.counters().len()];
        let named = self.states().len();
        let used = self.kernel_as(&[], 1, &counters).states();
        check_vectors::<Self>(named, used)
    }
}

impl<R: Rule> RuleFor<f32> for R {
    fn kernel_as(&self, shape: &[usize], step: u64, counters: &[f64]) -> impl Kernel<f32> {
        self.kernel_for(shape, step, counters)
    }

    fn check_kernel(&self) -> Result<()> {
        self.check_states()
    }
}

/// The configurations of an optimiser, whatever its rule's type: of what a step does only this, and
/// the loops of the kernels, is compiled for a rule.
pub(super) trait Groups<E> {
    /// How many counters a configuration has.
    fn counters(&self) -> usize;

    fn sees_shape(&self) -> bool;

    fn kernel<'k>(
        &'k self,
        group: usize,
        shape: &'k [usize],
        step: u64,
        counters: &'k [f64],
    ) -> Box<dyn AnyKernel<E> + 'k>;

    fn advance(&self, group: usize, step: u64, counters: &mut [f64]);

    fn begin_flush(&self, group: usize, counters: &mut [f64]) -> Option<bool>;
}

impl<R: RuleFor<E>, E: FlatElement> Groups<E> for Vec<R> {
    fn counters(&self) -> usize {
        self[0].counters().len()
    }

    fn sees_shape(&self) -> bool {
        self[0].sees_shape()
    }

    fn kernel<'k>(
        &'k self,
        group: usize,
        shape: &'k [usize],
        step: u64,
        counters: &'k [f64],
    ) -> Box<dyn AnyKernel<E> + 'k> {
        Box::new(self[group].kernel_as(shape, step, counters))
    }

    fn advance(&self, group: usize, step: u64, counters: &mut [f64]) {
        self[group].advance(step, counters);
    }

    fn begin_flush(&self, group: usize, counters: &mut [f64]) -> Option<bool> {
        self[group].begin_flush(counters)
    }
}

fn check_vectors<R>(named: usize, used: usize) -> Result<()> {
    if used <= named {
        return Ok(());
    }
    let expected = format!("`states` to name as many vectors as its kernel uses, {used}");
    Err(Error::argument(&expected, named).at(short_name::<R>()))
}

/// The step that follows after so many. Steps are kept as f64, exact to 2⁵³, where they stay.
pub(super) fn next_step(steps: f64) -> u64 {
    (steps as u64).saturating_add(1)
}

/// What one stage of a chain keeps of a leaf.
#[doc(hidden)]
pub struct StageState<'s> {
    /// Names of its state vectors.
    pub(super) vectors: &'s [&'static str],
    /// Those of them that may be zero whatever the step.
    pub(super) zero_at_any_step: &'static [&'static str],
    /// Names of its counters.
    pub(super) counters: &'s [&'static str],
    /// Those that may be stored in 8 bits.
    pub(super) moments: &'s [(&'static str, Moment)],
    /// Whether the stage has written to them.
    pub(super) has_state: bool,
    /// Its steps, and behind them its counters.
    pub(super) progress: &'s mut [f64],
}

/// The name of a type without its modules and parameters.
pub(super) fn short_name<R>() -> &'static str {
    let name = std::any::type_name::<R>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}
