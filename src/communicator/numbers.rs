//! Numbers of 64 bits among members, who exchange `f64`s: these hold 53 bits exactly, so a number
//! travels as two halves.

use super::Communicator;
use crate::error::Result;

pub(crate) fn halves(number: u64) -> [f64; 2] {
    [(number >> 32) as f64, (number & 0xffff_ffff) as f64]
}

pub(crate) fn whole([high, low]: [f64; 2]) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Every member's number, by rank.
pub(crate) fn gather_numbers<C: Communicator + ?Sized>(
    communicator: &mut C,
    own: u64,
) -> Result<Vec<u64>> {
    let mut all = vec![[0.0; 2]; communicator.size()];
    all[communicator.rank()] = halves(own);
    communicator.all_reduce(all.as_flattened_mut())?;
    Ok(all.into_iter().map(whole).collect())
}
