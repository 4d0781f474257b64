//! Copies into a flat vector that are put off until the whole tree is known to be right.
//!
//! The validating walk meets the leaves one by one, and only at its end is it known that none is
//! missing or of another shape. Until then nothing may be written. So each leaf's slice is noted
//! down beside where it belongs, and the copies are made after the walk: one walk and a list take
//! three quarters of the instructions of two walks. A leaf that lends no slice for so long
//! (strided, or behind a guard) is read at once, into a buffer of its own, and copied from there.
//!
//! The list is handed from call to call, so that a second gather allocates nothing.

use std::ops::Range;

use crate::element::FloatElement;
use crate::error::Result;
use crate::layout::{LayoutData, Place};
use crate::memory;
use crate::memory::pool::Pool;
use crate::slices::copies::Copies;
use crate::slices::{self, Floats, FloatsMut};
use crate::threads;
use crate::traversal::place_elements::read_floats;
use crate::tree::LeafRef;

thread_local! {
    static LENT: Pool<LentLeaf<'static>> = const { Pool::new() };
}

/// Leaves of a tree that are on their way into a flat vector.
pub(crate) struct DeferredCopies<'a, E> {
    lent: Vec<LentLeaf<'a>>,
    /// Where those leaves belong whose elements are in `buffer`, one after the other.
    buffered: Vec<BufferedLeaf>,
    buffer: Vec<E>,
}

struct LentLeaf<'a> {
    start: usize,
    leaf: u32,
    floats: Floats<'a>,
}

struct BufferedLeaf {
    range: Range<usize>,
    leaf: u32,
}

impl<'a, E: FloatElement> DeferredCopies<'a, E> {
    pub(crate) fn new(layout: &LayoutData) -> Self {
        let mut lent: Vec<LentLeaf<'a>> = Pool::take(&LENT);
        lent.reserve_exact(layout.leaves.len());
        DeferredCopies {
            lent,
            buffered: Vec::new(),
            buffer: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        match leaf.borrowed_floats() {
            Some(floats) if floats.has_len(place.len) => self.lent.push(LentLeaf {
                start: place.start,
                leaf: place.leaf.index,
                floats,
            }),
            _ => self.read(place, leaf)?,
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let end = memory::try_extend_zeroed(&mut self.buffer, place.len)?;
        self.buffered.push(BufferedLeaf {
            range: place.range(),
            leaf: place.leaf.index,
        });
        read_floats(leaf, &mut self.buffer[end..])
    }

    /// The indices of the leaves that have been noted down.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = usize> {
        let lent = self.lent.iter().map(|lent| lent.leaf);
        let buffered = self.buffered.iter().map(|buffered| buffered.leaf);
        lent.chain(buffered).map(|leaf| leaf as usize)
    }

    /// A new flat vector, where every leaf has been noted down. Each element is written once.
    ///
    /// # Errors
    /// No memory for so many elements.
    pub(crate) fn into_vec(self, layout: &LayoutData) -> Result<Vec<E>> {
        // Zeros that nobody has written cost nothing, and several threads need them: each fills a
        // part. One thread that meets the leaves in order can do without.
        if threads::is_parallel(layout.len) || !self.is_in_order(layout.len) {
            let mut flat = memory::try_zeroed(layout.len)?;
            self.copy_to(&mut flat);
            return Ok(flat);
        }
        let mut flat = memory::try_with_capacity(layout.len)?;
        for lent in &self.lent {
            lent.floats.push_to(&mut flat);
        }
        Pool::give(&LENT, self.lent);
        Ok(flat)
    }

    /// Whether the leaves that are lent are all elements of the flat vector, in its order.
    fn is_in_order(&self, len: usize) -> bool {
        let end = self.lent.iter().try_fold(0, |end, lent| {
            (lent.start == end).then(|| end + lent.floats.len())
        });
        end == Some(len)
    }

    /// Copies every leaf to its place in the flat vector, large ones by all threads.
    pub(crate) fn copy_to(mut self, flat: &mut [E]) {
        self.copy_buffer(flat);
        if threads::is_parallel(flat.len()) {
            self.copy_lent_by_all_threads(flat);
        } else {
            for lent in &self.lent {
                let end = lent.start + lent.floats.len();
                let to = FloatsMut::of(&mut flat[lent.start..end]);
                slices::copy(lent.floats, to);
            }
        }
        Pool::give(&LENT, self.lent);
    }

    fn copy_lent_by_all_threads(&mut self, flat: &mut [E]) {
        // Slices are cut off the vector from its front, so they have to come in its order. A tree
        // of another type than the one that was planned may show them in another.
        if !self.lent.is_sorted_by_key(|lent| lent.start) {
            self.lent.sort_unstable_by_key(|lent| lent.start);
        }
        let mut copies = Copies::of(flat.len());
        let mut rest = flat;
        let mut at = 0;
        for lent in &self.lent {
            let (_, from_here) = rest.split_at_mut(lent.start - at);
            let (to, after) = from_here.split_at_mut(lent.floats.len());
            copies.add(FloatsMut::of(to), lent.floats);
            rest = after;
            at = lent.start + lent.floats.len();
        }
        copies.finish();
    }

    fn copy_buffer(&self, flat: &mut [E]) {
        let mut buffer = &self.buffer[..];
        for BufferedLeaf { range, .. } in &self.buffered {
            let copy = buffer
                .split_off(..range.len())
                .expect("as many as were read");
            flat[range.clone()].copy_from_slice(copy);
        }
    }
}
