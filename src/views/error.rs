//! What is wrong with a tree that a view is asked of.

use crate::element::Dtype;
use crate::error::{Error, ErrorKind, Problem};

impl Error {
    /// A leaf that would have to be converted.
    pub(crate) fn no_view(path: String, vector: Dtype, found: Dtype) -> Self {
        Problem::new(ErrorKind::ElementType)
            .at(path)
            .expected(format!(
                "a leaf of {vector} in a vector of {vector}, since a view converts nothing: \
                 `restructure` does"
            ))
            .found(found.to_string())
            .into()
    }

    /// A place of a tie whose type is no handle.
    #[cold]
    pub(crate) fn no_handle() -> Self {
        Problem::new(ErrorKind::BrokenTie)
            .expected(
                "a tie of `Rc`, `Arc` or `ArcArray`, which can be lent to one place at a time",
            )
            .found("an array that is one with another by an identity of its own")
            .into()
    }

    /// A view that takes other leaves than the visit of its tree showed.
    #[cold]
    pub(crate) fn other_leaves_in_view() -> Self {
        Error::unstable("a view that does not take the leaves that `visit` shows, in that order")
    }
}
