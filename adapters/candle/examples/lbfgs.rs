//! How do I train a small candle network by L-BFGS?
//!
//! To the solver the network is a function of one vector. It runs until the gradient vanishes; AdamW
//! takes as many evaluations on all rows for comparison.
//!
//! ```text
//! cargo run --release --example lbfgs [-- losses.svg]
//! ```

mod support;

use std::cell::RefCell;
use std::error::Error;

use argmin::core::{Executor, IterState};
use argmin::solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS};
use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{VarBuilder, VarMap, loss};
use digits::SplitMix64;
use flatleaf::Layout;
use flatleaf::argmin::FlatVec;
use flatleaf::optim::AdamW;
use flatleaf_candle::{FlatOptimizer, VarTree, objective};
use support::{
    CLASSES, CPU, Curve, Net, Rows, accuracy, check, plot, plot_path, progress_bar, read_digits,
};

const PASSES: u64 = 150;
/// Of the weights' squares, so that there is a minimum.
const PENALTY: f64 = 1e-4;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (train, test) = read_digits(&mut SplitMix64(1))?;
    let map = VarMap::new();
    let net = Net::new(16, CLASSES, VarBuilder::from_varmap(&map, DType::F32, &CPU))?;
    let mut vars = VarTree::of(&map)?;
    let layout = Layout::of(&vars)?;
    let start = layout.gather(&vars)?;

    let bar = progress_bar("L-BFGS", PASSES as usize);
    let losses = RefCell::new(Vec::new());
    let function = objective(&layout, &vars, || {
        let loss = penalised(&net, &train)?;
        losses.borrow_mut().push(loss.to_scalar()?);
        bar.inc(1);
        Ok(loss)
    })?;
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10)
        .with_tolerance_grad(1e-4)?
        .with_tolerance_cost(0.0)?;
    let from_start = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.clone().into()).max_iters(PASSES)
    };
    let state = Executor::new(&function, solver)
        .configure(from_start)
        .run()?
        .state;
    bar.finish();
    println!(
        "{} after {} evaluations",
        state.termination_status,
        function.evaluations()
    );
    // The best point, into the network's own variables.
    function.into_model(&state.best_param.ok_or("no step was taken")?)?;
    let by_lbfgs = Curve {
        name: "L-BFGS",
        losses: losses.take(),
    };
    let lbfgs_loss = penalised(&net, &train)?.to_scalar::<f32>()?;
    let lbfgs_accuracy = accuracy(&net, &test)?;

    layout.restructure_into(&mut vars, &start)?;
    let rule = AdamW {
        lr: 2e-2,
        weight_decay: 0.0,
        ..Default::default()
    };
    let mut optimizer = FlatOptimizer::of(&vars, rule)?;
    let bar = progress_bar("AdamW", by_lbfgs.losses.len());
    let mut by_adamw = Curve {
        name: "AdamW",
        losses: Vec::new(),
    };
    for _ in 0..by_lbfgs.losses.len() {
        let loss = penalised(&net, &train)?;
        optimizer.update(&loss.backward()?)?;
        by_adamw.losses.push(loss.to_scalar()?);
        bar.inc(1);
    }
    bar.finish();
    let adamw_loss = penalised(&net, &train)?.to_scalar::<f32>()?;
    println!("loss: {lbfgs_loss:.4} by L-BFGS, {adamw_loss:.4} by AdamW in as many evaluations");
    println!(
        "accuracy on held-out digits: {lbfgs_accuracy:.3} and {:.3}",
        accuracy(&net, &test)?
    );
    let path = plot_path()?;
    plot(&[by_lbfgs, by_adamw], &path)?;
    println!("losses: {}", path.display());
    check(lbfgs_loss < adamw_loss, "L-BFGS to get further")?;
    check(
        lbfgs_accuracy >= 0.92,
        format_args!("an accuracy of at least 0.92, found {lbfgs_accuracy}"),
    )
}

fn penalised(net: &Net, rows: &Rows) -> Result<Tensor> {
    let squares = (net.body.weight().sqr()?.sum_all()? + net.head.weight().sqr()?.sum_all()?)?;
    loss::cross_entropy(&net.forward(&rows.pixels)?, &rows.labels)? + (squares * PENALTY)?
}
