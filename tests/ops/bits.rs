//! The same bits by any number of threads and at every vector width.
//!
//! Worth running with `--release` too: without optimisation nothing is vectorised.

use flatleaf::FlatElement;
use flatleaf::ops;

#[cfg(feature = "rayon")]
use crate::edges::SPLIT;
use crate::edges::{LARGE, exact_too, lengths, rough};
use crate::kernels::{POWERS, changes, measures};
use crate::widths::at_every_width;

/// All that all kernels give for one input, without powers if it is large: those take long where
/// nothing is optimised. There it is of f32 alone, as how work is shared does not depend on the
/// type.
fn everything(length: usize) -> Vec<(String, Vec<u64>)> {
    let mut all = everything_of::<f32>(length);
    if length < LARGE || !cfg!(debug_assertions) {
        all.extend(everything_of::<f64>(length));
    }
    all
}

fn everything_of<E: FlatElement>(length: usize) -> Vec<(String, Vec<u64>)> {
    let x: Vec<E> = rough(length);
    let measures = measures::<E>();
    let measures = measures
        .iter()
        .map(|(name, kernel, _)| (name.to_string(), vec![kernel(&x).to_bits()]));
    let powers = POWERS
        .iter()
        .filter(|_| length < LARGE)
        .map(|&p| (format!("norm {p}"), vec![ops::norm(&x, p).to_bits()]));
    let changes = changes::<E>();
    let before: Vec<E> = exact_too(length);
    let changes = changes.iter().map(|(name, kernel, _)| {
        let mut y = before.clone();
        kernel(&mut y, &x);
        (name.to_string(), bits_of(&y))
    });
    measures
        .chain(powers)
        .chain(changes)
        .chain([clipped(&x)])
        .collect()
}

/// As f64, which keeps two numbers apart that are.
fn bits_of<E: FlatElement>(x: &[E]) -> Vec<u64> {
    let bits = |&x: &E| -> u64 { Into::<f64>::into(x).to_bits() };
    x.iter().map(bits).collect()
}

fn clipped<E: FlatElement>(x: &[E]) -> (String, Vec<u64>) {
    let mut y = x.to_vec();
    let ops::Clip {
        norm_before,
        norm_after,
        scale,
    } = ops::clip_norm(&mut y, 1e3).unwrap();
    let clip = [norm_before, norm_after, scale].map(f64::to_bits);
    (
        "clip_norm".into(),
        clip.into_iter().chain(bits_of(&y)).collect(),
    )
}

fn assert_same(what: &str, found: &[(String, Vec<u64>)], expected: &[(String, Vec<u64>)]) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs {what}");
    }
}

#[test]
fn widths_agree() {
    for length in lengths() {
        at_every_width(
            || everything(length),
            |width, found, widest| {
                assert_same(&format!("at {width:?}, {length} elements"), found, widest)
            },
        );
    }
}

#[cfg(feature = "rayon")]
#[test]
fn numbers_of_threads_agree() {
    // Fewer in a debug build, in which a length takes ten times as long: a number by which nothing
    // can be divided evenly, against one thread, which is what takes `SPLIT` from outside.
    let counts: &[usize] = match cfg!(debug_assertions) {
        true => &[3],
        false => &[1, 2, 3, 8],
    };
    for (length, counts) in [(SPLIT, counts), (LARGE, &[3])] {
        let outside = everything(length);
        for &threads in counts {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            assert_same(
                &format!("with {threads} threads"),
                &pool.install(|| everything(length)),
                &outside,
            );
        }
    }
}

/// The tree of sums, written down: chunk by chunk, half of the chunks against the other half. With
/// or without threads.
#[test]
fn sums_follow_the_documented_tree() {
    fn tree(x: &[f32]) -> f64 {
        let chunks = x.len().div_ceil(16 * 1024);
        if chunks <= 1 {
            return rows(x);
        }
        let (left, right) = x.split_at(chunks / 2 * 16 * 1024);
        tree(left) + tree(right)
    }
    fn rows(x: &[f32]) -> f64 {
        let mut lanes: Vec<f64> = vec![0.0; 16];
        x.iter()
            .enumerate()
            .for_each(|(i, &x)| lanes[i % 16] += f64::from(x));
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            lanes
                .iter_mut()
                .zip(upper)
                .for_each(|(lane, upper)| *lane += upper);
        }
        lanes[0]
    }
    for length in lengths().chain([LARGE]) {
        let x = rough::<f32>(length);
        assert_eq!(
            ops::sum(&x).to_bits(),
            tree(&x).to_bits(),
            "{length} elements"
        );
    }
}
