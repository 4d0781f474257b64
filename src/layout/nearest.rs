//! What there is where somebody looked for a leaf in vain: the path that may have been meant, or what is below the part of it that exists.

use super::paths::{Kind, NodeId, Paths, ROOT, push_segment, split};
use super::{Layout, Pattern};
use crate::error::Error;
use crate::tree::Key;

impl Layout {
    /// What an error says of a path at which there is no trainable leaf.
    pub(crate) fn found_at(&self, path: &str) -> String {
        let paths = &self.inner.paths;
        match paths.find(path).map(|node| paths.node(node).kind) {
            Some(Kind::Place(_)) => "one that is frozen or carried".into(),
            _ => format!("no leaf there; {}", instead(paths, path)),
        }
    }

    /// The error of a pattern that matches no leaf. One without stars is a path.
    pub(crate) fn unmatched(&self, pattern: &Pattern, expected: &str) -> Error {
        let paths = &self.inner.paths;
        let is_branch = paths.find(pattern.text()).is_some_and(|node| paths.place(node).is_none());
        if pattern.is_path() && !is_branch {
            return Error::pattern(pattern.text(), expected, &self.found_at(pattern.text()));
        }
        Error::pattern(pattern.text(), expected, "none that it matches (`*` stays within a segment, `**` spans any number of them)")
    }
}

fn instead(paths: &Paths, path: &str) -> String {
    let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { split(path).collect() };
    if let Some(leaf) = nearest(paths, &segments) {
        return format!("did you mean `{}`?", paths.render(leaf));
    }
    let known = (1..=segments.len()).map_while(|count| paths.find(&segments[..count].join("."))).last();
    below(paths, known.unwrap_or(ROOT))
}

/// The leaf to which the segments lead if each is the nearest of those that there are.
fn nearest(paths: &Paths, segments: &[&str]) -> Option<NodeId> {
    let node = segments.iter().try_fold(ROOT, |node, segment| nearest_child(paths, node, segment))?;
    paths.place(node).map(|_| node)
}

fn nearest_child(paths: &Paths, node: NodeId, segment: &str) -> Option<NodeId> {
    let distances = paths.children(node).map(|child| (distance(segment, &text_of(paths.key(child))), child));
    distances.min().filter(|&(distance, _)| is_near(segment, distance)).map(|(_, child)| child)
}

/// One character of three may be another. A number is as good as any other, and not misspelt.
fn is_near(segment: &str, distance: usize) -> bool {
    let len = segment.chars().count();
    distance == 0 || distance < len && distance <= len.max(3) / 3 && segment.parse::<u32>().is_err()
}

/// How many characters have to be added, taken away or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (at, &b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[b.len()]
}

fn below(paths: &Paths, node: NodeId) -> String {
    const LISTED: usize = 8;
    let whose = if node == ROOT { "the tree".to_owned() } else { format!("`{}`", paths.render(node)) };
    if paths.place(node).is_some() {
        return format!("{whose} is a leaf");
    }
    let keys: Vec<String> = paths.children(node).map(|child| format!("`{}`", text_of(paths.key(child)))).collect();
    match keys.len() {
        0 => format!("{whose} has nothing below it"),
        count if count > LISTED => format!("{whose} has {} and {} more", keys[..LISTED].join(", "), count - LISTED),
        _ => format!("{whose} has {}", keys.join(", ")),
    }
}

fn text_of(key: Key<'_>) -> String {
    let mut text = String::new();
    push_segment(&mut text, key);
    text
}
