//! What the kernels mean: one loop each, in f64 and in order.

pub(crate) fn sum(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x)).sum()
}

pub(crate) fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter()
        .zip(y)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}

pub(crate) fn mean_square(x: &[f32]) -> f64 {
    if x.is_empty() {
        0.0
    } else {
        dot(x, x) / x.len() as f64
    }
}

pub(crate) fn norm_l1(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).abs()).sum()
}

pub(crate) fn norm_l2(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}

pub(crate) fn norm_inf(x: &[f32]) -> f64 {
    x.iter().fold(0.0, |greatest, &x| {
        if greatest.is_nan() || f64::from(x).abs() <= greatest {
            greatest
        } else {
            f64::from(x).abs()
        }
    })
}

pub(crate) fn norm_minus_inf(x: &[f32]) -> f64 {
    let least = x.iter().fold(f64::INFINITY, |least, &x| {
        if least.is_nan() || f64::from(x).abs() >= least {
            least
        } else {
            f64::from(x).abs()
        }
    });
    if x.is_empty() { 0.0 } else { least }
}

pub(crate) fn non_zeros(x: &[f32]) -> f64 {
    x.iter().filter(|&&x| x != 0.0).count() as f64
}

pub(crate) fn norm(x: &[f32], p: f64) -> f64 {
    if x.is_empty() {
        0.0
    } else {
        x.iter()
            .map(|&x| f64::from(x).abs().powf(p))
            .sum::<f64>()
            .powf(1.0 / p)
    }
}

pub(crate) fn min_max(x: &[f32]) -> Option<(f32, f32)> {
    x.iter()
        .map(|&x| (x, x))
        .reduce(|(min, max), (x, _)| (if x < min { x } else { min }, if x > max { x } else { max }))
}

pub(crate) fn each(y: &mut [f32], x: &[f32], f: impl Fn(f32, f32) -> f32) {
    for i in 0..y.len() {
        y[i] = f(y[i], x[i]);
    }
}
