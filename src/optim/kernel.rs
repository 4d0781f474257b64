//! What a rule does at one step, put together from a few pieces.
//!
//! Pieces and not closures over a row, since they have to become one loop, compiled for every
//! vector width: `run` is inlined always, which cannot be asked of a closure. (AdamW as one closure
//! was not, and took three times as long.)
//!
//! A kernel is gone through in three ways. First [`Kernel::scan`] goes through it without any
//! elements and lists the norms that it will ask for: norms have to be measured before anything is
//! written, and which ones depends on options and on gates. A direction that is changed as a whole
//! leaf is found in advance too, and has a number among the norms. Then, once for every part of a
//! leaf, [`Kernel::bind`] hands each piece the state vectors and the norms that are its own. What
//! comes of it, a [`BoundKernel`], takes one row of elements after the other through all pieces.
//! `plan.rs` follows an example through them.
//!
//! For `(ClipNorm, AdamW, Ema)` that is: the scan says that norm 0 is the global one; it is
//! measured; then a part of 8,192 elements gets the factor of norm 0 as two numbers (see `in_two`),
//! `exp_avg` and `exp_avg_sq` as two slices of 512 rows, and `average` as a third. Its 512 rows look
//! up nothing.
//! (As long as every row asked for its state vectors by their number, and for its norm, two threads
//! of one core took 1.25 times as long for a step of AdamW, and 1.45 times where state is bf16: not
//! the arithmetic was most of the work but finding things.)

use std::ops::ControlFlow;
use std::sync::Arc;

use super::measure::Measure;
use super::row::{Context, Row, States, Vectors};
use super::scan::Scan;
use crate::element::{Dtype, FlatElement};
use crate::error::Result;

/// What a rule does to the elements at one step, its numbers being of the vectors' type: [`each`],
/// [`choose`], [`scale_by_leaf_norms`], [`scale_by_global_norm`], [`each_leaf`], [`go_on_if`] or
/// several of them in a tuple, one after the other. Vectors are of `f32` where nothing else is
/// said; [`each_as`] and [`each_leaf_as`] are for others.
///
/// This trait is sealed: kernels are made by those functions and implemented nowhere else, so that
/// any of them can be run in rows of any width, and on copies of the state.
///
/// ```
/// use flatleaf::optim::{each, sign, Kernel, Optimizer, Rule};
/// use flatleaf::Layout;
///
/// #[derive(Clone, PartialEq)]
/// struct SignSgd { lr: f32 }
///
/// impl Rule for SignSgd {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         let lr = self.lr;
///         (each(|_x, dx, []| sign(dx)), each(move |_x, dx, []| lr * dx))
///     }
/// }
///
/// let mut model = vec![1.0_f32, 1.0];
/// Optimizer::new(SignSgd { lr: 0.25 }, &Layout::of(&model)?)?.update(&mut model, &[3.0_f32, -0.1])?;
/// assert_eq!(model, [0.75, 1.25]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub trait Kernel<E: FlatElement = f32>: Send + Sync {
    /// How many norms it may ask for, and directions of whole leaves. Each has a number in the
    /// chain, whichever way an option goes, so that groups with other options agree on what is
    /// measured.
    #[doc(hidden)]
    const NORMS: usize;

    /// How many pieces, one behind the other, may change the same state vectors. Of one at most,
    /// nobody reads in a row what it writes there, so that can be rounded as it is written.
    #[doc(hidden)]
    const WRITERS: usize = 0;

    /// How many state vectors it may change.
    #[doc(hidden)]
    fn states(&self) -> usize {
        0
    }

    /// Whether it may change this one of its state vectors, as its options are.
    #[doc(hidden)]
    fn changes(&self, state: usize) -> bool {
        state < self.states()
    }

    /// Whether an option is taken that is [`seldom`] asked for.
    #[doc(hidden)]
    fn is_seldom(&self) -> bool {
        false
    }

    /// Lists the norms that `run` will ask for.
    #[doc(hidden)]
    fn scan(&self, scan: &mut Scan<E>);

    /// What it does to the rows of a part, with the part's state vectors and norms at hand.
    #[doc(hidden)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        states: S,
        context: Context<'k, E>,
    ) -> impl BoundKernel<E>;
}

/// A [`Kernel`] for the rows of one part.
pub trait BoundKernel<E> {
    #[doc(hidden)]
    fn run(&self, row: &mut Row<E>) -> Flow;
}

/// Whether the stages behind are to run.
pub(super) type Flow = ControlFlow<()>;

/// Goes on to the next stage.
pub(super) const GO_ON: Flow = ControlFlow::Continue(());

/// Replaces every element of the direction, which is the gradient at first and is subtracted from
/// the parameters in the end, by what `change` makes of it: it gets the parameter, the direction,
/// and the elements of the rule's first `N` state vectors, which it may change.
///
/// Compiled for several vector widths; a closure without branches or calls runs at the speed of
/// memory. (A choice that is the same for all elements is one for [`choose`].) A leaf's last row is
/// filled up with zeros, and what becomes of those is dropped.
///
/// [`Optimizer::new`](super::Optimizer::new) refuses a rule that does not keep `N` vectors.
///
/// ```
/// use flatleaf::optim::{each, Kernel, Optimizer, Rule};
/// use flatleaf::{tree, Layout};
///
/// #[derive(Clone, PartialEq)]
/// struct Heavy { lr: f32, momentum: f32 }
///
/// impl Rule for Heavy {
///     fn states(&self) -> Vec<&'static str> {
///         vec!["momentum_buffer"]
///     }
///
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         let Heavy { lr, momentum } = *self;
///         each(move |_x, dx, [buffer]| {
///             *buffer = momentum * *buffer + dx;
///             lr * *buffer
///         })
///     }
/// }
///
/// let mut model = tree!([1.0, 2.0]);
/// let mut optimizer = Optimizer::new(Heavy { lr: 0.5, momentum: 0.5 }, &Layout::of(&model)?)?;
/// optimizer.update(&mut model, &tree!([1.0, 0.0]))?;
/// optimizer.update(&mut model, &tree!([1.0, 0.0]))?;
/// assert_eq!(model, tree!([-0.25, 2.0]));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn each<const N: usize>(
    change: impl Fn(f32, f32, &mut [f32; N]) -> f32 + Send + Sync,
) -> impl Kernel {
    each_as(change)
}

/// Replaces every element of the direction, as [`each`] does, in vectors of another element type:
/// for a rule that moves vectors of `f64` too, or of both by one function.
///
/// ```
/// use flatleaf::optim::{each_as, Kernel, Optimizer, Rule, RuleFor};
/// use flatleaf::{FlatElement, Layout};
///
/// #[derive(Clone, PartialEq)]
/// struct Heavy { lr: f64, momentum: f64 }
///
/// impl Heavy {
///     fn step<E: FlatElement>(&self) -> impl Kernel<E> + use<E> {
///         let (lr, momentum) = (E::from_f64(self.lr), E::from_f64(self.momentum));
///         each_as::<E, _>(move |_x, dx, [buffer]| {
///             *buffer = momentum * *buffer + dx;
///             lr * *buffer
///         })
///     }
/// }
///
/// impl Rule for Heavy {
///     fn states(&self) -> Vec<&'static str> {
///         vec!["momentum_buffer"]
///     }
///
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         self.step()
///     }
/// }
///
/// impl RuleFor<f64> for Heavy {
///     fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
///         self.step()
///     }
/// }
///
/// let mut flat = [1.0];
/// let mut optimizer = Optimizer::new_as::<f64>(Heavy { lr: 0.1, momentum: 0.5 }, &Layout::of(&flat)?)?;
/// optimizer.step(&mut flat, &[1.0])?;
/// assert_eq!(flat, [0.9]); // not 0.8999999985098839, as with a rate that is an f32
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn each_as<E: FlatElement, const N: usize>(
    change: impl Fn(E, E, &mut [E; N]) -> E + Send + Sync,
) -> impl Kernel<E> {
    Each(change)
}

struct Each<const N: usize, F>(F);

impl<E, const N: usize, F> Kernel<E> for Each<N, F>
where
    E: FlatElement,
    F: Fn(E, E, &mut [E; N]) -> E + Send + Sync,
{
    const NORMS: usize = 0;

    const WRITERS: usize = if N > 0 { 1 } else { 0 };

    fn states(&self) -> usize {
        N
    }

    fn scan(&self, scan: &mut Scan<E>) {
        scan.changes();
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        states: S,
        _context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        // By reference, since a closure need not be one that can be copied.
        BoundEach {
            change: &self.0,
            vectors: states.first(),
        }
    }
}

struct BoundEach<'k, F, V, const N: usize> {
    change: &'k F,
    vectors: V,
}

impl<E, F, V, const N: usize> BoundKernel<E> for BoundEach<'_, F, V, N>
where
    E: FlatElement,
    F: Fn(E, E, &mut [E; N]) -> E,
    V: Vectors<E, N>,
{
    #[inline(always)]
    fn run(&self, row: &mut Row<E>) -> Flow {
        row.each(self.change, &self.vectors);
        GO_ON
    }
}

/// The first kernel if `condition` holds, otherwise the second: for an option of a rule, which
/// decides once a row and not once an element.
///
/// ```
/// use flatleaf::optim::{choose, each, sign, Kernel, Rule};
///
/// #[derive(Clone, PartialEq)]
/// struct Decayed { rate: f32, by_sign: bool }
///
/// impl Rule for Decayed {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         let rate = self.rate;
///         choose(self.by_sign, each(move |x, dx, []| dx + rate * sign(x)), each(move |x, dx, []| dx + rate * x))
///     }
/// }
/// ```
pub fn choose<E: FlatElement>(
    condition: bool,
    first: impl Kernel<E>,
    second: impl Kernel<E>,
) -> impl Kernel<E> {
    Choice::<_, _, false> {
        condition,
        first,
        second,
    }
}

/// The first kernel if `condition` holds, as [`choose`]: of an option that few rules are run with,
/// so that the loop over rows of bf16 does without it. Such a step goes by the buffers then.
pub(super) fn seldom<E: FlatElement>(
    condition: bool,
    first: impl Kernel<E>,
    second: impl Kernel<E>,
) -> impl Kernel<E> {
    Choice::<_, _, true> {
        condition,
        first,
        second,
    }
}

struct Choice<A, B, const SELDOM: bool> {
    condition: bool,
    first: A,
    second: B,
}

impl<E, A, B, const SELDOM: bool> Kernel<E> for Choice<A, B, SELDOM>
where
    E: FlatElement,
    A: Kernel<E>,
    B: Kernel<E>,
{
    const NORMS: usize = A::NORMS + B::NORMS;

    const WRITERS: usize = if A::WRITERS > B::WRITERS {
        A::WRITERS
    } else {
        B::WRITERS
    };

    fn states(&self) -> usize {
        self.first.states().max(self.second.states())
    }

    fn changes(&self, state: usize) -> bool {
        match self.condition {
            true => self.first.changes(state),
            false => self.second.changes(state),
        }
    }

    fn is_seldom(&self) -> bool {
        match self.condition {
            true => SELDOM || self.first.is_seldom(),
            false => self.second.is_seldom(),
        }
    }

    fn scan(&self, scan: &mut Scan<E>) {
        if self.condition {
            self.first.scan(scan);
            // The numbers of the other option stay free, behind or in front of the one taken.
            scan.pass_norms(B::NORMS);
        } else {
            scan.pass_norms(A::NORMS);
            self.second.scan(scan);
        }
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        states: S,
        context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        // Norms have the same numbers whichever option is taken.
        let mut of_second = context;
        let of_first = of_second.take(A::NORMS).only_if(self.condition);
        // A constant where the first is never taken, so that the loop does not have it.
        let is_possible = const { !SELDOM || S::TAKE_WHAT_IS_SELDOM };
        BoundChoice {
            condition: is_possible && self.condition,
            first: self.first.bind(states, of_first),
            second: (self.second).bind(states, of_second.only_if(!self.condition)),
        }
    }
}

/// Both, though one of them never runs: of a choice that holds either, the compiler keeps less in
/// registers.
struct BoundChoice<A, B> {
    condition: bool,
    first: A,
    second: B,
}

impl<E, A: BoundKernel<E>, B: BoundKernel<E>> BoundKernel<E> for BoundChoice<A, B> {
    #[inline(always)]
    fn run(&self, row: &mut Row<E>) -> Flow {
        match self.condition {
            true => self.first.run(row),
            false => self.second.run(row),
        }
    }
}

/// Multiplies the direction by what `factor` makes of the L2 norms of this leaf's parameters and of
/// its direction, as they are at this point of the chain. The factor is rounded to the vectors'
/// type, as PyTorch's is; one that is beyond `f32` makes of an element what it should all the same.
///
/// Costs one read of what the stages so far need, before the step; they are run on copies of their
/// state.
///
/// ```
/// use flatleaf::optim::{scale_by_leaf_norms, Kernel, Optimizer, Rule};
/// use flatleaf::{tree, Layout};
///
/// /// Every leaf moves by a tenth of its own norm.
/// #[derive(Clone, PartialEq)]
/// struct Tenth;
///
/// impl Rule for Tenth {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         scale_by_leaf_norms(|x, dx| if dx > 0.0 { 0.1 * x / dx } else { 0.0 })
///     }
/// }
///
/// let mut model = tree!({ "a": [10.0, 0.0], "b": [20.0] });
/// Optimizer::new(Tenth, &Layout::of(&model)?)?.update(&mut model, &tree!({ "a": [5.0, 0.0], "b": [0.5] }))?;
/// assert_eq!(model, tree!({ "a": [9.0, 0.0], "b": [18.0] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn scale_by_leaf_norms<E: FlatElement>(
    factor: impl Fn(f64, f64) -> f64 + Send + Sync,
) -> impl Kernel<E> {
    Scale {
        measure: Measure::leaf(),
        factor: move |[x, dx]: [f64; 2]| factor(x, dx),
    }
}

/// Multiplies the direction by what `factor` makes of its L2 norm over all leaves that take a step,
/// as it is at this point of the chain. Costs as [`scale_by_leaf_norms`].
///
/// ```
/// use flatleaf::optim::{scale_by_global_norm, Kernel, Optimizer, Rule};
/// use flatleaf::{tree, Layout};
///
/// /// Steps of length 1.
/// #[derive(Clone, PartialEq)]
/// struct Normalised;
///
/// impl Rule for Normalised {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         scale_by_global_norm(|dx| 1.0 / dx)
///     }
/// }
///
/// let mut model = tree!({ "a": [0.0], "b": [0.0] });
/// Optimizer::new(Normalised, &Layout::of(&model)?)?.update(&mut model, &tree!({ "a": [-3.0], "b": [-4.0] }))?;
/// assert_eq!(model, tree!({ "a": [0.6], "b": [0.8] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn scale_by_global_norm<E: FlatElement>(
    factor: impl Fn(f64) -> f64 + Send + Sync,
) -> impl Kernel<E> {
    Scale {
        measure: Measure::global(),
        factor: move |[_, dx]: [f64; 2]| factor(dx),
    }
}

/// Multiplies the direction by what `factor` makes of norms.
pub(super) struct Scale<F> {
    pub(super) measure: Measure,
    pub(super) factor: F,
}

impl<E: FlatElement, F: Fn([f64; 2]) -> f64 + Send + Sync> Kernel<E> for Scale<F> {
    const NORMS: usize = 1;

    fn scan(&self, scan: &mut Scan<E>) {
        scan.norm(self.measure);
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        _states: S,
        context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        // Once a part and not once a row: a root or a quotient of f64 takes as long as some elements.
        BoundScale(context.norms().map(&self.factor).map(in_two))
    }
}

/// A factor as the product of two that an `f32` holds each, since what it makes of an element may
/// well be one: 1e-40 of an element of 1e38 is 0.01. So 2⁻¹³⁵ becomes 2⁻⁶⁸ · 2⁻⁶⁷, and 0.1 becomes
/// 0.1 · 1. What is beyond such products too, from 2²⁵⁵ on, saturates.
///
/// (By one factor of f64 every row was widened and narrowed again: in the caches a clip, AdamW and
/// a moving average took 1.27 times as long.)
fn in_two<E: FlatElement>(factor: f64) -> [E; 2] {
    let exponent = (factor.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let is_one_enough = matches!(E::DTYPE, Dtype::F64) || exponent.abs() <= 100;
    // Zero, an infinite factor and NaN are what they are in every type.
    if is_one_enough || !factor.is_normal() {
        return [E::from_f64(factor), E::one()];
    }
    let second = 2.0_f64.powi((exponent / 2).clamp(-126, 127));
    let greatest = f64::from(f32::MAX);
    let first = (factor / second).clamp(-greatest, greatest);
    [first, second].map(E::from_f64)
}

/// The factor; none where the norm that it is made of is still to be measured, of the direction
/// that the row has then.
struct BoundScale<E>(Option<[E; 2]>);

impl<E: FlatElement> BoundKernel<E> for BoundScale<E> {
    #[inline(always)]
    fn run(&self, row: &mut Row<E>) -> Flow {
        let Some(factors) = self.0 else {
            return ControlFlow::Break(());
        };
        // Most norms that are clipped are below the greatest.
        if factors != [E::one(); 2] {
            row.scale(factors);
        }
        GO_ON
    }
}

/// Replaces the direction of a leaf as a whole, its elements in row-major order, by what `change`
/// makes of it: for a rule that works on matrices. A rule sees the leaf's shape in
/// [`Rule::kernel_for`](super::Rule::kernel_for).
///
/// Called once a leaf, before anything is written: an error of `change` ends the step, which leaves
/// all parameters and states as they were. Costs a run of the stages in front of it on copies of
/// their state, and until the step is over a copy of the directions of all leaves that are changed.
///
/// ```
/// use flatleaf::optim::{each_leaf, Kernel, Optimizer, Rule};
/// use flatleaf::{tree, Layout};
///
/// /// Elements move as their neighbours from the other end would.
/// #[derive(Clone, PartialEq)]
/// struct Reversed;
///
/// impl Rule for Reversed {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         each_leaf(|dx| {
///             dx.reverse();
///             Ok(())
///         })
///     }
/// }
///
/// let mut model = tree!({ "a": [0.0, 0.0, 0.0], "b": [0.0] });
/// Optimizer::new(Reversed, &Layout::of(&model)?)?.update(&mut model, &tree!({ "a": [1.0, 2.0, 3.0], "b": [4.0] }))?;
/// assert_eq!(model, tree!({ "a": [-3.0, -2.0, -1.0], "b": [-4.0] }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn each_leaf(change: impl Fn(&mut [f32]) -> Result<()> + Send + Sync + 'static) -> impl Kernel {
    each_leaf_as(change)
}

/// Replaces the direction of a leaf as a whole, as [`each_leaf`] does, in vectors of another
/// element type.
///
/// ```
/// use flatleaf::optim::{each_leaf_as, Kernel, Optimizer, Rule, RuleFor};
/// use flatleaf::{FlatElement, Layout};
///
/// #[derive(Clone, PartialEq)]
/// struct Reversed;
///
/// fn reversed<E: FlatElement>() -> impl Kernel<E> {
///     each_leaf_as(|dx: &mut [E]| {
///         dx.reverse();
///         Ok(())
///     })
/// }
///
/// impl Rule for Reversed {
///     fn kernel(&self, _step: u64) -> impl Kernel {
///         reversed()
///     }
/// }
///
/// impl RuleFor<f64> for Reversed {
///     fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
///         reversed()
///     }
/// }
///
/// let mut flat = [0.0_f64, 0.0];
/// let mut optimizer = Optimizer::new_as::<f64>(Reversed, &Layout::of(&flat)?)?;
/// optimizer.step(&mut flat, &[0.1, 0.2])?;
/// assert_eq!(flat, [-0.2, -0.1]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn each_leaf_as<E: FlatElement>(
    change: impl Fn(&mut [E]) -> Result<()> + Send + Sync + 'static,
) -> impl Kernel<E> {
    EachLeaf(Arc::new(change))
}

/// Replaces the direction of a whole leaf.
struct EachLeaf<F>(Arc<F>);

impl<E: FlatElement, F> Kernel<E> for EachLeaf<F>
where
    F: Fn(&mut [E]) -> Result<()> + Send + Sync + 'static,
{
    const NORMS: usize = 1;

    fn scan(&self, scan: &mut Scan<E>) {
        scan.change_of_leaf(self.0.clone());
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        _states: S,
        context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        BoundDirection(context.direction())
    }
}

/// The direction of the part; none where it is still to be changed, which the row has then.
struct BoundDirection<'n, E>(Option<&'n [E]>);

impl<E: FlatElement> BoundKernel<E> for BoundDirection<'_, E> {
    #[inline(always)]
    fn run(&self, row: &mut Row<E>) -> Flow {
        let Some(direction) = self.0 else {
            return ControlFlow::Break(());
        };
        row.replace(direction);
        GO_ON
    }
}

/// Lets the stages behind run and the parameters move, or not: for a rule that does not move them
/// at every step, as [`Accumulate`](super::Accumulate).
///
/// A leaf that is held back has not taken a step: it is not counted by
/// [`step_count`](super::Optimizer::step_count), and stands in the report. A rule in front of
/// others says in [`Rule::advance`](super::Rule::advance) when it goes on, so that those behind it
/// count the steps that they take. If a stage of the chain refuses norms that are not finite, so
/// does a closed gate: what it holds back is measured before it is kept.
///
/// ```
/// use flatleaf::optim::{each, go_on_if, Kernel, Optimizer, Rule};
/// use flatleaf::Layout;
///
/// /// Moves at every second step only.
/// #[derive(Clone, PartialEq)]
/// struct Second;
///
/// impl Rule for Second {
///     fn kernel(&self, step: u64) -> impl Kernel {
///         (each(|_, dx, []| dx), go_on_if(step % 2 == 0))
///     }
/// }
///
/// let mut model = vec![0.0_f32];
/// let mut optimizer = Optimizer::new(Second, &Layout::of(&model)?)?;
/// for expected in [0.0, -1.0, -1.0, -2.0] {
///     optimizer.update(&mut model, &vec![1.0_f32])?;
///     assert_eq!(model, [expected]);
/// }
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn go_on_if<E: FlatElement>(condition: bool) -> impl Kernel<E> {
    Gate { is_open: condition }
}

struct Gate {
    is_open: bool,
}

impl<E: FlatElement> Kernel<E> for Gate {
    /// That of what it holds back.
    const NORMS: usize = 1;

    fn scan(&self, scan: &mut Scan<E>) {
        scan.gate(self.is_open);
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        _states: S,
        _context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        // The norm of what a closed gate holds back is measured, and then nobody asks for it: it only
        // has to be finite.
        BoundGate(self.is_open)
    }
}

struct BoundGate(bool);

impl<E> BoundKernel<E> for BoundGate {
    #[inline(always)]
    fn run(&self, _row: &mut Row<E>) -> Flow {
        match self.0 {
            true => GO_ON,
            false => ControlFlow::Break(()),
        }
    }
}

/// One stage of a chain, with its own among the chain's state vectors.
pub(super) struct Stage<K> {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) kernel: K,
}

impl<E: FlatElement, K: Kernel<E>> Kernel<E> for Stage<K> {
    const NORMS: usize = K::NORMS;

    /// Stages have vectors of their own, so only what changes them twice counts in a chain.
    const WRITERS: usize = if K::WRITERS > 1 { K::WRITERS } else { 0 };

    fn states(&self) -> usize {
        match self.kernel.states() {
            // One that keeps nothing needs no vector, wherever it stands in the chain.
            0 => 0,
            states => self.start + states,
        }
    }

    fn changes(&self, state: usize) -> bool {
        let own = self.start..self.start + self.len;
        own.contains(&state) && self.kernel.changes(state - self.start)
    }

    fn is_seldom(&self) -> bool {
        self.kernel.is_seldom()
    }

    fn scan(&self, scan: &mut Scan<E>) {
        self.kernel.scan(scan);
    }

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        states: S,
        context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
        // A stage sees the vectors that it names and no others, also within a chain of chains.
        self.kernel
            .bind(states.of_stage(self.start, self.len), context)
    }
}

impl<E: FlatElement> Kernel<E> for () {
    const NORMS: usize = 0;

    fn scan(&self, _scan: &mut Scan<E>) {}

    #[inline(always)]
    fn bind<'k, S: States<'k, E>>(
        &'k self,
        _states: S,
        _context: Context<'k, E>,
    ) -> impl BoundKernel<E> {
    }
}

impl<E> BoundKernel<E> for () {
    #[inline(always)]
    fn run(&self, _row: &mut Row<E>) -> Flow {
        GO_ON
    }
}

macro_rules! sequence {
    ($($kernel:ident $index:tt),+) => {
        impl<Z: FlatElement, $($kernel: Kernel<Z>),+> Kernel<Z> for ($($kernel,)+) {
            const NORMS: usize = 0 $(+ $kernel::NORMS)+;

            const WRITERS: usize = 0 $(+ $kernel::WRITERS)+;

            fn states(&self) -> usize {
                // Not the sum: pieces share the vectors of their rule, and stages say where theirs end.
                [$(self.$index.states()),+].into_iter().max().unwrap_or(0)
            }

            fn changes(&self, state: usize) -> bool {
                $(self.$index.changes(state))||+
            }

            fn is_seldom(&self) -> bool {
                $(self.$index.is_seldom())||+
            }

            fn scan(&self, scan: &mut Scan<Z>) {
                $(self.$index.scan(scan);)+
            }

            #[inline(always)]
            fn bind<'k, V: States<'k, Z>>(
                &'k self,
                states: V,
                context: Context<'k, Z>,
            ) -> impl BoundKernel<Z> {
                let mut context = context;
                ($(self.$index.bind(states, context.take($kernel::NORMS)),)+)
            }
        }

        impl<Z, $($kernel: BoundKernel<Z>),+> BoundKernel<Z> for ($($kernel,)+) {
            #[inline(always)]
            fn run(&self, row: &mut Row<Z>) -> Flow {
                $(self.$index.run(row)?;)+
                GO_ON
            }
        }
    };
}

sequence!(A 0);
sequence!(A 0, B 1);
sequence!(A 0, B 1, C 2);
sequence!(A 0, B 1, C 2, D 3);
sequence!(A 0, B 1, C 2, D 3, E 4);
sequence!(A 0, B 1, C 2, D 3, E 4, F 5);
sequence!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
sequence!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
