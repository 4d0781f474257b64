//! Which views are one parameter, which are separate, and which may not stand in one tree.
//!
//! Views of one canonical form are a tie. Others may share no element. Most views lie apart, which sorting
//! by address shows with one comparison each, against the furthest end seen so far; the elements of
//! those that interleave are marked one by one.

use std::collections::HashMap;

use crate::tree::axes::StridedView;

/// For each view the first of those that are one parameter with it, or two views that share some
/// elements.
pub(crate) fn group(views: &[StridedView]) -> Result<Vec<usize>, (usize, usize)> {
    let mut leader: Vec<usize> = (0..views.len()).collect();
    let mut by_start: Vec<usize> = leader.clone();
    by_start.sort_by_key(|&index| views[index].canonical.start);
    for cluster in clusters(views, &by_start) {
        group_cluster(views, cluster, &mut leader)?;
    }
    Ok(leader)
}

/// Runs of views, sorted by start, whose spans hang together.
fn clusters<'v>(views: &[StridedView], by_start: &'v [usize]) -> Vec<&'v [usize]> {
    let mut end = 0;
    let mut cuts = Vec::new();
    for (position, &index) in by_start.iter().enumerate() {
        if views[index].canonical.start >= end {
            cuts.push(position);
        }
        end = end.max(views[index].end());
    }
    let ends = cuts.iter().skip(1).copied().chain([by_start.len()]);
    cuts.iter()
        .zip(ends)
        .map(|(&start, end)| &by_start[start..end])
        .collect()
}

fn group_cluster(
    views: &[StridedView],
    cluster: &[usize],
    leader: &mut [usize],
) -> Result<(), (usize, usize)> {
    let mut first = HashMap::new();
    let mut members = cluster.to_vec();
    members.sort_unstable();
    members.retain(|&index| {
        leader[index] = *first
            .entry((&views[index].canonical, views[index].element_size))
            .or_insert(index);
        leader[index] == index
    });
    if members.len() < 2 {
        Ok(())
    } else {
        check_disjoint(views, &members)
    }
}

fn check_disjoint(views: &[StridedView], members: &[usize]) -> Result<(), (usize, usize)> {
    let mut taken = Marks::over(views, members);
    for (position, &index) in members.iter().enumerate() {
        if taken.touches(&views[index]) {
            let mut own = Marks::over(views, members);
            own.mark(&views[index]);
            let sharer = members[..position]
                .iter()
                .find(|&&other| own.touches(&views[other]));
            return Err((
                *sharer.expect("an element was taken by an earlier view"),
                index,
            ));
        }
        taken.mark(&views[index]);
    }
    Ok(())
}

/// One mark for each element between the first and the last of some views.
struct Marks {
    start: usize,
    /// Bytes a mark stands for: an element where all views have the same, else a byte.
    unit: usize,
    marks: Vec<bool>,
}

impl Marks {
    fn over(views: &[StridedView], members: &[usize]) -> Self {
        let members = || members.iter().map(|&index| &views[index]);
        let start = members()
            .map(|view| view.canonical.start)
            .min()
            .unwrap_or(0);
        let end = members().map(StridedView::end).max().unwrap_or(0);
        let size = members().map(|view| view.element_size).max().unwrap_or(1);
        let regular = members().all(|view| {
            view.element_size == size && (view.canonical.start - start).is_multiple_of(size)
        });
        let unit = if regular { size } else { 1 };
        Marks {
            start,
            unit,
            marks: vec![false; (end - start).div_ceil(unit)],
        }
    }

    fn mark(&mut self, view: &StridedView) {
        let units = view.element_size / self.unit;
        view.all_addresses(&mut |address| {
            let first = (address - self.start) / self.unit;
            self.marks[first..first + units].fill(true);
            true
        });
    }

    fn touches(&self, view: &StridedView) -> bool {
        let units = view.element_size / self.unit;
        !view.all_addresses(&mut |address| {
            let first = (address - self.start) / self.unit;
            !self.marks[first..first + units].iter().any(|&mark| mark)
        })
    }
}
