//! Views of ndarray's arrays.

use ndarray::{ArcArray, Array, ArrayView, Dimension};

use super::{ArrayMut, Branches, LeafViews, LeafViewsMut, Lend, TiedMut, Viewable};
use crate::error::Result;
use crate::tree::ArrayElement;

/// An `ArrayView`; to be written, an [`ArrayMut`]. Over the vector both are in row-major order,
/// whatever the array is.
impl<E: ArrayElement, D: Dimension> Viewable for Array<E, D> {
    type View<'v>
        = ArrayView<'v, E, D>
    where
        Self: 'v;
    type ViewMut<'v>
        = ArrayMut<'v, E, D>
    where
        Self: 'v;
    type Items = Branches;

    #[inline]
    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<ArrayView<'v, E, D>> {
        leaves.array(self.view())
    }

    // Always: as a call of its own it takes a third longer for a small array.
    #[inline(always)]
    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<ArrayMut<'v, E, D>> {
        leaves.array(self.view())
    }
}

/// An `ArrayView`; to be written, a handle, since several may be one array: [`TiedMut`] lends it,
/// with its axes as this one has them.
impl<E: ArrayElement, D: Dimension + 'static> Viewable for ArcArray<E, D> {
    type View<'v> = ArrayView<'v, E, D>;
    type ViewMut<'v> = TiedMut<'v, Self>;
    type Items = Branches;

    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<ArrayView<'v, E, D>> {
        leaves.array(self.view())
    }

    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<TiedMut<'v, Self>> {
        leaves.tied(self)
    }
}

impl<E: ArrayElement, D: Dimension + 'static> Lend for ArcArray<E, D> {
    type Lent<'l> = ArrayMut<'l, E, D>;

    fn lent_from<'l>(&'l self, leaves: &mut LeafViewsMut<'l>) -> Result<ArrayMut<'l, E, D>> {
        leaves.array(self.view())
    }
}
