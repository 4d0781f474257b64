//! The elements at a place as `f32`, in the order of its leaf, and those at the places of ties.

use std::borrow::Cow;

use ndarray::{ArrayViewD, IxDyn};

use crate::error::{Error, Result};
use crate::layout::{Inner, Place};
use crate::tree::{Dtype, LeafRef};

/// What stands at the places of ties, noted down as it is met.
#[derive(Default)]
pub(crate) struct TiedPlaces<'a>(Vec<Tied<'a>>);

struct Tied<'a> {
    leaf: u32,
    /// The place that names the leaf comes first, the others as in the layout.
    place: (bool, u32),
    elements: Cow<'a, [f32]>,
}

impl<'a> TiedPlaces<'a> {
    pub(crate) fn push(&mut self, place: &Place, elements: Cow<'a, [f32]>) {
        self.0.push(Tied { leaf: place.leaf.index, place: (!place.first, place.node), elements });
    }

    /// Every leaf with what its places hold, in the order of the places, so that a sum does not depend on the order of the walk.
    pub(crate) fn by_leaf(mut self) -> Vec<(usize, Vec<Cow<'a, [f32]>>)> {
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

/// A place's elements in the order of its leaf: the slice that the tree lends, or a copy.
pub(crate) fn elements_of<'a>(layout: &Inner, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<Cow<'a, [f32]>> {
    if let (None, Some(slice)) = (&place.axes, leaf.lent()) {
        return Ok(Cow::Borrowed(slice));
    }
    let mut elements = vec![0.0; leaf.len()];
    read_floats(leaf, &mut elements)?;
    let Some(axes) = &place.axes else { return Ok(Cow::Owned(elements)) };
    let view = ArrayViewD::from_shape(IxDyn(leaf.shape), &elements).map_err(|_| Error::unstable("a leaf of another length"))?;
    Ok(Cow::Owned(axes.to_leaf(view, layout.leaf(place.leaf).shape()).iter().copied().collect()))
}

/// Reads a float leaf of any type as `f32`, rounded to nearest.
pub(crate) fn read_floats(leaf: &LeafRef<'_, '_>, out: &mut [f32]) -> Result<()> {
    match leaf.dtype {
        Dtype::F32 => return leaf.read(out),
        Dtype::F64 => convert(&leaf.to_vec::<f64>()?, out, |x| *x as f32),
        #[cfg(feature = "half")]
        Dtype::F16 => convert(&leaf.to_vec::<half::f16>()?, out, |x| x.to_f32()),
        #[cfg(feature = "half")]
        Dtype::BF16 => convert(&leaf.to_vec::<half::bf16>()?, out, |x| x.to_f32()),
        _ => return Err(Error::unstable("a leaf that changed its element type between two visits")),
    }
    Ok(())
}

fn convert<E>(from: &[E], to: &mut [f32], one: impl Fn(&E) -> f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = one(from));
}
