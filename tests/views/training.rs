//! A whole run on views beside the same run on trees, with all that happens in the middle of one:
//! the same bits at its end.

use std::sync::Arc;

use flatleaf::ops::NonFinite;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Snapshot};
use flatleaf::{FlatGrad, Layout, Tree, destructure};
use ndarray::{Array1, Array2, arr1, arr2};

type Chain = (ClipNorm, AdamW, Ema);

/// A tie, a frozen leaf and one that may be missing from a batch.
#[derive(Clone, Tree)]
#[tree(view)]
struct Net {
    embed: Arc<Array2<f32>>,
    bias: Array1<f32>,
    #[tree(frozen)]
    mean: Array1<f32>,
    head: Arc<Array2<f32>>,
}

fn net() -> Net {
    let embed = Arc::new(arr2(&[[1.0, -2.0], [0.5, 3.0]]));
    Net {
        head: Arc::clone(&embed),
        embed,
        bias: arr1(&[0.25, -0.75]),
        mean: arr1(&[0.5]),
    }
}

fn optimizer(layout: &Layout) -> Optimizer<Chain> {
    let clip = ClipNorm {
        max: 0.5,
        non_finite: NonFinite::Skip,
        ..Default::default()
    };
    let adamw = AdamW {
        lr: 0.05,
        ..Default::default()
    };
    Optimizer::new((clip, adamw, Ema::default()), layout).unwrap()
}

const BATCHES: u32 = 12;

/// What batch this is a factor of all gradients; that of one is NaN.
fn factor(batch: u32) -> f32 {
    match batch {
        4 => f32::NAN,
        _ => 0.1 + (batch % 5) as f32 / 3.0,
    }
}

/// In this batch nothing used the bias.
fn lacks_bias(batch: u32) -> bool {
    batch == 2 || batch == 7
}

/// What the user does between two batches.
fn change(optimizer: &mut Optimizer<Chain>, batch: u32) {
    match batch {
        5 => optimizer
            .adjust("bias", |(_, adamw, _)| adamw.lr = 0.2)
            .unwrap(),
        6 => optimizer.freeze("embed").unwrap(),
        8 => optimizer.thaw("embed").unwrap(),
        // Another process goes on.
        9 => {
            let stored = serde_json::to_string(&optimizer.snapshot()).unwrap();
            let snapshot: Snapshot<'_, Chain> = serde_json::from_str(&stored).unwrap();
            *optimizer = Optimizer::resume(snapshot, optimizer.layout()).unwrap();
        }
        _ => {}
    }
}

/// Forward and backward read and write the vectors.
fn on_views() -> (Vec<f32>, Vec<bool>) {
    let net = net();
    let (mut flat, layout) = destructure(&net).unwrap();
    let mut optimizer = optimizer(&layout);
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let mut skipped = Vec::new();
    for batch in 0..BATCHES {
        change(&mut optimizer, batch);
        grad.reset();
        let seen = layout.view_tree(&net, &flat).unwrap();
        let mut written = layout.view_grad(&net, &mut grad).unwrap();
        let factor = factor(batch);
        // Each place of the tie adds its own part.
        written
            .embed
            .lend(|mut embed| embed.scaled_add(factor, &seen.embed));
        written
            .head
            .lend(|mut head| head.scaled_add(2.0 * factor, &seen.head));
        written.bias.scaled_add(factor, &seen.bias);
        written.bias += seen.mean[0];
        if lacks_bias(batch) {
            grad.set_present_at("bias", false);
        }
        skipped.push(optimizer.step(&mut flat, &grad).unwrap().skipped);
    }
    (flat, skipped)
}

/// The gradient is a tree of its own, and the model is moved where it is.
fn on_trees() -> (Vec<f32>, Vec<bool>) {
    let mut net = net();
    let layout = Layout::of(&net).unwrap();
    let mut optimizer = optimizer(&layout);
    let mut skipped = Vec::new();
    for batch in 0..BATCHES {
        change(&mut optimizer, batch);
        let factor = factor(batch);
        let scaled = |array: &Array2<f32>, by: f32| array.mapv(|x| by * x);
        let bias = net.bias.mapv(|x| factor * x) + net.mean[0];
        // Two places of the tie, and a bias that may be missing.
        let grads = NetGrad {
            embed: scaled(&net.embed, factor),
            bias: (!lacks_bias(batch)).then_some(bias),
            head: scaled(&net.head, 2.0 * factor),
        };
        skipped.push(optimizer.update(&mut net, &grads).unwrap().skipped);
    }
    (layout.gather(&net).unwrap(), skipped)
}

#[derive(Clone, Tree)]
struct NetGrad {
    embed: Array2<f32>,
    bias: Option<Array1<f32>>,
    head: Array2<f32>,
}

#[test]
fn a_run_on_views_has_the_bits_of_one_on_trees() {
    let (flat, skipped) = on_views();
    let (of_trees, skipped_there) = on_trees();
    let bits = |flat: &[f32]| flat.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&flat), bits(&of_trees));
    assert_eq!(skipped, skipped_there);
    // The batch of NaN, and no other.
    assert_eq!(skipped.iter().position(|skipped| *skipped), Some(4));
    assert_eq!(skipped.iter().filter(|skipped| **skipped).count(), 1);
    assert!(flat.iter().all(|x| x.is_finite()) && flat[4] != 0.25);
}
