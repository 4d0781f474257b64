//! A network as a function of a vector, and what errors say.

use argmin::core::{Executor, IterState};
use argmin::solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS};
use candle_core::{Module, Tensor};
use flatleaf::Layout;
use flatleaf::argmin::FlatVec;
use flatleaf::optim::AdamW;
use flatleaf_candle::{FlatOptimizer, VarTree, from_candle, objective};

use crate::Outcome;
use crate::models::{CPU, mlp, tensor, tree, values, var};

const SIZES: [usize; 3] = [3, 8, 2];

/// The mean square of the errors on a smooth function of the inputs.
fn loss(model: &impl Module) -> candle_core::Result<Tensor> {
    let inputs = tensor(5, &[40, 3]);
    let first = inputs.narrow(1, 0, 1)?;
    let second = inputs.narrow(1, 1, 1)?;
    let targets = Tensor::cat(&[&(&first * &second)?, &first.sqr()?], 1)?;
    candle_nn::loss::mse(&model.forward(&inputs)?, &targets)
}

#[test]
fn lbfgs_needs_a_tenth_of_the_evaluations_that_adamw_needs() -> Outcome {
    let (map, model) = mlp(&SIZES);
    let vars = VarTree::of(&map)?;
    let layout = Layout::of(&vars)?;
    let start = layout.gather(&vars)?;
    let function = objective(&layout, &vars, || loss(&model))?;
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10).with_tolerance_cost(0.0)?;
    let from_start = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(150)
    };
    let state = Executor::new(&function, solver)
        .configure(from_start)
        .run()?
        .state;
    let evaluations = function.evaluations();
    let reached = state.best_cost;
    function.into_model(&state.best_param.unwrap())?;
    // The solver's point is in the model's own variables.
    let in_model = f64::from(loss(&model)?.to_scalar::<f32>()?);
    assert!(
        (in_model - reached).abs() < 1e-6 * reached.max(1e-3),
        "{in_model} and {reached}"
    );

    let (map, model) = mlp(&SIZES);
    // At its usual rate; at ten times that one it needs seven to nine times as many evaluations.
    let rule = AdamW {
        weight_decay: 0.0,
        ..Default::default()
    };
    let mut optimizer = FlatOptimizer::of(&VarTree::of(&map)?, rule)?;
    for step in 0..10 * evaluations {
        let loss = loss(&model)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        assert!(
            value > reached,
            "AdamW is there after {step} steps, L-BFGS after {evaluations} evaluations"
        );
        optimizer.update(&loss.backward()?)?;
    }
    Ok(())
}

#[test]
fn an_objective_takes_candle_s_errors_and_absent_gradients() -> Outcome {
    let (a, b) = (var(&[1.0]), var(&[2.0]));
    let vars = tree(&[("a", &a), ("b", &b)]);
    let layout = Layout::of(&vars)?;
    let mut gradient = [9.0; 2];
    let partial = objective(&layout, &vars, || a.sqr()?.sum_all())?;
    assert_eq!(partial.value_and_gradient(&[3.0, 5.0], &mut gradient)?, 9.0);
    assert_eq!(gradient, [6.0, 0.0]);
    assert_eq!((values(&a), values(&b)), (vec![3.0], vec![5.0]));

    let failing = objective(&layout, &vars, || a.reshape((2, 2)))?;
    let error = failing.value(&[1.0, 2.0]).unwrap_err();
    assert!(error.is_custom());
    Ok(())
}

#[test]
fn a_message_of_candle_s_comes_without_its_backtrace() {
    let inner = candle_core::Error::Msg("the device is gone".into());
    let wrapped = candle_core::Error::WithBacktrace {
        inner: Box::new(inner),
        backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
    };
    assert_eq!(from_candle(wrapped).to_string(), "the device is gone");
    assert!(Tensor::zeros(2, candle_core::DType::F32, &CPU).is_ok());
}
