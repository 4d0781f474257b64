//! Every rule finds the minimum of a quadratic and the bottom of Rosenbrock's valley.

use std::fmt::Debug;

use flatleaf::Layout;
use flatleaf::optim::{
    AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, Lamb, Lars, Lion, NAdam, OAdam,
    Optimizer, RAdam, RmsProp, Rprop, Rule, Sgd,
};

/// A start, and the loss and gradient at a point.
struct Problem {
    start: [f32; 2],
    loss: fn(f64, f64) -> (f64, [f64; 2]),
}

/// ½·((x − 1)² + 10·(y + 2)²): bent ten times as much one way as the other.
const QUADRATIC: Problem = Problem {
    start: [3.0, 1.0],
    loss: |x, y| {
        (
            0.5 * ((x - 1.0).powi(2) + 10.0 * (y + 2.0).powi(2)),
            [x - 1.0, 10.0 * (y + 2.0)],
        )
    },
};

/// (1 − x)² + 100·(y − x²)²: along a bent valley to (1, 1).
const ROSENBROCK: Problem = Problem {
    start: [-1.2, 1.0],
    loss: |x, y| {
        let (a, b) = (1.0 - x, y - x * x);
        (a * a + 100.0 * b * b, [-2.0 * a - 400.0 * x * b, 200.0 * b])
    },
};

impl Problem {
    /// The loss after so many steps, with a rate that falls to 0 in a line.
    fn minimized(&self, rule: impl Rule, lr: f64, steps: u32) -> f64 {
        let mut flat = self.start.to_vec();
        let layout = Layout::of(&flat).unwrap();
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        for step in 0..steps {
            let (_, gradient) = (self.loss)(flat[0].into(), flat[1].into());
            optimizer
                .set_lr(lr * (1.0 - f64::from(step) / f64::from(steps)))
                .unwrap();
            let gradient = gradient.map(|g| g as f32);
            optimizer.step(&mut flat, &gradient).unwrap();
        }
        (self.loss)(flat[0].into(), flat[1].into()).0
    }
}

/// With these rates for the one problem and the other.
fn check<R: Rule + Debug>(rule: R, of_quadratic: f64, of_rosenbrock: f64) {
    let loss = QUADRATIC.minimized(rule.clone(), of_quadratic, 1_000);
    assert!(loss < 1e-6, "{rule:?} is at {loss:e} of the quadratic");
    let loss = ROSENBROCK.minimized(rule.clone(), of_rosenbrock, 10_000);
    assert!(
        loss < 1e-4,
        "{rule:?} is at {loss:e} of Rosenbrock's function"
    );
}

#[test]
fn descent_finds_the_minimum() {
    check(Sgd::default(), 0.1, 2e-3);
    check(
        Sgd {
            momentum: 0.9,
            ..Sgd::default()
        },
        0.02,
        1e-3,
    );
    check(
        Sgd {
            momentum: 0.9,
            nesterov: true,
            ..Sgd::default()
        },
        0.02,
        1e-3,
    );
}

#[test]
fn relatives_of_adam_find_the_minimum() {
    check(Adam::default(), 0.1, 0.05);
    check(
        Adam {
            amsgrad: true,
            ..Adam::default()
        },
        0.1,
        0.05,
    );
    check(
        AdamW {
            weight_decay: 0.0,
            ..AdamW::default()
        },
        0.1,
        0.05,
    );
    check(NAdam::default(), 0.1, 0.05);
    check((ClipNorm::default(), RAdam::default()), 0.1, 0.05); // its first steps are as long as the gradient, 233 at the start
    check(Adamax::default(), 0.1, 0.05);
    check(AdaBelief::default(), 0.1, 0.05);
    check(OAdam::default(), 0.1, 0.05);
}

#[test]
fn rules_that_divide_by_past_squares_find_the_minimum() {
    check(AdaGrad::default(), 1.0, 1.0);
    check(AdaDelta::default(), 10.0, 1.0);
    check(RmsProp::default(), 0.1, 0.01);
    check(
        RmsProp {
            momentum: 0.9,
            ..RmsProp::default()
        },
        0.01,
        0.005,
    );
    check(
        RmsProp {
            centered: true,
            ..RmsProp::default()
        },
        0.1,
        0.005,
    );
}

#[test]
fn rules_that_go_by_sign_find_the_minimum() {
    check(
        Lion {
            weight_decay: 0.0,
            ..Lion::default()
        },
        0.02,
        0.01,
    );
    check(Rprop::default(), 0.1, 0.01);
}

#[test]
fn rules_in_proportion_to_a_leaf_find_the_minimum() {
    check(Lamb::default(), 0.01, 0.01);
    check(
        Lars {
            trust_coefficient: 1.0,
            ..Lars::default()
        },
        0.005,
        0.001,
    );
}
