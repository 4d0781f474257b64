//! Parameters of other types than `f32`, and other threads.

use burn_core::module::{Module, Param};
use burn_core::tensor::quantization::QuantScheme;
use burn_core::tensor::{DType, Device, Tensor, bf16, f16};
use burn_optim::{GradientsParams, ModuleOptimizer};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer, Sgd};
use flatleaf_burn::{Flat, PerTensor};

use crate::models::{Mlp, device};

fn parameter(value: f32, dtype: DType) -> Param<Tensor<1>> {
    let tensor = Tensor::<1>::from_floats([value], &Device::flex()).cast(dtype);
    Param::from_tensor(Tensor::from_inner(tensor))
}

fn gradient(param: &Param<Tensor<1>>, value: f32) -> GradientsParams {
    gradient_of(param, f64::from(value), param.val().dtype())
}

/// A gradient of a type of its own, as of who has cast it.
fn gradient_of(param: &Param<Tensor<1>>, value: f64, dtype: DType) -> GradientsParams {
    let mut grads = GradientsParams::new();
    let grad = Tensor::<1>::full([1], value, (&Device::flex(), DType::F64));
    grads.register(param.id, grad.cast(dtype));
    grads
}

fn descent() -> Sgd {
    Sgd {
        lr: 1.0,
        ..Default::default()
    }
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
    let mut in_place = Optimizer::new(descent(), flat.layout()).unwrap();
    let mut on_vector = Optimizer::new(descent(), flat.layout()).unwrap();
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

/// 0.1 as each type has it.
const TENTHS: [(DType, f32); 4] = [
    (DType::F64, 0.1),
    (DType::F32, 0.1),
    (DType::F16, 0.099_975_586),
    (DType::BF16, 0.100_097_656),
];

#[test]
fn a_gradient_of_any_float_type_moves_a_parameter_of_any_other() {
    for (dtype, tenth) in TENTHS {
        let expected = [
            (DType::F32, 1.0 - tenth),
            (DType::F16, f16::from_f32(1.0 - tenth).to_f32()),
            (DType::BF16, bf16::from_f32(1.0 - tenth).to_f32()),
        ];
        for (of_parameter, expected) in expected {
            let case = format!("{dtype:?} on {of_parameter:?}");
            let mut param = parameter(1.0, of_parameter);
            let flat = Flat::of(&param).unwrap();
            let grads = gradient_of(&param, 0.1, dtype);
            assert_eq!(
                *flat.flatten_grads(&param, &grads).unwrap(),
                [tenth],
                "{case}"
            );

            let mut per_tensor: ModuleOptimizer = PerTensor::of(descent(), &param).unwrap().into();
            let stepped = per_tensor.step(1.0, param.clone(), gradient_of(&param, 0.1, dtype));
            assert_eq!(flat.flatten(&stepped).unwrap(), [expected], "{case}");

            let mut optimizer = Optimizer::new(descent(), flat.layout()).unwrap();
            flat.step(&mut optimizer, &mut param, grads).unwrap();
            assert_eq!(flat.flatten(&param).unwrap(), [expected], "{case}");
            assert_eq!(param.val().dtype(), of_parameter, "{case}");
        }
    }
}

#[test]
fn a_gradient_is_clipped_in_its_own_type() {
    for (dtype, tenth) in TENTHS {
        let param = parameter(1.0, DType::F32);
        let flat = Flat::of(&param).unwrap();
        let mut grads = gradient_of(&param, 0.1, dtype);
        let clip = flat.clip_norm(&param, &mut grads, 0.05).unwrap();
        assert_eq!(clip.norm_before, f64::from(tenth), "{dtype:?}");
        let clipped = grads.get::<1>(param.id).unwrap();
        assert_eq!(clipped.dtype(), dtype);
        let clipped = flat.flatten_grads(&param, &grads).unwrap()[0];
        assert!((clipped - 0.05).abs() < 2e-4, "{dtype:?}: {clipped}");
    }
}

#[test]
fn a_loss_in_halves_gives_a_parameter_of_f32_its_gradient() {
    let mut param = parameter(1.0, DType::F32);
    let flat = Flat::of(&param).unwrap();
    let mut optimizer = Optimizer::new(descent(), flat.layout()).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let loss = (param.val().cast(dtype) * 0.5).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &param);
        flat.step(&mut optimizer, &mut param, grads).unwrap();
    }
    assert_eq!(flat.flatten(&param).unwrap(), [0.0]);
}

#[test]
fn a_gradient_that_f32_cannot_hold_is_refused_with_its_path() {
    let mut model = vec![parameter(1.0, DType::F32), parameter(2.0, DType::F32)];
    let flat = Flat::of(&model).unwrap();
    let rule = (ClipNorm::default(), descent());
    let mut optimizer = Optimizer::new(rule, flat.layout()).unwrap();
    let huge = || gradient_of(&model[1], 1e300, DType::F64);
    let error = flat.clip_norm(&model, &mut huge(), 1.0).unwrap_err();
    assert!(error.is_non_finite(), "{error}");
    assert_eq!(error.path(), Some("1"));
    let grads = huge();
    let error = flat.step(&mut optimizer, &mut model, grads).unwrap_err();
    assert!(error.is_non_finite(), "{error}");
    assert_eq!(error.path(), Some("1"));
    assert_eq!(flat.flatten(&model).unwrap(), [1.0, 2.0]);
}

#[test]
fn a_gradient_that_is_quantised_is_refused_with_its_path() {
    let mut model = vec![parameter(1.0, DType::F32), parameter(2.0, DType::F32)];
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(descent(), flat.layout()).unwrap();
    let quantised = |model: &[Param<Tensor<1>>]| {
        let mut grads = GradientsParams::new();
        let grad = Tensor::<1>::ones([32], &Device::flex());
        grads.register(model[1].id, grad.quantize_dynamic(&QuantScheme::default()));
        grads
    };
    let message = "`1`: expected floats, found quantised elements: dequantise them first";
    let error = flat.flatten_grads(&model, &quantised(&model)).unwrap_err();
    assert_eq!(error.to_string(), message);
    let error = flat
        .clip_norm(&model, &mut quantised(&model), 1.0)
        .unwrap_err();
    assert_eq!(error.to_string(), message);
    let grads = quantised(&model);
    let error = flat.step(&mut optimizer, &mut model, grads).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(flat.flatten(&model).unwrap(), [1.0, 2.0]);
}

#[test]
fn a_parameter_that_has_become_f64_since_it_was_planned_is_refused_with_its_path() {
    let mut model = vec![parameter(1.0, DType::F32), parameter(2.0, DType::F32)];
    let flat = Flat::of(&model).unwrap();
    let wide = model[1].clone().map(|value| {
        let value = value.inner().cast(DType::F64);
        Tensor::from_inner(value).require_grad()
    });
    assert_eq!(wide.id, model[1].id);
    model[1] = wide;
    let error = flat.flatten(&model).unwrap_err();
    assert!(error.is_element_type(), "{error}");
    assert_eq!(error.path(), Some("1"));
    let error = flat.unflatten(&mut model, vec![3.0, 4.0]).unwrap_err();
    assert!(error.is_element_type(), "{error}");
    assert_eq!(error.path(), Some("1"));
    assert_eq!(model[1].val().into_scalar::<f64>(), 2.0);
    assert_eq!(model[1].val().dtype(), DType::F64);
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
