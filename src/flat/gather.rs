//! Tree → flat: the values of a tree's trainable leaves.

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::{Layout, LayoutData, Place};
use crate::traversal::deferred_copies::DeferredCopies;
use crate::traversal::purpose::Purpose;
use crate::traversal::read_leaf::ReadLeaf;
use crate::traversal::validate;
use crate::tree::{LeafRef, Tree};

/// The flat vector of a tree, and its layout.
///
/// The layout says which leaf is where in the vector. It is good for every tree with the same
/// paths: gradients are gathered by it, and a vector goes back into a tree by
/// [`restructure`](Layout::restructure). Who has a layout already calls [`gather`](Layout::gather),
/// which this is after [`Layout::of`]. Optimisers.jl's `destructure`, JAX's `ravel_pytree`.
///
/// # Errors
/// [`is_overlap`](crate::Error::is_overlap): views that share some elements but not all.
/// [`is_cycle`](crate::Error::is_cycle), [`is_too_deep`](crate::Error::is_too_deep): a node that
/// contains itself, or more than 1,024 levels. [`is_element_type`](crate::Error::is_element_type):
/// an f64 leaf for a vector of f32, unless the planner was told to
/// [round](crate::Planner::round_f64) it. [`is_poisoned`](crate::Error::is_poisoned),
/// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
/// [`is_out_of_memory`](crate::Error::is_out_of_memory): more elements than there is memory for.
///
/// ```
/// use flatleaf::{destructure, tree};
///
/// let (flat, layout) = destructure(&tree!({ "weight": [[1.0, 2.0]], "bias": [0.5] }))?;
/// assert_eq!(flat, [1.0, 2.0, 0.5]);
/// assert_eq!(layout.leaf("bias").unwrap().range(), 2..3);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn destructure<T: Tree + ?Sized>(tree: &T) -> Result<(Vec<f32>, Layout)> {
    destructure_as(tree)
}

/// The flat vector of a tree in another element type, and its layout. `f64` holds leaves of any
/// float type without loss; it is the element type for a model that has leaves of f64.
///
/// # Errors
/// [`is_overlap`](crate::Error::is_overlap): views that share some elements but not all.
/// [`is_cycle`](crate::Error::is_cycle), [`is_too_deep`](crate::Error::is_too_deep): a node that
/// contains itself, or more than 1,024 levels. [`is_element_type`](crate::Error::is_element_type):
/// an f64 leaf for a vector of f32, unless the planner was told to
/// [round](crate::Planner::round_f64) it. [`is_poisoned`](crate::Error::is_poisoned),
/// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
/// [`is_out_of_memory`](crate::Error::is_out_of_memory): more elements than there is memory for.
///
/// ```
/// use flatleaf::{destructure, destructure_as};
///
/// let model = (vec![1.0_f32], vec![0.1_f64]);
/// let (flat, layout) = destructure_as::<f64>(&model)?;
/// assert_eq!(flat, [1.0, 0.1]);
/// assert_eq!(layout.restructure_as(&model, &[2.0, 0.2])?, (vec![2.0], vec![0.2]));
/// assert!(destructure(&model).unwrap_err().is_element_type());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn destructure_as<E>(tree: &(impl Tree + ?Sized)) -> Result<(Vec<E>, Layout)>
where
    E: FlatElement,
{
    let layout = Layout::of(tree)?;
    let flat = layout.gather_as(tree)?;
    Ok((flat, layout))
}

impl Layout {
    /// The values of a tree's trainable leaves, one after the other in the order of
    /// [`leaves`](Layout::leaves), as a new vector of [`len`](Layout::len) elements. A parameter at
    /// several places is in it once; frozen and carried leaves are not.
    ///
    /// The tree is matched by path: it may be of another type than the one that was planned, and
    /// name its children in another order. Cost: one walk (about 15 ns a small leaf) and one copy;
    /// large leaves are copied by all threads. What is strided or behind a guard is copied twice.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type; all such leaves in one error. [`is_element_type`](crate::Error::is_element_type): an
    /// f64 leaf, unless the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    /// [`is_out_of_memory`](crate::Error::is_out_of_memory): more elements than there is memory
    /// for.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// assert_eq!(layout.gather(&tree!({ "b": [30.0], "w": [10.0, 20.0] }))?, [10.0, 20.0, 30.0]); // by path
    /// assert_eq!(layout.gather(&tree!({ "w": [1.0, 2.0] })).unwrap_err().path(), Some("b"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather<T: Tree + ?Sized>(&self, tree: &T) -> Result<Vec<f32>> {
        self.gather_as(tree)
    }

    /// The values of a tree's trainable leaves as a new flat vector of another element type. `f64`
    /// holds leaves of any float type without loss, so for it no element type is an error. A tied
    /// leaf is read once.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32,
    /// unless the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold different
    /// bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    /// [`is_out_of_memory`](crate::Error::is_out_of_memory): more elements than there is memory
    /// for.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let model = (vec![1.0_f32], vec![0.1_f64]);
    /// assert_eq!(Layout::of(&model)?.gather_as::<f64>(&model)?, [1.0, 0.1]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_as<E>(&self, tree: &(impl Tree + ?Sized)) -> Result<Vec<E>>
    where
        E: FlatElement,
    {
        self.check_element::<E>()?;
        // The vector is made when the whole tree has agreed: a mistake costs no memory.
        let copies = values(&self.inner, tree)?;
        copies.into_vec(&self.inner)
    }

    /// Gathers the values of a tree's trainable leaves into a vector that is there: all of it is
    /// overwritten. Allocates nothing for a plain tree of small leaves; large leaves are copied by
    /// all threads.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold
    /// different bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// slice is as it was.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let (model, mut flat) = (tree!({ "w": [1.0, 2.0] }), vec![0.0; 2]);
    /// Layout::of(&model)?.gather_into(&model, &mut flat)?;
    /// assert_eq!(flat, [1.0, 2.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_into<T>(&self, tree: &T, flat: &mut [f32]) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        self.gather_into_as(tree, flat)
    }

    /// Gathers into a vector of another element type that is there. `f64` holds leaves of any float
    /// type without loss, so for it no element type is an error.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_broken_tie`](crate::Error::is_broken_tie): places of one parameter that hold
    /// different bits. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// slice is as it was.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let (model, mut flat) = ((vec![1.0_f32], vec![0.1_f64]), vec![0.0_f64; 2]);
    /// let layout = Layout::of(&model)?;
    /// layout.gather_into_as(&model, &mut flat)?;
    /// assert_eq!(flat, [1.0, 0.1]);
    /// assert!(layout.gather_into_as(&model, &mut [0.0_f32; 2]).unwrap_err().is_element_type());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_into_as<E: FlatElement>(
        &self,
        tree: &(impl Tree + ?Sized),
        flat: &mut [E],
    ) -> Result<()> {
        self.check_element::<E>()?;
        self.check_len("the flat vector", flat.len())?;
        // Noted down first and copied then, so that a tree which does not agree writes nothing.
        let copies = values(&self.inner, tree)?;
        copies.copy_to(flat);
        Ok(())
    }
}

fn values<'a, E: FlatElement>(
    layout: &LayoutData,
    tree: &'a (impl Tree + ?Sized),
) -> Result<DeferredCopies<'a, E>> {
    // Slices are noted down in the layout's order, whatever the order in which the tree shows them.
    let copies = DeferredCopies::new(layout);
    let mut values = GatherValues(copies);
    validate::validate_and_read(layout, tree, Purpose::ReadValues, &mut values)?;
    Ok(values.0)
}

struct GatherValues<'a, E>(DeferredCopies<'a, E>);

impl<'a, E: FlatElement> ReadLeaf<'a> for GatherValues<'a, E> {
    /// Every place of a tie holds the same bits: the first one is read.
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        // A frozen leaf is validated all the same, but nobody reads its elements.
        place.first && place.leaf.trainable
    }

    #[inline]
    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        self.0.push(place, leaf)
    }
}
