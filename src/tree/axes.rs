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

use ndarray::{ArrayBase, Axis, IxDyn, RawData};
use smallvec::SmallVec;

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
    /// For each axis of the canonical form: its rank among the view's axes longer than 1, and whether the
    /// view runs along it backwards.
    axes: Vec<(usize, bool)>,
    shape: Shape,
}

impl StridedView {
    pub(crate) fn new(
        address: usize,
        shape: &[usize],
        strides: &[isize],
        element_size: usize,
    ) -> Self {
        let longer = shape.iter().zip(strides).filter(|&(&len, _)| len > 1);
        let mut axes: Vec<_> = longer
            .enumerate()
            .map(|(rank, (&len, &stride))| (stride, len, rank))
            .collect();
        // Two views of the same elements list their axes alike from here on.
        axes.sort_by_key(|&(stride, len, _)| std::cmp::Reverse((stride.unsigned_abs(), len)));
        let behind = |&(stride, len, _): &(isize, usize, usize)| {
            if stride < 0 {
                (len - 1) * stride.unsigned_abs()
            } else {
                0
            }
        };
        // Along an axis that runs backwards the first element has the highest address.
        let start = address - axes.iter().map(behind).sum::<usize>() * element_size;
        let canonical = axes
            .iter()
            .map(|&(stride, len, _)| (stride.unsigned_abs() * element_size, len))
            .collect();
        let axes = axes
            .iter()
            .map(|&(stride, _, rank)| (rank, stride < 0))
            .collect();
        StridedView {
            canonical: CanonicalView {
                start,
                axes: canonical,
            },
            element_size,
            axes,
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
        let mut axes: SmallVec<_> = self.axes.iter().map(|_| (0, false)).collect();
        for (&(place, place_reversed), &(leaf, leaf_reversed)) in self.axes.iter().zip(&leaf.axes) {
            axes[place] = (leaf, place_reversed != leaf_reversed);
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
        AxisMap {
            shape: shape.into(),
            axes: (0..longer(shape).len()).map(|axis| (axis, false)).collect(),
        }
    }

    /// How this place lies on another place of its leaf.
    pub(crate) fn on(&self, other: &AxisMap) -> Self {
        let axis = |&(axis, reversed): &(usize, bool)| {
            let rank = other
                .axes
                .iter()
                .position(|other| other.0 == axis)
                .expect("both show every axis of the leaf");
            (rank, reversed != other.axes[rank].1)
        };
        AxisMap {
            shape: self.shape.clone(),
            axes: self.axes.iter().map(axis).collect(),
        }
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
        let (place, leaf) = (longer(&self.shape), longer(leaf));
        let mut used = vec![false; leaf.len()];
        let fits = |(&len, &(axis, _)): (&usize, &(usize, bool))| {
            leaf.get(axis) == Some(&len) && !std::mem::replace(&mut used[axis], true)
        };
        let same_count = place.len() == leaf.len() && place.len() == self.axes.len();
        if same_count && place.iter().zip(&self.axes).all(fits) {
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
        let mut order: SmallVec<[usize; 4]> = self.axes.iter().map(|_| 0).collect();
        self.axes
            .iter()
            .enumerate()
            .for_each(|(index, &(axis, _))| order[axis] = index);
        unsqueeze(self.reverse(squeeze(place).permuted_axes(&order[..])), leaf)
    }

    /// The leaf's array, seen as at the place.
    pub(crate) fn to_place<S: RawData>(&self, leaf: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn> {
        let order: SmallVec<[usize; 4]> = self.axes.iter().map(|axis| axis.0).collect();
        unsqueeze(
            self.reverse(squeeze(leaf)).permuted_axes(&order[..]),
            &self.shape,
        )
    }

    fn reverse<S: RawData>(&self, mut leaf: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn> {
        self.axes
            .iter()
            .filter(|axis| axis.1)
            .for_each(|&(axis, _)| leaf.invert_axis(Axis(axis)));
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
fn unsqueeze<S: RawData>(mut array: ArrayBase<S, IxDyn>, shape: &[usize]) -> ArrayBase<S, IxDyn> {
    for (axis, _) in shape.iter().enumerate().filter(|axis| *axis.1 == 1) {
        array = array.insert_axis(Axis(axis));
    }
    array
}
