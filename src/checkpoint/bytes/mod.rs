//! The bytes of a file: mapped where that is possible and asked for, read otherwise.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::path::Path;

use crate::error::{Error, Result};

#[cfg(feature = "mmap")]
mod mapped;

/// Opens a file for reading.
///
/// # Errors
/// What the system says. It opens folders, and says of them that there is no such device when they
/// are read.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let opened = File::open(path).and_then(|file| {
        if file.metadata()?.is_dir() {
            let found = "a folder: name a file in it, or the index of several";
            return Err(io::Error::new(ErrorKind::IsADirectory, found));
        }
        Ok(file)
    });
    opened.map_err(|error| Error::io(path, "a file that can be opened", &error))
}

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
        let file = open_file(path)?;
        mapped::Mapped::new(&file)
            .map(Bytes::Mapped)
            .map_err(|error| Error::io(path, "a file that can be mapped", &error))
    }

    /// # Errors
    /// What the system says.
    #[cfg(not(feature = "mmap"))]
    pub(crate) fn open(path: &Path) -> Result<Bytes> {
        let mut file = open_file(path)?;
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
