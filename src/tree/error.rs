//! What is wrong with a tree by itself, before any layout is asked.
//!
//! An error that is raised below a tree does not know its path: the walk adds it.

use crate::error::{Error, ErrorKind, Problem};

impl Error {
    pub(crate) fn cycle(entered_at: String) -> Self {
        Problem::new(ErrorKind::Cycle)
            .and_at(entered_at)
            .expected("a tree")
            .found("a shared node that contains itself")
            .into()
    }

    pub(crate) fn too_deep(levels: usize) -> Self {
        Problem::new(ErrorKind::TooDeep)
            .expected(format!("at most {levels} levels"))
            .found("a tree that is nested too deep")
            .into()
    }

    pub(crate) fn too_many_axes(expected: usize, found: usize) -> Self {
        Problem::new(ErrorKind::Shape)
            .expected(format!("an array of at most {expected} axes"))
            .found(format!("one of {found} or more"))
            .into()
    }

    /// A name that is a leaf's, and one that lies below it.
    pub(crate) fn below_a_leaf(leaf: &str, below: &str) -> Self {
        Problem::new(ErrorKind::Duplicate)
            .at(leaf)
            .and_at(below)
            .expected("nothing below a leaf")
            .found("a leaf whose name is the beginning of another's: rename one of the two")
            .into()
    }

    pub(crate) fn too_many_places() -> Self {
        Problem::new(ErrorKind::TooManyPlaces)
            .expected("at most 1048576 extra places of shared nodes, and 4294967295 in all")
            .found("more")
            .into()
    }

    pub(crate) fn poisoned() -> Self {
        Problem::new(ErrorKind::Poisoned)
            .expected("a lock")
            .found("a lock that a panic poisoned")
            .into()
    }

    pub(crate) fn borrowed() -> Self {
        Problem::new(ErrorKind::Borrowed)
            .expected("a free cell")
            .found("a cell that is borrowed elsewhere")
            .into()
    }

    pub(crate) fn read_only(found: &str) -> Self {
        Problem::new(ErrorKind::ReadOnly)
            .expected("a leaf that can be written")
            .found(found)
            .into()
    }

    pub(crate) fn duplicate(path: String) -> Self {
        Problem::new(ErrorKind::Duplicate)
            .at(path)
            .expected("each path once")
            .found("it twice")
            .into()
    }

    pub(crate) fn unstable(found: &str) -> Self {
        Problem::new(ErrorKind::Unstable)
            .expected("a tree that answers twice alike")
            .found(found)
            .into()
    }

    /// A leaf that has not as many elements as when it was seen first.
    #[cold]
    pub(crate) fn changed_length() -> Self {
        Error::unstable("a leaf that changed its length between two visits")
    }

    /// A leaf of another shape or element type than when it was seen first.
    #[cold]
    pub(crate) fn changed_leaf() -> Self {
        Error::unstable("a leaf that changed its shape or element type between two visits")
    }

    /// A box of `wanted` that holds a `concrete`, which does not say how it is rebuilt there.
    pub(crate) fn object(wanted: &str, concrete: &str) -> Self {
        Problem::new(ErrorKind::Object)
            .expected(format!(
                "a type that can be rebuilt in a box: `#[tree(object = \"{wanted}\")]` on \
                 `{concrete}`, or `flatleaf::rebuild_object!({wanted});` where it is implemented \
                 by hand"
            ))
            .found(format!("`{concrete}` in a box of `{wanted}`, without it"))
            .into()
    }

    pub(crate) fn two_types() -> Self {
        Problem::new(ErrorKind::Object)
            .expected("one type for all handles of a shared node")
            .found("two")
            .into()
    }

    pub(crate) fn element_type(path: String, expected: String, found: String) -> Self {
        Problem::new(ErrorKind::ElementType)
            .at(path)
            .expected(expected)
            .found(found)
            .into()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn invalid_tree(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidTree)
            .expected("a tree")
            .found(found)
            .into()
    }
}
