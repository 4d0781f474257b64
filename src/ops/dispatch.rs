//! One choice of instruction set per chunk, made when the program runs.
//!
//! A kernel is a plain loop with a fixed number of lanes, and its body is compiled once for each
//! width of vector registers. The loop fixes the order of every addition, so the compiler may use
//! wider registers but cannot regroup, and it never contracts a product and a sum into one
//! rounding: all versions give the same bits. `tests/ops/bits.rs` compares them.
//!
//! `multiversion` writes the detection and the calls, in expansions that a crate which denies
//! unsafe code may hold. (`pulp` would do as well, at 24,000 lines to compile.) It asks for the
//! AVX-512 of 2019 and later (Ice Lake, Zen 4), so that the CPUs that slow down on AVX-512 run
//! AVX2. Other architectures use what their target promises (NEON on AArch64).

use std::sync::atomic::{AtomicU8, Ordering};

use multiversion::multiversion;
use multiversion::target::match_target;

/// The widest vectors that kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    /// What the CPU has. Where nobody asks otherwise, this.
    Widest,
    /// At most AVX2.
    Avx2,
    /// What the target promises and nothing else.
    Baseline,
}

static LIMIT: AtomicU8 = AtomicU8::new(Width::Widest as u8);

/// Limits the whole process to `width`, for tests and measurements: results are the same bits at
/// every width, and times are not. A limit above what the CPU has is no error.
pub fn limit(width: Width) {
    LIMIT.store(width as u8, Ordering::Relaxed);
}

/// A loop over one or two slices and a closure.
///
/// They are arguments and not fields, so that the compiler knows that they do not overlap. Mark
/// `run` as `#[inline(always)]`: it becomes the body of each version.
pub(crate) trait Kernel<X, Y, F> {
    type Output;

    fn run(x: X, y: Y, f: F) -> Self::Output;
}

/// Runs the kernel with the widest vectors there are.
#[inline]
pub(crate) fn run<K: Kernel<X, Y, F>, X, Y, F>(_: K, x: X, y: Y, f: F) -> K::Output {
    const AVX2: u8 = Width::Avx2 as u8;
    const BASELINE: u8 = Width::Baseline as u8;
    // A few loads and jumps for a chunk of thousands of elements: choosing once and keeping a pointer
    // would save nothing.
    match LIMIT.load(Ordering::Relaxed) {
        BASELINE => baseline::<K, X, Y, F>(x, y, f),
        AVX2 => avx2::<K, X, Y, F>(x, y, f),
        _ => widest::<K, X, Y, F>(x, y, f),
    }
}

// Each version hands on to the next narrower one where the CPU lacks its registers. So a body is
// compiled three times; a list of targets for every entry would compile it six times, and a chain of
// rules is a large body that is compiled in the crate of whoever uses it.

#[multiversion(targets("x86_64+avx512f"))]
#[allow(unused_braces)] // the expansion puts this block into another
fn widest<K: Kernel<X, Y, F>, X, Y, F>(x: X, y: Y, f: F) -> K::Output {
    match_target! {
        "x86_64+avx512f" => K::run(x, y, f),
        _ => avx2::<K, X, Y, F>(x, y, f),
    }
}

#[multiversion(targets("x86_64+avx2"))]
#[allow(unused_braces)]
fn avx2<K: Kernel<X, Y, F>, X, Y, F>(x: X, y: Y, f: F) -> K::Output {
    match_target! {
        "x86_64+avx2" => K::run(x, y, f),
        _ => baseline::<K, X, Y, F>(x, y, f),
    }
}

#[inline(never)]
fn baseline<K: Kernel<X, Y, F>, X, Y, F>(x: X, y: Y, f: F) -> K::Output {
    K::run(x, y, f)
}
