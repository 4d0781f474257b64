//! What stands at the places of a tie in a gradient, and what that means.

use crate::layout::Place;
use crate::traversal::holder::Holder;

/// What the gradients at the places of a tie are.
///
/// ```
/// use flatleaf::{Layout, TiedGrads};
/// use std::rc::Rc;
///
/// let shared = Rc::new(vec![0.0_f32]);
/// let layout = Layout::of(&(shared.clone(), shared))?;
/// let grads = (vec![3.0_f32], vec![3.0_f32]);
/// assert_eq!(*layout.gather_grad_with(&grads, TiedGrads::Sum)?, [6.0]);
/// assert_eq!(*layout.gather_grad_with(&grads, TiedGrads::AlreadyTotal)?, [3.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TiedGrads {
    /// One gradient a place: the parameter's is their sum. Places that show one cell or lock count
    /// once, because whoever added to it at one place added to it at all of them. An `Rc` or `Arc`
    /// without a cell counts once for each place, as in Optimisers.jl. What was done stands in
    /// [`Presence::tie_reading`](crate::Presence::tie_reading).
    #[default]
    Sum,
    /// The parameter's whole gradient at every place, as candle, PyTorch and Enzyme hand it out,
    /// and as [`restructure`](crate::Layout::restructure) makes it of a flat gradient: the first
    /// place that has one counts.
    AlreadyTotal,
}

/// How the gradients at several places of one parameter were read.
///
/// ```
/// use flatleaf::{Layout, TieReading};
/// use std::{cell::RefCell, rc::Rc};
///
/// let shared = Rc::new(RefCell::new(vec![0.0_f32]));
/// let layout = Layout::of(&(shared.clone(), shared))?;
///
/// let apart = layout.gather_grad(&(vec![1.0_f32], vec![2.0_f32]))?;
/// assert_eq!((apart[0], apart.tie_reading(0)), (3.0, Some(TieReading::Summed)));
///
/// let cell = Rc::new(RefCell::new(vec![0.0_f32]));
/// let grads = (cell.clone(), cell);
/// grads.0.borrow_mut()[0] += 1.0; // both uses add to the one cell
/// grads.1.borrow_mut()[0] += 2.0;
/// let total = layout.gather_grad(&grads)?;
/// assert_eq!((total[0], total.tie_reading(0)), (3.0, Some(TieReading::CountedOnce)));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TieReading {
    /// Each place had an object of its own: their sum.
    Summed,
    /// Some places had the same object, without a cell or lock in it: it was added once for each of
    /// them. If it holds the whole gradient, say [`TiedGrads::AlreadyTotal`].
    SummedSameObject,
    /// Some places had the same cell or lock: it was added once.
    CountedOnce,
    /// The first place alone was read, as [`TiedGrads::AlreadyTotal`] says.
    AlreadyTotal,
}

/// What stands at the places of ties, noted down as it is met; `T` is the elements of one place.
pub(crate) struct TiedPlaces<T>(Vec<PlaceGradient<T>>);

struct PlaceGradient<T> {
    leaf: u32,
    /// The place that names the leaf comes first, the others as in the layout.
    order: (bool, u32),
    holder: Holder,
    elements: T,
}

/// A tied leaf, the gradients to be added, and how they were chosen.
pub(crate) struct TiedGradient<T> {
    pub(crate) leaf: usize,
    /// At least one.
    pub(crate) terms: Vec<T>,
    /// None where one place alone has a gradient.
    pub(crate) reading: Option<TieReading>,
}

impl<T> Default for TiedPlaces<T> {
    fn default() -> Self {
        TiedPlaces(Vec::new())
    }
}

impl<T> TiedPlaces<T> {
    pub(crate) fn push(&mut self, place: &Place, elements: T, holder: Holder) {
        // One object seen in two orientations is two different gradients.
        let holder = match &place.axes {
            Some(_) => Holder::Unknown,
            None => holder,
        };
        self.0.push(PlaceGradient {
            leaf: place.leaf.index,
            order: (!place.first, place.node),
            holder,
            elements,
        });
    }

    /// Every leaf with its terms in the order of the places, so that a sum does not depend on the
    /// order of the walk.
    pub(crate) fn by_leaf(mut self, tied: TiedGrads) -> Vec<TiedGradient<T>> {
        // A sum of floats depends on its order, and the layout's does not depend on the tree.
        self.0.sort_by_key(|place| (place.leaf, place.order));
        let mut gradients = Vec::new();
        let mut places = self.0.into_iter().peekable();
        while let Some(first) = places.next() {
            let leaf = first.leaf;
            let mut of_leaf = vec![first];
            of_leaf.extend(std::iter::from_fn(|| {
                places.next_if(|place| place.leaf == leaf)
            }));
            gradients.push(TiedGradient::new(leaf as usize, of_leaf, tied));
        }
        gradients
    }
}

impl<T> TiedGradient<T> {
    fn new(leaf: usize, mut places: Vec<PlaceGradient<T>>, tied: TiedGrads) -> Self {
        let count = places.len();
        let mut reading = TieReading::Summed;
        if tied == TiedGrads::AlreadyTotal {
            places.truncate(1);
            reading = TieReading::AlreadyTotal;
        } else if has_same_object(&places) {
            drop_repeated_cells(&mut places);
            reading = if places.len() < count {
                TieReading::CountedOnce
            } else {
                TieReading::SummedSameObject
            };
        }
        TiedGradient {
            leaf,
            terms: places.into_iter().map(|place| place.elements).collect(),
            reading: (count > 1).then_some(reading),
        }
    }
}

fn has_same_object<T>(places: &[PlaceGradient<T>]) -> bool {
    let is_known = |place: &&PlaceGradient<T>| place.holder != Holder::Unknown;
    let mut known = places
        .iter()
        .enumerate()
        .filter(|(_, place)| is_known(place));
    known.any(|(index, place)| {
        places[..index]
            .iter()
            .any(|before| before.holder == place.holder)
    })
}

/// Leaves the first place of every cell.
fn drop_repeated_cells<T>(places: &mut Vec<PlaceGradient<T>>) {
    // Memory outside of a cell is kept: nobody can have added to it by way of another place.
    let mut met: Vec<Holder> = Vec::new();
    places.retain(|place| {
        let is_repeated = met.contains(&place.holder);
        if matches!(place.holder, Holder::Cell { .. }) && !is_repeated {
            met.push(place.holder.clone());
        }
        !is_repeated
    });
}
