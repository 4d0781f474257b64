//! What `#[derive(Tree)]` says about a mistake: one message, and what to write instead.

// Some messages count the types that are trees, which depends on the features.
#![cfg(all(feature = "derive", feature = "half", feature = "indexmap"))]

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
