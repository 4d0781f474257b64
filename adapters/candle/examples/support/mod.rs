//! What the examples share: the digits as tensors, a network, a progress bar, a plot of losses.
#![allow(dead_code)] // Not every example uses all of it.

pub mod transformer;

use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder, linear};
use digits::{PIXELS, SplitMix64, TRAINING_ROWS};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;

pub const CPU: Device = Device::Cpu;
pub const CLASSES: usize = 10;

/// Pixels between 0 and 1, and labels.
pub struct Rows {
    pub pixels: Tensor,
    pub labels: Tensor,
}

/// 1,797 handwritten digits of 8 by 8 pixels: those to train on, and 297 that are held out.
pub fn read_digits(random: &mut SplitMix64) -> std::result::Result<(Rows, Rows), Box<dyn Error>> {
    let (train, test) = digits::read_digits(random)?;
    let rows = |rows: &ndarray::Array2<f32>| -> Result<Rows> {
        let (count, width) = rows.dim();
        let all = Tensor::from_iter(rows.iter().copied(), &CPU)?.reshape((count, width))?;
        Ok(Rows {
            pixels: (all.narrow(1, 0, PIXELS)? / 16.0)?,
            labels: all
                .narrow(1, PIXELS, 1)?
                .flatten_all()?
                .to_dtype(DType::U32)?,
        })
    };
    Ok((rows(&train)?, rows(&test)?))
}

impl Rows {
    /// The rows of these numbers.
    pub fn select(&self, numbers: &[usize]) -> Result<Rows> {
        let numbers = Tensor::from_iter(numbers.iter().map(|&number| number as u32), &CPU)?;
        Ok(Rows {
            pixels: self.pixels.index_select(&numbers, 0)?,
            labels: self.labels.index_select(&numbers, 0)?,
        })
    }

    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }
}

/// The same batches every time: the rows in random order, again and again.
pub struct Batches {
    random: SplitMix64,
    order: Vec<usize>,
    size: usize,
}

impl Batches {
    pub fn new(seed: u64, size: usize) -> Self {
        Batches {
            random: SplitMix64(seed),
            order: Vec::new(),
            size,
        }
    }

    pub fn next(&mut self) -> Vec<usize> {
        if self.order.len() < self.size {
            self.order = self.random.shuffled(TRAINING_ROWS);
        }
        self.order.split_off(self.order.len() - self.size)
    }
}

/// A network of two layers. Its variables are called `body.weight`, `head.bias` and so on.
pub struct Net {
    pub body: Linear,
    pub head: Linear,
}

impl Net {
    pub fn new(hidden: usize, classes: usize, builder: VarBuilder) -> Result<Self> {
        Ok(Net {
            body: linear(PIXELS, hidden, builder.pp("body"))?,
            head: linear(hidden, classes, builder.pp("head"))?,
        })
    }
}

impl Module for Net {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.body.forward(pixels)?.tanh()?)
    }
}

/// The part of the rows whose likeliest class is their label.
pub fn accuracy(model: &impl Module, rows: &Rows) -> Result<f64> {
    let likeliest = model.forward(&rows.pixels)?.argmax(D::Minus1)?;
    let hits = likeliest
        .eq(&rows.labels)?
        .to_dtype(DType::F32)?
        .sum_all()?;
    Ok(f64::from(hits.to_scalar::<f32>()?) / rows.len() as f64)
}

pub fn progress_bar(what: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>12} {bar:40} {pos}/{len} {msg}");
    let bar = ProgressBar::new(steps as u64).with_prefix(what);
    bar.with_style(style.expect("the template is one"))
}

/// Losses after each step, and what to call them.
pub struct Curve {
    pub name: &'static str,
    pub losses: Vec<f32>,
}

impl Curve {
    /// The mean of the last tenth.
    pub fn end(&self) -> f32 {
        let last = &self.losses[self.losses.len() * 9 / 10..];
        last.iter().sum::<f32>() / last.len() as f32
    }

    /// Averaged over its neighbourhood: a batch is not the whole.
    fn smooth(&self) -> impl Iterator<Item = (f64, f64)> {
        let width = (self.losses.len() / 60).max(1);
        let windows = self.losses.windows(width).enumerate();
        windows.map(move |(step, window)| {
            (
                step as f64,
                f64::from(window.iter().sum::<f32>() / width as f32),
            )
        })
    }
}

/// Where the plot goes: the first argument, or beside the executable.
pub fn plot_path() -> std::io::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_extension("svg");
    Ok(std::env::args().nth(1).map_or(beside, PathBuf::from))
}

/// Draws the losses over the steps, on a logarithmic scale.
pub fn plot(curves: &[Curve], path: &Path) -> std::result::Result<(), Box<dyn Error>> {
    let points: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|curve| curve.smooth().collect())
        .collect();
    let all = points.iter().flatten();
    let (lowest, highest) = all
        .clone()
        .fold((f64::MAX, f64::MIN), |(low, high), (_, loss)| {
            (low.min(*loss), high.max(*loss))
        });
    let steps = all.fold(0.0, |steps: f64, (step, _)| steps.max(*step));

    let area = SVGBackend::new(path, (800, 500)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..steps, (lowest * 0.8..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss")
        .draw()?;
    for (index, (curve, points)) in curves.iter().zip(points).enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let line = LineSeries::new(points, colour.stroke_width(2));
        let series = chart.draw_series(line)?.label(curve.name);
        series
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

/// What an example promises.
pub fn check(holds: bool, what: impl std::fmt::Display) -> std::result::Result<(), Box<dyn Error>> {
    if holds {
        Ok(())
    } else {
        Err(format!("expected {what}").into())
    }
}
