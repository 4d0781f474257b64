//! What is refused, before anything is lent; frozen leaves.

use std::sync::Arc;

use flatleaf::{FlatGrad, Layout, Tree, destructure, destructure_as, tree};
use ndarray::{Array1, arr1, arr2};

use crate::models::{Net, net};

fn untied() -> Net {
    let net = net();
    let head = Arc::new((*net.head).clone());
    Net { head, ..net }
}

#[test]
fn a_vector_of_another_length_is_refused() {
    let net = net();
    let (flat, layout) = destructure(&net).unwrap();
    let error = layout.view_tree(&net, &flat[1..]).err().unwrap();
    assert!(error.is_length(), "{error}");
    let error = layout.view_tree_mut(&net, &mut [0.0_f32; 9]).err().unwrap();
    assert!(error.is_length(), "{error}");
}

#[test]
fn another_shape_a_missing_leaf_and_one_too_many_are_named() {
    let (mut flat, layout) = destructure(&net()).unwrap();
    let mut other = net();
    other.layers[0].weight = arr2(&[[1.0]]);
    other.layers[0].bias = None;
    other.layers[1].bias = Some(arr1(&[1.0]));
    let error = layout.view_tree(&other, &flat).err().unwrap();
    assert!(error.is_shape(), "{error}");
    let text = error.to_string();
    for path in ["`layers.0.weight`", "`layers.0.bias`", "`layers.1.bias`"] {
        assert!(text.contains(path), "{text}");
    }
    other.layers[0].weight = arr2(&[[5.0, 6.0]]);
    other.layers[1].bias = None;
    let error = layout.view_tree_mut(&other, &mut flat).err().unwrap();
    assert!(
        error.is_missing() && error.path() == Some("layers.0.bias"),
        "{error}"
    );
}

#[test]
fn a_gradient_is_as_it_was_after_a_refusal() {
    let layout = Layout::of(&net()).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let mut other = net();
    other.layers.pop();
    let error = layout.view_grad(&other, &mut grad).err().unwrap();
    assert!(
        error.is_missing() && error.path() == Some("layers.1.weight"),
        "{error}"
    );
    assert_eq!(grad, FlatGrad::zeros(&layout));

    let other = Layout::of(&tree!({ "w": [1.0] })).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&other);
    let error = layout.view_grad(&net(), &mut grad).err().unwrap();
    assert!(error.is_other_layout(), "{error}");
}

#[test]
fn a_view_converts_nothing() {
    let net = (arr1(&[1.0_f32]), arr1(&[half::f16::ONE]), arr1(&[2.0_f64]));
    let (flat, layout) = destructure_as::<f64>(&net).unwrap();
    let error = layout.view_tree(&net, &flat).err().unwrap();
    assert!(
        error.is_element_type() && error.path() == Some("0"),
        "{error}"
    );
    assert!(error.to_string().contains("`1`"), "{error}");
    // What is not trained is shown as it is, whatever it is.
    let layout = Layout::planner().freeze("1").freeze("2").of(&net).unwrap();
    let seen = layout.view_tree(&net, &[3.0_f32]).unwrap();
    assert_eq!(
        (seen.0[0], seen.1[0], seen.2[0]),
        (3.0, half::f16::ONE, 2.0)
    );
}

#[test]
fn a_model_that_is_tied_otherwise_is_refused() {
    let (mut flat, tied) = destructure(&net()).unwrap();
    let error = tied.view_tree_mut(&untied(), &mut flat).err().unwrap();
    assert!(error.is_broken_tie(), "{error}");
    assert!(
        error.to_string().starts_with("`embed` and `head`"),
        "{error}"
    );
    // To be read, both places show the one parameter.
    let seen = untied();
    let seen = tied.view_tree(&seen, &flat).unwrap();
    assert_eq!(seen.embed.as_ptr(), seen.head.as_ptr());
    let (mut flat, layout) = destructure(&untied()).unwrap();
    let error = layout.view_tree_mut(&net(), &mut flat).err().unwrap();
    assert!(error.is_broken_tie(), "{error}");
    assert!(error.to_string().contains("`embed`") && error.to_string().contains("`head`"));
}

#[test]
fn leaves_that_the_planner_froze_are_the_models() {
    let net = net();
    let layout = Layout::planner().freeze("layers.0.**").of(&net).unwrap();
    let mut flat = layout.gather(&net).unwrap();
    flat.fill(0.0);
    let seen = layout.view_tree(&net, &flat).unwrap();
    assert_eq!(
        seen.layers[0].weight.as_ptr(),
        net.layers[0].weight.as_ptr()
    );
    assert_eq!(seen.layers[1].weight[[0, 0]], 0.0);

    let mut seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    assert!(seen.layers[0].weight.is_frozen() && !seen.layers[1].weight.is_frozen());
    assert_eq!(seen.layers[0].weight[[0, 1]], 6.0);
    assert!(seen.layers[0].weight.trainable().is_none());

    // One backward pass, whatever is frozen.
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let mut seen = layout.view_grad(&net, &mut grad).unwrap();
    for layer in &mut seen.layers {
        layer.weight += 1.0;
    }
    assert_eq!(*seen.layers[0].weight, arr2(&[[1.0, 1.0]]));
    assert_eq!(*grad, [0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(net.layers[0].weight, arr2(&[[5.0, 6.0]]));
}

#[test]
#[should_panic = "`layers.0.weight` is not trainable and cannot be written: ask `is_frozen` or `trainable`"]
fn a_value_that_is_frozen_cannot_be_written() {
    let net = net();
    let layout = Layout::planner().freeze("layers.0.**").of(&net).unwrap();
    let mut flat = layout.gather(&net).unwrap();
    layout.view_tree_mut(&net, &mut flat).unwrap().layers[0]
        .weight
        .fill(0.0);
}

#[test]
fn what_is_frozen_in_the_type_is_trained_where_the_layout_has_everything() {
    let net = net();
    let layout = Layout::everything(&net).unwrap();
    let mut flat = layout.gather(&net).unwrap();
    let mean = layout.leaf("mean").unwrap().range();
    flat[mean.start] = 9.0;
    assert_eq!(layout.view_tree(&net, &flat).unwrap().mean, arr1(&[9.0]));
    let mut seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.mean += 1.0;
    assert_eq!(flat[mean.start], 10.0);
}

#[derive(Tree)]
#[tree(view)]
struct HalfFrozen {
    #[tree(frozen)]
    target: Arc<Array1<f32>>,
    online: Arc<Array1<f32>>,
}

#[test]
fn a_tie_of_a_frozen_place_and_a_trained_one_is_trained() {
    let shared = Arc::new(arr1(&[1.0]));
    let net = HalfFrozen {
        target: shared.clone(),
        online: shared,
    };
    let (mut flat, layout) = destructure(&net).unwrap();
    flat[0] = 2.0;
    assert_eq!(layout.view_tree(&net, &flat).unwrap().target, arr1(&[2.0]));
    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.target.lend(|mut target| target += 1.0);
    assert_eq!(seen.online.lend(|online| online[0]), 3.0);
}
