//! Members that are drawn to a common centre and not set to it.

use super::Communicator;
use crate::error::{Error, Result};

/// Draws the models of all members to a centre and the centre to them: elastic averaging (Zhang,
/// Choromanska and LeCun, *Deep learning with elastic averaging SGD*, 2015), in which members keep
/// models of their own between exchanges, and look at different places.
///
/// ```text
/// x ← x − rate/size·(x − centre)            on each member, of the centre before
/// centre ← centre + rate·mean(x − centre)   alike on all
/// ```
///
/// Called on all members every so many steps, with the same centre, at first a copy of the first
/// model, which is what is kept in the end. `rate` is the paper's β, from 0, which leaves all
/// apart, to 1, where the centre becomes the mean of the models; 0.9 there. Costs one sum of a
/// vector.
///
/// # Errors
/// On all members, before anything is written: `is_length`, a centre that is not as long as the
/// model; `is_argument`, a rate that is not from 0 to 1; `is_member` where another member is the
/// reason. What the communicator returns.
///
/// ```
/// use flatleaf::{elastic_average, Threads};
///
/// let ends = Threads::run(2, |member| {
///     let (mut x, mut centre) = ([[0.0], [4.0]][member.rank()], [1.0]);
///     elastic_average(member, &mut x, &mut centre, 0.5).map(|()| (x, centre))
/// });
/// let ends: Vec<_> = ends.into_iter().map(Result::unwrap).collect();
/// assert_eq!(ends, [([0.25], [1.5]), ([3.25], [1.5])]);
/// # use flatleaf::Communicator;
/// ```
pub fn elastic_average(
    communicator: &mut impl Communicator,
    x: &mut [f32],
    centre: &mut [f32],
    rate: f64,
) -> Result<()> {
    let checked = check(x.len(), centre.len(), rate);
    communicator.agree(checked)?;
    let pairs = x.iter().zip(&*centre);
    let away: Vec<f32> = pairs.map(|(x, centre)| x - centre).collect();
    // Rounded once where it is added, and not in between.
    let own_rate = rate / communicator.size() as f64;
    // Before anything is written: if the exchange fails, all is as it was.
    let mut mean = away.clone();
    communicator.mean(&mut mean, 1.0)?;
    for (x, away) in x.iter_mut().zip(&away) {
        let moved = f64::from(*x) - own_rate * f64::from(*away);
        *x = moved as f32;
    }
    for (centre, mean) in centre.iter_mut().zip(mean) {
        let moved = f64::from(*centre) + rate * f64::from(mean);
        *centre = moved as f32;
    }
    Ok(())
}

fn check(len: usize, centre: usize, rate: f64) -> Result<()> {
    if len != centre {
        return Err(Error::length("the centre", len, centre));
    }
    if (0.0..=1.0).contains(&rate) {
        return Ok(());
    }
    Err(Error::argument("a rate from 0 to 1", rate).at("rate"))
}
