//! A step, by candle and by flatleaf, in turns in one process.
//!
//! ```text
//! cargo bench --bench steps [-- --threads 2] [--model 10,000]
//! ```
//!
//! One thread unless something else is said, and then time of the processor, not of the clock. The
//! program starts itself again with the number of threads and with an allocator that keeps memory
//! (glibc gives large blocks back to the system after each step, and candle, which makes some 14
//! temporary tensors of a variable, would wait for fresh pages: its figures would be worse).
//! Before anything is timed, both sides take three steps and have to agree.
//!
//! Beside them stands what no step of candle's variables can do without: one gradient after the
//! other is looked up and locked, its variable is locked, and both are read.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout as Strides, Storage, Tensor, Var, WithDType,
};
use candle_nn::{Optimizer as _, ParamsAdamW};
use cpu_time::ProcessTime;
use flatleaf::Layout;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Rule};
use flatleaf_candle::{FlatOptimizer, VarTree};

const CPU: Device = Device::Cpu;
/// The clip has something to do.
const MAX_NORM: f64 = 0.5;
const DECAY: f64 = 0.999;
/// How long it is one job's turn, and how many turns each has.
const TURN: Duration = Duration::from_millis(300);
const TURNS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("FLATLEAF_BENCH").is_none() {
        return start_again(&option("--threads").unwrap_or("1".to_owned()));
    }
    let threads = std::env::var("RAYON_NUM_THREADS")?;
    let clock = match clock() {
        Clock::Processor => "time of the processor",
        Clock::Wall => "time of the clock",
    };
    println!("threads: {threads}; medians of {TURNS} turns, {clock}, in ms");
    println!(
        "| variables | step | candle | flatleaf | times faster | on `Vec<Vec<f32>>` | times slower | candle's locks alone |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let only = option("--model").unwrap_or_default();
    for (name, shapes) in models()?
        .into_iter()
        .filter(|(name, _)| name.contains(&only))
    {
        Model::new(&shapes)?.compare_adamw(name)?;
        Model::new(&shapes)?.compare_chain(name)?;
    }
    Ok(())
}

/// What follows this word on the command line.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

fn start_again(threads: &str) -> Result<(), Box<dyn Error>> {
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .env("FLATLEAF_BENCH", "1")
        .env("RAYON_NUM_THREADS", threads)
        .env("MALLOC_TRIM_THRESHOLD_", "8000000000")
        .env("MALLOC_MMAP_THRESHOLD_", "8000000000")
        .env("MALLOC_TOP_PAD_", "268435456")
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("the benchmark failed".into())
    }
}

type Shapes = Vec<Vec<usize>>;

fn models() -> Result<Vec<(&'static str, Shapes)>, Box<dyn Error>> {
    let all: BTreeMap<String, Shapes> =
        serde_json::from_str(include_str!("../../../benches/peers/trees.json"))?;
    Ok(vec![
        ("269k in 6", all["mlp"].clone()),
        ("25.6M in 161", all["resnet50"].clone()),
        ("10,000 of 8×8", vec![vec![8, 8]; 10_000]),
    ])
}

/// Small numbers that differ from element to element.
fn numbers(shapes: &Shapes, seed: u32, scale: f32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let lengths = shapes.iter().map(|shape| shape.iter().product::<usize>());
    lengths
        .map(|len| (0..len).map(|_| next()).collect())
        .collect()
}

/// Equal parameters and gradients three times: candle's, ours on candle's variables, and vectors.
struct Model {
    theirs: Vec<Var>,
    their_grads: GradStore,
    vars: VarTree,
    our_grads: GradStore,
    plain: Vec<Vec<f32>>,
    plain_grads: Vec<Vec<f32>>,
}

impl Model {
    fn new(shapes: &Shapes) -> Result<Self, Box<dyn Error>> {
        let plain = numbers(shapes, 1, 0.1);
        let plain_grads = numbers(shapes, 2, 0.01);
        let side = || -> candle_core::Result<(Vec<Var>, GradStore)> {
            let (mut vars, mut store) = (Vec::new(), GradStore::default());
            for ((shape, values), grad) in shapes.iter().zip(&plain).zip(&plain_grads) {
                let var = Var::from_slice(values, shape.as_slice(), &CPU)?;
                store.insert(&var, Tensor::from_slice(grad, shape.as_slice(), &CPU)?);
                vars.push(var);
            }
            Ok((vars, store))
        };
        let (theirs, their_grads) = side()?;
        let (ours, our_grads) = side()?;
        let names = (0..).map(|index: usize| format!("layers.{index}.weight"));
        Ok(Model {
            theirs,
            their_grads,
            vars: VarTree::named(names.zip(ours))?,
            our_grads,
            plain,
            plain_grads,
        })
    }

    fn compare_adamw(self, name: &str) -> Result<(), Box<dyn Error>> {
        let mut candle = candle_nn::AdamW::new(self.theirs.clone(), params())?;
        let grads = &self.their_grads;
        let by_candle = || candle.step(grads).unwrap();
        self.compare(name, "AdamW", by_candle, adamw())
    }

    fn compare_chain(self, name: &str) -> Result<(), Box<dyn Error>> {
        let mut by_hand = ByHand::new(&self.theirs)?;
        let grads = &self.their_grads;
        let by_candle = || by_hand.step(grads).unwrap();
        let clip = ClipNorm {
            max: MAX_NORM,
            ..Default::default()
        };
        let ema = Ema {
            decay: DECAY,
            ..Default::default()
        };
        self.compare(
            name,
            "clip + AdamW + average",
            by_candle,
            (clip, adamw(), ema),
        )
    }

    fn compare<R: Rule>(
        &self,
        name: &str,
        step: &str,
        mut by_candle: impl FnMut(),
        rule: R,
    ) -> Result<(), Box<dyn Error>> {
        let mut ours = FlatOptimizer::of(&self.vars, rule.clone())?;
        let mut plain = self.plain.clone();
        let mut on_plain = Optimizer::new(rule, &Layout::of(&plain)?)?;
        let mut by_flatleaf = || drop(ours.update(&self.our_grads).unwrap());
        for _ in 0..3 {
            by_candle();
            by_flatleaf();
            on_plain.update(&mut plain, &self.plain_grads)?;
        }
        self.check(&plain)?;
        let mut by_plain = || drop(on_plain.update(&mut plain, &self.plain_grads).unwrap());
        let vars: Vec<&Var> = self.vars.iter().map(|(_, var)| var).collect();
        let mut locks = || locks_alone(&vars, &self.our_grads).unwrap();
        let [candle, flatleaf, plain, locks] =
            in_turns([&mut by_candle, &mut by_flatleaf, &mut by_plain, &mut locks]);
        println!(
            "| {name} | {step} | {candle:.3} | {flatleaf:.3} | {:.1} | {plain:.3} | {:.2} | {locks:.3} |",
            candle / flatleaf,
            flatleaf / plain
        );
        Ok(())
    }

    /// All three are where they should be: ours to the bit, candle's to its rounding.
    fn check(&self, plain: &Vec<Vec<f32>>) -> Result<(), Box<dyn Error>> {
        let layout = Layout::of(plain)?;
        let ours = Layout::of(&self.vars)?.gather(&self.vars)?;
        assert_eq!(ours, layout.gather(plain)?);
        let theirs: Vec<Vec<f32>> = self
            .theirs
            .iter()
            .map(|var| var.flatten_all()?.to_vec1())
            .collect::<Result<_, _>>()?;
        for (ours, theirs) in ours.iter().zip(theirs.iter().flatten()) {
            assert!((ours - theirs).abs() <= 2e-6, "{ours} and {theirs}");
        }
        Ok(())
    }
}

fn adamw() -> AdamW {
    AdamW {
        lr: 1e-3,
        weight_decay: 0.01,
        ..Default::default()
    }
}

fn params() -> ParamsAdamW {
    ParamsAdamW {
        lr: 1e-3,
        weight_decay: 0.01,
        ..Default::default()
    }
}

/// Looks every gradient up, locks it and its variable, and reads both.
fn locks_alone(vars: &[&Var], grads: &GradStore) -> candle_core::Result<()> {
    for var in vars {
        let Some(grad) = grads.get(var) else {
            continue;
        };
        let (guard, _) = grad.storage_and_layout();
        let Storage::Cpu(storage) = &*guard else {
            candle_core::bail!("expected host memory");
        };
        var.inplace_op1(&ReadWith(f32::cpu_storage_as_slice(storage)?))?;
    }
    Ok(())
}

struct ReadWith<'g>(&'g [f32]);

impl InplaceOp1 for ReadWith<'_> {
    fn name(&self) -> &'static str {
        "read"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Strides) -> candle_core::Result<()> {
        let CpuStorage::F32(elements) = storage else {
            candle_core::bail!("expected f32");
        };
        black_box(flatleaf::ops::dot(elements, self.0));
        Ok(())
    }
}

/// What users of candle write: the norm over all gradients, new gradients, candle's AdamW, and a
/// second set of variables for the average.
struct ByHand {
    vars: Vec<Var>,
    averages: Vec<Var>,
    steps: usize,
    adamw: candle_nn::AdamW,
}

impl ByHand {
    fn new(vars: &[Var]) -> candle_core::Result<Self> {
        Ok(ByHand {
            vars: vars.to_vec(),
            averages: vars
                .iter()
                .map(|var| Var::from_tensor(&var.copy()?))
                .collect::<Result<_, _>>()?,
            steps: 0,
            adamw: candle_nn::AdamW::new(vars.to_vec(), params())?,
        })
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        let mut squares = 0.0;
        for var in &self.vars {
            if let Some(grad) = grads.get(var) {
                squares += f64::from(
                    grad.sqr()?
                        .sum_all()?
                        .to_dtype(DType::F32)?
                        .to_scalar::<f32>()?,
                );
            }
        }
        let scale = (MAX_NORM / squares.sqrt()).min(1.0);
        let mut clipped = GradStore::default();
        for var in &self.vars {
            if let Some(grad) = grads.get(var) {
                clipped.insert(var, (grad * scale)?);
            }
        }
        self.adamw.step(&clipped)?;
        self.steps += 1;
        for (var, average) in self.vars.iter().zip(&self.averages) {
            match self.steps {
                1 => average.set(var)?,
                _ => average
                    .set(&((average.as_tensor() * DECAY)? + (var.as_tensor() * (1.0 - DECAY))?)?)?,
            }
        }
        Ok(())
    }
}

enum Clock {
    Processor,
    Wall,
}

/// Of one thread the time that it had the processor; of several the time of the clock, since threads
/// that wait for each other use the processor too.
fn clock() -> Clock {
    match std::env::var("RAYON_NUM_THREADS").as_deref() {
        Ok("1") => Clock::Processor,
        _ => Clock::Wall,
    }
}

/// The median time of each job, in ms.
fn in_turns<const N: usize>(mut jobs: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..TURNS {
        for (job, times) in jobs.iter_mut().zip(&mut times) {
            // It finds the caches as the last job left them, and is not timed.
            job();
            let (start, begun) = (ProcessTime::now(), Instant::now());
            let mut calls = 0;
            while calls < 3 || begun.elapsed() < TURN {
                job();
                calls += 1;
            }
            let elapsed = match clock() {
                Clock::Processor => start.elapsed(),
                Clock::Wall => begun.elapsed(),
            };
            times.push(elapsed.as_secs_f64() * 1e3 / f64::from(calls));
        }
    }
    times.map(|mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}
