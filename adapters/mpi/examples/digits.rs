//! Trains a network on handwritten digits on several processes, and says what they exchanged.
//!
//! ```text
//! cargo build --release --example digits
//! mpirun -np 4 target/release/examples/digits [replicated | sharded | local | diloco]
//! ```
//!
//! - `replicated`: every step moves all copies by the mean gradient, so they stay the same to the bit.
//! - `sharded`: so too, but each rank keeps the optimiser's state of its part of the vector only
//!   (ZeRO, Rajbhandari et al. 2020). The model is that of `replicated`, bit for bit.
//! - `local`: each rank steps alone, and every 10 steps the models are averaged (local SGD).
//! - `diloco`: each rank steps alone with AdamW; every 30 steps the way from the common start to the
//!   mean of the models is a gradient for an outer optimiser (Douillard et al. 2023).

use std::error::Error;
use std::iter::zip;

use digits::{PIXELS, SplitMix64, TRAINING_ROWS, read_digits};
use flatleaf::optim::{AdamW, Optimizer, OuterOptimizer, Sgd};
use flatleaf::{Communicator, Layout, Tree, destructure};
use flatleaf_mpi::Mpi;
use indicatif::{ProgressBar, ProgressDrawTarget};
use ndarray::{Array1, Array2, Axis, s};

const HIDDEN: usize = 64;
const CLASSES: usize = 10;
const STEPS: usize = 900;
/// Rows of a step, all ranks together.
const BATCH: usize = 60;

#[derive(Tree)]
struct Net {
    first: Dense,
    second: Dense,
}

#[derive(Tree)]
struct Dense {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// How the ranks work together.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Replicated,
    Sharded,
    Local,
    DiLoCo,
}

impl Way {
    fn of(name: Option<&str>) -> Result<Way, String> {
        match name {
            None | Some("replicated") => Ok(Way::Replicated),
            Some("sharded") => Ok(Way::Sharded),
            Some("local") => Ok(Way::Local),
            Some("diloco") => Ok(Way::DiLoCo),
            Some(other) => Err(format!(
                "expected replicated, sharded, local or diloco, found {other}"
            )),
        }
    }

    /// Steps from one exchange to the next.
    fn period(self) -> usize {
        match self {
            Way::Replicated | Way::Sharded => 1,
            Way::Local => 10,
            Way::DiLoCo => 30,
        }
    }
}

fn main() {
    flatleaf_mpi::run(train);
}

fn train(communicator: &mut Mpi) -> Result<(), Box<dyn Error>> {
    let way = Way::of(std::env::args().nth(1).as_deref())?;
    // The same seed on all ranks: the same digits, the same first model, the same batches.
    let mut random = SplitMix64(1);
    let (rows, test) = read_digits(&mut random)?;
    let mut net = Net::new(&mut random);
    let (mut flat, layout) = destructure(&net)?;
    communicator.check_layout(&layout)?;

    let range = match way {
        Way::Sharded => layout.shards(communicator.size())[communicator.rank()].clone(),
        _ => 0..layout.len(),
    };
    let mut optimizer = Optimizer::of_range(adam(), &layout, range)?;
    let outer_rule = if way == Way::DiLoCo {
        nesterov()
    } else {
        mean_of_models()
    };
    let mut outer = OuterOptimizer::new(outer_rule, &layout, &flat)?;
    let bar = progress_bar(communicator);
    let (mut losses, mut order) = (0.0, Vec::new());
    for step in 1..=STEPS {
        if order.len() < BATCH {
            order = random.shuffled(TRAINING_ROWS);
        }
        let batch = order.split_off(order.len() - BATCH);
        let own = share(&batch, communicator);
        let (loss, grads) = net.loss_and_grads(&rows.select(Axis(0), own));
        let mut grad = layout.gather_grad(&grads)?;
        let examples = own.len() as f64;
        if way.period() == 1 {
            optimizer.step_weighted_with(communicator, &mut flat, &mut grad, examples)?;
        } else {
            optimizer.step(&mut flat, &grad)?;
            if step % way.period() == 0 {
                outer.end_round(communicator, &mut flat, examples)?;
            }
        }
        layout.restructure_into(&mut net, &flat)?;
        let mut sum = [f64::from(loss) * examples];
        communicator.all_reduce(&mut sum)?;
        losses = 0.95 * losses + 0.05 * sum[0] / BATCH as f64;
        bar.inc(1);
    }
    bar.finish_and_clear();
    communicator.mean(&mut flat, 1.0)?;
    layout.restructure_into(&mut net, &flat)?;
    // Shards end where leaves do, and four leaves are not shared out evenly.
    let mut kept = vec![0.0; communicator.size()];
    let own: usize = optimizer.state().map(|(_, state)| 4 * state.len()).sum();
    kept[communicator.rank()] = own as f64;
    communicator.all_reduce(&mut kept)?;
    if communicator.rank() == 0 {
        println!("bytes of the optimiser's state on each rank: {kept:?}");
    }
    report(communicator, &layout, way, losses, net.accuracy(&test))
}

/// A rank's part of a batch.
fn share<'b>(batch: &'b [usize], communicator: &Mpi) -> &'b [usize] {
    let (rank, size) = (communicator.rank(), communicator.size());
    &batch[batch.len() * rank / size..batch.len() * (rank + 1) / size]
}

fn adam() -> AdamW {
    AdamW {
        lr: 3e-3,
        ..Default::default()
    }
}

/// The outer optimiser of local SGD: a step to the mean of the models.
fn mean_of_models() -> Sgd {
    Sgd {
        lr: 1.0,
        ..Default::default()
    }
}

/// DiLoCo's outer optimiser.
fn nesterov() -> Sgd {
    Sgd {
        lr: 0.7,
        momentum: 0.9,
        nesterov: true,
        ..Default::default()
    }
}

/// One for the whole job.
fn progress_bar(communicator: &Mpi) -> ProgressBar {
    let bar = ProgressBar::new(STEPS as u64);
    if communicator.rank() != 0 {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// What came of it, once, and whether it is what it should be, on every rank.
fn report(
    communicator: &mut Mpi,
    layout: &Layout,
    way: Way,
    loss: f64,
    accuracy: f64,
) -> Result<(), Box<dyn Error>> {
    // A sum sends what is owned by others, and the own sums to them.
    let others = (communicator.size() - 1) as f64;
    let bytes = 8.0 * layout.len() as f64 * others / communicator.size() as f64;
    if communicator.rank() == 0 {
        println!(
            "{} processes, {} parameters",
            communicator.size(),
            layout.len()
        );
        println!("loss {loss:.4}, accuracy on held-out digits {accuracy:.3}");
        println!(
            "sent by each, a step: {:.0} bytes",
            bytes / way.period() as f64
        );
    }
    let enough = (accuracy >= 0.94).then_some(());
    enough.ok_or_else(|| format!("expected an accuracy of at least 0.94, found {accuracy}").into())
}

impl Net {
    fn new(random: &mut SplitMix64) -> Net {
        let mut dense = |inputs, outputs| Dense {
            weight: (*random.weight(inputs, outputs)).clone(),
            bias: Array1::zeros(outputs),
        };
        Net {
            first: dense(PIXELS, HIDDEN),
            second: dense(HIDDEN, CLASSES),
        }
    }

    /// The pixels, what the hidden layer makes of them, and the probability of each class.
    fn forward(&self, rows: &Array2<f32>) -> (Array2<f32>, Array2<f32>, Array2<f32>) {
        let pixels = rows.slice(s![.., ..PIXELS]).mapv(|pixel| pixel / 16.0);
        let hidden = (pixels.dot(&self.first.weight) + &self.first.bias).mapv(f32::tanh);
        let mut classes = hidden.dot(&self.second.weight) + &self.second.bias;
        for mut row in classes.rows_mut() {
            let largest = row.fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
            row.mapv_inplace(|x| (x - largest).exp());
            row /= row.sum();
        }
        (pixels, hidden, classes)
    }

    /// The mean cross-entropy, and its gradient: a tree of the same paths.
    fn loss_and_grads(&self, rows: &Array2<f32>) -> (f32, Net) {
        let (pixels, hidden, mut delta) = self.forward(rows);
        let count = rows.nrows() as f32;
        let mut loss = 0.0;
        for (mut row, label) in zip(delta.rows_mut(), rows.column(PIXELS)) {
            loss -= row[*label as usize].ln() / count;
            row[*label as usize] -= 1.0;
        }
        delta /= count;
        // The derivative of tanh is 1 - tanh².
        let back = delta.dot(&self.second.weight.t()) * hidden.mapv(|x| 1.0 - x * x);
        let second = Dense {
            weight: hidden.t().dot(&delta),
            bias: delta.sum_axis(Axis(0)),
        };
        let first = Dense {
            weight: pixels.t().dot(&back),
            bias: back.sum_axis(Axis(0)),
        };
        (loss, Net { first, second })
    }

    fn accuracy(&self, rows: &Array2<f32>) -> f64 {
        let (_, _, classes) = self.forward(rows);
        let likeliest =
            |row: ndarray::ArrayView1<f32>| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let hits = zip(classes.rows(), rows.column(PIXELS))
            .filter(|(row, label)| likeliest(*row) == Some(**label as usize));
        hits.count() as f64 / rows.nrows() as f64
    }
}
