//! Does a network learn as well where its optimiser keeps its state in fewer bytes?
//!
//! The digits network and a small transformer, five seeds each: weights and batches are those of
//! the seed, and AdamW's two moments are kept as f32, as bf16 that is rounded at random or to the
//! nearest, and in 8 bits. What counts is the loss over all training digits after the last step.
//! With bf16 at random its mean is to lie within the spread of the five runs on f32, with 8 bits
//! within twice that of their mean. What is rounded to the nearest is shown and not checked: its
//! second moment stops moving.
//!
//! ```text
//! cargo run --release --example compact_state [-- losses.svg]
//! ```
//!
//! There are two plots, of the mean losses of the seeds: the second one's name ends in
//! `-transformer.svg`.

mod support;

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Optimizer as _, VarBuilder, VarMap, loss};
use digits::{SplitMix64, TRAINING_ROWS};
use flatleaf::Layout;
use flatleaf::optim::{AdamW, Optimizer, Rounding, Storage};
use flatleaf_candle::{FlatOptimizer, VarTree};
use support::transformer::{Transformer, sentences};
use support::{
    Batches, CLASSES, CPU, Curve, Net, check, plot, plot_path, progress_bar, read_digits,
};

const SEEDS: u64 = 5;

const STORAGES: [(&str, Storage); 4] = [
    ("f32", Storage::Full),
    ("bf16", Storage::Bf16(Rounding::Stochastic { seed: 0 })),
    ("bf16, nearest", Storage::Bf16(Rounding::Nearest)),
    (
        "8 bits",
        Storage::EightBits(Rounding::Stochastic { seed: 0 }),
    ),
];

/// What is trained, and how.
struct Task<'t> {
    name: &'static str,
    vars: VarTree,
    /// The loss of the training digits of these numbers.
    loss: &'t dyn Fn(&[usize]) -> Result<Tensor>,
    steps: usize,
    batch: usize,
    lr: f64,
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (train, _) = read_digits(&mut SplitMix64(1))?;
    let map = VarMap::new();
    let net = Net::new(64, CLASSES, VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let perceptron = Task {
        name: "digits",
        vars: VarTree::of(&map)?,
        loss: &|numbers| {
            let rows = train.select(numbers)?;
            loss::cross_entropy(&net.forward(&rows.pixels)?, &rows.labels)
        },
        steps: 600,
        batch: 50,
        lr: 3e-3,
    };

    let sentences = sentences(&train)?;
    let map = VarMap::new();
    let model = Transformer::new(VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let transformer = Task {
        name: "transformer",
        vars: VarTree::of(&map)?,
        loss: &|numbers| {
            let numbers = numbers.iter().map(|&number| number as u32);
            model.loss(&sentences.index_select(&Tensor::from_iter(numbers, &CPU)?, 0)?)
        },
        // At a third of the rate, or in a third of the steps, most runs stay on a plateau, where all
        // storages look alike.
        steps: 1500,
        batch: 4,
        lr: 1e-2,
    };

    let path = plot_path()?;
    let beside = format!("{}-transformer.svg", path.with_extension("").display());
    // Both are run and shown before either is judged.
    let digits = compare(perceptron, &path)?;
    let transformer = compare(transformer, Path::new(&beside))?;
    println!("losses: {} and {beside}", path.display());
    digits.check()?;
    transformer.check()
}

/// Trains from every seed with each storage, draws the mean losses, and prints a table.
fn compare(mut task: Task<'_>, plotted: &Path) -> std::result::Result<Ends, Box<dyn Error>> {
    let bar = progress_bar(task.name, STORAGES.len() * SEEDS as usize * task.steps);
    let (mut curves, mut ends) = (Vec::new(), Vec::new());
    for (name, storage) in STORAGES {
        let mut sums = vec![0.0; task.steps];
        let mut ends_of_seeds = Vec::new();
        for seed in 0..SEEDS {
            let (losses, end) = learn(&mut task, storage, seed, || bar.inc(1))?;
            sums.iter_mut()
                .zip(losses)
                .for_each(|(sum, loss)| *sum += loss);
            ends_of_seeds.push(end);
        }
        let losses = sums.iter().map(|sum| sum / SEEDS as f32).collect();
        curves.push(Curve { name, losses });
        ends.push(ends_of_seeds);
    }
    bar.finish_and_clear();
    plot(&curves, plotted)?;
    println!("\n{}: loss after {} steps", task.name, task.steps);
    for ((name, _), ends) in STORAGES.iter().zip(&ends) {
        let all: Vec<String> = ends.iter().map(|end| format!("{end:.4}")).collect();
        println!("{name:>14}  mean {:.4}  of {}", mean(ends), all.join(" "));
    }
    Ok(Ends(ends))
}

/// The loss of each step, and that over all training digits after the last.
fn learn(
    task: &mut Task<'_>,
    storage: Storage,
    seed: u64,
    mut stepped: impl FnMut(),
) -> std::result::Result<(Vec<f32>, f64), Box<dyn Error>> {
    let layout = Layout::of(&task.vars)?;
    let start = weights(&layout, &layout.gather(&task.vars)?, seed);
    layout.restructure_into(&mut task.vars, &start)?;
    let rule = AdamW {
        lr: task.lr,
        ..Default::default()
    };
    let optimizer = Optimizer::with_storage(rule, &layout, storage)?;
    let mut optimizer = FlatOptimizer::with_optimizer(&task.vars, optimizer)?;
    let mut batches = Batches::new(100 + seed, task.batch);
    let mut losses = Vec::with_capacity(task.steps);
    for step in 0..task.steps {
        // Half a cosine, so that the last batches do not decide where a run ends.
        let part = step as f64 / task.steps as f64;
        optimizer.set_learning_rate(task.lr * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()));
        let loss = (task.loss)(&batches.next())?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar()?);
        stepped();
    }
    let all: Vec<usize> = (0..TRAINING_ROWS).collect();
    let hundreds = all.chunks_exact(100);
    let parts = hundreds.len() as f64;
    let mut end = 0.0;
    for numbers in hundreds {
        end += f64::from((task.loss)(numbers)?.to_scalar::<f32>()?) / parts;
    }
    Ok((losses, end))
}

/// Matrices at random from the seed; scales stay 1, and other vectors begin at 0.
fn weights(layout: &Layout, found: &[f32], seed: u64) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    let mut weights = vec![0.0; layout.len()];
    for leaf in layout.leaves() {
        let own = &mut weights[leaf.range()];
        match *leaf.shape() {
            [outputs, inputs] => {
                let weight = random.weight(inputs, outputs);
                own.iter_mut()
                    .zip(weight.iter())
                    .for_each(|(own, weight)| *own = *weight);
            }
            _ if found[leaf.range()].iter().all(|scale| *scale == 1.0) => own.fill(1.0),
            _ => {}
        }
    }
    weights
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Losses after the last step, by storage and seed.
struct Ends(Vec<Vec<f64>>);

impl Ends {
    fn check(&self) -> std::result::Result<(), Box<dyn Error>> {
        let [full, bf16, _, eight_bits] = &self.0[..] else {
            unreachable!("one for each storage")
        };
        let lowest = full.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = full.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let bf16 = mean(bf16);
        check(
            (lowest..=highest).contains(&bf16),
            format_args!("a mean loss from {lowest:.4} to {highest:.4} with bf16, found {bf16:.4}"),
        )?;
        let (middle, twice) = (mean(full), 2.0 * (highest - lowest));
        let eight_bits = mean(eight_bits);
        check(
            (eight_bits - middle).abs() <= twice,
            format_args!(
                "a mean loss within {twice:.4} of {middle:.4} with 8 bits, found {eight_bits:.4}"
            ),
        )
    }
}
