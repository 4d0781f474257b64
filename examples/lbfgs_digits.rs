//! How do I train a network by L-BFGS, and how does that compare with clip + AdamW + moving
//! average?
//!
//! To L-BFGS the network is a function of one vector: argmin's solver gets the network's loss as an
//! [`objective`], and what it finds is a network again. The other run is a chain of rules that
//! moves the network where it is. Both begin at the same weights; one evaluation over all rows
//! costs as much as one epoch of batches.
//!
//! ```text
//! cargo run --release --example lbfgs_digits --features argmin [-- curves.svg]
//! ```

use std::cell::RefCell;
use std::error::Error;
use std::path::{Path, PathBuf};

use argmin::core::{Executor, IterState};
use argmin::solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS};
use digits::{SplitMix64, TRAINING_ROWS, read_digits};
use flatleaf::argmin::FlatVec;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
use flatleaf::{Layout, destructure, objective, ops};
use ndarray::{Array2, Axis};
use plotters::prelude::*;
use quickstart::Net;

/// The network; not its `main` and what only that needs.
#[allow(dead_code)]
#[path = "quickstart.rs"]
mod quickstart;

const PASSES: usize = 40;
const BATCH: usize = 50;
/// The norm of the gradient at which L-BFGS has converged. At the start it is about 2; f32 resolves
/// 1e-7 of that.
const TOLERANCE: f64 = 1e-5;

/// The loss over all training rows after so many passes over them, and what to call it.
struct Curve {
    name: &'static str,
    losses: Vec<f32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = SplitMix64(1);
    let (train, test) = read_digits(&mut random)?;
    let net = Net::new(&train, &mut random);

    let (by_lbfgs, lbfgs) = lbfgs_curve(&net, &train)?;
    let (by_adam, [adam, average]) = adam_curve(net, &train, &mut random)?;
    let curves = [lbfgs, adam, average];
    print(&curves);
    println!(
        "\naccuracy on {} held-out rows: {:.3} and {:.3}",
        test.nrows(),
        by_lbfgs.accuracy(&test),
        by_adam.accuracy(&test)
    );

    // Beside the executable where nothing else is asked for.
    let path = std::env::args().nth(1).map_or(
        std::env::current_exe()?.with_extension("svg"),
        PathBuf::from,
    );
    plot(&curves, &path)?;
    println!("curves: {}", path.display());

    assert!(by_lbfgs.accuracy(&test) >= 0.94 && by_adam.accuracy(&test) >= 0.94);
    assert_eq!(Layout::of(&by_lbfgs)?, Layout::of(&by_adam)?); // the tie is a tie still
    assert!(curves[1].last() < 1e-2 && curves[2].last() < 1e-2);
    Ok(())
}

/// Trains until the gradient vanishes.
fn lbfgs_curve(net: &Net, train: &Array2<f32>) -> Result<(Net, Curve), Box<dyn Error>> {
    let (start, layout) = destructure(net)?;
    let losses = RefCell::new(Vec::new());
    let objective = objective(&layout, net, |net| {
        let (loss, grads) = net.loss_and_grads(train);
        losses.borrow_mut().push(loss);
        (loss, grads)
    })?;

    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10)
        .with_tolerance_grad(TOLERANCE)?
        .with_tolerance_cost(0.0)?;
    let from_start = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(PASSES as u64)
    };
    let state = Executor::new(&objective, solver)
        .configure(from_start)
        .run()?
        .state;

    let best = state.best_param.ok_or("no step was taken")?;
    let mut gradient = vec![0.0; layout.len()];
    objective.gradient(&best, &mut gradient)?;
    println!(
        "L-BFGS: {}, after {} evaluations; the gradient's norm is {:.1e}\n",
        state.termination_status,
        objective.evaluations(),
        ops::norm_l2(&gradient)
    );
    assert!(
        ops::norm_l2(&gradient) < TOLERANCE,
        "expected L-BFGS to converge"
    );
    Ok((
        objective.into_model(&best)?,
        Curve {
            name: "L-BFGS",
            losses: losses.take(),
        },
    ))
}

/// Trains for a fixed number of epochs: the network and its moving average, of which the second is
/// handed out.
fn adam_curve(
    mut net: Net,
    train: &Array2<f32>,
    random: &mut SplitMix64,
) -> flatleaf::Result<(Net, [Curve; 2])> {
    let layout = Layout::of(&net)?;
    let rule = (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        AdamW {
            lr: 1e-2,
            ..Default::default()
        },
        Ema {
            decay: 0.99,
            ..Default::default()
        },
    );
    let mut optimizer = Optimizer::new(rule, &layout)?;
    let mut average = layout.restructure(&net, &layout.gather(&net)?)?;
    let mut curves = ["clip + AdamW", "its average"].map(|name| Curve {
        name,
        losses: vec![net.loss_and_grads(train).0],
    });
    for _ in 1..PASSES {
        for rows in random.shuffled(TRAINING_ROWS).chunks(BATCH) {
            let (_, grads) = net.loss_and_grads(&train.select(Axis(0), rows));
            optimizer.update(&mut net, &grads)?;
        }
        layout.restructure_into(
            &mut average,
            optimizer.state_of("average").expect("the state of `Ema`"),
        )?;
        curves[0].losses.push(net.loss_and_grads(train).0);
        curves[1].losses.push(average.loss_and_grads(train).0);
    }
    Ok((average, curves))
}

impl Curve {
    fn last(&self) -> f32 {
        self.losses[self.losses.len() - 1]
    }
}

fn print(curves: &[Curve; 3]) {
    println!(
        "passes  {}",
        curves
            .each_ref()
            .map(|curve| format!("{:>12}", curve.name))
            .join("  ")
    );
    for pass in (0..PASSES).filter(|pass| pass.is_multiple_of(3)) {
        let losses = curves.each_ref().map(|curve| {
            curve
                .losses
                .get(pass)
                .map_or(format!("{:>12}", "–"), |loss| format!("{loss:12.2e}"))
        });
        println!("{pass:6}  {}", losses.join("  "));
    }
}

/// The three curves over a logarithmic axis.
fn plot(curves: &[Curve; 3], path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (800, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("1,500 handwritten digits", ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(0..PASSES, (1e-7..1e1_f32).log_scale())?;
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("passes over the training rows")
        .y_desc("mean cross-entropy")
        .y_label_formatter(&|loss| format!("{loss:.0e}"));
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .label_style(("sans-serif", 14))
        .draw()?;
    for (curve, color) in curves.iter().zip([BLUE, RED, BLACK]) {
        let line = LineSeries::new(
            curve.losses.iter().copied().enumerate(),
            color.stroke_width(2),
        );
        chart
            .draw_series(line)?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    let labels = &mut chart.configure_series_labels();
    labels
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}
