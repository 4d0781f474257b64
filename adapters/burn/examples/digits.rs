//! How do I train a burn network by a chain of flatleaf's rules, stop, and go on in another process?
//!
//! The gradient is clipped by the norm of the whole network, AdamW moves it in place, and after
//! half of the epochs everything is saved in one file. The program then starts itself again, and the
//! other process goes on from the file: it ends at the same bits as this one, which went on without
//! a stop.
//!
//! ```text
//! cargo run --example digits
//! ```

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use burn_optim::GradientsParams;
use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
use flatleaf_burn::{Flat, Params, change};
use support::{Net, batches, digits_of};

mod support;

const EPOCHS: usize = 16;
const BATCH: usize = 50;

type Rule = (ClipNorm, AdamW);

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::args().nth(1) {
        return go_on(Path::new(&path));
    }
    let path = std::env::temp_dir().join(format!("digits-{}.safetensors", std::process::id()));
    let (train, test) = digits_of(1)?;

    let mut net = Net::new(2);
    let flat = Flat::of(&net)?;
    println!("{}", flat.layout());
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        AdamW {
            weight_decay: 1e-3,
            ..Default::default()
        },
    );
    let mut optimizer = Optimizer::new(rule, flat.layout())?;
    // A group, by path: biases do not decay.
    optimizer.adjust("**.bias", |(_, adamw)| adamw.weight_decay = 0.0)?;

    run(&flat, &mut optimizer, &mut net, &train, 0..EPOCHS / 2)?;
    let extras = Extras::new().optimizer("optimizer", &optimizer);
    checkpoint::save_with(&path, &Params::of(&net)?, &extras)?;
    let loss = run(&flat, &mut optimizer, &mut net, &train, EPOCHS / 2..EPOCHS)?;
    let accuracy = net.accuracy(&test);
    println!("loss {loss:.4}, accuracy on held-out digits {accuracy:.3}");
    assert!(accuracy >= 0.95 && loss < 0.1);

    let other = Command::new(std::env::current_exe()?).arg(&path).output()?;
    std::fs::remove_file(&path)?;
    let here = bits(&flat.flatten(&net)?);
    assert_eq!(String::from_utf8(other.stdout)?.trim(), here);
    println!("resumed in another process: the same bits, {here}");
    Ok(())
}

/// The other process.
fn go_on(path: &Path) -> Result<(), Box<dyn Error>> {
    let (train, _) = digits_of(1)?;
    let mut net = Net::new(3); // other weights, which the file replaces
    let flat = Flat::of(&net)?;
    let file = checkpoint::open(path)?;
    change(&mut net, |params| {
        file.load_into(params, &LoadOptions::new())
    })?;
    let mut optimizer: Optimizer<Rule> = file.part("optimizer")?.resume(flat.layout())?;
    run(&flat, &mut optimizer, &mut net, &train, EPOCHS / 2..EPOCHS)?;
    println!("{}", bits(&flat.flatten(&net)?));
    Ok(())
}

/// Trains for some epochs; the last loss.
fn run(
    flat: &Flat,
    optimizer: &mut Optimizer<Rule>,
    net: &mut Net,
    train: &ndarray::Array2<f32>,
    epochs: Range<usize>,
) -> flatleaf::Result<f32> {
    let mut last = 0.0;
    for epoch in epochs {
        // Half a cosine.
        let angle = std::f64::consts::PI * epoch as f64 / EPOCHS as f64;
        optimizer.set_lr(0.005 * (1.0 + angle.cos()))?;
        for batch in batches(train, BATCH, epoch as u64) {
            let loss = net.loss(&batch);
            last = loss.clone().into_scalar::<f32>();
            let grads = GradientsParams::from_grads(loss.backward(), net);
            flat.step(optimizer, net, grads)?;
        }
    }
    Ok(last)
}

/// All bits of a vector as one number.
fn bits(vector: &[f32]) -> String {
    let fold = |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", vector.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}
