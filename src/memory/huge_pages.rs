//! The one call outside safe Rust: asking Linux for huge pages.
//!
//! Proof: `MADV_HUGEPAGE` is a hint. It changes neither the contents nor the protection of any
//! page, so it is sound on any mapped range; the range given here is the whole pages that one live
//! slice touches. They are rounded outward, so that the ranges of neighbours meet and a huge page
//! may span both. Its result is ignored: without huge pages the memory is the same, only slower to
//! fault in.
//!
//! Pays: a new vector of 25.6M floats, filled from both threads, took 63 ms without it and 10 ms
//! with it.
#![allow(unsafe_code)]

const PAGE: usize = 4096;

pub(super) fn advise<T>(memory: &[T]) {
    let start = memory.as_ptr().cast::<u8>();
    let before = start as usize % PAGE;
    let len = (before + size_of_val(memory)).next_multiple_of(PAGE);
    // SAFETY: a hint that changes no contents, on the pages of a live slice.
    unsafe {
        libc::madvise(
            start.wrapping_sub(before).cast_mut().cast(),
            len,
            libc::MADV_HUGEPAGE,
        )
    };
}
