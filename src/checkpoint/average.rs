//! One file out of several: their average, or an exponential moving average over them.

use std::cmp::Reverse;
use std::path::Path;

use super::atomic::{self, FileWriter};
use super::dtype;
use super::header::Header;
use super::stream::{Streams, all_in_one};
use crate::error::{Error, Result};

/// Writes the average of checkpoints (a model soup): each float element is summed in `f64` and
/// rounded once to the type it has in the first file; integers and booleans are those of the last.
/// Names, order, ties and metadata are the first file's; what was written beside the models is left
/// out. One pass over the files in constant memory; `out` may be one of them.
///
/// # Errors
/// [`is_missing`](Error::is_missing), [`is_unknown`](Error::is_unknown),
/// [`is_shape`](Error::is_shape), [`is_element_type`](Error::is_element_type): the files do not
/// have the same names, shapes and kinds of numbers; the file is named, and
/// [`AverageOptions::lax`] leaves such tensors out. [`is_io`](Error::is_io) and
/// [`is_invalid_file`](Error::is_invalid_file): a file cannot be read or is no safetensors file,
/// `out` cannot be written. [`is_argument`](Error::is_argument): there is no file at all.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-average-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b, soup] = ["a", "b", "soup"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0, 2.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [3.0, 6.0] }))?;
/// checkpoint::average(&[&a, &b], &soup)?;
/// assert_eq!(checkpoint::open(&soup)?.flat()?, [2.0, 4.0].as_slice());
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn average<P: AsRef<Path>>(paths: &[P], out: impl AsRef<Path>) -> Result<()> {
    let options = AverageOptions::new();
    let averaged = average_with(paths, &options, out);
    averaged.map(drop)
}

/// Writes the average of checkpoints, as [`average`] does, with weights or without the tensors
/// that are not everywhere; says which tensors are averaged.
///
/// # Errors
/// What [`average`] refuses. [`is_argument`](Error::is_argument): not as many weights as files,
/// weights that are not finite or whose sum is 0.
///
/// ```
/// use flatleaf::checkpoint::{self, AverageOptions};
/// use flatleaf::tree;
/// # let folder = std::env::temp_dir().join(format!("flatleaf-average-with-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b, soup] = ["a", "b", "soup"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0, 2.0], "head": [1.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [3.0, 6.0], "head": [1.0, 2.0] }))?;
/// let options = AverageOptions::new().weights([3.0, 1.0]).lax();
/// let report = checkpoint::average_with(&[&a, &b], &options, &soup)?;
/// assert_eq!(checkpoint::open(&soup)?.flat()?, [1.5, 3.0].as_slice());
/// assert_eq!((report.averaged, report.left_out[0].path()), (vec!["w".to_owned()], Some("head")));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn average_with<P: AsRef<Path>>(
    paths: &[P],
    options: &AverageOptions,
    out: impl AsRef<Path>,
) -> Result<AverageReport> {
    // Files are opened first: of what cannot be read nobody wants to know the weights.
    let streams = Streams::open(paths)?;
    let weights = match &options.weights {
        Some(weights) => weights.clone(),
        None => vec![1.0; paths.len()],
    };
    let total: f64 = weights.iter().sum();
    if weights.len() != paths.len() {
        let expected = format!("a weight for each of {} files", paths.len());
        return Err(Error::argument(&expected, weights.len()));
    }
    if !total.is_finite() || total == 0.0 {
        let expected = "finite weights whose sum is not 0";
        let found = format!("{weights:?}");
        return Err(Error::argument(expected, found));
    }
    let average = |files: &[Vec<f64>], index: usize| {
        let elements = files.iter().map(|file| file[index]);
        let weighted = elements.zip(&weights);
        let terms = weighted.clone().map(|(x, weight)| weight * x);
        let sum: f64 = terms.sum();
        if sum.is_finite() {
            return sum / total;
        }
        // Of a sum that overflows the average need not: weights that add up to 1 come first then.
        let shares = weighted.map(|(x, weight)| weight / total * x);
        shares.sum()
    };
    combine(streams, average, options.is_lax, out.as_ref())
}

/// How files are averaged: all alike and strictly, unless [`weights`](AverageOptions::weights) or
/// [`lax`](AverageOptions::lax) say something else. Given to [`average_with`].
///
/// ```
/// use flatleaf::checkpoint::AverageOptions;
///
/// let options = AverageOptions::new().weights([0.75, 0.25]); // of two files
/// assert_eq!(options, AverageOptions::new().weights(vec![0.75, 0.25]));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct AverageOptions {
    weights: Option<Vec<f64>>,
    is_lax: bool,
}

impl AverageOptions {
    /// Strict, and every file counts the same, which is what [`average`] does: a tensor that is not
    /// in all files in one shape and kind of numbers is an error, and no file is written.
    ///
    /// ```
    /// use flatleaf::checkpoint::AverageOptions;
    ///
    /// assert_eq!(AverageOptions::new(), AverageOptions::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A weight for each file, in their order. They need not add up to 1: the sum of the weighted
    /// elements is divided by the sum of the weights. Negative ones lead away from a file.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, AverageOptions};
    /// use flatleaf::tree;
    /// # let folder = std::env::temp_dir().join(format!("flatleaf-average-weights-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let [a, b, out] = ["a", "b", "out"].map(|name| folder.join(name));
    ///
    /// checkpoint::save(&a, &tree!({ "w": [1.0] }))?;
    /// checkpoint::save(&b, &tree!({ "w": [3.0] }))?;
    /// checkpoint::average_with(&[&a, &b], &AverageOptions::new().weights([1.0, 3.0]), &out)?;
    /// assert_eq!(checkpoint::open(&out)?.flat()?, [2.5].as_slice());
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn weights(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.weights = Some(weights.into());
        self
    }

    /// Leaves out tensors that are not in all files in one shape and kind of numbers; the
    /// [`AverageReport`] says which. The new file does not have them.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, AverageOptions};
    /// use flatleaf::tree;
    /// # let folder = std::env::temp_dir().join(format!("flatleaf-average-lax-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let [a, b, out] = ["a", "b", "out"].map(|name| folder.join(name));
    ///
    /// checkpoint::save(&a, &tree!({ "w": [1.0], "old": [1.0] }))?;
    /// checkpoint::save(&b, &tree!({ "w": [3.0] }))?;
    /// let report = checkpoint::average_with(&[&a, &b], &AverageOptions::new().lax(), &out)?;
    /// assert_eq!((report.averaged.len(), report.left_out.len()), (1, 1));
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lax(mut self) -> Self {
        self.is_lax = true;
        self
    }
}

/// Which tensors an average has, and which it has not. Made by [`average_with`].
///
/// ```
/// use flatleaf::checkpoint::{self, AverageOptions};
/// use flatleaf::tree;
/// # let folder = std::env::temp_dir().join(format!("flatleaf-average-report-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, out] = ["a", "out"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0] }))?;
/// let report = checkpoint::average_with(&[&a, &a], &AverageOptions::new(), &out)?;
/// assert_eq!((report.averaged, report.left_out), (vec!["w".to_owned()], vec![]));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct AverageReport {
    /// The names of the tensors of the new file, in its order. Integers and booleans are among them,
    /// though they are those of the last file and no average.
    pub averaged: Vec<String>,
    /// For each tensor that does not fit, an error with its name, and what keeps it out: a file that
    /// has not got it, or has it in another shape or type. Empty after a strict average.
    pub left_out: Vec<Error>,
}

/// Writes the exponential moving average of a sequence of checkpoints: the first as it is, then for
/// each `x` `ema ← decay · ema + (1 − decay) · x`, in `f64`, rounded once to the type of the first
/// file. Integers and booleans are those of the last. One pass over the files in constant memory;
/// `out` may be one of them.
///
/// # Errors
/// [`is_argument`](Error::is_argument): the decay is not from 0 to 1, or there is no file.
/// [`is_missing`](Error::is_missing), [`is_unknown`](Error::is_unknown),
/// [`is_shape`](Error::is_shape), [`is_element_type`](Error::is_element_type): the files do not
/// have the same names, shapes and kinds of numbers. [`is_io`](Error::is_io) and
/// [`is_invalid_file`](Error::is_invalid_file): a file cannot be read or is no safetensors file,
/// `out` cannot be written.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-ema-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b, out] = ["a", "b", "out"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [3.0] }))?;
/// checkpoint::ema(&[&a, &b], 0.75, &out)?;
/// assert_eq!(checkpoint::open(&out)?.flat()?, [1.5].as_slice());
/// assert!(checkpoint::ema(&[&a, &b], 1.5, &out).unwrap_err().is_argument());
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ema<P>(paths: &[P], decay: f64, out: impl AsRef<Path>) -> Result<()>
where
    P: AsRef<Path>,
{
    if !(0.0..=1.0).contains(&decay) {
        return Err(Error::argument("a decay from 0 to 1", decay));
    }
    // From the first file on, so that it need not be told from the others by a weight.
    let moving = |files: &[Vec<f64>], index: usize| {
        let elements = files.iter().map(|file| file[index]);
        let next = |ema, x| decay * ema + (1.0 - decay) * x;
        elements.reduce(next).unwrap_or(0.0)
    };
    let streams = Streams::open(paths)?;
    let combined = combine(streams, moving, false, out.as_ref());
    combined.map(drop)
}

/// Writes what `combine` makes of the element that has one index in a chunk of every file.
fn combine(
    mut streams: Streams,
    combine: impl Fn(&[Vec<f64>], usize) -> f64,
    is_lax: bool,
    out: &Path,
) -> Result<AverageReport> {
    let (mut tensors, mut left_out) = streams.common();
    tensors.retain(|tensor| match check_types(&streams, tensor) {
        Ok(()) => true,
        Err(error) => {
            left_out.push(error);
            false
        }
    });
    if !is_lax {
        all_in_one(std::mem::take(&mut left_out))?;
    }
    // As every header has it, wider elements first: the data are written in the order of it.
    tensors.sort_by_key(|tensor| {
        let first = &streams.first().tensors[tensor[0]];
        let (dtype, _) = first.stated();
        Reverse(dtype.bitsize())
    });
    let header = header(&streams, &tensors)?;
    let start = header.encode()?;
    atomic::replace(out, header.data_len(), |output| {
        output.write(&start)?;
        for tensor in &tensors {
            write(&mut streams, tensor, &combine, output)?;
        }
        Ok(())
    })?;
    let names = header.tensors.into_iter().map(|tensor| tensor.name);
    Ok(AverageReport {
        averaged: names.collect(),
        left_out,
    })
}

/// Writes one tensor, of which each file has one.
fn write(
    streams: &mut Streams,
    tensor: &[usize],
    combine: impl Fn(&[Vec<f64>], usize) -> f64,
    output: &mut FileWriter<'_>,
) -> Result<()> {
    let dtype = streams.first().tensors[tensor[0]].element_type()?;
    // The mean of two step counts or of two masks is neither; the last file is the most recent.
    if !dtype.is_float() {
        return streams.copy_last(tensor, |bytes| output.write(bytes));
    }
    let mut results = Vec::new();
    let mut bytes = Vec::new();
    streams.read(tensor, |chunks| {
        let len = chunks[0].len();
        // One buffer for a whole tensor: the loop over chunks allocates nothing.
        results.clear();
        let combined = (0..len).map(|index| combine(chunks, index));
        results.extend(combined);
        bytes.resize(len * dtype.size(), 0);
        dtype::narrow(&results, dtype, &mut bytes);
        output.write(&bytes)
    })
}

/// # Errors
/// A tensor that is of floats in one file and not in another, or of another type than arrays hold.
fn check_types(streams: &Streams, tensor: &[usize]) -> Result<()> {
    let first = streams.first().tensors[tensor[0]].element_type()?;
    for (file, &index) in streams.files.iter().zip(tensor) {
        let other = &file.header.tensors[index];
        let is_opaque = first.is_opaque();
        if !is_opaque && dtype::is_convertible(other.on_disk, first) {
            continue;
        }
        let expected = match is_opaque {
            true => "numbers that can be averaged".to_owned(),
            false => first.to_string(),
        };
        let name = other.name.clone();
        let error = Error::element_type(name, expected, other.type_name());
        return Err(error.found_in(&file.path));
    }
    Ok(())
}

/// These tensors as the first file has them, and its metadata as far as they are about these.
fn header(streams: &Streams, tensors: &[Vec<usize>]) -> Result<Header> {
    let first = streams.first();
    // A tie goes with its tensor, so the metadata has to know which of these stay.
    let mut is_kept = vec![false; first.tensors.len()];
    let mut entries = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let index = tensor[0];
        is_kept[index] = true;
        let tensor = &first.tensors[index];
        let (dtype, shape) = tensor.stated();
        let name = tensor.name.clone();
        entries.push((name, dtype, shape.to_vec()));
    }
    let metadata = first.metadata.of_tensors(|tensor| is_kept[tensor]);
    Header::lay_out(entries, metadata)
}
