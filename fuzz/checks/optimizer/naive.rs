//! What the optimiser's chain means: leaves of one element in one loop, in f64.

pub(crate) const LEAVES: usize = 3;
/// The greatest norm that a step may have.
pub(crate) const MAX: f64 = 1.5;

/// Each leaf's gradient, or none.
pub(crate) type Grads = [Option<f64>; LEAVES];

/// Windows of gradients, a clip by the norm of all leaves, descent with a momentum of a half, and a
/// debiased moving average.
pub(crate) struct Naive {
    pub(crate) leaves: [Leaf; LEAVES],
}

#[derive(Default)]
pub(crate) struct Leaf {
    pub(crate) x: f64,
    pub(crate) window: f64,
    pub(crate) lr: f64,
    pub(crate) decay: f64,
    pub(crate) is_frozen: bool,
    pub(crate) steps: u64,
    pub(crate) average: f64,
    /// The gradients of a window that has begun.
    held: Vec<f64>,
    momentum: f64,
    /// The product of all decay rates so far.
    rates: f64,
}

impl Naive {
    pub(crate) fn new(window: f64, lr: f64, decay: f64) -> Self {
        let leaf = || Leaf {
            window,
            lr,
            decay,
            ..Leaf::default()
        };
        Naive {
            leaves: std::array::from_fn(|_| leaf()),
        }
    }

    /// A step by these gradients. Whether it was taken: one that is not finite skips it.
    pub(crate) fn step(&mut self, grads: Grads) -> bool {
        let moving = self.leaves.iter().zip(grads);
        let mut taken = moving.filter(|(leaf, _)| !leaf.is_frozen);
        if taken.any(|(_, grad)| grad.is_some_and(|grad| !grad.is_finite())) {
            return false;
        }
        let means = self.means(|leaf, index| {
            leaf.held.extend(grads[index]);
            grads[index].is_some() && leaf.held.len() as f64 >= leaf.window
        });
        self.move_by(means);
        true
    }

    /// Ends all windows that hold something.
    pub(crate) fn flush(&mut self) {
        let means = self.means(|leaf, _| !leaf.held.is_empty());
        self.move_by(means);
    }

    /// Forgets everything but the parameters.
    pub(crate) fn reset(&mut self) {
        for leaf in &mut self.leaves {
            leaf.held.clear();
            (leaf.momentum, leaf.average, leaf.rates, leaf.steps) = (0.0, 0.0, 0.0, 0);
        }
    }

    fn means(&mut self, mut is_full: impl FnMut(&mut Leaf, usize) -> bool) -> Grads {
        let mut means = [None; LEAVES];
        for (index, leaf) in self.leaves.iter_mut().enumerate() {
            if !leaf.is_frozen && is_full(leaf, index) {
                means[index] = Some(leaf.held.iter().sum::<f64>() / leaf.held.len() as f64);
                leaf.held.clear();
            }
        }
        means
    }

    fn move_by(&mut self, means: Grads) {
        let squares = means.iter().flatten().map(|mean| mean * mean);
        let norm = squares.sum::<f64>().sqrt();
        for (leaf, mean) in self.leaves.iter_mut().zip(means) {
            let Some(mean) = mean else { continue };
            let grad = if norm > MAX { mean * MAX / norm } else { mean };
            leaf.momentum = 0.5 * leaf.momentum + grad;
            leaf.x -= leaf.lr * leaf.momentum;
            let rates = if leaf.steps == 0 { 1.0 } else { leaf.rates };
            leaf.rates = rates * leaf.decay;
            let weight = (1.0 - leaf.decay) / (1.0 - leaf.rates);
            leaf.average += weight * (leaf.x - leaf.average);
            leaf.steps += 1;
        }
    }
}
