//! What the tests share: the menagerie, and a few words to speak about layouts.

#![allow(dead_code)] // each test file uses its part

pub(crate) mod models;
#[cfg(feature = "derive")]
pub(crate) mod problems;

use flatleaf::{FlatGrad, Layout, Leaf, Tree, destructure};

/// The first place of every trainable leaf, in flat order.
pub(crate) fn paths(layout: &Layout) -> Vec<&str> {
    layout.leaves().iter().map(Leaf::path).collect()
}

/// The first place of every other leaf.
pub(crate) fn other_paths(layout: &Layout) -> Vec<&str> {
    layout.others().iter().map(Leaf::path).collect()
}

/// The flat vector of a tree.
pub(crate) fn flat<T: Tree + ?Sized>(tree: &T) -> Vec<f32> {
    destructure(tree).unwrap().0
}

/// The flat gradient of a gradient tree.
pub(crate) fn flat_grad<T: Tree + ?Sized, G: Tree + ?Sized>(model: &T, grads: &G) -> Vec<f32> {
    Layout::of(model)
        .unwrap()
        .gather_grad(grads)
        .unwrap()
        .into_vec()
}

/// Which leaves have a gradient.
pub(crate) fn present(grad: &FlatGrad) -> Vec<bool> {
    (0..grad.layout().leaves().len())
        .map(|index| grad.is_present(index))
        .collect()
}

/// `first`, `first + 1`, …
pub(crate) fn count_from(first: f32, len: usize) -> Vec<f32> {
    (0..len).map(|index| first + index as f32).collect()
}

pub(crate) fn bits(flat: &[f32]) -> Vec<u32> {
    flat.iter().map(|x| x.to_bits()).collect()
}
