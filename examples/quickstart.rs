//! Trains a network on 1,500 handwritten digits and tests it on 297 others.
//!
//! Two of its layers share one weight, and what standardises the pixels is frozen. Backpropagation knows of neither: it leaves a
//! gradient at every place. The [`Layout`] knows of both, so that the optimiser is a loop over three slices.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::iter::zip;
use std::sync::Arc;

use flate2::read::GzDecoder;
use flatleaf::{Layout, Tree, destructure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ndarray::{Array1, Array2, ArrayViewMut1, Axis, s};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.csv.gz");
const TRAINING_ROWS: usize = 1_500;
const PIXELS: usize = 64;
const HIDDEN: usize = 48;
const CLASSES: usize = 10;

const EPOCHS: u64 = 40;
const BATCH: usize = 50;
const LEARNING_RATE: f32 = 0.02;
const MOMENTUM: f32 = 0.9;

#[derive(Tree)]
struct Net {
    #[tree(frozen)]
    mean: Array1<f32>,
    #[tree(frozen)]
    deviation: Array1<f32>,
    layers: Vec<Dense>,
}

#[derive(Tree)]
struct Dense {
    weight: Arc<Array2<f32>>,
    bias: Array1<f32>,
}

/// The gradient of a [`Net`]. Any tree with the same paths would do; the frozen leaves may be missing.
#[derive(Tree)]
struct NetGrads {
    layers: Vec<Dense>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = SplitMix64(std::env::var("SEED")?.parse()?);
    let (train, test) = read_digits()?.split(TRAINING_ROWS, &mut random);
    let mut net = Net::new(&train, &mut random);

    let (mut flat, layout) = destructure(&net)?;
    println!("{layout}\n");
    print_first_gradient(&layout, &net.loss_and_grads(&train).1)?;

    let mut velocity = vec![0.0; layout.len()];
    let progress = Progress::new();
    for epoch in 1..=EPOCHS {
        let mut loss = 0.0;
        for rows in random.shuffled(train.len()).chunks(BATCH) {
            let (batch_loss, grads) = net.loss_and_grads(&train.select(rows));
            let grad = layout.gather_grad(&grads)?;
            momentum_step(&mut flat, &mut velocity, &grad);
            layout.restructure_into(&mut net, &flat)?;
            loss += batch_loss * rows.len() as f32 / train.len() as f32;
        }
        progress.show(epoch, loss);
    }

    let accuracy = net.accuracy(&test);
    println!("\naccuracy on {} held-out rows: {accuracy:.3}", test.len());
    assert!(accuracy >= 0.95, "expected an accuracy of at least 0.95");
    assert!(Arc::ptr_eq(&net.layers[1].weight, &net.layers[2].weight), "expected the tie to hold");
    Ok(())
}

/// Knows of no layer, shape or tie.
fn momentum_step(flat: &mut [f32], velocity: &mut [f32], grad: &[f32]) {
    for ((x, v), dx) in zip(zip(flat, velocity), grad) {
        *v = MOMENTUM * *v + dx;
        *x -= LEARNING_RATE * *v;
    }
}

fn print_first_gradient(layout: &Layout, grads: &NetGrads) -> flatleaf::Result<()> {
    let grad = layout.gather_grad(grads)?;
    println!("norm of the first gradient  {:.4}", norm(grad.iter()));
    println!("  at layers.1.weight        {:.4}", norm(grads.layers[1].weight.iter()));
    println!("  at layers.2.weight        {:.4}", norm(grads.layers[2].weight.iter()));
    println!("  of the two, which are one {:.4}\n", norm(layout.view(&grad, "layers.1.weight")?.iter()));
    Ok(())
}

fn norm<'x>(elements: impl Iterator<Item = &'x f32>) -> f64 {
    elements.map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

impl Net {
    fn new(train: &Digits, random: &mut SplitMix64) -> Net {
        let shared = Arc::new(random.weight(HIDDEN, HIDDEN));
        let first = Arc::new(random.weight(PIXELS, HIDDEN));
        let last = Arc::new(random.weight(HIDDEN, CLASSES));
        Net {
            mean: train.pixels.sum_axis(Axis(0)) / train.len() as f32,
            // Of a pixel that is almost always blank the deviation is tiny, and dividing by it would make its few specks huge.
            deviation: train.pixels.std_axis(Axis(0), 0.0).mapv(|deviation| deviation.max(1.0)),
            layers: [first, shared.clone(), shared, last].into_iter().map(Dense::new).collect(),
        }
    }

    /// The input of each layer, and the logits.
    fn forward(&self, pixels: &Array2<f32>) -> (Vec<Array2<f32>>, Array2<f32>) {
        let mut inputs = Vec::new();
        let mut x = (pixels - &self.mean) / &self.deviation;
        for layer in &self.layers {
            let input = x.tanh();
            x = input.dot(&*layer.weight) + &layer.bias;
            inputs.push(input);
        }
        (inputs, x)
    }

    fn loss_and_grads(&self, digits: &Digits) -> (f32, NetGrads) {
        let (inputs, logits) = self.forward(&digits.pixels);
        let (loss, mut delta) = cross_entropy(logits, &digits.labels);
        let mut layers = Vec::new();
        for (layer, input) in zip(&self.layers, &inputs).rev() {
            layers.push(Dense { weight: Arc::new(input.t().dot(&delta)), bias: delta.sum_axis(Axis(0)) });
            // The derivative of tanh is 1 - tanh².
            delta = delta.dot(&layer.weight.t()) * input.mapv(|x| 1.0 - x * x);
        }
        layers.reverse();
        (loss, NetGrads { layers })
    }

    fn accuracy(&self, digits: &Digits) -> f64 {
        let (_, logits) = self.forward(&digits.pixels);
        let right = zip(logits.rows(), &digits.labels).filter(|(row, label)| row.iter().all(|&logit| logit <= row[**label])).count();
        right as f64 / digits.len() as f64
    }
}

impl Dense {
    fn new(weight: Arc<Array2<f32>>) -> Dense {
        Dense { bias: Array1::zeros(weight.ncols()), weight }
    }
}

/// The mean loss, and its gradient with respect to the logits.
fn cross_entropy(mut logits: Array2<f32>, labels: &[usize]) -> (f32, Array2<f32>) {
    let mut loss = 0.0;
    for (mut row, &label) in zip(logits.rows_mut(), labels) {
        softmax(row.view_mut());
        loss -= row[label].ln();
        row[label] -= 1.0;
    }
    let rows = labels.len() as f32;
    (loss / rows, logits / rows)
}

fn softmax(mut row: ArrayViewMut1<f32>) {
    let max = row.fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    row.mapv_inplace(|x| (x - max).exp());
    row /= row.sum();
}

struct Digits {
    pixels: Array2<f32>,
    labels: Vec<usize>,
}

impl Digits {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn select(&self, rows: &[usize]) -> Digits {
        Digits { pixels: self.pixels.select(Axis(0), rows), labels: rows.iter().map(|&row| self.labels[row]).collect() }
    }

    /// So many rows at random, and the others.
    fn split(&self, rows: usize, random: &mut SplitMix64) -> (Digits, Digits) {
        let order = random.shuffled(self.len());
        (self.select(&order[..rows]), self.select(&order[rows..]))
    }
}

fn read_digits() -> Result<Digits, Box<dyn Error>> {
    let mut text = String::new();
    GzDecoder::new(File::open(DIGITS)?).read_to_string(&mut text)?;
    let numbers = text.trim_end().split([',', '\n']).map(str::parse).collect::<Result<Vec<f32>, _>>()?;
    let rows = Array2::from_shape_vec((numbers.len() / (PIXELS + 1), PIXELS + 1), numbers)?;
    let labels = rows.column(PIXELS).mapv(|label| label as usize).to_vec();
    Ok(Digits { pixels: rows.slice_move(s![.., ..PIXELS]), labels })
}

/// A bar where stdout is a terminal, a line every few epochs where it is not.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new() -> Progress {
        let style = ProgressStyle::with_template("epoch {pos}/{len} {bar:40} {msg}").expect("a valid template");
        Progress { bar: ProgressBar::with_draw_target(Some(EPOCHS), ProgressDrawTarget::stdout()).with_style(style) }
    }

    fn show(&self, epoch: u64, loss: f32) {
        self.bar.set_message(format!("loss {loss:.4}"));
        self.bar.set_position(epoch);
        if self.bar.is_hidden() && (epoch == 1 || epoch.is_multiple_of(5)) {
            println!("epoch {epoch:2}  loss {loss:.4}");
        }
    }
}

/// Sebastiano Vigna's generator: a few lines, the same numbers everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn signed_unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Uniform with a variance of one over the inputs, so that activations keep their size from layer to layer.
    fn weight(&mut self, inputs: usize, outputs: usize) -> Array2<f32> {
        let bound = (3.0 / inputs as f32).sqrt();
        Array2::from_shape_simple_fn((inputs, outputs), || bound * self.signed_unit())
    }

    /// The numbers below `len` in random order.
    fn shuffled(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        order
    }
}
