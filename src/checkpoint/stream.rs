//! Checkpoints larger than memory: their elements, so many at a time.
//!
//! A chunk is small enough to stay in the cache from the read to the sum, and large enough that
//! calls of the system do not show. Tensors are read in the order of the first checkpoint, and of
//! each checkpoint the same elements at once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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
        let start = stated.byte_range().start + from * dtype.size();
        out.resize(len, 0.0);
        dtype::widen(dtype, self.read(start, len * dtype.size())?, out);
        Ok(())
    }
}

/// Opens a file and reads its header, or all of it if it is an index.
fn open_file_of_tensors(path: &Path) -> Result<Opened<DataReader>> {
    let failed = |error: &std::io::Error| Error::io(path, "a file that can be read", error);
    let invalid = |error: Error| error.or_at(|| path.display().to_string());
    let mut file = open_file(path)?;
    let len = file.metadata().map_err(|error| failed(&error))?.len();
    let mut first = Vec::new();
    let read = file.by_ref().take(LENGTH as u64).read_to_end(&mut first);
    read.map_err(|error| failed(&error))?;
    if is_index(&first) {
        // One byte more than an index may have shows that it is too long.
        let rest = file.take(LONGEST as u64 + 1).read_to_end(&mut first);
        rest.map_err(|error| failed(&error))?;
        return Ok(Opened::Index(first));
    }
    let length = Header::length(&first, len).map_err(invalid)?;
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(|error| failed(&error))?;
    let start = (LENGTH + length) as u64;
    let header = Header::parse(&text, len - start).map_err(invalid)?;
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
        read.map_err(|error| Error::io(&self.path, "a file that can be read", &error))?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }
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
        let files = paths
            .iter()
            .map(|path| Stream::open(path.as_ref()))
            .collect::<Result<Vec<_>>>()?;
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
        let (mut common, mut unfit) = (Vec::new(), Vec::new());
        let first = self.first();
        // The first file decides on the order; the others are asked by name.
        for (_, tensor) in first.models() {
            match self.everywhere(tensor) {
                Ok(indices) => common.push(indices),
                Err(error) => unfit.push(error),
            }
        }
        for file in &self.files[1..] {
            let others = file.header.models();
            for (_, tensor) in others.filter(|other| first.find(&other.1.name).is_none()) {
                let expected = format!("the tensors of `{}`", self.files[0].path.display());
                let found = format!("another in `{}`", file.path.display());
                unfit.push(Error::unknown(tensor.name.clone(), &expected, found));
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
                let (shape, path) = (tensor.shape(), file.path.display());
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
            for ((file, &index), chunk) in self.files.iter_mut().zip(tensor).zip(&mut self.chunks) {
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
        let range = file.header.tensors[index].byte_range();
        range
            .clone()
            .step_by(CHUNK)
            .try_for_each(|from| each(file.read(from, CHUNK.min(range.end - from))?))
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
pub fn scan<P: AsRef<Path>>(paths: &[P], mut each: impl FnMut(&Tensor, &[Vec<f64>])) -> Result<()> {
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
