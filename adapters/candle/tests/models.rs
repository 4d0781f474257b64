//! Models that several tests use.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{Init, Linear, VarBuilder, VarMap, linear};
use flatleaf_candle::VarTree;

pub(crate) const CPU: Device = Device::Cpu;

pub(crate) fn var(values: &[f32]) -> Var {
    Var::new(values, &CPU).unwrap()
}

/// A tree of one variable of each name.
pub(crate) fn tree(vars: &[(&str, &Var)]) -> VarTree {
    VarTree::named(vars.iter().map(|(name, var)| (*name, (*var).clone()))).unwrap()
}

pub(crate) fn values(var: &Var) -> Vec<f32> {
    var.flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers that are the same everywhere, between -1 and 1.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(crate) fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let len = shape.iter().product();
    Tensor::from_vec(numbers(seed, len), shape, &CPU).unwrap()
}

/// Sets every variable of a map to numbers that depend on its name alone.
pub(crate) fn fill(map: &VarMap, scale: f64) {
    for (name, var) in map.data().lock().unwrap().iter() {
        let seed = name
            .bytes()
            .fold(7, |seed: u64, byte| seed * 31 + u64::from(byte));
        let numbers = tensor(seed, var.dims());
        var.set(&(numbers * scale).unwrap()).unwrap();
    }
}

/// 784-300-100-10 with biases.
pub(crate) struct Mlp(Vec<Linear>);

impl Mlp {
    pub(crate) fn new(sizes: &[usize], builder: VarBuilder) -> Result<Self> {
        let layers = sizes.windows(2).enumerate();
        let layer = |(index, pair): (usize, &[usize])| linear(pair[0], pair[1], builder.pp(index));
        layers.map(layer).collect::<Result<_>>().map(Mlp)
    }
}

impl Module for Mlp {
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = input.clone();
        for (index, layer) in self.0.iter().enumerate() {
            hidden = layer.forward(&hidden)?;
            if index + 1 < self.0.len() {
                hidden = hidden.tanh()?;
            }
        }
        Ok(hidden)
    }
}

pub(crate) fn mlp(sizes: &[usize]) -> (VarMap, Mlp) {
    let map = VarMap::new();
    let mlp = Mlp::new(sizes, VarBuilder::from_varmap(&map, DType::F32, &CPU)).unwrap();
    fill(&map, 0.1);
    (map, mlp)
}

/// A small GPT whose head is its embedding: 36 variables.
pub(crate) struct Gpt {
    embedding: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    is_fused: bool,
}

struct Block {
    norm_1: Norm,
    norm_2: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

pub(crate) const VOCABULARY: usize = 16;
pub(crate) const LENGTH: usize = 8;
const WIDTH: usize = 12;

impl Norm {
    fn new(builder: VarBuilder) -> Result<Self> {
        Ok(Norm {
            weight: builder.get_with_hints(WIDTH, "weight", Init::Const(1.0))?,
            bias: builder.get_with_hints(WIDTH, "bias", Init::Const(0.0))?,
        })
    }

    fn forward(&self, input: &Tensor, is_fused: bool) -> Result<Tensor> {
        if is_fused {
            return candle_nn::ops::layer_norm(
                &input.contiguous()?,
                &self.weight,
                &self.bias,
                1e-5,
            );
        }
        candle_nn::ops::layer_norm_slow(&input.contiguous()?, &self.weight, &self.bias, 1e-5)
    }
}

impl Gpt {
    pub(crate) fn new(builder: VarBuilder, is_fused: bool) -> Result<Self> {
        let block = |index: usize| -> Result<Block> {
            let builder = builder.pp("blocks").pp(index);
            Ok(Block {
                norm_1: Norm::new(builder.pp("norm_1"))?,
                norm_2: Norm::new(builder.pp("norm_2"))?,
                query: linear(WIDTH, WIDTH, builder.pp("query"))?,
                key: linear(WIDTH, WIDTH, builder.pp("key"))?,
                value: linear(WIDTH, WIDTH, builder.pp("value"))?,
                out: linear(WIDTH, WIDTH, builder.pp("out"))?,
                up: linear(WIDTH, 4 * WIDTH, builder.pp("up"))?,
                down: linear(4 * WIDTH, WIDTH, builder.pp("down"))?,
            })
        };
        Ok(Gpt {
            embedding: builder.get((VOCABULARY, WIDTH), "wte.weight")?,
            positions: builder.get((LENGTH, WIDTH), "wpe.weight")?,
            blocks: (0..2).map(block).collect::<Result<_>>()?,
            norm: Norm::new(builder.pp("norm"))?,
            is_fused,
        })
    }

    /// The mean cross-entropy of the next token.
    pub(crate) fn loss(&self, tokens: &Tensor) -> Result<Tensor> {
        let inputs = tokens.narrow(0, 0, LENGTH)?;
        let mut x = self
            .embedding
            .index_select(&inputs, 0)?
            .add(&self.positions)?;
        for block in &self.blocks {
            let normed = block.norm_1.forward(&x, self.is_fused)?;
            let query = block.query.forward(&normed)?;
            let key = block.key.forward(&normed)?;
            let value = block.value.forward(&normed)?;
            let scores = (query.matmul(&key.t()?)? / (WIDTH as f64).sqrt())?;
            let attention = candle_nn::ops::softmax(&(scores + causal()?)?, 1)?;
            x = (x + block.out.forward(&attention.matmul(&value)?)?)?;
            let normed = block.norm_2.forward(&x, self.is_fused)?;
            x = (x + block.down.forward(&block.up.forward(&normed)?.gelu()?)?)?;
        }
        let x = self.norm.forward(&x, self.is_fused)?;
        let logits = x.matmul(&self.embedding.t()?)?;
        candle_nn::loss::cross_entropy(&logits, &tokens.narrow(0, 1, LENGTH)?)
    }
}

/// 0 where a token may look, minus infinity, nearly, behind it.
fn causal() -> Result<Tensor> {
    let mask = (0..LENGTH * LENGTH).map(|at| {
        if at % LENGTH > at / LENGTH {
            -1e9_f32
        } else {
            0.0
        }
    });
    Tensor::from_vec(mask.collect::<Vec<_>>(), (LENGTH, LENGTH), &CPU)
}

pub(crate) fn gpt(is_fused: bool) -> (VarMap, Gpt) {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &CPU);
    let gpt = Gpt::new(builder, is_fused).unwrap();
    fill(&map, 0.2);
    for (name, var) in map.data().lock().unwrap().iter() {
        if name.contains("norm") && name.ends_with("weight") {
            var.set(&var.ones_like().unwrap()).unwrap();
        }
    }
    (map, gpt)
}

pub(crate) fn tokens() -> Tensor {
    let tokens: Vec<u32> = (0..=LENGTH as u32)
        .map(|at| at * at * 5 % VOCABULARY as u32)
        .collect();
    Tensor::new(tokens, &CPU).unwrap()
}

/// So many variables of 8 by 8.
pub(crate) fn small_vars(count: usize) -> Vec<(String, Var)> {
    let var = |index: usize| {
        let numbers = tensor(index as u64, &[8, 8]);
        (
            format!("layers.{index}.w"),
            Var::from_tensor(&numbers).unwrap(),
        )
    };
    (0..count).map(var).collect()
}
