//! flatleaf's three exchanges on MPI.
//!
//! MPI's own `MPI_Reduce_scatter` and `MPI_Allreduce` add in an order that changes with the library,
//! the size of the message and the number of ranks. So a sum goes another way: each rank sends every
//! other rank the part that it owns (`MPI_Alltoallv`), and the owner adds the parts in the order of
//! the ranks.
//!
//! Two ranks that sum a vector of 6 elements, of which rank 0 owns the first four:
//!
//! ```text
//! rank 0 has  a b c d e f   sends e f to rank 1      receives A B C D   adds  a+A b+B c+C d+D
//! rank 1 has  A B C D E F   sends A B C D to rank 0  receives e f       adds  e+E f+F
//! ```

use std::ops::Range;

use ferrompi::Communicator as World;
use flatleaf::implementing::add_in_rank_order;
use flatleaf::{Communicator, Error, Result};

/// Elements that a rank receives at a time unless it is told otherwise: 256 MiB.
const LARGEST_MESSAGE: usize = 1 << 26;

/// A rank of an MPI job, as flatleaf's communicator. [`run`](crate::run) makes it.
///
/// Sums keep two scratch vectors: of the elements that the rank owns of the vector, times the number
/// of the other ranks, and of those that it owns; neither of more than
/// [`largest_message`](Mpi::set_largest_message) elements.
///
/// ```no_run
/// use flatleaf::Communicator;
///
/// flatleaf_mpi::run(|communicator| -> flatleaf::Result<()> {
///     let mut x = [communicator.rank() as f32];
///     communicator.sum(&mut x)?;
///     println!("rank {} of {}: {x:?}", communicator.rank(), communicator.size());
///     Ok(())
/// });
/// ```
pub struct Mpi {
    world: World,
    rank: usize,
    size: usize,
    largest_message: usize,
    received: Vec<f32>,
    sent: Vec<f32>,
}

impl Mpi {
    pub(crate) fn new(world: World) -> Self {
        Mpi {
            rank: world.rank() as usize,
            size: world.size() as usize,
            world,
            largest_message: LARGEST_MESSAGE,
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Bounds the elements that this rank receives at a time, and with them its scratch memory.
    ///
    /// A longer vector goes in pieces, as does one of more elements than MPI can count, 2³¹. The
    /// result is the same to the bit. All ranks have to set the same number; at least one element a
    /// rank is sent, whatever it is. 2²⁶, 256 MiB, unless it is set.
    ///
    /// ```no_run
    /// flatleaf_mpi::run(|communicator| -> flatleaf::Result<()> {
    ///     communicator.set_largest_message(1 << 20); // 4 MiB
    ///     Ok(())
    /// });
    /// ```
    pub fn set_largest_message(&mut self, elements: usize) {
        self.largest_message = elements.min(i32::MAX as usize);
    }

    /// Elements of one range that travel at a time.
    fn piece(&self) -> usize {
        (self.largest_message / self.size).max(1)
    }

    /// Sums piece number `number` of every range.
    fn reduce_scatter_piece(
        &mut self,
        x: &mut [f32],
        ranges: &[Range<usize>],
        number: usize,
    ) -> Result<()> {
        let pieces: Vec<_> = ranges
            .iter()
            .map(|range| piece_of(range, self.piece(), number))
            .collect();
        let own = pieces[self.rank].clone();
        self.receive_parts(x, &pieces)?;
        if own.is_empty() {
            return Ok(());
        }
        let others = (self.size - 1) * own.len();
        let parts = self.received[..others].chunks_exact(own.len());
        let parts: Vec<&[f32]> = parts.collect();
        let (before, after) = parts.split_at(self.rank);
        add_in_rank_order(&mut x[own], before, after);
        Ok(())
    }

    /// Sends every other rank its piece, and receives what the others have of this rank's, one part
    /// behind the other. A rank's own part stays where it is: sent to itself, it would be copied.
    fn receive_parts(&mut self, x: &[f32], pieces: &[Range<usize>]) -> Result<()> {
        let own = pieces[self.rank].len();
        // In the order of the ranks, without this one.
        let place = |rank: usize| if rank < self.rank { rank } else { rank - 1 };
        let mut receive_counts = vec![own as i32; self.size];
        receive_counts[self.rank] = 0;
        let mut receive_starts = vec![0; self.size];
        let mut send_counts = vec![0; self.size];
        let others = (0..self.size).filter(|rank| *rank != self.rank);
        for rank in others {
            receive_starts[rank] = (place(rank) * own) as i32;
            send_counts[rank] = pieces[rank].len() as i32;
        }
        let needed = (self.size - 1) * own;
        // Grown only: elements that are received over need no zeros.
        if self.received.len() < needed {
            self.received.resize(needed, 0.0);
        }
        // MPI counts the places in a vector with 31 bits too, so of a longer one the pieces are put
        // side by side first.
        let is_packed = x.len() > self.largest_message;
        let (send, send_starts) = if is_packed {
            self.sent.clear();
            let starts = pieces.iter().map(|piece| {
                let start = self.sent.len() as i32;
                self.sent.extend_from_slice(&x[piece.clone()]);
                start
            });
            let starts: Vec<i32> = starts.collect();
            (&self.sent[..], starts)
        } else {
            (x, pieces.iter().map(|piece| piece.start as i32).collect())
        };
        self.world
            .alltoallv(
                send,
                &send_counts,
                &send_starts,
                &mut self.received[..needed],
                &receive_counts,
                &receive_starts,
            )
            .map_err(from_mpi)
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        for number in 0..pieces_of_longest(ranges, self.piece()) {
            self.reduce_scatter_piece(x, ranges, number)?;
        }
        Ok(())
    }

    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        if x.len() <= self.largest_message {
            // Kept: a fresh vector would have to be fetched from the system page by page.
            self.sent.clear();
            self.sent.extend_from_slice(&x[ranges[self.rank].clone()]);
            let counts: Vec<i32> = ranges.iter().map(|range| range.len() as i32).collect();
            let starts: Vec<i32> = ranges.iter().map(|range| range.start as i32).collect();
            return self
                .world
                .allgatherv(&self.sent, x, &counts, &starts)
                .map_err(from_mpi);
        }
        // Each owner's range in messages that MPI can count.
        for (root, range) in ranges.iter().enumerate() {
            for message in x[range.clone()].chunks_mut(self.largest_message.max(1)) {
                self.world
                    .broadcast(message, root as i32)
                    .map_err(from_mpi)?;
            }
        }
        Ok(())
    }

    fn all_reduce(&mut self, x: &mut [f64]) -> Result<()> {
        if x.is_empty() {
            return Ok(());
        }
        let mut all = vec![0.0; x.len() * self.size];
        self.world.allgather(x, &mut all).map_err(from_mpi)?;
        for (index, x) in x.iter_mut().enumerate() {
            *x = all.iter().skip(index).step_by(all.len() / self.size).sum();
        }
        Ok(())
    }
}

/// How many pieces the longest range has: every rank takes part in as many exchanges.
fn pieces_of_longest(ranges: &[Range<usize>], piece: usize) -> usize {
    let longest = ranges.iter().map(Range::len).max().unwrap_or(0);
    longest.div_ceil(piece)
}

/// A piece of a range by its number; empty behind the last one.
fn piece_of(range: &Range<usize>, piece: usize, number: usize) -> Range<usize> {
    let start = range
        .start
        .saturating_add(number.saturating_mul(piece))
        .min(range.end);
    start..start.saturating_add(piece).min(range.end)
}

fn from_mpi(error: ferrompi::Error) -> Error {
    Error::custom(format!("MPI: {error}"))
}
