//! Reading bytes as a file in every way there is. Included by the fuzz target and by the tests.

use flatleaf::checkpoint::{Checkpoint, LoadOptions};
use flatleaf::{DynTree, Layout, tree};
use safetensors::SafeTensors;

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
        let _ = (
            file.view::<f32>(tensor.name()),
            file.view::<bool>(tensor.name()),
            file.part(tensor.name()),
        );
    }
    for (alias, _) in file.aliases() {
        let _ = file.view::<f32>(alias);
    }
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
