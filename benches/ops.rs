//! What the slice kernels cost, against the plainest loop that moves the same bytes:
//! `cargo bench --bench ops`.
//!
//! Machines differ and are shared, so only ratios count: kernel and rival run alternately, and
//! medians are compared. That the kernels are right is for the tests; that this file measures them
//! is checked first.

use std::hint::black_box;
use std::time::{Duration, Instant};

use flatleaf::ops;
use flatleaf::ops::compact::{self, Codes, RandomBits};

/// What is measured: it may write the first slice and read both.
type Run = fn(&mut [f32], &[f32]);

/// Name, kernel, rival.
const KERNELS: &[(&str, Run, Run)] = &[
    ("sum", |_, x| keep(ops::sum(x)), read),
    ("norm_l1", |_, x| keep(ops::norm_l1(x)), read),
    ("norm_l2", |_, x| keep(ops::norm_l2(x)), read),
    ("norm_inf", |_, x| keep(ops::norm_inf(x)), read),
    ("min_max", |_, x| keep(ops::min_max(x)), read),
    ("all_finite", |_, x| keep(ops::all_finite(x)), read),
    ("norm, p = 3", |_, x| keep(ops::norm(x, 3.0)), read),
    ("dot", |y, x| keep(ops::dot(y, x)), read_both),
    ("add", |y, x| ops::add(y, x), triad),
    ("axpy", |y, x| ops::axpy(y, 1e-9, x), triad),
    ("lerp, w < ½", |y, x| ops::lerp(y, x, 0.1), triad),
    ("lerp, w > ½", |y, x| ops::lerp(y, x, 0.9), triad),
    ("scale", |y, _| ops::scale(y, 0.999), scale),
    ("clamp", |y, _| ops::clamp(y, -0.5, 0.5), scale),
    (
        "clip_norm",
        |y, _| keep(ops::clip_norm(y, 1e-3).is_ok()),
        scale,
    ),
    ("fill", |y, _| ops::fill(y, 0.5), scale),
];

/// Elements: far beyond every cache, and within the first.
const SIZES: [usize; 2] = [25_600_000, 2 * 1024];

/// One thread goes chunk by chunk, each too small to be split; all threads go as the library
/// decides.
const SPLITS: &[(&str, Run, Run)] = &[
    (
        "norm_l2",
        |_, x| x.chunks(CHUNK).for_each(|x| keep(ops::norm_l2(x))),
        |_, x| keep(ops::norm_l2(x)),
    ),
    (
        "axpy",
        |y, x| {
            y.chunks_mut(CHUNK)
                .zip(x.chunks(CHUNK))
                .for_each(|(y, x)| ops::axpy(y, 1e-9, x))
        },
        |y, x| ops::axpy(y, 1e-9, x),
    ),
];

const CHUNK: usize = 16 * 1024;

/// Codes and back, of so many elements at a time, as a step takes them.
const BLOCK: usize = 1024;

/// Name, and what is done to the elements, their bf16, codes and scales.
type Codec = fn(&mut Stored);

const CODECS: &[(&str, Codec)] = &[
    ("memcpy of f32", |s| s.back.copy_from_slice(&s.x)),
    ("bf16 → f32", |s| compact::widen(&s.halves, &mut s.back)),
    ("f32 → bf16, nearest", |s| {
        compact::narrow(&s.x, &mut s.halves, None)
    }),
    ("f32 → bf16, random", |s| {
        compact::narrow(&s.x, &mut s.halves, Some((s.random, 0)))
    }),
    ("codes → f32", |s| {
        compact::decode((&s.codes, &s.scales), s.kind, &mut s.back)
    }),
    ("f32 → codes, nearest", |s| {
        compact::encode(&s.x, s.kind, (&mut s.codes, &mut s.scales), None)
    }),
    ("f32 → codes, random", |s| {
        let random = Some((s.random, 0));
        compact::encode(&s.x, s.kind, (&mut s.codes, &mut s.scales), random)
    }),
];

/// A vector and all that it is stored as.
struct Stored {
    x: Vec<f32>,
    back: Vec<f32>,
    halves: Vec<u16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    kind: Codes,
    random: RandomBits,
}

fn main() {
    codecs(Codes::Signed, 1.0);
    codecs(Codes::Unsigned, 0.0);
    let (mut y, x): (Vec<f32>, Vec<f32>) = (0..SIZES[0])
        .map(|i| ((i % 1013) as f32 * 1e-3, (i % 911) as f32 * -1e-3))
        .unzip();
    let plain = x
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    assert!(
        (ops::norm_l2(&x) / plain - 1.0).abs() < 1e-9,
        "{} is not {plain}",
        ops::norm_l2(&x)
    );
    for size in SIZES {
        println!(
            "{size} elements: time of the kernel / time of a plain loop over the same bytes, by as many threads"
        );
        KERNELS
            .iter()
            .for_each(|&run| report(run, &mut y[..size], &x[..size]));
    }
    println!("time of one thread / time of all, from outside the pool");
    splits(&mut y, &x);
    println!("the same from within");
    rayon::ThreadPoolBuilder::new()
        .build()
        .unwrap()
        .install(|| splits(&mut y, &x));
}

/// Picoseconds an element, one thread, in the first cache.
fn codecs(kind: Codes, least: f32) {
    let number = |i: usize| (i * 37 % BLOCK) as f32 / BLOCK as f32 * (1.0 + least) - least;
    let mut stored = Stored {
        x: (0..BLOCK).map(number).collect(),
        back: vec![0.0; BLOCK],
        halves: vec![0; BLOCK],
        codes: vec![0; BLOCK],
        scales: vec![0.0; BLOCK.div_ceil(compact::BLOCK)],
        kind,
        random: RandomBits::new(0, 1, 0),
    };
    println!("{kind:?}: picoseconds an element, {BLOCK} at a time");
    for (name, codec) in CODECS {
        codec(&mut stored);
        const CALLS: u32 = 2000;
        let mut time = || {
            let start = Instant::now();
            (0..CALLS).for_each(|_| codec(black_box(&mut stored)));
            start.elapsed() / CALLS
        };
        let mut times: Vec<Duration> = (0..41).map(|_| time()).collect();
        let picoseconds = median(&mut times).as_secs_f64() * 1e12 / BLOCK as f64;
        println!("    {name:<22} {picoseconds:6.0}");
    }
    compact::decode((&stored.codes, &stored.scales), kind, &mut stored.back);
    let pairs = stored.x.iter().zip(&stored.back);
    let off = pairs.map(|(x, back)| (x - back).abs()).fold(0.0, f32::max);
    assert!(off < 0.02, "codes are off by {off}");
}

fn report((name, kernel, rival): (&str, Run, Run), y: &mut [f32], x: &[f32]) {
    let (kernel, rival) = compare(kernel, rival, y, x);
    println!(
        "    {name:<12} {:5.2}   {:9.1} µs",
        kernel.as_secs_f64() / rival.as_secs_f64(),
        kernel.as_secs_f64() * 1e6
    );
}

fn splits(y: &mut [f32], x: &[f32]) {
    for size in (15..=24).map(|exponent| 1 << exponent) {
        let gain = |&(name, one, all): &(&str, Run, Run)| {
            let (one, all) = compare(one, all, &mut y[..size], &x[..size]);
            format!("   {name} {:5.2}", one.as_secs_f64() / all.as_secs_f64())
        };
        println!(
            "    {size:>9} elements{}",
            SPLITS.iter().map(gain).collect::<String>()
        );
    }
}

/// The median times of one call of each.
fn compare(a: Run, b: Run, y: &mut [f32], x: &[f32]) -> (Duration, Duration) {
    let calls = (1_000_000 / x.len()).max(1) as u32;
    let mut time = |run: Run| {
        let start = Instant::now();
        (0..calls).for_each(|_| run(black_box(&mut *y), black_box(x)));
        start.elapsed() / calls
    };
    let (mut times_a, mut times_b): (Vec<_>, Vec<_>) = (0..41).map(|_| (time(a), time(b))).unzip();
    (median(&mut times_a), median(&mut times_b))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn keep<T>(value: T) {
    black_box(value);
}

fn read(_: &mut [f32], x: &[f32]) {
    let sum = |x: &[f32]| keep(x.iter().fold(0_u32, |sum, x| sum.wrapping_add(x.to_bits())));
    let (low, high) = x.split_at(x.len() / 2);
    both(x.len(), || sum(low), || sum(high));
}

fn read_both(y: &mut [f32], x: &[f32]) {
    let sum = |y: &[f32], x: &[f32]| {
        keep(y.iter().zip(x).fold(0_u32, |sum, (y, x)| {
            sum.wrapping_add(y.to_bits() ^ x.to_bits())
        }))
    };
    let ((y_low, y_high), (x_low, x_high)) = (y.split_at(y.len() / 2), x.split_at(x.len() / 2));
    both(x.len(), || sum(y_low, x_low), || sum(y_high, x_high));
}

fn triad(y: &mut [f32], x: &[f32]) {
    let triad = |y: &mut [f32], x: &[f32]| y.iter_mut().zip(x).for_each(|(y, x)| *y += 1e-9 * x);
    let ((y_low, y_high), (x_low, x_high)) = (y.split_at_mut(x.len() / 2), x.split_at(x.len() / 2));
    both(x.len(), || triad(y_low, x_low), || triad(y_high, x_high));
}

fn scale(y: &mut [f32], _: &[f32]) {
    let scale = |y: &mut [f32]| y.iter_mut().for_each(|y| *y *= 0.999);
    let len = y.len();
    let (low, high) = y.split_at_mut(len / 2);
    both(len, || scale(low), || scale(high));
}

/// Rivals take two threads where the kernels take all.
fn both(len: usize, low: impl FnOnce() + Send, high: impl FnOnce() + Send) {
    if len >= 1 << 20 {
        rayon::join(low, high);
    } else {
        low();
        high();
    }
}
