//! How do I train a burn network by L-BFGS?
//!
//! To argmin's solver the network is a function of one vector. AdamW then takes ten times as many
//! evaluations over all rows, and has not come as far.
//!
//! ```text
//! cargo run --example lbfgs --features argmin
//! ```

use std::error::Error;

use argmin::core::{Executor, IterState};
use argmin::solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS};
use burn_optim::GradientsParams;
use flatleaf::argmin::FlatVec;
use flatleaf::optim::{AdamW, Optimizer};
use flatleaf_burn::{Flat, objective};
use ndarray::s;
use support::{Net, Rows, digits_of};

mod support;

const ITERATIONS: u64 = 25;
const ROWS: usize = 300;

fn main() -> Result<(), Box<dyn Error>> {
    let (train, _) = digits_of(1)?;
    let rows = Rows::of(train.slice(s![..ROWS, ..]));
    let net = Net::new(2);
    let flat = Flat::of(&net)?;

    let loss = objective(&flat, &net, |net| net.loss(&rows))?;
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10).with_tolerance_cost(0.0)?;
    let start = flat.flatten(&net)?;
    let from_start = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(ITERATIONS)
    };
    let state = Executor::new(&loss, solver)
        .configure(from_start)
        .run()?
        .state;
    let (reached, evaluations) = (state.best_cost, loss.evaluations());
    println!("L-BFGS: loss {reached:.2e} after {evaluations} evaluations");

    let mut found = net.clone();
    flat.unflatten(&mut found, &state.best_param.ok_or("no step")?[..])?;
    assert!((f64::from(found.loss(&rows).into_scalar::<f32>()) - reached).abs() < 1e-6);
    println!("accuracy on its {ROWS} rows: {:.3}", found.accuracy(&rows));
    assert_eq!(found.accuracy(&rows), 1.0);

    let mut by_adamw = net;
    let rule = AdamW {
        lr: 1e-3,
        weight_decay: 0.0,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(rule, flat.layout())?;
    let mut best = f64::INFINITY;
    for _ in 0..10 * evaluations {
        let loss = by_adamw.loss(&rows);
        best = best.min(f64::from(loss.clone().into_scalar::<f32>()));
        let grads = GradientsParams::from_grads(loss.backward(), &by_adamw);
        flat.step(&mut optimizer, &mut by_adamw, grads)?;
    }
    println!(
        "AdamW:  loss {best:.2e} at best, in {} evaluations",
        10 * evaluations
    );
    assert!(reached < best);
    Ok(())
}
