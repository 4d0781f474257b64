//! How the array at one place of a tie lies on the array of its leaf.
//!
//! Two views are one parameter if one is an axis permutation or reversal of the other over the same
//! elements. What two such views share is their canonical form: the lowest address, and stride and
//! length of every axis, sorted by falling stride. Axes of length 1 carry no information and are
//! dropped; the sign of a stride says only from which end one reads.
//!
//! An example: a 2×3 matrix of f32 at address 1000, and its transpose.
//!
//! ```text
//!             shape   strides (elements)   axes by falling stride (bytes, length)   start
//! matrix      [2, 3]  [3, 1]               (12, 2), (4, 3)                          1000
//! transpose   [3, 2]  [1, 3]               (12, 2), (4, 3)                          1000
//! upside down [2, 3]  [-3, 1], from 1012   (12, 2), (4, 3)                          1000
//! first row   [3]     [1]                  (4, 3)                                   1000
//! ```
//!
//! The first three are one parameter. The row is none of it, shares elements with it, and so is an
//! error. The transpose lies on the matrix by the map `[1, 0]`: its first axis is the matrix's
//! second. Upside down it is `[0 reversed, 1]`.

use std::cmp::Reverse;

use ndarray::{ArrayBase, Axis, IxDyn, RawData};
use smallvec::{SmallVec, smallvec};

use crate::error::{Error, Result};

/// Few leaves have more than four axes.
pub(crate) type Shape = SmallVec<[usize; 4]>;

/// A view's elements without the order of its axes: equal for two views of the same parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CanonicalView {
    /// The lowest address.
    pub(crate) start: usize,
    /// (stride in bytes, length) of every axis longer than 1, by falling stride.
    pub(crate) axes: Vec<(usize, usize)>,
}

/// A view: its canonical form, and where its own axes are in that.
#[derive(Clone, Debug)]
pub(crate) struct StridedView {
    pub(crate) canonical: CanonicalView,
    pub(crate) element_size: usize,
    /// For each axis of the canonical form: its rank among the view's axes longer than 1, and
    /// whether the view runs along it backwards.
    axes: Vec<(usize, bool)>,
    shape: Shape,
}

/// An axis of a view, longer than 1.
struct MemoryAxis {
    /// In bytes.
    stride: usize,
    len: usize,
    /// Which of the view's axes longer than 1 it is.
    rank: usize,
    is_reversed: bool,
}

impl StridedView {
    pub(crate) fn new(
        address: usize,
        shape: &[usize],
        strides: &[isize],
        element_size: usize,
    ) -> Self {
        let longer = shape.iter().zip(strides).filter(|axis| *axis.0 > 1);
        let mut axes: Vec<MemoryAxis> = longer
            .enumerate()
            .map(|(rank, (&len, &stride))| MemoryAxis {
                stride: stride.unsigned_abs() * element_size,
                len,
                rank,
                is_reversed: stride < 0,
            })
            .collect();
        // Two views of the same elements list their axes alike from here on.
        axes.sort_by_key(|axis| Reverse((axis.stride, axis.len)));
        let mut start = address;
        for axis in axes.iter().filter(|axis| axis.is_reversed) {
            // Along an axis that runs backwards the first element has the highest address.
            start -= (axis.len - 1) * axis.stride;
        }
        let canonical = axes.iter().map(|axis| (axis.stride, axis.len));
        let canonical = CanonicalView {
            start,
            axes: canonical.collect(),
        };
        let own = axes.iter().map(|axis| (axis.rank, axis.is_reversed));
        StridedView {
            canonical,
            element_size,
            axes: own.collect(),
            shape: shape.into(),
        }
    }

    /// One past the last byte.
    pub(crate) fn end(&self) -> usize {
        let last: usize = self
            .canonical
            .axes
            .iter()
            .map(|&(stride, len)| (len - 1) * stride)
            .sum();
        self.canonical.start + last + self.element_size
    }

    /// Calls `each` with the address of every element, once, until it returns false; whether it
    /// never did.
    pub(crate) fn all_addresses(&self, each: &mut impl FnMut(usize) -> bool) -> bool {
        all_addresses(self.canonical.start, &self.canonical.axes, each)
    }

    /// How this view, at a place, lies on `leaf`, a view of the same canonical form.
    pub(crate) fn on(&self, leaf: &StridedView) -> AxisMap {
        // Both list their axes in the order of the canonical form: what stands at one position of
        // both is one axis in memory.
        let mut axes = smallvec![(0, false); self.axes.len()];
        for (&(place, is_place_reversed), &(leaf, is_leaf_reversed)) in
            self.axes.iter().zip(&leaf.axes)
        {
            axes[place] = (leaf, is_place_reversed != is_leaf_reversed);
        }
        AxisMap {
            shape: self.shape.clone(),
            axes,
        }
    }
}

fn all_addresses(
    start: usize,
    axes: &[(usize, usize)],
    each: &mut impl FnMut(usize) -> bool,
) -> bool {
    match axes.split_first() {
        None => each(start),
        // Broadcast: the same elements again.
        Some((&(0, _), rest)) => all_addresses(start, rest, each),
        Some((&(stride, len), rest)) => {
            (0..len).all(|index| all_addresses(start + index * stride, rest, each))
        }
    }
}

/// How a place's axes map to those of its leaf. Axes of length 1 are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct AxisMap {
    /// The place's own shape.
    pub(crate) shape: Shape,
    /// For each of the place's axes: the leaf's axis, and whether it runs backwards.
    pub(crate) axes: SmallVec<[(usize, bool); 4]>,
}

impl AxisMap {
    /// Of a place that shows the leaf as it is.
    pub(crate) fn identity(shape: &[usize]) -> Self {
        let count = longer(shape).len();
        AxisMap {
            shape: shape.into(),
            axes: (0..count).map(|axis| (axis, false)).collect(),
        }
    }

    /// How this place lies on another place of its leaf.
    pub(crate) fn on(&self, other: &AxisMap) -> Self {
        // Both show every axis of the leaf: where the other place shows each of them.
        let mut ranks: SmallVec<[usize; 4]> = SmallVec::from_elem(0, other.axes.len());
        for (rank, &(axis, _)) in other.axes.iter().enumerate() {
            ranks[axis] = rank;
        }
        let on_other = |&(axis, reversed): &(usize, bool)| {
            let rank = ranks[axis];
            (rank, reversed != other.axes[rank].1)
        };
        AxisMap {
            shape: self.shape.clone(),
            axes: self.axes.iter().map(on_other).collect(),
        }
    }

    /// The map without the last axes of leaf and place, of these lengths; `None` if they are not the
    /// last, in this order, in both.
    pub(crate) fn without_last(&self, lengths: &[usize]) -> Option<AxisMap> {
        let shape = self.shape.strip_suffix(lengths)?;
        let left = longer(shape).len();
        let (axes, last) = self.axes.split_at(left);
        let mut last = last.iter().zip(left..);
        let is_as_it_is = last.all(|(&axis, rank)| axis == (rank, false));
        if !is_as_it_is {
            return None;
        }
        Some(AxisMap {
            shape: shape.into(),
            axes: axes.into(),
        })
    }

    /// Whether the place shows the leaf as it is.
    pub(crate) fn is_identity(&self, shape: &[usize]) -> bool {
        *self.shape == *shape
            && self
                .axes
                .iter()
                .enumerate()
                .all(|(index, &(axis, reversed))| index == axis && !reversed)
    }

    /// Checks the map against the shape of its leaf.
    pub(crate) fn validate(&self, leaf: &[usize]) -> Result<()> {
        let place = longer(&self.shape);
        let leaf = longer(leaf);
        let mut fits = place.len() == leaf.len() && place.len() == self.axes.len();
        // A stored layout may name an axis twice, and so none in another's place.
        let mut used = vec![false; leaf.len()];
        for (len, &(axis, _)) in place.iter().zip(&self.axes) {
            fits = fits && leaf.get(axis) == Some(len) && !used[axis];
            if fits {
                used[axis] = true;
            }
        }
        if fits {
            Ok(())
        } else {
            Err(Error::invalid_layout("a tie's axes do not fit its leaf"))
        }
    }

    /// The place's array, seen as the leaf.
    pub(crate) fn to_leaf<S: RawData>(
        &self,
        place: ArrayBase<S, IxDyn>,
        leaf: &[usize],
    ) -> ArrayBase<S, IxDyn> {
        // The map says where each axis of the place comes from; wanted is where each of the leaf's
        // is.
        let mut order: SmallVec<[usize; 4]> = smallvec![0; self.axes.len()];
        for (index, &(axis, _)) in self.axes.iter().enumerate() {
            order[axis] = index;
        }
        let turned = squeeze(place).permuted_axes(&order[..]);
        unsqueeze(self.reverse(turned), leaf)
    }

    /// The leaf's array, seen as at the place.
    pub(crate) fn to_place<S>(&self, leaf: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn>
    where
        S: RawData,
    {
        let order: SmallVec<[usize; 4]> = self.axes.iter().map(|axis| axis.0).collect();
        // Which axes are reversed is said of the leaf's, so that they are reversed before they are
        // put in the place's order.
        let turned = self.reverse(squeeze(leaf)).permuted_axes(&order[..]);
        unsqueeze(turned, &self.shape)
    }

    fn reverse<S>(&self, mut leaf: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn>
    where
        S: RawData,
    {
        for &(axis, is_reversed) in &self.axes {
            if is_reversed {
                leaf.invert_axis(Axis(axis));
            }
        }
        leaf
    }
}

fn longer(shape: &[usize]) -> Shape {
    shape.iter().copied().filter(|&len| len != 1).collect()
}

/// Drops the axes of length 1.
fn squeeze<S: RawData>(mut array: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn> {
    for axis in (0..array.ndim()).rev() {
        if array.shape()[axis] == 1 {
            array = array.remove_axis(Axis(axis));
        }
    }
    array
}

/// Puts them in again.
fn unsqueeze<S>(mut array: ArrayBase<S, IxDyn>, shape: &[usize]) -> ArrayBase<S, IxDyn>
where
    S: RawData,
{
    for (axis, &len) in shape.iter().enumerate() {
        if len == 1 {
            array = array.insert_axis(Axis(axis));
        }
    }
    array
}
