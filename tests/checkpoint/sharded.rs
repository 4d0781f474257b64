//! Checkpoints of several files with an index.

use flatleaf::checkpoint::{self, AverageOptions, Checkpoint, Extras, LoadOptions};
use flatleaf::{DynTree, Error, Layout, tree};

use crate::files::{Folder, f32s, tensors};

const INDEX: &str = "model.safetensors.index.json";

/// `a` and `c` in one file, `b` in the other.
fn sharded() -> Folder {
    let folder = Folder::new();
    let first = [
        ("c", "F32", &f32s(&[5.0])[..]),
        ("a", "F32", &f32s(&[1.0, 2.0])),
    ];
    let second = [
        ("b", "F32", &f32s(&[3.0, 4.0])[..]),
        ("n", "I64", &7_i64.to_le_bytes()),
    ];
    let metadata = r#"{"format":"pt"}"#;
    std::fs::write(folder.path("m-1"), tensors(&first, metadata)).unwrap();
    std::fs::write(folder.path("m-2"), tensors(&second, metadata)).unwrap();
    let map = r#"{"a":"m-1","b":"m-2","c":"m-1","n":"m-2"}"#;
    let index = format!(r#"{{"metadata":{{"total_size":28,"d":"b"}},"weight_map":{map}}}"#);
    std::fs::write(folder.path(INDEX), index).unwrap();
    folder
}

fn open(folder: &Folder) -> Result<Checkpoint, Error> {
    checkpoint::open(folder.path(INDEX))
}

/// What opening says of an index whose `weight_map` is this.
fn refused(weight_map: &str) -> Error {
    let folder = sharded();
    let index = format!(r#"{{"weight_map":{weight_map}}}"#);
    std::fs::write(folder.path(INDEX), index).unwrap();
    let error = open(&folder).unwrap_err();
    // Those who read elements one by one look at the same things.
    let scanned = checkpoint::scan(&[folder.path(INDEX)], |_, _| {}).unwrap_err();
    assert_eq!(scanned.to_string(), error.to_string());
    error
}

#[test]
fn several_files_are_one_checkpoint() {
    let folder = sharded();
    let file = open(&folder).unwrap();
    let names = file.tensors().iter().map(|tensor| tensor.name());
    assert_eq!(names.collect::<Vec<_>>(), ["c", "a", "b", "n"]);
    assert_eq!(file.tensor("b").unwrap().byte_range(), 12..20);
    assert_eq!(file.view::<f32>("b").unwrap()[1], 4.0);
    assert_eq!(file.view::<i64>("n").unwrap()[0], 7);
    assert_eq!(file.metadata()["format"], "pt");
    // The index has the ties of checkpoints of several files.
    assert_eq!(file.aliases().collect::<Vec<_>>(), [("d", "b")]);

    let mut model = tree!({ "a": [0.0, 0.0], "b": [0.0, 0.0], "c": [0.0] });
    let options = LoadOptions::new().lax_matching("n");
    file.load_into(&mut model, &options).unwrap();
    let expected = tree!({ "a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0] });
    assert_eq!(model, expected);

    let layout = Layout::of(&tree!({ "b": [0.0, 0.0], "a": [0.0, 0.0] })).unwrap();
    assert_eq!(
        file.flat_for(&layout).unwrap(),
        [3.0, 4.0, 1.0, 2.0].as_slice()
    );
    // They lie together in the counting of the whole, and not in memory.
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0, 0.0] })).unwrap();
    assert_eq!(
        file.flat_for(&layout).unwrap(),
        [1.0, 2.0, 3.0, 4.0].as_slice()
    );

    let copy = DynTree::of(&file).unwrap();
    checkpoint::save(folder.path("whole"), &copy).unwrap();
    let whole = checkpoint::open(folder.path("whole")).unwrap();
    assert_eq!(whole.tensors().len(), 5);
    assert_eq!(whole.view::<f32>("d").unwrap()[1], 4.0);
    assert_eq!(
        file.part("b").unwrap().flat().unwrap(),
        [3.0, 4.0].as_slice()
    );
}

#[test]
fn several_files_are_compared_and_averaged_as_one() {
    let folder = sharded();
    let copy = DynTree::of(&open(&folder).unwrap()).unwrap();
    checkpoint::save(folder.path("whole"), &copy).unwrap();
    // What is a tie in the index is a tensor of its own in the copy.
    for (first, second, tensors, squares) in
        [(INDEX, "whole", 4, 104.0), ("whole", INDEX, 5, 129.0)]
    {
        let comparison = checkpoint::compare(folder.path(first), folder.path(second)).unwrap();
        assert_eq!(
            (comparison.tensors.len(), comparison.distance()),
            (tensors, 0.0)
        );
        assert_eq!(comparison.norms().0, f64::sqrt(squares));
        assert_eq!(comparison.only_in_first.len(), 0);
    }
    let twice = tree!({ "a": [3.0, 6.0], "b": [9.0, 12.0], "c": [15.0] });
    checkpoint::save(folder.path("twice"), &twice).unwrap();
    let files = [folder.path(INDEX), folder.path("twice")];
    let options = AverageOptions::new().lax();
    let report = checkpoint::average_with(&files, &options, folder.path("mean")).unwrap();
    assert_eq!(report.averaged, ["c", "a", "b"]);
    let mean = checkpoint::open(folder.path("mean")).unwrap();
    assert_eq!(mean.flat().unwrap().iter().sum::<f32>(), 30.0);
    assert_eq!(mean.view::<f32>("b").unwrap()[1], 8.0);
}

/// Files of this crate have lists of ties and of parts, each of its own.
#[test]
fn files_of_this_crate_under_an_index() {
    let folder = Folder::new();
    let shared = std::rc::Rc::new(vec![1.0_f32]);
    let first = [("x", shared.clone()), ("y", shared)];
    let extras = Extras::new().vector("ema", &[0.5]);
    let first = std::collections::BTreeMap::from(first);
    checkpoint::save_with(folder.path("1"), &first, &extras).unwrap();
    let other = std::rc::Rc::new(vec![2.0_f32]);
    let second = std::collections::BTreeMap::from([("v", other.clone()), ("w", other)]);
    checkpoint::save(folder.path("2"), &second).unwrap();
    let map = r#"{"x":"1","ema.x":"1","v":"2"}"#;
    std::fs::write(folder.path(INDEX), format!(r#"{{"weight_map":{map}}}"#)).unwrap();
    let file = open(&folder).unwrap();
    assert_eq!(
        file.aliases()
            .filter(|alias| !alias.0.contains("ema"))
            .collect::<Vec<_>>(),
        [("w", "v"), ("y", "x")]
    );
    assert_eq!(file.parts(), ["ema"]);
    assert_eq!(file.fingerprint(), None);
    assert_eq!(file.flat().unwrap(), [1.0, 2.0].as_slice());
}

#[test]
fn an_index_that_does_not_agree_with_its_files() {
    let error = refused(r#"{"a":"m-1","b":"m-1","c":"m-1","n":"m-2"}"#);
    assert!(error.is_invalid_file());
    let message = error.to_string();
    let expected = [
        "`b`: expected a tensor in `m-1`, where the index has it, found none",
        "`b`: expected an entry of the index for the tensor in `m-2`, found one for `m-1`",
    ];
    assert_eq!(message, expected.join("; "));
    let error = refused(r#"{"a":"m-1","b":"m-2","c":"m-1"}"#);
    assert_eq!(
        error.to_string(),
        "`n`: expected an entry of the index for the tensor in `m-2`, found none"
    );
}

#[test]
fn files_that_are_not_there_are_all_named() {
    let error = refused(r#"{"a":"m-1","b":"m-3","c":"m-4","n":"m-2"}"#);
    assert!(error.is_io());
    let message = error.to_string();
    assert!(
        message.contains("m-3") && message.contains("m-4"),
        "{message}"
    );
}

#[test]
fn hostile_indices() {
    let outside = ["../m-1", "/etc/passwd", "x/../../m-1", "", ".", "..\\\\m-1"];
    for file in outside {
        let error = refused(&format!(r#"{{"a":"{file}"}}"#));
        assert!(error.is_invalid_file(), "{error}");
        let expected = "names of files in the folder of the index";
        assert_eq!(error.expected(), Some(expected), "{file}");
    }
    // A name twice, an index of itself, and what is no index.
    let twice = refused(r#"{"a":"m-1","a":"m-2"}"#).to_string();
    assert!(twice.contains("the key `a` twice"), "{twice}");
    let itself = refused(&format!(r#"{{"a":"{INDEX}"}}"#));
    assert_eq!(itself.found(), Some("another index"));
    for no_index in [
        "[]",
        "{}",
        "{\"weight_map\":[]}",
        "{\"weight_map\":{\"a\":1}}",
    ] {
        let folder = Folder::new();
        std::fs::write(folder.path(INDEX), format!("{no_index}          ")).unwrap();
        assert!(open(&folder).unwrap_err().is_invalid_file(), "{no_index}");
    }
    let folder = sharded();
    let other = tensors(&[("b", "F32", &f32s(&[3.0]))], r#"{"format":"np"}"#);
    std::fs::write(folder.path("m-2"), other).unwrap();
    let map = r#"{"weight_map":{"a":"m-1","c":"m-1","b":"m-2"}}"#;
    std::fs::write(folder.path(INDEX), map).unwrap();
    assert_eq!(open(&folder).unwrap_err().path(), Some("format"));
    // An index of no files is a checkpoint of no tensors.
    std::fs::write(folder.path(INDEX), r#"{"weight_map":{}}"#).unwrap();
    let empty = open(&folder).unwrap();
    assert_eq!((empty.tensors().len(), empty.flat().unwrap().len()), (0, 0));
}
