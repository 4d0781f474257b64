//! What is written, and when it is not.

use std::collections::BTreeMap;
use std::fs;

use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::{DynTree, Layout, Tree, destructure, tree};
use ndarray::{Array1, arr1};

use crate::common::models;
use crate::files::{Folder, saved};

/// J.G4: running statistics are in the file; the flat vector alone does not carry them.
#[test]
fn a_flat_vector_needs_the_frozen_leaves_or_a_word_that_it_does_not() {
    let (folder, model) = (Folder::new(), models::batch_norm());
    let (flat, layout) = destructure(&model).unwrap();
    let path = folder.path("norm");

    let error = checkpoint::save_flat(&path, &layout, &flat, &Extras::new()).unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["mean", "var", "seen"]);
    assert!(
        error.to_string().starts_with(
            "`mean`: expected a tree that has this leaf, given with `Extras::others_of`"
        ),
        "{error}"
    );
    assert!(folder.names().is_empty());

    checkpoint::save_flat(&path, &layout, &flat, &Extras::new().trainable_only()).unwrap();
    let names: Vec<_> = checkpoint::open(&path)
        .unwrap()
        .tensors()
        .iter()
        .map(|tensor| tensor.name().to_owned())
        .collect();
    assert_eq!(names, ["beta", "gamma"]);
    let error =
        checkpoint::load_into(&path, &mut models::batch_norm(), &LoadOptions::new()).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["mean", "seen", "var"]);
}

#[test]
fn a_vector_of_another_length_is_refused() {
    let (folder, (flat, layout)) = (Folder::new(), destructure(&models::pair()).unwrap());
    let error =
        checkpoint::save_flat(folder.path("a"), &layout, &flat[1..], &Extras::new()).unwrap_err();
    assert!(error.is_length());
    let error = checkpoint::save_flat(
        folder.path("a"),
        &layout,
        &flat,
        &Extras::new().vector("ema", &flat[1..]),
    )
    .unwrap_err();
    assert!(error.is_length());
    assert_eq!(error.path(), Some("ema")); // which of the vectors
    assert!(folder.names().is_empty());
}

#[derive(Tree)]
struct Wide {
    w: Vec<f32>,
    counts: Vec<i128>,
}

#[test]
fn integers_of_128_bits_have_no_type_in_a_file() {
    let folder = Folder::new();
    let error = checkpoint::save(
        folder.path("wide"),
        &Wide {
            w: vec![1.0],
            counts: vec![1],
        },
    )
    .unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(error.path(), Some("counts"));
    assert!(folder.names().is_empty());
}

#[test]
fn every_other_type_is_written_and_read() {
    let all = |one: u8| {
        DynTree::map([
            ("i8", DynTree::from(vec![one as i8])),
            ("i16", DynTree::from(vec![i16::from(one)])),
            ("i32", DynTree::from(vec![i32::from(one)])),
            ("i64", DynTree::from(vec![i64::from(one)])),
            ("isize", DynTree::from(vec![isize::from(one)])),
            ("u8", DynTree::from(vec![one])),
            ("u16", DynTree::from(vec![u16::from(one)])),
            ("u32", DynTree::from(vec![u32::from(one)])),
            ("u64", DynTree::from(vec![u64::from(one)])),
            ("usize", DynTree::from(vec![usize::from(one)])),
            ("bool", DynTree::from(vec![one == 1])),
            ("f64", DynTree::from(vec![f64::from(one)])),
            (
                "f16",
                DynTree::from(vec![half::f16::from_f32(f32::from(one))]),
            ),
            (
                "bf16",
                DynTree::from(vec![half::bf16::from_f32(f32::from(one))]),
            ),
        ])
    };
    let mut target = all(0);
    crate::files::load(&saved(&all(1)), &mut target).unwrap();
    assert_eq!(target, all(1));
}

#[test]
fn names_are_given_once() {
    let (folder, model) = (Folder::new(), models::tied());
    let layout = Layout::of(&model).unwrap();
    let vector = vec![0.0; layout.len()];
    let refused =
        |extras: &Extras<'_>| checkpoint::save_with(folder.path("m"), &model, extras).unwrap_err();

    let error = refused(&Extras::new().vector("z", &vector));
    assert!(error.is_duplicate());
    assert_eq!(error.path(), Some("z"));
    assert_eq!(
        refused(&Extras::new().vector("y", &vector)).path(),
        Some("y")
    ); // an alias
    assert_eq!(
        refused(&Extras::new().vector("ema", &vector).vector("ema", &vector)).path(),
        Some("ema.y")
    );
    assert_eq!(refused(&Extras::new().metadata("y", "1")).path(), Some("y"));
    assert_eq!(refused(&Extras::new().metadata("x", "1")).path(), Some("x"));
    assert_eq!(
        refused(&Extras::new().metadata("flatleaf.fingerprint", "1")).path(),
        Some("flatleaf.fingerprint")
    );
    assert!(refused(&Extras::new().vector("", &vector)).is_argument());
    let reserved = DynTree::map([("__metadata__", DynTree::from(vec![1.0_f32]))]);
    let error = checkpoint::save(folder.path("m"), &reserved).unwrap_err();
    assert!(error.is_argument());
    assert_eq!(
        error.to_string(),
        "`__metadata__`: expected a path that is a tensor's name: safetensors keeps this one for \
         the metadata, found a leaf of that path; rename it"
    );
    assert!(folder.names().is_empty());
}

/// An optimiser's state and an average of the weights beside the model, and each of them back.
#[test]
fn what_is_beside_the_model_comes_back_and_does_not_get_in_its_way() {
    let (folder, model) = (Folder::new(), models::tied_transposed());
    let (flat, layout) = destructure(&model).unwrap();
    let (moment, ema): (Vec<f32>, Vec<f32>) = flat.iter().map(|x| (x * 10.0, x * 100.0)).unzip();
    let steps = tree!({ "step": (vec![7_u64]), "lr": 0.5 });
    let extras = Extras::new()
        .vector("optimizer.exp_avg", &moment)
        .vector("ema", &ema)
        .tree("optimizer.scalars", &steps);
    let path = folder.path("training");
    checkpoint::save_with(&path, &model, &extras).unwrap();

    let file = checkpoint::open(&path).unwrap();
    assert_eq!(
        file.parts(),
        ["optimizer.exp_avg", "ema", "optimizer.scalars"]
    );
    assert_eq!(file.flat().unwrap(), flat);
    assert_eq!(
        file.part("optimizer.exp_avg")
            .unwrap()
            .flat_for(&layout)
            .unwrap(),
        moment
    );
    assert_eq!(
        DynTree::of(&file.part("optimizer.scalars").unwrap())
            .unwrap()
            .get("step"),
        steps.get("step")
    );
    assert_eq!(
        file.part("optimizer").unwrap().parts(),
        ["exp_avg", "scalars"]
    );
    let mut again = steps.clone();
    file.part("optimizer.scalars")
        .unwrap()
        .load_into(&mut again, &LoadOptions::new())
        .unwrap();
    assert_eq!(again, steps);

    let mut target = models::tied_transposed();
    let report = file
        .part("ema")
        .unwrap()
        .load_into(&mut target, &LoadOptions::new())
        .unwrap();
    assert_eq!(report.loaded(), ["m"]);
    assert_eq!((target.m[[0, 2]], target.t[[2, 0]]), (300.0, 300.0));
    file.load_into(&mut target, &LoadOptions::new()).unwrap();
    assert_eq!(layout.gather(&target).unwrap(), flat);

    let error = file.part("optimiser").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`optimiser`: expected a name or prefix of tensors, found no tensor of that name or below it, \
         but `optimizer.exp_avg`, `ema`, `optimizer.scalars`, `optimizer`, `m`"
    );
}

#[test]
fn what_goes_wrong_with_the_file_names_it() {
    let folder = Folder::new();
    let path = folder.path("no such folder").join("model");
    let error = checkpoint::save(&path, &models::pair()).unwrap_err();
    assert!(error.is_io());
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
    assert_eq!(error.path(), Some(path.to_str().unwrap()));
    let error = checkpoint::open(&path).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!(
            "`{}`: expected a file that can be opened, found ",
            path.display()
        )),
        "{error}"
    );
    assert!(
        checkpoint::load_into(&path, &mut models::pair(), &LoadOptions::new())
            .unwrap_err()
            .is_io()
    );
    // A folder where a file should be.
    fs::create_dir(folder.path("folder")).unwrap();
    let opened = checkpoint::open(folder.path("folder")).unwrap_err();
    assert_eq!(opened.io_kind(), Some(std::io::ErrorKind::IsADirectory));
    let found = "a folder: name a file in it, or the index of several";
    assert_eq!(opened.found(), Some(found));
    let scanned = checkpoint::scan(&[folder.path("folder")], |_, _| ()).unwrap_err();
    assert_eq!(scanned, opened);
    let saved = checkpoint::save(folder.path("folder"), &models::pair()).unwrap_err();
    assert_eq!(saved.io_kind(), Some(std::io::ErrorKind::IsADirectory));
    assert_eq!(folder.names(), ["folder"]);
}

/// A leaf that cannot be read: the old file stays, and nothing is left beside it.
#[test]
fn a_model_that_cannot_be_read_leaves_the_old_file() {
    let (folder, cell) = (Folder::new(), std::cell::RefCell::new(arr1(&[1.0_f32])));
    checkpoint::save(folder.path("cell"), &cell).unwrap();
    let before = fs::read(folder.path("cell")).unwrap();
    let guard = cell.borrow_mut();
    assert!(
        checkpoint::save(folder.path("cell"), &cell)
            .unwrap_err()
            .is_borrowed()
    );
    drop(guard);
    assert_eq!(fs::read(folder.path("cell")).unwrap(), before);
    assert_eq!(folder.names(), ["cell"]);
}

/// A file that is mapped and saved anew keeps its old bytes for whoever has it open.
#[test]
fn a_file_is_replaced_not_written_into() {
    let (folder, model) = (Folder::new(), |x: f32| vec![Array1::from_elem(1000, x)]);
    let path = folder.path("model");
    checkpoint::save(&path, &model(1.0)).unwrap();
    let old = checkpoint::open(&path).unwrap();
    checkpoint::save(&path, &model(2.0)).unwrap();
    assert!(old.flat().unwrap().iter().all(|&x| x == 1.0));
    assert!(
        checkpoint::open(&path)
            .unwrap()
            .flat()
            .unwrap()
            .iter()
            .all(|&x| x == 2.0)
    );
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let folder = Folder::new();
    checkpoint::save(folder.path("epoch-1"), &vec![1.0_f32]).unwrap();
    std::os::unix::fs::symlink(folder.path("epoch-1"), folder.path("latest")).unwrap();
    checkpoint::save(folder.path("latest"), &vec![2.0_f32]).unwrap();
    assert!(
        fs::symlink_metadata(folder.path("latest"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(
        checkpoint::open(folder.path("epoch-1"))
            .unwrap()
            .flat()
            .unwrap(),
        [2.0].as_slice()
    );
}

/// A vector of no elements is a part like any other.
#[test]
fn an_empty_part_can_be_opened() {
    let folder = Folder::new();
    let model = (vec![1_u64],);
    let extras = Extras::new().vector("ema", &[]);
    checkpoint::save_with(folder.path("m"), &model, &extras).unwrap();
    let file = checkpoint::open(folder.path("m")).unwrap();
    assert_eq!(file.parts(), ["ema"]);
    let part = file.part("ema").unwrap();
    assert_eq!((part.tensors().len(), part.flat().unwrap().len()), (0, 0));
    let error = file.part("em").unwrap_err();
    assert!(error.is_unknown());
    let there = "no tensor of that name or below it, but `ema`, `0`";
    assert_eq!((error.path(), error.found()), (Some("em"), Some(there)));
}

/// Of many names so many are listed.
#[test]
fn a_part_that_is_not_there_is_an_error_that_says_what_is() {
    let folder = Folder::new();
    let names = ('a'..='j').map(|letter| (letter.to_string(), vec![1.0_f32]));
    let model: BTreeMap<String, Vec<f32>> = names.collect();
    checkpoint::save(folder.path("m"), &model).unwrap();
    let error = (checkpoint::open(folder.path("m")).unwrap())
        .part("k")
        .unwrap_err();
    let there =
        "no tensor of that name or below it, but `a`, `b`, `c`, `d`, `e`, `f`, `g`, `h` and others";
    assert_eq!(error.found(), Some(there));
}

/// What was private stays private, from the first byte on; a new file is as the system makes it.
#[cfg(unix)]
#[test]
fn permissions_stay() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = Folder::new();
    let path = folder.path("m");
    checkpoint::save(&path, &vec![1.0_f32]).unwrap();
    fs::write(folder.path("other"), "").unwrap();
    let mode = |name: &str| fs::metadata(folder.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("m"), mode("other"));
    for wanted in [0o600, 0o640, 0o444, 0o755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
        let before = fs::metadata(&path).unwrap();
        checkpoint::save(&path, &vec![2.0_f32]).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(mode("m"), wanted);
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino());
    }
}

/// A link to a file that is not there yet is followed; a pipe is no file.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_replaced_by_one() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = Folder::new();
    fs::create_dir(folder.path("runs")).unwrap();
    symlink("runs/epoch-1", folder.path("latest")).unwrap();
    checkpoint::save(folder.path("latest"), &vec![1.0_f32]).unwrap();
    assert!(
        fs::symlink_metadata(folder.path("latest"))
            .unwrap()
            .is_symlink()
    );
    assert!(fs::metadata(folder.path("runs/epoch-1")).unwrap().is_file());

    symlink("b", folder.path("a")).unwrap();
    symlink("a", folder.path("b")).unwrap();
    assert!(
        checkpoint::save(folder.path("a"), &vec![1.0_f32])
            .unwrap_err()
            .is_io()
    );

    let made = std::process::Command::new("mkfifo")
        .arg(folder.path("pipe"))
        .status();
    if made.is_ok_and(|status| status.success()) {
        let error = checkpoint::save(folder.path("pipe"), &vec![1.0_f32]).unwrap_err();
        assert_eq!(error.io_kind(), Some(std::io::ErrorKind::InvalidInput));
        assert!(
            error.to_string().contains("a pipe, a socket or a device"),
            "{error}"
        );
        assert!(
            fs::metadata(folder.path("pipe"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
    }
    assert_eq!(
        folder.names().len(),
        4 + usize::from(folder.path("pipe").exists())
    );
}

/// What a killed process has left goes with the next save; what another one is writing stays.
#[cfg(unix)]
#[test]
fn abandoned_files_are_removed() {
    let folder = Folder::new();
    for name in [
        ".flatleaf-1-0.tmp",
        ".flatleaf-1-1.tmp",
        ".flatleaf-notes",
        "x.tmp",
    ] {
        fs::write(folder.path(name), "half a model").unwrap();
    }
    let being_written = fs::File::open(folder.path(".flatleaf-1-1.tmp")).unwrap();
    being_written.lock().unwrap();
    checkpoint::save(folder.path("m"), &vec![1.0_f32]).unwrap();
    assert_eq!(
        folder.names(),
        [".flatleaf-1-1.tmp", ".flatleaf-notes", "m", "x.tmp"]
    );
    drop(being_written);
    checkpoint::save(folder.path("m"), &vec![1.0_f32]).unwrap();
    assert_eq!(folder.names(), [".flatleaf-notes", "m", "x.tmp"]);
}
