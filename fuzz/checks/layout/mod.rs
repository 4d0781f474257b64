//! Bytes as a stored layout: as its text if they begin like one, else as what draws one. Whatever
//! they are, there is an answer or an error, without a large allocation; a layout that is accepted
//! can be written, printed and used.

mod draw;

use arbitrary::Unstructured;
use flatleaf::{DynTree, Layout};
use serde_json::{Value, json};

/// A tree is made for a layout of so many elements, over all places.
const MAX_ELEMENTS: usize = 4096;

/// Whether the bytes are a layout.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let Some(layout) = read(bytes) else {
        return false;
    };
    is_written_and_read(&layout);
    is_printed(&layout);
    has_leaves_in_order(&layout);
    refuses_other_trees(&layout);
    if let Some(tree) = tree_of(&layout) {
        moves(&layout, &tree);
    }
    true
}

fn read(bytes: &[u8]) -> Option<Layout> {
    match bytes.first() {
        Some(b'{') => serde_json::from_slice(bytes).ok(),
        _ => serde_json::from_value(draw::stored(&mut Unstructured::new(bytes)).ok()?).ok(),
    }
}

fn is_written_and_read(layout: &Layout) {
    let text = serde_json::to_string(layout).expect("a layout is written");
    let read: Layout =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(&read, layout, "{text}");
    assert_eq!(read.fingerprint(), layout.fingerprint(), "{text}");
    assert_eq!(
        serde_json::to_string(&read).expect("a layout is written"),
        text
    );
}

/// A line for each leaf, between a header and the totals.
fn is_printed(layout: &Layout) {
    let (table, leaves) = (
        layout.to_string(),
        layout.leaves().len() + layout.others().len(),
    );
    assert!(
        table.lines().count() >= leaves + 2 && table.starts_with("path"),
        "{table}"
    );
}

fn has_leaves_in_order(layout: &Layout) {
    let mut next = 0;
    for (index, leaf) in layout.leaves().iter().enumerate() {
        assert_eq!(leaf.range(), next..next + leaf.len());
        assert!(
            leaf.places()
                .iter()
                .all(|place| layout.index_of(place) == Some(index)),
            "{leaf:?}"
        );
        next += leaf.len();
    }
    assert_eq!(next, layout.len());
    assert!(layout.others().iter().all(|leaf| {
        leaf.places()
            .iter()
            .all(|place| layout.leaf(place).is_none())
    }));
}

/// Trees that have nothing to do with the layout are read without a panic, whatever comes of it.
fn refuses_other_trees(layout: &Layout) {
    for tree in [
        flatleaf::tree!(null),
        flatleaf::tree!([1.0]),
        flatleaf::tree!([[1.0], { "a": [1.0, 2.0] }]),
    ] {
        let gathered = layout.gather(&tree);
        assert!(
            gathered.is_err()
                || layout
                    .leaves()
                    .iter()
                    .all(|leaf| tree.get(leaf.path()).is_some())
        );
        if layout.len() <= MAX_ELEMENTS {
            let _ = (layout.gather_grad(&tree), layout.mask(&tree));
        }
    }
}

/// A vector goes into a tree of the layout and comes back, its ties as they were.
fn moves(layout: &Layout, tree: &DynTree) {
    let flat: Vec<f64> = (0..layout.len())
        .map(|index| (index % 100) as f64)
        .collect();
    let new = layout
        .restructure_as(tree, &flat)
        .expect("a tree of this layout");
    assert_eq!(
        layout
            .gather_as::<f64>(&new)
            .expect("a tree of this layout"),
        flat
    );
    let grad = layout
        .gather_grad_as::<f64>(&new)
        .expect("a tree of this layout");
    for (index, leaf) in layout.leaves().iter().enumerate() {
        assert!(grad.is_present(index));
        assert!(leaf.places().len() > 1 || grad[leaf.range()] == flat[leaf.range()]);
    }
}

/// A tree with zeros at every place, if it is small.
fn tree_of(layout: &Layout) -> Option<DynTree> {
    let stored = serde_json::to_value(layout).expect("a layout is written");
    let nodes = stored["nodes"].as_array().expect("a list");
    let places: Vec<(Vec<String>, Value)> = nodes
        .iter()
        .filter_map(|node| Some((keys(node), array(&stored, node)?)))
        .collect();
    let bytes: usize = places
        .iter()
        .map(|(_, array)| array["$array"]["data"].as_str().map_or(0, str::len) / 2)
        .sum();
    let expected = layout.leaves().iter().chain(layout.others());
    let all = expected.map(|leaf| leaf.places().len()).sum::<usize>() == places.len();
    if all && bytes <= 8 * MAX_ELEMENTS {
        branch(&places)
    } else {
        None
    }
}

/// The array at a place as [`DynTree`] stores it, unless it is large or of a shape that no array
/// has.
fn array(stored: &Value, node: &Value) -> Option<Value> {
    let leaf = &stored["leaves"][node["leaf"].as_u64()? as usize];
    let shape = node
        .get("axes")
        .map_or(&leaf["shape"], |axes| &axes["shape"]);
    let lengths: Vec<u64> = serde_json::from_value(shape.clone()).expect("a list of lengths");
    let count = if lengths.contains(&0) {
        Some(0)
    } else {
        lengths
            .iter()
            .try_fold(1_u64, |count, len| count.checked_mul(*len))
    };
    let count = count.filter(|&count| count <= MAX_ELEMENTS as u64)? as usize;
    let dtype = leaf["dtype"].as_str().expect("a name");
    Some(
        json!({ "$array": { "dtype": dtype, "shape": shape, "data": "00".repeat(count * size(dtype)) } }),
    )
}

fn size(dtype: &str) -> usize {
    match dtype {
        "bool" | "i8" | "u8" => 1,
        "f16" | "bf16" | "i16" | "u16" => 2,
        "f32" | "i32" | "u32" => 4,
        "i128" | "u128" => 16,
        _ => 8,
    }
}

fn branch(places: &[(Vec<String>, Value)]) -> Option<DynTree> {
    if let [(keys, array)] = places
        && keys.is_empty()
    {
        return serde_json::from_value(array.clone()).ok();
    }
    let children = places.chunk_by(|a, b| a.0[0] == b.0[0]);
    let below = |places: &[(Vec<String>, Value)]| -> Vec<_> {
        places
            .iter()
            .map(|(keys, array)| (keys[1..].to_vec(), array.clone()))
            .collect()
    };
    let children: Option<Vec<_>> = children
        .map(|places| Some((places[0].0[0].clone(), branch(&below(places))?)))
        .collect();
    Some(DynTree::map(children?))
}

/// The keys of a path, read without the library: what a backslash precedes is itself, but `\e` is
/// the empty key.
fn keys(node: &Value) -> Vec<String> {
    let path = node["path"].as_str().expect("a path");
    let mut keys = vec![String::new()];
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => keys.push(String::new()),
            '\\' => keys
                .last_mut()
                .expect("there is one")
                .extend(characters.next().filter(|next| *next != 'e')),
            _ => keys.last_mut().expect("there is one").push(character),
        }
    }
    if path.is_empty() { Vec::new() } else { keys }
}
