//! What a step costs by gradients of bf16 and by those of a scaled loss, beside doing it in several
//! passes: widening or dividing the gradient first, and rounding a master vector into a model of bf16
//! behind the step.
//!
//! `cargo bench --features half --bench mixed_precision [-- TREE]`; `resnet50` if none is named.

mod support;

use std::time::Duration;

use flatleaf::optim::{AdamW, ClipNorm, Ema, LossScale, Optimizer, Rule};
use flatleaf::{FlatGrad, Layout, ops};
use half::bf16;
use ndarray::ArrayD;
use support::{Arrays, alternate, arrays, concatenate, median, shapes};

type Halves = Vec<ArrayD<bf16>>;

const SCALE: f64 = 1024.0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.iter().find(|argument| !argument.starts_with('-'));
    let name = name.map_or("resnet50", |name| name);
    let shapes = shapes(name);
    let halves = narrowed(&arrays(&shapes, 1.0));
    let grads = narrowed(&arrays(&shapes, 0.01));
    println!(
        "{name}, {} parameters",
        widened(&halves).iter().map(ArrayD::len).sum::<usize>()
    );
    compare("AdamW", AdamW::default(), &halves, &grads);
    let chain = (ClipNorm::default(), AdamW::default(), Ema::default());
    compare("clip + AdamW + EMA", chain, &halves, &grads);
}

fn narrowed(arrays: &Arrays) -> Halves {
    let narrow = |array: &ArrayD<f32>| array.mapv(bf16::from_f32);
    arrays.iter().map(narrow).collect()
}

fn widened(arrays: &Halves) -> Arrays {
    let widen = |array: &ArrayD<bf16>| array.mapv(bf16::to_f32);
    arrays.iter().map(widen).collect()
}

/// What the ways have between them: the gradients, in each form in which one of them takes them.
struct Gradients<'g> {
    layout: Layout,
    /// Of the model whose leaves are halves.
    layout_of_halves: Layout,
    halves: &'g Halves,
    full: Arrays,
    scaled: FlatGrad,
}

/// What one way keeps from step to step; empty where it needs none.
struct Kept<R> {
    optimizer: Optimizer<R>,
    model: Arrays,
    flat: Vec<f32>,
    halves: Halves,
    full_gradient: Arrays,
    divided: Option<FlatGrad>,
}

/// A way to take a step: how, with which parameters, and the numbers that it has moved.
struct Way<R> {
    name: &'static str,
    /// Whose time is its time, in the table.
    beside: usize,
    kept: Kept<R>,
    step: fn(&mut Kept<R>, &Gradients<'_>),
}

fn ways<R: Rule>(rule: R, model: &Halves, gradients: &Gradients<'_>) -> [Way<R>; 7] {
    let (layout, layout_of_halves) = (&gradients.layout, &gradients.layout_of_halves);
    let nothing_on = |layout: &Layout| Kept {
        optimizer: Optimizer::new(rule.clone(), layout).expect("a valid rule"),
        model: Vec::new(),
        flat: Vec::new(),
        halves: Vec::new(),
        full_gradient: Vec::new(),
        divided: None,
    };
    let nothing = || nothing_on(layout);
    let full = || widened(model);
    let flat = || concatenate(&full());
    [
        Way {
            name: "gradient of f32",
            beside: 0,
            kept: Kept {
                model: full(),
                ..nothing()
            },
            step: |kept, gradients| {
                let report = kept.optimizer.update(&mut kept.model, &gradients.full);
                report.expect("finite numbers");
            },
        },
        Way {
            name: "gradient of bf16",
            beside: 0,
            kept: Kept {
                model: full(),
                ..nothing()
            },
            step: |kept, gradients| {
                let report = kept.optimizer.update(&mut kept.model, gradients.halves);
                report.expect("finite numbers");
            },
        },
        Way {
            name: "gradient of bf16, widened first",
            beside: 0,
            kept: Kept {
                model: full(),
                full_gradient: full(),
                ..nothing()
            },
            step: |kept, gradients| {
                for (to, from) in kept.full_gradient.iter_mut().zip(gradients.halves) {
                    to.zip_mut_with(from, |to, from| *to = from.to_f32());
                }
                let report = kept.optimizer.update(&mut kept.model, &kept.full_gradient);
                report.expect("finite numbers");
            },
        },
        Way {
            name: "gradient of a scaled loss",
            beside: 3,
            kept: Kept {
                flat: flat(),
                ..nothing()
            },
            step: |kept, gradients| {
                let mut loss_scale = LossScale {
                    scale: SCALE,
                    ..LossScale::default()
                };
                let mut scaled = kept.optimizer.with_loss_scale(&mut loss_scale);
                let report = scaled.step(&mut kept.flat, &gradients.scaled);
                assert!(report.expect("as long as the layout").overflow.is_none());
            },
        },
        Way {
            name: "… divided first",
            beside: 3,
            kept: Kept {
                flat: flat(),
                divided: Some(gradients.scaled.clone()),
                ..nothing()
            },
            step: |kept, gradients| {
                let divided = kept.divided.as_mut().expect("kept for this way");
                divided.copy_from_slice(&gradients.scaled);
                ops::scale(divided, (1.0 / SCALE) as f32);
                assert!(ops::all_finite(divided));
                let report = kept.optimizer.step(&mut kept.flat, &*divided);
                report.expect("as long as the layout");
            },
        },
        Way {
            name: "model of bf16 behind a master",
            beside: 5,
            kept: Kept {
                flat: flat(),
                halves: model.clone(),
                ..nothing_on(layout_of_halves)
            },
            step: |kept, gradients| {
                let Kept {
                    optimizer,
                    halves,
                    flat,
                    ..
                } = kept;
                let report = optimizer.update_with_master(halves, flat, gradients.halves);
                report.expect("finite numbers");
            },
        },
        Way {
            name: "… in three passes",
            beside: 5,
            kept: Kept {
                flat: flat(),
                halves: model.clone(),
                divided: Some(FlatGrad::zeros(layout_of_halves)),
                ..nothing_on(layout_of_halves)
            },
            step: |kept, gradients| {
                let Kept {
                    optimizer,
                    halves,
                    flat,
                    ..
                } = kept;
                let layout = &gradients.layout_of_halves;
                let grad = kept.divided.as_mut().expect("kept for this way");
                let gathered = layout.gather_grad_into(gradients.halves, grad);
                gathered.expect("the layout's");
                optimizer.step(flat, &*grad).expect("finite numbers");
                layout.restructure_into(halves, flat).expect("the layout's");
            },
        },
    ]
}

fn compare<R: Rule>(name: &str, rule: R, model: &Halves, grads: &Halves) {
    let full = widened(grads);
    let layout = Layout::of(&full).expect("a plain tree");
    let mut scaled = FlatGrad::from_flat(&layout, concatenate(&full)).expect("as long");
    ops::scale(&mut scaled, SCALE as f32);
    let gradients = Gradients {
        layout,
        layout_of_halves: Layout::of(model).expect("a plain tree"),
        halves: grads,
        full,
        scaled,
    };
    let mut ways = ways(rule, model, &gradients);

    // All ways take one step, and have the same numbers then.
    for way in &mut ways {
        (way.step)(&mut way.kept, &gradients);
    }
    let expected = concatenate(&ways[0].kept.model);
    assert!(expected != concatenate(&widened(model)));
    for Way { kept, name, .. } in &ways {
        let moved = match kept.flat.is_empty() {
            true => concatenate(&kept.model),
            false => kept.flat.clone(),
        };
        assert!(moved == expected, "{name}");
    }
    assert!(ways[5].kept.halves == narrowed(&ways[0].kept.model));
    assert!(ways[6].kept.halves == ways[5].kept.halves);

    let besides = ways.each_ref().map(|way| way.beside);
    let gradients = &gradients;
    let mut steps = ways.map(
        |Way {
             name,
             mut kept,
             step,
             ..
         }| {
            (
                name,
                Box::new(move || step(&mut kept, gradients)) as Box<dyn FnMut() + '_>,
            )
        },
    );
    let mut jobs: Vec<(&str, &mut dyn FnMut())> = Vec::new();
    for (name, step) in &mut steps {
        jobs.push((*name, &mut **step));
    }
    let times = alternate(&mut jobs, Duration::from_millis(2500));
    let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
    println!("\n{name}");
    for (((name, _), time), beside) in jobs.iter().zip(&medians).zip(besides) {
        let (milliseconds, ratio) = (1e3 * time, time / medians[beside]);
        println!(
            "{name:<34} {milliseconds:>9.3} ms {ratio:>6.2} x {}",
            jobs[beside].0
        );
    }
}
