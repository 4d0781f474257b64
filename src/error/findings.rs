//! Errors as a walk meets them.

use super::{Error, Result};

/// So many are named in one message.
const LISTED: usize = 8;

/// All that is wrong with a tree, in one error: the first few by name, the rest as a number.
#[derive(Default)]
pub(crate) struct Findings(Option<Error>);

impl Findings {
    #[cold]
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(all) if all.0.others.len() + 1 < LISTED => all.0.others.push(error.0.first),
            Some(all) => all.0.unlisted += 1,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether further ones would only be counted, so that wording them can be saved.
    #[cold]
    pub(crate) fn is_full(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|all| all.0.others.len() + 1 >= LISTED)
    }

    #[cold]
    pub(crate) fn count(&mut self, more: usize) {
        if let Some(all) = &mut self.0 {
            all.0.unlisted += more;
        }
    }

    pub(crate) fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The first error that a walk returned to a tree, whose implementation may keep it to itself and
/// answer `Ok`.
#[derive(Default)]
pub(crate) struct FirstError(Option<Error>);

impl FirstError {
    #[cold]
    pub(crate) fn note(&mut self, error: Error, path: impl FnOnce() -> String) -> Error {
        let error = error.or_at(path);
        self.0.get_or_insert_with(|| error.clone());
        error
    }

    pub(crate) fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
