//! All kernels in two tables; a new one joins every test with one line (and the table of those that
//! panic, in `panics.rs`, with another).

use flatleaf::ops;

use crate::naive;

pub(crate) type Measure = fn(&[f32]) -> f64;

/// Name, kernel, twin: what reads. Those that take two slices get one and its reverse.
pub(crate) const MEASURES: &[(&str, Measure, Measure)] = &[
    ("sum", |x| ops::sum(x), |x| naive::sum(x)),
    (
        "dot",
        |x| ops::dot(x, &reversed(x)),
        |x| naive::dot(x, &reversed(x)),
    ),
    (
        "mean_square",
        |x| ops::mean_square(x),
        |x| naive::mean_square(x),
    ),
    ("norm_l1", |x| ops::norm_l1(x), |x| naive::norm_l1(x)),
    ("norm_l2", |x| ops::norm_l2(x), |x| naive::norm_l2(x)),
    ("norm_inf", |x| ops::norm_inf(x), |x| naive::norm_inf(x)),
    ("norm 1", |x| ops::norm(x, 1.0), |x| naive::norm_l1(x)),
    ("norm 2", |x| ops::norm(x, 2.0), |x| naive::norm_l2(x)),
    (
        "norm ∞",
        |x| ops::norm(x, f64::INFINITY),
        |x| naive::norm_inf(x),
    ),
    (
        "norm −∞",
        |x| ops::norm(x, f64::NEG_INFINITY),
        |x| naive::norm_minus_inf(x),
    ),
    ("norm 0", |x| ops::norm(x, 0.0), |x| naive::non_zeros(x)),
    (
        "min",
        |x| ops::min_max(x).map_or(0.0, |(min, _)| min.into()),
        |x| naive::min_max(x).map_or(0.0, |(min, _)| min.into()),
    ),
    (
        "max",
        |x| ops::min_max(x).map_or(0.0, |(_, max)| max.into()),
        |x| naive::min_max(x).map_or(0.0, |(_, max)| max.into()),
    ),
];

/// Orders of [`ops::norm`] that are computed as a power.
pub(crate) const POWERS: &[f64] = &[-7.0, -3.0, -1.0, -0.5, 0.5, 1.5, 3.0, 4.0, 5.25, 17.0];

pub(crate) type Change = fn(&mut [f32], &[f32]);
pub(crate) type Twin = fn(f32, f32) -> f32;

/// Name, kernel, twin of one element: what writes. Those that take one slice ignore the second.
pub(crate) const CHANGES: &[(&str, Change, Twin)] = &[
    ("add", |y, x| ops::add(y, x), |y, x| y + x),
    ("sub", |y, x| ops::sub(y, x), |y, x| y - x),
    ("scale", |y, _| ops::scale(y, -0.3), |y, _| y * -0.3),
    ("axpy", |y, x| ops::axpy(y, -0.1, x), |y, x| y + -0.1 * x),
    (
        "lerp, w < ½",
        |y, x| ops::lerp(y, x, 0.1),
        |y, x| y + 0.1 * (x - y),
    ),
    (
        "lerp, w > ½",
        |y, x| ops::lerp(y, x, 0.9),
        |y, x| x - (x - y) * (1.0 - 0.9),
    ),
    (
        "clamp",
        |y, _| ops::clamp(y, -1.5, 40.0),
        |y, _| y.clamp(-1.5, 40.0),
    ),
    (
        "clip_value",
        |y, _| ops::clip_value(y, 9.0).unwrap(),
        |y, _| y.clamp(-9.0, 9.0),
    ),
    ("fill", |y, _| ops::fill(y, 2.5), |_, _| 2.5),
    (
        "map",
        |y, _| ops::map(y, |y| y * y + 1.0),
        |y, _| y * y + 1.0,
    ),
    (
        "zip_map",
        |y, x| ops::zip_map(y, x, |y, x| y * x - y),
        |y, x| y * x - y,
    ),
];

fn reversed(x: &[f32]) -> Vec<f32> {
    x.iter().rev().copied().collect()
}

/// What `ops` exports, by its sources, without the types.
fn exported() -> Vec<&'static str> {
    let sources = include_str!("../../src/ops/mod.rs");
    let exports = sources
        .lines()
        .filter_map(|line| line.strip_prefix("pub use ")?.split_once("::"));
    let names = exports
        .flat_map(|(_, names)| names.split(|mark: char| !(mark.is_alphanumeric() || mark == '_')));
    names
        .filter(|name| name.starts_with(char::is_lowercase))
        .collect()
}

#[test]
fn every_export_is_tested_and_stands_in_the_table_of_the_module() {
    let tests = [
        include_str!("kernels.rs"),
        include_str!("elementwise.rs"),
        include_str!("twins.rs"),
        include_str!("clip.rs"),
    ]
    .concat();
    assert!(exported().contains(&"axpy") && exported().contains(&"clip_norm_with"));
    for name in exported() {
        assert!(
            tests.contains(&format!("ops::{name}")),
            "`{name}` has no test in `tests/ops`"
        );
        assert!(
            include_str!("../../src/ops/mod.rs").contains(&format!("[`{name}`]")),
            "`{name}` is not in the table of `src/ops/mod.rs`"
        );
    }
}
