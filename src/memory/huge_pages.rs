//! The one call outside safe Rust: asking Linux for huge pages.
//!
//! Proof: `MADV_HUGEPAGE` is a hint. It changes neither the contents nor the protection of any page, so it is sound on any range,
//! and the range given here lies within one live slice, rounded inward to whole pages. Its result is ignored: without huge pages the
//! memory is the same, only slower to fault in.
//!
//! Pays: a new vector of 25.6M floats, filled from both threads, took 63 ms without it and 10 ms with it.
#![allow(unsafe_code)]

const PAGE: usize = 4096;

pub(super) fn advise<T>(memory: &[T]) {
    let address = memory.as_ptr().cast::<u8>();
    let skip = address.align_offset(PAGE);
    let len = size_of_val(memory).saturating_sub(skip) / PAGE * PAGE;
    if len > 0 {
        // SAFETY: a hint that changes no contents, on whole pages inside a live slice.
        unsafe { libc::madvise(address.wrapping_add(skip).cast_mut().cast(), len, libc::MADV_HUGEPAGE) };
    }
}
