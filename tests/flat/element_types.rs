//! Leaves of every float type in flat vectors of f32 and of f64: what is exact, what is rounded,
//! what is an error.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::common::{count_from, other_paths, paths};
use flatleaf::Companion::Values;
use flatleaf::{
    DynTree, FlatGrad, Layout, LeafAt, TiedGrads, Tree, deep_clone, destructure, destructure_as,
    ops, tree,
};
use ndarray::{Array0, Array1, Array2, ArrayD, arr0, arr1, arr2};

/// Numbers of which an f32 holds none.
const FINE: [f64; 3] = [0.1, 1.0 + f64::EPSILON, 1e300];

/// A model of f32 and f64, with what is no parameter.
#[derive(Tree, Debug, PartialEq)]
struct Model {
    single: Array1<f32>,
    double: Array1<f64>,
    #[tree(frozen)]
    mean: Array1<f64>,
    seen: Vec<i64>,
    flags: Vec<bool>,
    eps: f64,
    #[tree(param)]
    scale: f64,
}

fn model() -> Model {
    Model {
        single: arr1(&[1.5, -0.0]),
        double: Array1::from(FINE.to_vec()),
        mean: arr1(&[0.3]),
        seen: vec![7, i64::MAX],
        flags: vec![true, false],
        eps: 1e-12,
        scale: 0.7,
    }
}

/// The model's flat vector.
const FLAT: [f64; 6] = [1.5, -0.0, FINE[0], FINE[1], FINE[2], 0.7];

fn bits(flat: &[f64]) -> Vec<u64> {
    flat.iter().map(|x| x.to_bits()).collect()
}

// Decision 8
#[test]
fn a_vector_of_f64_holds_f64_leaves_exactly() {
    let model = model();
    let (flat, layout) = destructure_as::<f64>(&model).unwrap();
    assert_eq!(bits(&flat), bits(&FLAT));
    assert_eq!(paths(&layout), ["single", "double", "scale"]);
    let mut into = [7.0; 6];
    layout.gather_into_as(&model, &mut into).unwrap();
    assert_eq!(bits(&into), bits(&FLAT));
    assert_eq!(layout.restructure_as(&model, &flat).unwrap(), model);
}

// P.B4, J.A13
#[test]
fn what_is_no_parameter_is_carried_along() {
    let mut model = model();
    let (_, layout) = destructure_as::<f64>(&model).unwrap();
    assert_eq!(other_paths(&layout), ["mean", "seen", "flags"]);
    let new = layout
        .restructure_as(&model, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .unwrap();
    let expected = Model {
        single: arr1(&[1.0, 2.0]),
        double: arr1(&[3.0, 4.0, 5.0]),
        scale: 6.0,
        ..self::model()
    };
    assert_eq!(new, expected);
    layout
        .restructure_into_as(&mut model, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .unwrap();
    assert_eq!(model, expected);

    let other = Model {
        mean: arr1(&[0.1]),
        seen: vec![200, -56],
        flags: vec![false, false],
        ..self::model()
    };
    layout.copy_frozen(&other, &mut model).unwrap();
    assert_eq!(
        model,
        Model {
            single: arr1(&[1.0, 2.0]),
            double: arr1(&[3.0, 4.0, 5.0]),
            scale: 6.0,
            ..other
        }
    );
}

// P.B4
#[test]
fn a_bare_f64_and_narrow_integers_come_back_exactly() {
    let model = (arr1(&[1.0_f32, 2.0]), arr0(0.1_f64));
    let (flat, layout) = destructure_as::<f64>(&model).unwrap();
    assert_eq!(layout.restructure_as(&model, &flat).unwrap().1, arr0(0.1));
    let integers = (arr1(&[1_i8, 2]), arr0(200_i32), arr1(&[0.5_f32]));
    let (_, layout) = destructure_as::<f64>(&integers).unwrap();
    assert_eq!(
        layout.restructure_as(&integers, &[9.0]).unwrap(),
        (arr1(&[1, 2]), arr0(200), arr1(&[9.0]))
    );
}

#[test]
fn the_f32_methods_name_every_f64_leaf_and_what_to_call() {
    let mut model = model();
    let layout = Layout::of(&model).unwrap();
    let (mut flat, mut grad) = (
        [7.0; 6],
        FlatGrad::from_flat(&layout, vec![7.0; 6]).unwrap(),
    );
    let never =
        |_: LeafAt<'_, 0>, _: &mut [f32], []: [&[f32]; 0]| unreachable!("nothing is to be called");
    let errors = [
        destructure(&model).unwrap_err(),
        layout.gather(&model).unwrap_err(),
        layout.gather_into(&model, &mut flat).unwrap_err(),
        layout.gather_grad(&model).unwrap_err(),
        layout
            .gather_grad_with(&model, TiedGrads::AlreadyTotal)
            .unwrap_err(),
        layout.gather_grad_into(&model, &mut grad).unwrap_err(),
        layout.restructure(&model, &[0.0; 6]).unwrap_err(),
        layout.restructure_into(&mut model, &[0.0; 6]).unwrap_err(),
        layout.map(&model, [], never).unwrap_err(),
        layout.map_into(&mut model, [], never).unwrap_err(),
        layout
            .par_map_into(&mut model, [], |_, _, []| {
                unreachable!("nothing is to be called")
            })
            .unwrap_err(),
        layout
            .fold(&model, [], (), |(), _, _, []| {
                unreachable!("nothing is to be called")
            })
            .unwrap_err(),
        layout
            .map_reduce(&model, [], |_, x, []| ops::sum(x), |a, b| a + b)
            .unwrap_err(),
        layout
            .par_map_reduce(&model, [], |_, x, []| ops::sum(x), |a, b| a + b)
            .unwrap_err(),
        layout.mask(&model).unwrap_err(),
        layout.norm_l2(&model).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_element_type(), "{error}");
        assert_eq!(error.paths().collect::<Vec<_>>(), ["double", "scale"]);
        assert_eq!(
            error.to_string(),
            "`double`: expected f32, f16 or bf16, for a vector of f32 (a vector of f64 holds all: `destructure_as::<f64>`, \
             `gather_as::<f64>`, `Optimizer::new_as::<f64>`, `map_into_as`, …; \
             `Layout::planner().round_f64()` rounds), found f64; \
             `scale`: expected f32, f16 or bf16, for a vector of f32, found f64"
        );
    }
    assert_eq!(
        (flat, &*grad, model),
        ([7.0; 6], &[7.0; 6][..], self::model())
    );
}

#[test]
fn the_first_eight_of_many_f64_leaves_are_listed() {
    let model: Vec<Vec<f64>> = (0..20).map(|_| vec![0.0]).collect();
    let error = destructure(&model).unwrap_err();
    assert_eq!(
        error.paths().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "6", "7"]
    );
    assert!(
        error.to_string().ends_with("found f64; and 12 more"),
        "{error}"
    );
}

#[test]
fn a_frozen_f64_leaf_is_no_error() {
    let layout = Layout::planner()
        .freeze("double")
        .freeze("scale")
        .of(&model())
        .unwrap();
    assert_eq!(layout.gather(&model()).unwrap(), [1.5, -0.0]);
    assert_eq!(
        layout.restructure(&model(), &[2.0, 3.0]).unwrap(),
        Model {
            single: arr1(&[2.0, 3.0]),
            ..model()
        }
    );
}

#[test]
fn f64_leaves_may_be_rounded_where_somebody_asks_for_it() {
    let mut model = model();
    let layout = Layout::planner().round_f64().of(&model).unwrap();
    let flat = layout.gather(&model).unwrap();
    assert_eq!(flat, [1.5, -0.0, 0.1, 1.0, f32::INFINITY, 0.7]);
    let rounded = Model {
        double: arr1(&[f64::from(0.1_f32), 1.0, f64::INFINITY]),
        scale: f64::from(0.7_f32),
        ..self::model()
    };
    assert_eq!(layout.restructure(&model, &flat).unwrap(), rounded);
    assert_eq!(*layout.gather_grad(&model).unwrap(), flat);
    assert_eq!(
        layout.norm_l2(&tree!({ "double": [3, 0, 4] })).unwrap(),
        5.0
    );
    assert_eq!(layout.gather_as::<f64>(&model).unwrap(), FLAT);

    layout.restructure_into(&mut model, &flat).unwrap();
    assert_eq!(model, rounded);
    let halved = layout
        .map(&model, [], |_, x, []| ops::scale(x, 0.5))
        .unwrap();
    layout
        .map_into(&mut model, [], |_, x, []| ops::scale(x, 0.5))
        .unwrap();
    assert_eq!(model, halved);
    assert_eq!(
        model.double,
        arr1(&[f64::from(0.05_f32), 0.5, f64::INFINITY])
    );
}

#[test]
fn a_layout_that_rounds_is_another_one() {
    let (exact, rounding) = (
        Layout::of(&model()).unwrap(),
        Layout::planner().round_f64().of(&model()).unwrap(),
    );
    assert_ne!(exact, rounding);
    assert_ne!(exact.fingerprint(), rounding.fingerprint());
    assert_eq!(
        rounding,
        Layout::planner().round_f64().of(&model()).unwrap()
    );
    let mut grad = FlatGrad::<f64>::zeros(&rounding);
    assert!(
        exact
            .gather_grad_into_as(&model(), &mut grad)
            .unwrap_err()
            .is_other_layout()
    );
    // Nothing to round, nothing else.
    let plain = tree!({ "w": [1] });
    assert_eq!(
        Layout::of(&plain).unwrap(),
        Layout::planner().round_f64().of(&plain).unwrap()
    );
}

#[cfg(feature = "serde")]
#[test]
fn a_layout_keeps_its_types_when_it_is_stored() {
    for layout in [
        Layout::of(&model()).unwrap(),
        Layout::planner().round_f64().of(&model()).unwrap(),
    ] {
        let text = serde_json::to_string(&layout).unwrap();
        let read: Layout = serde_json::from_str(&text).unwrap();
        assert_eq!((&read, read.fingerprint()), (&layout, layout.fingerprint()));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(
            read.gather(&model()).is_ok(),
            layout.gather(&model()).is_ok()
        );
        assert_eq!(read.gather_as::<f64>(&model()).unwrap(), FLAT);
    }
    let plain = serde_json::to_value(Layout::of(&model()).unwrap()).unwrap();
    assert_eq!(plain.get("round_f64"), None);
}

// Decision 2, over other types
#[test]
fn ties_of_f64_are_one_parameter() {
    let (shared, cell) = (
        Rc::new(vec![0.1_f64, 0.2]),
        Rc::new(RefCell::new(vec![0.3_f64])),
    );
    let view = arr2(&[[0.4_f64, 0.5], [0.6, 0.7]]).into_shared();
    let tree = (
        shared.clone(),
        cell.clone(),
        view.clone(),
        shared,
        cell,
        view.reversed_axes(),
    );
    let (flat, layout) = destructure_as::<f64>(&tree).unwrap();
    assert_eq!(flat, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]);

    let values: Vec<f64> = flat.iter().map(|x| x / 3.0).collect();
    let mut new = layout.restructure_as(&tree, &values).unwrap();
    assert!(Rc::ptr_eq(&new.0, &new.3) && Rc::ptr_eq(&new.1, &new.4));
    assert_eq!(new.2.as_ptr(), new.5.as_ptr());
    assert_eq!(new.5, new.2.t());
    assert_eq!(layout.gather_as::<f64>(&new).unwrap(), values);
    layout.restructure_into_as(&mut new, &flat).unwrap();
    assert_eq!(layout.gather_as::<f64>(&new).unwrap(), flat);
    assert_eq!(Layout::of(&new).unwrap(), layout);
    assert_eq!(Layout::of(&deep_clone(&new).unwrap()).unwrap(), layout);

    let grad = layout.gather_grad_as::<f64>(&new).unwrap();
    let permuted = [0.4 + 0.4, 0.5 + 0.5, 0.6 + 0.6, 0.7 + 0.7];
    // The pointer counts at both places, the cell once.
    assert_eq!(*grad, [&[0.2, 0.4, 0.3][..], &permuted].concat());
    assert_eq!(
        *layout
            .gather_grad_with_as::<f64>(&new, TiedGrads::AlreadyTotal)
            .unwrap(),
        flat
    );
}

// Decision 6
#[test]
fn places_of_f64_that_differ_in_the_last_bit_are_no_tie() {
    let shared = Rc::new(vec![1.0_f64]);
    let layout = Layout::planner()
        .round_f64()
        .of(&(shared.clone(), shared))
        .unwrap();
    let untied = (vec![1.0_f64], vec![1.0 + f64::EPSILON]);
    for error in [
        layout.gather_as::<f64>(&untied).unwrap_err(),
        layout.gather(&untied).unwrap_err(),
    ] {
        assert!(error.is_broken_tie(), "{error}");
        assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
    }
    assert_eq!(
        layout
            .gather_as::<f64>(&(vec![1.0_f64], vec![1.0_f64]))
            .unwrap(),
        [1.0]
    );
}

// J.C10
#[test]
fn gradients_of_any_float_type_enter_a_vector_of_f64_without_loss() {
    let layout = Layout::of(&tree!({ "x": [0, 0], "y": [0, 0, 0] })).unwrap();
    let grads = crate::common::models::Foo {
        x: arr1(&[1.2_f64, 3.4]),
        y: arr1(&[5.0_f32, 6.0, 7.5]),
    };
    let grad = layout.gather_grad_as::<f64>(&grads).unwrap();
    assert_eq!(*grad, [1.2, 3.4, 5.0, 6.0, 7.5]);
    assert_eq!((grad.is_present(0), grad.is_present(1)), (true, true));

    let mut stale = FlatGrad::<f64>::from_flat(&layout, vec![9.0; 5]).unwrap();
    layout
        .gather_grad_into_as(&tree!({ "y": [1, 2, 3] }), &mut stale)
        .unwrap();
    assert_eq!(
        (&*stale, stale.is_present(0)),
        (&[0.0, 0.0, 1.0, 2.0, 3.0][..], false)
    );
    stale.add(&grad).unwrap();
    assert_eq!(
        (&*stale, stale.is_present(0)),
        (&[1.2, 3.4, 6.0, 8.0, 10.5][..], true)
    );
    assert_eq!(stale.into_vec(), [1.2, 3.4, 6.0, 8.0, 10.5]);
}

// J.C10
#[test]
fn an_integer_gradient_is_an_error_for_f64_too() {
    let layout = Layout::of(&(vec![0.0_f64], vec![0.0_f32])).unwrap();
    let mut grad = FlatGrad::<f64>::from_flat(&layout, vec![7.0; 2]).unwrap();
    let error = layout
        .gather_grad_into_as(&(vec![1.0_f64], vec![1_u8]), &mut grad)
        .unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(
        error.to_string(),
        "`1`: expected a gradient of floats, found u8"
    );
    assert_eq!(*grad, [7.0; 2]);
}

#[test]
fn lengths_and_types_are_checked_for_f64_too() {
    let mut tree = (vec![1.0_f64], vec![2.0_f32]);
    let layout = Layout::of(&tree).unwrap();
    assert!(
        layout
            .gather_into_as(&tree, &mut [0.0_f64; 3])
            .unwrap_err()
            .is_length()
    );
    assert!(
        layout
            .restructure_as(&tree, &[0.0_f64; 3])
            .unwrap_err()
            .is_length()
    );
    assert!(
        layout
            .restructure_into_as(&mut tree, &[0.0_f64; 1])
            .unwrap_err()
            .is_length()
    );
    assert!(
        FlatGrad::from_flat(&layout, vec![0.0_f64; 3])
            .unwrap_err()
            .is_length()
    );
    let error = layout
        .gather_as::<f64>(&(vec![1.0_f32], vec![2.0_f32]))
        .unwrap_err();
    assert_eq!(error.to_string(), "`0`: expected f64, found f32");
    let mut single = (vec![1.0_f32], vec![2.0_f32]);
    assert!(
        layout
            .restructure_into_as(&mut single, &[0.0_f64; 2])
            .unwrap_err()
            .is_element_type()
    );
    assert_eq!(single, (vec![1.0], vec![2.0]));
}

#[test]
fn views_are_of_any_type() {
    let (mut flat, layout) =
        destructure_as::<f64>(&(arr2(&[[0.1_f64, 0.2], [0.3, 0.4]]), arr1(&[5.0_f32]))).unwrap();
    assert_eq!(
        layout.view_as(&flat, "0").unwrap(),
        arr2(&[[0.1, 0.2], [0.3, 0.4]]).into_dyn()
    );
    layout.view_mut_as(&mut flat, "0").unwrap()[[1, 0]] = 0.9;
    for (leaf, mut array) in layout.views_mut_as(&mut flat).unwrap() {
        array += leaf.range().start as f64;
    }
    let shapes: Vec<_> = layout
        .views_as(&flat)
        .unwrap()
        .map(|(_, array)| array.shape().to_vec())
        .collect();
    assert_eq!(
        (shapes, flat),
        (vec![vec![2, 2], vec![1]], vec![0.1, 0.2, 0.9, 0.4, 9.0])
    );
    let decayed = [true, true, true, true, false];
    assert!(!layout.view_as(&decayed, "1").unwrap()[[0]]);
}

#[test]
fn a_tree_without_half_floats_or_doubles_goes_into_either_vector() {
    struct Same;
    impl crate::common::models::Law for Same {
        fn holds<T: Tree>(&self, name: &str, mut model: T) {
            let (flat, layout) = destructure(&model).unwrap();
            let (double, _) = destructure_as::<f64>(&model).unwrap();
            assert_eq!(
                double,
                flat.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
                "{name}"
            );
            let values: Vec<f64> = count_from(100.5, layout.len())
                .into_iter()
                .map(f64::from)
                .collect();
            let new = layout.restructure_as(&model, &values).unwrap();
            assert_eq!(layout.gather_as::<f64>(&new).unwrap(), values, "{name}");
            assert_eq!(Layout::of(&new).unwrap(), layout, "{name}");
            layout.restructure_into_as(&mut model, &values).unwrap();
            assert_eq!(layout.gather_as::<f64>(&model).unwrap(), values, "{name}");
            let (single, grad) = (
                layout.gather_grad(&model).unwrap(),
                layout.gather_grad_as::<f64>(&model).unwrap(),
            );
            assert_eq!(
                *grad,
                single.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
                "{name}"
            );
        }
    }
    crate::common::models::every(&Same);
}

/// Every float of f32 that is special, and some of all the others.
fn patterns_of_f32() -> impl Iterator<Item = f32> {
    let special = [
        0,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fbf_ffff,
        0x7fc0_0000,
        0x7fc0_0001,
        0x7fff_ffff,
    ];
    let all = special.into_iter().chain((0..=0x7fff_ffff).step_by(99_991));
    all.flat_map(|bits| [bits, bits | 0x8000_0000])
        .map(f32::from_bits)
}

// P.A21
#[test]
fn every_pattern_of_f32_comes_back_from_a_vector_of_f64() {
    let leaf: Vec<f32> = patterns_of_f32().collect();
    let (flat, layout) = destructure_as::<f64>(&leaf).unwrap();
    let exact = flat
        .iter()
        .zip(&leaf)
        .all(|(wide, x)| *wide == f64::from(*x) || (wide.is_nan() && x.is_nan()));
    assert!(exact);
    assert_eq!(
        crate::common::bits(&layout.restructure_as(&leaf, &flat).unwrap()),
        crate::common::bits(&leaf)
    );
}

#[test]
fn f64_is_rounded_to_f32_as_a_cast_does() {
    let layout = Layout::of(&vec![0.0_f32; 6]).unwrap();
    let flat = [
        0.1,
        -1e-50,
        1e39,
        1.0 + 2.0_f64.powi(-24),
        1.0 + 3.0 * 2.0_f64.powi(-24),
        f64::from_bits(0xfff0_0000_0000_0001),
    ];
    let new = layout.restructure_as(&vec![0.0_f32; 6], &flat).unwrap();
    let bits: Vec<u32> = new.iter().map(|x| x.to_bits()).collect();
    // A NaN of which nothing is left is the quiet one.
    let expected = [0.1, -0.0, f32::INFINITY, 1.0, 1.0 + 2.0 * f32::EPSILON].map(f32::to_bits);
    assert_eq!(bits, [&expected[..], &[0xffc0_0000]].concat());
}

/// 1.2 million elements: moved by all threads.
fn large<E>(of: impl Fn(f64) -> E) -> Vec<ArrayD<E>> {
    let array = |seed: usize| {
        ArrayD::from_shape_fn([400, 700].to_vec(), |at| {
            of(((at[0] * 700 + at[1] + seed) as f64).sin())
        })
    };
    vec![array(0), array(1)]
}

#[test]
fn large_leaves_are_moved_as_small_ones_are() {
    let tree = (large(|x| x), large(|x| x as f32));
    let expected: Vec<f64> = tree
        .0
        .iter()
        .flatten()
        .copied()
        .chain(tree.1.iter().flatten().map(|&x| f64::from(x)))
        .collect();
    let (flat, layout) = destructure_as::<f64>(&tree).unwrap();
    assert_eq!(flat, expected);
    assert_eq!(*layout.gather_grad_as::<f64>(&tree).unwrap(), expected);
    let third: Vec<f64> = flat.iter().map(|x| x / 3.0).collect();
    let mut new = layout.restructure_as(&tree, &third).unwrap();
    let thirds = (
        large(|x| x / 3.0),
        large(|x| (f64::from(x as f32) / 3.0) as f32),
    );
    assert_eq!(new, thirds);
    layout.restructure_into_as(&mut new, &flat).unwrap();
    assert_eq!(new, tree);

    let rounding = Layout::planner().round_f64().of(&tree).unwrap();
    let single = rounding.gather(&tree).unwrap();
    assert!(
        single
            .iter()
            .zip(&expected)
            .all(|(single, exact)| *single == *exact as f32)
    );
    assert_eq!(*rounding.gather_grad(&tree).unwrap(), single);
    let mut halved = deep_clone(&tree).unwrap();
    rounding
        .par_map_into(&mut halved, [Values(&tree)], |_, x, [y]| {
            ops::axpy(x, -0.5, y)
        })
        .unwrap();
    assert_eq!(
        rounding.gather(&halved).unwrap(),
        single.iter().map(|x| x + -0.5 * x).collect::<Vec<_>>()
    );
}

/// A leaf that is read and written by callbacks.
struct Remote(Arc<Mutex<Vec<f64>>>);

impl Tree for Remote {
    fn visit<'a>(&'a self, visitor: &mut dyn flatleaf::Visitor<'a>) -> flatleaf::Result<()> {
        let read = flatleaf::Reader::new(|out: &mut [f64]| {
            out.copy_from_slice(&self.0.lock().unwrap());
            Ok(())
        });
        let shape = [self.0.lock().unwrap().len()];
        visitor.leaf(flatleaf::LeafRef::from_reader(&shape, &read))
    }

    fn visit_mut<'a>(
        &'a mut self,
        visitor: &mut dyn flatleaf::VisitorMut<'a>,
    ) -> flatleaf::Result<()> {
        let shape = [self.0.lock().unwrap().len()];
        let mut write = flatleaf::Writer::new(|values: &[f64]| {
            self.0.lock().unwrap().copy_from_slice(values);
            Ok(())
        });
        visitor.leaf(flatleaf::LeafMut::from_writer(&shape, &mut write))
    }

    fn rebuild(&self, builder: &mut flatleaf::Builder<'_>) -> flatleaf::Result<Self> {
        let old = self.0.lock().unwrap().clone();
        let values = builder.leaf(flatleaf::LeafRef::from_slice(&[old.len()], &old))?;
        Ok(Remote(Arc::new(Mutex::new(values))))
    }
}

#[test]
fn leaves_behind_callbacks_are_converted_too() {
    let mut tree = (Remote(Arc::new(Mutex::new(vec![0.1, 0.2]))), vec![1.0_f32]);
    let layout = Layout::planner().round_f64().of(&tree).unwrap();
    assert_eq!(layout.gather_as::<f64>(&tree).unwrap(), [0.1, 0.2, 1.0]);
    let mut flat = [0.0_f32; 3];
    layout.gather_into(&tree, &mut flat).unwrap();
    assert_eq!(flat, [0.1, 0.2, 1.0]);
    layout
        .restructure_into(&mut tree, &[0.3, 0.4, 2.0])
        .unwrap();
    assert_eq!(
        *tree.0.0.lock().unwrap(),
        [f64::from(0.3_f32), f64::from(0.4_f32)]
    );
    layout
        .restructure_into_as(&mut tree, &[0.3, 0.4, 2.0])
        .unwrap();
    assert_eq!(*tree.0.0.lock().unwrap(), [0.3, 0.4]);
    let new = layout.restructure_as(&tree, &[0.5, 0.6, 3.0]).unwrap();
    assert_eq!(
        (&*new.0.0.lock().unwrap(), new.1),
        (&vec![0.5, 0.6], vec![3.0])
    );
    layout
        .map_into(&mut tree, [], |_, x, []| ops::scale(x, 2.0))
        .unwrap();
    assert_eq!(
        *tree.0.0.lock().unwrap(),
        [f64::from(0.6_f32), f64::from(0.8_f32)]
    );
}

#[test]
fn dynamic_trees_hold_every_float_type() {
    let tree = tree!({ "a": (vec![0.1_f64]), "b": [0.5] });
    let (flat, layout) = destructure_as::<f64>(&tree).unwrap();
    assert_eq!(flat, [0.1, 0.5]);
    let new: DynTree = layout.restructure_as(&tree, &[0.2, 0.7]).unwrap();
    assert_eq!(new, tree!({ "a": (vec![0.2_f64]), "b": [0.7] }));
    assert_eq!(new.get("a").unwrap().as_array::<f64>().unwrap()[[0]], 0.2);
}

#[test]
fn zero_d_and_empty_leaves_of_f64() {
    let tree: (Array0<f64>, Array2<f64>, Vec<f64>) = (arr0(0.1), Array2::zeros((0, 3)), Vec::new());
    let (flat, layout) = destructure_as::<f64>(&tree).unwrap();
    assert_eq!(flat, [0.1]);
    assert_eq!(
        layout.restructure_as(&tree, &[0.2]).unwrap(),
        (arr0(0.2), Array2::zeros((0, 3)), Vec::new())
    );
    let layout = Layout::planner().round_f64().of(&tree).unwrap();
    let mut calls = Vec::new();
    layout
        .map_into(&mut tree.clone(), [], |leaf, x, []| {
            calls.push((leaf.path().to_owned(), x.len()))
        })
        .unwrap();
    calls.sort();
    assert_eq!(
        calls,
        [
            ("0".to_owned(), 1),
            ("1".to_owned(), 0),
            ("2".to_owned(), 0)
        ]
    );
}

#[cfg(feature = "half")]
mod half_floats {
    use super::*;
    use crate::common::{models, present};
    use flatleaf::Companion::Grads;
    use flatleaf::optim::{Optimizer, Sgd};
    use half::{bf16, f16};

    /// All numbers of a type from zero up, the infinity last.
    fn ascending(to_f64: fn(u16) -> f64, infinity: u16) -> Vec<f64> {
        (0..=infinity).map(to_f64).collect()
    }

    fn f16s() -> Vec<f64> {
        ascending(|bits| f16::from_bits(bits).to_f64_const(), 0x7c00)
    }

    fn bf16s() -> Vec<f64> {
        ascending(|bits| bf16::from_bits(bits).to_f64_const(), 0x7f80)
    }

    // P.A21
    #[test]
    fn every_pattern_of_16_bits_comes_back() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let tree = (halves, brains);
        let (single, layout) = destructure(&tree).unwrap();
        let (double, _) = destructure_as::<f64>(&tree).unwrap();
        let plain = tree
            .0
            .iter()
            .map(|x| x.to_f64_const())
            .chain(tree.1.iter().map(|x| x.to_f64_const()));
        for ((single, double), plain) in single.iter().zip(&double).zip(plain) {
            assert!(
                plain.is_nan() && single.is_nan() && double.is_nan()
                    || f64::from(*single) == plain && *double == plain
            );
            assert_eq!(
                (single.is_sign_negative(), double.is_sign_negative()),
                (plain.is_sign_negative(), plain.is_sign_negative())
            );
        }
        let bits = |tree: &(Vec<f16>, Vec<bf16>)| -> Vec<u16> {
            tree.0
                .iter()
                .map(|x| x.to_bits())
                .chain(tree.1.iter().map(|x| x.to_bits()))
                .collect()
        };
        let expected = bits(&tree);
        assert_eq!(bits(&layout.restructure(&tree, &single).unwrap()), expected);
        assert_eq!(
            bits(&layout.restructure_as(&tree, &double).unwrap()),
            expected
        );
        let mut target = (vec![f16::ZERO; 1 << 16], vec![bf16::ZERO; 1 << 16]);
        layout.restructure_into(&mut target, &single).unwrap();
        assert_eq!(bits(&target), expected);
    }

    /// Rounds as the definition says: of the two neighbours the nearer one, of equally near ones
    /// the even one.
    fn nearest(ascending: &[f64], x: f64) -> u16 {
        let above = ascending.partition_point(|&number| number < x.abs());
        let infinity = ascending.len() - 1;
        // Beyond the largest number the next one would be, if there were one, as far as the last
        // one.
        let number = |index: usize| match index {
            _ if index == infinity => 2.0 * ascending[infinity - 1] - ascending[infinity - 2],
            _ => ascending[index],
        };
        let index = match above {
            0 => 0,
            _ if above > infinity => infinity,
            above => {
                let (low, high) = (x.abs() - number(above - 1), number(above) - x.abs());
                if low < high || low == high && (above - 1) % 2 == 0 {
                    above - 1
                } else {
                    above
                }
            }
        };
        index as u16 | if x.is_sign_negative() { 0x8000 } else { 0 }
    }

    /// Every number, the middle of every two, and what is next to it.
    fn around(ascending: &[f64]) -> Vec<f64> {
        let next = |x: f64, by: i64| f64::from_bits((x.to_bits() as i64 + by) as u64);
        let finite = &ascending[..ascending.len() - 1];
        let middles = finite
            .windows(2)
            .map(|pair| pair[0] + (pair[1] - pair[0]) / 2.0);
        let beyond =
            finite[finite.len() - 1] + (finite[finite.len() - 1] - finite[finite.len() - 2]) / 2.0;
        let all = middles.chain([beyond, f64::MAX, f64::INFINITY, f64::MIN_POSITIVE, 1e-300]);
        all.flat_map(|x| [x, next(x, -1), next(x, 1).min(f64::INFINITY), -x])
            .chain(finite.iter().copied())
            .collect()
    }

    #[test]
    fn f64_is_rounded_to_16_bits_once() {
        let (halves, brains) = (around(&f16s()), around(&bf16s()));
        let tree = (
            vec![f16::ZERO; halves.len()],
            vec![bf16::ZERO; brains.len()],
        );
        let flat = [&halves[..], &brains].concat();
        let new = Layout::of(&tree)
            .unwrap()
            .restructure_as(&tree, &flat)
            .unwrap();
        let (all_halves, all_brains) = (f16s(), bf16s());
        for (x, half) in halves.iter().zip(&new.0) {
            assert_eq!(half.to_bits(), nearest(&all_halves, *x), "{x:e}");
        }
        for (x, brain) in brains.iter().zip(&new.1) {
            assert_eq!(brain.to_bits(), nearest(&all_brains, *x), "{x:e}");
        }
        // By way of f32 this is a tie, and goes to 1.
        let above_a_middle = 1.0 + 2.0_f64.powi(-11) + 2.0_f64.powi(-40);
        assert_eq!(f16::from_f32(above_a_middle as f32), f16::ONE);
        let tree = vec![f16::ZERO];
        assert_eq!(
            Layout::of(&tree)
                .unwrap()
                .restructure_as(&tree, &[above_a_middle])
                .unwrap(),
            [f16::from_f32(1.0 + 2.0_f32.powi(-10))]
        );
    }

    #[test]
    fn f32_is_rounded_to_nearest_even() {
        let values: Vec<f32> = patterns_of_f32()
            .chain(
                around(&f16s())
                    .into_iter()
                    .chain(around(&bf16s()))
                    .map(|x| x as f32),
            )
            .collect();
        let tree = (
            vec![f16::ZERO; values.len()],
            vec![bf16::ZERO; values.len()],
        );
        let flat = [&values[..], &values].concat();
        let new = Layout::of(&tree)
            .unwrap()
            .restructure(&tree, &flat)
            .unwrap();
        let (all_halves, all_brains) = (f16s(), bf16s());
        for ((x, half), brain) in values.iter().zip(&new.0).zip(&new.1) {
            if x.is_nan() {
                assert!(half.is_nan() && brain.is_nan());
                assert_eq!(
                    (half.is_sign_negative(), brain.is_sign_negative()),
                    (x.is_sign_negative(), x.is_sign_negative())
                );
                continue;
            }
            assert_eq!(half.to_bits(), nearest(&all_halves, f64::from(*x)), "{x:e}");
            assert_eq!(
                brain.to_bits(),
                nearest(&all_brains, f64::from(*x)),
                "{x:e}"
            );
        }
    }

    #[test]
    fn every_width_of_vectors_gives_the_same_bits() {
        use flatleaf::ops::dispatch::{Width, limit};
        let x: Vec<f64> = patterns_of_f32()
            .map(f64::from)
            .chain(around(&f16s()))
            .collect();
        let tree = (
            vec![f16::ZERO; x.len()],
            vec![bf16::ZERO; x.len()],
            vec![0.0_f32; x.len()],
        );
        let flat = x.repeat(3);
        let layout = Layout::of(&tree).unwrap();
        let all = |width| {
            limit(width);
            let new = layout.restructure_as(&tree, &flat).unwrap();
            let single = layout.gather(&new).unwrap();
            let back = layout.restructure(&new, &single).unwrap();
            let double: Vec<u64> = bits(&layout.gather_as(&back).unwrap());
            limit(Width::Widest);
            (crate::common::bits(&single), double)
        };
        let widest = all(Width::Widest);
        assert!(all(Width::Avx2) == widest && all(Width::Baseline) == widest);
    }

    // J.A12
    #[test]
    fn what_is_no_parameter_does_not_change_the_type() {
        #[derive(Tree, Debug, PartialEq)]
        struct Part<X, Y> {
            x: X,
            y: Y,
        }
        let one = || Part {
            x: None::<Vec<f32>>,
            y: 0_i32,
        };
        let two = || Part {
            x: [1.0, 2.0].map(f16::from_f32).to_vec(),
            y: vec![f16::from_f32(3.0)],
        };
        let (flat, layout) = destructure(&(one(), two())).unwrap();
        assert_eq!(
            flat,
            [
                destructure(&one()).unwrap().0,
                destructure(&two()).unwrap().0
            ]
            .concat()
        );
        assert_eq!(flat, [1.0, 2.0, 3.0]);
        assert_eq!(
            layout
                .leaves()
                .iter()
                .map(|leaf| leaf.dtype())
                .collect::<Vec<_>>(),
            [flatleaf::Dtype::F16; 2]
        );
        assert_eq!(
            layout.restructure(&(one(), two()), &flat).unwrap(),
            (one(), two())
        );
    }

    // J.D19, P.B6
    #[test]
    fn element_types_stay_through_updates_with_gradients_of_f64() {
        let mut tree = (
            vec![f16::from_f32(1.0), f16::from_f32(2.0)],
            vec![3.0_f32, 4.0],
        );
        let layout = Layout::of(&tree).unwrap();
        let grads = (vec![0.5_f64, 0.25], vec![0.1_f64, 0.2]);
        let stepped = layout
            .map(&tree, [Grads(&grads)], |_, x, [dx]| ops::axpy(x, -1.0, dx))
            .unwrap();
        assert_eq!(
            stepped,
            (
                vec![f16::from_f32(0.5), f16::from_f32(1.75)],
                vec![3.0 - 0.1, 4.0 - 0.2]
            )
        );
        layout
            .map_into(&mut tree, [Grads(&grads)], |_, x, [dx]| {
                ops::axpy(x, -1.0, dx)
            })
            .unwrap();
        assert_eq!(tree, stepped);
        layout
            .par_map_into(&mut tree, [Grads(&grads)], |_, x, [dx]| {
                ops::axpy(x, 1.0, dx)
            })
            .unwrap();
        assert_eq!(tree.0, [f16::from_f32(1.0), f16::from_f32(2.0)]);
    }

    // J.C10
    #[test]
    fn gradients_of_half_floats_enter_both_vectors() {
        let layout = Layout::of(&(vec![bf16::ZERO; 2], vec![0.0_f32], vec![0.0_f64])).unwrap();
        let grads = (
            vec![0.1_f64, 1e-300],
            vec![f16::from_f32(0.1)],
            vec![bf16::from_f32(0.1)],
        );
        let (half, brain) = (f16::from_f32(0.1).to_f64(), bf16::from_f32(0.1).to_f64());
        assert_eq!(
            *layout.gather_grad_as::<f64>(&grads).unwrap(),
            [0.1, 1e-300, half, brain]
        );
        let error = layout
            .gather_grad_as::<f64>(&(vec![1_i16; 2], vec![0.0_f32], vec![0.0_f64]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`0`: expected a gradient of floats, found i16"
        );
    }

    #[test]
    fn gradients_of_half_floats_add_up_in_f32() {
        // 256 + 1 is no bf16.
        let shared = Rc::new(vec![bf16::ZERO]);
        let layout = Layout::of(&(shared.clone(), shared)).unwrap();
        let grads = (vec![bf16::from_f32(256.0)], vec![bf16::from_f32(1.0)]);
        assert_eq!(*layout.gather_grad(&grads).unwrap(), [257.0]);
        assert_eq!(layout.mask(&grads).unwrap(), tree!([[257.0], null]));
    }

    // P.B8
    #[test]
    fn norms_are_taken_in_wide_numbers() {
        // 300² is no f16, and 1 is lost beside it in bf16.
        let tree = (vec![f16::from_f32(300.0); 2], vec![bf16::from_f32(1.0); 10]);
        let layout = Layout::of(&tree).unwrap();
        assert_eq!(
            layout.norm_l2(&tree).unwrap(),
            (2.0_f64 * 300.0 * 300.0 + 10.0).sqrt()
        );
        assert_eq!(
            ops::norm_l2(&layout.gather_grad(&tree).unwrap()),
            layout.norm_l2(&tree).unwrap()
        );
    }

    #[test]
    fn a_map_sees_f32_and_rounds_what_it_writes() {
        let model = models::mixed();
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(flat, count_from(1.0, 13));
        let (mut lens, mut paths) = (Vec::new(), Vec::new());
        let stepped = layout
            .map(&model, [Values(&model)], |leaf, x, [y]| {
                assert_eq!(x, y);
                lens.push(x.len());
                paths.push(leaf.path().to_owned());
                x.iter_mut().for_each(|x| *x += 0.001);
            })
            .unwrap();
        assert_eq!(
            paths,
            ["single", "half", "brain", "shared", "view", "locked"]
        );
        assert_eq!(lens, [1, 2, 4, 2, 3, 1]);
        let expected: Vec<f32> = layout
            .leaves()
            .iter()
            .flat_map(|leaf| flat[leaf.range()].iter().map(|x| rounded(leaf, x + 0.001)))
            .collect();
        assert_eq!(layout.gather(&stepped).unwrap(), expected);
        assert!(Rc::ptr_eq(&stepped.shared, &stepped.shared_again));
        assert_eq!(stepped.transposed, stepped.view.t());
        assert_eq!(stepped.brain.strides(), model.brain.strides());

        for parallel in [false, true] {
            let mut target = models::mixed();
            let lock = target.locked.clone();
            let step = |_: LeafAt<'_, 0>, x: &mut [f32], []: [&[f32]; 0]| {
                x.iter_mut().for_each(|x| *x += 0.001)
            };
            if parallel {
                layout.par_map_into(&mut target, [], step).unwrap()
            } else {
                layout.map_into(&mut target, [], step).unwrap()
            }
            assert_eq!(layout.gather(&target).unwrap(), expected);
            assert_eq!(Layout::of(&target).unwrap(), layout);
            assert_eq!(lock.lock().unwrap()[0].to_f32(), expected[12]);
        }
    }

    fn rounded(leaf: &flatleaf::Leaf, x: f32) -> f32 {
        match leaf.dtype() {
            flatleaf::Dtype::F16 => f16::from_f32(x).to_f32(),
            flatleaf::Dtype::BF16 => bf16::from_f32(x).to_f32(),
            _ => x,
        }
    }

    #[test]
    fn reductions_see_f32() {
        let model = models::mixed();
        let layout = Layout::of(&model).unwrap();
        let sum = |_: LeafAt<'_, 1>, x: &[f32], [y]: [&[f32]; 1]| ops::sum(x) + ops::sum(y);
        let total = layout
            .map_reduce(&model, [Values(&model)], sum, |a, b| a + b)
            .unwrap();
        assert_eq!(total, Some(2.0 * 91.0));
        assert_eq!(
            layout
                .par_map_reduce(&model, [Values(&model)], sum, |a, b| a + b)
                .unwrap(),
            total
        );
        assert_eq!(
            layout
                .fold(&model, [], 0, |count, _, x, []| count + x.len())
                .unwrap(),
            13
        );
    }

    #[test]
    fn copies_keep_their_types() {
        let model = models::mixed();
        let copy = deep_clone(&model).unwrap();
        assert_eq!(
            (&copy.half, &copy.brain, &copy.mean),
            (&model.half, &model.brain, &model.mean)
        );
        assert_eq!(copy.brain.strides(), model.brain.strides());
        let mut target = models::mixed();
        target.mean = vec![bf16::ZERO];
        Layout::of(&model)
            .unwrap()
            .copy_frozen(&model, &mut target)
            .unwrap();
        assert_eq!(target.mean, model.mean);
    }

    #[test]
    fn everything_takes_frozen_leaves_by_their_types() {
        #[derive(Tree)]
        struct Norm {
            scale: Vec<bf16>,
            #[tree(frozen)]
            mean: Vec<f64>,
        }
        let norm = Norm {
            scale: vec![bf16::ONE],
            mean: vec![0.1],
        };
        assert_eq!(destructure(&norm).unwrap().0, [1.0]);
        let everything = Layout::everything(&norm).unwrap();
        assert!(everything.gather(&norm).unwrap_err().is_element_type());
        assert_eq!(everything.gather_as::<f64>(&norm).unwrap(), [1.0, 0.1]);
        let rounding = Layout::planner()
            .everything()
            .round_f64()
            .of(&norm)
            .unwrap();
        assert_eq!(rounding.gather(&norm).unwrap(), [1.0, 0.1]);
    }

    #[test]
    fn places_of_half_floats_that_differ_are_no_tie() {
        let shared = Rc::new(vec![bf16::ONE]);
        let layout = Layout::of(&(shared.clone(), shared)).unwrap();
        let error = layout
            .gather(&(vec![bf16::ONE], vec![bf16::from_f32(1.0078125)]))
            .unwrap_err();
        assert!(error.is_broken_tie(), "{error}");
        let error = layout
            .gather(&(vec![bf16::ZERO], vec![bf16::NEG_ZERO]))
            .unwrap_err();
        assert!(error.is_broken_tie(), "{error}");
        assert_eq!(
            layout.gather(&(vec![bf16::NAN], vec![bf16::NAN])).unwrap()[0].to_bits(),
            0x7fc0_0000
        );
    }

    #[test]
    fn values_of_another_float_type_are_an_error() {
        let layout = Layout::of(&vec![bf16::ONE]).unwrap();
        for error in [
            layout.gather(&vec![1.0_f32]).unwrap_err(),
            layout.restructure(&vec![1.0_f32], &[1.0]).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "the root: expected bf16, found f32");
        }
        assert_eq!(
            layout.gather(&vec![f16::ONE]).unwrap_err().to_string(),
            "the root: expected bf16, found f16"
        );
    }

    #[test]
    fn large_leaves_of_half_floats_are_moved_as_small_ones_are() {
        let tree = (large(f16::from_f64), large(|x| bf16::from_f32(x as f32)));
        let (flat, layout) = destructure(&tree).unwrap();
        let expected: Vec<f32> = tree
            .0
            .iter()
            .flatten()
            .map(|x| x.to_f32())
            .chain(tree.1.iter().flatten().map(|x| x.to_f32()))
            .collect();
        assert!(flat == expected && *layout.gather_grad(&tree).unwrap() == expected);
        let step = |x: f32| x - 0.001;
        let values: Vec<f32> = flat.iter().map(|&x| step(x)).collect();
        let stepped = (
            tree.0
                .iter()
                .map(|array| array.mapv(|x| f16::from_f32(step(x.to_f32()))))
                .collect::<Vec<_>>(),
            tree.1
                .iter()
                .map(|array| array.mapv(|x| bf16::from_f32(step(x.to_f32()))))
                .collect::<Vec<_>>(),
        );
        assert!(layout.restructure(&tree, &values).unwrap() == stepped);
        let mut target = deep_clone(&tree).unwrap();
        layout.restructure_into(&mut target, &values).unwrap();
        assert!(target == stepped);
        let map = |_: LeafAt<'_, 0>, x: &mut [f32], []: [&[f32]; 0]| {
            x.iter_mut().for_each(|x| *x = step(*x))
        };
        assert!(layout.map(&tree, [], map).unwrap() == stepped);
        let mut target = deep_clone(&tree).unwrap();
        layout.par_map_into(&mut target, [], map).unwrap();
        assert!(target == stepped);
        assert_eq!(
            layout.norm_l2(&tree).unwrap() as f32,
            ops::norm_l2(&flat) as f32
        );
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_layout_of_half_floats_is_stored() {
        let layout = Layout::of(&models::mixed()).unwrap();
        let text = serde_json::to_string(&layout).unwrap();
        assert!(text.contains(r#""dtype":"f16""#) && text.contains(r#""dtype":"bf16""#));
        let read: Layout = serde_json::from_str(&text).unwrap();
        assert_eq!((&read, read.fingerprint()), (&layout, layout.fingerprint()));
        assert_eq!(read.gather(&models::mixed()).unwrap(), count_from(1.0, 13));
    }

    /// A model of bf16 that is trained with a flat master copy of f32.
    #[derive(Tree)]
    struct Brain {
        weight: Array2<bf16>,
        bias: Vec<bf16>,
        #[tree(frozen)]
        mean: Vec<bf16>,
        steps: Vec<u64>,
    }

    #[test]
    fn a_master_copy_of_f32_keeps_steps_that_bf16_would_lose() {
        let start = || Brain {
            weight: arr2(&[[1.0_f32, 2.0], [-1.0, 0.5]]).mapv(bf16::from_f32),
            bias: vec![bf16::from_f32(4.0); 2],
            mean: vec![bf16::from_f32(0.1)],
            steps: vec![7],
        };
        // Half the distance to the next number below 1 is 2⁻⁹: a step of 2⁻¹² is lost whenever it
        // is rounded.
        const STEPS: usize = 1024;
        let (lr, dx) = (2.0_f32.powi(-12), 1.0_f32);
        let grads = |model: &Brain| Brain {
            weight: model.weight.mapv(|_| bf16::from_f32(dx)),
            bias: vec![bf16::from_f32(dx); 2],
            mean: Vec::new(),
            steps: Vec::new(),
        };

        let mut model = start();
        let (mut master, layout) = destructure(&model).unwrap();
        let mut grad = FlatGrad::zeros(&layout);
        let mut lossy = start();
        let sgd = || {
            Optimizer::new(
                Sgd {
                    lr: f64::from(lr),
                    ..Sgd::default()
                },
                &layout,
            )
            .unwrap()
        };
        let (mut of_master, mut of_lossy) = (sgd(), sgd());
        for _ in 0..STEPS {
            layout.gather_grad_into(&grads(&model), &mut grad).unwrap();
            of_master.step(&mut master, &grad).unwrap();
            layout.restructure_into(&mut model, &master).unwrap();
            let grads = grads(&lossy);
            of_lossy.update(&mut lossy, &grads).unwrap();
        }
        let way = lr * STEPS as f32;
        assert_eq!(master, [1.0, 2.0, -1.0, 0.5, 4.0, 4.0].map(|x| x - way));
        assert_eq!(
            layout.gather(&model).unwrap(),
            [0.75, 1.75, -1.25, 0.25, 3.75, 3.75]
        );
        let first = layout.gather(&lossy).unwrap();
        assert_eq!((first[1], first[4]), (2.0, 4.0), "bf16 alone does not move");
        assert_eq!(
            (&model.mean, &model.steps),
            (&vec![bf16::from_f32(0.1)], &vec![7])
        );

        // The master copy, rounded, is the model; from the model again it is what the model holds.
        ops::axpy(&mut master, 1e-4, &grad);
        layout.restructure_into(&mut model, &master).unwrap();
        let rounded: Vec<f32> = master.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_eq!(layout.gather(&model).unwrap(), rounded);
        let once_more = layout.restructure(&model, &rounded).unwrap();
        assert_eq!(layout.gather(&once_more).unwrap(), rounded);
        assert_eq!(Layout::of(&once_more).unwrap(), layout);
    }

    #[test]
    fn presence_does_not_depend_on_the_type() {
        let layout = Layout::of(&models::mixed()).unwrap();
        let grad = layout
            .gather_grad(
                &tree!({ "half": (vec![f16::ONE; 2]), "locked": [2.0], "mean": (vec![9.0_f64]) }),
            )
            .unwrap();
        assert_eq!(present(&grad), [false, true, false, false, false, true]);
        assert_eq!(grad[1..3], [1.0, 1.0]);
    }
}
