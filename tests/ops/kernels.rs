//! All kernels in two tables; a new one joins every test with one line (and the table of those that
//! panic, in `panics.rs`, with another).

use flatleaf::{FlatElement, ops};

use crate::naive;

pub(crate) type Measure<E> = fn(&[E]) -> f64;

/// Name, kernel, twin: what reads. Those that take two slices get one and its reverse.
pub(crate) fn measures<E: FlatElement>() -> Vec<(&'static str, Measure<E>, Measure<E>)> {
    vec![
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
    ]
}

/// Orders of [`ops::norm`] that are computed as a power.
pub(crate) const POWERS: &[f64] = &[-7.0, -3.0, -1.0, -0.5, 0.5, 1.5, 3.0, 4.0, 5.25, 17.0];

pub(crate) type Change<E> = fn(&mut [E], &[E]);
pub(crate) type Twin<E> = fn(E, E) -> E;

/// Name, kernel, twin of one element: what writes. Those that take one slice ignore the second.
pub(crate) fn changes<E: FlatElement>() -> Vec<(&'static str, Change<E>, Twin<E>)> {
    vec![
        ("add", |y, x| ops::add(y, x), |y, x| y + x),
        ("sub", |y, x| ops::sub(y, x), |y, x| y - x),
        ("scale", |y, _| ops::scale(y, of(-0.3)), |y, _| y * of(-0.3)),
        (
            "axpy",
            |y, x| ops::axpy(y, of(-0.1), x),
            |y, x| y + of::<E>(-0.1) * x,
        ),
        (
            "lerp, w < ½",
            |y, x| ops::lerp(y, x, of(0.1)),
            |y, x| y + of::<E>(0.1) * (x - y),
        ),
        (
            "lerp, w > ½",
            |y, x| ops::lerp(y, x, of(0.9)),
            |y, x| x - (x - y) * (E::one() - of(0.9)),
        ),
        (
            "clamp",
            |y, _| ops::clamp(y, of(-1.5), of(40.0)),
            |y, _| y.clamp(of(-1.5), of(40.0)),
        ),
        (
            "clip_value",
            |y, _| ops::clip_value(y, of(9.0)).unwrap(),
            |y, _| y.clamp(of(-9.0), of(9.0)),
        ),
        ("fill", |y, _| ops::fill(y, of(2.5)), |_, _| of(2.5)),
        (
            "map",
            |y, _| ops::map(y, |y| y * y + E::one()),
            |y, _| y * y + E::one(),
        ),
        (
            "zip_map",
            |y, x| ops::zip_map(y, x, |y, x| y * x - y),
            |y, x| y * x - y,
        ),
    ]
}

fn of<E: FlatElement>(x: f64) -> E {
    E::from_f64(x)
}

fn reversed<E: FlatElement>(x: &[E]) -> Vec<E> {
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
