//! How do I train two networks of which one is the moving average of the other?
//!
//! 100 of 1,500 handwritten digits have labels. A student learns from these, and to answer on noisy
//! images as its teacher answers on clean ones, labelled or not; the teacher is the moving average
//! of the student (Tarvainen and Valpola 2017). Both live in one map of variables.
//!
//! ```text
//! cargo run --release --example mean_teacher
//! ```

mod support;

use std::error::Error;

use candle_core::{D, DType, Module, Tensor};
use candle_nn::{VarBuilder, VarMap, loss, ops};
use digits::SplitMix64;
use flatleaf::Layout;
use flatleaf::optim::{AdamW, Ema};
use flatleaf_candle::{FlatOptimizer, VarTree};
use support::{Batches, CLASSES, CPU, Net, accuracy, check, progress_bar, read_digits};

const LABELLED: usize = 100;
const STEPS: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let (train, test) = read_digits(&mut SplitMix64(1))?;
    let labelled = train.select(&(0..LABELLED).collect::<Vec<_>>())?;
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &CPU);
    let student = Net::new(128, CLASSES, builder.pp("student"))?;
    let teacher = Net::new(128, CLASSES, builder.pp("teacher"))?;

    // One of two networks of a map each. The optimiser knows the student alone.
    let vars = VarTree::of(&map)?;
    let (student_vars, mut teacher_vars) = (vars.below("student")?, vars.below("teacher")?);
    let layout = Layout::of(&student_vars)?;
    layout.restructure_into(&mut teacher_vars, &layout.gather(&student_vars)?)?;
    let rule = (
        AdamW {
            lr: 2e-3,
            ..Default::default()
        },
        Ema {
            decay: 0.98,
            ..Default::default()
        },
    );
    let mut optimizer = FlatOptimizer::of(&student_vars, rule)?;

    let bar = progress_bar("mean teacher", STEPS);
    let mut batches = Batches::new(2, 100);
    for step in 0..STEPS {
        let batch = train.select(&batches.next())?; // its labels are not looked at
        let noise = Tensor::randn(0.0_f32, 0.15, batch.pixels.shape(), &CPU)?;
        let answers = ops::softmax(&student.forward(&(&batch.pixels + noise)?)?, D::Minus1)?;
        let expected = ops::softmax(&teacher.forward(&batch.pixels)?, D::Minus1)?.detach();
        let consistency = loss::mse(&answers, &expected)?;
        let supervised =
            loss::cross_entropy(&student.forward(&labelled.pixels)?, &labelled.labels)?;
        // The teacher has to know something before it is followed.
        let weight = 20.0 * (step as f64 / 300.0).min(1.0);
        let loss = (supervised + (consistency * weight)?)?;
        let report = optimizer.update(&loss.backward()?)?;
        assert_eq!(report.leaves, 4);
        optimizer.write_state("average", &mut teacher_vars)?;
        bar.set_message(format!("loss {:.3}", loss.to_scalar::<f32>()?));
        bar.inc(1);
    }
    bar.finish();

    let alone = supervised_alone(&labelled, &test)?;
    let (student, teacher) = (accuracy(&student, &test)?, accuracy(&teacher, &test)?);
    println!(
        "accuracy on held-out digits: student {student:.3}, teacher {teacher:.3}; from the labels alone {alone:.3}"
    );
    let apart: f64 = flatleaf::ops::norm_l2(&difference(&layout, &student_vars, &teacher_vars)?);
    check(apart > 0.0, "two networks")?;
    check(
        teacher >= 0.87,
        format_args!("an accuracy of at least 0.87, found {teacher}"),
    )?;
    check(
        teacher + 0.01 >= alone,
        format_args!("no less than without a teacher, {alone}, found {teacher}"),
    )
}

fn difference(layout: &Layout, a: &VarTree, b: &VarTree) -> flatleaf::Result<Vec<f32>> {
    let mut difference = layout.gather(a)?;
    flatleaf::ops::axpy(&mut difference, -1.0, &layout.gather(b)?);
    Ok(difference)
}

fn supervised_alone(labelled: &support::Rows, test: &support::Rows) -> Result<f64, Box<dyn Error>> {
    let map = VarMap::new();
    let net = Net::new(
        128,
        CLASSES,
        VarBuilder::from_varmap(&map, DType::F32, &CPU),
    )?;
    let rule = AdamW {
        lr: 2e-3,
        ..Default::default()
    };
    let mut optimizer = FlatOptimizer::of(&VarTree::of(&map)?, rule)?;
    for _ in 0..STEPS {
        let loss = loss::cross_entropy(&net.forward(&labelled.pixels)?, &labelled.labels)?;
        optimizer.update(&loss.backward()?)?;
    }
    Ok(accuracy(&net, test)?)
}
