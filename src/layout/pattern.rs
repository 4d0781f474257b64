//! Path patterns: `encoder.**`, `*.bias`.
//!
//! `*` is any run of characters within a segment, `**` as a whole segment any number of segments,
//! none included. `\` escapes as in paths.

use std::ops::Range;

use smallvec::SmallVec;

use super::Layout;
use super::paths::{NodeId, Paths};
use crate::error::{Error, Result};
use crate::tree::key::{split, unescape};

#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    segments: Vec<PatternSegment>,
}

/// A segment of a pattern.
#[derive(Clone, Debug)]
pub(crate) enum PatternSegment {
    /// Any number of segments.
    Any,
    /// The literal pieces between the stars.
    Pieces(Vec<String>),
}

impl Pattern {
    /// # Errors
    /// An empty segment, or a backslash before a character that needs none.
    pub(crate) fn parse(text: &str) -> Result<Pattern> {
        let segments = if text.is_empty() {
            Ok(Vec::new())
        } else {
            split(text)
                .map(|segment| parse_segment(text, segment))
                .collect()
        };
        Ok(Pattern {
            text: text.to_owned(),
            segments: segments?,
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has no stars.
    pub(crate) fn is_path(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| matches!(segment, PatternSegment::Pieces(pieces) if pieces.len() == 1))
    }

    /// Whether it matches a path that need not be one of a layout.
    pub(crate) fn matches_path(&self, path: &str) -> bool {
        let keys: Option<Vec<String>> = if path.is_empty() {
            Some(Vec::new())
        } else {
            split(path).map(unescape).collect()
        };
        keys.is_some_and(|keys| spans(&self.segments, &keys).is_some())
    }

    pub(crate) fn matches(&self, paths: &Paths, node: NodeId) -> bool {
        let keys: Vec<String> = paths
            .line(node)
            .into_iter()
            .map(|node| paths.key(node).text())
            .collect();
        spans(&self.segments, &keys).is_some()
    }
}

impl Layout {
    /// The indices of the trainable leaves that a pattern matches, in flat order.
    pub(crate) fn matched_by(&self, pattern: &Pattern) -> Vec<usize> {
        // A loop over the paths of all leaves is linear this way.
        if pattern.is_path() {
            return self.index_of(pattern.text()).into_iter().collect();
        }
        let leaves = self.leaves().iter().enumerate();
        let matching = leaves.filter(|(_, leaf)| leaf.matches(pattern));
        matching.map(|(index, _)| index).collect()
    }
}

fn parse_segment(text: &str, segment: &str) -> Result<PatternSegment> {
    match segment {
        "" => Err(Error::pattern(
            text,
            "a segment between dots",
            "nothing; the empty key is `\\e`",
        )),
        "**" => Ok(PatternSegment::Any),
        "\\e" => Ok(PatternSegment::Pieces(vec![String::new()])),
        _ => parse_pieces(text, segment).map(PatternSegment::Pieces),
    }
}

fn parse_pieces(text: &str, segment: &str) -> Result<Vec<String>> {
    let mut pieces = vec![String::new()];
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            '*' => {
                pieces.push(String::new());
                continue;
            }
            '\\' => characters
                .next()
                .filter(|next| matches!(next, '.' | '\\' | '*')),
            _ => Some(character),
        };
        let literal = literal.ok_or_else(|| {
            Error::pattern(text, "`\\.`, `\\\\`, `\\*` or `\\e`", "another escape")
        })?;
        pieces.last_mut().expect("there is one").push(literal);
    }
    Ok(pieces)
}

/// What the stars stand for, if the pattern matches: each takes as little as will do, the first
/// ones first.
pub(crate) fn captures(pattern: &[PatternSegment], keys: &[&str]) -> Option<Vec<String>> {
    let mut spans = spans(pattern, keys)?.into_iter();
    let mut keys = keys;
    let mut taken = Vec::new();
    for segment in pattern {
        let len = if let PatternSegment::Any = segment {
            spans.next()?.len()
        } else {
            1
        };
        let (here, rest) = keys.split_at(len);
        match segment {
            PatternSegment::Any => taken.push(here.join(".")),
            PatternSegment::Pieces(pieces) => {
                taken.extend(gaps(pieces, here[0])?.into_iter().map(str::to_owned))
            }
        }
        keys = rest;
    }
    Some(taken)
}

/// The keys that each `**` takes, if the pattern matches: on a mismatch the last one takes one key
/// more, which is enough, as what stands before it fits where it is. Quadratic at worst.
fn spans(pattern: &[PatternSegment], keys: &[impl AsRef<str>]) -> Option<Vec<Range<usize>>> {
    let mut at = 0;
    let mut key = 0;
    let mut after = 0;
    let mut spans: Vec<Range<usize>> = Vec::new();
    loop {
        match pattern.get(at) {
            Some(PatternSegment::Any) => {
                spans.push(key..key);
                (at, after) = (at + 1, at + 1);
                continue;
            }
            Some(PatternSegment::Pieces(pieces))
                if keys
                    .get(key)
                    .is_some_and(|text| gaps(pieces, text.as_ref()).is_some()) =>
            {
                (at, key) = (at + 1, key + 1);
                continue;
            }
            None if key == keys.len() => return Some(spans),
            _ => {}
        }
        let last = spans.last_mut().filter(|last| last.end < keys.len())?;
        last.end += 1;
        (at, key) = (after, last.end);
    }
}

/// What is between the pieces, if the text is those in order with anything between them: as little
/// as will do, the first gaps first.
fn gaps<'t>(pieces: &[String], text: &'t str) -> Option<SmallVec<[&'t str; 4]>> {
    let (first, rest) = pieces.split_first().expect("there is one");
    let Some((last, middle)) = rest.split_last() else {
        return (text == first).then(SmallVec::new);
    };
    let mut text = text.strip_prefix(first.as_str())?;
    let mut gaps = SmallVec::new();
    for piece in middle {
        let (gap, after) = text.split_once(piece.as_str())?;
        gaps.push(gap);
        text = after;
    }
    gaps.push(text.strip_suffix(last.as_str())?);
    Some(gaps)
}
