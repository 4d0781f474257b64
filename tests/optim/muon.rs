//! Muon: its iteration against plain loops, bit for bit, and what it shares a chain and a model
//! with. `golden.rs` compares it with PyTorch.

use std::rc::Rc;

use flatleaf::ops::{self, NonFinite};
use flatleaf::optim::{
    Accumulate, AdamW, AdjustLr, ClipNorm, Ema, Muon, Optimizer, Snapshot, each, each_leaf,
};
use flatleaf::optim::{Kernel, Rule};
use flatleaf::{Error, Layout, Result, destructure, tree};
use ndarray::{Array1, Array2, Array3};

use crate::common::bits;
use crate::numbers::gradient;

/// A step of it is the direction, made orthogonal.
fn plain() -> Muon {
    Muon {
        lr: 1.0,
        momentum: 0.0,
        nesterov: false,
        weight_decay: 0.0,
        ..Muon::default()
    }
}

fn matrix(rows: usize, columns: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_vec((rows, columns), gradient(rows * columns, seed)).unwrap()
}

/// The sums in the order of the inner index.
fn product(a: &Array2<f32>, b: &Array2<f32>) -> Array2<f32> {
    // Rows and columns as slices: a debug build takes several times as long for an index of two.
    let (a, columns) = (a.as_standard_layout(), b.t());
    let columns = columns.as_standard_layout();
    Array2::from_shape_fn((a.nrows(), b.ncols()), |(i, j)| {
        let row = a.row(i).to_slice().unwrap();
        let column = columns.row(j).to_slice().unwrap();
        let mut sum = 0.0;
        for k in 0..row.len() {
            sum += row[k] * column[k];
        }
        sum
    })
}

/// Three plain loops a step.
fn newton_schulz(rule: &Muon, g: &Array2<f32>) -> Array2<f32> {
    let (a, b, c) = rule.ns_coefficients;
    let (a, b, c) = (a as f32, b as f32, c as f32);
    let norm = ops::norm_l2(g.as_standard_layout().as_slice().unwrap()).max(rule.eps);
    let mut x = g.mapv(|x| (f64::from(x) / norm) as f32);
    let is_tall = x.nrows() > x.ncols();
    if is_tall {
        x = x.t().to_owned();
    }
    for _ in 0..rule.ns_steps {
        let gram = product(&x, &x.t().to_owned());
        let square = product(&gram, &gram);
        let polynomial = Array2::from_shape_fn(gram.dim(), |at| b * gram[at] + c * square[at]);
        let change = product(&polynomial, &x);
        x = Array2::from_shape_fn(x.dim(), |at| a * x[at] + change[at]);
    }
    if is_tall { x.t().to_owned() } else { x }
}

/// Sizes around a tile, a band, the depth that is packed at a time, and a piece.
#[test]
fn a_direction_is_made_orthogonal_as_by_plain_loops() {
    let sizes = [
        (0, 3),
        (3, 0),
        (1, 1),
        (1, 7),
        (5, 1),
        (3, 5),
        (6, 16),
        (16, 6),
        (7, 17),
        (13, 33),
        (50, 20),
        (49, 300),
        (260, 5),
        (100, 100),
    ];
    for (rows, columns) in sizes {
        let grad = matrix(rows, columns, rows);
        let mut model = Array2::<f32>::zeros((rows, columns));
        let layout = Layout::of(&model).unwrap();
        Optimizer::new(plain(), &layout)
            .unwrap()
            .update(&mut model, &grad)
            .unwrap();
        let rate = (rows as f64 / columns as f64).max(1.0).sqrt() as f32;
        let expected = newton_schulz(&plain(), &grad).mapv(|x| 0.0 - rate * x);
        let (found, expected) = (model.into_raw_vec_and_offset().0, expected);
        let expected: Vec<f32> = expected.iter().copied().collect();
        assert!(bits(&found) == bits(&expected), "{rows} × {columns}");
    }
}

/// All singular values are about 1, but for one that was 0.
#[test]
fn singular_values_become_alike() {
    let mut model = Array2::<f32>::zeros((3, 3));
    let grad = ndarray::arr2(&[[300.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]);
    let layout = Layout::of(&model).unwrap();
    Optimizer::new(plain(), &layout)
        .unwrap()
        .update(&mut model, &grad)
        .unwrap();
    for (at, &x) in model.indexed_iter() {
        let expected = match at {
            (0, 0) => -0.68..=-1.21_f32,
            (1, 1) => 0.68..=1.21,
            _ => 0.0..=0.0,
        };
        let (least, greatest) = (expected.start().abs(), expected.end().abs());
        assert!((least..=greatest).contains(&x.abs()), "{at:?}: {x}");
        assert!(
            x == 0.0 || x.signum() == expected.start().signum(),
            "{at:?}: {x}"
        );
    }
}

#[test]
fn a_gradient_of_zero_moves_nothing() {
    let mut model = Array2::<f32>::ones((2, 3));
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(plain(), &layout).unwrap();
    optimizer
        .update(&mut model, &Array2::<f32>::zeros((2, 3)))
        .unwrap();
    assert_eq!(model, Array2::<f32>::ones((2, 3)));
}

/// Leaves of any number of axes, matrices of equal shape beside each other, one longer than a piece
/// and of one row more than a band.
type Model = (
    Array2<f32>,
    Array2<f32>,
    Array1<f32>,
    Array3<f32>,
    f32,
    Array2<f32>,
);

fn model(seed: usize) -> Model {
    (
        matrix(3, 4, seed),
        matrix(3, 4, seed + 1),
        Array1::from(gradient(5, seed + 2)),
        Array3::from_shape_vec((2, 2, 2), gradient(8, seed + 3)).unwrap(),
        0.5 + seed as f32,
        matrix(49, 168, seed + 4),
    )
}

#[test]
fn matrices_are_iterated_each_by_itself_and_all_others_are_those_of_adamw() {
    let rule = Muon {
        lr: 0.02,
        adamw_lr_ratio: 1.0,
        adamw_weight_decay: 0.1,
        ..Muon::default()
    };
    let adamw = AdamW {
        lr: 0.02,
        betas: rule.adamw_betas,
        eps: rule.adamw_eps,
        weight_decay: 0.1,
        amsgrad: false,
    };
    let (mut flat, layout) = destructure(&model(0)).unwrap();
    let mut by_adamw = flat.clone();
    let mut together = Optimizer::new(rule, &layout).unwrap();
    let mut all_adamw = Optimizer::new(adamw, &layout).unwrap();
    let (start, gradients) = (flat.clone(), [model(1), model(2), model(3)]);
    for grads in &gradients {
        let grad = layout.gather_grad(grads).unwrap();
        together.step(&mut flat, &grad).unwrap();
        all_adamw.step(&mut by_adamw, &grad).unwrap();
    }
    for (index, leaf) in layout.leaves().iter().enumerate() {
        let range = leaf.range();
        let expected = if leaf.shape().len() == 2 {
            // Alone, as the only leaf of a layout.
            let alone =
                Layout::of(&Array2::<f32>::zeros((leaf.shape()[0], leaf.shape()[1]))).unwrap();
            let mut moved = start[range.clone()].to_vec();
            let mut optimizer = Optimizer::new(rule, &alone).unwrap();
            for grads in &gradients {
                let grad = layout.gather_grad(grads).unwrap();
                optimizer.step(&mut moved, &grad[range.clone()]).unwrap();
            }
            moved
        } else {
            by_adamw[range.clone()].to_vec()
        };
        assert!(bits(&flat[range]) == bits(&expected), "leaf {index}");
    }
}

fn chain() -> (ClipNorm, Muon, Ema) {
    let clip = ClipNorm {
        max: 0.5,
        ..Default::default()
    };
    let ema = Ema {
        decay: 0.5,
        ..Default::default()
    };
    (
        clip,
        Muon {
            lr: 0.02,
            adjust_lr: AdjustLr::MatchRmsAdamW,
            ..Muon::default()
        },
        ema,
    )
}

#[test]
fn it_stands_between_a_clipping_stage_and_an_average() {
    let (_, muon, ema) = chain();
    let (mut flat, layout) = destructure(&model(0)).unwrap();
    let (mut by_hand, mut average) = (flat.clone(), flat.clone());
    let mut optimizer = Optimizer::new(chain(), &layout).unwrap();
    let mut alone = Optimizer::new(muon, &layout).unwrap();
    for step in 1..4 {
        let grad = layout.gather(&model(step)).unwrap();
        optimizer.step(&mut flat, &grad).unwrap();
        // From 0, the clipped gradient is what is subtracted.
        let mut clipped = vec![0.0; grad.len()];
        let mut clipping = Optimizer::new(chain().0, &layout).unwrap();
        clipping.step(&mut clipped, &grad).unwrap();
        clipped.iter_mut().for_each(|x| *x = 0.0 - *x);
        alone.step(&mut by_hand, &clipped).unwrap();
        assert!(bits(&flat) == bits(&by_hand), "step {step}");
        let fresh = if step == 1 {
            1.0
        } else {
            1.0 - ema.decay as f32
        };
        for (average, x) in average.iter_mut().zip(&flat) {
            *average += fresh * (x - *average);
        }
        let found = optimizer.state_of("average").unwrap();
        assert!(
            found
                .iter()
                .zip(&average)
                .all(|(a, b)| (a - b).abs() < 1e-5),
            "step {step}"
        );
    }
}

#[test]
fn update_and_step_give_the_same_bits_for_any_number_of_threads() {
    // Every product of the iteration is just large enough to be shared, in each of its steps: in a
    // debug build, where one takes seconds, there is one.
    let large = |seed| (matrix(208, 210, seed), model(seed));
    let (clip, muon, ema) = chain();
    let ns_steps = if cfg!(debug_assertions) { 1 } else { 5 };
    let chain = (clip, Muon { ns_steps, ..muon }, ema);
    let layout = Layout::of(&large(0)).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut tree = large(0);
            let mut flat = layout.gather(&tree).unwrap();
            let mut on_tree = Optimizer::new(chain, &layout).unwrap();
            let mut on_flat = on_tree.clone();
            let grads = large(1);
            on_tree.update(&mut tree, &grads).unwrap();
            on_flat
                .step(&mut flat, &layout.gather_grad(&grads).unwrap())
                .unwrap();
            assert!(
                bits(&layout.gather(&tree).unwrap()) == bits(&flat),
                "{threads} threads"
            );
            bits(&flat)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_tied_matrix_moves_once_by_the_sum() {
    let shared = Rc::new(matrix(2, 3, 0));
    let mut tied = (shared.clone(), shared);
    let mut single = matrix(2, 3, 0);
    let parts = (matrix(2, 3, 1), matrix(2, 3, 2));
    let sum = &parts.0 + &parts.1;
    let rule = Muon {
        lr: 0.1,
        ..Muon::default()
    };
    Optimizer::new(rule, &Layout::of(&tied).unwrap())
        .unwrap()
        .update(&mut tied, &parts)
        .unwrap();
    Optimizer::new(rule, &Layout::of(&single).unwrap())
        .unwrap()
        .update(&mut single, &sum)
        .unwrap();
    assert_eq!(*tied.0, single);
    assert!(Rc::ptr_eq(&tied.0, &tied.1));
}

/// A norm behind it is of the direction that it made.
#[test]
fn a_norm_behind_it_is_of_what_it_made() {
    let mut flat = [0.0_f32; 6];
    let layout = Layout::of(&matrix(2, 3, 0)).unwrap();
    let clip = ClipNorm {
        max: 1e-3,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new((plain(), clip), &layout).unwrap();
    let report = optimizer
        .step(&mut flat, &[3.0, 1.0, 0.0, -1.0, 2.0, 7.0])
        .unwrap();
    let made = newton_schulz(
        &plain(),
        &ndarray::arr2(&[[3.0, 1.0, 0.0], [-1.0, 2.0, 7.0]]),
    );
    let norm = ops::norm_l2(made.as_slice().unwrap());
    assert!((report.clips[0].norm_before - norm).abs() < 1e-9);
    assert!((ops::norm_l2(&flat) - 1e-3).abs() < 1e-9);
}

#[test]
fn a_refused_or_skipped_step_leaves_it_as_it_was() {
    for non_finite in [NonFinite::Error, NonFinite::Skip] {
        let clip = ClipNorm {
            non_finite,
            ..Default::default()
        };
        let (mut flat, layout) = destructure(&model(0)).unwrap();
        // Behind: the direction has been found when the norm is.
        let mut optimizer = Optimizer::new((Muon::default(), clip), &layout).unwrap();
        optimizer
            .step(&mut flat, &layout.gather(&model(1)).unwrap())
            .unwrap();
        let (before, twin) = (flat.clone(), optimizer.clone());
        let mut grad = layout.gather(&model(2)).unwrap();
        grad[4] = f32::NAN;
        let report = optimizer.step(&mut flat, &grad);
        assert_eq!(
            report
                .map(|report| report.skipped)
                .map_err(|e| e.is_non_finite()),
            match non_finite {
                NonFinite::Skip => Ok(true),
                _ => Err(true),
            }
        );
        assert!(bits(&flat) == bits(&before));
        assert!(
            optimizer
                .state()
                .zip(twin.state())
                .all(|(a, b)| bits(a.1) == bits(b.1))
        );
        assert_eq!(optimizer.step_count("0"), Some(1));
    }
}

#[test]
fn a_window_in_front_is_of_the_mean_and_a_resume_goes_on_bit_for_bit() {
    let chain = (
        Accumulate { steps: 2 },
        Muon {
            lr: 0.1,
            ..Muon::default()
        },
    );
    let (mut flat, layout) = destructure(&model(0)).unwrap();
    let mut optimizer = Optimizer::new(chain, &layout).unwrap();
    let mut twin_flat = flat.clone();
    let mut twin = optimizer.clone();
    for step in 1..6 {
        let grad = layout.gather(&model(step)).unwrap();
        optimizer.step(&mut flat, &grad).unwrap();
        twin.step(&mut twin_flat, &grad).unwrap();
        let stored = serde_json::to_vec(&twin.snapshot()).unwrap();
        let snapshot: Snapshot<(Accumulate, Muon)> = serde_json::from_slice(&stored).unwrap();
        twin = Optimizer::resume(snapshot, &layout).unwrap();
        assert!(bits(&flat) == bits(&twin_flat), "step {step}");
    }
}

/// Of a rule of one's own.
#[derive(Clone, PartialEq)]
struct Failing;

impl Rule for Failing {
    fn states(&self) -> Vec<&'static str> {
        vec!["seen"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        let keep = each(|_, dx, [seen]| {
            *seen += dx;
            dx
        });
        let fail = |dx: &mut [f32]| -> Result<()> {
            match dx.len() {
                1 => Err(Error::custom("one element is no matrix")),
                _ => Ok(()),
            }
        };
        (keep, each_leaf(fail))
    }
}

#[test]
fn a_change_of_a_leaf_that_fails_leaves_all_as_it_was() {
    let mut model = tree!({ "a": [1.0, 2.0], "b": [3.0] });
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Failing, &layout).unwrap();
    let grads = tree!({ "a": [1.0, 1.0], "b": [1.0] });
    let error = optimizer.update(&mut model, &grads).unwrap_err();
    assert!(
        error.to_string().contains("one element is no matrix"),
        "{error}"
    );
    assert_eq!(error.path(), Some("b"));
    assert_eq!(model, tree!({ "a": [1.0, 2.0], "b": [3.0] }));
    assert_eq!(optimizer.state_of("seen"), Some(&[0.0; 3][..]));
    optimizer
        .update(&mut model, &tree!({ "a": [1.0, 1.0] }))
        .unwrap();
    assert_eq!(model, tree!({ "a": [0.0, 1.0], "b": [3.0] }));
}

/// The axes of an element are axes of the leaf: a list of points is a matrix of three columns, and a
/// matrix of pairs is none.
#[test]
fn elements_are_axes_of_the_leaf_that_it_sees() {
    let points = |seed: usize| -> Vec<[f32; 3]> { gradient(12, seed).as_chunks().0.to_vec() };
    let pairs = |seed: usize| -> Vec<[f32; 2]> { gradient(12, seed).as_chunks().0.to_vec() };
    let of_elements = |seed| {
        let pairs = Array2::from_shape_vec((2, 3), pairs(seed + 1)).unwrap();
        (points(seed), pairs)
    };
    let of_numbers = |seed| {
        let pairs = Array3::from_shape_vec((2, 3, 2), gradient(12, seed + 1)).unwrap();
        (matrix(4, 3, seed), pairs)
    };
    let (mut elements, mut numbers) = (of_elements(0), of_numbers(0));
    let layout = Layout::of(&elements).unwrap();
    let shapes: Vec<&[usize]> = layout.leaves().iter().map(|leaf| leaf.shape()).collect();
    assert_eq!(shapes, [&[4, 3][..], &[2, 3, 2]]);
    let mut of_elements_moved = Optimizer::new(plain(), &layout).unwrap();
    let mut of_numbers_moved = Optimizer::new(plain(), &Layout::of(&numbers).unwrap()).unwrap();
    for seed in 1..=3 {
        let report = of_elements_moved.update(&mut elements, &of_elements(seed));
        let expected = of_numbers_moved.update(&mut numbers, &of_numbers(seed));
        assert_eq!(report.unwrap(), expected.unwrap());
    }
    assert_eq!(
        bits(elements.0.as_flattened()),
        bits(numbers.0.as_slice().unwrap())
    );
    let pairs = elements.1.as_slice().unwrap().as_flattened();
    assert_eq!(bits(pairs), bits(numbers.1.as_slice().unwrap()));
    // The first is orthogonal after a step, about: no point has moved as AdamW would move it.
    let buffer = of_elements_moved.state_of("momentum_buffer").unwrap();
    assert!(buffer[..12].iter().any(|x| *x != 0.0) && buffer[12..].iter().all(|x| *x == 0.0));
}
