//! Gradient tree → flat gradient: what is absent, what is ignored, what is an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::common::models::{self, DenseGrad, Foo, Law};
use crate::common::{flat, flat_grad, present};
use flatleaf::{DynTree, FlatGrad, Layout, TieReading, TiedGrads, Tree, destructure, tree};
use ndarray::{Array1, Array2, arr0, arr1, arr2};

/// A gradient with stale contents, to see whether it is written.
fn stale(layout: &Layout) -> FlatGrad {
    FlatGrad::from_flat(layout, vec![7.0; layout.len()]).unwrap()
}

/// The error of a gradient tree, and that it leaves a buffer as it was.
fn grad_error<G: Tree + ?Sized>(layout: &Layout, grads: &G) -> flatleaf::Error {
    let mut grad = stale(layout);
    let error = layout.gather_grad_into(grads, &mut grad).unwrap_err();
    assert_eq!(grad, stale(layout));
    assert_eq!(layout.gather_grad(grads).unwrap_err(), error);
    error
}

// J.C1
#[test]
fn an_absent_leaf_is_zero_in_the_vector() {
    let grads = (arr1(&[0.0_f32, 1.0, 0.0]), None::<Array1<f32>>);
    assert_eq!(
        flat_grad(&models::pair(), &grads),
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    );
    let grads = tree!({ "x": [0, 0, 1], "y": null, "z": [1, 0, 0] });
    assert_eq!(
        flat_grad(&models::with_function(), &grads),
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    );
}

// J.C2
#[test]
fn the_gradients_of_a_tie_are_summed() {
    let grads = tree!({ "x": [1, 0, 0], "y": [0, 2, 0], "z": [0, 0, 3] });
    assert_eq!(
        flat_grad(&models::tied(), &grads),
        [1.0, 2.0, 0.0, 0.0, 0.0, 3.0]
    );
}

// J.C3
#[test]
fn gradients_of_frozen_and_skipped_fields_are_ignored() {
    let layout = Layout::of(&models::masked()).unwrap();
    for field in ["a", "b", "c"] {
        let grads = DynTree::map([(field, DynTree::list([DynTree::absent(), tree!([0, 1, 0])]))]);
        let expected = if field == "a" {
            [0.0, 1.0, 0.0]
        } else {
            [0.0; 3]
        };
        let grad = layout.gather_grad(&grads).unwrap();
        assert_eq!((&*grad, grad.is_present(0)), (&expected[..], field == "a"));
    }
}

// Decision 4
#[test]
fn what_is_below_an_ignored_field_is_ignored_whatever_it_is() {
    let layout = Layout::of(&models::masked()).unwrap();
    let odd = || tree!({ "1": { "deep": [1.0, 2.0] }, "unknown": [[3.0]], "int": (vec![4_i32]) });
    for field in ["b", "c"] {
        let grad = layout.gather_grad(&DynTree::map([(field, odd())])).unwrap();
        assert_eq!((&*grad, grad.is_present(0)), (&[0.0; 3][..], false));
        let grad = layout
            .gather_grad(&DynTree::map([(field, tree!([1.0]))]))
            .unwrap();
        assert!(!grad.is_present(0));
    }
}

// Decision 4
#[test]
fn gradients_of_bare_numbers_and_integer_arrays_are_ignored() {
    let layout = Layout::of(&models::carried()).unwrap();
    let grads = tree!({
        "a": [1, 2], "n": [1, 2, 3], "flags": { "x": [1] }, "flag": 1, "s": [[5]], "name": { "first": [1] }
    });
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [1.0, 2.0]);
    assert_eq!(
        *layout.gather_grad(&tree!({ "n": (vec![1_i64]) })).unwrap(),
        [0.0, 0.0]
    );
    assert_eq!(*layout.gather_grad(&models::carried()).unwrap(), [1.0, 2.0]);
}

// J.C4
#[test]
fn leaves_may_have_several_lengths() {
    let layout = Layout::of(&tree!({ "x": [1, 2], "y": [3, 4, 5] })).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&tree!({ "x": [5, 5], "y": [7, 7, 7] }))
            .unwrap(),
        [5.0, 5.0, 7.0, 7.0, 7.0]
    );
    assert_eq!(
        *layout
            .gather_grad(&tree!({ "x": [1, 1], "y": null }))
            .unwrap(),
        [1.0, 1.0, 0.0, 0.0, 0.0]
    );
}

// J.C9
#[test]
fn all_may_be_absent() {
    let layout = Layout::of(&tree!({ "x": [1, 2], "y": [3, 4, 5] })).unwrap();
    let absent = [
        tree!({ "x": null, "y": null }),
        tree!({}),
        tree!(null),
        tree!([]),
        tree!({ "x": {}, "y": [] }),
    ];
    for grads in absent {
        let grad = layout.gather_grad(&grads).unwrap();
        assert_eq!(*grad, [0.0; 5]);
        assert_eq!(present(&grad), [false, false]);
        assert_eq!(grad, FlatGrad::zeros(&layout));
    }
}

// Decision 5, P.D11, P.D17
#[test]
fn absent_is_not_zero() {
    let layout = Layout::of(&tree!([{ "a": [1] }, { "b": [2] }, { "c": [3] }])).unwrap();
    let zero = layout
        .gather_grad(&tree!([{ "a": [5] }, { "b": [0] }, { "c": [6] }]))
        .unwrap();
    let absent = layout
        .gather_grad(&tree!([{ "a": [5] }, { "b": null }, { "c": [6] }]))
        .unwrap();
    assert_eq!(
        (&*zero, &*absent),
        (&[5.0, 0.0, 6.0][..], &[5.0, 0.0, 6.0][..])
    );
    assert_eq!(
        (present(&zero), present(&absent)),
        (vec![true; 3], vec![true, false, true])
    );
    assert_ne!(zero, absent);
}

// Decision 5
#[test]
fn a_key_or_trailing_field_that_is_not_there_is_absent() {
    let layout = Layout::of(&models::chain()).unwrap();
    let grads = [DenseGrad {
        weight: None,
        bias: Some(arr1(&[1.0; 5])),
    }];
    assert_eq!(
        present(&layout.gather_grad(&grads).unwrap()),
        [false, true, false, false, false, false]
    );
    let grads = DynTree::map([("2", tree!({ "bias": [1, 2, 3] }))]);
    let grad = layout.gather_grad(&grads).unwrap();
    assert_eq!(present(&grad), [false, false, false, false, false, true]);
    assert_eq!(grad[layout.len() - 3..], [1.0, 2.0, 3.0]);
}

// Decision 5
#[test]
fn a_tie_is_present_if_one_of_its_places_is() {
    let layout = Layout::of(&models::tied()).unwrap();
    assert_eq!(
        present(&layout.gather_grad(&tree!({ "x": [0, 0, 0] })).unwrap()),
        [true, false]
    );
    assert_eq!(
        present(&layout.gather_grad(&tree!({ "y": [0, 0, 0] })).unwrap()),
        [true, false]
    );
    assert_eq!(
        present(&layout.gather_grad(&tree!({ "z": [0, 0, 0] })).unwrap()),
        [false, true]
    );
}

// Decision 5
#[test]
fn a_leaf_without_elements_is_present_or_absent_too() {
    let layout = Layout::of(&models::zero_length()).unwrap();
    let grads = tree!({ "none": (Array2::<f32>::zeros((0, 3))), "one": [1] });
    assert_eq!(
        present(&layout.gather_grad(&grads).unwrap()),
        [true, true, false]
    );
    let error = grad_error(&layout, &tree!({ "none": (Array2::<f32>::zeros((3, 0))) }));
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("none"));
}

// J.C10
#[test]
fn a_gradient_may_have_another_float_type_than_its_leaf() {
    let model = Foo {
        x: arr1(&[0.0_f32; 2]),
        y: arr1(&[0.0_f32; 3]),
    };
    let grads = Foo {
        x: arr1(&[1.2_f64, 3.4]),
        y: arr1(&[5.0_f32, 6.0, 7.0]),
    };
    assert_eq!(flat_grad(&model, &grads), [1.2, 3.4, 5.0, 6.0, 7.0]);
    let tiny = Foo {
        x: arr1(&[1.0 + f64::EPSILON, 1e300]),
        y: arr1(&[0.0_f32; 3]),
    };
    assert_eq!(
        flat_grad(&model, &tiny),
        [1.0, f32::INFINITY, 0.0, 0.0, 0.0]
    );
}

// J.C10
#[test]
fn an_f64_gradient_adds_up_in_a_tie() {
    let grads = Foo {
        x: arr1(&[1.5_f64, 2.5, 3.5]),
        y: arr1(&[10.0_f32, 20.0, 30.0]),
    };
    assert_eq!(flat_grad(&models::tied(), &grads)[..3], [11.5, 22.5, 33.5]);
}

// J.C10
#[cfg(feature = "half")]
#[test]
fn a_gradient_of_half_floats_is_widened() {
    use half::{bf16, f16};
    let grads = Foo {
        x: vec![f16::from_f32(0.1); 2],
        y: vec![bf16::from_f32(0.1); 3],
    };
    let (x, y) = (f16::from_f32(0.1).to_f32(), bf16::from_f32(0.1).to_f32());
    assert_eq!(
        flat_grad(
            &Foo {
                x: vec![0.0_f32; 2],
                y: vec![0.0_f32; 3]
            },
            &grads
        ),
        [x, x, y, y, y]
    );
}

// J.C10
#[test]
fn an_integer_gradient_of_a_float_leaf_is_an_error() {
    let layout = Layout::of(&tree!({ "x": [1, 2], "y": [3, 4, 5] })).unwrap();
    let error = grad_error(
        &layout,
        &Foo {
            x: arr1(&[1.0_f32, 2.0]),
            y: arr1(&[1_i32, 2, 3]),
        },
    );
    assert!(error.is_element_type());
    assert_eq!((error.path(), error.found()), (Some("y"), Some("i32")));
    let error = grad_error(
        &layout,
        &Foo {
            x: vec![true, false],
            y: (),
        },
    );
    assert!(error.is_element_type());
    assert_eq!((error.path(), error.found()), (Some("x"), Some("bool")));
}

// J.C11
#[test]
fn stale_contents_are_overwritten() {
    let layout = Layout::of(&tree!({ "x": [1, 2], "y": [3, 4, 5] })).unwrap();
    let mut grad = layout
        .gather_grad(&tree!({ "x": [5, 5], "y": [7, 7, 7] }))
        .unwrap();
    layout
        .gather_grad_into(&tree!({ "x": [1, 1], "y": null }), &mut grad)
        .unwrap();
    assert_eq!(*grad, [1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(present(&grad), [true, false]);
    layout
        .gather_grad_into(&tree!({ "x": null, "y": [2, 2, 2] }), &mut grad)
        .unwrap();
    assert_eq!(*grad, [0.0, 0.0, 2.0, 2.0, 2.0]);
    assert_eq!(present(&grad), [false, true]);
}

// J.C11
#[test]
fn stale_contents_of_a_tie_are_overwritten() {
    let layout = Layout::of(&models::tied()).unwrap();
    let mut grad = stale(&layout);
    layout
        .gather_grad_into(&tree!({ "x": [1, 0, 0], "y": [0, 2, 0] }), &mut grad)
        .unwrap();
    assert_eq!(*grad, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    layout
        .gather_grad_into(&tree!({ "y": [1, 1, 1] }), &mut grad)
        .unwrap();
    assert_eq!(*grad, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    layout.gather_grad_into(&tree!({}), &mut grad).unwrap();
    assert_eq!(grad, FlatGrad::zeros(&layout));
}

// J.C16
#[test]
fn a_model_of_unlike_parts_takes_gradients_of_some() {
    let (flat, layout) = destructure(&models::of_list()).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0]);
    let first = tree!([{ "x": null, "y": [2, 4, 6] }, null, null]);
    assert_eq!(
        *layout.gather_grad(&first).unwrap(),
        [2.0, 4.0, 6.0, 0.0, 0.0]
    );
    let last = DynTree::list([tree!(null), tree!(null), DynTree::list([tree!([10])])]);
    assert_eq!(
        *layout.gather_grad(&last).unwrap(),
        [0.0, 0.0, 0.0, 0.0, 10.0]
    );
    assert_eq!(
        *layout.gather_grad(&((), (), (arr1(&[10.0_f32]),))).unwrap(),
        [0.0, 0.0, 0.0, 0.0, 10.0]
    );
}

// J.C17
#[test]
fn a_gradient_at_the_second_place_only_counts() {
    let grads = tree!({ "c": { "0": [[8, 12], [10, 14]] } });
    assert_eq!(
        flat_grad(&models::tied_in_list(), &grads),
        [0.0, 0.0, 0.0, 8.0, 12.0, 10.0, 14.0]
    );
}

// P.D2
#[test]
fn gradients_are_structs_of_options() {
    let layout = Layout::of(&models::dense()).unwrap();
    let weight = DenseGrad {
        weight: Some(arr2(&[[1.0, 2.0], [3.0, 4.0]])),
        bias: None,
    };
    assert_eq!(
        *layout.gather_grad(&weight).unwrap(),
        [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]
    );
    assert_eq!(
        present(&layout.gather_grad(&weight).unwrap()),
        [true, false]
    );
    assert_eq!(
        present(&layout.gather_grad(&DenseGrad::default()).unwrap()),
        [false, false]
    );
    assert_eq!(
        present(&layout.gather_grad(&Some(weight)).unwrap()),
        [true, false]
    );
    assert_eq!(
        present(&layout.gather_grad(&None::<DenseGrad>).unwrap()),
        [false, false]
    );
}

// Decision 4
#[test]
fn a_gradient_of_a_bias_that_the_model_has_not_got_is_an_error() {
    let layout = Layout::of(&models::dense_without_bias()).unwrap();
    let error = grad_error(
        &layout,
        &DenseGrad {
            weight: None,
            bias: Some(arr1(&[1.0, 2.0])),
        },
    );
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("bias"));
    let absent = DenseGrad {
        weight: Some(Array2::ones((2, 3))),
        bias: None,
    };
    assert_eq!(*layout.gather_grad(&absent).unwrap(), [1.0; 6]);
}

// Decision 4
#[test]
fn unknown_leaves_and_branches_are_errors() {
    let layout =
        Layout::of(&tree!({ "x": [1], "y": { "a": [2], "b": [3] }, "list": [[4], [5, 6]] }))
            .unwrap();
    let unknown = [
        (tree!({ "x": [1], "w": [2] }), "w"),
        (tree!({ "y": { "c": [1] } }), "y.c"),
        (tree!({ "extra": { "deep": [1] } }), "extra.deep"),
        (tree!({ "y": [1] }), "y"),
        (tree!({ "x": { "a": [1] } }), "x.a"),
        (tree!({ "list": [[4], [5, 6], 7] }), "list.2"),
        (tree!([1, 2]), ""),
    ];
    for (grads, path) in unknown {
        let error = grad_error(&layout, &grads);
        assert!(error.is_unknown(), "{grads}: {error}");
        assert_eq!(error.path(), Some(path), "{grads}");
    }
}

// Decision 4
#[test]
fn null_and_empty_branches_are_ignored_anywhere() {
    let layout = Layout::of(&tree!({ "x": [1], "y": { "a": [2] } })).unwrap();
    let empty = tree!({ "x": {}, "y": [], "w": null, "v": { "u": { "t": {} }, "s": [null, []] } });
    assert_eq!(
        present(&layout.gather_grad(&empty).unwrap()),
        [false, false]
    );
    let grads = BTreeMap::from([("x", tree!([3])), ("w", tree!([]))]);
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [3.0, 0.0]);
}

// Decision 7
#[test]
fn a_gradient_of_another_shape_is_an_error() {
    let layout = Layout::of(&tree!({ "w": [[1, 2], [3, 4]], "b": [5], "s": 6 })).unwrap();
    let error = grad_error(&layout, &tree!({ "w": [1, 2, 3, 4], "b": 5, "s": [6] }));
    assert!(error.is_shape());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["w", "b", "s"]);
    assert_eq!(
        (error.expected(), error.found()),
        (Some("shape [2, 2]"), Some("shape [4]"))
    );
}

// Decision 7
#[test]
fn a_wrong_shape_at_one_place_of_a_tie_is_an_error() {
    let layout = Layout::of(&models::tied()).unwrap();
    let error = grad_error(
        &layout,
        &tree!({ "x": [1, 2, 3], "y": [1, 2], "z": [1, 2, 3] }),
    );
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("y"));
}

// Decision 7
#[test]
fn several_kinds_of_mistakes_are_listed_together() {
    let layout = Layout::of(&tree!({ "a": [1], "b": [2], "c": [3] })).unwrap();
    let error = grad_error(
        &layout,
        &tree!({ "a": [1, 2], "b": (vec![1_u8]), "d": [4] }),
    );
    assert_eq!(error.paths().collect::<Vec<_>>(), ["a", "b", "d"]);
    assert!(error.is_shape());
}

// Decision 4
#[test]
fn a_total_is_read_at_the_first_place_that_has_it() {
    let layout = Layout::of(&models::tied()).unwrap();
    let total = |grads| {
        layout
            .gather_grad_with(&grads, TiedGrads::AlreadyTotal)
            .unwrap()
            .into_vec()
    };
    let grads = || tree!({ "x": [1, 2, 3], "y": [10, 20, 30], "z": [4, 5, 6] });
    assert_eq!(total(grads()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        total(tree!({ "y": [10, 20, 30], "x": [1, 2, 3] })),
        [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(
        total(tree!({ "x": null, "y": [10, 20, 30] })),
        [10.0, 20.0, 30.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(
        *layout.gather_grad_with(&grads(), TiedGrads::Sum).unwrap(),
        [11.0, 22.0, 33.0, 4.0, 5.0, 6.0]
    );
}

// Decision 4
#[test]
fn a_total_is_read_at_a_trainable_place() {
    let layout = Layout::of(&models::tied_across_frozen()).unwrap();
    let grads = tree!({ "a": [100, 100], "b": [1], "d": [10, 20], "c": [2, 3] });
    assert_eq!(
        *layout
            .gather_grad_with(&grads, TiedGrads::AlreadyTotal)
            .unwrap(),
        [1.0, 2.0, 3.0]
    );
    let grads = tree!({ "a": [100, 100], "d": [10, 20] });
    let grad = layout
        .gather_grad_with(&grads, TiedGrads::AlreadyTotal)
        .unwrap();
    assert_eq!(
        (&*grad, present(&grad)),
        (&[0.0, 10.0, 20.0][..], vec![false, true])
    );
}

// J.C20, Decision 4
#[test]
fn a_total_at_a_transposed_place_is_transposed() {
    let layout = Layout::of(&models::tied_transposed()).unwrap();
    let grads = tree!({ "t": [[1, 4], [2, 5], [3, 6]] });
    let grad = layout
        .gather_grad_with(&grads, TiedGrads::AlreadyTotal)
        .unwrap();
    assert_eq!(*grad, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

// P.F14
#[test]
fn other_leaves_stand_beside_the_sum_of_a_tie() {
    let shared = Rc::new(arr1(&[0.0_f32]));
    let model = (arr1(&[0.0_f32; 2]), shared.clone(), shared);
    let grads = (arr1(&[0.1_f32, 0.2]), arr1(&[1.0_f32]), arr1(&[10.0_f32]));
    assert_eq!(flat_grad(&model, &grads), [0.1, 0.2, 11.0]);
}

// P.C11
#[test]
fn three_places_add_up_in_the_order_of_the_places() {
    let shared = Rc::new(arr1(&[0.0_f32]));
    let layout = Layout::of(&BTreeMap::from([
        ("a", shared.clone()),
        ("b", shared.clone()),
        ("c", shared),
    ]))
    .unwrap();
    let large = tree!({ "c": [1e8], "b": [-1e8], "a": [1] });
    assert_eq!(
        *layout.gather_grad(&large).unwrap(),
        [(1.0_f32 + -1e8) + 1e8]
    );
    let sorted = tree!({ "a": [1], "b": [-1e8], "c": [1e8] });
    assert_eq!(
        layout.gather_grad(&large).unwrap(),
        layout.gather_grad(&sorted).unwrap()
    );
}

// Decision 1
#[test]
fn map_keys_may_come_in_another_order() {
    let layout = Layout::of(&models::maps()).unwrap();
    let c = HashMap::from([("x", arr1(&[7.0_f32])), ("w", arr1(&[6.0]))]);
    let grads = tree!({ "b": { "z": [5], "k": [3], "n": [4] }, "a": [1, 2], "c": (DynTree::of(&c).unwrap()) });
    let grad = layout.gather_grad(&grads).unwrap();
    assert_eq!(*grad, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0]);
    assert_eq!(present(&grad), [true, true, true, true, true, true, false]);
}

// Decision 1
#[test]
fn struct_fields_may_come_in_another_order() {
    #[derive(Tree)]
    struct Backwards {
        bias: Array1<f32>,
        weight: Array2<f32>,
    }
    let grads = Backwards {
        bias: arr1(&[5.0, 6.0]),
        weight: arr2(&[[1.0, 2.0], [3.0, 4.0]]),
    };
    assert_eq!(
        flat_grad(&models::dense(), &grads),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
}

// Decision 1
#[cfg(feature = "indexmap")]
#[test]
fn the_gradient_of_an_index_map_may_come_in_another_order() {
    let grads = tree!({ "bias": [20], "weight": [10] });
    assert_eq!(
        flat_grad(&models::in_insertion_order(), &grads),
        [10.0, 20.0]
    );
}

// P.A14, P.A15
#[test]
fn gradients_are_read_in_logical_order() {
    let layout = Layout::of(&models::fortran()).unwrap();
    let grads: Array2<f32> = arr2(&[[1.0, 3.0], [2.0, 4.0]]).reversed_axes();
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(
        *layout
            .gather_grad(&arr2(&[[1.0_f64, 3.0], [2.0, 4.0]]).t())
            .unwrap(),
        [1.0, 2.0, 3.0, 4.0]
    );
}

#[test]
fn gradients_may_be_borrowed_or_behind_cells() {
    let layout = Layout::of(&models::pair()).unwrap();
    let (x, y) = ([1.0_f32, 2.0, 3.0], arr1(&[4.0_f32, 5.0, 6.0]));
    assert_eq!(
        *layout.gather_grad(&(&x[..], y.view())).unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    let cell = Rc::new(RefCell::new(y));
    assert_eq!(
        *layout.gather_grad(&(&cell, &cell)).unwrap(),
        [4.0, 5.0, 6.0, 4.0, 5.0, 6.0]
    );
    let (one, column) = (arr0(1.0_f32), arr1(&[2.0_f64]));
    let broadcast = (one.broadcast(3).unwrap(), column.broadcast(3).unwrap());
    assert_eq!(
        *layout.gather_grad(&broadcast).unwrap(),
        [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    );
    let guard = cell.borrow_mut();
    let error = grad_error(&layout, &((), &cell));
    assert!(error.is_borrowed());
    assert_eq!(error.path(), Some("1"));
    drop(guard);
}

// Decision 4
#[test]
fn a_shared_gradient_node_counts_at_each_of_its_places() {
    let layout = Layout::of(&models::tied_subtree()).unwrap();
    let shared = Rc::new(DenseGrad {
        weight: Some(arr2(&[[1.0]])),
        bias: None,
    });
    let grads = BTreeMap::from([("b", shared.clone()), ("a", shared)]);
    let grad = layout.gather_grad(&grads).unwrap();
    assert_eq!(
        (&*grad, present(&grad)),
        (&[2.0, 0.0][..], vec![true, false])
    );
}

// Decision 4
#[test]
fn a_shared_gradient_node_at_an_unknown_place_is_an_error() {
    let layout = Layout::of(&tree!({ "a": [1], "b": [2] })).unwrap();
    let shared = Rc::new(arr1(&[5.0_f32]));
    let grads = BTreeMap::from([("a", shared.clone()), ("x", shared.clone()), ("y", shared)]);
    let error = grad_error(&layout, &grads);
    assert!(error.is_unknown());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["x", "y"]);
}

// Decision 4
#[test]
fn a_shared_gradient_node_is_an_error_at_an_unknown_place_after_an_ignored_one() {
    let layout = Layout::of(&models::masked()).unwrap();
    let shared = Rc::new(arr1(&[5.0_f32]));
    let grads = BTreeMap::from([("b", shared.clone()), ("x", shared)]);
    let error = grad_error(&layout, &grads);
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("x"));
}

// Decision 4
#[test]
fn a_frozen_field_that_holds_nothing_ignores_gradients_too() {
    #[derive(Tree)]
    struct Holds {
        w: Array1<f32>,
        #[tree(frozen)]
        cache: Option<Array1<f32>>,
    }
    let model = Holds {
        w: arr1(&[1.0]),
        cache: None,
    };
    assert_eq!(
        flat_grad(&model, &tree!({ "w": [5], "cache": [6, 7] })),
        [5.0]
    );
}

// Decision 4
#[test]
fn each_place_of_a_shared_node_ignores_what_it_ignores() {
    let shared = Rc::new(models::masked());
    let layout = Layout::of(&[shared.clone(), shared]).unwrap();
    let grads = tree!([{ "b": [1], "c": { "1": [1], "x": [1] } }, { "a": { "0": [1], "1": [1, 2, 3] }, "b": { "x": [1] }, "c": [1] }]);
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [1.0, 2.0, 3.0]);
    let error = grad_error(&layout, &tree!([null, { "a": { "2": [1] } }]));
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("1.a.2"));
}

// Decisions 3 and 4
#[test]
fn a_shared_node_is_frozen_place_by_place() {
    let layout = Layout::of(&models::frozen_subtree()).unwrap();
    let grads = tree!({ "a": { "beta": [100, 100, 100], "x": [1] }, "b": { "beta": [1, 2, 3], "mean": [1] }, "c": { "beta": [9] } });
    let grad = layout.gather_grad(&grads).unwrap();
    assert_eq!(
        (&*grad, present(&grad)),
        (&[1.0, 2.0, 3.0, 0.0, 0.0, 0.0][..], vec![true, false])
    );
    let error = grad_error(&layout, &tree!({ "b": { "x": [1] } }));
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("b.x"));
}

#[test]
fn the_gradient_of_a_root_leaf_is_a_leaf() {
    let layout = Layout::of(&arr1(&[1.0_f32, 2.0])).unwrap();
    assert_eq!(*layout.gather_grad(&tree!([5, 6])).unwrap(), [5.0, 6.0]);
    assert_eq!(present(&layout.gather_grad(&tree!(null)).unwrap()), [false]);
    let error = grad_error(&layout, &tree!({ "a": [1] }));
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("a"));
}

#[test]
fn a_param_has_a_0_d_gradient() {
    let layout = Layout::of(&models::scalars()).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&tree!({ "temperature": 5, "scale": 6, "eps": 7 }))
            .unwrap(),
        [5.0]
    );
    assert_eq!(
        *layout
            .gather_grad(&Temperature {
                temperature: arr0(5.0)
            })
            .unwrap(),
        [5.0]
    );
    let error = grad_error(&layout, &tree!({ "temperature": [5] }));
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("temperature"));
}

#[derive(Tree)]
struct Temperature {
    temperature: ndarray::Array0<f32>,
}

#[test]
fn a_gradient_of_another_variant_is_an_error() {
    let layout = Layout::of(&models::activation()).unwrap();
    assert_eq!(
        *layout.gather_grad(&models::activation()).unwrap(),
        [1.0, 2.0, 3.0]
    );
    let error = grad_error(
        &layout,
        &[models::Activation::Prelu {
            slope: arr1(&[1.0]),
        }],
    );
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("0.slope"));
    let missing = [models::Activation::Relu, models::Activation::Relu];
    assert_eq!(present(&layout.gather_grad(&missing).unwrap()), [false; 3]);
}

struct OwnGradient;

impl Law for OwnGradient {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let (flat, layout) = destructure(&model).unwrap();
        let grad = layout
            .gather_grad_with(&model, TiedGrads::AlreadyTotal)
            .unwrap();
        assert_eq!(*grad, flat, "{name}");
        assert_eq!(present(&grad), vec![true; layout.leaves().len()], "{name}");
        let copy = DynTree::of(&model).unwrap();
        assert_eq!(
            layout
                .gather_grad_with(&copy, TiedGrads::AlreadyTotal)
                .unwrap(),
            grad,
            "{name}"
        );
        // A copy has no cells: what the model holds once, it holds at every place.
        let grad = layout.gather_grad(&model).unwrap();
        let copied = layout.gather_grad(&copy).unwrap();
        for (index, leaf) in layout.leaves().iter().enumerate() {
            if grad.tie_reading(index) != Some(TieReading::CountedOnce) {
                assert_eq!(copied[leaf.range()], grad[leaf.range()], "{name}");
            }
        }
    }
}

#[test]
fn every_model_is_a_gradient_of_itself() {
    models::every(&OwnGradient);
}

struct SummedPlaces;

impl Law for SummedPlaces {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        // Trained everywhere, so that every place counts.
        let layout = Layout::everything(&model).unwrap();
        let (flat, grad) = (
            layout.gather(&model).unwrap(),
            layout.gather_grad(&model).unwrap(),
        );
        for (index, leaf) in layout.leaves().iter().enumerate() {
            // The places of a cell are one object, and one gradient.
            let terms = match grad.tie_reading(index) {
                Some(TieReading::CountedOnce) => 1,
                _ => leaf.places().len(),
            };
            let expected: Vec<f32> = flat[leaf.range()]
                .iter()
                .map(|x| x * terms as f32)
                .collect();
            assert_eq!(grad[leaf.range()], expected, "{name}: {}", leaf.path());
        }
    }
}

// Decision 4
#[test]
fn every_model_is_summed_over_its_places() {
    models::every(&SummedPlaces);
}

#[test]
fn a_vector_that_a_solver_made_is_present_everywhere() {
    let layout = Layout::of(&models::pair()).unwrap();
    let mut grad = FlatGrad::from_flat(&layout, vec![1.0; 6]).unwrap();
    grad[5] = 2.0;
    assert_eq!(
        (present(&grad), grad.into_vec()),
        (vec![true; 2], vec![1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    );
    let error = FlatGrad::from_flat(&layout, vec![1.0; 5]).unwrap_err();
    assert!(error.is_length());
    assert_eq!(
        error.to_string(),
        "the gradient: expected 6 elements, found 5"
    );
}

// Decision 7
#[test]
fn a_gradient_of_another_layout_is_an_error() {
    let layout = Layout::of(&tree!({ "a": [1, 2] })).unwrap();
    for other in [
        tree!({ "b": [1, 2] }),
        tree!({ "a": [[1, 2]] }),
        tree!({ "a": (vec![1.0_f64, 2.0]) }),
        tree!({ "a": [1, 2, 3] }),
    ] {
        let other = Layout::of(&other).unwrap();
        let mut grad = FlatGrad::from_flat(&other, vec![7.0; other.len()]).unwrap();
        let before = grad.clone();
        let error = layout
            .gather_grad_into(&tree!({ "a": [1, 2] }), &mut grad)
            .unwrap_err();
        assert!(error.is_other_layout(), "{error}");
        assert_eq!(grad, before);
    }
    let mut same = FlatGrad::zeros(&Layout::of(&tree!({ "a": [5, 6] })).unwrap());
    layout
        .gather_grad_into(&tree!({ "a": [1, 2] }), &mut same)
        .unwrap();
    assert_eq!(*same, [1.0, 2.0]);
}

#[test]
fn the_gradient_does_not_touch_the_model() {
    let model = models::pair();
    let mut grad = Layout::of(&model).unwrap().gather_grad(&model).unwrap();
    grad.fill(0.0);
    assert_eq!(flat(&model), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

// Gradients of several batches add up to one.
#[test]
fn gradients_add_up() {
    let layout =
        Layout::of(&tree!({ "a": [0], "b": [0, 0], "c": [0], "d": [0], "e": [0] })).unwrap();
    let mut grad = layout
        .gather_grad(&tree!({ "a": [1], "b": [2, 3], "d": [4] }))
        .unwrap();
    grad.add(
        &layout
            .gather_grad(&tree!({ "b": [10, 20], "c": [-0.0], "d": [40] }))
            .unwrap(),
    )
    .unwrap();
    assert_eq!(*grad, [1.0, 12.0, 23.0, 0.0, 44.0, 0.0]);
    assert_eq!(present(&grad), [true, true, true, true, false]);
    // What was absent is copied, bit for bit.
    assert_eq!(grad[3].to_bits(), (-0.0_f32).to_bits());
}

#[test]
fn what_is_absent_in_both_stays_absent() {
    let layout =
        Layout::of(&tree!({ "a": [0], "none": (Array1::<f32>::zeros(0)), "b": [0] })).unwrap();
    let mut grad = FlatGrad::zeros(&layout);
    grad.add(&FlatGrad::zeros(&layout)).unwrap();
    assert_eq!(present(&grad), [false, false, false]);
    grad.add(
        &layout
            .gather_grad(&tree!({ "none": (Array1::<f32>::zeros(0)) }))
            .unwrap(),
    )
    .unwrap();
    assert_eq!(present(&grad), [false, true, false]);
    grad.add(&FlatGrad::from_flat(&layout, vec![1.0, 2.0]).unwrap())
        .unwrap();
    assert_eq!(
        (present(&grad), &*grad),
        (vec![true, true, true], &[1.0, 2.0][..])
    );
}

#[test]
fn a_gradient_of_another_layout_is_not_added() {
    let (layout, other) = (
        Layout::of(&tree!({ "a": [0] })).unwrap(),
        Layout::of(&tree!({ "b": [0] })).unwrap(),
    );
    let mut grad = layout.gather_grad(&tree!({ "a": [1] })).unwrap();
    let before = grad.clone();
    let error = grad
        .add(&other.gather_grad(&tree!({ "b": [1] })).unwrap())
        .unwrap_err();
    assert!(error.is_other_layout(), "{error}");
    assert_eq!(grad, before);
}

#[test]
fn large_gradients_add_up_as_small_ones_do() {
    let tree: Vec<Array1<f32>> = (0..3).map(|_| Array1::zeros(500_000)).collect();
    let layout = Layout::of(&tree).unwrap();
    let numbers = |scale: f32| {
        (0..layout.len())
            .map(|index| scale * (index as f32).sin())
            .collect::<Vec<f32>>()
    };
    let (a, b) = (numbers(1.0), numbers(0.3));
    let mut grad = FlatGrad::from_flat(&layout, a.clone()).unwrap();
    grad.add(&FlatGrad::from_flat(&layout, b.clone()).unwrap())
        .unwrap();
    assert!(
        grad.iter()
            .zip(a.iter().zip(&b))
            .all(|(sum, (a, b))| *sum == a + b)
    );
}
