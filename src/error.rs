//! The one error of this crate.

use std::fmt;

/// What any operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, what was expected and what was found.
///
/// The kinds are private; ask with the predicates. When several leaves disagree the message lists the first eight and says how many
/// more there are; the accessors speak of the first.
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
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    first: Problem,
    /// The next seven, and how many more.
    others: Vec<Problem>,
    unlisted: usize,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    kind: Kind,
    /// What it is about, if it is nothing at a path.
    what: Option<&'static str>,
    path: Option<String>,
    /// Further paths of which the same is to be said.
    also: Vec<String>,
    other_path: Option<String>,
    expected: Option<String>,
    found: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Length,
    Shape,
    Missing,
    Unknown,
    ElementType,
    BrokenTie,
    Overlap,
    Cycle,
    TooDeep,
    TooManyPlaces,
    Poisoned,
    Borrowed,
    ReadOnly,
    OtherLayout,
    Duplicate,
    Pattern,
    Unstable,
    Argument,
    NonFinite,
    Object,
    InvalidLayout,
    InvalidState,
    OutOfMemory,
    #[cfg(feature = "serde")]
    InvalidTree,
    #[cfg(feature = "safetensors")]
    InvalidFile,
    #[cfg(feature = "safetensors")]
    Io(std::io::ErrorKind),
    Foreign,
}

const LISTED: usize = 8;

macro_rules! predicates {
    ($($(#[$doc:meta])* $name:ident => $($kind:ident)|+;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> bool {
            matches!(self.0.first.kind, $(Kind::$kind)|+)
        }
    )*};
}

impl Error {
    predicates! {
        /// A vector or slice of another length than the layout's.
        is_length => Length;
        /// A leaf of another shape than planned.
        is_shape => Shape;
        /// A leaf that the layout has and the tree has not.
        is_missing => Missing;
        /// A leaf or branch that the tree has and the layout has not.
        is_unknown => Unknown;
        /// A leaf whose element type the operation cannot take.
        is_element_type => ElementType;
        /// Places of one parameter that disagree, or two parameters that the tree holds as one.
        is_broken_tie => BrokenTie;
        /// Views that share elements without being one parameter.
        is_overlap => Overlap;
        /// A shared node that contains itself.
        is_cycle => Cycle;
        /// More than 1,024 levels.
        is_too_deep => TooDeep;
        /// More places than a layout holds.
        is_too_many_places => TooManyPlaces;
        /// A lock that was poisoned by a panic.
        is_poisoned => Poisoned;
        /// A cell that is borrowed elsewhere.
        is_borrowed => Borrowed;
        /// A tree that can be read only, or a view of which several elements are one.
        is_read_only => ReadOnly;
        /// A gradient or state that belongs to another layout.
        is_other_layout => OtherLayout;
        /// One path twice.
        is_duplicate => Duplicate;
        /// A path pattern that is malformed or matches nothing.
        is_pattern => Pattern;
        /// A tree that did not answer twice alike.
        is_unstable => Unstable;
        /// A number that an operation cannot work with: a negative maximum.
        is_argument => Argument;
        /// An infinite or NaN element where there may be none.
        is_non_finite => NonFinite;
        /// A shared node or trait object that nothing tells how to rebuild.
        is_object => Object;
        /// A layout that was read and contradicts itself.
        is_invalid_layout => InvalidLayout;
        /// An optimiser's state that was read and contradicts itself.
        is_invalid_state => InvalidState;
        /// More elements than there is memory for.
        is_out_of_memory => OutOfMemory;
        /// What a tree outside this crate reported with [`Error::custom`].
        is_custom => Foreign;
    }

    /// A file that contradicts itself or is not of its format.
    #[cfg(feature = "safetensors")]
    pub fn is_invalid_file(&self) -> bool {
        self.0.first.kind == Kind::InvalidFile
    }

    /// What the system says of a file; [`path`](Error::path) is the file's.
    #[cfg(feature = "safetensors")]
    pub fn is_io(&self) -> bool {
        self.io_kind().is_some()
    }

    /// What kind of thing the system says of a file: that there is none, say.
    #[cfg(feature = "safetensors")]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        if let Kind::Io(kind) = self.0.first.kind { Some(kind) } else { None }
    }

    /// An error of one's own, from a [`Tree`](crate::Tree) implementation; it gets the path it was raised at.
    pub fn custom(message: impl fmt::Display) -> Self {
        Problem::new(Kind::Foreign).found(message.to_string()).into()
    }

    /// Where: the path of the leaf or node, empty for the root.
    pub fn path(&self) -> Option<&str> {
        self.0.first.path.as_deref()
    }

    /// The other place, where two are involved.
    pub fn other_path(&self) -> Option<&str> {
        self.0.first.other_path.as_deref()
    }

    /// What was expected, as the message words it.
    pub fn expected(&self) -> Option<&str> {
        self.0.first.expected.as_deref()
    }

    /// What was found, as the message words it.
    pub fn found(&self) -> Option<&str> {
        self.0.first.found.as_deref()
    }

    /// The paths of all leaves that disagree, as far as they are listed.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.problems().flat_map(|problem| problem.path.iter().chain(&problem.also)).map(String::as_str)
    }

    fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.0.first).chain(&self.0.others)
    }
}

/// Constructors, named for what went wrong.
impl Error {
    pub(crate) fn length(what: &'static str, expected: usize, found: usize) -> Self {
        let problem = Problem { what: Some(what), ..Problem::new(Kind::Length) };
        problem.expected(format!("{expected} elements")).found(found.to_string()).into()
    }

    pub(crate) fn shape(path: String, expected: &[usize], found: &[usize]) -> Self {
        let problem = Problem::new(Kind::Shape).path(path);
        problem.expected(format!("shape {expected:?}")).found(format!("shape {found:?}")).into()
    }

    pub(crate) fn missing(path: String, expected: String) -> Self {
        Problem::new(Kind::Missing).path(path).expected(expected).found("no leaf".into()).into()
    }

    pub(crate) fn unknown(path: String, expected: &str, found: String) -> Self {
        Problem::new(Kind::Unknown).path(path).expected(expected.into()).found(found).into()
    }

    pub(crate) fn element_type(path: String, expected: String, found: String) -> Self {
        Problem::new(Kind::ElementType).path(path).expected(expected).found(found).into()
    }

    pub(crate) fn broken_tie(first: String, second: String, expected: &str, found: &str) -> Self {
        let problem = Problem::new(Kind::BrokenTie).path(first).other_path(second);
        problem.expected(expected.into()).found(found.into()).into()
    }

    pub(crate) fn overlap(first: String, second: String) -> Self {
        let problem = Problem::new(Kind::Overlap).path(first).other_path(second);
        problem
            .expected("views of the same elements in another axis order, or of none in common".into())
            .found("views that share some elements".into())
            .into()
    }

    pub(crate) fn cycle(first: String) -> Self {
        Problem::new(Kind::Cycle).other_path(first).expected("a tree".into()).found("a shared node that contains itself".into()).into()
    }

    pub(crate) fn too_deep(levels: usize) -> Self {
        Problem::new(Kind::TooDeep).expected(format!("at most {levels} levels")).found("a tree that is nested too deep".into()).into()
    }

    pub(crate) fn too_many_places() -> Self {
        let problem =
            Problem::new(Kind::TooManyPlaces).expected("at most 1048576 extra places of shared nodes, and 4294967295 in all".into());
        problem.found("more".into()).into()
    }

    pub(crate) fn poisoned() -> Self {
        Problem::new(Kind::Poisoned).expected("a lock".into()).found("a lock that a panic poisoned".into()).into()
    }

    pub(crate) fn borrowed() -> Self {
        Problem::new(Kind::Borrowed).expected("a free cell".into()).found("a cell that is borrowed elsewhere".into()).into()
    }

    pub(crate) fn read_only(found: &str) -> Self {
        Problem::new(Kind::ReadOnly).expected("a leaf that can be written".into()).found(found.into()).into()
    }

    pub(crate) fn other_layout(expected: String, found: String) -> Self {
        Problem::new(Kind::OtherLayout).expected(expected).found(found).into()
    }

    pub(crate) fn duplicate(path: String) -> Self {
        Problem::new(Kind::Duplicate).path(path).expected("each path once".into()).found("it twice".into()).into()
    }

    pub(crate) fn pattern(pattern: &str, expected: &str, found: &str) -> Self {
        Problem::new(Kind::Pattern).path(pattern.into()).expected(expected.into()).found(found.into()).into()
    }

    pub(crate) fn unstable(found: &str) -> Self {
        Problem::new(Kind::Unstable).expected("a tree that answers twice alike".into()).found(found.into()).into()
    }

    pub(crate) fn argument(expected: &str, found: impl fmt::Display) -> Self {
        Problem::new(Kind::Argument).expected(expected.into()).found(found.to_string()).into()
    }

    pub(crate) fn non_finite(index: usize, value: f32) -> Self {
        let problem = Problem::new(Kind::NonFinite).expected("finite elements".into());
        problem.found(format!("{value} at index {index}")).into()
    }

    pub(crate) fn non_finite_step() -> Self {
        Problem::new(Kind::NonFinite)
            .expected("a finite norm of the step".into())
            .found("one that is not, of a finite gradient".into())
            .into()
    }

    pub(crate) fn object(name: &str) -> Self {
        let expected = "a type that can be rebuilt in a box: `#[tree(object = \"…\")]` on the concrete type names a trait object, \
                        `flatleaf::rebuild_object!()` stands in an implementation by hand";
        Problem::new(Kind::Object).expected(expected.into()).found(format!("a {name} that is not")).into()
    }

    pub(crate) fn two_types() -> Self {
        Problem::new(Kind::Object).expected("one type for all handles of a shared node".into()).found("two".into()).into()
    }

    pub(crate) fn invalid_layout(found: impl Into<String>) -> Self {
        Problem::new(Kind::InvalidLayout).expected("a layout that agrees with itself".into()).found(found.into()).into()
    }

    pub(crate) fn invalid_state(found: impl Into<String>) -> Self {
        Problem::new(Kind::InvalidState).expected("a state that agrees with itself".into()).found(found.into()).into()
    }

    pub(crate) fn out_of_memory(bytes: usize) -> Self {
        Problem::new(Kind::OutOfMemory).expected(format!("{bytes} bytes of memory")).found("less".into()).into()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn invalid_tree(found: impl Into<String>) -> Self {
        Problem::new(Kind::InvalidTree).expected("a tree".into()).found(found.into()).into()
    }

    #[cfg(feature = "safetensors")]
    pub(crate) fn invalid_file(expected: &str, found: impl Into<String>) -> Self {
        Problem::new(Kind::InvalidFile).expected(expected.into()).found(found.into()).into()
    }

    #[cfg(feature = "safetensors")]
    pub(crate) fn io(path: &std::path::Path, expected: &str, error: &std::io::Error) -> Self {
        let problem = Problem::new(Kind::Io(error.kind())).path(path.display().to_string());
        problem.expected(expected.into()).found(error.to_string()).into()
    }

    /// Leaves, at least one, that a file has nothing for.
    #[cfg(feature = "safetensors")]
    pub(crate) fn missing_tensors(paths: Vec<String>) -> Self {
        let problem = Problem::new(Kind::Missing).paths(paths);
        problem.expected("a tensor in the file".into()).found("none".into()).into()
    }

    /// Tensors, at least one, that are no leaf's.
    #[cfg(feature = "safetensors")]
    pub(crate) fn unexpected_tensors(names: Vec<String>) -> Self {
        let problem = Problem::new(Kind::Unknown).paths(names);
        problem.expected("a leaf in the model".into()).found("none".into()).into()
    }

    /// The path of an element, for an error about one of a slice.
    pub(crate) fn at(mut self, path: &str) -> Self {
        self.0.first.path = Some(path.to_owned());
        self
    }

    /// The path, for an error that was raised by a part of the tree that does not know where it is.
    pub(crate) fn or_at(mut self, path: impl FnOnce() -> String) -> Self {
        let needs_path =
            !matches!(self.0.first.kind, Kind::Length | Kind::OtherLayout | Kind::InvalidLayout | Kind::Argument | Kind::NonFinite);
        if self.0.first.path.is_none() && needs_path {
            self.0.first.path = Some(path());
        }
        self
    }
}

impl Problem {
    fn new(kind: Kind) -> Self {
        Problem { kind, what: None, path: None, also: Vec::new(), other_path: None, expected: None, found: None }
    }

    fn path(self, path: String) -> Self {
        Problem { path: Some(path), ..self }
    }

    #[cfg(feature = "safetensors")]
    fn paths(self, mut paths: Vec<String>) -> Self {
        let also = paths.split_off(1);
        Problem { path: paths.pop(), also, ..self }
    }

    fn other_path(self, path: String) -> Self {
        Problem { other_path: Some(path), ..self }
    }

    fn expected(self, expected: String) -> Self {
        Problem { expected: Some(expected), ..self }
    }

    fn found(self, found: String) -> Self {
        Problem { found: Some(found), ..self }
    }
}

impl From<Problem> for Error {
    fn from(first: Problem) -> Self {
        Error(Box::new(Inner { first, others: Vec::new(), unlisted: 0 }))
    }
}

/// Errors as they are met, so that all leaves that disagree are named in one.
#[derive(Default)]
pub(crate) struct Findings(Option<Error>);

impl Findings {
    #[cold]
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(all) if all.0.others.len() + 1 < LISTED => all.0.others.push(error.0.first),
            Some(all) => all.0.unlisted += 1,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Counts disagreements that are not worth naming any more.
    #[cold]
    pub(crate) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|all| all.0.others.len() + 1 >= LISTED)
    }

    #[cold]
    pub(crate) fn count(&mut self, more: usize) {
        if let Some(all) = &mut self.0 {
            all.0.unlisted += more;
        }
    }

    pub(crate) fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The first error that a walk returned to a tree, which may keep it to itself.
#[derive(Default)]
pub(crate) struct FirstError(Option<Error>);

impl FirstError {
    #[cold]
    pub(crate) fn note(&mut self, error: Error, path: impl FnOnce() -> String) -> Error {
        let error = error.or_at(path);
        self.0.get_or_insert_with(|| error.clone());
        error
    }

    pub(crate) fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(what) = self.what {
            write!(f, "{what}: ")?;
        }
        match (&self.path, &self.other_path) {
            (Some(path), Some(other)) => write!(f, "`{}` and `{}`: ", Elided(path), Elided(other))?,
            (Some(path), None) | (None, Some(path)) => write_paths(f, path, &self.also)?,
            (None, None) => {}
        }
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => write!(f, "expected {expected}, found {found}"),
            (None, Some(text)) | (Some(text), None) => f.write_str(text),
            (None, None) => write!(f, "{:?}", self.kind),
        }
    }
}

/// Paths of which one thing is to be said; few who read it want more than so many.
fn write_paths(f: &mut fmt::Formatter<'_>, first: &str, also: &[String]) -> fmt::Result {
    const LISTED: usize = 64;
    write!(f, "`{}`", Elided(first))?;
    also.iter().take(LISTED).try_for_each(|path| write!(f, ", `{}`", Elided(path)))?;
    if also.len() > LISTED {
        write!(f, " and {} more", also.len() - LISTED)?;
    }
    f.write_str(": ")
}

/// A path that fits a message: the middle of a very long one is left out.
struct Elided<'p>(&'p str);

impl fmt::Display for Elided<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 240;
        let count = self.0.chars().count();
        if count <= LONGEST {
            return f.write_str(self.0);
        }
        let head: String = self.0.chars().take(LONGEST / 2).collect();
        let tail: String = self.0.chars().skip(count - LONGEST / 4).collect();
        write!(f, "{head}…{tail}")
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
        write!(f, "{:?}: {self}", self.0.first.kind)
    }
}

impl std::error::Error for Error {}
