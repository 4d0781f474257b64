//! What the tests share: models of every kind, problems with a known solution, and a few words to
//! speak about layouts.
//!
//! Where to add a case. The folders mirror `src`, each is one binary, and a file is one subject:
//!
//! | the case is about | it goes to |
//! | --- | --- |
//! | a new kind of tree or container | [`models`], over which every law runs |
//! | the derive | `tree/derive.rs`; a message of the compiler: `../derive/tests/ui/` |
//! | pointers, cells and locks; ties | `tree/pointers.rs`, `tree/ties.rs` |
//! | maps and their keys; flat maps of dotted names; trees made at run time | `tree/maps.rs`, `tree/dyn_tree.rs` |
//! | leaves that are read and written by callbacks | `tree/callback_leaves.rs` |
//! | paths and patterns; what is trained | `layout/paths.rs`, `layout/freezing.rs` |
//! | a layout or a tree that is stored and read | `layout/layout_serde.rs` |
//! | tree ↔ vector; gradients; types of elements | `flat/` |
//! | several trees at once | `map_reduce/companions.rs` |
//! | a kernel over slices | `ops/` |
//! | a rule: its loop, its fields, its numbers | `optim/naive.rs` and `rules.rs`, `fields.rs`, `golden.rs` |
//! | the optimiser; its state, stored | `optim/optimizer.rs`, `optim/snapshots.rs` |
//! | a loss as a function of a vector | `solvers/` |
//! | a file, good or hostile | `checkpoint/` |
//! | panics, lies, locks and sizes half-way through | `faults/` |
//! | a kind of bad input, everywhere | `contract/errors.rs` |
//! | a law of random trees | `contract/laws.rs` |
//! | bytes at random | `../fuzz/checks`, run for seconds by `fuzz/` |
//! | what is allocated when a plain tree is moved again | `allocation.rs` |
//! | what a file of `src` may mention | `invariants.rs` |

#![allow(dead_code)] // each test file uses its part

pub(crate) mod models;
#[cfg(feature = "derive")]
pub(crate) mod problems;
pub(crate) mod widths;

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
