//! Stored layouts that mostly agree with themselves, which bytes that are changed at random hardly
//! ever do.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

const TYPES: [&str; 6] = ["f32", "f64", "f16", "bf16", "i128", "bool"];
const KEYS: [&str; 8] = ["a", "b", "0", "1", "\\e", "a\\.b", "\\*", "\\\\"];
const LENGTHS: [u64; 8] = [1, 2, 3, 0, 1 << 30, (1 << 60) - 1, 1 << 60, u64::MAX];

/// Leaves in the order of their places, each at one or more of them.
pub(crate) fn stored(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let (mut leaves, mut nodes, mut len) = (Vec::new(), Vec::new(), 0_u64);
    let paths = paths(bytes)?;
    for path in paths {
        let is_tie = !leaves.is_empty() && bytes.ratio(1, 4)?;
        let index = if is_tie {
            bytes.choose_index(leaves.len())?
        } else {
            leaves.len()
        };
        if !is_tie {
            leaves.push(leaf(bytes, &mut len)?);
        }
        nodes.push(node(bytes, path, index, &leaves)?);
    }
    in_flat_order(&mut leaves, &mut nodes);
    let len = if bytes.ratio(1, 16)? {
        bytes.arbitrary()?
    } else {
        len
    };
    Ok(
        json!({ "format": "flatleaf layout 1", "len": len, "round_f64": bytes.ratio(1, 8)?, "leaves": leaves, "nodes": nodes }),
    )
}

/// Mostly in walk order and each once.
fn paths(bytes: &mut Unstructured<'_>) -> Result<Vec<String>> {
    let count = bytes.int_in_range(0..=6)?;
    let mut paths = (0..count)
        .map(|_| path(bytes))
        .collect::<Result<Vec<_>>>()?;
    if !bytes.ratio(1, 16)? {
        paths.sort();
        paths.dedup();
    }
    Ok(paths)
}

fn path(bytes: &mut Unstructured<'_>) -> Result<String> {
    let levels = if bytes.ratio(1, 32)? {
        0
    } else {
        bytes.int_in_range(1..=3)?
    };
    let keys = (0..levels)
        .map(|_| bytes.choose(&KEYS).copied())
        .collect::<Result<Vec<_>>>()?;
    Ok(keys.join("."))
}

fn shape(bytes: &mut Unstructured<'_>) -> Result<Vec<u64>> {
    let axes = bytes.int_in_range(0..=3)?;
    let usual = if bytes.ratio(1, 8)? { LENGTHS.len() } else { 3 };
    (0..axes)
        .map(|_| bytes.choose(&LENGTHS[..usual]).copied())
        .collect()
}

fn leaf(bytes: &mut Unstructured<'_>, len: &mut u64) -> Result<Value> {
    let (shape, dtype) = (shape(bytes)?, *bytes.choose(&TYPES)?);
    let trainable = dtype.contains('f') && !bytes.ratio(1, 8)?;
    let offset = match bytes.ratio(1, 32)? {
        true => bytes.arbitrary()?,
        false => {
            if trainable {
                *len
            } else {
                0
            }
        }
    };
    if trainable {
        *len = len.wrapping_add(
            shape
                .iter()
                .fold(1, |count: u64, len| count.wrapping_mul(*len)),
        );
    }
    Ok(json!({ "shape": shape, "dtype": dtype, "trainable": trainable, "offset": offset }))
}

fn node(
    bytes: &mut Unstructured<'_>,
    path: String,
    leaf: usize,
    leaves: &[Value],
) -> Result<Value> {
    let mut node = json!({ "path": path, "leaf": leaf });
    match bytes.int_in_range(0..=15)? {
        0..=9 => {}
        10..=12 => node["axes"] = axes(bytes, &leaves[leaf]["shape"])?,
        13 => node["frozen_from"] = json!(bytes.int_in_range(0..=3)?),
        14 => node = json!({ "path": path, "no_leaf": true }),
        _ => node = json!({ "path": path }),
    }
    Ok(node)
}

/// An order of the leaf's axes, now and then no order at all.
fn axes(bytes: &mut Unstructured<'_>, shape: &Value) -> Result<Value> {
    let lengths: Vec<u64> = serde_json::from_value(shape.clone()).expect("a list of lengths");
    let mut order: Vec<usize> = (0..lengths.len())
        .filter(|&axis| lengths[axis] != 1)
        .collect();
    for axis in 0..order.len() {
        let other = bytes.int_in_range(axis..=order.len() - 1)?;
        order.swap(axis, other);
    }
    let shape: Vec<u64> = order.iter().map(|&axis| lengths[axis]).collect();
    let among_longer = |axis: usize| order.iter().filter(|&&other| other < axis).count();
    let axes = order.iter().map(|&axis| {
        Ok((
            among_longer(axis) + usize::from(bytes.ratio(1, 32)?),
            bytes.arbitrary()?,
        ))
    });
    Ok(json!({ "shape": shape, "axes": axes.collect::<Result<Vec<(usize, bool)>>>()? }))
}

/// Those that are not trained come last.
fn in_flat_order(leaves: &mut Vec<Value>, nodes: &mut [Value]) {
    let mut order: Vec<usize> = (0..leaves.len()).collect();
    order.sort_by_key(|&leaf| leaves[leaf]["trainable"] != true);
    for node in nodes {
        if let Some(leaf) = node["leaf"].as_u64() {
            node["leaf"] = json!(order.iter().position(|&other| other as u64 == leaf));
        }
    }
    *leaves = order.iter().map(|&leaf| leaves[leaf].clone()).collect();
}
