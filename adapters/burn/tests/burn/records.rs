//! burn's own files: what burn wrote is read here, and the other way.

use burn_core::module::Module;
use burn_core::tensor::Tensor;
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{AdamW, Optimizer};
use flatleaf_burn::{Flat, PerTensor};

use crate::checkpoints::file;
use crate::models::{Mlp, device};

const WIDTHS: [usize; 3] = [6, 5, 4];

/// A decay that ten steps show.
const WEIGHT_DECAY: f64 = 0.1;

/// burn's defaults, which are not PyTorch's, but for the decay.
fn adamw() -> AdamW {
    AdamW {
        lr: 1e-2,
        eps: 1e-5,
        weight_decay: WEIGHT_DECAY,
        ..Default::default()
    }
}

fn grads(model: &Mlp) -> GradientsParams {
    let input = Tensor::<2>::ones([8, 6], &device());
    let loss = model.forward(input).powi_scalar(2).mean();
    GradientsParams::from_grads(loss.backward(), model)
}

fn train_here(mut model: Mlp, steps: usize) -> Mlp {
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(adamw(), flat.layout()).unwrap();
    for _ in 0..steps {
        let grads = grads(&model);
        flat.step(&mut optimizer, &mut model, grads).unwrap();
    }
    model
}

fn train_there(mut model: Mlp, steps: usize) -> Mlp {
    let config = AdamWConfig::new().with_weight_decay(WEIGHT_DECAY as f32);
    let mut optimizer = config.init();
    for _ in 0..steps {
        let grads = grads(&model);
        model = optimizer.step(1e-2, model, grads);
    }
    model
}

fn values(model: &Mlp) -> Vec<f32> {
    Flat::of(model).unwrap().flatten(model).unwrap()
}

fn assert_close(ours: &Mlp, theirs: &Mlp) {
    let (ours, theirs) = (values(ours), values(theirs));
    let difference: Vec<f32> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
    let relative = norm_l2(&difference) / norm_l2(&theirs);
    // Another `eps`, flatleaf's default, makes 2.6e-5.
    assert!(relative < 1e-5, "{relative}");
}

#[test]
fn a_record_that_burn_wrote_goes_on_here_and_ours_goes_on_there() {
    let path = file("record").with_extension("bpk");
    let by_burn = train_there(Mlp::of(&WIDTHS), 5);
    by_burn.clone().save_file(&path).unwrap();
    let loaded = Mlp::of(&WIDTHS).load_file(&path);
    assert_eq!(values(&loaded), values(&by_burn));
    assert_close(&train_here(loaded, 5), &train_there(by_burn, 5));

    let by_flatleaf = train_here(Mlp::of(&WIDTHS), 5);
    by_flatleaf.clone().save_file(&path).unwrap();
    let loaded = Mlp::of(&WIDTHS).load_file(&path);
    assert_eq!(values(&loaded), values(&by_flatleaf));
    assert_close(&train_here(by_flatleaf, 5), &train_there(loaded, 5));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_state_of_a_rule_in_burns_optimiser_goes_through_its_file_to_the_bit() {
    let (weights, state) = (
        file("weights").with_extension("bpk"),
        file("state").with_extension("bpk"),
    );
    let new = |model: &Mlp| -> ModuleOptimizer { PerTensor::of(adamw(), model).unwrap().into() };
    let step = |optimizer: &mut ModuleOptimizer, model: Mlp| {
        let grads = grads(&model);
        optimizer.step(1e-2, model, grads)
    };
    let mut model = Mlp::of(&WIDTHS);
    let mut optimizer = new(&model);
    for _ in 0..3 {
        model = step(&mut optimizer, model);
    }
    model.clone().save_file(&weights).unwrap();
    optimizer.save(&state).unwrap();

    let mut resumed = Mlp::of(&WIDTHS).load_file(&weights);
    let mut resumed_optimizer = new(&resumed).load(&state).unwrap();
    for _ in 0..3 {
        model = step(&mut optimizer, model);
        resumed = step(&mut resumed_optimizer, resumed);
    }
    assert_eq!(values(&resumed), values(&model));
    std::fs::remove_file(weights).unwrap();
    std::fs::remove_file(state).unwrap();
}
