//! One disagreement between what was expected and what was found, and how it is worded.

use std::fmt;

/// What can go wrong: what the predicates ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Length,
    Shape,
    Missing,
    Unknown,
    ElementType,
    BrokenTie,
    Overlap,
    Cycle,
    TooDeep,
    TooManyPlaces,
    Poisoned,
    Borrowed,
    ReadOnly,
    OtherLayout,
    Member,
    Duplicate,
    Pattern,
    Unstable,
    Argument,
    NonFinite,
    Object,
    InvalidLayout,
    InvalidState,
    OutOfMemory,
    #[cfg(feature = "serde")]
    InvalidTree,
    #[cfg(feature = "safetensors")]
    InvalidFile,
    #[cfg(feature = "safetensors")]
    Io(std::io::ErrorKind),
    Custom,
}

/// What one error has to tell. Made by the constructors in the `error.rs` of every folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(super) kind: ErrorKind,
    /// What it is about, if it is nothing at a path: "the flat vector".
    pub(super) what: Option<String>,
    pub(super) path: Option<String>,
    /// Further paths of which the same is to be said.
    pub(super) also: Vec<String>,
    pub(super) other_path: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) found: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Problem {
            kind,
            what: None,
            path: None,
            also: Vec::new(),
            other_path: None,
            expected: None,
            found: None,
        }
    }

    pub(crate) fn about(mut self, what: impl Into<String>) -> Self {
        self.what = Some(what.into());
        self
    }

    pub(crate) fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Paths, at least one, of which the same is to be said.
    #[cfg(feature = "safetensors")]
    pub(crate) fn at_all(mut self, mut paths: Vec<String>) -> Self {
        self.also = paths.split_off(1);
        self.path = paths.pop();
        self
    }

    pub(crate) fn and_at(mut self, path: impl Into<String>) -> Self {
        self.other_path = Some(path.into());
        self
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    /// Writes a path with those of which the same is to be said.
    fn write_paths(&self, path: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Few who read a message want more than so many.
        const LISTED: usize = 64;
        // A file has no root: an empty name of one is shown as it is.
        #[cfg(feature = "safetensors")]
        if let ErrorKind::Io(_) = self.kind {
            return write!(f, "`{path}`: ");
        }
        write!(f, "{}", Quoted(path))?;
        for path in self.also.iter().take(LISTED) {
            write!(f, ", {}", Quoted(path))?;
        }
        let unlisted = self.also.len().saturating_sub(LISTED);
        if unlisted > 0 {
            write!(f, " and {unlisted} more")?;
        }
        f.write_str(": ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(what) = &self.what {
            write!(f, "{what}: ")?;
        }
        match (&self.path, &self.other_path) {
            (Some(path), Some(other)) => {
                let path = Quoted(path);
                let other = Quoted(other);
                write!(f, "{path} and {other}: ")?;
            }
            (Some(path), None) | (None, Some(path)) => self.write_paths(path, f)?,
            (None, None) => {}
        }
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => write!(f, "expected {expected}, found {found}"),
            (None, Some(text)) | (Some(text), None) => f.write_str(text),
            (None, None) => write!(f, "{:?}", self.kind),
        }
    }
}

/// A path as a message names it: in backticks, the empty one as "the root". The middle of a very
/// long one is left out.
pub(crate) struct Quoted<'p>(pub(crate) &'p str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 240;
        if self.0.is_empty() {
            return f.write_str("the root");
        }
        let count = self.0.chars().count();
        if count <= LONGEST {
            return write!(f, "`{}`", Printable(self.0));
        }
        // More of the beginning: it says which part of the tree this is.
        let head = LONGEST / 2;
        let tail = LONGEST / 4;
        let characters = self.0.chars();
        let head: String = characters.clone().take(head).collect();
        let tail: String = characters.skip(count - tail).collect();
        write!(f, "`{}…{}`", Printable(&head), Printable(&tail))
    }
}

/// A text without control characters, which a terminal would obey: a file may have any in its
/// names.
pub(crate) struct Printable<'t>(pub(crate) &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(char::is_control) {
            f.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            let control = after.next().unwrap_or_default();
            write!(f, "{}", control.escape_default())?;
            rest = after.as_str();
        }
        f.write_str(rest)
    }
}
