//! In what an optimiser keeps its state vectors: chosen when it is made, or at any step.

use super::optimizer::Optimizer;
use super::packed::OfLeaf;
use super::rule::{Rule, RuleFor};
use super::states::{KeptStates, forms};
use super::storage::{StateElement, Storage};
use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::Layout;

impl<R: Rule> Optimizer<R> {
    /// An optimiser at step 0 that keeps its state in numbers of type `S`: of `bf16`, with the
    /// feature `half`, half of the bytes, rounded stochastically with seed 0.
    /// [`with_storage`](Optimizer::with_storage) has all choices. The flat vector and the gradient
    /// are of `f32` all the same, and a step computes in it.
    ///
    /// # Errors
    /// Those of [`new`](Optimizer::new): `is_argument`, what the rule refuses; `is_out_of_memory`.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::Layout;
    /// use half::bf16;
    ///
    /// let mut flat = vec![1.0_f32; 1000];
    /// let layout = Layout::of(&flat)?;
    /// let mut optimizer = Optimizer::with_state::<bf16>(AdamW::default(), &layout)?;
    /// optimizer.step(&mut flat, &vec![0.5; 1000])?;
    /// assert_eq!(optimizer.state_bytes(), 3 * 2000);
    /// # }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn with_state<S: StateElement>(rule: R, layout: &Layout) -> Result<Self> {
        Optimizer::with_storage(rule, layout, S::STORAGE)
    }

    /// An optimiser at step 0 that keeps its state as [`Storage`] says.
    ///
    /// # Errors
    /// Those of [`new`](Optimizer::new): `is_argument`, what the rule refuses; `is_out_of_memory`.
    ///
    /// ```
    /// use flatleaf::optim::{Lion, Optimizer, Rounding, Storage};
    /// use flatleaf::Layout;
    ///
    /// let mut flat = vec![1.0_f32; 1000];
    /// let storage = Storage::EightBits(Rounding::Stochastic { seed: 7 });
    /// let mut optimizer = Optimizer::with_storage(Lion::default(), &Layout::of(&flat)?, storage)?;
    /// optimizer.step(&mut flat, &vec![0.5; 1000])?;
    /// assert_eq!(optimizer.state_bytes(), 1016);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn with_storage(rule: R, layout: &Layout, storage: Storage) -> Result<Self> {
        rule.validate()?;
        let forms = forms(&rule, storage);
        Optimizer::with_forms(rule, layout, 0..layout.len(), (&forms, storage))
    }

    /// Keeps its state otherwise from now on, whatever it was made with, of a range too. What is
    /// rounded is rounded to the nearest, once; from fewer bytes to more nothing is lost.
    ///
    /// # Errors
    /// `is_out_of_memory`: no memory for a vector beside the one that it replaces. Then the state is
    /// as it was.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Rounding, Sgd, Storage};
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&vec![0.0_f32; 1000])?;
    /// let mut optimizer = Optimizer::of_range(Sgd::default(), &layout, 0..1000)?;
    /// optimizer.store_in(Storage::Bf16(Rounding::default()))?;
    /// assert_eq!(optimizer.state_bytes(), 2000);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn store_in(&mut self, storage: Storage) -> Result<()> {
        let forms = forms(&self.groups[0], storage);
        let leaves: Vec<OfLeaf> = self.leaves_kept().collect();
        let lens = leaves.iter().map(|leaf| leaf.range.len());
        let mut states = KeptStates::try_zeroed(&forms, storage, lens)?;
        for vector in 0..forms.len() {
            for leaf in &leaves {
                let from = (self.states.lent(vector), leaf);
                states.copy(vector, leaf, from);
            }
        }
        self.states = states;
        Ok(())
    }
}

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// How the state is kept, as it was asked for.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd, Storage};
    /// use flatleaf::Layout;
    ///
    /// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&vec![0.0_f32])?)?;
    /// assert_eq!(optimizer.storage(), Storage::Full);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn storage(&self) -> Storage {
        self.states.storage
    }

    /// How the vector of this name is kept, the first if there are several: as it was asked for, or
    /// `Full` if it is none that may be kept so. `None` if there is no such vector.
    ///
    /// ```
    /// use flatleaf::optim::{AdaGrad, Optimizer, Rounding, Storage};
    /// use flatleaf::Layout;
    ///
    /// let storage = Storage::EightBits(Rounding::default());
    /// let layout = Layout::of(&vec![0.0_f32])?;
    /// let optimizer = Optimizer::with_storage(AdaGrad::default(), &layout, storage)?;
    /// assert_eq!(optimizer.storage_of("sum"), Some(Storage::Full)); // a sum is no average
    /// assert_eq!(optimizer.storage_of("exp_avg"), None);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn storage_of(&self, name: &str) -> Option<Storage> {
        let vector = self.index_of_state(name)?;
        let is_full = self.states.full(vector).is_some();
        Some(match is_full {
            true => Storage::Full,
            false => self.states.storage,
        })
    }

    /// The bytes that all state vectors take, scales included; of those that no step has touched,
    /// which may take less, too.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::Layout;
    ///
    /// let optimizer = Optimizer::new(AdamW::default(), &Layout::of(&vec![0.0_f32; 1000])?)?;
    /// assert_eq!(optimizer.state_bytes(), 3 * 4000);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn state_bytes(&self) -> usize {
        let vectors = self.states.vectors.iter();
        vectors.map(|vector| vector.bytes()).sum()
    }

    /// A copy of the vector of this name, the first if there are several, in the numbers that a step
    /// computes with, however it is kept; of an optimiser [of a range](Optimizer::of_range) as long
    /// as that.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Rounding, Sgd, Storage};
    /// use flatleaf::Layout;
    ///
    /// let mut flat = vec![0.0_f32; 2];
    /// let storage = Storage::Bf16(Rounding::Nearest);
    /// let rule = Sgd { momentum: 0.9, ..Default::default() };
    /// let mut optimizer = Optimizer::with_storage(rule, &Layout::of(&flat)?, storage)?;
    /// optimizer.step(&mut flat, &[1.0, 1.001])?;
    /// assert_eq!(optimizer.state_to_vec("momentum_buffer"), Some(vec![1.0, 1.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn state_to_vec(&self, name: &str) -> Option<Vec<E>> {
        let vector = self.index_of_state(name)?;
        let mut elements = vec![E::zeroed(); self.range.len()];
        for leaf in self.leaves_kept() {
            let to = &mut elements[leaf.range.clone()];
            self.states.lent(vector).read(&leaf, to);
        }
        Some(elements)
    }

    /// The first vector of this name.
    pub(super) fn index_of_state(&self, name: &str) -> Option<usize> {
        let names = self.groups[0].states();
        names.iter().position(|other| *other == name)
    }
}

impl<R, E> Optimizer<R, E> {
    /// All leaves, with what is kept of them.
    pub(super) fn leaves_kept(&self) -> impl Iterator<Item = OfLeaf> + use<'_, R, E> {
        (0..self.layout.leaves().len()).map(|leaf| self.leaf_kept(leaf))
    }

    pub(super) fn leaf_kept(&self, leaf: usize) -> OfLeaf {
        OfLeaf {
            leaf,
            place: 0,
            range: self.kept_of(leaf),
        }
    }
}
