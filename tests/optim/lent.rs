//! A step on leaves that are lent one by one: the bits of a step on the flat vector, each leaf lent
//! as often as it is said to be, and owners that do not keep to what was agreed.

use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, Adam, AdamW, ClipNorm, Ema, Lamb, Muon, Optimizer, Rule, Sgd, StepReport,
    WeightDecay,
};
use flatleaf::{Error, FlatGrad, Layout, Result, tree};

use crate::common::bits;
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

/// Matrices of one shape and of others, vectors around a row, a leaf without elements.
fn layout() -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    Layout::of(&tree!({
        "a": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "b": (zeros(37)),
        "c": (zeros(0)),
        "d": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "e": [[0.0], [0.0]],
        "f": (zeros(16)),
    }))
    .unwrap()
}

/// The leaves of a flat vector, each by itself.
pub(crate) fn leaves_of(layout: &Layout, flat: &[f32]) -> Vec<Vec<f32>> {
    let leaves = layout.leaves().iter();
    leaves.map(|leaf| flat[leaf.range()].to_vec()).collect()
}

/// The gradients of a flat one, leaf by leaf.
pub(crate) fn slices_of(grad: &FlatGrad) -> Vec<Option<&[f32]>> {
    let leaves = grad.layout().leaves().iter().enumerate();
    leaves
        .map(|(index, leaf)| grad.is_present(index).then(|| &grad[leaf.range()]))
        .collect()
}

/// A step that lends every leaf as it should.
pub(crate) fn update<R: Rule>(
    optimizer: &mut Optimizer<R>,
    leaves: &mut [Vec<f32>],
    grad: &FlatGrad,
) -> Result<StepReport> {
    optimizer.update_each(&slices_of(grad), |leaf, step| {
        step(&mut leaves[leaf]);
        Ok(())
    })
}

/// All bits of the leaves, and of what the optimiser knows.
fn all_bits<R: Rule>(
    flat: &[f32],
    optimizer: &Optimizer<R>,
) -> (Vec<u32>, Vec<Vec<u32>>, Vec<u64>) {
    let states = optimizer.state().map(|(_, state)| bits(state)).collect();
    let leaves = optimizer.layout().leaves().iter();
    let counts = leaves.map(|leaf| optimizer.step_count(leaf.path()).unwrap());
    (bits(flat), states, counts.collect())
}

struct LikeStep;

impl AnyLaw for LikeStep {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let layout = layout();
        let mut flat = parameters(layout.len());
        let mut leaves = leaves_of(&layout, &flat);
        let mut on_vector = Optimizer::new(rule.clone(), &layout).unwrap();
        let mut lent = on_vector.clone();
        for step in 1..=8 {
            let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), step)).unwrap();
            if step == 2 {
                grad.set_present(1, false);
                grad.set_present(3, false);
            }
            for optimizer in [&mut on_vector, &mut lent] {
                match step {
                    3 => optimizer.freeze("b").unwrap(),
                    5 => optimizer.thaw("b").unwrap(),
                    6 => optimizer.adjust("d", halve).unwrap(),
                    _ => {}
                }
            }
            let expected = on_vector.step(&mut flat, &grad).unwrap();
            let found = update(&mut lent, &mut leaves, &grad).unwrap();
            assert_eq!(found, expected, "{rule:?}, step {step}");
            assert!(
                all_bits(&leaves.concat(), &lent) == all_bits(&flat, &on_vector),
                "{rule:?}, step {step}"
            );
        }
        let expected = on_vector.flush(&mut flat).unwrap();
        let found = lent.flush_each(|leaf, step| {
            step(&mut leaves[leaf]);
            Ok(())
        });
        assert_eq!(found.unwrap(), expected, "{rule:?}, flush");
        assert!(
            all_bits(&leaves.concat(), &lent) == all_bits(&flat, &on_vector),
            "{rule:?}, flush"
        );
    }
}

fn halve<R: Rule>(rule: &mut R) {
    if let Some(lr) = rule.lr_mut() {
        *lr *= 0.5;
    }
}

#[test]
fn lent_leaves_get_the_bits_of_a_step_on_the_vector() {
    rules::every_rule_and_chain(&LikeStep);
}

/// Large leaves are shared by all threads, and cut as on the vector.
#[test]
fn large_leaves_get_the_bits_of_a_step_on_the_vector() {
    // In a debug build just enough to be shared.
    let sizes = match cfg!(debug_assertions) {
        true => [160_001, 5, 200_000],
        false => [300_001, 5, 400_000],
    };
    let zeros = sizes.map(|len| vec![0.0_f32; len]);
    let layout = Layout::of(&zeros.to_vec()).unwrap();
    let clip = ClipNorm {
        max: 1.0,
        ..ClipNorm::default()
    };
    let rule = (clip, Lamb::default(), Ema::default());
    let mut flat = parameters(layout.len());
    let mut leaves = leaves_of(&layout, &flat);
    let mut on_vector = Optimizer::new(rule, &layout).unwrap();
    let mut lent = on_vector.clone();
    for step in 1..=3 {
        let grad = FlatGrad::from_flat(&layout, gradient(layout.len(), step)).unwrap();
        let expected = on_vector.step(&mut flat, &grad).unwrap();
        let found = update(&mut lent, &mut leaves, &grad).unwrap();
        assert_eq!(found, expected);
        assert!(all_bits(&leaves.concat(), &lent) == all_bits(&flat, &on_vector));
    }
}

/// How often each leaf is lent in one step of a rule.
fn lent_times<R: Rule>(rule: R) -> Vec<usize> {
    let layout = layout();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    optimizer.freeze("f").unwrap();
    let mut leaves = leaves_of(&layout, &parameters(layout.len()));
    let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
    grad.set_present(1, false);
    let mut times = vec![0; leaves.len()];
    let lend = |leaf: usize, step: &mut dyn FnMut(&mut [f32])| {
        times[leaf] += 1;
        step(&mut leaves[leaf]);
        Ok(())
    };
    optimizer.update_each(&slices_of(&grad), lend).unwrap();
    times
}

#[test]
fn leaves_are_lent_once_and_once_more_for_what_looks_at_them_before() {
    let clip = ClipNorm::default();
    assert_eq!(lent_times(Adam::default()), [1, 0, 1, 1, 1, 0]);
    assert_eq!(lent_times((clip, AdamW::default())), [1, 0, 1, 1, 1, 0]);
    assert_eq!(lent_times(Lamb::default()), [2, 0, 2, 2, 2, 0]);
    let decay = WeightDecay { weight_decay: 0.1 };
    assert_eq!(
        lent_times((decay, clip, Lamb::default())),
        [3, 0, 3, 3, 3, 0]
    );
    assert_eq!(lent_times(Muon::default()), [2, 0, 1, 2, 2, 0]); // matrices
    assert_eq!(lent_times(Accumulate { steps: 2 }), [1, 0, 1, 1, 1, 0]); // held back, and looked at
}

pub(crate) fn descent() -> Sgd {
    Sgd {
        lr: 1.0,
        momentum: 0.5,
        ..Sgd::default()
    }
}

/// Three leaves of two, two and one elements, and an optimiser for them.
pub(crate) fn three<R: Rule>(rule: R) -> (Vec<Vec<f32>>, Optimizer<R>) {
    let leaves = vec![vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0]];
    let layout = Layout::of(&leaves).unwrap();
    (leaves, Optimizer::new(rule, &layout).unwrap())
}

pub(crate) const ONES: [Option<&[f32]>; 3] = [Some(&[1.0, 1.0]), Some(&[1.0, 1.0]), Some(&[1.0])];

pub(crate) fn counts<R: Rule>(optimizer: &Optimizer<R>) -> [u64; 3] {
    ["0", "1", "2"].map(|path| optimizer.step_count(path).unwrap())
}

#[test]
fn gradients_that_are_not_those_of_the_leaves_move_nothing() {
    let (mut leaves, mut optimizer) = three(descent());
    let before = leaves.clone();
    let mut update = |grads: &[Option<&[f32]>]| {
        let lend = |leaf: usize, step: &mut dyn FnMut(&mut [f32])| {
            step(&mut leaves[leaf]);
            Ok(())
        };
        optimizer.update_each(grads, lend).unwrap_err()
    };
    let error = update(&ONES[..2]);
    assert!(error.is_argument());
    assert_eq!(
        error.to_string(),
        "expected one gradient for each of 3 leaves, found 2"
    );
    let error = update(&[ONES[0], Some(&[1.0]), Some(&[])]);
    assert!(error.is_length());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(
        error.to_string(),
        "the gradient: `1`: expected 2 elements, found 1; \
         the gradient: `2`: expected 1 elements, found 0"
    );
    assert_eq!((leaves, counts(&optimizer)), (before, [0; 3]));
}

#[test]
fn a_leaf_without_a_gradient_may_be_denied() {
    let (mut leaves, mut optimizer) = three(descent());
    optimizer.deny_absent(true);
    optimizer.freeze("2").unwrap();
    let mut update = |grads: &[Option<&[f32]>]| {
        optimizer.update_each(grads, |leaf, step| {
            step(&mut leaves[leaf]);
            Ok(())
        })
    };
    let error = update(&[ONES[0], None, None]).unwrap_err();
    assert!(error.is_missing() && error.paths().eq(["1"]));
    assert_eq!(update(&[ONES[0], ONES[1], None]).unwrap().leaves, 2);
    assert_eq!(leaves, [vec![0.0, 1.0], vec![2.0, 3.0], vec![5.0]]);
}

#[test]
fn a_nan_is_refused_or_skipped_before_any_leaf_is_lent() {
    for non_finite in [NonFinite::Error, NonFinite::Skip] {
        let clip = ClipNorm {
            max: 1.0,
            non_finite,
            ..ClipNorm::default()
        };
        let (_, mut optimizer) = three((clip, descent()));
        let grads: [Option<&[f32]>; 3] = [ONES[0], Some(&[0.0, f32::NAN]), None];
        let answer = optimizer.update_each(&grads, |leaf, _| panic!("leaf {leaf} was lent"));
        match non_finite {
            NonFinite::Error => {
                let error = answer.unwrap_err();
                assert!(error.is_non_finite() && error.path() == Some("1"));
                assert_eq!(
                    error.to_string(),
                    "`1`: expected finite elements, found NaN at index 1"
                );
            }
            _ => assert!(answer.unwrap().skipped),
        }
        assert_eq!(counts(&optimizer), [0; 3]);
        assert_eq!(optimizer.state_of("momentum_buffer"), Some(&[0.0; 5][..]));
    }
}

/// How an owner fails at leaf 1.
#[derive(Clone, Copy, Debug)]
enum Lie {
    NoCall,
    TwoCalls,
    Short,
    ErrorBefore,
    ErrorBehind,
}

fn lend_with(
    lie: Lie,
    leaves: &mut [Vec<f32>],
    leaf: usize,
    step: &mut dyn FnMut(&mut [f32]),
) -> Result<()> {
    if leaf != 1 {
        step(&mut leaves[leaf]);
        return Ok(());
    }
    match lie {
        Lie::NoCall => {}
        Lie::TwoCalls => {
            step(&mut leaves[leaf]);
            step(&mut leaves[leaf]);
        }
        Lie::Short => step(&mut leaves[leaf][..1]),
        Lie::ErrorBefore => return Err(Error::custom("the device is gone")),
        Lie::ErrorBehind => {
            step(&mut leaves[leaf]);
            return Err(Error::custom("the device is gone"));
        }
    }
    Ok(())
}

const REST: &str = "every leaf that is not named here has taken its step";
const STAYS: &str = "it is as it was, and so is its step count";
const TAKEN: &str = "its step is taken and counted";

#[test]
fn a_leaf_that_is_not_lent_as_agreed_is_named_and_the_others_move() {
    let once = "`1`: expected `lend` to call `step` once with the elements of the leaf";
    for (lie, expected, moved) in [
        (
            Lie::NoCall,
            format!("{REST}: {once}, found no call; {STAYS}"),
            false,
        ),
        (
            Lie::TwoCalls,
            format!("{REST}: {once}, found two calls or more; {TAKEN}"),
            true,
        ),
        (
            Lie::Short,
            format!(
                "{REST}: `1`: expected a slice of 2 elements to be lent, found one of 1; {STAYS}"
            ),
            false,
        ),
        (
            Lie::ErrorBefore,
            format!("{REST}: `1`: the device is gone; {STAYS}"),
            false,
        ),
        (
            Lie::ErrorBehind,
            format!("{REST}: `1`: the device is gone; {TAKEN}"),
            true,
        ),
    ] {
        let (mut leaves, mut optimizer) = three(descent());
        let lend =
            |leaf: usize, step: &mut dyn FnMut(&mut [f32])| lend_with(lie, &mut leaves, leaf, step);
        let error = optimizer.update_each(&ONES, lend).unwrap_err();
        assert_eq!(
            (error.path(), error.to_string()),
            (Some("1"), expected),
            "{lie:?}"
        );
        match lie {
            Lie::NoCall | Lie::TwoCalls => assert!(error.is_argument()),
            Lie::Short => assert!(error.is_length()),
            _ => assert!(error.is_custom()),
        }
        // State and count go with the leaf.
        let (leaf, state, count) = match moved {
            true => (vec![2.0, 3.0], 1.0, 1),
            false => (vec![3.0, 4.0], 0.0, 0),
        };
        assert_eq!(leaves, [vec![0.0, 1.0], leaf, vec![4.0]], "{lie:?}");
        assert_eq!(counts(&optimizer), [1, count, 1], "{lie:?}");
        let buffer = [1.0, 1.0, state, state, 1.0];
        assert_eq!(optimizer.state_of("momentum_buffer"), Some(&buffer[..]));
    }
}

#[test]
fn a_leaf_that_is_not_lent_as_agreed_while_norms_are_measured_moves_nothing() {
    for lie in [
        Lie::NoCall,
        Lie::TwoCalls,
        Lie::Short,
        Lie::ErrorBefore,
        Lie::ErrorBehind,
    ] {
        let (mut leaves, mut optimizer) = three(Lamb::default());
        let before = leaves.clone();
        let lend =
            |leaf: usize, step: &mut dyn FnMut(&mut [f32])| lend_with(lie, &mut leaves, leaf, step);
        let error = optimizer.update_each(&ONES, lend).unwrap_err();
        assert_eq!(error.path(), Some("1"), "{lie:?}");
        assert!(!error.to_string().contains("step count"), "{error}");
        assert_eq!((leaves, counts(&optimizer)), (before, [0; 3]), "{lie:?}");
        assert_eq!(optimizer.state_of("exp_avg"), Some(&[0.0; 5][..]));
    }
}

#[test]
fn all_leaves_at_fault_are_named() {
    let (mut leaves, mut optimizer) = three(descent());
    let lend = |leaf: usize, step: &mut dyn FnMut(&mut [f32])| {
        if leaf > 0 {
            return Err(Error::custom("gone"));
        }
        step(&mut leaves[leaf]);
        Ok(())
    };
    let error = optimizer.update_each(&ONES, lend).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(
        error.to_string(),
        format!("{REST}: `1`: gone; {STAYS}; `2`: gone; {STAYS}")
    );
    assert_eq!(counts(&optimizer), [1, 0, 0]);
}

#[test]
fn after_a_panic_of_the_owner_the_optimiser_goes_on() {
    let (mut leaves, mut optimizer) = three(descent());
    let panics = Cell::new(true);
    let mut update = |leaves: &mut [Vec<f32>]| {
        optimizer.update_each(&ONES, |leaf, step| {
            assert!(leaf != 1 || !panics.get(), "the lock is poisoned");
            step(&mut leaves[leaf]);
            Ok(())
        })
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| update(&mut leaves)));
    assert!(panicked.is_err());
    assert_eq!(leaves, [vec![0.0, 1.0], vec![3.0, 4.0], vec![5.0]]);
    panics.set(false);
    assert_eq!(update(&mut leaves).unwrap().leaves, 3);
    // The first leaf is at its second step and has momentum, the others are at their first.
    assert_eq!(leaves, [vec![-1.5, -0.5], vec![2.0, 3.0], vec![4.0]]);
    assert_eq!(counts(&optimizer), [2, 1, 1]);
}
