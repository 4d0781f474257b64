//! Files that are open: views, flat vectors, what is copied and what is not.

use std::borrow::Cow;

use flatleaf::Companion::Values;
use flatleaf::checkpoint::{self, Checkpoint};
use flatleaf::{Dtype, DynTree, Layout, ops, tree};

use crate::common::models;
use crate::files::{Folder, f32s, open, raw, tensors};

fn on_disk(bytes: &[u8]) -> (Folder, Checkpoint) {
    let folder = Folder::new();
    std::fs::write(folder.path("file"), bytes).unwrap();
    let file = checkpoint::open(folder.path("file")).unwrap();
    (folder, file)
}

#[test]
fn a_view_is_not_copied() {
    let (_folder, file) = on_disk(&tensors(
        &[("w", "F32", &f32s(&[1.0, 2.0]))],
        "{\"padding\":\"12\"}",
    ));
    let (first, second) = (
        file.view::<f32>("w").unwrap(),
        file.view::<f32>("w").unwrap(),
    );
    if first.is_view() {
        assert_eq!(first.as_ptr(), second.as_ptr());
    }
    assert_eq!(first[1], 2.0);
}

#[test]
fn a_view_of_another_type_or_name_is_refused() {
    let file = open(&tensors(&[("w", "F32", &f32s(&[1.0]))], "")).unwrap();
    let error = file.view::<f64>("w").unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(
        error.to_string(),
        "`w`: expected a view of F32 elements, found one of f64"
    );
    let error = file.view::<f32>("v").unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(
        error.to_string(),
        "`v`: expected the name of a tensor, found another"
    );
}

/// Bytes at odd addresses: everything is read all the same.
#[test]
fn what_is_not_aligned_is_copied() {
    let data = [[7].as_slice(), &f32s(&[1.0, 2.0])].concat();
    let header = r#"{"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    for padding in 0..8 {
        let (_folder, file) = on_disk(&raw(&format!("{header}{}", " ".repeat(padding)), &data));
        assert!(file.view::<f32>("w").unwrap().iter().eq(&[1.0, 2.0]));
        assert_eq!(file.flat().unwrap(), [1.0, 2.0].as_slice());
        assert_eq!(file.layout().unwrap().gather(&file).unwrap(), [1.0, 2.0]);
        assert_eq!(file.view::<u8>("u").unwrap()[0], 7);
    }
}

#[test]
fn another_order_costs_one_copy() {
    let folder = Folder::new();
    checkpoint::save(
        folder.path("m"),
        &tree!({ "a": [1.0], "b": [2.0], "c": [3.0] }),
    )
    .unwrap();
    let file = checkpoint::open(folder.path("m")).unwrap();
    let order = |tree: &flatleaf::DynTree| Layout::of(tree).unwrap();
    let same = file
        .flat_for(&order(&tree!({ "a": [0.0], "b": [0.0], "c": [0.0] })))
        .unwrap()
        .into_owned();
    assert_eq!(same, [1.0, 2.0, 3.0]);
    let tail = order(&tree!({ "b": [0.0], "c": [0.0] }));
    assert!(matches!(
        file.flat_for(&tail).unwrap(),
        Cow::Borrowed([2.0, 3.0])
    ));
    let permuted = order(&tree!({ "c": [0.0], "a": [0.0], "b": [0.0] }));
    assert!(
        matches!(file.flat_for(&permuted).unwrap(), Cow::Owned(flat) if flat == [3.0, 1.0, 2.0])
    );
    let gap = order(&tree!({ "a": [0.0], "c": [0.0] }));
    assert!(matches!(file.flat_for(&gap).unwrap(), Cow::Owned(flat) if flat == [1.0, 3.0]));
    let error = file
        .flat_for(&order(&tree!({ "a": [0.0, 0.0], "d": [0.0] })))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`d`: expected a tensor in the file, found none; `a`: expected shape [2], found shape [1]"
    );
}

/// A model beside a file that nobody loaded.
#[test]
fn a_file_is_a_companion_of_a_model() {
    let folder = Folder::new();
    checkpoint::save(folder.path("m"), &models::tied()).unwrap();
    let file = checkpoint::open(folder.path("m")).unwrap();
    let mut model = models::tied();
    std::sync::Arc::make_mut(&mut model.x)[0] = 5.0;
    model.y = model.x.clone();
    let layout = Layout::of(&model).unwrap();
    let squares = |x: &[f32], y: &[f32]| {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(x - y).powi(2))
            .sum::<f64>()
    };
    let distance = layout
        .map_reduce(
            &model,
            [Values(&file)],
            |_, x, [y]| squares(x, y),
            |a, b| a + b,
        )
        .unwrap();
    assert_eq!(distance, Some(16.0));
    layout
        .map_into(&mut model, [Values(&file)], |_, x, [y]| {
            ops::lerp(x, y, 1.0)
        })
        .unwrap();
    assert_eq!(model.x[0], 1.0);

    let mut target = (file,);
    let layout = Layout::of(&target).unwrap();
    let error = layout.restructure_into(&mut target, &[0.0; 6]).unwrap_err();
    assert!(error.is_read_only());
}

/// Types that nothing here calculates with are carried as their bytes, listed, and saved again.
#[test]
fn types_of_others_are_carried() {
    let bytes = tensors(
        &[
            ("s", "F32", &f32s(&[1.0])),
            ("q", "F8_E4M3", &[0x38, 0xc0]),
            ("z", "F8_E8M0", &[7]),
        ],
        "",
    );
    let file = open(&bytes).unwrap();
    let stated = file.tensor("q").unwrap();
    assert_eq!(
        (stated.type_name(), stated.dtype()),
        ("F8_E4M3".to_owned(), Some(Dtype::F8E4M3))
    );
    assert_eq!(file.bytes("q").unwrap(), [0x38, 0xc0]);
    assert_eq!(file.flat().unwrap(), [1.0].as_slice());
    let layout = file.layout().unwrap();
    let others: Vec<_> = layout
        .others()
        .iter()
        .map(|leaf| (leaf.path(), leaf.dtype()))
        .collect();
    assert_eq!(others, [("q", Dtype::F8E4M3), ("z", Dtype::F8E8M0)]);

    let copy = DynTree::of(&file).unwrap();
    let folder = Folder::new();
    let data = |name: &str| {
        crate::files::parts(&std::fs::read(folder.path(name)).unwrap())
            .1
            .to_vec()
    };
    checkpoint::save(folder.path("file"), &file).unwrap();
    checkpoint::save(folder.path("copy"), &copy).unwrap();
    assert_eq!(data("file"), crate::files::parts(&bytes).1);
    assert_eq!(data("copy"), data("file"));
    let saved = checkpoint::open(folder.path("copy")).unwrap();
    assert_eq!(saved.tensor("q").unwrap().type_name(), "F8_E4M3");

    // In a tree, in JSON, and in place.
    let scaled = layout.restructure(&copy, &[2.0]).unwrap();
    assert_eq!(scaled.get("q"), copy.get("q"));
    let json = serde_json::to_string(&copy).unwrap();
    assert_eq!(serde_json::from_str::<DynTree>(&json).unwrap(), copy);
    let other = tensors(
        &[
            ("s", "F32", &f32s(&[3.0])),
            ("q", "F8_E4M3", &[1, 2]),
            ("z", "F8_E8M0", &[3]),
        ],
        "",
    );
    let mut target = copy.clone();
    crate::files::load(&other, &mut target).unwrap();
    assert_eq!(target, DynTree::of(&open(&other).unwrap()).unwrap());
    assert!(target != copy);

    // Arithmetic says what it cannot do.
    let error = file.view::<f32>("q").unwrap_err();
    assert_eq!((error.is_element_type(), error.path()), (true, Some("q")));
    let wrong = tensors(
        &[
            ("s", "F32", &f32s(&[3.0])),
            ("q", "F8_E5M2", &[1, 2]),
            ("z", "F8_E8M0", &[3]),
        ],
        "",
    );
    let error = crate::files::load(&wrong, &mut target).unwrap_err();
    assert_eq!(error.to_string(), "`q`: expected f8e4m3, found F8_E5M2");
    std::fs::write(folder.path("a"), &bytes).unwrap();
    let error = checkpoint::average(&[folder.path("a")], folder.path("b")).unwrap_err();
    assert_eq!((error.is_element_type(), error.path()), (true, Some("q")));
    // Of several in a byte there is no array.
    let packed = open(&raw(
        r#"{"p":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#,
        &[1, 2],
    ))
    .unwrap();
    let error = packed.layout().unwrap_err();
    assert_eq!((error.is_element_type(), error.path()), (true, Some("p")));
    assert_eq!(packed.bytes("p").unwrap(), [1, 2]);
    assert_eq!(format!("{packed:?}"), "Checkpoint(1 tensors, 63 bytes)");
}

/// The table of a file is that of its layout.
#[test]
fn a_file_prints_as_a_table() {
    let folder = Folder::new();
    checkpoint::save(folder.path("m"), &models::tied()).unwrap();
    let table = checkpoint::open(folder.path("m"))
        .unwrap()
        .layout()
        .unwrap()
        .to_string();
    assert_eq!(table, Layout::of(&models::tied()).unwrap().to_string());
}
