//! What stands at the places of a tie, and what a tie's gradients mean.

use std::borrow::Cow;

use crate::layout::Place;

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
    /// One gradient a place: the parameter's is their sum. Optimisers.jl's rule, even where all
    /// places hold the same object.
    #[default]
    Sum,
    /// The parameter's whole gradient at every place, as candle, PyTorch and Enzyme hand it out:
    /// the first place that has one counts.
    AlreadyTotal,
}

/// What stands at the places of ties, noted down as it is met.
pub(crate) struct TiedPlaces<'a, E: Copy>(Vec<Tied<'a, E>>);

struct Tied<'a, E: Copy> {
    leaf: u32,
    /// The place that names the leaf comes first, the others as in the layout.
    place: (bool, u32),
    elements: Cow<'a, [E]>,
}

impl<E: Copy> Default for TiedPlaces<'_, E> {
    fn default() -> Self {
        TiedPlaces(Vec::new())
    }
}

impl<'a, E: Copy> TiedPlaces<'a, E> {
    pub(crate) fn push(&mut self, place: &Place, elements: Cow<'a, [E]>) {
        self.0.push(Tied {
            leaf: place.leaf.index,
            place: (!place.first, place.node),
            elements,
        });
    }

    /// Every leaf with what its places hold, in the order of the places, so that a sum does not
    /// depend on the order of the walk.
    pub(crate) fn by_leaf(mut self) -> Vec<(usize, Vec<Cow<'a, [E]>>)> {
        self.0.sort_by_key(|tied| (tied.leaf, tied.place));
        let mut leaves: Vec<(usize, Vec<_>)> = Vec::new();
        for Tied { leaf, elements, .. } in self.0 {
            match leaves.last_mut() {
                Some((last, places)) if *last == leaf as usize => places.push(elements),
                _ => leaves.push((leaf as usize, vec![elements])),
            }
        }
        leaves
    }
}
