//! Ties on disk, in the model, in both and in one of them only.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use flatleaf::checkpoint::{self, LoadOptions};
use flatleaf::{DynTree, Layout, tree};
use ndarray::{arr1, arr2, s};
use safetensors::SafeTensors;

use crate::common::models;
use crate::files::{Folder, f32s, load, open, raw, saved, tensors};

/// J.B1, J.A4: a tie is one tensor, at its first place, and Hugging Face's aliases.
#[test]
fn a_tie_is_one_tensor_and_an_alias() {
    let bytes = saved(&models::tied());
    let file = open(&bytes).unwrap();
    let names: Vec<_> = file.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["x", "z"]);
    assert_eq!(file.aliases().collect::<Vec<_>>(), [("y", "x")]);
    let (_, reference) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(reference.metadata().as_ref().unwrap()["y"], "x");
    assert_eq!(
        file.view::<f32>("y").unwrap(),
        file.view::<f32>("x").unwrap()
    );
}

/// P.J5: what `save_model` writes of a shared layer.
#[test]
fn a_tied_layer_is_written_as_hugging_face_writes_it() {
    let file = open(&saved(&models::tied_subtree())).unwrap();
    assert_eq!(file.metadata()["b.bias"], "a.bias");
    assert_eq!(file.metadata()["b.weight"], "a.weight");
}

/// J.B2: paths of nested leaves are names.
#[test]
fn names_are_paths() {
    let model = tree!({ "a": [1.0, 2.0], "b": [{ "c": [3.0, 4.0] }, [6.0, 7.0]] });
    let file = open(&saved(&model)).unwrap();
    let names: Vec<_> = file.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["a", "b.0.c", "b.1"]);
    assert_eq!(file.layout().unwrap().leaf("b.0.c").unwrap().range(), 2..4);
    assert!(file.tensor("b.2").is_none());
}

/// P.C1, P.C2, P.C4: shared parameters are stored once, under the first name.
#[test]
fn shared_parameters_are_stored_once() {
    let kernel = Rc::new(arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]));
    let model = (
        (kernel.clone(), arr1(&[5.0_f32, 6.0])),
        (kernel, arr1(&[7.0_f32, 8.0])),
    );
    let file = open(&saved(&model)).unwrap();
    let elements: usize = file.tensors().iter().map(|tensor| tensor.len()).sum();
    assert_eq!((file.tensors().len(), elements), (3, 8));
    assert_eq!(
        file.flat().unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].as_slice()
    );
}

/// P.C16: equal values are no tie.
#[test]
fn equal_values_are_two_tensors() {
    let file = open(&saved(&(vec![0.0_f32, 0.0], vec![0.0_f32, 0.0]))).unwrap();
    assert_eq!((file.tensors().len(), file.aliases().count()), (2, 0));
}

/// P.J5, P.C18: views that share some elements have no name that covers them.
#[test]
fn views_that_overlap_are_not_saved() {
    let whole = arr1(&[1.0_f32, 2.0, 3.0, 4.0]).into_shared();
    let model = (whole.clone().slice_move(s![..3]), whole.slice_move(s![1..]));
    let folder = Folder::new();
    let error = checkpoint::save(folder.path("model"), &model).unwrap_err();
    assert!(error.is_overlap());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
    assert!(folder.names().is_empty());
}

/// P.J6: whichever name the file keeps.
#[test]
fn a_tied_model_takes_any_of_its_names() {
    for name in ["x", "y"] {
        let bytes = tensors(
            &[
                (name, "F32", &f32s(&[7.0, 8.0, 9.0])),
                ("z", "F32", &f32s(&[4.0, 5.0, 6.0])),
            ],
            "",
        );
        let mut target = models::tied();
        load(&bytes, &mut target).unwrap();
        assert_eq!(*target.x, arr1(&[7.0, 8.0, 9.0]));
        assert!(Arc::ptr_eq(&target.x, &target.y));
    }
}

#[test]
fn a_tied_file_gives_both_leaves_of_an_untied_model_the_value() {
    let mut target = tree!({ "x": [0.0, 0.0, 0.0], "y": [0.0, 0.0, 0.0], "z": [0.0, 0.0, 0.0] });
    let report = open(&saved(&models::tied()))
        .unwrap()
        .load_into(&mut target, &LoadOptions::new())
        .unwrap();
    assert_eq!(report.loaded(), ["x", "y", "z"]);
    assert_eq!(
        target,
        tree!({ "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "z": [4.0, 5.0, 6.0] })
    );
}

/// J.G2: equal values are fine and the tie is kept; different ones are an error, lax or not.
#[test]
fn an_untied_file_fits_a_tied_model_if_its_tensors_are_equal() {
    let file = |y: &[f32]| {
        tensors(
            &[
                ("y", "F32", &f32s(y)),
                ("x", "F32", &f32s(&[7.0, 8.0, 9.0])),
                ("z", "F32", &f32s(&[4.0, 5.0, 6.0])),
            ],
            "",
        )
    };
    let mut target = models::tied();
    load(&file(&[7.0, 8.0, 9.0]), &mut target).unwrap();
    assert_eq!(*target.y, arr1(&[7.0, 8.0, 9.0]));
    assert!(Arc::ptr_eq(&target.x, &target.y));

    for options in [LoadOptions::new(), LoadOptions::new().lax()] {
        let mut target = models::tied();
        let error = open(&file(&[7.0, 8.0, 9.5]))
            .unwrap()
            .load_into(&mut target, &options)
            .unwrap_err();
        assert!(error.is_broken_tie());
        assert_eq!((error.path(), error.other_path()), (Some("x"), Some("y")));
        let text = "`x` and `y`: expected equal tensors for the places of one parameter, found different ones";
        assert_eq!(error.to_string(), text);
        assert_eq!(*target.x, arr1(&[1.0, 2.0, 3.0]));
    }
}

/// Equal once they are of the leaf's type: a copy in another precision is the same parameter.
#[test]
fn tied_tensors_are_compared_as_the_leaf_would_have_them() {
    let wide: Vec<u8> = [7.0_f64, 8.0, 9.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let bytes = tensors(
        &[
            ("y", "F64", &wide),
            ("x", "F32", &f32s(&[7.0, 8.0, 9.0])),
            ("z", "F32", &f32s(&[4.0, 5.0, 6.0])),
        ],
        "",
    );
    load(&bytes, &mut models::tied()).unwrap();
}

/// J.C20: a place that shows the transpose gets the transpose, whatever is tied.
#[test]
fn a_transposed_place_gets_the_transpose() {
    let bytes = saved(&models::tied_transposed());
    let file = open(&bytes).unwrap();
    assert_eq!(file.metadata()["t"], "m");
    assert_eq!(file.view::<f32>("t").unwrap().shape(), [3, 2]);
    assert_eq!(file.view::<f32>("t").unwrap()[[2, 0]], 3.0);

    let mut untied = (arr2(&[[0.0_f32; 3]; 2]), arr2(&[[0.0_f32; 2]; 3]));
    let names = LoadOptions::new().rename(|name| if name == "m" { "0".into() } else { "1".into() });
    file.load_into(&mut untied, &names).unwrap();
    assert_eq!(untied.0, arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
    assert_eq!(untied.1, untied.0.t());

    // A square one, where shapes would not tell.
    let square = arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]).into_shared();
    let mut untied = (arr2(&[[0.0_f32; 2]; 2]), arr2(&[[0.0_f32; 2]; 2]));
    load(
        &saved(&(square.clone(), square.reversed_axes())),
        &mut untied,
    )
    .unwrap();
    assert_eq!(untied.1, arr2(&[[1.0, 3.0], [2.0, 4.0]]));
}

#[test]
fn a_transposed_tie_takes_the_tensor_of_either_place() {
    let m = raw(
        r#"{"m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#,
        &f32s(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
    );
    let t = raw(
        r#"{"t":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}}"#,
        &f32s(&[6.0, 3.0, 5.0, 2.0, 4.0, 1.0]),
    );
    for bytes in [m, t] {
        let mut target = models::tied_transposed();
        load(&bytes, &mut target).unwrap();
        assert_eq!(target.m, arr2(&[[6.0, 5.0, 4.0], [3.0, 2.0, 1.0]]));
        assert_eq!(target.t, target.m.t());
        assert_eq!(Layout::of(&target).unwrap().leaves().len(), 1);
    }
    let both = r#"{"m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"t":{"dtype":"F32","shape":[3,2],"data_offsets":[24,48]}}"#;
    let equal = raw(
        both,
        &f32s(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 6.0, 3.0, 5.0, 2.0, 4.0, 1.0]),
    );
    load(&equal, &mut models::tied_transposed()).unwrap();
    let same_bytes = raw(
        both,
        &f32s(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
    );
    assert!(
        load(&same_bytes, &mut models::tied_transposed())
            .unwrap_err()
            .is_broken_tie()
    );
}

/// As `save_model` writes a transposed tie: an alias, and no word of axes.
#[test]
fn an_alias_of_others_fits_a_transposed_tie() {
    let bytes = raw(
        r#"{"__metadata__":{"t":"m","format":"pt"},"m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#,
        &f32s(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
    );
    let mut target = models::tied_transposed();
    load(&bytes, &mut target).unwrap();
    assert_eq!(target.t[[2, 0]], 4.0);
}

#[test]
fn a_tie_across_frozen_places_is_named_as_its_leaf() {
    let file = open(&saved(&models::tied_across_frozen())).unwrap();
    assert_eq!(file.tensors()[1].name(), "c");
    assert_eq!(file.aliases().collect::<Vec<_>>(), [("a", "c"), ("d", "c")]);
}

#[test]
fn locks_are_written_through() {
    let shared = Arc::new(Mutex::new(arr1(&[0.0_f32, 0.0, 0.0])));
    let mut target = models::tied_by(shared.clone());
    load(&saved(&models::tied_locks()), &mut target).unwrap();
    assert_eq!(*shared.lock().unwrap(), arr1(&[1.0, 2.0, 3.0]));
    assert!(Arc::ptr_eq(&target.x, &shared) && Arc::ptr_eq(&target.y, &shared));
}

/// Another holder of a plain `Arc` keeps its values.
#[test]
fn a_shared_array_of_others_is_not_written() {
    let model = models::tied();
    let mut target = models::tied_by(model.x.clone());
    load(
        &tensors(
            &[
                ("x", "F32", &f32s(&[7.0; 3])),
                ("z", "F32", &f32s(&[8.0; 3])),
            ],
            "",
        ),
        &mut target,
    )
    .unwrap();
    assert_eq!(*model.x, arr1(&[1.0, 2.0, 3.0]));
    assert_eq!(*target.y, arr1(&[7.0; 3]));
    assert!(Arc::ptr_eq(&target.x, &target.y));
}

/// An alias is nothing if what it stands for is not there, and metadata that looks like one does no
/// harm.
#[test]
fn only_names_of_tensors_make_aliases() {
    let file = open(&tensors(
        &[("a", "F32", &f32s(&[1.0])), ("pt", "F32", &f32s(&[2.0]))],
        r#"{"x":"gone","a":"pt","format":"pt"}"#,
    ))
    .unwrap();
    assert_eq!(file.aliases().collect::<Vec<_>>(), [("format", "pt")]);
    assert_eq!(file.view::<f32>("a").unwrap()[0], 1.0);
}

#[test]
fn aliases_are_renamed_with_their_tensors() {
    let bytes = tensors(&[("net.x", "F32", &f32s(&[1.0]))], r#"{"net.y":"net.x"}"#);
    let mut target = tree!({ "x": [0.0], "y": [0.0] });
    open(&bytes)
        .unwrap()
        .load_into(
            &mut target,
            &LoadOptions::new().rename_matching("net.**", "**"),
        )
        .unwrap();
    assert_eq!(target, tree!({ "x": [1.0], "y": [1.0] }));
}

/// A file is one tree and two of its names are one leaf.
#[test]
fn the_layout_of_a_file_has_its_ties() {
    let folder = Folder::new();
    checkpoint::save(folder.path("tied"), &models::tied()).unwrap();
    let file = checkpoint::open(folder.path("tied")).unwrap();
    let layout = file.layout().unwrap();
    assert_eq!(layout.leaf("y").unwrap().places(), ["x", "y"]);
    assert_eq!(layout.len(), 6);
    let copy = DynTree::of(&file).unwrap();
    assert_eq!(copy.get("y"), copy.get("x"));
}

/// A place whose tensor is stored under another prefix is in the part.
#[test]
fn a_part_has_the_ties_whose_tensor_is_elsewhere() {
    let embed = Rc::new(arr1(&[1.0_f32, 2.0]));
    let model = (
        (embed.clone(), arr1(&[3.0_f32])),
        (embed.clone(), arr1(&[4.0_f32]), embed),
    );
    let file = open(&saved(&model)).unwrap();
    let part = file.part("1").unwrap();
    let names: Vec<_> = part.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["0", "1"]); // as their bytes lie in the file
    assert_eq!(part.aliases().collect::<Vec<_>>(), [("2", "0")]);
    assert_eq!(part.flat().unwrap(), [1.0, 2.0, 4.0].as_slice());
    let mut decoder = (
        arr1(&[0.0_f32, 0.0]),
        arr1(&[0.0_f32]),
        arr1(&[0.0_f32, 0.0]),
    );
    let report = part.load_into(&mut decoder, &LoadOptions::new()).unwrap();
    assert_eq!(report.loaded(), ["0", "1", "2"]);
    assert_eq!(decoder.0, arr1(&[1.0, 2.0]));
    assert_eq!(decoder.2, decoder.0);
    assert_eq!(
        file.part("0").unwrap().flat().unwrap(),
        [1.0, 2.0, 3.0].as_slice()
    );
}

#[test]
fn a_part_has_the_transposed_places_of_a_tie() {
    let square = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let model = tree_of_transposed(square);
    let file = open(&saved(&model)).unwrap();
    let part = file.part("decoder").unwrap();
    assert_eq!(part.tensor("t").unwrap().shape(), [3, 2]);
    assert_eq!(
        part.view::<f32>("t").unwrap(),
        part.view::<f32>("u").unwrap()
    );
    assert_eq!(part.view::<f32>("t").unwrap()[[2, 0]], 3.0);
    let mut target = tree!({ "t": [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], "u": [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]] });
    part.load_into(&mut target, &LoadOptions::new()).unwrap();
    let expected = tree!([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
    assert_eq!(target.get("t"), Some(&expected));
    assert_eq!(target.get("u"), Some(&expected));
    // The tree of the part, and of the whole, has the places too.
    assert_eq!(DynTree::of(&part).unwrap(), target);
    assert_eq!(
        DynTree::of(&file).unwrap().get("decoder.u"),
        Some(&expected)
    );
    let layout = file.layout().unwrap();
    assert_eq!((layout.len(), layout.leaves().len()), (6, 1));
    assert_eq!(
        part.flat().unwrap(),
        [1.0, 4.0, 2.0, 5.0, 3.0, 6.0].as_slice()
    );
}

type Square = ndarray::ArcArray<f32, ndarray::Ix2>;

fn tree_of_transposed(
    square: Square,
) -> std::collections::BTreeMap<String, std::collections::BTreeMap<String, Square>> {
    let transposed = square.clone().reversed_axes();
    let branch = |entries: &[(&str, &Square)]| {
        let entries = entries.iter();
        entries
            .map(|(key, array)| (key.to_string(), Square::clone(array)))
            .collect()
    };
    [
        ("coder".to_owned(), branch(&[("m", &square)])),
        (
            "decoder".to_owned(),
            branch(&[("t", &transposed), ("u", &transposed)]),
        ),
    ]
    .into()
}

/// Metadata whose value is a tensor's name is no tie in a file of ours.
#[test]
fn metadata_that_leads_to_a_tensor_is_no_tie() {
    let folder = Folder::new();
    let path = folder.path("m");
    let model = tree!({ "w": [1.0, 2.0], "v": [3.0, 4.0] });
    let extras = checkpoint::Extras::new().metadata("best_layer", "v");
    for extras in [
        extras,
        checkpoint::Extras::new()
            .metadata("best_layer", "v")
            .plain(),
    ] {
        checkpoint::save_with(&path, &model, &extras).unwrap();
        let file = checkpoint::open(&path).unwrap();
        assert_eq!(file.aliases().count(), 0);
        assert_eq!(
            file.user_metadata().collect::<Vec<_>>(),
            [("best_layer", "v")]
        );
        let mut target = tree!({ "w": [0.0, 0.0], "v": [0.0, 0.0], "best_layer": [5.0, 6.0] });
        let error = file
            .load_into(&mut target, &LoadOptions::new())
            .unwrap_err();
        assert_eq!(
            (error.is_missing(), error.path()),
            (true, Some("best_layer"))
        );
        file.load_into(&mut target, &LoadOptions::new().lax())
            .unwrap();
        assert_eq!(target.get("best_layer"), Some(&tree!([5.0, 6.0])));
    }
    // The metadata of the README on a model of numbered leaves.
    let four = (vec![1.0_f32], vec![2.0_f32], vec![3.0_f32], vec![4.0_f32]);
    checkpoint::save_with(
        &path,
        &four,
        &checkpoint::Extras::new().metadata("epoch", "3"),
    )
    .unwrap();
    let file = checkpoint::open(&path).unwrap();
    assert_eq!(
        (file.aliases().count(), file.layout().unwrap().len()),
        (0, 4)
    );
}

/// In a file of others it may be one, where the model has such a leaf.
#[test]
fn a_guess_counts_where_the_model_has_a_leaf_of_that_shape() {
    let bytes = tensors(
        &[("v", "F32", &f32s(&[3.0, 4.0]))],
        r#"{"tied":"v","best_layer":"v"}"#,
    );
    let mut target = tree!({ "v": [0.0, 0.0], "tied": [0.0, 0.0] });
    load(&bytes, &mut target).unwrap();
    assert_eq!(target, tree!({ "v": [3.0, 4.0], "tied": [3.0, 4.0] }));
    let mut target = tree!({ "v": [0.0, 0.0], "best_layer": [0.0] });
    let error = load(&bytes, &mut target).unwrap_err();
    assert!(error.is_missing() && !error.is_shape());
    assert_eq!(error.path(), Some("best_layer"));
}

/// A guess that makes no tree with the tensors is none.
#[test]
fn a_guess_gives_way_to_tensors() {
    let bytes = tensors(
        &[("v.w", "F32", &f32s(&[1.0])), ("x", "F32", &f32s(&[2.0]))],
        r#"{"v":"x","x.y":"x"}"#,
    );
    let file = open(&bytes).unwrap();
    assert_eq!(file.flat().unwrap(), [1.0, 2.0].as_slice());
    assert_eq!(
        DynTree::of(&file).unwrap(),
        tree!({ "v": { "w": [1.0] }, "x": [2.0] })
    );
}

/// Metadata of a file goes into the next version of it, ties and this crate's own entries anew.
#[test]
fn metadata_is_carried_over() {
    let folder = Folder::new();
    let first = checkpoint::Extras::new()
        .metadata("license", "MIT")
        .metadata("best", "x");
    checkpoint::save_with(folder.path("a"), &models::tied(), &first).unwrap();
    let file = checkpoint::open(folder.path("a")).unwrap();
    let second = checkpoint::Extras::new().metadata_of(&file);
    checkpoint::save_with(folder.path("b"), &models::tied(), &second).unwrap();
    assert_eq!(
        std::fs::read(folder.path("a")).unwrap(),
        std::fs::read(folder.path("b")).unwrap()
    );
    let users: Vec<_> = file.user_metadata().collect();
    assert_eq!(users, [("best", "x"), ("license", "MIT")]);
    assert_eq!(file.metadata()["flatleaf.ties"], r#"["y"]"#);
}
