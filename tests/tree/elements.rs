//! Elements that are more than a number: an array of them is one leaf.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use flatleaf::{
    ArrayElement, Companion, Dtype, DynTree, Layout, Tree, deep_clone, destructure, destructure_as,
    tree,
};
use ndarray::{
    ArcArray2, Array0, Array1, Array2, Array3, ArrayD, Axis, IxDyn, ShapeBuilder, arr1, arr2, s,
};

use crate::common::count_from;

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Gaussian {
    position: [f32; 3],
    opacity: f32,
}

fn gaussian(first: f32) -> Gaussian {
    Gaussian {
        position: [first, first + 1.0, first + 2.0],
        opacity: first + 3.0,
    }
}

/// The shape of the one leaf there is.
fn shape<T: Tree>(tree: &T) -> Vec<usize> {
    let layout = Layout::of(tree).unwrap();
    let mut leaves = layout.leaves().iter().chain(layout.others());
    let leaf = leaves.next().unwrap();
    assert_eq!((leaf.path(), leaves.count()), ("", 0));
    leaf.shape().to_vec()
}

#[test]
fn the_axes_of_an_element_stand_behind_those_of_its_array() {
    assert_eq!(shape(&vec![[0.0_f32; 3]; 7]), [7, 3]);
    assert_eq!(shape(&vec![[[0.0_f64; 2]; 3]; 7]), [7, 3, 2]);
    assert_eq!(shape(&vec![gaussian(0.0); 7]), [7, 4]);
    assert_eq!(shape(&vec![[gaussian(0.0); 2]; 7]), [7, 2, 4]);
    assert_eq!(
        shape(&Array3::from_elem((2, 3, 4), [0.0_f32; 5])),
        [2, 3, 4, 5]
    );
    assert_eq!(shape(&Array0::from_elem((), gaussian(0.0))), [4]);
    assert_eq!(shape(&vec![[0.0_f32; 3]; 2].into_boxed_slice()), [2, 3]);
    // Alone, too, an array is a leaf of its axes, and a struct of its numbers.
    assert_eq!(shape(&[[0.0_f32; 3]; 2]), [2, 3]);
    assert_eq!(shape(&[0.0_f32; 3]), [3]);
    assert_eq!(shape(&gaussian(0.0)), [4]);
}

#[test]
fn lists_of_what_is_no_element_are_branches() {
    let paths = |tree: &dyn Fn() -> Layout| {
        let layout = tree();
        let leaves = layout.leaves().iter().map(|leaf| leaf.path().to_owned());
        leaves.collect::<Vec<_>>()
    };
    let ragged = vec![[vec![1.0_f32], vec![2.0, 3.0]], [vec![], vec![4.0]]];
    assert_eq!(
        paths(&|| Layout::of(&ragged).unwrap()),
        ["0.0", "0.1", "1.0", "1.1"]
    );
    // A leaf an item, for whoever wants its path: behind a box, or in a struct of one field.
    #[derive(Tree)]
    #[tree(transparent)]
    struct Point([f32; 3]);
    let points = [Point([1.0; 3]), Point([2.0; 3])];
    assert_eq!(paths(&|| Layout::of(&points).unwrap()), ["0", "1"]);
    let boxed = vec![Box::new([1.0_f32; 3]); 2];
    assert_eq!(paths(&|| Layout::of(&boxed).unwrap()), ["0", "1"]);
}

/// Every way in and out, for one array of elements.
fn goes_there_and_back<T: Tree + PartialEq + std::fmt::Debug>(mut array: T, expected: &[f32]) {
    let (flat, layout) = destructure(&array).unwrap();
    assert_eq!(flat, expected);
    assert_eq!(deep_clone(&array).unwrap(), array);
    let doubled: Vec<f32> = flat.iter().map(|x| 2.0 * x).collect();
    let new = layout.restructure(&array, &doubled).unwrap();
    assert_eq!(layout.gather(&new).unwrap(), doubled);
    layout.restructure_into(&mut array, &doubled).unwrap();
    assert_eq!(array, new);
    let mut target = vec![0.0; layout.len()];
    layout.gather_into(&new, &mut target).unwrap();
    assert_eq!(target, doubled);
    let grad = layout.gather_grad(&new).unwrap();
    assert_eq!((&*grad, grad.is_present(0)), (&doubled[..], true));
    let tripled = layout
        .map(&new, [Companion::Grads(&array)], |_, x, [y]| {
            x.iter_mut().zip(y).for_each(|(x, y)| *x += 0.5 * y)
        })
        .unwrap();
    let expected: Vec<f32> = flat.iter().map(|x| 3.0 * x).collect();
    assert_eq!(layout.gather(&tripled).unwrap(), expected);
}

#[test]
fn arrays_of_elements_go_there_and_back() {
    goes_there_and_back(vec![[1.0_f32, 2.0], [3.0, 4.0]], &[1.0, 2.0, 3.0, 4.0]);
    goes_there_and_back([[1.0_f32, 2.0], [3.0, 4.0]], &[1.0, 2.0, 3.0, 4.0]);
    goes_there_and_back(
        vec![gaussian(1.0), gaussian(5.0)].into_boxed_slice(),
        &count_from(1.0, 8),
    );
    goes_there_and_back(gaussian(1.0), &count_from(1.0, 4));
    goes_there_and_back(
        vec![[[gaussian(1.0)], [gaussian(5.0)]]; 1],
        &count_from(1.0, 8),
    );
    goes_there_and_back(arr1(&[gaussian(1.0), gaussian(5.0)]), &count_from(1.0, 8));
}

#[test]
fn the_memory_of_an_array_may_have_any_order() {
    let rows = arr2(&[
        [gaussian(1.0), gaussian(5.0), gaussian(9.0)],
        [gaussian(13.0), gaussian(17.0), gaussian(21.0)],
    ]);
    let mut fortran = Array2::from_elem((2, 3).f(), gaussian(0.0));
    fortran.assign(&rows);
    let mut reversed = rows.clone();
    reversed.invert_axis(Axis(1));
    reversed.invert_axis(Axis(0));
    let mut every_other = Array2::from_elem((4, 6), gaussian(0.0));
    every_other.slice_mut(s![..;2, ..;2]).assign(&rows);
    every_other.slice_collapse(s![..;2, ..;2]);
    let expected = count_from(1.0, 24);
    goes_there_and_back(rows.clone(), &expected);
    goes_there_and_back(rows.clone().into_dyn(), &expected);
    goes_there_and_back(every_other, &expected);
    goes_there_and_back(fortran.clone(), &expected);
    goes_there_and_back(reversed, &{
        let mut elements = expected.clone();
        elements.reverse();
        let (elements, _) = elements.as_chunks_mut::<4>();
        elements.iter_mut().for_each(|element| element.reverse());
        elements.as_flattened().to_vec()
    });
    // A new array lies in memory as the old one did.
    let new = Layout::of(&fortran)
        .unwrap()
        .restructure(&fortran, &expected)
        .unwrap();
    assert_eq!((new.strides(), &new), (&[1, 2][..], &rows));
}

#[test]
fn arrays_without_elements_and_elements_without_numbers_are_leaves() {
    assert_eq!(shape(&Vec::<[f32; 3]>::new()), [0, 3]);
    assert_eq!(shape(&Vec::<Gaussian>::new()), [0, 4]);
    assert_eq!(shape(&vec![[0.0_f32; 0]; 5]), [5, 0]);
    goes_there_and_back(Vec::<[f32; 3]>::new(), &[]);
    goes_there_and_back(Array2::<Gaussian>::from_elem((0, 2), gaussian(0.0)), &[]);
    goes_there_and_back(vec![[0.0_f32; 0]; 5], &[]);
    goes_there_and_back(vec![[[0.0_f32; 0]; 2]; 5], &[]);
    goes_there_and_back(Array1::from_elem(5, [0.0_f32; 0]), &[]);
    goes_there_and_back(Array2::from_elem((2, 2).f(), [[0.0_f32; 2]; 0]), &[]);
}

#[test]
fn integers_and_booleans_are_carried_as_one_leaf() {
    let mesh = (vec![[0.5_f32; 3]; 4], vec![[0_u32, 1, 2], [2, 3, 0]]);
    let (flat, layout) = destructure(&mesh).unwrap();
    assert_eq!(flat.len(), 12);
    let triangles = &layout.others()[0];
    assert_eq!(
        (triangles.path(), triangles.shape(), triangles.dtype()),
        ("1", &[2, 3][..], Dtype::U32)
    );
    let new = layout.restructure(&mesh, &[1.5; 12]).unwrap();
    assert_eq!((&new.1, new.0), (&mesh.1, vec![[1.5; 3]; 4]));
    let mut target = (vec![[0.0_f32; 3]; 4], vec![[9_u32; 3]; 2]);
    layout.copy_frozen(&mesh, &mut target).unwrap();
    assert_eq!(target, (vec![[0.0; 3]; 4], mesh.1));
    let flags = vec![[true, false], [false, true]];
    assert_eq!(shape(&flags), [2, 2]);
    let mut other = arr1(&[[false; 2], [false; 2]]);
    Layout::of(&flags)
        .unwrap()
        .copy_frozen(&flags, &mut other)
        .unwrap();
    assert_eq!(other.to_vec(), flags);
    // Column-major booleans are read one by one.
    let mut columns = Array2::from_elem((1, 2).f(), [true, false]);
    columns.swap_axes(0, 1);
    assert_eq!(deep_clone(&columns).unwrap(), columns);
}

#[test]
fn every_float_type_has_elements() {
    let points = vec![[1.0_f64, 2.0], [3.0, 4.0]];
    assert_eq!(
        destructure_as::<f64>(&points).unwrap().0,
        [1.0, 2.0, 3.0, 4.0]
    );
    assert!(destructure(&points).unwrap_err().is_element_type());
}

#[cfg(feature = "half")]
#[test]
fn halves_widen_and_round_within_elements() {
    use half::{bf16, f16};

    let colors = vec![[f16::from_f32(0.5); 3]; 2];
    let (flat, layout) = destructure(&colors).unwrap();
    assert_eq!((flat, shape(&colors)), (vec![0.5; 6], vec![2, 3]));
    // Half-way between two of its numbers, to the even one.
    let new = layout
        .restructure(&colors, &[1.0 + 0.5_f32.powi(11); 6])
        .unwrap();
    assert_eq!(new, [[f16::ONE; 3]; 2]);
    let mut weights = Array2::from_elem((1, 2), [bf16::ONE; 2]);
    let layout = Layout::of(&weights).unwrap();
    layout
        .restructure_into(&mut weights, &[1.0, 2.0, 3.0, 4.0])
        .unwrap();
    assert_eq!(weights[[0, 1]].map(f32::from), [3.0, 4.0]);
}

#[test]
fn a_tie_of_elements_is_in_the_vector_once() {
    let shared = Arc::new(arr2(&[[[1.0_f32, 2.0], [3.0, 4.0]]]));
    let model = (shared.clone(), vec![5.0_f32], shared);
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(layout.leaves()[0].places(), ["0", "2"]);
    let new = layout.restructure(&model, &count_from(2.0, 5)).unwrap();
    assert!(Arc::ptr_eq(&new.0, &new.2));
    assert_eq!(new.0[[0, 1]], [4.0, 5.0]);
    let grads = (vec![[[1.0_f32; 2]; 2]], (), vec![[[0.5_f32; 2]; 2]]);
    let grads = (grads.0, None::<Vec<f32>>, grads.2);
    assert_eq!(
        *layout.gather_grad(&grads).unwrap(),
        [1.5, 1.5, 1.5, 1.5, 0.0]
    );

    let cell = Rc::new(std::cell::RefCell::new(vec![gaussian(1.0)]));
    let mut cells = (cell.clone(), cell.clone());
    let layout = Layout::of(&cells).unwrap();
    layout
        .restructure_into(&mut cells, &count_from(7.0, 4))
        .unwrap();
    assert_eq!(*cell.borrow(), [gaussian(7.0)]);
}

#[test]
fn a_transposed_tie_of_elements_keeps_its_elements_whole() {
    let array = arr2(&[[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]]).into_shared();
    let transposed: ArcArray2<[f32; 2]> = array.clone().reversed_axes();
    let mut upside_down = array.clone();
    upside_down.invert_axis(Axis(1));
    let model = (array, transposed, upside_down);
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, count_from(1.0, 6));
    assert_eq!(layout.leaves()[0].places(), ["0", "1", "2"]);
    let new = layout.restructure(&model, &count_from(11.0, 6)).unwrap();
    assert_eq!(new.0[[0, 2]], [15.0, 16.0]);
    assert_eq!(new.1[[2, 0]], [15.0, 16.0]);
    assert_eq!(new.2[[0, 0]], [15.0, 16.0]);
    // One allocation, as before.
    assert_eq!(layout, Layout::of(&new).unwrap());
    let grads = (
        vec![vec![[0.0_f32; 2]; 3]],
        vec![[[1.0_f32, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]],
        None::<Vec<f32>>,
    );
    let grads = (arr2(&[[[0.0_f32; 2]; 3]]), arr2(&grads.1), None::<Vec<f32>>);
    assert_eq!(*layout.gather_grad(&grads).unwrap(), count_from(1.0, 6)[..]);
    // Half of the elements of another leaf are no leaf of their own.
    let overlapping = (model.0.clone(), model.0.clone().slice_move(s![.., ..2]));
    assert!(Layout::of(&overlapping).unwrap_err().is_overlap());
    let apart = (
        model.0.clone().slice_move(s![.., ..;2]),
        model.0.slice_move(s![.., 1..;2]),
    );
    assert_eq!(
        destructure(&apart).unwrap().0,
        [1.0, 2.0, 5.0, 6.0, 3.0, 4.0]
    );
}

#[test]
fn trees_of_other_types_fit_if_their_shapes_do() {
    let points = vec![[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let layout = Layout::of(&points).unwrap();
    let matrix = arr2(&points);
    assert_eq!(layout, Layout::of(&matrix).unwrap());
    assert_eq!(layout.gather(&matrix).unwrap(), count_from(1.0, 6));
    let json = tree!([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    assert_eq!(layout.gather(&json).unwrap(), count_from(1.0, 6));
    let copy: DynTree = layout.mask(&points).unwrap();
    assert_eq!(copy.as_array::<f32>(), Some(&matrix.clone().into_dyn()));
    let structs = vec![gaussian(1.0)];
    let layout = Layout::of(&structs).unwrap();
    assert_eq!(layout, Layout::of(&arr2(&[[0.0_f32; 4]])).unwrap());
    assert_eq!(
        layout.fingerprint(),
        Layout::of(&vec![[0.0_f32; 4]]).unwrap().fingerprint()
    );
    let error = layout.gather(&vec![[0.0_f32; 3]]).unwrap_err();
    assert!(error.is_shape());
    let error = error.to_string();
    assert!(
        error.contains("[1, 4]") && error.contains("[1, 3]"),
        "{error}"
    );
}

#[test]
fn more_axes_than_a_leaf_may_have_are_refused() {
    let array = |axes: usize| ArrayD::from_elem(IxDyn(&vec![1; axes]), [[1.0_f32]]);
    assert_eq!(shape(&array(62)).len(), 64);
    let error = Layout::of(&array(63)).unwrap_err();
    assert!(error.is_invalid_layout(), "{error}");
}

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Frame {
    origin: Corner,
    corners: [Corner; 2],
    basis: [[f32; 2]; 2],
    r#type: f32,
}

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Corner(f32, [f32; 1]);

#[test]
fn numbers_are_named_by_field() {
    let layout = Layout::of(&(vec![gaussian(1.0); 8],)).unwrap();
    assert_eq!(layout.element_name(7 * 4 + 2), "0[7].position[2]");
    assert_eq!(layout.element_name(3), "0[0].opacity");
    let layout = Layout::of(&BTreeMap::from([("a", gaussian(1.0))])).unwrap();
    assert_eq!(layout.element_name(1), "a.position[1]");
    assert_eq!(
        Layout::of(&gaussian(1.0)).unwrap().element_name(3),
        "opacity"
    );
    let layout = Layout::of(&Array2::from_elem((2, 2), [Frame::zeroed(); 1])).unwrap();
    assert_eq!(layout.leaves()[0].shape(), [2, 2, 1, 11]);
    let names: Vec<String> = (11..22).map(|index| layout.element_name(index)).collect();
    let fields = [
        "origin.0",
        "origin.1[0]",
        "corners[0].0",
        "corners[0].1[0]",
        "corners[1].0",
        "corners[1].1[0]",
        "basis[0][0]",
        "basis[0][1]",
        "basis[1][0]",
        "basis[1][1]",
        "type",
    ];
    assert_eq!(names, fields.map(|field| format!("[0, 1, 0].{field}")));
    // Arrays alone have axes, and no names.
    let layout = Layout::of(&vec![[0.0_f32; 3]; 2]).unwrap();
    assert_eq!(layout.element_name(5), "[1, 2]");
}

#[cfg(feature = "serde")]
#[test]
fn names_are_stored_with_the_layout() {
    let layout = Layout::of(&(vec![gaussian(1.0); 2], vec![1.0_f32])).unwrap();
    let text = serde_json::to_string(&layout).unwrap();
    assert!(
        text.contains(r#""fields":[{"name":"position","shape":[3]},{"name":"opacity"}]"#),
        "{text}"
    );
    let read: Layout = serde_json::from_str(&text).unwrap();
    assert_eq!(read, layout);
    assert_eq!(read.element_name(6), "0[1].position[2]");
    // As long as the axis that they name, or the layout is none.
    for wrong in [
        text.replace(r#""shape":[3]}"#, r#""shape":[2]}"#),
        text.replace(r#""shape":[3]}"#, r#""shape":[18446744073709551615,2]}"#),
        text.replace(r#"{"name":"opacity"}"#, r#"{"name":"opacity","shape":[0]}"#),
    ] {
        let error = serde_json::from_str::<Layout>(&wrong)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("fields that are not as long as the last axis"),
            "{error}"
        );
    }
}

/// A type of another library that is `Pod`: the struct says what its numbers are.
#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element = f32)]
#[repr(transparent)]
struct Direction(glam::Vec3);

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element = f64)]
#[repr(C)]
struct Pose {
    rotation: nalgebra::Matrix3<f64>,
    translation: nalgebra::Vector3<f64>,
}

#[test]
fn types_of_other_libraries_are_elements_in_a_struct() {
    let directions = vec![Direction(glam::vec3(1.0, 2.0, 3.0)); 2];
    assert_eq!(shape(&directions), [2, 3]);
    goes_there_and_back(directions, &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    goes_there_and_back(
        Array2::from_elem((1, 2).f(), Direction(glam::vec3(1.0, 2.0, 3.0))),
        &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
    );
    let pose = Pose {
        rotation: nalgebra::Matrix3::identity(),
        translation: nalgebra::Vector3::new(7.0, 8.0, 9.0),
    };
    let (flat, layout) = destructure_as::<f64>(&pose).unwrap();
    assert_eq!(flat[9..], [7.0, 8.0, 9.0]);
    assert_eq!(layout.element_name(11), "[11]");
    let new = layout.restructure_as::<f64, _>(&pose, &[0.5; 12]).unwrap();
    assert_eq!(new.translation, nalgebra::Vector3::repeat(0.5));
}

/// Aligned to more than a float: cast for reading, and copied into where it is made anew.
#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element = f32)]
#[repr(transparent)]
struct Quaternion(glam::Vec4);

#[test]
fn elements_may_be_aligned_to_more_than_their_numbers() {
    assert!(align_of::<Quaternion>() >= align_of::<f32>());
    let one = Quaternion(glam::vec4(1.0, 2.0, 3.0, 4.0));
    goes_there_and_back(vec![one], &count_from(1.0, 4));
    goes_there_and_back(Array2::from_elem((1, 1).f(), one), &count_from(1.0, 4));
    #[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
    #[tree(element)]
    #[repr(C, align(16))]
    struct Aligned([f32; 4]);
    let rows = Array2::from_shape_fn((2, 3).f(), |(row, column)| {
        Aligned(std::array::from_fn(|index| {
            (1 + 12 * row + 4 * column + index) as f32
        }))
    });
    goes_there_and_back(rows, &count_from(1.0, 24));
}

/// An element of any float, in a model of any element.
#[derive(Tree, Clone, Copy, Debug, PartialEq, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Ball<E> {
    center: [E; 2],
    radius: E,
}

#[derive(Tree, Debug, PartialEq)]
struct Cloud<E: ArrayElement + Tree> {
    balls: Vec<E>,
    grid: Array1<E>,
    #[tree(frozen)]
    mean: Option<[E; 1]>,
}

// The one impl that is written by hand, as `bytemuck` derives none for a generic struct.
mod pod {
    #![allow(unsafe_code)]
    use super::{Ball, Pod};
    // SAFETY: three numbers of one type, in the order of C, have no padding.
    unsafe impl<E: Pod> Pod for Ball<E> {}
}

#[test]
fn generic_structs_hold_elements_and_are_elements() {
    let ball = |first: f32| Ball {
        center: [first, first + 1.0],
        radius: first + 2.0,
    };
    let mut cloud = Cloud {
        balls: vec![ball(1.0), ball(4.0)],
        grid: arr1(&[ball(7.0)]),
        mean: Some([ball(0.0)]),
    };
    let (flat, layout) = destructure(&cloud).unwrap();
    assert_eq!(flat, count_from(1.0, 9));
    assert_eq!(layout.element_name(8), "grid[0].radius");
    assert_eq!(layout.others()[0].shape(), [1, 3]);
    layout
        .restructure_into(&mut cloud, &count_from(2.0, 9))
        .unwrap();
    assert_eq!(cloud.balls[1], ball(5.0));
    assert_eq!(cloud.mean, Some([ball(0.0)]));
}

#[cfg(feature = "num-complex")]
mod complex {
    use flatleaf::optim::{Adam, Optimizer};
    use num_complex::{Complex, Complex32, Complex64};

    use super::*;

    #[test]
    fn a_complex_number_is_its_two_parts() {
        let spectrum = Array2::from_elem((2, 5), Complex64::new(1.0, -1.0));
        assert_eq!(shape(&spectrum), [2, 5, 2]);
        let (flat, layout) = destructure_as::<f64>(&spectrum).unwrap();
        assert_eq!((flat.len(), &flat[..2]), (20, &[1.0, -1.0][..]));
        assert_eq!(layout.element_name(7), "[0, 3].im");
        let array = vec![Complex32::new(1.0, 2.0), Complex32::new(3.0, 4.0)];
        goes_there_and_back(array.clone(), &count_from(1.0, 4));
        goes_there_and_back(arr2(&[[array[0]], [array[1]]]), &count_from(1.0, 4));
        let columns = Array2::from_shape_vec((1, 2).f(), array).unwrap();
        goes_there_and_back(columns, &count_from(1.0, 4));
        goes_there_and_back(vec![[Complex32::new(1.0, 2.0); 1]; 1], &[1.0, 2.0]);
    }

    #[derive(Tree)]
    struct Filter {
        gain: Complex32,
        #[tree(param)]
        pole: Complex32,
    }

    #[test]
    fn one_alone_is_a_parameter_if_it_says_so() {
        let filter = Filter {
            gain: Complex::new(5.0, 6.0),
            pole: Complex::new(1.0, 2.0),
        };
        let (flat, layout) = destructure(&filter).unwrap();
        assert_eq!(
            (flat, layout.leaves()[0].shape()),
            (vec![1.0, 2.0], &[2][..])
        );
        assert_eq!(layout.element_name(1), "pole.im");
        let settings: Vec<_> = layout.settings().collect();
        assert_eq!(settings, [("gain".to_owned(), Dtype::F32)]);
        let new = layout.restructure(&filter, &[3.0, 4.0]).unwrap();
        assert_eq!(new.pole, Complex::new(3.0, 4.0));
        assert_eq!(new.gain, filter.gain);
    }

    #[test]
    fn tied_complex_arrays_are_one() {
        let shared = Arc::new(arr2(&[[Complex32::new(1.0, 2.0)]]));
        let model = [shared.clone(), shared];
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(flat, [1.0, 2.0]);
        let new = layout.restructure(&model, &[3.0, 4.0]).unwrap();
        assert!(Arc::ptr_eq(&new[0], &new[1]));
        assert_eq!(new[0][[0, 0]], Complex::new(3.0, 4.0));
    }

    /// PyTorch's Adam on `torch.tensor([1+2j, -3+0.5j])`, which steps `view_as_real` of it: each part
    /// has a second moment of its own.
    #[test]
    fn adam_steps_the_real_and_the_imaginary_part_each_for_itself() {
        let mut weights = arr1(&[Complex32::new(1.0, 2.0), Complex32::new(-3.0, 0.5)]);
        let grads = arr1(&[Complex32::new(0.5, -2.0), Complex32::new(1e-3, 4.0)]);
        let layout = Layout::of(&weights).unwrap();
        let rule = Adam {
            lr: 0.1,
            ..Default::default()
        };
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        let mut flat = layout.gather(&weights).unwrap();
        let grad = layout.gather_grad(&grads).unwrap();
        optimizer.step(&mut flat, &grad).unwrap();
        // The first step of Adam is lr in each number, whatever the gradient's size.
        let expected = [0.9, 2.1, -3.1, 0.4];
        for (found, expected) in flat.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{flat:?}");
        }
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        optimizer.update(&mut weights, &grads).unwrap();
        assert_eq!(layout.gather(&weights).unwrap(), flat);
        let norm = layout.leaf_norms(&grad, 2.0).unwrap()[0];
        assert_eq!(
            norm,
            (0.25_f64 + 4.0 + f64::from(1e-3_f32).powi(2) + 16.0).sqrt()
        );
    }
}
