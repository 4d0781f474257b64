//! What it costs to make typed views: of many small leaves, in nanoseconds a leaf, and of a
//! transformer, beside the matrix products alone of a forward and backward pass over one short
//! sequence. The rest of a pass only makes the share smaller.
//!
//! `cargo bench --bench views`

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use flatleaf::{FlatGrad, Layout, Tree};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2};
use support::{alternate, median};

const WIDTH: usize = 128;
const TOKENS: usize = 32;
const WORDS: usize = 256;

#[derive(Tree)]
#[tree(view)]
struct Transformer {
    embed: Arc<Array2<f32>>,
    positions: Array2<f32>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Arc<Array2<f32>>,
}

#[derive(Tree)]
#[tree(view)]
struct Block {
    before: Norm,
    query: Array2<f32>,
    key: Array2<f32>,
    value: Array2<f32>,
    out: Array2<f32>,
    between: Norm,
    up: Dense,
    down: Dense,
}

#[derive(Tree)]
#[tree(view)]
struct Norm {
    scale: Array1<f32>,
    shift: Array1<f32>,
}

#[derive(Tree)]
#[tree(view)]
struct Dense {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

fn main() {
    println!(
        "{:<12} {:<16} {:>12} {:>12}",
        "tree", "work", "median", "ns a leaf"
    );
    small();
    transformer();
}

fn small() {
    // As models have them: with the number of their axes in their type.
    let tree: Vec<Array2<f32>> = (0..10_000).map(|_| matrix(8, 8)).collect();
    let flat: Vec<f32> = tree.iter().flatten().copied().collect();
    let layout = Layout::of(&tree).expect("a plain tree");
    let mut written = flat.clone();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);

    let seen = layout.view_tree(&tree, &flat).expect("the same tree");
    assert!(seen.iter().flatten().eq(&flat) && seen[0].as_ptr() == flat.as_ptr());
    let seen = layout.view_tree_mut(&tree, &mut written);
    for mut array in seen.expect("the same tree") {
        array *= -1.0;
    }
    assert!(written.iter().zip(&flat).all(|(x, y)| *x == -y));

    let mut jobs: [(&str, &mut dyn FnMut()); 4] = [
        ("view", &mut || {
            drop(black_box(flatleaf::view(&tree).expect("a shallow tree")))
        }),
        ("view_tree", &mut || {
            drop(black_box(
                layout.view_tree(&tree, &flat).expect("the same tree"),
            ))
        }),
        ("view_tree_mut", &mut || {
            drop(black_box(
                layout
                    .view_tree_mut(&tree, &mut written)
                    .expect("the same tree"),
            ))
        }),
        ("view_grad", &mut || {
            drop(black_box(
                layout.view_grad(&tree, &mut grad).expect("the same tree"),
            ))
        }),
    ];
    report("small10k", &mut jobs, layout.leaves().len());
}

fn transformer() {
    let net = Transformer::new();
    let layout = Layout::of(&net).expect("a tree with a tie");
    assert_eq!(layout.leaves().len(), 28);
    let flat = layout.gather(&net).expect("the same tree");
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let x = Array2::from_shape_fn((TOKENS, WIDTH), |(row, column)| {
        (row * column % 7) as f32 / 7.0
    });

    let seen = layout.view_tree(&net, &flat).expect("the same tree");
    let mut written = layout.view_grad(&net, &mut grad).expect("the same tree");
    let direct = products(&seen, &x.view(), &mut written);
    let own = flatleaf::view(&net).expect("a shallow tree");
    let mut other: FlatGrad = FlatGrad::zeros(&layout);
    let mut written = layout.view_grad(&net, &mut other).expect("the same tree");
    assert_eq!(products(&own, &x.view(), &mut written), direct);
    assert!(*other == *grad && grad.iter().any(|x| *x != 0.0));

    let mut other_grad = grad.clone();
    let mut jobs: [(&str, &mut dyn FnMut()); 2] = [
        ("both views", &mut || {
            black_box(layout.view_tree(&net, &flat).expect("the same tree"));
            black_box(
                layout
                    .view_grad(&net, &mut other_grad)
                    .expect("the same tree"),
            );
        }),
        ("products", &mut || {
            let seen = layout.view_tree(&net, &flat).expect("the same tree");
            let mut written = layout.view_grad(&net, &mut grad).expect("the same tree");
            black_box(products(&seen, &x.view(), &mut written));
        }),
    ];
    let medians = report("transformer", &mut jobs, layout.leaves().len());
    let share = 100.0 * medians[0] / medians[1];
    println!("{:<12} {:<16} {share:>10.3} %", "transformer", "share");
}

fn report(name: &str, jobs: &mut [(&str, &mut dyn FnMut())], leaves: usize) -> Vec<f64> {
    let times = alternate(jobs, Duration::from_millis(1200));
    let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
    for (job, time) in jobs.iter().zip(&medians) {
        let (microseconds, leaf) = (1e6 * time, 1e9 * time / leaves as f64);
        println!(
            "{name:<12} {:<16} {microseconds:>9.2} µs {leaf:>12.1}",
            job.0
        );
    }
    medians
}

/// The matrix products of a forward pass and of its backward pass: of each weight one with the
/// inputs, one with the gradient of the outputs, and one of both for its own gradient.
fn products(
    net: &TransformerView<'_>,
    x: &ArrayView2<f32>,
    grad: &mut TransformerViewMut<'_>,
) -> f32 {
    let mut total = 0.0;
    for (block, grad) in net.blocks.iter().zip(&mut grad.blocks) {
        total += weight(x, &block.query, &mut grad.query);
        total += weight(x, &block.key, &mut grad.key);
        total += weight(x, &block.value, &mut grad.value);
        total += weight(x, &block.out, &mut grad.out);
        let up = x.dot(&block.up.weight);
        total += weight(x, &block.up.weight, &mut grad.up.weight);
        total += weight(&up.view(), &block.down.weight, &mut grad.down.weight);
    }
    grad.head.lend(|mut head| {
        // The head's weight is the embedding's, transposed.
        let logits = x.dot(&net.head.t());
        general_mat_mul(1.0, &logits.t(), x, 0.0, &mut head);
        total + logits.dot(&net.head).sum()
    })
}

fn weight(
    x: &ArrayView2<f32>,
    weight: &ArrayView2<f32>,
    grad: &mut ndarray::ArrayRef2<f32>,
) -> f32 {
    let y = x.dot(weight);
    let back = y.dot(&weight.t());
    general_mat_mul(1.0, &x.t(), &y, 0.0, grad);
    back[[0, 0]]
}

impl Transformer {
    fn new() -> Self {
        let embed = Arc::new(matrix(WORDS, WIDTH));
        Transformer {
            embed: embed.clone(),
            positions: matrix(TOKENS, WIDTH),
            blocks: vec![Block::new(), Block::new()],
            norm: Norm::new(),
            head: embed,
        }
    }
}

impl Block {
    fn new() -> Self {
        let square = || matrix(WIDTH, WIDTH);
        Block {
            before: Norm::new(),
            query: square(),
            key: square(),
            value: square(),
            out: square(),
            between: Norm::new(),
            up: Dense::new(WIDTH, 4 * WIDTH),
            down: Dense::new(4 * WIDTH, WIDTH),
        }
    }
}

impl Norm {
    fn new() -> Self {
        Norm {
            scale: Array1::ones(WIDTH),
            shift: Array1::zeros(WIDTH),
        }
    }
}

impl Dense {
    fn new(inputs: usize, outputs: usize) -> Self {
        Dense {
            weight: matrix(inputs, outputs),
            bias: Array1::zeros(outputs),
        }
    }
}

fn matrix(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(row, column)| {
        ((row * 31 + column * 17) % 11) as f32 / 110.0 - 0.05
    })
}
