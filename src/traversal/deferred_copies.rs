//! Leaves noted down as a walk meets them, to be copied once the whole tree is known to be right.
//!
//! One walk and a list take three quarters of the instructions of two walks. The list is handed
//! from call to call, so that a second one allocates nothing.

use std::ops::Range;

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::{LayoutData, Place};
use crate::memory;
use crate::memory::pool::Pool;
use crate::slices::copies;
use crate::slices::{self, Floats, FloatsMut};
use crate::threads;
use crate::traversal::place_elements::read_floats;
use crate::tree::LeafRef;

thread_local! {
    static LENT: Pool<Lent<'static>> = const { Pool::new() };
}

/// Leaves of a tree that are on their way into a flat vector.
pub(crate) struct Noted<'a, E> {
    lent: Vec<Lent<'a>>,
    /// Where those leaves belong whose elements are in `copies`, one after the other: they lend no
    /// slice for so long.
    copied: Vec<(Range<usize>, u32)>,
    copies: Vec<E>,
}

pub(crate) struct Lent<'a> {
    start: usize,
    leaf: u32,
    floats: Floats<'a>,
}

impl<'a, E: FlatElement> Noted<'a, E> {
    pub(crate) fn new(layout: &LayoutData) -> Self {
        let mut lent: Vec<Lent<'a>> = Pool::take(&LENT);
        lent.reserve_exact(layout.leaves.len());
        Noted {
            lent,
            copied: Vec::new(),
            copies: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        match leaf.borrowed_floats() {
            Some(floats) if floats.has_len(place.len) => self.lent.push(Lent {
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
        let end = memory::try_extend_zeroed(&mut self.copies, place.len)?;
        self.copied.push((place.range(), place.leaf.index));
        read_floats(leaf, &mut self.copies[end..])
    }

    /// The leaves that have been noted down.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = usize> {
        let lent = self.lent.iter().map(|lent| lent.leaf);
        lent.chain(self.copied.iter().map(|copied| copied.1))
            .map(|leaf| leaf as usize)
    }

    /// A new flat vector, where every leaf has been noted down. Each element is written once: one
    /// that all threads fill is of zeros that nobody has written, and one thread puts it together
    /// without, if the leaves come in order.
    ///
    /// # Errors
    /// No memory for so many elements.
    pub(crate) fn into_vec(self, layout: &LayoutData) -> Result<Vec<E>> {
        if !threads::is_parallel(layout.len) && self.is_in_order(layout.len) {
            let mut flat = memory::try_with_capacity(layout.len)?;
            self.lent
                .iter()
                .for_each(|lent| lent.floats.push_to(&mut flat));
            Pool::give(&LENT, self.lent);
            return Ok(flat);
        }
        let mut flat = memory::try_zeroed(layout.len)?;
        self.copy_to(&mut flat);
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
    pub(crate) fn copy_to(self, flat: &mut [E]) {
        let mut large = Vec::new();
        let is_parallel = threads::is_parallel(flat.len());
        for &Lent { start, floats, .. } in &self.lent {
            let range = start..start + floats.len();
            if is_parallel && copies::is_large(floats.len()) {
                large.push((range, floats));
            } else {
                slices::copy(floats, FloatsMut::of(&mut flat[range]));
            }
        }
        let mut copies = &self.copies[..];
        for (range, _) in self.copied {
            let copy = copies
                .split_off(..range.len())
                .expect("as many as there are to copy");
            flat[range].copy_from_slice(copy);
        }
        copy_ranges(flat, large);
        Pool::give(&LENT, self.lent);
    }
}

/// Copies leaves to ranges of the flat vector, which are disjoint, with all threads.
fn copy_ranges<E: FlatElement>(flat: &mut [E], mut parts: Vec<(Range<usize>, Floats<'_>)>) {
    if !parts.is_sorted_by_key(|part| part.0.start) {
        parts.sort_unstable_by_key(|part| part.0.start);
    }
    let (mut rest, mut at) = (flat, 0);
    let mut pairs = Vec::with_capacity(parts.len());
    for (range, from) in parts {
        let (to, after) = rest[range.start - at..].split_at_mut(range.len());
        pairs.push((FloatsMut::of(to), from));
        (rest, at) = (after, range.end);
    }
    copies::copy_all(pairs);
}
