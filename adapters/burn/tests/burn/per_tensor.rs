//! A rule of flatleaf in burn's own training loop.

use burn_optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn_optim::{GradientsParams, ModuleOptimizer};
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
