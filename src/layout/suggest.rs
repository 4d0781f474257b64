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

/// A path is compared with so many names in all, the first ones at each of its nodes: a layout that
/// was read from a file may have any number.
const COMPARED: usize = 10_000;

impl Layout {
    /// What an error says of a path at which there is no trainable leaf.
    pub(crate) fn found_at(&self, path: &str) -> String {
        let paths = &self.inner.paths;
        let node = paths.find(path);
        // A trainable leaf would have been found.
        if node.is_some_and(|node| paths.place(node).is_some()) {
            return "one that is frozen or carried".into();
        }
        let instead = instead(&self.inner, path);
        format!("no leaf there; {instead}")
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
        } else if let Some(deeper) = self.at_any_depth(text) {
            format!("no leaf there; `{deeper}` finds it at any depth")
        } else {
            self.found_at(text)
        };
        Error::pattern(text, expected, &found)
    }

    /// The pattern that finds a path below whatever there is, if it leads nowhere from the root: who
    /// says `bias` may mean that of every layer.
    fn at_any_depth(&self, path: &str) -> Option<String> {
        if self.inner.paths.find(path).is_some() {
            return None;
        }
        let text = format!("**.{path}");
        let pattern = Pattern::parse(&text).ok()?;
        let mut first = self.leaves().iter().take(COMPARED);
        let is_matched = first.any(|leaf| pattern.matches_path(leaf.path()));
        is_matched.then_some(text)
    }

    /// What is wrong with the part of a pattern that is a path, if it leads nowhere.
    fn before_stars(&self, pattern: &str) -> String {
        // A star is no key, so that what cannot be unescaped is where the pattern begins.
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
        let is_leaf = layout.paths.place(node).is_some();
        let has_leaves = layout.places_below(node).next().is_some();
        node != ROOT && !is_leaf && has_leaves
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
    let mut known = ROOT;
    for segment in split(path) {
        let Some(node) = child(paths, known, segment) else {
            break;
        };
        known = node;
    }
    below(paths, known)
}

/// The trainable leaf to which the segments lead if each is the nearest of those that there are.
fn nearest(layout: &LayoutData, path: &str) -> Option<NodeId> {
    let paths = &layout.paths;
    let mut compared = 0;
    let mut node = ROOT;
    for segment in split(path) {
        node = match child(paths, node, segment) {
            Some(child) => child,
            None => misspelt_child(paths, node, segment, &mut compared)?,
        };
    }
    let place = layout.place(paths.place(node)?);
    place.leaf.trainable.then_some(node)
}

fn child(paths: &Paths, node: NodeId, segment: &str) -> Option<NodeId> {
    paths.find_child(node, Key::Name(&unescape(segment)?), node + 1)
}

/// The child whose name differs least, by one character of three at most. Numbers are not misspelt:
/// one is as good as any other.
fn misspelt_child(
    paths: &Paths,
    node: NodeId,
    segment: &str,
    compared: &mut usize,
) -> Option<NodeId> {
    let unescaped = unescape(segment);
    let segment = unescaped.as_deref().unwrap_or(segment);
    let len = segment.chars().count();
    if !(3..=LONGEST).contains(&len) || segment.parse::<u32>().is_ok() {
        return None;
    }
    let most = len / 3;
    let mut nearest = None;
    for child in paths.children(node).take(COMPARED - *compared) {
        *compared += 1;
        let Key::Name(name) = paths.key(child) else {
            continue;
        };
        // The difference of the lengths is the least that the distance can be, and a look at a few
        // characters more than the segment has is enough to know that it is too large.
        let name_len = name.chars().take(len + most + 1).count();
        if name_len.abs_diff(len) > most {
            continue;
        }
        let distance = strsim::osa_distance(segment, name);
        let is_nearer = nearest.is_none_or(|(least, _)| distance < least);
        if distance <= most && is_nearer {
            nearest = Some((distance, child));
        }
    }
    let (_, child) = nearest?;
    Some(child)
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
        // What is not listed is counted, so that nobody takes the list for all there is.
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
