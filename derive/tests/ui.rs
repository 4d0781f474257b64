//! What `#[derive(Tree)]` says about a mistake: one message, and what to write instead.
//!
//! The cases stand beside the macro and not in `tests/` of the workspace, because they are compiled
//! in a project of their own with all dev-dependencies of this package: here that is flatleaf with
//! the few features that the messages need, whatever features the other tests run with.

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
