//! What holds across all folders: laws over random trees, what every kind of bad input gets, and
//! faults that were found once.

#[cfg(feature = "derive")]
mod errors;
mod laws;
#[cfg(feature = "derive")]
mod regressions;
