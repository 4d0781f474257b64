//! Which views are one parameter, which are separate, and which may not stand in one tree.
//!
//! Views of the same elements in another order of axes are a tie: they have one canonical form
//! ([`StridedView`]). Any others may share no element. Most views lie apart, which sorting by
//! address shows with one comparison each, against the furthest end seen so far; the elements of
//! those that interleave are marked one by one.
//!
//! Take the columns of a 3 × 2 array of floats at address 100, its first column once more as a 3 ×
//! 1 matrix, and a list at 200. Spans in bytes: 100..120, 104..124, 100..120, 200..212. Sorted by
//! start, the first three hang together and the list is alone, so nothing more is asked of it. Of
//! the three, the first and the last have one canonical form, (100, 3 steps of 8): one parameter.
//! The two that are left mark floats 0, 2, 4 and 1, 3, 5 of their common span: no mark is met
//! twice, so they are separate leaves. A view of the first row, floats 0 and 1, would meet a mark:
//! an error.
//!
//! Deciding from strides alone whether two views meet is an integer program, and marking costs no
//! more than reading the views once, so nothing cleverer is done.

use std::collections::HashMap;

use crate::tree::axes::StridedView;

/// For each view the first of those that are one parameter with it, or two views that share some
/// elements.
pub(crate) fn group(views: &[StridedView]) -> Result<Vec<usize>, (usize, usize)> {
    let mut leader: Vec<usize> = (0..views.len()).collect();
    let mut by_start: Vec<usize> = leader.clone();
    by_start.sort_by_key(|&index| views[index].canonical.start);
    // Views of different clusters have no address in common.
    for cluster in clusters(views, &by_start) {
        group_cluster(views, cluster, &mut leader)?;
    }
    Ok(leader)
}

/// Runs of views, sorted by start, whose spans hang together.
fn clusters<'v>(views: &[StridedView], by_start: &'v [usize]) -> Vec<&'v [usize]> {
    let mut clusters = Vec::new();
    let mut first = 0;
    // The furthest end of all views so far, which need not be that of the last one.
    let mut end = 0;
    for (position, &index) in by_start.iter().enumerate() {
        let view = &views[index];
        if view.canonical.start >= end && position > first {
            clusters.push(&by_start[first..position]);
            first = position;
        }
        end = end.max(view.end());
    }
    if first < by_start.len() {
        clusters.push(&by_start[first..]);
    }
    clusters
}

fn group_cluster(
    views: &[StridedView],
    cluster: &[usize],
    leader: &mut [usize],
) -> Result<(), (usize, usize)> {
    let mut first = HashMap::new();
    let mut members = cluster.to_vec();
    // In the order of the walk again, so that a tie is led by the view that was met first.
    members.sort_unstable();
    members.retain(|&index| {
        let view = &views[index];
        // The same bytes as elements of another size are not the same elements.
        let shown = (&view.canonical, view.element_size);
        leader[index] = *first.entry(shown).or_insert(index);
        leader[index] == index
    });
    if members.len() < 2 {
        return Ok(());
    }
    check_disjoint(views, &members)
}

fn check_disjoint(views: &[StridedView], members: &[usize]) -> Result<(), (usize, usize)> {
    let mut taken = Marks::over(views, members);
    for (position, &index) in members.iter().enumerate() {
        let view = &views[index];
        if taken.touches(view) {
            let earlier = &members[..position];
            return Err((sharer(views, members, earlier, view), index));
        }
        taken.mark(view);
    }
    Ok(())
}

/// The first of the earlier views that shares an element with this one.
fn sharer(
    views: &[StridedView],
    members: &[usize],
    earlier: &[usize],
    view: &StridedView,
) -> usize {
    // The marks do not say whose they are; this is asked once, for the message.
    let mut own = Marks::over(views, members);
    own.mark(view);
    let mut earlier = earlier.iter();
    let sharer = earlier.find(|&&other| own.touches(&views[other]));
    *sharer.expect("an element was taken by an earlier view")
}

/// One mark for each element between the first and the last of some views.
struct Marks {
    start: usize,
    /// Bytes a mark stands for: an element where all views have the same, else a byte.
    unit: usize,
    marks: Vec<bool>,
}

impl Marks {
    /// No marks, for two views or more.
    fn over(views: &[StridedView], members: &[usize]) -> Self {
        let mut start = usize::MAX;
        let mut end = 0;
        let mut size = 1;
        for &index in members {
            let view = &views[index];
            start = start.min(view.canonical.start);
            end = end.max(view.end());
            size = size.max(view.element_size);
        }
        // Types of other sizes, or elements that lie across each other, are marked by bytes.
        let is_regular = members.iter().all(|&index| {
            let view = &views[index];
            let offset = view.canonical.start - start;
            view.element_size == size && offset.is_multiple_of(size)
        });
        let unit = if is_regular { size } else { 1 };
        let count = (end - start).div_ceil(unit);
        Marks {
            start,
            unit,
            marks: vec![false; count],
        }
    }

    fn mark(&mut self, view: &StridedView) {
        let units = view.element_size / self.unit;
        view.all_addresses(&mut |address| {
            let first = (address - self.start) / self.unit;
            let element = &mut self.marks[first..first + units];
            element.fill(true);
            true
        });
    }

    fn touches(&self, view: &StridedView) -> bool {
        let units = view.element_size / self.unit;
        let is_free = |address: usize| {
            let first = (address - self.start) / self.unit;
            let element = &self.marks[first..first + units];
            !element.contains(&true)
        };
        // The walk ends at the first element that is taken.
        let are_all_free = view.all_addresses(&mut |address| is_free(address));
        !are_all_free
    }
}
