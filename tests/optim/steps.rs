//! Steps that other systems publish, and those that can be done by hand.

use flatleaf::optim::{AdaGrad, Adam, AdamW, Optimizer, RmsProp, Rule, Sgd};
use flatleaf::{Layout, destructure, tree};

use crate::numbers::assert_near;

/// Where one element is after a step by each of the gradients.
fn moved(rule: impl Rule, from: f32, grads: &[f32]) -> f32 {
    let mut model = vec![from];
    let mut optimizer = Optimizer::new(rule, &Layout::of(&model).unwrap()).unwrap();
    for &grad in grads {
        optimizer.update(&mut model, &vec![grad]).unwrap();
    }
    model[0]
}

#[test]
fn descent_on_the_flat_vector_and_leaf_by_leaf() {
    let mut model = tree!({ "a": 2.0, "b": [1.0, 2.0], "c": [3.0, 4.0] });
    let grads = tree!({ "a": 1.0, "b": [500.0, 5.0], "c": [300.0, 3.0] });
    let (mut flat, layout) = destructure(&model).unwrap();
    let mut optimizer = Optimizer::new(
        Sgd {
            lr: 0.01,
            ..Sgd::default()
        },
        &layout,
    )
    .unwrap();
    optimizer
        .clone()
        .step(&mut flat, &layout.gather_grad(&grads).unwrap())
        .unwrap();
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(flat, [1.99, -4.0, 1.95, 0.0, 3.97]);
    assert_eq!(layout.gather(&model).unwrap(), flat);
}

#[test]
fn the_first_step_of_adam_is_the_rate() {
    assert_near(
        &[moved(
            Adam {
                lr: 0.1,
                ..Adam::default()
            },
            0.0,
            &[0.1],
        )],
        &[-0.1 * 0.1 / (0.1 + 1e-8)],
    );
}

#[test]
fn weight_decay_is_decoupled_in_adamw_and_vanishes_in_adam() {
    let (lr, weight_decay) = (0.1, 0.01);
    assert_near(
        &[moved(
            AdamW {
                lr,
                weight_decay,
                ..AdamW::default()
            },
            1.0,
            &[0.5],
        )],
        &[0.899000002],
    );
    assert_near(
        &[moved(
            Adam {
                lr,
                weight_decay,
                ..Adam::default()
            },
            1.0,
            &[0.5],
        )],
        &[0.900000002],
    );
}

#[test]
fn nesterov_looks_ahead_from_the_first_step() {
    assert_near(
        &[moved(
            Sgd {
                lr: 1.0,
                momentum: 0.9,
                nesterov: true,
                ..Sgd::default()
            },
            0.0,
            &[1.0],
        )],
        &[-1.9],
    );
}

#[test]
fn adagrad_begins_with_nothing_or_with_what_it_is_told() {
    let adagrad = AdaGrad {
        lr: 1.0,
        ..AdaGrad::default()
    };
    assert_near(&[moved(adagrad, 0.0, &[1.0])], &[-0.9999999999]);
    let as_optax = AdaGrad {
        initial_accumulator_value: 0.1,
        ..adagrad
    };
    assert_near(&[moved(as_optax, 0.0, &[1.0])], &[-0.9534625]);
}

#[test]
fn rmsprop_begins_with_a_long_step() {
    assert_near(
        &[moved(
            RmsProp {
                lr: 1.0,
                ..RmsProp::default()
            },
            0.0,
            &[1.0],
        )],
        &[-9.999999],
    );
    assert_near(
        &[moved(
            RmsProp {
                lr: 1.0,
                alpha: 0.9,
                ..RmsProp::default()
            },
            0.0,
            &[1.0],
        )],
        &[-3.1622775],
    );
}

/// The variance of equal gradients is 0, and rounds to below it: PyTorch 2.9 is at NaN after 23 of
/// these steps.
#[test]
fn rmsprop_survives_gradients_without_variance() {
    let rule = RmsProp {
        alpha: 0.5,
        centered: true,
        ..RmsProp::default()
    };
    assert!(moved(rule, 1.0, &[0.3; 100]).is_finite());
}

/// Of gradients as small as those of 16-bit models: nothing divides by 0.
#[test]
fn small_gradients_do_not_overflow() {
    let mut model = vec![0.579_f32, -0.729, 0.5493];
    let mut optimizer = Optimizer::new(
        Adam {
            lr: 1e-4,
            ..Adam::default()
        },
        &Layout::of(&model).unwrap(),
    )
    .unwrap();
    optimizer
        .update(&mut model, &vec![-0.001497_f32, 0.0001875, -0.013176])
        .unwrap();
    assert_near(&model, &[0.5791, -0.7291, 0.5494]);
}

/// Step counts stay at their greatest number, and no rule has trouble with it.
#[cfg(feature = "serde")]
#[test]
fn the_last_step_is_a_step() {
    use flatleaf::optim::*;

    fn check<R: Rule + Default + serde::Serialize + serde::de::DeserializeOwned>() {
        let layout = Layout::of(&tree!({ "w": [1.0, -2.0] })).unwrap();
        let optimizer = Optimizer::new(R::default(), &layout).unwrap();
        let mut stored = serde_json::to_value(optimizer.snapshot()).unwrap();
        stored["leaves"][0]["steps"] = u64::MAX.into();
        stored["leaves"][0]["counted"][0] = (u64::MAX as f64).into();
        let stored = stored.to_string();
        let mut resumed =
            Optimizer::<R>::resume(serde_json::from_str(&stored).unwrap(), &layout).unwrap();
        let mut flat = vec![1.0, -2.0];
        for _ in 0..2 {
            resumed
                .step(
                    &mut flat,
                    &flatleaf::FlatGrad::from_flat(&layout, vec![0.5, 0.25]).unwrap(),
                )
                .unwrap();
        }
        assert_eq!(resumed.step_count("w"), Some(u64::MAX));
        assert!(flat.iter().all(|x| x.is_finite()), "{stored}: {flat:?}");
    }
    macro_rules! check {
        ($($rule:ident)*) => { $(check::<$rule>();)* };
    }
    check!(Sgd Adam AdamW NAdam RAdam Adamax AdaGrad AdaDelta RmsProp Rprop Lion AdaBelief OAdam Lamb Lars);
    check!(ClipValue ClipNorm ClipNormPerLeaf WeightDecay SignDecay Accumulate Ema Swa);
}
