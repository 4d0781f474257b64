//! What an optimiser keeps of one leaf, taken out and put in: for state that is stored in another
//! format than this crate's.

use std::borrow::Cow;

use super::optimizer::Optimizer;
use super::rule::{RuleFor, StageState};
use crate::element::FlatElement;
use crate::error::{Error, Result};

/// All that an optimiser keeps of one leaf but for its configuration: for a framework that stores
/// optimiser state in a format of its own, tensor by tensor. [`Optimizer::leaf_state`] lends it,
/// [`Optimizer::set_leaf_state`] takes it up, and the leaf goes on to the bit.
///
/// The configuration is the caller's to keep ([`Optimizer::rule`], [`Optimizer::adjust`]), and
/// whether the leaf is frozen. Whole optimisers are stored by [`Snapshot`](super::Snapshot).
///
/// ```
/// use flatleaf::optim::{AdamW, LeafState, Optimizer};
/// use flatleaf::Layout;
///
/// let mut flat = [1.0_f32, 2.0];
/// let layout = Layout::of(&flat)?;
/// let mut optimizer = Optimizer::new(AdamW::default(), &layout)?;
/// optimizer.step(&mut flat, &[0.5, -0.5])?;
///
/// // As a framework stores it: tensors, and numbers beside them.
/// let state = optimizer.leaf_state("").unwrap();
/// let tensors: Vec<(String, Vec<f32>)> = state.vectors.iter().map(|(name, x)| (name.to_string(), x.to_vec())).collect();
/// let numbers: Vec<(String, f64)> = state.counters.iter().map(|(name, x)| (name.to_string(), *x)).collect();
/// let steps = state.steps;
///
/// let stored = LeafState {
///     steps,
///     counters: numbers.into_iter().map(|(name, x)| (name.into(), x)).collect(),
///     vectors: tensors.into_iter().map(|(name, x)| (name.into(), x.into())).collect(),
/// };
/// let mut resumed = Optimizer::new(AdamW::default(), &layout)?;
/// resumed.set_leaf_state("", &stored)?;
/// let mut twin = flat;
/// optimizer.step(&mut flat, &[0.25, 1.0])?;
/// resumed.step(&mut twin, &[0.25, 1.0])?;
/// assert_eq!(twin, flat);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LeafState<'s, E: Clone = f32> {
    /// Steps that have moved the leaf, as [`Optimizer::step_count`] tells them.
    pub steps: u64,
    /// What the rule counts: first the gradients that it was handed, under the name `steps`, then
    /// the numbers that it names as its [counters](super::Rule::counters), in that order. A name
    /// may come several times in a chain.
    pub counters: Vec<(Cow<'s, str>, f64)>,
    /// The elements of the leaf in every state vector, in the order of
    /// [`Rule::states`](super::Rule::states); of an optimiser [of a range](Optimizer::of_range)
    /// those that are in it. A name may come several times in a chain.
    pub vectors: Vec<(Cow<'s, str>, Cow<'s, [E]>)>,
}

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// All that is kept of the leaf with this path among its places; `None` if there is no such
    /// leaf. Copies no vector that is kept full, and reads the others into copies.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0, 2.0], "b": [3.0] });
    /// let rule = Sgd { momentum: 0.9, ..Default::default() };
    /// let mut optimizer = Optimizer::new(rule, &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "w": [0.5, 0.25] }))?;
    /// let state = optimizer.leaf_state("w").unwrap();
    /// assert_eq!((state.steps, &*state.vectors[0].1), (1, &[0.5, 0.25][..]));
    /// assert_eq!(optimizer.leaf_state("b").unwrap().steps, 0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_state(&self, path: &str) -> Option<LeafState<'_, E>> {
        let index = self.layout.index_of(path)?;
        let kept = self.leaf_kept(index);
        let counted = self.progress.of(index).iter().copied();
        let counters = self.counter_names().map(Cow::Borrowed);
        let counters = counters.zip(counted).collect();
        let mut vectors = Vec::new();
        let names = self.groups[0].states();
        for (vector, name) in names.into_iter().enumerate() {
            let elements = self.states.lent(vector).elements(&kept);
            vectors.push((name.into(), elements));
        }
        Some(LeafState {
            steps: self.progress.leaves[index].steps,
            counters,
            vectors,
        })
    }

    /// Sets all that is kept of the leaf with this path among its places, but for its configuration
    /// and whether it is frozen, which stay. Vectors that are kept in [fewer bytes](super::Storage) are
    /// rounded to the nearest; what [`leaf_state`](Optimizer::leaf_state) lent of such is kept as it was.
    ///
    /// # Errors
    /// `is_unknown`: the layout has no such leaf. `is_invalid_state`, with the leaf's path: other
    /// vectors or counters than the rule keeps, in their order; a vector that is not as long as the
    /// leaf; steps, of the rule or of a stage, that are no whole number. Then nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&vec![0.0_f32])?;
    /// let adam = Optimizer::new(Adam::default(), &layout)?;
    /// let mut sgd = Optimizer::new(Sgd::default(), &layout)?;
    /// let error = sgd.set_leaf_state("", &adam.leaf_state("").unwrap()).unwrap_err();
    /// assert!(error.is_invalid_state());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn set_leaf_state(&mut self, path: &str, state: &LeafState<'_, E>) -> Result<()> {
        let Some(index) = self.layout.index_of(path) else {
            let expected = "the path of a trainable leaf";
            let found = self.layout.found_at(path);
            return Err(Error::unknown(path.to_owned(), expected, found));
        };
        let leaf = &self.layout.leaves()[index];
        let kept = self.leaf_kept(index);
        // All of it before anything is written: half of a leaf's state is worse than none.
        let len = kept.range.len();
        let checked = self.check_leaf_state(len, state);
        checked.map_err(|error| error.at(leaf.path()))?;
        let vectors = state.vectors.iter().enumerate();
        for (vector, (_, elements)) in vectors {
            self.states.write(vector, &kept, elements);
        }
        let counted = self.progress.of_mut(index).iter_mut();
        for (own, (_, number)) in counted.zip(&state.counters) {
            *own = *number;
        }
        self.progress.leaves[index].steps = state.steps;
        Ok(())
    }

    fn check_leaf_state(&self, len: usize, state: &LeafState<'_, E>) -> Result<()> {
        let names = self.groups[0].states();
        let found = names_of(&state.vectors);
        if found != names {
            let found = format!("state vectors {found:?}, the rule keeps {names:?}");
            return Err(Error::invalid_state(found));
        }
        let names: Vec<&str> = self.counter_names().collect();
        let found = names_of(&state.counters);
        if found != names {
            let found = format!("counters {found:?}, the rule keeps {names:?}");
            return Err(Error::invalid_state(found));
        }
        for (name, elements) in &state.vectors {
            if elements.len() != len {
                let count = elements.len();
                let found = format!("{count} elements of the state vector `{name}`, not {len}");
                return Err(Error::invalid_state(found));
            }
        }
        self.check_steps(state)
    }

    /// Steps, those of the rule and of every stage of a chain, are counted by ones.
    fn check_steps(&self, state: &LeafState<'_, E>) -> Result<()> {
        let numbers = state.counters.iter().map(|(_, number)| *number);
        let mut numbers: Vec<f64> = numbers.collect();
        let mut counts = vec![numbers[0]];
        let mut note = |stage: StageState<'_>| counts.push(stage.progress[0]);
        self.groups[0].for_each_stage(&mut numbers, &mut note);
        for steps in counts {
            let is_whole = steps.is_finite() && steps.fract() == 0.0;
            if !is_whole || steps < 0.0 {
                let found = format!("{steps} steps");
                return Err(Error::invalid_state(found));
            }
        }
        Ok(())
    }

    fn counter_names(&self) -> impl Iterator<Item = &'static str> + use<R, E> {
        std::iter::once(STEPS).chain(self.groups[0].counters())
    }
}

fn names_of<'s, T>(named: &'s [(Cow<'_, str>, T)]) -> Vec<&'s str> {
    let names = named.iter().map(|(name, _)| &**name);
    names.collect()
}

/// What the steps of a rule, and of a chain's stages, are called among its counters.
const STEPS: &str = "steps";
