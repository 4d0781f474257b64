//! Steps by the gradient of a loss that was multiplied: the bits of a step by the gradient of the loss
//! itself; what overflows is skipped and told, on every way in; and the scale goes PyTorch's way.

use std::fmt::Debug;

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, AdamW, ClipNorm, ClipNormPerLeaf, Lamb, LossScale, Optimizer, Rule, Sgd,
    StepReport, WeightDecay,
};
use flatleaf::{Communicator, FlatGrad, Layout, Result, Threads, Tree, tree};

use crate::common::bits;
use crate::lent::{leaves_of, slices_of};
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

const SGD: Sgd = Sgd {
    lr: 0.5,
    momentum: 0.0,
    dampening: 0.0,
    weight_decay: 0.0,
    nesterov: false,
};

fn layout() -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    Layout::of(&tree!({ "a": (zeros(37)), "b": (zeros(0)), "c": (zeros(1500)) })).unwrap()
}

/// PyTorch 2.9.1: `GradScaler("cpu", init_scale=8, growth_factor=3, backoff_factor=0.25,
/// growth_interval=3)` around SGD with a rate of 0.5 by the gradient 2, or one that is infinite.
#[test]
fn the_scale_goes_as_in_pytorch() {
    let expected = [
        (false, 8.0, 1, 0.0),
        (false, 8.0, 2, -1.0),
        (false, 24.0, 0, -2.0),
        (false, 24.0, 1, -3.0),
        (true, 6.0, 0, -3.0),
        (false, 6.0, 1, -4.0),
        (false, 6.0, 2, -5.0),
        (true, 1.5, 0, -5.0),
        (true, 0.375, 0, -5.0),
        (false, 0.375, 1, -6.0),
        (false, 0.375, 2, -7.0),
        (false, 1.125, 0, -8.0),
        (false, 1.125, 1, -9.0),
        (false, 1.125, 2, -10.0),
        (false, 3.375, 0, -11.0),
    ];
    let mut flat = [1.0_f32];
    let mut optimizer = Optimizer::new(SGD, &Layout::of(&flat).unwrap()).unwrap();
    let mut loss_scale = LossScale {
        scale: 8.0,
        growth_factor: 3.0,
        backoff_factor: 0.25,
        growth_interval: 3,
        ..LossScale::default()
    };
    for (overflows, scale, tracker, parameter) in expected {
        let grad = match overflows {
            true => f32::INFINITY,
            false => 2.0 * loss_scale.scale as f32,
        };
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        let report = scaled.step(&mut flat, &[grad]).unwrap();
        assert_eq!(report.overflow.is_some(), overflows);
        assert_eq!(
            (loss_scale.scale, loss_scale.growth_tracker),
            (scale, tracker)
        );
        assert_eq!(flat, [parameter]);
    }
}

struct AsUnscaled(f64);

impl AnyLaw for AsUnscaled {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let layout = layout();
        let mut flat = parameters(layout.len());
        let mut expected_flat = flat.clone();
        let mut scaled = Optimizer::new(rule.clone(), &layout).unwrap();
        let mut unscaled = scaled.clone();
        for step in 1..=4 {
            let mut loss_scale = LossScale {
                scale: self.0,
                ..LossScale::default()
            };
            let elements = gradient(layout.len(), step);
            let factor = (1.0 / self.0) as f32;
            let divided = elements.iter().map(|x| x * factor).collect();
            let mut grad = FlatGrad::from_flat(&layout, elements).unwrap();
            let mut divided = FlatGrad::from_flat(&layout, divided).unwrap();
            for grad in [&mut grad, &mut divided] {
                grad.set_present(0, step != 2);
            }
            let expected = unscaled.step(&mut expected_flat, &divided).unwrap();
            let mut scaled = scaled.with_loss_scale(&mut loss_scale);
            let found = scaled.step(&mut flat, &grad).unwrap();
            assert_eq!(found, expected, "{rule:?}, step {step}");
            assert_eq!(bits(&flat), bits(&expected_flat), "{rule:?}, step {step}");
        }
        for ((name, found), (_, expected)) in scaled.state().zip(unscaled.state()) {
            assert_eq!(bits(found), bits(expected), "{rule:?}, {name}");
        }
    }
}

#[test]
fn a_step_of_a_scaled_loss_is_that_of_the_divided_gradient() {
    rules::every_rule_and_chain(&AsUnscaled(1024.0));
    // A reciprocal that is rounded, as PyTorch's is.
    rules::chains(&AsUnscaled(3.0));
}

/// What a step that must not move has in its hands.
fn untouched<R: Rule + Debug>(
    rule: R,
    elements: Vec<f32>,
    step: impl FnOnce(&mut Optimizer<R>, &mut LossScale, &mut [f32], &FlatGrad) -> StepReport,
) {
    let layout = layout();
    let before = parameters(layout.len());
    let mut flat = before.clone();
    let mut optimizer = Optimizer::new(rule.clone(), &layout).unwrap();
    let finite = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
    optimizer.step(&mut flat, &finite).unwrap();
    let (flat_before, state_before) = (flat.clone(), optimizer.clone());
    let mut loss_scale = LossScale::default();
    let grad = FlatGrad::from_flat(&layout, elements).unwrap();
    let report = step(&mut optimizer, &mut loss_scale, &mut flat, &grad);
    assert_eq!(
        (report.skipped, report.overflow),
        (true, Some(2)),
        "{rule:?}"
    );
    assert_eq!((report.leaves, report.held_back), (0, 0));
    assert_eq!(loss_scale.scale, 32_768.0);
    assert_eq!(bits(&flat), bits(&flat_before), "{rule:?}");
    for ((_, found), (_, expected)) in optimizer.state().zip(state_before.state()) {
        assert_eq!(bits(found), bits(expected), "{rule:?}");
    }
    for leaf in layout.leaves() {
        let path = leaf.path();
        assert_eq!(optimizer.step_count(path), state_before.step_count(path));
    }
}

fn overflown(bad: f32) -> Vec<f32> {
    let mut elements = gradient(layout().len(), 2);
    elements[37 + 1400] = bad;
    elements
}

struct SkipsOverflow;

impl AnyLaw for SkipsOverflow {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            untouched(
                rule.clone(),
                overflown(bad),
                |optimizer, scale, flat, grad| {
                    optimizer.with_loss_scale(scale).step(flat, grad).unwrap()
                },
            );
        }
    }
}

/// Also behind a closed gate, and where a stage would have made an error of it.
#[test]
fn an_overflow_is_skipped_whatever_the_rule_says() {
    rules::every_rule_and_chain(&SkipsOverflow);
    let strict = ClipNorm {
        non_finite: NonFinite::Error,
        ..ClipNorm::default()
    };
    SkipsOverflow.holds((Accumulate { steps: 3 }, strict, SGD));
    let lenient = ClipNorm {
        non_finite: NonFinite::Propagate,
        ..ClipNorm::default()
    };
    SkipsOverflow.holds((lenient, SGD));
    SkipsOverflow.holds((WeightDecay { weight_decay: 0.1 }, strict, SGD));
    SkipsOverflow.holds((ClipNormPerLeaf::default(), Lamb::default()));
}

#[test]
fn an_overflow_is_skipped_on_every_way_in() {
    let rule = (ClipNorm::default(), AdamW::default());
    let layout = layout();
    let as_tree = |flat: &[f32]| {
        let leaves = leaves_of(&layout, flat);
        tree!({ "a": (leaves[0].clone()), "b": (leaves[1].clone()), "c": (leaves[2].clone()) })
    };
    untouched(rule, overflown(f32::NAN), |optimizer, scale, flat, grad| {
        let mut model = as_tree(flat);
        let mut scaled = optimizer.with_loss_scale(scale);
        let report = scaled.update(&mut model, &as_tree(grad)).unwrap();
        assert_eq!(model, as_tree(flat));
        report
    });
    untouched(rule, overflown(f32::NAN), |optimizer, scale, flat, grad| {
        let mut model = as_tree(flat);
        let mut scaled = optimizer.with_loss_scale(scale);
        let report = scaled.update_with_master(&mut model, flat, &as_tree(grad));
        assert_eq!(model, as_tree(flat));
        report.unwrap()
    });
    untouched(rule, overflown(f32::NAN), |optimizer, scale, _, grad| {
        let mut scaled = optimizer.with_loss_scale(scale);
        let report = scaled.update_each(&slices_of(grad), |_, _| panic!("nothing is lent"));
        report.unwrap()
    });
    untouched(rule, overflown(f32::NAN), |optimizer, scale, _, grad| {
        let mut scaled = optimizer.with_loss_scale(scale);
        let report = scaled.update_along(&slices_of(grad), |_| panic!("nothing is walked"));
        report.unwrap()
    });
}

/// The norm that clipping measures tells of the overflow, so the gradient is read once.
#[test]
fn the_report_has_the_norm_that_was_measured() {
    let mut flat = [1.0_f32, 1.0];
    let layout = Layout::of(&flat).unwrap();
    let mut optimizer = Optimizer::new((ClipNorm::default(), SGD), &layout).unwrap();
    let mut loss_scale = LossScale {
        scale: 2.0,
        ..LossScale::default()
    };
    let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    let report = scaled.step(&mut flat, &[f32::INFINITY, 0.0]).unwrap();
    assert_eq!(report.clips[0].norm_before, f64::INFINITY);
    let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    let report = scaled.step(&mut flat, &[3.0, 4.0]).unwrap(); // at a scale of 1
    assert_eq!(report.clips[0].norm_before, 5.0);
}

/// What an `Accumulate` keeps has been divided: the scale may change within a window.
#[test]
fn a_window_takes_gradients_of_several_scales() {
    let mut flat = [0.0_f32];
    let layout = Layout::of(&flat).unwrap();
    let rule = (Accumulate { steps: 2 }, Sgd { lr: 1.0, ..SGD });
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut loss_scale = LossScale {
        scale: 8.0,
        ..LossScale::default()
    };
    for (grad, held_back, scale) in [(8.0, 1, 8.0), (f32::NAN, 0, 4.0), (12.0, 0, 4.0)] {
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        let report = scaled.step(&mut flat, &[grad]).unwrap();
        assert_eq!((report.held_back, loss_scale.scale), (held_back, scale));
    }
    assert_eq!(flat, [-2.0]); // the mean of 1 and 3
}

#[test]
fn an_overflow_at_the_least_scale_is_an_error_and_changes_nothing() {
    let mut flat = [1.0_f32];
    let mut optimizer = Optimizer::new(SGD, &Layout::of(&flat).unwrap()).unwrap();
    let mut loss_scale = LossScale {
        scale: 2.0,
        min_scale: 1.0,
        ..LossScale::default()
    };
    let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    assert!(scaled.step(&mut flat, &[f32::NAN]).unwrap().skipped);
    let before = loss_scale;
    let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    let error = scaled.step(&mut flat, &[f32::NAN]).unwrap_err();
    assert!(error.is_non_finite());
    assert_eq!(
        error.to_string(),
        "the root: expected a finite gradient at the least loss scale (a loss that overflows whatever it \
         is multiplied with is seldom a matter of its scale: look at the loss, or lower `min_scale`), \
         found one that is infinite or NaN, at the scale 1"
    );
    assert_eq!((loss_scale, flat), (before, [1.0]));
    // One that may fall for ever ends where no f32 is left.
    loss_scale.min_scale = 0.0;
    let steps = (0..).take_while(|_| {
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        scaled.step(&mut flat, &[f32::NAN]).is_ok()
    });
    assert_eq!(steps.count(), 149); // 2⁻¹⁴⁹ is the least f32
}

#[test]
fn the_scale_grows_no_further_than_an_f32() {
    let mut flat = [1.0_f32];
    let mut optimizer = Optimizer::new(SGD, &Layout::of(&flat).unwrap()).unwrap();
    let mut loss_scale = LossScale {
        scale: 2.0_f64.powi(126),
        growth_interval: 1,
        ..LossScale::default()
    };
    for _ in 0..3 {
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        scaled.step(&mut flat, &[0.0]).unwrap();
    }
    let end = (loss_scale.scale, loss_scale.growth_tracker);
    assert_eq!(end, (2.0_f64.powi(127), 0));
}

#[test]
fn fields_that_make_no_sense_are_errors_that_name_them() {
    let right = LossScale::default();
    let wrong = [
        (
            "scale",
            LossScale {
                scale: 0.0,
                ..right
            },
        ),
        (
            "scale",
            LossScale {
                scale: f64::NAN,
                ..right
            },
        ),
        (
            "scale",
            LossScale {
                scale: 1e39,
                ..right
            },
        ),
        (
            "growth_factor",
            LossScale {
                growth_factor: 0.5,
                ..right
            },
        ),
        (
            "growth_factor",
            LossScale {
                growth_factor: f64::INFINITY,
                ..right
            },
        ),
        (
            "backoff_factor",
            LossScale {
                backoff_factor: 1.0,
                ..right
            },
        ),
        (
            "backoff_factor",
            LossScale {
                backoff_factor: 0.0,
                ..right
            },
        ),
        (
            "growth_interval",
            LossScale {
                growth_interval: 0,
                ..right
            },
        ),
        (
            "min_scale",
            LossScale {
                min_scale: -1.0,
                ..right
            },
        ),
        (
            "min_scale",
            LossScale {
                min_scale: f64::NAN,
                ..right
            },
        ),
    ];
    let mut flat = [1.0_f32];
    let mut optimizer = Optimizer::new(SGD, &Layout::of(&flat).unwrap()).unwrap();
    for (field, mut loss_scale) in wrong {
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        let error = scaled.step(&mut flat, &[1.0]).unwrap_err();
        assert_eq!((error.is_argument(), error.path()), (true, Some(field)));
    }
    assert_eq!((flat, optimizer.step_count("")), ([1.0], Some(0)));
}

/// An error of the step leaves the scale alone.
#[test]
fn a_step_that_is_refused_does_not_count() {
    let mut flat = [1.0_f32];
    let mut optimizer = Optimizer::new(SGD, &Layout::of(&flat).unwrap()).unwrap();
    let mut loss_scale = LossScale::default();
    let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
    assert!(scaled.step(&mut flat, &[1.0, 2.0]).unwrap_err().is_length());
    assert_eq!(loss_scale, LossScale::default());
}

/// Sharded and replicated: the bits of one member, and all skip what overflows on any.
#[test]
fn members_skip_together_and_divide_alike() {
    let layout = layout();
    let run = |size: usize, is_sharded: bool| {
        Threads::run(size, |member| -> Result<(Vec<u32>, LossScale)> {
            let mut flat = parameters(layout.len());
            let rule = (ClipNorm::default(), AdamW::default());
            let range = match is_sharded {
                true => layout.shards(size)[member.rank()].clone(),
                false => 0..layout.len(),
            };
            let mut optimizer = Optimizer::of_range(rule, &layout, range)?;
            let mut loss_scale = LossScale::default();
            for step in 1..=4 {
                let mut elements = gradient(layout.len(), step);
                if step == 2 && member.rank() == size - 1 {
                    elements[1] = f32::INFINITY;
                }
                let mut grad = FlatGrad::from_flat(&layout, elements)?;
                let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
                let report = scaled.step_with(member, &mut flat, &mut grad)?;
                assert_eq!(report.overflow, (step == 2).then_some(0));
            }
            Ok((bits(&flat), loss_scale))
        })
    };
    let expected = run(1, false).remove(0).unwrap();
    assert_eq!(expected.1.scale, 32_768.0);
    for (size, is_sharded) in [(2, false), (2, true), (4, true)] {
        for found in run(size, is_sharded) {
            assert!(found.unwrap() == expected, "{size} members");
        }
    }
}

#[test]
fn members_of_other_scales_do_not_step_together() {
    let layout = layout();
    let errors = Threads::run(2, |member| {
        let mut flat = parameters(layout.len());
        let mut optimizer = Optimizer::new(SGD, &layout).unwrap();
        let mut loss_scale = LossScale {
            scale: [2.0, 4.0][member.rank()],
            ..LossScale::default()
        };
        let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        scaled.step_with(member, &mut flat, &mut grad).unwrap_err()
    });
    assert!(errors.iter().all(|error| error.is_member()));
}

/// A run that is stored with its scale goes on as it would have.
#[cfg(feature = "serde")]
#[test]
fn a_stored_scale_goes_on() {
    let loss_scale = LossScale {
        scale: 1024.0,
        growth_tracker: 17,
        ..LossScale::default()
    };
    let stored = serde_json::to_string(&loss_scale).unwrap();
    let read: LossScale = serde_json::from_str(&stored).unwrap();
    assert_eq!(read, loss_scale);
    // A file that does not know a field yet has its default.
    let read: LossScale =
        serde_json::from_str(r#"{"scale": 1024.0, "growth_tracker": 17}"#).unwrap();
    assert_eq!(read, loss_scale);
    assert!(serde_json::from_str::<LossScale>(r#"{"grows": 2}"#).is_err());
}

/// A tree is no less of a model for being moved by a scaled loss.
#[test]
fn trees_of_any_kind_are_moved() {
    fn moved<T: Tree + Clone>(model: &T, grads: &T) -> T {
        let mut model = model.clone();
        let mut optimizer = Optimizer::new(SGD, &Layout::of(&model).unwrap()).unwrap();
        let mut loss_scale = LossScale {
            scale: 4.0,
            ..LossScale::default()
        };
        let mut scaled = optimizer.with_loss_scale(&mut loss_scale);
        scaled.update(&mut model, grads).unwrap();
        model
    }
    let model = (vec![1.0_f32], [2.0_f32]);
    assert_eq!(moved(&model, &(vec![8.0], [4.0])), (vec![0.0], [1.5]));
}
