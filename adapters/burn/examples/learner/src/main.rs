//! How do I train by a rule of flatleaf in burn's own training loop?
//!
//! burn's `Learner` takes a `ModuleOptimizer`, which `PerTensor` becomes, a schedule of burn's, and
//! its checkpoints. It shows its optimiser one tensor at a time, so what needs the whole network goes
//! where burn hands all gradients out, in `TrainStep::optimize`: there the gradient is clipped by the
//! norm of the network, and a batch with a NaN is passed by.
//!
//! The program trains on handwritten digits, one of whose rows has a NaN, and checks that
//!
//! - the steps are those of `Flat::step` in a loop of one's own, to the bit;
//! - so they are if the run stops after half of its epochs and goes on from burn's checkpoint, in a
//!   learner that knows nothing but the files;
//! - and if it goes on by a schedule with another peak: the loop of one's own changes its rate at
//!   that step, and nothing else;
//! - it tells as many digits right as by burn's own `AdamW`.
//!
//! burn prints a line for each batch; what the program has found stands in the last five.
//!
//! ```text
//! cargo run   # in this folder
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn_core::data::dataloader::batcher::Batcher;
use burn_core::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn_core::data::dataset::InMemDataset;
use burn_core::module::Module;
use burn_core::tensor::Device;
use burn_optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn_optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn_train::metric::{AccuracyMetric, LearningRateMetric, LossMetric};
use burn_train::{
    ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
use flatleaf_burn::{Flat, PerTensor};
use ndarray::{Array2, Axis};
use support::{Net, Rows, digits_of};

#[path = "../../support/mod.rs"]
mod support;

const BATCH: usize = 50;
const EPOCHS: usize = 8;
const HALF: usize = EPOCHS / 2;
const PEAK: f64 = 0.01;
const MAX_NORM: f64 = 1.0;

impl TrainStep for Net {
    type Input = Rows;
    type Output = ClassificationOutput;

    fn step(&self, rows: Rows) -> TrainOutput<ClassificationOutput> {
        let loss = self.loss(&rows);
        let output = self.forward(rows.pixels);
        let output = ClassificationOutput::new(loss.clone(), output, rows.digits);
        TrainOutput::new(self, loss.backward(), output)
    }

    /// burn's own step, behind a clip by the norm of the whole network.
    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        mut grads: GradientsParams,
    ) -> Self {
        let clipped = Flat::of(&self).and_then(|flat| flat.clip_norm(&self, &mut grads, MAX_NORM));
        match clipped {
            Ok(_) => optimizer.step(rate, self, grads),
            Err(error) if error.is_non_finite() => {
                println!("passed by: {error}");
                self
            }
            // `optimize` has no way to return one.
            Err(error) => panic!("{error}"),
        }
    }
}

impl InferenceStep for Net {
    type Input = Rows;
    type Output = ClassificationOutput;

    fn step(&self, rows: Rows) -> ClassificationOutput {
        let (pixels, digits) = (rows.pixels.inner(), rows.digits.inner());
        let output = self.forward(pixels);
        let loss = burn_nn::loss::CrossEntropyLossConfig::new().init(&output.device());
        ClassificationOutput::new(loss.forward(output.clone(), digits.clone()), output, digits)
    }
}

/// Rows of pixels and digits, as they come.
struct InOrder;

impl Batcher<Vec<f32>, Rows> for InOrder {
    fn batch(&self, rows: Vec<Vec<f32>>, _: &Device) -> Rows {
        let shape = (rows.len(), rows[0].len());
        let rows = Array2::from_shape_vec(shape, rows.concat()).expect("rows of one length");
        Rows::of(rows.view())
    }
}

fn loader(rows: &Array2<f32>) -> Arc<dyn DataLoader<Rows>> {
    let rows = rows.rows().into_iter().map(|row| row.to_vec());
    let builder = DataLoaderBuilder::new(InOrder).batch_size(BATCH);
    builder.build(InMemDataset::new(rows.collect()))
}

/// Half a cosine over all steps. Its record says at which step it is and not how high, so another
/// one that loads it goes on at that step by its own peak. burn's exponential schedule alone keeps
/// its rate in the record, and would go on at the old one.
fn schedule(peak: f64, rows: &Array2<f32>) -> Result<ModuleLrScheduler, Box<dyn Error>> {
    let steps = EPOCHS * rows.nrows().div_ceil(BATCH);
    Ok(CosineAnnealingLrSchedulerConfig::new(peak, steps).init()?)
}

fn rule() -> AdamW {
    AdamW {
        weight_decay: 1e-3,
        ..Default::default()
    }
}

/// Trains to the end of an epoch, from the start or from the checkpoint of an epoch before.
fn learn(
    directory: &Path,
    learner: Learner<Net>,
    [train, held_out]: [&Array2<f32>; 2],
    (from, to): (Option<usize>, usize),
) -> Net {
    let training = SupervisedTraining::new(directory, loader(train), loader(held_out))
        .metric_train_numeric(LearningRateMetric::new())
        .metric_valid_numeric(LossMetric::new())
        .metric_valid_numeric(AccuracyMetric::new())
        .with_application_logger(None)
        .with_default_checkpointers()
        .num_epochs(to);
    let training = match from {
        Some(epoch) => training.checkpoint(epoch),
        None => training,
    };
    training.launch(learner).model
}

/// The same steps in a loop of one's own that never stops, by one schedule in the first half of the
/// epochs and by another in the second.
fn learn_by_hand(net: &Net, train: &Array2<f32>, peaks: [f64; 2]) -> Result<Net, Box<dyn Error>> {
    // With storages of its own.
    let mut net = net.valid().train();
    let flat = Flat::of(&net)?;
    let mut optimizer = Optimizer::new(rule(), flat.layout())?;
    let mut schedules = [schedule(peaks[0], train)?, schedule(peaks[1], train)?];
    let mut passed_by = 0;
    for epoch in 0..EPOCHS {
        for rows in loader(train).iter() {
            let loss = net.loss(&rows?);
            let mut grads = GradientsParams::from_grads(loss.backward(), &net);
            let rates = schedules.each_mut().map(|schedule| schedule.step().base());
            match flat.clip_norm(&net, &mut grads, MAX_NORM) {
                Ok(_) => {
                    optimizer.set_lr(rates[epoch / HALF])?;
                    flat.step(&mut optimizer, &mut net, grads)?;
                }
                Err(error) if error.is_non_finite() => passed_by += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    assert_eq!(passed_by, EPOCHS, "one batch of each epoch has a NaN");
    Ok(net)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (train, test) = digits_of(1)?;
    let held_out = train.select(Axis(0), &(0..200).collect::<Vec<_>>());
    let mut train = train.select(Axis(0), &(200..train.nrows()).collect::<Vec<_>>());
    train[[333, 30]] = f32::NAN;
    let net = Net::new(2);
    let flat = Flat::of(&net)?;

    let directory = std::env::temp_dir().join(format!("learner-{}", std::process::id()));
    let data = [&train, &held_out];
    let learner = |net: &Net, peak| -> Result<Learner<Net>, Box<dyn Error>> {
        let optimizer = PerTensor::of(rule(), net)?.into();
        let schedule = schedule(peak, &train)?;
        Ok(Learner::new(net.clone(), optimizer, schedule))
    };
    let learned = learn(&directory, learner(&net, PEAK)?, data, (None, EPOCHS));
    let values = flat.flatten(&learned)?;
    std::fs::remove_dir_all(&directory)?;

    // Stopped, and gone on with from the files alone: by the same schedule, and by another one.
    let peaks = [PEAK, PEAK / 4.0];
    for peak in peaks {
        learn(&directory, learner(&net, PEAK)?, data, (None, HALF));
        let to_resume = learner(&Net::new(99), peak)?;
        let resumed = learn(&directory, to_resume, data, (Some(HALF), EPOCHS));
        std::fs::remove_dir_all(&directory)?;

        let by_hand = learn_by_hand(&net, &train, [PEAK, peak])?;
        let resumed = flat.flatten(&resumed)?;
        assert_eq!(resumed, flat.flatten(&by_hand)?, "with a peak of {peak}");
        assert_eq!(resumed == values, peak == PEAK, "with a peak of {peak}");
    }

    let config = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(1e-3);
    let learner_of_burn = Learner::new(net.clone(), config.init(), schedule(PEAK, &train)?);
    let by_burn = learn(&directory, learner_of_burn, data, (None, EPOCHS));
    std::fs::remove_dir_all(&directory)?;
    let others = flat.flatten(&by_burn)?;
    let difference: Vec<f32> = values.iter().zip(&others).map(|(a, b)| a - b).collect();
    let apart = norm_l2(&difference) / norm_l2(&values);

    // What burn's loop would do something else with is refused before it begins.
    let clip_of_all = ClipNorm::default();
    let error = PerTensor::of((clip_of_all, rule()), &net).expect_err("a norm over all");
    println!("refused: {error}");
    let error = PerTensor::of((rule(), Ema::default()), &net).expect_err("an average");
    println!("refused: {error}");

    println!("resumed with a peak of {peaks:?}: the bits of a loop by hand that never stops");
    let [ours, theirs] = [learned.accuracy(&test), by_burn.accuracy(&test)];
    println!("accuracy on held-out digits {ours:.3}, by burn's AdamW {theirs:.3}");
    println!("parameters are {apart:.1e} from those of burn's AdamW");
    assert!(ours >= 0.94 && (ours - theirs).abs() < 0.01);
    Ok(())
}
