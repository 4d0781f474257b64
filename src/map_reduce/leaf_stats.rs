//! What the elements of each leaf are like.

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::Layout;

/// What the elements of one leaf are like. Non-finite elements are counted and otherwise left out.
///
/// ```
/// use flatleaf::{destructure, tree};
///
/// let (flat, layout) = destructure(&tree!({ "w": [1.0, f32::INFINITY], "b": [2.0] }))?;
/// let stats = layout.leaf_stats(&flat)?;
/// let bad: Vec<_> = layout.leaves().iter().zip(stats).filter(|(_, stats)| stats.non_finite > 0).map(|(leaf, _)| leaf.path()).collect();
/// assert_eq!(bad, ["w"]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeafStats {
    /// The mean of the finite elements; 0 if there are none.
    pub mean: f64,
    /// Their standard deviation (of the population: divided by their number).
    pub std: f64,
    /// The smallest of them; NaN if there are none.
    pub min: f64,
    /// The largest of them; NaN if there are none.
    pub max: f64,
    /// How many elements are infinite or NaN.
    pub non_finite: usize,
}

impl Layout {
    /// Mean, standard deviation, extremes and the number of non-finite elements of every leaf's
    /// part, in flat order.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [0.0, 0.0, 0.0] }))?;
    /// let stats = layout.leaf_stats(&[1.0, 3.0, f32::NAN])?[0];
    /// assert_eq!((stats.mean, stats.std, stats.min, stats.max, stats.non_finite), (2.0, 1.0, 1.0, 3.0, 1));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_stats(&self, flat: &[f32]) -> Result<Vec<LeafStats>> {
        self.leaf_stats_as(flat)
    }

    /// Mean, standard deviation, extremes and the number of non-finite elements of every leaf's
    /// part of a vector of another element type. One of `f64` need not be rounded to be looked at:
    /// means and deviations of numbers up to 1.7e308 neither overflow nor vanish.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the vector is not as long as the layout.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "a": [0.0, 0.0] }))?;
    /// let stats = layout.leaf_stats_as(&[1e300, 3e300])?[0];
    /// assert_eq!((stats.mean, stats.std), (2e300, 1e300));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn leaf_stats_as<E>(&self, flat: &[E]) -> Result<Vec<LeafStats>>
    where
        E: FlatElement + Into<f64>,
    {
        self.check_len("the flat vector", flat.len())?;
        let leaves = self.leaves().iter();
        let parts = leaves.map(|leaf| &flat[leaf.range()]);
        Ok(parts.map(stats).collect())
    }
}

fn stats<E: Copy + Into<f64>>(x: &[E]) -> LeafStats {
    let finite = || {
        let numbers = x.iter().map(|&x| x.into());
        numbers.filter(|x: &f64| x.is_finite())
    };
    let magnitudes = finite().map(f64::abs);
    let largest = magnitudes.fold(0.0, f64::max);
    // Squares of what is beyond the root of f64's range would be infinite, or zeros.
    let scale = power_of_two_against(largest);
    let count = finite().count();
    let divisor = count.max(1) as f64;
    // The standard library's sum of nothing is −0.
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.fold(0.0, |sum, term| sum + term);
    let mut scaled = finite().map(|x| x * scale);
    let mean = sum(&mut scaled) / divisor;
    let mut squares = finite().map(|x| {
        let deviation = x * scale - mean;
        deviation.powi(2)
    });
    let variance = sum(&mut squares) / divisor;
    // A NaN gives way to any number, and stays where there is none.
    let min = finite().fold(f64::NAN, f64::min);
    let max = finite().fold(f64::NAN, f64::max);
    LeafStats {
        mean: mean / scale,
        std: variance.sqrt() / scale,
        min,
        max,
        non_finite: x.len() - count,
    }
}

/// A power of two that brings a magnitude near 1, where that is so large or small that its square
/// might not be a number; otherwise 1. To multiply by it rounds nothing.
fn power_of_two_against(magnitude: f64) -> f64 {
    const SAFE: i32 = 400;
    let biased_exponent = (magnitude.to_bits() >> 52) & 0x7ff;
    let exponent = biased_exponent as i32 - 1023;
    if magnitude == 0.0 || exponent.abs() <= SAFE {
        return 1.0;
    }
    // Its reciprocal has to be a normal number too.
    let safe_exponent = exponent.clamp(-1000, 1000);
    2.0_f64.powi(-safe_exponent)
}
