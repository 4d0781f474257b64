//! A small transformer that writes handwritten digits, pixel by pixel.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::{Init, Linear, Module, VarBuilder, linear, loss, ops};
use digits::PIXELS;

use super::{CPU, Rows};

/// 0 to 16, and one that stands before the first pixel.
pub const SHADES: usize = 18;
const START: u32 = 17;
const WIDTH: usize = 32;
const HEADS: usize = 4;
const LAYERS: usize = 1;

/// The shades of each image behind the start, `[images, 65]`.
pub fn sentences(rows: &Rows) -> Result<Tensor> {
    let shades = (rows.pixels.affine(16.0, 0.5)?).to_dtype(DType::U32)?;
    let start = Tensor::full(START, (rows.len(), 1), &CPU)?;
    Tensor::cat(&[&start, &shades], 1)
}

/// Guesses each pixel from those before it; its head is its embedding.
pub struct Transformer {
    /// Both the embedding and the head.
    shades: Tensor,
    places: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    /// 0 where a pixel may look, minus infinity, nearly, behind it.
    mask: Tensor,
}

struct Block {
    attention_norm: Norm,
    query_key_value: Linear,
    out: Linear,
    perceptron_norm: Norm,
    up: Linear,
    down: Linear,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(builder: VarBuilder) -> Result<Self> {
        Ok(Norm {
            weight: builder.get_with_hints(WIDTH, "weight", Init::Const(1.0))?,
            bias: builder.get_with_hints(WIDTH, "bias", Init::Const(0.0))?,
        })
    }

    /// Not `candle_nn::LayerNorm`, which is fused.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

impl Block {
    fn new(builder: VarBuilder) -> Result<Self> {
        Ok(Block {
            attention_norm: Norm::new(builder.pp("attention_norm"))?,
            query_key_value: linear(WIDTH, 3 * WIDTH, builder.pp("query_key_value"))?,
            out: linear(WIDTH, WIDTH, builder.pp("out"))?,
            perceptron_norm: Norm::new(builder.pp("perceptron_norm"))?,
            up: linear(WIDTH, 4 * WIDTH, builder.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, builder.pp("down"))?,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        let all = self
            .query_key_value
            .forward(&self.attention_norm.forward(x)?)?;
        let part = |index: usize| {
            let part = all.narrow(D::Minus1, index * WIDTH, WIDTH)?;
            part.reshape((batch, length, HEADS, WIDTH / HEADS))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let scores = (query.matmul(&key.t()?)? / ((WIDTH / HEADS) as f64).sqrt())?;
        let weights = ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        let heads = weights
            .matmul(&value)?
            .transpose(1, 2)?
            .reshape((batch, length, WIDTH))?;
        let x = (x + self.out.forward(&heads)?)?;
        let hidden = self
            .up
            .forward(&self.perceptron_norm.forward(&x)?)?
            .gelu()?;
        &x + self.down.forward(&hidden)?
    }
}

impl Transformer {
    pub fn new(builder: VarBuilder) -> Result<Self> {
        let small = Init::Randn {
            mean: 0.0,
            stdev: 0.1,
        };
        let blocks = (0..LAYERS).map(|index| Block::new(builder.pp("blocks").pp(index)));
        let mask = (0..PIXELS * PIXELS).map(|at| {
            if at % PIXELS > at / PIXELS {
                -1e9_f32
            } else {
                0.0
            }
        });
        Ok(Transformer {
            shades: builder.get_with_hints((SHADES, WIDTH), "shades.weight", small)?,
            places: builder.get_with_hints((PIXELS, WIDTH), "places.weight", small)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: Norm::new(builder.pp("norm"))?,
            mask: Tensor::from_iter(mask, &CPU)?.reshape((PIXELS, PIXELS))?,
        })
    }

    /// The mean cross-entropy of the next pixel.
    pub fn loss(&self, sentences: &Tensor) -> Result<Tensor> {
        let images = sentences.dim(0)?;
        let before = sentences.narrow(1, 0, PIXELS)?.flatten_all()?;
        let next = sentences.narrow(1, 1, PIXELS)?.flatten_all()?;
        let embedded = self
            .shades
            .index_select(&before, 0)?
            .reshape((images, PIXELS, WIDTH))?;
        let mut x = embedded.broadcast_add(&self.places)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.mask)?;
        }
        let x = self.norm.forward(&x)?.reshape((images * PIXELS, WIDTH))?;
        loss::cross_entropy(&x.matmul(&self.shades.t()?)?, &next)
    }
}
