//! What `#[derive(Tree)]` says about a mistake: one message, and what to write instead.

#![cfg(feature = "derive")]

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
