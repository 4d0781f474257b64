//! Names of a file, or of a stored state, as names of a model: by a closure, or by patterns that
//! keep what their stars stand for.

use std::borrow::Cow;

use super::pattern::{PatternSegment, captures};
use crate::error::{Error, Result};

/// One renaming of all names.
pub(crate) enum Rename<'o> {
    #[cfg_attr(not(feature = "safetensors"), allow(dead_code))] // only files are renamed so
    Call(Box<dyn Fn(&str) -> String + 'o>),
    Pattern {
        from: String,
        to: String,
    },
}

impl Rename<'_> {
    /// Renames all names.
    ///
    /// # Errors
    /// A pattern that matches no name, or whose stars are not those of its replacement.
    pub(crate) fn apply(&self, names: &mut [Cow<'_, str>]) -> Result<()> {
        match self {
            Rename::Call(rename) => names
                .iter_mut()
                .for_each(|name| *name = Cow::Owned(rename(name))),
            Rename::Pattern { from, to } => {
                let replacement = Replacement::parse(from, to)?;
                if names
                    .iter_mut()
                    .filter_map(|name| replacement.apply(name))
                    .count()
                    == 0
                {
                    return Err(Error::pattern(
                        from,
                        "a pattern that matches one of the names",
                        "none that it matches",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Two patterns with the same stars in the same order.
struct Replacement {
    from: Vec<PatternSegment>,
    to: Vec<PatternSegment>,
}

impl Replacement {
    fn parse(from: &str, to: &str) -> Result<Self> {
        let parse = |text| split(text).into_iter().map(segment).collect();
        let replacement = Replacement {
            from: parse(from),
            to: parse(to),
        };
        if stars(&replacement.from) == stars(&replacement.to) {
            return Ok(replacement);
        }
        Err(Error::pattern(
            to,
            &format!("the stars of `{from}`, in that order"),
            "others",
        ))
    }

    fn apply(&self, name: &mut Cow<'_, str>) -> Option<()> {
        let mut taken = captures(&self.from, &split(name))?.into_iter();
        let renamed: Vec<String> = self
            .to
            .iter()
            .map(|segment| fill(segment, &mut taken))
            .filter(|text| !text.is_empty())
            .collect();
        *name = Cow::Owned(renamed.join("."));
        Some(())
    }
}

/// A pattern of names: whoever loads says with it what may be missing.
#[cfg(feature = "safetensors")]
pub(crate) struct NamePattern {
    pub(crate) text: String,
    segments: Vec<PatternSegment>,
}

#[cfg(feature = "safetensors")]
impl NamePattern {
    pub(crate) fn new(text: String) -> Self {
        NamePattern {
            segments: split(&text).into_iter().map(segment).collect(),
            text,
        }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        captures(&self.segments, &split(name)).is_some()
    }
}

/// Names are cut at every dot, with a backslash before it or not.
fn split(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('.').collect()
    }
}

fn segment(text: &str) -> PatternSegment {
    if text == "**" {
        PatternSegment::Any
    } else {
        PatternSegment::Pieces(text.split('*').map(str::to_owned).collect())
    }
}

/// The stars of a pattern: single ones, and those that are a segment.
fn stars(segments: &[PatternSegment]) -> Vec<bool> {
    let one = |segment: &PatternSegment| match segment {
        PatternSegment::Any => vec![true],
        PatternSegment::Pieces(pieces) => vec![false; pieces.len() - 1],
    };
    segments.iter().flat_map(one).collect()
}

/// A segment with what the stars stand for.
fn fill(segment: &PatternSegment, taken: &mut impl Iterator<Item = String>) -> String {
    match segment {
        PatternSegment::Any => taken.next().unwrap_or_default(),
        PatternSegment::Pieces(pieces) => {
            let filled = pieces[1..]
                .iter()
                .map(|piece| taken.next().unwrap_or_default() + piece);
            std::iter::once(pieces[0].clone()).chain(filled).collect()
        }
    }
}
