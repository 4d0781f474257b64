//! How do I clip a gradient by its global norm when some parameters are frozen and others are tied?
//!
//! The norm is that of the gradient of the *model*: a frozen parameter counts for nothing, and a
//! tied one has one gradient, the sum over its places. The layout knows both, so the gradient may
//! be any tree of the model's paths.
//!
//! ```text
//! cargo run --example clip_gradient
//! ```

use std::sync::Arc;

use flatleaf::{DynTree, Layout, Result, Tree, ops, tree};
use ndarray::{Array1, Array2, arr1, arr2};

const MAX_NORM: f64 = 1.0;

#[derive(Tree)]
struct Net {
    embed: Arc<Array2<f32>>,
    #[tree(frozen)]
    mean: Array1<f32>,
    bias: Array1<f32>,
    head: Arc<Array2<f32>>, // the same array as `embed`
}

fn main() -> Result<()> {
    let shared = Arc::new(arr2(&[[0.1, 0.2]]));
    let net = Net {
        embed: shared.clone(),
        mean: arr1(&[0.5]),
        bias: arr1(&[0.0]),
        head: shared,
    };
    let layout = Layout::of(&net)?;
    // What backpropagation leaves: a gradient at every place, the frozen one too.
    let mut grads =
        tree!({ "embed": [[1.0, 4.0]], "mean": [100.0], "bias": [12.0], "head": [[2.0, 0.0]] });

    // On the flat gradient, for those who step on the flat vector.
    let mut grad = layout.gather_grad(&grads)?;
    let clip = layout.clip_norm(&mut grad, MAX_NORM)?;

    // On the tree, for those who step on the tree.
    let every_array = Layout::of(&grads)?.norm_l2(&grads)?;
    let before = clip_tree(&layout, &mut grads, MAX_NORM)?;
    let after = layout.norm_l2(&grads)?;

    println!(
        "norm of every array in the gradient     {every_array:8.4}  frozen `mean` counted, tied places squared one by one"
    );
    println!("norm with respect to the model, before  {before:8.4}");
    println!("                                after   {after:8.4}");
    println!(
        "the same on the flat gradient           {:8.4} -> {:.4}, scaled by {:.4}",
        clip.norm_before, clip.norm_after, clip.scale
    );

    approx::assert_relative_eq!(before, 13.0, max_relative = 1e-12); // of (1 + 2, 4 + 0, 12)
    approx::assert_relative_eq!(after, MAX_NORM, max_relative = 1e-6);
    approx::assert_relative_eq!(clip.norm_before, before, max_relative = 1e-6);
    approx::assert_relative_eq!(*grad, *layout.gather_grad(&grads)?, max_relative = 1e-6);
    Ok(())
}

/// Scales a gradient tree in place so that its norm with respect to the model is at most `max`, and
/// returns the norm that it had.
///
/// It does not look for NaN and infinity: `clip_norm` on the flat gradient does, and names the
/// leaf.
fn clip_tree(layout: &Layout, grads: &mut DynTree, max: f64) -> Result<f64> {
    let norm = layout.norm_l2(grads)?;
    if norm > max {
        // Every place by the same factor, and so their sum: a walk over the gradient's own leaves
        // will do.
        Layout::of(grads)?.map_into(grads, [], |_, dx, []| ops::scale(dx, (max / norm) as f32))?;
    }
    Ok(norm)
}
