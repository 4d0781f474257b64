//! Tree → flat: the values of a tree's trainable leaves.

use std::ops::Range;

use crate::check::{self, Purpose};
use crate::error::{Error, Result};
use crate::layout::{Inner, Layout, Place};
use crate::matched::{self, Take};
use crate::memory;
use crate::transfer;
use crate::tree::{Dtype, LeafRef, Tree};

/// Vectors of more elements are allocated only once a tree is known to have as many: a layout that was read may say anything.
pub(crate) const SURE_TO_FIT: usize = 1 << 28;

/// The flat vector of a tree, and its layout.
///
/// `(layout.gather(tree)?, layout)` for `layout = Layout::of(tree)?`; Optimisers.jl's `destructure`, JAX's `ravel_pytree`.
///
/// # Errors
/// As [`Layout::of`] and [`Layout::gather`].
///
/// ```
/// use flatleaf::{destructure, tree};
///
/// let (flat, layout) = destructure(&tree!({ "weight": [[1.0, 2.0]], "bias": [0.5] }))?;
/// assert_eq!(flat, [1.0, 2.0, 0.5]);
/// assert_eq!(layout.leaf("bias").unwrap().range(), 2..3);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn destructure<T: Tree + ?Sized>(tree: &T) -> Result<(Vec<f32>, Layout)> {
    let layout = Layout::of(tree)?;
    Ok((layout.gather(tree)?, layout))
}

impl Layout {
    /// The values of a tree's trainable leaves as a new flat vector. A tied leaf is read once.
    ///
    /// The tree is matched by path: it may be of another type than the one that was planned. Cost: two walks (about 10 ns a small
    /// leaf each) and one copy; large leaves are copied by all threads.
    ///
    /// # Errors
    /// A leaf that is missing, unknown, of another shape or element type; places of one parameter that hold different bits; a
    /// poisoned lock or borrowed cell.
    pub fn gather<T: Tree + ?Sized>(&self, tree: &T) -> Result<Vec<f32>> {
        self.check_f32()?;
        if self.len() > SURE_TO_FIT {
            check::check(&self.inner, tree, Purpose::ReadValues)?;
        }
        let mut flat = memory::zeros(self.len());
        let mut gather = Gather::new(&mut flat);
        check::check_and_take(&self.inner, tree, Purpose::ReadValues, &mut gather)?;
        gather.finish();
        Ok(flat)
    }

    /// The same into a vector that is there. Allocates nothing for a plain tree of small leaves.
    ///
    /// # Errors
    /// As [`gather`](Layout::gather), and a slice of another length than the layout's; the slice is as it was.
    pub fn gather_into<T: Tree + ?Sized>(&self, tree: &T, flat: &mut [f32]) -> Result<()> {
        self.check_f32()?;
        self.check_len(flat.len())?;
        let contents = check::check(&self.inner, tree, Purpose::ReadValues)?;
        if contents.has_callback {
            // A callback may fail half-way.
            flat.copy_from_slice(&self.gather(tree)?);
            return Ok(());
        }
        copy(&self.inner, tree, flat)
    }
}

fn copy<T: Tree + ?Sized>(layout: &Inner, tree: &T, flat: &mut [f32]) -> Result<()> {
    let mut gather = Gather::new(flat);
    matched::walk_all(layout, tree, &mut gather)?;
    gather.finish();
    Ok(())
}

/// Copies slices to ranges of the flat vector, which are disjoint.
pub(crate) fn copy_ranges(flat: &mut [f32], mut parts: Vec<(Range<usize>, &[f32])>) {
    if !parts.is_sorted_by_key(|part| part.0.start) {
        parts.sort_unstable_by_key(|part| part.0.start);
    }
    let (mut rest, mut at) = (flat, 0);
    let mut pairs = Vec::with_capacity(parts.len());
    for (range, from) in parts {
        let (to, after) = rest[range.start - at..].split_at_mut(range.len());
        pairs.push((to, from));
        (rest, at) = (after, range.end);
    }
    transfer::copy_all(&mut pairs);
}

struct Gather<'f, 'a> {
    flat: &'f mut [f32],
    /// Leaves to be copied by all threads, where that is worth it.
    large: Option<Vec<(Range<usize>, &'a [f32])>>,
}

impl<'f> Gather<'f, '_> {
    fn new(flat: &'f mut [f32]) -> Self {
        let large = transfer::is_parallel(flat.len()).then(Vec::new);
        Gather { flat, large }
    }

    fn finish(self) {
        copy_ranges(self.flat, self.large.unwrap_or_default());
    }
}

impl<'a> Take<'a> for Gather<'_, 'a> {
    /// Every place of a tie holds the same bits: the first one is read.
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.first && place.leaf.trainable
    }

    #[inline(always)]
    fn take(&mut self, place: &Place, leaf: LeafRef<'_, 'a>) -> Result<()> {
        let range = place.range();
        let Some(slice) = leaf.lent::<f32>() else { return self.read(range, &leaf) };
        match &mut self.large {
            Some(large) if transfer::is_large(range.len()) => large.push((range, slice)),
            _ if slice.len() == range.len() => self.flat[range].copy_from_slice(slice),
            _ => return Err(Error::unstable("a leaf that changed its length between two visits")),
        }
        Ok(())
    }
}

impl Gather<'_, '_> {
    /// A leaf that lends no slice.
    #[cold]
    #[inline(never)]
    fn read(&mut self, range: Range<usize>, leaf: &LeafRef<'_, '_>) -> Result<()> {
        if leaf.dtype != Dtype::F32 {
            return Err(Error::unstable("a leaf that changed its element type between two visits"));
        }
        leaf.read(&mut self.flat[range])
    }
}
