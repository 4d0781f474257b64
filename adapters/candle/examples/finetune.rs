//! How do I train a new head on a network that is frozen otherwise?
//!
//! A network learns the digits 0 to 4 and is saved. Its body is loaded below a new head, which
//! learns the digits 5 to 9: everything else is frozen, and comes out with the same bits.
//!
//! ```text
//! cargo run --release --example finetune
//! ```

mod support;

use std::error::Error;

use candle_core::{DType, Module, Result};
use candle_nn::{VarBuilder, VarMap, loss};
use digits::SplitMix64;
use flatleaf::Layout;
use flatleaf::checkpoint::{self, LoadOptions};
use flatleaf::optim::AdamW;
use flatleaf_candle::{FlatOptimizer, VarTree};
use support::{CPU, Net, Rows, accuracy, check, progress_bar, read_digits};

const STEPS: usize = 400;
const HALF: usize = 5;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (train, test) = read_digits(&mut SplitMix64(1))?;
    let path =
        std::env::temp_dir().join(format!("flatleaf-candle-finetune-{}", std::process::id()));

    let map = VarMap::new();
    let net = Net::new(64, HALF, VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let vars = VarTree::of(&map)?;
    let mut optimizer = FlatOptimizer::of(&vars, adamw())?;
    learn("0 to 4", &net, &mut optimizer, &of_labels(&train, 0)?)?;
    let first = accuracy(&net, &of_labels(&test, 0)?)?;
    checkpoint::save(&path, &vars)?;

    // Another program. The head of the file has other classes, and stays where it is.
    let map = VarMap::new();
    let net = Net::new(64, HALF, VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let mut vars = VarTree::of(&map)?;
    let report = checkpoint::open(&path)?
        .part("body")?
        .load_into(&mut vars.below("body")?, &LoadOptions::new())?;
    std::fs::remove_file(&path)?;
    println!("loaded into the body: {:?}", report.loaded());
    let untrained = accuracy(&net, &of_labels(&test, HALF)?)?;

    let everything = Layout::of(&vars)?;
    let before = everything.gather(&vars)?;
    let planner = Layout::planner().train_only("head.**");
    let mut optimizer = FlatOptimizer::planned(&vars, adamw(), &planner)?;
    println!("{}", optimizer.layout());
    learn("5 to 9", &net, &mut optimizer, &of_labels(&train, HALF)?)?;
    let second = accuracy(&net, &of_labels(&test, HALF)?)?;
    println!(
        "accuracy on held-out digits: 0 to 4 {first:.3}; 5 to 9 {second:.3}, {untrained:.3} before"
    );

    let after = everything.gather(&vars)?;
    for leaf in everything.leaves() {
        let is_as_before = before[leaf.range()] == after[leaf.range()];
        let is_body = leaf.path().starts_with("body.");
        check(
            is_as_before == is_body,
            format_args!("`{}` to move only if it is of the head", leaf.path()),
        )?;
    }
    // Unfrozen, all of it would go on from here.
    everything.restructure_into(&mut vars, &after)?;
    check(
        first >= 0.97,
        format_args!("an accuracy of at least 0.97, found {first}"),
    )?;
    check(
        second >= 0.9,
        format_args!("an accuracy of at least 0.9, found {second}"),
    )
}

fn adamw() -> AdamW {
    AdamW {
        lr: 5e-3,
        ..Default::default()
    }
}

/// The rows of five labels, counted from the first of them.
fn of_labels(rows: &Rows, first: usize) -> Result<Rows> {
    let labels = rows.labels.to_vec1::<u32>()?;
    let is_wanted = |label: u32| (first..first + HALF).contains(&(label as usize));
    let numbers: Vec<usize> = (0..labels.len())
        .filter(|&row| is_wanted(labels[row]))
        .collect();
    let rows = rows.select(&numbers)?;
    let first = candle_core::Tensor::full(first as u32, rows.len(), &CPU)?;
    Ok(Rows {
        labels: rows.labels.sub(&first)?,
        ..rows
    })
}

fn learn(
    name: &'static str,
    net: &Net,
    optimizer: &mut FlatOptimizer<AdamW>,
    rows: &Rows,
) -> std::result::Result<(), Box<dyn Error>> {
    let bar = progress_bar(name, STEPS);
    for _ in 0..STEPS {
        let loss = loss::cross_entropy(&net.forward(&rows.pixels)?, &rows.labels)?;
        optimizer.update(&loss.backward()?)?;
        bar.set_message(format!("loss {:.3}", loss.to_scalar::<f32>()?));
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}
