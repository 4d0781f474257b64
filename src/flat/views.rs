//! Leaves as arrays over the flat vector, without a copy.

use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};

use crate::error::{Error, Result};
use crate::layout::{Layout, Leaf};

impl Layout {
    /// The leaf at a path, any of its places, as an array over the flat vector. Its shape is the
    /// leaf's.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [5.0] }))?;
    /// assert_eq!(layout.view(&flat, "w")?[[1, 0]], 3.0);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view<'v>(&self, flat: &'v [f32], path: &str) -> Result<ArrayViewD<'v, f32>> {
        self.view_as(flat, path)
    }

    /// The leaf at a path, any of its places, as an array over a vector of any element type: of
    /// `f64`, or a mask with one flag an element. No element is copied.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{destructure_as, tree};
    ///
    /// let (flat, layout) = destructure_as::<f64>(&tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [5.0] }))?;
    /// assert_eq!(layout.view_as(&flat, "w")?[[1, 0]], 3.0_f64);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_as<'v, E>(&self, flat: &'v [E], path: &str) -> Result<ArrayViewD<'v, E>> {
        self.check_len("the flat vector", flat.len())?;
        let index = leaf_index(self, path)?;
        let leaf = &self.leaves()[index];
        let elements = &flat[leaf.range()];
        Ok(view(leaf, elements))
    }

    /// The leaf at a path, any of its places, as an array over the flat vector, to be written. A
    /// [`FlatGrad`](crate::FlatGrad) has a [`view_mut`](crate::FlatGrad::view_mut) of its own,
    /// after which the leaf is present.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [5.0] }))?;
    /// layout.view_mut(&mut flat, "w")?[[1, 0]] = 0.0;
    /// assert_eq!(flat, [1.0, 2.0, 0.0, 4.0, 5.0]);
    /// assert!(layout.view_mut(&mut flat, "c").unwrap_err().is_unknown());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_mut<'v>(&self, flat: &'v mut [f32], path: &str) -> Result<ArrayViewMutD<'v, f32>> {
        self.view_mut_as(flat, path)
    }

    /// The leaf at a path, any of its places, as an array over a vector of any element type, to be
    /// written: `f64`, or a mask that is filled leaf by leaf.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let mut decays = vec![true; layout.len()]; // a mask beside the vector
    /// layout.view_mut_as(&mut decays, "b")?.fill(false);
    /// assert_eq!(decays, [true, true, false]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_mut_as<'v, E>(
        &self,
        flat: &'v mut [E],
        path: &str,
    ) -> Result<ArrayViewMutD<'v, E>> {
        self.check_len("the flat vector", flat.len())?;
        let index = leaf_index(self, path)?;
        let leaf = &self.leaves()[index];
        let elements = &mut flat[leaf.range()];
        Ok(view_mut(leaf, elements))
    }

    /// All leaves in flat order, each with its array.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [[1.0, 2.0]], "b": [5.0] }))?;
    /// let sums: Vec<_> = layout.views(&flat)?.map(|(leaf, array)| (leaf.path(), array.sum())).collect();
    /// assert_eq!(sums, [("w", 3.0), ("b", 5.0)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn views<'v>(&'v self, flat: &'v [f32]) -> Result<Views<'v, f32>> {
        self.views_as(flat)
    }

    /// All leaves in flat order, each with its array over a vector of any element type: of `f64`,
    /// or a mask with one flag an element.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let moved = [true, false, false]; // one flag an element
    /// let counts = layout.views_as(&moved)?.map(|(leaf, flags)| (leaf.path(), flags.iter().filter(|flag| **flag).count()));
    /// assert_eq!(counts.collect::<Vec<_>>(), [("w", 1), ("b", 0)]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn views_as<'v, E>(&'v self, flat: &'v [E]) -> Result<Views<'v, E>> {
        self.check_len("the flat vector", flat.len())?;
        Ok(Views {
            leaves: self.leaves().iter(),
            flat,
        })
    }

    /// All leaves in flat order, each with its array for writing.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{destructure, tree};
    ///
    /// let (mut flat, layout) = destructure(&tree!({ "w": [[1.0, 2.0]], "b": [5.0] }))?;
    /// for (leaf, mut array) in layout.views_mut(&mut flat)? {
    ///     array.fill(if leaf.shape().len() > 1 { 0.1 } else { 0.0 });
    /// }
    /// assert_eq!(flat, [0.1, 0.1, 0.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn views_mut<'v>(&'v self, flat: &'v mut [f32]) -> Result<ViewsMut<'v, f32>> {
        self.views_mut_as(flat)
    }

    /// All leaves in flat order, each with its array over a vector of any element type, to be
    /// written. The arrays can be held all at once.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{destructure_as, tree};
    ///
    /// let (mut flat, layout) = destructure_as::<f64>(&tree!({ "w": [1.0, 3.0], "b": [5.0] }))?;
    /// layout.views_mut_as(&mut flat)?.for_each(|(_, mut array)| array /= array.sum());
    /// assert_eq!(flat, [0.25, 0.75, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn views_mut_as<'v, E>(&'v self, flat: &'v mut [E]) -> Result<ViewsMut<'v, E>> {
        self.check_len("the flat vector", flat.len())?;
        Ok(ViewsMut {
            leaves: self.leaves().iter(),
            rest: flat,
        })
    }
}

/// The index of the trainable leaf at a path.
///
/// # Errors
/// A path at which there is none.
pub(super) fn leaf_index(layout: &Layout, path: &str) -> Result<usize> {
    let Some(index) = layout.index_of(path) else {
        let expected = "the path of a trainable leaf";
        let found = layout.found_at(path);
        return Err(Error::unknown(path.to_owned(), expected, found));
    };
    Ok(index)
}

/// Iterates over the leaves of a layout and their arrays. Made by [`Layout::views`].
///
/// ```
/// use flatleaf::{destructure, tree};
///
/// let (flat, layout) = destructure(&tree!({ "w": [[1.0, 2.0]], "b": [5.0] }))?;
/// let mut views = layout.views(&flat)?;
/// assert_eq!(views.len(), 2);
/// let (leaf, array) = views.next().unwrap();
/// assert_eq!((leaf.path(), array[[0, 1]]), ("w", 2.0));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Views<'v, E> {
    leaves: std::slice::Iter<'v, Leaf>,
    flat: &'v [E],
}

impl<'v, E> Iterator for Views<'v, E> {
    type Item = (&'v Leaf, ArrayViewD<'v, E>);

    fn next(&mut self) -> Option<Self::Item> {
        let leaf = self.leaves.next()?;
        let elements = &self.flat[leaf.range()];
        Some((leaf, view(leaf, elements)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.leaves.size_hint()
    }
}

/// Iterates over the leaves of a layout and their arrays, for writing. Made by
/// [`Layout::views_mut`].
///
/// ```
/// use flatleaf::{destructure, tree};
///
/// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0], "b": [5.0] }))?;
/// let mut arrays: Vec<_> = layout.views_mut(&mut flat)?.map(|(_, array)| array).collect(); // all of them at once
/// let sum = arrays[0].sum();
/// arrays[1].fill(sum);
/// assert_eq!(flat, [1.0, 2.0, 3.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Debug)]
pub struct ViewsMut<'v, E> {
    leaves: std::slice::Iter<'v, Leaf>,
    /// The flat vector from the next leaf on.
    rest: &'v mut [E],
}

impl<'v, E> Iterator for ViewsMut<'v, E> {
    type Item = (&'v Leaf, ArrayViewMutD<'v, E>);

    fn next(&mut self) -> Option<Self::Item> {
        let leaf = self.leaves.next()?;
        let rest = std::mem::take(&mut self.rest);
        let (elements, rest) = rest.split_at_mut(leaf.len());
        self.rest = rest;
        Some((leaf, view_mut(leaf, elements)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.leaves.size_hint()
    }
}

impl<E> ExactSizeIterator for Views<'_, E> {}
impl<E> ExactSizeIterator for ViewsMut<'_, E> {}

fn view<'v, E>(leaf: &Leaf, elements: &'v [E]) -> ArrayViewD<'v, E> {
    let shape = IxDyn(leaf.shape());
    let view = ArrayViewD::from_shape(shape, elements);
    view.expect("a leaf has as many elements as its shape")
}

pub(super) fn view_mut<'v, E>(leaf: &Leaf, elements: &'v mut [E]) -> ArrayViewMutD<'v, E> {
    let shape = IxDyn(leaf.shape());
    let view = ArrayViewMutD::from_shape(shape, elements);
    view.expect("a leaf has as many elements as its shape")
}
