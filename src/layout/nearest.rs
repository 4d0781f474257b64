//! What there is where somebody looked for a leaf in vain: the path that may have been meant, or
//! what is below the part of it that exists.

use super::paths::{NodeId, NodeKind, Paths, ROOT};
use super::{Layout, LayoutData, Pattern};
use crate::error::Error;
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
        let segments: Vec<&str> = split(pattern)
            .take_while(|segment| unescape(segment).is_some())
            .collect();
        let path = segments.join(".");
        if self.inner.paths.find(&path).is_some() {
            String::new()
        } else {
            format!("; {}", instead(&self.inner, &path))
        }
    }

    fn is_branch(&self, path: &str) -> bool {
        let node = self
            .inner
            .paths
            .find(path)
            .filter(|&node| node != ROOT && self.inner.paths.place(node).is_none());
        node.is_some_and(|node| self.inner.places_below(node).next().is_some())
    }
}

impl LayoutData {
    /// The path of a trainable leaf that may have been meant by one at which there is none.
    pub(crate) fn meant(&self, path: &str) -> Option<String> {
        nearest(self, path)
            .map(|leaf| self.paths.render(leaf))
            .filter(|meant| meant != path)
    }
}

fn instead(layout: &LayoutData, path: &str) -> String {
    let (paths, segments) = (&layout.paths, split(path));
    if let Some(meant) = layout.meant(path) {
        return format!("did you mean `{meant}`?");
    }
    let known = segments.scan(ROOT, |node, segment| {
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
    paths
        .place(node)
        .filter(|&place| layout.place(place).leaf.trainable)
        .map(|_| node)
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
        Key::Name(name) if name.chars().count().abs_diff(len) <= len / 3 => {
            Some((distance(segment, name), child))
        }
        _ => None,
    };
    let nearest = paths
        .children(node)
        .take(COMPARED)
        .filter_map(distance_of)
        .min()?;
    (nearest.0 <= len / 3).then_some(nearest.1)
}

/// How many characters have to be added, taken away, replaced or swapped with their neighbour
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let is_swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            let swapped = if is_swapped {
                rows[i - 2][j - 2] + 1
            } else {
                usize::MAX
            };
            row.push(
                replaced
                    .min(rows[i - 1][j] + 1)
                    .min(row[j - 1] + 1)
                    .min(swapped),
            );
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn below(paths: &Paths, node: NodeId) -> String {
    const LISTED: usize = 8;
    let whose = if node == ROOT {
        "the tree".to_owned()
    } else {
        format!("`{}`", paths.render(node))
    };
    if paths.place(node).is_some() {
        return format!("{whose} is a leaf");
    }
    let keys: Vec<String> = paths
        .children(node)
        .take(LISTED)
        .map(|child| format!("`{}`", escaped(paths.key(child))))
        .collect();
    match paths.children(node).skip(LISTED).count() {
        _ if keys.is_empty() && matches!(paths.node(node).kind, NodeKind::NoLeaf(_)) => {
            format!("{whose} is no parameter (`#[tree(param)]` makes a number one)")
        }
        _ if keys.is_empty() => format!("{whose} has nothing below it"),
        0 => format!("{whose} has {}", keys.join(", ")),
        others => format!("{whose} has {} and {others} more", keys.join(", ")),
    }
}

fn escaped(key: Key<'_>) -> String {
    let mut text = String::new();
    push_segment(&mut text, key);
    text
}
