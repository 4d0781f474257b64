//! What the kernels mean: one loop each, in f64 and in order.

use flatleaf::FlatElement;

pub(crate) fn sum<E: FlatElement>(x: &[E]) -> f64 {
    x.iter().map(|&x| wide(x)).sum()
}

pub(crate) fn dot<E: FlatElement>(x: &[E], y: &[E]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| wide(x) * wide(y)).sum()
}

pub(crate) fn mean_square<E: FlatElement>(x: &[E]) -> f64 {
    if x.is_empty() {
        0.0
    } else {
        dot(x, x) / x.len() as f64
    }
}

pub(crate) fn norm_l1<E: FlatElement>(x: &[E]) -> f64 {
    x.iter().map(|&x| wide(x).abs()).sum()
}

pub(crate) fn norm_l2<E: FlatElement>(x: &[E]) -> f64 {
    dot(x, x).sqrt()
}

pub(crate) fn norm_inf<E: FlatElement>(x: &[E]) -> f64 {
    x.iter().fold(0.0, |greatest, &x| {
        if greatest.is_nan() || wide(x).abs() <= greatest {
            greatest
        } else {
            wide(x).abs()
        }
    })
}

pub(crate) fn norm_minus_inf<E: FlatElement>(x: &[E]) -> f64 {
    let least = x.iter().fold(f64::INFINITY, |least, &x| {
        if least.is_nan() || wide(x).abs() >= least {
            least
        } else {
            wide(x).abs()
        }
    });
    if x.is_empty() { 0.0 } else { least }
}

pub(crate) fn non_zeros<E: FlatElement>(x: &[E]) -> f64 {
    x.iter().filter(|&&x| x != E::zero()).count() as f64
}

pub(crate) fn norm<E: FlatElement>(x: &[E], p: f64) -> f64 {
    if x.is_empty() {
        0.0
    } else {
        x.iter()
            .map(|&x| wide(x).abs().powf(p))
            .sum::<f64>()
            .powf(1.0 / p)
    }
}

pub(crate) fn min_max<E: FlatElement>(x: &[E]) -> Option<(E, E)> {
    x.iter()
        .map(|&x| (x, x))
        .reduce(|(min, max), (x, _)| (if x < min { x } else { min }, if x > max { x } else { max }))
}

pub(crate) fn each<E: FlatElement>(y: &mut [E], x: &[E], f: impl Fn(E, E) -> E) {
    for i in 0..y.len() {
        y[i] = f(y[i], x[i]);
    }
}

fn wide<E: FlatElement>(x: E) -> f64 {
    x.into()
}
