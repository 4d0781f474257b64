//! How do I train my candle network by flatleaf? The line that makes the optimiser changes.
//!
//! A network is trained on handwritten digits twice from the same weights and on the same batches:
//! by candle's AdamW, and by a chain that clips the gradient by its norm, takes the steps of AdamW,
//! and keeps a moving average of the weights.
//!
//! ```text
//! cargo run --release --example digits [-- losses.svg]
//! ```

mod support;

use std::error::Error;

use candle_core::DType;
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap, loss};
use digits::SplitMix64;
use flatleaf::optim::{AdamW, ClipNorm, Ema};
use flatleaf::{Layout, deep_clone};
use flatleaf_candle::{FlatOptimizer, VarTree};
use support::{
    Batches, CLASSES, CPU, Curve, Net, Rows, accuracy, check, plot, plot_path, progress_bar,
    read_digits,
};

const STEPS: usize = 1200;
const BATCH: usize = 50;
const LR: f64 = 3e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let (train_rows, test_rows) = read_digits(&mut SplitMix64(1))?;
    let map = VarMap::new();
    let net = Net::new(64, CLASSES, VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let mut vars = VarTree::of(&map)?;
    let layout = Layout::of(&vars)?;
    println!("{layout}");
    let start = layout.gather(&vars)?;

    // candle's own.
    let params = ParamsAdamW {
        lr: LR,
        ..Default::default()
    };
    let mut optimizer = candle_nn::AdamW::new(map.all_vars(), params)?;
    let by_candle = train("candle", &net, &mut optimizer, &train_rows)?;
    let candle_accuracy = accuracy(&net, &test_rows)?;

    // The line that changes.
    layout.restructure_into(&mut vars, &start)?;
    let mut optimizer = FlatOptimizer::of(
        &vars,
        (
            clip(),
            adamw(),
            Ema {
                decay: 0.99,
                ..Default::default()
            },
        ),
    )?;
    let by_flatleaf = train("flatleaf", &net, &mut optimizer, &train_rows)?;
    let flat_accuracy = accuracy(&net, &test_rows)?;

    // The average is written over the network to be evaluated, and the weights come back.
    let weights = deep_clone(&vars)?;
    optimizer.write_state("average", &mut vars)?;
    let average_accuracy = accuracy(&net, &test_rows)?;
    layout.restructure_into(&mut vars, &layout.gather(&weights)?)?;

    let norms = layout.leaf_norms(&layout.gather(&vars)?, 2.0)?;
    for (leaf, norm) in layout.leaves().iter().zip(norms) {
        println!("{:>12}: norm {norm:.3}", leaf.path());
    }
    println!(
        "loss: {:.4} by candle, {:.4} by flatleaf",
        by_candle.end(),
        by_flatleaf.end()
    );
    println!(
        "accuracy on held-out digits: {candle_accuracy:.3} by candle, {flat_accuracy:.3} by flatleaf, {average_accuracy:.3} of the average"
    );
    let path = plot_path()?;
    plot(&[by_candle, by_flatleaf], &path)?;
    println!("losses: {}", path.display());
    for accuracy in [candle_accuracy, flat_accuracy, average_accuracy] {
        check(
            accuracy >= 0.95,
            format_args!("an accuracy of at least 0.95, found {accuracy}"),
        )?;
    }
    check(
        accuracy(&net, &test_rows)? == flat_accuracy,
        "the weights back",
    )
}

fn clip() -> ClipNorm {
    ClipNorm {
        max: 1.0,
        ..Default::default()
    }
}

fn adamw() -> AdamW {
    AdamW {
        lr: LR,
        ..Default::default()
    }
}

/// Any optimiser of candle's kind; half a cosine for a schedule.
fn train(
    name: &'static str,
    net: &Net,
    optimizer: &mut impl Optimizer,
    rows: &Rows,
) -> Result<Curve, Box<dyn Error>> {
    use candle_core::Module;
    let bar = progress_bar(name, STEPS);
    let mut batches = Batches::new(2, BATCH);
    let mut losses = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let part = step as f64 / STEPS as f64;
        optimizer.set_learning_rate(LR * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()));
        let batch = rows.select(&batches.next())?;
        let loss = loss::cross_entropy(&net.forward(&batch.pixels)?, &batch.labels)?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar()?);
        bar.set_message(format!("loss {:.3}", losses[step]));
        bar.inc(1);
    }
    bar.finish();
    Ok(Curve { name, losses })
}
