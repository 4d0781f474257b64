//! The questions that a caller may ask of an error.
//!
//! The kinds are private, so that a new one breaks nobody; the predicates are for good.

use super::Error;
use super::problem::ErrorKind;

macro_rules! predicates {
    ($($(#[$meta:meta])* $name:ident => $kind:ident;)*) => {
        impl Error {$(
            $(#[$meta])*
            pub fn $name(&self) -> bool {
                self.kind() == ErrorKind::$kind
            }
        )*}
    };
}

predicates! {
    /// A vector or slice is not as long as the layout: it belongs to another model, or a leaf has
    /// grown since. The message says which vector is meant, how many elements the layout has and
    /// how many there are.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// assert!(layout.view(&[0.0], "w").unwrap_err().is_length());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    is_length => Length;
    /// A leaf has another shape than the layout gives it. The path names the leaf, and both shapes
    /// are in the message; when several leaves disagree, the first eight are listed.
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
    /// A leaf that the layout has is not in the tree or the file. Values have to be complete; in a
    /// gradient a leaf that is not there is absent, which is no error.
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
    /// A leaf or branch of the tree, or a tensor of the file, that the layout has not got. Where a
    /// name looks misspelt, the message proposes the one that may have been meant.
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
    /// A leaf whose element type the operation cannot take: a leaf of `f64` where the vector is one
    /// of `f32`, or a tensor whose type no array has. The message says what to call instead.
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
    /// Places of one parameter hold different values, or the tree holds two parameters of the
    /// layout as one object. Both paths are named: [`path`](Error::path) and
    /// [`other_path`](Error::other_path).
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
    /// Two views share some of their elements without being one parameter seen twice. Written as
    /// two parameters, one would overwrite a part of the other, so planning refuses them and names
    /// both.
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
    /// A shared node contains itself, so that the tree would have no end. The path is that of the
    /// place where it is met again; the other path is where it was entered.
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
    /// A tree or a path has more than 1,024 levels. Wrappers such as `Box` and `Option` count as
    /// one each, although they add no segment to the path.
    ///
    /// ```
    /// use flatleaf::{DynTree, Layout};
    ///
    /// let deep = (0..2000).fold(DynTree::from(vec![1.0_f32]), |below, _| DynTree::list([below]));
    /// assert!(Layout::of(&deep).unwrap_err().is_too_deep());
    /// ```
    is_too_deep => TooDeep;
    /// More places than a layout holds: 2²⁰ extra places of shared nodes, or 2³² in all. Nodes that
    /// are shared within shared nodes double the places at every level.
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
    /// A lock within the tree was poisoned: a thread panicked while it held the lock, so what is
    /// behind it may be half written. The path names the lock's place.
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
    /// A `RefCell` within the tree is borrowed elsewhere, by a caller who holds on to a `Ref` or a
    /// `RefMut`. The path names its place; once the borrow has ended, the call can be made again.
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
    /// A leaf was to be written that can only be read: one behind a reference, in a view, or in a
    /// file, or a view of which several elements are one in memory.
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
    /// A gradient, an optimiser or a stored state belongs to another layout than the one it was
    /// given to. Layouts agree if their paths, shapes, element types, ties and trainability do.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let (one, other) = (Layout::of(&tree!({ "w": [1.0] }))?, Layout::of(&tree!({ "v": [1.0] }))?);
    /// let mut grad = FlatGrad::from_flat(&one, vec![0.5])?;
    /// assert!(grad.add(&FlatGrad::zeros(&other)).unwrap_err().is_other_layout());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    is_other_layout => OtherLayout;
    /// Another member of a run is the reason: it failed, has ended, or does something else. The
    /// message has its rank and what it said; its own error says more.
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
    /// One path, or one name, stands twice: two children of a node answer to the same key, or a map
    /// that was read has an entry twice. The path is that of the second.
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
    /// A path pattern is malformed or matches no leaf; [`path`](Error::path) is the pattern. The
    /// message says what there is instead, and what may have been meant.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let model = tree!({ "encoder": { "w": [1.0] } });
    /// let error = Layout::planner().freeze("encoder").of(&model).unwrap_err(); // no leaf; `encoder.**` is all below
    /// assert!(error.is_pattern() && error.path() == Some("encoder"));
    /// ```
    is_pattern => Pattern;
    /// A tree gave two answers to one question: it showed other leaves on the second visit than on
    /// the first, or it calls one node a leaf and a branch. An error of its [`Tree`](crate::Tree)
    /// implementation.
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
    /// An argument that the operation cannot work with, such as a negative maximum of a norm or a
    /// rate that is not finite. The message says which values are accepted.
    ///
    /// ```
    /// use flatleaf::ops;
    ///
    /// let error = ops::clip_norm(&mut [3.0, 4.0], -1.0).unwrap_err();
    /// assert!(error.is_argument() && error.found() == Some("-1"));
    /// ```
    is_argument => Argument;
    /// An infinite or NaN element stands where there may be none, or a norm is not finite. The path
    /// is the leaf's, and the message has the index of the first such element.
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
    /// A shared node or a trait object has to be made anew, and nothing tells how: the concrete
    /// type lacks `#[tree(object = "…")]`. Reading it, and writing it in place, works without.
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
    /// A layout that was read contradicts itself, or a shape is one that no memory holds. The
    /// message says at which leaf, what was stored and what follows from its places.
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
    /// The stored state of an optimiser contradicts itself, or does not fit the rule that is to go
    /// on from it. The path is that of the leaf whose state it is.
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
    /// The system has not got the memory for as many elements as a tree or a stored layout claims
    /// to have. Nothing was allocated, and the message says how many bytes were asked for.
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
    /// What a [`Tree`](crate::Tree) implementation outside this crate reported with
    /// [`Error::custom`]; its message is passed on as it is, with the path at which it was raised.
    ///
    /// ```
    /// use flatleaf::{ops, Error};
    ///
    /// assert!(Error::custom("the device is gone").is_custom());
    /// assert!(!ops::clip_norm(&mut [1.0], f64::NAN).unwrap_err().is_custom());
    /// ```
    is_custom => Custom;
    /// A file contradicts itself or is not of its format: it was cut short, or is another kind of
    /// file, or its header claims what its length cannot hold. The message says what was found.
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
    is_invalid_file => InvalidFile;
}

#[cfg(feature = "safetensors")]
impl Error {
    /// The system refused something about a file: it is not there, may not be read, or does not fit
    /// on the disk. [`path`](Error::path) is the file's, and [`io_kind`](Error::io_kind) says what
    /// it was.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    ///
    /// let error = checkpoint::save("no/such/folder/model.safetensors", &vec![1.0_f32]).unwrap_err();
    /// assert!(error.is_io());
    /// assert!(error.path().unwrap().starts_with("no/such/folder"));
    /// ```
    pub fn is_io(&self) -> bool {
        self.io_kind().is_some()
    }

    /// What the system said of a file, as [`std::io::ErrorKind`]; `None` for every other error. A
    /// program that starts anew where there is no checkpoint yet asks for `NotFound`.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// use std::io::ErrorKind;
    ///
    /// let error = checkpoint::open("no such file").err().unwrap();
    /// assert_eq!(error.io_kind(), Some(ErrorKind::NotFound)); // a first run, not a broken one
    /// ```
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        match self.kind() {
            ErrorKind::Io(kind) => Some(kind),
            _ => None,
        }
    }
}
