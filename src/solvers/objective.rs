//! The loss of a model as a function of a vector, for solvers that know vectors only.
//!
//! ```text
//! x ──restructure──▶ the one model ──function──▶ loss, gradient tree ──gather──▶ loss, flat gradient
//! ```
//!
//! Invariant: nothing here mentions a solver; `argmin.rs` adapts the methods below to one.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::Tree;

/// The function that takes a flat vector to the loss of a model and its flat gradient.
///
/// The template is copied once, as by [`Layout::restructure`]; every evaluation writes its point
/// into this one copy, in place. What `function` returns is a loss and a gradient tree of any type,
/// or a `Result` of them: see [`Evaluation`]. An evaluation costs the function, a
/// [`restructure_into`](Layout::restructure_into) and a
/// [`gather_grad_into`](Layout::gather_grad_into).
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
/// As [`Layout::gather`] and [`Layout::restructure`]: a template that is not of the layout or
/// cannot be copied. The second can be handed over instead, with [`Objective::new`].
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

/// The same for solvers that compute in f64, and for models of f64.
///
/// # Errors
/// As [`objective`].
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
/// one objective; from several threads, evaluations take turns.
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
    tied: TiedGrads,
    state: Mutex<State<M, F, E, X>>,
}

struct State<M, F, E, X> {
    model: M,
    function: F,
    point: Vec<X>,
    /// At the point; none before the first evaluation and after one that failed.
    loss: Option<f64>,
    grad: FlatGrad<X>,
    evaluations: usize,
    /// The error that a solver could not be told.
    failure: Option<E>,
}

/// What the function of an [`Objective`] returns: `(loss, gradient tree)`, or a `Result` of it.
///
/// The loss is `f32` or `f64`; one that is infinite or NaN is handed on as it is. The gradient tree
/// has any type, and is read as by
/// [`Layout::gather_grad`]: `()` will do where no solver asks for a gradient. The error of a `Result` is the error of the objective's
/// methods; it has to hold flatleaf's own too.
///
/// ```
/// use flatleaf::{destructure, objective, Error};
///
/// let model = [3.0_f32];
/// let (flat, layout) = destructure(&model)?;
/// let square = objective(&layout, &model, |x| (x[0] * x[0], [2.0 * x[0]]))?;
/// assert_eq!(square.value(&flat)?, 9.0);
///
/// let refusing = objective(&layout, &model, |_| Err::<(f32, ()), _>(Error::custom("no data")))?;
/// assert!(refusing.value(&flat).unwrap_err().is_custom());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Evaluation {
    /// The gradient.
    type Grads: Tree;
    /// What may go wrong.
    type Error: From<Error>;

    /// The loss and the gradient.
    ///
    /// # Errors
    /// The user's.
    ///
    /// ```
    /// use flatleaf::Evaluation;
    ///
    /// assert_eq!((0.5_f32, [1.0_f32]).into_result()?, (0.5_f64, [1.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    fn into_result(self) -> Result<(f64, Self::Grads), Self::Error>;
}

impl<L: Into<f64>, G: Tree> Evaluation for (L, G) {
    type Grads = G;
    type Error = Error;

    fn into_result(self) -> Result<(f64, G)> {
        Ok((self.0.into(), self.1))
    }
}

impl<L: Into<f64>, G: Tree, E: From<Error>> Evaluation for Result<(L, G), E> {
    type Grads = G;
    type Error = E;

    fn into_result(self) -> Result<(f64, G), E> {
        self.map(|(loss, grads)| (loss.into(), grads))
    }
}

impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation, X: FlatElement> Objective<M, F, R::Error, X> {
    /// An objective that evaluates this very model: one that cannot be copied, is too large for a
    /// copy, or is lent as `&mut`.
    ///
    /// # Errors
    /// As [`Layout::gather`]: a model that is not of the layout.
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
        let state = State {
            point: layout.gather_as(&model)?,
            grad: FlatGrad::try_zeros(layout)?,
            model,
            function,
            loss: None,
            evaluations: 0,
            failure: None,
        };
        Ok(Objective {
            layout: layout.clone(),
            tied: TiedGrads::Sum,
            state: Mutex::new(state),
        })
    }

    /// What the gradients at the places of a tie are; [`TiedGrads::Sum`] where nobody says
    /// otherwise. The other allocates a flat gradient an evaluation.
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

    /// The loss at a point.
    ///
    /// # Errors
    /// A point of another length than the layout's; what the function returned; a gradient that is
    /// not of the layout, as in [`Layout::gather_grad`]; an error that was kept.
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

    /// The gradient at a point, into a slice of the same length.
    ///
    /// # Errors
    /// As [`value_and_gradient`](Objective::value_and_gradient).
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

    /// The loss at a point, and the gradient there into a slice of the same length.
    ///
    /// # Errors
    /// As [`value`](Objective::value), a slice of another length, and a gradient that is absent at
    /// every leaf: the function computes none. The slice is as it was.
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

    /// [`value`](Objective::value) for solvers that take no errors: NaN from the first one on.
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

    /// [`value_and_gradient`](Objective::value_and_gradient) for solvers that take no errors: NaN
    /// from the first one on, and then the gradient is NaN too.
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

    /// How often the function has been called.
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
        self.state().evaluations
    }

    /// The model at a point, a solver's answer.
    ///
    /// # Errors
    /// A point of another length than the layout's; an error that was kept.
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
        let mut state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        state.take_failure()?;
        state.move_to(&self.layout, point)?;
        Ok(state.model)
    }

    /// Evaluates at a point, unless it was the last one, and hands on what is there.
    fn at<T>(
        &self,
        point: &[X],
        read: impl FnOnce(f64, &FlatGrad<X>) -> Result<T>,
    ) -> Result<T, R::Error> {
        let mut state = self.state();
        state.take_failure()?;
        let loss = state.evaluate(&self.layout, self.tied, point)?;
        Ok(read(loss, &state.grad)?)
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

    /// Keeps the first of the errors that a solver could not be told.
    pub(crate) fn keep(&self, error: R::Error) {
        self.state().failure.get_or_insert(error);
    }
}

impl<M, F, E, X> Objective<M, F, E, X> {
    /// A function that panicked has left no loss behind: the state is good whether or not the lock
    /// is poisoned.
    fn state(&self) -> MutexGuard<'_, State<M, F, E, X>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_failed(&self) -> bool {
        self.state().failure.is_some()
    }
}

impl<M, F, E, X> fmt::Debug for Objective<M, F, E, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Objective({} elements, {} evaluations)",
            self.layout.len(),
            self.state().evaluations
        )
    }
}

impl<M: Tree, F: FnMut(&M) -> R, R: Evaluation, X: FlatElement> State<M, F, R::Error, X> {
    fn evaluate(&mut self, layout: &Layout, tied: TiedGrads, point: &[X]) -> Result<f64, R::Error> {
        if let Some(loss) = self.loss.filter(|_| self.is_at(point)) {
            return Ok(loss);
        }
        self.move_to(layout, point)?;
        self.evaluations += 1;
        let (loss, grads) = (self.function)(&self.model).into_result()?;
        layout.gather_grad_into_tied(&grads, &mut self.grad, tied)?;
        self.loss = Some(loss);
        Ok(loss)
    }

    fn is_at(&self, point: &[X]) -> bool {
        bytemuck::cast_slice::<X, u8>(&self.point) == bytemuck::cast_slice::<X, u8>(point)
    }

    fn move_to(&mut self, layout: &Layout, point: &[X]) -> Result<()> {
        layout.check_len("the point", point.len())?;
        self.loss = None;
        self.point.copy_from_slice(point);
        layout.restructure_into_as(&mut self.model, &self.point)
    }

    fn take_failure(&mut self) -> Result<(), R::Error> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// Zeros for a gradient that nobody computed would look like a minimum.
fn check_present<X: FlatElement>(grad: &FlatGrad<X>) -> Result<()> {
    let leaves = grad.layout().leaves();
    match leaves.first() {
        Some(leaf) if !(0..leaves.len()).any(|index| grad.is_present(index)) => {
            Err(Error::missing(
                leaf.path().to_owned(),
                "a gradient, here or at another leaf".into(),
            ))
        }
        _ => Ok(()),
    }
}
