//! Gradient tree → flat gradient: ties summed over their places, absent leaves remembered.

use super::gradient::FlatGrad;
use super::presence::{Presence, Zeros};
use crate::element::FloatElement;
use crate::error::Result;
use crate::layout::{Layout, LayoutData, Place};
use crate::slices::copies;
use crate::slices::{self, FloatsMut};
use crate::traversal::deferred_copies::DeferredCopies;
use crate::traversal::holder::Holder;
use crate::traversal::place_elements::PlaceElements;
use crate::traversal::purpose::Purpose;
use crate::traversal::read_leaf::ReadLeaf;
use crate::traversal::tied_places::{TiedGrads, TiedPlaces};
use crate::traversal::validate::validate_and_read;
use crate::tree::{LeafRef, Tree};

impl Layout {
    /// The gradients of the trainable leaves as one vector in the order of the parameters' own. A
    /// leaf without a gradient is zeros there, and the [`FlatGrad`] remembers that it is absent.
    ///
    /// The tree may be of any type. It is matched by path; `None`, `null`, an empty branch and what
    /// is not there are absent. What is at or below a frozen, skipped or carried leaf is ignored. A
    /// gradient may be of another float type than its leaf: it is converted.
    ///
    /// The gradient of a parameter at several places is the sum over these places. One cell or lock
    /// that stands at several of them counts once; an `Rc` or `Arc` without a cell counts once for
    /// each. Where every place has the whole gradient already, use
    /// [`gather_grad_with`](Layout::gather_grad_with).
    ///
    /// Cost: one walk (about 15 ns a small leaf) and one copy; large leaves are copied by all
    /// threads. What is strided or behind a guard is copied twice.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers; all such gradients in one error.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf in the layout, unless the
    /// planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. [`is_out_of_memory`](crate::Error::is_out_of_memory):
    /// more elements than there is memory for.
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

    /// The flat gradient of a gradient tree in another element type. `f64` holds gradients of any
    /// float type without loss, so for it no float type is an error; it is the type for a model
    /// that has leaves of f64. `bf16` and `f16`, with the feature `half`, take half of the bytes for
    /// gradients that come in them; others are rounded, and a tie's are added up in `f32` first.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32, unless
    /// the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. [`is_out_of_memory`](crate::Error::is_out_of_memory):
    /// more elements than there is memory for.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![1.0_f32], vec![0.5_f64]))?;
    /// let grad = layout.gather_grad_as::<f64>(&(vec![0.1_f64], vec![0.2_f64]))?;
    /// assert_eq!(*grad, [0.1, 0.2]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_as<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
    ) -> Result<FlatGrad<E>> {
        self.gather_grad_with_as(grads, TiedGrads::Sum)
    }

    /// The flat gradient of a gradient tree, with a choice of what the gradients at the places of a
    /// tie are: one a place, to be summed, or the whole gradient at every place, of which the first
    /// one counts. The second is what candle, PyTorch and Enzyme hand out.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32, unless
    /// the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. [`is_out_of_memory`](crate::Error::is_out_of_memory):
    /// more elements than there is memory for.
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

    /// The flat gradient of a gradient tree in another element type, with a choice of what the
    /// gradients at the places of a tie are. For a model that has leaves of f64 whose gradients
    /// come from a system that shares storage.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32, unless
    /// the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had. [`is_out_of_memory`](crate::Error::is_out_of_memory):
    /// more elements than there is memory for.
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
    pub fn gather_grad_with_as<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        tied: TiedGrads,
    ) -> Result<FlatGrad<E>> {
        self.check_element::<E>()?;
        let gathered = GatherGrad::walk(&self.inner, grads)?;
        let mut grad = FlatGrad::try_zeros(self)?;
        let (flat, presence) = grad.parts_mut();
        // The vector is new: where nothing was gathered its zeros need not be written again.
        presence.begin(Zeros::Everywhere);
        gathered.copy_to(flat, presence, tied);
        Ok(grad)
    }

    /// Gathers a gradient tree into a flat gradient that is there: everything in it is overwritten,
    /// what somebody has written by hand included. Allocates nothing for a plain tree of small
    /// leaves; zeros at leaves that were absent before and are now are not written again.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// gradient is as it was.
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
    pub fn gather_grad_into<T>(&self, grads: &T, grad: &mut FlatGrad) -> Result<()>
    where
        T: Tree + ?Sized,
    {
        self.gather_grad_into_as(grads, grad)
    }

    /// Gathers a gradient tree into a flat gradient of another element type that is there. `f64`
    /// holds gradients of any float type without loss, so for it no float type is an error.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// gradient is as it was.
    ///
    /// ```
    /// use flatleaf::{FlatGrad, Layout};
    ///
    /// let layout = Layout::of(&(vec![1.0_f64], vec![2.0_f32]))?;
    /// let mut grad = FlatGrad::<f64>::zeros(&layout);
    /// layout.gather_grad_into_as(&(vec![0.1_f64], None::<Vec<f32>>), &mut grad)?;
    /// assert_eq!((grad[0], grad.is_present(1)), (0.1, false));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_into_as<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        grad: &mut FlatGrad<E>,
    ) -> Result<()> {
        self.gather_grad_into_tied(grads, grad, TiedGrads::Sum)
    }

    /// Gathers a gradient into a slice: a row of a matrix that holds one gradient a sample or a
    /// perturbation. Every element is overwritten, by zeros where a leaf is absent; which leaves
    /// are comes back apart. `E` is the element type of the slice, `f32` or `f64`.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): a slice that is not as long as the layout.
    /// [`is_element_type`](crate::Error::is_element_type): a gradient of integers, or a leaf of f64
    /// for a slice of f32, unless the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape): a leaf that
    /// the layout has not got, or has in another shape. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// slice is as it was.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let mut rows = vec![0.0_f32; 2 * layout.len()];
    /// let row = &mut rows[layout.len()..];
    /// let presence = layout.gather_grad_into_slice(&tree!({ "w": [0.5, 0.25] }), row)?;
    /// assert_eq!(rows, [0.0, 0.0, 0.0, 0.5, 0.25, 0.0]);
    /// assert!(presence.is_present_at("w") && !presence.is_present_at("b"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_into_slice<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        row: &mut [E],
    ) -> Result<Presence> {
        self.gather_grad_into_slice_with(grads, row, TiedGrads::Sum)
    }

    /// Gathers a gradient into a slice, where the gradients at the places of a tie may be its whole
    /// gradient already: rows of gradients that candle or PyTorch computed.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): a slice that is not as long as the layout.
    /// [`is_element_type`](crate::Error::is_element_type),
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape): a gradient
    /// that does not fit the layout. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had. Then the
    /// slice is as it was.
    ///
    /// ```
    /// use flatleaf::{Layout, TiedGrads};
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(vec![0.0_f32]);
    /// let layout = Layout::of(&(shared.clone(), shared))?;
    /// let mut row = [0.0_f32];
    /// layout.gather_grad_into_slice_with(&(vec![3.0_f32], vec![3.0_f32]), &mut row, TiedGrads::AlreadyTotal)?;
    /// assert_eq!(row, [3.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_grad_into_slice_with<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        row: &mut [E],
        tied: TiedGrads,
    ) -> Result<Presence> {
        self.check_element::<E>()?;
        self.check_len("the row", row.len())?;
        let gathered = GatherGrad::walk(&self.inner, grads)?;
        let mut presence = Presence::none(self);
        // The row may hold anything: what is not gathered is filled with zeros, and only that, so that
        // every element is written once.
        presence.begin(Zeros::Nowhere);
        gathered.copy_to(row, &mut presence, tied);
        presence.take_stale(|range| row[range].fill(E::zeroed()));
        Ok(presence)
    }

    pub(crate) fn gather_grad_into_tied<E: FloatElement>(
        &self,
        grads: &(impl Tree + ?Sized),
        grad: &mut FlatGrad<E>,
        tied: TiedGrads,
    ) -> Result<()> {
        self.check_element::<E>()?;
        self.check_same(grad.layout())?;
        // Walked before anything is written: a gradient that does not fit leaves the last one there.
        let gathered = GatherGrad::walk(&self.inner, grads)?;
        // Leaves that were absent the last time are zero still, unless somebody wrote by hand.
        let zeros = grad.known_zeros();
        let (flat, presence) = grad.parts_mut();
        presence.begin(zeros);
        gathered.copy_to(flat, presence, tied);
        grad.end_gathering();
        Ok(())
    }
}

/// Which gradients a tree has, as slices that wait for the walk to be over.
struct GatherGrad<'l, 'a, E: FloatElement> {
    layout: &'l LayoutData,
    /// Of leaves with one place.
    untied: DeferredCopies<'a, E>,
    /// What stands at the places of ties, to be added in a type that holds sums.
    tied: TiedPlaces<PlaceElements<'a, E::Sum>>,
}

impl<'a, E: FloatElement> ReadLeaf<'a> for GatherGrad<'_, 'a, E> {
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.leaf.trainable && !place.frozen
    }

    #[inline]
    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        self.untied.push(place, leaf)
    }

    fn read_tied_gradient(
        &mut self,
        place: &Place,
        leaf: &LeafRef<'_, 'a>,
        holder: Holder,
    ) -> Result<()> {
        let elements = PlaceElements::of(self.layout, place, leaf)?;
        self.tied.push(place, elements, holder);
        Ok(())
    }
}

impl<'l, 'a, E: FloatElement> GatherGrad<'l, 'a, E> {
    fn walk(layout: &'l LayoutData, grads: &'a (impl Tree + ?Sized)) -> Result<Self> {
        let mut gather = GatherGrad {
            layout,
            untied: DeferredCopies::new(layout),
            tied: TiedPlaces::default(),
        };
        validate_and_read(layout, grads, Purpose::ReadGradients, &mut gather)?;
        Ok(gather)
    }

    /// Writes what is there. What is not is left stale in `presence`, which has begun.
    fn copy_to(self, flat: &mut [E], presence: &mut Presence, tied: TiedGrads) {
        // All copies at once, so that large ones can be shared among threads.
        for leaf in self.untied.leaves() {
            presence.set(leaf, true);
        }
        self.untied.copy_to(flat);
        for gradient in self.tied.by_leaf(tied) {
            presence.found_tied(gradient.leaf, gradient.reading);
            let to = &mut flat[self.layout.leaves[gradient.leaf].range()];
            write_sum(gradient.terms, to);
        }
    }
}

/// Writes the sum of a tie's gradients, of which there is at least one.
fn write_sum<E: FloatElement>(terms: Vec<PlaceElements<'_, E::Sum>>, to: &mut [E]) {
    let copy = |from: &PlaceElements<'_, E::Sum>, to: FloatsMut<'_>| {
        copies::copy_all(vec![(to, from.floats())]);
    };
    let (first, rest) = terms.split_first().expect("a tie that was met");
    if rest.is_empty() {
        return copy(first, FloatsMut::of(to));
    }
    match FloatsMut::of(to).into_slice::<E::Sum>() {
        // The first term is copied and not added to zeros: 0 + −0 is 0.
        Some(sum) => {
            copy(first, FloatsMut::of(sum));
            for term in rest {
                slices::add(sum, term.floats());
            }
        }
        // Halves are added up in f32 and rounded once.
        None => {
            let sum = PlaceElements::sum(terms).expect("a tie that was met");
            copy(&sum, FloatsMut::of(to));
        }
    }
}
