//! The format to the byte: cases J of the safetensors project.

use std::fs;

use flatleaf::checkpoint::{self, Extras};
use flatleaf::{DynTree, Layout, Tree, tree};
use safetensors::SafeTensors;

use crate::common::models::array;
use crate::files::{Folder, f32s, load, open, parts, raw, saved};

/// What a tree is saved as without any metadata.
fn plain<T: Tree + ?Sized>(model: &T) -> Vec<u8> {
    let folder = Folder::new();
    checkpoint::save_with(folder.path("model"), model, &Extras::new().plain()).unwrap();
    fs::read(folder.path("model")).unwrap()
}

fn named(name: &str, shape: &[usize]) -> DynTree {
    let (first, second) = name.split_once('.').unwrap_or((name, ""));
    let leaf = DynTree::from(array(shape, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    if second.is_empty() {
        DynTree::map([(first, leaf)])
    } else {
        DynTree::map([(first, DynTree::map([(second, leaf)]))])
    }
}

/// P.J1
#[test]
fn a_tensor_is_a_header_of_64_bytes_and_24_of_data() {
    let bytes = plain(&named("attn.0", &[1, 2, 3]));
    let header = r#"{"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}}"#;
    assert_eq!(header.len(), 64);
    assert_eq!(bytes, raw(header, &f32s(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])));
    assert_eq!(bytes.len(), 96);
}

/// P.J2, P.J11
#[test]
fn a_header_is_padded_with_spaces_to_eights() {
    let bytes = plain(&named("attn0", &[1, 1, 2, 3]));
    let (header, _) = parts(&bytes);
    assert_eq!((header.trim_end().len(), header.len()), (65, 72));
    for name in [
        "a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh",
    ] {
        let bytes = plain(&named(name, &[6]));
        let (header, _) = parts(&bytes);
        let json = header.trim_end().len();
        assert_eq!(header.len() - json, (8 - json % 8) % 8, "{name}");
    }
}

/// P.J3
#[test]
fn no_tensors_are_sixteen_bytes() {
    assert_eq!(plain(&tree!({})), b"\x08\0\0\0\0\0\0\0{}      ");
    assert_eq!(open(&plain(&tree!({}))).unwrap().tensors().len(), 0);
    let folder = Folder::new();
    let extras = Extras::new().plain().metadata("framework", "pt");
    checkpoint::save_with(folder.path("empty"), &tree!({}), &extras).unwrap();
    let bytes = fs::read(folder.path("empty")).unwrap();
    assert_eq!(
        parts(&bytes).0,
        format!("{:40}", r#"{"__metadata__":{"framework":"pt"}}"#)
    );
}

/// P.J7
#[test]
fn wider_elements_come_first_and_any_order_is_read() {
    let model = DynTree::map([
        ("b", DynTree::from(vec![1.0_f32])),
        ("flag", DynTree::from(vec![true])),
        ("a", DynTree::from(vec![2.0_f32])),
        ("z", DynTree::from(vec![3.0_f64])),
        ("h", DynTree::from(vec![half::f16::ONE])),
    ]);
    let bytes = saved(&model);
    let names: Vec<_> = open(&bytes)
        .unwrap()
        .tensors()
        .iter()
        .map(|tensor| tensor.name().to_owned())
        .collect();
    assert_eq!(names, ["z", "b", "a", "h", "flag"]);

    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let theirs = safetensors::serialize(reference.iter(), None).unwrap();
    let names: Vec<_> = open(&theirs)
        .unwrap()
        .tensors()
        .iter()
        .map(|tensor| tensor.name().to_owned())
        .collect();
    assert_eq!(names, ["z", "a", "b", "h", "flag"]);
    let mut target = tree!({ "b": [0.0], "flag": (vec![false]), "a": [0.0], "z": (vec![0.0_f64]), "h": (vec![half::f16::ZERO]) });
    load(&theirs, &mut target).unwrap();
    assert_eq!(target, model);
}

/// P.J9
#[test]
fn scalars_empty_axes_and_white_space_are_fine() {
    let scalar = open(&raw(
        r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#,
        &f32s(&[7.0]),
    ))
    .unwrap();
    assert_eq!(scalar.view::<f32>("s").unwrap()[[]], 7.0);
    let empty = open(&raw(
        r#"{"e":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]}}"#,
        &[],
    ))
    .unwrap();
    assert_eq!(empty.view::<f32>("e").unwrap().shape(), [2, 0]);
    let json = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    for space in [" ", "\t", "\n", "\r"] {
        assert_eq!(
            open(&raw(&format!("{space}{json}"), &f32s(&[7.0])))
                .unwrap()
                .tensors()
                .len(),
            1
        );
        assert_eq!(
            open(&raw(&format!("{json}{space}"), &f32s(&[7.0])))
                .unwrap()
                .tensors()
                .len(),
            1
        );
    }
}

/// P.J10: the crate writes its metadata in the order of a hash map, another one in every run.
#[test]
fn equal_content_is_equal_bytes() {
    let first = saved(&crate::common::models::tied_in_list());
    let header = parts(&first).0;
    let keys: Vec<usize> = [r#""c.0":"b""#, r#""c.1":"a""#, r#""flatleaf.fingerprint""#]
        .map(|key| header.find(key).unwrap())
        .to_vec();
    assert!(keys.is_sorted(), "{header}");
    for _ in 0..20 {
        assert_eq!(saved(&crate::common::models::tied_in_list()), first);
    }
}

#[test]
fn metadata_values_are_text() {
    let error = open(&raw(r#"{"__metadata__":{"epoch":3}}"#, &[])).unwrap_err();
    assert!(error.is_invalid_file());
    assert!(error.to_string().contains("expected a string"), "{error}");
}

#[test]
fn the_crate_reads_what_is_written() {
    let model = crate::common::models::conv();
    let bytes = saved(&model);
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        reference.tensor("conv.weight").unwrap().shape(),
        [10, 3, 5, 5]
    );
    let layout = Layout::of(&model).unwrap();
    assert_eq!(reference.len(), layout.leaves().len());
}

#[test]
fn a_tree_that_is_one_leaf_is_a_tensor_without_a_name() {
    let bytes = plain(&vec![1.0_f32, 2.0]);
    assert!(
        parts(&bytes)
            .0
            .starts_with(r#"{"":{"dtype":"F32","shape":[2]"#)
    );
    let mut target = vec![0.0_f32; 2];
    load(&bytes, &mut target).unwrap();
    assert_eq!(target, [1.0, 2.0]);
}

#[test]
fn names_are_escaped_as_json_wants_it() {
    let model = DynTree::map([("a\"b\\c\n\u{1F600}", DynTree::from(vec![1.0_f32]))]);
    let bytes = saved(&model);
    assert!(SafeTensors::deserialize(&bytes).is_ok());
    let mut target = DynTree::map([("a\"b\\c\n\u{1F600}", DynTree::from(vec![0.0_f32]))]);
    load(&bytes, &mut target).unwrap();
    assert_eq!(target, model);
    assert_eq!(DynTree::of(&open(&bytes).unwrap()).unwrap(), model);
}
