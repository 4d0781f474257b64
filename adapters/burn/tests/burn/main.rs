//! flatleaf on burn's modules. One program, since burn takes a while to link.

mod checkpoints;
mod clip;
mod flat;
mod models;
mod params;
mod per_tensor;
mod precision;
mod records;
mod steps;
mod ties;
