//! An optimiser that keeps the state of a range only: one member of a sharded run.

use std::ops::Range;

use super::optimizer::Optimizer;
use super::pass::Part;
use super::rule::Rule;
use super::snapshot::Snapshot;
use crate::communicator::is_cut;
use crate::error::{Error, Result};
use crate::layout::Layout;

impl<R: Rule> Optimizer<R> {
    /// An optimiser at step 0 that keeps the state of a range of the flat vector only: of member
    /// `r` of a run, range `r` of [`Layout::shards`]. So a run of `N` members has one state in all
    /// and not `N`. Settings, step counts and what is frozen are those of all leaves on every
    /// member.
    ///
    /// [`step_with`](Optimizer::step_with) takes the step of all members;
    /// [`step`](Optimizer::step) and its like are errors, unless the range is the whole vector.
    ///
    /// # Errors
    /// `is_argument`: the range is not within the flat vector, or begins or ends within a leaf
    /// other than at a multiple of 32,768 elements from its start; or what the rule refuses.
    /// `is_out_of_memory`: no memory for a state vector of the range's length.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![0.0_f32; 3], vec![0.0_f32; 4], vec![0.0_f32; 2]))?;
    /// let shards = layout.shards(2);
    /// let optimizer = Optimizer::of_range(AdamW::default(), &layout, shards[1].clone())?;
    /// assert_eq!((optimizer.range(), optimizer.state_of("exp_avg").unwrap().len()), (3..9, 6));
    /// assert!(Optimizer::of_range(AdamW::default(), &layout, 1..9).unwrap_err().is_argument());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of_range(rule: R, layout: &Layout, range: Range<usize>) -> Result<Self> {
        check_range(layout, &range)?;
        Optimizer::with_range(rule, layout, range)
    }

    /// An optimiser of a range that goes on, to the bit, where the members of a run were when their
    /// snapshots were taken: any snapshots that cover the range together, of as many members as
    /// there were. So a run goes on with another number of members, and with one, whose range is
    /// the whole vector.
    ///
    /// # Errors
    /// `is_other_layout`: a snapshot is of another layout. `is_invalid_state`: one contradicts
    /// itself, or two are of different steps or settings, with the number of the snapshot.
    /// `is_missing`: elements of the range are in none, with the leaf's path. `is_argument`: no
    /// snapshot, a range that [`of_range`](Optimizer::of_range) refuses, or a configuration that
    /// the rule does. `is_out_of_memory`: no memory for a state vector.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&(vec![0.0_f32; 3], vec![0.0_f32; 4]))?;
    /// let members: Vec<Optimizer<AdamW>> = layout.shards(2).into_iter()
    ///     .map(|shard| Optimizer::of_range(AdamW::default(), &layout, shard))
    ///     .collect::<Result<_, _>>()?;
    /// let snapshots = [members[0].snapshot(), members[1].snapshot()];
    /// let alone = Optimizer::resume_range(&snapshots, &layout, 0..7)?;
    /// assert_eq!(alone.state_of("exp_avg").unwrap().len(), 7);
    ///
    /// let error = Optimizer::resume_range(&snapshots[1..], &layout, 0..7).unwrap_err();
    /// assert!(error.is_missing() && error.path() == Some("0"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn resume_range(
        snapshots: &[Snapshot<'_, R>],
        layout: &Layout,
        range: Range<usize>,
    ) -> Result<Self> {
        check_range(layout, &range)?;
        let Some(first) = snapshots.first() else {
            return Err(Error::argument("a snapshot of each member", "none"));
        };
        for (number, snapshot) in snapshots.iter().enumerate() {
            snapshot.check_is_of(layout)?;
            if let Some(difference) = snapshot.difference_from(first) {
                let found = format!("snapshot {number} at another {difference} than snapshot 0");
                return Err(Error::invalid_state(found));
            }
        }
        // Members count alike, so that the first one's counts are those of all.
        let mut optimizer = first.resumed_without_vectors(layout, range.clone())?;
        let mut at = range.start;
        // From one snapshot to the next: ranges may overlap, as those of members that keep all do.
        while at < range.end {
            let covers = |snapshot: &&Snapshot<'_, R>| snapshot.range(layout).contains(&at);
            let Some(snapshot) = snapshots.iter().find(covers) else {
                return Err(not_covered(snapshots, layout, at..range.end));
            };
            let end = snapshot.range(layout).end.min(range.end);
            snapshot.copy_vectors(layout, at..end, &mut optimizer);
            at = end;
        }
        Ok(optimizer)
    }
}

impl<R, E> Optimizer<R, E> {
    /// Which elements of the flat vector it keeps the state of: all, unless it was made
    /// [of a range](Optimizer::of_range).
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&vec![0.0_f32; 3])?)?;
    /// assert_eq!(optimizer.range(), 0..3);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Where the elements of a leaf are in the state vectors, as far as they are kept here.
    pub(super) fn kept_of(&self, leaf: usize) -> Range<usize> {
        let leaf = &self.layout.leaves()[leaf];
        let kept = intersection(&leaf.range(), &self.range);
        let first = self.range.start;
        kept.start - first..kept.end - first
    }
}

/// What two ranges have in common; where they have nothing, an empty one within the second.
pub(crate) fn intersection(a: &Range<usize>, within: &Range<usize>) -> Range<usize> {
    let start = a.start.clamp(within.start, within.end);
    let end = a.end.clamp(start, within.end);
    start..end
}

/// What a range has of parts that are whole leaves.
pub(super) fn parts_within(parts: &[Part], range: &Range<usize>) -> Vec<Part> {
    let within = |part: &Part| {
        let kept = intersection(&part.range, range);
        let is_kept = !kept.is_empty();
        is_kept.then(|| Part {
            start: kept.start - part.range.start,
            range: kept,
            ..*part
        })
    };
    parts.iter().filter_map(within).collect()
}

fn check_range(layout: &Layout, range: &Range<usize>) -> Result<()> {
    let is_within = range.start <= range.end && range.end <= layout.len();
    if is_within && is_cut(layout, range.start) && is_cut(layout, range.end) {
        return Ok(());
    }
    let expected = format!(
        "a range of 0..{} that begins and ends where leaves start, or at multiples of 32,768 elements from there",
        layout.len()
    );
    Err(Error::argument(&expected, format_args!("{range:?}")))
}

#[cold]
fn not_covered<R: Rule>(
    snapshots: &[Snapshot<'_, R>],
    layout: &Layout,
    rest: Range<usize>,
) -> Error {
    let starts = snapshots
        .iter()
        .map(|snapshot| snapshot.range(layout).start);
    let next = starts.filter(|start| *start > rest.start).min();
    let end = next.unwrap_or(rest.end).min(rest.end);
    let leaves = layout.leaves();
    let leaf = leaves.partition_point(|leaf| leaf.range().end <= rest.start);
    let start = rest.start;
    let expected =
        format!("a snapshot with the state of elements {start}..{end} of the flat vector");
    Error::missing(leaves[leaf].path().to_owned(), expected)
}
