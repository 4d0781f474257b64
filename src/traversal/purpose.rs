//! What a walk over a tree is for, and so what it must find there.

use crate::layout::LeafId;

/// What a tree is validated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Every trainable leaf is there; the places of a tie hold the same bits.
    ReadValues,
    /// What is there belongs to the layout; the rest is absent.
    ReadGradients,
    /// Every trainable leaf is there and can be written where it is.
    WriteTrainable,
    /// Every trainable leaf is there and can be written; the places of a tie hold the same bits.
    Change,
    /// Every leaf that is not trainable is there and can be written.
    WriteOthers,
    /// Every leaf that is not trainable is there; the places of a tie hold the same bits.
    ReadOthers,
    /// Every trainable leaf is there, so that a new tree can be made.
    Rebuild,
}

impl Purpose {
    pub(crate) fn is_writing(self) -> bool {
        matches!(
            self,
            Purpose::WriteTrainable | Purpose::Change | Purpose::WriteOthers
        )
    }

    pub(crate) fn is_reading(self) -> bool {
        matches!(
            self,
            Purpose::ReadValues | Purpose::ReadGradients | Purpose::ReadOthers
        )
    }

    /// Whether the places of a tie have to hold the same bits.
    pub(crate) fn compares_ties(self) -> bool {
        matches!(
            self,
            Purpose::ReadValues | Purpose::Change | Purpose::ReadOthers
        )
    }

    pub(crate) fn moves_trainable(self) -> bool {
        !matches!(self, Purpose::WriteOthers | Purpose::ReadOthers)
    }

    /// Whether elements of such a leaf are moved.
    pub(crate) fn moves(self, leaf: LeafId) -> bool {
        leaf.trainable == self.moves_trainable()
    }
}
