//! What is kept of one leaf, taken out, stored elsewhere and put in again.

use std::fmt::Debug;

use flatleaf::optim::{Accumulate, Adam, AdamW, ClipNorm, Ema, LeafState, Optimizer, Rule, Sgd};
use flatleaf::{FlatGrad, Layout, tree};

use crate::common::bits;
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

fn layout() -> Layout {
    Layout::of(&tree!({ "a": [[0.0, 0.0], [0.0, 0.0]], "b": [0.0, 0.0, 0.0], "c": [0.0] })).unwrap()
}

/// As a store has it that knows texts, numbers and vectors.
struct Stored {
    path: String,
    steps: u64,
    counters: Vec<(String, f64)>,
    vectors: Vec<(String, Vec<f32>)>,
}

fn store<R: Rule>(optimizer: &Optimizer<R>) -> Vec<Stored> {
    let leaves = optimizer.layout().leaves().iter();
    leaves
        .map(|leaf| {
            let state = optimizer.leaf_state(leaf.path()).unwrap();
            let counters = state.counters.into_iter();
            let vectors = state.vectors.into_iter();
            Stored {
                path: leaf.path().to_owned(),
                steps: state.steps,
                counters: counters.map(|(name, x)| (name.into_owned(), x)).collect(),
                vectors: vectors
                    .map(|(name, x)| (name.into_owned(), x.into_owned()))
                    .collect(),
            }
        })
        .collect()
}

fn restore<R: Rule>(optimizer: &mut Optimizer<R>, stored: Vec<Stored>) {
    for leaf in stored {
        let counters = leaf.counters.into_iter();
        let vectors = leaf.vectors.into_iter();
        let state = LeafState {
            steps: leaf.steps,
            counters: counters.map(|(name, x)| (name.into(), x)).collect(),
            vectors: vectors.map(|(name, x)| (name.into(), x.into())).collect(),
        };
        optimizer.set_leaf_state(&leaf.path, &state).unwrap();
    }
}

struct GoesOn;

impl AnyLaw for GoesOn {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let layout = layout();
        let mut flat = parameters(layout.len());
        let mut optimizer = Optimizer::new(rule.clone(), &layout).unwrap();
        let grad_of = |step: usize| {
            let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), step)).unwrap();
            // So that leaves are at steps, and within windows, of their own.
            grad.set_present(1, !step.is_multiple_of(3));
            grad
        };
        for step in 1..=4 {
            optimizer.step(&mut flat, &grad_of(step)).unwrap();
        }
        let mut resumed = Optimizer::new(rule.clone(), &layout).unwrap();
        restore(&mut resumed, store(&optimizer));
        let mut twin = flat.clone();
        for step in 5..=9 {
            let report = optimizer.step(&mut flat, &grad_of(step)).unwrap();
            assert_eq!(resumed.step(&mut twin, &grad_of(step)).unwrap(), report);
            assert_eq!(bits(&twin), bits(&flat), "{rule:?}, step {step}");
        }
        for leaf in layout.leaves() {
            let expected = optimizer.leaf_state(leaf.path());
            assert_eq!(resumed.leaf_state(leaf.path()), expected, "{rule:?}");
        }
    }
}

#[test]
fn an_optimizer_of_stored_leaves_goes_on_bit_for_bit() {
    rules::every_rule_and_chain(&GoesOn);
}

#[test]
fn the_state_of_a_leaf_is_its_own_by_any_place_of_its_tie() {
    let shared = std::rc::Rc::new(vec![1.0_f32, 2.0]);
    let mut model = (vec![0.0_f32], shared.clone(), shared);
    let layout = Layout::of(&model).unwrap();
    let rule = (Accumulate { steps: 2 }, Sgd::default());
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let grads = tree!([[9.0], [0.5, 0.25], [0.5, 0.25]]);
    optimizer.update(&mut model, &grads).unwrap();
    let expected = LeafState {
        steps: 0,
        counters: vec![
            ("steps".into(), 1.0),
            ("steps".into(), 1.0),
            ("held".into(), 1.0),
            ("steps".into(), 0.0),
        ],
        vectors: vec![
            ("accumulated".into(), vec![1.0, 0.5].into()),
            ("momentum_buffer".into(), vec![0.0, 0.0].into()),
        ],
    };
    assert_eq!(optimizer.leaf_state("1"), Some(expected.clone()));
    assert_eq!(optimizer.leaf_state("2"), Some(expected));
    assert_eq!(optimizer.leaf_state("3"), None);
}

#[test]
fn state_that_is_not_the_rules_changes_nothing() {
    let layout = layout();
    let rule = (ClipNorm::default(), AdamW::default(), Ema::default());
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut flat = parameters(layout.len());
    let grad = gradient(layout.len(), 1);
    optimizer.step(&mut flat, &grad).unwrap();
    let good = store(&optimizer);
    let before = optimizer.clone();
    let b = before.leaf_state("b").unwrap();

    let mut refused = |change: &dyn Fn(&mut LeafState<'_>)| {
        let mut state = b.clone();
        change(&mut state);
        let error = optimizer.set_leaf_state("b", &state).unwrap_err();
        assert!(
            error.is_invalid_state() && error.path() == Some("b"),
            "{error}"
        );
        let now: Vec<_> = store(&optimizer)
            .into_iter()
            .map(|leaf| leaf.vectors)
            .collect();
        assert_eq!(
            now,
            good.iter()
                .map(|leaf| leaf.vectors.clone())
                .collect::<Vec<_>>()
        );
        error.found().unwrap().to_owned()
    };
    assert_eq!(
        refused(&|state| drop(state.vectors.pop())),
        r#"state vectors ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"], the rule keeps ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "average"]"#
    );
    assert_eq!(
        refused(&|state| state.vectors[1].1.to_mut().truncate(2)),
        "2 elements of the state vector `exp_avg_sq`, not 3"
    );
    assert_eq!(
        refused(&|state| state.counters[4].0 = "weights".into()),
        r#"counters ["steps", "steps", "steps", "steps", "weights"], the rule keeps ["steps", "steps", "steps", "steps", "weight"]"#
    );
    assert_eq!(refused(&|state| state.counters[2].1 = 0.5), "0.5 steps");
    assert_eq!(
        refused(&|state| state.counters[0].1 = f64::NAN),
        "NaN steps"
    );
    assert_eq!(refused(&|state| state.counters[3].1 = -1.0), "-1 steps");

    let error = optimizer.set_leaf_state("d", &b).unwrap_err();
    assert!(error.is_unknown() && error.path() == Some("d"));
    let adam = Optimizer::new(Adam::default(), &layout).unwrap();
    let of_another_rule = adam.leaf_state("b").unwrap();
    assert!(
        optimizer
            .set_leaf_state("b", &of_another_rule)
            .unwrap_err()
            .is_invalid_state()
    );
}
