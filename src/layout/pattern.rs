//! Path patterns: `encoder.**`, `*.bias`.
//!
//! `*` is any run of characters within a segment, `**` as a whole segment any number of segments, none included. `\` escapes as in
//! paths.

use super::NodeId;
use super::paths::{Paths, split};
use crate::error::{Error, Result};
use crate::tree::Key;

#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
enum Segment {
    /// Any number of segments.
    Any,
    /// The literal pieces between the stars.
    Pieces(Vec<String>),
}

impl Pattern {
    /// # Errors
    /// An empty segment, or a backslash before a character that needs none.
    pub(crate) fn parse(text: &str) -> Result<Pattern> {
        let segments = if text.is_empty() { Ok(Vec::new()) } else { split(text).map(|segment| parse_segment(text, segment)).collect() };
        Ok(Pattern { text: text.to_owned(), segments: segments? })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn matches(&self, paths: &Paths, node: NodeId) -> bool {
        let keys: Vec<String> = paths.line(node).into_iter().map(|node| text_of(paths.key(node))).collect();
        matches_all(&self.segments, &keys)
    }
}

fn text_of(key: Key<'_>) -> String {
    match key {
        Key::Name(name) => name.to_owned(),
        Key::Index(index) => index.to_string(),
        Key::Same => String::new(),
    }
}

fn parse_segment(text: &str, segment: &str) -> Result<Segment> {
    match segment {
        "" => Err(Error::pattern(text, "a segment between dots", "nothing; the empty key is `\\e`")),
        "**" => Ok(Segment::Any),
        "\\e" => Ok(Segment::Pieces(vec![String::new()])),
        _ => parse_pieces(text, segment).map(Segment::Pieces),
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
            '\\' => characters.next().filter(|next| matches!(next, '.' | '\\' | '*')),
            _ => Some(character),
        };
        let literal = literal.ok_or_else(|| Error::pattern(text, "`\\.`, `\\\\`, `\\*` or `\\e`", "another escape"))?;
        pieces.last_mut().expect("there is one").push(literal);
    }
    Ok(pieces)
}

/// Matches segments the way text is matched to a pattern with stars: on a mismatch the last `**` takes one segment more. Quadratic
/// at worst.
fn matches_all(pattern: &[Segment], keys: &[String]) -> bool {
    let (mut at, mut key) = (0, 0);
    let mut star = None;
    loop {
        match pattern.get(at) {
            Some(Segment::Any) => {
                star = Some((at + 1, key));
                at += 1;
                continue;
            }
            Some(Segment::Pieces(pieces)) if keys.get(key).is_some_and(|text| matches_text(pieces, text)) => {
                (at, key) = (at + 1, key + 1);
                continue;
            }
            None if key == keys.len() => return true,
            _ => {}
        }
        match star {
            Some((after, taken)) if taken < keys.len() => {
                star = Some((after, taken + 1));
                (at, key) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the text is the pieces in order with anything between them.
fn matches_text(pieces: &[String], text: &str) -> bool {
    let (first, rest) = pieces.split_first().expect("there is one");
    let Some((last, middle)) = rest.split_last() else { return text == first };
    let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
    for piece in middle {
        let Some(found) = text.find(piece.as_str()) else { return false };
        text = &text[found + piece.len()..];
    }
    text.ends_with(last.as_str())
}
