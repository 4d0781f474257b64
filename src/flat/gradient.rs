//! A flat gradient: elements, and which leaves they are a gradient of.

use std::ops::{Deref, DerefMut, RangeInclusive};

use ndarray::{ArrayViewD, ArrayViewMutD};

use super::presence::{Presence, Zeros};
use super::views;
use crate::element::{FlatElement, FloatElement};
use crate::error::Result;
use crate::layout::Layout;
use crate::memory;
use crate::slices::copies;
use crate::slices::{self, Floats, FloatsMut};
use crate::traversal::tied_places::TieReading;

/// A flat gradient that remembers which leaves had none. Dereferences to its elements, which are of
/// any float type: `bf16` takes half of the bytes, and a step reads it as it is.
///
/// An absent leaf is zeros here, but it is not a gradient of zero: an optimiser leaves an absent
/// leaf and its state alone. Whoever writes a leaf makes it present: [`leaf_mut`](Self::leaf_mut)
/// and [`view_mut`](Self::view_mut) whatever they write, and writing through the slice that this
/// dereferences to, where it leaves anything but zeros. To say that a gradient *is* zero after
/// writing through the slice, call [`set_present`](Self::set_present).
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let layout = Layout::of(&tree!({ "x": [1.0, 2.0], "y": [3.0] }))?;
/// let mut grad = layout.gather_grad(&tree!({ "x": [5.0, 6.0], "y": null }))?;
/// assert_eq!(*grad, [5.0, 6.0, 0.0]);
/// assert!(grad.is_present(0) && !grad.is_present(1));
/// grad[2] = 0.5;
/// assert!(grad.is_present(1));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FlatGrad<E = f32> {
    elements: Vec<E>,
    presence: Presence,
    /// Whether somebody has had the elements to write to: then a leaf that is said to be absent may
    /// hold more than zeros.
    was_lent: bool,
}

/// Two are equal if they have equal elements and the same leaves of equal layouts, however the
/// places of ties were read.
impl<E: FloatElement> PartialEq for FlatGrad<E> {
    fn eq(&self, other: &Self) -> bool {
        if self.layout() != other.layout() || self.elements != other.elements {
            return false;
        }
        let mut leaves = 0..self.layout().leaves().len();
        leaves.all(|leaf| self.is_present(leaf) == other.is_present(leaf))
    }
}

impl<E: FloatElement> FlatGrad<E> {
    /// A gradient that is absent at every leaf: a buffer for [`Layout::gather_grad_into`], or the
    /// beginning of a sum. Memory that nobody writes is not touched.
    ///
    /// # Panics
    /// If there is no memory for it. Where the layout comes from a file that nobody has vouched
    /// for, `gather_grad(&())` makes an absent gradient too and returns an error.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let mut sum: FlatGrad = FlatGrad::zeros(&layout); // of a step's batches
    /// for batch in [tree!({ "w": [1.0, 0.0] }), tree!({ "w": [0.0, 1.0] })] {
    ///     sum.add(&layout.gather_grad(&batch)?)?;
    /// }
    /// assert_eq!((&sum[..2], sum.is_present(0), sum.is_present(1)), (&[1.0, 1.0][..], true, false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn zeros(layout: &Layout) -> Self {
        Self::try_zeros(layout).unwrap_or_else(|error| panic!("{error}"))
    }

    /// # Errors
    /// No memory for it.
    pub(crate) fn try_zeros(layout: &Layout) -> Result<Self> {
        Ok(FlatGrad {
            elements: memory::try_zeroed(layout.len())?,
            presence: Presence::none(layout),
            was_lent: false,
        })
    }

    /// A vector that a solver made, as a gradient that is present at every leaf. It is not copied.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): a vector that is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// let grad = FlatGrad::from_flat(&layout, vec![0.5, 0.0])?;
    /// assert!(grad.is_present(0));
    /// assert!(FlatGrad::from_flat(&layout, vec![0.5]).unwrap_err().is_length());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn from_flat(layout: &Layout, elements: Vec<E>) -> Result<Self> {
        layout.check_len("the gradient", elements.len())?;
        Ok(FlatGrad {
            elements,
            presence: Presence::all(layout),
            was_lent: false,
        })
    }

    /// Makes it absent at every leaf again, all zeros, and keeps its memory. Touches only what is
    /// present or may have been written.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// let mut grad = layout.gather_grad(&tree!({ "w": [3.0, 4.0] }))?;
    /// grad.reset();
    /// assert_eq!(grad, FlatGrad::zeros(&layout));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn reset(&mut self) {
        self.presence.begin(self.known_zeros());
        self.end_gathering();
    }

    /// Whether leaf `index` of [`Layout::leaves`] has a gradient: one was gathered at any of its
    /// places, or somebody wrote it.
    ///
    /// Costs a look at the leaf's elements if it is absent and the slice has been borrowed mutably
    /// since the gradient was gathered.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let grad = Layout::of(&tree!({ "a": [1.0], "b": [2.0] }))?.gather_grad(&tree!({ "a": [0.0] }))?;
    /// assert_eq!((&*grad, grad.is_present(0), grad.is_present(1)), (&[0.0, 0.0][..], true, false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present(&self, index: usize) -> bool {
        self.presence.is_present(index) || (self.was_lent && self.holds_more_than_zeros(index))
    }

    /// Whether the leaf at a path, any of its places, has a gradient.
    ///
    /// # Panics
    /// If the layout has no trainable leaf at the path: a misspelt path is no absent leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "weight": [1.0], "bias": [2.0] }))?;
    /// let grad = layout.gather_grad(&tree!({ "weight": [0.5] }))?;
    /// assert!(grad.is_present_at("weight") && !grad.is_present_at("bias"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_present_at(&self, path: &str) -> bool {
        self.is_present(self.presence.index_at(path))
    }

    /// Says whether leaf `index` has a gradient: for a vector that was computed elsewhere. A leaf
    /// that is made absent becomes zeros; one that is made present keeps its elements, zeros
    /// included.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let mut grad = FlatGrad::from_flat(&layout, vec![0.5, 7.0])?;
    /// grad.set_present(1, false); // the solver held `b`
    /// assert_eq!((&*grad, grad.is_present(1)), (&[0.5, 0.0][..], false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn set_present(&mut self, index: usize, is_present: bool) {
        if !is_present && self.is_present(index) {
            let range = self.layout().leaves()[index].range();
            self.elements[range].fill(E::zeroed());
        }
        self.presence.set(index, is_present);
    }

    /// Says whether the leaf at a path, any of its places, has a gradient:
    /// [`view_grad`](Layout::view_grad) makes all leaves present, and a backward pass knows which it
    /// did not reach. A leaf that is made absent becomes zeros.
    ///
    /// # Panics
    /// If the layout has no trainable leaf at the path: a misspelt path is no absent leaf.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let mut grad = FlatGrad::from_flat(&layout, vec![0.5, 7.0])?;
    /// grad.set_present_at("b", false);
    /// assert_eq!((&*grad, grad.is_present_at("b")), (&[0.5, 0.0][..], false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn set_present_at(&mut self, path: &str, is_present: bool) {
        self.set_present(self.presence.index_at(path), is_present);
    }

    /// How the gradients at the places of leaf `index` were read, if several of its places had one:
    /// summed, or counted once because the places showed one cell.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{Layout, TieReading};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), shared))?;
    /// let grad = layout.gather_grad(&(vec![1.0_f32], vec![2.0_f32]))?;
    /// assert_eq!(grad.tie_reading(0), Some(TieReading::Summed));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn tie_reading(&self, index: usize) -> Option<TieReading> {
        self.presence.tie_reading(index)
    }

    /// The elements of leaf `index`, to be written; the leaf is present from now on.
    ///
    /// # Panics
    /// If there is no such leaf.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    /// grad.leaf_mut(1).fill(0.0); // a gradient of zero is a gradient
    /// assert!(!grad.is_present(0) && grad.is_present(1));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_mut(&mut self, index: usize) -> &mut [E] {
        self.presence.set(index, true);
        let range = self.layout().leaves()[index].range();
        &mut self.elements[range]
    }

    /// The gradient of the leaf at a path, any of its places, as an array of the leaf's shape over
    /// this vector. Zeros where it is absent.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [3.0] }))?;
    /// let grad = layout.gather_grad(&tree!({ "w": [[0.5, 0.25]] }))?;
    /// assert_eq!(grad.view("w")?[[0, 1]], 0.25);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view(&self, path: &str) -> Result<ArrayViewD<'_, E>> {
        self.layout().view_as(&self.elements, path)
    }

    /// The gradient of the leaf at a path, any of its places, as an array to be written; the leaf
    /// is present from now on.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown): a path at which there is no trainable leaf.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [[1.0, 2.0]], "b": [3.0] }))?;
    /// let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    /// grad.view_mut("w")?[[0, 1]] = 0.25;
    /// assert_eq!(*grad, [0.0, 0.25, 0.0]);
    /// assert!(grad.is_present_at("w") && !grad.is_present_at("b"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_mut(&mut self, path: &str) -> Result<ArrayViewMutD<'_, E>> {
        let index = views::leaf_index(self.layout(), path)?;
        self.presence.set(index, true);
        let leaf = &self.presence.layout().leaves()[index];
        let elements = &mut self.elements[leaf.range()];
        Ok(views::view_mut(leaf, elements))
    }

    /// The layout it belongs to.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let grad = Layout::of(&tree!({ "w": [1.0], "b": [2.0] }))?.gather_grad(&tree!({ "w": [0.5] }))?;
    /// let leaves = grad.layout().leaves().iter().enumerate();
    /// let absent: Vec<_> = leaves.filter(|(index, _)| !grad.is_present(*index)).map(|(_, leaf)| leaf.path()).collect();
    /// assert_eq!(absent, ["b"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn layout(&self) -> &Layout {
        self.presence.layout()
    }

    /// The elements, without what is known of them. Nothing is copied.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let grad = Layout::of(&tree!({ "w": [1.0, 2.0] }))?.gather_grad(&tree!({ "w": [0.5, 0.0] }))?;
    /// let elements: Vec<f32> = grad.into_vec(); // not copied
    /// assert_eq!(elements, [0.5, 0.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn into_vec(self) -> Vec<E> {
        self.elements
    }

    fn holds_more_than_zeros(&self, index: usize) -> bool {
        let range = self.layout().leaves()[index].range();
        // A NaN is not zero; −0 is.
        self.elements[range].iter().any(|x| *x != E::default())
    }

    pub(super) fn known_zeros(&self) -> Zeros {
        if self.was_lent {
            Zeros::Nowhere
        } else {
            Zeros::WhereAbsent
        }
    }

    /// The elements and the presence, for a gradient to be gathered into them.
    pub(crate) fn parts_mut(&mut self) -> (&mut [E], &mut Presence) {
        (&mut self.elements, &mut self.presence)
    }

    /// Zeros where nothing was gathered.
    pub(super) fn end_gathering(&mut self) {
        let elements = &mut self.elements;
        self.presence
            .take_stale(|range| elements[range].fill(E::zeroed()));
        self.was_lent = false;
    }

    /// The elements, for arithmetic after which absent leaves are zeros still, or are made so by
    /// [`clear_absent`](Self::clear_absent).
    pub(crate) fn elements_mut(&mut self) -> &mut [E] {
        &mut self.elements
    }

    /// Zeros at absent leaves, which 0 · NaN is not.
    pub(crate) fn clear_absent(&mut self) {
        let leaves = self.presence.layout().leaves().iter().enumerate();
        for (index, leaf) in leaves {
            if !self.presence.is_present(index) {
                self.elements[leaf.range()].fill(E::zeroed());
            }
        }
    }
}

/// Sums, which need a type that holds them.
impl<E: FlatElement> FlatGrad<E> {
    /// Adds another gradient: accumulation over the batches of one step. A leaf is present if it is
    /// in either; one that is in the other only is copied, bit for bit.
    ///
    /// Reads both once; large vectors are added by all threads.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout; this one
    /// is as it was.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "x": [1.0], "y": [2.0], "z": [3.0] }))?;
    /// let mut grad = layout.gather_grad(&tree!({ "x": [1.0], "y": [2.0] }))?;
    /// grad.add(&layout.gather_grad(&tree!({ "y": [10.0] }))?)?;
    /// assert_eq!(*grad, [1.0, 12.0, 0.0]);
    /// assert!(grad.is_present(0) && grad.is_present(1) && !grad.is_present(2));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn add(&mut self, other: &FlatGrad<E>) -> Result<()> {
        self.add_as(other)
    }

    /// Adds a gradient of another element type: what batches gave in `bf16` to a sum in `f32`. A leaf
    /// is present if it is in either; one that is in the other only is copied.
    ///
    /// Cost: both are read once; a block at a time is converted, so there is no copy of the other.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout; this one
    /// is as it was.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use flatleaf::{FlatGrad, Layout};
    /// use half::bf16;
    ///
    /// let layout = Layout::of(&vec![0.0_f32])?;
    /// let batch = FlatGrad::<bf16>::from_flat(&layout, vec![bf16::ONE])?;
    /// let mut sum = FlatGrad::<f32>::zeros(&layout);
    /// for _ in 0..1_000 {
    ///     sum.add_as(&batch)?;
    /// }
    /// assert_eq!(*sum, [1_000.0]); // a sum in bf16 ends at 256
    /// # }
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn add_as<F: FloatElement>(&mut self, other: &FlatGrad<F>) -> Result<()> {
        self.layout().check_same(other.layout())?;
        let count = self.layout().leaves().len();
        let present = (0..count).filter(|&leaf| other.is_present(leaf));
        let present: Vec<usize> = present.collect();
        // Neighbours that are in both, or both in the other only, are one slice.
        let meet = |&a: &usize, &b: &usize| {
            let are_alike = self.is_present(a) == self.is_present(b);
            b == a + 1 && are_alike
        };
        let runs = present.chunk_by(meet);
        let runs = runs.map(|run| run[0]..=run[run.len() - 1]);
        let runs: Vec<RangeInclusive<usize>> = runs.collect();
        for run in runs {
            let is_present = self.is_present(*run.start());
            let leaves = self.presence.layout().leaves();
            let start = leaves[*run.start()].range().start;
            let end = leaves[*run.end()].range().end;
            let to = &mut self.elements[start..end];
            let from = Floats::of(&other.elements[start..end]);
            if is_present {
                slices::add(to, from);
            } else {
                // Zero plus −0 is 0: what is alone is not added to a zero.
                let to = FloatsMut::of(to);
                copies::copy_all(vec![(to, from)]);
            }
        }
        for leaf in present {
            self.presence.set(leaf, true);
        }
        Ok(())
    }

    /// Takes over another gradient's elements, converted where its type is another, and its
    /// presence.
    pub(crate) fn copy_from<F>(&mut self, other: &FlatGrad<F>) -> Result<()>
    where
        F: FloatElement,
    {
        self.layout().check_same(other.layout())?;
        copies::copy_all(vec![(
            FloatsMut::of(&mut self.elements),
            Floats::of(&other.elements),
        )]);
        for leaf in 0..other.layout().leaves().len() {
            self.presence.set(leaf, other.is_present(leaf));
        }
        self.was_lent = false;
        Ok(())
    }
}

impl<E> Deref for FlatGrad<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        &self.elements
    }
}

impl<E> DerefMut for FlatGrad<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        self.was_lent = true;
        &mut self.elements
    }
}
