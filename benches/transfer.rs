//! What it costs to plan a tree and to move it, beside the machine's own copy of the same bytes in
//! the same run.
//!
//! Then the same trees with leaves of f16, bf16 and f64 in vectors of f32, f64: `memcpy` there
//! moves as many bytes as are read and written.
//!
//! `points` are a million `[f32; 3]`, one leaf of 12 MB.
//!
//! `cargo bench --bench transfer --features half [-- TREE …]`
//!
//! The tree `billion`, 10⁹ numbers in 1,000 leaves, is measured only if it is named: it wants 12
//! GiB.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use flatleaf::{Element, FlatElement, FlatGrad, Layout, ops};
use half::{bf16, f16};
use ndarray::ArrayD;
use support::{Arrays, alternate, arrays, concatenate, median, parallel_copy, shapes};

const TREES: [&str; 4] = ["small10k", "small100k", "resnet50", "gpt2"];

fn main() {
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    println!(
        "{:<10} {:<22} {:>12} {:>12} {:>10}",
        "tree", "work", "median", "x memcpy", "ns a leaf"
    );
    for name in TREES
        .iter()
        .filter(|name| chosen.is_empty() || chosen.iter().any(|chosen| chosen == *name))
    {
        measure(name);
        measure_type::<f16, f32>(name, f16::from_f32, f16::to_f32, |x| x);
        measure_type::<bf16, f32>(name, bf16::from_f32, bf16::to_f32, |x| x);
        measure_type::<f32, f64>(name, |x| x, |x| x, f64::from);
        measure_type::<f64, f64>(name, f64::from, |x| x as f32, f64::from);
    }
    if chosen.is_empty() || chosen.iter().any(|chosen| chosen == "points") {
        measure_points();
    }
    if chosen.iter().any(|chosen| chosen == "billion") {
        measure_billion();
    }
}

/// With one vector beside the tree and its flat one, and no other.
fn measure_billion() {
    let mut tree = arrays(&shapes("billion"), 1.0);
    let layout = Layout::of(&tree).expect("a plain tree");
    let flat = layout.gather(&tree).expect("the same tree");
    assert!(tree.iter().flatten().eq(&flat) && flat.len() == 1_000_000_000);
    let mut copy = vec![0.0; flat.len()];
    let norm = ops::norm_l2(&flat);
    assert!((layout.norm_l2(&tree).expect("the same tree") / norm - 1.0).abs() < 1e-12);

    let mut work = |name: &str, call: &mut dyn FnMut(&mut Arrays, &mut [f32])| {
        let times = alternate(
            &mut [(name, &mut || call(&mut tree, &mut copy))],
            Duration::from_secs(1),
        );
        println!(
            "{:<10} {name:<22} {:>9.3} ms",
            "billion",
            1e3 * median(&times[0])
        );
    };
    work("memcpy", &mut |_, copy| parallel_copy(copy, &flat));
    work("gather_into", &mut |tree, copy| {
        layout.gather_into(tree, copy).expect("the same tree")
    });
    work("restructure_into", &mut |tree, _| {
        layout.restructure_into(tree, &flat).expect("the same tree")
    });
    work("norm_l2", &mut |tree, _| {
        assert!(layout.norm_l2(tree).expect("the same tree") > 0.0)
    });
    assert!(copy == flat && tree.iter().flatten().eq(&flat));
}

/// A million points, which are one leaf.
fn measure_points() {
    let numbers = concatenate(&arrays(&[vec![1_000_000, 3]], 1.0));
    let points: Vec<[f32; 3]> = numbers.as_chunks().0.to_vec();
    let layout = Layout::of(&points).expect("a plain tree");
    let mut target = vec![[0.0; 3]; points.len()];
    assert_eq!(layout.leaves().len(), 1);
    assert!(layout.gather(&points).expect("the same tree") == numbers);
    assert!(
        layout
            .restructure(&points, &numbers)
            .expect("the same tree")
            == points
    );
    layout
        .restructure_into(&mut target, &numbers)
        .expect("the same tree");
    assert!(target == points);

    let (mut copy, mut buffer) = (numbers.clone(), numbers.clone());
    let mut jobs: [(&str, &mut dyn FnMut()); 4] = [
        ("memcpy", &mut || parallel_copy(&mut copy, &numbers)),
        ("gather_into", &mut || {
            layout
                .gather_into(&points, &mut buffer)
                .expect("the same tree")
        }),
        ("restructure_into", &mut || {
            layout
                .restructure_into(&mut target, &numbers)
                .expect("the same tree")
        }),
        ("restructure", &mut || {
            drop(black_box(
                layout
                    .restructure(&points, &numbers)
                    .expect("the same tree"),
            ))
        }),
    ];
    report("points", &mut jobs, 1);
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

    let (mut copy, mut buffer, mut target) =
        (vec![0.0; flat.len()], vec![0.0; flat.len()], tree.clone());
    let mut grad = FlatGrad::zeros(&tied_layout);
    let mut jobs: [(&str, &mut dyn FnMut()); 7] = [
        ("memcpy", &mut || parallel_copy(&mut copy, &flat)),
        ("plan", &mut || {
            drop(black_box(Layout::of(&tree).expect("a plain tree")))
        }),
        ("gather_into", &mut || {
            layout
                .gather_into(&tree, &mut buffer)
                .expect("the same tree")
        }),
        ("gather", &mut || {
            drop(black_box(layout.gather(&tree).expect("the same tree")))
        }),
        ("gather_grad, a tie", &mut || {
            tied_layout
                .gather_grad_into(&tied, &mut grad)
                .expect("the same tree")
        }),
        ("restructure_into", &mut || {
            layout
                .restructure_into(&mut target, &flat)
                .expect("the same tree")
        }),
        ("restructure", &mut || {
            drop(black_box(
                layout.restructure(&tree, &flat).expect("the same tree"),
            ))
        }),
    ];
    report(name, &mut jobs, tree.len());
}

/// Times the jobs, of which the first is the copy to compare with.
fn report(name: &str, jobs: &mut [(&str, &mut dyn FnMut())], leaves: usize) {
    let times = alternate(jobs, Duration::from_millis(1200));
    let memcpy = median(&times[0]);
    for (job, times) in jobs.iter().zip(&times) {
        let time = median(times);
        let (milliseconds, ratio, leaf) = (1e3 * time, time / memcpy, 1e9 * time / leaves as f64);
        println!(
            "{name:<10} {:<22} {milliseconds:>9.3} ms {ratio:>12.2} {leaf:>10.1}",
            job.0
        );
    }
}

/// Leaves of `L` in a vector of `E`.
fn measure_type<L: Element, E: FlatElement>(
    name: &str,
    leaf: fn(f32) -> L,
    number: fn(L) -> f32,
    widen: fn(f32) -> E,
) {
    let tree: Vec<ArrayD<L>> = arrays(&shapes(name), 1.0)
        .iter()
        .map(|array| array.mapv(leaf))
        .collect();
    let flat: Vec<E> = tree.iter().flatten().map(|&x| widen(number(x))).collect();
    let layout = Layout::of(&tree).expect("a plain tree");
    let mut target: Vec<ArrayD<L>> = tree
        .iter()
        .map(|array| array.mapv(|_| L::default()))
        .collect();
    assert!(layout.gather_as::<E>(&tree).expect("the same tree") == flat);
    assert!(layout.restructure_as(&tree, &flat).expect("the same tree") == tree);
    layout
        .restructure_into_as(&mut target, &flat)
        .expect("the same tree");
    assert!(target == tree);

    // A copy of n bytes reads n and writes n.
    let bytes = flat.len() * (size_of::<L>() + size_of::<E>()) / 2;
    let (source, mut copy, mut buffer) = (vec![1.0; bytes / 4], vec![0.0; bytes / 4], flat.clone());
    let (gather, restructure) = (
        format!("gather, {} → {}", L::DTYPE, E::DTYPE),
        format!("restr., {} → {}", E::DTYPE, L::DTYPE),
    );
    let mut jobs: [(&str, &mut dyn FnMut()); 3] = [
        ("memcpy", &mut || parallel_copy(&mut copy, &source)),
        (&gather, &mut || {
            layout
                .gather_into_as(&tree, &mut buffer)
                .expect("the same tree")
        }),
        (&restructure, &mut || {
            layout
                .restructure_into_as(&mut target, &flat)
                .expect("the same tree")
        }),
    ];
    report(name, &mut jobs, tree.len());
}

fn check(layout: &Layout, tree: &Arrays, flat: &[f32]) {
    assert_eq!(layout.gather(tree).expect("the same tree"), flat);
    let negated: Vec<f32> = flat.iter().map(|x| -x).collect();
    let new = layout.restructure(tree, &negated).expect("the same tree");
    assert_eq!(concatenate(&new), negated);
    let mut target = tree.clone();
    layout
        .restructure_into(&mut target, &negated)
        .expect("the same tree");
    assert_eq!(concatenate(&target), negated);
}

fn check_tie(layout: &Layout, tied: &Tied, flat: &[f32]) {
    let grad = layout.gather_grad(tied).expect("the same tree");
    let expected = flat
        .iter()
        .enumerate()
        .map(|(index, x)| if index < tied.0.len() { x + x } else { *x });
    assert!(grad.iter().copied().eq(expected));
}
