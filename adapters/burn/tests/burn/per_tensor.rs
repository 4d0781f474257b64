//! A rule of flatleaf in burn's own training loop.

use std::f64::consts::PI;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn_core::module::{Module, Param};
use burn_core::tensor::{DType, Tensor};
use burn_optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn_optim::lr_scheduler::exponential::ExponentialLrSchedulerConfig;
use burn_optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn_optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{
    Accumulate, AdamW, ClipNorm, ClipNormPerLeaf, Ema, Kernel, Lamb, Lion, Optimizer, Rule, Sgd,
    scale_by_global_norm,
};
use flatleaf_burn::{Flat, PerTensor};

use crate::models::{Mlp, Pair, Tied, addresses, device};

fn grads(model: &Mlp) -> GradientsParams {
    let input = Tensor::<2>::ones([2, 4], &device());
    let loss = model.forward(input).powi_scalar(2).mean();
    GradientsParams::from_grads(loss.backward(), model)
}

#[test]
fn it_takes_the_steps_of_flat_with_the_rates_of_burns_schedule() {
    let rule = (ClipNormPerLeaf::default(), Lamb::default());
    let mut ours = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&ours).unwrap();
    let mut theirs = ours.clone();
    flat.unflatten(&mut theirs, &flat.flatten(&ours).unwrap()[..])
        .unwrap();
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let mut module_optimizer: ModuleOptimizer = PerTensor::of(rule, &theirs).unwrap().into();
    let schedule = || {
        CosineAnnealingLrSchedulerConfig::new(0.1, 5)
            .init()
            .unwrap()
    };
    let (mut rates, mut same_rates) = (schedule(), schedule());

    let before = addresses(&theirs);
    for _ in 0..5 {
        optimizer.set_lr(rates.step().base()).unwrap();
        let our_grads = grads(&ours);
        flat.step(&mut optimizer, &mut ours, our_grads).unwrap();
        let their_grads = grads(&theirs);
        theirs = module_optimizer.step(same_rates.step(), theirs, their_grads);
    }
    assert_eq!(flat.flatten(&theirs).unwrap(), flat.flatten(&ours).unwrap());
    assert_eq!(addresses(&theirs), before);
}

#[test]
fn burns_records_keep_its_state_to_the_bit() {
    let mut model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    let new =
        |model: &Mlp| -> ModuleOptimizer { PerTensor::of(AdamW::default(), model).unwrap().into() };
    let mut optimizer = new(&model);
    for _ in 0..3 {
        let step_grads = grads(&model);
        model = optimizer.step(0.1, model, step_grads);
    }
    let bytes = optimizer.into_bytes().unwrap();
    let mut resumed = new(&model).from_bytes(bytes).unwrap();

    let stepped = |optimizer: &mut ModuleOptimizer| {
        let model = optimizer.step(0.1, model.clone(), grads(&model));
        flat.flatten(&model).unwrap()
    };
    assert_eq!(stepped(&mut resumed), stepped(&mut optimizer));
}

#[test]
fn what_needs_more_than_a_tensor_is_refused() {
    let model = Pair::of(1.0, 2.0);
    let error = PerTensor::of((ClipNorm::default(), AdamW::default()), &model).unwrap_err();
    assert!(
        error.to_string().contains("the norm of the whole model"),
        "{error}"
    );
    let error = PerTensor::of((AdamW::default(), Ema::default()), &model).unwrap_err();
    assert!(error.to_string().contains("`Flat::average`"), "{error}");
    let error = PerTensor::of(AdamW::default(), &Tied::new()).unwrap_err();
    assert!(error.to_string().contains("`embed`, `head`"), "{error}");
    let error = PerTensor::of(AdamW::default(), &model.valid()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a float that requires a gradient"),
        "{error}"
    );
}

/// Steps of length 1: a norm of the whole model that no clip takes.
#[derive(Clone, PartialEq)]
struct Normalised;

impl Rule for Normalised {
    fn kernel(&self, _step: u64) -> impl Kernel {
        scale_by_global_norm(|dx| 1.0 / dx)
    }
}

#[test]
fn a_rule_of_ones_own_that_asks_for_the_norm_of_the_model_is_refused() {
    let model = Pair::of(1.0, 2.0);
    let error = PerTensor::of(Normalised, &model).map(drop).unwrap_err();
    assert!(
        error.to_string().contains("the norm of the whole model"),
        "{error}"
    );
    // Where no step comes to it for a while too.
    let rule = (Accumulate { steps: 100 }, Normalised, AdamW::default());
    assert!(PerTensor::of(rule, &model).is_err());
}

#[test]
fn a_parameter_of_f64_is_refused_before_any_step() {
    let tensor = Tensor::<1>::ones([2], (&device(), DType::F64));
    let param = vec![Param::from_tensor(tensor.require_grad())];
    let error = PerTensor::of(AdamW::default(), &param)
        .map(drop)
        .unwrap_err();
    assert!(error.is_element_type(), "{error}");
    assert_eq!(error.path(), Some("0"), "{error}");
}

/// What burn's checkpointer hands to who has changed the optimiser between two runs. burn itself
/// passes by in silence what it cannot take, and starts anew.
#[test]
fn a_record_of_another_optimiser_is_refused_at_the_next_step() {
    let model = Mlp::of(&[4, 3, 2]);
    let record_after_a_step = |mut optimizer: ModuleOptimizer| {
        let _ = optimizer.step(0.1, model.clone(), grads(&model));
        optimizer.to_record()
    };
    let momentum = Sgd {
        momentum: 0.9,
        ..Default::default()
    };
    let of_burns = record_after_a_step(AdamWConfig::new().init());
    let of_adamw = PerTensor::of(AdamW::default(), &model).unwrap();
    let of_adamw = record_after_a_step(of_adamw.into());
    // Of one vector, as Lion's is, which has another meaning.
    let of_sgd = record_after_a_step(PerTensor::of(momentum, &model).unwrap().into());
    let lion = || -> ModuleOptimizer { PerTensor::of(Lion::default(), &model).unwrap().into() };
    for record in [of_burns, of_adamw, of_sgd] {
        // It is no other when it has been written once more.
        let mut optimizer = lion().load_record(lion().load_record(record).to_record());
        let stepping = || optimizer.step(0.1, model.clone(), grads(&model));
        let panic = catch_unwind(AssertUnwindSafe(stepping)).map(drop);
        let message = *panic.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("of another rule"), "{message}");
    }
}

#[test]
fn what_is_refused_in_a_step_is_said_with_the_parameters_shape() {
    let model = Mlp::of(&[4, 3, 2]);
    let rule = (ClipNormPerLeaf::default(), AdamW::default());
    let mut optimizer: ModuleOptimizer = PerTensor::of(rule, &model).unwrap().into();
    let loss = model.forward(Tensor::full([2, 4], f32::NAN, &device()));
    let grads = GradientsParams::from_grads(loss.sum().backward(), &model);
    let stepping = || optimizer.step(0.1, model.clone(), grads);
    let panic = catch_unwind(AssertUnwindSafe(stepping)).map(drop);
    assert_eq!(
        *panic.unwrap_err().downcast::<String>().unwrap(),
        "a parameter of shape [4, 3]: expected finite elements, found NaN at index 0"
    );
}

/// What burn's `Learner` does in a step, from its source: the schedule, then `TrainStep::optimize`
/// on a clone of its model. Who overrides that clips by the norm of the whole model there.
#[test]
fn the_steps_of_burns_learner_with_a_clip_are_those_of_a_chain() {
    let (max, rule) = (0.1, AdamW::default());
    let mut learned = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&learned).unwrap();
    let mut ours = learned.valid().train();
    let mut module_optimizer: ModuleOptimizer = PerTensor::of(rule, &learned).unwrap().into();
    let clip = ClipNorm {
        max,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new((clip, rule), flat.layout()).unwrap();
    let config = CosineAnnealingLrSchedulerConfig::new(0.1, 6);
    let (mut schedule, mut same_rates) = (config.init().unwrap(), config.init().unwrap());
    for step in 0..6 {
        let mut learned_grads = grads(&learned);
        let rate = schedule.step();
        let clipped = flat.clip_norm(&learned, &mut learned_grads, max).unwrap();
        learned = module_optimizer.step(rate, learned.clone(), learned_grads);
        // In the middle it stops, and goes on from records, as its checkpointer has it.
        if step == 2 {
            learned = Mlp::of(&[4, 3, 2]).load_record(learned.into_record());
            let fresh: ModuleOptimizer = PerTensor::of(rule, &learned).unwrap().into();
            module_optimizer = fresh.load_record(module_optimizer.to_record());
        }
        optimizer.set_lr(same_rates.step().base()).unwrap();
        let our_grads = grads(&ours);
        let report = flat.step(&mut optimizer, &mut ours, our_grads).unwrap();
        assert!((report.clips[0].norm_before - clipped.norm_before).abs() < 1e-6);
    }
    let (learned, ours) = (
        flat.flatten(&learned).unwrap(),
        flat.flatten(&ours).unwrap(),
    );
    let difference: Vec<f32> = learned.iter().zip(&ours).map(|(a, b)| a - b).collect();
    assert!(norm_l2(&difference) < 1e-6 * norm_l2(&ours));
}

/// As whoever finds the rate too high does: all goes on from the files, by a schedule with another
/// peak.
#[test]
fn another_peak_rate_acts_from_the_first_step_after_a_resume_and_moments_go_on() {
    const STEPS: usize = 6;
    let rule = AdamW::default();
    let mut learned = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&learned).unwrap();
    let mut ours = learned.valid().train();
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let new_of = |model: &Mlp| -> ModuleOptimizer { PerTensor::of(rule, model).unwrap().into() };
    let mut module_optimizer = new_of(&learned);
    let cosine = |peak| {
        let config = CosineAnnealingLrSchedulerConfig::new(peak, STEPS);
        config.init().unwrap()
    };
    let (mut peak, mut schedule) = (0.1, cosine(0.1));
    for step in 0..STEPS {
        if step == STEPS / 2 {
            learned = Mlp::of(&[4, 3, 2]).load_record(learned.into_record());
            module_optimizer = new_of(&learned).load_record(module_optimizer.to_record());
            peak = 0.02;
            schedule = cosine(peak).load_record(schedule.to_record());
        }
        let learned_grads = grads(&learned);
        learned = module_optimizer.step(schedule.step(), learned, learned_grads);

        // Without a stop, by the formula: where the new cosine is at this step, not its beginning.
        let cos = (step as f64 / STEPS as f64 * PI).cos();
        optimizer.set_lr(0.5 * peak * (1.0 + cos)).unwrap();
        let our_grads = grads(&ours);
        flat.step(&mut optimizer, &mut ours, our_grads).unwrap();
        let (learned, ours) = (flat.flatten(&learned), flat.flatten(&ours));
        assert_eq!(learned.unwrap(), ours.unwrap(), "step {step}");
    }
}

/// Of all schedules of burn, this one keeps its rate in its record, which is no matter of the
/// optimiser.
#[test]
fn burns_exponential_schedule_goes_on_at_its_old_rate_whatever_the_new_one_is() {
    let of = |rate| ExponentialLrSchedulerConfig::new(rate, 0.5).init().unwrap();
    let mut schedule = of(0.1);
    schedule.step();
    let mut resumed = of(0.001).load_record(schedule.to_record());
    assert_eq!(resumed.step().base(), schedule.step().base());
}

/// As the README says of schedules in a resume; nothing of it is the optimiser's.
#[test]
fn burns_linear_schedule_counts_what_is_left_and_one_of_another_kind_begins_anew() {
    let linear = |steps| {
        let config = LinearLrSchedulerConfig::new(0.5, 0.0, steps);
        config.init().unwrap()
    };
    let mut schedule = linear(8);
    (0..6).for_each(|_| drop(schedule.step()));
    let next = |resumed: ModuleLrScheduler| resumed.load_record(schedule.to_record()).step().base();
    assert_eq!(next(linear(8)), 0.125);
    // Of 16 steps it takes the last two too, and not the seventh.
    assert_eq!(next(linear(16)), 0.0625);
    let cosine = CosineAnnealingLrSchedulerConfig::new(0.25, 8);
    assert_eq!(next(cosine.init().unwrap()), 0.25);
    assert_eq!(next(0.375.into()), 0.375);
}
