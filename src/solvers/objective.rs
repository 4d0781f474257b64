//! The loss of a model as a function of a vector, for solvers that know vectors only.
//!
//! ```text
//! x ──restructure──▶ the one model ──function──▶ loss, gradient tree ──gather──▶ loss, flat gradient
//! ```
//!
//! # The lock
//! A model is evaluated in place by a function that is `FnMut`, so evaluations take turns behind a
//! mutex. Work that is shared among a pool's threads must not be done behind it. A pool's thread
//! that waits for the others takes up whatever task is there, and if that task evaluates the same
//! objective, it waits for a lock that is held further down on its own stack:
//!
//! ```text
//! thread 1 of the pool                          thread 2 of the pool
//! task A: value(x)    locks
//!   copies x into the model, half of it here    copies the other half, then takes task B:
//!   waits for the other half                    value(y), waits for the lock
//!   meanwhile takes task C: value(z),
//!     waits for the lock that A holds: for good
//! ```
//!
//! So an evaluation, the function included, runs under [`threads::alone`]: whatever flatleaf does
//! in it stays on its own thread. What the function shares by itself is beyond that. Where such a
//! task comes back on the same thread, `evaluating` knows, and it is an error in place of a hang.
//!
//! To let the thread that waits for the lock work for the pool meanwhile was thought of and
//! dropped: it takes up further evaluations, one on top of the other, until its stack is full.
//!
//! Invariant: nothing here mentions a solver; `argmin.rs` adapts the methods below to one.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::evaluation::{Evaluation, GradientSource};
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::memory;
use crate::threads;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// The function that takes a flat vector to the loss of a model and its flat gradient.
///
/// The template is copied once, as by [`Layout::restructure`]; every evaluation writes its point
/// into this one copy, in place. What `function` returns is a loss and a gradient, a tree of any
/// type or a [`FlatGrad`](crate::FlatGrad), or a `Result` of them: see [`Evaluation`]. An
/// evaluation costs the function, a [`restructure_into`](Layout::restructure_into) and a
/// [`gather_grad_into`](Layout::gather_grad_into), these by one thread.
///
/// ```
/// use flatleaf::{Tree, destructure, objective, tree};
/// use ndarray::{Array1, arr1};
///
/// #[derive(Tree)]
/// struct Model { x: Array1<f32>, #[tree(frozen)] centre: Array1<f32> }
///
/// let model = Model { x: arr1(&[5.0, 6.0]), centre: arr1(&[1.0, 2.0]) };
/// let (mut flat, layout) = destructure(&model)?;
/// let objective = objective(&layout, &model, |model| {
///     let offset = &model.x - &model.centre;
///     (offset.dot(&offset), tree!({ "x": (2.0 * offset) }))
/// })?;
///
/// let mut gradient = vec![0.0; flat.len()];
/// assert_eq!(objective.value_and_gradient(&flat, &mut gradient)?, 32.0);
/// assert_eq!(gradient, [8.0, 8.0]);
///
/// flat.copy_from_slice(&[1.0, 2.0]); // what a solver would find
/// assert_eq!(objective.into_model(&flat)?.x, arr1(&[1.0, 2.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
///
/// # Errors
/// A template that is not of the layout: `is_missing`, `is_unknown`, `is_shape` or `is_broken_tie`,
/// and `is_element_type` for a leaf of f64. One that cannot be copied: `is_object` or
/// `is_read_only`; it can be handed over instead, with [`Objective::new`].
pub fn objective<M, F, R>(
    layout: &Layout,
    template: &M,
    function: F,
) -> Result<Objective<M, F, R::Error>>
where
    M: Tree,
    F: FnMut(&M) -> R,
    R: Evaluation,
{
    Objective::new(
        layout,
        layout.restructure(template, &layout.gather(template)?)?,
        function,
    )
}

/// The function that takes a flat vector of f64 to the loss of a model and its flat gradient: for
/// solvers that compute in f64, and for models of f64.
///
/// The template is copied once, and every point is written into the copy; a leaf of f32 gets its
/// elements rounded to nearest, a leaf of f64 as they are. Points and gradients take twice the
/// memory of [`objective`]'s.
///
/// # Errors
/// A template that is not of the layout: `is_missing`, `is_unknown`, `is_shape` or `is_broken_tie`.
/// One that cannot be copied: `is_object` or `is_read_only`.
///
/// ```
/// use flatleaf::{destructure_as, objective_f64};
///
/// let model = [0.1_f64]; // nothing is rounded
/// let (flat, layout) = destructure_as::<f64>(&model)?;
/// let square = objective_f64(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
/// assert_eq!(square.value(&flat)?, 0.1 * 0.1);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn objective_f64<M, F, R>(
    layout: &Layout,
    template: &M,
    function: F,
) -> Result<Objective<M, F, R::Error, f64>>
where
    M: Tree,
    F: FnMut(&M) -> R,
    R: Evaluation,
{
    Objective::new(
        layout,
        layout.restructure_as(template, &layout.gather_as::<f64>(template)?)?,
        function,
    )
}

/// The loss of a model as a function of its flat vector; see [`objective`].
///
/// Value and gradient come from one call of the user's function, and the last point is remembered:
/// asking for the value and then for the gradient at the same point (bit for bit) costs one
/// evaluation. The function must therefore answer twice alike; for mini-batches make an objective a
/// batch.
///
/// An absent gradient is zero here. All methods take `&self`, so that several closures can share
/// one objective.
///
/// # Threads
/// From several threads evaluations take turns: who asks for a value or a gradient waits while
/// another thread evaluates, and for nothing else. What flatleaf does in an evaluation, calls of
/// the function's own included, stays on the thread that evaluates, so that tasks of a rayon pool
/// may share an objective. A *function* that shares work among the threads of a pool
/// (`rayon::join`, parallel iterators) while tasks of that pool evaluate the objective can wait for
/// ever: its thread may take up such a task meanwhile. Give each task an objective of its own
/// there. Where the thread that evaluates asks again in the middle of it, the answer is an error,
/// `is_borrowed`.
///
/// # f32 and f64
/// `X` is what points and gradients are made of, f32 or f64. Values are f64, as smooth as
/// `function` computes them.
///
/// A solver in f64 and a model with leaves of f32 work together, but each coordinate is rounded to
/// the nearest f32 on its way into the model (to an infinity beyond 3.4e38), so that the loss is a
/// staircase to the solver: steps below 6e-8 of a coordinate change nothing, and tolerances below
/// 1e-7 of it are never met. Nothing is rounded where the leaves are f64.
///
/// # Solvers that take no errors
/// [`value_or_nan`](Objective::value_or_nan) and
/// [`value_and_gradient_or_nan`](Objective::value_and_gradient_or_nan) return plain numbers. The
/// first error is kept, every value from then on is NaN, and the next method that returns a
/// `Result` returns it; [`into_model`](Objective::into_model) is one.
///
/// ```
/// use flatleaf::{Layout, objective_f64, tree};
///
/// /// Gradient descent from a crate that computes in f64.
/// fn descend(x: &mut [f64], mut f: impl FnMut(&[f64], &mut [f64]) -> f64) {
///     let mut gradient = vec![0.0; x.len()];
///     for _ in 0..50 {
///         f(x, &mut gradient);
///         x.iter_mut().zip(&gradient).for_each(|(x, dx)| *x -= 0.25 * dx);
///     }
/// }
///
/// let model = tree!({ "x": [3.0] });
/// let layout = Layout::of(&model)?;
/// let square = objective_f64(&layout, &model, |model| {
///     let x = layout.gather(model)?[0];
///     Ok::<_, flatleaf::Error>((x * x, tree!({ "x": (vec![2.0 * x]) })))
/// })?;
///
/// let mut x = [3.0];
/// descend(&mut x, |x, gradient| square.value_and_gradient_or_nan(x, gradient));
/// let model = square.into_model(&x)?; // or the first error there was
/// assert!(layout.gather(&model)?[0].abs() < 1e-6);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct Objective<M, F, E = Error, X = f32> {
    layout: Layout,
    /// How a point becomes the model: of the same leaves as `layout`, unless the model is the
    /// vector itself.
    model_layout: Layout,
    tied: TiedGrads,
    state: Mutex<State<M, F, X>>,
    // What stands below is locked for a moment only, and never while an evaluation runs.
    /// The thread that holds the lock of the state.
    evaluating: Mutex<Option<ThreadId>>,
    evaluations: AtomicUsize,
    /// The error that a solver could not be told.
    failure: Mutex<Option<E>>,
}

struct State<M, F, X> {
    model: M,
    function: F,
    point: Vec<X>,
    /// At the point; none before the first evaluation and after one that failed.
    loss: Option<f64>,
    grad: FlatGrad<X>,
}

impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation, X: FlatElement> Objective<M, F, R::Error, X> {
    /// An objective that evaluates this very model: one that cannot be copied, is too large for a
    /// copy, or is lent as `&mut`.
    ///
    /// # Errors
    /// A model that is not of the layout: `is_missing`, `is_unknown`, `is_shape`, `is_broken_tie`
    /// or `is_element_type`.
    ///
    /// ```
    /// use flatleaf::{Layout, Objective};
    ///
    /// let mut model = [3.0_f32];
    /// let layout = Layout::of(&model)?;
    /// let square = Objective::new(&layout, &mut model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
    /// square.into_model(&[0.5_f32])?;
    /// assert_eq!(model, [0.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn new(layout: &Layout, model: M, function: F) -> Result<Self> {
        let point = layout.gather_as(&model)?;
        Self::with_point(layout, layout.clone(), point, model, function)
    }

    fn with_point(
        layout: &Layout,
        model_layout: Layout,
        point: Vec<X>,
        model: M,
        function: F,
    ) -> Result<Self> {
        let state = State {
            point,
            grad: FlatGrad::try_zeros(layout)?,
            model,
            function,
            loss: None,
        };
        Ok(Objective {
            layout: layout.clone(),
            model_layout,
            tied: TiedGrads::Sum,
            state: Mutex::new(state),
            evaluating: Mutex::new(None),
            evaluations: AtomicUsize::new(0),
            failure: Mutex::new(None),
        })
    }

    /// What the gradients at the places of a tie are; [`TiedGrads::Sum`] where nobody says
    /// otherwise. A function that returns a
    /// [`FlatGrad`](crate::FlatGrad) has resolved ties already.
    ///
    /// ```
    /// use flatleaf::{objective, Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let model = (shared.clone(), shared);
    /// let triple = objective(&Layout::of(&model)?, &model, |model| (3.0 * model.0[0], ([3.0_f32], [3.0_f32])))?;
    /// let mut gradient = [0.0];
    /// triple.tied_grads(TiedGrads::AlreadyTotal).gradient(&[1.0], &mut gradient)?;
    /// assert_eq!(gradient, [3.0]); // where the sum is 6
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn tied_grads(self, tied: TiedGrads) -> Self {
        Objective { tied, ..self }
    }

    /// The loss at a point. Waits while another thread evaluates.
    ///
    /// # Errors
    /// `is_length`: a point that is not as long as the layout. `is_borrowed`: the function asks for
    /// a value of the objective that it is the function of. What the function returned, a gradient
    /// that is not of the layout (`is_unknown`, `is_shape`, `is_element_type`, `is_other_layout`),
    /// and the error that a call of `…_or_nan` has kept.
    ///
    /// ```
    /// use flatleaf::{destructure, objective};
    ///
    /// let model = [3.0_f32];
    /// let (flat, layout) = destructure(&model)?;
    /// let square = objective(&layout, &model, |x| (x[0] * x[0], ()))?; // no gradient, where nobody asks for one
    /// assert_eq!(square.value(&flat)?, 9.0);
    /// assert!(square.value(&[1.0, 2.0]).unwrap_err().is_length());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn value(&self, point: &[X]) -> Result<f64, R::Error> {
        self.at(point, |loss, _| Ok(loss))
    }

    /// The gradient at a point, into a slice of the same length. Waits while another thread
    /// evaluates.
    ///
    /// # Errors
    /// `is_length`: a point or a slice that is not as long as the layout. `is_missing`: a gradient
    /// that is absent at every leaf. Otherwise what [`value`](Objective::value) returns. The slice
    /// is as it was.
    ///
    /// ```
    /// use flatleaf::{destructure, objective};
    ///
    /// let model = [3.0_f32];
    /// let (flat, layout) = destructure(&model)?;
    /// let square = objective(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
    /// let mut gradient = [0.0];
    /// square.gradient(&flat, &mut gradient)?;
    /// assert_eq!(gradient, [6.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gradient(&self, point: &[X], gradient: &mut [X]) -> Result<(), R::Error> {
        self.value_and_gradient(point, gradient).map(drop)
    }

    /// The loss at a point, and the gradient there into a slice of the same length. Waits while
    /// another thread evaluates.
    ///
    /// # Errors
    /// `is_length`: a point or a slice that is not as long as the layout. `is_missing`: a gradient
    /// that is absent at every leaf, which means that the function computes none; zeros would look
    /// like a minimum. Otherwise what [`value`](Objective::value) returns. The slice is as it was.
    ///
    /// ```
    /// use flatleaf::{destructure, objective};
    ///
    /// let model = ([3.0_f32],);
    /// let (flat, layout) = destructure(&model)?;
    /// let mut gradient = [0.0];
    /// let double = objective(&layout, &model, |(x,)| (2.0 * x[0], ([2.0_f32],)))?;
    /// assert_eq!((double.value_and_gradient(&flat, &mut gradient)?, gradient), (6.0, [2.0]));
    ///
    /// let without = objective(&layout, &model, |(x,)| (2.0 * x[0], ()))?;
    /// let error = without.value_and_gradient(&flat, &mut gradient).unwrap_err();
    /// assert_eq!((error.is_missing(), error.path()), (true, Some("0")));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn value_and_gradient(&self, point: &[X], gradient: &mut [X]) -> Result<f64, R::Error> {
        self.layout.check_len("the gradient", gradient.len())?;
        self.at(point, |loss, grad| {
            check_present(grad)?;
            gradient.copy_from_slice(grad);
            Ok(loss)
        })
    }

    /// The loss at a point for solvers that take no errors: NaN from the first error on, which the
    /// next method that returns a `Result` returns. Waits while another thread evaluates.
    ///
    /// ```
    /// use flatleaf::{destructure, objective, Error};
    ///
    /// let model = [3.0_f32];
    /// let (flat, layout) = destructure(&model)?;
    /// let root = objective(&layout, &model, |x| match x[0] {
    ///     x if x < 0.0 => Err(Error::custom("a root of less than 0")),
    ///     x => Ok((x.sqrt(), ())),
    /// })?;
    /// assert_eq!(root.value_or_nan(&[4.0]), 2.0);
    /// assert!(root.value_or_nan(&[-4.0]).is_nan() && root.value_or_nan(&[4.0]).is_nan());
    /// assert!(root.into_model(&flat).unwrap_err().is_custom());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn value_or_nan(&self, point: &[X]) -> f64 {
        self.or_nan(|| self.value(point))
    }

    /// The loss at a point and the gradient there, for solvers that take no errors: from the first
    /// error on, which the next method that returns a `Result` returns, the loss is NaN and so is
    /// every element of the gradient. Waits while another thread evaluates.
    ///
    /// ```
    /// use flatleaf::{destructure, objective};
    ///
    /// let model = [3.0_f32];
    /// let (flat, layout) = destructure(&model)?;
    /// let square = objective(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
    /// let mut gradient = [0.0];
    /// assert_eq!(square.value_and_gradient_or_nan(&flat, &mut gradient), 9.0);
    /// assert_eq!(gradient, [6.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn value_and_gradient_or_nan(&self, point: &[X], gradient: &mut [X]) -> f64
    where
        X: From<f32>,
    {
        let value = self.or_nan(|| self.value_and_gradient(point, &mut *gradient));
        if self.has_failed() {
            gradient.fill(f32::NAN.into());
        }
        value
    }

    /// The layout of its points.
    ///
    /// ```
    /// use flatleaf::{objective, Layout};
    ///
    /// let model = [3.0_f32, 4.0];
    /// let sum = objective(&Layout::of(&model)?, &model, |x| (x[0] + x[1], [1.0_f32, 1.0]))?;
    /// let start = vec![0.0; sum.layout().len()];
    /// assert_eq!(sum.value(&start)?, 0.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How often the function has been called: points that were asked for twice in a row count
    /// once. Waits for nobody.
    ///
    /// ```
    /// use flatleaf::{destructure, objective};
    ///
    /// let model = [3.0_f32];
    /// let (flat, layout) = destructure(&model)?;
    /// let square = objective(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
    /// square.value(&flat)?;
    /// square.gradient(&flat, &mut [0.0])?; // at the same point
    /// assert_eq!(square.evaluations(), 1);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn evaluations(&self) -> usize {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// The model at a point, a solver's answer. The point is written into it, by all threads if it
    /// is large.
    ///
    /// # Errors
    /// `is_length`: a point that is not as long as the layout. The error that a call of `…_or_nan`
    /// has kept.
    ///
    /// ```
    /// use flatleaf::{objective, tree, Layout};
    ///
    /// let model = tree!({ "x": [3.0], "y": [4.0] });
    /// let constant = objective(&Layout::of(&model)?, &model, |_| (0.0_f32, ()))?;
    /// assert_eq!(constant.into_model(&[1.0, 2.0])?, tree!({ "x": [1.0], "y": [2.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn into_model(self, point: &[X]) -> Result<M, R::Error> {
        self.take_failure()?;
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut model = state.model;
        self.layout.check_len("the point", point.len())?;
        self.model_layout.restructure_into_as(&mut model, point)?;
        Ok(model)
    }

    /// Evaluates at a point, unless it was the last one, and hands on what is there.
    fn at<T>(
        &self,
        point: &[X],
        read: impl FnOnce(f64, &FlatGrad<X>) -> Result<T>,
    ) -> Result<T, R::Error> {
        self.take_failure()?;
        self.layout.check_len("the point", point.len())?;
        let mut evaluating = self.lock()?;
        threads::alone(|| {
            let loss = self.evaluate(&mut evaluating.state, point)?;
            Ok(read(loss, &evaluating.state.grad)?)
        })
    }

    fn evaluate(&self, state: &mut State<M, F, X>, point: &[X]) -> Result<f64, R::Error> {
        // Solvers ask for the loss and then for the gradient at the same point.
        if let Some(loss) = state.loss
            && same_bits(&state.point, point)
        {
            return Ok(loss);
        }
        state.loss = None;
        state.point.copy_from_slice(point);
        let model = &mut state.model;
        self.model_layout.restructure_into_as(model, &state.point)?;
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let evaluated = (state.function)(model);
        let (loss, gradient) = evaluated.into_result()?;
        gradient.write_to(&self.layout, self.tied, &mut state.grad)?;
        state.loss = Some(loss);
        Ok(loss)
    }

    fn or_nan(&self, evaluate: impl FnOnce() -> Result<f64, R::Error>) -> f64 {
        if self.has_failed() {
            return f64::NAN;
        }
        evaluate().unwrap_or_else(|error| {
            self.keep(error);
            f64::NAN
        })
    }

    fn take_failure(&self) -> Result<(), R::Error> {
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    /// Keeps the first of the errors that a solver could not be told.
    pub(crate) fn keep(&self, error: R::Error) {
        lock(&self.failure).get_or_insert(error);
    }
}

impl<F: FnMut(&Vec<f32>) -> R, R: Evaluation> Objective<Vec<f32>, F, R::Error> {
    /// An objective whose function takes the point itself, for models that no tree describes or
    /// that another library rebuilds from a vector. Such a function mostly returns a
    /// [`FlatGrad`](crate::FlatGrad); a gradient tree of the layout will do as well.
    ///
    /// The layout names the leaves of the gradient. A point is copied once an evaluation, and
    /// [`into_model`](Objective::into_model) gives the vector back.
    ///
    /// # Errors
    /// `is_out_of_memory`: more elements than there is memory for.
    ///
    /// ```
    /// use flatleaf::{Layout, Objective, FlatGrad, tree};
    ///
    /// let layout = Layout::of(&tree!({ "w": [0.0, 0.0], "b": [0.0] }))?;
    /// let square = Objective::over_vector(&layout, |x| {
    ///     let gradient = x.iter().map(|x| 2.0 * x).collect();
    ///     Ok::<_, flatleaf::Error>((x.iter().map(|x| x * x).sum::<f32>(), FlatGrad::from_flat(&layout, gradient)?))
    /// })?;
    /// let mut gradient = [0.0; 3];
    /// assert_eq!(square.value_and_gradient(&[1.0, 2.0, 3.0], &mut gradient)?, 14.0);
    /// assert_eq!(gradient, [2.0, 4.0, 6.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn over_vector(layout: &Layout, function: F) -> Result<Self> {
        Self::over_zeros(layout, function)
    }
}

impl<F: FnMut(&Vec<f64>) -> R, R: Evaluation> Objective<Vec<f64>, F, R::Error, f64> {
    /// An objective whose function takes the point itself, a vector of f64, for solvers that
    /// compute in f64 and models that no tree describes. A gradient of f32 is widened.
    ///
    /// The layout names the leaves of the gradient. A point is copied once an evaluation, and
    /// [`into_model`](Objective::into_model) gives the vector back.
    ///
    /// # Errors
    /// `is_out_of_memory`: more elements than there is memory for.
    ///
    /// ```
    /// use flatleaf::{Layout, Objective, tree};
    ///
    /// let layout = Layout::of(&tree!({ "w": [0.0, 0.0] }))?;
    /// let square = Objective::over_vector_f64(&layout, |x| (x[0] * x[0] + x[1], ()))?;
    /// assert_eq!(square.value(&[0.1, 2.0])?, 0.1 * 0.1 + 2.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn over_vector_f64(layout: &Layout, function: F) -> Result<Self> {
        Self::over_zeros(layout, function)
    }
}

impl<F: FnMut(&Vec<X>) -> R, R: Evaluation, X: FlatElement> Objective<Vec<X>, F, R::Error, X>
where
    Vec<X>: Tree,
{
    fn over_zeros(layout: &Layout, function: F) -> Result<Self> {
        let zeros = || memory::try_zeroed(layout.len());
        let point = zeros()?;
        let model = zeros()?;
        let model_layout = Layout::of(&model)?;
        Self::with_point(layout, model_layout, point, model, function)
    }
}

impl<M, F, E, X> Objective<M, F, E, X> {
    /// Waits for the state.
    ///
    /// # Errors
    /// This thread has it already, and would wait for itself.
    fn lock(&self) -> Result<Evaluating<'_, M, F, X>> {
        let this_thread = thread::current().id();
        if *lock(&self.evaluating) == Some(this_thread) {
            return Err(Error::evaluating());
        }
        let state = lock(&self.state);
        *lock(&self.evaluating) = Some(this_thread);
        Ok(Evaluating {
            state,
            thread: &self.evaluating,
        })
    }

    fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }
}

/// The state of an objective, locked by a thread that is known.
struct Evaluating<'o, M, F, X> {
    state: MutexGuard<'o, State<M, F, X>>,
    thread: &'o Mutex<Option<ThreadId>>,
}

impl<M, F, X> Drop for Evaluating<'_, M, F, X> {
    fn drop(&mut self) {
        // Before the state is unlocked, which is when its fields are dropped.
        *lock(self.thread) = None;
    }
}

/// A function that panicked has left no loss behind: what is locked is good whether or not the lock
/// is poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M, F, E, X> fmt::Debug for Objective<M, F, E, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evaluations = self.evaluations.load(Ordering::Relaxed);
        let elements = self.layout.len();
        write!(
            f,
            "Objective({elements} elements, {evaluations} evaluations)"
        )
    }
}

fn same_bits<X: FlatElement>(a: &[X], b: &[X]) -> bool {
    let a: &[u8] = bytemuck::cast_slice(a);
    let b: &[u8] = bytemuck::cast_slice(b);
    a == b
}

/// Zeros for a gradient that nobody computed would look like a minimum.
fn check_present<X: FlatElement>(grad: &FlatGrad<X>) -> Result<()> {
    let leaves = grad.layout().leaves();
    let Some(first) = leaves.first() else {
        return Ok(());
    };
    if (0..leaves.len()).any(|index| grad.is_present(index)) {
        return Ok(());
    }
    let expected = "a gradient, here or at another leaf".into();
    Err(Error::missing(first.path().to_owned(), expected))
}
