//! Modules that the tests are about.

use burn_core as burn;
use burn_core::module::{Module, ModuleMapper, Param};
use burn_core::tensor::activation::{relu, softmax};
use burn_core::tensor::{Device, Int, Tensor, TensorData, s};
use burn_nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig};
use burn_optim::GradientsParams;
use flatleaf_burn::Params;

pub fn device() -> Device {
    Device::flex().autodiff()
}

/// Gives each parameter values that are the same on every run. What burn draws depends on which
/// tests run at the same time, and how far two optimisers are apart after ten steps on the draw: a
/// gradient that nearly cancels has few right digits, and Adam makes a whole step of it.
fn with_fixed_values<M: Module>(module: M) -> M {
    struct FixedValues {
        given: usize,
    }
    impl ModuleMapper for FixedValues {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            let from = self.given;
            self.given += param.shape().num_elements();
            let values: Vec<f32> = (from..self.given).map(fixed_value).collect();
            param.map(|old| {
                let data = TensorData::new(values, old.shape());
                Tensor::from_data(data, &old.device()).require_grad()
            })
        }
    }
    module.map(&mut FixedValues { given: 0 })
}

/// Between −0.5 and 0.5.
pub fn fixed_value(index: usize) -> f32 {
    (index * 37 % 101) as f32 / 101.0 - 0.5
}

/// 784-300-100-10, with biases: 266,610 parameters in 6 leaves.
#[derive(Module, Debug)]
pub struct Mlp {
    pub layers: Vec<Linear>,
}

impl Mlp {
    pub fn of(widths: &[usize]) -> Self {
        let pairs = widths.windows(2);
        let layer = |pair: &[usize]| LinearConfig::new(pair[0], pair[1]).init(&device());
        with_fixed_values(Mlp {
            layers: pairs.map(layer).collect(),
        })
    }

    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let (last, hidden) = self.layers.split_last().expect("a layer");
        let hidden = hidden.iter().fold(input, |x, layer| relu(layer.forward(x)));
        last.forward(hidden)
    }
}

/// Two parameters of one element each.
#[derive(Module, Debug)]
pub struct Pair {
    pub a: Param<Tensor<1>>,
    pub b: Param<Tensor<1>>,
}

impl Pair {
    pub fn of(a: f32, b: f32) -> Self {
        Pair {
            a: parameter([a]),
            b: parameter([b]),
        }
    }

    /// One parameter at both places.
    pub fn tied(value: f32) -> Self {
        let one = parameter([value]);
        Pair {
            a: one.clone(),
            b: one,
        }
    }

    pub fn values(&self) -> [f32; 2] {
        [&self.a, &self.b].map(|param| param.val().into_scalar())
    }
}

pub fn parameter<const N: usize>(values: [f32; N]) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::from_floats(values, &device()))
}

/// Gradients that were not made by a backward pass.
pub fn grads_of<const N: usize>(entries: [(&Param<Tensor<1>>, Vec<f32>); N]) -> GradientsParams {
    let mut grads = GradientsParams::new();
    for (param, grad) in entries {
        let grad = Tensor::<1>::from_floats(&grad[..], &Device::flex());
        grads.register(param.id, grad);
    }
    grads
}

/// A language model of 11 words: an embedding of 66 that is the output layer too, a batch norm with
/// 12 parameters and 12 statistics, and layers of 90 and 96.
#[derive(Module, Debug)]
pub struct Tied {
    pub embed: Param<Tensor<2>>,
    pub norm: BatchNorm,
    pub up: Linear,
    pub down: Linear,
    pub head: Param<Tensor<2>>,
}

impl Tied {
    pub fn new() -> Self {
        let device = device();
        let embed = Initializer::Normal {
            mean: 0.0,
            std: 0.5,
        }
        .init([11, 6], &device);
        let mut tied = with_fixed_values(Tied {
            head: embed.clone(),
            embed,
            norm: BatchNormConfig::new(6).init(&device),
            up: LinearConfig::new(6, 15).with_bias(false).init(&device),
            down: LinearConfig::new(15, 6).init(&device),
        });
        // Who maps a module takes ties apart.
        tied.head = tied.embed.clone();
        tied
    }

    /// The loss of telling each word from the one before it.
    pub fn loss(&self) -> Tensor<1> {
        let device = device();
        let words = Tensor::<1, Int>::from_ints([0, 3, 7, 10, 2, 5, 1, 9, 4, 8, 6, 0], &device);
        let (input, target) = (words.clone().slice(s![0..11]), words.slice(s![1..12]));
        let x = self.embed.val().select(0, input);
        let x = self.norm.forward(x);
        let x = self.down.forward(relu(self.up.forward(x)));
        let scores = softmax(x.matmul(self.head.val().transpose()), 1);
        let chosen = scores.gather(1, target.unsqueeze_dim(1));
        chosen.log().neg().mean()
    }

    pub fn grads(&self) -> GradientsParams {
        GradientsParams::from_grads(self.loss().backward(), self)
    }
}

/// Where the first element of each parameter is.
pub fn addresses<M: Module>(module: &M) -> Vec<usize> {
    struct Addresses(Vec<usize>);
    impl burn_core::module::ModuleVisitor for Addresses {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val().inner();
            let tensor = tensor
                .try_into_primitive::<burn_flex::Flex>()
                .expect("on the CPU");
            self.0
                .push(tensor.as_slice::<f32>().expect("floats").as_ptr() as usize);
        }
    }
    let mut addresses = Addresses(Vec::new());
    module.visit(&mut addresses);
    addresses.0
}

pub fn paths<M: Module>(module: &M) -> Vec<String> {
    Params::of(module).expect("parameters").paths().collect()
}
