//! The optimiser: who moves, who does not, and what it remembers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::common::bits;
use crate::common::models::{self, Law};
use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, Adam, AdamW, ClipNorm, ClipNormPerLeaf, ClipValue, Ema, Kernel, Lamb, Muon,
    Optimizer, Rule, Sgd, WeightDecay, choose, each, go_on_if, scale_by_global_norm,
    scale_by_leaf_norms,
};
use flatleaf::{Dtype, DynTree, FlatGrad, Layout, TiedGrads, Tree, tree};
use ndarray::{Array1, arr1};

fn sgd(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Sgd::default()
    }
}

fn adam(lr: f64) -> Adam {
    Adam {
        lr,
        ..Adam::default()
    }
}

fn clip(max: f64) -> ClipNorm {
    ClipNorm {
        max,
        ..ClipNorm::default()
    }
}

/// The largest chain of stages that each need something else: a norm behind a stage with state,
/// leaf norms, an average.
fn long_chain() -> impl Rule {
    let adamw = AdamW {
        lr: 0.1,
        weight_decay: 0.1,
        ..AdamW::default()
    };
    (
        clip(3.0),
        (WeightDecay { weight_decay: 0.1 }, adamw),
        ClipNormPerLeaf {
            max: 0.2,
            ..Default::default()
        },
        clip(0.3),
        Ema::default(),
    )
}

/// Numbers that are neither exact nor alike.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A gradient tree that is a copy of the model, and the model's own kind of flat gradient of it.
fn gradient_like<T: Tree>(model: &T, layout: &Layout, seed: u32) -> (DynTree, FlatGrad) {
    let copy = DynTree::of(model).unwrap();
    let everywhere = Layout::everything(&copy).unwrap();
    let grads = everywhere
        .restructure(&copy, &numbers(everywhere.len(), seed))
        .unwrap();
    let flat = layout.gather_grad(&grads).unwrap();
    (grads, flat)
}

struct UpdateIsStep;

impl Law for UpdateIsStep {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let mut model = model;
        let layout = Layout::of(&model).unwrap();
        // A leaf of another type is rounded by every update, the flat vector never.
        if layout
            .leaves()
            .iter()
            .any(|leaf| leaf.dtype() != Dtype::F32)
        {
            return;
        }
        let mut flat = layout.gather(&model).unwrap();
        let (mut of_tree, mut of_flat) = (
            Optimizer::new(long_chain(), &layout).unwrap(),
            Optimizer::new(long_chain(), &layout).unwrap(),
        );
        for seed in 1..5 {
            let (grads, grad) = gradient_like(&model, &layout, seed);
            let by_tree = of_tree.update(&mut model, &grads).unwrap();
            let by_flat = of_flat.step(&mut flat, &grad).unwrap();
            assert_eq!(by_tree, by_flat, "{name}");
            assert_eq!(bits(&layout.gather(&model).unwrap()), bits(&flat), "{name}");
        }
        of_tree
            .state()
            .zip(of_flat.state())
            .for_each(|(a, b)| assert_eq!(bits(a.1), bits(b.1), "{name}: {}", a.0));
    }
}

#[test]
fn update_and_step_give_the_same_bits_for_every_model() {
    models::every(&UpdateIsStep);
}

#[test]
fn steps_give_the_same_bits_for_any_number_of_threads() {
    let shapes = [140_000, 1, 0, 70_000, 65_536];
    let model: Vec<Array1<f32>> = shapes
        .iter()
        .map(|&len| Array1::from(numbers(len, len as u32)))
        .collect();
    let layout = Layout::of(&model).unwrap();
    let grad = FlatGrad::from_flat(&layout, numbers(layout.len(), 7)).unwrap();
    let grads = layout.restructure(&model, &grad).unwrap();
    // Fewer in a debug build: a number by which nothing can be divided evenly, and one step.
    let (counts, steps): (&[usize], _) = match cfg!(debug_assertions) {
        true => (&[3], 1),
        false => (&[2, 3, 8], 2),
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut flat = layout.gather(&model).unwrap();
            let mut stepped = layout.restructure(&model, &flat).unwrap();
            let (mut of_flat, mut of_tree) = (
                Optimizer::new(long_chain(), &layout).unwrap(),
                Optimizer::new(long_chain(), &layout).unwrap(),
            );
            for _ in 0..steps {
                of_flat.step(&mut flat, &grad).unwrap();
                of_tree.update(&mut stepped, &grads).unwrap();
            }
            assert!(
                bits(&flat) == bits(&layout.gather(&stepped).unwrap()),
                "{threads} threads"
            );
            bits(&flat)
        })
    };
    let one = run(1);
    for &threads in counts {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn adam_counts_the_steps_of_every_leaf() {
    // pitfalls: gradients 1, absent, 1 at lr 0.1 end at −0.2; one count for all at −0.1858, zeros
    // at −0.2488.
    let mut model = tree!({ "w": [0.0], "other": [0.0] });
    let mut optimizer = Optimizer::new(adam(0.1), &Layout::of(&model).unwrap()).unwrap();
    for grads in [
        tree!({ "w": [1.0], "other": [1.0] }),
        tree!({ "w": null, "other": [1.0] }),
        tree!({ "w": [1.0], "other": [1.0] }),
    ] {
        optimizer.update(&mut model, &grads).unwrap();
    }
    let flat = crate::common::flat(&model);
    approx::assert_relative_eq!(flat[0], -0.2, epsilon = 1e-6);
    approx::assert_relative_eq!(flat[1], -0.3, epsilon = 1e-6);
    assert_eq!(
        (
            optimizer.step_count("w"),
            optimizer.step_count("other"),
            optimizer.step_count("none")
        ),
        (Some(2), Some(3), None)
    );
}

#[test]
fn a_gradient_of_zero_is_a_gradient_and_an_absent_one_is_none() {
    // P.D11: lr 1, weight decay 1, p = 1, g = 0.
    let mut model = tree!({ "zero": [1.0], "absent": [1.0], "frozen": [1.0] });
    let mut optimizer = Optimizer::new(
        Sgd {
            weight_decay: 1.0,
            ..sgd(1.0)
        },
        &Layout::of(&model).unwrap(),
    )
    .unwrap();
    optimizer.freeze("frozen").unwrap();
    optimizer
        .update(
            &mut model,
            &tree!({ "zero": [0.0], "absent": null, "frozen": [0.0] }),
        )
        .unwrap();
    assert_eq!(
        model,
        tree!({ "zero": [0.0], "absent": [1.0], "frozen": [1.0] })
    );
}

#[test]
fn absent_leaves_keep_their_state_to_the_bit() {
    let model = tree!({ "a": [1.0, 2.0], "b": [3.0] });
    let layout = Layout::of(&model).unwrap();
    let mut flat = layout.gather(&model).unwrap();
    let mut optimizer = Optimizer::new((AdamW::default(), Ema::default()), &layout).unwrap();
    optimizer
        .step(
            &mut flat,
            &layout
                .gather_grad(&tree!({ "a": [0.1, 0.2], "b": [0.3] }))
                .unwrap(),
        )
        .unwrap();
    let before: Vec<Vec<u32>> = optimizer.state().map(|state| bits(&state.1[2..])).collect();
    optimizer
        .step(
            &mut flat,
            &layout
                .gather_grad(&tree!({ "a": [0.1, 0.2], "b": null }))
                .unwrap(),
        )
        .unwrap();
    let after: Vec<Vec<u32>> = optimizer.state().map(|state| bits(&state.1[2..])).collect();
    assert_eq!(before, after);
}

#[test]
fn a_tied_leaf_moves_once_by_the_sum() {
    // P.C13: Adam, lr 0.1, gradients 1 and 1: m = 0.2, v = 0.004, one state entry.
    let mut model = models::tied_by(Arc::new(arr1(&[0.0_f32])));
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(adam(0.1), &layout).unwrap();
    optimizer
        .update(&mut model, &tree!({ "x": [1.0], "y": [1.0] }))
        .unwrap();
    assert!(Arc::ptr_eq(&model.x, &model.y));
    approx::assert_relative_eq!(model.x[0], -0.1, epsilon = 1e-8);
    approx::assert_relative_eq!(
        optimizer.state_of("exp_avg").unwrap()[0],
        0.2,
        epsilon = 1e-7
    );
    approx::assert_relative_eq!(
        optimizer.state_of("exp_avg_sq").unwrap()[0],
        0.004,
        epsilon = 1e-8
    );
}

#[test]
fn gradients_that_are_totals_are_not_summed() {
    let mut model = models::tied_by(Rc::new(arr1(&[1.0_f32])));
    let mut optimizer = Optimizer::new(sgd(0.1), &Layout::of(&model).unwrap()).unwrap();
    optimizer
        .update_with(
            &mut model,
            &tree!({ "x": [2.0], "y": [2.0] }),
            TiedGrads::AlreadyTotal,
        )
        .unwrap();
    assert_eq!(*model.y, arr1(&[0.8]));
}

#[test]
fn cells_and_locks_are_moved_where_they_are() {
    let (cell, lock) = (
        Rc::new(RefCell::new(vec![1.0_f32])),
        Arc::new(Mutex::new(vec![2.0_f32])),
    );
    let mut model = (cell.clone(), lock.clone(), cell.clone(), vec![3.0_f32]);
    let mut optimizer = Optimizer::new(sgd(1.0), &Layout::of(&model).unwrap()).unwrap();
    optimizer
        .update(
            &mut model,
            &(vec![0.25_f32], vec![0.5_f32], vec![0.25_f32], vec![1.0_f32]),
        )
        .unwrap();
    assert_eq!(
        (&*cell.borrow(), &*lock.lock().unwrap(), &model.3),
        (&vec![0.5], &vec![1.5], &vec![2.0])
    );
}

/// An update that fails, and what the model and the optimiser are after it.
fn fails(model: &DynTree, grads: &DynTree) -> flatleaf::Error {
    let rule = (clip(1.0), adam(0.1));
    let mut changed = flatleaf::deep_clone(model).unwrap();
    let layout = Layout::of(model).unwrap();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let error = optimizer.update(&mut changed, grads).unwrap_err();
    assert_eq!(&changed, model);
    optimizer
        .state()
        .for_each(|(name, state)| assert!(state.iter().all(|x| *x == 0.0), "{name}"));
    layout
        .leaves()
        .iter()
        .for_each(|leaf| assert_eq!(optimizer.step_count(leaf.path()), Some(0)));
    error
}

#[test]
fn nothing_moves_if_anything_is_wrong() {
    let model = tree!({ "a": [1.0, 2.0], "b": [3.0] });
    let error = fails(&model, &tree!({ "a": [1.0, 2.0], "b": [1.0, 2.0] }));
    assert!(error.is_shape());
    assert_eq!(
        error.to_string(),
        "`b`: expected shape [1], found shape [2]"
    );
    let error = fails(&model, &tree!({ "a": [1.0, 2.0], "c": [1.0] }));
    assert!(error.is_unknown() && error.path() == Some("c"));
    let error = fails(
        &model,
        &tree!({ "a": [1.0, 2.0], "b": (arr1(&[f32::INFINITY])) }),
    );
    assert!(error.is_non_finite());
    assert_eq!(
        error.to_string(),
        "`b`: expected finite elements, found inf at index 0"
    );
}

#[test]
fn a_step_wants_its_own_layout() {
    let layout = Layout::of(&tree!({ "a": [1.0, 2.0] })).unwrap();
    let other = Layout::of(&tree!({ "b": [1.0, 2.0] })).unwrap();
    let mut optimizer = Optimizer::new(sgd(0.1), &layout).unwrap();
    let error = optimizer
        .step(&mut [0.0; 3], &FlatGrad::zeros(&layout))
        .unwrap_err();
    assert!(error.is_length());
    assert_eq!(
        error.to_string(),
        "the flat vector: expected 2 elements, found 3"
    );
    assert!(
        optimizer
            .step(&mut [0.0; 2], &FlatGrad::zeros(&other))
            .unwrap_err()
            .is_other_layout()
    );
}

#[test]
fn a_norm_that_is_not_finite_skips_the_step_if_told_to() {
    let layout = Layout::of(&tree!([1.0])).unwrap();
    let rule = (
        ClipNorm {
            non_finite: NonFinite::Skip,
            ..clip(1.0)
        },
        sgd(1.0),
    );
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut flat = vec![1.0];
    let report = optimizer
        .step(
            &mut flat,
            &FlatGrad::from_flat(&layout, vec![f32::NAN]).unwrap(),
        )
        .unwrap();
    assert!(report.skipped && flat == [1.0] && optimizer.step_count("") == Some(0));

    let rule = (
        ClipNorm {
            non_finite: NonFinite::Propagate,
            ..clip(1.0)
        },
        sgd(1.0),
    );
    let report = Optimizer::new(rule, &layout)
        .unwrap()
        .step(
            &mut flat,
            &FlatGrad::from_flat(&layout, vec![f32::NAN]).unwrap(),
        )
        .unwrap();
    assert!(!report.skipped && flat[0].is_nan() && report.clips[0].norm_before.is_nan());
}

#[test]
fn frozen_and_absent_leaves_do_not_count_in_a_clip_norm() {
    let mut model = tree!({ "a": [0.0], "b": [0.0], "c": [0.0] });
    let mut optimizer =
        Optimizer::new((clip(1.0), sgd(1.0)), &Layout::of(&model).unwrap()).unwrap();
    optimizer.freeze("b").unwrap();
    let report = optimizer
        .update(&mut model, &tree!({ "a": [2.0], "b": [100.0], "c": null }))
        .unwrap();
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (2.0, 0.5)
    );
    assert_eq!(model, tree!({ "a": [-1.0], "b": [0.0], "c": [0.0] }));
}

#[test]
fn a_norm_exactly_at_the_maximum_changes_nothing() {
    let mut model = tree!([0.0, 0.0]);
    let mut optimizer =
        Optimizer::new((clip(5.0), sgd(1.0)), &Layout::of(&model).unwrap()).unwrap();
    let report = optimizer.update(&mut model, &tree!([3.0, 4.0])).unwrap();
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (5.0, 1.0)
    );
    assert_eq!(model, tree!([-3.0, -4.0]));
}

#[test]
fn clipping_behind_a_stage_with_state_moves_the_state_once() {
    let mut model = tree!([0.0, 0.0]);
    let rule = (
        Sgd {
            momentum: 0.5,
            ..sgd(1.0)
        },
        clip(1.0),
    );
    let mut optimizer = Optimizer::new(rule, &Layout::of(&model).unwrap()).unwrap();
    let report = optimizer.update(&mut model, &tree!([3.0, 4.0])).unwrap();
    assert_eq!(report.clips[0].norm_before, 5.0);
    assert_eq!(optimizer.state_of("momentum_buffer"), Some(&[3.0, 4.0][..]));
    let report = optimizer.update(&mut model, &tree!([3.0, 4.0])).unwrap();
    assert_eq!(report.clips[0].norm_before, 7.5);
    assert_eq!(optimizer.state_of("momentum_buffer"), Some(&[4.5, 6.0][..]));
}

#[test]
fn norms_of_every_order_clip() {
    // J.E3: ClipNorm(5, p = 1) per leaf.
    let clipped = |p: f64| {
        let mut model = tree!({ "a": [0.0], "g": [0.0, 0.0, 0.0] });
        let rule = ClipNormPerLeaf {
            max: 5.0,
            p,
            ..Default::default()
        };
        let mut optimizer = Optimizer::new(rule, &Layout::of(&model).unwrap()).unwrap();
        optimizer
            .update(&mut model, &tree!({ "a": [0.1], "g": [1.0, 10.0, 100.0] }))
            .unwrap();
        crate::common::flat(&model)
    };
    let near = |found: &[f32], expected: [f32; 4]| {
        found
            .iter()
            .zip(expected)
            .for_each(|(a, b)| approx::assert_relative_eq!(*a, b, max_relative = 1e-6))
    };
    near(
        &clipped(1.0),
        [-0.1, -0.045_045_045, -0.450_450_45, -4.504_504_5],
    );
    near(&clipped(f64::INFINITY), [-0.1, -0.05, -0.5, -5.0]);
    let three = 1_001_001_f32.cbrt() / 5.0;
    near(
        &clipped(3.0),
        [-0.1, -1.0 / three, -10.0 / three, -100.0 / three],
    );
}

#[test]
fn a_chain_of_chains_is_a_chain_and_the_empty_chain_subtracts_the_gradient() {
    let layout = Layout::of(&tree!([1.0, 10.0, 100.0])).unwrap();
    let grad = FlatGrad::from_flat(&layout, vec![1.0, 2.0, 3.0]).unwrap();
    fn run<R: Rule>(rule: R, layout: &Layout, grad: &FlatGrad) -> Vec<u32> {
        let mut flat = vec![1.0, 10.0, 100.0];
        let mut optimizer = Optimizer::new(rule, layout).unwrap();
        (0..3).for_each(|_| drop(optimizer.step(&mut flat, grad).unwrap()));
        bits(&flat)
    }
    let (a, b, c) = (
        ClipValue { max: 2.0 },
        Sgd {
            momentum: 0.9,
            ..sgd(0.1)
        },
        adam(0.1),
    );
    let flat = run((a, b, c), &layout, &grad);
    assert_eq!(run(((a, b), c), &layout, &grad), flat);
    assert_eq!(run((a, (b, (c,))), &layout, &grad), flat);
    assert_eq!(run(((), a, (), b, c), &layout, &grad), flat);
    assert_eq!(run((), &layout, &grad), bits(&[-2.0, 4.0, 91.0]));
}

#[test]
fn a_chain_may_be_of_any_length() {
    let eight = || {
        (
            adam(0.1),
            adam(0.1),
            adam(0.1),
            adam(0.1),
            adam(0.1),
            adam(0.1),
            adam(0.1),
            adam(0.1),
        )
    };
    let layout = Layout::of(&tree!([0.0])).unwrap();
    let mut optimizer = Optimizer::new((eight(), eight(), eight(), clip(0.5)), &layout).unwrap();
    assert_eq!(optimizer.state().count(), 72);
    let mut flat = vec![0.0];
    let report = optimizer
        .step(
            &mut flat,
            &FlatGrad::from_flat(&layout, vec![-3.0]).unwrap(),
        )
        .unwrap();
    approx::assert_relative_eq!(report.clips[0].norm_before, 0.1, max_relative = 1e-5);
    approx::assert_relative_eq!(flat[0], 0.1, max_relative = 1e-5);
}

#[test]
fn accumulated_gradients_are_their_mean_once() {
    let layout = Layout::of(&tree!([0.0, 0.0])).unwrap();
    let grads = [[1.0, 0.1], [2.0, 0.7], [4.5, 0.3]];
    let (mut flat, mut once) = (vec![0.5, 0.25], vec![0.5, 0.25]);
    let mut optimizer = Optimizer::new(
        (Accumulate { steps: 3 }, adam(0.1), Ema::default()),
        &layout,
    )
    .unwrap();
    for round in 0..2 {
        for (index, grad) in grads.iter().enumerate() {
            let before = flat.clone();
            optimizer
                .step(
                    &mut flat,
                    &FlatGrad::from_flat(&layout, grad.to_vec()).unwrap(),
                )
                .unwrap();
            assert_eq!(before == flat, index < 2, "round {round}, gradient {index}");
        }
    }
    let mean: Vec<f32> = (0..2)
        .map(|i| (grads[0][i] + grads[1][i] + grads[2][i]) / 3.0)
        .collect();
    let mut plain = Optimizer::new((adam(0.1), Ema::default()), &layout).unwrap();
    (0..2).for_each(|_| {
        drop(
            plain
                .step(
                    &mut once,
                    &FlatGrad::from_flat(&layout, mean.clone()).unwrap(),
                )
                .unwrap(),
        )
    });
    assert_eq!(bits(&flat), bits(&once));
    assert_eq!(optimizer.state_of("average"), plain.state_of("average"));
    assert_eq!(
        (optimizer.step_count(""), plain.step_count("")),
        (Some(2), Some(2)) // what was held back moved nothing
    );
}

#[test]
fn a_clip_behind_accumulation_counts_the_leaves_that_go_on() {
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let mut optimizer = Optimizer::new((Accumulate { steps: 2 }, clip(1.0)), &layout).unwrap();
    let mut flat = vec![0.0, 0.0];
    let grad = |grads| layout.gather_grad(&grads).unwrap();
    let report = optimizer
        .step(&mut flat, &grad(tree!({ "a": [2.0], "b": null })))
        .unwrap();
    assert_eq!(
        (report.leaves, report.held_back, report.skipped),
        (0, 1, false)
    );
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (0.0, 1.0)
    );
    let report = optimizer
        .step(&mut flat, &grad(tree!({ "a": [2.0], "b": [7.0] })))
        .unwrap();
    assert_eq!((report.leaves, report.held_back), (1, 1));
    assert_eq!(
        (report.clips[0].norm_before, &flat),
        (2.0, &vec![-1.0, 0.0])
    );
}

#[test]
fn groups_are_made_by_pattern_and_keep_their_state() {
    let mut model = tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0], "b": [1.0] } });
    let mut optimizer = Optimizer::new(
        (
            clip(1e9),
            Sgd {
                momentum: 0.5,
                ..sgd(0.5)
            },
        ),
        &Layout::of(&model).unwrap(),
    )
    .unwrap();
    let grads = tree!({ "encoder": { "w": [1.0] }, "head": { "w": [1.0], "b": [1.0] } });
    optimizer.update(&mut model, &grads).unwrap();
    optimizer
        .adjust("head.**", |(_, sgd)| sgd.lr = 0.25)
        .unwrap();
    assert_eq!(
        (
            optimizer.rule("head.b").unwrap().1.lr,
            optimizer.rule("encoder.w").unwrap().1.lr
        ),
        (0.25, 0.5)
    );
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(
        model,
        tree!({ "encoder": { "w": [-0.25] }, "head": { "w": [0.125], "b": [0.125] } })
    );
    optimizer.set_lr(1.0).unwrap();
    assert_eq!(optimizer.rule("head.w").unwrap().1.lr, 1.0);
    assert_eq!(
        optimizer.state_of("momentum_buffer"),
        Some(&[1.5, 1.5, 1.5][..])
    );
}

#[test]
fn what_cannot_be_changed_says_so_and_stays() {
    let layout = Layout::of(&tree!({ "a": [1.0], "b": [1.0] })).unwrap();
    let mut optimizer = Optimizer::new((clip(1.0), sgd(0.5)), &layout).unwrap();
    let error = optimizer.set_lr(-1.0).unwrap_err();
    assert!(error.is_argument());
    assert_eq!(
        error.to_string(),
        "`lr`: expected a finite number of 0 or more, found -1"
    );
    assert!(
        optimizer
            .adjust("a", |(_, sgd)| sgd.lr = f64::NAN)
            .unwrap_err()
            .is_argument()
    );
    assert_eq!(
        (
            optimizer.rule("a").unwrap().1.lr,
            optimizer.rule("b").unwrap().1.lr
        ),
        (0.5, 0.5)
    );
    for error in [
        optimizer.freeze("c.**"),
        optimizer.thaw("c.**"),
        optimizer.adjust("c.**", |_| ()),
    ] {
        let error = error.unwrap_err();
        assert!(error.is_pattern());
        assert_eq!(
            error.to_string(),
            "`c.**`: expected a pattern that matches a trainable leaf, found none that it matches (`*` stays within a segment, `**` spans any number of them); the tree has `a`, `b`"
        );
    }
    let error = optimizer.freeze("c").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`c`: expected a pattern that matches a trainable leaf, found no leaf there; the tree has `a`, `b`"
    );
    // A name that layers have.
    let nested = tree!({ "first": { "bias": [1.0] }, "second": { "inner": { "bias": [1.0], "gain": [1.0] } } });
    let layout_of_layers = Layout::of(&nested).unwrap();
    let matched = |pattern| layout_of_layers.matching(pattern);
    for (pattern, found) in [
        ("bias", "no leaf there; `**.bias` finds it at any depth"),
        (
            "inner.gain",
            "no leaf there; `**.inner.gain` finds it at any depth",
        ),
        ("weight", "no leaf there; the tree has `first`, `second`"),
        ("first.gain", "no leaf there; `first` has `bias`"),
    ] {
        assert_eq!(
            matched(pattern).unwrap_err().to_string(),
            format!("`{pattern}`: expected a pattern that matches a trainable leaf, found {found}")
        );
    }
    assert_eq!(matched("**.bias").unwrap(), [0, 1]);
    let error = Optimizer::new(clip(1.0), &layout)
        .unwrap()
        .set_lr(0.1)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`lr`: expected a rule with a learning rate, found none"
    );
    let error = Optimizer::new(sgd(-0.1), &layout).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`lr`: expected a finite number of 0 or more, found -0.1"
    );
    let error = Optimizer::new((Ema::default(), sgd(0.1)), &layout).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Ema`: expected it as the last stage of a chain, found a stage behind it"
    );
    let error = Optimizer::new(((sgd(0.1), Ema::default()), clip(1.0)), &layout).unwrap_err();
    assert!(error.is_argument());
}

#[test]
fn an_empty_model_steps() {
    let mut model = models::empty();
    let mut optimizer = Optimizer::new(long_chain(), &Layout::of(&model).unwrap()).unwrap();
    assert!(!optimizer.update(&mut model, &tree!({})).unwrap().skipped);
    optimizer.adjust("**", |_| ()).unwrap_err();
}

/// A rule of one's own that scales by norms, as LARS does.
#[derive(Clone, PartialEq)]
struct Trust;

impl Rule for Trust {
    fn states(&self) -> Vec<&'static str> {
        vec!["last"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        let sum = each(|_, dx, [last]| {
            *last += dx;
            *last
        });
        (
            sum,
            scale_by_leaf_norms(|x, dx| x / dx),
            scale_by_global_norm(|dx| 5.0 / dx),
            go_on_if(step != 3),
        )
    }
}

#[test]
fn a_rule_of_ones_own_measures_leaves_and_stops() {
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0] })).unwrap();
    let mut flat = vec![0.0, 8.0, 6.0];
    let mut optimizer = Optimizer::new(Trust, &layout).unwrap();
    let grad = FlatGrad::from_flat(&layout, vec![0.0, 4.0, 3.0]).unwrap();
    // The leaves' directions get the norms 8 and 6, together 10, then half of it.
    optimizer.step(&mut flat, &grad).unwrap();
    assert_eq!(flat, [0.0, 4.0, 3.0]);
    assert_eq!(optimizer.state_of("last"), Some(&[0.0, 4.0, 3.0][..]));
    optimizer.step(&mut flat, &grad).unwrap();
    assert_eq!(flat, [0.0, 0.0, 0.0]);
    let before = flat.clone();
    optimizer.step(&mut flat, &grad).unwrap();
    assert_eq!(flat, before);
    assert_eq!(optimizer.state_of("last"), Some(&[0.0, 12.0, 9.0][..]));
}

/// Scales by leaf norms only if it is told to, and always by the norm of all.
#[derive(Clone, PartialEq)]
struct Optional {
    by_leaf: bool,
}

impl Rule for Optional {
    fn kernel(&self, _step: u64) -> impl Kernel {
        (
            choose(self.by_leaf, scale_by_leaf_norms(|_, dx| 1.0 / dx), ()),
            scale_by_global_norm(|dx| 1.0 / dx),
        )
    }
}

#[test]
fn whoever_measures_all_leaves_says_so() {
    fn asks<R: Rule>(rule: R) -> bool {
        let layout = Layout::of(&tree!({ "a": [0.0], "b": [[0.0]] })).unwrap();
        Optimizer::new(rule, &layout).unwrap().measures_all_leaves()
    }
    assert!(asks(clip(1.0)) && asks(long_chain()) && asks(Optional { by_leaf: true }));
    let held_back = (Accumulate { steps: 9 }, clip(1.0));
    assert!(asks(held_back), "behind a gate that is closed");
    assert!(!asks(Lamb::default()) && !asks(Muon::default()) && !asks(adam(0.1)) && !asks(()));
    assert!(!asks((
        ClipNormPerLeaf::default(),
        sgd(0.1),
        Ema::default()
    )));

    // Of groups too, whatever the one that the optimiser was made with.
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let chosen = Chosen { by_all: false };
    let mut optimizer = Optimizer::new(chosen, &layout).unwrap();
    assert!(!optimizer.measures_all_leaves());
    optimizer.adjust("b", |rule| rule.by_all = true).unwrap();
    assert!(optimizer.measures_all_leaves());
}

/// Scales by the norm of all only if it is told to.
#[derive(Clone, PartialEq)]
struct Chosen {
    by_all: bool,
}

impl Rule for Chosen {
    fn kernel(&self, _step: u64) -> impl Kernel {
        choose(self.by_all, scale_by_global_norm(|dx| 1.0 / dx), ())
    }
}

/// Each group has the norms that it asks for: |b| = 8 becomes 1 and |a| stays 3, together √10 and
/// not √73.
#[test]
fn groups_with_other_options_ask_for_other_norms() {
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let grad = FlatGrad::from_flat(&layout, vec![3.0, 8.0]).unwrap();
    for first_by_leaf in [false, true] {
        let mut optimizer = Optimizer::new(
            Optional {
                by_leaf: first_by_leaf,
            },
            &layout,
        )
        .unwrap();
        optimizer
            .adjust("b", |rule| rule.by_leaf = !first_by_leaf)
            .unwrap();
        let mut flat = vec![0.0, 0.0];
        optimizer.step(&mut flat, &grad).unwrap();
        let (a, b): (f64, f64) = if first_by_leaf {
            (1.0, 8.0)
        } else {
            (3.0, 1.0)
        };
        let factor = (1.0 / a.hypot(b)) as f32;
        assert_eq!(flat, [-a as f32 * factor, -b as f32 * factor]);
    }
}

/// The first leaf is not clipped by itself, the second is: the norm of all is that of what was
/// clipped, √(0.25 + 1).
#[test]
fn a_norm_behind_a_clipping_leaf_by_leaf() {
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0, 0.0] })).unwrap();
    let rule = (
        ClipNormPerLeaf {
            max: 1.0,
            ..Default::default()
        },
        clip(0.5),
    );
    let grad = FlatGrad::from_flat(&layout, vec![0.5, 0.0, 30.0, 40.0]).unwrap();
    let report = Optimizer::new(rule, &layout)
        .unwrap()
        .step(&mut [0.0; 4], &grad)
        .unwrap();
    assert!(
        (report.clips[0].norm_before - 1.25_f64.sqrt()).abs() < 1e-6,
        "{report:?}"
    );
    assert_eq!(report.leaves, 2);
}

#[test]
fn groups_clip_leaf_by_leaf_by_norms_of_their_own() {
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0, 0.0] })).unwrap();
    let mut optimizer = Optimizer::new(
        ClipNormPerLeaf {
            max: 1.0,
            ..Default::default()
        },
        &layout,
    )
    .unwrap();
    optimizer.adjust("b", |rule| rule.p = 1.0).unwrap();
    let mut flat = vec![0.0; 4];
    optimizer
        .step(
            &mut flat,
            &FlatGrad::from_flat(&layout, vec![-3.0, -4.0, -3.0, -4.0]).unwrap(),
        )
        .unwrap();
    let seventh = (1.0 / 7.0) as f32;
    assert_eq!(flat, [0.6, 0.8, 3.0 * seventh, 4.0 * seventh]);
}

/// What becomes of a gradient of `[3, NaN]`, whose second leaf is in a group of its own with this
/// rule.
fn with_nan<R: Rule>(rule: R, change: impl FnMut(&mut R)) -> (flatleaf::Result<bool>, Vec<f32>) {
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    optimizer.adjust("b", change).unwrap();
    let mut flat = vec![0.0; 2];
    let report = optimizer.step(
        &mut flat,
        &FlatGrad::from_flat(&layout, vec![3.0, f32::NAN]).unwrap(),
    );
    (report.map(|report| report.skipped), flat)
}

#[test]
fn leaf_by_leaf_each_group_answers_to_what_is_not_finite() {
    let rule = ClipNormPerLeaf {
        non_finite: NonFinite::Propagate,
        ..Default::default()
    };
    let (skipped, flat) = with_nan(rule, |_| ());
    assert!(!skipped.unwrap() && flat[0] == -1.0 && flat[1].is_nan());
    let (skipped, flat) = with_nan(rule, |rule| rule.non_finite = NonFinite::Skip);
    assert_eq!((skipped.unwrap(), flat), (true, vec![0.0; 2]));
    let (error, flat) = with_nan(rule, |rule| rule.non_finite = NonFinite::Error);
    assert_eq!((error.unwrap_err().path(), flat), (Some("b"), vec![0.0; 2]));
    let strict = ClipNormPerLeaf {
        non_finite: NonFinite::Error,
        ..rule
    };
    assert!(
        !with_nan(strict, |rule| rule.non_finite = NonFinite::Propagate)
            .0
            .unwrap()
    );
}

/// Whichever group it is in.
#[test]
fn of_a_norm_over_all_leaves_the_strictest_group_decides() {
    let [propagate, strict] = [NonFinite::Propagate, NonFinite::Error].map(|non_finite| ClipNorm {
        non_finite,
        ..Default::default()
    });
    for (rule, changed) in [(propagate, strict), (strict, propagate)] {
        let (error, flat) = with_nan(rule, |rule| *rule = changed);
        assert_eq!((error.unwrap_err().path(), flat), (Some("b"), vec![0.0; 2]));
    }
}

/// Norms behind other stages, at lengths around rows, blocks and pieces, against plain loops in
/// f64.
#[test]
fn norms_in_a_chain_are_those_of_its_direction() {
    for (len, p) in [1, 15, 16, 17, 1025, 32_769]
        .into_iter()
        .flat_map(|len| [0.5, 1.0, 2.0, 3.0, f64::INFINITY].map(|p| (len, p)))
    {
        let mut flat: Vec<f32> = vec![0.5; len];
        let layout = Layout::of(&flat).unwrap();
        let grad: Vec<f32> = (0..len)
            .map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0)
            .collect();
        let clip = |max| ClipNorm {
            max,
            p,
            ..Default::default()
        };
        let rule = (
            WeightDecay { weight_decay: 0.5 },
            clip(0.7),
            WeightDecay { weight_decay: 0.2 },
            clip(0.1),
        );
        let report = Optimizer::new(rule, &layout)
            .unwrap()
            .step(
                &mut flat,
                &FlatGrad::from_flat(&layout, grad.clone()).unwrap(),
            )
            .unwrap();
        let mut direction: Vec<f64> = grad.iter().map(|dx| f64::from(*dx) + 0.25).collect();
        let first = plain_norm(&direction, p);
        direction
            .iter_mut()
            .for_each(|dx| *dx = *dx * (0.7 / first).min(1.0) + 0.1);
        for (clipped, plain) in report.clips.iter().zip([first, plain_norm(&direction, p)]) {
            assert!(
                (clipped.norm_before / plain - 1.0).abs() < 1e-6,
                "{len} elements, p = {p}: {} is not {plain}",
                clipped.norm_before
            );
        }
    }
}

fn plain_norm(x: &[f64], p: f64) -> f64 {
    let greatest = x.iter().fold(0.0, |greatest: f64, x| greatest.max(x.abs()));
    if p.is_infinite() {
        greatest
    } else {
        x.iter().map(|x| x.abs().powf(p)).sum::<f64>().powf(1.0 / p)
    }
}

#[derive(Clone, PartialEq)]
struct Greedy;

impl Rule for Greedy {
    fn kernel(&self, _step: u64) -> impl Kernel {
        each(|_, dx, [_state]| dx)
    }
}

#[test]
fn a_rule_that_uses_what_it_does_not_keep_is_refused() {
    let layout = Layout::of(&tree!([0.0])).unwrap();
    for error in [
        Optimizer::new(Greedy, &layout).unwrap_err(),
        Optimizer::new((Greedy, sgd(0.1)), &layout).unwrap_err(),
        // What another stage keeps is not its own.
        Optimizer::new((sgd(0.1), (Greedy, Ema::default())), &layout).unwrap_err(),
    ] {
        assert!(error.is_argument());
        assert_eq!(
            error.to_string(),
            "`Greedy`: expected `states` to name as many vectors as its kernel uses, 1, found 0"
        );
    }
}

/// A chain by another name, which keeps too few vectors: the moving average has none.
#[derive(Clone, PartialEq)]
struct Wrapped((Adam, Ema));

impl Rule for Wrapped {
    fn states(&self) -> Vec<&'static str> {
        self.0.0.states()
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        self.0.kernel(step)
    }
}

#[test]
fn a_rule_that_is_a_chain_keeps_what_all_its_stages_use() {
    let layout = Layout::of(&tree!([0.0])).unwrap();
    let error = Optimizer::new(Wrapped(Default::default()), &layout).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Wrapped`: expected `states` to name as many vectors as its kernel uses, 4, found 3"
    );
}

/// A rule that keeps fewer vectors with one option than with the other, which `states` may not.
#[derive(Clone, PartialEq)]
struct Fickle {
    keeps: bool,
}

impl Rule for Fickle {
    fn states(&self) -> Vec<&'static str> {
        if self.keeps { vec!["kept"] } else { vec![] }
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        choose(self.keeps, each(|_, dx, [_state]| dx), each(|_, dx, []| dx))
    }
}

#[test]
fn every_option_of_a_rule_counts() {
    let layout = Layout::of(&tree!([0.0])).unwrap();
    assert!(Optimizer::new(Fickle { keeps: true }, &layout).is_ok());
    assert!(
        Optimizer::new(Fickle { keeps: false }, &layout)
            .unwrap_err()
            .is_argument()
    );
}

#[test]
fn averages_of_the_parameters() {
    // P.G2: the first update copies, then 0.9·5 + 0.1·7 = 5.2. P.G1: debiased 5, then 1.15/0.19.
    let run = |ema: Ema| {
        let layout = Layout::of(&tree!([0.0])).unwrap();
        let mut optimizer = Optimizer::new(((), ema), &layout).unwrap();
        let mut flat = vec![0.0];
        let steps = [-5.0, -2.0, 3.0].map(|dx| {
            optimizer
                .step(&mut flat, &FlatGrad::from_flat(&layout, vec![dx]).unwrap())
                .unwrap();
            f64::from(optimizer.state_of("average").unwrap()[0])
        });
        assert_eq!(flat, [4.0]);
        steps
    };
    let near = |found: [f64; 3], expected: [f64; 3]| {
        found
            .iter()
            .zip(expected)
            .for_each(|(a, b)| approx::assert_relative_eq!(*a, b, max_relative = 1e-6))
    };
    near(
        run(Ema {
            decay: 0.9,
            ..Ema::default()
        }),
        [5.0, 5.2, 5.08],
    );
    near(
        run(Ema {
            decay: 0.9,
            debias: true,
            ..Ema::default()
        }),
        [5.0, 1.15 / 0.19, (0.9 * 1.15 + 0.4) / 0.271],
    );
    // (1 + t)/(10 + t) = 2/11, 3/12, 4/13.
    near(
        run(Ema {
            decay: 0.9,
            warm_up: true,
            ..Ema::default()
        }),
        [5.0, 6.5, 4.0 / 13.0 * 6.5 + 9.0 / 13.0 * 4.0],
    );
    let (d1, d2, d3) = (2.0 / 11.0, 3.0 / 12.0, 4.0 / 13.0);
    let sums = [(1.0 - d1) * 5.0, d2 * (1.0 - d1) * 5.0 + (1.0 - d2) * 7.0];
    let third = d3 * sums[1] + (1.0 - d3) * 4.0;
    let debiased = [5.0, sums[1] / (1.0 - d1 * d2), third / (1.0 - d1 * d2 * d3)];
    near(
        run(Ema {
            decay: 0.9,
            warm_up: true,
            debias: true,
        }),
        debiased,
    );
    let third = 0.27 * sums[1] / 0.27 * d2 + (1.0 - d2) * 4.0;
    near(
        run(Ema {
            decay: 0.25,
            warm_up: true,
            debias: true,
        }),
        [5.0, debiased[1], third / (1.0 - d1 * d2 * d2)],
    );
    near(
        run(Ema {
            decay: 0.0,
            ..Ema::default()
        }),
        [5.0, 7.0, 4.0],
    );
    near(
        run(Ema {
            decay: 1.0,
            debias: true,
            warm_up: false,
        }),
        [5.0, 5.0, 5.0],
    );
    for decay in [-0.1, 1.1, f64::NAN] {
        let error = Optimizer::new(
            Ema {
                decay,
                ..Ema::default()
            },
            &Layout::of(&tree!([0.0])).unwrap(),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`decay`: expected a number from 0 to 1, found {decay}")
        );
    }
}

/// Two ways to scale by leaf norms, each of which looks at the norms that it gets.
#[derive(Clone, PartialEq)]
struct Wary {
    halved: bool,
}

impl Rule for Wary {
    fn kernel(&self, _step: u64) -> impl Kernel {
        let whole = scale_by_leaf_norms(|x, dx| {
            assert_eq!([x, dx], [1.0, 8.0], "not its leaf");
            1.0 / dx
        });
        let halved = scale_by_leaf_norms(|x, dx| {
            assert_eq!([x, dx], [2.0, 3.0], "not its leaf");
            0.5 / dx
        });
        choose(self.halved, halved, whole)
    }
}

#[test]
fn an_option_is_not_asked_about_norms_of_leaves_that_take_another() {
    let layout = Layout::of(&tree!({ "a": [2.0], "b": [1.0] })).unwrap();
    let mut optimizer = Optimizer::new(Wary { halved: false }, &layout).unwrap();
    optimizer.adjust("a", |rule| rule.halved = true).unwrap();
    let mut flat = vec![2.0, 1.0];
    optimizer.step(&mut flat, &[3.0, 8.0]).unwrap();
    assert_eq!(flat, [1.5, 0.0]);
}
