//! The rules: each against its formula in one loop, at every awkward length and vector width, on
//! problems that have a solution, and on numbers and whole trajectories that other systems publish;
//! and the optimiser that runs them.
#![cfg(feature = "derive")]

#[path = "../common/mod.rs"]
mod common;

mod along;
mod between_steps;
mod chains;
mod compact_state;
mod convergence;
#[cfg(feature = "serde")]
mod doubles;
mod extremes;
mod fields;
#[cfg(feature = "serde")]
mod golden;
mod leaf_state;
mod lent;
mod loss_scale;
mod members;
#[cfg(feature = "half")]
mod mixed_precision;
#[cfg(feature = "serde")]
mod muon;
mod naive;
mod numbers;
mod optimizer;
mod outer;
mod rules;
#[cfg(feature = "serde")]
mod snapshots;
mod steps;
mod twins;
mod updates;
