//! What the benchmarks share: trees of given shapes, a clock, and the machine's own limits.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ndarray::{ArrayD, IxDyn};
use rayon::prelude::*;

/// A model or a gradient: one array a leaf.
pub(crate) type Arrays = Vec<ArrayD<f32>>;

/// The shapes of a tree by its name; those of real models are in `peers/trees.json`.
pub(crate) fn shapes(name: &str) -> Vec<Vec<usize>> {
    match name {
        "small10k" => vec![vec![8, 8]; 10_000],
        "small100k" => vec![vec![16]; 100_000],
        "billion" => vec![vec![1_000, 1_000]; 1_000],
        _ => {
            let all: BTreeMap<String, Vec<Vec<usize>>> =
                serde_json::from_str(include_str!("../peers/trees.json"))
                    .expect("the file is well formed");
            all.get(name)
                .unwrap_or_else(|| {
                    panic!(
                        "no tree named {name:?}; there are mlp, resnet50, gpt2, small10k, small100k"
                    )
                })
                .clone()
        }
    }
}

/// Arrays of these shapes with small numbers that differ from element to element.
pub(crate) fn arrays(shapes: &[Vec<usize>], scale: f32) -> Arrays {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    shapes
        .iter()
        .map(|shape| ArrayD::from_shape_simple_fn(IxDyn(shape), &mut next))
        .collect()
}

/// The elements of the arrays, one after the other: the plain answer to compare with.
pub(crate) fn concatenate(arrays: &Arrays) -> Vec<f32> {
    arrays.iter().flatten().copied().collect()
}

/// The wall time of one call.
pub(crate) fn time(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64()
}

/// The times of calls in a row, for so long: of so many at least.
pub(crate) fn times_of(least: usize, period: Duration, mut call: impl FnMut()) -> Vec<f64> {
    let end = Instant::now() + period;
    let mut times = Vec::new();
    while times.len() < least || (Instant::now() < end && times.len() < 20_000) {
        times.push(time(&mut call));
    }
    times
}

/// How long it is one job's turn. Its first call finds the caches as the last job left them and is
/// not timed. Long enough that jobs which make new vectors get back the memory that they have given
/// away: a virtual machine may have handed it on meanwhile, and then the first calls wait for it.
const TURN: Duration = Duration::from_millis(400);

/// Calls every job in turn, again and again, for about so long for each; gives the sorted times of
/// each.
pub(crate) fn alternate(jobs: &mut [(&str, &mut dyn FnMut())], each: Duration) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); jobs.len()];
    let end = Instant::now() + each * jobs.len() as u32;
    while Instant::now() < end {
        for (job, times) in jobs.iter_mut().zip(&mut times) {
            job.1();
            times.extend(times_of(2, TURN, &mut job.1));
        }
    }
    times
        .iter_mut()
        .for_each(|times| times.sort_by(f64::total_cmp));
    times
}

pub(crate) fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Copies with all threads: the machine's own limit for moving so many bytes.
pub(crate) fn parallel_copy(to: &mut [f32], from: &[f32]) {
    if from.len() < 1 << 20 {
        return to.copy_from_slice(from);
    }
    let chunk = from.len().div_ceil(rayon::current_num_threads());
    to.par_chunks_mut(chunk)
        .zip(from.par_chunks(chunk))
        .for_each(|(to, from)| to.copy_from_slice(from));
}
