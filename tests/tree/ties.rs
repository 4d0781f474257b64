//! Ties: one parameter at several places, by identity and never by value.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, RwLock};

use crate::common::models::{self, Tied};
use crate::common::{count_from, flat, other_paths, paths};
use flatleaf::{FlatGrad, Layout, Leaf, Tree, deep_clone, destructure, tree};
use ndarray::{
    ArcArray, ArcArray1, ArcArray2, Array1, Array2, Axis, Dimension, arr0, arr1, arr2, s,
};

fn places(layout: &Layout) -> Vec<&[String]> {
    layout.leaves().iter().map(Leaf::places).collect()
}

/// A flat vector and a list of places for each leaf.
fn assert_layout<T: Tree + ?Sized>(model: &T, expected: &[f32], expected_places: &[&[&str]]) {
    let (flat, layout) = destructure(model).unwrap();
    assert_eq!(flat, expected);
    assert_eq!(places(&layout), expected_places);
}

// J.A4
#[test]
fn a_tied_leaf_is_in_the_vector_once_and_stays_tied() {
    let model = models::tied();
    assert_layout(
        &model,
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        &[&["x", "y"], &["z"]],
    );
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &count_from(4.0, 6))
        .unwrap();
    assert_eq!(*new.x, arr1(&[4.0, 5.0, 6.0]));
    assert_eq!(new.z, arr1(&[7.0, 8.0, 9.0]));
    assert!(Arc::ptr_eq(&new.x, &new.y));
    assert!(!Arc::ptr_eq(&new.x, &model.x));
    assert_eq!(*model.x, arr1(&[1.0, 2.0, 3.0]));
}

// J.A4
#[test]
fn a_tied_leaf_stays_tied_in_place_and_handles_elsewhere_keep_the_old_values() {
    let mut model = models::tied();
    let outside = model.x.clone();
    Layout::of(&model)
        .unwrap()
        .restructure_into(&mut model, &count_from(4.0, 6))
        .unwrap();
    assert_eq!(
        (&*model.x, &model.z),
        (&arr1(&[4.0, 5.0, 6.0]), &arr1(&[7.0, 8.0, 9.0]))
    );
    assert!(Arc::ptr_eq(&model.x, &model.y));
    assert_eq!(*outside, arr1(&[1.0, 2.0, 3.0]));
}

// J.A9
#[test]
fn ties_reach_into_lists() {
    let model = models::tied_in_list();
    assert_layout(
        &model,
        &[1.0, 2.0, 3.0, 4.0, 6.0, 5.0, 7.0],
        &[&["a", "c.1"], &["b", "c.0"]],
    );
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0])
        .unwrap();
    assert!(Arc::ptr_eq(&new.b, &new.c.0) && Arc::ptr_eq(&new.a, &new.c.1));
    assert_eq!(*new.a, arr1(&[10.0, 20.0, 30.0]));
    assert_eq!(*new.b, arr2(&[[40.0, 50.0], [60.0, 70.0]]));
}

// J.A27
#[test]
fn a_leaf_is_shared_across_levels_of_a_tuple() {
    let model = models::tied_in_tuple();
    assert_layout(&model, &[1.0, 2.0, 3.0, 4.0], &[&["1", "2.1"]]);
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &count_from(5.0, 4))
        .unwrap();
    assert!(Rc::ptr_eq(&new.1, &new.2.1));
    assert_eq!((new.0, new.2.0, new.2.2), (None, 3, 4));
}

// J.A29, P.C16
#[test]
fn equal_values_are_no_tie() {
    assert_layout(
        &[arr1(&[0.0_f32, 0.0]), arr1(&[0.0, 0.0])],
        &[0.0; 4],
        &[&["0"], &["1"]],
    );
    assert_layout(
        &[Rc::new(arr1(&[1.0_f32])), Rc::new(arr1(&[1.0]))],
        &[1.0; 2],
        &[&["0"], &["1"]],
    );
    let shared = arr1(&[1.0_f32]).into_shared();
    assert_layout(
        &[shared.to_owned().into_shared(), shared],
        &[1.0; 2],
        &[&["0"], &["1"]],
    );
}

#[derive(Tree)]
struct Strided {
    s: Rc<Array1<f32>>,
    k: [u8; 3],
}

// J.A30
#[test]
fn equal_carried_values_are_no_tie() {
    let shared = Rc::new(arr1(&[1.0]));
    let layout = Layout::of(&[
        Strided {
            s: shared.clone(),
            k: [1, 2, 3],
        },
        Strided {
            s: shared,
            k: [1, 2, 3],
        },
    ])
    .unwrap();
    assert_eq!(places(&layout), [["0.s", "1.s"]]);
    assert_eq!(other_paths(&layout), ["0.k", "1.k"]);
}

// J.A31, P.C5
#[test]
fn a_shared_container_and_its_arrays_are_tied_separately() {
    let model = models::tied_containers();
    assert_layout(
        &model,
        &[1.0, 2.0, 3.0],
        &[&["a.x", "b.x", "c.x"], &["a.y", "b.y", "c.y"]],
    );
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &[7.0, 8.0, 9.0])
        .unwrap();
    assert!(Rc::ptr_eq(&new.a, &new.b));
    assert!(Rc::ptr_eq(&new.a.x, &new.c.x) && Rc::ptr_eq(&new.a.y, &new.c.y));
    assert_eq!((&*new.c.x, &*new.c.y), (&arr1(&[7.0, 8.0]), &arr1(&[9.0])));
}

// J.A31
#[test]
fn a_shared_container_is_written_in_place() {
    let mut model = models::tied_containers();
    Layout::of(&model)
        .unwrap()
        .restructure_into(&mut model, &[7.0, 8.0, 9.0])
        .unwrap();
    assert!(Rc::ptr_eq(&model.a, &model.b));
    assert!(Rc::ptr_eq(&model.a.x, &model.c.x) && Rc::ptr_eq(&model.a.y, &model.c.y));
    assert_eq!(flat(&model), [7.0, 8.0, 9.0]);
}

// J.C18
#[test]
fn a_layer_used_twice_counts_once_and_its_gradients_add_up() {
    let model = models::tied_subtree();
    assert_layout(
        &model,
        &[1.0, 2.0],
        &[&["a.weight", "b.weight"], &["a.bias", "b.bias"]],
    );
    let layout = Layout::of(&model).unwrap();
    let grads = tree!({ "a": { "weight": [[3.0]], "bias": [5.0] }, "b": { "weight": [[30.0]], "bias": [50.0] } });
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [33.0, 55.0]);
    let new = layout.restructure(&model, &[7.0, 8.0]).unwrap();
    assert!(Rc::ptr_eq(&new.a, &new.b));
    assert_eq!(
        *new.b,
        models::Dense {
            weight: arr2(&[[7.0]]),
            bias: Some(arr1(&[8.0]))
        }
    );
}

// J.C20
#[test]
fn a_transposed_view_is_the_same_parameter() {
    let model = models::tied_transposed();
    assert_layout(&model, &count_from(1.0, 6), &[&["m", "t"]]);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.leaf("t").unwrap().shape(), [2, 3]);
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert_eq!(new.m, arr2(&[[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]));
    assert_eq!(new.t, new.m.t());
    assert_eq!(new.t.as_ptr(), new.m.as_ptr());
}

// J.C20
#[test]
fn the_gradient_of_a_transposed_place_is_transposed() {
    let a = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let b = arr2(&[[10.0_f32, 40.0], [20.0, 50.0], [30.0, 60.0]]);
    let layout = Layout::of(&models::tied_transposed()).unwrap();
    let both = tree!({ "m": (a.clone()), "t": (b.clone()) });
    assert_eq!(
        *layout.gather_grad(&both).unwrap(),
        [11.0, 22.0, 33.0, 44.0, 55.0, 66.0]
    );
    assert_eq!(
        *layout.gather_grad(&tree!({ "t": (b) })).unwrap(),
        [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    );
    let error = layout.gather_grad(&tree!({ "t": (a) })).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("t"));
    assert_eq!(
        (error.expected(), error.found()),
        (Some("shape [3, 2]"), Some("shape [2, 3]"))
    );
}

// J.C20
#[test]
fn a_tree_that_is_not_tied_gathers_where_its_places_are_transposes() {
    let layout = Layout::of(&models::tied_transposed()).unwrap();
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let t: Array2<f32> = m.t().to_owned();
    assert_eq!(
        layout
            .gather(&tree!({ "m": (m.clone()), "t": (t) }))
            .unwrap(),
        count_from(1.0, 6)
    );
    let other = arr2(&[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let error = layout
        .gather(&tree!({ "m": (m), "t": (other) }))
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("m"), Some("t")));
}

// J.C20
#[test]
fn a_tree_that_is_not_tied_is_written_transposed() {
    let layout = Layout::of(&models::tied_transposed()).unwrap();
    let mut other = (Array2::<f32>::zeros((2, 3)), Array2::<f32>::zeros((3, 2)));
    let by_name =
        |pair: &(Array2<f32>, Array2<f32>)| tree!({ "m": (pair.0.clone()), "t": (pair.1.clone()) });
    let new = layout
        .restructure(&by_name(&other), &count_from(1.0, 6))
        .unwrap();
    other.0 = arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    other.1 = other.0.t().to_owned();
    assert_eq!(new, by_name(&other));
    let mut in_place = by_name(&(Array2::zeros((2, 3)), Array2::zeros((3, 2))));
    layout
        .restructure_into(&mut in_place, &count_from(1.0, 6))
        .unwrap();
    assert_eq!(in_place, new);
}

// P.C1, P.C4
#[test]
fn the_first_place_names_the_leaf() {
    let shared = Rc::new(arr1(&[1.0_f32]));
    let model = [shared.clone(), shared];
    assert_layout(&model, &[1.0], &[&["0", "1"]]);
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &[2.0])
        .unwrap();
    assert!(Rc::ptr_eq(&new[0], &new[1]));
}

#[derive(Tree)]
struct TiedKernel {
    kernel: Rc<Array2<f32>>,
    bias: Array1<f32>,
}

// P.C2
#[test]
fn two_layers_with_one_kernel_have_eight_numbers() {
    let kernel = Rc::new(Array2::<f32>::zeros((2, 2)));
    let layer = || TiedKernel {
        kernel: kernel.clone(),
        bias: Array1::zeros(2),
    };
    let layout = Layout::of(&[layer(), layer()]).unwrap();
    assert_eq!(paths(&layout), ["0.kernel", "0.bias", "1.bias"]);
    assert_eq!(layout.len(), 8);
}

// P.C3
#[test]
fn an_embedding_and_its_head_are_one_leaf() {
    let embed = ArcArray2::<f32>::zeros((10, 2));
    assert_layout(&[embed.clone(), embed.clone()], &[0.0; 20], &[&["0", "1"]]);
    assert_layout(
        &[embed.clone(), embed.reversed_axes()],
        &[0.0; 20],
        &[&["0", "1"]],
    );
}

// P.C7
#[test]
fn a_tie_counts_once_in_a_norm() {
    let shared = Rc::new(arr1(&[3.0_f32]));
    let flat = flat(&(arr1(&[1.0_f32, 2.0]), shared.clone(), shared));
    assert_eq!(flat, [1.0, 2.0, 3.0]);
    assert_eq!(flat.iter().map(|x| x * x).sum::<f32>(), 14.0);
}

/// Views of one allocation.
fn views<const N: usize>(of: [fn(ArcArray1<f32>) -> ArcArray1<f32>; N]) -> [ArcArray1<f32>; N] {
    let whole = arr1(&[1.0, 2.0, 3.0, 4.0]).into_shared();
    of.map(|view| view(whole.clone()))
}

// P.C18
#[test]
fn views_that_share_no_element_are_separate() {
    let model = views([|a| a.slice_move(s![..2]), |a| a.slice_move(s![2..])]);
    assert_layout(&model, &[1.0, 2.0, 3.0, 4.0], &[&["0"], &["1"]]);
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &count_from(5.0, 4))
        .unwrap();
    assert_eq!(
        (&new[0], &new[1]),
        (
            &arr1(&[5.0, 6.0]).into_shared(),
            &arr1(&[7.0, 8.0]).into_shared()
        )
    );
}

fn assert_overlap<T: Tree + ?Sized>(model: &T, first: &str, second: &str) {
    let error = Layout::of(model).unwrap_err();
    assert!(error.is_overlap(), "{error}");
    assert_eq!(
        (error.path(), error.other_path()),
        (Some(first), Some(second))
    );
    assert!(
        error
            .to_string()
            .starts_with(&format!("`{first}` and `{second}`: ")),
        "{error}"
    );
}

// P.C18
#[test]
fn views_that_share_some_elements_are_refused() {
    assert_overlap(
        &views([|a| a.slice_move(s![..2]), |a| a.slice_move(s![1..])]),
        "0",
        "1",
    );
    assert_overlap(
        &views([
            |a| a.slice_move(s![..2]),
            |a| a.slice_move(s![2..]),
            |a| a.slice_move(s![..1]),
        ]),
        "0",
        "2",
    );
    assert_overlap(
        &views([
            |a| a,
            |a| a.slice_move(s![1..2]),
            |a| a.slice_move(s![2..3]),
        ]),
        "0",
        "1",
    );
    assert_overlap(&views([|a| a.slice_move(s![3..]), |a| a]), "0", "1");
}

// Decision 2
#[test]
fn a_reshaped_view_is_refused() {
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let line = m.clone().into_shape_with_order(6).unwrap();
    assert_eq!(line.as_ptr(), m.as_ptr());
    assert_overlap(&(m.clone(), line), "0", "1");
    assert_overlap(
        &(m.clone(), m.clone().into_shape_with_order((3, 2)).unwrap()),
        "0",
        "1",
    );
    assert_overlap(&(m.clone(), m.slice_move(s![.., ..2])), "0", "1");
}

// Decision 2
#[test]
fn interleaved_columns_are_separate() {
    let m = arr2(&[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]).into_shared();
    let columns = [
        m.clone().slice_move(s![.., 0]),
        m.clone().slice_move(s![.., 1]),
    ];
    assert_layout(&columns, &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0], &[&["0"], &["1"]]);
    assert_overlap(&(columns[1].clone(), m.slice_move(s![1, ..])), "0", "1");
    let m = arr1(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).into_shared();
    let halves = [m.clone().slice_move(s![..;2]), m.slice_move(s![1..;2])];
    assert_layout(&halves, &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0], &[&["0"], &["1"]]);
}

// Decision 2
#[test]
fn interleaved_columns_are_written_one_by_one() {
    let m = arr2(&[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]).into_shared();
    let mut columns = [
        m.clone().slice_move(s![.., 0]),
        m.clone().slice_move(s![.., 1]),
    ];
    let layout = Layout::of(&columns).unwrap();
    layout
        .restructure_into(&mut columns, &count_from(11.0, 6))
        .unwrap();
    assert_eq!(columns[0], arr1(&[11.0, 12.0, 13.0]));
    assert_eq!(columns[1], arr1(&[14.0, 15.0, 16.0]));
    assert_eq!(m, arr2(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]));
}

fn reversed<D: Dimension>(array: &ArcArray<f32, D>, axis: usize) -> ArcArray<f32, D> {
    let mut reversed = array.clone();
    reversed.invert_axis(Axis(axis));
    reversed
}

// Decision 2
#[test]
fn a_reversed_view_is_the_same_parameter() {
    let x = arr1(&[1.0_f32, 2.0, 3.0]).into_shared();
    let model = [x.clone(), reversed(&x, 0)];
    assert_layout(&model, &[1.0, 2.0, 3.0], &[&["0", "1"]]);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&(arr1(&[1.0_f32, 2.0, 3.0]), arr1(&[10.0_f32, 20.0, 30.0])))
            .unwrap(),
        [31.0, 22.0, 13.0]
    );
    let new = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap();
    assert_eq!(new[0], arr1(&[7.0, 8.0, 9.0]));
    assert_eq!(new[1], arr1(&[9.0, 8.0, 7.0]));
    assert_eq!(new[1].as_ptr(), &raw const new[0][2]);
}

// Decision 2
#[test]
fn a_leaf_whose_first_place_is_reversed_reads_as_that_place() {
    let x = arr1(&[1.0_f32, 2.0, 3.0]).into_shared();
    let mut model = [reversed(&x, 0), x];
    assert_layout(&model, &[3.0, 2.0, 1.0], &[&["0", "1"]]);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&(arr1(&[1.0_f32, 2.0, 3.0]), arr1(&[10.0_f32, 20.0, 30.0])))
            .unwrap(),
        [31.0, 22.0, 13.0]
    );
    let new = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap();
    assert_eq!(
        (&new[0], &new[1]),
        (
            &arr1(&[7.0, 8.0, 9.0]).into_shared(),
            &arr1(&[9.0, 8.0, 7.0]).into_shared()
        )
    );
    layout
        .restructure_into(&mut model, &[7.0, 8.0, 9.0])
        .unwrap();
    assert_eq!(model, new);
}

// Decision 2
#[test]
fn axes_are_permuted_and_reversed_at_once() {
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let turned = reversed(&m, 1).reversed_axes();
    assert_eq!(turned, arr2(&[[3.0, 6.0], [2.0, 5.0], [1.0, 4.0]]));
    let mut model = (m, turned);
    assert_layout(&model, &count_from(1.0, 6), &[&["0", "1"]]);
    let layout = Layout::of(&model).unwrap();
    let grads = tree!([null, [[30.0, 60.0], [20.0, 50.0], [10.0, 40.0]]]);
    assert_eq!(
        *layout.gather_grad(&grads).unwrap(),
        [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    );
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert_eq!(model.1, arr2(&[[9.0, 12.0], [8.0, 11.0], [7.0, 10.0]]));
    assert_eq!(Layout::of(&model).unwrap(), layout);
}

// Decision 2
#[test]
fn three_axes_are_permuted() {
    let cube = models::array(&[2, 3, 4], &count_from(0.0, 24)).into_shared();
    let model = [cube.clone(), cube.clone().permuted_axes(vec![2, 0, 1])];
    assert_layout(&model, &count_from(0.0, 24), &[&["0", "1"]]);
    let layout = Layout::of(&model).unwrap();
    let grad = cube.view().permuted_axes(vec![2, 0, 1]).to_owned();
    assert_eq!(
        *layout.gather_grad(&(None::<Array1<f32>>, grad)).unwrap(),
        count_from(0.0, 24)
    );
    let new = layout.restructure(&model, &count_from(100.0, 24)).unwrap();
    assert_eq!(new[1], new[0].view().permuted_axes(vec![2, 0, 1]));
    assert_eq!(new[1].as_ptr(), new[0].as_ptr());
}

// Decision 2
#[test]
fn unit_axes_do_not_count() {
    let row = arr1(&[1.0_f32, 2.0, 3.0]).into_shared();
    let mut model = (
        row.clone(),
        row.clone().insert_axis(Axis(0)),
        row.insert_axis(Axis(1)),
    );
    assert_layout(&model, &[1.0, 2.0, 3.0], &[&["0", "1", "2"]]);
    let layout = Layout::of(&model).unwrap();
    let grads = tree!([
        [1.0, 2.0, 3.0],
        [[10.0, 20.0, 30.0]],
        [[100.0], [200.0], [300.0]]
    ]);
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [111.0, 222.0, 333.0]);
    let new = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap();
    assert_eq!(new.1, arr2(&[[7.0, 8.0, 9.0]]));
    assert_eq!(new.2, arr2(&[[7.0], [8.0], [9.0]]));
    assert_eq!(
        (new.1.as_ptr(), new.2.as_ptr()),
        (new.0.as_ptr(), new.0.as_ptr())
    );
    layout
        .restructure_into(&mut model, &[4.0, 5.0, 6.0])
        .unwrap();
    assert_eq!(model.2, arr2(&[[4.0], [5.0], [6.0]]));
}

// Decision 2
#[test]
fn one_element_is_one_parameter_whatever_its_axes() {
    let x = arr0(1.0_f32).into_shared();
    let model = (
        x.clone(),
        x.clone().insert_axis(Axis(0)),
        x.insert_axis(Axis(0)).insert_axis(Axis(0)),
    );
    assert_layout(&model, &[1.0], &[&["0", "1", "2"]]);
    assert_eq!(
        Layout::of(&model).unwrap().leaf("2").unwrap().shape(),
        [0; 0]
    );
}

// Decision 2
#[test]
fn zero_size_arrays_are_no_ties() {
    let empty = ArcArray2::<f32>::zeros((0, 3));
    let layout =
        Layout::of(&[empty.clone(), empty.clone(), empty.slice_move(s![.., ..0])]).unwrap();
    assert_eq!(places(&layout), [["0"], ["1"], ["2"]]);
    let some = ArcArray1::<f32>::zeros(3);
    let model = [
        some.clone().slice_move(s![1..1]),
        some.clone(),
        some.slice_move(s![1..1]),
    ];
    assert_layout(&model, &[0.0; 3], &[&["0"], &["1"], &["2"]]);
}

// Decision 2
#[test]
fn zero_size_arrays_are_written_in_place() {
    let some = arr1(&[1.0_f32, 2.0]).into_shared();
    let mut model = [
        some.clone().slice_move(s![..0]),
        some.clone(),
        some.slice_move(s![..0]),
    ];
    let layout = Layout::of(&model).unwrap();
    layout.restructure_into(&mut model, &[7.0, 8.0]).unwrap();
    assert_eq!(
        (model[0].len(), &model[1], model[2].len()),
        (0, &arr1(&[7.0, 8.0]).into_shared(), 0)
    );
}

// Decision 2
#[test]
fn ties_reach_into_cells() {
    let mut model = models::tied_in_cells();
    assert_layout(&model, &count_from(1.0, 6), &[&["m", "a", "b"]]);
    let layout = Layout::of(&model).unwrap();
    let outside = model.a.clone();
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert_eq!(
        (new.m.as_ptr(), &new.m.t()),
        (new.a.borrow().as_ptr(), &new.a.borrow().view())
    );
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert_eq!(
        (model.m.as_ptr(), &model.m.t()),
        (outside.borrow().as_ptr(), &outside.borrow().view())
    );
}

// Decision 2
#[test]
fn carried_leaves_are_tied_too() {
    let model = models::tied_integers();
    let layout = Layout::of(&model).unwrap();
    let places: Vec<_> = layout.others().iter().map(Leaf::places).collect();
    assert_eq!(places, [["n", "t"], ["p", "q"]]);
    let new = layout.restructure(&model, &[2.0]).unwrap();
    assert_eq!((new.n.as_ptr(), &new.n), (new.t.as_ptr(), &model.n));
    assert!(Arc::ptr_eq(&new.p, &model.p) && Arc::ptr_eq(&new.q, &model.p));
}

// Decision 3
#[test]
fn a_shared_node_is_trained_at_the_places_that_are_not_frozen() {
    let model = models::frozen_subtree();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, count_from(1.0, 6));
    assert_eq!(
        places(&layout),
        [
            ["b.beta", "a.beta", "c.beta"],
            ["b.gamma", "a.gamma", "c.gamma"]
        ]
    );
    assert_eq!(layout.others()[0].places(), ["a.mean", "b.mean", "c.mean"]);
    let new = layout.restructure(&model, &count_from(21.0, 6)).unwrap();
    assert!(Rc::ptr_eq(&new.a, &new.b) && Rc::ptr_eq(&new.b, &new.c));
    assert_eq!(
        (&new.a.gamma, &new.a.mean),
        (&arr1(&[24.0, 25.0, 26.0]), &model.a.mean)
    );
}

// Decision 2
#[test]
fn the_first_trainable_place_comes_first_and_the_others_in_walk_order() {
    let model = models::tied_across_frozen();
    assert_layout(&model, &[1.0, 2.0, 3.0], &[&["b"], &["c", "a", "d"]]);
}

// Decision 3
#[test]
fn a_tie_across_trainable_and_frozen_places_is_trainable_everywhere() {
    let model = models::tied_across_frozen();
    let layout = Layout::of(&model).unwrap();
    assert!(layout.others().is_empty());
    let new = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap();
    assert_eq!(*new.a, arr1(&[8.0, 9.0]));
    assert!(Arc::ptr_eq(&new.a, &new.c) && Arc::ptr_eq(&new.a, &new.d));
}

// Decision 3
#[test]
fn a_gradient_at_the_frozen_place_of_a_tie_is_ignored() {
    let layout = Layout::of(&models::tied_across_frozen()).unwrap();
    let grads = tree!({ "a": [100.0, 100.0], "c": [1.0, 2.0], "d": [10.0, 20.0] });
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [0.0, 11.0, 22.0]);
    let only_frozen = layout.gather_grad(&tree!({ "a": [100.0, 100.0] })).unwrap();
    assert_eq!(*only_frozen, [0.0; 3]);
    assert_eq!(crate::common::present(&only_frozen), [false, false]);
    assert_eq!(
        *layout
            .gather_grad(&tree!({ "a": [1.0, 2.0, 3.0], "b": [5.0] }))
            .unwrap(),
        [5.0, 0.0, 0.0]
    );
}

#[derive(Tree, Debug)]
struct FrozenFirst {
    #[tree(frozen)]
    t: ArcArray2<f32>,
    m: ArcArray2<f32>,
}

// Decision 3
#[test]
fn the_shape_of_a_tie_is_that_of_its_first_trainable_place() {
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let mut model = FrozenFirst {
        t: m.clone().reversed_axes(),
        m,
    };
    assert_layout(&model, &count_from(1.0, 6), &[&["m", "t"]]);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.leaves()[0].shape(), [2, 3]);
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert_eq!(new.m, arr2(&[[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]));
    assert_eq!(new.t, new.m.t());
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert_eq!((&model.m, &model.t), (&new.m, &new.t));
    assert_eq!(model.m.as_ptr(), model.t.as_ptr());
}

#[derive(Tree)]
struct CarriedFirst {
    #[tree(frozen)]
    t: ArcArray2<i64>,
    m: ArcArray2<i64>,
}

// Decision 2
#[test]
fn a_carried_tie_is_listed_in_walk_order_wherever_it_is_frozen() {
    let m = arr2(&[[1_i64, 2, 3], [4, 5, 6]]).into_shared();
    let model = CarriedFirst {
        t: m.clone().reversed_axes(),
        m,
    };
    let layout = Layout::of(&model).unwrap();
    let leaf = &layout.others()[0];
    assert_eq!(
        (leaf.places(), leaf.shape()),
        (&["t".to_owned(), "m".to_owned()][..], &[3, 2][..])
    );
    let new = layout.restructure(&model, &[]).unwrap();
    assert_eq!((&new.t, &new.m), (&model.t, &model.m));
    assert_eq!(Layout::of(&new).unwrap(), layout);
}

// Decision 2
#[test]
fn a_tie_that_is_frozen_by_a_pattern_is_listed_in_walk_order() {
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let reversed = |array: &ArcArray2<f32>| reversed(array, 1);
    for model in [
        (
            FrozenFirst {
                t: m.clone(),
                m: m.clone(),
            },
            m.clone(),
        ),
        (
            FrozenFirst {
                t: m.clone().reversed_axes(),
                m: m.clone(),
            },
            reversed(&m),
        ),
        (
            FrozenFirst {
                t: reversed(&m),
                m: m.clone().reversed_axes(),
            },
            m.clone(),
        ),
    ] {
        let layout = Layout::planner().freeze("1").of(&model).unwrap();
        let leaf = &layout.others()[0];
        assert_eq!(
            (leaf.places(), leaf.shape()),
            (
                &["0.t", "0.m", "1"].map(String::from)[..],
                model.0.t.shape()
            )
        );
        let new = layout.restructure(&model, &[]).unwrap();
        assert_eq!(
            (&new.0.t, &new.0.m, &new.1),
            (&model.0.t, &model.0.m, &model.1)
        );
        // Places that are not tied are compared the way they lie on each other.
        let mut other = (
            FrozenFirst {
                t: model.0.t.to_owned().into_shared(),
                m: model.0.m.clone(),
            },
            model.1.clone(),
        );
        layout.gather(&other).unwrap();
        other.0.t.fill(0.0);
        assert!(layout.copy_frozen(&model, &mut other).is_ok());
        assert_eq!(
            (&other.0.t, &other.0.m, &other.1),
            (&model.0.t, &model.0.m, &model.1)
        );
    }
}

// Decision 6
#[test]
fn places_that_hold_different_bits_are_an_error() {
    let layout = Layout::of(&models::tied_by(Arc::new(arr1(&[0.0_f32, 1.0])))).unwrap();
    let with = |x: f32, y: f32| tree!({ "x": [0.0, x], "y": [0.0, y], "z": [4.0, 5.0, 6.0] });
    let mut flat = [7.0; 5];
    for (x, y) in [(1.0, 2.0), (0.0, -0.0)] {
        let error = layout.gather_into(&with(x, y), &mut flat).unwrap_err();
        assert!(error.is_broken_tie());
        assert_eq!((error.path(), error.other_path()), (Some("x"), Some("y")));
    }
    assert_eq!(flat, [7.0; 5]);
    assert_eq!(
        layout.gather(&with(1.0, 1.0)).unwrap(),
        [0.0, 1.0, 4.0, 5.0, 6.0]
    );
    assert!(layout.gather(&with(f32::NAN, f32::NAN)).unwrap()[1].is_nan());
}

// Decision 6
#[test]
fn different_bits_are_an_error_though_one_place_shares_with_another_leaf() {
    let shared = Rc::new(arr1(&[1.0_f32]));
    let layout = Layout::of(&[Rc::new(arr1(&[0.0_f32])), shared.clone(), shared.clone()]).unwrap();
    assert_eq!(
        places(&layout),
        [&["0".to_owned()][..], &["1".to_owned(), "2".to_owned()]]
    );
    let other = [shared.clone(), Rc::new(arr1(&[5.0_f32])), shared];
    let error = layout.gather(&other).unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("1"), Some("2")));
}

// Decision 6
#[test]
fn an_extra_place_of_a_shared_node_is_an_error() {
    let layout = Layout::of(&tree!([[1], [2, 3]])).unwrap();
    let shared = Rc::new(arr1(&[1.0_f32]));
    let error = layout
        .gather(&(shared.clone(), arr1(&[2.0_f32, 3.0]), shared.clone()))
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("2"));
    let mut model = (shared.clone(), arr1(&[2.0_f32, 3.0]), shared);
    let error = layout
        .restructure_into(&mut model, &[7.0, 8.0, 9.0])
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("2"));
    assert_eq!(*model.0, arr1(&[1.0]));
}

// Decision 6
#[test]
fn different_bits_in_cells_are_an_error() {
    let layout = Layout::of(&models::tied_cells()).unwrap();
    let with = |last: f32| Rc::new(RefCell::new(arr1(&[1.0, 2.0, last])));
    let error = layout
        .gather(&Tied {
            x: with(3.0),
            y: with(4.0),
            z: arr1(&[4.0, 5.0, 6.0]),
        })
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("x"), Some("y")));
    let same = Tied {
        x: with(3.0),
        y: with(3.0),
        z: arr1(&[4.0, 5.0, 6.0]),
    };
    assert_eq!(layout.gather(&same).unwrap(), count_from(1.0, 6));
}

// Decision 2
#[test]
fn layouts_whose_ties_lie_otherwise_are_other_layouts() {
    let m = arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]).into_shared();
    let t = m.clone().reversed_axes();
    let second = Layout::of(&[m.clone(), t.clone(), m.clone()]).unwrap();
    let third = Layout::of(&[m.clone(), m.clone(), t]).unwrap();
    assert_ne!(second, third);
    assert_ne!(second.fingerprint(), third.fingerprint());
    assert_ne!(second, Layout::of(&[m.clone(), m.clone(), m]).unwrap());
}

#[test]
fn shared_slices_and_trait_objects_are_tied() {
    let slice: Rc<[f32]> = [1.0, 2.0].into();
    let layer: Rc<dyn models::Layer> = Rc::new(models::Bias(arr1(&[3.0])));
    let model = ([slice.clone(), slice], [layer.clone(), layer]);
    assert_layout(
        &model,
        &[1.0, 2.0, 3.0],
        &[&["0.0", "0.1"], &["1.0.0", "1.1.0"]],
    );
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &[7.0, 8.0, 9.0])
        .unwrap();
    assert!(Rc::ptr_eq(&new.0[0], &new.0[1]) && Rc::ptr_eq(&new.1[0], &new.1[1]));
    assert_eq!(flat(&new), [7.0, 8.0, 9.0]);
}

// Decision 6
#[test]
fn a_missing_place_of_a_tie_is_an_error() {
    let layout = Layout::of(&models::tied()).unwrap();
    let error = layout
        .gather(&tree!({ "x": [1.0, 2.0, 3.0], "z": [4.0, 5.0, 6.0] }))
        .unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.path(), Some("y"));
}

#[test]
fn two_parameters_are_not_written_into_one() {
    let untied =
        Layout::of(&tree!({ "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "z": [4.0, 5.0, 6.0] }))
            .unwrap();
    let mut model = models::tied();
    assert_eq!(
        untied.gather(&model).unwrap(),
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    let error = untied
        .restructure_into(&mut model, &count_from(10.0, 9))
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("x"), Some("y")));
    let error = untied
        .restructure(&model, &count_from(10.0, 9))
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("x"), Some("y")));
    assert_eq!(flat(&model), count_from(1.0, 6));
}

#[test]
fn two_parameters_are_not_written_into_one_array() {
    let untied =
        Layout::of(&tree!({ "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "z": [4.0, 5.0, 6.0] }))
            .unwrap();
    let mut model = models::tied_arrays();
    untied
        .restructure_into(&mut model, &count_from(10.0, 9))
        .unwrap();
    assert_eq!(untied.gather(&model).unwrap(), count_from(10.0, 9));
}

// Decision 4
#[test]
fn the_same_gradient_object_at_both_places_counts_twice() {
    let layout = Layout::of(&models::tied()).unwrap();
    let shared = Arc::new(arr1(&[1.0_f32, 2.0, 3.0]));
    let grads = Tied {
        x: shared.clone(),
        y: shared,
        z: arr1(&[0.0; 3]),
    };
    assert_eq!(
        *layout.gather_grad(&grads).unwrap(),
        [2.0, 4.0, 6.0, 0.0, 0.0, 0.0]
    );
}

// J.A4, Decision 11
#[test]
fn tied_arrays_stay_one_allocation() {
    let mut model = models::tied_arrays();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(places(&layout)[0], ["x", "y"]);
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert_eq!(new.x.as_ptr(), new.y.as_ptr());
    let outside = model.x.clone();
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert_eq!(model.x.as_ptr(), model.y.as_ptr());
    assert_eq!(model.x, arr1(&[7.0, 8.0, 9.0]));
    assert_eq!(outside, arr1(&[1.0, 2.0, 3.0]));
}

// Decision 11
#[test]
fn cells_are_written_through_in_place_and_new_in_a_new_tree() {
    let mut model = models::tied_cells();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        places(&layout),
        [&["x".to_owned(), "y".to_owned()][..], &["z".to_owned()]]
    );
    let outside = model.x.clone();
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert!(Rc::ptr_eq(&new.x, &new.y) && !Rc::ptr_eq(&new.x, &outside));
    assert_eq!(*outside.borrow(), arr1(&[1.0, 2.0, 3.0]));
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert!(Rc::ptr_eq(&model.x, &outside) && Rc::ptr_eq(&model.y, &outside));
    assert_eq!(*outside.borrow(), arr1(&[7.0, 8.0, 9.0]));
}

// Decision 11
#[test]
fn locks_are_written_through_in_place_and_new_in_a_new_tree() {
    let mut model = models::tied_locks();
    let layout = Layout::of(&model).unwrap();
    let outside = model.x.clone();
    let new = layout.restructure(&model, &count_from(7.0, 6)).unwrap();
    assert!(Arc::ptr_eq(&new.x, &new.y) && !Arc::ptr_eq(&new.x, &outside));
    layout
        .restructure_into(&mut model, &count_from(7.0, 6))
        .unwrap();
    assert!(Arc::ptr_eq(&model.x, &outside) && Arc::ptr_eq(&model.y, &outside));
    assert_eq!(*outside.lock().unwrap(), arr1(&[7.0, 8.0, 9.0]));
}

// Decision 11
#[test]
fn read_write_locks_tie() {
    let mut model = models::tied_by(Arc::new(RwLock::new(vec![1.0_f32])));
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.leaves()[0].places(), ["x", "y"]);
    layout
        .restructure_into(&mut model, &[9.0, 4.0, 5.0, 6.0])
        .unwrap();
    assert_eq!(*model.y.read().unwrap(), [9.0]);
}

// Decision 11
#[test]
fn a_borrowed_cell_is_an_error_with_its_path() {
    let mut model = models::tied_cells();
    let layout = Layout::of(&model).unwrap();
    let cell = model.x.clone();
    let guard = cell.borrow_mut();
    let mut flat = [7.0; 6];
    let error = layout.gather_into(&model, &mut flat).unwrap_err();
    assert!(error.is_borrowed());
    assert_eq!((error.path(), flat), (Some("x"), [7.0; 6]));
    let error = layout.restructure_into(&mut model, &[0.0; 6]).unwrap_err();
    assert!(error.is_borrowed());
    assert_eq!(error.path(), Some("x"));
    drop(guard);
    assert_eq!(layout.gather(&model).unwrap(), count_from(1.0, 6));
}

// Decision 11
#[test]
fn a_poisoned_lock_is_an_error_with_its_path() {
    let model = models::tied_locks();
    let layout = Layout::of(&model).unwrap();
    let lock = model.x.clone();
    let panicked = std::thread::spawn(move || {
        let _guard = lock.lock();
        std::panic::resume_unwind(Box::new(()));
    });
    panicked.join().unwrap_err();
    let error = layout.gather(&model).unwrap_err();
    assert!(error.is_poisoned());
    assert_eq!(error.path(), Some("x"));
    assert!(Layout::of(&model).unwrap_err().is_poisoned());
}

#[derive(Tree)]
struct Knot {
    w: Array1<f32>,
    next: RefCell<Option<Rc<Knot>>>,
}

// Decision 2
#[test]
fn a_cycle_is_an_error() {
    let knot = Rc::new(Knot {
        w: arr1(&[1.0]),
        next: RefCell::new(None),
    });
    *knot.next.borrow_mut() = Some(knot.clone());
    let error = Layout::of(std::slice::from_ref(&knot)).unwrap_err();
    assert!(error.is_cycle());
    assert_eq!(
        (error.path(), error.other_path()),
        (Some("0.next"), Some("0"))
    );
    *knot.next.borrow_mut() = None;
}

#[derive(Tree)]
struct FrozenShared {
    w: Array1<f32>,
    #[tree(frozen)]
    table: Arc<Array1<f32>>,
    #[tree(frozen)]
    cell: Rc<RefCell<Array1<f32>>>,
}

// Decision 11
#[test]
fn a_frozen_pointer_is_shared_with_a_new_tree_and_a_frozen_cell_is_not() {
    let (table, cell) = (Arc::new(arr1(&[1.0])), Rc::new(RefCell::new(arr1(&[2.0]))));
    let model = FrozenShared {
        w: arr1(&[3.0]),
        table,
        cell,
    };
    let new = Layout::of(&model)
        .unwrap()
        .restructure(&model, &[4.0])
        .unwrap();
    assert!(Arc::ptr_eq(&new.table, &model.table));
    assert!(!Rc::ptr_eq(&new.cell, &model.cell));
    assert_eq!((*new.cell.borrow()).clone(), arr1(&[2.0]));
    assert_eq!((new.w, model.w), (arr1(&[4.0]), arr1(&[3.0])));
}

#[test]
fn a_deep_clone_keeps_ties_and_shares_nothing_mutable() {
    let model = models::tied_locks();
    let copy = deep_clone(&model).unwrap();
    assert!(Arc::ptr_eq(&copy.x, &copy.y));
    model.x.lock().unwrap()[0] = 100.0;
    assert_eq!(*copy.x.lock().unwrap(), arr1(&[1.0, 2.0, 3.0]));
    let arrays = deep_clone(&models::tied_transposed()).unwrap();
    assert_eq!(arrays.m.as_ptr(), arrays.t.as_ptr());
}

// Decision 4
#[test]
fn a_gradient_belongs_to_a_layout_with_the_same_ties() {
    let tied = Layout::of(&models::tied_by(Rc::new(arr1(&[1.0_f32])))).unwrap();
    let untied = Layout::of(&tree!({ "x": [1.0], "y": [1.0], "z": [4.0, 5.0, 6.0] })).unwrap();
    assert_ne!(tied, untied);
    let mut grad = FlatGrad::zeros(&tied);
    let error = untied
        .gather_grad_into(&tree!({ "x": [1.0] }), &mut grad)
        .unwrap_err();
    assert!(error.is_other_layout());
    assert_eq!(grad, FlatGrad::zeros(&tied));
}

#[test]
fn frozen_and_carried_ties_hold_the_same_bits_too() {
    let (mean, count) = (Arc::new(arr1(&[1.0_f32])), Arc::new(arr1(&[7_u64])));
    let model = (mean.clone(), count.clone(), mean, count);
    let layout = Layout::planner().freeze("**").of(&model).unwrap();
    assert_eq!(layout.others().len(), 2);
    let other = |mean: f32, count: u64| {
        (
            arr1(&[1.0_f32]),
            arr1(&[7_u64]),
            arr1(&[mean]),
            arr1(&[count]),
        )
    };
    let mut target = other(1.0, 7);
    layout.copy_frozen(&model, &mut target).unwrap();
    layout.copy_frozen(&other(1.0, 7), &mut target).unwrap();
    for (from, first, second) in [(other(2.0, 7), "0", "2"), (other(1.0, 8), "1", "3")] {
        let error = layout.copy_frozen(&from, &mut target).unwrap_err();
        assert!(error.is_broken_tie(), "{error}");
        assert_eq!(
            (error.path(), error.other_path()),
            (Some(first), Some(second))
        );
        assert_eq!(target, other(1.0, 7));
    }
}
