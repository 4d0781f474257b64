//! The bounded run of what `fuzz/` does without end, with any compiler: the same checks over the
//! same corpora, with changes of a fixed seed.
#![cfg(all(feature = "safetensors", feature = "derive"))]

#[path = "../../fuzz/checks/dyn_tree.rs"]
mod dyn_tree;
#[path = "../../fuzz/checks/layout/mod.rs"]
mod layout;
#[path = "../../fuzz/checks/model/mod.rs"]
mod model;
mod mutation;
#[path = "../../fuzz/checks/optimizer/mod.rs"]
mod optimizer;
#[path = "../../fuzz/checks/pattern.rs"]
mod pattern;
#[path = "../../fuzz/checks/safetensors.rs"]
mod safetensors;

use mutation::{Random, corpus, dictionary, mutated};

/// How many of a target's corpus are accepted, and how many of these with changes.
fn run(
    target: &str,
    changes: usize,
    check: impl Fn(&[u8]) -> bool,
    repaired: impl Fn(Vec<u8>, &mut Random) -> Vec<u8>,
) -> (usize, usize) {
    let (corpus, words, mut random) = (corpus(target), dictionary(target), Random::new());
    let accepted = corpus.iter().filter(|bytes| check(bytes)).count();
    let changed = (0..changes).filter(|_| {
        let bytes = mutated(&corpus[random.below(corpus.len())], &words, &mut random);
        check(&repaired(bytes, &mut random))
    });
    (accepted, changed.count())
}

/// How many of so many byte strings at random are accepted.
fn accepted_at_random(tries: usize, check: impl Fn(&[u8]) -> bool) -> usize {
    let mut random = Random::new();
    let mut bytes = || {
        (0..random.below(256))
            .map(|_| random.below(256) as u8)
            .collect::<Vec<_>>()
    };
    (0..tries).filter(|_| check(&bytes())).count()
}

#[test]
fn bytes_as_files() {
    let (accepted, changed) = run(
        "safetensors",
        40_000,
        safetensors::in_every_way,
        with_length,
    );
    assert!(accepted >= 8 && changed > 200, "{accepted}, {changed}");
}

/// Most changes make the header longer or shorter: half the time its length is put right.
fn with_length(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if bytes.len() > 8 && random.below(2) == 0 {
        let end = bytes
            .iter()
            .rposition(|&byte| byte == b'}')
            .map_or(8, |end| end + 1)
            .max(8);
        bytes[..8].copy_from_slice(&(end as u64 - 8).to_le_bytes());
    }
    bytes
}

#[test]
fn bytes_as_layouts() {
    let (accepted, changed) = run("layout", 20_000, layout::holds, |bytes, _| bytes);
    assert!(accepted >= 8 && changed > 20, "{accepted}, {changed}");
    assert!(accepted_at_random(5_000, layout::holds) > 500);
}

#[test]
fn bytes_as_trees() {
    let (accepted, changed) = run("dyn_tree", 20_000, dyn_tree::holds, |bytes, _| bytes);
    assert!(accepted >= 8 && changed > 200, "{accepted}, {changed}");
}

#[test]
fn text_as_patterns() {
    let (accepted, changed) = run("pattern", 20_000, pattern::agrees, |bytes, _| bytes);
    assert!(accepted >= 8 && changed > 200, "{accepted}, {changed}");
}

#[test]
fn bytes_as_models() {
    assert!(
        corpus("model")
            .iter()
            .filter(|bytes| model::agrees(bytes))
            .count()
            >= 4
    );
    assert!(accepted_at_random(800, model::agrees) > 600);
}

#[test]
fn bytes_as_programs_of_an_optimizer() {
    let stepped = accepted_at_random(1_000, optimizer::agrees);
    assert!(stepped > 600, "{stepped}");
}
