//! Replacing a file as a whole: whoever reads it, and whenever the machine stops, there is the old
//! file or the new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
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

pub(crate) fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(path, "a file that can be written", error)
}

/// Writes a new file, of about so many bytes, beside the one at a path and renames it over that.
/// What a path links to is replaced, not the link; the new file has the old one's permissions, and
/// its owner where that is allowed, before its first byte is written.
///
/// In this order: the folder is opened, the new file is written and synchronised, it is renamed,
/// the folder is synchronised. An error before the rename leaves the old file. The folder's own
/// synchronisation is all that can fail after it: the new file is there then, and a crash of the
/// machine may bring the old one back.
///
/// A process that is killed on the way leaves the old file, and may leave the new one under a name
/// that begins with `.flatleaf-`. Whoever saves into that folder next removes it: a file that is
/// being written is locked, and the lock ends with its process.
///
/// # Errors
/// What the system or `write` says; then the new file is removed. A path at which there is
/// something else than a file.
pub(crate) fn replace(
    path: &Path,
    len: usize,
    write: impl FnOnce(&mut FileWriter<'_>) -> Result<()>,
) -> Result<()> {
    let replacement = Replacement::begin(path)?;
    write_safely(&replacement.file, &replacement.path, len, write)?;
    replacement.finish()
}

/// A new file beside the one at a path, which it is to replace. If it is dropped before it is
/// finished, the new file is removed and the old one stays.
pub(crate) struct Replacement {
    /// What the path leads to.
    path: PathBuf,
    folder: platform::Folder,
    new: PathBuf,
    /// Its number among those of this process.
    number: u64,
    file: File,
    old: Option<fs::Metadata>,
}

impl Replacement {
    /// # Errors
    /// What the system says; a path at which there is something else than a file.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let path = target_of(path).map_err(|error| failed(path, &error))?;
        let opened = platform::open_folder(folder_of(&path));
        let folder = opened.map_err(|error| failed(&path, &error))?;
        remove_abandoned(folder_of(&path));
        let old = fs::metadata(&path).ok();
        let created = create_beside(folder_of(&path), old.as_ref());
        let (new, number, file) = created.map_err(|error| failed(&path, &error))?;
        Ok(Replacement {
            path,
            folder,
            new,
            number,
            file,
            old,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What tells the new file's name to other processes.
    pub(crate) fn name(&self) -> [f64; 2] {
        [f64::from(std::process::id()), self.number as f64]
    }

    /// Puts the new file, which has been synchronised, in the old one's place.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn finish(self) -> Result<()> {
        let old = self.old.as_ref();
        let old = old.and_then(|old| platform::keep_open(&self.path, old));
        fs::rename(&self.new, &self.path).map_err(|error| failed(&self.path, &error))?;
        let synced = platform::sync_folder(&self.folder).map_err(|error| {
            Error::io(
                folder_of(&self.path),
                "a folder that can be synchronised: the new file is in it, but may not outlive a crash",
                &error,
            )
        });
        if let Some(old) = old {
            let _ = thread::Builder::new().spawn(move || drop(old));
        }
        synced
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Not there any more if it has been finished.
        let _ = fs::remove_file(&self.new);
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Opens a new file that another process has made beside the one at a path, to write to it too.
///
/// # Errors
/// What the system says.
pub(crate) fn open_new(path: &Path, [process, number]: [f64; 2]) -> Result<File> {
    let path = target_of(path).map_err(|error| failed(path, &error))?;
    let new = folder_of(&path).join(new_name(process as u32, number as u64));
    let opened = fs::OpenOptions::new().write(true).open(new);
    opened.map_err(|error| failed(&path, &error))
}

fn new_name(process: u32, number: u64) -> String {
    format!("{PREFIX}{process}-{number}{SUFFIX}")
}

/// The file that a path means: what its links lead to, whether that is there or not.
///
/// # Errors
/// A folder, a pipe or a device; links that lead in a circle.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&target)?;
                // A link's own folder is where a relative one begins.
                target = target.parent().unwrap_or(Path::new("")).join(link);
            }
            Ok(found) if found.is_file() => return Ok(target),
            Ok(found) if found.is_dir() => {
                return Err(io::Error::new(ErrorKind::IsADirectory, "a folder"));
            }
            // To rename over a pipe would take it from those who read from it.
            Ok(_) => {
                let found = "a pipe, a socket or a device, which is not replaced by a file";
                return Err(io::Error::new(ErrorKind::InvalidInput, found));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(target),
            Err(error) => return Err(error),
        }
    }
    let found = "links that lead in a circle";
    Err(io::Error::new(ErrorKind::InvalidInput, found))
}

const PREFIX: &str = ".flatleaf-";
const SUFFIX: &str = ".tmp";

fn create_beside(folder: &Path, old: Option<&fs::Metadata>) -> io::Result<(PathBuf, u64, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(new_name(std::process::id(), count));
        let file = match platform::create(&path, old) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        // Between these two lines another process may have taken it for an abandoned one.
        if platform::lock_new(&path, &file) {
            return Ok((path, count, file));
        }
    }
}

/// Removes what killed processes have left in a folder. It is no error if that cannot be done.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(io::Result::ok) {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_ours && platform::is_abandoned(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(unix)]
mod platform {
    use std::fs::{self, File, Metadata, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
    use std::path::Path;

    /// Who may read, write and execute.
    const PERMISSIONS: u32 = 0o777;

    pub(super) type Folder = File;

    pub(super) fn open_folder(folder: &Path) -> io::Result<Folder> {
        File::open(folder)
    }

    pub(super) fn sync_folder(folder: &File) -> io::Result<()> {
        folder.sync_all()
    }

    /// Creates a file that has the old one's owner and permissions.
    pub(super) fn create(path: &Path, old: Option<&Metadata>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let Some(old) = old else {
            return options.open(path);
        };
        // Nobody else may read it before it has the permissions that the old one has.
        let file = options.mode(0o600).open(path)?;
        let mut mode = old.mode() & PERMISSIONS;
        if fchown(&file, Some(old.uid()), Some(old.gid())).is_err()
            && fchown(&file, None, Some(old.gid())).is_err()
        {
            // What the old group was allowed another one is not: it gets what all others have.
            mode = (mode & !0o070) | ((mode & 0o007) << 3);
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Locks a file that was just created; whether it is still the one at its path. Where files
    /// cannot be locked none is ever taken for abandoned either.
    pub(super) fn lock_new(path: &Path, file: &File) -> bool {
        let _ = file.lock();
        let is_same = |at_path: &Metadata, file: &Metadata| {
            (at_path.dev(), at_path.ino()) == (file.dev(), file.ino())
        };
        match (fs::metadata(path), file.metadata()) {
            (Ok(at_path), Ok(file)) => is_same(&at_path, &file),
            _ => false,
        }
    }

    pub(super) fn is_abandoned(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| file.try_lock().is_ok())
    }

    /// A large file that is about to be replaced. Whoever closes its last handle frees what is
    /// cached of it, 15 ms for 90 MB, and that need not be who waits for the new one.
    pub(super) fn keep_open(path: &Path, old: &Metadata) -> Option<File> {
        if old.len() >= super::EARLY as u64 {
            File::open(path).ok()
        } else {
            None
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use std::fs::{File, Metadata, OpenOptions};
    use std::io;
    use std::path::Path;

    /// Here a folder is no file, and needs no synchronisation.
    pub(super) type Folder = ();

    pub(super) fn open_folder(_folder: &Path) -> io::Result<Folder> {
        Ok(())
    }

    pub(super) fn sync_folder(_folder: &Folder) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn create(path: &Path, _old: Option<&Metadata>) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    /// Here a file that is locked cannot be written by others, and is not renamed by all of them.
    pub(super) fn lock_new(_path: &Path, _file: &File) -> bool {
        true
    }

    pub(super) fn is_abandoned(_path: &Path) -> bool {
        false
    }

    /// Here a file that is open may not be replaced.
    pub(super) fn keep_open(_path: &Path, _old: &Metadata) -> Option<File> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Synchronising a device that keeps nothing is refused, as some network file systems refuse it
    /// of a folder.
    #[test]
    fn where_the_folder_cannot_be_synchronised_the_new_file_is_there_and_the_error_says_so() {
        let name = format!("flatleaf-unsynchronised-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "old").unwrap();
        let mut replacement = Replacement::begin(&path).unwrap();
        replacement.file().write_all(b"new").unwrap();
        replacement.folder = File::open("/dev/null").unwrap();
        let new = replacement.new.clone();
        let error = replacement.finish().unwrap_err();
        let content = fs::read(&path);
        fs::remove_file(&path).unwrap();
        assert!(error.is_io(), "{error}");
        assert_eq!(error.path(), std::env::temp_dir().to_str());
        let says = "the new file is in it, but may not outlive a crash";
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(content.unwrap(), b"new");
        assert!(!new.exists());
    }
}
