//! flatleaf on burn's modules. One program, since burn takes a while to link.

mod clip;
mod flat;
mod models;
mod params;
mod steps;
mod ties;
