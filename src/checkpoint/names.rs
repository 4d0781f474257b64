//! Names of tensors: prefixes of them, and the path that a name stands for.

use std::borrow::Cow;

use super::work;
use crate::tree::Key;
use crate::tree::key::{push_segment, split, unescape};

/// The rest of a name below a prefix; empty for the prefix itself.
pub(crate) fn below<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    work::count(1);
    let rest = name.strip_prefix(prefix)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('.')
    }
}

/// A path below a prefix, as [`below`] takes it off again.
pub(crate) fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// The key that a segment of a name stands for. What is not written as a segment of a path, `*` or
/// nothing at all, stands for itself: other programs know no escapes.
pub(crate) fn key_of(segment: &str) -> Cow<'_, str> {
    if !segment.contains(['\\', '*']) {
        return Cow::Borrowed(segment);
    }
    unescape(segment).map_or(Cow::Borrowed(segment), Cow::Owned)
}

/// The path that a name stands for, as a layout prints it: `a..b` is `a.\e.b`, and a star has its
/// backslash. Names that this crate writes are their own paths.
pub(crate) fn path_of(name: &str) -> Cow<'_, str> {
    let is_path = !name.contains(['\\', '*']) && split(name).all(|segment| !segment.is_empty());
    // The empty name is the root, and not an empty key below it.
    if is_path || name.is_empty() {
        return Cow::Borrowed(name);
    }
    let mut path = String::with_capacity(name.len());
    for segment in split(name) {
        push_segment(&mut path, Key::Name(&key_of(segment)));
    }
    Cow::Owned(path)
}

/// Prefixes of names, so that one search tells whether a name is below any of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prefixes(
    /// Sorted, each with the dot behind it, and none of them below another.
    Vec<String>,
);

impl Prefixes {
    pub(crate) fn new(prefixes: &[String]) -> Prefixes {
        let mut sorted: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}.")).collect();
        sorted.sort_unstable();
        // What is below a prefix comes right behind it.
        sorted.dedup_by(|next, kept| next.starts_with(kept.as_str()));
        Prefixes(sorted)
    }

    /// Between a prefix of the name and the name itself there are only names below that prefix, and
    /// none of these is in the list: the last entry that is not greater is the only candidate.
    pub(crate) fn cover(&self, name: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let name = format!("{name}.");
        let behind = self.0.partition_point(|prefix| {
            work::count(1);
            *prefix <= name
        });
        behind > 0 && name.starts_with(&self.0[behind - 1])
    }
}
