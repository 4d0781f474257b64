//! flatleaf on the trees of the comparison with PyTorch, JAX and NumPy, and the machine's own
//! limits.
//!
//! `cargo bench --bench versus -- [--trees mlp,resnet50,gpt2,small10k] [--ops …] [--seconds 1] [--threads N]`
//!
//! Prints one JSON object a line. Every row checks its answer against a plain loop before it is
//! timed. Rows of peer `limit` move the same number of elements by plain loops: `memcpy`, `read`,
//! `write`, `triad` on all threads, `memcpy_1` on one, and `step`, which moves the 40 bytes an
//! element that a step with clipping, AdamW and a moving average has to: it reads the gradient,
//! then gradient, parameters, two moments and average, and writes the last four; `rule` moves the
//! 28 of AdamW alone. `step_bf16` and `rule_bf16` move moments and average in 2 bytes, `step_8_bits`
//! and `rule_8_bits` the moments in 1. Rows whose names end in `_flat`, or begin with `step_flat`, start from the
//! flat vector, the others from the tree.
//!
//! With `--turns` it does nothing until it is told to: for each row it prints the row without
//! times, and runs it for `--seconds` whenever a line `go` comes in, until one that says otherwise.
//! `peers/compare.py` so lets several processes take turns.

mod support;

use std::hint::black_box;
use std::ops::BitXorAssign;
use std::time::Duration;

use flatleaf::Companion::Values;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Rounding, Rule, Storage};
use flatleaf::{FlatGrad, Layout, ops};
use rayon::prelude::*;
use support::{Arrays, arrays, concatenate, median, parallel_copy, shapes, times_of};

/// The weight of the moving average.
const TAU: f32 = 0.005;
/// So large that nothing is clipped, as in the peers' rows.
const MAX_NORM: f64 = 1e9;

struct Options {
    trees: Vec<String>,
    ops: Vec<String>,
    period: Duration,
    turns: bool,
}

fn main() {
    let options = options();
    for tree in &options.trees {
        Bench::new(tree, &options).run();
    }
}

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    let list = |name: &str, default: &str| {
        value(name)
            .unwrap_or(default.into())
            .split(',')
            .map(str::to_owned)
            .collect()
    };
    if let Some(threads) = value("--threads").and_then(|threads| threads.parse().ok()) {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .expect("the pool is built once");
    }
    let period = Duration::from_secs_f64(
        value("--seconds")
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(1.0),
    );
    let turns = arguments.iter().any(|argument| argument == "--turns");
    Options {
        trees: list("--trees", "mlp,resnet50,gpt2,small10k"),
        ops: list("--ops", ""),
        period,
        turns,
    }
}

struct Bench<'o> {
    name: &'o str,
    options: &'o Options,
    tree: Arrays,
    grads: Arrays,
    flat: Vec<f32>,
    layout: Layout,
}

impl<'o> Bench<'o> {
    fn new(name: &'o str, options: &'o Options) -> Self {
        let shapes = shapes(name);
        let (tree, grads) = (arrays(&shapes, 0.02), arrays(&shapes, 0.01));
        let flat = concatenate(&tree);
        let layout = Layout::of(&tree).expect("a plain tree");
        Bench {
            name,
            options,
            tree,
            grads,
            flat,
            layout,
        }
    }

    fn run(&self) {
        self.limits();
        self.flatten();
        self.restructure();
        self.norms();
        self.averages();
        self.steps();
    }

    fn limits(&self) {
        let limits = [
            "memcpy",
            "memcpy_1",
            "read",
            "write",
            "triad",
            "rule",
            "rule_bf16",
            "rule_8_bits",
            "step",
            "step_bf16",
            "step_8_bits",
        ];
        if !limits.iter().any(|limit| self.wants(limit)) {
            return;
        }
        let (mut to, mut other) = (self.flat.clone(), concatenate(&self.grads));
        self.limit("memcpy", || parallel_copy(&mut to, &self.flat));
        self.limit("memcpy_1", || to.copy_from_slice(&self.flat));
        self.limit("read", || read(&self.flat));
        self.limit("write", || each_part(&mut to, |part| part.fill(1.0)));
        self.limit("triad", || triad(&mut other, &self.flat));
        let vectors = [to, other, self.flat.clone(), self.flat.clone()];
        self.limits_of_steps(vectors);
    }

    /// In the order in which `peers/compare.py` comes to them.
    fn limits_of_steps(&self, mut vectors: [Vec<f32>; 4]) {
        let (from, len) = (&self.flat, self.flat.len());
        let (mut m, mut v, mut half_average) = (vec![0_u16; len], vec![0_u16; len], vec![0; len]);
        let (mut m_codes, mut v_codes) = (vec![0_u8; len], vec![0_u8; len]);
        let [a, b, c, _] = &mut vectors;
        self.limit("rule", || stream_three([a, b, c], from));
        let x = &mut vectors[0];
        self.limit("rule_bf16", || stream_moments(x, [&mut m, &mut v], from));
        self.limit("rule_8_bits", || {
            stream_moments(x, [&mut m_codes, &mut v_codes], from)
        });
        self.limit("step", || (read(from), stream(&mut vectors, from)));
        let [x, average, ..] = &mut vectors;
        self.limit("step_bf16", || {
            stream_moments(x, [&mut m, &mut v], from);
            each_part(&mut half_average, |part| {
                part.iter_mut().for_each(|x| *x ^= 1_u16)
            });
            read(from)
        });
        self.limit("step_8_bits", || {
            stream_moments(x, [&mut m_codes, &mut v_codes], from);
            each_part(average, |part| part.iter_mut().for_each(|x| *x += 1.0));
            read(from)
        });
    }

    fn flatten(&self) {
        let (layout, tree) = (&self.layout, &self.tree);
        assert_eq!(layout.gather(tree).expect("the same tree"), self.flat);
        self.row("flatten_new", || {
            layout.gather(tree).expect("the same tree")
        });
        let mut buffer = vec![0.0; layout.len()];
        layout
            .gather_into(tree, &mut buffer)
            .expect("the same tree");
        assert_eq!(buffer, self.flat);
        self.row("flatten_into", || {
            layout
                .gather_into(tree, &mut buffer)
                .expect("the same tree")
        });
    }

    fn restructure(&self) {
        let layout = &self.layout;
        let negated: Vec<f32> = self.flat.iter().map(|x| -x).collect();
        assert_eq!(
            concatenate(
                &layout
                    .restructure(&self.tree, &negated)
                    .expect("the same tree")
            ),
            negated
        );
        self.row("restructure_new", || {
            layout
                .restructure(&self.tree, &self.flat)
                .expect("the same tree")
        });
        let mut target = self.tree.clone();
        layout
            .restructure_into(&mut target, &negated)
            .expect("the same tree");
        assert_eq!(concatenate(&target), negated);
        self.row("restructure_into", || {
            layout
                .restructure_into(&mut target, &self.flat)
                .expect("the same tree")
        });
    }

    fn norms(&self) {
        let layout = &self.layout;
        let flat_grad = concatenate(&self.grads);
        let plain = flat_grad
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let close = |norm: f64| assert!((norm / plain - 1.0).abs() < 1e-9, "{norm} is not {plain}");
        close(layout.norm_l2(&self.grads).expect("the same tree"));
        close(ops::norm_l2(&flat_grad));
        self.row("norm_l2", || {
            layout.norm_l2(&self.grads).expect("the same tree")
        });
        self.row("norm_l2_flat", || ops::norm_l2(&flat_grad));

        let mut grads = self.grads.clone();
        clip(layout, &mut grads, plain / 2.0);
        let half = layout.norm_l2(&grads).expect("the same tree");
        assert!(
            (2.0 * half / plain - 1.0).abs() < 1e-6,
            "{half} is not half of {plain}"
        );
        let mut grads = self.grads.clone();
        self.row("clip_norm", || clip(layout, &mut grads, MAX_NORM));
        let mut clipped = flat_grad.clone();
        self.row("clip_norm_flat", || {
            ops::clip_norm(&mut clipped, MAX_NORM).expect("finite")
        });
        assert_eq!(clipped, flat_grad);
    }

    fn averages(&self) {
        let layout = &self.layout;
        let mut average = self.grads.clone();
        moving_average(layout, &mut average, &self.tree);
        let (start, plain) = (concatenate(&self.grads), concatenate(&average));
        let expected = start.iter().zip(&self.flat).map(|(a, b)| a + TAU * (b - a));
        assert!(plain.iter().copied().eq(expected));
        self.row("ema", || moving_average(layout, &mut average, &self.tree));
        let mut flat_average = start;
        self.row("ema_flat", || ops::lerp(&mut flat_average, &self.flat, TAU));
    }

    fn steps(&self) {
        for (name, storage) in STORAGES {
            self.update(&format!("adamw{name}"), ADAMW, storage);
        }
        for (name, storage) in STORAGES {
            let on_tree = format!("step_clip_adamw_ema{name}");
            let on_vector = format!("step_flat_clip_adamw_ema{name}");
            if self.wants(&on_tree) || self.wants(&on_vector) {
                self.check_steps(storage);
                self.update(&on_tree, (CLIP, ADAMW, EMA), storage);
                self.step(&on_vector, storage);
            }
        }
    }

    fn step(&self, op: &str, storage: Storage) {
        if self.wants(op) {
            let (mut flat, flat_grad) = (self.flat.clone(), self.flat_grad());
            let mut optimizer = self.optimizer((CLIP, ADAMW, EMA), storage);
            self.row(op, || {
                optimizer
                    .step(&mut flat, &flat_grad)
                    .expect("the same layout")
            });
        }
    }

    fn flat_grad(&self) -> FlatGrad {
        FlatGrad::from_flat(&self.layout, concatenate(&self.grads)).expect("as long as the layout")
    }

    fn update(&self, op: &str, rule: impl Rule, storage: Storage) {
        if self.wants(op) {
            let (mut model, mut optimizer) = (self.tree.clone(), self.optimizer(rule, storage));
            self.row(op, || {
                optimizer
                    .update(&mut model, &self.grads)
                    .expect("the same tree")
            });
        }
    }

    fn optimizer<R: Rule>(&self, rule: R, storage: Storage) -> Optimizer<R> {
        Optimizer::with_storage(rule, &self.layout, storage).expect("a valid rule")
    }

    fn check_steps(&self, storage: Storage) {
        let flat_grad = &self.flat_grad();
        let (mut model, mut flat) = (self.tree.clone(), self.flat.clone());
        let (mut of_tree, mut of_flat) = (
            self.optimizer((CLIP, ADAMW, EMA), storage),
            self.optimizer((CLIP, ADAMW, EMA), storage),
        );
        for _ in 0..3 {
            of_tree
                .update(&mut model, &self.grads)
                .expect("the same tree");
            of_flat.step(&mut flat, flat_grad).expect("the same layout");
        }
        let (expected, average) = plain_steps(&self.flat, flat_grad, 3);
        assert!(
            concatenate(&model) == flat,
            "the tree and the vector step alike"
        );
        let found = of_flat.state_to_vec("average");
        let found = found.expect("a stage of the chain");
        if storage == Storage::Full {
            assert_close(&flat, &expected);
            return assert_close(&found, &average);
        }
        // Rounded state: the parameters are off by little of the way that they went.
        let off = mean_distance(&flat, &expected) / mean_distance(&self.flat, &expected);
        assert!(off < 0.1, "{off} of the way");
        assert!(mean_distance(&found, &average) < 1e-4);
    }

    fn wants(&self, op: &str) -> bool {
        let wanted = &self.options.ops;
        wanted.iter().all(String::is_empty) || wanted.iter().any(|wanted| op == wanted)
    }

    fn row<R>(&self, op: &str, call: impl FnMut() -> R) {
        self.measure("flatleaf", op, call);
    }

    fn limit<R>(&self, op: &str, call: impl FnMut() -> R) {
        self.measure("limit", op, call);
    }

    fn measure<R>(&self, peer: &str, op: &str, mut work: impl FnMut() -> R) {
        if !self.wants(op) {
            return;
        }
        let mut call = || {
            black_box(work());
        };
        if !self.options.turns {
            (0..3).for_each(|_| call());
            return self.print(peer, op, times_of(5, self.options.period, call));
        }
        self.print(peer, op, Vec::new());
        while next_line() == "go" {
            // Memory that was given away may have to be fetched back, and threads woken.
            times_of(1, self.options.period / 2, &mut call);
            self.print(peer, op, times_of(2, self.options.period, &mut call));
        }
    }

    fn print(&self, peer: &str, op: &str, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        let row = serde_json::json!({
            "peer": peer, "tree": self.name, "op": op, "leaves": self.tree.len(), "elements": self.flat.len(),
            "median_s": times.first().map(|_| median(&times)), "min_s": times.first(), "runs": times.len(),
        });
        println!("{row}");
    }
}

/// Empty at the end.
fn next_line() -> String {
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .expect("lines of text");
    line.trim_end().to_owned()
}

/// Clips a gradient tree by its global norm, where it is.
fn clip(layout: &Layout, grads: &mut Arrays, max: f64) {
    let norm = layout.norm_l2(grads).expect("the same tree");
    if norm > max {
        let factor = (max / norm) as f32;
        layout
            .par_map_into(grads, [], |_, dx, []| ops::scale(dx, factor))
            .expect("the same tree");
    }
}

fn moving_average(layout: &Layout, average: &mut Arrays, model: &Arrays) {
    layout
        .par_map_into(average, [Values(model)], |_, a, [x]| ops::lerp(a, x, TAU))
        .expect("the same tree");
}

const CLIP: ClipNorm = ClipNorm {
    max: MAX_NORM,
    p: 2.0,
    non_finite: ops::NonFinite::Error,
};
const ADAMW: AdamW = AdamW {
    lr: 1e-5,
    betas: (0.9, 0.999),
    eps: 1e-8,
    weight_decay: 0.01,
    amsgrad: false,
};
const EMA: Ema = Ema {
    decay: 1.0 - TAU as f64,
    warm_up: false,
    debias: false,
};

/// What follows the name of a row, and how its state is kept.
const STORAGES: [(&str, Storage); 3] = [
    ("", Storage::Full),
    ("_bf16", Storage::Bf16(Rounding::Stochastic { seed: 0 })),
    (
        "_8_bits",
        Storage::EightBits(Rounding::Stochastic { seed: 0 }),
    ),
];

/// AdamW and the moving average by one plain loop in f64: parameters and average after some steps
/// with one gradient.
fn plain_steps(flat: &[f32], grad: &[f32], steps: i32) -> (Vec<f32>, Vec<f32>) {
    let element = |(&x, &g): (&f32, &f32)| {
        let (mut x, g, mut m, mut v, mut average) = (f64::from(x), f64::from(g), 0.0, 0.0, 0.0);
        for t in 1..=steps {
            x *= 1.0 - ADAMW.lr * ADAMW.weight_decay;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            x -= ADAMW.lr * (m / (1.0 - 0.9_f64.powi(t)))
                / ((v / (1.0 - 0.999_f64.powi(t))).sqrt() + ADAMW.eps);
            average = if t == 1 {
                x
            } else {
                average + (1.0 - EMA.decay) * (x - average)
            };
        }
        (x as f32, average as f32)
    };
    flat.iter().zip(grad).map(element).unzip()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(0.1);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(is_close),
        "the same numbers as the plain loop"
    );
}

fn mean_distance(a: &[f32], b: &[f32]) -> f64 {
    let distances = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    distances.sum::<f64>() / a.len() as f64
}

/// Reads and writes four vectors, and reads a fifth.
fn stream(vectors: &mut [Vec<f32>; 4], from: &[f32]) {
    let part = part_len(from.len());
    let [a, b, c, d] = vectors.each_mut().map(|vector| vector.par_chunks_mut(part));
    a.zip(b)
        .zip(c)
        .zip(d)
        .zip(from.par_chunks(part))
        .for_each(|((((a, b), c), d), from)| {
            for ((((a, b), c), d), from) in a.iter_mut().zip(b).zip(c).zip(d).zip(from) {
                *a += from;
                *b += from;
                *c += from;
                *d += from;
            }
        });
}

/// Reads and writes three vectors, and reads a fourth.
fn stream_three(vectors: [&mut Vec<f32>; 3], from: &[f32]) {
    let part = part_len(from.len());
    let [a, b, c] = vectors.map(|vector| vector.par_chunks_mut(part));
    a.zip(b)
        .zip(c)
        .zip(from.par_chunks(part))
        .for_each(|(((a, b), c), from)| {
            for (((a, b), c), from) in a.iter_mut().zip(b).zip(c).zip(from) {
                *a += from;
                *b += from;
                *c += from;
            }
        });
}

/// Reads and writes parameters and two vectors that are kept in fewer bytes, and reads a fourth.
fn stream_moments<T>(x: &mut [f32], moments: [&mut Vec<T>; 2], from: &[f32])
where
    T: Send + From<bool> + BitXorAssign,
{
    let part = part_len(from.len());
    let [m, v] = moments.map(|vector| vector.par_chunks_mut(part));
    x.par_chunks_mut(part)
        .zip(m)
        .zip(v)
        .zip(from.par_chunks(part))
        .for_each(|(((x, m), v), from)| {
            for (((x, m), v), from) in x.iter_mut().zip(m).zip(v).zip(from) {
                *x += from;
                *m ^= T::from(true);
                *v ^= T::from(true);
            }
        });
}

/// Parts for all threads, none for short slices.
fn part_len(len: usize) -> usize {
    if len < 1 << 20 {
        len.max(1)
    } else {
        len.div_ceil(rayon::current_num_threads())
    }
}

fn each_part<T: Send>(to: &mut [T], work: impl Fn(&mut [T]) + Send + Sync) {
    let part = part_len(to.len());
    to.par_chunks_mut(part).for_each(work);
}

fn read(from: &[f32]) -> u32 {
    let part = |part: &[f32]| part.iter().fold(0, |bits, x| bits | x.to_bits());
    if part_len(from.len()) == from.len() {
        part(from)
    } else {
        from.par_chunks(part_len(from.len()))
            .map(part)
            .reduce(|| 0, |a, b| a | b)
    }
}

fn triad(to: &mut [f32], from: &[f32]) {
    let part = part_len(to.len());
    let work = |(to, from): (&mut [f32], &[f32])| {
        to.iter_mut()
            .zip(from)
            .for_each(|(to, from)| *to += TAU * from)
    };
    to.par_chunks_mut(part)
        .zip(from.par_chunks(part))
        .for_each(work);
}
