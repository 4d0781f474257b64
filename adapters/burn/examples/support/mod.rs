//! What the examples train: a network on 8 × 8 pixels of handwritten digits.
#![allow(dead_code)] // no example uses all of it

use std::error::Error;

use burn_core as burn;
use burn_core::module::Module;
use burn_core::tensor::activation::relu;
use burn_core::tensor::{Device, Int, Tensor, TensorData};
use burn_nn::loss::CrossEntropyLossConfig;
use burn_nn::{Linear, LinearConfig};
use digits::{PIXELS, SplitMix64, read_digits};
use ndarray::{Array2, ArrayView2, Axis, s};

/// Where the examples train: on the CPU, with gradients.
pub fn device() -> Device {
    Device::flex().autodiff()
}

/// Pixels, and the digits that they show.
#[derive(Clone, Debug)]
pub struct Rows {
    pub pixels: Tensor<2>,
    pub digits: Tensor<1, Int>,
}

impl Rows {
    pub fn of(rows: ArrayView2<'_, f32>) -> Self {
        let pixels = rows.slice(s![.., ..PIXELS]).mapv(|pixel| pixel / 16.0);
        let digits: Vec<i32> = rows
            .column(PIXELS)
            .iter()
            .map(|digit| *digit as i32)
            .collect();
        let device = device();
        Rows {
            pixels: Tensor::from_data(
                TensorData::new(
                    pixels.iter().copied().collect::<Vec<f32>>(),
                    pixels.dim().into_shape(),
                ),
                &device,
            ),
            digits: Tensor::from_ints(&digits[..], &device),
        }
    }
}

trait IntoShape {
    fn into_shape(self) -> [usize; 2];
}

impl IntoShape for (usize, usize) {
    fn into_shape(self) -> [usize; 2] {
        [self.0, self.1]
    }
}

/// The rows to train on, and those to test on.
pub fn digits_of(seed: u64) -> Result<(Array2<f32>, Rows), Box<dyn Error>> {
    let (train, test) = read_digits(&mut SplitMix64(seed))?;
    Ok((train, Rows::of(test.view())))
}

/// Batches in an order that the seed and the epoch say.
pub fn batches(train: &Array2<f32>, size: usize, seed: u64) -> Vec<Rows> {
    let order = SplitMix64(seed).shuffled(train.nrows());
    let batches = order.chunks(size);
    batches
        .map(|rows| Rows::of(train.select(Axis(0), rows).view()))
        .collect()
}

/// 64-32-10.
#[derive(Module, Debug)]
pub struct Net {
    pub hidden: Linear,
    pub output: Linear,
}

impl Net {
    /// With weights that are the same on every run.
    pub fn new(seed: u64) -> Self {
        let device = device();
        let mut numbers = SplitMix64(seed);
        let mut layer = |inputs, outputs| {
            let mut layer = LinearConfig::new(inputs, outputs).init(&device);
            let weight = numbers.weight(inputs, outputs);
            let weight = TensorData::new(
                weight.iter().copied().collect::<Vec<f32>>(),
                [inputs, outputs],
            );
            layer.weight = layer
                .weight
                .map(|old| Tensor::from_data(weight, &old.device()).require_grad());
            layer.bias = layer
                .bias
                .map(|bias| bias.map(|old| old.zeros_like().require_grad()));
            layer
        };
        Net {
            hidden: layer(PIXELS, 32),
            output: layer(32, 10),
        }
    }

    pub fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(pixels)))
    }

    pub fn loss(&self, rows: &Rows) -> Tensor<1> {
        let loss = CrossEntropyLossConfig::new().init(&device());
        loss.forward(self.forward(rows.pixels.clone()), rows.digits.clone())
    }

    /// The share of rows that are told right.
    pub fn accuracy(&self, rows: &Rows) -> f32 {
        let told = self
            .forward(rows.pixels.clone())
            .argmax(1)
            .flatten::<1>(0, 1);
        let right = told
            .equal(rows.digits.clone())
            .int()
            .sum()
            .into_scalar::<i64>();
        right as f32 / rows.digits.dims()[0] as f32
    }
}
