//! How do I evaluate a moving average of a burn network?
//!
//! `Ema` at the end of the chain keeps it in the step's one loop; `Flat::average` makes a network of
//! it. With a high rate the network jumps about from batch to batch, and its average does not.
//!
//! ```text
//! cargo run --example averages
//! ```

use std::error::Error;

use burn_optim::GradientsParams;
use flatleaf::optim::{ClipNorm, Ema, Optimizer, Sgd};
use flatleaf_burn::Flat;
use support::{Net, batches, digits_of};

mod support;

fn main() -> Result<(), Box<dyn Error>> {
    let (train, test) = digits_of(1)?;
    let mut net = Net::new(2);
    let flat = Flat::of(&net)?;
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        Sgd {
            lr: 0.15,
            momentum: 0.9,
            ..Default::default()
        },
        Ema {
            decay: 0.98,
            ..Default::default()
        },
    );
    let mut optimizer = Optimizer::new(rule, flat.layout())?;

    let (mut of_net, mut of_average) = (Vec::new(), Vec::new());
    for epoch in 0..12 {
        for batch in batches(&train, 16, epoch) {
            let grads = GradientsParams::from_grads(net.loss(&batch).backward(), &net);
            flat.step(&mut optimizer, &mut net, grads)?;
        }
        let average = flat.average(&net, &optimizer)?;
        let losses = [&net, &average].map(|net| net.loss(&test).into_scalar::<f32>());
        println!(
            "epoch {epoch:2}: loss {:.3}, of the average {:.3}",
            losses[0], losses[1]
        );
        of_net.push(losses[0]);
        of_average.push(losses[1]);
    }
    let average = flat.average(&net, &optimizer)?;
    println!(
        "accuracy on held-out digits {:.3}, of the average {:.3}",
        net.accuracy(&test),
        average.accuracy(&test)
    );
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(mean(&of_average[2..]) < mean(&of_net[2..]));
    assert!(average.accuracy(&test) >= 0.93);
    Ok(())
}
