//! The one error of this crate: opaque, cheap to return, worded in one place.
//!
//! [`problem`] lists what can go wrong and words it, [`predicates`] are what a caller may ask, and
//! [`findings`] collects what a walk meets. What an error says of its subject, its constructor,
//! stands beside what raises it: `memory/error.rs`, `ops/error.rs`, `tree/error.rs` and so on.

mod findings;
mod predicates;
mod problem;

use std::fmt;

pub(crate) use findings::{Findings, FirstError};
pub(crate) use problem::Printable;
pub(crate) use problem::{ErrorKind, Problem, Quoted};

/// What any operation of this crate returns: a value, or the one [`Error`] of the crate. It can be
/// used with another error type too, as `Result<T, E>`.
///
/// ```
/// use flatleaf::{destructure, ops, Result, Tree};
///
/// fn size_of_weights(model: &impl Tree) -> Result<f64> {
///     Ok(ops::norm_l2(&destructure(model)?.0))
/// }
///
/// assert_eq!(size_of_weights(&vec![3.0_f32, 4.0])?, 5.0);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, what was expected and what was found.
///
/// The kinds are private; ask with the predicates ([`is_shape`](Error::is_shape) and its like).
/// Messages name paths in backticks and the empty path as "the root". When several leaves disagree
/// the message lists the first eight and says how many more there are; the accessors speak of the
/// first. One pointer wide.
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let layout = Layout::of(&tree!({ "weight": [[1.0, 2.0]], "bias": [0.5] }))?;
/// let error = layout.gather(&tree!({ "weight": [1.0, 2.0], "bias": [0.5] })).unwrap_err();
/// assert!(error.is_shape());
/// assert_eq!(error.path(), Some("weight"));
/// assert_eq!(error.to_string(), "`weight`: expected shape [1, 2], found shape [2]");
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Problems>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Problems {
    first: Problem,
    /// The next seven.
    others: Vec<Problem>,
    /// How many there are beyond those.
    unlisted: usize,
}

impl Error {
    /// An error of one's own, for what a [`Tree`](crate::Tree) implementation cannot do: a device
    /// that is gone, a store that is closed. It gets the path at which the walk was when it was
    /// raised, and answers to [`is_custom`](Error::is_custom).
    ///
    /// ```
    /// use flatleaf::{destructure, Error, Result, Tree, Visitor};
    /// # use flatleaf::{Builder, VisitorMut};
    ///
    /// struct Remote { device: Option<u32>, weight: Vec<f32> }
    ///
    /// impl Tree for Remote {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         self.device.ok_or_else(|| Error::custom("the device is gone"))?;
    ///         self.weight.visit(visitor)
    ///     }
    ///     // and `visit_mut` and `rebuild`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let model = (vec![1.0_f32], Remote { device: None, weight: vec![2.0] });
    /// assert_eq!(destructure(&model).unwrap_err().to_string(), "`1`: the device is gone");
    /// ```
    pub fn custom(message: impl fmt::Display) -> Self {
        Problem::new(ErrorKind::Custom)
            .found(message.to_string())
            .into()
    }

    /// Where it went wrong: the path of the leaf or node, as [`Leaf::path`](crate::Leaf::path)
    /// writes it, empty for the root; the pattern, for a pattern; the file's name, for what the
    /// system says. `None` where nothing in a tree is meant.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "layers": [{ "w": [1.0] }, { "w": [2.0] }] }))?;
    /// let error = layout.gather(&tree!({ "layers": [{ "w": [1.0] }, { "w": [2.0, 3.0] }] })).unwrap_err();
    /// assert_eq!(error.path(), Some("layers.1.w"));
    /// assert_eq!(layout.view(&[1.0], "layers.0.w").unwrap_err().path(), None); // a vector of another length is nowhere
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn path(&self) -> Option<&str> {
        self.0.first.path.as_deref()
    }

    /// The other place, where two are involved: the second place of a tie, the view that shares the
    /// elements, the entrance of a shared node that contains itself. `None` for every other error.
    ///
    /// ```
    /// use flatleaf::Layout;
    /// use std::rc::Rc;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], vec![2.0_f32]))?; // two parameters
    /// let shared = Rc::new(vec![1.0_f32]);
    /// let error = layout.restructure_into(&mut (shared.clone(), shared), &[3.0, 4.0]).unwrap_err(); // held as one
    /// assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn other_path(&self) -> Option<&str> {
        self.0.first.other_path.as_deref()
    }

    /// What was expected, as the message words it: the text behind "expected". For people and for
    /// tests; programs ask the predicates, as a later version may word it otherwise.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// assert_eq!(layout.gather(&tree!({ "w": [1.0] })).unwrap_err().expected(), Some("shape [2]"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn expected(&self) -> Option<&str> {
        self.0.first.expected.as_deref()
    }

    /// What was found, as the message words it: the text behind "found", with what may have been
    /// meant. For people and for tests; a later version may word it otherwise.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// assert_eq!(layout.gather(&tree!({ "w": [1.0] })).unwrap_err().found(), Some("shape [1]"));
    /// assert_eq!(layout.gather(&tree!({})).unwrap_err().found(), Some("no leaf"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn found(&self) -> Option<&str> {
        self.0.first.found.as_deref()
    }

    /// The paths of all leaves that disagree, as far as they are listed: eight, or for tensors that
    /// are missing in a file all of them. The first is [`path`](Error::path).
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [1.0], "b": [2.0], "c": [3.0] }))?;
    /// let error = layout.gather(&tree!({ "a": [1.0, 1.0], "b": [2.0] })).unwrap_err();
    /// assert_eq!(error.paths().collect::<Vec<_>>(), ["a", "c"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.problems()
            .flat_map(|problem| problem.path.iter().chain(&problem.also))
            .map(String::as_str)
    }

    fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.0.first).chain(&self.0.others)
    }

    fn kind(&self) -> ErrorKind {
        self.0.first.kind
    }

    /// The file in which that was found.
    #[cfg(feature = "safetensors")]
    pub(crate) fn found_in(mut self, file: &std::path::Path) -> Self {
        if let Some(found) = &mut self.0.first.found {
            *found = format!("{found} in `{}`", file.display());
        }
        self
    }

    /// For a leaf that could not be written when others had been.
    pub(crate) fn but_for(self) -> Self {
        self.about("every other leaf has been written")
    }

    /// What it says, and behind it what became of its leaf.
    pub(crate) fn and(mut self, became: &str) -> Self {
        let found = self.0.first.found.get_or_insert_default();
        *found = format!("{found}{became}");
        self
    }

    /// What it is about.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.0.first = self.0.first.about(what);
        self
    }

    /// The path of an element, for an error about one of a slice.
    pub(crate) fn at(mut self, path: &str) -> Self {
        self.0.first.path = Some(path.to_owned());
        self
    }

    /// The path, for an error that was raised by a part of the tree that does not know where it is.
    pub(crate) fn or_at(mut self, path: impl FnOnce() -> String) -> Self {
        // These speak of a vector, a layout or a number, which is nowhere in a tree.
        let is_nowhere = matches!(
            self.kind(),
            ErrorKind::Length
                | ErrorKind::OtherLayout
                | ErrorKind::Member
                | ErrorKind::InvalidLayout
                | ErrorKind::Argument
                | ErrorKind::NonFinite
        );
        if self.0.first.path.is_none() && !is_nowhere {
            self.0.first.path = Some(path());
        }
        self
    }
}

impl From<Problem> for Error {
    #[cold]
    fn from(first: Problem) -> Self {
        Error(Box::new(Problems {
            first,
            others: Vec::new(),
            unlisted: 0,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        if self.0.unlisted > 0 {
            write!(f, "; and {} more", self.0.unlisted)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind())
    }
}

impl std::error::Error for Error {}
