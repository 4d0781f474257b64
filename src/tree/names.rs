//! Dotted names, walked as a tree that has no objects for its nodes.
//!
//! The names are sorted key by key, so that what has a beginning in common stands together and a
//! walk goes from one name to the next by leaving a few nodes and entering a few:
//!
//! ```text
//! encoder.0.bias      enter encoder, enter 0, leaf bias
//! encoder.0.weight    leaf weight
//! encoder.1.bias      leave 0, enter 1, leaf bias
//! head                leave 1, leave encoder, leaf head
//! ```
//!
//! No node is kept anywhere, and a name that is the beginning of another's stands right before it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::key::{keys_of_name, order_of_names};
use super::{Builder, Key, Visitor, VisitorMut};
use crate::error::{Error, Result};

/// The names of leaves that are kept in a flat list, in the order of a layout, and the walks over
/// the tree that they name: for a [`Tree`](crate::Tree) over another library's map of parameters.
///
/// Dots are levels. Names are compared key by key, numbers by value: `layers.2` comes before
/// `layers.10`, as in a [`StateDict`](crate::StateDict). The walks call back with the position of
/// each name in that order.
///
/// ```
/// use flatleaf::implementing::{Builder, DottedNames, LeafMut, LeafRef, Visitor, VisitorMut};
/// use flatleaf::{destructure, Result, Tree};
///
/// struct Parameters { names: DottedNames, tensors: Vec<Vec<f32>> }
///
/// impl Tree for Parameters {
///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
///         self.names.visit(visitor, |index, visitor| {
///             let tensor = &self.tensors[index];
///             visitor.leaf(LeafRef::from_slice(&[tensor.len()], tensor))
///         })
///     }
///
///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
///         let mut tensors = self.tensors.iter_mut();
///         self.names.visit_mut(visitor, |_, visitor| {
///             let tensor = tensors.next().expect("one for each name");
///             visitor.leaf(LeafMut::from_slice(&[tensor.len()], tensor))
///         })
///     }
///
///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
///         let tensors = self.names.rebuild(builder, |index, builder| {
///             let tensor = &self.tensors[index];
///             builder.leaf(LeafRef::from_slice(&[tensor.len()], tensor))
///         });
///         Ok(Parameters { names: self.names.clone(), tensors: tensors? })
///     }
/// }
///
/// let map = [("w.10", vec![1.0_f32]), ("w.9", vec![2.0, 3.0])];
/// let (names, tensors) = DottedNames::sort(map)?;
/// let (flat, layout) = destructure(&Parameters { names, tensors })?;
/// assert_eq!((flat, layout.leaves()[0].path()), (vec![2.0, 3.0, 1.0], "w.9"));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DottedNames(
    /// Sorted; none is another's beginning.
    Vec<String>,
);

impl DottedNames {
    /// The names in their order, and what comes with them in the order of the names.
    ///
    /// # Errors
    /// `is_duplicate`: a name that comes twice, and a name that is both a leaf's and the beginning
    /// of another's, with both names.
    ///
    /// ```
    /// use flatleaf::implementing::DottedNames;
    ///
    /// let (names, values) = DottedNames::sort([("b", 1), ("a.x", 2)])?;
    /// assert_eq!((names.iter().collect::<Vec<_>>(), values), (vec!["a.x", "b"], vec![2, 1]));
    ///
    /// let error = DottedNames::sort([("w", 1), ("w.absmax", 2)]).unwrap_err();
    /// assert_eq!((error.path(), error.other_path()), (Some("w"), Some("w.absmax")));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn sort<N: Into<String>, T>(
        entries: impl IntoIterator<Item = (N, T)>,
    ) -> Result<(Self, Vec<T>)> {
        let entries = entries.into_iter();
        let entries = entries.map(|(name, value)| (name.into(), value));
        let mut entries: Vec<(String, T)> = entries.collect();
        entries.sort_by(|(a, _), (b, _)| order_of_names(a, b));
        let names = entries.iter().map(|(name, _)| name.as_str());
        check(names)?;
        let (names, values) = entries.into_iter().unzip();
        Ok((DottedNames(names), values))
    }

    /// The names in their order. A layout's [`path`](crate::Leaf::path) of such a leaf is its name,
    /// with a backslash before what would be read otherwise, as in `a.\*`.
    ///
    /// ```
    /// use flatleaf::implementing::DottedNames;
    ///
    /// let (names, _) = DottedNames::sort([("w.10", ()), ("w.9", ())])?;
    /// assert_eq!(names.iter().collect::<Vec<_>>(), ["w.9", "w.10"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Where a name stands among them; `None` if it is none of them. Takes time in the logarithm of
    /// their number.
    ///
    /// ```
    /// use flatleaf::implementing::DottedNames;
    ///
    /// let (names, _) = DottedNames::sort([("w.10", ()), ("w.9", ())])?;
    /// assert_eq!((names.position("w.10"), names.position("w")), (Some(1), None));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn position(&self, name: &str) -> Option<usize> {
        let found = self.0.binary_search_by(|own| order_of_names(own, name));
        found.ok()
    }

    /// Visits the tree of the names: `leaf` is called at each of them, in their order, and tells the
    /// visitor of that leaf, or of nothing.
    ///
    /// # Errors
    /// What `leaf` returns, and `is_too_deep`: more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::implementing::{DottedNames, LeafRef, Visitor};
    /// # use flatleaf::implementing::{Builder, VisitorMut};
    /// use flatleaf::{Layout, Result, Tree};
    ///
    /// struct Zeros(DottedNames);
    ///
    /// impl Tree for Zeros {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         self.0.visit(visitor, |_, visitor| visitor.leaf(LeafRef::from_slice(&[1], &[0.0_f32])))
    ///     }
    ///     // and `visit_mut` and `rebuild`, which go the same way
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let (names, _) = DottedNames::sort([("block.w", ()), ("block.b", ())])?;
    /// assert_eq!(Layout::of(&Zeros(names))?.leaves()[0].path(), "block.b");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn visit<'a>(
        &self,
        visitor: &mut dyn Visitor<'a>,
        mut leaf: impl FnMut(usize, &mut dyn Visitor<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut open = OpenKeys::default();
        for (index, name) in self.0.iter().enumerate() {
            open.go_to(name, visitor)?;
            leaf(index, visitor)?;
        }
        open.leave_to(0, visitor);
        Ok(())
    }

    /// Visits the tree of the names for writing, in the order of [`visit`](DottedNames::visit).
    ///
    /// # Errors
    /// What `leaf` returns, and `is_unstable`: a name that [`Tree::visit`](crate::Tree::visit) did
    /// not show.
    ///
    /// ```
    /// use flatleaf::implementing::{DottedNames, LeafMut, LeafRef, Visitor, VisitorMut};
    /// # use flatleaf::implementing::Builder;
    /// use flatleaf::{destructure, Result, Tree};
    ///
    /// struct One(DottedNames, [f32; 1]);
    ///
    /// impl Tree for One {
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         self.0.visit(visitor, |_, visitor| visitor.leaf(LeafRef::from_slice(&[1], &self.1)))
    ///     }
    ///     fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
    ///         let mut slice = Some(&mut self.1);
    ///         self.0.visit_mut(visitor, |_, visitor| {
    ///             visitor.leaf(LeafMut::from_slice(&[1], slice.take().expect("one name")))
    ///         })
    ///     }
    ///     // and `rebuild`
    ///     # fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> { Err(flatleaf::Error::custom("not here")) }
    /// }
    ///
    /// let mut one = One(DottedNames::sort([("block.w", ())])?.0, [1.0]);
    /// let (_, layout) = destructure(&one)?;
    /// layout.restructure_into(&mut one, &[2.0])?;
    /// assert_eq!(one.1, [2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn visit_mut<'a>(
        &self,
        visitor: &mut dyn VisitorMut<'a>,
        mut leaf: impl FnMut(usize, &mut dyn VisitorMut<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut open = OpenKeys::default();
        for (index, name) in self.0.iter().enumerate() {
            open.go_to(name, visitor)?;
            leaf(index, visitor)?;
        }
        open.leave_to(0, visitor);
        Ok(())
    }

    /// Makes a new value for each name, in the order of [`visit`](DottedNames::visit).
    ///
    /// # Errors
    /// What `leaf` returns.
    ///
    /// ```
    /// use flatleaf::implementing::{Builder, DottedNames, LeafRef, Visitor};
    /// # use flatleaf::implementing::VisitorMut;
    /// use flatleaf::{destructure, Result, Tree};
    ///
    /// struct Scalars(DottedNames, Vec<[f32; 1]>);
    ///
    /// impl Tree for Scalars {
    ///     fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
    ///         let scalars = self.0.rebuild(builder, |index, builder| {
    ///             let elements = builder.leaf::<f32>(LeafRef::from_slice(&[1], &self.1[index]))?;
    ///             Ok([elements[0]])
    ///         });
    ///         Ok(Scalars(self.0.clone(), scalars?))
    ///     }
    ///     fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
    ///         self.0.visit(visitor, |index, visitor| visitor.leaf(LeafRef::from_slice(&[1], &self.1[index])))
    ///     }
    ///     // and `visit_mut`
    ///     # fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> { Ok(()) }
    /// }
    ///
    /// let (names, scalars) = DottedNames::sort([("b", [1.0]), ("a", [2.0])])?;
    /// let old = Scalars(names, scalars);
    /// let (_, layout) = destructure(&old)?;
    /// assert_eq!(layout.restructure(&old, &[3.0, 4.0])?.1, [[3.0], [4.0]]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn rebuild<T>(
        &self,
        builder: &mut Builder<'_>,
        mut leaf: impl FnMut(usize, &mut Builder<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut open = OpenKeys::default();
        let mut made = Vec::with_capacity(self.0.len());
        for (index, name) in self.0.iter().enumerate() {
            open.go_to(name, builder)?;
            made.push(leaf(index, builder)?);
        }
        open.leave_to(0, builder);
        Ok(made)
    }
}

/// Looks for names that cannot stand in one tree: one that comes twice, and one that is the
/// beginning of another. In the order of the names they are neighbours.
///
/// # Errors
/// `is_duplicate`, with the name, or both.
pub(super) fn check<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<()> {
    let mut names = names.into_iter();
    let Some(mut name) = names.next() else {
        return Ok(());
    };
    for next in names {
        let mut keys = keys_of_name(next);
        let is_beginning = keys_of_name(name).all(|key| keys.next() == Some(key));
        if is_beginning && keys.next().is_none() {
            return Err(Error::duplicate(name.to_owned()));
        }
        if is_beginning {
            return Err(Error::below_a_leaf(name, next));
        }
        name = next;
    }
    Ok(())
}

/// What goes down to a child and up again.
pub(super) trait Levels {
    fn go_down(&mut self, key: Key<'_>) -> Result<()>;
    fn go_up(&mut self, key: Key<'_>);
}

impl Levels for dyn Visitor<'_> + '_ {
    fn go_down(&mut self, key: Key<'_>) -> Result<()> {
        self.enter(key, false).map(drop)
    }

    fn go_up(&mut self, key: Key<'_>) {
        self.leave(key);
    }
}

impl Levels for dyn VisitorMut<'_> + '_ {
    fn go_down(&mut self, key: Key<'_>) -> Result<()> {
        self.enter(key).map(drop)
    }

    fn go_up(&mut self, key: Key<'_>) {
        self.leave(key);
    }
}

impl Levels for Builder<'_> {
    fn go_down(&mut self, key: Key<'_>) -> Result<()> {
        self.enter(key).map(drop)
    }

    fn go_up(&mut self, key: Key<'_>) {
        self.leave(key);
    }
}

/// The keys from the root to where a walk over names is.
#[derive(Default)]
pub(super) struct OpenKeys<'n>(Vec<Cow<'n, str>>);

impl<'n> OpenKeys<'n> {
    /// Goes up to the last key that the name has in common with the one before it, and from there
    /// down to it. Two neighbours in the order of names differ in few keys.
    pub(super) fn go_to(
        &mut self,
        name: &'n str,
        levels: &mut (impl Levels + ?Sized),
    ) -> Result<()> {
        let keys: SmallVec<[Cow<'n, str>; 8]> = keys_of_name(name).collect();
        let in_common = self.0.iter().zip(&keys).take_while(|(a, b)| a == b).count();
        self.leave_to(in_common, levels);
        for key in keys.into_iter().skip(in_common) {
            levels.go_down(Key::Name(&key))?;
            self.0.push(key);
        }
        Ok(())
    }

    pub(super) fn leave_to(&mut self, len: usize, levels: &mut (impl Levels + ?Sized)) {
        while self.0.len() > len {
            if let Some(key) = self.0.pop() {
                levels.go_up(Key::Name(&key));
            }
        }
    }
}
