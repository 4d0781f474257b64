//! What becomes of a parameter that stands at two places, under burn's optimiser and under
//! flatleaf's?
//!
//! A model of which word follows which: its embedding is its output layer too. burn's optimiser
//! moves the first place and not the second; from then on they are two, and of their gradients burn
//! keeps the last place's only. flatleaf moves the one parameter, by its whole gradient.
//!
//! ```text
//! cargo run --example tied_embeddings
//! ```

use std::error::Error;

use burn_core as burn;
use burn_core::module::{Module, Param};
use burn_core::tensor::{Int, Tensor, TensorData};
use burn_nn::loss::CrossEntropyLossConfig;
use burn_optim::{AdamWConfig, GradientsParams};
use digits::SplitMix64;
use flatleaf::optim::{AdamW, Optimizer};
use flatleaf_burn::Flat;
use support::device;

mod support;

const WORDS: usize = 12;
const WIDTH: usize = 8;
const STEPS: usize = 60;

#[derive(Module, Debug)]
struct Model {
    embed: Param<Tensor<2>>,
    mix: Param<Tensor<2>>,
    head: Param<Tensor<2>>, // the same parameter as `embed`
}

impl Model {
    fn new() -> Self {
        let mut numbers = SplitMix64(5);
        let mut parameter = |rows, columns| {
            let weight = numbers.weight(rows, columns);
            let weight: Vec<f32> = weight.iter().copied().collect();
            Param::from_tensor(Tensor::from_data(
                TensorData::new(weight, [rows, columns]),
                &device(),
            ))
        };
        let embed = parameter(WORDS, WIDTH);
        Model {
            mix: parameter(WIDTH, WIDTH),
            head: embed.clone(),
            embed,
        }
    }

    /// Each word is followed by the fifth after it.
    fn loss(&self) -> Tensor<1> {
        let words: Vec<i32> = (0..WORDS as i32).collect();
        let next: Vec<i32> = words.iter().map(|word| (word + 5) % WORDS as i32).collect();
        let tensor = |words: &[i32]| Tensor::<1, Int>::from_ints(words, &device());
        let hidden = self
            .embed
            .val()
            .select(0, tensor(&words))
            .matmul(self.mix.val());
        let scores = hidden.matmul(self.head.val().transpose());
        CrossEntropyLossConfig::new()
            .init(&device())
            .forward(scores, tensor(&next))
    }

    fn grads(&self) -> GradientsParams {
        GradientsParams::from_grads(self.loss().backward(), self)
    }

    /// What each place adds to the gradient: that of a model with these values at two parameters.
    fn grads_of_places(&self) -> [Tensor<2>; 2] {
        let head = Param::from_tensor(self.head.val().detach());
        let untied = Model {
            head,
            ..self.clone()
        };
        let grads = untied.grads();
        [&untied.embed, &untied.head].map(|place| grads.get(place.id).expect("a gradient"))
    }

    /// How far the two places are apart.
    fn distance(&self) -> f32 {
        let difference = self.embed.val() - self.head.val();
        difference.powi_scalar(2).sum().sqrt().into_scalar::<f32>()
    }
}

/// Norms of the gradient: at each place, of their sum, and of what burn has for the parameter.
fn norms(model: &Model) -> [f32; 4] {
    let [embed, head] = model.grads_of_places();
    let whole = embed.clone() + head.clone();
    let kept = model.grads().get(model.embed.id).expect("a gradient");
    [embed, head, whole, kept]
        .map(|grad: Tensor<2>| grad.powi_scalar(2).sum().sqrt().into_scalar::<f32>())
}

fn print_norms(when: &str, [embed, head, whole, kept]: [f32; 4]) {
    println!("{when:22} {embed:9.4}  {head:9.4}  {whole:9.4}  {kept:9.4}");
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut burns, mut ours) = (Model::new(), Model::new());
    let flat = Flat::of(&ours)?;
    println!("{}", flat.layout());
    assert_eq!(flat.layout().leaves()[0].places(), ["embed", "head"]);

    let mut adamw = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(0.0)
        .init();
    let rule = AdamW {
        weight_decay: 0.0,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(rule, flat.layout())?;
    optimizer.set_lr(0.02)?;

    println!("norms of the gradient      embed       head  their sum    burn has");
    let before = norms(&burns);
    print_norms("before the first step", before);
    for step in 1..=STEPS {
        let grads = burns.grads();
        burns = adamw.step(0.02, burns, grads);
        let grads = ours.grads();
        flat.step(&mut optimizer, &mut ours, grads)?;
        if step == 1 {
            let [_, head, whole, kept] = norms(&burns);
            print_norms("after one step of burn", norms(&burns));
            // The last place's, and nothing of the other.
            assert!((kept - head).abs() < 1e-5 && (kept - whole).abs() > 1e-2);
            let [_, _, whole, kept] = norms(&ours);
            print_norms("after one of flatleaf", norms(&ours));
            assert!((kept - whole).abs() < 1e-5);
        }
    }

    let [burns_loss, our_loss] = [&burns, &ours].map(|model| model.loss().into_scalar::<f32>());
    println!("\nafter {STEPS} steps                burn   flatleaf");
    println!("  loss                   {burns_loss:9.4}  {our_loss:9.4}");
    println!(
        "  embed − head           {:9.4}  {:9.4}",
        burns.distance(),
        ours.distance()
    );

    assert!(burns.distance() > 0.1, "burn's places drift");
    assert_eq!(ours.distance(), 0.0);
    assert!(our_loss < 0.1);

    // What burn keeps of the gradient is that of the last place; flatleaf says so.
    let grads = burns.grads();
    let error = flat.flatten_grads(&burns, &grads).expect_err("two tensors");
    println!("\nasked for the gradient of burn's: {error}");
    assert!(error.to_string().contains("`embed`, `head`"));

    // The first place's values at both, and one tensor again.
    let embed = flatleaf_burn::Params::of(&ours)?;
    flat.unflatten(&mut burns, flat.layout().gather(&embed)?)?;
    assert_eq!(burns.distance(), 0.0);
    let grads = burns.grads();
    flat.flatten_grads(&burns, &grads)?;
    Ok(())
}
