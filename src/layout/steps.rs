//! How much is done on a layout, for tests: work that grows with the square of a file shows in no
//! result, and a busy machine makes time no measure of it.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts looks at nodes, bytes of names and axes. Nothing is counted outside of tests.
#[inline(always)]
pub(super) fn count(_steps: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + _steps);
}

/// The steps of the calling thread during some work.
#[cfg(all(test, feature = "serde"))]
pub(super) fn during<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = STEPS.get();
    let result = work();
    (STEPS.get() - before, result)
}
