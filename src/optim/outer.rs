//! Rounds of many steps: members train by themselves, and meet to move a common model by how far
//! they came.

use super::gradient::Gradient;
use super::optimizer::Optimizer;
use super::report::StepReport;
use super::rule::Rule;
use crate::communicator::Communicator;
use crate::error::Result;
use crate::layout::Layout;

/// Moves the model that the members of a run began a round with, by the mean of how far each has
/// come from it: an optimiser around the optimisers of the members, which talk once a round and not
/// at every step.
///
/// ```text
/// away ← Σ weight·(start − x) / Σ weight     over the members
/// start ← start after a step of the rule by the gradient `away`
/// x ← start                                  on all members
/// ```
///
/// | rule | |
/// | --- | --- |
/// | `Sgd { lr: 1.0, .. }` | the mean of the models: local SGD (Stich, 2019); with weights federated averaging (McMahan et al., 2017) |
/// | `Sgd { lr: 0.7, momentum: 0.9, nesterov: true, .. }` | DiLoCo (Douillard et al., 2023), with the paper's settings |
/// | [`Adam`](super::Adam), [`Sgd`](super::Sgd) with momentum | FedAdam, FedAvgM (Reddi et al., *Adaptive federated optimization*, 2021) |
///
/// Members begin with the same model. Each keeps the start and the state of the rule, which are
/// alike on all. The state of the members' own optimisers is theirs, and stays.
///
/// ```
/// use flatleaf::optim::{AdamW, Optimizer, OuterOptimizer, Sgd};
/// use flatleaf::{destructure, tree, Communicator, Result, Threads};
///
/// let ends = Threads::run(2, |member| -> Result<Vec<f32>> {
///     let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0] }))?;
///     member.check_layout(&layout)?;
///     let mut inner = Optimizer::new(AdamW::default(), &layout)?;
///     let nesterov = Sgd { lr: 0.7, momentum: 0.9, nesterov: true, ..Default::default() };
///     let mut outer = OuterOptimizer::new(nesterov, &layout, &flat)?;
///     for step in 1..=60 {
///         let grad = [flat[0] - member.rank() as f32, flat[1]]; // of this member's data
///         inner.step(&mut flat, &grad)?;
///         if step % 30 == 0 {
///             outer.end_round(member, &mut flat, 1.0)?;
///         }
///     }
///     Ok(flat)
/// });
/// let ends: Vec<_> = ends.into_iter().map(Result::unwrap).collect();
/// assert_eq!(ends[0], ends[1]);
/// ```
#[derive(Clone, Debug)]
pub struct OuterOptimizer<R> {
    start: Vec<f32>,
    optimizer: Optimizer<R>,
}

impl<R: Rule> OuterOptimizer<R> {
    /// An outer optimiser at round 0, whose first round begins with this model.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the layout. `is_argument`: what the rule refuses.
    /// `is_out_of_memory`: no memory for a state vector.
    ///
    /// ```
    /// use flatleaf::optim::{OuterOptimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [1.0] }))?;
    /// let outer = OuterOptimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout, &flat)?;
    /// assert_eq!(outer.start(), [1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn new(rule: R, layout: &Layout, flat: &[f32]) -> Result<Self> {
        layout.check_len("the flat vector", flat.len())?;
        Ok(OuterOptimizer {
            start: flat.to_vec(),
            optimizer: Optimizer::new(rule, layout)?,
        })
    }

    /// Goes on with an outer optimiser that was stored: its rule with its state, and the model that
    /// the round began with.
    ///
    /// # Errors
    /// `is_length`: the vector is not as long as the optimiser's layout.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, OuterOptimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [1.0] }))?;
    /// let outer = OuterOptimizer::new(Sgd::default(), &layout, &flat)?;
    /// let optimizer = Optimizer::resume(outer.optimizer().snapshot(), &layout)?;
    /// let resumed = OuterOptimizer::of_parts(optimizer, outer.start())?;
    /// assert_eq!(resumed.start(), outer.start());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of_parts(optimizer: Optimizer<R>, start: &[f32]) -> Result<Self> {
        let layout = optimizer.layout();
        layout.check_len("the model that the round began with", start.len())?;
        Ok(OuterOptimizer {
            start: start.to_vec(),
            optimizer,
        })
    }

    /// Ends a round; all members call it, after as many steps of their own as they like. Moves the
    /// start by the mean of how far the members have come, and sets every member's model to it.
    ///
    /// A member's weight is the number of examples that it has seen in the round, say; one with a
    /// weight of 0, since it was away or has no data, takes part in the exchanges only, and gets
    /// the new model. Costs one sum of a vector and the step.
    ///
    /// # Errors
    /// On all members, with nothing written: `is_length`, a vector that is not as long as the
    /// layout; `is_argument`, a weight that is negative or not finite, or 0 on all; `is_member`
    /// where another member is the reason; `is_non_finite`, a norm that a stage of the rule
    /// refuses. What the communicator returns.
    ///
    /// ```
    /// use flatleaf::optim::{OuterOptimizer, Sgd};
    /// use flatleaf::{destructure, tree, Communicator, Result, Threads};
    ///
    /// // Federated averaging: 3 and 1 examples, and one member that was away.
    /// let ends = Threads::run(3, |member| -> Result<f32> {
    ///     let (mut flat, layout) = destructure(&tree!([10.0]))?;
    ///     let mut outer = OuterOptimizer::new(Sgd { lr: 1.0, ..Default::default() }, &layout, &flat)?;
    ///     let (weight, came_to) = [(3.0, 8.0), (1.0, 4.0), (0.0, 10.0)][member.rank()];
    ///     flat[0] = came_to;
    ///     outer.end_round(member, &mut flat, weight)?;
    ///     Ok(flat[0])
    /// });
    /// assert!(ends.into_iter().all(|x| x.unwrap() == 7.0)); // (3 · 8 + 1 · 4) / 4
    /// ```
    pub fn end_round(
        &mut self,
        communicator: &mut impl Communicator,
        flat: &mut [f32],
        weight: f64,
    ) -> Result<StepReport> {
        let layout = self.optimizer.layout();
        let checked = layout.check_len("the flat vector", flat.len());
        communicator.agree(checked)?;
        let pairs = self.start.iter().zip(&*flat);
        let mut away: Vec<f32> = pairs.map(|(start, x)| start - x).collect();
        communicator.mean(&mut away, weight)?;
        // Alike on all members, and so is what comes of it.
        let report = self
            .optimizer
            .step(&mut self.start, Gradient::from(&away))?;
        flat.copy_from_slice(&self.start);
        Ok(report)
    }

    /// The model that the round at hand began with, alike on all members.
    ///
    /// ```
    /// use flatleaf::optim::{OuterOptimizer, Sgd};
    /// use flatleaf::{destructure, tree, Alone};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [1.0] }))?;
    /// let mut outer = OuterOptimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout, &flat)?;
    /// flat[0] = 0.0; // after steps of this member
    /// outer.end_round(&mut Alone, &mut flat, 1.0)?;
    /// assert_eq!((outer.start(), flat[0]), (&[0.5][..], 0.5));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn start(&self) -> &[f32] {
        &self.start
    }

    /// The rule with its state: to be stored, beside [`start`](OuterOptimizer::start).
    ///
    /// ```
    /// use flatleaf::optim::{OuterOptimizer, Sgd};
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [1.0] }))?;
    /// let outer = OuterOptimizer::new(Sgd::default(), &layout, &flat)?;
    /// assert_eq!(outer.optimizer().step_count("w"), Some(0)); // rounds
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn optimizer(&self) -> &Optimizer<R> {
        &self.optimizer
    }
}
