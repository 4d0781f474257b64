//! The rules: each against its formula in one loop, at every awkward length and vector width, on
//! problems that have a solution, and on numbers that other systems publish. The optimiser that
//! runs them is in `optimizer.rs`, whole trajectories of other systems in `golden.rs`.
#![cfg(feature = "derive")]

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod convergence;
mod fields;

mod naive;
mod numbers;
mod rules;
mod steps;
mod twins;
mod updates;
