//! Who is given the leaves that the validating walk meets.

use crate::error::Result;
use crate::layout::Place;
use crate::traversal::holder::Holder;
use crate::tree::LeafRef;

/// Reads leaves, as the validating walk meets them.
pub(crate) trait ReadLeaf<'a> {
    /// Whether the leaf at a place is wanted at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there.
    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()>;

    /// A wanted gradient at one of the places of a tie, and the object that holds it.
    fn read_tied_gradient(
        &mut self,
        place: &Place,
        leaf: &LeafRef<'_, 'a>,
        holder: Holder,
    ) -> Result<()> {
        let _ = holder;
        self.read_leaf(place, leaf)
    }

    /// A node that others may hold too begins here, and so does what is in it.
    fn enter_shared(&mut self) {}

    fn leave_shared(&mut self) {}
}

/// For a tree that is compared with its layout and not read.
pub(super) struct ReadNothing;

impl<'a> ReadLeaf<'a> for ReadNothing {
    #[inline]
    fn wants(&self, _place: &Place) -> bool {
        false
    }

    fn read_leaf(&mut self, _place: &Place, _leaf: &LeafRef<'_, 'a>) -> Result<()> {
        Ok(())
    }
}
