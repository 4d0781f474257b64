//! Averages, moving averages and differences of files against plain computation in memory.

use std::collections::BTreeMap;

use flatleaf::checkpoint::{self, AverageOptions, Extras, LoadOptions};
use flatleaf::{DynTree, Layout, tree};
use half::{bf16, f16};
use ndarray::{Array1, arr1};

use crate::common::models;
use crate::files::{Folder, f32s, tensors};

/// Several chunks and a rest; every float type, integers and a boolean.
fn model(seed: usize) -> DynTree {
    let number = |index: usize| ((index * 7919 + seed * 104_729) % 10_007) as f64 / 5000.0 - 1.0;
    DynTree::map([
        (
            "w",
            DynTree::from(Array1::from_iter(
                (0..150_001).map(|index| number(index) as f32),
            )),
        ),
        (
            "d",
            DynTree::from(Array1::from_iter((0..5).map(|index| number(index) / 3.0))),
        ),
        (
            "h",
            DynTree::from(Array1::from_iter(
                (0..5).map(|index| f16::from_f64(number(index))),
            )),
        ),
        (
            "b",
            DynTree::from(Array1::from_iter(
                (0..5).map(|index| bf16::from_f64(number(index))),
            )),
        ),
        ("n", DynTree::from(vec![seed as i64])),
        ("flag", DynTree::from(vec![seed.is_multiple_of(2)])),
    ])
}

fn three(folder: &Folder) -> [std::path::PathBuf; 3] {
    [1, 2, 3].map(|seed| {
        let path = folder.path(&seed.to_string());
        checkpoint::save(&path, &model(seed)).unwrap();
        path
    })
}

fn check(out: &std::path::Path, fold: impl Fn(f64, f64, f64) -> f64) {
    let mut result = model(0);
    checkpoint::load_into(out, &mut result, &LoadOptions::new()).unwrap();
    let [a, b, c] = [1, 2, 3].map(model);
    let each = |name: &str| -> Vec<f64> {
        let of = |tree: &DynTree| -> Vec<f64> {
            let tree = tree.get(name).unwrap();
            let f32s = tree
                .as_array::<f32>()
                .map(|array| array.iter().map(|&x| f64::from(x)).collect());
            let f64s = || {
                tree.as_array::<f64>()
                    .map(|array| array.iter().copied().collect())
            };
            let f16s = || {
                tree.as_array::<f16>()
                    .map(|array| array.iter().map(|x| x.to_f64()).collect())
            };
            f32s.or_else(f64s)
                .or_else(f16s)
                .or_else(|| {
                    tree.as_array::<bf16>()
                        .map(|array| array.iter().map(|x| x.to_f64()).collect())
                })
                .unwrap()
        };
        of(&a)
            .iter()
            .zip(&of(&b))
            .zip(&of(&c))
            .map(|((&a, &b), &c)| fold(a, b, c))
            .collect()
    };
    let array = |name: &str| result.get(name).unwrap();
    assert_eq!(
        array("w")
            .as_array::<f32>()
            .unwrap()
            .to_owned()
            .into_raw_vec_and_offset()
            .0,
        each("w").iter().map(|&x| x as f32).collect::<Vec<_>>()
    );
    assert_eq!(
        array("d")
            .as_array::<f64>()
            .unwrap()
            .iter()
            .copied()
            .collect::<Vec<_>>(),
        each("d")
    );
    assert_eq!(
        array("h")
            .as_array::<f16>()
            .unwrap()
            .iter()
            .copied()
            .collect::<Vec<_>>(),
        each("h")
            .iter()
            .map(|&x| f16::from_f64(x))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        array("b")
            .as_array::<bf16>()
            .unwrap()
            .iter()
            .copied()
            .collect::<Vec<_>>(),
        each("b")
            .iter()
            .map(|&x| bf16::from_f64(x))
            .collect::<Vec<_>>()
    );
    // Of the last file.
    assert_eq!(array("n").as_array::<i64>().unwrap()[0], 3);
    assert!(!array("flag").as_array::<bool>().unwrap()[0]);
}

#[test]
fn an_average_is_the_sum_over_the_count() {
    let folder = Folder::new();
    checkpoint::average(&three(&folder), folder.path("out")).unwrap();
    check(&folder.path("out"), |a, b, c| (a + b + c) / 3.0);
}

#[test]
fn a_moving_average_weighs_the_last_most() {
    let folder = Folder::new();
    let paths = three(&folder);
    checkpoint::ema(&paths, 0.9, folder.path("out")).unwrap();
    check(&folder.path("out"), |a, b, c| {
        0.9 * (0.9 * a + (1.0 - 0.9) * b) + (1.0 - 0.9) * c
    });
    checkpoint::ema(&paths, 0.0, folder.path("out")).unwrap();
    check(&folder.path("out"), |_, _, c| c);
}

/// P.G4
#[test]
fn a_decay_is_from_0_to_1() {
    let folder = Folder::new();
    for decay in [-0.1, 1.1, f64::NAN] {
        let error = checkpoint::ema(&[folder.path("none")], decay, folder.path("out")).unwrap_err();
        assert!(error.is_argument());
        assert_eq!(
            error.to_string(),
            format!("expected a decay from 0 to 1, found {decay}")
        );
    }
}

/// P.G3: averages of 1, of 1 and 2, of 1, 2 and 3.
#[test]
fn averages_of_one_to_three() {
    let folder = Folder::new();
    let paths = [1.0_f32, 2.0, 3.0].map(|x| folder.path(&x.to_string()));
    paths
        .iter()
        .zip([1.0_f32, 2.0, 3.0])
        .for_each(|(path, x)| checkpoint::save(path, &vec![x]).unwrap());
    for (count, mean) in [(1, 1.0), (2, 1.5), (3, 2.0)] {
        checkpoint::average(&paths[..count], folder.path("out")).unwrap();
        assert_eq!(
            checkpoint::open(folder.path("out"))
                .unwrap()
                .flat()
                .unwrap(),
            [mean].as_slice()
        );
    }
    // Into one of them.
    checkpoint::average(&paths, &paths[0]).unwrap();
    assert_eq!(
        checkpoint::open(&paths[0]).unwrap().flat().unwrap(),
        [2.0].as_slice()
    );
    assert!(
        checkpoint::average(&paths[..0], folder.path("out"))
            .unwrap_err()
            .is_argument()
    );
}

#[test]
fn ties_and_metadata_stay_and_what_is_beside_goes() {
    let folder = Folder::new();
    let model = models::tied_transposed();
    let flat = Layout::of(&model).unwrap().gather(&model).unwrap();
    let extras = Extras::new().vector("ema", &flat).metadata("run", "7");
    checkpoint::save_with(folder.path("a"), &model, &extras).unwrap();
    checkpoint::average(&[folder.path("a"), folder.path("a")], folder.path("out")).unwrap();
    checkpoint::save_with(
        folder.path("b"),
        &model,
        &Extras::new().metadata("run", "7"),
    )
    .unwrap();
    assert_eq!(
        std::fs::read(folder.path("out")).unwrap(),
        std::fs::read(folder.path("b")).unwrap()
    );
}

#[test]
fn files_that_differ_are_not_averaged() {
    let folder = Folder::new();
    checkpoint::save(
        folder.path("a"),
        &tree!({ "x": [1.0], "y": [1.0, 2.0], "z": [1.0] }),
    )
    .unwrap();
    checkpoint::save(
        folder.path("b"),
        &tree!({ "x": [1.0], "y": [1.0], "extra": [0.0] }),
    )
    .unwrap();
    let error =
        checkpoint::average(&[folder.path("a"), folder.path("b")], folder.path("out")).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["y", "z", "extra"]);
    std::fs::write(
        folder.path("c"),
        tensors(
            &[
                ("x", "I32", &[1, 0, 0, 0]),
                ("y", "F32", &f32s(&[1.0, 2.0])),
                ("z", "F32", &f32s(&[1.0])),
            ],
            "",
        ),
    )
    .unwrap();
    let error =
        checkpoint::average(&[folder.path("a"), folder.path("c")], folder.path("out")).unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(error.path(), Some("x"));
    assert_eq!(folder.names(), ["a", "b", "c"]);
}

#[test]
fn differences_are_those_of_the_vectors() {
    let folder = Folder::new();
    let [first, second, _] = three(&folder);
    let comparison = checkpoint::compare(&first, &second).unwrap();
    let by_name: BTreeMap<_, _> = comparison
        .tensors
        .iter()
        .map(|difference| (difference.name.as_str(), difference))
        .collect();
    let (a, b) = (model(1), model(2));
    let (a, b) = (
        a.get("w").unwrap().as_array::<f32>().unwrap(),
        b.get("w").unwrap().as_array::<f32>().unwrap(),
    );
    let square = |array: &ndarray::ArrayD<f64>| array.mapv(|x| x * x).sum().sqrt();
    let (a, b) = (a.mapv(f64::from), b.mapv(f64::from));
    let difference = by_name["w"];
    assert_eq!(difference.len, 150_001);
    for (found, expected) in [
        (difference.distance, square(&(&a - &b))),
        (difference.norm_first, square(&a)),
        (difference.norm_second, square(&b)),
    ] {
        assert!(
            (found - expected).abs() < 1e-12 * expected,
            "{found} {expected}"
        );
    }
    assert_eq!(
        difference.max_abs,
        (&a - &b).iter().fold(0.0, |max, x| f64::max(max, x.abs()))
    );
    assert_eq!((by_name["n"].distance, by_name["flag"].max_abs), (1.0, 1.0));
    let total: f64 = comparison
        .tensors
        .iter()
        .map(|tensor| tensor.distance.powi(2))
        .sum();
    assert_eq!(comparison.distance(), total.sqrt());
}

#[test]
fn names_shapes_and_types_may_differ() {
    let folder = Folder::new();
    checkpoint::save(folder.path("tied"), &models::tied()).unwrap();
    let other = tree!({ "y": [1.0, 2.0, 5.0], "z": [0.0], "new": [1.0] });
    checkpoint::save(folder.path("other"), &other).unwrap();
    let comparison = checkpoint::compare(folder.path("tied"), folder.path("other")).unwrap();
    assert_eq!(comparison.tensors.len(), 1);
    assert_eq!(
        (
            comparison.tensors[0].name.as_str(),
            comparison.tensors[0].distance
        ),
        ("x", 2.0)
    );
    assert_eq!(
        (comparison.other_shapes, comparison.only_in_second),
        (vec!["z".to_owned()], vec!["new".to_owned()])
    );
    let back = checkpoint::compare(folder.path("other"), folder.path("tied")).unwrap();
    assert_eq!(
        (
            back.tensors[0].name.as_str(),
            back.tensors[0].distance,
            back.only_in_first
        ),
        ("y", 2.0, vec!["new".to_owned()])
    );
    assert!(back.only_in_second.is_empty());
}

#[test]
fn a_nan_is_not_lost() {
    let folder = Folder::new();
    checkpoint::save(folder.path("a"), &arr1(&[1.0_f32, f32::NAN, 1.0])).unwrap();
    checkpoint::save(folder.path("b"), &arr1(&[5.0_f32, 1.0, 9.0])).unwrap();
    let comparison = checkpoint::compare(folder.path("a"), folder.path("b")).unwrap();
    assert!(comparison.tensors[0].max_abs.is_nan() && comparison.distance().is_nan());
    assert_eq!(comparison.norms().1, 107.0_f64.sqrt());
}

#[test]
fn a_scan_sees_every_element_once() {
    let folder = Folder::new();
    let [first, second, _] = three(&folder);
    let mut seen = BTreeMap::new();
    checkpoint::scan(&[first, second], |tensor, chunks| {
        assert_eq!(chunks[0].len(), chunks[1].len());
        *seen.entry(tensor.name().to_owned()).or_insert(0) += chunks[0].len();
    })
    .unwrap();
    assert_eq!(seen["w"], 150_001);
    assert_eq!(seen.len(), 6);
}

/// Weights, and tensors that do not fit left out and told.
#[test]
fn averages_with_weights_leave_out_what_does_not_fit() {
    let folder = Folder::new();
    let save = |name: &str, model: &DynTree| {
        checkpoint::save(folder.path(name), model).unwrap();
        folder.path(name)
    };
    let files = [
        save(
            "a",
            &tree!({ "w": [1.0, 2.0], "head": [1.0], "old": [1.0] }),
        ),
        save("b", &tree!({ "w": [3.0, 6.0], "head": [1.0, 2.0] })),
        save(
            "c",
            &tree!({ "w": [5.0, 1.0], "head": [1.0], "new": [2.0] }),
        ),
    ];
    let error = checkpoint::average(&files, folder.path("soup")).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["head", "old", "new"]);
    // The file that has it otherwise is named.
    let text = error.to_string();
    let of_b = format!(
        "`head`: expected shape [1], found shape [2] in `{}`",
        files[1].display()
    );
    assert!(text.starts_with(&of_b), "{text}");
    assert!(!folder.path("soup").exists());

    let options = AverageOptions::new().weights([1.0, 2.0, 1.0]).lax();
    let report = checkpoint::average_with(&files, &options, folder.path("soup")).unwrap();
    assert_eq!(report.averaged, ["w"]);
    let left_out: Vec<_> = report.left_out.iter().map(|error| error.path()).collect();
    assert_eq!(left_out, [Some("head"), Some("old"), Some("new")]);
    let soup = checkpoint::open(folder.path("soup")).unwrap();
    assert_eq!(soup.flat().unwrap(), [3.0, 3.75].as_slice());

    for weights in [vec![1.0], vec![1.0, -1.0, 0.0], vec![1.0, f64::NAN, 1.0]] {
        let options = AverageOptions::new().weights(weights).lax();
        let error = checkpoint::average_with(&files, &options, folder.path("soup")).unwrap_err();
        assert!(error.is_argument());
    }
}

/// A tie whose tensor is left out goes with it.
#[test]
fn a_tie_is_left_out_with_its_tensor() {
    let folder = Folder::new();
    checkpoint::save(folder.path("a"), &models::tied()).unwrap();
    checkpoint::save(folder.path("b"), &tree!({ "z": [1.0, 1.0, 1.0] })).unwrap();
    let (files, out) = ([folder.path("a"), folder.path("b")], folder.path("out"));
    let report = checkpoint::average_with(&files, &AverageOptions::new().lax(), &out).unwrap();
    assert_eq!(
        (report.averaged, report.left_out.len()),
        (vec!["z".to_owned()], 1)
    );
    let out = checkpoint::open(out).unwrap();
    assert_eq!(out.aliases().count(), 0);
    assert_eq!(out.user_metadata().count(), 0);
}

/// Numbers whose squares and sums are beyond `f64`.
#[test]
fn numbers_at_the_edge() {
    let folder = Folder::new();
    let of = |name: &str, numbers: Vec<f64>| {
        checkpoint::save(folder.path(name), &(numbers,)).unwrap();
        folder.path(name)
    };
    let (a, b) = (of("a", vec![3e200, 0.0]), of("b", vec![0.0, 4e200]));
    let difference = checkpoint::compare(&a, &b).unwrap();
    let is_near = |x: f64, y: f64| (x / y - 1.0).abs() < 4.0 * f64::EPSILON;
    assert!(is_near(difference.distance(), 5e200));
    let (first, second) = difference.norms();
    assert!(is_near(first, 3e200) && is_near(second, 4e200));
    assert_eq!(difference.tensors[0].max_abs, 4e200);
    let (a, b) = (of("a", vec![3e-200]), of("b", vec![-1e-200]));
    assert!(is_near(
        checkpoint::compare(&a, &b).unwrap().distance(),
        4e-200
    ));
    let (a, b) = (of("a", vec![f64::NAN]), of("b", vec![1.0]));
    assert!(checkpoint::compare(&a, &b).unwrap().distance().is_nan());

    let (a, b) = (of("a", vec![1.7e308, 1.0]), of("b", vec![1.7e308, 2.0]));
    checkpoint::average(&[&a, &b], folder.path("soup")).unwrap();
    let soup = checkpoint::open(folder.path("soup")).unwrap();
    assert_eq!(
        soup.flat_for_as::<f64>(&soup.layout().unwrap())
            .unwrap()
            .into_owned(),
        [1.7e308, 1.5]
    );
}

/// Types of which nothing here knows the numbers are told apart from other shapes.
#[test]
fn what_is_not_compared_is_told() {
    let folder = Folder::new();
    let file = |name: &str, bytes: &[u8]| {
        let bytes = tensors(&[("q", "F8_E4M3", bytes), ("s", "F32", &f32s(&[1.0]))], "");
        std::fs::write(folder.path(name), bytes).unwrap();
        folder.path(name)
    };
    let comparison = checkpoint::compare(file("a", &[1, 2]), file("b", &[3, 4])).unwrap();
    assert_eq!(
        (comparison.not_compared, comparison.other_shapes),
        (vec!["q".to_owned()], vec![])
    );
    let comparison = checkpoint::compare(file("a", &[1, 2]), file("b", &[3])).unwrap();
    assert_eq!(
        (comparison.not_compared, comparison.other_shapes),
        (vec![], vec!["q".to_owned()])
    );
}
