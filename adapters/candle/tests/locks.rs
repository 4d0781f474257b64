//! candle's locks: nobody waits for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use candle_core::{DType, Tensor};
use flatleaf::optim::{AdamW, ClipNorm, Sgd};
use flatleaf_candle::{FlatOptimizer, Grads, VarTree};

use crate::Outcome;
use crate::gradients::store;
use crate::models::{CPU, small_vars, tensor, tree, values, var};

/// Runs a test on a thread of its own, and fails it when it takes longer than a minute.
fn within_a_minute(test: impl FnOnce() -> flatleaf::Result<()> + Send + 'static) {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || done.send(test().map_err(|error| error.to_string())));
    match finished.recv_timeout(Duration::from_secs(60)) {
        Ok(outcome) => outcome.unwrap(),
        Err(_) => panic!("it hangs"),
    }
}

#[test]
fn a_gradient_that_is_a_variable_or_a_view_of_one_does_not_hang() {
    within_a_minute(|| {
        let (a, b) = (var(&[1.0, 2.0]), var(&[3.0, 4.0]));
        let vars = tree(&[("a", &a), ("b", &b)]);
        let rule = Sgd {
            lr: 1.0,
            ..Default::default()
        };
        let mut optimizer = FlatOptimizer::of(&vars, rule)?;
        optimizer.update(&store(&[
            (&a, b.as_tensor().clone()),
            (&b, b.as_tensor().clone()),
        ]))?;
        assert_eq!((values(&a), values(&b)), (vec![-2.0, -2.0], vec![0.0, 0.0]));

        // Detached it is no variable, and shares the lock all the same.
        optimizer.update(&store(&[(&b, a.as_detached_tensor())]))?;
        assert_eq!(values(&b), [2.0, 2.0]);
        let reversed = a
            .as_detached_tensor()
            .narrow(0, 1, 1)
            .unwrap()
            .broadcast_as(2)
            .unwrap();
        optimizer.update(&store(&[(&a, reversed)]))?;
        assert_eq!(values(&a), [0.0, 0.0]);
        Ok(())
    });
}

#[test]
fn a_variable_whose_memory_was_exchanged_is_known_by_its_new_one() {
    struct Exchange;

    impl candle_core::InplaceOp1 for Exchange {
        fn name(&self) -> &'static str {
            "exchange"
        }

        fn cpu_fwd(
            &self,
            storage: &mut candle_core::CpuStorage,
            _: &candle_core::Layout,
        ) -> candle_core::Result<()> {
            *storage = candle_core::CpuStorage::F32(vec![5.0, 6.0]);
            Ok(())
        }
    }

    within_a_minute(|| {
        let w = var(&[1.0, 2.0]);
        let rule = Sgd {
            lr: 1.0,
            ..Default::default()
        };
        let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), rule)?;
        w.inplace_op1(&Exchange).unwrap();
        optimizer.update(&store(&[(&w, Tensor::new(&[1.0_f32, 1.0], &CPU).unwrap())]))?;
        optimizer.update(&store(&[(&w, w.as_detached_tensor())]))?;
        assert_eq!(values(&w), [0.0, 0.0]);
        Ok(())
    });
}

#[test]
fn a_step_goes_on_while_another_thread_evaluates_ten_thousand_variables() {
    within_a_minute(|| {
        let named = small_vars(10_000);
        let vars = VarTree::named(named.clone())?;
        let gradients: Vec<_> = named
            .iter()
            .map(|(_, var)| (var, tensor(1, &[8, 8])))
            .collect();
        let store = store(&gradients);
        let rule = (
            ClipNorm {
                max: 1.0,
                ..Default::default()
            },
            AdamW::default(),
        );
        let mut optimizer = FlatOptimizer::of(&vars, rule)?;
        let (has_evaluated, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut steps = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                let input = Tensor::ones((1, 8), DType::F32, &CPU).unwrap();
                let bias = Tensor::zeros(8, DType::F32, &CPU).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    for pair in named.chunks_exact(2) {
                        // A matrix, and a fused norm that locks its weight and its bias at once.
                        let hidden = input.matmul(&pair[0].1).unwrap();
                        let weight = pair[1].1.get(0).unwrap();
                        candle_nn::ops::layer_norm(&hidden, &weight, &bias, 1e-5).unwrap();
                    }
                    has_evaluated.store(true, Ordering::Relaxed);
                }
            });
            while steps < 10 || !has_evaluated.load(Ordering::Relaxed) {
                optimizer.update(&store).unwrap();
                steps += 1;
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let counted = optimizer.optimizer().step_count("layers.0.w");
        assert_eq!(counted, Some(steps));
        Ok(())
    });
}

#[test]
fn a_large_step_in_a_task_of_the_pool_does_not_wait_for_the_pool() {
    // All threads of the pool take up tasks that read the variable which the step has locked.
    within_a_minute(|| {
        let w = candle_core::Var::zeros(1 << 21, DType::F32, &CPU).unwrap();
        let gradient = Tensor::ones(1 << 21, DType::F32, &CPU).unwrap();
        let store = store(&[(&w, gradient)]);
        let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), AdamW::default())?;
        rayon::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|_| {
                    for _ in 0..20 {
                        w.get(0).unwrap().to_scalar::<f32>().unwrap();
                    }
                });
            }
            for _ in 0..20 {
                optimizer.update(&store).unwrap();
            }
        });
        Ok(())
    });
}

#[test]
fn reading_beside_what_is_lent_goes_on() -> Outcome {
    let w = var(&[3.0, 4.0]);
    let vars = tree(&[("w", &w)]);
    let store = w.sqr()?.sum_all()?.backward()?;
    let (lent, grads) = (vars.lend()?, Grads::of(&store, &vars)?);
    assert_eq!(values(&w), [3.0, 4.0]);
    assert_eq!(
        (lent.elements::<f32>("w"), grads.elements::<f32>("w")),
        (Some(&[3.0, 4.0][..]), Some(&[6.0, 8.0][..]))
    );
    Ok(())
}
