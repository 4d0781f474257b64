//! Which leaves of a flat gradient there are: who writes a leaf makes it present, what was read from
//! the places of a tie is told, and rows have their presence apart.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use crate::common::present;
use flatleaf::Companion::{Grads, Totals};
use flatleaf::ops::NonFinite;
use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{FlatGrad, Layout, TieReading, TiedGrads, Tree, deep_clone, ops, tree};

type Cell = Rc<RefCell<Vec<f32>>>;

fn cell(elements: &[f32]) -> Cell {
    Rc::new(RefCell::new(elements.to_vec()))
}

fn reading<G: Tree + ?Sized>(layout: &Layout, grads: &G) -> (Vec<f32>, Option<TieReading>) {
    let grad = layout.gather_grad(grads).unwrap();
    (grad.to_vec(), grad.tie_reading(0))
}

#[test]
fn a_cell_at_two_places_holds_the_total() {
    let shared = cell(&[1.0]);
    let net = (shared.clone(), shared);
    let layout = Layout::of(&net).unwrap();

    // A gradient of the model's own type, by the natural way.
    let grads = deep_clone(&net).unwrap();
    grads.0.borrow_mut()[0] = 0.0;
    grads.0.borrow_mut()[0] += 1.0;
    grads.1.borrow_mut()[0] += 2.0;
    let counted_once = (vec![3.0], Some(TieReading::CountedOnce));
    assert_eq!(reading(&layout, &grads), counted_once);
    assert_eq!(layout.norm_l2(&grads).unwrap(), 3.0);
    assert_eq!(layout.mask(&grads).unwrap(), tree!([[3.0], null]));
    let read = |companion| {
        let first = |_: flatleaf::LeafAt<'_, 1>, _: &[f32], [dx]: [&[f32]; 1]| dx[0];
        layout
            .map_reduce(&net, [companion], first, |a, _| a)
            .unwrap()
    };
    assert_eq!(read(Grads(&grads)), Some(3.0));
    assert_eq!(read(Totals(&grads)), Some(3.0));
    let mut row = [9.0_f32];
    let presence = layout.gather_grad_into_slice(&grads, &mut row).unwrap();
    assert_eq!(
        (row, presence.tie_reading(0)),
        ([3.0], Some(TieReading::CountedOnce))
    );

    // Locks, references to one cell, and a cell that is around more than the leaf.
    let lock = Arc::new(Mutex::new(vec![3.0_f32]));
    assert_eq!(reading(&layout, &(lock.clone(), lock)), counted_once);
    let lock = Arc::new(RwLock::new(vec![3.0_f32]));
    assert_eq!(reading(&layout, &(lock.clone(), lock)), counted_once);
    let one = RefCell::new(vec![3.0_f32]);
    assert_eq!(reading(&layout, &(&one, &one)), counted_once);

    let pair = Rc::new(RefCell::new((vec![1.0_f32], vec![2.0_f32])));
    let nets = (pair.clone(), pair);
    let layout = Layout::of(&nets).unwrap();
    let grad = layout.gather_grad(&deep_clone(&nets).unwrap()).unwrap();
    assert_eq!(*grad, [1.0, 2.0]);
    assert_eq!(grad.tie_reading(1), Some(TieReading::CountedOnce));
}

#[test]
fn one_step_of_a_tied_model_is_one_step() {
    let shared = cell(&[1.0]);
    let mut net = (shared.clone(), shared);
    let layout = Layout::of(&net).unwrap();
    let grads = deep_clone(&net).unwrap();
    grads.1.borrow_mut()[0] = 3.0;
    let sgd = Sgd {
        lr: 0.5,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(sgd, &layout).unwrap();
    optimizer.update(&mut net, &grads).unwrap();
    assert_eq!(*net.0.borrow(), [-0.5]);
}

#[test]
fn two_cells_are_summed_and_so_is_one_pointer_without_a_cell() {
    let shared = cell(&[1.0]);
    let layout = Layout::of(&(shared.clone(), shared)).unwrap();
    let summed = (vec![3.0], Some(TieReading::Summed));
    assert_eq!(reading(&layout, &(cell(&[1.0]), cell(&[2.0]))), summed);
    // Equal values are no one object.
    let twice = (vec![2.0], Some(TieReading::Summed));
    assert_eq!(reading(&layout, &(cell(&[1.0]), cell(&[1.0]))), twice);

    // Optimisers.jl's rule; the report says that it may be a total.
    let pointer = Rc::new(vec![3.0_f32]);
    let same = (vec![6.0], Some(TieReading::SummedSameObject));
    assert_eq!(reading(&layout, &(pointer.clone(), pointer.clone())), same);
    let totals = (pointer.clone(), pointer);
    let grad = layout
        .gather_grad_with(&totals, TiedGrads::AlreadyTotal)
        .unwrap();
    assert_eq!(
        (grad[0], grad.tie_reading(0)),
        (3.0, Some(TieReading::AlreadyTotal))
    );

    // A single place is nothing to be read in two ways.
    assert_eq!(reading(&layout, &(vec![3.0_f32], ())), (vec![3.0], None));
}

#[test]
fn of_three_places_those_of_one_cell_count_once() {
    let shared = Rc::new(vec![0.0_f32]);
    let layout = Layout::of(&(shared.clone(), shared.clone(), shared)).unwrap();
    let one = Rc::new(RefCell::new(vec![1.0_f32]));
    let grads = (one.clone(), vec![10.0_f32], one);
    let counted_once = (vec![11.0], Some(TieReading::CountedOnce));
    assert_eq!(reading(&layout, &grads), counted_once);
}

#[test]
fn a_cell_that_begins_with_a_cell_is_another_one() {
    let shared = Rc::new(vec![0.0_f32]);
    let layout = Layout::of(&((shared.clone(),), shared)).unwrap();
    // Both cells may have one address, and each has one leaf of its own.
    let grads = RefCell::new(((RefCell::new(vec![1.0_f32]),), vec![2.0_f32]));
    assert_eq!(
        reading(&layout, &grads),
        (vec![3.0], Some(TieReading::Summed))
    );
}

fn layout() -> Layout {
    Layout::of(&tree!({ "tok": [[0, 0]], "head": [0] })).unwrap()
}

#[test]
fn who_writes_a_leaf_makes_it_present() {
    let layout = layout();
    let none = FlatGrad::zeros(&layout);
    assert_eq!(present(&none), [false, false]);

    let mut grad = none.clone();
    layout.view_mut(&mut grad, "tok").unwrap().fill(1.0);
    assert_eq!(present(&grad), [true, false]);
    assert!(grad.is_present_at("tok") && !grad.is_present_at("head"));
    let mut optimizer = Optimizer::new(
        Sgd {
            lr: 1.0,
            ..Default::default()
        },
        &layout,
    )
    .unwrap();
    let mut flat = [0.0; 3];
    assert_eq!(optimizer.step(&mut flat, &grad).unwrap().leaves, 1);
    assert_eq!(flat, [-1.0, -1.0, 0.0]);

    // NaN is not zero, −0 is, and so is what was not touched.
    let mut grad = none.clone();
    grad[2] = f32::NAN;
    grad[0] = -0.0;
    assert_eq!(present(&grad), [false, true]);

    // By their own methods zeros are a gradient too.
    let mut grad = none.clone();
    grad.leaf_mut(1).fill(0.0);
    assert_eq!(present(&grad), [false, true]);
    let mut grad = none.clone();
    grad.view_mut("tok").unwrap().fill(0.0);
    assert_eq!(present(&grad), [true, false]);
    assert!(grad.view_mut("token").unwrap_err().is_unknown());
    assert_eq!(grad.view("tok").unwrap().shape(), [1, 2]);
}

#[test]
fn presence_can_be_set_and_reset() {
    let layout = layout();
    let mut grad = FlatGrad::from_flat(&layout, vec![1.0, 2.0, 3.0]).unwrap();
    grad.set_present(0, false);
    assert_eq!(
        (grad.to_vec(), present(&grad)),
        (vec![0.0, 0.0, 3.0], vec![false, true])
    );
    grad.set_present(0, true);
    assert_eq!(present(&grad), [true, true]);
    grad.reset();
    assert_eq!(grad, FlatGrad::zeros(&layout));

    // What was written by hand goes too, and is not left behind by the next gradient.
    grad[0] = 5.0;
    grad.reset();
    assert_eq!(*grad, [0.0; 3]);
    grad[0] = 5.0;
    grad.set_present(0, false);
    assert_eq!(*grad, [0.0; 3]);
    grad[0] = 5.0;
    layout
        .gather_grad_into(&tree!({ "head": [7] }), &mut grad)
        .unwrap();
    assert_eq!(
        (grad.to_vec(), present(&grad)),
        (vec![0.0, 0.0, 7.0], vec![false, true])
    );
}

#[test]
#[should_panic(expected = "no trainable leaf at `token`")]
fn a_misspelt_path_is_no_absent_leaf() {
    FlatGrad::<f32>::zeros(&layout()).is_present_at("token");
}

#[test]
fn what_was_written_by_hand_is_added_and_compared() {
    let layout = layout();
    let mut hand = FlatGrad::zeros(&layout);
    hand[2] = 2.0;
    let mut sum: FlatGrad = FlatGrad::zeros(&layout);
    sum.add(&hand).unwrap();
    assert_eq!(
        (sum.to_vec(), present(&sum)),
        (vec![0.0, 0.0, 2.0], vec![false, true])
    );
    assert_eq!(sum, hand);
    hand.add(&sum).unwrap();
    assert_eq!((hand[2], present(&hand)), (4.0, vec![false, true]));
    // A sum with nothing keeps the sign of a zero.
    let mut negative: FlatGrad = FlatGrad::zeros(&layout);
    negative.leaf_mut(1)[0] = -0.0;
    let mut sum: FlatGrad = FlatGrad::zeros(&layout);
    sum.add(&negative).unwrap();
    assert!(sum[2].is_sign_negative());
}

#[test]
fn an_absent_leaf_stays_zeros_whatever_all_is_multiplied_by() {
    let layout = layout();
    let mut grad = layout
        .gather_grad(&tree!({ "head": [f32::INFINITY] }))
        .unwrap();
    let clip = layout
        .clip_norm_with(&mut grad, 1.0, NonFinite::Propagate)
        .unwrap();
    assert!(!clip.scale.is_nan() || grad[2].is_nan());
    assert_eq!(
        (&grad[..2], present(&grad)),
        (&[0.0, 0.0][..], vec![false, true])
    );
    let mut grad = layout.gather_grad(&tree!({ "head": [f32::NAN] })).unwrap();
    let _ = layout
        .clip_norm_with(&mut grad, 1.0, NonFinite::Propagate)
        .unwrap();
    assert_eq!(
        (&grad[..2], present(&grad)),
        (&[0.0, 0.0][..], vec![false, true])
    );
    assert!(grad[2].is_nan());
}

#[test]
fn rows_are_overwritten_and_have_their_presence_apart() {
    let layout = layout();
    let mut row = [f32::NAN; 3];
    let presence = layout
        .gather_grad_into_slice(&tree!({ "head": [7] }), &mut row)
        .unwrap();
    assert_eq!(row, [0.0, 0.0, 7.0]);
    assert_eq!(
        (presence.is_present(0), presence.is_present_at("head")),
        (false, true)
    );
    let mut row = [1.0_f64; 3];
    layout.gather_grad_into_slice(&tree!({}), &mut row).unwrap();
    assert_eq!(row, [0.0; 3]);

    let mut row = [1.0_f32; 3];
    let error = layout
        .gather_grad_into_slice(&tree!({ "tok": [7] }), &mut row)
        .unwrap_err();
    assert!(error.is_shape() && error.path() == Some("tok"));
    assert_eq!(row, [1.0; 3]);
    let error = layout
        .gather_grad_into_slice(&tree!({}), &mut row[..2])
        .unwrap_err();
    assert!(error.is_length());
    assert!(error.to_string().contains("the row"), "{error}");
    assert_eq!(ops::sum(&row), 3.0);
}
