//! What the rules mean: one loop each, in f64 and in the words of its formula. The states are in
//! the order of the rule's own.

use flatleaf::optim::{
    Accumulate, AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, ClipNormPerLeaf,
    ClipValue, Ema, Lamb, Lars, Lion, Muon, NAdam, OAdam, RAdam, RmsProp, Rprop, Sgd, SignDecay,
    Swa, WeightDecay,
};

/// Moves `x` by the gradient `g`, at step `t`.
pub(crate) type Twin<R> = fn(rule: &R, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]);

pub(crate) fn sgd(rule: &Sgd, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let [b] = vectors(states);
    for i in 0..x.len() {
        let g = g[i] + rule.weight_decay * x[i];
        b[i] = if t == 1 {
            g
        } else {
            rule.momentum * b[i] + (1.0 - rule.dampening) * g
        };
        x[i] -= rule.lr
            * if rule.nesterov {
                g + rule.momentum * b[i]
            } else {
                b[i]
            };
    }
    if rule.momentum == 0.0 {
        b.fill(0.0);
    }
}

pub(crate) fn adam(rule: &Adam, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &Adam {
            lr,
            betas: (beta1, beta2),
            eps,
            weight_decay,
            amsgrad,
        },
        [m, v, greatest],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        let g = g[i] + weight_decay * x[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        greatest[i] = if amsgrad { greatest[i].max(v[i]) } else { 0.0 };
        let v = if amsgrad { greatest[i] } else { v[i] };
        x[i] -= lr * m[i] / (1.0 - beta1.powi(t)) / ((v / (1.0 - beta2.powi(t))).sqrt() + eps);
    }
}

pub(crate) fn adamw(rule: &AdamW, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let &AdamW {
        lr,
        betas,
        eps,
        weight_decay,
        amsgrad,
    } = rule;
    x.iter_mut().for_each(|x| *x -= lr * weight_decay * *x);
    adam(
        &Adam {
            lr,
            betas,
            eps,
            weight_decay: 0.0,
            amsgrad,
        },
        t,
        x,
        g,
        states,
    );
}

/// Of a leaf that is no matrix.
pub(crate) fn muon(rule: &Muon, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let ([_, m, v], (beta1, beta2)) = (vectors(states), rule.adamw_betas);
    let lr = rule.lr * rule.adamw_lr_ratio;
    for i in 0..x.len() {
        x[i] -= lr * rule.adamw_weight_decay * x[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        let root = (v[i] / (1.0 - beta2.powi(t))).sqrt();
        x[i] -= lr * m[i] / (1.0 - beta1.powi(t)) / (root + rule.adamw_eps);
    }
}

pub(crate) fn nadam(rule: &NAdam, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &NAdam {
            lr,
            betas: (beta1, beta2),
            eps,
            weight_decay,
            ..
        },
        [m, v],
    ) = (rule, vectors(states));
    let momentum = |t: i32| beta1 * (1.0 - 0.5 * 0.96_f64.powf(f64::from(t) * rule.momentum_decay));
    let product: f64 = (1..=t).map(momentum).product();
    for i in 0..x.len() {
        let mut g = g[i];
        if rule.decoupled_weight_decay {
            x[i] -= lr * weight_decay * x[i];
        } else {
            g += weight_decay * x[i];
        }
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let ahead = (1.0 - momentum(t)) * g / (1.0 - product)
            + momentum(t + 1) * m[i] / (1.0 - product * momentum(t + 1));
        x[i] -= lr * ahead / ((v[i] / (1.0 - beta2.powi(t))).sqrt() + eps);
    }
}

pub(crate) fn radam(rule: &RAdam, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &RAdam {
            lr,
            betas: (beta1, beta2),
            eps,
            weight_decay,
            ..
        },
        [m, v],
    ) = (rule, vectors(states));
    let end = 2.0 / (1.0 - beta2) - 1.0;
    let now = end - 2.0 * f64::from(t) * beta2.powi(t) / (1.0 - beta2.powi(t));
    for i in 0..x.len() {
        let mut g = g[i];
        if rule.decoupled_weight_decay {
            x[i] -= lr * weight_decay * x[i];
        } else {
            g += weight_decay * x[i];
        }
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let mut moved = lr * m[i] / (1.0 - beta1.powi(t));
        if now > 5.0 {
            let rectification =
                ((now - 4.0) * (now - 2.0) * end / ((end - 4.0) * (end - 2.0) * now)).sqrt();
            moved *= rectification * (1.0 - beta2.powi(t)).sqrt() / (v[i].sqrt() + eps);
        }
        x[i] -= moved;
    }
}

pub(crate) fn adamax(rule: &Adamax, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &Adamax {
            lr,
            betas: (beta1, beta2),
            eps,
            weight_decay,
        },
        [m, u],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        let g = g[i] + weight_decay * x[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        u[i] = (beta2 * u[i]).max(g.abs() + eps);
        x[i] -= lr / (1.0 - beta1.powi(t)) * m[i] / u[i];
    }
}

pub(crate) fn adagrad(rule: &AdaGrad, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let [s] = vectors(states);
    if t == 1 {
        s.fill(rule.initial_accumulator_value);
    }
    for i in 0..x.len() {
        let g = g[i] + rule.weight_decay * x[i];
        s[i] += g * g;
        x[i] -= rule.lr / (1.0 + f64::from(t - 1) * rule.lr_decay) * g / (s[i].sqrt() + rule.eps);
    }
}

pub(crate) fn adadelta(rule: &AdaDelta, _: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &AdaDelta {
            lr,
            rho,
            eps,
            weight_decay,
        },
        [s, a],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        let g = g[i] + weight_decay * x[i];
        s[i] = rho * s[i] + (1.0 - rho) * g * g;
        let d = g * (a[i] + eps).sqrt() / (s[i] + eps).sqrt();
        a[i] = rho * a[i] + (1.0 - rho) * d * d;
        x[i] -= lr * d;
    }
}

pub(crate) fn rmsprop(rule: &RmsProp, _: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &RmsProp {
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
        },
        [s, b, a],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        let g = g[i] + weight_decay * x[i];
        s[i] = alpha * s[i] + (1.0 - alpha) * g * g;
        a[i] = if centered {
            alpha * a[i] + (1.0 - alpha) * g
        } else {
            0.0
        };
        b[i] = momentum * b[i] + g / ((s[i] - a[i] * a[i]).sqrt() + eps);
        x[i] -= lr * b[i];
    }
    if momentum == 0.0 && !centered {
        b.fill(0.0);
    }
}

pub(crate) fn rprop(rule: &Rprop, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &Rprop {
            lr,
            etas: (shrinking, growing),
            step_sizes: (least, greatest),
        },
        [before, size],
    ) = (rule, vectors(states));
    if t == 1 {
        size.fill(lr);
    }
    for i in 0..x.len() {
        let agreement = g[i] * before[i];
        let factor = if agreement > 0.0 {
            growing
        } else if agreement < 0.0 {
            shrinking
        } else {
            1.0
        };
        size[i] = (size[i] * factor).clamp(least, greatest);
        before[i] = if agreement < 0.0 { 0.0 } else { g[i] };
        x[i] -= size[i] * sign(before[i]);
    }
}

pub(crate) fn lion(rule: &Lion, _: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &Lion {
            lr,
            betas: (beta1, beta2),
            weight_decay,
        },
        [m],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        x[i] -= lr * (sign(beta1 * m[i] + (1.0 - beta1) * g[i]) + weight_decay * x[i]);
        m[i] = beta2 * m[i] + (1.0 - beta2) * g[i];
    }
}

pub(crate) fn adabelief(
    rule: &AdaBelief,
    t: i32,
    x: &mut [f64],
    g: &[f64],
    states: &mut [Vec<f64>],
) {
    let (
        &AdaBelief {
            lr,
            betas: (beta1, beta2),
            eps,
            eps_root,
            nesterov,
        },
        [m, s],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        s[i] = beta2 * s[i] + (1.0 - beta2) * (g[i] - m[i]).powi(2) + eps_root;
        x[i] -= lr * expected(beta1, t, m[i], g[i], nesterov)
            / ((s[i] / (1.0 - beta2.powi(t))).sqrt() + eps);
    }
}

pub(crate) fn oadam(rule: &OAdam, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &OAdam {
            lr,
            alpha,
            beta,
            betas: (beta1, beta2),
            eps,
            eps_root,
            nesterov,
        },
        [m, v, previous],
    ) = (rule, vectors(states));
    for i in 0..x.len() {
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        let r = expected(beta1, t, m[i], g[i], nesterov)
            / ((v[i] / (1.0 - beta2.powi(t)) + eps_root).sqrt() + eps);
        let change = if t == 1 { 0.0 } else { r - previous[i] };
        x[i] -= lr * (alpha * r + beta * change);
        previous[i] = r;
    }
}

pub(crate) fn lamb(rule: &Lamb, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let (
        &Lamb {
            lr,
            betas: (beta1, beta2),
            eps,
            eps_root,
            weight_decay,
        },
        [m, v],
    ) = (rule, vectors(states));
    let mut d = vec![0.0; x.len()];
    for i in 0..x.len() {
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        d[i] = expected(beta1, t, m[i], g[i], false)
            / ((v[i] / (1.0 - beta2.powi(t)) + eps_root).sqrt() + eps)
            + weight_decay * x[i];
    }
    let ratio = if norm(x) == 0.0 || norm(&d) == 0.0 {
        1.0
    } else {
        norm(x) / norm(&d)
    };
    for i in 0..x.len() {
        x[i] -= lr * ratio * d[i];
    }
}

pub(crate) fn lars(rule: &Lars, _: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let [b] = vectors(states);
    let g: Vec<f64> = (0..x.len())
        .map(|i| g[i] + rule.weight_decay * x[i])
        .collect();
    let ratio = if norm(x) == 0.0 || norm(&g) == 0.0 {
        1.0
    } else {
        rule.trust_coefficient * norm(x) / (norm(&g) + rule.eps)
    };
    for i in 0..x.len() {
        let d = rule.lr * ratio * g[i];
        b[i] = rule.momentum * b[i] + d;
        x[i] -= if rule.nesterov {
            d + rule.momentum * b[i]
        } else {
            b[i]
        };
    }
    if rule.momentum == 0.0 {
        b.fill(0.0);
    }
}

pub(crate) fn clip_value(rule: &ClipValue, _: i32, x: &mut [f64], g: &[f64], _: &mut [Vec<f64>]) {
    for i in 0..x.len() {
        x[i] -= g[i].clamp(-rule.max, rule.max);
    }
}

pub(crate) fn clip_norm(rule: &ClipNorm, _: i32, x: &mut [f64], g: &[f64], _: &mut [Vec<f64>]) {
    let scale = if norm(g) > rule.max {
        rule.max / norm(g)
    } else {
        1.0
    };
    for i in 0..x.len() {
        x[i] -= scale * g[i];
    }
}

/// Of a model that is one leaf.
pub(crate) fn clip_norm_per_leaf(
    rule: &ClipNormPerLeaf,
    t: i32,
    x: &mut [f64],
    g: &[f64],
    states: &mut [Vec<f64>],
) {
    clip_norm(
        &ClipNorm {
            max: rule.max,
            ..ClipNorm::default()
        },
        t,
        x,
        g,
        states,
    );
}

pub(crate) fn weight_decay(
    rule: &WeightDecay,
    _: i32,
    x: &mut [f64],
    g: &[f64],
    _: &mut [Vec<f64>],
) {
    for i in 0..x.len() {
        x[i] -= g[i] + rule.weight_decay * x[i];
    }
}

pub(crate) fn sign_decay(rule: &SignDecay, _: i32, x: &mut [f64], g: &[f64], _: &mut [Vec<f64>]) {
    for i in 0..x.len() {
        x[i] -= g[i] + rule.sign_decay * sign(x[i]);
    }
}

pub(crate) fn accumulate(
    rule: &Accumulate,
    t: i32,
    x: &mut [f64],
    g: &[f64],
    states: &mut [Vec<f64>],
) {
    let ([sum], steps) = (vectors(states), rule.steps as i32);
    for i in 0..x.len() {
        sum[i] = if t % steps == 1 % steps {
            g[i]
        } else {
            sum[i] + g[i]
        };
        x[i] -= if t % steps == 0 {
            sum[i] / f64::from(steps)
        } else {
            0.0
        };
    }
}

pub(crate) fn ema(rule: &Ema, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let [average] = vectors(states);
    let decay = |t: i32| {
        if rule.warm_up {
            rule.decay.min(f64::from(1 + t) / f64::from(10 + t))
        } else {
            rule.decay
        }
    };
    let weight = if rule.debias {
        1.0 - (1..=t).map(decay).product::<f64>()
    } else {
        1.0
    };
    for i in 0..x.len() {
        x[i] -= g[i];
        average[i] = if t == 1 {
            x[i]
        } else {
            average[i] + (1.0 - decay(t)) / weight * (x[i] - average[i])
        };
    }
}

pub(crate) fn swa(rule: &Swa, t: i32, x: &mut [f64], g: &[f64], states: &mut [Vec<f64>]) {
    let ([average], behind) = (vectors(states), t - rule.start as i32);
    let (taken_in, left_over) = (behind / rule.every as i32, behind % rule.every as i32);
    for i in 0..x.len() {
        x[i] -= g[i];
        if behind > 0 && left_over == 0 {
            let sum_before = f64::from(taken_in - 1) * average[i];
            average[i] = (sum_before + x[i]) / f64::from(taken_in);
        }
    }
}

fn vectors<const N: usize>(states: &mut [Vec<f64>]) -> &mut [Vec<f64>; N] {
    states.try_into().expect("as many as the rule keeps")
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The average without the zeros that it began with, one step ahead if `nesterov`.
fn expected(beta: f64, t: i32, m: f64, g: f64, nesterov: bool) -> f64 {
    match nesterov {
        true => beta * m / (1.0 - beta.powi(t + 1)) + (1.0 - beta) * g / (1.0 - beta.powi(t)),
        false => m / (1.0 - beta.powi(t)),
    }
}
