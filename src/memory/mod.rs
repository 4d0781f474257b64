//! Vectors for large copies, and those copies. Page faults cost more than the copy; huge pages make
//! them few.

use bytemuck::Zeroable;

/// Vectors of at least so many bytes ask for huge pages: what is smaller comes from memory that the
/// process has touched before.
const LARGE: usize = 4 << 20;

/// A vector of zeros that nothing has touched yet, where it is large: the first copy into it, from
/// all threads, is what makes its pages.
pub(crate) fn zeroed<E: Zeroable + Clone>(len: usize) -> Vec<E> {
    let vector = vec![E::zeroed(); len];
    if len * size_of::<E>() >= LARGE {
        huge_pages::advise(&vector);
    }
    vector
}

/// A copy of a slice, each element written once: no zeros before.
pub(crate) fn copy_of<E: Copy>(slice: &[E]) -> Vec<E> {
    let mut vector = with_capacity(slice.len());
    vector.extend_from_slice(slice);
    vector
}

/// An empty vector for so many elements.
pub(crate) fn with_capacity<E>(len: usize) -> Vec<E> {
    let mut vector = Vec::with_capacity(len);
    if len * size_of::<E>() >= LARGE {
        huge_pages::advise(vector.spare_capacity_mut());
    }
    vector
}

mod allocation;
mod arrays;
pub(crate) mod blocks;
mod error;
pub(crate) mod pool;

pub(crate) use allocation::{try_extend_zeroed, try_with_capacity, try_zeroed};
pub(crate) use arrays::into_arrays;

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) mod streamed;

/// Ordinary copies, where there are no others.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(crate) mod streamed {
    pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
        to.copy_from_slice(from);
    }

    pub(crate) fn push<T: Copy>(vector: &mut Vec<T>, from: &[T]) {
        vector.extend_from_slice(from);
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod huge_pages;

#[cfg(not(all(target_os = "linux", not(miri))))]
mod huge_pages {
    pub(super) fn advise<T>(_memory: &[T]) {}
}
