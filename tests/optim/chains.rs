//! Clipping, decay, accumulation and averages, alone and in chains: cases of Optimisers.jl.

use flatleaf::optim::{
    Accumulate, ClipNormPerLeaf, ClipValue, Ema, Optimizer, Rule, Sgd, SignDecay, Swa, WeightDecay,
};
use flatleaf::{Layout, Tree, destructure, tree};

use crate::numbers::assert_near;

fn descent(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Sgd::default()
    }
}

/// Where a rule brings `x` by a gradient.
fn moved(rule: impl Rule, x: [f32; 3], grad: [f32; 3]) -> Vec<f32> {
    let mut model = x.to_vec();
    Optimizer::new(rule, &Layout::of(&model).unwrap())
        .unwrap()
        .update(&mut model, &grad.to_vec())
        .unwrap();
    model
}

/// What it subtracts from two leaves.
fn subtracted(rule: impl Rule, grads: &impl Tree) -> Vec<f32> {
    let mut model = tree!({ "a": [0.0], "g": [0.0, 0.0, 0.0] });
    let layout = Layout::of(&model).unwrap();
    Optimizer::new(rule, &layout)
        .unwrap()
        .update(&mut model, grads)
        .unwrap();
    layout
        .gather(&model)
        .unwrap()
        .iter()
        .map(|x| 0.0 - x)
        .collect()
}

#[test]
fn values_are_clipped_each_by_itself() {
    let grads = tree!({ "a": null, "g": [1.0, 10.0, 100.0] });
    assert_eq!(
        subtracted(ClipValue { max: 13.0 }, &grads),
        [0.0, 1.0, 10.0, 13.0]
    );
    assert_near(
        &moved(
            (ClipValue { max: 1.0 }, descent(0.1)),
            [0.0; 3],
            [0.3, 1.0, 7.0],
        ),
        &[-0.03, -0.1, -0.1],
    );
}

#[test]
fn norms_are_clipped_leaf_by_leaf() {
    let grads = tree!({ "a": [0.1], "g": [1.0, 10.0, 100.0] });
    let l2 = ClipNormPerLeaf {
        max: 10.0,
        ..Default::default()
    };
    assert_near(
        &subtracted(l2, &grads),
        &[0.1, 0.0994987935, 0.9949879346, 9.9498793463],
    );
    let l1 = ClipNormPerLeaf {
        max: 5.0,
        p: 1.0,
        ..Default::default()
    };
    assert_near(
        &subtracted(l1, &grads),
        &[0.1, 0.0450450450, 0.4504504505, 4.5045045045],
    );
}

#[test]
fn a_gradient_of_zero_has_nothing_to_clip() {
    for max in [0.0, 10.0] {
        let grads = tree!({ "a": [0.0], "g": [0.0, 0.0, 0.0] });
        assert_eq!(
            subtracted(
                ClipNormPerLeaf {
                    max,
                    ..Default::default()
                },
                &grads
            ),
            [0.0; 4]
        );
    }
}

#[test]
fn stages_act_in_their_order() {
    let (x, grad) = ([1.0, 10.0, 100.0], [1.0, 2.0, 3.0]);
    let (clip, decay) = (ClipValue { max: 2.0 }, WeightDecay { weight_decay: 0.1 });
    assert_near(&moved(decay, x, grad), &[-0.1, 7.0, 87.0]);
    assert_near(
        &moved(SignDecay { sign_decay: 0.1 }, x, grad),
        &[-0.1, 7.9, 96.9],
    );
    assert_near(
        &moved(
            SignDecay { sign_decay: 0.1 },
            [1.0, -10.0, 100.0],
            [3.0, 2.0, -1.0],
        ),
        &[-2.1, -11.9, 100.9],
    );
    assert_near(&moved(clip, x, grad), &[0.0, 8.0, 98.0]);
    assert_near(&moved((clip, decay), x, grad), &[-0.1, 7.0, 88.0]);
    assert_near(&moved((decay, clip), x, grad), &[-0.1, 8.0, 98.0]);
    assert_near(&moved(((clip,), (decay, ())), x, grad), &[-0.1, 7.0, 88.0]);
    assert_near(&moved((), x, grad), &[0.0, 8.0, 97.0]);
    assert_near(&moved(descent(0.1), x, grad), &[0.9, 9.8, 99.7]);
}

#[test]
fn gradients_are_held_back_and_their_mean_acts_once() {
    let mut model = vec![1.0_f32];
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new((Accumulate { steps: 3 }, descent(0.5)), &layout).unwrap();
    let mut then = |grad: f32| {
        optimizer.update(&mut model, &vec![grad]).unwrap();
        model[0]
    };
    assert_eq!(
        [1.0, 2.0, 6.0, 10.0, 0.0, -1.0].map(&mut then),
        [1.0, 1.0, -0.5, -0.5, -0.5, -2.0]
    );
}

/// Four gradients for one step: nothing moves before the fourth.
#[test]
fn the_mean_of_four_is_emitted_at_the_fourth() {
    let mut model = vec![0.0_f32];
    let mut optimizer =
        Optimizer::new(Accumulate { steps: 4 }, &Layout::of(&model).unwrap()).unwrap();
    for (grad, expected) in [(1.0_f32, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, -2.5)] {
        optimizer.update(&mut model, &vec![grad]).unwrap();
        assert_eq!(model, [expected]);
    }
}

/// The average after each of the values.
fn averages(rule: impl Rule, values: &[f32]) -> Vec<f32> {
    let mut model = vec![0.0_f32];
    let mut optimizer = Optimizer::new(rule, &Layout::of(&model).unwrap()).unwrap();
    let after = |&value: &f32| {
        let grad = vec![model[0] - value];
        optimizer.update(&mut model, &grad).unwrap();
        optimizer.state_of("average").unwrap()[0]
    };
    values.iter().map(after).collect()
}

#[test]
fn parameters_are_averaged() {
    assert_near(
        &averages(
            Ema {
                decay: 0.99,
                ..Ema::default()
            },
            &[1.0, 3.0],
        ),
        &[1.0, 1.02],
    );
    assert_near(
        &averages(
            Ema {
                decay: 0.9,
                ..Ema::default()
            },
            &[5.0, 7.0],
        ),
        &[5.0, 5.2],
    ); // PyTorch: the first is copied
    let debiased = Ema {
        decay: 0.9,
        debias: true,
        ..Ema::default()
    };
    assert_near(&averages(debiased, &[5.0, 7.0]), &[5.0, 1.15 / 0.19]); // Optax: the first weighs no more than its age
}

/// Every parameter so far weighs the same, as in PyTorch's `AveragedModel`.
#[test]
fn parameters_are_averaged_equally() {
    assert_eq!(
        averages(Swa::default(), &[1.0, 3.0, 8.0, -4.0]),
        [1.0, 2.0, 4.0, 2.0]
    );
    let ends_of_cycles = Swa { start: 1, every: 2 };
    assert_eq!(
        averages(ends_of_cycles, &[90.0, 80.0, 3.0, 70.0, 5.0]),
        [0.0, 0.0, 3.0, 3.0, 4.0]
    );
}

/// What has been taken in is counted, whatever the settings are now; a leaf that was left out so
/// far has no average, and one that takes no part keeps its own.
#[test]
fn an_equal_average_counts_what_it_took_in() {
    let (mut flat, layout) = destructure(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let mut optimizer = Optimizer::new(((), Swa::default()), &layout).unwrap();
    optimizer.step(&mut flat, &[-2.0, -4.0]).unwrap(); // to 2 and 4
    optimizer
        .adjust("a", |rule| rule.1 = Swa { start: 0, every: 3 })
        .unwrap();
    optimizer.step(&mut flat, &[-98.0, -4.0]).unwrap(); // `a` at 100 is left out; `b` at 8
    let a_only = layout
        .gather_grad(&tree!({ "a": [94.0], "b": null }))
        .unwrap();
    optimizer.step(&mut flat, &a_only).unwrap(); // `a` at 6, its third step
    assert_eq!(optimizer.state_of("average"), Some(&[4.0, 6.0][..]));

    let late = Swa { start: 1, every: 1 };
    let mut optimizer = Optimizer::new(((), late), &layout).unwrap();
    optimizer.step(&mut flat, &a_only).unwrap();
    assert_eq!(flat, [-88.0, 8.0]);
    assert_eq!(optimizer.state_over("average", &flat).unwrap(), flat);
}
