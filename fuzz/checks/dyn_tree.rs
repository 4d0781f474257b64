//! Bytes as a stored tree. Whatever they are, there is an answer or an error; a tree that is
//! accepted can be written, printed, copied and moved into a vector and back.

use flatleaf::{Dtype, DynTree, Layout, destructure_as};

/// Whether the bytes are a tree.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let Ok(tree) = serde_json::from_slice::<DynTree>(bytes) else {
        return false;
    };
    is_written_and_read(&tree);
    let copy = DynTree::of(&tree).expect("no deeper than JSON may be");
    assert_eq!(
        written(&DynTree::of(&copy).expect("as before")),
        written(&copy)
    );
    match destructure_as::<f64>(&tree) {
        Ok((flat, layout)) => moves(&tree, &flat, &layout),
        Err(error) => assert!(error.is_invalid_layout(), "{error}"),
    }
    true
}

fn written(tree: &DynTree) -> String {
    serde_json::to_string(tree).expect("a tree is written")
}

/// NaN is not equal to itself: trees are compared as they are written.
fn is_written_and_read(tree: &DynTree) {
    let text = written(tree);
    let read: DynTree =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(written(&read), text);
    assert_eq!(written(&tree.clone()), text);
    assert_eq!(format!("{read}"), format!("{tree:?}"));
    assert_eq!(format!("{read:#}"), format!("{tree:#?}"));
}

fn moves(tree: &DynTree, flat: &[f64], layout: &Layout) {
    let mut new = layout
        .restructure_as(tree, flat)
        .expect("the tree of this layout");
    assert_eq!(&Layout::of(&new).expect("a tree"), layout);
    assert_same(
        &layout.gather_as(&new).expect("the tree of this layout"),
        flat,
    );
    let numbers: Vec<f64> = (0..layout.len())
        .map(|index| (index % 100) as f64)
        .collect();
    layout
        .restructure_into_as(&mut new, &numbers)
        .expect("the tree of this layout");
    assert_eq!(
        layout
            .gather_as::<f64>(&new)
            .expect("the tree of this layout"),
        numbers
    );
    for leaf in layout.leaves().iter().chain(layout.others()) {
        let part = tree.get(leaf.path()).expect("a leaf of the tree");
        assert_eq!(part.as_array::<f32>().is_some(), leaf.dtype() == Dtype::F32);
    }
    assert_eq!(
        layout.gather(tree).is_ok(),
        layout
            .leaves()
            .iter()
            .all(|leaf| leaf.dtype() != Dtype::F64)
    );
}

fn assert_same(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    assert!(
        a.iter()
            .zip(b)
            .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()),
        "{a:?} {b:?}"
    );
}
