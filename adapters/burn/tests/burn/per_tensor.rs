//! A rule of flatleaf in burn's own training loop.

use burn_core::module::Module;
use burn_optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn_optim::{GradientsParams, ModuleOptimizer};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{AdamW, ClipNorm, ClipNormPerLeaf, Ema, Lamb, Optimizer};
use flatleaf_burn::{Flat, PerTensor};

use crate::models::{Mlp, Pair, Tied, addresses, device};

fn grads(model: &Mlp) -> GradientsParams {
    let input = burn_core::tensor::Tensor::<2>::ones([2, 4], &device());
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
