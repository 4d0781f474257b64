//! What `#[derive(Tree)]` says about a mistake: one message, and what to write instead.
//!
//! The cases stand beside the macro and not in `tests/` of the workspace, because they are compiled
//! in a project of their own with all dev-dependencies of this package: here that is flatleaf with
//! the few features that the messages need, whatever features the other tests run with.
//!
//! Each file is compiled on its own, which takes a second or two, so that mistakes of one subject
//! share a file: a new one goes to the end of it. `TRYBUILD=overwrite` writes the messages; read
//! them.

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
