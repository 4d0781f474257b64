//! How a flat vector is shared out among members.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::layout::Layout;

/// Within a leaf a shard may end at multiples of so many elements, counted from the leaf's start:
/// the pieces in which norms are taken. So no piece has two owners, and a norm that is put together
/// from the pieces of several members is the one that a single member takes. Determines rounding:
/// changing it changes the result bits.
pub(crate) const NORM_PIECE: usize = 1 << 15;

impl Layout {
    /// The flat vector in as many contiguous ranges, in order, of nearly equal length: range `r` is
    /// what member `r` of a sharded run keeps the optimiser's state of.
    ///
    /// A range ends where a leaf starts, or within a leaf at a multiple of 32,768 elements from its
    /// start, whichever is nearest to an even share. So a range is no further from an even share
    /// than the longest leaf or 32,768 elements, whichever is less, and some are empty where there
    /// is less to share than members. The ranges depend on the layout and the number alone.
    ///
    /// # Panics
    /// If `count` is 0.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![0.0_f32; 3], vec![0.0_f32; 4], vec![0.0_f32; 2]))?;
    /// assert_eq!(layout.shards(2), [0..3, 3..9]); // leaves start at 0, 3 and 7; half is 4.5
    /// assert_eq!(layout.shards(1), [0..9]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn shards(&self, count: usize) -> Vec<Range<usize>> {
        cut_at(self, count, |offset| nearest_cut(self, offset, NORM_PIECE))
    }

    /// The flat vector in as many contiguous ranges, in order, that end where leaves start: for rules
    /// that change a leaf as a whole, such as [`Muon`](crate::optim::Muon), of which no leaf can be
    /// kept by two members. Each ends at the start of a leaf that is nearest to an even share, so a
    /// range is no further from an even share than the longest leaf.
    ///
    /// # Panics
    /// If `count` is 0.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![0.0_f32; 100_000], vec![0.0_f32; 10_000]))?;
    /// assert_eq!(layout.shards(2), [0..65_536, 65_536..110_000]);
    /// assert_eq!(layout.shards_of_whole_leaves(2), [0..100_000, 100_000..110_000]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn shards_of_whole_leaves(&self, count: usize) -> Vec<Range<usize>> {
        cut_at(self, count, |offset| nearest_cut(self, offset, usize::MAX))
    }
}

/// As many ranges as there are members, each ending at the cut for its even share.
///
/// # Panics
/// If `count` is 0.
fn cut_at(layout: &Layout, count: usize, cut: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    assert!(count > 0, "a vector cannot be shared out among 0 members");
    let mut start = 0;
    let mut shard = |rank: usize| {
        let ranks = rank as u128 + 1;
        let share = layout.len() as u128 * ranks / count as u128;
        // Cuts of growing shares never fall behind each other, so each range begins where the one
        // before it ends.
        let end = cut(share as usize);
        std::mem::replace(&mut start, end)..end
    };
    (0..count).map(&mut shard).collect()
}

/// Whether a shard may end there.
pub(crate) fn is_cut(layout: &Layout, offset: usize) -> bool {
    let leaves = layout.leaves();
    let at = leaves.partition_point(|leaf| leaf.range().end <= offset);
    match leaves.get(at) {
        Some(leaf) => (offset - leaf.range().start).is_multiple_of(NORM_PIECE),
        None => offset == layout.len(),
    }
}

/// The cut nearest to an offset, within a leaf at multiples of `piece`; of two that are as near, the
/// first.
fn nearest_cut(layout: &Layout, offset: usize, piece: usize) -> usize {
    let leaves = layout.leaves();
    let at = leaves.partition_point(|leaf| leaf.range().end <= offset);
    let Some(leaf) = leaves.get(at) else {
        return layout.len();
    };
    let range = leaf.range();
    let pieces = (offset - range.start) / piece;
    let before = range.start + pieces * piece;
    let after = before.saturating_add(piece).min(range.end);
    if offset - before <= after - offset {
        before
    } else {
        after
    }
}

/// Refuses ranges, by rank, that do not follow each other or are not `0..len` together.
pub(crate) fn check_together(ranges: &[Range<usize>], len: usize) -> Result<()> {
    let mut end = 0;
    let mut follow = true;
    for range in ranges {
        follow &= range.start == end;
        end = range.end;
    }
    if follow && end == len {
        return Ok(());
    }
    let expected = "ranges of all members that follow each other and are the flat vector together";
    Err(Error::argument(expected, format_args!("{ranges:?}")))
}
