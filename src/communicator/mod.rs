//! Several members that train one model: what they exchange, whoever carries it.
//!
//! A member is a process or a thread with a copy of the model and a part of the data. All that the
//! members of a run exchange is slices of one flat vector and a few numbers, so three operations are
//! enough for everything else, and whoever has a network brings those three: [`Communicator`].
//!
//! Sums are taken in the order of the ranks, in `f64`, and rounded once. So a run gives the same bits
//! whatever carries the numbers, and gradients whose sums are exact, as those of whole numbers, give
//! the bits of a run of one member.

mod alone;
mod elastic;
mod error;
mod mean;
mod numbers;
mod rank_order;
mod shards;
mod threads;

use std::ops::Range;

pub use alone::Alone;
pub use elastic::elastic_average;
pub(crate) use mean::{check_total, check_weight, divide, weigh};
pub(crate) use numbers::{gather_numbers, halves, whole};
pub use rank_order::add_in_rank_order;
pub(crate) use shards::{NORM_PIECE, check_together, is_cut};
pub use threads::Threads;

use crate::error::{Error, Result};
use crate::layout::Layout;

/// One member's end of the lines between all members of a run.
///
/// Every method is collective: all members call it, in the same order, with vectors of the same
/// length and the same ranges, and each waits until all have called it. Whether it is called must
/// therefore never depend on what one member alone knows. An error on one side of an operation is no
/// excuse: [`agree`](Communicator::agree) turns it into an error on all.
///
/// [`Alone`] is a run of one member, [`Threads`] are members within one process. To bring another
/// carrier, implement the five methods without a body.
///
/// ```
/// use flatleaf::{Communicator, Result, Threads};
///
/// // Any function of a communicator runs on any carrier.
/// fn mean_loss(communicator: &mut impl Communicator, loss: f64) -> Result<f64> {
///     let mut sum = [loss];
///     communicator.all_reduce(&mut sum)?;
///     Ok(sum[0] / communicator.size() as f64)
/// }
///
/// let means = Threads::run(4, |member| {
///     let loss = member.rank() as f64;
///     mean_loss(member, loss)
/// });
/// assert!(means.into_iter().all(|mean| mean.unwrap() == 1.5));
/// ```
pub trait Communicator {
    /// This member's number, from 0 to one less than [`size`](Communicator::size).
    fn rank(&self) -> usize;

    /// How many members there are, this one included.
    fn size(&self) -> usize;

    /// Sums the vectors of all members; each gets the sum of its own range.
    ///
    /// `ranges` has one range for each rank. They do not overlap, and may be empty. Afterwards
    /// `x[ranges[rank]]` holds the sums; what stands in the rest of `x` is up to the carrier.
    /// Elements are added in the order of the ranks, in `f64`, and rounded to `f32` once.
    ///
    /// # Errors
    /// What the carrier has to say; another length or other ranges than another member's.
    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()>;

    /// Gives every member's own range to all: afterwards `x[ranges[r]]` is what member `r` had there,
    /// for every `r`, bit for bit. Elements in no range stay.
    ///
    /// # Errors
    /// What the carrier has to say; another length or other ranges than another member's.
    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()>;

    /// Sums a few numbers of all members, in the order of the ranks; all get the sums.
    ///
    /// # Errors
    /// What the carrier has to say; another length than another member's.
    fn all_reduce(&mut self, x: &mut [f64]) -> Result<()>;

    /// Sums the vectors of all members, in the order of the ranks; all get the whole sum.
    ///
    /// Each member adds one part up and gives it to the others, so what a member sends is twice the
    /// vector, however many members there are.
    ///
    /// # Errors
    /// What [`reduce_scatter`](Communicator::reduce_scatter) and
    /// [`all_gather`](Communicator::all_gather) return.
    ///
    /// ```
    /// use flatleaf::{Communicator, Threads};
    ///
    /// let sums = Threads::run(3, |member| {
    ///     let mut x = [1.0, member.rank() as f32];
    ///     member.sum(&mut x).map(|()| x)
    /// });
    /// assert!(sums.into_iter().all(|sum| sum.unwrap() == [3.0, 3.0]));
    /// ```
    fn sum(&mut self, x: &mut [f32]) -> Result<()> {
        let ranges = even_ranges(x.len(), self.size());
        self.reduce_scatter(x, &ranges)?;
        self.all_gather(x, &ranges)
    }

    /// The mean of the vectors of all members, weighted: `Σ weight · x / Σ weight`. All get it.
    ///
    /// A weight is the number of examples that the member's vector stands for, say. A member with a
    /// weight of 0 takes part in the exchange and not in the mean, whatever its vector holds, NaN
    /// too; so a member that has run out of data calls it with 0. With weights of 1 the sum is
    /// divided once: for two members that hold the same, the mean is that.
    ///
    /// # Errors
    /// A weight that is negative or not finite, on any member, or no weight above 0 on all of them
    /// (`is_argument`, or `is_member` where another member is the reason): nothing is written then.
    /// What [`sum`](Communicator::sum) returns.
    ///
    /// ```
    /// use flatleaf::{Communicator, Threads};
    ///
    /// // Two members with 3 and 1 examples; a third one has none left.
    /// let means = Threads::run(3, |member| {
    ///     let (weight, value) = [(3.0, 1.0), (1.0, 5.0), (0.0, f32::NAN)][member.rank()];
    ///     let mut x = [value];
    ///     member.mean(&mut x, weight).map(|()| x[0])
    /// });
    /// assert!(means.into_iter().all(|mean| mean.unwrap() == 2.0)); // (3 · 1 + 1 · 5) / 4
    /// ```
    fn mean(&mut self, x: &mut [f32], weight: f64) -> Result<()> {
        let refused = check_weight(weight).err();
        // Asked of all members, so that none of them goes on to a sum that one never calls.
        if let Some(error) = first_failure(self, refused)? {
            return Err(error);
        }
        let mut total = [weight];
        self.all_reduce(&mut total)?;
        check_total(total[0])?;
        weigh(x, weight);
        self.sum(x)?;
        divide(x, total[0]);
        Ok(())
    }

    /// Gives the vector of member `root` to all, bit for bit.
    ///
    /// # Errors
    /// What [`all_gather`](Communicator::all_gather) returns.
    ///
    /// # Panics
    /// If there is no member `root`.
    ///
    /// ```
    /// use flatleaf::{Communicator, Threads};
    ///
    /// let all = Threads::run(2, |member| {
    ///     let mut x = [member.rank() as f32];
    ///     member.broadcast(&mut x, 1).map(|()| x[0])
    /// });
    /// assert!(all.into_iter().all(|x| x.unwrap() == 1.0));
    /// ```
    fn broadcast(&mut self, x: &mut [f32], root: usize) -> Result<()> {
        let size = self.size();
        assert!(root < size, "there is no member {root}: there are {size}");
        let mut ranges = vec![0..0; size];
        ranges[root] = 0..x.len();
        self.all_gather(x, &ranges)
    }

    /// One answer for all members: `result` where everybody's is `Ok`, otherwise an error on all.
    ///
    /// A member whose result is an error gets it back; the others get the first such member's
    /// message with its rank. To be called before anything is written, so that members that have
    /// nothing wrong do not go on alone and wait for ever. Two exchanges of a few numbers where
    /// something is wrong, one where nothing is.
    ///
    /// # Errors
    /// The member's own; `is_member`: another member's, of which it tells rank and message.
    ///
    /// ```
    /// use flatleaf::{Communicator, Error, Threads};
    ///
    /// let answers = Threads::run(2, |member| {
    ///     let found = if member.rank() == 1 { Err(Error::custom("no data")) } else { Ok(7) };
    ///     member.agree(found)
    /// });
    /// let told = answers[0].as_ref().unwrap_err();
    /// assert!(told.is_member() && told.to_string().contains("member 1") && told.to_string().contains("no data"));
    /// assert!(answers[1].as_ref().is_err_and(|error| error.is_custom()));
    /// ```
    fn agree<T>(&mut self, result: Result<T>) -> Result<T>
    where
        Self: Sized,
    {
        let (value, error) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error)),
        };
        match (first_failure(self, error)?, value) {
            (None, Some(value)) => Ok(value),
            (Some(error), _) => Err(error),
            (None, None) => unreachable!("a member that fails is told so"),
        }
    }

    /// Checks that all members have the same layout.
    ///
    /// To be called once, before the first vector is exchanged: vectors of different lengths make
    /// some carriers fail on some members only. The exchange itself has the same length whatever the
    /// layouts are.
    ///
    /// # Errors
    /// `is_other_layout`, on all members: a member whose layout has another fingerprint than that of
    /// member 0; both fingerprints and the rank are told.
    ///
    /// ```
    /// use flatleaf::{Communicator, Layout, Threads};
    ///
    /// let checked = Threads::run(2, |member| {
    ///     let layout = Layout::of(&vec![0.0_f32; 3 + member.rank()])?;
    ///     member.check_layout(&layout)
    /// });
    /// assert!(checked.into_iter().all(|answer| answer.unwrap_err().is_other_layout()));
    /// ```
    fn check_layout(&mut self, layout: &Layout) -> Result<()> {
        let all = gather_numbers(self, layout.fingerprint())?;
        let first = all[0];
        match all.iter().position(|other| *other != first) {
            None => Ok(()),
            Some(rank) => Err(Error::layout_of_member(rank, first, all[rank])),
        }
    }
}

/// So that a function may take `&mut impl Communicator` and hand it on, and a trait object be used
/// like its communicator.
impl<C: Communicator + ?Sized> Communicator for &mut C {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        (**self).reduce_scatter(x, ranges)
    }

    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        (**self).all_gather(x, ranges)
    }

    fn all_reduce(&mut self, x: &mut [f64]) -> Result<()> {
        (**self).all_reduce(x)
    }

    fn sum(&mut self, x: &mut [f32]) -> Result<()> {
        (**self).sum(x)
    }

    fn broadcast(&mut self, x: &mut [f32], root: usize) -> Result<()> {
        (**self).broadcast(x, root)
    }
}

/// The bytes of an error's message that are sent: a member that lists many leaves says the first.
const LONGEST_MESSAGE: usize = 4096;

/// The message of an error, which is never empty, cut where a character ends; empty of none.
pub(crate) fn message_of(error: Option<&Error>) -> String {
    let Some(error) = error else {
        return String::new();
    };
    let mut message = error.to_string();
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    // Its length tells the others that there is one.
    if message.is_empty() {
        message.push('?');
    }
    message
}

/// What stops this member: its own error, or the message of the first member that has one. Two
/// exchanges of a few numbers where there is an error, one where there is none.
fn first_failure<C: Communicator + ?Sized>(
    communicator: &mut C,
    own: Option<Error>,
) -> Result<Option<Error>> {
    let message = message_of(own.as_ref());
    let mut lengths = vec![0.0; communicator.size()];
    lengths[communicator.rank()] = message.len() as f64;
    communicator.all_reduce(&mut lengths)?;
    failure_told(communicator, &lengths, &message, own)
}

/// What stops this member, of the lengths of all members' messages, 0 of one that has none. Another
/// exchange if there is a message.
pub(crate) fn failure_told<C: Communicator + ?Sized>(
    communicator: &mut C,
    lengths: &[f64],
    message: &str,
    own: Option<Error>,
) -> Result<Option<Error>> {
    let mut ranks = lengths.iter();
    let Some(failed) = ranks.position(|length| *length > 0.0) else {
        return Ok(None);
    };
    // Members that have an error of their own listen too: an exchange needs them all.
    let length = lengths[failed] as usize;
    let text = spoken_by(communicator, failed, length, message)?;
    let error = own.unwrap_or_else(|| Error::member(failed, text));
    Ok(Some(error))
}

/// The message of one member, `length` bytes long, told to all: each byte is a sum to which only
/// that member adds.
fn spoken_by<C: Communicator + ?Sized>(
    communicator: &mut C,
    speaker: usize,
    length: usize,
    message: &str,
) -> Result<String> {
    let mut bytes = vec![0.0; length];
    if communicator.rank() == speaker {
        for (out, byte) in bytes.iter_mut().zip(message.bytes()) {
            *out = f64::from(byte);
        }
    }
    communicator.all_reduce(&mut bytes)?;
    let text: Vec<u8> = bytes.iter().map(|byte| *byte as u8).collect();
    let text = String::from_utf8_lossy(&text);
    Ok(text.into_owned())
}

/// A vector cut into as many ranges of nearly equal length.
fn even_ranges(len: usize, count: usize) -> Vec<Range<usize>> {
    let cut = |index: usize| {
        // The product of two lengths may be more than 64 bits count.
        let cut = len as u128 * index as u128 / count as u128;
        cut as usize
    };
    let ranks = 0..count;
    ranks.map(|rank| cut(rank)..cut(rank + 1)).collect()
}

/// What all carriers check of a call.
///
/// # Panics
/// If there is not one range for each member, or one ends behind the vector.
fn assert_ranges(size: usize, len: usize, ranges: &[Range<usize>]) {
    let count = ranges.len();
    assert!(count == size, "{count} ranges for {size} members");
    for range in ranges {
        let is_within = range.start <= range.end && range.end <= len;
        assert!(is_within, "range {range:?} of a vector of {len}");
    }
}
