//! Whether the places of a tie hold the same bits, as a tree of values must.
//!
//! Two places that are one object need not be read twice, but only memory says that they are: an
//! identity that a library gives out (`Identity::of`) is a claim. A library may hand out one
//! identifier for two tensors that have drifted apart since, and then a vector made of the first
//! alone would lose the second. So equal memory is recognised by its address and strides, and
//! everything else is compared element by element.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytemuck::Pod;

use crate::element::Dtype;
use crate::error::Result;
use crate::layout::{LayoutData, LeafId, NodeId, Place};
use crate::traversal::place_elements::{elements_of, other_elements_of};
use crate::tree::LeafRef;
use crate::tree::axes::AxisMap;

/// The tied leaves of a tree as each was met first.
#[derive(Default)]
pub(crate) struct TiedValues<'a>(HashMap<LeafId, FirstPlace<'a>>);

struct FirstPlace<'a> {
    node: NodeId,
    memory: Option<Memory>,
    axes: Option<Box<AxisMap>>,
    elements: ExactElements<'a>,
}

/// Where a leaf's elements lie: address, strides.
type Memory = (usize, Vec<isize>);

/// A leaf's elements in a type that holds them without loss.
enum ExactElements<'a> {
    F32(Cow<'a, [f32]>),
    F64(Cow<'a, [f64]>),
    Other(Vec<u8>),
}

impl<'a> TiedValues<'a> {
    /// Compares a place with the first one of its leaf; that one, if the two hold different bits.
    ///
    /// `is_free` says that no guard is around the leaf: what is behind a guard may be a copy that
    /// is made for the call, whose address says nothing.
    ///
    /// # Errors
    /// What reading the leaf returns.
    pub(crate) fn compare(
        &mut self,
        layout: &LayoutData,
        place: &Place,
        leaf: &LeafRef<'_, 'a>,
        is_free: bool,
    ) -> Result<Option<NodeId>> {
        let memory = leaf.geometry().filter(|_| is_free);
        match self.0.entry(place.leaf) {
            Entry::Vacant(new) => {
                let elements = ExactElements::of(layout, place, leaf)?;
                new.insert(FirstPlace {
                    node: place.node,
                    memory,
                    axes: place.axes.clone(),
                    elements,
                });
                Ok(None)
            }
            Entry::Occupied(first) => {
                let first = first.get();
                // Equal memory in another orientation is another order of elements.
                let is_same_memory = memory.is_some() && memory == first.memory;
                if is_same_memory && place.axes == first.axes {
                    return Ok(None);
                }
                let elements = ExactElements::of(layout, place, leaf)?;
                let is_same = first.elements.has_same_bits(&elements);
                Ok((!is_same).then_some(first.node))
            }
        }
    }
}

impl<'a> ExactElements<'a> {
    fn of(layout: &LayoutData, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<Self> {
        match leaf.dtype {
            Dtype::F64 => {
                let elements = elements_of(layout, place, leaf)?;
                Ok(ExactElements::F64(elements))
            }
            // f16 and bf16 are widened without loss.
            float if float.is_float() => {
                let elements = elements_of(layout, place, leaf)?;
                Ok(ExactElements::F32(elements))
            }
            _ => {
                let bytes = other_elements_of(layout, place, leaf)?;
                Ok(ExactElements::Other(bytes))
            }
        }
    }

    fn has_same_bits(&self, other: &Self) -> bool {
        use ExactElements::{F32, F64, Other};
        match (self, other) {
            (F32(a), F32(b)) => has_same_bits::<_, u32>(a, b),
            (F64(a), F64(b)) => has_same_bits::<_, u64>(a, b),
            (Other(a), Other(b)) => a == b,
            _ => false,
        }
    }
}

/// Bits and not numbers: −0 is not 0 here, and a NaN is equal to itself.
fn has_same_bits<E, Bits>(a: &[E], b: &[E]) -> bool
where
    E: Pod,
    Bits: Pod + PartialEq,
{
    let bits_of_a: &[Bits] = bytemuck::cast_slice(a);
    let bits_of_b: &[Bits] = bytemuck::cast_slice(b);
    std::ptr::eq(a, b) || bits_of_a == bits_of_b
}
