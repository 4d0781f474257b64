//! The one error of this crate.

use std::fmt;

/// What any operation of this crate returns.
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
/// The kinds are private; ask with the predicates. When several leaves disagree the message lists
/// the first eight and says how many more there are; the accessors speak of the first.
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
    /// The next seven, and how many more.
    others: Vec<Problem>,
    unlisted: usize,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    kind: ErrorKind,
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
enum ErrorKind {
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
    Member,
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
            matches!(self.0.first.kind, $(ErrorKind::$kind)|+)
        }
    )*};
}

impl Error {
    predicates! {
        /// A vector or slice of another length than the layout's.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
        /// assert!(layout.view(&[0.0], "w").unwrap_err().is_length());
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_length => Length;
        /// A leaf of another shape than planned.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
        /// let error = layout.gather(&tree!({ "w": [[1.0], [2.0]] })).unwrap_err();
        /// assert!(error.is_shape() && error.path() == Some("w"));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_shape => Shape;
        /// A leaf that the layout has and the tree has not.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
        /// let error = layout.gather(&tree!({ "w": [1.0], "b": null })).unwrap_err();
        /// assert!(error.is_missing() && error.path() == Some("b"));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_missing => Missing;
        /// A leaf or branch that the tree has and the layout has not.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "weight": [1.0] }))?;
        /// let error = layout.gather_grad(&tree!({ "wieght": [0.5] })).unwrap_err();
        /// assert!(error.is_unknown() && error.path() == Some("wieght"));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_unknown => Unknown;
        /// A leaf whose element type the operation cannot take.
        ///
        /// ```
        /// use flatleaf::{destructure, destructure_as};
        ///
        /// let model = (vec![1.0_f32], vec![2.0_f64]);
        /// let error = destructure(&model).unwrap_err();
        /// assert!(error.is_element_type() && error.path() == Some("1"));
        /// assert!(destructure_as::<f64>(&model).is_ok());
        /// ```
        is_element_type => ElementType;
        /// Places of one parameter that disagree, or two parameters that the tree holds as one.
        ///
        /// ```
        /// use flatleaf::Layout;
        /// use std::rc::Rc;
        ///
        /// let shared = Rc::new(vec![1.0_f32]);
        /// let layout = Layout::of(&(shared.clone(), shared))?;
        /// let error = layout.gather(&(vec![1.0_f32], vec![2.0_f32])).unwrap_err();
        /// assert!(error.is_broken_tie());
        /// assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_broken_tie => BrokenTie;
        /// Views that share elements without being one parameter.
        ///
        /// ```
        /// use flatleaf::Layout;
        /// use ndarray::{arr1, s};
        ///
        /// let all = arr1(&[1.0_f32, 2.0, 3.0]).into_shared();
        /// let views = (all.clone().slice_move(s![..2]), all.slice_move(s![1..]));
        /// assert!(Layout::of(&views).unwrap_err().is_overlap());
        /// ```
        is_overlap => Overlap;
        /// A shared node that contains itself.
        ///
        /// ```
        /// use flatleaf::{Layout, Tree};
        /// use std::{cell::RefCell, rc::Rc};
        ///
        /// #[derive(Tree)]
        /// struct Link { next: RefCell<Option<Rc<Link>>> }
        ///
        /// let link = Rc::new(Link { next: RefCell::new(None) });
        /// link.next.replace(Some(link.clone()));
        /// let error = Layout::of(&link).unwrap_err();
        /// assert!(error.is_cycle() && error.path() == Some("next"));
        /// # link.next.replace(None);
        /// ```
        is_cycle => Cycle;
        /// More than 1,024 levels.
        ///
        /// ```
        /// use flatleaf::{DynTree, Layout};
        ///
        /// let deep = (0..2000).fold(DynTree::from(vec![1.0_f32]), |below, _| DynTree::list([below]));
        /// assert!(Layout::of(&deep).unwrap_err().is_too_deep());
        /// ```
        is_too_deep => TooDeep;
        /// More places than a layout holds.
        ///
        /// ```
        /// use flatleaf::{Layout, Tree};
        /// use std::rc::Rc;
        ///
        /// let mut tree: Rc<dyn Tree> = Rc::new(vec![1.0_f32]);
        /// for _ in 0..40 {
        ///     tree = Rc::new((tree.clone(), tree)); // 2⁴⁰ ways down to one leaf
        /// }
        /// assert!(Layout::of(&tree).unwrap_err().is_too_many_places());
        /// ```
        is_too_many_places => TooManyPlaces;
        /// A lock that was poisoned by a panic.
        ///
        /// ```
        /// use flatleaf::destructure;
        /// use std::sync::{Arc, Mutex};
        ///
        /// let weight = Arc::new(Mutex::new(vec![1.0_f32]));
        /// let held = weight.clone();
        /// let panicked = std::thread::spawn(move || {
        ///     let _guard = held.lock();
        ///     panic!("while the lock is held");
        /// });
        /// assert!(panicked.join().is_err());
        /// assert!(destructure(&weight).unwrap_err().is_poisoned());
        /// ```
        is_poisoned => Poisoned;
        /// A cell that is borrowed elsewhere.
        ///
        /// ```
        /// use flatleaf::destructure;
        /// use std::cell::RefCell;
        ///
        /// let weight = RefCell::new(vec![1.0_f32]);
        /// let held = weight.borrow_mut();
        /// assert!(destructure(&weight).unwrap_err().is_borrowed());
        /// drop(held);
        /// assert!(destructure(&weight).is_ok());
        /// ```
        is_borrowed => Borrowed;
        /// A tree that can be read only, or a view of which several elements are one.
        ///
        /// ```
        /// use flatleaf::destructure;
        ///
        /// let weight = vec![1.0_f32];
        /// let mut model = (&weight,);
        /// let (_, layout) = destructure(&model)?;
        /// let error = layout.restructure_into(&mut model, &[2.0]).unwrap_err();
        /// assert!(error.is_read_only() && error.path() == Some("0"));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_read_only => ReadOnly;
        /// A gradient or state that belongs to another layout.
        ///
        /// ```
        /// use flatleaf::{tree, FlatGrad, Layout};
        ///
        /// let (one, other) = (Layout::of(&tree!({ "w": [1.0] }))?, Layout::of(&tree!({ "v": [1.0] }))?);
        /// let mut grad = FlatGrad::from_flat(&one, vec![0.5])?;
        /// assert!(grad.add(&FlatGrad::absent(&other)).unwrap_err().is_other_layout());
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_other_layout => OtherLayout;
        /// Another member of a run is the reason: it failed, has ended, or does something else.
        ///
        /// ```
        /// use flatleaf::{Communicator, Threads};
        ///
        /// let sums = Threads::run(2, |member| match member.rank() {
        ///     0 => member.sum(&mut [1.0]),
        ///     _ => Ok(()), // it has ended, and nobody can wait for it
        /// });
        /// assert!(sums[0].as_ref().unwrap_err().is_member());
        /// ```
        is_member => Member;
        /// One path twice.
        ///
        /// ```
        /// use flatleaf::{Key, Layout, Result, Tree, Visitor};
        /// # use flatleaf::{Builder, VisitorMut};
        ///
        /// struct Twice(Vec<f32>, Vec<f32>);
        ///
        /// impl Tree for Twice {
        ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        ///         visitor.child(Key::Name("w"), &self.0)?;
        ///         visitor.child(Key::Name("w"), &self.1)
        ///     }
        ///     // and `visit_mut` and `rebuild`
        ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
        ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
        /// }
        ///
        /// let error = Layout::of(&Twice(vec![1.0], vec![2.0])).unwrap_err();
        /// assert!(error.is_duplicate() && error.path() == Some("w"));
        /// ```
        is_duplicate => Duplicate;
        /// A path pattern that is malformed or matches nothing; [`path`](Error::path) is the
        /// pattern.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let model = tree!({ "encoder": { "w": [1.0] } });
        /// let error = Layout::planner().freeze("encoder").of(&model).unwrap_err(); // no leaf; `encoder.**` is all below
        /// assert!(error.is_pattern() && error.path() == Some("encoder"));
        /// ```
        is_pattern => Pattern;
        /// A tree that did not answer twice alike, or that calls one node a leaf and a branch.
        ///
        /// ```
        /// use flatleaf::{Key, Layout, LeafRef, Result, Tree, Visitor};
        /// # use flatleaf::{Builder, VisitorMut};
        ///
        /// struct Both(Vec<f32>);
        ///
        /// impl Tree for Both {
        ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        ///         visitor.leaf(LeafRef::from_slice(&[1], &self.0))?; // a leaf,
        ///         visitor.child(Key::Index(0), &self.0) // and a branch?
        ///     }
        ///     // and `visit_mut` and `rebuild`
        ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
        ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
        /// }
        ///
        /// assert!(Layout::of(&Both(vec![1.0])).unwrap_err().is_unstable());
        /// ```
        is_unstable => Unstable;
        /// A number that an operation cannot work with: a negative maximum.
        ///
        /// ```
        /// use flatleaf::ops;
        ///
        /// let error = ops::clip_norm(&mut [3.0, 4.0], -1.0).unwrap_err();
        /// assert!(error.is_argument() && error.found() == Some("-1"));
        /// ```
        is_argument => Argument;
        /// An infinite or NaN element where there may be none.
        ///
        /// ```
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
        /// let error = layout.clip_norm(&mut vec![0.5, f32::NAN], 1.0).unwrap_err();
        /// assert!(error.is_non_finite() && error.path() == Some("b"));
        /// # Ok::<(), flatleaf::Error>(())
        /// ```
        is_non_finite => NonFinite;
        /// A shared node or trait object that nothing tells how to rebuild.
        ///
        /// ```
        /// use flatleaf::{deep_clone, Layout, Tree};
        ///
        /// trait Layer: Tree {}
        /// #[derive(Tree)] // `#[tree(object = "dyn Layer")]` would tell how
        /// struct Scale(Vec<f32>);
        /// impl Layer for Scale {}
        ///
        /// let layers: Vec<Box<dyn Layer>> = vec![Box::new(Scale(vec![1.0]))];
        /// assert!(Layout::of(&layers).is_ok());
        /// assert!(deep_clone(&layers).is_err_and(|error| error.is_object()));
        /// ```
        is_object => Object;
        /// A layout that was read and contradicts itself; a shape that no memory holds.
        ///
        /// ```
        /// use flatleaf::Layout;
        /// use ndarray::arr0;
        ///
        /// let one = arr0(1.0_f32);
        /// let endless = one.broadcast(1 << 62).unwrap(); // one number, seen so many times
        /// assert!(Layout::of(&endless).unwrap_err().is_invalid_layout());
        /// ```
        is_invalid_layout => InvalidLayout;
        /// An optimiser's state that was read and contradicts itself.
        ///
        /// ```
        /// # #[cfg(feature = "serde")]
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// use flatleaf::optim::{Optimizer, Sgd, Snapshot};
        /// use flatleaf::{tree, Layout};
        ///
        /// let layout = Layout::of(&tree!({ "w": [1.0] }))?;
        /// let mut stored = serde_json::to_value(Optimizer::new(Sgd::default(), &layout)?.snapshot())?;
        /// stored["leaves"][0]["group"] = 7.into(); // there is one
        /// let snapshot: Snapshot<Sgd> = serde_json::from_value(stored)?;
        /// let error = Optimizer::resume(snapshot, &layout).err().unwrap();
        /// assert!(error.is_invalid_state() && error.path() == Some("w"));
        /// # Ok(())
        /// # }
        /// # #[cfg(not(feature = "serde"))]
        /// # fn main() {}
        /// ```
        is_invalid_state => InvalidState;
        /// More elements than there is memory for.
        ///
        /// ```
        /// use flatleaf::destructure;
        /// use ndarray::arr0;
        ///
        /// let one = arr0(1.0_f32);
        /// let huge = one.broadcast(1 << 50).unwrap(); // one number, seen so many times
        /// assert!(destructure(&huge).unwrap_err().is_out_of_memory());
        /// ```
        is_out_of_memory => OutOfMemory;
        /// What a tree outside this crate reported with [`Error::custom`].
        ///
        /// ```
        /// use flatleaf::{ops, Error};
        ///
        /// assert!(Error::custom("the device is gone").is_custom());
        /// assert!(!ops::clip_norm(&mut [1.0], f64::NAN).unwrap_err().is_custom());
        /// ```
        is_custom => Foreign;
    }

    /// A file that contradicts itself or is not of its format.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    ///
    /// # let path = std::env::temp_dir().join(format!("flatleaf-doc-no-tensors-{}", std::process::id()));
    /// std::fs::write(&path, "no tensors")?;
    /// assert!(checkpoint::open(&path).is_err_and(|error| error.is_invalid_file()));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "safetensors")]
    pub fn is_invalid_file(&self) -> bool {
        self.0.first.kind == ErrorKind::InvalidFile
    }

    /// What the system says of a file; [`path`](Error::path) is the file's.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    ///
    /// let error = checkpoint::save("no/such/folder/model.safetensors", &vec![1.0_f32]).unwrap_err();
    /// assert!(error.is_io());
    /// assert!(error.path().unwrap().starts_with("no/such/folder"));
    /// ```
    #[cfg(feature = "safetensors")]
    pub fn is_io(&self) -> bool {
        self.io_kind().is_some()
    }

    /// What kind of thing the system says of a file: that there is none, say.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// use std::io::ErrorKind;
    ///
    /// let error = checkpoint::open("no such file").err().unwrap();
    /// assert_eq!(error.io_kind(), Some(ErrorKind::NotFound)); // a first run, not a broken one
    /// ```
    #[cfg(feature = "safetensors")]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        if let ErrorKind::Io(kind) = self.0.first.kind {
            Some(kind)
        } else {
            None
        }
    }

    /// An error of one's own, from a [`Tree`](crate::Tree) implementation; it gets the path it was
    /// raised at.
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
        Problem::new(ErrorKind::Foreign)
            .found(message.to_string())
            .into()
    }

    /// Where: the path of the leaf or node, empty for the root.
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

    /// The other place, where two are involved.
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

    /// What was expected, as the message words it.
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

    /// What was found, as the message words it.
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

    /// The paths of all leaves that disagree, as far as they are listed.
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
}

/// Constructors, named for what went wrong.
impl Error {
    pub(crate) fn length(what: &'static str, expected: usize, found: usize) -> Self {
        let problem = Problem {
            what: Some(what),
            ..Problem::new(ErrorKind::Length)
        };
        problem
            .expected(format!("{expected} elements"))
            .found(found.to_string())
            .into()
    }

    pub(crate) fn shape(path: String, expected: &[usize], found: &[usize]) -> Self {
        let problem = Problem::new(ErrorKind::Shape).path(path);
        problem
            .expected(format!("shape {expected:?}"))
            .found(format!("shape {found:?}"))
            .into()
    }

    pub(crate) fn missing(path: String, expected: String) -> Self {
        Problem::new(ErrorKind::Missing)
            .path(path)
            .expected(expected)
            .found("no leaf".into())
            .into()
    }

    pub(crate) fn unknown(path: String, expected: &str, found: String) -> Self {
        Problem::new(ErrorKind::Unknown)
            .path(path)
            .expected(expected.into())
            .found(found)
            .into()
    }

    pub(crate) fn element_type(path: String, expected: String, found: String) -> Self {
        Problem::new(ErrorKind::ElementType)
            .path(path)
            .expected(expected)
            .found(found)
            .into()
    }

    pub(crate) fn broken_tie(first: String, second: String, expected: &str, found: &str) -> Self {
        let problem = Problem::new(ErrorKind::BrokenTie)
            .path(first)
            .other_path(second);
        problem.expected(expected.into()).found(found.into()).into()
    }

    pub(crate) fn overlap(first: String, second: String) -> Self {
        let problem = Problem::new(ErrorKind::Overlap)
            .path(first)
            .other_path(second);
        problem
            .expected(
                "views of the same elements in another axis order, or of none in common".into(),
            )
            .found("views that share some elements".into())
            .into()
    }

    pub(crate) fn cycle(first: String) -> Self {
        Problem::new(ErrorKind::Cycle)
            .other_path(first)
            .expected("a tree".into())
            .found("a shared node that contains itself".into())
            .into()
    }

    pub(crate) fn too_deep(levels: usize) -> Self {
        Problem::new(ErrorKind::TooDeep)
            .expected(format!("at most {levels} levels"))
            .found("a tree that is nested too deep".into())
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
        let problem = Problem::new(ErrorKind::Duplicate).path(leaf.into());
        problem
            .other_path(below.into())
            .expected("nothing below a leaf".into())
            .found("a leaf whose name is the beginning of another's: rename one of the two".into())
            .into()
    }

    pub(crate) fn too_many_places() -> Self {
        let problem = Problem::new(ErrorKind::TooManyPlaces)
            .expected("at most 1048576 extra places of shared nodes, and 4294967295 in all".into());
        problem.found("more".into()).into()
    }

    pub(crate) fn poisoned() -> Self {
        Problem::new(ErrorKind::Poisoned)
            .expected("a lock".into())
            .found("a lock that a panic poisoned".into())
            .into()
    }

    pub(crate) fn borrowed() -> Self {
        Problem::new(ErrorKind::Borrowed)
            .expected("a free cell".into())
            .found("a cell that is borrowed elsewhere".into())
            .into()
    }

    pub(crate) fn read_only(found: &str) -> Self {
        Problem::new(ErrorKind::ReadOnly)
            .expected("a leaf that can be written".into())
            .found(found.into())
            .into()
    }

    pub(crate) fn other_layout(expected: String, found: String) -> Self {
        Problem::new(ErrorKind::OtherLayout)
            .expected(expected)
            .found(found)
            .into()
    }

    /// Another member of a run is the reason.
    pub(crate) fn member(rank: usize, message: impl fmt::Display) -> Self {
        Problem::new(ErrorKind::Member)
            .expected("every member to go on".into())
            .found(format!("member {rank}: {message}"))
            .into()
    }

    pub(crate) fn duplicate(path: String) -> Self {
        Problem::new(ErrorKind::Duplicate)
            .path(path)
            .expected("each path once".into())
            .found("it twice".into())
            .into()
    }

    pub(crate) fn pattern(pattern: &str, expected: &str, found: &str) -> Self {
        Problem::new(ErrorKind::Pattern)
            .path(pattern.into())
            .expected(expected.into())
            .found(found.into())
            .into()
    }

    pub(crate) fn unstable(found: &str) -> Self {
        Problem::new(ErrorKind::Unstable)
            .expected("a tree that answers twice alike".into())
            .found(found.into())
            .into()
    }

    pub(crate) fn argument(expected: &str, found: impl fmt::Display) -> Self {
        Problem::new(ErrorKind::Argument)
            .expected(expected.into())
            .found(found.to_string())
            .into()
    }

    pub(crate) fn non_finite(index: usize, value: f32) -> Self {
        let problem = Problem::new(ErrorKind::NonFinite).expected("finite elements".into());
        problem.found(format!("{value} at index {index}")).into()
    }

    pub(crate) fn non_finite_step() -> Self {
        Problem::new(ErrorKind::NonFinite)
            .expected("a finite norm of the step".into())
            .found("one that is not, of a finite gradient".into())
            .into()
    }

    /// A box of `wanted` that holds a `concrete`, which does not say how it is rebuilt there.
    pub(crate) fn object(wanted: &str, concrete: &str) -> Self {
        let expected = format!(
            "a type that can be rebuilt in a box: `#[tree(object = \"{wanted}\")]` on `{concrete}`, \
             or `flatleaf::rebuild_object!({wanted});` where it is implemented by hand"
        );
        Problem::new(ErrorKind::Object)
            .expected(expected)
            .found(format!("`{concrete}` in a box of `{wanted}`, without it"))
            .into()
    }

    pub(crate) fn two_types() -> Self {
        Problem::new(ErrorKind::Object)
            .expected("one type for all handles of a shared node".into())
            .found("two".into())
            .into()
    }

    pub(crate) fn invalid_layout(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidLayout)
            .expected("a layout that agrees with itself".into())
            .found(found.into())
            .into()
    }

    pub(crate) fn invalid_state(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidState)
            .expected("a state that agrees with itself".into())
            .found(found.into())
            .into()
    }

    pub(crate) fn out_of_memory(bytes: usize) -> Self {
        Problem::new(ErrorKind::OutOfMemory)
            .expected(format!("{bytes} bytes of memory"))
            .found("less".into())
            .into()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn invalid_tree(found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidTree)
            .expected("a tree".into())
            .found(found.into())
            .into()
    }

    #[cfg(feature = "safetensors")]
    pub(crate) fn invalid_file(expected: &str, found: impl Into<String>) -> Self {
        Problem::new(ErrorKind::InvalidFile)
            .expected(expected.into())
            .found(found.into())
            .into()
    }

    /// Two names of a file of which one is the beginning of the other's path.
    #[cfg(feature = "safetensors")]
    pub(crate) fn leaf_and_branch(leaf: &str, below: &str) -> Self {
        let problem = Problem::new(ErrorKind::InvalidFile).path(leaf.into());
        problem
            .other_path(below.into())
            .expected("names of which none is the beginning of another's path".into())
            .found("a tensor of the first name, and one below it".into())
            .into()
    }

    #[cfg(feature = "safetensors")]
    pub(crate) fn io(path: &std::path::Path, expected: &str, error: &std::io::Error) -> Self {
        let problem = Problem::new(ErrorKind::Io(error.kind())).path(path.display().to_string());
        problem
            .expected(expected.into())
            .found(error.to_string())
            .into()
    }

    /// Leaves, at least one, that a file has nothing for.
    #[cfg(feature = "safetensors")]
    pub(crate) fn missing_tensors(paths: Vec<String>) -> Self {
        let problem = Problem::new(ErrorKind::Missing).paths(paths);
        problem
            .expected("a tensor in the file".into())
            .found("none".into())
            .into()
    }

    /// Tensors, at least one, that are no leaf's.
    #[cfg(feature = "safetensors")]
    pub(crate) fn unexpected_tensors(names: Vec<String>) -> Self {
        let problem = Problem::new(ErrorKind::Unknown).paths(names);
        problem
            .expected("a leaf in the model".into())
            .found("none".into())
            .into()
    }

    /// The file in which that was found.
    #[cfg(feature = "safetensors")]
    pub(crate) fn found_in(mut self, file: &std::path::Path) -> Self {
        if let Some(found) = &mut self.0.first.found {
            *found = format!("{found} in `{}`", file.display());
        }
        self
    }

    /// The path of an element, for an error about one of a slice.
    pub(crate) fn at(mut self, path: &str) -> Self {
        self.0.first.path = Some(path.to_owned());
        self
    }

    /// The path, for an error that was raised by a part of the tree that does not know where it is.
    pub(crate) fn or_at(mut self, path: impl FnOnce() -> String) -> Self {
        let needs_path = !matches!(
            self.0.first.kind,
            ErrorKind::Length
                | ErrorKind::OtherLayout
                | ErrorKind::Member
                | ErrorKind::InvalidLayout
                | ErrorKind::Argument
                | ErrorKind::NonFinite
        );
        if self.0.first.path.is_none() && needs_path {
            self.0.first.path = Some(path());
        }
        self
    }
}

impl Problem {
    fn new(kind: ErrorKind) -> Self {
        Problem {
            kind,
            what: None,
            path: None,
            also: Vec::new(),
            other_path: None,
            expected: None,
            found: None,
        }
    }

    fn path(self, path: String) -> Self {
        Problem {
            path: Some(path),
            ..self
        }
    }

    #[cfg(feature = "safetensors")]
    fn paths(self, mut paths: Vec<String>) -> Self {
        let also = paths.split_off(1);
        Problem {
            path: paths.pop(),
            also,
            ..self
        }
    }

    fn other_path(self, path: String) -> Self {
        Problem {
            other_path: Some(path),
            ..self
        }
    }

    fn expected(self, expected: String) -> Self {
        Problem {
            expected: Some(expected),
            ..self
        }
    }

    fn found(self, found: String) -> Self {
        Problem {
            found: Some(found),
            ..self
        }
    }
}

impl From<Problem> for Error {
    fn from(first: Problem) -> Self {
        Error(Box::new(Problems {
            first,
            others: Vec::new(),
            unlisted: 0,
        }))
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
        self.0
            .as_ref()
            .is_some_and(|all| all.0.others.len() + 1 >= LISTED)
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
    also.iter()
        .take(LISTED)
        .try_for_each(|path| write!(f, ", `{}`", Elided(path)))?;
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
