//! Optimisers of vectors of f64: a fit with all that happens in the middle of one, and what is said
//! where the two types meet.

use flatleaf::optim::{
    Accumulate, AdamW, ClipNorm, Ema, Lamb, LeafState, Muon, Optimizer, RuleFor, Snapshot,
};
use flatleaf::{FlatGrad, Layout, Tree, destructure_as};
use ndarray::{Array1, Array2, arr1};

use crate::numbers::{gradient as numbers, parameters, widened};

type Chain = (ClipNorm, AdamW, Ema);

/// A damped spring: what is fitted, to a curve that is known to 1e-8.
#[derive(Clone, Debug, PartialEq, Tree)]
struct Spring {
    stiffness: Array1<f64>,
    damping: Array1<f64>,
}

const MEASURED: [f64; 3] = [2.0, 5.0, 0.125];

fn spring() -> Spring {
    Spring {
        stiffness: arr1(&[1.0, 4.0]),
        damping: arr1(&[0.5]),
    }
}

fn chain() -> Chain {
    let clip = ClipNorm {
        max: 1.0,
        ..Default::default()
    };
    let adamw = AdamW {
        lr: 0.05,
        weight_decay: 0.0,
        ..Default::default()
    };
    (
        clip,
        adamw,
        Ema {
            decay: 0.9,
            ..Default::default()
        },
    )
}

fn gradient(flat: &[f64]) -> Vec<f64> {
    flat.iter()
        .zip(MEASURED)
        .map(|(x, y)| 2.0 * (x - y))
        .collect()
}

/// A rate that shrinks, so that the fit ends within 1e-8 of what was measured.
fn fit(optimizer: &mut Optimizer<Chain, f64>, flat: &mut [f64], steps: std::ops::Range<u32>) {
    for step in steps {
        let rate = 0.05 * 0.99_f64.powi(step as i32);
        optimizer.set_lr(rate).unwrap();
        optimizer.step(flat, &gradient(flat)).unwrap();
    }
}

#[test]
fn a_fit_in_f64_goes_below_what_f32_resolves() {
    let (mut flat, layout) = destructure_as::<f64>(&spring()).unwrap();
    let mut optimizer = Optimizer::new_as::<f64>(chain(), &layout).unwrap();
    fit(&mut optimizer, &mut flat, 0..3000);
    let fitted = layout.restructure_as::<f64, _>(&spring(), &flat).unwrap();
    for (x, y) in fitted.stiffness.iter().chain(&fitted.damping).zip(MEASURED) {
        // 5 has no neighbour in f32 nearer than 4.8e-7.
        assert!((x - y).abs() < 1e-8, "{x} for {y}");
    }
}

#[test]
fn a_fit_that_is_stored_goes_on_to_the_bit() {
    let (mut flat, layout) = destructure_as::<f64>(&spring()).unwrap();
    let mut optimizer = Optimizer::new_as::<f64>(chain(), &layout).unwrap();
    fit(&mut optimizer, &mut flat, 0..10);
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    let mut other_flat = flat.clone();

    // One batch is NaN: refused, and nothing has moved.
    let error = optimizer
        .step(&mut flat, &[1.0, f64::NAN, 0.0])
        .unwrap_err();
    assert_eq!(
        (error.is_non_finite(), error.path()),
        (true, Some("stiffness"))
    );
    assert_eq!(flat, other_flat);
    fit(&mut optimizer, &mut flat, 10..20);

    let snapshot: Snapshot<'_, Chain, f64> = serde_json::from_str(&text).unwrap();
    let mut resumed = Optimizer::resume(snapshot, &layout).unwrap();
    fit(&mut resumed, &mut other_flat, 10..20);
    let bits = |flat: &[f64]| flat.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&other_flat), bits(&flat));
    assert_eq!(resumed.state_of("average"), optimizer.state_of("average"));
}

#[test]
fn on_the_tree_and_on_the_vector_the_bits_are_the_same() {
    let mut model = spring();
    let (mut flat, layout) = destructure_as::<f64>(&model).unwrap();
    let mut by_step = Optimizer::new_as::<f64>(chain(), &layout).unwrap();
    let mut by_update = by_step.clone();
    for _ in 0..5 {
        let gradient = gradient(&flat);
        let tree = layout.restructure_as::<f64, _>(&model, &gradient).unwrap();
        by_step.step(&mut flat, &gradient).unwrap();
        by_update.update(&mut model, &tree).unwrap();
    }
    assert_eq!(layout.gather_as::<f64>(&model).unwrap(), flat);
}

/// The direction's norm is 5e200, whose square no f64 holds.
#[test]
fn a_clip_measures_norms_whose_square_is_beyond_f64() {
    let (mut flat, layout) = destructure_as::<f64>(&vec![0.0_f64, 0.0]).unwrap();
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        (),
    );
    let mut optimizer = Optimizer::new_as::<f64>(rule, &layout).unwrap();
    let report = optimizer.step(&mut flat, &[3e200, -4e200]).unwrap();
    let norm = report.clips[0].norm_before;
    assert!((norm / 5e200 - 1.0).abs() < 1e-15, "{norm:e}");
    assert!((flat[0] + 0.6).abs() < 1e-15 && (flat[1] - 0.8).abs() < 1e-15);
}

#[test]
fn a_snapshot_of_one_type_is_refused_by_the_other() {
    let layout = Layout::of(&spring()).unwrap();
    let of_f64 = Optimizer::new_as::<f64>(chain(), &layout).unwrap();
    let of_f32 = Optimizer::new(chain(), &layout).unwrap();
    let stored = serde_json::to_string(&of_f64.snapshot()).unwrap();
    let error = serde_json::from_str::<Snapshot<'_, Chain>>(&stored).unwrap_err();
    let expected = "expected a snapshot of vectors of f32, found one of f64";
    assert!(error.to_string().starts_with(expected), "{error}");
    let stored = serde_json::to_string(&of_f32.snapshot()).unwrap();
    let error = serde_json::from_str::<Snapshot<'_, Chain, f64>>(&stored).unwrap_err();
    let expected = "expected a snapshot of vectors of f64, found one of f32";
    assert!(error.to_string().starts_with(expected), "{error}");
}

/// Leaves lent one at a time take the steps of the flat vector, and a window ends early for both;
/// what is taken out of one optimiser, leaf by leaf, lets another go on with the bits of the first.
fn lent_flushed_and_put_in_again<R: RuleFor<f64>>(rule: R) {
    let model = (Array2::<f64>::zeros((3, 4)), vec![0.0_f64; 37]);
    let layout = Layout::of(&model).unwrap();
    let leaves_of = |flat: &[f64]| -> Vec<Vec<f64>> {
        let leaves = layout.leaves().iter();
        leaves.map(|leaf| flat[leaf.range()].to_vec()).collect()
    };
    let bits = |flat: &[f64]| flat.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let mut flat = widened(&parameters(layout.len()));
    let mut leaves = leaves_of(&flat);
    let mut on_vector = Optimizer::new_as::<f64>(rule.clone(), &layout).unwrap();
    let mut lent = on_vector.clone();
    for step in 1..=4 {
        let elements = widened(&numbers(layout.len(), step));
        let mut grad = FlatGrad::from_flat(&layout, elements).unwrap();
        grad.set_present(1, step != 2);
        let slices = leaves_of(&grad);
        let is_there = |index: usize| grad.is_present(index).then_some(slices[index].as_slice());
        let report = lent.update_each(&[is_there(0), is_there(1)], |leaf, step| {
            step(&mut leaves[leaf]);
            Ok(())
        });
        assert_eq!(report.unwrap(), on_vector.step(&mut flat, &grad).unwrap());
        assert_eq!(bits(&leaves.concat()), bits(&flat));
    }

    let mut resumed = Optimizer::new_as::<f64>(rule, &layout).unwrap();
    for leaf in layout.leaves() {
        let state: LeafState<'_, f64> = on_vector.leaf_state(leaf.path()).unwrap();
        resumed.set_leaf_state(leaf.path(), &state).unwrap();
    }
    let mut other = flat.clone();
    let report = on_vector.flush(&mut flat).unwrap();
    assert_eq!(report.leaves, 1); // the other was absent once, and its window has just ended
    assert_eq!(resumed.flush(&mut other).unwrap(), report);
    let lent_report = lent.flush_each(|leaf, step| {
        step(&mut leaves[leaf]);
        Ok(())
    });
    assert_eq!(lent_report.unwrap(), report);
    assert_eq!(bits(&leaves.concat()), bits(&flat));
    assert_eq!(bits(&other), bits(&flat));
    for leaf in layout.leaves() {
        let state = on_vector.leaf_state(leaf.path());
        assert_eq!(resumed.leaf_state(leaf.path()), state);
        assert_eq!(lent.leaf_state(leaf.path()), state);
    }
}

#[test]
fn leaves_are_lent_flushed_and_put_in_again_to_the_bit() {
    let window = Accumulate { steps: 3 };
    let (clip, adamw, ema) = chain();
    lent_flushed_and_put_in_again((window, clip, adamw, ema));
    lent_flushed_and_put_in_again((window, Lamb::default()));
    lent_flushed_and_put_in_again((window, Muon::default(), clip));
}

#[test]
fn a_leaf_of_f64_that_is_lent_short_is_named() {
    let layout = Layout::of(&spring()).unwrap();
    let mut optimizer = Optimizer::new_as::<f64>(chain(), &layout).unwrap();
    let error = optimizer.update_each(&[None, Some(&[1.0])], |_, step| {
        step(&mut []);
        Ok(())
    });
    let error = error.unwrap_err();
    assert_eq!((error.is_length(), error.path()), (true, Some("damping")));
    assert_eq!(optimizer.step_count("damping"), Some(0));
}
