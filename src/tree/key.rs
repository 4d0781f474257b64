//! Keys, and paths as text: the segments of a path with dots between them, escaped so that no two
//! places print alike.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use smallvec::SmallVec;

use crate::error::{Error, Result};

/// The name of a child within its parent: one segment of a path.
///
/// A key that is a number without leading zeros and the index of that number are the same segment.
///
/// ```
/// use flatleaf::{tree, Key, Layout, Result, Tree, Visitor};
/// # use flatleaf::{Builder, VisitorMut};
///
/// struct Net { weight: Vec<f32>, scale: Vec<f32>, head: (Vec<f32>,) }
///
/// impl Tree for Net {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         visitor.child(Key::Name("weight"), &self.weight)?;
///         visitor.child(Key::Index(7), &self.scale)?;
///         visitor.child(Key::Same, &self.head)
///     }
///     // and `visit_mut` and `rebuild`
///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
/// }
///
/// let layout = Layout::of(&Net { weight: vec![1.0], scale: vec![2.0], head: (vec![3.0],) })?;
/// assert_eq!(layout.leaves().iter().map(|leaf| leaf.path()).collect::<Vec<_>>(), ["weight", "7", "0"]);
/// assert_eq!(layout.gather(&tree!({ "weight": [4.0], "7": [5.0], "0": [6.0] }))?, [4.0, 5.0, 6.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'k> {
    /// A field or a map key.
    Name(&'k str),
    /// A position in a list or a tuple.
    Index(usize),
    /// A wrapper that adds no segment; it counts as a level.
    Same,
}

impl<'k> Key<'k> {
    /// A name that is written as an index is that index.
    pub(crate) fn canonical(self) -> Key<'k> {
        match self {
            Key::Name(name) => as_index(name).map_or(self, Key::Index),
            key => key,
        }
    }

    /// The key as text, without escapes.
    pub(crate) fn text(self) -> String {
        match self {
            Key::Name(name) => name.to_owned(),
            Key::Index(index) => index.to_string(),
            Key::Same => String::new(),
        }
    }
}

fn as_index(name: &str) -> Option<usize> {
    // Neither `007` nor `+7` is written for an index, though both are numbers.
    let is_canonical = name == "0" || name.starts_with(|first: char| ('1'..='9').contains(&first));
    if !is_canonical {
        return None;
    }
    let index: u32 = name.parse().ok()?;
    Some(index as usize)
}

/// The order of keys among siblings: indices by value, then names.
pub(crate) fn order(a: Key<'_>, b: Key<'_>) -> Ordering {
    use Key::{Index, Name};
    match (a, b) {
        (Index(a), Index(b)) => a.cmp(&b),
        (Name(a), Name(b)) => a.cmp(b),
        (Index(_), _) => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// Appends a segment to a path, with a dot before it unless it is the first, escaped so that no two
/// places print alike.
pub(crate) fn push_segment(path: &mut String, key: Key<'_>) {
    if !path.is_empty() {
        path.push('.');
    }
    match key {
        Key::Index(index) => write!(path, "{index}").expect("a String takes any text"),
        Key::Name("") => path.push_str("\\e"),
        Key::Name(name) => escape_into(path, name),
        Key::Same => {}
    }
}

fn escape_into(path: &mut String, name: &str) {
    for character in name.chars() {
        if matches!(character, '.' | '\\' | '*') {
            path.push('\\');
        }
        path.push(character);
    }
}

/// The escaped segments of a path: cut at dots that no backslash precedes.
pub(crate) fn split(path: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    path.split(move |character| {
        let cut = character == '.' && !escaped;
        escaped = character == '\\' && !escaped;
        cut
    })
}

/// The key that a segment stands for; `None` if it is not written as one.
pub(crate) fn unescape(segment: &str) -> Option<String> {
    match segment {
        "" => None,
        "\\e" => Some(String::new()),
        _ => unescape_characters(segment),
    }
}

fn unescape_characters(segment: &str) -> Option<String> {
    let mut key = String::with_capacity(segment.len());
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => key.push(
                characters
                    .next()
                    .filter(|next| matches!(next, '.' | '\\' | '*'))?,
            ),
            '*' => return None,
            _ => key.push(character),
        }
    }
    Some(key)
}

/// The keys of a dotted name, as any system writes one: what is not written as a segment of ours (a
/// `*`, nothing between two dots) stands for itself. So `a..b` has the keys `a`, the empty one and
/// `b`, as the path `a.\\e.b` has.
pub(crate) fn keys_of_name(name: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let segments = split(name).filter(|_| !name.is_empty());
    segments.map(|segment| {
        // Nearly every segment is its own key.
        if !segment.is_empty() && !segment.contains(['\\', '*']) {
            return Cow::Borrowed(segment);
        }
        unescape(segment).map_or(Cow::Borrowed(segment), Cow::Owned)
    })
}

/// The order of dotted names: key by key, numbers by value before other names, a beginning before
/// what it is the beginning of.
pub(crate) fn order_of_names(a: &str, b: &str) -> Ordering {
    let mut a = keys_of_name(a);
    let mut b = keys_of_name(b);
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => {
                let a = Key::Name(&a).canonical();
                let b = Key::Name(&b).canonical();
                match order(a, b) {
                    Ordering::Equal => {}
                    different => return different,
                }
            }
        }
    }
}

/// What a map's key prints, on the stack unless it is long: a walk over a map allocates nothing.
pub(crate) struct KeyText(SmallVec<[u8; 64]>);

impl KeyText {
    /// # Errors
    /// `is_custom`: a `Display` that fails.
    pub(crate) fn of(key: &impl fmt::Display) -> Result<KeyText> {
        let mut text = KeyText(SmallVec::new());
        let written = write!(text, "{key}");
        written.map_err(|_| Error::custom("a map key whose `Display` fails"))?;
        Ok(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only whole strings are appended")
    }

    pub(crate) fn key(&self) -> Key<'_> {
        Key::Name(self.as_str())
    }
}

impl fmt::Write for KeyText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
