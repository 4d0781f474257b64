//! How do I compute ⟨x, dx⟩, a weight-decay term and the like over a model, its gradient and an
//! optimiser's state?
//!
//! One pass over the three trees, one call a parameter: the value and the state of a tied parameter
//! are read once, its gradients are summed, and a parameter without a gradient shows up with zeros.
//!
//! ```text
//! cargo run --example inner_products
//! ```

use std::sync::Arc;

use flatleaf::Companion::{Grads, Values};
use flatleaf::{Layout, Result, Tree, destructure, ops, tree};
use ndarray::{Array1, Array2, arr1, arr2};

const DECAY: f64 = 0.01;

#[derive(Tree)]
struct Net {
    embed: Arc<Array2<f32>>,
    #[tree(frozen)]
    mean: Array1<f32>,
    bias: Array1<f32>,
    gain: Array1<f32>,
    head: Arc<Array2<f32>>, // the same array as `embed`
}

#[derive(Debug, Default, PartialEq)]
struct Terms {
    /// ⟨x, dx⟩: how fast the loss grows as all parameters grow by one factor. Near 0 where
    /// normalisation undoes that.
    growth: f64,
    /// λ/2·‖x‖² of the matrices: biases and gains do not decay.
    decay: f64,
    /// ⟨v, dx⟩: how fast the loss changes along the velocity; above 0, momentum goes uphill.
    agreement: f64,
}

fn main() -> Result<()> {
    let shared = Arc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
    let net = Net {
        embed: shared.clone(),
        mean: arr1(&[9.0]),
        bias: arr1(&[5.0]),
        gain: arr1(&[6.0]),
        head: shared,
    };
    let (x, layout) = destructure(&net)?;
    // No gradient for `gain`, one at each place of the tie, and one at a frozen place that is
    // nobody's.
    let grads = tree!({ "embed": [[1.0, 0.0], [0.0, 0.0]], "mean": [7.0], "bias": [-2.0], "head": [[1.0, 0.0], [0.0, 3.0]] });
    // An optimiser's state is a tree of the same type with the same ties.
    let velocity = layout.map(&net, [], |_, v, []| ops::scale(v, -0.1))?;

    let terms = terms(&layout, &net, &grads, &velocity)?;
    println!("growth     ⟨x, dx⟩     {:8.4}", terms.growth);
    println!("decay      λ/2·‖x‖²    {:8.4}", terms.decay);
    println!("agreement  ⟨v, dx⟩     {:8.4}", terms.agreement);

    // The same on the flat vectors.
    let (dx, v) = (layout.gather_grad(&grads)?, layout.gather(&velocity)?);
    let embed = layout.leaf("embed").expect("a leaf").range();
    let decay = DECAY / 2.0 * ops::dot(&x[embed.clone()], &x[embed]);
    assert_eq!(*dx, [2.0, 0.0, 0.0, 3.0, -2.0, 0.0]);
    assert_eq!(
        terms,
        Terms {
            growth: ops::dot(&x, &dx),
            decay,
            agreement: ops::dot(&v, &dx)
        }
    );
    assert_eq!(terms.growth, 4.0); // 1·2 + 4·3 − 5·2
    Ok(())
}

fn terms(layout: &Layout, net: &Net, grads: &dyn Tree, velocity: &Net) -> Result<Terms> {
    let terms = layout.map_reduce(
        net,
        [Grads(grads), Values(velocity)],
        |leaf, x, [dx, v]| Terms {
            growth: ops::dot(x, dx),
            decay: if leaf.shape().len() > 1 {
                DECAY / 2.0 * ops::dot(x, x)
            } else {
                0.0
            },
            agreement: ops::dot(v, dx),
        },
        |a, b| Terms {
            growth: a.growth + b.growth,
            decay: a.decay + b.decay,
            agreement: a.agreement + b.agreement,
        },
    )?;
    Ok(terms.unwrap_or_default())
}
