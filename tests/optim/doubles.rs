//! Optimisers of vectors of f64: a fit with all that happens in the middle of one, and what is said
//! where the two types meet.

use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Snapshot};
use flatleaf::{Layout, Tree, destructure_as};
use ndarray::{Array1, arr1};

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
