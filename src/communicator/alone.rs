//! A run of one member.

use std::ops::Range;

use super::{Communicator, assert_ranges};
use crate::error::Result;

/// A run of one member: every exchange leaves everything as it is, bit for bit. So a program for
/// several members runs as it is where there is one.
///
/// ```
/// use flatleaf::{Alone, Communicator};
///
/// let mut x = [1.0, 2.0];
/// Alone.mean(&mut x, 3.0)?;
/// assert_eq!((x, Alone.rank(), Alone.size()), ([1.0, 2.0], 0, 1));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        assert_ranges(1, x.len(), ranges);
        Ok(())
    }

    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        assert_ranges(1, x.len(), ranges);
        Ok(())
    }

    fn all_reduce(&mut self, _x: &mut [f64]) -> Result<()> {
        Ok(())
    }
}
