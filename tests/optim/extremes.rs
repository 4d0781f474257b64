//! Gradients and parameters at the ends of f32: a square that overflows, a product that vanishes, a
//! parameter of −∞ beside a penalty of 0.

use std::fmt::Debug;

use flatleaf::optim::{
    AdaBelief, Adam, AdamW, Kernel, Lion, Muon, NAdam, OAdam, Optimizer, RAdam, RmsProp, Rprop,
    Rule, RuleFor, Sgd, WeightDecay, scale_by_leaf_norms,
};
use flatleaf::{FlatGrad, Layout, tree};

use crate::naive::Twin;
use crate::rules::{self, Law};

/// What becomes of the parameters, step by step.
fn trajectory<R: Rule>(rule: R, start: f32, gradients: &[f32]) -> Vec<f32> {
    let mut flat = vec![start];
    let layout = Layout::of(&flat).unwrap();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut step = |&gradient: &f32| {
        let grad = FlatGrad::from_flat(&layout, vec![gradient]).unwrap();
        optimizer.step(&mut flat, &grad).unwrap();
        flat[0]
    };
    gradients.iter().map(&mut step).collect()
}

struct Finite;

impl Law for Finite {
    /// Rates are small, so a step is finite wherever the formula's is.
    fn holds<R: Rule + Debug>(&self, rule: R, _: Twin<R>) {
        // Squares overflow f32 from 1.85e19 on, and a thousandth of them from 5.8e20 on.
        for size in [1e-45, 1e-30, 1.0, 1.85e19, 1e20, 5.8e20, 1e25, 1e30, 1e37] {
            let gradients = [size, size, -size, 0.0, size, size, size, -size];
            for x in trajectory(rule.clone(), 0.5, &gradients) {
                assert!(x.is_finite(), "{rule:?} makes {x} of gradients of {size:e}");
            }
        }
    }
}

#[test]
fn steps_are_finite_where_squares_overflow() {
    rules::every(&Finite);
}

/// Moves by the gradient times a number.
#[derive(Clone, Debug, PartialEq)]
struct Times(f64);

impl Rule for Times {
    fn kernel(&self, _step: u64) -> impl Kernel {
        let factor = self.0;
        scale_by_leaf_norms(move |_, _| factor)
    }
}

impl RuleFor<f64> for Times {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {
        let factor = self.0;
        scale_by_leaf_norms(move |_, _| factor)
    }
}

/// What such a step makes of a gradient that is a power of two.
fn moved_by(factor: f64, gradient: f64) -> f64 {
    -f64::from(trajectory(Times(factor), 0.0, &[gradient as f32])[0])
}

#[test]
fn a_factor_that_no_f32_holds_makes_what_one_does() {
    let power = |exponent| 2.0_f64.powi(exponent);
    for (factor, gradient) in [
        (-135, 127),
        (-149, 100),
        (-200, 127),
        (-101, 30),
        (135, -135),
        (128, -149),
        (200, -149),
        (101, -30),
        (253, -149),
    ] {
        let expected = power(factor + gradient);
        let found = moved_by(power(factor), power(gradient));
        assert_eq!(found, expected, "2^{factor} of 2^{gradient}");
        let found = moved_by(-power(factor), power(gradient));
        assert_eq!(found, -expected, "-2^{factor} of 2^{gradient}");
        // What is not a power of two is rounded.
        let found = moved_by(1.1 * power(factor), power(gradient)) / expected;
        assert!((found - 1.1).abs() < 1e-7, "1.1 · 2^{factor}: {found}");
    }
    assert_eq!(moved_by(power(300), 0.0), 0.0, "saturated, not infinite");
    assert_eq!(moved_by(power(-300), power(127)), 0.0);
    assert_eq!(moved_by(power(300), 1.0), f64::INFINITY);
    assert_eq!(moved_by(f64::INFINITY, 1.0), f64::INFINITY);
    assert!(moved_by(f64::NAN, 1.0).is_nan());
    assert!(moved_by(f64::INFINITY, 0.0).is_nan());
}

#[test]
fn a_factor_of_f64_is_one_number() {
    let mut flat = [0.0_f64];
    let layout = Layout::of(&flat).unwrap();
    let mut optimizer = Optimizer::new_as::<f64>(Times(1e300), &layout).unwrap();
    optimizer.step(&mut flat, &[3e-300]).unwrap();
    assert_eq!(flat, [-(1e300 * 3e-300)]);
}

#[test]
fn radam_does_not_multiply_an_infinite_average_by_zero() {
    let rule = RAdam {
        lr: 1e-3,
        ..RAdam::default()
    };
    // As PyTorch: lr · m/(1 − β₁ᵗ), which is the gradient where all gradients are equal.
    let found = trajectory(rule, 0.0, &[1e30; 2]);
    assert!((found[0] / -1e27 - 1.0).abs() < 1e-6, "{found:?}");
    assert!((found[1] / -2e27 - 1.0).abs() < 1e-6, "{found:?}");
}

/// PyTorch multiplies the share into the gradient and then by it again: 0.001·g·g is finite up to
/// 5.8e20, where g² is infinite from 1.85e19 on.
#[test]
fn averages_of_squares_overflow_no_earlier_than_those_of_pytorch() {
    fn check(rule: impl Rule + Debug) {
        let mut flat = vec![0.0];
        let layout = Layout::of(&flat).unwrap();
        let mut optimizer = Optimizer::new(rule.clone(), &layout).unwrap();
        let grad = FlatGrad::from_flat(&layout, vec![2e19]).unwrap();
        optimizer.step(&mut flat, &grad).unwrap();
        for (name, state) in optimizer.state() {
            assert!(state[0].is_finite(), "`{name}` of {rule:?}: {state:?}");
        }
    }
    check(Adam::default());
    check(NAdam::default());
    check(RAdam::default());
    check(RmsProp::default());
    check(RmsProp {
        centered: true,
        ..RmsProp::default()
    });
    check(AdaBelief::default());
    check(OAdam::default());
}

/// The product of two gradients of 1e-30 is 0 as an f32, that of their signs is not.
#[test]
fn rprop_compares_the_signs_of_small_gradients() {
    let rule = Rprop {
        lr: 1.0,
        etas: (0.5, 2.0),
        ..Rprop::default()
    };
    let sizes = [-1e-30, -1e-30, 1e-30, 1e-30];
    assert_eq!(trajectory(rule, 0.0, &sizes), [1.0, 3.0, 3.0, 2.0]);
    // An infinite gradient that has turned waits like any other.
    let turned = [-1.0, f32::INFINITY, -1.0];
    assert_eq!(trajectory(rule, 0.0, &turned), [1.0, 1.0, 1.5]);
}

/// As PyTorch, which adds no penalty of 0: the −∞ of a mask is no NaN.
#[test]
fn an_infinite_parameter_without_a_gradient_stays() {
    fn check(rule: impl Rule + Debug) {
        for x in trajectory(rule.clone(), f32::NEG_INFINITY, &[0.0; 3]) {
            assert_eq!(x, f32::NEG_INFINITY, "{rule:?}");
        }
    }
    check(Sgd::default());
    check(Sgd {
        momentum: 0.9,
        ..Sgd::default()
    });
    check(Adam::default());
    check(AdamW {
        weight_decay: 0.0,
        ..AdamW::default()
    });
    check(NAdam::default());
    check(RAdam::default());
    check(RmsProp::default());
}

/// As PyTorch, which multiplies by 1 − lr·weight_decay: the share of ∞ that is taken off would be ∞.
#[test]
fn an_infinite_parameter_stays_under_decoupled_weight_decay() {
    fn check(rule: impl RuleFor<f64> + Debug) {
        for start in [f32::NEG_INFINITY, f32::INFINITY] {
            for gradient in [0.0, 1.5, -1e20] {
                for x in trajectory(rule.clone(), start, &[gradient; 3]) {
                    assert_eq!(x, start, "{rule:?}, gradients of {gradient}");
                }
            }
            let mut flat = vec![f64::from(start), 1.0];
            let layout = Layout::of(&flat).unwrap();
            let mut optimizer = Optimizer::new_as::<f64>(rule.clone(), &layout).unwrap();
            let grad = FlatGrad::from_flat(&layout, vec![0.0, 0.0]).unwrap();
            optimizer.step(&mut flat, &grad).unwrap();
            assert_eq!(flat[0], f64::from(start), "{rule:?} in f64");
            assert!(flat[1] < 1.0, "{rule:?} in f64 does not shrink: {flat:?}");
        }
    }
    check(AdamW::default());
    check(AdamW {
        amsgrad: true,
        ..AdamW::default()
    });
    check(Lion::default());
    check(Muon {
        adamw_weight_decay: 0.1,
        ..Muon::default()
    });
    check(NAdam {
        weight_decay: 0.1,
        decoupled_weight_decay: true,
        ..NAdam::default()
    });
    check(RAdam {
        weight_decay: 0.1,
        decoupled_weight_decay: true,
        ..RAdam::default()
    });
}

/// The matrices of Muon too: −∞ stays, its neighbours take their steps.
#[test]
fn an_infinite_element_of_a_matrix_stays_under_muon() {
    let mut model = tree!([[f32::NEG_INFINITY, 1.0], [2.0, 3.0]]);
    let layout = Layout::of(&model).unwrap();
    let rule = Muon {
        lr: 0.5,
        weight_decay: 0.5,
        ..Muon::default()
    };
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let grads = tree!([[0.0, 0.0], [0.0, 0.0]]);
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(model, tree!([[f32::NEG_INFINITY, 0.75], [1.5, 2.25]]));
}

/// As PyTorch: a coupled penalty on ∞ is a gradient of ∞, and ∞ − ∞ is NaN.
#[test]
fn an_infinite_parameter_under_a_coupled_penalty_is_nan() {
    fn check(rule: impl Rule + Debug) {
        let found = trajectory(rule.clone(), f32::NEG_INFINITY, &[0.0]);
        assert!(found[0].is_nan(), "{rule:?}: {found:?}");
    }
    check(Sgd {
        weight_decay: 0.1,
        ..Sgd::default()
    });
    check(Adam {
        weight_decay: 0.1,
        ..Adam::default()
    });
    check((WeightDecay { weight_decay: 0.1 }, Sgd::default()));
}
