//! Strict and lax, renamed and in any order; nothing moves before everything is checked.

use std::rc::Rc;

use flatleaf::checkpoint::{self, LoadOptions};
use flatleaf::{Builder, DynTree, Result, Tree, Visitor, VisitorMut, tree};
use ndarray::{Array1, arr1};

use crate::common::models;
use crate::files::{Folder, f32s, load, open, saved, tensors};

fn model() -> DynTree {
    tree!({ "b": { "weight": [1.0, 2.0], "bias": [3.0] }, "a": { "weight": [4.0], "n": (vec![5_i64]) } })
}

fn other() -> Vec<u8> {
    let (x, n) = (f32s(&[9.0]), 9_i32.to_le_bytes());
    let missing_b_bias = [
        ("b.weight", "F32", &*x),
        ("a.n", "I32", &n),
        ("c", "F32", &x),
        ("a.extra", "F32", &x),
        ("a.weight", "F32", &x),
    ];
    tensors(&missing_b_bias, "")
}

/// P.J12, J.G1
#[test]
fn all_differences_are_in_one_error_and_nothing_moves() {
    let mut target = model();
    let error = load(&other(), &mut target).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`b.bias`: expected a tensor in the file, found none; `a.extra`, `c`: expected a leaf in the model, found none; \
         `b.weight`: expected shape [2], found shape [1]; `a.n`: expected i64, found I32"
    );
    assert!(error.is_missing());
    assert_eq!(
        error.paths().collect::<Vec<_>>(),
        ["b.bias", "a.extra", "c", "b.weight", "a.n"]
    );
    assert_eq!(target, model());
}

/// A node of integers that nothing tells how to rebuild, at two places.
struct Counter(Vec<i64>);

impl Tree for Counter {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.0.visit(visitor)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.0.visit_mut(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        self.0.rebuild(builder).map(Counter)
    }
}

#[test]
fn floats_do_not_move_if_integers_cannot_be_written() {
    let counter: Rc<dyn Tree> = Rc::new(Counter(vec![7]));
    let mut target = (vec![1.0_f32], counter.clone(), counter.clone());
    let bytes = saved(&(vec![2.0_f32], vec![8_i64], vec![8_i64]));
    let error = load(&bytes, &mut target).unwrap_err();
    assert!(error.is_object());
    assert_eq!(error.path(), Some("1"));
    assert_eq!(target.0, [1.0]);
}

#[test]
fn many_names_are_sorted_and_all_listed() {
    let names: Vec<String> = (0..20)
        .rev()
        .map(|index| format!("layer{index:02}"))
        .collect();
    let mut target = DynTree::map(
        names
            .iter()
            .map(|name| (name.clone(), DynTree::from(vec![0.0_f32]))),
    );
    let error = load(&tensors(&[], ""), &mut target).unwrap_err();
    let listed: Vec<&str> = error.paths().collect();
    assert_eq!(listed.len(), 20);
    assert!(listed.is_sorted());
    assert!(
        error
            .to_string()
            .starts_with("`layer00`, `layer01`, `layer02`"),
        "{error}"
    );
}

#[test]
fn lax_loading_reports() {
    let mut target = model();
    let report = open(&other())
        .unwrap()
        .load_into(&mut target, &LoadOptions::new().lax())
        .unwrap();
    assert_eq!(report.loaded(), ["a.weight"]);
    assert_eq!(report.missing(), ["b.bias"]);
    assert_eq!(report.unexpected(), ["a.extra", "c"]);
    let mismatched = report.mismatched();
    assert!(mismatched[0].is_shape() && mismatched[1].is_element_type());
    assert_eq!(
        mismatched
            .iter()
            .map(|error| error.path().unwrap())
            .collect::<Vec<_>>(),
        ["b.weight", "a.n"]
    );
    assert!(!report.is_complete());
    assert_eq!(
        report.to_string(),
        "1 leaves loaded; missing: `b.bias`; unexpected: `a.extra`, `c`; `b.weight`: expected shape [2], found shape [1]; \
         `a.n`: expected i64, found I32"
    );
    assert_eq!(
        target,
        tree!({ "b": { "weight": [1.0, 2.0], "bias": [3.0] }, "a": { "weight": [9.0], "n": (vec![5_i64]) } })
    );
}

#[derive(Tree, Debug, PartialEq)]
struct Layer {
    weight: Array1<f32>,
    bias: Array1<f32>,
}

fn layers() -> Vec<Layer> {
    vec![
        Layer {
            weight: arr1(&[0.0]),
            bias: arr1(&[0.0]),
        },
        Layer {
            weight: arr1(&[0.0]),
            bias: arr1(&[0.0]),
        },
    ]
}

fn bert() -> Vec<u8> {
    let [a, b, c, d] = [1.0, 2.0, 3.0, 4.0].map(|x| f32s(&[x]));
    let names = [
        ("model.encoder.layer.0.LayerNorm.gamma", "F32", &*a),
        ("model.encoder.layer.0.LayerNorm.beta", "F32", &b),
        ("model.encoder.layer.1.LayerNorm.gamma", "F32", &c),
        ("model.encoder.layer.1.LayerNorm.beta", "F32", &d),
    ];
    tensors(&names, "")
}

#[test]
fn names_are_matched_by_patterns() {
    let mut target = layers();
    let names = LoadOptions::new()
        .rename_matching("model.encoder.layer.*.**", "*.**")
        .rename_matching("*.LayerNorm.gamma", "*.weight")
        .rename_matching("*.LayerNorm.beta", "*.bias");
    open(&bert())
        .unwrap()
        .load_into(&mut target, &names)
        .unwrap();
    let numbers: Vec<f32> = target
        .iter()
        .flat_map(|layer| [layer.weight[0], layer.bias[0]])
        .collect();
    assert_eq!(numbers, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn names_are_matched_by_a_closure() {
    let mut target = layers();
    let rename = |name: &str| {
        let name = name
            .trim_start_matches("model.encoder.layer.")
            .replace("LayerNorm.", "");
        name.replace("gamma", "weight").replace("beta", "bias")
    };
    open(&bert())
        .unwrap()
        .load_into(&mut target, &LoadOptions::new().rename(rename))
        .unwrap();
    assert_eq!(
        target[1],
        Layer {
            weight: arr1(&[3.0]),
            bias: arr1(&[4.0])
        }
    );
}

#[test]
fn two_names_that_become_one_are_refused() {
    let file = open(&tensors(
        &[("x.w", "F32", &f32s(&[1.0])), ("y.w", "F32", &f32s(&[1.0]))],
        "",
    ))
    .unwrap();
    let error = file
        .load_into(
            &mut tree!({ "w": [0.0] }),
            &LoadOptions::new().rename(|name| name[2..].to_owned()),
        )
        .unwrap_err();
    assert!(error.is_duplicate());
    assert_eq!(error.path(), Some("w"));
}

/// J.G1: functions and bare numbers are not the file's business; J.G4: running statistics are.
#[test]
fn statistics_arrive_and_numbers_stay() {
    let mut target = models::batch_norm();
    target.mean.fill(0.0);
    target.seen.fill(0);
    target.momentum = 0.9;
    load(&saved(&models::batch_norm()), &mut target).unwrap();
    assert_eq!(
        (
            target.mean[0],
            target.var[2],
            target.seen[[]],
            target.momentum
        ),
        (7.0, 12.0, 100, 0.9)
    );
}

/// Every leaf is checked before any is written: here the last one cannot be.
#[test]
fn a_leaf_that_cannot_be_written_leaves_the_others_alone() {
    let bytes = saved(&(vec![1.0_f32], vec![2_u32], arr1(&[3.0_f32])));
    let frozen = arr1(&[0.0_f32]);
    let mut target = (vec![0.0_f32], vec![0_u32], frozen.view());
    let error = load(&bytes, &mut target).unwrap_err();
    assert!(error.is_read_only());
    assert_eq!(error.path(), Some("2"));
    assert_eq!((target.0, target.1), (vec![0.0], vec![0]));

    let numbers = arr1(&[0_u32]);
    let mut target = (vec![0.0_f32], numbers.view(), arr1(&[0.0_f32]));
    let error = load(&bytes, &mut target).unwrap_err();
    assert_eq!(error.path(), Some("1"));
    assert_eq!((target.0, target.2), (vec![0.0], arr1(&[0.0])));
}

#[test]
fn memory_layouts_stay() {
    let mut target = models::strided();
    let layout = flatleaf::Layout::of(&target).unwrap();
    layout.restructure_into(&mut target, &[0.0; 13]).unwrap();
    load(&saved(&models::strided()), &mut target).unwrap();
    assert_eq!(
        layout.gather(&target).unwrap(),
        layout.gather(&models::strided()).unwrap()
    );
    assert_eq!(
        target.transposed.strides(),
        models::strided().transposed.strides()
    );
    let mut target = models::fortran();
    target.fill(0.0);
    load(&saved(&models::fortran()), &mut target).unwrap();
    assert_eq!(target, models::fortran());
    assert_eq!(target.strides(), [1, 2]);
}

/// Large enough for all threads, in tensors that are cut into pieces.
#[test]
fn large_tensors_are_loaded_by_all_threads() {
    let model = vec![
        Array1::from_iter((0..1_500_000).map(|x| x as f32)),
        arr1(&[0.5]),
    ];
    let bytes = saved(&model);
    let mut target = vec![Array1::zeros(1_500_000), arr1(&[0.0])];
    load(&bytes, &mut target).unwrap();
    assert_eq!(target, model);
    let mut narrow = vec![
        Array1::from_elem(1_500_000, half::bf16::ZERO),
        Array1::from_elem(1, half::bf16::ZERO),
    ];
    load(&bytes, &mut narrow).unwrap();
    assert!(
        narrow[0]
            .iter()
            .zip(&model[0])
            .all(|(narrow, x)| *narrow == half::bf16::from_f32(*x))
    );
}

/// Strict but for the head: what its pattern matches is in the report, all else is an error.
#[test]
fn strict_but_for_a_pattern() {
    let folder = Folder::new();
    let path = folder.path("m");
    checkpoint::save(
        &path,
        &tree!({ "body": [1.0], "head": { "w": [1.0, 2.0], "old": [3.0] } }),
    )
    .unwrap();
    let model = || tree!({ "body": [0.0], "head": { "w": [0.0], "b": [0.0] } });
    let lax_head = || LoadOptions::new().lax_matching("head.**");

    let mut target = model();
    let report = checkpoint::load_into(&path, &mut target, &lax_head()).unwrap();
    assert_eq!(
        target,
        tree!({ "body": [1.0], "head": { "w": [0.0], "b": [0.0] } })
    );
    assert_eq!(
        (report.loaded(), report.missing()),
        (&["body".to_owned()][..], &["head.b".to_owned()][..])
    );
    assert_eq!(report.unexpected(), ["head.old"]);
    assert_eq!(report.mismatched()[0].path(), Some("head.w"));

    let mut other = tree!({ "body": [0.0, 0.0], "tail": [0.0], "head": { "w": [0.0] } });
    let error = checkpoint::load_into(&path, &mut other, &lax_head()).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["tail", "body"]);
    let error =
        checkpoint::load_into(&path, &mut model(), &lax_head().lax_matching("neck.*")).unwrap_err();
    assert!(error.is_pattern());
    assert_eq!(error.path(), Some("neck.*"));
    // A tie is matched by any of its places.
    let mut tied = models::tied();
    let bytes = tensors(&[("z", "F32", &f32s(&[1.0, 2.0, 3.0]))], "");
    let report = open(&bytes)
        .unwrap()
        .load_into(&mut tied, &LoadOptions::new().lax_matching("y"))
        .unwrap();
    assert_eq!(report.missing(), ["x"]);
}

#[derive(flatleaf::Tree)]
struct Norm {
    weight: Vec<f32>,
    num_batches_tracked: i64,
}

/// A tensor for a field that is no leaf says what would be one.
#[test]
fn a_bare_number_points_to_an_array() {
    let bytes = tensors(
        &[
            ("num_batches_tracked", "I64", &7_i64.to_le_bytes()),
            ("weight", "F32", &f32s(&[1.0])),
        ],
        "",
    );
    let mut norm = Norm {
        weight: vec![0.0],
        num_batches_tracked: 0,
    };
    let error = load(&bytes, &mut norm).unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(
        error.to_string(),
        "`num_batches_tracked`: expected a leaf in the model, found a field that is no leaf: an \
         `Array0<i64>` is one, a bare number is not"
    );
    assert_eq!((norm.weight[0], norm.num_batches_tracked), (0.0, 0));
}
