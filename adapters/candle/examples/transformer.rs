//! How do I train a transformer whose head is its embedding?
//!
//! It writes handwritten digits: an image is a sentence of 64 pixels, each one of 17 shades, and the
//! network guesses each from those before it. The embedding of the shades is the head too: candle
//! adds up the gradients of both uses, and the variable moves once. Vectors, which are biases, norms
//! and scales, are a group without decay.
//!
//! candle's fused layer norm has no backward pass and cuts everything behind it off without a word;
//! `deny_absent` makes an error of that.
//!
//! ```text
//! cargo run --release --example transformer [-- losses.svg]
//! ```

mod support;

use std::error::Error;

use candle_core::{DType, Result, Tensor};
use candle_nn::{Optimizer, VarBuilder, VarMap};
use digits::{PIXELS, SplitMix64};
use flatleaf::Layout;
use flatleaf::optim::{AdamW, ClipNorm};
use flatleaf_candle::{FlatOptimizer, VarTree};
use support::transformer::{SHADES, Transformer, sentences};
use support::{Batches, CPU, Curve, check, plot, plot_path, progress_bar, read_digits};

const STEPS: usize = 60;
const BATCH: usize = 4;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (train, test) = read_digits(&mut SplitMix64(1))?;
    let (train, test) = (sentences(&train)?, sentences(&test)?);
    let map = VarMap::new();
    let model = Transformer::new(VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let mut vars = VarTree::of(&map)?;
    let layout = Layout::of(&vars)?;
    let start = layout.gather(&vars)?;
    println!("{} parameters in {} variables", layout.len(), vars.len());

    let params = candle_nn::ParamsAdamW {
        lr: 5e-3,
        ..Default::default()
    };
    let mut optimizer = candle_nn::AdamW::new(map.all_vars(), params)?;
    let by_candle = learn("candle", &model, &train, |loss| {
        Ok(optimizer.backward_step(loss)?)
    })?;

    layout.restructure_into(&mut vars, &start)?;
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        AdamW {
            lr: 5e-3,
            weight_decay: 0.01,
            ..Default::default()
        },
    );
    let mut optimizer = FlatOptimizer::of(&vars, rule)?;
    optimizer.optimizer_mut().adjust_where(
        |leaf| leaf.shape().len() < 2,
        |(_, adamw)| adamw.weight_decay = 0.0,
    )?;
    optimizer.optimizer_mut().deny_absent(true);
    let mut largest: f64 = 0.0;
    let by_flatleaf = learn("flatleaf", &model, &train, |loss| {
        let report = optimizer.update(&loss.backward()?)?;
        largest = largest.max(report.clips[0].norm_before);
        Ok(())
    })?;

    let held_out = f64::from(model.loss(&test.narrow(0, 0, 50)?)?.to_scalar::<f32>()?);
    println!(
        "loss: {:.3} by candle, {:.3} by flatleaf; {held_out:.3} on held-out digits",
        by_candle.end(),
        by_flatleaf.end()
    );
    println!("the largest norm of a gradient was {largest:.2}, before it was clipped to 1");
    let end = f64::from(by_flatleaf.end());
    let path = plot_path()?;
    plot(&[by_candle, by_flatleaf], &path)?;
    println!("losses: {}", path.display());
    let apart = entropy(&train)?;
    check(
        held_out < 0.95 * apart,
        format_args!(
            "less than the {apart:.3} of pixels that know nothing of each other, found {held_out:.3}"
        ),
    )?;
    check(end < 0.95 * apart, "a loss that has fallen")
}

/// The entropy of the shades, each pixel by itself: what one can do without context.
fn entropy(sentences: &Tensor) -> Result<f64> {
    let mut counts = [0.0; SHADES];
    for shade in sentences
        .narrow(1, 1, PIXELS)?
        .flatten_all()?
        .to_vec1::<u32>()?
    {
        counts[shade as usize] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    let parts = counts
        .iter()
        .filter(|count| **count > 0.0)
        .map(|count| count / total);
    Ok(parts.map(|part| -part * part.ln()).sum())
}

fn learn(
    name: &'static str,
    model: &Transformer,
    train: &Tensor,
    mut step: impl FnMut(&Tensor) -> std::result::Result<(), Box<dyn Error>>,
) -> std::result::Result<Curve, Box<dyn Error>> {
    let bar = progress_bar(name, STEPS);
    let mut batches = Batches::new(2, BATCH);
    let mut losses = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let numbers =
            Tensor::from_iter(batches.next().into_iter().map(|number| number as u32), &CPU)?;
        let loss = model.loss(&train.index_select(&numbers, 0)?)?;
        step(&loss)?;
        losses.push(loss.to_scalar()?);
        bar.set_message(format!("loss {:.3}", loss.to_scalar::<f32>()?));
        bar.inc(1);
    }
    bar.finish();
    Ok(Curve { name, losses })
}
