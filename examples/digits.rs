//! What several examples train on: 1,797 handwritten digits, and numbers at random.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use flate2::read::GzDecoder;
use ndarray::{Array2, Axis};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits.csv.gz");

/// How many of the digits are to train on.
pub const TRAINING_ROWS: usize = 1500;
/// How many pixels a digit has: 8 × 8.
pub const PIXELS: usize = 64;

/// The rows to train on and the rows to test on: 64 pixels and a label each. Shuffled, since the
/// last ones in the file are harder.
pub fn read_digits(random: &mut SplitMix64) -> Result<(Array2<f32>, Array2<f32>), Box<dyn Error>> {
    let mut text = String::new();
    GzDecoder::new(File::open(DIGITS)?).read_to_string(&mut text)?;
    let numbers = text
        .trim_end()
        .split([',', '\n'])
        .map(str::parse)
        .collect::<Result<Vec<f32>, _>>()?;
    let rows = Array2::from_shape_vec((numbers.len() / (PIXELS + 1), PIXELS + 1), numbers)?;
    let order = random.shuffled(rows.nrows());
    let (train, test) = order.split_at(TRAINING_ROWS);
    Ok((rows.select(Axis(0), train), rows.select(Axis(0), test)))
}

/// Sebastiano Vigna's generator: the same numbers everywhere.
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform, with variance 1 / inputs, so that activations keep their size from layer to layer.
    pub fn weight(&mut self, inputs: usize, outputs: usize) -> Arc<Array2<f32>> {
        let bound = (3.0 / inputs as f32).sqrt();
        let uniform = || bound * ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0);
        Arc::new(Array2::from_shape_simple_fn((inputs, outputs), uniform))
    }

    /// The numbers below `len` in random order.
    pub fn shuffled(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        order
    }
}
