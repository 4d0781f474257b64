//! A layout as plain data, and back through the validator.
//!
//! Places are written in walk order with their whole paths, so that a person can read them; the
//! tree of segments is made from them again. What holds no array is listed too, so that gradients
//! there are ignored as before.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::draft::{Draft, DraftLeaf, DraftPlace};
use super::paths::{Node, NodeId, NodeKind, Paths, ROOT};
use super::{Layout, LayoutData, Leaf, LeafId};
use crate::element::Dtype;
use crate::error::{Error, Quoted, Result};
use crate::tree::Key;
use crate::tree::axes::AxisMap;
use crate::tree::elements::ElementField;
use crate::tree::key::{split, unescape};
use crate::tree::stack::MAX_LEVELS;

const FORMAT: &str = "flatleaf layout 1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLayout {
    format: String,
    len: u64,
    /// Whether leaves of `f64` are rounded in a vector of `f32`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    round_f64: bool,
    leaves: Vec<StoredLeaf>,
    /// Every node that is no branch with children, in walk order.
    nodes: Vec<StoredNode>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLeaf {
    shape: Vec<u64>,
    dtype: Dtype,
    trainable: bool,
    /// In the flat vector; 0 for a leaf that is not trainable.
    offset: u64,
    /// What the numbers along the last axis are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<StoredField>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredField {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shape: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredNode {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<u32>,
    /// Known by name, but no array: gradients here are ignored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_leaf: bool,
    /// The type of a field that is a bare number, and so no leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<Dtype>,
    /// How many segments of the path lead from the root to the first node that is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen_from: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    axes: Option<AxisMap>,
}

impl Serialize for Layout {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        let inner = &self.inner;
        let leaves = inner.all_leaves().map(stored_leaf).collect();
        let nodes = inner
            .paths
            .ids()
            .filter_map(|node| stored_node(inner, node))
            .collect();
        StoredLayout {
            format: FORMAT.into(),
            len: inner.len as u64,
            round_f64: inner.rounds_f64,
            leaves,
            nodes,
        }
        .serialize(serializer)
    }
}

fn stored_leaf(leaf: &Leaf) -> StoredLeaf {
    let shape = leaf.shape().iter().map(|&len| len as u64).collect();
    let fields = leaf.fields.iter().flat_map(|fields| fields.iter());
    StoredLeaf {
        shape,
        dtype: leaf.dtype(),
        trainable: leaf.is_trainable(),
        offset: leaf.range().start as u64,
        fields: fields.map(stored_field).collect(),
    }
}

fn stored_field(field: &ElementField) -> StoredField {
    StoredField {
        name: field.name.clone(),
        shape: field.shape.iter().map(|&len| len as u64).collect(),
    }
}

/// The type of a field that is a bare number.
fn bare_number(node: &Node) -> Option<Dtype> {
    match node.kind {
        NodeKind::NoLeaf(number) => number,
        _ => None,
    }
}

fn stored_node(inner: &LayoutData, id: NodeId) -> Option<StoredNode> {
    let node = inner.paths.node(id);
    let has_children = node.end > id + 1;
    let place = inner.paths.place(id).map(|place| inner.place(place));
    // Its children's paths say that it is there.
    if has_children {
        return None;
    }
    Some(StoredNode {
        path: inner.paths.render(id),
        leaf: place.map(|place| number(inner, place.leaf)),
        no_leaf: matches!(node.kind, NodeKind::NoLeaf(_)),
        number: bare_number(node),
        frozen_from: frozen_from(&inner.paths, id),
        axes: place.and_then(|place| place.axes.as_deref().cloned()),
    })
}

/// Leaves and others are counted through.
fn number(inner: &LayoutData, leaf: LeafId) -> u32 {
    if leaf.trainable {
        leaf.index
    } else {
        inner.leaves.len() as u32 + leaf.index
    }
}

fn frozen_from(paths: &Paths, id: NodeId) -> Option<u32> {
    let mut line = std::iter::once(ROOT).chain(paths.line(id));
    let segments = line.position(|node| paths.node(node).frozen)?;
    Some(segments as u32)
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
    where
        D: Deserializer<'de>,
    {
        let stored = StoredLayout::deserialize(deserializer)?;
        stored.into_layout().map_err(de::Error::custom)
    }
}

impl StoredLayout {
    fn into_layout(self) -> Result<Layout> {
        if self.format != FORMAT {
            return Err(Error::invalid_layout(format!(
                "the format {:?}, not {FORMAT:?}",
                self.format
            )));
        }
        let layout = self.draft()?.assemble().map(Layout::new)?;
        self.check_offsets(&layout)?;
        Ok(layout)
    }

    fn draft(&self) -> Result<Draft> {
        let leaves = self.leaves.iter().map(StoredLeaf::draft);
        let leaves = leaves.collect::<Result<Vec<_>>>()?;
        let mut builder = PathsBuilder::new();
        let mut places = Vec::new();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for stored in &self.nodes {
            stored.check_kind()?;
            let node = builder.push(stored)?;
            nodes.push(node);
            if let Some(leaf) = stored.leaf {
                let place = places.len() as u32;
                builder.paths.node_mut(node).kind = NodeKind::Place(place);
                let axes = stored.axes.clone().map(Box::new);
                places.push(DraftPlace { node, leaf, axes });
            }
        }
        // Only the whole tree says what is frozen from where: a path may have said less than the one
        // before it.
        let paths = builder.finish();
        for (stored, node) in self.nodes.iter().zip(nodes) {
            let frozen_from = frozen_from(&paths, node);
            stored.check_frozen(frozen_from)?;
        }
        let draft = Draft::new(paths, leaves, places);
        Ok(draft.rounding_f64(self.round_f64))
    }

    /// The order of the leaves and where they start follow from the places; what was written must
    /// agree.
    fn check_offsets(&self, layout: &Layout) -> Result<()> {
        let leaves = || layout.leaves().iter().chain(layout.others());
        if self.leaves.len() != leaves().count() || self.len != layout.len() as u64 {
            let found = format!(
                "{} leaves of {} elements in all",
                self.leaves.len(),
                self.len
            );
            return Err(Error::invalid_layout(format!(
                "{found}, where the places give {} of {}",
                leaves().count(),
                layout.len()
            )));
        }
        for (stored, leaf) in self.leaves.iter().zip(leaves()) {
            let same = stored_leaf(leaf);
            if stored.offset != same.offset
                || stored.shape != same.shape
                || stored.trainable != same.trainable
                || stored.dtype != same.dtype
            {
                let found = format!(
                    "{} at {}, shape {:?}",
                    Quoted(leaf.path()),
                    stored.offset,
                    stored.shape
                );
                return Err(Error::invalid_layout(format!(
                    "{found}, where the places give {}, shape {:?}",
                    same.offset, same.shape
                )));
            }
        }
        Ok(())
    }
}

impl StoredNode {
    fn check_kind(&self) -> Result<()> {
        let is_leaf = self.leaf.is_some();
        if (self.no_leaf && is_leaf) || (self.axes.is_some() && !is_leaf) {
            let found = "which is no leaf and has something of one";
            return Err(self.invalid(found));
        }
        if self.number.is_some() && !self.no_leaf {
            return Err(self.invalid("which is a bare number and something else"));
        }
        Ok(())
    }

    /// Nodes that share the beginning of their paths have to agree on what is frozen there.
    fn check_frozen(&self, frozen_from: Option<u32>) -> Result<()> {
        if self.frozen_from == frozen_from {
            Ok(())
        } else {
            Err(self.invalid("frozen from another segment on than the other paths say"))
        }
    }

    fn invalid(&self, found: &str) -> Error {
        Error::invalid_layout(format!("{}, {found}", Quoted(&self.path)))
    }
}

impl StoredLeaf {
    fn draft(&self) -> Result<DraftLeaf> {
        let fields = self.fields.iter().map(|field| {
            Ok(ElementField {
                name: field.name.clone(),
                shape: lengths(&field.shape)?,
            })
        });
        let fields = fields.collect::<Result<Vec<_>>>()?;
        Ok(DraftLeaf {
            dtype: self.dtype,
            shape: lengths(&self.shape)?,
            trainable: self.trainable,
            fields: (!self.fields.is_empty()).then(|| Arc::new(fields)),
        })
    }
}

fn lengths<S: FromIterator<usize>>(stored: &[u64]) -> Result<S> {
    let lengths = stored.iter().map(|&len| usize::try_from(len));
    let lengths = lengths.collect::<Result<S, _>>();
    lengths.map_err(|_| Error::invalid_layout("a shape that no memory holds"))
}

/// Segments of paths in walk order, made into a tree again.
struct PathsBuilder {
    paths: Paths,
    /// The nodes from the root to the last one, with their keys.
    line: Vec<(NodeId, String)>,
}

impl PathsBuilder {
    fn new() -> Self {
        PathsBuilder {
            paths: Paths::new(),
            line: vec![(ROOT, String::new())],
        }
    }

    fn push(&mut self, stored: &StoredNode) -> Result<NodeId> {
        let keys = keys(&stored.path)?;
        let line = self.line[1..].iter().zip(&keys);
        let shared = line.take_while(|(node, key)| node.1 == **key);
        let shared = shared.count();
        // In walk order a path that goes on where the last one ended, or ends earlier, is new; only the
        // root, which is a node before any path is read, is named by none.
        let is_new = keys.len() > shared || (keys.is_empty() && self.paths.len() == 1);
        if !is_new {
            return Err(Error::duplicate(stored.path.clone()));
        }
        self.close_to(shared + 1);
        self.paths.node_mut(ROOT).frozen |= stored.frozen_from == Some(0);
        for (level, key) in keys.into_iter().enumerate().skip(shared) {
            self.open(key, stored.frozen_from == Some(level as u32 + 1))?;
        }
        let node = self.line.last().map_or(ROOT, |node| node.0);
        self.paths.node_mut(node).kind = if stored.no_leaf {
            NodeKind::NoLeaf(stored.number)
        } else {
            NodeKind::Branch
        };
        Ok(node)
    }

    fn open(&mut self, key: String, frozen: bool) -> Result<()> {
        let parent = self.line.last().map_or(ROOT, |node| node.0);
        if self.paths.node(parent).kind != NodeKind::Branch {
            let path = self.paths.render(parent);
            return Err(Error::invalid_layout(format!(
                "{}, which is a leaf, with something below it",
                Quoted(&path)
            )));
        }
        let node = self.paths.push(parent, Key::Name(&key), frozen)?;
        self.line.push((node, key));
        Ok(())
    }

    fn close_to(&mut self, levels: usize) {
        // From the inside out; what is closed is never opened again, and a path that would do so makes
        // a second node of its name, which the validator finds.
        for (node, _) in self.line.drain(levels..).rev() {
            self.paths.close(node);
        }
    }

    fn finish(mut self) -> Paths {
        self.close_to(1);
        self.paths.close(ROOT);
        self.paths.inherit_frozen();
        self.paths
    }
}

fn keys(path: &str) -> Result<Vec<String>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    // One more than there may be is enough to refuse a path of any length.
    let segments = split(path).take(MAX_LEVELS + 1);
    let keys: Option<Vec<String>> = segments.map(unescape).collect();
    let keys = keys.ok_or_else(|| Error::invalid_layout(format!("`{path}`, which is no path")))?;
    if keys.len() > MAX_LEVELS {
        Err(Error::too_deep(MAX_LEVELS).or_at(|| path.to_owned()))
    } else {
        Ok(keys)
    }
}

/// Layouts as somebody would write them who wants the reader to be slow. Work is counted and not
/// timed: twice the text may cost little more than twice the steps, sorting included.
#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::layout::steps;

    const LEAF: &str = r#"{"shape":[1],"dtype":"f32","trainable":true,"offset":0}"#;

    fn text(len: usize, leaves: &str, nodes: &[String]) -> String {
        let nodes = nodes.join(",");
        format!(
            r#"{{"format":"flatleaf layout 1","len":{len},"leaves":[{leaves}],"nodes":[{nodes}]}}"#
        )
    }

    fn place(path: &str) -> String {
        format!(r#"{{"path":"{path}","leaf":0}}"#)
    }

    fn branch(path: &str) -> String {
        format!(r#"{{"path":"{path}"}}"#)
    }

    /// One leaf at `count` places whose keys come in the wrong order.
    fn one_tie(count: usize) -> String {
        let nodes: Vec<String> = (0..count).rev().map(|n| place(&format!("w{n}"))).collect();
        text(1, LEAF, &nodes)
    }

    /// One leaf, and `count` places that show its 48 axes in another order.
    fn turned_places(count: usize) -> String {
        let shape = vec!["2"; 48].join(",");
        let reversed: Vec<String> = (0..48).rev().map(|axis| format!("[{axis},true]")).collect();
        let axes = format!(r#"{{"shape":[{shape}],"axes":[{}]}}"#, reversed.join(","));
        let mut nodes = vec![place("first")];
        for n in 0..count {
            nodes.push(format!(r#"{{"path":"w{n}","leaf":0,"axes":{axes}}}"#));
        }
        let len = 1_u64 << 48;
        let leaf = format!(r#"{{"shape":[{shape}],"dtype":"f32","trainable":true,"offset":0}}"#);
        text(len as usize, &leaf, &nodes)
    }

    /// Chains of 500 levels that share all but their last segment.
    fn deep(count: usize) -> String {
        let chain = "a.".repeat(500);
        let nodes: Vec<String> = (0..count).map(|n| place(&format!("{chain}w{n}"))).collect();
        text(1, LEAF, &nodes)
    }

    /// Siblings whose names differ in their last characters only, in falling order.
    fn long_names(count: usize) -> String {
        let prefix = "x".repeat(200);
        let name = |n: usize| place(&format!("{prefix}{:06}", count - n));
        let nodes: Vec<String> = (0..count).map(name).collect();
        text(1, LEAF, &nodes)
    }

    /// Branches without anything below them.
    fn empty_branches(count: usize) -> String {
        let mut nodes = vec![place("w")];
        nodes.extend((0..count).map(|n| branch(&format!("b{n}"))));
        text(1, LEAF, &nodes)
    }

    /// All that is done with a layout that was read: look-ups by path, a number, a table, a file.
    fn use_all(text: &str) {
        let layout: Layout = serde_json::from_str(text).unwrap();
        for leaf in layout.leaves().iter().chain(layout.others()) {
            for path in leaf.places() {
                assert!(layout.index_of(path).is_some());
            }
        }
        assert!(layout.index_of("no.such.leaf").is_none());
        assert!(layout.matching("first1").is_err());
        let again: Layout = serde_json::from_str(&serde_json::to_string(&layout).unwrap()).unwrap();
        assert_eq!(again, layout);
        assert!(!layout.to_string().is_empty());
    }

    #[test]
    fn work_is_linear_in_what_a_hostile_layout_says() {
        type Text = fn(usize) -> String;
        let layouts: [(&str, Text); 5] = [
            ("one tie", one_tie),
            ("turned places", turned_places),
            ("deep", deep),
            ("long names", long_names),
            ("empty branches", empty_branches),
        ];
        for (what, of) in layouts {
            let once = of(500);
            let twice = of(1000);
            let (steps_once, ()) = steps::during(|| use_all(&once));
            let (steps_twice, ()) = steps::during(|| use_all(&twice));
            let growth = steps_twice as f64 / steps_once as f64;
            assert!(
                growth < 2.4,
                "{what}: {steps_once} steps, then {steps_twice}"
            );
            // A fixed number for each byte of the text, with the factor that sorting takes.
            let of_a_byte = steps_twice as f64 / twice.len() as f64;
            assert!(of_a_byte < 60.0, "{what}: {of_a_byte} steps a byte");
        }
    }

    #[test]
    fn what_is_refused_costs_no_more_than_its_text() {
        let mut unit_axes = String::new();
        for _ in 0..100_000 {
            write!(unit_axes, "1,").unwrap();
        }
        let axes = format!(r#"{{"shape":[{unit_axes}1],"axes":[]}}"#);
        let alias = format!(r#"{{"path":"b","leaf":0,"axes":{axes}}}"#);
        let leaf =
            format!(r#"{{"shape":[{unit_axes}1],"dtype":"f32","trainable":true,"offset":0}}"#);
        let dots = "a.".repeat(100_000);
        let hostile = [
            ("axes of an alias", text(1, LEAF, &[place("a"), alias])),
            ("axes of a leaf", text(1, &leaf, &[place("a")])),
            ("levels", text(1, LEAF, &[place(&dots)])),
            (
                "a path again",
                text(1, LEAF, &[place("a.b"), place("c"), place("a.d")]),
            ),
        ];
        for (what, text) in hostile {
            let (steps, read) = steps::during(|| serde_json::from_str::<Layout>(&text));
            assert!(read.is_err(), "{what}");
            assert!(steps < 1_000, "{what}: {steps} steps");
        }
    }

    /// A path that is misspelt at every level is compared with so many names in all.
    #[test]
    fn a_hint_looks_at_a_fixed_number_of_names() {
        const LEVELS: usize = 5;
        let mut nodes = Vec::new();
        // In walk order: what is below the first child of a level stands before its siblings.
        for level in (0..LEVELS).rev() {
            let above = "weight0000.".repeat(level);
            let first = if level + 1 == LEVELS { 0 } else { 1 };
            let children = (first..5_000).map(|n| place(&format!("{above}weight{n:04}")));
            nodes.extend(children);
        }
        let layout: Layout = serde_json::from_str(&text(1, LEAF, &nodes)).unwrap();
        let _sorted = layout.index_of("weight0000");
        let misspelt = ["weihgt0000"; LEVELS].join(".");
        let (steps, meant) = steps::during(|| layout.inner.meant(&misspelt));
        // Two of the five levels, and nothing more.
        assert!(meant.is_none());
        assert!(steps < 10_000 * 15, "{steps} steps");
        let meant = layout.inner.meant("weihgt0000.weihgt0001");
        assert_eq!(meant.as_deref(), Some("weight0000.weight0001"));
        assert_eq!(
            layout.inner.meant("weihgt0003").as_deref(),
            Some("weight0003")
        );
    }
}
