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

    /// Places of one parameter at which the model has no handle of one array.
    #[cold]
    pub(crate) fn no_handle(first: &str, second: &str) -> Self {
        Problem::new(ErrorKind::BrokenTie)
            .at(first)
            .and_at(second)
            .expected("one array behind `Rc`, `Arc` or `ArcArray`, as the layout has it")
            .found("two, of which each place could write its own: tie the model first")
            .into()
    }

    /// A view that takes other leaves than the visit of its tree showed.
    #[cold]
    pub(crate) fn other_leaves_in_view() -> Self {
        Error::unstable("a view that does not take the leaves that `visit` shows, in that order")
    }
}
