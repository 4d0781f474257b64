//! Flat → tree: a new one, or the old one in place.

use ndarray::{ArrayViewD, IxDyn};

use crate::check::{self, Contents, Purpose};
use crate::error::Result;
use crate::in_place::{self, Put};
use crate::layout::{AxisMap, Inner, Layout, Place};
use crate::matched::{self, Take};
use crate::transfer;
use crate::tree::{Builder, LeafMut, LeafRef, Sink, Tree, Values};

/// A new tree with the same values and the same ties, and nothing mutable shared with the old one.
///
/// `Clone` would share an `Arc<Mutex<_>>` or an `Rc<RefCell<_>>`: a target network made so *is* the policy. An `Rc` or `Arc` in which
/// nothing is trainable and nothing can change is shared.
///
/// # Errors
/// As [`Layout::of`]; a trait object that nothing tells how to rebuild.
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
    let contents = check::check(&layout.inner, tree, Purpose::Rebuild)?;
    rebuild(&layout.inner, tree, Values::Template, &contents)
}

impl Layout {
    /// A new tree: `tree` with the flat vector's values in its trainable leaves.
    ///
    /// Ties stay ties, in one new allocation; frozen and carried leaves are copied; an `Rc` or `Arc` in which nothing is trainable
    /// and nothing can change is shared. Shapes and the order of axes in memory stay. Each element is written once; large leaves are
    /// copied by all threads.
    ///
    /// # Errors
    /// A vector of another length; a leaf that is missing, unknown, of another shape or element type; a tree that is for reading
    /// only; a trait object that nothing tells how to rebuild; a poisoned lock or borrowed cell.
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
        self.check_f32()?;
        self.check_len(flat.len())?;
        let contents = check::check(&self.inner, tree, Purpose::Rebuild)?;
        let ready = ready_leaves(&self.inner, flat, &contents);
        rebuild(&self.inner, tree, Values::Flat { flat, ready }, &contents)
    }

    /// Writes the flat vector's values into a tree's trainable leaves, in place.
    ///
    /// Cells and locks are written through. A plain `Rc`, `Arc` or `ArcArray` that others hold too gets a new allocation, one a tie.
    /// Frozen and carried leaves are not touched. Allocates nothing for a plain tree of small leaves.
    ///
    /// # Errors
    /// As [`restructure`](Layout::restructure); then nothing has been written. Two parameters of the layout that the tree holds as
    /// one.
    pub fn restructure_into<T: Tree + ?Sized>(&self, tree: &mut T, flat: &[f32]) -> Result<()> {
        self.check_f32()?;
        self.check_len(flat.len())?;
        let contents = check::check(&self.inner, tree, Purpose::WriteTrainable)?;
        let large = transfer::is_parallel(self.len()).then(Vec::new);
        let values = Values::Flat { flat, ready: Vec::new() };
        let builder = Builder::new(&self.inner, values, &contents).in_place();
        let mut put = WriteFlat { layout: &self.inner, flat, large };
        in_place::write(&self.inner, tree, builder, &mut put)?;
        put.finish();
        Ok(())
    }

    /// Copies the leaves that are not trainable, frozen and carried, from one tree into another.
    ///
    /// With a moving average of the trainable ones this keeps a target network: its running statistics follow the policy's.
    ///
    /// # Errors
    /// A leaf that is missing, unknown, of another shape or element type, in either tree; a tree that is for reading only; a poisoned
    /// lock or borrowed cell. Then nothing has been written.
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
    pub fn copy_frozen<S: Tree + ?Sized, T: Tree + ?Sized>(&self, from: &S, to: &mut T) -> Result<()> {
        check::check(&self.inner, from, Purpose::ReadOthers)?;
        let contents = check::check(&self.inner, to, Purpose::WriteOthers)?;
        let mut others = CollectOthers { elements: vec![Vec::new(); self.others().len()] };
        matched::walk_all(&self.inner, from, &mut others)?;
        let builder = Builder::new(&self.inner, Values::Others(&others.elements), &contents).in_place();
        in_place::write(&self.inner, to, builder, &mut WriteOthers { layout: &self.inner, elements: &others.elements })
    }
}

/// Walks a tree that has been checked and makes a new one.
pub(crate) fn rebuild<T: Tree>(layout: &Inner, tree: &T, values: Values<'_>, contents: &Contents) -> Result<T> {
    let mut builder = Builder::new(layout, values, contents);
    tree.rebuild(&mut builder).map_err(|error| error.or_at(|| builder.path()))
}

/// Large leaves are copied by all threads before the walk, which then only puts them where they belong.
fn ready_leaves(layout: &Inner, flat: &[f32], contents: &Contents) -> Vec<Option<Vec<f32>>> {
    if !transfer::is_parallel(layout.len) {
        return Vec::new();
    }
    let is_ready = |index: usize| {
        let leaf = &layout.leaves[index];
        transfer::is_large(leaf.len()) && leaf.nodes.len() == 1 && !contents.is_strided(index)
    };
    let large: Vec<usize> = (0..layout.leaves.len()).filter(|&index| is_ready(index)).collect();
    let ranges: Vec<_> = large.iter().map(|&index| layout.leaves[index].range()).collect();
    let mut ready = vec![None; layout.leaves.len()];
    for (index, copy) in large.into_iter().zip(transfer::copies(flat, &ranges)) {
        ready[index] = Some(copy);
    }
    ready
}

struct WriteFlat<'l, 'a> {
    layout: &'l Inner,
    flat: &'l [f32],
    /// Leaves to be copied by all threads, where that is worth it.
    large: Option<Vec<(&'a mut [f32], &'l [f32])>>,
}

impl WriteFlat<'_, '_> {
    fn finish(self) {
        transfer::copy_all(&mut self.large.unwrap_or_default());
    }
}

impl<'a> Put<'a> for WriteFlat<'_, 'a> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable
    }

    #[inline(always)]
    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let values = &self.flat[place.range()];
        let bytes = match leaf.sink {
            Sink::Bytes(bytes) if place.axes.is_none() && bytes.len() == size_of_val(values) => bytes,
            _ => return self.write(place, leaf, values),
        };
        let to: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        match &mut self.large {
            Some(large) if transfer::is_large(values.len()) => large.push((to, values)),
            _ => to.copy_from_slice(values),
        }
        Ok(())
    }
}

impl WriteFlat<'_, '_> {
    /// A leaf that is no slice, or shows its leaf in another order.
    #[cold]
    #[inline(never)]
    fn write(&self, place: &Place, leaf: LeafMut<'_, '_>, values: &[f32]) -> Result<()> {
        let Some(axes) = &place.axes else { return leaf.write_bytes(bytemuck::cast_slice(values)) };
        let shape = self.layout.leaf(place.leaf).shape();
        leaf.write_bytes(bytemuck::cast_slice(&at_place(axes, shape, values)))
    }
}

/// A leaf's elements in the order of one of its places.
pub(crate) fn at_place<E: Copy>(axes: &AxisMap, shape: &[usize], elements: &[E]) -> Vec<E> {
    let view = ArrayViewD::from_shape(IxDyn(shape), elements).expect("a leaf has as many elements as its shape");
    axes.to_place(view).iter().copied().collect()
}

/// The elements of the leaves that are not trainable, as bytes, each as its first place shows it.
struct CollectOthers {
    elements: Vec<Vec<u8>>,
}

impl<'a> Take<'a> for CollectOthers {
    fn wants(&self, place: &Place) -> bool {
        place.first && !place.leaf.trainable
    }

    fn take(&mut self, place: &Place, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let bytes = &mut self.elements[place.leaf.index as usize];
        bytes.resize(leaf.len() * leaf.dtype.size(), 0);
        leaf.read_bytes(bytes)
    }
}

struct WriteOthers<'l> {
    layout: &'l Inner,
    elements: &'l [Vec<u8>],
}

impl<'a> Put<'a> for WriteOthers<'_> {
    fn wants(&self, place: &Place) -> bool {
        !place.leaf.trainable
    }

    fn put(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let bytes = &self.elements[place.leaf.index as usize];
        let Some(axes) = &place.axes else { return leaf.write_bytes(bytes) };
        let shape = &self.layout.leaf(place.leaf).shape;
        let elements: Vec<&[u8]> = bytes.chunks_exact(leaf.dtype.size()).collect();
        leaf.write_bytes(&at_place(axes, shape, &elements).concat())
    }
}
