//! Views that write: values and gradients.

use flatleaf::{FlatGrad, Layout, destructure};
use ndarray::{arr1, arr2};

use crate::models::{NetViewMut, net};

#[test]
fn what_is_written_is_in_the_vector_and_the_model_stays() {
    let net = net();
    let (mut flat, layout) = destructure(&net).unwrap();
    let mut seen: NetViewMut<'_> = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.embed.lend(|mut embed| embed.fill(0.0));
    seen.layers[0].weight += &arr2(&[[10.0, 20.0]]);
    seen.layers[0].bias.as_mut().unwrap()[0] = -7.0;
    seen.layers[1].weight *= 2.0;
    assert_eq!(*seen.mean, arr1(&[0.5]));
    assert_eq!((seen.act)(-2.0), 2.0);
    assert_eq!(flat, [0.0, 0.0, 0.0, 0.0, 15.0, 26.0, -7.0, 16.0]);
    assert_eq!(*net.embed, arr2(&[[1.0, 2.0], [3.0, 4.0]]));
}

#[test]
fn a_view_of_a_gradient_makes_its_leaves_present_and_adds_to_what_is_there() {
    let net = net();
    let layout = Layout::of(&net).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let mut seen = layout.view_grad(&net, &mut grad).unwrap();
    seen.layers[1].weight[[0, 0]] += 1.0;
    assert!((0..layout.leaves().len()).all(|leaf| grad.is_present(leaf)));
    grad.set_present_at("layers.0.bias", false);
    assert!(!grad.is_present_at("layers.0.bias") && grad.is_present_at("layers.0.weight"));
    // A second batch.
    let mut seen = layout.view_grad(&net, &mut grad).unwrap();
    seen.layers[1].weight[[0, 0]] += 1.0;
    assert_eq!(*grad, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
    grad.reset();
    assert_eq!(grad, FlatGrad::zeros(&layout));
}
