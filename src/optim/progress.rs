//! How far every leaf is: what is counted belongs to the leaf, and is stored with it.

/// How far the leaves are.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) leaves: Vec<LeafProgress>,
    /// For each leaf the steps of the rule, gradients that it was handed, and behind them the rule's
    /// counters.
    counted: Vec<f64>,
    /// Numbers a leaf.
    width: usize,
}

/// How far a leaf is, whatever the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LeafProgress {
    /// Steps that moved it; saturates.
    pub(super) steps: u64,
    /// Which of the configurations is its own.
    pub(super) group: u32,
    pub(super) is_frozen: bool,
}

impl Progress {
    /// Leaves that have taken no step, by a rule with so many counters.
    pub(super) fn new(leaves: usize, counters: usize) -> Self {
        let width = 1 + counters;
        Progress {
            leaves: vec![LeafProgress::default(); leaves],
            counted: vec![0.0; leaves * width],
            width,
        }
    }

    /// A leaf's steps and counters.
    pub(super) fn of(&self, leaf: usize) -> &[f64] {
        &self.counted[leaf * self.width..][..self.width]
    }

    pub(super) fn of_mut(&mut self, leaf: usize) -> &mut [f64] {
        &mut self.counted[leaf * self.width..][..self.width]
    }
}
