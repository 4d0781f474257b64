//! A step of burn's optimiser and one of flatleaf's on the same module, in turns.
//!
//! ```text
//! RAYON_NUM_THREADS=1 cargo bench --features rayon,simd [-- --model 10,000] [--rounds 9]
//! ```
//!
//! Each round is a turn of some steps of each, on modules of their own, with gradients that are made
//! before the clock starts, which is that of the processor. A figure is the median over the rounds of
//! one pair's quotient; times are medians. Beside them stands what burn takes for its own: a step of an
//! optimiser that does nothing; of that, to map the module onto itself, each parameter a new leaf of
//! autodiff, as whoever moves one has to; and to take all gradients out of their container. After the
//! last round the parameters are compared: with burn's, where both do the same thing, else with a step
//! on the flat vector.

use std::time::Duration;

use burn_core as burn;
use burn_core::module::{Module, ModuleMapper, Param, ParamId};
use burn_core::tensor::{Device, Tensor};
use burn_optim::grad_clipping::GradientClipping;
use burn_optim::{
    AdamWConfig, GradientsParams, ModuleOptimizer, RecordState, StateSink, StateSource,
};
use cpu_time::ProcessTime;
use flatleaf::ops::norm_l2;
use flatleaf::optim::{AdamW, ClipNorm, Optimizer, Rule};
use flatleaf_burn::Flat;

/// Parameters of three ranks, in no particular order.
#[derive(Module, Debug)]
struct Many {
    vectors: Vec<Param<Tensor<1>>>,
    matrices: Vec<Param<Tensor<2>>>,
    kernels: Vec<Param<Tensor<4>>>,
}

/// The numbers of a linear congruential generator, between −0.05 and 0.05.
struct Numbers(u64);

impl Numbers {
    fn tensor<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let mut next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
        };
        let elements: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        Tensor::from_data(burn_core::tensor::TensorData::new(elements, shape), device)
    }
}

impl Many {
    fn of(vectors: &[usize], matrices: &[[usize; 2]], kernels: &[[usize; 4]]) -> Self {
        let device = Device::flex().autodiff();
        let mut numbers = Numbers(1);
        let vectors = vectors.iter();
        let matrices = matrices.iter();
        let kernels = kernels.iter();
        Many {
            vectors: vectors
                .map(|&n| Param::from_tensor(numbers.tensor([n], &device)))
                .collect(),
            matrices: matrices
                .map(|&s| Param::from_tensor(numbers.tensor(s, &device)))
                .collect(),
            kernels: kernels
                .map(|&s| Param::from_tensor(numbers.tensor(s, &device)))
                .collect(),
        }
    }

    /// 784-256-256-10: 269,322 in 6.
    fn mlp() -> Self {
        Many::of(&[256, 256, 10], &[[784, 256], [256, 256], [256, 10]], &[])
    }

    /// The shapes of ResNet-50: 25.6M in 161.
    fn resnet50() -> Self {
        let (mut vectors, mut kernels) = (vec![64, 64], vec![[64, 3, 7, 7]]);
        let mut inputs = 64;
        for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
            for block in 0..blocks {
                let outputs = 4 * width;
                kernels.push([width, inputs, 1, 1]);
                kernels.push([width, width, 3, 3]);
                kernels.push([outputs, width, 1, 1]);
                vectors.extend([width, width, width, width, outputs, outputs]);
                if block == 0 {
                    kernels.push([outputs, inputs, 1, 1]);
                    vectors.extend([outputs, outputs]);
                }
                inputs = outputs;
            }
        }
        vectors.push(1000);
        Many::of(&vectors, &[[2048, 1000]], &kernels)
    }

    /// 10,000 of 8 × 8.
    fn small() -> Self {
        Many::of(&[], &[[8, 8]; 10_000], &[])
    }

    /// A gradient for each parameter, the same storages every time.
    fn gradients(&self) -> Gradients {
        let device = Device::flex();
        let mut numbers = Numbers(2);
        let mut gradients = Gradients::default();
        for param in &self.vectors {
            gradients
                .vectors
                .push((param.id, numbers.tensor(param.dims(), &device)));
        }
        for param in &self.matrices {
            gradients
                .matrices
                .push((param.id, numbers.tensor(param.dims(), &device)));
        }
        for param in &self.kernels {
            gradients
                .kernels
                .push((param.id, numbers.tensor(param.dims(), &device)));
        }
        gradients
    }
}

#[derive(Default)]
struct Gradients {
    vectors: Vec<(ParamId, Tensor<1>)>,
    matrices: Vec<(ParamId, Tensor<2>)>,
    kernels: Vec<(ParamId, Tensor<4>)>,
}

impl Gradients {
    fn params(&self) -> GradientsParams {
        let mut params = GradientsParams::new();
        self.vectors
            .iter()
            .for_each(|(id, grad)| params.register(*id, grad.clone()));
        self.matrices
            .iter()
            .for_each(|(id, grad)| params.register(*id, grad.clone()));
        self.kernels
            .iter()
            .for_each(|(id, grad)| params.register(*id, grad.clone()));
        params
    }

    /// Takes all out of the container.
    fn take_from(&self, mut params: GradientsParams) {
        for (id, _) in &self.vectors {
            assert!(params.remove::<1>(*id).is_some());
        }
        for (id, _) in &self.matrices {
            assert!(params.remove::<2>(*id).is_some());
        }
        for (id, _) in &self.kernels {
            assert!(params.remove::<4>(*id).is_some());
        }
    }
}

fn adamw() -> AdamW {
    AdamW {
        lr: 1e-3,
        eps: 1e-5,
        weight_decay: 1e-4,
        ..Default::default()
    }
}

/// Has burn's autodiff forget the tensors that the last step has replaced, as it does in every
/// backward pass. Without one its graph grows with every step, and so does the time of the next.
fn forget_old_tensors() {
    let device = Device::flex().autodiff();
    Tensor::<1>::ones([1], &device)
        .require_grad()
        .sum()
        .backward();
}

/// Nothing but what burn does to show its tensors to an optimiser and to put them back.
#[derive(Clone)]
struct Nothing;

impl burn_optim::Optimizer for Nothing {
    type State<const D: usize> = NoState;

    fn step<const D: usize>(
        &self,
        _: f64,
        tensor: Tensor<D>,
        _: Tensor<D>,
        _: Option<NoState>,
    ) -> (Tensor<D>, Option<NoState>) {
        (tensor, None)
    }

    fn to_device<const D: usize>(state: NoState, _: &Device) -> NoState {
        state
    }
}

/// Makes a new leaf of autodiff of each tensor, with its elements.
struct Renew;

impl ModuleMapper for Renew {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| Tensor::from_inner(tensor.inner()).require_grad())
    }
}

#[derive(Clone)]
struct NoState;

impl RecordState for NoState {
    fn state_flatten(&self, _: &str, _: &mut StateSink) {}

    fn state_unflatten(_: &str, _: &mut StateSource, _: &Device) -> Option<Self> {
        None
    }
}

/// Both steps in turns; whether burn's does the same thing is told.
fn compare<R: Rule>(
    name: &str,
    (model, rounds, steps): (Many, usize, usize),
    (rule, theirs): (R, &mut ModuleOptimizer),
    is_same: bool,
) {
    let gradients = model.gradients();
    // Modules that share no storage.
    let flat = Flat::of(&model).expect("a layout");
    let start = flat.flatten(&model).expect("values");
    let (mut ours, mut burns) = (model.clone(), model);
    flat.unflatten(&mut ours, &start[..]).expect("values");
    let mut optimizer = Optimizer::new(rule.clone(), flat.layout()).expect("a rule");
    let mut expected = (start, Optimizer::new(rule, flat.layout()).expect("a rule"));
    let grad = flat
        .flatten_grads(&ours, &gradients.params())
        .expect("gradients");

    let mut nothing: ModuleOptimizer = Nothing.into();
    let [mut our_times, mut their_times, mut quotients] = [const { vec![] }; 3];
    let [mut nothing_times, mut map_times, mut gradient_times] = [const { vec![] }; 3];
    for _ in 0..rounds {
        let our_time = in_a_turn(steps, &gradients, |params| {
            let stepped = flat.step(&mut optimizer, &mut ours, params);
            stepped.expect("a step");
        });
        // burn takes a module and gives another.
        let mut burns_own = Some(burns);
        let mut step_of_burn = |optimizer: &mut ModuleOptimizer, params| {
            let module = burns_own.take().expect("put back by the last step");
            burns_own = Some(optimizer.step(1e-3, module, params));
        };
        let their_time = in_a_turn(steps, &gradients, |params| step_of_burn(theirs, params));
        nothing_times.push(in_a_turn(steps, &gradients, |params| {
            step_of_burn(&mut nothing, params)
        }));
        map_times.push(in_a_turn(steps, &gradients, |params| {
            let module = burns_own.take().expect("put back by the last step");
            burns_own = Some(module.map(&mut Renew));
            params
        }));
        gradient_times.push(in_a_turn(steps, &gradients, |params| {
            gradients.take_from(params)
        }));
        burns = burns_own.expect("put back by the last step");
        for _ in 0..=steps {
            expected.1.step(&mut expected.0, &grad).expect("a step");
        }
        our_times.push(our_time);
        their_times.push(their_time);
        quotients.push(their_time / our_time);
    }
    let values = flat.flatten(&ours).expect("values");
    assert_eq!(values, expected.0, "not the step on the flat vector");
    if is_same {
        let burns = flat.flatten(&burns).expect("values");
        let difference: Vec<f32> = values.iter().zip(&burns).map(|(a, b)| a - b).collect();
        let relative = norm_l2(&difference) / norm_l2(&burns);
        // Each step is rounded otherwise than burn's.
        let steps = rounds * (steps + 1);
        assert!(
            relative < 3e-8 * steps as f64,
            "{name}: {relative} from burn's after {steps} steps"
        );
    }
    let milliseconds = |times: &mut [f64]| 1e3 * median(times);
    println!(
        "{name:30} burn {:9.3} ms  flatleaf {:9.3} ms  {:6.2} times",
        milliseconds(&mut their_times),
        milliseconds(&mut our_times),
        median(&mut quotients),
    );
    println!(
        "{:30} burn without arithmetic {:9.3} ms  its map {:9.3} ms  its gradients {:9.3} ms",
        "",
        milliseconds(&mut nothing_times),
        milliseconds(&mut map_times),
        milliseconds(&mut gradient_times)
    );
}

/// Seconds for a step, of so many after one that finds the caches as another left them.
/// What a step returns is dropped outside of its time.
fn in_a_turn<T>(
    steps: usize,
    gradients: &Gradients,
    mut step: impl FnMut(GradientsParams) -> T,
) -> f64 {
    let mut total = Duration::ZERO;
    for number in 0..=steps {
        forget_old_tensors();
        let params = gradients.params();
        let begun = ProcessTime::now();
        let returned = step(params);
        let time = begun.elapsed();
        drop(returned);
        if number > 0 {
            total += time;
        }
    }
    total.as_secs_f64() / steps as f64
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Makes a module.
type Model = fn() -> Many;

fn main() {
    let rounds = option("--rounds").map_or(9, |rounds| rounds.parse().expect("a number"));
    let only = option("--model").unwrap_or_default();
    let models: [(&str, Model, usize); 3] = [
        ("269k in 6", Many::mlp, 50),
        ("25.6M in 161", Many::resnet50, 2),
        ("10,000 of 64", Many::small, 3),
    ];
    for (name, model, steps) in models.into_iter().filter(|model| model.0.contains(&only)) {
        let mut theirs: ModuleOptimizer = AdamWConfig::new().init();
        let name_of = format!("AdamW, {name}");
        compare(
            &name_of,
            (model(), rounds, steps),
            (adamw(), &mut theirs),
            true,
        );
        let clip = GradientClipping::Norm(1.0);
        let mut theirs = AdamWConfig::new().init().with_grad_clipping(clip);
        let rule = (
            ClipNorm {
                max: 1.0,
                ..Default::default()
            },
            adamw(),
        );
        let name_of = format!("clip and AdamW, {name}");
        compare(
            &name_of,
            (model(), rounds, steps),
            (rule, &mut theirs),
            false,
        );
    }
    if only.is_empty() {
        unflatten();
    }
}

/// What follows this word on the command line.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

/// The vector of 25.6M, copied to where the parameters are, and moved.
fn unflatten() {
    let mut model = Many::resnet50();
    let flat = Flat::of(&model).expect("a layout");
    let values = flat.flatten(&model).expect("values");
    let (mut copied, mut moved) = (vec![], vec![]);
    for _ in 0..7 {
        let begun = ProcessTime::now();
        flat.unflatten(&mut model, &values[..]).expect("values");
        copied.push(begun.elapsed().as_secs_f64());
        assert_eq!(flat.flatten(&model).expect("values"), values);
        let vector = values.clone();
        let begun = ProcessTime::now();
        flat.unflatten(&mut model, vector).expect("values");
        moved.push(begun.elapsed().as_secs_f64());
        assert_eq!(flat.flatten(&model).expect("values"), values);
        // Storages of their own again.
        flat.unflatten(&mut model, &values[..]).expect("values");
    }
    println!(
        "unflatten, 25.6M in 161: copied {:.2} ms, moved {:.3} ms",
        1e3 * median(&mut copied),
        1e3 * median(&mut moved)
    );
}
