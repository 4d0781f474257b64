//! Checkpoints larger than memory: their elements, so many at a time.
//!
//! A chunk is small enough to stay in the cache from the read to the sum, and large enough that
//! calls of the system do not show. Tensors are read in the order of the first checkpoint, and of
//! each checkpoint the same elements at once.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::bytes::open_file;
use super::dtype;
use super::header::{Header, LENGTH, LONGEST};
use super::index::{Opened, Shard, is_index, open_all, shard_at};
use super::tensor::Tensor;
use crate::error::{Error, Findings, Result};

/// Elements that are read at a time.
pub(crate) const CHUNK: usize = 1 << 16;

/// A checkpoint of which headers have been read, and an element is read when its turn comes.
pub(crate) struct Stream {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    files: Vec<Shard<DataReader>>,
    bytes: Vec<u8>,
}

/// The data of one file.
struct DataReader {
    path: PathBuf,
    file: File,
    /// Where the data begin.
    start: u64,
    /// Where the next read is, without a seek.
    at: u64,
}

impl Stream {
    /// # Errors
    /// What the system says; a header or an index that is not one.
    pub(crate) fn open(path: &Path) -> Result<Stream> {
        let (header, files) = open_all(path, open_file_of_tensors)?;
        Ok(Stream {
            header,
            path: path.to_owned(),
            files,
            bytes: Vec::new(),
        })
    }

    /// Some bytes of the data, which are one tensor's.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn read(&mut self, from: usize, len: usize) -> Result<&[u8]> {
        // One buffer for all reads: they are of one size, but for the last of each tensor.
        self.bytes.resize(len, 0);
        let shard = shard_at(&self.files, from);
        let Shard { file, begin } = &mut self.files[shard];
        file.read(from - *begin, &mut self.bytes)?;
        Ok(&self.bytes)
    }

    /// Some elements of a tensor.
    ///
    /// # Errors
    /// What the system says; a type that is no number here.
    fn read_elements(
        &mut self,
        tensor: usize,
        from: usize,
        out: &mut Vec<f64>,
        len: usize,
    ) -> Result<()> {
        let stated = &self.header.tensors[tensor];
        let dtype = stated.element_type()?;
        let size = dtype.size();
        let start = stated.byte_range().start + from * size;
        out.resize(len, 0.0);
        let bytes = self.read(start, len * size)?;
        dtype::widen(dtype, bytes, out);
        Ok(())
    }
}

/// Opens a file and reads its header, or all of it if it is an index.
fn open_file_of_tensors(path: &Path) -> Result<Opened<DataReader>> {
    let failed = |error: io::Error| unreadable(path, &error);
    let invalid = |error: Error| error.or_at(|| path.display().to_string());
    let mut file = open_file(path)?;
    let metadata = file.metadata().map_err(failed)?;
    let len = metadata.len();
    let mut first = Vec::new();
    let mut start = file.by_ref().take(LENGTH as u64);
    start.read_to_end(&mut first).map_err(failed)?;
    if is_index(&first) {
        // One byte more than an index may have shows that it is too long.
        let mut rest = file.take(LONGEST as u64 + 1);
        rest.read_to_end(&mut first).map_err(failed)?;
        return Ok(Opened::Index(first));
    }
    let length = Header::length(&first, len).map_err(invalid)?;
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(failed)?;
    let start = (LENGTH + length) as u64;
    let header = Header::parse(&text, len - start);
    let header = header.map_err(invalid)?;
    let reader = DataReader {
        path: path.to_owned(),
        file,
        start,
        at: start,
    };
    Ok(Opened::File(header, reader))
}

impl DataReader {
    fn read(&mut self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let at = self.start + from as u64;
        // Tensors mostly come in the order of the file: a seek for each chunk would cost a call.
        let seek = if at == self.at {
            Ok(at)
        } else {
            self.file.seek(SeekFrom::Start(at))
        };
        let read = seek.and_then(|_| self.file.read_exact(bytes));
        read.map_err(|error| unreadable(&self.path, &error))?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::io(path, "a file that can be read", error)
}

/// Files that are read side by side.
pub(crate) struct Streams {
    pub(crate) files: Vec<Stream>,
    chunks: Vec<Vec<f64>>,
}

impl Streams {
    /// # Errors
    /// A file that cannot be read or is none of tensors; no file at all.
    pub(crate) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Streams> {
        if paths.is_empty() {
            return Err(Error::argument("at least one file", "none"));
        }
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            files.push(Stream::open(path.as_ref())?);
        }
        let chunks = vec![Vec::new(); files.len()];
        Ok(Streams { files, chunks })
    }

    pub(crate) fn first(&self) -> &Header {
        &self.files[0].header
    }

    /// The tensors of the first file that are the model's, in its order, each with its index in
    /// every file; and what keeps the others from being there: tensors that another file has not
    /// got, has besides, or has in another shape.
    pub(crate) fn common(&self) -> (Vec<Vec<usize>>, Vec<Error>) {
        let mut common = Vec::new();
        let mut unfit = Vec::new();
        let first = self.first();
        // The first file decides on the order; the others are asked by name.
        for (_, tensor) in first.models() {
            match self.everywhere(tensor) {
                Ok(indices) => common.push(indices),
                Err(error) => unfit.push(error),
            }
        }
        let expected = format!("the tensors of `{}`", self.files[0].path.display());
        for file in &self.files[1..] {
            let path = file.path.display();
            for (_, tensor) in file.header.models() {
                if first.find(&tensor.name).is_none() {
                    let name = tensor.name.clone();
                    let found = format!("another in `{path}`");
                    unfit.push(Error::unknown(name, &expected, found));
                }
            }
        }
        (common, unfit)
    }

    /// # Errors
    /// A file that has no such tensor, or one of another shape.
    fn everywhere(&self, tensor: &Tensor) -> Result<Vec<usize>> {
        let mut indices = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let name = tensor.name.clone();
            let Some(index) = file.header.find(&name) else {
                let shape = tensor.shape();
                let path = file.path.display();
                let expected = format!("a tensor of shape {shape:?} in `{path}`");
                return Err(Error::missing(name, expected));
            };
            let other = &file.header.tensors[index];
            if other.shape() != tensor.shape() {
                let error = Error::shape(name, tensor.shape(), other.shape());
                return Err(error.found_in(&file.path));
            }
            indices.push(index);
        }
        Ok(indices)
    }

    /// Reads a tensor, by its index in every file, side by side: `each` gets as many elements of
    /// each file.
    ///
    /// # Errors
    /// What `each` returns; what the system says.
    pub(crate) fn read(
        &mut self,
        tensor: &[usize],
        mut each: impl FnMut(&mut [Vec<f64>]) -> Result<()>,
    ) -> Result<()> {
        // All files have this tensor in one shape, so one length counts for all of them.
        let len = self.first().tensors[tensor[0]].len();
        for from in (0..len).step_by(CHUNK) {
            let count = CHUNK.min(len - from);
            let files = self.files.iter_mut().zip(tensor);
            for ((file, &index), chunk) in files.zip(&mut self.chunks) {
                file.read_elements(index, from, chunk, count)?;
            }
            each(&mut self.chunks)?;
        }
        Ok(())
    }

    /// Gives the bytes of a tensor as the last file has them.
    ///
    /// # Errors
    /// What `each` returns; what the system says.
    pub(crate) fn copy_last(
        &mut self,
        tensor: &[usize],
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (Some(file), Some(&index)) = (self.files.last_mut(), tensor.last()) else {
            return Ok(());
        };
        let Range { start, end } = file.header.tensors[index].byte_range();
        for from in (start..end).step_by(CHUNK) {
            let len = CHUNK.min(end - from);
            let bytes = file.read(from, len)?;
            each(bytes)?;
        }
        Ok(())
    }
}

/// Reads the tensors of files side by side, in the order of the first: for each tensor as many of
/// its elements from every file as fit a small buffer, again and again. One pass, constant memory:
/// statistics, differences, whatever can be folded.
///
/// Elements come as `f64`: exact, but for integers of more than 53 bits. Tensors of types that
/// arrays cannot hold, and what was written beside the model, are passed by.
///
/// # Errors
/// [`is_io`](Error::is_io): a file cannot be read. [`is_invalid_file`](Error::is_invalid_file): it
/// is no safetensors file. [`is_argument`](Error::is_argument): there is no file at all.
/// [`is_missing`](Error::is_missing), [`is_unknown`](Error::is_unknown),
/// [`is_shape`](Error::is_shape): the files do not have the same names and shapes; the file is
/// named.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-scan-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("model.safetensors");
///
/// checkpoint::save(&path, &tree!({ "a": [1.0, 2.0], "b": [3.0] }))?;
/// let mut sum = 0.0;
/// checkpoint::scan(&[&path], |_tensor, chunks| sum += chunks[0].iter().sum::<f64>())?;
/// assert_eq!(sum, 6.0);
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn scan<P>(paths: &[P], mut each: impl FnMut(&Tensor, &[Vec<f64>])) -> Result<()>
where
    P: AsRef<Path>,
{
    let mut streams = Streams::open(paths)?;
    let (common, unfit) = streams.common();
    // Before the first call: whoever sums up must not have seen half of the files.
    all_in_one(unfit)?;
    for tensor in common {
        let stated = streams.first().tensors[tensor[0]].clone();
        if stated.number_type().is_some() {
            streams.read(&tensor, |chunks| {
                each(&stated, chunks);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// # Errors
/// If there are any errors.
pub(crate) fn all_in_one(errors: Vec<Error>) -> Result<()> {
    let mut findings = Findings::default();
    for error in errors {
        findings.add(error);
    }
    findings.into_result()
}
