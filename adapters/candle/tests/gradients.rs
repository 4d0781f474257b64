//! Gradients of a store as a tree: totals, what is absent, what cannot be lent.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use flatleaf::{FlatGrad, Layout, TiedGrads};
use flatleaf_candle::{Grads, VarTree};

use crate::Outcome;
use crate::models::{CPU, gpt, tensor, tokens, tree, var};

/// A store to be filled by hand: candle makes an empty one of no variable.
pub(crate) fn store(gradients: &[(&Var, Tensor)]) -> GradStore {
    let mut store = GradStore::default();
    for (var, gradient) in gradients {
        store.insert(var, gradient.clone());
    }
    store
}

fn gathered(store: &GradStore, vars: &VarTree) -> flatleaf::Result<FlatGrad> {
    Layout::of(vars)?.gather_grad(&Grads::of(store, vars)?)
}

#[test]
fn the_fused_norm_leaves_one_of_36_variables_a_gradient() -> Outcome {
    let (map, gpt) = gpt(true);
    let vars = VarTree::of(&map)?;
    assert_eq!(vars.len(), 36);
    let store = gpt.loss(&tokens())?.backward()?;
    let grads = Grads::of(&store, &vars)?;
    assert_eq!(grads.absent().count(), 35);
    assert!(!grads.absent().any(|name| name == "wte.weight"));
    Ok(())
}

#[test]
fn without_the_fused_norm_nothing_is_absent() -> Outcome {
    let (map, gpt) = gpt(false);
    let vars = VarTree::of(&map)?;
    let store = gpt.loss(&tokens())?.backward()?;
    assert_eq!(Grads::of(&store, &vars)?.absent().count(), 0);
    Ok(())
}

#[test]
fn a_total_counts_once_however_ties_are_read() -> Outcome {
    let w = var(&[0.5]);
    let vars = tree(&[("a", &w), ("b", &w)]);
    let store = w.sqr()?.backward()?;
    let layout = Layout::of(&vars)?;
    let grads = Grads::of(&store, &vars)?;
    for tied in [TiedGrads::Sum, TiedGrads::AlreadyTotal] {
        assert_eq!(*layout.gather_grad_with(&grads, tied)?, [1.0]);
    }
    assert_eq!(grads.elements::<f32>("b"), Some(&[1.0][..]));
    Ok(())
}

#[test]
fn what_is_strided_or_broadcast_is_copied_in_order() -> Outcome {
    let (a, b) = (
        Var::zeros((2, 3), DType::F32, &CPU)?,
        Var::zeros((2, 2), DType::F32, &CPU)?,
    );
    let vars = tree(&[("a", &a), ("b", &b)]);
    let transposed = Tensor::new(&[[1.0_f32, 4.0], [2.0, 5.0], [3.0, 6.0]], &CPU)?.t()?;
    let broadcast = Tensor::new(&[7.0_f32, 8.0], &CPU)?.broadcast_as((2, 2))?;
    let store = store(&[(&a, transposed), (&b, broadcast)]);
    assert_eq!(
        *gathered(&store, &vars)?,
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0]
    );
    Ok(())
}

#[test]
fn a_part_of_a_tensor_is_lent_from_its_offset() -> Outcome {
    let a = var(&[0.0, 0.0]);
    let part = Tensor::new(&[9.0_f32, 1.0, 2.0, 9.0], &CPU)?.narrow(0, 1, 2)?;
    let store = store(&[(&a, part)]);
    assert_eq!(*gathered(&store, &tree(&[("a", &a)]))?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn a_gradient_of_half_precision_is_widened() -> Outcome {
    let a = Var::from_tensor(&Tensor::new(&[1.0_f32], &CPU)?.to_dtype(DType::F16)?)?;
    let store = store(&[(&a, Tensor::new(&[0.5_f32], &CPU)?.to_dtype(DType::BF16)?)]);
    assert_eq!(*gathered(&store, &tree(&[("a", &a)]))?, [0.5]);
    Ok(())
}

#[test]
fn a_gradient_of_another_shape_names_the_variable() -> Outcome {
    let a = var(&[1.0, 2.0]);
    let store = store(&[(&a, tensor(1, &[2, 1]))]);
    let error = gathered(&store, &tree(&[("net.a", &a)])).unwrap_err();
    assert_eq!((error.is_shape(), error.path()), (true, Some("net.a")));
    assert_eq!(
        (error.expected(), error.found()),
        (Some("shape [2]"), Some("shape [2, 1]"))
    );
    Ok(())
}

#[test]
fn what_is_forced_through_copies_gives_the_same_gradient() -> Outcome {
    let (map, gpt) = gpt(false);
    let vars = VarTree::of(&map)?;
    let store = gpt.loss(&tokens())?.backward()?;
    assert_eq!(
        gathered(&store, &vars)?,
        gathered(&store, &vars.clone().through_copies())?
    );
    Ok(())
}
