//! Clipping for burn's own optimisers.

use burn_core::tensor::Device;
use burn_core::tensor::Tensor;
use flatleaf_burn::Flat;

use crate::models::{Pair, grads_of};

#[test]
fn one_factor_for_all_gradients() {
    let model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let mut grads = grads_of([(&model.a, vec![3.0]), (&model.b, vec![4.0])]);
    let clip = flat.clip_norm(&model, &mut grads, 1.0).unwrap();
    assert_eq!((clip.norm_before, clip.scale), (5.0, 0.2));
    assert!((clip.norm_after - 1.0).abs() < 1e-7);
    assert_eq!(*flat.flatten_grads(&model, &grads).unwrap(), [0.6, 0.8]);
    // And again: nothing is over the maximum by more than it was rounded.
    let clip = flat.clip_norm(&model, &mut grads, 1.001).unwrap();
    assert_eq!((clip.scale, clip.norm_before), (1.0, clip.norm_after));
}

#[test]
fn what_is_not_finite_is_refused_with_its_path_and_nothing_is_lost() {
    let model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let mut grads = grads_of([(&model.a, vec![3.0]), (&model.b, vec![f32::INFINITY])]);
    let error = flat.clip_norm(&model, &mut grads, 1.0).unwrap_err();
    assert!(error.is_non_finite(), "{error}");
    assert_eq!(error.path(), Some("b"));
    assert_eq!(grads.len(), 2);
    let error = flat.clip_norm(&model, &mut grads, -1.0).unwrap_err();
    assert!(error.is_argument() || error.is_non_finite(), "{error}");
}

#[test]
fn an_absent_gradient_stays_absent() {
    let model = Pair::of(0.0, 0.0);
    let flat = Flat::of(&model).unwrap();
    let mut grads = grads_of([(&model.a, vec![3.0])]);
    grads.register(
        burn_core::module::ParamId::new(),
        Tensor::<1>::ones([1], &Device::flex()),
    );
    assert_eq!(
        flat.clip_norm(&model, &mut grads, 1.0).unwrap().norm_before,
        3.0
    );
    assert!(grads.get::<1>(model.b.id).is_none());
}
