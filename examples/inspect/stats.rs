//! What the elements of a tensor are like, gathered a chunk at a time.

/// Of the finite elements; the others are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    count: usize,
    pub(crate) mean: f64,
    /// The sum of the squares of what differs from the mean.
    deviations: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    squares: f64,
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
        let mean = finite().sum::<f64>() / count as f64;
        let deviations: f64 = finite().map(|x| (x - mean).powi(2)).sum();
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), x| {
            (min.min(x), max.max(x))
        });
        let is_first = self.count == 0;
        self.min = if is_first { min } else { self.min.min(min) };
        self.max = if is_first { max } else { self.max.max(max) };
        let total = (self.count + count) as f64;
        let apart = mean - self.mean;
        self.deviations += deviations + apart * apart * self.count as f64 * count as f64 / total;
        self.mean += apart * count as f64 / total;
        self.squares += finite().map(|x| x * x).sum::<f64>();
        self.count += count;
    }

    pub(crate) fn std(&self) -> f64 {
        (self.deviations / self.count.max(1) as f64).sqrt()
    }

    pub(crate) fn norm(&self) -> f64 {
        self.squares.sqrt()
    }
}
