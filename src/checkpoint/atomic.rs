//! Replacing a file as a whole: whoever reads it, and whenever the machine stops, there is the old file or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Small leaves are gathered to writes of so many bytes.
const BUFFER: usize = 1 << 16;

/// A new file, on its way to be the one at a path.
pub(crate) struct Output<'p> {
    writer: BufWriter<File>,
    path: &'p Path,
}

impl Output<'_> {
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| failed(self.path, &error))
    }

    fn finish(mut self) -> Result<()> {
        let synced = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        synced.map_err(|error| failed(self.path, &error))
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(path, "a file that can be written", error)
}

/// Writes a new file beside the one at a path and renames it over that. What a path links to is replaced, not the link.
///
/// Synchronised in this order: the new file's bytes, the rename, the folder's entry. A process that is killed on the way leaves the
/// old file, and may leave the new one under a name that begins with `.flatleaf-`.
///
/// # Errors
/// What the system or `write` says; then the new file is removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut Output<'_>) -> Result<()>) -> Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (new, file) = create_beside(folder).map_err(|error| failed(path, &error))?;
    let mut output = Output { writer: BufWriter::with_capacity(BUFFER, file), path };
    let written = write(&mut output).and_then(|()| output.finish());
    let replaced = written.and_then(|()| fs::rename(&new, path).map_err(|error| failed(path, &error)));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
        return replaced;
    }
    sync_folder(folder).map_err(|error| failed(path, &error))
}

fn create_beside(folder: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".flatleaf-{}-{count}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (path, file)),
        }
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder is no file.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
