//! A module as one vector.

use burn_core::module::{Module, Param};
use burn_core::tensor::{Device, Tensor};
use burn_nn::LinearConfig;
use flatleaf::Layout;
use flatleaf_burn::{Flat, Params};

use crate::models::{Mlp, Pair, Tied, addresses, device, grads_of};

#[test]
fn what_is_written_is_read() {
    let mut model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let values: Vec<f32> = (0..264).map(|i| i as f32).collect();
    flat.unflatten(&mut model, &values[..]).unwrap();
    assert_eq!(flat.flatten(&model).unwrap(), values);
    assert_eq!(
        flat.flatten(&model).unwrap(),
        flat.layout().gather(&Params::of(&model).unwrap()).unwrap()
    );
    assert!(model.embed.is_require_grad() && model.norm.gamma.is_require_grad());
    assert!(!model.norm.running_mean.value_sync().is_require_grad());
}

#[test]
fn a_slice_is_copied_to_where_the_parameters_are() {
    let mut model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    let before = addresses(&model);
    flat.unflatten(&mut model, &[0.5; 23][..]).unwrap();
    assert_eq!(addresses(&model), before);
}

#[test]
fn a_vector_is_moved_and_the_parameters_are_views_of_it() {
    let mut model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    let vector = vec![0.5_f32; 23];
    let start = vector.as_ptr() as usize;
    flat.unflatten(&mut model, vector).unwrap();
    let bytes = |range: std::ops::Range<usize>| start + 4 * range.start;
    let leaves = flat.layout().leaves().iter();
    let expected: Vec<usize> = leaves.map(|leaf| bytes(leaf.range())).collect();
    assert_eq!(addresses(&model), expected);
    // A network of views evaluates, and has gradients.
    let input = Tensor::ones([1, 4], &device());
    assert_eq!(
        model
            .forward(input)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap(),
        [4.25, 4.25]
    );
}

#[test]
fn who_holds_a_clone_keeps_the_old_values() {
    let mut model = Pair::of(1.0, 2.0);
    let clone = model.clone();
    let flat = Flat::of(&model).unwrap();
    flat.unflatten(&mut model, &[3.0, 4.0][..]).unwrap();
    assert_eq!((model.values(), clone.values()), ([3.0, 4.0], [1.0, 2.0]));
}

#[test]
fn a_module_of_another_structure_is_refused_and_untouched() {
    let model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    let mut other = Mlp::of(&[4, 5, 2]);
    let error = flat.flatten(&other).unwrap_err();
    assert!(error.is_shape(), "{error}");
    assert_eq!(error.path(), Some("layers.0.weight"));
    let before = addresses(&other);
    let error = flat.unflatten(&mut other, vec![0.0; 23]).unwrap_err();
    assert!(error.is_shape(), "{error}");
    let error = flat.unflatten(&mut other, vec![0.0; 22]).unwrap_err();
    assert!(error.is_length() || error.is_shape(), "{error}");
    assert_eq!(addresses(&other), before);
}

#[test]
fn another_module_of_the_same_structure_has_other_ids_and_is_taken() {
    let (a, mut b) = (Mlp::of(&[4, 3, 2]), Mlp::of(&[4, 3, 2]));
    let flat = Flat::of(&a).unwrap();
    let values = flat.flatten(&a).unwrap();
    let negated: Vec<f32> = values.iter().map(|x| -x).collect();
    flat.unflatten(&mut b, negated.clone()).unwrap();
    assert_eq!(flat.flatten(&b).unwrap(), negated);
    assert_eq!(flat.flatten(&a).unwrap(), values);
}

#[test]
fn patterns_freeze_on_top_of_what_burn_has_frozen() {
    let mut model = Mlp::of(&[4, 3, 2]);
    model.layers[0] = model.layers[0].clone().no_grad();
    assert_eq!(Flat::of(&model).unwrap().layout().len(), 8);
    let flat = Flat::planned(&model, &Layout::planner().freeze("**.bias")).unwrap();
    assert_eq!(flat.layout().len(), 6);
    let error = Flat::planned(&model, &Layout::planner().freeze("**")).unwrap_err();
    assert!(error.to_string().contains("the planner freezes all"));
    let error = Flat::planned(&model, &Layout::planner().freeze("**.gamma")).unwrap_err();
    assert!(error.is_pattern(), "{error}");
}

#[test]
fn what_burn_freezes_after_planning_stays_in_the_vector() {
    let mut model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    model.layers[0] = model.layers[0].clone().no_grad();
    assert_eq!(flat.flatten(&model).unwrap().len(), 23);
    flat.unflatten(&mut model, &[0.5; 23][..]).unwrap();
    assert_eq!(flat.flatten(&model).unwrap(), [0.5; 23]);
    assert!(!model.layers[0].weight.is_require_grad());
}

#[test]
fn a_gradient_of_another_shape_is_refused_with_its_path() {
    let model = Pair::of(1.0, 2.0);
    let flat = Flat::of(&model).unwrap();
    let grads = grads_of([(&model.b, vec![1.0, 2.0])]);
    let error = flat.flatten_grads(&model, &grads).unwrap_err();
    assert!(error.is_shape(), "{error}");
    assert_eq!(error.path(), Some("b"));
}

#[test]
fn a_lone_parameter_is_a_module_too() {
    let mut param: Param<Tensor<2>> = Param::from_tensor(Tensor::ones([2, 2], &device()));
    let flat = Flat::of(&param).unwrap();
    assert_eq!(flat.layout().leaves()[0].path(), "");
    flat.unflatten(&mut param, vec![1.0, 2.0, 3.0, 4.0])
        .unwrap();
    assert_eq!(flat.flatten(&param).unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn running_statistics_are_shared_by_clones_and_not_by_valid() {
    let model = Tied::new();
    let (clone, copy) = (model.clone(), model.valid().train());
    model.loss();
    let mean = |model: &Tied| {
        model
            .norm
            .running_mean
            .value_sync()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap()
    };
    assert_eq!(mean(&clone), mean(&model));
    assert_ne!(mean(&copy), mean(&model));
}

#[test]
fn a_module_without_autodiff_is_refused() {
    let layer = LinearConfig::new(2, 2).init(&Device::flex());
    let error = Flat::of(&layer).unwrap_err();
    assert!(error.to_string().contains("autodiff device"), "{error}");
}
