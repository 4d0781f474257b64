//! The bytes of a file: mapped where that is possible and asked for, read otherwise.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::{Error, Result};

#[cfg(feature = "mmap")]
mod mapped;

pub(crate) enum Bytes {
    #[cfg(feature = "mmap")]
    Mapped(mapped::Mapped),
    Owned(Vec<u8>),
}

impl Bytes {
    /// # Errors
    /// What the system says.
    #[cfg(feature = "mmap")]
    pub(crate) fn open(path: &Path) -> Result<Bytes> {
        let file = File::open(path)
            .map_err(|error| Error::io(path, "a file that can be opened", &error))?;
        mapped::Mapped::new(&file)
            .map(Bytes::Mapped)
            .map_err(|error| Error::io(path, "a file that can be mapped", &error))
    }

    /// # Errors
    /// What the system says.
    #[cfg(not(feature = "mmap"))]
    pub(crate) fn open(path: &Path) -> Result<Bytes> {
        let mut file = File::open(path)
            .map_err(|error| Error::io(path, "a file that can be opened", &error))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes)
            .map_err(|error| Error::io(path, "a file that can be read", &error))?;
        Ok(Bytes::Owned(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Bytes::Mapped(mapped) => mapped,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
