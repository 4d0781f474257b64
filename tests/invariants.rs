//! What the parts of the crate know of each other, read from the sources: a person who improves a
//! kernel needs to know slices only, and one who adds a container the tree only. Comments may
//! mention what they like. And what the documentation of an item has to have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A part of the crate, and words that its code never mentions.
struct Part {
    /// A folder of `src`, or a file there.
    module: &'static str,
    never: &'static [&'static str],
}

/// Words of those who move elements.
const COPIES: &[&str] = &[
    "copy_from_slice",
    "clone_from_slice",
    "read_bytes",
    "write_bytes",
    "read_floats",
    "write_floats",
    "copy_to",
    "assign",
];

/// Words of those who walk trees.
const WALKS: &[&str] = &[
    "Visitor",
    "VisitorMut",
    "visit",
    "visit_mut",
    "LeafRef",
    "LeafMut",
    "Builder",
    "rebuild",
    "Cursor",
    "child",
];

/// Words of trees and layouts.
const TREES: &[&str] = &["Tree", "DynTree", "Layout", "Leaf", "Visitor"];

/// Data runs one way, down this list: a part uses itself and what stands above it, and nothing
/// below.
const PARTS: [Part; 16] = [
    part("error", TREES),
    part("element", TREES),
    part("memory", TREES),
    part("threads", TREES),
    part("ops", TREES),
    part("slices", TREES),
    // What a tree is, whatever the plan.
    part("tree", &["Layout", "LayoutData", "Place"]),
    // Plain data: it moves no elements.
    part("layout", COPIES),
    part("traversal", &["FlatGrad", "Optimizer"]),
    part("flat", &["Optimizer"]),
    // Nothing is copied.
    part("views", COPIES),
    part("map_reduce", &["Optimizer"]),
    part("communicator", WALKS),
    // Rules over slices. Trees come and go as slices.
    part("optim", WALKS),
    part("solvers", WALKS),
    part("checkpoint", &["FlatGrad"]),
];

const fn part(module: &'static str, never: &'static [&'static str]) -> Part {
    Part { module, never }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder and its folders, or the one file of this name, with their contents.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let file = PathBuf::from(format!("{folder}.rs"));
    if let Ok(text) = std::fs::read_to_string(root().join(&file)) {
        return vec![(file, text)];
    }
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!files.is_empty(), "no sources in {folder}");
    files
}

/// The words and the marks between them, without comments.
fn tokens(source: &str) -> Vec<&str> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let code = source.lines().filter_map(|line| line.split("//").next());
    code.flat_map(|line| {
        line.split_inclusive(move |character| !is_word(character))
            .flat_map(move |piece| {
                let (word, mark) = piece.split_at(
                    piece
                        .find(|character| !is_word(character))
                        .unwrap_or(piece.len()),
                );
                [word, mark]
                    .into_iter()
                    .filter(|token| !token.trim().is_empty())
            })
    })
    .collect()
}

/// The modules that stand behind `crate::`, one or several in braces. Macros stand there too, wherever
/// they are defined.
fn modules<'t>(tokens: &[&'t str]) -> BTreeSet<&'t str> {
    let starts = (0..tokens.len())
        .filter(|&at| tokens[at..].starts_with(&["crate", ":", ":"]))
        // What a macro expands to stands with its user.
        .filter(|&at| at == 0 || tokens[at - 1] != "$");
    starts.flat_map(|at| behind(&tokens[at + 3..])).collect()
}

fn behind<'t>(tokens: &[&'t str]) -> Vec<&'t str> {
    if tokens[0] != "{" {
        let is_macro = tokens.get(1) == Some(&"!");
        return if is_macro { vec![] } else { vec![tokens[0]] };
    }
    let (mut depth, mut modules) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0] {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0], "{" | ",") {
            modules.push(pair[1]);
        }
    }
    modules
}

#[test]
fn every_part_uses_what_stands_above_it_and_never_what_stands_below() {
    for (at, Part { module, never }) in PARTS.iter().enumerate() {
        let above: Vec<_> = PARTS[..=at].iter().map(|part| part.module).collect();
        for (path, source) in sources(&format!("src/{module}")) {
            let tokens = tokens(&source);
            let below: Vec<_> = modules(&tokens)
                .into_iter()
                .filter(|used| !above.contains(used))
                .collect();
            assert!(below.is_empty(), "{} uses {below:?}", path.display());
            let mentioned: Vec<_> = never.iter().filter(|word| tokens.contains(word)).collect();
            assert!(
                mentioned.is_empty(),
                "{} mentions {mentioned:?}",
                path.display()
            );
            assert!(
                !source.contains("super::super"),
                "{} reaches beyond its folder",
                path.display()
            );
        }
    }
}

#[test]
fn every_part_stands_in_the_list() {
    let named: BTreeSet<String> = PARTS.iter().map(|part| part.module.to_owned()).collect();
    let entries = std::fs::read_dir(root().join("src")).unwrap();
    let stems = entries.map(|entry| {
        let path = entry.unwrap().path();
        path.file_stem().unwrap().to_string_lossy().into_owned()
    });
    let found: BTreeSet<String> = stems
        .filter(|stem| !["lib", "design", "living_on_the_vector"].contains(&stem.as_str()))
        .collect();
    assert_eq!(found, named);
}

#[test]
fn unsafe_stands_alone_in_files_that_say_why_and_what_it_pays() {
    let named = [
        "src/checkpoint/bytes/mapped.rs",
        "src/memory/arrays.rs",
        "src/memory/huge_pages.rs",
        "src/memory/streamed.rs",
    ]
    .map(PathBuf::from);
    let has_unsafe = |source: &str| {
        tokens(source)
            .iter()
            .any(|token| matches!(*token, "unsafe" | "unsafe_code"))
    };
    let all = ["src", "derive/src", "examples", "benches"]
        .into_iter()
        .filter(|folder| root().join(folder).is_dir())
        .flat_map(sources);
    let mut found: Vec<(PathBuf, String)> = all.filter(|(_, source)| has_unsafe(source)).collect();
    found.sort();
    assert_eq!(
        found.iter().map(|file| &file.0).collect::<Vec<_>>(),
        named.iter().collect::<Vec<_>>()
    );
    assert!(
        found
            .iter()
            .all(|(_, source)| source.contains("//! Pays: ") && source.contains("// SAFETY: "))
    );
}

/// Items that have a doc comment and are `pub`, but that nobody outside can name.
const INTERNAL: [&str; 9] = [
    "src/lib.rs: Skipped",
    "src/ops/dispatch.rs: Width",
    "src/ops/dispatch.rs: limit",
    "src/optim/kernel.rs: BoundKernel",
    "src/optim/row.rs: Context",
    "src/optim/row.rs: Row",
    "src/optim/row.rs: States",
    "src/optim/row.rs: Vectors",
    "src/tree/literal.rs: list",
];

/// The name of a line's public item; a predicate of `Error` is one too, which a macro writes.
fn public_item<'l>(line: &'l str, attributes: &str) -> Option<&'l str> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let named = match line.strip_prefix("pub ") {
        Some(item) => {
            let item = item
                .trim_start_matches("const ")
                .trim_start_matches("unsafe ");
            ["fn ", "struct ", "enum ", "trait ", "type "]
                .iter()
                .find_map(|kind| item.strip_prefix(kind))?
        }
        None if attributes.contains("macro_export") => line.strip_prefix("macro_rules! ")?,
        None if line.starts_with("is_") && line.contains(" => ") => line,
        None => return None,
    };
    named
        .split(|character| !is_word(character))
        .next()
        .filter(|name| !name.is_empty())
}

/// The public items of a source whose doc comment has no code in it. What has no doc comment is not
/// public: a lint sees to that.
fn without_example(source: &str) -> Vec<&str> {
    let (mut docs, mut attributes, mut in_attribute) = (String::new(), String::new(), false);
    let mut found = Vec::new();
    for line in source
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .map(str::trim)
    {
        if line.starts_with("///") {
            docs += line;
        } else if in_attribute || line.starts_with("#[") {
            attributes += line;
            in_attribute = !line.ends_with(']');
        } else if !line.starts_with("//") {
            let is_bare =
                !docs.is_empty() && !docs.contains("```") && !attributes.contains("doc(hidden)");
            found.extend(public_item(line, &attributes).filter(|_| is_bare));
            (docs, attributes) = (String::new(), String::new());
        }
    }
    found
}

#[test]
fn every_public_item_shows_how_it_is_used() {
    let named = |(path, source): &(PathBuf, String)| -> Vec<String> {
        without_example(source)
            .into_iter()
            .map(|item| format!("{}: {item}", path.display()))
            .collect()
    };
    let mut found: Vec<String> = sources("src")
        .iter()
        .flat_map(named)
        .filter(|item| !INTERNAL.contains(&item.as_str()))
        .collect();
    found.sort();
    assert!(found.is_empty(), "no example of\n{}", found.join("\n"));
}

/// Where every rule stands: tests of its numbers and of its fields, and what readers look through.
const LISTS_OF_RULES: [&str; 4] = [
    "tests/optim/rules.rs",
    "tests/optim/fields.rs",
    "src/optim/mod.rs",
    "README.md",
];

#[test]
fn every_rule_is_tested_and_listed() {
    let sources = sources("src/optim");
    let implemented = |line: &str| {
        line.strip_prefix("impl Rule for ")?
            .strip_suffix(" {")
            .map(str::to_owned)
    };
    let rules: Vec<String> = sources
        .iter()
        .flat_map(|(_, text)| text.lines().filter_map(implemented))
        .filter(|name| name != "()")
        .collect();
    assert!(rules.len() > 20, "{rules:?}");
    for list in LISTS_OF_RULES {
        let text = std::fs::read_to_string(root().join(list)).unwrap();
        let is_word = |character: char| character.is_alphanumeric();
        let words: BTreeSet<&str> = text.split(|character| !is_word(character)).collect();
        let missing: Vec<&String> = rules
            .iter()
            .filter(|rule| !words.contains(rule.as_str()))
            .collect();
        assert!(missing.is_empty(), "{list} lacks {missing:?}");
    }
}

#[test]
fn the_sources_are_read_as_they_are_meant() {
    let code = "use crate::{floats::{self, Floats}, room};\nlet x = crate::ops::dot(a_b, 1); // crate::tree\n";
    assert_eq!(
        modules(&tokens(code)).into_iter().collect::<Vec<_>>(),
        ["floats", "ops", "room"]
    );
    assert!(tokens(code).contains(&"a_b") && !tokens(code).contains(&"tree"));

    let code = "/// Shown:\n/// ```\n/// ```\npub fn a() {}\n/// Not.\n#[must_use = \"\n\"]\npub struct B<T>(T);\npub fn none() {}\n\
                /// Not.\npub(crate) fn c() {}\n/// Not.\n#[doc(hidden)]\npub fn d() {}\n/// Not.\nis_e => E;\n\
                /// Not.\n#[macro_export]\nmacro_rules! f {\n/// Not.\nmacro_rules! g {";
    assert_eq!(without_example(code), ["B", "is_e", "f"]);
}
