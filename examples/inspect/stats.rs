//! What the elements of a tensor are like, gathered a chunk at a time.

/// Of the finite elements; the others are counted.
///
/// Sums are of the elements divided by a power of two about as large as the largest so far, so that
/// squares of 1e300 do not overflow, and no bit is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    count: usize,
    scale: f64,
    mean: f64,
    /// The sum of the squares of what differs from the mean.
    deviations: f64,
    squares: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) non_finite: usize,
}

impl Stats {
    /// Merges a chunk (Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for
    /// computing sample variances*, 1979).
    pub(crate) fn add(&mut self, chunk: &[f64]) {
        let finite = || chunk.iter().copied().filter(|x| x.is_finite());
        let count = finite().count();
        self.non_finite += chunk.len() - count;
        if count == 0 {
            return;
        }
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), x| {
            (min.min(x), max.max(x))
        });
        let is_first = self.count == 0;
        self.min = if is_first { min } else { self.min.min(min) };
        self.max = if is_first { max } else { self.max.max(max) };
        self.rescale(min.abs().max(max.abs()));

        let factor = 1.0 / self.scale;
        let scaled = || finite().map(|x| x * factor);
        let mean = scaled().sum::<f64>() / count as f64;
        let deviations: f64 = scaled().map(|x| (x - mean).powi(2)).sum();
        let total = (self.count + count) as f64;
        let apart = mean - self.mean;
        self.deviations += deviations + apart * apart * self.count as f64 * count as f64 / total;
        self.mean += apart * count as f64 / total;
        self.squares += scaled().map(|x| x * x).sum::<f64>();
        self.count += count;
    }

    fn rescale(&mut self, largest: f64) {
        const EXPONENT: u64 = 0x7ff << 52;
        let scale = f64::from_bits(largest.to_bits() & EXPONENT).max(f64::MIN_POSITIVE);
        if scale > self.scale {
            let ratio = self.scale / scale;
            self.mean *= ratio;
            self.deviations *= ratio * ratio;
            self.squares *= ratio * ratio;
            self.scale = scale;
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        self.mean * self.scale
    }

    pub(crate) fn std(&self) -> f64 {
        (self.deviations / self.count.max(1) as f64).sqrt() * self.scale
    }

    pub(crate) fn norm(&self) -> f64 {
        self.squares.sqrt() * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::Stats;

    #[test]
    fn numbers_at_the_edge() {
        for x in [1e300, 1e-300, -1.7e308, 3.0] {
            let mut stats = Stats::default();
            stats.add(&[x]);
            assert_eq!((stats.mean(), stats.std(), stats.norm()), (x, 0.0, x.abs()));
        }
        let mut stats = Stats::default();
        stats.add(&[3.0, f64::NAN]);
        stats.add(&[5.0]);
        assert_eq!((stats.mean(), stats.std(), stats.non_finite), (4.0, 1.0, 1));
        assert_eq!(Stats::default().norm(), 0.0);
    }
}
