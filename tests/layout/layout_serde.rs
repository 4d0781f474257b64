//! Layouts and trees that are read: what is wrong with them is an error, never a panic and never a
//! large allocation.

use std::rc::Rc;

use flatleaf::{DynTree, Layout, destructure, tree};
use ndarray::{arr0, arr2, array};
use serde_json::{Value, json};

/// A tie across a frozen field, a transposed view, integers, a scalar and an absent part.
fn stored() -> Value {
    let shared = Rc::new(arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]));
    let view = array![[5.0_f32, 6.0, 7.0]].into_shared();
    let model = (
        shared.clone(),
        (view.clone(), view.reversed_axes(), vec![1_i64, 2]),
        0.5_f32,
        None::<Vec<f32>>,
        shared,
    );
    let layout = Layout::planner().of(&model).unwrap();
    serde_json::to_value(layout).unwrap()
}

fn read(value: &Value) -> Result<Layout, serde_json::Error> {
    serde_json::from_str(&value.to_string())
}

#[test]
fn it_reads_as_people_write_paths() {
    let stored = stored();
    assert_eq!(stored["len"], 7);
    assert_eq!(
        stored["leaves"][1],
        json!({ "shape": [1, 3], "dtype": "f32", "trainable": true, "offset": 4 })
    );
    assert_eq!(stored["nodes"][0], json!({ "path": "0", "leaf": 0 }));
    let number = json!({ "path": "2", "no_leaf": true, "number": "f32" });
    assert_eq!(stored["nodes"][4], number);
    assert_eq!(stored["nodes"][5], json!({ "path": "3" }));
    let layout = read(&stored).unwrap();
    assert_eq!(layout.leaf("4").unwrap().places(), ["0", "4"]);
    assert_eq!(layout.leaf("1.1").unwrap().places(), ["1.0", "1.1"]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let set = |pointer: &str, value: Value| {
        let mut stored = stored();
        *stored.pointer_mut(pointer).unwrap() = value;
        read(&stored).unwrap_err().to_string()
    };
    let overlap = set("/leaves/1/offset", json!(3));
    assert!(
        overlap.contains("`1.0` at 3, shape [1, 3], where the places give 4"),
        "{overlap}"
    );
    let gap = set("/leaves/1/offset", json!(5));
    assert!(gap.contains("where the places give 4"), "{gap}");
    let long = set("/len", json!(8));
    assert!(
        long.contains("3 leaves of 8 elements in all, where the places give 3 of 7"),
        "{long}"
    );
    let twice = set("/nodes/1/path", json!("0"));
    assert!(
        twice.contains("`0`: expected each path once, found it twice"),
        "{twice}"
    );
    let below = set("/nodes/1/path", json!("0.x"));
    assert!(
        below.contains("`0`, which is a leaf, with something below it"),
        "{below}"
    );
    let nowhere = set("/nodes/0/leaf", json!(77));
    assert!(nowhere.contains("a place of no leaf"), "{nowhere}");
    let axes = set("/nodes/2/axes/axes", json!([[1, false]]));
    assert!(axes.contains("a tie's axes do not fit its leaf"), "{axes}");
    let empty = set("/leaves/0/shape", json!([2, 0]));
    assert!(
        empty.contains("a tie of arrays without elements, at `0`"),
        "{empty}"
    );
    let integers = set("/leaves/0/dtype", json!("i32"));
    assert!(integers.contains("where the places give"), "{integers}");
    let no_path = set("/nodes/0/path", json!("a..b"));
    assert!(no_path.contains("`a..b`, which is no path"), "{no_path}");
    let format = set("/format", json!("flatleaf layout 0"));
    assert!(format.contains("flatleaf layout 1"), "{format}");
    let deep = set("/nodes/5/path", json!("x.".repeat(1024) + "x"));
    assert!(
        deep.contains("nested too deep") || deep.contains("1024 levels"),
        "{deep}"
    );
}

#[test]
fn hostile_sizes_are_refused_without_an_allocation() {
    let with_shape = |shape: Value, offset: u64, len: u64| {
        let mut stored = stored();
        stored["leaves"][0]["shape"] = shape;
        stored["leaves"][1]["offset"] = json!(offset);
        stored["len"] = json!(len);
        read(&stored).unwrap_err().to_string()
    };
    for shape in [
        json!([u64::MAX]),
        json!([1_u64 << 40, 1_u64 << 40]),
        json!([0, u64::MAX, 2]),
        json!([1_u64 << 62]),
    ] {
        let error = with_shape(shape, 4, 7);
        assert!(
            error.contains("a shape that no memory holds, at `0`"),
            "{error}"
        );
    }
    // Two that fit by themselves, but not together.
    let mut stored = stored();
    stored["leaves"][0]["shape"] = json!([1_u64 << 59]);
    stored["leaves"][1]["shape"] = json!([1_u64 << 59, 1]);
    stored["nodes"][2]["axes"]["shape"] = json!([1, 1_u64 << 59]);
    assert!(
        read(&stored)
            .unwrap_err()
            .to_string()
            .contains("more elements than memory has")
    );
    // One that memory could hold: nothing is allocated before a tree of that shape is met.
    let mut stored = self::stored();
    stored["leaves"][0]["shape"] = json!([1_u64 << 50]);
    stored["leaves"][1]["offset"] = json!(1_u64 << 50);
    stored["len"] = json!((1_u64 << 50) + 3);
    let layout = read(&stored).unwrap();
    assert!(
        layout
            .gather(&tree!({ "0": [1.0] }))
            .unwrap_err()
            .is_shape()
    );
}

#[test]
fn numbers_and_keys_at_the_edge_are_refused() {
    let text = stored().to_string();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        let changed = text.replacen(from, to, 1);
        serde_json::from_str::<Layout>(&changed)
            .unwrap_err()
            .to_string()
    };
    for number in ["18446744073709551616", "-1", "1e3", "1.0", "1e400"] {
        refused(r#""len":7"#, &format!(r#""len":{number}"#));
        refused(r#""leaf":0"#, &format!(r#""leaf":{number}"#));
        refused(r#""offset":4"#, &format!(r#""offset":{number}"#));
        refused(r#""shape":[1,3]"#, &format!(r#""shape":[1,{number}]"#));
    }
    refused(r#""leaf":0"#, r#""leaf":4294967296"#);
    let twice = refused(r#""len":7"#, r#""len":7,"len":7"#);
    assert!(twice.contains("duplicate field `len`"), "{twice}");
    let twice = refused(r#""leaf":0"#, r#""leaf":0,"leaf":0"#);
    assert!(twice.contains("duplicate field `leaf`"), "{twice}");
    let nested = format!(r#""len":{}7"#, "[".repeat(100_000));
    refused(r#""len":7"#, &nested);
    let frozen = stored()
        .to_string()
        .replacen(r#""leaf":0"#, r#""leaf":0,"frozen_from":9"#, 1);
    assert!(serde_json::from_str::<Layout>(&frozen).is_err());
}

/// Axes of length 1 carry no elements, so that only a bound on their number stops them.
#[test]
fn arrays_of_many_axes_are_refused() {
    let unit = |count: usize| json!(vec![1; count]);
    let mut many = stored();
    many["nodes"][2]["axes"]["shape"] = json!([vec![1; 63], vec![3]].concat());
    assert!(read(&many).is_ok());
    many["nodes"][2]["axes"]["shape"] = json!([vec![1; 64], vec![3]].concat());
    let error = read(&many).unwrap_err().to_string();
    assert!(
        error.contains("a shape of more than 64 axes, at `1.1`"),
        "{error}"
    );
    let with_axes = |count: usize| {
        json!({
            "format": "flatleaf layout 1", "len": 1,
            "leaves": [{ "shape": unit(count), "dtype": "f32", "trainable": true, "offset": 0 }],
            "nodes": [{ "path": "w", "leaf": 0 }],
        })
    };
    assert!(read(&with_axes(64)).is_ok());
    let error = read(&with_axes(100_000)).unwrap_err().to_string();
    assert!(
        error.contains("a shape of more than 64 axes, at `w`"),
        "{error}"
    );
    let array = ndarray::ArrayD::<f32>::zeros(vec![1; 65]);
    let error = Layout::of(&array).unwrap_err();
    assert!(error.is_invalid_layout());
    assert!(error.to_string().contains("at the root"), "{error}");
}

/// Every number, string, list item and entry is changed or taken away, one at a time.
#[test]
fn no_change_makes_it_panic() {
    let stored = stored();
    let mut tried = 0;
    for pointer in pointers(&stored, String::new()) {
        for other in [
            json!(0),
            json!(1),
            json!(-1),
            json!(u64::MAX),
            json!(0.5),
            json!(null),
            json!([]),
            json!({}),
            json!("x"),
            json!("0"),
        ] {
            let mut changed = stored.clone();
            *changed.pointer_mut(&pointer).unwrap() = other;
            if let Ok(layout) = read(&changed) {
                let again: Layout =
                    serde_json::from_value(serde_json::to_value(&layout).unwrap()).unwrap();
                assert_eq!(again, layout);
                let _ = (
                    layout.to_string(),
                    layout.gather(&tree!([[1.0], [2.0, 3.0], { "0": [1.0] }])),
                );
            }
            tried += 1;
        }
        let mut shorter = stored.clone();
        if remove(&mut shorter, &pointer) {
            let _ = read(&shorter);
        }
    }
    assert!(tried > 300);
}

fn pointers(value: &Value, at: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (index.to_string(), item))
            .collect(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, item)| (key.clone(), item))
            .collect(),
        _ => Vec::new(),
    };
    let below = children
        .into_iter()
        .flat_map(|(key, item)| pointers(item, format!("{at}/{key}")));
    std::iter::once(at.clone()).chain(below).collect()
}

fn remove(value: &mut Value, pointer: &str) -> bool {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return false;
    };
    match value.pointer_mut(parent) {
        Some(Value::Array(items)) => key.parse().is_ok_and(|index: usize| {
            items.remove(index);
            true
        }),
        Some(Value::Object(entries)) => entries.remove(key).is_some(),
        _ => false,
    }
}

#[test]
fn a_tree_is_read_from_plain_json() {
    let tree: DynTree = serde_json::from_str(
        r#"{"w": [[1, 2.5], [3, 4]], "b": null, "c": [[1], [2, 3]], "d": 7, "e": []}"#,
    )
    .unwrap();
    assert_eq!(
        tree,
        tree!({ "w": [[1.0, 2.5], [3.0, 4.0]], "b": null, "c": [[1.0], [2.0, 3.0]], "d": 7.0, "e": [] })
    );
    assert_eq!(
        destructure(&tree).unwrap().0,
        [1.0, 2.5, 3.0, 4.0, 1.0, 2.0, 3.0, 7.0]
    );
    let twice = serde_json::from_str::<DynTree>(r#"{"a": [1], "a": [2]}"#)
        .unwrap_err()
        .to_string();
    assert!(
        twice.contains("`a`: expected each path once, found it twice"),
        "{twice}"
    );
}

#[test]
fn every_array_comes_back_as_it_was() {
    let arrays = [
        DynTree::from(vec![f32::NAN, f32::INFINITY, -0.0]),
        DynTree::from(vec![1.0_f64, 2.0]),
        DynTree::from(vec![true, false]),
        DynTree::from(ndarray::Array2::<f32>::zeros((2, 0))),
        DynTree::list([arr0(1.0_f32).into(), arr0(2.0_f32).into()]),
        DynTree::list([vec![1.0_f32].into(), vec![2.0_f32].into()]),
        DynTree::list([]),
        DynTree::map([("$array", DynTree::absent())]),
    ];
    for tree in &arrays[..7] {
        let text = serde_json::to_string(tree).unwrap();
        let back: DynTree = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(format!("{back:?}"), format!("{tree:?}"));
    }
}

#[test]
fn arrays_that_contradict_themselves_are_refused() {
    let read = |array: Value| {
        serde_json::from_str::<DynTree>(&json!({ "$array": array }).to_string())
            .unwrap_err()
            .to_string()
    };
    let short = read(json!({ "dtype": "f32", "shape": [2], "data": "0000803f" }));
    assert!(
        short.contains("an array of shape [2] with 4 bytes"),
        "{short}"
    );
    let hostile = read(json!({ "dtype": "f64", "shape": [u64::MAX, u64::MAX], "data": "" }));
    assert!(hostile.contains("with 0 bytes"), "{hostile}");
    let boolean = read(json!({ "dtype": "bool", "shape": [1], "data": "02" }));
    assert!(boolean.contains("neither 0 nor 1"), "{boolean}");
    let digits = read(json!({ "dtype": "u8", "shape": [1], "data": "0g" }));
    assert!(digits.contains("no hexadecimal digits"), "{digits}");
}
