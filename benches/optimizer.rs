//! What it costs that leaves have configurations of their own: a step on 16,000 leaves beside one
//! whose leaves were adjusted one by one, to one configuration in the end, and to one each.
//!
//! `cargo bench --bench optimizer`

mod support;

use std::time::{Duration, Instant};

use flatleaf::optim::{AdamW, Optimizer};
use flatleaf::{FlatGrad, Layout};
use support::{Arrays, alternate, arrays, concatenate, median};

const LEAVES: usize = 16_000;

fn main() {
    let tree: Arrays = arrays(&vec![vec![8, 8]; LEAVES], 1.0);
    let layout = Layout::of(&tree).expect("a plain tree");
    let flat = concatenate(&tree);
    let grad = FlatGrad::from_flat(&layout, flat.clone()).expect("as long as the layout");
    let rule = |lr: f64| AdamW {
        lr,
        ..AdamW::default()
    };

    let optimizer = |lr: f64| Optimizer::new(rule(lr), &layout).expect("a valid rule");
    let mut plain = optimizer(1e-3);
    let mut alike = optimizer(1e-2);
    let seconds = adjust_each(&mut alike, |_| 1e-3);
    println!(
        "{LEAVES} leaves adjusted one by one: {:.1} ns each",
        1e9 * seconds / LEAVES as f64
    );
    let mut different = optimizer(1e-2);
    adjust_each(&mut different, |leaf| 1e-3 + 1e-9 * leaf as f64);

    // All three take the steps that a plain loop over leaves would: the first two the same ones.
    let mut flats = [flat.clone(), flat.clone(), flat.clone()];
    for (optimizer, flat) in [&mut plain, &mut alike, &mut different]
        .into_iter()
        .zip(&mut flats)
    {
        optimizer.step(flat, &grad).expect("finite numbers");
    }
    assert!(flats[0] == flats[1] && flats[0] != flats[2]);
    let moved = f64::from(flat[64] - flats[2][64]);
    let expected = (1e-3 + 1e-9) * f64::from(flat[64].signum() + 0.01 * flat[64]);
    assert!(
        (moved - expected).abs() < 1e-6,
        "{moved} and not {expected}"
    );

    let [mut first, mut second, mut third] = flats;
    let mut jobs: [(&str, &mut dyn FnMut()); 3] = [
        ("plain", &mut || {
            plain.step(&mut first, &grad).expect("finite numbers");
        }),
        ("adjusted to one configuration", &mut || {
            alike.step(&mut second, &grad).expect("finite numbers");
        }),
        ("adjusted to one each", &mut || {
            different.step(&mut third, &grad).expect("finite numbers");
        }),
    ];
    let times = alternate(&mut jobs, Duration::from_millis(2000));
    let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
    for (job, time) in jobs.iter().zip(&medians) {
        println!(
            "{:<30} {:>9.3} ms {:>6.2} x plain",
            job.0,
            1e3 * time,
            time / medians[0]
        );
    }
}

/// Adjusts every leaf by its path; returns the seconds that it took.
fn adjust_each(optimizer: &mut Optimizer<AdamW>, rate: impl Fn(usize) -> f64) -> f64 {
    let layout = optimizer.layout().clone();
    let start = Instant::now();
    for (index, leaf) in layout.leaves().iter().enumerate() {
        let adjusted = optimizer.adjust(leaf.path(), |adamw| adamw.lr = rate(index));
        adjusted.expect("a leaf of the layout");
    }
    start.elapsed().as_secs_f64()
}
