//! Lengths and offsets at which loops go wrong, and numbers to fill them with.

use flatleaf::FlatElement;

const LANES: usize = 16;
const CHUNK: usize = 16 * 1024;

/// Every length up to two rows of lanes and a bit, and those around the first chunks: in a debug
/// build, where these take most of the time, around the first one, and one length each of two,
/// three and four chunks.
pub(crate) fn lengths() -> impl Iterator<Item = usize> {
    let around = |n: usize| [n - 1, n, n + 1];
    let further = [2 * CHUNK, 3 * CHUNK].into_iter().flat_map(around);
    let is_tried = |&length: &usize| !cfg!(debug_assertions) || length == 2 * CHUNK + 1;
    (0..=2 * LANES + 3)
        .chain(around(CHUNK))
        .chain(further.filter(is_tried))
        .chain([3 * CHUNK + LANES / 2])
}

/// Enough for every thread of a pool to take part when called from within, and a multiple of
/// nothing.
#[cfg(feature = "rayon")]
pub(crate) const SPLIT: usize = 13 * CHUNK + 7;

/// Enough also when called from outside.
pub(crate) const LARGE: usize = 67 * CHUNK + 7;

/// Slices of every length at several offsets from an aligned start.
pub(crate) fn slices<E>(of: fn(usize) -> Vec<E>, mut check: impl FnMut(&[E])) {
    for length in lengths() {
        for offset in 0..4 {
            check(&of(length + offset)[offset..]);
        }
    }
}

/// Eighths of small whole numbers: sums of them, of their squares and products are exact in any
/// order.
pub(crate) fn exact<E: FlatElement>(length: usize) -> Vec<E> {
    random(length)
        .map(|bits| E::from_f64(f64::from(bits % 2001) / 8.0 - 125.0))
        .collect()
}

/// Other ones, to pair with [`exact`].
pub(crate) fn exact_too<E: FlatElement>(length: usize) -> Vec<E> {
    random(length + 1)
        .skip(1)
        .map(|bits| E::from_f64(f64::from(bits % 513) / 8.0 - 32.0))
        .collect()
}

/// All magnitudes from 1e-20 to 1e20 and both signs: another order of summation shows in the last
/// bits.
pub(crate) fn rough<E: FlatElement>(length: usize) -> Vec<E> {
    random(length)
        .map(|bits| {
            let power = 10_f64.powi((bits >> 16) as i32 % 33 - 16);
            E::from_f64((f64::from(bits % 20011) - 10005.0) * power)
        })
        .collect()
}

fn random(length: usize) -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    })
}
