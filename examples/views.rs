//! Trains the network of `quickstart` on the flat vector itself: the forward pass reads the
//! parameters through a [`NetView`], the backward pass adds to the gradient through a
//! [`NetViewMut`], and nothing is gathered or restructured in between.
//!
//! Then it trains the network once more as `quickstart` does, with a tree of gradients for every
//! batch, and compares the two: every bit is the same.
//!
//! ```text
//! cargo run --release --example views
//! ```

use std::error::Error;
use std::iter::zip;

use digits::{PIXELS, SplitMix64, TRAINING_ROWS, read_digits};
use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{FlatGrad, Layout, destructure};
use ndarray::{Array2, Axis, s};
use quickstart::{Net, NetView, NetViewMut, cross_entropy};

/// The network; not its `main` and what only that needs.
#[allow(dead_code)]
#[path = "quickstart.rs"]
mod quickstart;

const EPOCHS: usize = 5;
const BATCH: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = SplitMix64(1);
    let (train, test) = read_digits(&mut random)?;
    let mut net = Net::new(&train, &mut random);
    let orders: Vec<Vec<usize>> = (0..EPOCHS)
        .map(|_| random.shuffled(TRAINING_ROWS))
        .collect();

    let flat = train_on_views(&net, &train, &orders)?;
    let accuracy = Layout::of(&net)?.restructure(&net, &flat)?.accuracy(&test);
    println!("accuracy on {} held-out rows: {accuracy:.3}", test.nrows());
    assert!(
        accuracy >= 0.9,
        "expected an accuracy of at least 0.9, found {accuracy}"
    );

    train_on_trees(&mut net, &train, &orders)?;
    let (expected, _) = destructure(&net)?;
    let differing = zip(&flat, &expected).filter(|(x, y)| x.to_bits() != y.to_bits());
    let differing = differing.count();
    println!(
        "of {} parameters {differing} differ from those trained on trees",
        flat.len()
    );
    assert_eq!(differing, 0);
    Ok(())
}

fn rule() -> Sgd {
    Sgd {
        lr: 0.1,
        momentum: 0.9,
        ..Default::default()
    }
}

/// The loop on the vector: nothing of the parameters or of their gradient is copied in it.
fn train_on_views(
    net: &Net,
    train: &Array2<f32>,
    orders: &[Vec<usize>],
) -> flatleaf::Result<Vec<f32>> {
    let (mut flat, layout) = destructure(net)?;
    let mut grad = FlatGrad::zeros(&layout);
    let mut optimizer = Optimizer::new(rule(), &layout)?;
    for (epoch, order) in orders.iter().enumerate() {
        let mut loss = 0.0;
        for rows in order.chunks(BATCH) {
            let batch = train.select(Axis(0), rows);
            grad.reset();
            let batch_loss = backward(
                &layout.view_tree(net, &flat)?,
                &batch,
                &mut layout.view_grad(net, &mut grad)?,
            );
            optimizer.step(&mut flat, &grad)?;
            loss += batch_loss * rows.len() as f32 / TRAINING_ROWS as f32;
        }
        println!("epoch {}  loss {loss:.4}", epoch + 1);
    }
    Ok(flat)
}

fn train_on_trees(
    net: &mut Net,
    train: &Array2<f32>,
    orders: &[Vec<usize>],
) -> flatleaf::Result<()> {
    let mut optimizer = Optimizer::new(rule(), &Layout::of(net)?)?;
    for rows in orders.iter().flat_map(|order| order.chunks(BATCH)) {
        let (_, grads) = net.loss_and_grads(&train.select(Axis(0), rows));
        optimizer.update(net, &grads)?;
    }
    Ok(())
}

/// The mean loss; its gradient is added to `grad`.
fn backward(net: &NetView<'_>, rows: &Array2<f32>, grad: &mut NetViewMut<'_>) -> f32 {
    let mut inputs = Vec::new();
    let mut x = (&rows.slice(s![.., ..PIXELS]) - &net.mean) / net.deviation;
    for layer in &net.layers {
        let input = x.tanh();
        x = input.dot(&layer.weight) + layer.bias;
        inputs.push(input);
    }

    let (loss, mut delta) = cross_entropy(x, rows.column(PIXELS));
    let layers = zip(&net.layers, &mut grad.layers);
    for ((layer, grad), input) in zip(layers, &inputs).rev() {
        // Two layers share one weight: each adds its part.
        grad.weight
            .lend(|mut weight| weight += &input.t().dot(&delta));
        grad.bias += &delta.sum_axis(Axis(0));
        delta = delta.dot(&layer.weight.t()) * input.mapv(|x| 1.0 - x * x);
    }
    loss
}
