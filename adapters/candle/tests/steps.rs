//! Steps: rules, rates, types, errors that move nothing.

use candle_core::test_utils::{to_vec0_round, to_vec2_round};
use candle_core::{DType, Module, Tensor, Var};
use candle_nn::{Linear, Optimizer as _};
use flatleaf::Layout;
use flatleaf::ops::NonFinite;
use flatleaf::optim::{Accumulate, Adam, AdamW, ClipNorm, Ema, Lamb, Muon, Rule, Sgd};
use flatleaf_candle::{FlatOptimizer, VarTree};

use crate::Outcome;
use crate::gradients::store;
use crate::models::{CPU, gpt, mlp, tensor, tokens, tree, values, var};

fn sgd(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Default::default()
    }
}

fn adamw(lr: f64) -> AdamW {
    AdamW {
        lr,
        ..Default::default()
    }
}

fn clip(max: f64) -> ClipNorm {
    ClipNorm {
        max,
        ..Default::default()
    }
}

#[test]
fn clipping_is_over_all_variables_and_the_report_has_both_numbers() -> Outcome {
    let (a, b) = (var(&[0.0]), var(&[0.0]));
    let vars = tree(&[("a", &a), ("b", &b)]);
    let mut optimizer = FlatOptimizer::of(&vars, (clip(1.0), sgd(1.0)))?;
    let report = optimizer.update(&store(&[
        (&a, Tensor::new(&[3.0_f32], &CPU)?),
        (&b, Tensor::new(&[4.0_f32], &CPU)?),
    ]))?;
    assert_eq!((values(&a), values(&b)), (vec![-0.6], vec![-0.8]));
    assert_eq!(
        (report.clips[0].norm_before, report.clips[0].scale),
        (5.0, 0.2)
    );
    Ok(())
}

#[test]
fn a_variable_that_takes_no_part_does_not_move_under_decay() -> Outcome {
    let (a, b) = (var(&[1.0]), var(&[1.0]));
    let vars = tree(&[("a", &a), ("b", &b)]);
    let rule = AdamW {
        weight_decay: 0.5,
        ..adamw(0.1)
    };
    let mut optimizer = FlatOptimizer::of(&vars, rule)?;
    let report = optimizer.update(&a.sqr()?.backward()?)?;
    assert_eq!((report.leaves, values(&b)), (1, vec![1.0]));
    let steps = ["a", "b"].map(|name| optimizer.optimizer().step_count(name));
    assert_eq!(steps, [Some(1), Some(0)]);
    Ok(())
}

#[test]
fn a_tie_moves_once_by_its_total_and_stays_one() -> Outcome {
    // Used twice, with a gradient of 1 from each use.
    let w = var(&[1.0]);
    let vars = tree(&[("a", &w), ("b", &w)]);
    let mut optimizer = FlatOptimizer::of(&vars, sgd(0.1))?;
    let loss = (w.as_tensor() + w.as_tensor())?;
    optimizer.update(&loss.sum_all()?.backward()?)?;
    assert_eq!(values(&w), [0.8]);
    assert_eq!(vars.get("a").unwrap().id(), vars.get("b").unwrap().id());
    Ok(())
}

#[test]
fn one_variable_under_two_names_takes_half_the_step_that_candle_takes() -> Outcome {
    let (ours, theirs) = (var(&[0.5]), var(&[0.5]));
    let mut optimizer = FlatOptimizer::of(&tree(&[("a", &ours), ("b", &ours)]), sgd(0.25))?;
    optimizer.update(&ours.sqr()?.sum_all()?.backward()?)?;
    assert_eq!(values(&ours), [0.25]);

    let mut candle = candle_nn::SGD::new(vec![theirs.clone(), theirs.clone()], 0.25)?;
    candle.backward_step(&theirs.sqr()?.sum_all()?)?;
    assert_eq!(values(&theirs), [0.0]);
    Ok(())
}

#[test]
fn steps_are_counted_by_variable() -> Outcome {
    let w = var(&[0.0]);
    let vars = tree(&[("w", &w)]);
    let rule = Adam {
        lr: 0.1,
        ..Default::default()
    };
    let mut optimizer = FlatOptimizer::of(&vars, rule)?;
    let one = Tensor::new(&[1.0_f32], &CPU)?;
    for gradient in [Some(&one), None, Some(&one)] {
        let gradients: Vec<_> = gradient
            .map(|gradient| (&w, gradient.clone()))
            .into_iter()
            .collect();
        optimizer.update(&store(&gradients))?;
    }
    assert!((values(&w)[0] + 0.2).abs() < 1e-6, "{:?}", values(&w));
    Ok(())
}

#[test]
fn ten_steps_of_adamw_are_candle_s() -> Outcome {
    let (ours, model) = mlp(&[4, 3, 2]);
    let (theirs, their_model) = mlp(&[4, 3, 2]);
    let mut optimizer = FlatOptimizer::of(
        &VarTree::of(&ours)?,
        AdamW {
            weight_decay: 0.01,
            ..adamw(0.01)
        },
    )?;
    let params = candle_nn::ParamsAdamW {
        lr: 0.01,
        ..Default::default()
    };
    let mut candle = candle_nn::AdamW::new(theirs.all_vars(), params)?;
    for step in 0..10 {
        let input = tensor(step, &[5, 4]);
        optimizer.backward_step(&model.forward(&input)?.sqr()?.mean_all()?)?;
        candle.backward_step(&their_model.forward(&input)?.sqr()?.mean_all()?)?;
    }
    let (ours, theirs) = (VarTree::of(&ours)?, VarTree::of(&theirs)?);
    for (name, var) in ours.iter() {
        let theirs = values(theirs.get(name).unwrap());
        let largest = theirs
            .iter()
            .fold(0.0, |largest: f32, x| largest.max(x.abs()));
        for (a, b) in values(var).iter().zip(&theirs) {
            assert!((a - b).abs() <= 1e-6 * largest, "{name}: {a} and {b}");
        }
    }
    Ok(())
}

#[test]
fn a_gpt_with_tied_embeddings_takes_candle_s_twenty_steps() -> Outcome {
    let (ours, our_gpt) = gpt(false);
    let (theirs, their_gpt) = gpt(false);
    let mut optimizer = FlatOptimizer::of(
        &VarTree::of(&ours)?,
        AdamW {
            weight_decay: 0.01,
            ..adamw(1e-2)
        },
    )?;
    let params = candle_nn::ParamsAdamW {
        lr: 1e-2,
        ..Default::default()
    };
    let mut candle = candle_nn::AdamW::new(theirs.all_vars(), params)?;
    let tokens = tokens();
    for _ in 0..20 {
        optimizer.backward_step(&our_gpt.loss(&tokens)?)?;
        candle.backward_step(&their_gpt.loss(&tokens)?)?;
    }
    let (ours, theirs) = (VarTree::of(&ours)?, VarTree::of(&theirs)?);
    for (name, var) in ours.iter() {
        // Its gradient is 0 but for rounding, which AdamW makes whole steps of.
        if name.ends_with("key.bias") {
            continue;
        }
        let mut largest: f32 = 0.0;
        for (a, b) in values(var).iter().zip(values(theirs.get(name).unwrap())) {
            largest = largest.max((a - b).abs());
        }
        assert!(largest < 2e-4, "{name}: {largest}");
    }
    Ok(())
}

/// candle's own tests of its optimisers, with our rules in their place.
fn regression(config: impl Rule, steps: usize) -> Result<(Var, Var), Box<dyn std::error::Error>> {
    let line = Linear::new(
        Tensor::new(&[[3_f32, 1.]], &CPU)?,
        Some(Tensor::new(-2_f32, &CPU)?),
    );
    let inputs = Tensor::new(&[[2_f32, 1.], [7., 4.], [-4., 12.], [5., 8.]], &CPU)?;
    let outputs = line.forward(&inputs)?;
    let (w, b) = (Var::new(&[[0_f32, 0.]], &CPU)?, Var::new(0_f32, &CPU)?);
    let mut optimizer = FlatOptimizer::new(vec![w.clone(), b.clone()], config)?;
    let model = Linear::new(w.as_tensor().clone(), Some(b.as_tensor().clone()));
    for _ in 0..steps {
        let loss = model.forward(&inputs)?.sub(&outputs)?.sqr()?.sum_all()?;
        optimizer.backward_step(&loss)?;
    }
    Ok((w, b))
}

#[test]
fn candle_s_tests_of_its_optimisers_pass_through_its_trait() -> Outcome {
    let (w, b) = regression(sgd(0.004), 1000)?;
    assert_eq!(w.to_vec2::<f32>()?, [[2.9983196, 0.99790204]]);
    assert_eq!(b.to_scalar::<f32>()?, -1.9796902);

    let (w, b) = regression(
        AdamW {
            weight_decay: 0.01,
            ..adamw(0.1)
        },
        100,
    )?;
    assert_eq!(to_vec2_round(&w, 4)?, [[2.7257, 0.7097]]);
    assert_eq!(to_vec0_round(&b, 4)?, 0.7873);

    let x = Var::new(0_f32, &CPU)?;
    let mut optimizer = FlatOptimizer::new(vec![x.clone()], sgd(0.1))?;
    for _ in 0..100 {
        let away = (x.as_tensor() - 4.2)?;
        optimizer.backward_step(&(&away * &away)?)?;
    }
    assert_eq!(x.to_scalar::<f32>()?, 4.199999);
    Ok(())
}

#[test]
fn an_optimiser_without_variables_can_step() -> Outcome {
    let mut optimizer = FlatOptimizer::empty(sgd(0.1))?;
    optimizer.backward_step(&var(&[1.0]).sqr()?)?;
    Ok(())
}

#[test]
fn f16_stays_finite_where_candle_divides_by_zero() -> Outcome {
    let half = || Var::from_tensor(&Tensor::new(&[1.0_f32], &CPU)?.to_dtype(DType::F16)?);
    let gradient = Tensor::new(&[1e-4_f32], &CPU)?.to_dtype(DType::F16)?;
    let (ours, theirs) = (half()?, half()?);
    let mut optimizer = FlatOptimizer::of(&tree(&[("w", &ours)]), adamw(1e-3))?;
    let mut candle = candle_nn::AdamW::new_lr(vec![theirs.clone()], 1e-3)?;
    for _ in 0..10 {
        optimizer.update(&store(&[(&ours, gradient.clone())]))?;
        candle.step(&store(&[(&theirs, gradient.clone())]))?;
    }
    let ours = ours.to_dtype(DType::F32)?.to_vec1::<f32>()?[0];
    assert!((ours - 0.99).abs() < 2e-3, "{ours}");
    assert_eq!(
        theirs.to_dtype(DType::F32)?.to_vec1::<f32>()?,
        [f32::NEG_INFINITY]
    );
    Ok(())
}

#[test]
fn bf16_loses_small_steps_in_place_and_not_with_the_vector_as_master() -> Outcome {
    let brain = || Var::from_tensor(&Tensor::new(&[1.0_f32], &CPU)?.to_dtype(DType::BF16)?);
    let read = |var: &Var| var.to_dtype(DType::F32)?.to_vec1::<f32>();
    let gradient = Tensor::new(&[1.0_f32], &CPU)?.to_dtype(DType::BF16)?;
    let w = brain()?;
    let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), sgd(1e-4))?;
    for _ in 0..100 {
        optimizer.update(&store(&[(&w, gradient.clone())]))?;
    }
    assert_eq!(read(&w)?, [1.0]);

    let w = brain()?;
    let mut vars = tree(&[("w", &w)]);
    let layout = Layout::of(&vars)?;
    let mut master = layout.gather(&vars)?;
    let mut optimizer = flatleaf::optim::Optimizer::new(sgd(1e-4), &layout)?;
    for _ in 0..100 {
        let store = store(&[(&w, gradient.clone())]);
        let grad = layout.gather_grad(&flatleaf_candle::Grads::of(&store, &vars)?)?;
        optimizer.step(&mut master, &grad)?;
        layout.restructure_into(&mut vars, &master)?;
    }
    assert_eq!(read(&w)?, [0.98828125]);
    Ok(())
}

#[test]
fn f64_is_refused_by_name_unless_it_is_to_be_rounded() -> Outcome {
    let w = Var::new(&[1.0_f64, 2.0], &CPU)?;
    let vars = tree(&[("net.w", &w)]);
    let error = FlatOptimizer::of(&vars, sgd(0.25)).err().unwrap();
    assert_eq!(
        (error.is_element_type(), error.path()),
        (true, Some("net.w"))
    );
    let mut optimizer = FlatOptimizer::planned(&vars, sgd(0.25), &Layout::planner().round_f64())?;
    optimizer.update(&w.sqr()?.sum_all()?.backward()?)?;
    assert_eq!(w.to_vec1::<f64>()?, [0.5, 1.0]);
    Ok(())
}

#[test]
fn integers_are_left_alone() -> Outcome {
    let (w, steps) = (var(&[1.0]), Var::new(&[3_u32], &CPU)?);
    let mut optimizer = FlatOptimizer::new(vec![w.clone(), steps.clone()], sgd(0.25))?;
    optimizer.backward_step(&w.sqr()?)?;
    assert_eq!((values(&w), steps.to_vec1::<u32>()?), (vec![0.5], vec![3]));
    Ok(())
}

#[test]
fn a_wrong_gradient_names_the_variable_and_moves_nothing() -> Outcome {
    let (a, b) = (var(&[1.0]), var(&[2.0, 3.0]));
    let vars = tree(&[("net.a", &a), ("net.b", &b)]);
    let mut optimizer = FlatOptimizer::of(&vars, (clip(1.0), adamw(0.1)))?;
    let good = Tensor::new(&[1.0_f32], &CPU)?;
    let wrong = |gradient: Tensor| store(&[(&a, good.clone()), (&b, gradient)]);

    let error = optimizer.update(&wrong(tensor(1, &[3]))).unwrap_err();
    assert_eq!((error.is_shape(), error.path()), (true, Some("net.b")));
    let error = optimizer
        .update(&wrong(Tensor::new(&[1_u32, 2], &CPU)?))
        .unwrap_err();
    assert_eq!(
        (error.is_element_type(), error.path()),
        (true, Some("net.b"))
    );
    let error = optimizer
        .update(&wrong(Tensor::new(&[1.0_f32, f32::NAN], &CPU)?))
        .unwrap_err();
    assert_eq!((error.is_non_finite(), error.path()), (true, Some("net.b")));

    assert_eq!((values(&a), values(&b)), (vec![1.0], vec![2.0, 3.0]));
    assert_eq!(optimizer.optimizer().step_count("net.a"), Some(0));
    assert!(
        optimizer
            .optimizer()
            .state_of("exp_avg")
            .unwrap()
            .iter()
            .all(|x| *x == 0.0)
    );
    Ok(())
}

#[test]
fn a_nan_in_one_batch_can_be_skipped_and_the_run_goes_on() -> Outcome {
    let w = var(&[1.0]);
    let skip = ClipNorm {
        non_finite: NonFinite::Skip,
        ..clip(1.0)
    };
    let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), (skip, sgd(0.5)))?;
    let gradient = |value: f32| Tensor::new(&[value], &CPU);
    assert!(
        optimizer
            .update(&store(&[(&w, gradient(f32::NAN)?)]))?
            .skipped
    );
    assert_eq!(values(&w), [1.0]);
    assert!(!optimizer.update(&store(&[(&w, gradient(0.5)?)]))?.skipped);
    assert_eq!(values(&w), [0.75]);
    Ok(())
}

#[test]
fn an_absent_gradient_is_an_error_for_who_wants_that() -> Outcome {
    let (map, gpt) = gpt(true); // its fused norm cuts off the rest
    let mut optimizer = FlatOptimizer::of(&VarTree::of(&map)?, adamw(0.1))?;
    optimizer.optimizer_mut().deny_absent(true);
    let error = optimizer
        .update(&gpt.loss(&tokens())?.backward()?)
        .unwrap_err();
    assert_eq!(
        (error.is_missing(), error.path()),
        (true, Some("blocks.0.down.bias"))
    );
    Ok(())
}

#[test]
fn the_rate_of_a_chain_is_read_and_set_through_candle_s_trait() -> Outcome {
    let w = var(&[1.0]);
    let mut optimizer =
        FlatOptimizer::of(&tree(&[("w", &w)]), (clip(1.0), sgd(0.5), Ema::default()))?;
    assert_eq!(optimizer.learning_rate(), 0.5);
    optimizer.set_learning_rate(0.25);
    assert_eq!(optimizer.learning_rate(), 0.25);
    assert!(
        FlatOptimizer::of(&tree(&[("w", &w)]), clip(1.0))?
            .learning_rate()
            .is_nan()
    );
    Ok(())
}

#[test]
fn a_rate_keeps_the_ratios_of_groups_through_zero_too() -> Outcome {
    let vars: Vec<Var> = (0..3).map(|_| var(&[1.0])).collect();
    let vars = tree(&[
        ("body.a", &vars[0]),
        ("body.b", &vars[1]),
        ("head", &vars[2]),
    ]);
    let mut optimizer = FlatOptimizer::of(&vars, sgd(0.25))?;
    optimizer
        .optimizer_mut()
        .adjust("head", |sgd| sgd.lr = 1.0)?;
    assert_eq!(optimizer.learning_rate(), 0.25); // of most variables
    let rate =
        |optimizer: &FlatOptimizer<Sgd>, name: &str| optimizer.optimizer().rule(name).unwrap().lr;
    optimizer.set_learning_rate(0.125);
    assert_eq!(
        (rate(&optimizer, "body.a"), rate(&optimizer, "head")),
        (0.125, 0.5)
    );

    optimizer.set_learning_rate(0.0);
    assert_eq!(optimizer.learning_rate(), 0.0);
    let ones = vars
        .iter()
        .map(|(_, var)| (var, var.ones_like().unwrap()))
        .collect::<Vec<_>>();
    optimizer.update(&store(&ones))?;
    assert!(vars.iter().all(|(_, var)| values(var) == [1.0]));
    optimizer.set_learning_rate(0.5);
    assert!(
        (rate(&optimizer, "head") - 2.0).abs() < 1e-12,
        "{}",
        rate(&optimizer, "head")
    );
    Ok(())
}

#[test]
fn a_rate_that_is_refused_is_the_error_of_the_next_steps() -> Outcome {
    let w = var(&[1.0]);
    let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), sgd(0.25))?;
    optimizer.set_learning_rate(-1.0);
    let store = w.sqr()?.backward()?;
    for _ in 0..2 {
        let error = optimizer.update(&store).unwrap_err();
        assert_eq!((error.is_argument(), error.path()), (true, Some("lr")));
    }
    let error = optimizer.backward_step(&w.sqr()?).unwrap_err();
    assert!(error.to_string().starts_with("`lr`: expected"), "{error}");
    assert_eq!((optimizer.learning_rate(), values(&w)), (0.25, vec![1.0]));
    optimizer.set_learning_rate(0.5);
    optimizer.update(&store)?;
    assert_eq!(values(&w), [0.0]);

    let mut optimizer = FlatOptimizer::of(&tree(&[("w", &w)]), clip(1.0))?;
    optimizer.set_learning_rate(0.1);
    assert!(optimizer.update(&store).unwrap_err().is_argument()); // it has no rate
    Ok(())
}

#[test]
fn freezing_by_the_planner_and_between_two_steps() -> Outcome {
    let (map, model) = mlp(&[4, 3, 2]);
    let vars = VarTree::of(&map)?;
    let before = Layout::of(&vars)?.gather(&vars)?;
    let planner = Layout::planner().train_only("1.**");
    let mut optimizer = FlatOptimizer::planned(&vars, sgd(0.5), &planner)?;
    optimizer.optimizer_mut().freeze("1.bias")?;
    let loss = || model.forward(&tensor(3, &[5, 4]))?.sqr()?.mean_all();
    let report = optimizer.update(&loss()?.backward()?)?;
    let after = Layout::of(&vars)?.gather(&vars)?;
    assert_eq!(report.leaves, 1);
    assert_eq!(before[..17], after[..17]); // all but the last weight
    assert_ne!(before[17..], after[17..]);
    optimizer.optimizer_mut().thaw("1.bias")?;
    assert_eq!(optimizer.update(&loss()?.backward()?)?.leaves, 2);
    Ok(())
}

#[test]
fn accumulated_gradients_move_at_the_end_of_a_window_or_when_flushed() -> Outcome {
    let w = var(&[1.0]);
    let mut optimizer =
        FlatOptimizer::of(&tree(&[("w", &w)]), (Accumulate { steps: 2 }, sgd(0.5)))?;
    let step = |optimizer: &mut FlatOptimizer<_>, gradient: f32| {
        optimizer.update(&store(&[(&w, Tensor::new(&[gradient], &CPU).unwrap())]))
    };
    assert_eq!(step(&mut optimizer, 1.0)?.held_back, 1);
    assert_eq!(values(&w), [1.0]);
    step(&mut optimizer, 2.0)?;
    assert_eq!(values(&w), [0.25]);
    step(&mut optimizer, 0.5)?;
    assert_eq!(optimizer.flush()?.leaves, 1);
    assert_eq!(values(&w), [0.0]);
    Ok(())
}

/// Five steps of a rule on the variables in place, through copies, and on the flat vector.
fn three_ways<R: Rule>(rule: R) -> Outcome {
    let [(lent, model), (copied, other)] = [mlp(&[4, 3, 2]), mlp(&[4, 3, 2])];
    let (lent, copied) = (VarTree::of(&lent)?, VarTree::of(&copied)?.through_copies());
    let layout = Layout::of(&lent)?;
    let mut flat = layout.gather(&lent)?;
    let mut in_place = FlatOptimizer::of(&lent, rule.clone())?;
    let mut through_copies = FlatOptimizer::of(&copied, rule.clone())?;
    let mut on_the_vector = flatleaf::optim::Optimizer::new(rule, &layout)?;
    for step in 0..5 {
        let input = tensor(step, &[5, 4]);
        let store = model.forward(&input)?.sqr()?.mean_all()?.backward()?;
        let grad = layout.gather_grad(&flatleaf_candle::Grads::of(&store, &lent)?)?;
        on_the_vector.step(&mut flat, &grad)?;
        in_place.update(&store)?;
        through_copies.update(&other.forward(&input)?.sqr()?.mean_all()?.backward()?)?;
    }
    let bits = |flat: Vec<f32>| flat.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(layout.gather(&lent)?), bits(flat.clone()));
    assert_eq!(bits(layout.gather(&copied)?), bits(flat));
    Ok(())
}

#[test]
fn steps_have_the_bits_of_steps_on_the_vector_wherever_the_variables_are() -> Outcome {
    three_ways(adamw(0.1))?;
    three_ways((clip(0.01), adamw(0.1), Ema::default()))?;
    three_ways(Lamb {
        lr: 0.1,
        ..Default::default()
    })?; // needs the norms of parameters
    three_ways(Muon {
        lr: 0.1,
        ..Default::default()
    }) // changes whole matrices
}

#[test]
fn the_average_is_written_into_a_second_model() -> Outcome {
    let ((map, model), (smooth, _)) = (mlp(&[4, 3, 2]), mlp(&[4, 3, 2]));
    let (vars, mut smooth) = (VarTree::of(&map)?, VarTree::of(&smooth)?);
    let layout = Layout::of(&vars)?;
    let mut expected = layout.gather(&vars)?;
    let rule = (
        sgd(0.5),
        Ema {
            decay: 0.75,
            ..Default::default()
        },
    );
    let mut optimizer = FlatOptimizer::of(&vars, rule)?;
    for step in 0..3 {
        optimizer.update(
            &model
                .forward(&tensor(step, &[5, 4]))?
                .sqr()?
                .mean_all()?
                .backward()?,
        )?;
        let flat = layout.gather(&vars)?;
        match step {
            0 => expected = flat,
            _ => flatleaf::ops::lerp(&mut expected, &flat, 0.25),
        }
    }
    optimizer.write_state("average", &mut smooth)?;
    for (x, expected) in layout.gather(&smooth)?.iter().zip(expected) {
        assert!((x - expected).abs() < 1e-6, "{x} and {expected}");
    }
    let error = optimizer.write_state("averge", &mut smooth).unwrap_err();
    assert!(error.is_argument());
    Ok(())
}

#[test]
fn an_optimiser_of_other_variables_is_refused() -> Outcome {
    let (a, b) = (var(&[1.0]), var(&[1.0, 2.0]));
    let mut optimizer = FlatOptimizer::of(&tree(&[("a", &a)]), sgd(0.1))?;
    let other = FlatOptimizer::of(&tree(&[("a", &b)]), sgd(0.1))?.into_inner();
    let error = FlatOptimizer::with_optimizer(&tree(&[("a", &a)]), other.clone())
        .err()
        .unwrap();
    assert_eq!((error.is_shape(), error.path()), (true, Some("a")));
    *optimizer.optimizer_mut() = other;
    assert!(
        optimizer
            .update(&a.sqr()?.backward()?)
            .unwrap_err()
            .is_other_layout()
    );
    Ok(())
}
