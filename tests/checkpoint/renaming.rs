//! Names by patterns: what the stars stand for, beside a matcher that tries everything.

use std::cell::RefCell;

use flatleaf::checkpoint::LoadOptions;
use flatleaf::{Result, tree};
use proptest::prelude::*;

use crate::files::{f32s, open, tensors};

/// What the one name of a file becomes.
fn name_of(name: &str, from: &str, to: &str) -> Result<String> {
    let seen = RefCell::new(String::new());
    let file = open(&tensors(&[(name, "F32", &f32s(&[1.0]))], "")).unwrap();
    let names = LoadOptions::new()
        .lax()
        .rename_matching(from, to)
        .rename(|name| {
            *seen.borrow_mut() = name.to_owned();
            name.to_owned()
        });
    file.load_into(&mut tree!({}), &names)
        .map(|_| seen.borrow().clone())
}

#[test]
fn stars_stand_for_the_same_text() {
    assert_eq!(name_of("model.a.b", "model.**", "**").unwrap(), "a.b");
    assert_eq!(name_of("model", "model.**", "**").unwrap(), "");
    assert_eq!(name_of("a.b", "**", "model.**").unwrap(), "model.a.b");
    assert_eq!(
        name_of("h.11.attn", "h.*.**", "blocks.*.**").unwrap(),
        "blocks.11.attn"
    );
    assert_eq!(
        name_of("layer11_norm", "layer*_*", "layers.*.*").unwrap(),
        "layers.11.norm"
    );
    assert_eq!(
        name_of("a.b.c.b.d", "**.b.**", "**.x.**").unwrap(),
        "a.x.c.b.d"
    );
    assert_eq!(name_of("axbxc", "*x*", "*-*").unwrap(), "a-bxc");

    let error = name_of("a", "b.**", "**").unwrap_err();
    assert!(error.is_pattern());
    assert_eq!(
        error.to_string(),
        "`b.**`: expected a pattern that matches one of the names, found none that it matches"
    );
    let error = name_of("a", "*", "**").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`**`: expected the stars of `*`, in that order, found others"
    );
}

#[test]
fn forty_stars_take_no_longer_than_one() {
    let (within, across) = ("*a".repeat(40) + "*b", "**.a.".repeat(40) + "b");
    for (pattern, start) in [(within, "a".repeat(10_000)), (across, "a.".repeat(10_000))] {
        let (matched, other) = (start.clone() + "b", start + "c");
        assert_eq!(name_of(&matched, &pattern, &pattern).unwrap(), matched);
        assert!(
            name_of(&other, &pattern, &pattern)
                .unwrap_err()
                .is_pattern()
        );
    }
}

/// Text with every star between angle brackets, by which one sees what it stands for.
fn bracketed(pattern: &str) -> String {
    let segment = |segment: &str| {
        if segment == "**" {
            "<.**.>".into()
        } else {
            segment.replace('*', "<*>")
        }
    };
    pattern
        .split('.')
        .map(segment)
        .collect::<Vec<_>>()
        .join(".")
}

/// The same with what the stars stand for, if the pattern matches: each takes as little as will do,
/// the first ones first.
fn renamed(pattern: &[&str], name: &[&str]) -> Option<Vec<String>> {
    let Some((first, rest)) = pattern.split_first() else {
        return name.is_empty().then(Vec::new);
    };
    let with = |mut start: Vec<String>, name| {
        start.extend(renamed(rest, name)?);
        Some(start)
    };
    if *first == "**" {
        let taken = |count: usize| {
            ["<", &name[..count].join("."), ">"]
                .map(str::to_owned)
                .to_vec()
        };
        return (0..=name.len()).find_map(|count| with(taken(count), &name[count..]));
    }
    let (segment, others) = name.split_first()?;
    with(vec![within(first, segment)?], others)
}

fn within(pattern: &str, text: &str) -> Option<String> {
    let Some((literal, rest)) = pattern.split_once('*') else {
        return (pattern == text).then(|| text.to_owned());
    };
    let text = text.strip_prefix(literal)?;
    (0..=text.len()).find_map(|end| {
        Some(format!(
            "{literal}<{}>{}",
            &text[..end],
            within(rest, &text[end..])?
        ))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stars_stand_for_what_a_matcher_that_tries_everything_finds(
        pattern in "([ab*]{0,4}|\\*\\*)(\\.([ab*]{0,3}|\\*\\*)){0,4}",
        name in "[ab.]{1,9}",
    ) {
        prop_assume!(!pattern.is_empty());
        let expected = renamed(&pattern.split('.').collect::<Vec<_>>(), &name.split('.').collect::<Vec<_>>());
        let expected = expected.map(|parts| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."));
        prop_assert_eq!(name_of(&name, &pattern, &bracketed(&pattern)).ok(), expected);
    }
}
