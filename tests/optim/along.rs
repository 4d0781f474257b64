//! A step along a walk of who owns the leaves: the bits of a step on the flat vector, one walk unless
//! a norm looks at parameters, and owners that do not keep to what was agreed.

use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, Adam, AdamW, ClipNorm, Ema, Lamb, Muon, Optimizer, Rule, StepReport, WeightDecay,
};
use flatleaf::{Error, FlatGrad, Layout, Result, tree};

use crate::common::bits;
use crate::lent::{ONES, counts, descent, leaves_of, slices_of, three};
use crate::numbers::{gradient, parameters};

/// Matrices of one shape, a vector, a leaf without elements, and a large one.
fn layout() -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    Layout::of(&tree!({
        "a": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "b": (zeros(37)),
        "c": (zeros(0)),
        "d": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "e": (zeros(70_001)),
    }))
    .unwrap()
}

/// A step whose owner goes through all leaves, those that have no gradient too.
fn update<R: Rule>(
    optimizer: &mut Optimizer<R>,
    leaves: &mut [Vec<f32>],
    grad: &FlatGrad,
) -> Result<StepReport> {
    optimizer.update_along(&slices_of(grad), |step| {
        for (leaf, elements) in leaves.iter_mut().enumerate() {
            step(leaf, elements);
        }
        Ok(())
    })
}

fn gives_the_bits_of_step<R: Rule + Debug>(rule: R) {
    let layout = layout();
    let mut flat = parameters(layout.len());
    let mut leaves = leaves_of(&layout, &flat);
    let mut on_vector = Optimizer::new(rule.clone(), &layout).unwrap();
    let mut along = on_vector.clone();
    for step in 1..=6 {
        let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), step)).unwrap();
        if step == 2 {
            grad.set_present(1, false);
        }
        for optimizer in [&mut on_vector, &mut along] {
            match step {
                3 => optimizer.freeze("d").unwrap(),
                5 => optimizer.thaw("d").unwrap(),
                _ => {}
            }
        }
        let expected = on_vector.step(&mut flat, &grad).unwrap();
        let found = update(&mut along, &mut leaves, &grad).unwrap();
        assert_eq!(found, expected, "{rule:?}, step {step}");
        let same = bits(&leaves.concat()) == bits(&flat);
        assert!(same, "{rule:?}, step {step}");
        assert!(along.state().eq(on_vector.state()), "{rule:?}, step {step}");
        for leaf in layout.leaves() {
            let path = leaf.path();
            assert_eq!(along.step_count(path), on_vector.step_count(path));
        }
    }
}

#[test]
fn a_walk_gives_the_bits_of_a_step_on_the_vector() {
    let clip = ClipNorm {
        max: 1.0,
        ..ClipNorm::default()
    };
    let decay = WeightDecay { weight_decay: 0.1 };
    gives_the_bits_of_step((clip, AdamW::default(), Ema::default()));
    gives_the_bits_of_step((decay, clip, Lamb::default()));
    gives_the_bits_of_step((Accumulate { steps: 2 }, Muon::default()));
}

/// How often the owner is asked to go through its leaves in one step of a rule.
fn walks<R: Rule>(rule: R) -> usize {
    let layout = layout();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut leaves = leaves_of(&layout, &parameters(layout.len()));
    let grad = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
    let mut walks = 0;
    let walk = |step: &mut dyn FnMut(usize, &mut [f32])| {
        walks += 1;
        for (leaf, elements) in leaves.iter_mut().enumerate() {
            step(leaf, elements);
        }
        Ok(())
    };
    optimizer.update_along(&slices_of(&grad), walk).unwrap();
    walks
}

#[test]
fn one_walk_and_one_more_for_what_looks_at_parameters_before() {
    assert_eq!(walks(Adam::default()), 1);
    assert_eq!(walks((ClipNorm::default(), AdamW::default())), 1);
    assert_eq!(walks(Lamb::default()), 2);
    let decay = WeightDecay { weight_decay: 0.1 };
    assert_eq!(walks((decay, ClipNorm::default(), Lamb::default())), 3);
    assert_eq!(walks(Muon::default()), 2);
}

/// Leaves in the order of a walk, and how many of their elements it shows.
type Order = &'static [(usize, usize)];

/// Goes through some leaves in some order, with as many of their elements as are said.
fn visit(
    leaves: &mut [Vec<f32>],
    order: &[(usize, usize)],
    step: &mut dyn FnMut(usize, &mut [f32]),
) {
    for &(leaf, len) in order {
        step(leaf, &mut leaves[leaf][..len]);
    }
}

const REST: &str = "every leaf that is not named here has taken its step";
const STAYS: &str = "it is as it was, and so is its step count";
const TAKEN: &str = "its step is taken and counted";
const ONCE: &str = "expected one call of `step` for each leaf with a gradient, in ascending order";

#[test]
fn a_leaf_that_is_not_walked_as_agreed_is_named_and_the_others_move() {
    let short = format!("`1`: expected a slice of 2 elements to be lent, found one of 1; {STAYS}");
    let passed = format!("`1`: {ONCE}, found none, or none in order; {STAYS}");
    let again = format!("`1`: {ONCE}, found another one; {TAKEN}");
    let orders: [(Order, &str, u64); 4] = [
        (&[(0, 2), (1, 1), (2, 1)], &short, 0),
        (&[(0, 2), (2, 1)], &passed, 0),
        (&[(0, 2), (2, 1), (1, 2)], &passed, 0),
        (&[(0, 2), (1, 2), (1, 2), (2, 1)], &again, 1),
    ];
    for (order, fault, count) in orders {
        let (mut leaves, mut optimizer) = three(descent());
        let walk = |step: &mut dyn FnMut(usize, &mut [f32])| {
            visit(&mut leaves, order, step);
            Ok(())
        };
        let error = optimizer.update_along(&ONES, walk).unwrap_err();
        assert_eq!(error.to_string(), format!("{REST}: {fault}"), "{order:?}");
        assert_eq!(error.path(), Some("1"));
        assert_eq!(error.is_length(), order[1] == (1, 1));
        // State and count go with the leaf.
        let leaf = match count {
            0 => vec![3.0, 4.0],
            _ => vec![2.0, 3.0],
        };
        assert_eq!(leaves, [vec![0.0, 1.0], leaf, vec![4.0]], "{order:?}");
        assert_eq!(counts(&optimizer), [1, count, 1], "{order:?}");
        let state = count as f32;
        let buffer = [1.0, 1.0, state, state, 1.0];
        assert_eq!(optimizer.state_of("momentum_buffer"), Some(&buffer[..]));
    }
}

#[test]
fn what_an_owner_returns_stands_behind_the_leaves_that_it_left_out() {
    let (mut leaves, mut optimizer) = three(descent());
    let walk = |step: &mut dyn FnMut(usize, &mut [f32])| {
        visit(&mut leaves, &[(0, 2)], step);
        Err(Error::custom("the device is gone"))
    };
    let error = optimizer.update_along(&ONES, walk).unwrap_err();
    assert!(error.is_argument() && error.paths().eq(["1", "2"]));
    assert!(
        error.to_string().ends_with("; the device is gone"),
        "{error}"
    );
    assert_eq!(counts(&optimizer), [1, 0, 0]);
    assert_eq!(leaves, [vec![0.0, 1.0], vec![3.0, 4.0], vec![5.0]]);
}

#[test]
fn nothing_moves_where_a_walk_for_norms_or_a_gradient_is_not_as_agreed() {
    let (mut leaves, mut optimizer) = three(Lamb::default());
    let before = leaves.clone();
    let mut update = |grads: &[Option<&[f32]>], order: &[(usize, usize)]| {
        let walk = |step: &mut dyn FnMut(usize, &mut [f32])| {
            visit(&mut leaves, order, step);
            Ok(())
        };
        optimizer.update_along(grads, walk).unwrap_err()
    };
    let error = update(&ONES, &[(0, 2), (2, 1)]);
    let expected = format!("`1`: {ONCE}, found none, or none in order");
    assert_eq!(error.to_string(), expected);
    let all = [(0, 2), (1, 2), (2, 1)];
    assert!(update(&ONES[..2], &all).is_argument());
    let error = update(&[ONES[0], Some(&[1.0]), ONES[2]], &all);
    assert!(error.is_length() && error.path() == Some("1"));
    assert_eq!((leaves, counts(&optimizer)), (before, [0; 3]));
}

#[test]
fn a_nan_is_refused_or_skipped_before_any_walk() {
    for non_finite in [NonFinite::Error, NonFinite::Skip] {
        let clip = ClipNorm {
            max: 1.0,
            non_finite,
            ..ClipNorm::default()
        };
        let (_, mut optimizer) = three((clip, descent()));
        let grads: [Option<&[f32]>; 3] = [ONES[0], Some(&[0.0, f32::NAN]), None];
        let answer = optimizer.update_along(&grads, |_| panic!("the owner was asked"));
        match non_finite {
            NonFinite::Error => {
                let error = answer.unwrap_err();
                assert!(error.is_non_finite() && error.path() == Some("1"));
            }
            _ => assert!(answer.unwrap().skipped),
        }
        assert_eq!(counts(&optimizer), [0; 3]);
    }
}

#[test]
fn after_a_panic_of_the_owner_the_optimiser_goes_on() {
    let (mut leaves, mut optimizer) = three(descent());
    let panics = Cell::new(true);
    let mut update = |leaves: &mut [Vec<f32>]| {
        optimizer.update_along(&ONES, |step| {
            visit(leaves, &[(0, 2)], step);
            assert!(!panics.get(), "the lock is poisoned");
            visit(leaves, &[(1, 2), (2, 1)], step);
            Ok(())
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(|| update(&mut leaves))).is_err());
    assert_eq!(leaves, [vec![0.0, 1.0], vec![3.0, 4.0], vec![5.0]]);
    panics.set(false);
    assert_eq!(update(&mut leaves).unwrap().leaves, 3);
    // The first leaf is at its second step and has momentum, the others are at their first.
    assert_eq!(leaves, [vec![-1.5, -0.5], vec![2.0, 3.0], vec![4.0]]);
    assert_eq!(counts(&optimizer), [2, 1, 1]);
}
