//! Replacing a file as a whole: whoever reads it, and whenever the machine stops, there is the old
//! file or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use crate::error::{Error, Result};

/// Small leaves are gathered to writes of so many bytes.
const BUFFER: usize = 1 << 16;

/// After so many bytes those that were written are sent to the disk while the rest is. 90 MB were
/// safe after 29 ms and not after 40, most of it waiting for the disk.
const EARLY: usize = 8 << 20;

/// A new file, on its way to be the one at a path.
pub(crate) struct FileWriter<'f> {
    writer: BufWriter<&'f File>,
    path: &'f Path,
    /// Bytes since the last word to who synchronises, and that.
    since: usize,
    written: Sender<()>,
}

impl FileWriter<'_> {
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for bytes in bytes.chunks(EARLY) {
            self.writer
                .write_all(bytes)
                .map_err(|error| failed(self.path, &error))?;
            self.since += bytes.len();
            if self.since >= EARLY {
                self.since = 0;
                // If it has met an error it listens no more, and the error is told in the end.
                let _ = self.written.send(());
            }
        }
        Ok(())
    }
}

/// Has `write` write so many bytes to a file, until all of it is on the disk.
fn write_safely(
    file: &File,
    path: &Path,
    len: usize,
    write: impl FnOnce(&mut FileWriter<'_>) -> Result<()>,
) -> Result<()> {
    let (written, news) = mpsc::channel();
    thread::scope(|scope| {
        let early = (len >= EARLY)
            .then(|| thread::Builder::new().spawn_scoped(scope, move || synchronise(file, &news)));
        let mut output = FileWriter {
            writer: BufWriter::with_capacity(BUFFER, file),
            path,
            since: 0,
            written,
        };
        write(&mut output)?;
        let flushed = output.writer.flush();
        drop(output);
        // A small file, or a system without threads, is synchronised at the end alone. An error is
        // told once, so each call's counts.
        let early = early.and_then(Result::ok).map_or(Ok(()), |early| {
            early
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        flushed
            .and(early)
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(path, &error))
    })
}

/// Synchronises what was written so far, whenever there is news of it, until nobody writes any
/// more.
fn synchronise(file: &File, news: &Receiver<()>) -> io::Result<()> {
    while news.recv().is_ok() {
        news.try_iter().for_each(drop);
        file.sync_data()?;
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(path, "a file that can be written", error)
}

/// Writes a new file, of about so many bytes, beside the one at a path and renames it over that.
/// What a path links to is replaced, not the link.
///
/// Synchronised in this order: the new file's bytes, the rename, the folder's entry. A process that
/// is killed on the way leaves the old file, and may leave the new one under a name that begins
/// with `.flatleaf-`.
///
/// # Errors
/// What the system or `write` says; then the new file is removed.
pub(crate) fn replace(
    path: &Path,
    len: usize,
    write: impl FnOnce(&mut FileWriter<'_>) -> Result<()>,
) -> Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let (new, file) = create_beside(folder).map_err(|error| failed(path, &error))?;
    let written = write_safely(&file, path, len, write);
    let old = keep_open(path);
    let replaced =
        written.and_then(|()| fs::rename(&new, path).map_err(|error| failed(path, &error)));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
        return replaced;
    }
    let synced = sync_folder(folder).map_err(|error| failed(path, &error));
    if let Some(old) = old {
        let _ = thread::Builder::new().spawn(move || drop(old));
    }
    synced
}

/// A large file that is about to be replaced. Whoever closes its last handle frees what is cached
/// of it, 15 ms for 90 MB, and that need not be who waits for the new one.
#[cfg(unix)]
fn keep_open(path: &Path) -> Option<File> {
    let is_large = |about: fs::Metadata| about.is_file() && about.len() >= EARLY as u64;
    if fs::metadata(path).is_ok_and(is_large) {
        File::open(path).ok()
    } else {
        None
    }
}

/// Elsewhere a file that is open may not be replaced.
#[cfg(not(unix))]
fn keep_open(_path: &Path) -> Option<File> {
    None
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
