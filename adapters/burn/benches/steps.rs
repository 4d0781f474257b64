//! A step of burn's optimiser and one of flatleaf's on the same module, in turns.
//!
//! `RAYON_NUM_THREADS=1 cargo bench --features rayon,simd [-- ROUNDS]`
//!
//! Each round takes a step of each, on modules of their own, with gradients that are made before the
//! clock starts. A figure is the median over the rounds of one pair's quotient; times are medians.
//! After the last round the parameters are compared: with burn's, where both do the same thing, else
//! with a step on the flat vector.

use std::time::{Duration, Instant};

use burn_core as burn;
use burn_core::module::{Module, Param, ParamId};
use burn_core::tensor::{Device, Tensor};
use burn_optim::grad_clipping::GradientClipping;
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
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
}

fn adamw() -> AdamW {
    AdamW {
        lr: 1e-3,
        eps: 1e-5,
        weight_decay: 1e-4,
        ..Default::default()
    }
}

/// Both steps in turns; whether burn's does the same thing is told.
fn compare<R: Rule>(
    name: &str,
    (model, rounds): (Many, usize),
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

    let (mut our_times, mut their_times, mut quotients) = (vec![], vec![], vec![]);
    for round in 0..rounds + 2 {
        let mut our_time = Duration::ZERO;
        let mut their_time = Duration::ZERO;
        for turn in 0..2 {
            let params = gradients.params();
            let begun = Instant::now();
            if (turn + round) % 2 == 0 {
                flat.step(&mut optimizer, &mut ours, params)
                    .expect("a step");
                our_time = begun.elapsed();
            } else {
                burns = theirs.step(1e-3, burns, params);
                their_time = begun.elapsed();
            }
        }
        expected.1.step(&mut expected.0, &grad).expect("a step");
        if round >= 2 {
            our_times.push(our_time.as_secs_f64());
            their_times.push(their_time.as_secs_f64());
            quotients.push(their_time.as_secs_f64() / our_time.as_secs_f64());
        }
    }
    let values = flat.flatten(&ours).expect("values");
    assert_eq!(values, expected.0, "not the step on the flat vector");
    if is_same {
        let burns = flat.flatten(&burns).expect("values");
        let difference: Vec<f32> = values.iter().zip(&burns).map(|(a, b)| a - b).collect();
        let relative = norm_l2(&difference) / norm_l2(&burns);
        assert!(relative < 1e-5, "{name}: {relative} from burn's");
    }
    println!(
        "{name:32} burn {:9.3} ms  flatleaf {:9.3} ms  {:6.2} times",
        1e3 * median(&mut their_times),
        1e3 * median(&mut our_times),
        median(&mut quotients)
    );
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Makes a module.
type Model = fn() -> Many;

fn main() {
    let rounds = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(30);
    let models: [(&str, Model, usize); 3] = [
        ("269k in 6", Many::mlp, 10 * rounds),
        ("25.6M in 161", Many::resnet50, rounds.div_ceil(3)),
        ("10,000 of 64", Many::small, rounds),
    ];
    for (name, model, rounds) in models {
        let mut theirs: ModuleOptimizer = AdamWConfig::new().init();
        let name_of = format!("AdamW, {name}");
        compare(&name_of, (model(), rounds), (adamw(), &mut theirs), true);
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
        compare(&name_of, (model(), rounds), (rule, &mut theirs), false);
    }
    unflatten();
}

/// The vector of 25.6M, copied to where the parameters are, and moved.
fn unflatten() {
    let mut model = Many::resnet50();
    let flat = Flat::of(&model).expect("a layout");
    let values = flat.flatten(&model).expect("values");
    let (mut copied, mut moved) = (vec![], vec![]);
    for _ in 0..7 {
        let begun = Instant::now();
        flat.unflatten(&mut model, &values[..]).expect("values");
        copied.push(begun.elapsed().as_secs_f64());
        assert_eq!(flat.flatten(&model).expect("values"), values);
        let vector = values.clone();
        let begun = Instant::now();
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
