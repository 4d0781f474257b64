//! What it costs to plan a tree and to move it, beside the machine's own copy of the same bytes in the same run.
//!
//! `cargo bench --bench transfer [-- TREE …]`

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use flatleaf::{FlatGrad, Layout};
use ndarray::ArrayD;
use support::{Arrays, alternate, arrays, concatenate, median, parallel_copy, shapes};

const TREES: [&str; 4] = ["small10k", "small100k", "resnet50", "gpt2"];

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("{:<10} {:<18} {:>12} {:>12} {:>10}", "tree", "work", "median", "x memcpy", "ns a leaf");
    for name in TREES.iter().filter(|name| chosen.is_empty() || chosen.iter().any(|chosen| chosen == *name)) {
        measure(name);
    }
}

/// A model whose first and last parameter are one, and its gradient with one at each place.
type Tied = (Arc<ArrayD<f32>>, Arrays, Arc<ArrayD<f32>>);

fn with_tie(tree: &Arrays) -> Tied {
    let shared = Arc::new(tree[0].clone());
    (shared.clone(), tree[1..].to_vec(), shared)
}

fn measure(name: &str) {
    let tree = arrays(&shapes(name), 1.0);
    let flat = concatenate(&tree);
    let layout = Layout::of(&tree).expect("a plain tree");
    let tied = with_tie(&tree);
    let tied_layout = Layout::of(&tied).expect("a tree with a tie");
    check(&layout, &tree, &flat);
    check_tie(&tied_layout, &tied, &flat);

    let (mut copy, mut buffer, mut target) = (vec![0.0; flat.len()], vec![0.0; flat.len()], tree.clone());
    let mut grad = FlatGrad::absent(&tied_layout);
    let mut jobs: [(&str, &mut dyn FnMut()); 7] = [
        ("memcpy", &mut || parallel_copy(&mut copy, &flat)),
        ("plan", &mut || drop(black_box(Layout::of(&tree).expect("a plain tree")))),
        ("gather_into", &mut || layout.gather_into(&tree, &mut buffer).expect("the same tree")),
        ("gather", &mut || drop(black_box(layout.gather(&tree).expect("the same tree")))),
        ("gather_grad, a tie", &mut || tied_layout.gather_grad_into(&tied, &mut grad).expect("the same tree")),
        ("restructure_into", &mut || layout.restructure_into(&mut target, &flat).expect("the same tree")),
        ("restructure", &mut || drop(black_box(layout.restructure(&tree, &flat).expect("the same tree")))),
    ];
    let times = alternate(&mut jobs, Duration::from_millis(500));
    let memcpy = median(&times[0]);
    for (job, times) in jobs.iter().zip(&times) {
        let time = median(times);
        let (milliseconds, ratio, leaf) = (1e3 * time, time / memcpy, 1e9 * time / tree.len() as f64);
        println!("{name:<10} {:<18} {milliseconds:>9.3} ms {ratio:>12.2} {leaf:>10.1}", job.0);
    }
}

fn check(layout: &Layout, tree: &Arrays, flat: &[f32]) {
    assert_eq!(layout.gather(tree).expect("the same tree"), flat);
    let negated: Vec<f32> = flat.iter().map(|x| -x).collect();
    let new = layout.restructure(tree, &negated).expect("the same tree");
    assert_eq!(concatenate(&new), negated);
    let mut target = tree.clone();
    layout.restructure_into(&mut target, &negated).expect("the same tree");
    assert_eq!(concatenate(&target), negated);
}

fn check_tie(layout: &Layout, tied: &Tied, flat: &[f32]) {
    let grad = layout.gather_grad(tied).expect("the same tree");
    let expected = flat.iter().enumerate().map(|(index, x)| if index < tied.0.len() { x + x } else { *x });
    assert!(grad.iter().copied().eq(expected));
}
