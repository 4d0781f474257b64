//! One file out of several: their average, or an exponential moving average over them.

use std::cmp::Reverse;
use std::path::Path;

use super::atomic::{self, FileWriter};
use super::dtype;
use super::header::Header;
use super::stream::Streams;
use super::tensor::Tensor;
use crate::error::{Error, Result};

/// Writes the average of checkpoints (a model soup): each float element is summed in `f64` and
/// rounded once to the type it has in the first file; integers and booleans are those of the last.
/// Names, order, ties and metadata are the first file's; what was written beside the models is left
/// out. One pass over the files in constant memory; `out` may be one of them.
///
/// # Errors
/// As [`scan`](super::scan) and [`save`](super::save).
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
    let count = paths.len() as f64;
    combine(paths, |sum, x| sum + x, |sum| sum / count, out.as_ref())
}

/// Writes the exponential moving average of a sequence of checkpoints: the first as it is, then for
/// each `x` `ema ← decay · ema + (1 − decay) · x`, in `f64`. Otherwise as [`average`].
///
/// # Errors
/// As [`average`]; a decay that is not between 0 and 1.
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
pub fn ema<P: AsRef<Path>>(paths: &[P], decay: f64, out: impl AsRef<Path>) -> Result<()> {
    if !(0.0..=1.0).contains(&decay) {
        return Err(Error::argument("a decay from 0 to 1", decay));
    }
    combine(
        paths,
        |ema, x| decay * ema + (1.0 - decay) * x,
        |ema| ema,
        out.as_ref(),
    )
}

/// Writes what comes of folding the elements of the files, in their order, and finishing that.
fn combine<P: AsRef<Path>>(
    paths: &[P],
    fold: impl Fn(f64, f64) -> f64,
    finish: impl Fn(f64) -> f64,
    out: &Path,
) -> Result<()> {
    let mut streams = Streams::open(paths)?;
    let mut tensors = streams.common()?;
    check_types(&streams, &tensors)?;
    tensors.sort_by_key(|tensor| Reverse(streams.first().tensors[tensor[0]].on_disk.bitsize()));
    let header = header(&streams, &tensors)?;
    let start = header.encode()?;
    let combined = |chunks: &mut [Vec<f64>]| {
        let (result, others) = chunks.split_first_mut().expect("a file");
        for other in others {
            result
                .iter_mut()
                .zip(&*other)
                .for_each(|(result, x)| *result = fold(*result, *x));
        }
        result
            .iter_mut()
            .for_each(|result| *result = finish(*result));
    };
    atomic::replace(out, header.data_len(), |output| {
        output.write(&start)?;
        tensors
            .iter()
            .try_for_each(|tensor| write(&mut streams, tensor, combined, output))
    })
}

/// Writes one tensor, of which each file has one.
fn write(
    streams: &mut Streams,
    tensor: &[usize],
    combine: impl Fn(&mut [Vec<f64>]),
    output: &mut FileWriter<'_>,
) -> Result<()> {
    let dtype = streams.first().tensors[tensor[0]].element_type()?;
    if !dtype.is_float() {
        return streams.copy_last(tensor, |bytes| output.write(bytes));
    }
    let mut bytes = Vec::new();
    streams.read(tensor, |chunks| {
        combine(chunks);
        bytes.resize(chunks[0].len() * dtype.size(), 0);
        dtype::narrow(&chunks[0], dtype, &mut bytes);
        output.write(&bytes)
    })
}

/// # Errors
/// A tensor that is of floats in one file and not in another, or of another type than arrays hold.
fn check_types(streams: &Streams, tensors: &[Vec<usize>]) -> Result<()> {
    for tensor in tensors {
        let first = streams.first().tensors[tensor[0]].element_type()?;
        for (file, &index) in streams.files.iter().zip(tensor) {
            let other = &file.header.tensors[index];
            if !dtype::is_convertible(other.on_disk, first) {
                return Err(Error::element_type(
                    other.name.clone(),
                    first.to_string(),
                    other.type_name(),
                ));
            }
        }
    }
    Ok(())
}

/// The first file's tensors, without what was written beside the model.
fn header(streams: &Streams, tensors: &[Vec<usize>]) -> Result<Header> {
    let first = streams.first();
    let entries = tensors.iter().map(|tensor| {
        let Tensor { name, on_disk, .. } = &first.tensors[tensor[0]];
        (
            name.clone(),
            *on_disk,
            first.tensors[tensor[0]].shape().to_vec(),
        )
    });
    Header::lay_out(entries.collect(), first.metadata.of_model())
}
