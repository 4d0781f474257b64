//! Leaves that only one of a tree and its layout has, as the errors that say so.

use crate::element::Dtype;
use crate::error::{Error, Findings};
use crate::layout::{Cursor, LayoutData, NodeId, NodeKind};
use crate::traversal::purpose::Purpose;
use crate::traversal::seen_places::SeenPlaces;

/// Adds an error for every place that a walk has not met.
pub(super) fn find_missing(layout: &LayoutData, seen: &SeenPlaces, findings: &mut Findings) {
    for index in seen.missing(layout.places.len()) {
        if findings.is_full() {
            // What is not listed need not be rendered: a layout may have a million leaves.
            findings.count(1);
            continue;
        }
        let place = &layout.places[index];
        let expected = format!("a leaf of shape {:?}", &place.shape[..]);
        let path = layout.paths.render(place.node);
        findings.add(Error::missing(path, expected));
    }
}

/// A leaf, or a node with leaves, where the layout has none.
pub(super) struct UnknownLeaf {
    expected: &'static str,
    /// Whether a gradient may have it: it is of what the model has and does not train.
    is_ignored_in_gradients: bool,
}

impl UnknownLeaf {
    /// The one that a walk has met where `cursor` is.
    pub(super) fn at(layout: &LayoutData, cursor: &Cursor<'_>) -> Self {
        let known = cursor.known();
        let node = *layout.paths.node(known);
        let is_known = cursor.node().is_some();
        let has_children = node.end > known + 1;
        let (is_no_parameter, expected) = match node.kind {
            NodeKind::NoLeaf(number) => (true, expected_of_no_leaf(number)),
            NodeKind::Place(index) => {
                let is_trainable = layout.place(index).leaf.trainable;
                (!is_trainable, "nothing below a leaf")
            }
            NodeKind::Branch if is_known && has_children => {
                (holds_no_leaf(layout, known), "a branch")
            }
            NodeKind::Branch if is_known => (false, "nothing"),
            NodeKind::Branch => (false, "a path that the layout has"),
        };
        UnknownLeaf {
            expected,
            is_ignored_in_gradients: is_no_parameter || node.frozen,
        }
    }

    pub(super) fn is_ignored(&self, purpose: Purpose) -> bool {
        purpose == Purpose::ReadGradients && self.is_ignored_in_gradients
    }

    /// Adds the error that names it.
    pub(super) fn report(
        self,
        layout: &LayoutData,
        path: String,
        found: String,
        findings: &mut Findings,
    ) {
        // To look for the path that was meant costs more than to count what is not listed.
        let meant = if findings.is_full() {
            None
        } else {
            layout.meant(&path)
        };
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?"));
        let found = found + &hint.unwrap_or_default();
        findings.add(Error::unknown(path, self.expected, found));
    }
}

/// Whether a branch is a field without parameters: a list of strings, a pair of numbers.
fn holds_no_leaf(layout: &LayoutData, node: NodeId) -> bool {
    let mut places = layout.places_below(node);
    if places.next().is_some() {
        return false;
    }
    let paths = &layout.paths;
    let end = paths.node(node).end;
    let mut kinds = (node..end).map(|node| paths.node(node).kind);
    kinds.any(|kind| matches!(kind, NodeKind::NoLeaf(_)))
}

/// What to do where a tree has a leaf and the model a field that is none.
fn expected_of_no_leaf(number: Option<Dtype>) -> &'static str {
    match number {
        None => "no leaf: the field holds no parameter",
        Some(dtype) if dtype.is_float() => {
            "no leaf: the field is a bare float, which is a parameter by `#[tree(param)]`"
        }
        Some(_) => {
            "no leaf: the field is a bare number, which is carried as a leaf by `Array0<…>`, \
             `Array0<i64>` say"
        }
    }
}
