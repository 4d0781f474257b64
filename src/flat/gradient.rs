//! Gradient tree → flat gradient: ties summed over their places, absent leaves remembered.

use std::ops::{Deref, DerefMut};

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::{Layout, LayoutData, Place};
use crate::memory;
use crate::slices::copies;
use crate::slices::{Floats, FloatsMut};
use crate::traversal::deferred_copies::Noted;
use crate::traversal::place_elements::elements_of;
use crate::traversal::tied_places::{TiedGrads, TiedPlaces};
use crate::traversal::validate::{self, Purpose, Take};
use crate::tree::{LeafRef, Tree};

/// A flat gradient that remembers which leaves had none. Dereferences to its elements.
///
/// ```
/// use flatleaf::{tree, Layout};
///
/// let layout = Layout::of(&tree!({ "x": [1.0, 2.0], "y": [3.0] }))?;
/// let grad = layout.gather_grad(&tree!({ "x": [5.0, 6.0], "y": null }))?;
/// assert_eq!(*grad, [5.0, 6.0, 0.0]);
/// assert!(grad.is_present(0) && !grad.is_present(1));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FlatGrad<E = f32> {
    layout: Layout,
    elements: Vec<E>,
    present: Vec<bool>,
}

impl<E: FlatElement> FlatGrad<E> {
    /// A gradient that is absent at every leaf: a buffer for [`Layout::gather_grad_into`].
    ///
    /// # Panics
    /// If there is no memory for it. Where the layout comes from a file that nobody has vouched
    /// for, `gather_grad(&())` makes the same and returns an error.
    ///
    /// ```
    /// use flatleaf::{tree, FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let mut sum: FlatGrad = FlatGrad::absent(&layout); // of a step's batches
    /// for batch in [tree!({ "w": [1.0, 0.0] }), tree!({ "w": [0.0, 1.0] })] {
    ///     sum.add(&layout.gather_grad(&batch)?)?;
    /// }
    /// assert_eq!((&sum[..2], sum.is_present(0), sum.is_present(1)), (&[1.0, 1.0][..], true, false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn absent(layout: &Layout) -> Self {
        Self::try_absent(layout).unwrap_or_else(|error| panic!("{error}"))
    }

    /// # Errors
    /// No memory for it.
    pub(crate) fn try_absent(layout: &Layout) -> Result<Self> {
        Ok(FlatGrad {
            layout: layout.clone(),
            elements: memory::try_zeroed(layout.len())?,
            present: vec![false; layout.leaves().len()],
        })
    }

    /// A vector that a solver made, present at every leaf.
    ///
    /// # Errors
    /// A vector of another length than the layout's.
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
            layout: layout.clone(),
            elements,
            present: vec![true; layout.leaves().len()],
        })
    }

    /// Whether leaf `index` of [`Layout::leaves`] had a gradient at any of its places. An absent
    /// gradient is zero here, but it is not a gradient of zero: an optimiser leaves an absent leaf
    /// and its state alone.
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
        self.present[index]
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
        &self.layout
    }

    /// Adds another gradient: accumulation over the batches of one step. A leaf is present if it is
    /// in either; one that is in the other only is copied.
    ///
    /// Reads both once; large vectors are added by all threads.
    ///
    /// # Errors
    /// A gradient of another layout; this one is as it was.
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
        self.layout.check_same(&other.layout)?;
        let leaves: Vec<usize> = (0..self.present.len())
            .filter(|&leaf| other.present[leaf])
            .collect();
        // Neighbours that are in both, or both in the other only, are one slice.
        let meet = |&a: &usize, &b: &usize| b == a + 1 && self.present[a] == self.present[b];
        let runs: Vec<(usize, usize)> = leaves
            .chunk_by(meet)
            .map(|run| (run[0], run[run.len() - 1]))
            .collect();
        for (first, last) in runs {
            let leaves = self.layout.leaves();
            let range = leaves[first].range().start..leaves[last].range().end;
            let (to, from) = (&mut self.elements[range.clone()], &other.elements[range]);
            if self.present[first] {
                copies::add(to, from)
            } else {
                to.copy_from_slice(from)
            }
        }
        leaves
            .into_iter()
            .for_each(|leaf| self.present[leaf] = true);
        Ok(())
    }

    /// The elements, without what is known of them.
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
}

impl<E> Deref for FlatGrad<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        &self.elements
    }
}

impl<E> DerefMut for FlatGrad<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut self.elements
    }
}

impl Layout {
    /// The flat gradient of a gradient tree: gradients of a tie are summed over its places, absent
    /// leaves are zero and remembered.
    ///
    /// The tree may be of any type. It is matched by path; `None`, `null`, an empty branch and what
    /// is not there are absent. What is at or below a frozen, skipped or carried leaf is ignored. A
    /// gradient may be of another float type than its leaf: it is converted. Cost: as
    /// [`gather`](Layout::gather).
    ///
    /// # Errors
    /// A gradient of integers; a leaf of the layout that is f64, unless the planner was told to
    /// [round](crate::Planner::round_f64) it; a leaf that the layout does not know, or of another
    /// shape; a poisoned lock or borrowed cell; more elements than there is memory for.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32, 0.0]);
    /// let layout = Layout::of(&(shared.clone(), vec![0.0_f32], shared))?;
    /// let grad = layout.gather_grad(&(vec![1.0_f32, 0.0], None::<Vec<f32>>, vec![0.0_f32, 2.0]))?;
    /// assert_eq!(*grad, [1.0, 2.0, 0.0]); // summed over the places of the tie
    /// assert!(!grad.is_present(1));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad<T: Tree + ?Sized>(&self, grads: &T) -> Result<FlatGrad> {
        self.gather_grad_as(grads)
    }

    /// The same with another element type: `f64` holds gradients of any float type without loss.
    ///
    /// # Errors
    /// As [`gather_grad`](Layout::gather_grad); no float type is an error for `f64`.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], vec![0.5_f64]))?;
    /// let grad = layout.gather_grad_as::<f64>(&(vec![0.1_f64], vec![0.2_f64]))?;
    /// assert_eq!(*grad, [0.1, 0.2]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_as<E: FlatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
    ) -> Result<FlatGrad<E>> {
        self.gather_grad_with_as(grads, TiedGrads::Sum)
    }

    /// The same, where the gradients at the places of a tie may be its whole gradient already.
    ///
    /// # Errors
    /// As [`gather_grad`](Layout::gather_grad).
    ///
    /// ```
    /// use flatleaf::{Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), shared))?;
    /// let totals = (vec![3.0_f32], vec![3.0_f32]); // as candle and PyTorch give them
    /// assert_eq!(*layout.gather_grad_with(&totals, TiedGrads::AlreadyTotal)?, [3.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_with<T: Tree + ?Sized>(
        &self,
        grads: &T,
        tied: TiedGrads,
    ) -> Result<FlatGrad> {
        self.gather_grad_with_as(grads, tied)
    }

    /// The same with another element type.
    ///
    /// # Errors
    /// As [`gather_grad_as`](Layout::gather_grad_as).
    ///
    /// ```
    /// use flatleaf::{Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f64]);
    /// let layout = Layout::of(&(shared.clone(), shared))?;
    /// let grad = layout.gather_grad_with_as::<f64>(&(vec![0.1_f64], vec![0.1_f64]), TiedGrads::AlreadyTotal)?;
    /// assert_eq!(*grad, [0.1]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_with_as<E: FlatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        tied: TiedGrads,
    ) -> Result<FlatGrad<E>> {
        self.check_element::<E>()?;
        let gathered = GatherGrad::walk(&self.inner, grads)?;
        let mut grad = FlatGrad::try_absent(self)?;
        gathered.copy_to(&mut grad, tied);
        Ok(grad)
    }

    /// The same into a gradient that is there; everything in it is overwritten.
    ///
    /// # Errors
    /// As [`gather_grad`](Layout::gather_grad), and a gradient of another layout; it is as it was.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [1.0], "b": [2.0] }))?;
    /// let mut grad = layout.gather_grad(&tree!({ "a": [5.0], "b": [6.0] }))?;
    /// layout.gather_grad_into(&tree!({ "b": [7.0] }), &mut grad)?;
    /// assert_eq!(*grad, [0.0, 7.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_into<T: Tree + ?Sized>(&self, grads: &T, grad: &mut FlatGrad) -> Result<()> {
        self.gather_grad_into_as(grads, grad)
    }

    /// The same into a gradient of any flat element type.
    ///
    /// # Errors
    /// As [`gather_grad_into`](Layout::gather_grad_into); no float type is an error for `f64`.
    ///
    /// ```
    /// use flatleaf::{FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&(vec![1.0_f64], vec![2.0_f32]))?;
    /// let mut grad = FlatGrad::<f64>::absent(&layout);
    /// layout.gather_grad_into_as(&(vec![0.1_f64], None::<Vec<f32>>), &mut grad)?;
    /// assert_eq!((grad[0], grad.is_present(1)), (0.1, false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_into_as<E: FlatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        grad: &mut FlatGrad<E>,
    ) -> Result<()> {
        self.check_element::<E>()?;
        self.check_same(&grad.layout)?;
        GatherGrad::walk(&self.inner, grads)?.copy_to(grad, TiedGrads::Sum);
        Ok(())
    }
}

struct GatherGrad<'l, 'a, E: Copy> {
    layout: &'l LayoutData,
    plain: Noted<'a, E>,
    tied: TiedPlaces<'a, E>,
}

impl<'a, E: FlatElement> Take<'a> for GatherGrad<'_, 'a, E> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && !place.frozen
    }

    #[inline]
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if place.plain {
            return self.plain.push(place, leaf);
        }
        self.tied
            .push(place, elements_of(self.layout, place, leaf)?);
        Ok(())
    }
}

impl<'l, 'a, E: FlatElement> GatherGrad<'l, 'a, E> {
    fn walk(layout: &'l LayoutData, grads: &'a (impl Tree + ?Sized)) -> Result<Self> {
        let mut gather = GatherGrad {
            layout,
            plain: Noted::new(layout),
            tied: TiedPlaces::default(),
        };
        validate::check_and_take(layout, grads, Purpose::ReadGradients, &mut gather)?;
        Ok(gather)
    }

    /// Overwrites all of a gradient.
    fn copy_to(self, grad: &mut FlatGrad<E>, tied: TiedGrads) {
        let FlatGrad {
            elements: flat,
            present,
            ..
        } = grad;
        present.fill(false);
        self.plain.leaves().for_each(|leaf| present[leaf] = true);
        self.plain.copy_to(flat);
        for (leaf, places) in self.tied.by_leaf() {
            present[leaf] = true;
            let to = &mut flat[self.layout.leaves[leaf].range()];
            copies::copy_all(vec![(FloatsMut::of(to), Floats::of(&places[0]))]);
            let rest = if tied == TiedGrads::Sum {
                &places[1..]
            } else {
                &[]
            };
            rest.iter().for_each(|elements| copies::add(to, elements));
        }
        for (leaf, _) in self
            .layout
            .leaves
            .iter()
            .zip(&*present)
            .filter(|(_, present)| !**present)
        {
            flat[leaf.range()].fill(E::zeroed());
        }
    }
}
