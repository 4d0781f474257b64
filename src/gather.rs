//! Tree → flat: the values of a tree's trainable leaves.

use std::ops::Range;

use crate::check::{self, Purpose};
use crate::elements::{changed_length, changed_type, read_floats};
use crate::error::Result;
use crate::floats::{Floats, FloatsMut};
use crate::layout::{Layout, Place};
use crate::matched::{self, Take};
use crate::memory;
use crate::transfer;
use crate::tree::{FlatElement, LeafRef, Source, Tree};

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
    destructure_as(tree)
}

/// The same with a flat vector of another element type: `f64` holds leaves of any float type without loss.
///
/// # Errors
/// As [`destructure`].
///
/// ```
/// use flatleaf::{destructure, destructure_as};
///
/// let model = (vec![1.0_f32], vec![0.1_f64]);
/// let (flat, layout) = destructure_as::<f64>(&model)?;
/// assert_eq!(flat, [1.0, 0.1]);
/// assert_eq!(layout.restructure_as(&model, &[2.0, 0.2])?, (vec![2.0], vec![0.2]));
/// assert!(destructure(&model).unwrap_err().is_element_type());
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn destructure_as<E: FlatElement>(tree: &(impl Tree + ?Sized)) -> Result<(Vec<E>, Layout)> {
    let layout = Layout::of(tree)?;
    Ok((layout.gather_as(tree)?, layout))
}

impl Layout {
    /// The values of a tree's trainable leaves as a new flat vector. A tied leaf is read once.
    ///
    /// The tree is matched by path: it may be of another type than the one that was planned. Cost: two walks (about 10 ns a small
    /// leaf each) and one copy; large leaves are copied by all threads.
    ///
    /// # Errors
    /// An f64 leaf, unless the planner was told to [round](crate::Planner::round_f64) it; a leaf that is missing, unknown, of another
    /// shape or element type; places of one parameter that hold different bits; a poisoned lock or borrowed cell.
    pub fn gather<T: Tree + ?Sized>(&self, tree: &T) -> Result<Vec<f32>> {
        self.gather_as(tree)
    }

    /// The same as a vector of another element type: `f64` holds leaves of any float type without loss.
    ///
    /// # Errors
    /// As [`gather`](Layout::gather); no element type is an error for `f64`.
    ///
    /// ```
    /// use flatleaf::Layout;
    ///
    /// let model = (vec![1.0_f32], vec![0.1_f64]);
    /// assert_eq!(Layout::of(&model)?.gather_as::<f64>(&model)?, [1.0, 0.1]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn gather_as<E: FlatElement>(&self, tree: &(impl Tree + ?Sized)) -> Result<Vec<E>> {
        self.check_element::<E>()?;
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
        self.gather_into_as(tree, flat)
    }

    /// The same into a vector of any flat element type.
    ///
    /// # Errors
    /// As [`gather_into`](Layout::gather_into); no element type is an error for `f64`.
    pub fn gather_into_as<E: FlatElement>(&self, tree: &(impl Tree + ?Sized), flat: &mut [E]) -> Result<()> {
        self.check_element::<E>()?;
        self.check_len(flat.len())?;
        let contents = check::check(&self.inner, tree, Purpose::ReadValues)?;
        if contents.has_callback {
            // A callback may fail half-way.
            flat.copy_from_slice(&self.gather_as(tree)?);
            return Ok(());
        }
        let mut gather = Gather::new(flat);
        matched::walk_all(&self.inner, tree, &mut gather)?;
        gather.finish();
        Ok(())
    }
}

/// Copies leaves to ranges of the flat vector, which are disjoint, with all threads.
pub(crate) fn copy_ranges<E: FlatElement>(flat: &mut [E], mut parts: Vec<(Range<usize>, Floats<'_>)>) {
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
    transfer::copy_all(pairs);
}

struct Gather<'f, 'a, E> {
    flat: &'f mut [E],
    /// Leaves to be copied by all threads, where that is worth it.
    large: Option<Vec<(Range<usize>, Floats<'a>)>>,
}

impl<'f, E: FlatElement> Gather<'f, '_, E> {
    fn new(flat: &'f mut [E]) -> Self {
        let large = transfer::is_parallel(flat.len()).then(Vec::new);
        Gather { flat, large }
    }

    fn finish(self) {
        copy_ranges(self.flat, self.large.unwrap_or_default());
    }
}

impl<'a, E: FlatElement> Take<'a> for Gather<'_, 'a, E> {
    /// Every place of a tie holds the same bits: the first one is read.
    #[inline]
    fn wants(&self, place: &Place) -> bool {
        place.first && place.leaf.trainable
    }

    #[inline(always)]
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        match leaf.source {
            Source::Lent(bytes) if leaf.dtype == E::DTYPE && !self.is_for_all_threads(place) => {
                let to = bytemuck::cast_slice_mut(&mut self.flat[place.range()]);
                if to.len() != bytes.len() {
                    return Err(changed_length());
                }
                to.copy_from_slice(bytes);
                Ok(())
            }
            _ => self.take_other(place, leaf),
        }
    }
}

impl<'a, E: FlatElement> Gather<'_, 'a, E> {
    #[inline]
    fn is_for_all_threads(&self, place: &Place) -> bool {
        self.large.is_some() && transfer::is_large(place.len)
    }

    /// A leaf that is large, of another type, or no slice.
    #[inline(never)]
    fn take_other(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if leaf.dtype != place.dtype {
            return Err(changed_type());
        }
        if let Some(large) = &mut self.large
            && transfer::is_large(place.len)
            && let Some(floats) = leaf.lent_floats().filter(|floats| floats.has_len(place.len))
        {
            large.push((place.range(), floats));
            return Ok(());
        }
        read_floats(leaf, &mut self.flat[place.range()])
    }
}
