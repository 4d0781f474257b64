//! Parameters of other types than `f32`, and other threads.

use burn_core::module::{Module, Param};
use burn_core::tensor::{DType, Device, Tensor};
use burn_optim::GradientsParams;
use flatleaf::optim::{AdamW, Optimizer, Sgd};
use flatleaf_burn::Flat;

use crate::models::{Mlp, device};

fn parameter(value: f32, dtype: DType) -> Param<Tensor<1>> {
    let tensor = Tensor::<1>::from_floats([value], &Device::flex()).cast(dtype);
    Param::from_tensor(Tensor::from_inner(tensor))
}

fn gradient(param: &Param<Tensor<1>>, value: f32) -> GradientsParams {
    let mut grads = GradientsParams::new();
    let grad = Tensor::<1>::from_floats([value], &Device::flex()).cast(param.val().dtype());
    grads.register(param.id, grad);
    grads
}

#[test]
fn ten_steps_of_adamw_on_an_f16_with_a_small_gradient_are_finite() {
    let mut param = parameter(0.5, DType::F16);
    let flat = Flat::of(&param).unwrap();
    let mut optimizer = Optimizer::new(AdamW::default(), flat.layout()).unwrap();
    for _ in 0..10 {
        let grads = gradient(&param, 1e-4);
        flat.step(&mut optimizer, &mut param, grads).unwrap();
    }
    let value = flat.flatten(&param).unwrap()[0];
    assert!(value.is_finite() && value < 0.5 && value > 0.48, "{value}");
    assert_eq!(param.val().dtype(), DType::F16);
}

#[test]
fn small_steps_are_lost_in_bf16_and_kept_in_a_vector_beside_it() {
    let mut param = parameter(1.0, DType::BF16);
    let flat = Flat::of(&param).unwrap();
    let rule = Sgd {
        lr: 1.0,
        ..Default::default()
    };
    let mut in_place = Optimizer::new(rule, flat.layout()).unwrap();
    let mut on_vector = Optimizer::new(rule, flat.layout()).unwrap();
    let mut vector = flat.flatten(&param).unwrap();
    for _ in 0..100 {
        let grads = gradient(&param, 1e-4);
        on_vector
            .step(&mut vector, &flat.flatten_grads(&param, &grads).unwrap())
            .unwrap();
        flat.step(&mut in_place, &mut param, grads).unwrap();
    }
    assert_eq!(flat.flatten(&param).unwrap(), [1.0]);
    flat.unflatten(&mut param, &vector[..]).unwrap();
    assert_eq!(flat.flatten(&param).unwrap(), [0.98828125]);
}

#[test]
fn f64_is_refused_with_its_path() {
    let mut param = parameter(1.0, DType::F64);
    let flat = Flat::of(&param).unwrap();
    let error = flat.flatten(&param).unwrap_err();
    assert!(error.is_element_type(), "{error}");
    let mut optimizer = Optimizer::new(Sgd::default(), flat.layout()).unwrap();
    let grads = gradient(&param, 1.0);
    let error = flat.step(&mut optimizer, &mut param, grads).unwrap_err();
    assert!(error.is_element_type(), "{error}");
}

#[test]
fn a_step_is_taken_while_another_thread_evaluates_a_clone() {
    let mut model = Mlp::of(&[8, 8, 8]);
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(AdamW::default(), flat.layout()).unwrap();
    let clone = model.valid();
    let before = flat.flatten(&clone).unwrap();
    std::thread::scope(|scope| {
        let evaluate = scope.spawn(|| {
            for _ in 0..200 {
                clone.forward(Tensor::ones([4, 8], &Device::flex()));
            }
        });
        for _ in 0..50 {
            let loss = model.forward(Tensor::ones([4, 8], &device())).sum();
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            flat.step(&mut optimizer, &mut model, grads).unwrap();
        }
        evaluate.join().unwrap();
    });
    assert_eq!(flat.flatten(&clone).unwrap(), before);
}
