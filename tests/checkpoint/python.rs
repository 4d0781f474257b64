//! Python reads what is written here and writes what is read here. The interpreter, with what
//! `tests/checkpoint/interop/requirements.txt` names, is that of the variable `FLATLEAF_PYTHON`; without it
//! these tests say so and pass.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::{DynTree, tree};
use half::f16;
use ndarray::{arr0, arr1, arr2};
#[cfg(feature = "num-complex")]
use num_complex::Complex;

use crate::common::models;
use crate::files::Folder;

/// Whether there is a Python to run the script with.
fn python(what: &str, folder: &Folder) -> bool {
    let Ok(python) = std::env::var("FLATLEAF_PYTHON") else {
        println!("skipped: FLATLEAF_PYTHON is not set");
        return false;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint/interop/interop.py");
    let status = Command::new(python)
        .arg(script)
        .arg(what)
        .arg(folder.path(""))
        .status()
        .unwrap();
    assert!(status.success(), "interop.py {what} failed");
    true
}

#[test]
fn python_reads_what_is_written_here() {
    let folder = Folder::new();
    let extras = Extras::new()
        .vector("ema", &[0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
        .metadata("epoch", "3");
    checkpoint::save_with(folder.path("tied.safetensors"), &models::tied(), &extras).unwrap();
    let types = DynTree::map([
        ("f64", DynTree::from(arr2(&[[0.1_f64], [0.2]]))),
        (
            "f16",
            DynTree::from(arr1(&[f16::from_f32(1.5), f16::NEG_ZERO])),
        ),
        ("f32", DynTree::from(arr0(7.0_f32))),
        (
            "empty",
            DynTree::from(ndarray::Array2::<f32>::zeros((0, 3))),
        ),
        ("bool", DynTree::from(arr1(&[true, false]))),
        ("i8", DynTree::from(vec![-1_i8])),
        ("i16", DynTree::from(vec![-2_i16])),
        ("i32", DynTree::from(vec![-3_i32])),
        ("i64", DynTree::from(vec![-4_i64])),
        ("u8", DynTree::from(vec![1_u8])),
        ("u16", DynTree::from(vec![2_u16])),
        ("u32", DynTree::from(vec![3_u32])),
        ("u64", DynTree::from(vec![u64::MAX])),
    ]);
    checkpoint::save(folder.path("types.safetensors"), &types).unwrap();
    #[cfg(feature = "num-complex")]
    {
        let narrow = arr1(&[Complex::new(1.0_f32, -2.0), Complex::new(0.0, 0.5)]);
        let numbers = (narrow, arr1(&[Complex::new(0.1_f64, 0.2)]));
        checkpoint::save(folder.path("complex.safetensors"), &numbers).unwrap();
    }
    python("read", &folder);
}

#[test]
fn what_python_writes_is_read_here() {
    let folder = Folder::new();
    if !python("write", &folder) {
        return;
    }
    let mut model = tree!({ "weight": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "bias": [0.0, 0.0], "statistics": { "mean": [0.0, 0.0] } });
    let names = LoadOptions::new().rename_matching("model.**", "**");
    checkpoint::load_into(folder.path("model.safetensors"), &mut model, &names).unwrap();
    assert_eq!(
        model,
        tree!({ "weight": [[0, 1, 2], [3, 4, 5]], "bias": [7, 8], "statistics": { "mean": [0.5, 0.25] } })
    );

    let mut tied = models::tied();
    checkpoint::load_into(
        folder.path("shared.safetensors"),
        &mut tied,
        &LoadOptions::new(),
    )
    .unwrap();
    assert_eq!(*tied.y, arr1(&[7.0, 8.0, 9.0]));
    assert!(Arc::ptr_eq(&tied.x, &tied.y));
    let mut untied = tree!({ "x": [0, 0, 0], "y": [0, 0, 0], "z": [0, 0, 0] });
    checkpoint::load_into(
        folder.path("shared.safetensors"),
        &mut untied,
        &LoadOptions::new(),
    )
    .unwrap();
    assert_eq!(
        untied,
        tree!({ "x": [7, 8, 9], "y": [7, 8, 9], "z": [4, 5, 6] })
    );

    #[cfg(feature = "num-complex")]
    {
        let mut numbers = (arr2(&[
            [Complex::new(0.0_f32, 0.0)],
            [Complex::new(0.0, 0.0)],
        ]),);
        let path = folder.path("complex.safetensors");
        checkpoint::load_into(path, &mut numbers, &LoadOptions::new()).unwrap();
        let expected = arr2(&[[Complex::new(1.0, -2.0)], [Complex::new(0.0, 0.5)]]);
        assert_eq!(numbers.0, expected);
    }

    let file = checkpoint::open(folder.path("types.safetensors")).unwrap();
    assert_eq!(
        file.view::<f16>("half").unwrap(),
        arr1(&[1.0, 65504.0, 6e-8].map(f16::from_f32)).into_dyn()
    );
    assert_eq!(
        file.view::<bool>("flags").unwrap(),
        arr2(&[[true], [false]]).into_dyn()
    );
    assert_eq!(
        (
            file.view::<i64>("count").unwrap()[[]],
            file.view::<f32>("none").unwrap().shape()
        ),
        (12, [2, 0].as_slice())
    );
}
