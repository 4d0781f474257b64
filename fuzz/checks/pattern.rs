//! Text as a path pattern, on its first line, and the paths of a model, on the others. Parsing and
//! matching never panic, and a plain matcher that tries everything freezes the same leaves.

use std::rc::Rc;

use flatleaf::{DynTree, Layout};

/// The matcher here takes time exponential in the number of stars.
const MAX_STARS: usize = 5;
const MAX_LENGTH: usize = 40;
const MAX_PATHS: usize = 16;

/// Whether the text is a pattern.
pub(crate) fn agrees(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let pattern = lines.next().unwrap_or_default();
    let model = model(&lines.take(MAX_PATHS).filter_map(keys).collect::<Vec<_>>());
    let shared = Rc::new(tree_of(&model));
    let frozen = Layout::planner().freeze(pattern).of(&*shared);
    let frozen_tied = Layout::planner()
        .freeze(pattern)
        .of(&(shared.clone(), shared));
    if pattern.matches('*').count() > MAX_STARS {
        return frozen.is_ok();
    }
    let single: Vec<Leaf> = model.iter().map(|keys| vec![keys.clone()]).collect();
    let tied: Vec<Leaf> = model
        .iter()
        .map(|keys| ["0", "1"].map(|first| below(first, keys)).to_vec())
        .collect();
    compare(pattern, &single, frozen);
    compare(pattern, &tied, frozen_tied);
    parse(pattern).is_some()
}

type Keys = Vec<String>;
/// The places of a leaf.
type Leaf = Vec<Keys>;

fn below(first: &str, keys: &Keys) -> Keys {
    std::iter::once(first.to_owned())
        .chain(keys.clone())
        .collect()
}

/// The keys that a line names: its parts between slashes, whatever they are.
fn keys(line: &str) -> Option<Keys> {
    (line.len() <= MAX_LENGTH).then(|| line.split('/').map(str::to_owned).collect())
}

/// Each path once, none below another, in the order in which a tree of maps has them.
fn model(paths: &[Keys]) -> Vec<Keys> {
    let mut model: Vec<Keys> = Vec::new();
    for keys in paths {
        if model
            .iter()
            .all(|other| !other.starts_with(keys) && !keys.starts_with(other))
        {
            model.push(keys.clone());
        }
    }
    model.sort();
    model
}

/// A leaf of one element at each of these paths.
fn tree_of(paths: &[Keys]) -> DynTree {
    if paths.iter().any(Vec::is_empty) {
        return DynTree::from(vec![0.0_f32]);
    }
    let child = |paths: &[Keys]| {
        (
            paths[0][0].clone(),
            tree_of(
                &paths
                    .iter()
                    .map(|keys| keys[1..].to_vec())
                    .collect::<Vec<_>>(),
            ),
        )
    };
    DynTree::map(paths.chunk_by(|a, b| a[0] == b[0]).map(child))
}

fn compare(pattern: &str, model: &[Leaf], frozen: flatleaf::Result<Layout>) {
    let segments = parse(pattern);
    let is_match = |leaf: &&Leaf| {
        segments
            .as_ref()
            .is_some_and(|segments| leaf.iter().any(|keys| matches(segments, keys)))
    };
    let (matched, others): (Vec<&Leaf>, Vec<&Leaf>) = model.iter().partition(is_match);
    match frozen {
        Ok(layout) => {
            let places = |leaves: &[flatleaf::Leaf]| {
                leaves
                    .iter()
                    .map(|leaf| leaf.places().to_vec())
                    .collect::<Vec<_>>()
            };
            assert_eq!(places(layout.others()), written(&matched), "{pattern:?}");
            assert_eq!(places(layout.leaves()), written(&others), "{pattern:?}");
            assert!(!matched.is_empty(), "{pattern:?}");
        }
        Err(error) => {
            assert!(error.is_pattern(), "{error}");
            assert!(
                matched.is_empty(),
                "{pattern:?} matches {matched:?}: {error}"
            );
        }
    }
}

fn written(leaves: &[&Leaf]) -> Vec<Vec<String>> {
    leaves
        .iter()
        .map(|leaf| {
            leaf.iter()
                .map(|keys| {
                    keys.iter()
                        .map(|key| escaped(key))
                        .collect::<Vec<_>>()
                        .join(".")
                })
                .collect()
        })
        .collect()
}

fn escaped(key: &str) -> String {
    if key.is_empty() {
        "\\e".into()
    } else {
        key.replace('\\', "\\\\")
            .replace('.', "\\.")
            .replace('*', "\\*")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Is(char),
    Star,
}

/// The segments of a pattern; none if it is no pattern.
fn parse(pattern: &str) -> Option<Vec<Vec<Token>>> {
    let mut segments = vec![Vec::new()];
    let mut characters = pattern.chars().peekable();
    let mut is_empty = true;
    while let Some(character) = characters.next() {
        let segment: &mut Vec<Token> = segments.last_mut()?;
        let token = match character {
            '.' if is_empty => return None,
            '.' => {
                segments.push(Vec::new());
                is_empty = true;
                continue;
            }
            '\\' => match characters.next()? {
                // The empty key: a segment of its own, with nothing in it.
                'e' if is_empty && matches!(characters.peek(), None | Some('.')) => {
                    is_empty = false;
                    continue;
                }
                escaped @ ('.' | '\\' | '*') => Token::Is(escaped),
                _ => return None,
            },
            '*' => Token::Star,
            _ => Token::Is(character),
        };
        segment.push(token);
        is_empty = false;
    }
    match (pattern.is_empty(), is_empty) {
        (true, _) => Some(Vec::new()),
        (false, true) => None,
        _ => Some(segments),
    }
}

/// Whether the segments match the keys: `**` takes each number of them in turn.
fn matches(segments: &[Vec<Token>], keys: &[String]) -> bool {
    let Some((first, rest)) = segments.split_first() else {
        return keys.is_empty();
    };
    if *first == [Token::Star, Token::Star] {
        return (0..=keys.len()).any(|count| matches(rest, &keys[count..]));
    }
    keys.split_first().is_some_and(|(key, keys)| {
        matches_key(first, &key.chars().collect::<Vec<_>>()) && matches(rest, keys)
    })
}

/// The same within a segment, for characters.
fn matches_key(tokens: &[Token], key: &[char]) -> bool {
    match tokens.split_first() {
        None => key.is_empty(),
        Some((Token::Star, rest)) => (0..=key.len()).any(|count| matches_key(rest, &key[count..])),
        Some((Token::Is(character), rest)) => {
            key.first() == Some(character) && matches_key(rest, &key[1..])
        }
    }
}
