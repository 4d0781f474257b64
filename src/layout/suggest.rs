//! What there is where somebody looked for a leaf in vain: the path that may have been meant, or
//! what is below the part of it that exists.
//!
//! Of `layers.0.wieght` the segments `layers` and `0` exist. `wieght` does not, and of the children
//! of `layers.0` the name at the least distance is `weight`, by one swap of neighbours; so the
//! message asks for `layers.0.weight`. Had nothing been near, it would list those children.

use super::paths::{NodeId, NodeKind, Paths, ROOT};
use super::{Layout, LayoutData, Pattern};
use crate::error::{Error, Quoted};
use crate::tree::Key;
use crate::tree::key::{push_segment, split, unescape};

/// A longer segment is not taken for a misspelt one: comparing two costs the product of their
/// lengths.
const LONGEST: usize = 64;

/// Nor is one looked for among more children than these first ones.
const COMPARED: usize = 10_000;

impl Layout {
    /// What an error says of a path at which there is no trainable leaf.
    pub(crate) fn found_at(&self, path: &str) -> String {
        let paths = &self.inner.paths;
        match paths.find(path).map(|node| paths.node(node).kind) {
            Some(NodeKind::Place(_)) => "one that is frozen or carried".into(),
            _ => format!("no leaf there; {}", instead(&self.inner, path)),
        }
    }

    /// The error of a pattern that matches no leaf. One without stars is a path.
    pub(crate) fn unmatched(&self, pattern: &Pattern, expected: &str) -> Error {
        let text = pattern.text();
        let found = if !pattern.is_path() {
            format!(
                "none that it matches (`*` stays within a segment, `**` spans any number of them){}",
                self.before_stars(text)
            )
        } else if self.is_branch(text) {
            format!("a branch; `{text}.**` is all below it")
        } else {
            self.found_at(text)
        };
        Error::pattern(text, expected, &found)
    }

    /// What is wrong with the part of a pattern that is a path, if it leads nowhere.
    fn before_stars(&self, pattern: &str) -> String {
        let is_literal = |segment: &&str| unescape(segment).is_some();
        let segments: Vec<&str> = split(pattern).take_while(is_literal).collect();
        let path = segments.join(".");
        match self.inner.paths.find(&path) {
            Some(_) => String::new(),
            None => format!("; {}", instead(&self.inner, &path)),
        }
    }

    fn is_branch(&self, path: &str) -> bool {
        let layout = &self.inner;
        let Some(node) = layout.paths.find(path) else {
            return false;
        };
        let has_leaves = layout.places_below(node).next().is_some();
        node != ROOT && layout.paths.place(node).is_none() && has_leaves
    }
}

impl LayoutData {
    /// The path of a trainable leaf that may have been meant by one at which there is none.
    pub(crate) fn meant(&self, path: &str) -> Option<String> {
        let meant = self.paths.render(nearest(self, path)?);
        (meant != path).then_some(meant)
    }
}

fn instead(layout: &LayoutData, path: &str) -> String {
    if let Some(meant) = layout.meant(path) {
        return format!("did you mean `{meant}`?");
    }
    let paths = &layout.paths;
    let known = split(path).scan(ROOT, |node, segment| {
        *node = child(paths, *node, segment)?;
        Some(*node)
    });
    below(paths, known.last().unwrap_or(ROOT))
}

/// The trainable leaf to which the segments lead if each is the nearest of those that there are.
fn nearest(layout: &LayoutData, path: &str) -> Option<NodeId> {
    let paths = &layout.paths;
    let near = |node, segment| {
        child(paths, node, segment).or_else(|| misspelt_child(paths, node, segment))
    };
    let node = split(path).try_fold(ROOT, near)?;
    let place = layout.place(paths.place(node)?);
    place.leaf.trainable.then_some(node)
}

fn child(paths: &Paths, node: NodeId, segment: &str) -> Option<NodeId> {
    paths.find_child(node, Key::Name(&unescape(segment)?), node + 1)
}

/// The child whose name differs least, by one character of three at most. Numbers are not misspelt:
/// one is as good as any other.
fn misspelt_child(paths: &Paths, node: NodeId, segment: &str) -> Option<NodeId> {
    let unescaped = unescape(segment);
    let segment = unescaped.as_deref().unwrap_or(segment);
    let len = segment.chars().count();
    if !(3..=LONGEST).contains(&len) || segment.parse::<u32>().is_ok() {
        return None;
    }
    let distance_of = |child| match paths.key(child) {
        // The difference of the lengths is the least that the distance can be.
        Key::Name(name) if name.chars().count().abs_diff(len) <= len / 3 => {
            Some((strsim::osa_distance(segment, name), child))
        }
        _ => None,
    };
    let children = paths.children(node).take(COMPARED);
    let (distance, nearest) = children.filter_map(distance_of).min()?;
    (distance <= len / 3).then_some(nearest)
}

/// What a node has below it, for somebody who looked for something else there.
fn below(paths: &Paths, node: NodeId) -> String {
    const LISTED: usize = 8;
    let whose = if node == ROOT {
        "the tree".to_owned()
    } else {
        Quoted(&paths.render(node)).to_string()
    };
    if paths.place(node).is_some() {
        return format!("{whose} is a leaf");
    }
    let mut children = paths.children(node);
    let listed = children.by_ref().take(LISTED);
    let keys: Vec<String> = listed.map(|child| escaped(paths.key(child))).collect();
    if !keys.is_empty() {
        let keys = keys.join(", ");
        return match children.count() {
            0 => format!("{whose} has {keys}"),
            others => format!("{whose} has {keys} and {others} more"),
        };
    }
    match paths.node(node).kind {
        NodeKind::NoLeaf(_) => {
            format!("{whose} is no parameter (`#[tree(param)]` makes a number one)")
        }
        _ => format!("{whose} has nothing below it"),
    }
}

fn escaped(key: Key<'_>) -> String {
    let mut text = String::new();
    push_segment(&mut text, key);
    format!("`{text}`")
}
