//! Elements that are more than a number: an array of them is one leaf.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use flatleaf::{
    ArrayElement, Companion, Dtype, DynTree, FlatGrad, Layout, Tree, deep_clone, destructure,
    destructure_as, tree,
};
use ndarray::{
    ArcArray2, Array, Array0, Array1, Array2, Array3, ArrayD, Axis, IxDyn, ShapeBuilder, arr1,
    arr2, s,
};

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Gaussian {
    position: [f32; 3],
    opacity: f32,
}

fn gaussian(first: f32) -> Gaussian {
    Gaussian {
        position: [first, first + 1.0, first + 2.0],
        opacity: first + 3.0,
    }
}

fn shapes<T: Tree>(tree: &T) -> Vec<(String, Vec<usize>)> {
    let layout = Layout::of(tree).unwrap();
    let leaves = layout.leaves().iter();
    leaves
        .map(|leaf| (leaf.path().to_owned(), leaf.shape().to_vec()))
        .collect()
}

/// The shape of the one leaf there is.
fn shape<T: Tree>(tree: &T) -> Vec<usize> {
    let [(path, shape)] = &shapes(tree)[..] else {
        panic!("{:?}", shapes(tree));
    };
    assert_eq!(path, "");
    shape.clone()
}

#[test]
fn the_axes_of_an_element_stand_behind_those_of_its_array() {
    assert_eq!(shape(&vec![[0.0_f32; 3]; 7]), [7, 3]);
    assert_eq!(shape(&vec![[[0.0_f64; 2]; 3]; 7]), [7, 3, 2]);
    assert_eq!(shape(&vec![gaussian(0.0); 7]), [7, 4]);
    assert_eq!(shape(&vec![[gaussian(0.0); 2]; 7]), [7, 2, 4]);
    assert_eq!(shape(&Array3::from_elem((2, 3, 4), [0.0_f32; 5])), [2, 3, 4, 5]);
    assert_eq!(shape(&Array0::from_elem((), gaussian(0.0))), [4]);
    assert_eq!(shape(&vec![[0.0_f32; 3]; 2].into_boxed_slice()), [2, 3]);
    assert_eq!(shape(&[[0.0_f32; 3]; 2]), [2, 3]);
    assert_eq!(shape(&[0.0_f32; 3]), [3]);
    assert_eq!(shape(&gaussian(0.0)), [4]);
}
