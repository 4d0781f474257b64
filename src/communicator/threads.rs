//! Members that are threads of one process.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Communicator, add_in_rank_order, assert_ranges};
use crate::error::{Error, Result};

/// A member of a run within one process: for tests, and for several replicas of a small model.
///
/// An exchange copies what a member gives and waits for all members. A member that ends, by a panic
/// or because its work is done, while others still wait for it makes their exchange an error
/// (`is_member`) in place of a wait without end; so does one that calls another operation than they.
///
/// ```
/// use flatleaf::{Communicator, Threads};
///
/// let ranks = Threads::run(3, |member| (member.rank(), member.size()));
/// assert_eq!(ranks, [(0, 3), (1, 3), (2, 3)]);
/// ```
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

impl Threads {
    /// Runs `work` on so many threads, each with its member; what they return, by rank.
    ///
    /// # Panics
    /// If `count` is 0. If `work` panics on a member: with that panic, once all have ended.
    ///
    /// ```
    /// use flatleaf::{Communicator, Threads};
    ///
    /// let sums = Threads::run(2, |member| {
    ///     let mut x = [1.0];
    ///     member.all_reduce(&mut x).map(|()| x[0])
    /// });
    /// assert!(sums.into_iter().all(|sum| sum.unwrap() == 2.0));
    /// ```
    pub fn run<R>(count: usize, work: impl Fn(&mut Threads) -> R + Sync) -> Vec<R>
    where
        R: Send,
    {
        let members = Threads::members(count);
        let work = &work;
        thread::scope(|scope| {
            let mut running = Vec::with_capacity(count);
            for mut member in members {
                running.push(scope.spawn(move || work(&mut member)));
            }
            // All are joined before a panic goes on: the others end with an error of their own.
            let mut ended = Vec::with_capacity(count);
            for thread in running {
                ended.push(thread.join());
            }
            let results = ended.into_iter();
            results
                .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        })
    }

    /// So many members, by rank, for threads that the caller starts.
    ///
    /// # Panics
    /// If `count` is 0.
    ///
    /// ```
    /// use flatleaf::{Communicator, Threads};
    ///
    /// let mut members = Threads::members(2).into_iter();
    /// let (mut first, mut second) = (members.next().unwrap(), members.next().unwrap());
    /// let other = std::thread::spawn(move || second.sum(&mut [1.0]));
    /// let mut x = [2.0];
    /// first.sum(&mut x)?;
    /// assert_eq!(x, [3.0]);
    /// # other.join().unwrap()?;
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn members(count: usize) -> Vec<Threads> {
        assert!(count > 0, "a run has a member at least");
        let meeting = Arc::new(Meeting::of(count));
        let member = |rank| Threads {
            rank,
            meeting: Arc::clone(&meeting),
        };
        (0..count).map(member).collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.leave(self.rank);
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        assert_ranges(self.size(), x.len(), ranges);
        let rank = self.rank;
        let given = Given::ReduceScatter(x.to_vec(), ranges.to_vec());
        let all = self.meeting.exchange(rank, given)?;
        let own = ranges[rank].clone();
        let mut parts = Vec::with_capacity(all.len());
        for given in all.iter() {
            let elements = given.floats();
            parts.push(&elements[own.clone()]);
        }
        // In the order of the ranks, so that all members and all runs have the same bits.
        let before = &parts[..rank];
        let after = &parts[rank + 1..];
        add_in_rank_order(&mut x[own], before, after);
        Ok(())
    }

    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        assert_ranges(self.size(), x.len(), ranges);
        let rank = self.rank;
        let range = ranges[rank].clone();
        let own = x[range].to_vec();
        let given = Given::AllGather(own, x.len(), ranges.to_vec());
        let all = self.meeting.exchange(rank, given)?;
        for (range, given) in ranges.iter().zip(all.iter()) {
            let part = &mut x[range.clone()];
            part.copy_from_slice(given.floats());
        }
        Ok(())
    }

    fn all_reduce(&mut self, x: &mut [f64]) -> Result<()> {
        let given = Given::AllReduce(x.to_vec());
        let all = self.meeting.exchange(self.rank, given)?;
        for (index, x) in x.iter_mut().enumerate() {
            // `all` is in the order of the ranks, whoever came first.
            let given = all.iter().map(|given| given.numbers()[index]);
            *x = given.sum();
        }
        Ok(())
    }
}

/// What a member brings to an exchange.
enum Given {
    ReduceScatter(Vec<f32>, Vec<Range<usize>>),
    /// What stands in the member's own range, and the length of the whole vector.
    AllGather(Vec<f32>, usize, Vec<Range<usize>>),
    AllReduce(Vec<f64>),
}

impl Given {
    fn floats(&self) -> &[f32] {
        match self {
            Given::ReduceScatter(x, _) | Given::AllGather(x, ..) => x,
            Given::AllReduce(_) => &[],
        }
    }

    fn numbers(&self) -> &[f64] {
        match self {
            Given::AllReduce(x) => x,
            _ => &[],
        }
    }

    /// Whether it is the same call of the same operation as another member's.
    fn matches(&self, other: &Given) -> bool {
        match (self, other) {
            (Given::ReduceScatter(a, a_ranges), Given::ReduceScatter(b, b_ranges)) => {
                a.len() == b.len() && a_ranges == b_ranges
            }
            (Given::AllGather(_, a, a_ranges), Given::AllGather(_, b, b_ranges)) => {
                a == b && a_ranges == b_ranges
            }
            (Given::AllReduce(a), Given::AllReduce(b)) => a.len() == b.len(),
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self {
            Given::ReduceScatter(x, _) => format!("`reduce_scatter` of {} elements", x.len()),
            Given::AllGather(_, len, _) => format!("`all_gather` of {len} elements"),
            Given::AllReduce(x) => format!("`all_reduce` of {} numbers", x.len()),
        }
    }
}

/// Where members meet, exchange after exchange.
///
/// Each puts down what it gives and waits; the last one to come takes everything off the table for
/// all to read, and the table is free again. Nobody can finish the next exchange before all have
/// read this one, since it needs them all.
struct Meeting {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    table: Vec<Option<Given>>,
    /// What the last finished exchange was given, by rank, and how many there were.
    read: Arc<Vec<Given>>,
    finished: u64,
    /// The first member that has ended.
    ended: Option<usize>,
}

impl Meeting {
    fn of(size: usize) -> Self {
        Meeting {
            size,
            state: Mutex::new(State {
                table: (0..size).map(|_| None).collect(),
                read: Arc::default(),
                finished: 0,
                ended: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// A member that panics holds no lock, so that a poisoned one says nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down what a member gives, waits for the others, and returns what all gave.
    fn exchange(&self, rank: usize, given: Given) -> Result<Arc<Vec<Given>>> {
        let mut state = self.lock();
        let exchange = state.finished;
        state.table[rank] = Some(given);
        if state.table.iter().all(Option::is_some) {
            let table = state.table.iter_mut();
            let all: Vec<Given> = table.filter_map(Option::take).collect();
            state.read = Arc::new(all);
            state.finished += 1;
            self.changed.notify_all();
        }
        // An exchange that has been finished is good, even if a member has ended since.
        while state.finished == exchange {
            if let Some(ended) = state.ended {
                return Err(Error::member(ended, "it has ended"));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let all = Arc::clone(&state.read);
        drop(state);
        // Every member sees the same calls, so that all of them return an error or none does.
        let mut ranks = all.iter();
        match ranks.position(|given| !given.matches(&all[0])) {
            Some(other) => Err(differs(&all, other)),
            None => Ok(all),
        }
    }

    fn leave(&self, rank: usize) {
        self.lock().ended.get_or_insert(rank);
        self.changed.notify_all();
    }
}

fn differs(all: &[Given], other: usize) -> Error {
    let here = all[0].describe();
    let there = all[other].describe();
    let message = format!("it called {there} where member 0 called {here}, or with other ranges");
    Error::member(other, message)
}
