//! Optimisers: rules over slices, and what runs them over a layout.
//!
//! A [`Rule`] is plain configuration that makes a [`Kernel`] for every step; a tuple of rules is a
//! chain; an [`Optimizer`] runs one over the leaves of a layout, on the flat vector or on a tree in
//! place.
//!
//! | | |
//! | --- | --- |
//! | descent | [`Sgd`] |
//! | Adam and its relatives | [`Adam`], [`AdamW`], [`NAdam`], [`RAdam`], [`Adamax`], [`AdaBelief`], [`OAdam`] |
//! | divided by past squares | [`AdaGrad`], [`AdaDelta`], [`RmsProp`] |
//! | by sign | [`Lion`], [`Rprop`] |
//! | in proportion to each leaf | [`Lamb`], [`Lars`] |
//! | matrices as a whole | [`Muon`] |
//! | stages in front | [`ClipValue`], [`ClipNorm`], [`ClipNormPerLeaf`], [`WeightDecay`], [`SignDecay`], [`Accumulate`] |
//! | stage behind | [`Ema`], [`Swa`] |
//! | state in fewer bytes | [`Storage`], [`Rounding`]; [`Moment`] for rules of one's own |
//! | gradients of a scaled loss | [`LossScale`], [`ScaledLoss`] |
//! | for rules of one's own | [`each`], [`choose`], [`scale_by_leaf_norms`], [`scale_by_global_norm`], [`each_leaf`], [`go_on_if`], [`sign`] |
//!
//! Formulas and defaults are PyTorch 2.9's; where PyTorch has none, those of Optax 0.2.8, then of
//! Optimisers.jl 0.4.8. Configurations are f64 and checked; vectors are f32.
//!
//! ```
//! use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
//! use flatleaf::{destructure, tree};
//!
//! let mut model = tree!({ "w": [1.0, 2.0], "b": [0.5] });
//! let (mut flat, layout) = destructure(&model)?;
//! let rule = (ClipNorm { max: 1.0, ..Default::default() }, AdamW { lr: 1e-2, ..Default::default() }, Ema::default());
//! let mut optimizer = Optimizer::new(rule, &layout)?;
//!
//! let grads = tree!({ "w": [3.0, 0.0], "b": [4.0] });
//! let report = optimizer.step(&mut flat, &layout.gather_grad(&grads)?)?; // on the flat vector,
//! assert_eq!(report.clips[0].norm_before, 5.0);
//! optimizer.update(&mut model, &grads)?; // or on the tree, where it is
//! # Ok::<(), flatleaf::Error>(())
//! ```
//!
//! Invariant: nothing here walks a tree; [`Optimizer::update`] has its slices from
//! `traversal/leaf_slices.rs`.

// What a rule is, and chains of them:
mod chain;
mod error;
mod kernel;
mod limits;
mod row;
mod rule;
mod scan;
mod storage;

// the rules, a file a family:
mod accumulate;
mod adabelief;
mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod clip;
mod decay;
mod ema;
mod lion;
mod moments;
mod muon;
mod nadam;
mod oadam;
mod orthogonal;
mod radam;
mod rmsprop;
mod rprop;
mod sgd;
mod swa;
mod trust_ratio;

// and what runs them.
mod along;
mod any_optimizer;
mod carried;
mod gradient;
mod leaf_state;
mod lent;
mod loops;
mod loss_scale;
mod master;
mod measure;
mod members;
#[cfg(feature = "serde")]
mod non_finite;
mod optimizer;
mod outer;
mod packed;
mod part_gradient;
mod pass;
mod plan;
mod progress;
mod report;
mod saved_state;
mod settings;
mod sharded;
mod show;
mod snapshot;
mod staged;
mod state_storage;
mod states;

pub use accumulate::Accumulate;
pub use adabelief::AdaBelief;
pub use adadelta::AdaDelta;
pub use adagrad::AdaGrad;
pub use adam::{Adam, AdamW};
pub use adamax::Adamax;
pub use clip::{ClipNorm, ClipNormPerLeaf, ClipValue};
pub use decay::{SignDecay, WeightDecay, sign};
pub use ema::Ema;
pub use gradient::Gradient;
pub use kernel::{
    Kernel, choose, each, each_as, each_leaf, each_leaf_as, go_on_if, scale_by_global_norm,
    scale_by_leaf_norms,
};
pub use leaf_state::LeafState;
pub use limits::{
    check_decay_rate, check_decay_rates, check_eps, check_non_negative, check_positive,
};
pub use lion::Lion;
pub use loss_scale::{LossScale, ScaledLoss};
pub use muon::{AdjustLr, Muon};
pub use nadam::NAdam;
pub use oadam::OAdam;
pub use optimizer::Optimizer;
pub use outer::OuterOptimizer;
#[cfg(feature = "safetensors")]
pub(crate) use packed::{BlockStarts, Form, PackedVector, blocks_before};
pub use radam::RAdam;
pub use report::StepReport;
pub use rmsprop::RmsProp;
pub use rprop::Rprop;
pub use rule::{Rule, RuleFor};
#[cfg(feature = "safetensors")]
pub(crate) use saved_state::SavedElements;
pub use sgd::Sgd;
#[cfg(feature = "safetensors")]
pub(crate) use sharded::intersection;
#[cfg(feature = "safetensors")]
pub(crate) use snapshot::element_of;
pub use snapshot::{Migration, Reshaped, Snapshot};
#[cfg(feature = "safetensors")]
pub(crate) use states::LentVector;
pub use storage::{Moment, Rounding, StateElement, Storage};
pub use swa::Swa;
pub use trust_ratio::{Lamb, Lars};
