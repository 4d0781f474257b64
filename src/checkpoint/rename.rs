//! Names of a file as names of a model: by a closure, or by patterns that keep what their stars stand for.

use std::borrow::Cow;

use crate::error::{Error, Result};

pub(crate) enum Rename<'o> {
    Call(Box<dyn Fn(&str) -> String + 'o>),
    Pattern { from: String, to: String },
}

impl Rename<'_> {
    /// Renames all names.
    ///
    /// # Errors
    /// A pattern that matches no name, or whose stars are not those of its replacement.
    pub(crate) fn apply(&self, names: &mut [Cow<'_, str>]) -> Result<()> {
        match self {
            Rename::Call(rename) => names.iter_mut().for_each(|name| *name = Cow::Owned(rename(name))),
            Rename::Pattern { from, to } => {
                let replacement = Replacement::parse(from, to)?;
                if names.iter_mut().filter_map(|name| replacement.apply(name)).count() == 0 {
                    return Err(Error::pattern(from, "a pattern that matches a name in the file", "none that it matches"));
                }
            }
        }
        Ok(())
    }
}

/// Two patterns, in segments, with the same stars in the same order.
struct Replacement<'p> {
    from: Vec<&'p str>,
    to: Vec<&'p str>,
}

impl<'p> Replacement<'p> {
    fn parse(from: &'p str, to: &'p str) -> Result<Self> {
        let segments = |text: &'p str| -> Vec<&'p str> { if text.is_empty() { Vec::new() } else { text.split('.').collect() } };
        let replacement = Replacement { from: segments(from), to: segments(to) };
        if stars(&replacement.from) == stars(&replacement.to) {
            return Ok(replacement);
        }
        Err(Error::pattern(to, &format!("the stars of `{from}`, in that order"), "others"))
    }

    fn apply(&self, name: &mut Cow<'_, str>) -> Option<()> {
        let segments: Vec<&str> = if name.is_empty() { Vec::new() } else { name.split('.').collect() };
        let mut taken = Vec::new();
        if !take(&self.from, &segments, &mut taken) {
            return None;
        }
        let mut taken = taken.into_iter();
        let renamed: Vec<String> = self.to.iter().map(|segment| fill(segment, &mut taken)).filter(|text| !text.is_empty()).collect();
        *name = Cow::Owned(renamed.join("."));
        Some(())
    }
}

/// The stars of a pattern: single ones, and those that are a segment.
fn stars(segments: &[&str]) -> Vec<bool> {
    let one = |segment: &&str| if *segment == "**" { vec![true] } else { vec![false; segment.matches('*').count()] };
    segments.iter().flat_map(one).collect()
}

/// A segment with what the stars stand for.
fn fill(segment: &str, taken: &mut impl Iterator<Item = String>) -> String {
    if segment == "**" {
        return taken.next().unwrap_or_default();
    }
    let mut pieces = segment.split('*');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(&taken.next().unwrap_or_default());
        text.push_str(piece);
    }
    text
}

/// Matches segments and notes what the stars stand for. `**` takes as few segments as will do.
fn take(pattern: &[&str], segments: &[&str], taken: &mut Vec<String>) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return segments.is_empty() };
    let before = taken.len();
    if *first == "**" {
        return (0..=segments.len()).any(|count| {
            taken.truncate(before);
            taken.push(segments[..count].join("."));
            take(rest, &segments[count..], taken)
        });
    }
    let Some((segment, others)) = segments.split_first() else { return false };
    take_within(first, segment, taken) && take(rest, others, taken)
}

/// The same within a segment: `*` takes as few characters as will do.
fn take_within(pattern: &str, text: &str, taken: &mut Vec<String>) -> bool {
    let Some((literal, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(literal) else { return false };
    let before = taken.len();
    let ends = text.char_indices().map(|(end, _)| end).chain([text.len()]);
    ends.into_iter().any(|end| {
        taken.truncate(before);
        taken.push(text[..end].to_owned());
        take_within(rest, &text[end..], taken)
    })
}
