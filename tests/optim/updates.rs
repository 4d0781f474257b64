//! What moves, by how much, and what stays: cases of Optimisers.jl. Its momentum keeps lr·b where
//! ours, PyTorch's, keeps b.

use std::fmt::Debug;

use flatleaf::optim::{Adam, ClipValue, Optimizer, Rule, Sgd};
use flatleaf::{DynTree, Layout, Tree, deep_clone, destructure, tree};
use ndarray::{Array1, arr1};

use crate::common::bits;
use crate::naive::Twin;
use crate::numbers::{assert_near, flat_grad, gradient, parameters, widened};
use crate::rules::{self, Law};

fn descent(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Sgd::default()
    }
}

fn momentum(lr: f64) -> Sgd {
    Sgd {
        lr,
        momentum: 0.9,
        ..Sgd::default()
    }
}

fn optimizer<R: Rule>(rule: R, model: &DynTree) -> Optimizer<R> {
    Optimizer::new(rule, &Layout::of(model).unwrap()).unwrap()
}

/// The same leaves with these values, to a relative 1e-6.
#[track_caller]
fn assert_moved(found: &DynTree, expected: &DynTree) {
    let layout = Layout::of(expected).unwrap();
    assert_near(
        &layout.gather(found).unwrap(),
        &widened(&layout.gather(expected).unwrap()),
    );
}

#[test]
fn descent_subtracts_the_gradient_times_the_rate() {
    let mut model = tree!([1.0, 2.0]);
    optimizer(descent(0.1), &model)
        .update(&mut model, &tree!([25.0, 33.0]))
        .unwrap();
    assert_moved(&model, &tree!([-1.5, -1.3]));
}

#[test]
fn momentum_keeps_the_gradient() {
    let mut model = tree!([1.0, 2.0]);
    let mut optimizer = optimizer(momentum(0.1), &model);
    let before = optimizer.clone();
    optimizer.update(&mut model, &tree!([25.0, 33.0])).unwrap();
    assert_moved(&model, &tree!([-1.5, -1.3]));
    assert_eq!(
        optimizer.state_of("momentum_buffer"),
        Some(&[25.0, 33.0][..])
    );
    assert_eq!(before.state_of("momentum_buffer"), Some(&[0.0, 0.0][..])); // a clone is another optimiser
}

#[test]
fn frozen_leaves_wait_and_go_on_at_the_new_rate() {
    let mut model = tree!({ "x": [1.0, 2.0], "y": [[3.0, 4.0]] });
    let grads = tree!({ "x": [1.0, 10.0], "y": [[100.0, 1000.0]] });
    let mut optimizer = optimizer(descent(0.1), &model);
    optimizer.freeze("y").unwrap();
    optimizer.update(&mut model, &grads).unwrap();
    assert_moved(&model, &tree!({ "x": [0.9, 1.0], "y": [[3.0, 4.0]] }));
    optimizer.set_lr(0.2).unwrap();
    optimizer.thaw("y").unwrap();
    optimizer.update(&mut model, &grads).unwrap();
    assert_moved(&model, &tree!({ "x": [0.7, -1.0], "y": [[-17.0, -196.0]] }));
}

#[test]
fn frozen_leaves_keep_their_state() {
    use std::f32::consts::PI;
    let mut model = tree!({ "x": [1.0], "y": [3.0] });
    let mut optimizer = optimizer(momentum(0.01), &model);
    optimizer.freeze("x").unwrap();
    optimizer
        .update(
            &mut model,
            &tree!({ "x": (arr1(&[PI])), "y": (arr1(&[100.0 * PI])) }),
        )
        .unwrap();
    assert_moved(&model, &tree!({ "x": [1.0], "y": [-0.14159265] }));
    assert_eq!(
        optimizer.state_of("momentum_buffer"),
        Some(&[0.0, 100.0 * PI][..])
    );
    assert_eq!(
        (optimizer.step_count("x"), optimizer.step_count("y")),
        (Some(0), Some(1))
    );
}

#[test]
fn another_rate_keeps_the_state() {
    let mut model = tree!({ "a": [[0.0]], "g": [4.0, 3.0, 2.0] });
    let grads = tree!({ "a": null, "g": [1.0, 10.0, 100.0] });
    let mut optimizer = optimizer(momentum(0.1), &model);
    optimizer.update(&mut model, &grads).unwrap();
    assert_moved(&model, &tree!({ "a": [[0.0]], "g": [3.9, 2.0, -8.0] }));
    let state = [0.0, 1.0, 10.0, 100.0];
    optimizer.set_lr(0.2).unwrap();
    assert_eq!(optimizer.rule("g"), Some(&momentum(0.2)));
    assert_eq!(optimizer.state_of("momentum_buffer"), Some(&state[..]));
    optimizer
        .adjust("**", |sgd| (sgd.lr, sgd.momentum) = (0.3, 0.7))
        .unwrap();
    assert_eq!(optimizer.state_of("momentum_buffer"), Some(&state[..]));
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(
        optimizer.state_of("momentum_buffer"),
        Some(&[0.0, 1.7, 17.0, 170.0][..])
    );
    assert_moved(&model, &tree!({ "a": [[0.0]], "g": [3.39, -3.1, -59.0] }));
}

#[test]
fn a_rate_is_set_where_there_is_one_and_other_fields_by_name() {
    let mut model = tree!({ "g": [0.0, 0.0, 0.0] });
    let mut optimizer = optimizer((ClipValue { max: 2.0 }, Adam::default()), &model);
    optimizer
        .update(&mut model, &tree!({ "g": [1.0, 10.0, 100.0] }))
        .unwrap();
    let average = optimizer.state_of("exp_avg").unwrap();
    assert!(
        average
            .iter()
            .zip([0.1, 0.2, 0.2])
            .all(|(m, expected)| (m - expected).abs() < 1e-7),
        "{average:?}"
    );
    optimizer.set_lr(0.2).unwrap();
    assert_eq!(
        optimizer.rule("g"),
        Some(&(
            ClipValue { max: 2.0 },
            Adam {
                lr: 0.2,
                ..Adam::default()
            }
        ))
    );
    optimizer.adjust("g", |(clip, _)| clip.max = 2.5).unwrap();
    assert_eq!(
        optimizer.rule("g"),
        Some(&(
            ClipValue { max: 2.5 },
            Adam {
                lr: 0.2,
                ..Adam::default()
            }
        ))
    );
}

/// Optimisers.jl's "mutation check", on every rule.
struct StepIsUpdate;

impl Law for StepIsUpdate {
    fn holds<R: Rule + Debug>(&self, rule: R, _: Twin<R>) {
        let mut model = (
            parameters(5),
            (parameters(20), Vec::<f32>::new()),
            parameters(1),
        );
        let (mut flat, layout) = destructure(&model).unwrap();
        let mut on_flat = Optimizer::new(rule.clone(), &layout).unwrap();
        let mut on_tree = on_flat.clone();
        for step in 1..=13 {
            let grad = flat_grad(&layout, &gradient(layout.len(), step));
            let mut grads = deep_clone(&model).unwrap();
            layout.restructure_into(&mut grads, &grad).unwrap();
            on_flat.step(&mut flat, &grad).unwrap();
            on_tree.update(&mut model, &grads).unwrap();
            assert_eq!(
                bits(&layout.gather(&model).unwrap()),
                bits(&flat),
                "{rule:?}, step {step}"
            );
        }
        assert!(on_flat.state().eq(on_tree.state()), "{rule:?}");
    }
}

#[test]
fn a_tree_moves_as_the_flat_vector_does() {
    rules::every(&StepIsUpdate);
}

#[test]
fn the_leaves_stay_where_they_are() {
    let mut model = vec![1.0_f32, 2.0];
    let at = model.as_ptr();
    optimizer(descent(0.5), &DynTree::of(&model).unwrap())
        .update(&mut model, &vec![2.0_f32, 2.0])
        .unwrap();
    assert_eq!((model.as_ptr(), &model[..]), (at, &[0.0, 1.0][..]));
}

#[derive(Tree)]
struct Model {
    p: Array1<f32>,
    q: Part,
}

#[derive(Tree)]
struct Part {
    a: Array1<f32>,
    #[tree(frozen)]
    b: Array1<f32>,
}

#[test]
fn an_absent_branch_stays() {
    let mut model = Model {
        p: arr1(&[1.0, 2.0]),
        q: Part {
            a: arr1(&[3.0, 4.0]),
            b: arr1(&[5.0]),
        },
    };
    let mut optimizer = Optimizer::new(descent(0.5), &Layout::of(&model).unwrap()).unwrap();
    optimizer
        .update(&mut model, &tree!({ "p": [2.0, 2.0], "q": null }))
        .unwrap();
    assert_eq!(
        (model.p, model.q.a, model.q.b),
        (arr1(&[0.0, 1.0]), arr1(&[3.0, 4.0]), arr1(&[5.0]))
    );
}

#[test]
fn gradients_of_another_float_type_are_converted() {
    let mut model = vec![3.0_f32, 4.0];
    let mut optimizer = Optimizer::new(descent(0.5), &Layout::of(&model).unwrap()).unwrap();
    optimizer.update(&mut model, &vec![2.0_f64, 4.0]).unwrap();
    assert_eq!(model, [2.0, 2.0]);
}
