//! Reading bytes as a file in every way there is. Included by the fuzz target and by the tests.

use std::collections::BTreeSet;

use flatleaf::checkpoint::{Checkpoint, LoadOptions};
use flatleaf::{DynTree, Layout, tree};
use safetensors::SafeTensors;

/// As many as NumPy's arrays have.
const MOST_AXES: usize = 64;

/// Whether the bytes are a file. Whatever they are, there is an answer or an error, and what is
/// accepted the `safetensors` crate accepts too.
pub(crate) fn in_every_way(bytes: &[u8]) -> bool {
    let Ok(file) = Checkpoint::from_bytes(bytes.to_vec()) else {
        return false;
    };
    let theirs = SafeTensors::deserialize(bytes).expect("what is accepted here is accepted there");
    assert_eq!(theirs.len(), file.tensors().len());
    for tensor in file.tensors() {
        let data = theirs
            .tensor(tensor.name())
            .expect("of the same name")
            .data()
            .len();
        assert_eq!(data, tensor.byte_range().len());
        assert!(tensor.shape().len() <= MOST_AXES);
        let _ = (
            file.view::<f32>(tensor.name()),
            file.view::<bool>(tensor.name()),
            file.part(tensor.name()),
        );
    }
    names_agree(&file);
    parts_agree(&file);
    let shared = std::rc::Rc::new(vec![0.0_f32; 2]);
    let mut tied = (
        shared.clone(),
        shared,
        vec![0.0_f32; 3],
        vec![half::f16::ZERO; 2],
        vec![false; 3],
    );
    for options in [LoadOptions::new(), LoadOptions::new().lax()] {
        let _ = file.load_into(&mut tied, &options);
    }
    let (_, _) = (file.flat(), file.layout().map(|layout| layout.to_string()));
    if let Ok(mut tree) = DynTree::of(&file) {
        let _ = file.load_into(&mut tree, &LoadOptions::new());
    }
    let _ = file
        .flat_for(&Layout::of(&tree!({ "0": [0.0, 0.0], "2": [0.0, 0.0, 0.0] })).expect("a tree"));
    true
}

/// The metadata against the names: an alias leads to a tensor and is none itself, and what whoever
/// wrote the file gave it is neither a tie nor this crate's.
fn names_agree(file: &Checkpoint) {
    let is_own = |name: &str| {
        file.tensor(name)
            .is_some_and(|tensor| tensor.name() == name)
    };
    for (alias, name) in file.aliases() {
        assert!(is_own(name) && !is_own(alias));
        assert_eq!(file.tensor(alias).map(|tensor| tensor.name()), Some(name));
        if let Ok(view) = file.view::<f32>(alias) {
            assert!(view.ndim() <= MOST_AXES);
            assert_eq!(view.len(), file.tensor(name).expect("its tensor").len());
        }
    }
    let aliases: BTreeSet<&str> = file.aliases().map(|(alias, _)| alias).collect();
    for (key, value) in file.user_metadata() {
        assert!(!key.starts_with("flatleaf.") && !aliases.contains(key));
        assert_eq!(file.metadata().get(key).map(String::as_str), Some(value));
    }
}

/// Parts against tensors: what is listed opens, and has bytes of the whole, all of those below it.
fn parts_agree(file: &Checkpoint) {
    for name in file.parts() {
        let part = file.part(name).expect("a part that is listed");
        let below = format!("{name}.");
        let tensors = file.tensors().iter();
        let own =
            tensors.filter(|tensor| tensor.name() == name || tensor.name().starts_with(&below));
        assert!(part.tensors().len() >= own.count());
        for tensor in part.tensors() {
            let whole = match tensor.name() {
                "" => file.bytes(name),
                rest => file.bytes(&format!("{below}{rest}")),
            };
            assert_eq!(whole.ok(), part.bytes(tensor.name()).ok());
        }
        let _ = (part.flat(), part.layout(), DynTree::of(&part));
    }
}
