//! Gradients in the type in which they come, and models of fewer bits behind a master vector: the
//! bits of a step by gradients that were widened first, for every rule, option and chain.

use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    AdamW, ClipNorm, Ema, Gradient, Lamb, Optimizer, Rounding, Rule, RuleFor, Sgd, StepReport,
    Storage,
};
use flatleaf::{FlatGrad, FloatElement, Layout, TieReading, TiedGrads, Tree, destructure};
use half::{bf16, f16};

use crate::common::bits;
use crate::common::widths::at_every_width;
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

/// Around a row, a block of 1,024 and a piece of 8,192; one leaf without elements.
const SIZES: [usize; 7] = [6, 37, 0, 1030, 16, 8192 + 1025, 1];

type Leaves<E> = Vec<Vec<E>>;

fn cut<E: Clone>(elements: &[E]) -> Leaves<E> {
    let mut rest = elements;
    let leaf = |len: &usize| rest.split_off(..*len).unwrap().to_vec();
    SIZES.iter().map(leaf).collect()
}

fn model() -> Leaves<f32> {
    cut(&parameters(SIZES.iter().sum()))
}

/// Which leaf is absent at a step, if any.
fn absent(step: usize) -> Option<usize> {
    (step == 2).then_some(3)
}

fn grads<E: Clone>(step: usize, narrow: impl Fn(f32) -> E) -> Vec<Option<Vec<E>>> {
    let elements: Vec<E> = gradient(SIZES.iter().sum(), step)
        .into_iter()
        .map(narrow)
        .collect();
    let leaves = cut(&elements).into_iter().enumerate();
    leaves
        .map(|(leaf, elements)| (absent(step) != Some(leaf)).then_some(elements))
        .collect()
}

fn state_bits<R: Rule>(optimizer: &Optimizer<R>) -> Vec<Vec<u32>> {
    let names = optimizer.rule("0").unwrap().states();
    let state = |name: &&str| bits(&optimizer.state_to_vec(name).unwrap());
    names.iter().map(state).collect()
}

/// A law that a step by gradients of `E` is one by the same numbers in `f32`.
struct AsWidened<E, N, W> {
    narrow: N,
    widen: W,
    storage: Storage,
    _type: std::marker::PhantomData<E>,
}

impl<E, N, W> AnyLaw for AsWidened<E, N, W>
where
    E: FloatElement,
    Vec<Option<Vec<E>>>: Tree,
    N: Fn(f32) -> E,
    W: Fn(E) -> f32,
{
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let (mut widened, layout) = (model(), Layout::of(&model()).unwrap());
        let mut as_they_come = widened.clone();
        let (mut flat, _) = destructure(&widened).unwrap();
        let first = Optimizer::with_storage(rule.clone(), &layout, self.storage).unwrap();
        let (mut by_widened, mut by_tree, mut by_flat) = (first.clone(), first.clone(), first);
        for step in 1..=3 {
            let narrow = grads(step, &self.narrow);
            let wide = grads(step, |x| (self.widen)((self.narrow)(x)));
            let expected = by_widened.update(&mut widened, &wide).unwrap();
            let found = by_tree.update(&mut as_they_come, &narrow).unwrap();
            assert_eq!(found, expected, "{rule:?}, step {step}");
            let grad = layout.gather_grad_as::<E>(&narrow).unwrap();
            let found = by_flat.step(&mut flat, Gradient::of(&grad)).unwrap();
            assert_eq!(found, expected, "{rule:?}, step {step}, flat");
        }
        let expected = bits(&widened.concat());
        assert!(bits(&as_they_come.concat()) == expected, "{rule:?}");
        assert!(bits(&flat) == expected, "{rule:?}, flat");
        assert!(state_bits(&by_tree) == state_bits(&by_widened), "{rule:?}");
        assert!(state_bits(&by_flat) == state_bits(&by_widened), "{rule:?}");
    }
}

fn bf16_as_widened(storage: Storage) -> impl AnyLaw {
    AsWidened {
        narrow: bf16::from_f32,
        widen: bf16::to_f32,
        storage,
        _type: std::marker::PhantomData,
    }
}

#[test]
fn gradients_of_bf16_give_the_bits_of_widened_ones() {
    rules::every_rule_and_chain(&bf16_as_widened(Storage::Full));
}

#[test]
fn gradients_of_f16_give_the_bits_of_widened_ones() {
    rules::chains(&AsWidened {
        narrow: f16::from_f32,
        widen: f16::to_f32,
        storage: Storage::Full,
        _type: std::marker::PhantomData,
    });
}

#[test]
fn gradients_of_bf16_meet_state_in_fewer_bytes() {
    let random = Rounding::Stochastic { seed: 5 };
    for storage in [Storage::Bf16(random), Storage::EightBits(random)] {
        bf16_as_widened(storage).holds((ClipNorm::default(), AdamW::default(), Ema::default()));
        bf16_as_widened(storage).holds(Lamb::default());
    }
}

#[test]
fn gradients_of_bf16_give_the_same_bits_at_every_vector_width() {
    let rule = (ClipNorm::default(), AdamW::default());
    let model = model();
    let layout = Layout::of(&model).unwrap();
    let moved = || {
        let mut model = model.clone();
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        optimizer
            .update(&mut model, &grads(1, bf16::from_f32))
            .unwrap();
        bits(&model.concat())
    };
    at_every_width(moved, |width, found, widest| {
        assert!(found == widest, "{width:?}");
    });
}

/// Norms of every order, of a leaf that is measured in several pieces; those that are read twice are
/// of a copy.
#[test]
fn norms_of_every_order_are_those_of_the_widened_gradient() {
    let narrow: Vec<bf16> = gradient(70_001, 1)
        .into_iter()
        .map(bf16::from_f32)
        .collect();
    let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
    let layout = Layout::of(&wide).unwrap();
    for p in [0.5, 1.0, 2.0, 3.0, f64::INFINITY] {
        let clip = ClipNorm {
            max: 0.1,
            p,
            ..ClipNorm::default()
        };
        let first = (
            parameters(wide.len()),
            Optimizer::new(clip, &layout).unwrap(),
        );
        let (mut expected, mut by_wide) = first.clone();
        let (mut found, mut by_narrow) = first;
        let expected_report = by_wide.update(&mut expected, &wide).unwrap();
        let report = by_narrow.update(&mut found, &narrow).unwrap();
        assert_eq!(report, expected_report, "{p}");
        assert!(bits(&found) == bits(&expected), "{p}");
    }
}

/// A vector of f64 by gradients of f32, bf16 and f64 in one tree.
#[test]
fn every_leaf_has_the_type_that_it_has() {
    let mut model = (vec![1.0_f64], vec![1.0_f64; 3], vec![1.0_f64]);
    let layout = Layout::of(&model).unwrap();
    let rule = Sgd {
        lr: 1.0,
        ..Sgd::default()
    };
    let mut optimizer = Optimizer::new_as::<f64>(rule, &layout).unwrap();
    let grads = (vec![0.1_f32], vec![bf16::from_f32(0.25); 3], vec![0.1_f64]);
    optimizer.update(&mut model, &grads).unwrap();
    let expected = (vec![1.0 - f64::from(0.1_f32)], vec![0.75; 3], vec![0.9]);
    assert_eq!(model, expected);
}

#[test]
fn a_gradient_that_is_not_finite_names_its_element() {
    let mut model = vec![vec![1.0_f32; 2], vec![1.0; 3]];
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(ClipNorm::default(), &layout).unwrap();
    let mut grads = vec![vec![bf16::ONE; 2], vec![bf16::ONE; 3]];
    grads[1][2] = bf16::NEG_INFINITY;
    let error = optimizer.update(&mut model, &grads).unwrap_err();
    assert!(error.is_non_finite());
    assert_eq!(
        error.to_string(),
        "`1`: expected finite elements, found -inf at index 2"
    );
    assert_eq!(model.concat(), [1.0; 5]);
}

/// 1 + 2⁻⁸ is no bf16: the sum of the places is made in f32, and is the gradient.
#[test]
fn ties_of_halves_are_added_up_in_full() {
    let shared = Rc::new(RefCell::new(vec![0.0_f32]));
    let mut model = (shared.clone(), shared);
    let layout = Layout::of(&model).unwrap();
    let small = bf16::from_f32(0.5_f32.powi(8));
    let grads = (vec![bf16::ONE], vec![small]);
    let rule = Sgd {
        lr: 1.0,
        ..Sgd::default()
    };
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(*model.0.borrow(), [-1.0 - 0.5_f32.powi(8)]);
    // At one place alone, and where every place has all of it, nothing is added.
    let alone = (vec![bf16::ONE], None::<Vec<bf16>>);
    optimizer.update(&mut model, &alone).unwrap();
    let totals = (vec![bf16::ONE], vec![bf16::ONE]);
    let tied = TiedGrads::AlreadyTotal;
    optimizer.update_with(&mut model, &totals, tied).unwrap();
    assert_eq!(*model.0.borrow(), [-3.0 - 0.5_f32.powi(8)]);
}

#[test]
fn a_flat_gradient_of_halves_knows_presence_and_ties() {
    let shared = Rc::new(vec![0.0_f32]);
    let model = (shared.clone(), vec![0.0_f32; 2], shared, vec![0.0_f32]);
    let layout = Layout::of(&model).unwrap();
    let third = bf16::from_f32(1.0 / 3.0);
    let grads = (
        vec![bf16::ONE],
        vec![third, bf16::NEG_ZERO],
        vec![bf16::from_f32(0.5_f32.powi(8) * 3.0)],
        None::<Vec<bf16>>,
    );
    let mut grad = layout.gather_grad_as::<bf16>(&grads).unwrap();
    // 1 + 3/256 lies between 1 + 2/256, the even one, and 1 + 4/256: a tie.
    assert_eq!(grad[0], bf16::from_f32(1.0 + 4.0 / 256.0));
    assert_eq!(grad.tie_reading(0), Some(TieReading::Summed));
    assert_eq!((grad[1], grad[2].to_bits()), (third, 0x8000));
    assert_eq!((grad.is_present(1), grad.is_present(2)), (true, false));
    grad[3] = bf16::ONE;
    assert!(grad.is_present(2)); // who writes a leaf makes it present

    // A sum in f32 of batches in bf16.
    let mut sum = FlatGrad::<f32>::zeros(&layout);
    let batch = layout.gather_grad_as::<bf16>(&grads).unwrap();
    for _ in 0..300 {
        sum.add_as(&batch).unwrap();
    }
    assert_eq!(sum[1], (0..300).fold(0.0, |sum, _| sum + third.to_f32()));
    assert_eq!((sum.is_present(0), sum.is_present(2)), (true, false));
    let other = Layout::of(&vec![0.0_f32; 4]).unwrap();
    let error = sum.add_as(&FlatGrad::<bf16>::zeros(&other)).unwrap_err();
    assert!(error.is_other_layout());
}

/// A model of halves behind a master vector: both as `step` and `restructure_into` leave them.
fn follows_the_master<T: Tree, G: Tree>(
    mut model: T,
    grads: &[G],
    leaves: impl Fn(&T) -> Vec<u16>,
) {
    let (mut master, layout) = destructure(&model).unwrap();
    let mut stepped = master.clone();
    let rule = (
        ClipNorm::default(),
        AdamW {
            lr: 1e-3,
            ..AdamW::default()
        },
    );
    let mut in_one_pass = Optimizer::new(rule, &layout).unwrap();
    let mut on_vector = in_one_pass.clone();
    for grads in grads {
        let grad = layout.gather_grad(grads).unwrap();
        let expected = on_vector.step(&mut stepped, &grad).unwrap();
        let found = in_one_pass.update_with_master(&mut model, &mut master, grads);
        assert_eq!(found.unwrap(), expected);
        assert_eq!(bits(&master), bits(&stepped));
        let found = leaves(&model);
        layout.restructure_into(&mut model, &stepped).unwrap();
        assert_eq!(leaves(&model), found);
    }
}

#[test]
fn a_model_of_halves_follows_its_master() {
    let halves = |elements: &[f32]| {
        let elements = elements.iter().copied().map(bf16::from_f32);
        cut(&elements.collect::<Vec<_>>())
    };
    let model = halves(&parameters(SIZES.iter().sum()));
    let to_bits = |model: &Leaves<bf16>| {
        let elements = model.iter().flatten();
        elements.map(|x| x.to_bits()).collect()
    };
    let gradients: Vec<_> = (1..=3).map(|step| grads(step, bf16::from_f32)).collect();
    follows_the_master(model, &gradients, to_bits);
}

#[test]
fn a_model_that_lends_no_slices_follows_its_master() {
    let shared = Rc::new(RefCell::new(vec![f16::ONE; 20]));
    let model = (shared.clone(), vec![f16::ONE; 3], shared);
    let grads = |k: f32| {
        let half = |x: f32| f16::from_f32(x * k);
        (
            vec![half(0.5); 20],
            vec![half(-0.25); 3],
            vec![half(0.125); 20],
        )
    };
    follows_the_master(model, &[grads(1.0), grads(-2.0)], |model| {
        let shared = model.0.borrow();
        let elements = shared.iter().chain(&model.1);
        elements.map(|x| x.to_bits()).collect()
    });
}

/// The model is written and not read, and only where a leaf takes its step.
#[test]
fn leaves_without_a_step_are_not_written() {
    let mut model = vec![vec![bf16::ONE], vec![bf16::ONE], vec![bf16::ONE]];
    let (mut master, layout) = destructure(&model).unwrap();
    let rule = (
        ClipNorm {
            max: f64::INFINITY,
            non_finite: NonFinite::Skip,
            ..ClipNorm::default()
        },
        Sgd {
            lr: 1.0,
            ..Sgd::default()
        },
    );
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    optimizer.freeze("2").unwrap();
    model[1][0] = bf16::from_f32(7.0);
    let one = || Some(vec![bf16::ONE]);
    let report = optimizer.update_with_master(&mut model, &mut master, &vec![one(), None, one()]);
    assert_eq!(report.unwrap().leaves, 1);
    let values = |model: &[Vec<bf16>]| {
        model
            .concat()
            .iter()
            .map(|x| x.to_f32())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&model), [0.0, 7.0, 1.0]);

    let before = (master.clone(), model.clone());
    let nan = vec![one(), Some(vec![bf16::NAN]), None];
    let report: StepReport = optimizer
        .update_with_master(&mut model, &mut master, &nan)
        .unwrap();
    assert!(report.skipped && (master.clone(), model.clone()) == before);

    let error = optimizer
        .update_with_master(&mut model, &mut master[..2], &nan)
        .unwrap_err();
    assert!(error.is_length());
    assert_eq!(
        error.to_string(),
        "the master vector: expected 3 elements, found 2"
    );
    let mut other = vec![vec![bf16::ONE; 2], vec![bf16::ONE], vec![bf16::ONE]];
    let error = optimizer
        .update_with_master(&mut other, &mut master, &vec![one(), None, None])
        .unwrap_err();
    assert_eq!((error.is_shape(), error.path()), (true, Some("0")));
    assert_eq!(master, before.0);
    assert_eq!(optimizer.step_count("0"), Some(1));
}

/// Rules are compiled for vectors of f32 and f64; a gradient of halves needs neither.
#[test]
fn a_vector_of_f64_takes_a_flat_gradient_of_halves() {
    fn end<R: RuleFor<f64>>(rule: R) -> f64 {
        let mut flat = [1.0_f64];
        let layout = Layout::of(&vec![1.0_f64]).unwrap();
        let mut optimizer = Optimizer::new_as::<f64>(rule, &layout).unwrap();
        let grad = FlatGrad::<f16>::from_flat(&layout, vec![f16::from_f32(0.5)]).unwrap();
        optimizer.step(&mut flat, Gradient::of(&grad)).unwrap();
        flat[0]
    }
    let rule = Sgd {
        lr: 0.1,
        ..Sgd::default()
    };
    assert_eq!(end(rule), 0.95);
}
