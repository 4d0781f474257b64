//! How far a comparison of two files is, while it goes on.

use flatleaf::{checkpoint, tree};
use ndarray::Array1;

use crate::files::Folder;

#[test]
fn progress_counts_every_element_that_is_compared() {
    let folder = Folder::new();
    let [first, second] = ["first", "second"].map(|name| folder.path(name));
    let (long, longer) = (Array1::<f32>::zeros(200_000), Array1::<f32>::ones(200_000));
    let only: Vec<f32> = vec![0.0; 7];
    let model = tree!({ "w": (long), "b": [1.0, 2.0, 3.0], "only": (only), "shape": [1.0] });
    checkpoint::save(&first, &model).unwrap();
    let other = tree!({ "w": (longer), "b": [1.0, 2.0, 5.0], "shape": [1.0, 2.0] });
    checkpoint::save(&second, &other).unwrap();

    let mut calls = Vec::new();
    let comparison =
        checkpoint::compare_with(&first, &second, |elements| calls.push(elements)).unwrap();
    // What only one has, and what has another shape, is not compared.
    assert_eq!(calls.iter().sum::<usize>(), 200_003);
    assert!(calls.iter().all(|&elements| elements > 0));
    assert!(
        calls.len() > 2,
        "{calls:?}: one call for all is no progress"
    );

    let found: Vec<_> = comparison
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.len, tensor.max_abs))
        .collect();
    assert_eq!(found, [("w", 200_000, 1.0), ("b", 3, 2.0)]);
    assert_eq!(comparison.only_in_first, ["only"]);
    assert_eq!(comparison.other_shapes, ["shape"]);
    assert_eq!(checkpoint::compare(&first, &second).unwrap(), comparison);
}
