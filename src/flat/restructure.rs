//! Flat → tree: a new one, or the old one in place.

use crate::element::{FlatElement, Sink};
use crate::error::{Error, Result};
use crate::layout::{Layout, LayoutData, Leaf, Place};
use crate::memory;
use crate::memory::blocks::Blocks;
use crate::slices::copies::{self, Copies};
use crate::slices::{AnyVec, Floats, FloatsMut};
use crate::threads;
use crate::traversal::borrow_all::{self, borrow_all_mut};
use crate::traversal::in_place::{self, WriteLeaf};
use crate::traversal::place_elements::{at_place, write_floats};
use crate::traversal::purpose::Purpose;
use crate::traversal::read_leaf::ReadLeaf;
use crate::traversal::rebuild::{Rebuilding, Values, rebuild};
use crate::traversal::validate;
use crate::traversal::validated::Validated;
use crate::tree::{LeafMut, LeafRef, Tree};

/// A new tree with the same values and the same ties, and nothing mutable shared with the old one.
///
/// `Clone` would share an `Arc<Mutex<_>>` or an `Rc<RefCell<_>>`: a target network made so *is* the
/// policy. An `Rc` or `Arc` in which nothing is trainable and nothing can change is shared.
///
/// # Errors
/// [`is_overlap`](crate::Error::is_overlap): views that share some elements but not all.
/// [`is_cycle`](crate::Error::is_cycle), [`is_too_deep`](crate::Error::is_too_deep): a node that
/// contains itself, or more than 1,024 levels. [`is_object`](crate::Error::is_object): a trait
/// object that nothing tells how to rebuild. [`is_read_only`](crate::Error::is_read_only): a tree
/// that can only be read. [`is_poisoned`](crate::Error::is_poisoned),
/// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
/// use flatleaf::{deep_clone, Layout};
///
/// let weight = Rc::new(RefCell::new(vec![1.0_f32]));
/// let policy = (weight.clone(), weight.clone());
/// let target = deep_clone(&policy)?;
/// weight.borrow_mut()[0] = 2.0;
/// assert_eq!(*target.0.borrow(), [1.0]);
/// assert!(Rc::ptr_eq(&target.0, &target.1));
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn deep_clone<T: Tree>(tree: &T) -> Result<T> {
    let layout = Layout::of(tree)?;
    let validated = validate::validate(&layout.inner, tree, Purpose::Rebuild)?;
    rebuild(&layout.inner, tree, Values::Template, &validated)
}

impl Layout {
    /// A new tree like `tree`, with the flat vector's values in its trainable leaves: the way back
    /// from [`gather`](Layout::gather). `tree` stays as it is; of its trainable leaves only the
    /// shapes are used.
    ///
    /// A parameter at several places is one new allocation, at all of them. Frozen and carried
    /// leaves are copied; an `Rc` or `Arc` in which nothing is trainable and nothing can change is
    /// shared with the old tree. Shapes and the order of axes in memory stay. Each element is
    /// written once; large leaves are copied by all threads. To write into a tree that is there,
    /// use [`restructure_into`](Layout::restructure_into).
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_element_type`](crate::Error::is_element_type): an f64 leaf, unless the planner
    /// was told to [round](crate::Planner::round_f64) it.
    /// [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::destructure;
    ///
    /// let model = (vec![1.0_f32, 2.0], vec![3.0_f32]);
    /// let (flat, layout) = destructure(&model)?;
    /// assert_eq!(layout.restructure(&model, &[7.0, 8.0, 9.0])?, (vec![7.0, 8.0], vec![9.0]));
    /// assert!(layout.restructure(&model, &[7.0]).unwrap_err().is_length());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn restructure<T: Tree>(&self, tree: &T, flat: &[f32]) -> Result<T> {
        self.restructure_as(tree, flat)
    }

    /// A new tree from a vector of another element type. Numbers that the type of their leaf does
    /// not hold are rounded to nearest, ties to even, once: from f64 to f16 too. For models that
    /// have leaves of f64.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::destructure_as;
    ///
    /// let model = (vec![1.0_f64, 2.0], vec![3.0_f32]);
    /// let (_, layout) = destructure_as::<f64>(&model)?;
    /// assert_eq!(layout.restructure_as(&model, &[0.1, 0.2, 0.3])?, (vec![0.1, 0.2], vec![0.3_f32]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn restructure_as<E, T>(&self, tree: &T, flat: &[E]) -> Result<T>
    where
        E: FlatElement,
        T: Tree,
    {
        self.check_element::<E>()?;
        self.check_len("the flat vector", flat.len())?;
        let layout = &self.inner;
        let validated = validate::validate(layout, tree, Purpose::Rebuild)?;
        let flat = Floats::of(flat);
        let ready = ready_leaves(layout, flat, &validated);
        let values = Values::Flat { flat, ready };
        rebuild(layout, tree, values, &validated)
    }

    /// Writes the flat vector's values into a tree's trainable leaves, in place.
    ///
    /// Cells and locks are written through. A plain `Rc`, `Arc` or `ArcArray` that others hold too
    /// gets a new allocation, one a tie. Frozen and carried leaves are not touched. Allocates
    /// nothing for a plain tree of small leaves.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): two parameters of the layout that the tree
    /// holds as one. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then
    /// nothing has been written. If a writer of a leaf's own fails, every other leaf is written,
    /// and the error names those that are not.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0, 2.0] });
    /// let layout = Layout::of(&model)?;
    /// layout.restructure_into(&mut model, &[7.0, 8.0])?;
    /// assert_eq!(model, tree!({ "w": [7.0, 8.0] }));
    /// assert!(layout.restructure_into(&mut model, &[0.0]).unwrap_err().is_length());
    /// assert_eq!(model, tree!({ "w": [7.0, 8.0] }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn restructure_into<T>(&self, tree: &mut T, flat: &[f32]) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        self.restructure_into_as(tree, flat)
    }

    /// Writes a vector of another element type into a tree's trainable leaves, in place. Numbers
    /// that the type of their leaf does not hold are rounded to nearest, ties to even, once. For
    /// models that have leaves of f64.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type. [`is_read_only`](crate::Error::is_read_only): a tree that can only be read.
    /// [`is_object`](crate::Error::is_object): a trait object that nothing tells how to rebuild.
    /// [`is_broken_tie`](crate::Error::is_broken_tie): two parameters of the layout that the tree
    /// holds as one. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then
    /// nothing has been written.
    ///
    /// ```
    /// use flatleaf::destructure_as;
    ///
    /// let mut model = (vec![1.0_f64], vec![2.0_f32]);
    /// let (_, layout) = destructure_as::<f64>(&model)?;
    /// layout.restructure_into_as(&mut model, &[0.1_f64, 0.2])?;
    /// assert_eq!(model, (vec![0.1], vec![0.2_f32])); // each as near as its type allows
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn restructure_into_as<E: FlatElement>(
        &self,
        tree: &mut (impl Tree + ?Sized),
        flat: &[E],
    ) -> Result<()> {
        self.check_element::<E>()?;
        self.check_len("the flat vector", flat.len())?;
        let layout = &self.inner;
        // Most trees are plain: one walk borrows all leaves, and nothing has been written if it fails.
        if let Some(slices) = borrow_all_mut(layout, tree) {
            copy_out(flat, slices);
            return Ok(());
        }
        let validated = validate::validate(layout, tree, Purpose::WriteTrainable)?;
        let values = Values::Flat {
            flat: Floats::of(flat),
            ready: Vec::new(),
        };
        let builder = Rebuilding::new(layout, values, &validated);
        let mut put = WriteFlat {
            layout,
            flat,
            copies: Copies::of(self.len()),
        };
        let written = in_place::write(layout, tree, builder.in_place(), &mut put);
        // Leaves that could be written are, even if another one could not.
        put.copies.finish();
        written
    }

    /// Copies the leaves that are not trainable, frozen and carried, from one tree into another.
    ///
    /// With a moving average of the trainable ones this keeps a target network: its running
    /// statistics follow the policy's.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing), [`is_unknown`](crate::Error::is_unknown),
    /// [`is_shape`](crate::Error::is_shape), [`is_element_type`](crate::Error::is_element_type): a
    /// leaf that is not there, that the layout has not got, or that has another shape or element
    /// type, in either tree. [`is_broken_tie`](crate::Error::is_broken_tie): places of one leaf
    /// that hold different bits. [`is_read_only`](crate::Error::is_read_only): a tree that can only
    /// be read. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then
    /// nothing has been written.
    ///
    /// ```
    /// use flatleaf::{Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32>, seen: Vec<u64> }
    ///
    /// let policy = Norm { scale: vec![1.0], mean: vec![0.5], seen: vec![10] };
    /// let mut target = Norm { scale: vec![2.0], mean: vec![0.0], seen: vec![0] };
    /// Layout::of(&policy)?.copy_frozen(&policy, &mut target)?;
    /// assert_eq!((target.scale, target.mean, target.seen), (vec![2.0], vec![0.5], vec![10]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn copy_frozen<S, T>(&self, from: &S, to: &mut T) -> Result<()>
    where
        S: Tree + ?Sized,
        T: Tree + ?Sized,
    {
        let layout = &self.inner;
        let mut others = CollectOthers {
            elements: vec![Vec::new(); self.others().len()],
        };
        validate::validate_and_read(layout, from, Purpose::ReadOthers, &mut others)?;
        let elements = &others.elements;
        let validated = validate::validate(layout, to, Purpose::WriteOthers)?;
        let builder = Rebuilding::new(layout, Values::Others(elements), &validated);
        let mut write = WriteOthers { layout, elements };
        in_place::write(layout, to, builder.in_place(), &mut write)
    }
}

/// Copies the flat vector to the slices of all leaves, large ones by all threads.
fn copy_out<E: FlatElement>(flat: &[E], mut slices: Vec<FloatsMut<'_>>) {
    let mut rest = flat;
    let mut copies = Copies::of(flat.len());
    for to in slices.drain(..) {
        let from = rest.split_off(..to.len());
        let from = from.expect("as long as the leaves together");
        copies.add(to, Floats::of(from));
    }
    copies.finish();
    borrow_all::give_back(slices);
}

/// Large leaves are copied by all threads before the walk, which then only puts them where they
/// belong.
fn ready_leaves(
    layout: &LayoutData,
    flat: Floats<'_>,
    validated: &Validated,
) -> Vec<Option<AnyVec>> {
    if !threads::is_parallel(layout.len) {
        return Vec::new();
    }
    let is_ready = |index: usize, leaf: &Leaf| {
        let has_one_place = leaf.nodes.len() == 1;
        copies::is_large(leaf.len()) && has_one_place && !validated.is_strided(index)
    };
    // In the order of the layout, nothing for those that are made when they are met.
    let leaves = || {
        let leaves = layout.leaves.iter().enumerate();
        leaves.map(|(index, leaf)| is_ready(index, leaf).then_some(leaf))
    };
    let sizes = leaves().flatten();
    let sizes = sizes.map(|leaf| leaf.len() * leaf.dtype.size());
    let mut blocks = Blocks::of(sizes.sum());
    let empty_vector = |leaf: Option<&Leaf>| {
        let leaf = leaf?;
        AnyVec::with_capacity(leaf.len(), leaf.dtype, &mut blocks)
    };
    let mut ready: Vec<Option<AnyVec>> = leaves().map(empty_vector).collect();
    let is_streamed = copies::is_streamed(layout.len);
    let leaves = layout.leaves.iter().zip(&mut ready);
    let mut to_fill: Vec<(&Leaf, &mut AnyVec)> = leaves
        .filter_map(|(leaf, ready)| Some((leaf, ready.as_mut()?)))
        .collect();
    threads::share(
        &mut to_fill,
        |(leaf, _)| leaf.len(),
        |(leaf, ready)| {
            let elements = flat.slice(leaf.range());
            ready.push(elements, is_streamed);
        },
    );
    ready
}

struct WriteFlat<'l, 'a, E> {
    layout: &'l LayoutData,
    flat: &'l [E],
    copies: Copies<'a, 'l>,
}

impl<'a, E: FlatElement> WriteLeaf<'a> for WriteFlat<'_, 'a, E> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable
    }

    #[inline(always)]
    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let values = &self.flat[place.range()];
        let size = values.len() * leaf.dtype.size();
        let bytes = match leaf.sink {
            Sink::Bytes(bytes) if place.axes.is_none() && bytes.len() == size => bytes,
            _ => return write_floats(self.layout, place, leaf, values),
        };
        let Some(to) = FloatsMut::from_bytes(leaf.dtype, bytes) else {
            return Err(Error::changed_leaf());
        };
        self.copies.add(to, Floats::of(values));
        Ok(())
    }
}

/// The elements of the leaves that are not trainable, as bytes, each as its first place shows it.
struct CollectOthers {
    elements: Vec<Vec<u8>>,
}

impl<'a> ReadLeaf<'a> for CollectOthers {
    fn wants(&self, place: &Place) -> bool {
        place.first && !place.leaf.trainable
    }

    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let bytes = &mut self.elements[place.leaf.index as usize];
        memory::try_extend_zeroed(bytes, leaf.size())?;
        leaf.read_bytes(bytes)
    }
}

struct WriteOthers<'l> {
    layout: &'l LayoutData,
    elements: &'l [Vec<u8>],
}

impl<'a> WriteLeaf<'a> for WriteOthers<'_> {
    fn wants(&self, place: &Place) -> bool {
        !place.leaf.trainable
    }

    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let bytes = &self.elements[place.leaf.index as usize];
        let Some(axes) = &place.axes else {
            return leaf.write_bytes(bytes);
        };
        let shape = &self.layout.leaf(place.leaf).shape;
        let elements = bytes.chunks_exact(leaf.dtype.size());
        let elements: Vec<&[u8]> = elements.collect();
        let in_order = at_place(axes, shape, &elements);
        leaf.write_bytes(&in_order.concat())
    }
}
