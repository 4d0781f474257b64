//! Tree → flat → tree: order, shapes, and what is no parameter.

use std::collections::{BTreeMap, HashMap};

use crate::common::models::{self, Law};
use crate::common::{bits, count_from, flat, other_paths, paths};
use flatleaf::{DynTree, Layout, Tree, deep_clone, destructure, tree};
use ndarray::{Array0, Array1, Array2, ArrayView1, ArrayView2, CowArray, arr0, arr1, arr2, aview1};

/// The model with its parameters counting from `first`, in flat order.
fn counting<T: Tree>(model: &T, first: f32) -> T {
    let layout = Layout::of(model).unwrap();
    layout
        .restructure(model, &count_from(first, layout.len()))
        .unwrap()
}

// J.A1
#[test]
fn a_leaf_is_a_whole_tree() {
    let model = models::one_leaf();
    let (mut flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0]);
    assert_eq!(layout.len(), 3);
    assert_eq!(
        layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap(),
        arr1(&[7.0, 8.0, 9.0])
    );
    flat[0] = 100.0;
    assert_eq!(model, arr1(&[1.0, 2.0, 3.0]));
}

// J.A2
#[test]
fn a_tuple_is_flattened_left_to_right() {
    let model = models::pair();
    assert_eq!(flat(&model), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        counting(&model, 4.0),
        (arr1(&[4.0, 5.0, 6.0]), arr1(&[7.0, 8.0, 9.0]))
    );
}

// J.A3
#[test]
fn a_function_is_carried_over() {
    let model = models::with_function();
    assert_eq!(flat(&model), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let new = counting(&model, 4.0);
    assert_eq!(
        (new.x, new.z),
        (arr1(&[4.0, 5.0, 6.0]), arr1(&[7.0, 8.0, 9.0]))
    );
    assert_eq!((new.y)(-1.0), 0.0);
}

// J.A7
#[test]
fn frozen_and_skipped_fields_are_kept() {
    let model = models::masked();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0]);
    assert_eq!(paths(&layout), ["a.1"]);
    assert_eq!(other_paths(&layout), ["c.1"]);
    let new = layout.restructure(&model, &[10.0, 20.0, 30.0]).unwrap();
    assert_eq!(new.a.1, arr1(&[10.0, 20.0, 30.0]));
    assert_eq!(new.b.1, arr1(&[4.0, 5.0, 6.0]));
    assert_eq!(new.c.1, arr1(&[7.0, 8.0, 9.0]));
}

// J.A10
#[test]
fn a_vector_of_another_length_is_refused() {
    let mut model = models::masked();
    let layout = Layout::of(&model).unwrap();
    for wrong in [&[10.0, 20.0][..], &[10.0, 20.0, 30.0, 40.0]] {
        let error = layout.restructure(&model, wrong).unwrap_err();
        assert!(error.is_length());
        assert_eq!(error.path(), None);
        assert_eq!(
            error.to_string(),
            format!(
                "the flat vector: expected 3 elements, found {}",
                wrong.len()
            )
        );
        assert!(
            layout
                .restructure_into(&mut model, wrong)
                .unwrap_err()
                .is_length()
        );
        assert!(
            layout
                .gather_into(&model, &mut wrong.to_vec())
                .unwrap_err()
                .is_length()
        );
    }
    assert_eq!(model.a.1, arr1(&[1.0, 2.0, 3.0]));
}

// J.A11
#[test]
fn a_model_without_parameters_has_an_empty_vector() {
    let model = models::empty();
    let (flat, layout) = destructure(&model).unwrap();
    assert!(flat.is_empty());
    assert!(layout.is_empty() && layout.leaves().is_empty() && layout.others().is_empty());
    let new = layout.restructure(&model, &[]).unwrap();
    assert!(new.a.is_none() && new.b.is_none());
    let error = layout.restructure(&model, &[1.0]).unwrap_err();
    assert!(error.is_length());
    assert_eq!(
        error.to_string(),
        "the flat vector: expected 0 elements, found 1"
    );
}

// J.A12
#[test]
fn the_vector_of_a_pair_is_the_vectors_of_its_halves() {
    let first = (None::<Array1<f32>>, arr0(0_i32));
    let second = (arr1(&[1.0_f32, 2.0]), arr1(&[3.0_f32]));
    assert_eq!(
        flat(&(&first, &second)),
        [flat(&first), flat(&second)].concat()
    );
    assert_eq!(flat(&(&second, &first)), [1.0, 2.0, 3.0]);
}

// J.A13, P.D14
#[test]
fn integers_booleans_and_bare_numbers_are_no_parameters() {
    let model = models::carried();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0]);
    assert_eq!(other_paths(&layout), ["n", "flags"]);
    let new = layout.restructure(&model, &[5.0, 6.0]).unwrap();
    assert_eq!(
        (new.a, new.n, new.flags),
        (arr1(&[5.0, 6.0]), arr1(&[7, 8, 9]), vec![true, false])
    );
    assert_eq!((new.flag, new.s, new.name.as_str()), (true, 3.5, "carried"));
}

// J.A15
#[test]
fn a_matrix_is_filled_row_by_row() {
    let model = models::dense();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
    assert_eq!(layout.len(), 6);
    let new = counting(&model, -4.0);
    assert_eq!(
        new,
        models::Dense {
            weight: arr2(&[[-4.0, -3.0], [-2.0, -1.0]]),
            bias: Some(arr1(&[0.0, 1.0]))
        }
    );
}

// J.A16
#[test]
fn structs_nest() {
    assert_eq!(flat(&models::nested()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

// J.A17
#[test]
fn a_type_that_is_no_tree_is_skipped() {
    let model = models::opaque();
    assert_eq!(flat(&model), [5.0, 6.0]);
    assert_eq!(counting(&model, 1.0).lay, model.lay);
}

// J.A18
#[test]
fn rebuilt_models_share_nothing() {
    let model = models::pair();
    let (mut flat, layout) = destructure(&model).unwrap();
    let mut first = layout.restructure(&model, &flat).unwrap();
    let second = layout.restructure(&model, &flat).unwrap();
    first.0[0] = 100.0;
    flat[1] = 200.0;
    assert_eq!(second, models::pair());
    assert_eq!(model, models::pair());
}

struct RoundTrip;

impl Law for RoundTrip {
    fn holds<T: Tree>(&self, name: &str, mut model: T) {
        let layout = Layout::of(&model).unwrap();
        let values = count_from(100.5, layout.len());
        let new = layout.restructure(&model, &values).unwrap();
        assert_eq!(layout.gather(&new).unwrap(), values, "{name}");
        assert_eq!(Layout::of(&new).unwrap(), layout, "{name}");
        layout.restructure_into(&mut model, &values).unwrap();
        assert_eq!(layout.gather(&model).unwrap(), values, "{name}");
        assert_eq!(Layout::of(&model).unwrap(), layout, "{name}");
    }
}

// J.A21, P.A22
#[test]
fn what_is_put_in_comes_out_of_every_model() {
    models::every(&RoundTrip);
}

struct Copies;

impl Law for Copies {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let (flat, layout) = destructure(&model).unwrap();
        let everything = Layout::everything(&model).unwrap();
        let copy = deep_clone(&model).unwrap();
        assert_eq!(
            everything.gather(&copy).unwrap(),
            everything.gather(&model).unwrap(),
            "{name}"
        );
        assert_eq!(Layout::of(&copy).unwrap(), layout, "{name}");
        let mut into = vec![f32::NAN; layout.len()];
        layout.gather_into(&model, &mut into).unwrap();
        assert_eq!(into, flat, "{name}");
    }
}

// P.A22
#[test]
fn a_deep_clone_of_every_model_is_like_it() {
    models::every(&Copies);
}

struct Covered;

impl Law for Covered {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let layout = Layout::of(&model).unwrap();
        let mut at = 0;
        for leaf in layout.leaves() {
            assert_eq!(leaf.range(), at..at + leaf.len(), "{name}");
            assert_eq!(leaf.len(), leaf.shape().iter().product::<usize>(), "{name}");
            at += leaf.len();
        }
        assert_eq!(at, layout.len(), "{name}");
    }
}

#[test]
fn the_ranges_of_the_leaves_cover_the_vector() {
    models::every(&Covered);
}

struct WrongLength;

impl Law for WrongLength {
    fn holds<T: Tree>(&self, name: &str, mut model: T) {
        let (flat, layout) = destructure(&model).unwrap();
        let error = layout
            .restructure_into(&mut model, &count_from(50.0, flat.len() + 1))
            .unwrap_err();
        assert!(error.is_length(), "{name}");
        assert_eq!(layout.gather(&model).unwrap(), flat, "{name}");
        let mut long = vec![7.0; flat.len() + 1];
        assert!(
            layout
                .gather_into(&model, &mut long)
                .unwrap_err()
                .is_length(),
            "{name}"
        );
        assert_eq!(long, vec![7.0; flat.len() + 1], "{name}");
    }
}

// J.A10
#[test]
fn a_wrong_length_leaves_every_model_as_it_was() {
    models::every(&WrongLength);
}

// J.A23
#[test]
fn one_element_is_a_tree() {
    assert_eq!(flat(&models::single()), [5.0]);
    let zero_d = models::Single { x: arr0(5.0_f32) };
    let (flat, layout) = destructure(&zero_d).unwrap();
    assert_eq!(flat, [5.0]);
    assert_eq!(layout.leaves()[0].shape(), [0; 0]);
    assert_eq!(layout.restructure(&zero_d, &[6.0]).unwrap().x, arr0(6.0));
}

// J.A24
#[test]
fn running_statistics_are_no_parameters() {
    let model = models::batch_norm();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.len(), 6);
    assert_eq!(other_paths(&layout), ["mean", "var", "seen"]);
    let new = counting(&model, 21.0);
    assert_eq!(
        (new.beta, new.gamma),
        (arr1(&[21.0, 22.0, 23.0]), arr1(&[24.0, 25.0, 26.0]))
    );
    assert_eq!(
        (new.mean, new.var, new.seen),
        (model.mean, model.var, model.seen)
    );
}

// J.A25, P.D2
#[test]
fn a_bias_that_is_not_there_counts_nothing() {
    assert_eq!(flat(&models::chain_with(false)), count_from(1.0, 47));
    assert_eq!(flat(&models::chain_with(true)), count_from(1.0, 59));
    assert_eq!(
        counting(&models::chain_with(false), 1.0),
        models::chain_with(false)
    );
    let model = models::dense_without_bias();
    assert_eq!(flat(&model).len(), 6);
    assert_eq!(counting(&model, 9.0).bias, None);
}

// J.A26
#[test]
fn layers_of_several_kinds_add_up() {
    let layout = Layout::of(&models::duo()).unwrap();
    assert_eq!(layout.len(), 6 + 4);
    assert_eq!(
        paths(&layout),
        ["a.weight", "a.bias", "b.0.scale", "b.0.bias"]
    );
}

// J.A26
#[test]
fn two_fields_of_three_are_trained() {
    let model = models::Third {
        a: arr0(1.0_f32),
        b: arr0(2.0),
        c: arr0(3.0),
    };
    assert_eq!(flat(&model), [1.0, 2.0]);
}

// J.A32
#[test]
fn maps_are_visited_in_the_order_of_their_keys() {
    let layout = Layout::of(&models::maps()).unwrap();
    assert_eq!(flat(&models::maps()), count_from(1.0, 8));
    assert_eq!(
        paths(&layout),
        ["a", "b.k", "b.n", "b.z", "c.w", "c.x", "c.y"]
    );
}

// J.A33
#[test]
fn nesting_is_flattened_depth_first() {
    let model = tree!([1.0, [[2.0, 3.0], 4.0], [4.0, 5.0, 6.0]]);
    assert_eq!(flat(&model), [1.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0]);
}

// J.A34
#[test]
fn fields_are_flattened_in_declaration_order() {
    assert_eq!(
        flat(&models::deep()),
        [100.0, 4.0, 1.3, 1.0, 1.0, 4.4, 0.4, 2.0, 1.0, 45.0]
    );
}

// P.A1
#[test]
fn shapes_are_restored() {
    let model = (arr1(&[3.0_f32]), arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]));
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [3.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(layout.restructure(&model, &flat).unwrap(), model);
    let shapes: Vec<_> = layout
        .leaves()
        .iter()
        .map(|leaf| leaf.shape().to_vec())
        .collect();
    assert_eq!(shapes, [vec![1], vec![2, 2]]);
}

// P.A2
#[test]
fn maps_in_maps_are_sorted_at_every_level() {
    let leaf = |x: f32| Box::new(arr0(x)) as Box<dyn Tree>;
    let map = || BTreeMap::from([("b", leaf(2.0)), ("a", leaf(1.0))]);
    let mut model = map();
    model.insert("c", Box::new(map()));
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 1.0, 2.0]);
    assert_eq!(paths(&layout), ["a", "b", "c.a", "c.b"]);
}

// P.A3
#[test]
fn lists_of_unequal_depth_keep_their_order() {
    let model = tree!([0, [[1, 2], 3, [4, [5, 6, 7]]], 8, 9]);
    assert_eq!(flat(&model), count_from(0.0, 10));
}

// P.A4
#[test]
fn maps_are_sorted_and_structs_are_not() {
    let (w1, b1) = (
        arr2(&[[0.0_f32, 1.0, 2.0], [3.0, 4.0, 5.0]]).into_dyn(),
        arr1(&[6.0_f32, 7.0]).into_dyn(),
    );
    let (w2, b2) = (
        arr2(&[[8.0_f32, 9.0]]).into_dyn(),
        arr1(&[10.0_f32]).into_dyn(),
    );
    let dense = |w: &ndarray::ArrayD<f32>, b: &ndarray::ArrayD<f32>| {
        HashMap::from([("weight", w.clone()), ("bias", b.clone())])
    };
    let map = BTreeMap::from([("layer1", dense(&w1, &b1)), ("layer2", dense(&w2, &b2))]);
    assert_eq!(
        flat(&map),
        [6.0, 7.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 8.0, 9.0]
    );
    let structs = [
        models::Dense::counting(0.0, 2, 3, true),
        models::Dense::counting(8.0, 1, 2, true),
    ];
    assert_eq!(flat(&structs), count_from(0.0, 11));
}

fn entries() -> [(&'static str, DynTree); 2] {
    [
        ("weight", tree!([[1.0, 2.0], [3.0, 4.0]])),
        ("bias", tree!([5.0, 6.0])),
    ]
}

// P.A5
#[test]
fn the_order_of_insertion_into_a_map_does_not_matter() {
    let [weight, bias] = entries();
    let one = HashMap::from([weight.clone(), bias.clone()]);
    let other = HashMap::from([bias, weight]);
    assert_eq!(flat(&one), [5.0, 6.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(flat(&other), flat(&one));
}

// P.A5
#[test]
fn a_map_in_another_order_gathers_to_the_same_vector() {
    let [weight, bias] = entries();
    let layout = Layout::of(&DynTree::map([weight.clone(), bias.clone()])).unwrap();
    let other = DynTree::map([bias.clone(), weight.clone()]);
    assert_eq!(
        layout.gather(&other).unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    assert_eq!(
        layout.gather(&BTreeMap::from([weight, bias])).unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    let new = layout
        .restructure(&other, &[7.0, 8.0, 9.0, 10.0, 11.0, 12.0])
        .unwrap();
    assert_eq!(
        new,
        tree!({ "bias": [11.0, 12.0], "weight": [[7.0, 8.0], [9.0, 10.0]] })
    );
}

// P.A5
#[cfg(feature = "indexmap")]
#[test]
fn an_index_map_keeps_the_order_of_insertion() {
    use indexmap::IndexMap;
    let layout = Layout::of(&models::in_insertion_order()).unwrap();
    assert_eq!(paths(&layout), ["weight", "bias"]);
    let other: IndexMap<String, Array1<f32>> =
        models::in_insertion_order().into_iter().rev().collect();
    assert_eq!(layout.gather(&other).unwrap(), [1.0, 2.0]);
    let new = layout.restructure(&other, &[3.0, 4.0]).unwrap();
    assert_eq!(new.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(new["weight"], arr1(&[3.0]));
}

fn is_empty_tree<T: Tree>(tree: &T) {
    let (flat, layout) = destructure(tree).unwrap();
    assert!(flat.is_empty());
    let new = layout.restructure(tree, &[]).unwrap();
    assert_eq!(Layout::of(&new).unwrap(), layout);
    assert!(
        layout
            .gather_into(tree, &mut [0.0])
            .unwrap_err()
            .is_length()
    );
}

// P.A9
#[test]
fn empty_trees_are_trees() {
    is_empty_tree(&Vec::<Array1<f32>>::new());
    is_empty_tree(&BTreeMap::<String, Array1<f32>>::new());
    is_empty_tree(&());
    is_empty_tree(&None::<Array1<f32>>);
    is_empty_tree(&tree!({}));
    is_empty_tree(&tree!([]));
    is_empty_tree(&tree!(null));
}

// P.A11
#[test]
fn a_0_d_leaf_stays_0_d() {
    let model = models::zero_d();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [2.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(layout.leaves()[0].shape(), [0; 0]);
    assert_eq!(layout.view(&flat, "0").unwrap().shape(), [0; 0]);
    let unit: Array2<f32> = arr2(&[[5.0]]);
    assert_eq!(counting(&unit, 6.0), arr2(&[[6.0]]));
}

#[test]
fn a_zero_length_leaf_keeps_its_shape() {
    let model = models::zero_length();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(paths(&layout), ["none", "one", "list"]);
    assert_eq!(layout.leaf("none").unwrap().shape(), [0, 3]);
    assert_eq!(layout.leaf("none").unwrap().range(), 0..0);
    assert_eq!(layout.leaf("list").unwrap().range(), 1..1);
    let new = counting(&model, 9.0);
    assert_eq!(
        (new.none.dim(), new.one, new.list.len()),
        ((0, 3), arr1(&[9.0]), 0)
    );
}

// P.A14
#[test]
fn fortran_order_is_read_in_logical_order_and_kept() {
    let model = models::fortran();
    assert_eq!(flat(&model), [1.0, 2.0, 3.0, 4.0]);
    let new = counting(&model, 5.0);
    assert_eq!(new, arr2(&[[5.0, 6.0], [7.0, 8.0]]));
    assert_eq!(new.strides(), [1, 2]);
}

// P.A15
#[test]
fn strided_arrays_are_read_in_logical_order() {
    let model = models::strided();
    assert_eq!(
        flat(&model),
        [
            4.0, 3.0, 2.0, 1.0, 1.0, 3.0, 5.0, 1.0, 4.0, 2.0, 5.0, 3.0, 6.0
        ]
    );
    let new = counting(&model, 1.0);
    assert_eq!(new.reversed, arr1(&[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(new.every_other, arr1(&[5.0, 6.0, 7.0]));
    assert_eq!(
        new.transposed,
        arr2(&[[8.0, 9.0], [10.0, 11.0], [12.0, 13.0]])
    );
    assert_eq!(new.transposed.strides(), [1, 3]);
}

// P.A15
#[test]
fn strided_arrays_are_written_in_place() {
    let mut model = models::strided();
    let layout = Layout::of(&model).unwrap();
    layout
        .restructure_into(&mut model, &count_from(1.0, 13))
        .unwrap();
    assert_eq!(flat(&model), count_from(1.0, 13));
    assert_eq!(model.reversed.strides(), [-1]);
}

// P.A15
#[test]
fn views_are_read() {
    let owned = arr1(&[1.0_f32, 2.0, 3.0, 4.0]);
    let reversed: ArrayView1<'_, f32> = owned.slice(ndarray::s![..;-1]);
    assert_eq!(flat(&reversed), [4.0, 3.0, 2.0, 1.0]);
    assert_eq!(flat(&CowArray::from(reversed)), [4.0, 3.0, 2.0, 1.0]);
    assert_eq!(flat(&&[1.0_f32, 2.0][..]), [1.0, 2.0]);
    let matrix = arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]);
    let transposed: ArrayView2<'_, f32> = matrix.t();
    assert_eq!(flat(&transposed), [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn views_are_not_written() {
    let elements = [1.0_f32, 2.0];
    let mut model = (arr1(&[0.0_f32]), aview1(&elements));
    let layout = Layout::of(&model).unwrap();
    let error = layout
        .restructure_into(&mut model, &[7.0, 8.0, 9.0])
        .unwrap_err();
    assert!(error.is_read_only());
    assert_eq!(error.path(), Some("1"));
    assert_eq!(model.0, arr1(&[0.0]));
    let error = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap_err();
    assert!(error.is_read_only());
    assert_eq!(error.path(), Some("1"));
}

// P.A17
#[test]
fn offsets_add_up() {
    let model = models::conv();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.len(), 980);
    let starts: Vec<usize> = layout
        .leaves()
        .iter()
        .map(|leaf| leaf.range().start)
        .collect();
    assert_eq!(starts, [0, 750, 760, 960]);
    let new = counting(&model, 0.0);
    assert_eq!(
        new.conv.weight.slice(ndarray::s![0, 0, 0, ..]),
        arr1(&[0.0, 1.0, 2.0, 3.0, 4.0])
    );
    assert_eq!(new.linear.weight[[19, 9]], 959.0);
}

// P.A21
#[test]
fn every_bit_survives() {
    let odd = [
        0x8000_0000,
        0x7fc0_0001,
        0x0000_0001,
        0x7f80_0000,
        0xff80_0000,
    ]
    .map(f32::from_bits);
    let model = (arr1(&odd), arr1(&[0.0_f32]));
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(bits(&flat[..5]), bits(&odd));
    let new = layout.restructure(&model, &flat).unwrap();
    assert_eq!(bits(new.0.as_slice().unwrap()), bits(&odd));
    let mut target = (arr1(&[0.0_f32; 5]), arr1(&[0.0_f32]));
    layout.restructure_into(&mut target, &flat).unwrap();
    assert_eq!(bits(target.0.as_slice().unwrap()), bits(&odd));
}

// P.A23
#[test]
fn static_fields_are_copied() {
    let model = models::static_fields();
    assert_eq!(flat(&model), [1.0, 2.0]);
    let new = counting(&model, 3.0);
    assert_eq!((new.w, new.name, new.stride), (arr1(&[3.0, 4.0]), "x", 3));
    assert!(new.cache.is_empty());
}

// J.G10
#[test]
fn a_bare_number_is_a_parameter_where_it_says_so() {
    let model = models::scalars();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0]);
    assert_eq!(layout.leaf("temperature").unwrap().shape(), [0; 0]);
    assert_eq!(other_paths(&layout), ["scale"]);
    let new = counting(&model, 9.0);
    assert_eq!((new.temperature, new.scale, new.eps), (9.0, 2.0, 1e-5));
}

// P.B4
#[test]
fn an_f64_leaf_does_not_go_into_a_vector_of_f32() {
    let model = (arr1(&[1.0_f32, 2.0]), arr0(0.1_f64));
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.len(), 3);
    let mut flat = [7.0; 3];
    let errors = [
        layout.gather(&model).unwrap_err(),
        layout.gather_into(&model, &mut flat).unwrap_err(),
        layout.restructure(&model, &[1.0, 2.0, 3.0]).unwrap_err(),
        destructure(&model).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_element_type(), "{error}");
        assert_eq!(error.path(), Some("1"));
        assert_eq!(error.found(), Some("f64"));
    }
    assert_eq!(flat, [7.0; 3]);
}

// Decision 8
#[test]
fn the_gradient_of_an_f64_leaf_does_not_go_into_a_vector_of_f32() {
    let model = (arr1(&[1.0_f32, 2.0]), arr0(0.1_f64));
    let error = Layout::of(&model).unwrap().gather_grad(&model).unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(error.path(), Some("1"));
}

// P.B4
#[test]
fn a_frozen_f64_leaf_is_copied_exactly() {
    #[derive(Tree, Debug)]
    struct Mixed {
        w: Array1<f32>,
        #[tree(frozen)]
        b: Array0<f64>,
        n: i64,
    }
    let model = Mixed {
        w: arr1(&[1.0, 2.0]),
        b: arr0(0.1),
        n: 200,
    };
    assert_eq!(flat(&model), [1.0, 2.0]);
    let new = counting(&model, 3.0);
    assert_eq!((new.w, new.b, new.n), (arr1(&[3.0, 4.0]), arr0(0.1), 200));
}

// P.D1
#[test]
fn absent_parts_are_kept_absent() {
    let model = tree!({ "b": [2, [3, 4]], "a": 1, "c": null, "d": 5 });
    assert_eq!(flat(&model), [2.0, 3.0, 4.0, 1.0, 5.0]);
    let sorted = BTreeMap::from([
        ("b", tree!([2, [3, 4]])),
        ("a", tree!(1)),
        ("c", tree!(null)),
        ("d", tree!(5)),
    ]);
    assert_eq!(flat(&sorted), [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(counting(&sorted, 7.0)["c"].is_absent());
}

#[test]
fn enums_show_their_active_variant() {
    let model = models::activation();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0]);
    assert_eq!(paths(&layout), ["1.slope", "2.0", "2.1"]);
    let new = counting(&model, 7.0);
    assert!(matches!(new[0], models::Activation::Relu));
    assert!(matches!(&new[1], models::Activation::Prelu { slope } if slope[0] == 7.0));
    assert!(matches!(&new[2], models::Activation::Affine(a, b) if a[0] == 8.0 && b[0] == 9.0));
}

#[test]
fn lists_of_numbers_are_leaves_and_lists_of_lists_branches() {
    let model = models::lists();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, count_from(1.0, 11));
    assert_eq!(
        paths(&layout),
        [
            "vec", "array", "slice", "branch.0", "branch.1", "arrays.0", "arrays.1"
        ]
    );
    assert_eq!(counting(&model, 1.0), model);
    assert_eq!(
        counting(&models::boxed_slices(), 4.0)[1],
        Box::new(arr1(&[5.0, 6.0]))
    );
}

#[test]
fn trait_objects_are_rebuilt() {
    let model = models::layers();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, count_from(1.0, 6));
    assert_eq!(paths(&layout), ["0.weight", "1.0"]);
    let new = counting(&model, 11.0);
    assert_eq!(layout.gather(&new).unwrap(), count_from(11.0, 6));
    assert_eq!(
        new.iter().map(|layer| layer.outputs()).collect::<Vec<_>>(),
        [2, 2]
    );
}

#[derive(Tree, Debug)]
struct Plain(Array1<f32>);

impl models::Layer for Plain {
    fn outputs(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn a_trait_object_that_names_none_is_written_in_place_only() {
    let mut model: Vec<Box<dyn models::Layer>> = vec![
        Box::new(models::Bias(arr1(&[1.0]))),
        Box::new(Plain(arr1(&[2.0]))),
    ];
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0]);
    let error = layout.restructure(&model, &[3.0, 4.0]).unwrap_err();
    assert!(error.is_object());
    assert_eq!(error.path(), Some("1"));
    layout.restructure_into(&mut model, &[3.0, 4.0]).unwrap();
    assert_eq!(layout.gather(&model).unwrap(), [3.0, 4.0]);
}

// Decision 6
#[test]
fn a_missing_leaf_is_an_error() {
    let layout = Layout::of(&tree!({ "a": [1.0], "b": { "c": [2.0], "d": [3.0] } })).unwrap();
    let mut flat = [7.0; 3];
    let error = layout
        .gather_into(&tree!({ "a": [1.0], "b": { "d": [3.0] } }), &mut flat)
        .unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.path(), Some("b.c"));
    assert_eq!(flat, [7.0; 3]);
    let error = layout.gather(&tree!({})).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["a", "b.c", "b.d"]);
}

// Decision 6, P.D5
#[test]
fn an_extra_leaf_is_an_error() {
    let layout = Layout::of(&tree!({ "a": [1.0], "c": { "d": [2.0] } })).unwrap();
    let mut flat = [7.0; 2];
    let error = layout
        .gather_into(
            &tree!({ "a": [1.0], "c": { "d": [2.0], "extra": [3.0] } }),
            &mut flat,
        )
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("c.extra"));
    assert_eq!(flat, [7.0; 2]);
}

// Decision 7, P.H9
#[test]
fn a_leaf_of_another_shape_is_an_error_and_nothing_is_written() {
    let layout = Layout::of(&tree!({ "a": [1.0], "b": [[2.0]] })).unwrap();
    let mut other = tree!({ "a": [1.0], "b": [2.0] });
    let error = layout
        .restructure_into(&mut other, &[7.0, 8.0])
        .unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("b"));
    assert_eq!(
        error.to_string(),
        "`b`: expected shape [1, 1], found shape [1]"
    );
    assert_eq!(other, tree!({ "a": [1.0], "b": [2.0] }));
}

// Decision 7, P.H3
#[test]
fn all_leaves_that_disagree_are_listed() {
    let layout = Layout::of(&tree!([[1.0], { "x": [2.0] }])).unwrap();
    let error = layout
        .gather(&tree!([[3.0, 4.0], { "x": [5.0, 6.0] }]))
        .unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["0", "1.x"]);
}

// Decision 7
#[test]
fn the_first_eight_are_listed_and_the_rest_counted() {
    let list = |len: usize| DynTree::list((0..11).map(|_| DynTree::from(vec![1.0_f32; len])));
    let layout = Layout::of(&list(1)).unwrap();
    let error = layout.gather(&list(2)).unwrap_err();
    assert_eq!(
        error.paths().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "6", "7"]
    );
    assert!(error.to_string().ends_with("; and 3 more"), "{error}");
}

// Decision 8
#[test]
fn a_leaf_of_another_element_type_is_an_error() {
    let layout = Layout::of(&(arr1(&[1.0_f32]), arr1(&[2.0_f32]))).unwrap();
    let error = layout
        .gather(&(arr1(&[1.0_f32]), arr1(&[2.0_f64])))
        .unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(error.path(), Some("1"));
    assert_eq!(
        (error.expected(), error.found()),
        (Some("f32"), Some("f64"))
    );
}
