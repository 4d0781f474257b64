//! Steps of matrices that turn all their directions alike: momentum, made orthogonal.

use super::adam::{AdamW, adamw};
use super::decay::shrinkage;
use super::kernel::{Kernel, Stage, choose, each_as, each_leaf_as};
use super::limits::{
    check_decay_rate, check_decay_rates, check_eps, check_finite_f32, check_non_negative,
    check_that, saturating,
};
use super::orthogonal::NewtonSchulz;
use super::rule::{Rule, RuleFor};
use super::storage::Moment;
use crate::element::FlatElement;
use crate::error::Result;

/// Momentum whose step on a matrix is made orthogonal, so that all its directions move alike and
/// not mostly those few with the largest gradients; leaves that are no matrices take steps of
/// [`AdamW`].
///
/// ```text
/// leaves of two axes, rows × columns:
/// b ← momentum·b + (1 − momentum)·g
/// d ← (1 − momentum)·g + momentum·b    if nesterov,    d ← b    otherwise
/// D ← d/max(‖d‖, eps),  transposed if rows > columns
/// D ← a·D + (b·A + c·A²)·D  with A = D·Dᵀ               ns_steps times, (a, b, c) = ns_coefficients
/// x ← x − lr·adjustment·D − lr·weight_decay·x           D transposed back
///
/// adjustment = √max(1, rows/columns)         if adjust_lr is Original
/// adjustment = 0.2·√max(rows, columns)       if it is MatchRmsAdamW
///
/// all others: AdamW of rate lr·adamw_lr_ratio
/// ```
///
/// Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024;
/// `MatchRmsAdamW`: Liu et al., *Muon is scalable for LLM training*, 2025. Formula and defaults of
/// matrices: PyTorch 2.9's `Muon`, which takes nothing else and rounds the iteration to bfloat16,
/// where it is f32 here. Defaults of the others: the reference implementation's
/// `SingleDeviceMuonWithAuxAdam`.
///
/// Embeddings and the last layer are matrices too, but are usually left to AdamW: give them an
/// optimiser of their own. Of a leaf of more than two axes nothing is flattened: it is AdamW's. The
/// axes of elements count: a `Vec<[f32; 3]>` is a matrix of three columns here, as PyTorch would
/// have it, and so is a list of structs; points and splats are better left to AdamW as well.
///
/// A matrix of m × n, m ≤ n, costs about 4·m²·n products a step of the iteration, shared among
/// threads, and memory for its direction, twice as much again and two squares of m × m while it is
/// iterated. An infinity or a NaN in its gradient makes the whole matrix NaN. State vectors are as
/// long as the flat vector, and pages that no leaf uses take no memory.
///
/// ```
/// use flatleaf::optim::{Muon, Optimizer};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "w": [[0.0, 0.0], [0.0, 0.0]], "b": [0.0] });
/// let rule = Muon { lr: 0.1, weight_decay: 0.0, ..Default::default() };
/// let mut optimizer = Optimizer::new(rule, &Layout::of(&model)?)?;
/// // One direction has a gradient a hundred times the other's; both move by about the rate.
/// let grads = tree!({ "w": [[100.0, 0.0], [0.0, -1.0]], "b": [5.0] });
/// optimizer.update(&mut model, &grads)?;
/// let layout = optimizer.layout();
/// let flat = layout.gather(&model)?;
/// let of = |path: &str| &flat[layout.leaf(path).unwrap().range()];
/// assert!((of("w")[0] + 0.1).abs() < 0.035 && (of("w")[3] - 0.1).abs() < 0.035);
/// assert!((of("b")[0] + 0.03).abs() < 1e-6); // AdamW's first step is its rate
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Muon {
    /// The learning rate: how far each direction of a matrix moves, about, before the adjustment.
    /// Finite and 0 or more; 0.001, PyTorch's default.
    pub lr: f64,
    /// What share of the old average of gradients is kept at a step. From 0 to below 1; 0.95,
    /// PyTorch's default.
    pub momentum: f64,
    /// Whether the direction is the average mixed with the gradient once more, a look ahead;
    /// `true`, PyTorch's default.
    pub nesterov: bool,
    /// Decoupled weight decay of matrices: a step takes this share, times `lr` without adjustment,
    /// off the parameters. Finite and 0 or more; 0.1, PyTorch's default.
    pub weight_decay: f64,
    /// Coefficients of the iteration's polynomial, of the first, third and fifth power. Finite;
    /// (3.4445, −4.775, 2.0315), PyTorch's default.
    pub ns_coefficients: (f64, f64, f64),
    /// Steps of the iteration. Below 100; 5, PyTorch's default.
    pub ns_steps: u32,
    /// The least norm that a direction is divided by, in the gradient's unit. Finite and 0 or more,
    /// but at 0 a matrix whose gradient is 0 becomes NaN; 1e-7, PyTorch's default.
    pub eps: f64,
    /// How the rate depends on the shape; [`AdjustLr::Original`], PyTorch's default.
    pub adjust_lr: AdjustLr,
    /// The rate of [`AdamW`] for other leaves, as a multiple of `lr`, so that a schedule of `lr` is
    /// one for both. Finite and 0 or more; 0.3, which makes the reference implementation's 3e-4 of
    /// the default rate.
    pub adamw_lr_ratio: f64,
    /// Decay rates of the averages of other leaves' gradients and of their squares. Each from 0 to
    /// below 1; (0.9, 0.95), the reference implementation's.
    pub adamw_betas: (f64, f64),
    /// Added to the root that is divided by, of other leaves, in the gradient's unit. Finite and 0
    /// or more; 1e-10, the reference implementation's.
    pub adamw_eps: f64,
    /// Decoupled weight decay of other leaves, times their own rate. Finite and 0 or more; 0, the
    /// reference implementation's.
    pub adamw_weight_decay: f64,
}

/// How [`Muon`]'s rate depends on the shape of a matrix.
///
/// ```
/// use flatleaf::optim::{AdjustLr, Muon, Optimizer};
/// use flatleaf::{destructure, tree};
///
/// let moved_by = |adjust_lr| {
///     let (mut flat, layout) = destructure(&tree!([[0.0], [0.0], [0.0], [0.0]]))?; // four rows, one column
///     let rule = Muon { adjust_lr, ..Default::default() };
///     Optimizer::new(rule, &layout)?.step(&mut flat, &[1.0; 4])?;
///     Ok::<f32, flatleaf::Error>(flat[0])
/// };
/// let (original, matched) = (moved_by(AdjustLr::Original)?, moved_by(AdjustLr::MatchRmsAdamW)?);
/// assert!((original / matched - 2.0 / 0.4).abs() < 1e-5); // √(4/1) and 0.2·√4
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AdjustLr {
    /// √max(1, rows/columns): tall matrices take longer steps.
    #[default]
    #[cfg_attr(feature = "serde", serde(rename = "original"))]
    Original,
    /// 0.2·√max(rows, columns): elements move as far as they do by AdamW, whose rate and decay can
    /// be used.
    #[cfg_attr(feature = "serde", serde(rename = "match_rms_adamw"))]
    MatchRmsAdamW,
}

impl AdjustLr {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let rows = rows as f64;
        let columns = columns as f64;
        match self {
            // 0/0 is NaN, of which `max` takes the other.
            AdjustLr::Original => (rows / columns).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamW => 0.2 * rows.max(columns).sqrt(),
        }
    }
}

impl Default for Muon {
    fn default() -> Self {
        Muon {
            lr: 1e-3,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            ns_coefficients: (3.4445, -4.775, 2.0315),
            ns_steps: 5,
            eps: 1e-7,
            adjust_lr: AdjustLr::Original,
            adamw_lr_ratio: 0.3,
            adamw_betas: (0.9, 0.95),
            adamw_eps: 1e-10,
            adamw_weight_decay: 0.0,
        }
    }
}

impl Rule for Muon {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_decay_rate("momentum", self.momentum)?;
        check_non_negative("weight_decay", self.weight_decay)?;
        let (a, b, c) = self.ns_coefficients;
        check_finite_f32("ns_coefficients.0", a)?;
        check_finite_f32("ns_coefficients.1", b)?;
        check_finite_f32("ns_coefficients.2", c)?;
        let steps = f64::from(self.ns_steps);
        check_that("ns_steps", steps, steps < 100.0, "fewer than 100")?;
        check_eps("eps", self.eps)?;
        check_non_negative("adamw_lr_ratio", self.adamw_lr_ratio)?;
        check_decay_rates("adamw_betas", self.adamw_betas)?;
        check_eps("adamw_eps", self.adamw_eps)?;
        check_non_negative("adamw_weight_decay", self.adamw_weight_decay)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["momentum_buffer", "exp_avg", "exp_avg_sq"]
    }

    fn moments(&self) -> Vec<(&'static str, Moment)> {
        vec![
            ("momentum_buffer", Moment::First),
            ("exp_avg", Moment::First),
            ("exp_avg_sq", Moment::Second),
        ]
    }

    /// That of a leaf which is no matrix.
    fn kernel(&self, step: u64) -> impl Kernel {
        self.kernel_for(&[], step, &[])
    }

    fn sees_shape(&self) -> bool {
        true
    }

    fn kernel_for(&self, shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel {
        self.stages(shape, step)
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

impl RuleFor<f64> for Muon {
    fn kernel_as(&self, shape: &[usize], step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        self.stages(shape, step)
    }
}

impl Muon {
    fn stages<E>(&self, shape: &[usize], step: u64) -> impl Kernel<E> + use<E>
    where
        E: FlatElement,
    {
        let matrix = match *shape {
            [rows, columns] => Some((rows, columns)),
            _ => None,
        };
        // Both ways are made, since an option does not change a kernel's type.
        let (rows, columns) = matrix.unwrap_or_default();
        // Behind the first vector, which is the momentum of matrices.
        let averages = Stage {
            start: 1,
            len: 2,
            kernel: adamw(self.adamw(), step),
        };
        choose(matrix.is_some(), self.of_matrix(rows, columns), averages)
    }

    fn of_matrix<E>(&self, rows: usize, columns: usize) -> impl Kernel<E> + use<E>
    where
        E: FlatElement,
    {
        let kept = E::from_f64(self.momentum);
        let fresh = E::from_f64(1.0 - self.momentum);
        let average = move |dx: E, buffer: &mut E| {
            *buffer = kept * *buffer + fresh * dx;
            *buffer
        };
        let by_average = each_as::<E, _>(move |_, dx, [buffer]| average(dx, buffer));
        let ahead = each_as::<E, _>(move |_, dx, [buffer]| {
            let next = average(dx, buffer);
            fresh * dx + kept * next
        });
        let newton_schulz = self.newton_schulz::<E>();
        let orthogonal = each_leaf_as(move |direction: &mut [E]| {
            newton_schulz.orthogonalize(rows, columns, direction)
        });
        let factor = self.adjust_lr.factor(rows, columns);
        let rate: E = saturating(self.lr * factor);
        (
            choose(self.nesterov, ahead, by_average),
            orthogonal,
            // Behind the change: what comes before it is divided out by the matrix's norm.
            each_as::<E, _>(move |_, dx, []| rate * dx),
            // Without the adjustment, which is for the length of directions; so in PyTorch.
            shrinkage(self.lr * self.weight_decay),
        )
    }

    fn newton_schulz<E: FlatElement>(&self) -> NewtonSchulz<E> {
        let (a, b, c) = self.ns_coefficients;
        let coefficients = (E::from_f64(a), E::from_f64(b), E::from_f64(c));
        NewtonSchulz {
            coefficients,
            steps: self.ns_steps,
            eps: self.eps,
        }
    }

    fn adamw(&self) -> AdamW {
        AdamW {
            lr: self.lr * self.adamw_lr_ratio,
            betas: self.adamw_betas,
            eps: self.adamw_eps,
            weight_decay: self.adamw_weight_decay,
            amsgrad: false,
        }
    }
}
