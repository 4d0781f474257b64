//! What users do between two steps: settings that change, a window that is ended early, a batch that
//! is NaN, leaves that come and go, a resume in the middle. What is counted belongs to the leaf, and
//! a step that is refused or skipped leaves every stage as it was.

use std::cell::Cell;
use std::rc::Rc;

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, Adam, AdamW, ClipNorm, ClipNormPerLeaf, Ema, Optimizer, Rule, Sgd, WeightDecay,
};
use flatleaf::{
    Builder, Error, Layout, LeafMut, LeafRef, Reader, Result, Tree, Visitor, VisitorMut, Writer,
    tree,
};

use crate::numbers::assert_near;

fn descent() -> Sgd {
    Sgd {
        lr: 1.0,
        ..Sgd::default()
    }
}

fn skipping(max: f64) -> ClipNorm {
    ClipNorm {
        max,
        non_finite: NonFinite::Skip,
        ..ClipNorm::default()
    }
}

/// A vector of one element at 0, and an optimiser of it.
fn one<R: Rule>(rule: R) -> ([f32; 1], Optimizer<R>) {
    let optimizer = Optimizer::new(rule, &Layout::of(&[0.0_f32]).unwrap()).unwrap();
    ([0.0], optimizer)
}

#[test]
fn a_window_that_has_begun_ends_at_the_new_number() {
    let (mut flat, mut optimizer) = one((Accumulate { steps: 2 }, descent()));
    let mut then = |optimizer: &mut Optimizer<_>, grad: f32| {
        optimizer.step(&mut flat, &[grad]).unwrap();
        flat[0]
    };
    assert_eq!(
        [1.0, 2.0].map(|grad| then(&mut optimizer, grad)),
        [0.0, -1.5]
    );
    optimizer
        .adjust("**", |(window, _)| window.steps = 4)
        .unwrap();
    let moved = [3.0, 4.0, 5.0, 6.0].map(|grad| then(&mut optimizer, grad));
    assert_eq!(moved, [-1.5, -1.5, -1.5, -6.0]);

    // In the middle, to more and to fewer than it holds.
    then(&mut optimizer, 1.0);
    optimizer
        .adjust("**", |(window, _)| window.steps = 3)
        .unwrap();
    assert_eq!(
        [2.0, 3.0].map(|grad| then(&mut optimizer, grad)),
        [-6.0, -8.0]
    );
    let _ = [1.0, 2.0].map(|grad| then(&mut optimizer, grad));
    optimizer
        .adjust("**", |(window, _)| window.steps = 1)
        .unwrap();
    assert_eq!(
        [6.0, 7.0].map(|grad| then(&mut optimizer, grad)),
        [-11.0, -18.0]
    );
    assert_eq!(optimizer.step_count(""), Some(5));
}

#[test]
fn stages_behind_a_window_count_the_steps_that_they_take() {
    let adam = Adam {
        lr: 0.1,
        ..Adam::default()
    };
    let (mut flat, mut optimizer) = one((Accumulate { steps: 2 }, adam));
    let (mut plain, mut twin) = one(adam);
    for grad in [1.0, 3.0] {
        optimizer.step(&mut flat, &[grad]).unwrap();
    }
    optimizer
        .adjust("**", |(window, _)| window.steps = 3)
        .unwrap();
    for grad in [5.0, 6.0, 7.0] {
        optimizer.step(&mut flat, &[grad]).unwrap();
    }
    for mean in [2.0, 6.0] {
        twin.step(&mut plain, &[mean]).unwrap();
    }
    assert_eq!(flat, plain);
    assert_eq!(optimizer.step_count(""), Some(2));
}

#[test]
fn a_flush_hands_on_the_mean_of_what_a_window_holds() {
    let mut model = tree!({ "a": [0.0], "b": [0.0], "c": [0.0] });
    let layout = Layout::of(&model).unwrap();
    let rule = (Accumulate { steps: 4 }, skipping(100.0), descent());
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    for grads in [
        tree!({ "a": [1.0], "b": [4.0], "c": [7.0] }),
        tree!({ "a": [2.0], "b": null, "c": null }),
    ] {
        optimizer.update(&mut model, &grads).unwrap();
    }
    optimizer.freeze("c").unwrap();
    let (mut flat, mut of_flat) = (layout.gather(&model).unwrap(), optimizer.clone());
    let report = optimizer.flush_tree(&mut model).unwrap();
    assert_eq!((report.leaves, report.held_back), (2, 0));
    assert_eq!(report.clips[0].norm_before, 1.5_f64.hypot(4.0));
    assert_eq!(of_flat.flush(&mut flat).unwrap(), report);
    assert_eq!(flat, [-1.5, -4.0, 0.0]);
    assert_eq!(layout.gather(&model).unwrap(), flat);
    // The window of `c` waits, the others begin anew.
    optimizer.thaw("c").unwrap();
    assert_eq!(optimizer.flush_tree(&mut model).unwrap().leaves, 1);
    assert_eq!(layout.gather(&model).unwrap(), [-1.5, -4.0, -7.0]);
    assert_eq!(optimizer.flush_tree(&mut model).unwrap().leaves, 0);
    let steps = ["a", "b", "c"].map(|path| optimizer.step_count(path));
    assert_eq!(steps, [Some(1); 3]);
}

#[test]
fn nothing_of_stages_in_front_is_in_a_mean_that_is_flushed() {
    let decay = WeightDecay { weight_decay: 1.0 };
    let (_, mut optimizer) = one((decay, Accumulate { steps: 4 }, descent()));
    let mut flat = [1.0];
    optimizer.step(&mut flat, &[2.0]).unwrap();
    optimizer.flush(&mut flat).unwrap();
    assert_eq!(flat, [-2.0]); // 1 − (2 + 1)
}

#[test]
fn a_batch_that_is_not_finite_leaves_a_window_as_it_was() {
    for bad in [f32::NAN, f32::INFINITY] {
        for place in 0..4 {
            let rule = (Accumulate { steps: 2 }, skipping(100.0), descent());
            let (mut flat, mut optimizer) = one(rule);
            for (index, grad) in [1.0, 2.0, 3.0, 4.0].into_iter().enumerate() {
                if index == place {
                    let before = optimizer.state_of("accumulated").unwrap().to_vec();
                    let report = optimizer.step(&mut flat, &[bad]).unwrap();
                    assert!(report.skipped && report.leaves == 0 && report.held_back == 0);
                    assert_eq!(optimizer.state_of("accumulated"), Some(&before[..]));
                }
                assert!(!optimizer.step(&mut flat, &[grad]).unwrap().skipped);
            }
            assert_eq!((flat, optimizer.step_count("")), ([-5.0], Some(2)));
        }
    }
}

#[test]
fn a_window_refuses_what_a_stage_behind_it_refuses() {
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0, 0.0] })).unwrap();
    let strict = ClipNormPerLeaf {
        max: 100.0,
        ..Default::default()
    };
    let mut optimizer =
        Optimizer::new((Accumulate { steps: 2 }, strict, descent()), &layout).unwrap();
    let mut flat = [0.0; 3];
    for _ in 0..2 {
        let error = optimizer
            .step(&mut flat, &[1.0, 2.0, f32::NAN])
            .unwrap_err();
        assert!(error.is_non_finite());
        assert_eq!(
            error.to_string(),
            "`b`: expected finite elements, found NaN at index 1"
        );
        optimizer.step(&mut flat, &[1.0, 2.0, 3.0]).unwrap();
    }
    assert_eq!(flat, [-1.0, -2.0, -3.0]);

    // Where nobody minds, a NaN is a number like others.
    let (mut flat, mut optimizer) = one((Accumulate { steps: 2 }, descent()));
    optimizer.step(&mut flat, &[f32::NAN]).unwrap();
    optimizer.step(&mut flat, &[1.0]).unwrap();
    assert!(flat[0].is_nan());
}

/// Two gradients that are finite, and a sum that is not.
#[test]
fn a_sum_that_overflows_is_not_kept() {
    let (mut flat, mut optimizer) = one((Accumulate { steps: 3 }, skipping(1.0), descent()));
    assert!(!optimizer.step(&mut flat, &[3e38]).unwrap().skipped);
    assert!(optimizer.step(&mut flat, &[3e38]).unwrap().skipped);
    assert_eq!(optimizer.state_of("accumulated"), Some(&[3e38][..]));
    assert!(!optimizer.step(&mut flat, &[-3e38]).unwrap().skipped);
    assert!(!optimizer.step(&mut flat, &[3.0]).unwrap().skipped);
    assert_eq!(flat, [-1.0]);
}

#[test]
fn the_norm_of_a_skipped_step_is_told() {
    let rule = (skipping(1.0), descent(), ClipNormPerLeaf::default());
    let (mut flat, mut optimizer) = one(rule);
    let report = optimizer.step(&mut flat, &[f32::INFINITY]).unwrap();
    assert!(report.skipped && report.clips[0].norm_before == f64::INFINITY);
    assert_eq!(report.leaf_clips, [vec![None]]);
    let report = optimizer.step(&mut flat, &[4.0]).unwrap();
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (4.0, 0.25)
    );
    assert_eq!(report.leaf_clips[0][0].unwrap().norm_before, 1.0);
}

#[test]
fn a_clipping_leaf_by_leaf_reports_every_leaf() {
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0], "c": [0.0] })).unwrap();
    let mut optimizer = Optimizer::new(ClipNormPerLeaf::default(), &layout).unwrap();
    optimizer.adjust("b", |rule| rule.max = 3.0).unwrap();
    optimizer.freeze("c").unwrap();
    let report = optimizer
        .step(&mut [0.0; 4], &[3.0, 4.0, 6.0, 1.0])
        .unwrap();
    assert!(report.clips.is_empty());
    let told = report.leaf_clips[0].iter().map(|clip| {
        let clip = clip.as_ref()?;
        Some((clip.norm_before, clip.norm_after, clip.scale))
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [Some((5.0, 1.0, 0.2)), Some((6.0, 3.0, 0.5)), None]);
}

#[test]
fn a_debiased_average_weighs_by_the_rates_that_there_were() {
    let ema = Ema {
        decay: 0.5,
        debias: true,
        ..Ema::default()
    };
    let (mut flat, mut optimizer) = one(((), ema));
    let mut to = |optimizer: &mut Optimizer<_>, x: f32| {
        let grad = [flat[0] - x];
        optimizer.step(&mut flat, &grad).unwrap();
    };
    to(&mut optimizer, 1.0);
    to(&mut optimizer, 2.0);
    optimizer.adjust("**", |(_, ema)| ema.decay = 0.9).unwrap();
    to(&mut optimizer, 3.0);
    assert_near(optimizer.state_of("average").unwrap(), &[1.425 / 0.775]);
}

#[test]
fn an_average_that_was_never_set_is_the_models_own_value() {
    let layout = Layout::of(&[7.0_f32]).unwrap();
    let rule = (Accumulate { steps: 2 }, descent(), Ema::default());
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut flat = [7.0];
    optimizer.step(&mut flat, &[1.0]).unwrap();
    assert_eq!(optimizer.state_over("average", &flat).unwrap(), [7.0]);
    assert_eq!(optimizer.step_count(""), Some(0));
    optimizer.step(&mut flat, &[3.0]).unwrap();
    assert_eq!(optimizer.state_over("average", &[1.0]).unwrap(), [5.0]);
    optimizer.reset_state("average", "**").unwrap();
    assert_eq!(optimizer.state_over("average", &[1.0]).unwrap(), [1.0]);
    assert_eq!(optimizer.step_count(""), Some(1));
}

#[test]
fn a_stage_or_a_leaf_begins_anew() {
    let layout = Layout::of(&tree!({ "a": [0.0], "b": [0.0] })).unwrap();
    let adam = Adam {
        lr: 0.5,
        ..Adam::default()
    };
    let mut optimizer = Optimizer::new((adam, Ema::default()), &layout).unwrap();
    let mut flat = [0.0; 2];
    for _ in 0..3 {
        optimizer.step(&mut flat, &[1.0, 1.0]).unwrap();
    }
    optimizer.reset("a").unwrap();
    optimizer.reset_state("exp_avg_sq", "b").unwrap();
    let (average, before) = (optimizer.state_of("average").unwrap().to_vec(), flat);
    assert!(average[0] == 0.0 && average[1] != 0.0);
    let counts = ["a", "b"].map(|path| optimizer.step_count(path));
    assert_eq!(counts, [Some(0), Some(3)]);
    // The first step of Adam is the rate, whatever the gradient.
    optimizer.step(&mut flat, &[0.25, 0.25]).unwrap();
    assert_near(&[flat[0] - before[0], flat[1] - before[1]], &[-0.5, -0.5]);
    assert_eq!(optimizer.state_of("average").unwrap()[0], flat[0]);

    let error = optimizer.reset_state("exp", "**").unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected the name of a state vector, found `exp`"
    );
    assert!(optimizer.reset("c").unwrap_err().is_pattern());
}

#[test]
fn leaves_are_selected_by_what_they_are() {
    let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [1.0], "g": [1.0] })).unwrap();
    let mut optimizer = Optimizer::new((AdamW::default(), Ema::default()), &layout).unwrap();
    let is_vector = |leaf: &flatleaf::Leaf| leaf.shape().len() < 2;
    optimizer
        .adjust_where(is_vector, |(adamw, _)| adamw.weight_decay = 0.0)
        .unwrap();
    let decays = ["w", "b", "g"].map(|path| optimizer.rule(path).unwrap().0.weight_decay);
    assert_eq!(decays, [0.01, 0.0, 0.0]);
    optimizer.freeze_where(is_vector).unwrap();
    optimizer.thaw_where(|leaf| leaf.path() == "g").unwrap();
    let frozen = ["w", "b", "g"].map(|path| optimizer.is_frozen(path));
    assert_eq!(frozen, [Some(false), Some(true), Some(false)]);

    let error = optimizer.freeze_where(|_| false).unwrap_err();
    assert!(error.is_argument());
    assert_eq!(
        error.to_string(),
        "expected a predicate that holds for a trainable leaf, found none of 3 for which it does"
    );
    let error = optimizer
        .adjust_where(is_vector, |(adamw, _)| adamw.lr = -1.0)
        .unwrap_err();
    assert_eq!(error.path(), Some("lr"));
    assert_eq!(optimizer.rule("b").unwrap().0.lr, 0.001);
}

/// How many configurations there are, which decides how fast a step is.
fn groups<R: Rule>(optimizer: &Optimizer<R>) -> String {
    let shown = format!("{optimizer:?}");
    shown.split(", ").nth(1).unwrap().to_owned()
}

#[test]
fn leaves_of_equal_configurations_are_one_group() {
    let model: Vec<Vec<f32>> = vec![vec![1.0; 2]; 16_000];
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(AdamW::default(), &layout).unwrap();
    let paths: Vec<String> = layout
        .leaves()
        .iter()
        .map(|leaf| leaf.path().into())
        .collect();
    for path in &paths {
        optimizer
            .adjust(path, |adamw| adamw.weight_decay = 0.0)
            .unwrap();
    }
    assert_eq!(groups(&optimizer), "2 groups");
    assert_eq!(optimizer.rule(&paths[7]).unwrap().weight_decay, 0.0);
    // Back again, and every other one: nothing is left over of a thousand schedules.
    for round in 1..=50 {
        for path in paths.iter().step_by(997) {
            optimizer
                .adjust(path, |adamw| adamw.lr = 1e-3 / f64::from(round))
                .unwrap();
        }
    }
    // The first one, that of most leaves, and two that leaves went between.
    assert_eq!(groups(&optimizer), "4 groups");
    optimizer.set_lr(0.5).unwrap();
    assert_eq!(groups(&optimizer), "1 groups");
    assert_eq!(optimizer.lr(), Some(0.5));
    optimizer
        .adjust(&paths[1], |adamw| adamw.lr = 0.25)
        .unwrap();
    assert_eq!(optimizer.lr(), None);
}

#[test]
fn an_absent_leaf_is_an_error_if_told_to() {
    let mut model = tree!({ "a": [1.0], "b": [1.0], "c": [1.0] });
    let mut optimizer = Optimizer::new(descent(), &Layout::of(&model).unwrap()).unwrap();
    optimizer.deny_absent(true);
    optimizer.freeze("c").unwrap();
    let error = optimizer
        .update(&mut model, &tree!({ "a": null, "c": [1.0] }))
        .unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["a", "b"]);
    let grads = tree!({ "a": [1.0], "b": [1.0], "c": null });
    assert_eq!(optimizer.update(&mut model, &grads).unwrap().leaves, 2);
    optimizer.deny_absent(false);
    assert_eq!(optimizer.update(&mut model, &tree!({})).unwrap().leaves, 0);
}

#[test]
fn a_slice_is_a_gradient_of_every_leaf() {
    let (mut flat, mut optimizer) = one(descent());
    optimizer.step(&mut flat, &vec![1.0]).unwrap();
    optimizer.step(&mut flat, &[2.0][..]).unwrap();
    assert_eq!(flat, [-3.0]);
    let error = optimizer.step(&mut flat, &[1.0, 2.0]).unwrap_err();
    assert!(error.is_length());
    assert_eq!(
        error.to_string(),
        "the flat gradient: expected 1 elements, found 2"
    );
}

/// A number elsewhere, which refuses to be written if it is told to.
#[derive(Clone, Default)]
struct Device {
    value: Rc<Cell<f32>>,
    is_gone: Rc<Cell<bool>>,
}

impl Tree for Device {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let reader = Reader::new(|out: &mut [f32]| {
            out[0] = self.value.get();
            Ok(())
        });
        visitor.leaf(LeafRef::from_reader(&[1], &reader))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let mut writer = Writer::new(|values: &[f32]| {
            if self.is_gone.get() {
                return Err(Error::custom("the device is gone"));
            }
            self.value.set(values[0]);
            Ok(())
        });
        visitor.leaf(LeafMut::from_writer(&[1], &mut writer))
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Ok(self.clone())
    }
}

#[test]
fn a_leaf_that_cannot_be_written_is_told_and_the_step_counts() {
    let device = Device::default();
    let mut model = (vec![0.0_f32], device.clone());
    let rule = Sgd {
        momentum: 0.5,
        ..descent()
    };
    let mut optimizer = Optimizer::new(rule, &Layout::of(&model).unwrap()).unwrap();
    let grads = (vec![1.0_f32], vec![1.0_f32]);
    device.is_gone.set(true);
    let error = optimizer.update(&mut model, &grads).unwrap_err();
    assert!(error.is_custom() && error.path() == Some("1"));
    let message = error.to_string();
    assert!(message.contains("the device is gone"), "{message}");
    assert_eq!((model.0[0], device.value.get()), (-1.0, 0.0));
    let counts = ["0", "1"].map(|path| optimizer.step_count(path));
    assert_eq!(counts, [Some(1); 2]);
    assert_eq!(optimizer.state_of("momentum_buffer"), Some(&[1.0, 1.0][..]));
    // It goes on with the next gradient, from where the leaf is.
    device.is_gone.set(false);
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!((model.0[0], device.value.get()), (-2.5, -1.5));
}
