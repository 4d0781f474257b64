//! Room that one call leaves to the next, so that a second one allocates nothing.

use std::sync::Mutex;

/// An empty list that has room.
pub(crate) struct Spare<T>(Mutex<Vec<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Spare(Mutex::default())
    }
}

impl<T> Spare<T> {
    /// What another thread is using just now is not waited for.
    pub(crate) fn take(&self) -> Vec<T> {
        self.0
            .try_lock()
            .map(|mut spare| std::mem::take(&mut *spare))
            .unwrap_or_default()
    }

    /// Takes the room of a list whose elements may have lived shorter.
    pub(crate) fn give<U>(&self, mut list: Vec<U>) {
        list.clear();
        // The standard library collects a vector's own iterator into the vector's memory.
        let empty = list
            .into_iter()
            .map(|_| unreachable!("it is empty"))
            .collect();
        if let Ok(mut spare) = self.0.try_lock() {
            *spare = empty;
        }
    }
}
