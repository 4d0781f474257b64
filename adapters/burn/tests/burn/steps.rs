//! Steps of flatleaf's rules on a module.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn_core::module::{Module, Param};
use burn_core::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{AdamWConfig, GradientsParams};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{Adam, AdamW, ClipNorm, Ema, Kernel, Lamb, Optimizer, Rule, Sgd, each};
use flatleaf_burn::Flat;

use crate::models::{Mlp, Pair, Tied, addresses, device, fixed_value, grads_of, parameter};

fn sgd(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Default::default()
    }
}

#[test]
fn the_gradient_is_clipped_by_the_norm_of_the_whole_model() {
    let mut model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        sgd(1.0),
    );
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let grads = grads_of([(&model.a, vec![3.0]), (&model.b, vec![4.0])]);
    let report = flat.step(&mut optimizer, &mut model, grads).unwrap();
    assert_eq!(model.values(), [-0.6, -0.8]);
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (5.0, 0.2)
    );
}

#[test]
fn a_parameter_without_a_gradient_stays_and_its_steps_are_not_counted() {
    let mut model = Pair::of(1.0, 1.0);
    let flat = Flat::of(&model).unwrap();
    let rule = AdamW {
        weight_decay: 0.5,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let grads = grads_of([(&model.a, vec![1.0])]);
    let report = flat.step(&mut optimizer, &mut model, grads).unwrap();
    assert_eq!((report.leaves, model.values()[1]), (1, 1.0));
    assert_eq!(optimizer.step_count("b"), Some(0));
    assert_eq!(optimizer.step_count("a"), Some(1));
}

#[test]
fn adam_counts_the_steps_of_each_parameter() {
    let mut model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let rule = Adam {
        lr: 0.1,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    for has_gradient in [true, false, true] {
        let mut grads = grads_of([(&model.b, vec![1.0])]);
        if has_gradient {
            grads.register(model.a.id, Tensor::<1>::from_floats([1.0], &Device::flex()));
        }
        flat.step(&mut optimizer, &mut model, grads).unwrap();
    }
    assert!(
        (model.values()[0] + 0.2).abs() < 1e-6,
        "{:?}",
        model.values()
    );
}

#[test]
fn ten_steps_of_adamw_are_ten_steps_of_burns() {
    // burn's defaults are other than PyTorch's and flatleaf's.
    let defaults = AdamWConfig::new().to_string();
    assert!(
        defaults.contains("0.00001") && defaults.contains("0.0001"),
        "{defaults}"
    );
    // A decay that ten steps show.
    let rule = AdamW {
        lr: 1e-2,
        eps: 1e-5,
        weight_decay: 0.1,
        ..Default::default()
    };
    let mut ours = Mlp::of(&[6, 5, 4]);
    let mut theirs = ours.clone();
    let flat = Flat::of(&ours).unwrap();
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let mut adamw = AdamWConfig::new().with_weight_decay(0.1).init();
    let input: Vec<f32> = (0..8 * 6).map(fixed_value).collect();
    let input = Tensor::<2>::from_data(TensorData::new(input, [8, 6]), &device());
    let grads = |model: &Mlp| {
        let loss = model.forward(input.clone()).powi_scalar(2).mean();
        GradientsParams::from_grads(loss.backward(), model)
    };
    for _ in 0..10 {
        let ours_grads = grads(&ours);
        flat.step(&mut optimizer, &mut ours, ours_grads).unwrap();
        let theirs_grads = grads(&theirs);
        theirs = adamw.step(1e-2, theirs, theirs_grads);
    }
    let (ours, theirs) = (flat.flatten(&ours).unwrap(), flat.flatten(&theirs).unwrap());
    let difference: Vec<f32> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
    let relative = norm_l2(&difference) / norm_l2(&theirs);
    // A decay that is another by one percent makes 1e-4.
    assert!(relative < 1e-5, "{relative}");
}

#[test]
fn storages_stay_where_they_are() {
    let mut model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(AdamW::default(), flat.layout()).unwrap();
    model.loss(); // lazy parameters
    let before = addresses(&model);
    for _ in 0..3 {
        let grads = model.grads();
        flat.step(&mut optimizer, &mut model, grads).unwrap();
    }
    // The statistics are burn's, and new with every forward pass.
    let parameters = [0, 1, 2, 5, 6, 7, 8];
    let after = addresses(&model);
    for place in parameters {
        assert_eq!(after[place], before[place], "{place}");
    }
}

#[test]
fn a_step_on_the_module_has_the_bits_of_one_on_the_vector() {
    let rule = || {
        (
            ClipNorm {
                max: 0.1,
                ..Default::default()
            },
            Lamb::default(),
            Ema::default(),
        )
    };
    let mut model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(rule(), flat.layout()).unwrap();
    let mut on_vector = Optimizer::new(rule(), flat.layout()).unwrap();
    let mut vector = flat.flatten(&model).unwrap();
    for _ in 0..3 {
        let grads = model.grads();
        let grad = flat.flatten_grads(&model, &grads).unwrap();
        let expected = on_vector.step(&mut vector, &grad).unwrap();
        let report = flat.step(&mut optimizer, &mut model, grads).unwrap();
        assert_eq!(report, expected);
        assert_eq!(flat.flatten(&model).unwrap(), vector);
    }
    assert_eq!(optimizer.state_of("average"), on_vector.state_of("average"));
}

#[test]
fn a_gradient_that_is_not_finite_names_its_parameter_and_moves_nothing() {
    let mut model = Pair::of(1.0, 2.0);
    let flat = Flat::of(&model).unwrap();
    let rule = (ClipNorm::default(), sgd(1.0));
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let grads = grads_of([(&model.a, vec![1.0]), (&model.b, vec![f32::NAN])]);
    let error = flat.step(&mut optimizer, &mut model, grads).unwrap_err();
    assert!(error.is_non_finite(), "{error}");
    assert_eq!(error.path(), Some("b"));
    assert_eq!(model.values(), [1.0, 2.0]);
    assert_eq!(optimizer.step_count("a"), Some(0));

    let grads = grads_of([(&model.b, vec![1.0, 1.0])]);
    let error = flat.step(&mut optimizer, &mut model, grads).unwrap_err();
    assert!(error.is_shape(), "{error}");
    assert_eq!(error.path(), Some("b"));
    assert_eq!(model.values(), [1.0, 2.0]);
}

#[test]
fn a_nan_spreads_in_burn_without_an_error() {
    let model = Mlp::of(&[5, 4, 2]);
    let theirs = model.clone();
    let flat = Flat::of(&model).unwrap();
    assert_eq!(flat.layout().len(), 34);
    let input = Tensor::<2>::full([1, 5], f32::NAN, &device());
    let loss = theirs.forward(input).sum();
    let grads = GradientsParams::from_grads(loss.backward(), &theirs);
    let theirs = AdamWConfig::new().init().step(0.1, theirs, grads);
    let values = flat.flatten(&theirs).unwrap();
    assert!(values.iter().filter(|x| x.is_nan()).count() > 20);
}

#[test]
fn a_step_goes_on_from_views_of_one_vector() {
    let mut model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(sgd(1.0), flat.layout()).unwrap();
    flat.unflatten(&mut model, vec![1.0, 2.0]).unwrap();
    let mut before = addresses(&model);
    for step in 0..3 {
        let grads = grads_of([(&model.a, vec![1.0]), (&model.b, vec![1.0])]);
        flat.step(&mut optimizer, &mut model, grads).unwrap();
        // Once, each gets a storage of its own.
        let after = addresses(&model);
        assert_eq!(after == before, step > 0);
        before = after;
    }
    assert_eq!(model.values(), [-2.0, -1.0]);
}

#[test]
fn a_module_that_has_loaded_a_record_has_other_ids_and_goes_on() {
    let mut model = Pair::of(1.0, 1.0);
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(sgd(0.5), flat.layout()).unwrap();
    let other = Pair::of(3.0, 4.0);
    model = model.load_record(other.into_record());
    let grads = grads_of([(&model.a, vec![2.0]), (&model.b, vec![2.0])]);
    flat.step(&mut optimizer, &mut model, grads).unwrap();
    assert_eq!(model.values(), [2.0, 3.0]);
}

/// Moves by the gradient, and panics where a parameter is 7.
#[derive(Clone, PartialEq)]
struct Touchy;

impl Rule for Touchy {
    fn kernel(&self, _step: u64) -> impl Kernel {
        each(|x, dx, []| {
            assert!(x != 7.0, "seven");
            dx
        })
    }
}

#[test]
fn a_module_is_whole_after_a_rule_panics_and_the_next_step_goes_on() {
    let tie = parameter([3.0]);
    let mut model = vec![parameter([1.0]), parameter([7.0]), tie.clone(), tie];
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Touchy, flat.layout()).unwrap();
    let ones = |model: &[Param<Tensor<1>>]| grads_of([0, 1, 2].map(|n| (&model[n], vec![1.0])));
    let counts = |optimizer: &Optimizer<Touchy>| {
        ["0", "1", "2"].map(|path| optimizer.step_count(path).unwrap())
    };

    let before = addresses(&model);
    let grads = ones(&model);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        flat.step(&mut optimizer, &mut model, grads)
    }));
    let panic = panicked.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"seven"));
    // The first had moved; the others are as they were, where they were, at all of their places.
    assert_eq!(flat.flatten(&model).unwrap(), [0.0, 7.0, 3.0]);
    assert_eq!(addresses(&model), before);
    assert_eq!(counts(&optimizer), [1, 0, 0]);
    assert!(model.iter().all(|param| param.is_require_grad()));

    flat.unflatten(&mut model, &[0.0, 5.0, 3.0][..]).unwrap();
    let grads = ones(&model);
    flat.step(&mut optimizer, &mut model, grads).unwrap();
    assert_eq!(flat.flatten(&model).unwrap(), [-1.0, 4.0, 2.0]);
    assert_eq!(counts(&optimizer), [2, 1, 1]);
    assert_eq!(addresses(&model), before);
}

#[test]
fn a_module_that_has_changed_since_it_was_planned_is_refused_and_has_not_moved() {
    let mut model = Pair::of(1.0, 2.0);
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(sgd(1.0), flat.layout()).unwrap();
    let grads = |model: &Pair| grads_of([(&model.a, vec![1.0]), (&model.b, vec![1.0])]);
    let grads_now = grads(&model);
    flat.step(&mut optimizer, &mut model, grads_now).unwrap();
    assert_eq!(model.values(), [0.0, 1.0]);

    // Of other shape, in the middle of a run: its id is the one that it had.
    let mut longer = model.clone();
    longer.b = longer
        .b
        .map(|b| Tensor::cat(vec![b.clone(), b], 0).detach().require_grad());
    let error = flat
        .step(&mut optimizer, &mut longer, grads(&model))
        .unwrap_err();
    assert_eq!(
        (error.is_shape(), error.path()),
        (true, Some("b")),
        "{error}"
    );
    assert_eq!(longer.a.val().into_scalar::<f32>(), 0.0);

    let mut wider = model.clone();
    wider.b = wider.b.map(|b| b.cast(DType::F64).detach().require_grad());
    let error = flat
        .step(&mut optimizer, &mut wider, grads(&model))
        .unwrap_err();
    assert_eq!(
        (error.is_element_type(), error.path()),
        (true, Some("b")),
        "{error}"
    );
    assert_eq!(wider.a.val().into_scalar::<f32>(), 0.0);
    assert_eq!(optimizer.step_count("a"), Some(1));

    // The module that is as it was goes on.
    let grads_now = grads(&model);
    flat.step(&mut optimizer, &mut model, grads_now).unwrap();
    assert_eq!(model.values(), [-1.0, 0.0]);
}

#[test]
fn modules_of_two_types_take_turns() {
    let mut list = vec![parameter([1.0]), parameter([2.0])];
    let mut pair = (parameter([3.0]), parameter([4.0]));
    let flat = Flat::of(&list).unwrap();
    let mut optimizer = Optimizer::new(sgd(1.0), flat.layout()).unwrap();
    for _ in 0..2 {
        let grads = grads_of([(&list[0], vec![1.0]), (&list[1], vec![1.0])]);
        flat.step(&mut optimizer, &mut list, grads).unwrap();
        let grads = grads_of([(&pair.0, vec![1.0]), (&pair.1, vec![1.0])]);
        flat.step(&mut optimizer, &mut pair, grads).unwrap();
    }
    assert_eq!(flat.flatten(&list).unwrap(), [-1.0, 0.0]);
    assert_eq!(flat.flatten(&pair).unwrap(), [1.0, 2.0]);
}

#[test]
fn running_statistics_are_those_of_before_the_step() {
    let mut model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(sgd(0.1), flat.layout()).unwrap();
    for _ in 0..2 {
        let grads = model.grads();
        let mean = || model.norm.running_mean.value_sync().into_data();
        let before = mean();
        flat.step(&mut optimizer, &mut model, grads).unwrap();
        let after = model.norm.running_mean.value_sync().into_data();
        after.assert_eq(&before, true);
    }
}
