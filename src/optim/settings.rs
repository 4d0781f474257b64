//! What can be changed of an optimiser between two steps: which leaves move, by which
//! configuration, and from which state.

use std::collections::BTreeMap;

use super::optimizer::Optimizer;
use super::rule::{RuleFor, StageState};
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::layout::Leaf;

/// What can be changed between two steps.
impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// Leaves alone the leaves that a [path pattern](crate::Planner) matches, with their state and
    /// their step counts, until they are thawed. They do not count in a clip norm. The layout stays
    /// as it is.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0] } });
    /// let mut optimizer = Optimizer::new(Sgd { lr: 1.0, ..Default::default() }, &Layout::of(&model)?)?;
    /// optimizer.freeze("encoder.**")?;
    /// let report = optimizer.update(&mut model, &tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0] } }))?;
    /// assert_eq!((report.leaves, model), (1, tree!({ "encoder": { "w": [1.0] }, "head": { "w": [0.0] } })));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn freeze(&mut self, pattern: &str) -> Result<()> {
        let matching = self.layout.matching(pattern)?;
        self.set_frozen(&matching, true);
        Ok(())
    }

    /// Leaves alone the leaves for which a predicate holds, with their state and their step counts,
    /// until they are thawed: for what a path does not tell, such as a leaf's shape.
    ///
    /// # Errors
    /// `is_argument`: the predicate holds for no leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd::default(), &layout)?;
    /// optimizer.freeze_where(|leaf| leaf.shape().len() < 2)?;
    /// assert_eq!(["w", "b"].map(|path| optimizer.is_frozen(path)), [Some(false), Some(true)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn freeze_where(&mut self, predicate: impl FnMut(&Leaf) -> bool) -> Result<()> {
        let matching = self.matching_where(predicate)?;
        self.set_frozen(&matching, true);
        Ok(())
    }

    /// Moves the leaves that a [path pattern](crate::Planner) matches again, from the state in
    /// which they were frozen.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": { "w": [1.0], "b": [1.0] } }))?;
    /// let mut optimizer = Optimizer::new(Sgd::default(), &layout)?;
    /// optimizer.freeze("encoder.**")?;
    /// optimizer.thaw("**.b")?;
    /// assert_eq!(["encoder.w", "encoder.b"].map(|path| optimizer.is_frozen(path)), [Some(true), Some(false)]);
    /// assert!(optimizer.thaw("decoder.**").unwrap_err().is_pattern());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn thaw(&mut self, pattern: &str) -> Result<()> {
        let matching = self.layout.matching(pattern)?;
        self.set_frozen(&matching, false);
        Ok(())
    }

    /// Moves the leaves for which a predicate holds again, from the state in which they were
    /// frozen.
    ///
    /// # Errors
    /// `is_argument`: the predicate holds for no leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd::default(), &layout)?;
    /// optimizer.freeze("**")?;
    /// optimizer.thaw_where(|leaf| leaf.len() == 1)?;
    /// assert_eq!(["w", "b"].map(|path| optimizer.is_frozen(path)), [Some(true), Some(false)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn thaw_where(&mut self, predicate: impl FnMut(&Leaf) -> bool) -> Result<()> {
        let matching = self.matching_where(predicate)?;
        self.set_frozen(&matching, false);
        Ok(())
    }

    fn set_frozen(&mut self, leaves: &[usize], is_frozen: bool) {
        for &leaf in leaves {
            self.progress.leaves[leaf].is_frozen = is_frozen;
        }
    }

    /// Whether a leaf without a gradient, which is left alone otherwise, is an error of the step:
    /// for models in which every parameter has to take part. Frozen leaves need none. No at first;
    /// a snapshot does not keep it.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0], "b": [1.0] });
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// optimizer.deny_absent(true);
    /// let error = optimizer.update(&mut model, &tree!({ "w": [1.0] })).unwrap_err();
    /// assert!(error.is_missing() && error.path() == Some("b"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn deny_absent(&mut self, deny: bool) {
        self.denies_absent = deny;
    }

    /// Sets the leaves that a [path pattern](crate::Planner) matches back to their first step:
    /// their state is zero and all that is counted of them is 0. Configurations stay, and what is
    /// frozen.
    ///
    /// # Errors
    /// `is_pattern`: the pattern is malformed or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0], "b": [1.0] });
    /// let mut optimizer = Optimizer::new(Adam::default(), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0], "b": [1.0] }))?;
    /// optimizer.reset("b")?;
    /// assert_eq!(["w", "b"].map(|path| optimizer.step_count(path)), [Some(1), Some(0)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn reset(&mut self, pattern: &str) -> Result<()> {
        for leaf in self.layout.matching(pattern)? {
            let kept = self.leaf_kept(leaf);
            for vector in 0..self.states.vectors.len() {
                self.states.fill_zero(vector, &kept);
            }
            self.progress.of_mut(leaf).fill(0.0);
            self.progress.leaves[leaf].steps = 0;
        }
        Ok(())
    }

    /// Sets one stage of a chain back to its first step, for the leaves that a
    /// [path pattern](crate::Planner) matches: the first stage that keeps a state vector of this
    /// name. All its vectors are zero and what it has counted is 0, so that an average begins anew
    /// or a window is empty. Other stages stay, and [`step_count`](Optimizer::step_count).
    ///
    /// # Errors
    /// `is_argument`: no stage keeps a vector of this name. `is_pattern`: the pattern is malformed
    /// or matches no trainable leaf.
    ///
    /// ```
    /// use flatleaf::optim::{Accumulate, Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut flat = [0.0_f32];
    /// let rule = (Accumulate { steps: 2 }, Sgd { lr: 1.0, ..Default::default() });
    /// let mut optimizer = Optimizer::new(rule, &Layout::of(&flat)?)?;
    /// optimizer.step(&mut flat, &[100.0])?;
    /// optimizer.reset_state("accumulated", "**")?; // that batch was a mistake
    /// optimizer.step(&mut flat, &[1.0])?;
    /// optimizer.step(&mut flat, &[2.0])?;
    /// assert_eq!(flat, [-1.5]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn reset_state(&mut self, name: &str, pattern: &str) -> Result<()> {
        if self.index_of_state(name).is_none() {
            return Err(Error::argument(
                "the name of a state vector",
                format_args!("`{name}`"),
            ));
        }
        for leaf in self.layout.matching(pattern)? {
            let rule = &self.groups[self.progress.leaves[leaf].group as usize];
            let kept = self.leaf_kept(leaf);
            let states = &mut self.states;
            let mut first = 0;
            let mut is_found = false;
            let mut reset = |stage: StageState<'_>| {
                let vectors = first..first + stage.vectors.len();
                first = vectors.end;
                if is_found || !stage.vectors.contains(&name) {
                    return;
                }
                is_found = true;
                stage.progress.fill(0.0);
                for vector in vectors {
                    states.fill_zero(vector, &kept);
                }
            };
            rule.for_each_stage(self.progress.of_mut(leaf), &mut reset);
        }
        Ok(())
    }

    /// Sets the learning rate of every stage that has one, for all leaves, whatever
    /// [`adjust`](Optimizer::adjust) gave some of them. State is kept. (A schedule that keeps
    /// groups apart multiplies: `adjust("**", |rule| rule.lr *= 0.5)`, where `**` is the [path
    /// pattern](crate::Planner) of all leaves.)
    ///
    /// # Errors
    /// A rate that the rule refuses, a rule without a rate; then nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, ClipNorm, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0] }))?;
    /// let mut optimizer = Optimizer::new((ClipNorm::default(), Adam::default()), &layout)?;
    /// optimizer.set_lr(0.01)?;
    /// assert_eq!(optimizer.rule("w").unwrap().1.lr, 0.01);
    /// assert_eq!(optimizer.set_lr(-1.0).unwrap_err().path(), Some("lr"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let mut groups = self.groups.clone();
        for group in &mut groups {
            if !group.set_lr(lr) {
                return Err(Error::argument("a rule with a learning rate", "none").at("lr"));
            }
            group.validate()?;
        }
        self.groups = groups;
        self.merge_equal_groups();
        Ok(())
    }

    /// The learning rate of the leaves' configuration, the first of a chain that has one; `None` if
    /// the rule has none, or if not all leaves have the same.
    ///
    /// ```
    /// use flatleaf::optim::{ClipNorm, Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": [1.0], "head": [1.0] }))?;
    /// let mut optimizer = Optimizer::new((ClipNorm::default(), Sgd::default()), &layout)?;
    /// assert_eq!(optimizer.lr(), Some(0.001));
    /// optimizer.adjust("head", |(_, sgd)| sgd.lr = 0.1)?;
    /// assert_eq!(optimizer.lr(), None);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn lr(&self) -> Option<f64> {
        let mut used = self
            .groups
            .iter()
            .enumerate()
            .filter(|(group, _)| self.is_used(*group));
        let first = used.next().map_or(&self.groups[0], |(_, rule)| rule).lr()?;
        used.all(|(_, rule)| rule.lr() == Some(first))
            .then_some(first)
    }

    /// Changes the configuration for the leaves that a [path pattern](crate::Planner) matches; `**`
    /// matches all. State and step counts are kept; what a configuration says only of the first
    /// step has been said.
    ///
    /// Leaves that get another configuration than others that they had one with are a group of
    /// their own from then on, and those of equal ones are one group: adjusting every leaf of
    /// 16,000 to a few configurations takes time in proportion to the leaves. A new configuration
    /// is compared with all there are, so that as many as leaves take time in proportion to their
    /// square.
    ///
    /// # Errors
    /// A pattern that is malformed or matches no trainable leaf, a configuration that the rule
    /// refuses; then nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "encoder": [1.0], "head": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Adam { lr: 1e-3, ..Default::default() }, &layout)?;
    /// optimizer.adjust("head", |adam| adam.lr = 1e-2)?;
    /// optimizer.adjust("**", |adam| adam.lr /= 10.0)?; // a schedule that keeps the groups
    /// assert_eq!(["encoder", "head"].map(|path| optimizer.rule(path).unwrap().lr), [1e-4, 1e-3]);
    /// assert!(optimizer.adjust("body", |_| ()).unwrap_err().is_pattern());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn adjust(&mut self, pattern: &str, change: impl FnMut(&mut R)) -> Result<()> {
        let matching = self.layout.matching(pattern)?;
        self.change_rules(&matching, change)
    }

    /// Changes the configuration for the leaves for which a predicate holds: for what a path does
    /// not tell, such as no decay of biases and norms. State and step counts are kept.
    ///
    /// # Errors
    /// `is_argument`: the predicate holds for no leaf, or the rule refuses a configuration; then
    /// nothing has changed.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(AdamW::default(), &layout)?;
    /// optimizer.adjust_where(|leaf| leaf.shape().len() < 2, |adamw| adamw.weight_decay = 0.0)?;
    /// assert_eq!(["w", "b"].map(|path| optimizer.rule(path).unwrap().weight_decay), [0.01, 0.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn adjust_where(
        &mut self,
        predicate: impl FnMut(&Leaf) -> bool,
        change: impl FnMut(&mut R),
    ) -> Result<()> {
        let matching = self.matching_where(predicate)?;
        self.change_rules(&matching, change)
    }

    fn change_rules(&mut self, leaves: &[usize], mut change: impl FnMut(&mut R)) -> Result<()> {
        let mut by_group: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for &leaf in leaves {
            let group = self.progress.leaves[leaf].group;
            by_group.entry(group).or_default().push(leaf);
        }
        // All configurations are made and checked before any leaf gets one.
        let mut changes = Vec::with_capacity(by_group.len());
        for (group, leaves) in by_group {
            let mut rule = self.groups[group as usize].clone();
            change(&mut rule);
            rule.validate()?;
            changes.push((group as usize, leaves, rule));
        }
        self.count_groups();
        for (group, leaves, rule) in changes {
            if self.groups[group] == rule {
                continue;
            }
            if leaves.len() == self.group_sizes[group] {
                self.groups[group] = rule.clone();
            }
            let target = self.group_with(rule, group);
            self.group_sizes[group] -= leaves.len();
            self.group_sizes[target] += leaves.len();
            for leaf in leaves {
                self.progress.leaves[leaf].group = target as u32;
            }
        }
        Ok(())
    }

    /// The group with this configuration: another one with leaves if there is any, the one that the
    /// leaves come from if it has been given this one, one without leaves, or a new one.
    fn group_with(&mut self, rule: R, from: usize) -> usize {
        let other = |group: usize| group != from && self.is_used(group);
        let groups = 0..self.groups.len();
        if let Some(equal) = groups
            .clone()
            .find(|&group| other(group) && self.groups[group] == rule)
        {
            return equal;
        }
        if self.groups[from] == rule {
            return from;
        }
        // The first stays, used or not: leaves that a migration adds begin with it.
        if let Some(unused) = groups.skip(1).find(|&group| !self.is_used(group)) {
            self.groups[unused] = rule;
            return unused;
        }
        self.groups.push(rule);
        self.group_sizes.push(0);
        self.groups.len() - 1
    }

    fn is_used(&self, group: usize) -> bool {
        self.group_sizes.get(group).is_none_or(|&leaves| leaves > 0)
    }

    /// Counts the leaves of the groups, if others than this file's have made them.
    fn count_groups(&mut self) {
        if self.group_sizes.len() == self.groups.len() {
            return;
        }
        self.group_sizes = vec![0; self.groups.len()];
        for leaf in &self.progress.leaves {
            self.group_sizes[leaf.group as usize] += 1;
        }
    }

    fn merge_equal_groups(&mut self) {
        let mut kept: Vec<R> = Vec::new();
        let mut moved_to = Vec::with_capacity(self.groups.len());
        for rule in self.groups.drain(..) {
            let equal = kept.iter().position(|other| *other == rule);
            moved_to.push(equal.unwrap_or(kept.len()) as u32);
            if equal.is_none() {
                kept.push(rule);
            }
        }
        self.groups = kept;
        for leaf in &mut self.progress.leaves {
            leaf.group = moved_to[leaf.group as usize];
        }
        self.group_sizes.clear();
        self.count_groups();
    }

    fn matching_where(&self, mut predicate: impl FnMut(&Leaf) -> bool) -> Result<Vec<usize>> {
        let leaves = self.layout.leaves();
        let matching: Vec<usize> = (0..leaves.len())
            .filter(|&leaf| predicate(&leaves[leaf]))
            .collect();
        if matching.is_empty() {
            let found = format_args!("none of {} for which it does", leaves.len());
            return Err(Error::argument(
                "a predicate that holds for a trainable leaf",
                found,
            ));
        }
        Ok(matching)
    }
}
