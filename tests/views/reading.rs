//! Views that read.

use flatleaf::{destructure, view};
use ndarray::{arr1, arr2};

use crate::models::{NetView, net};

#[test]
fn trainable_leaves_are_over_the_vector_and_all_else_over_the_model() {
    let net = net();
    let (flat, layout) = destructure(&net).unwrap();
    let flat: Vec<f32> = flat.iter().map(|x| 10.0 * x).collect();
    let seen: NetView<'_> = layout.view_tree(&net, &flat).unwrap();
    assert_eq!(seen.embed, arr2(&[[10.0, 20.0], [30.0, 40.0]]));
    assert_eq!(seen.embed.as_ptr(), flat.as_ptr());
    assert_eq!(seen.head.as_ptr(), flat.as_ptr());
    assert_eq!(seen.layers[0].weight, arr2(&[[50.0, 60.0]]));
    assert_eq!(seen.layers[0].bias.unwrap(), arr1(&[70.0]));
    assert!(seen.layers[1].bias.is_none());
    assert_eq!(seen.mean.as_ptr(), net.mean.as_ptr());
    assert_eq!((seen.act)(-1.0), 1.0);
    assert_eq!(*seen.eps, 1e-5);
    let own = view(&net).unwrap();
    assert_eq!(own.embed.as_ptr(), net.embed.as_ptr());
    assert_eq!(own.layers[1].weight.as_ptr(), net.layers[1].weight.as_ptr());
}
