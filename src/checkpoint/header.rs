//! The header of a file, and the one validator that every header goes through, read or written.

use std::collections::BTreeMap;
use std::iter;

use safetensors::Dtype as OnDisk;
use safetensors::tensor::TensorInfo;

use super::metadata::{self, Metadata};
use super::names::path_of;
use super::raw_header::{METADATA, RawHeader};
use super::tensor::Tensor;
use super::work;
use crate::error::{Error, Result};
use crate::tree::MAX_AXES;
use crate::tree::axes::AxisMap;

/// Bytes of the length before a header.
pub(crate) const LENGTH: usize = 8;

/// The most bytes a header may have.
pub(crate) const LONGEST: usize = 100_000_000;

/// What a file says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    /// As their bytes lie in the file.
    pub(crate) tensors: Vec<Tensor>,
    /// Indices of the tensors, by name.
    by_name: Vec<u32>,
    /// Names that are not written as the paths they stand for, by these.
    by_path: BTreeMap<String, String>,
    pub(crate) metadata: Metadata,
}

impl Header {
    /// The length of a header as the first bytes of a file of so many bytes state it.
    ///
    /// # Errors
    /// A file that is too short for it; a header that may not be so long.
    pub(crate) fn length(first: &[u8], file: u64) -> Result<usize> {
        let short = || {
            Error::invalid_file(
                "the length of a header in 8 bytes",
                format!("a file of {file} bytes"),
            )
        };
        // Eight bytes of anything are a length. The bound keeps a text file, whose length would be
        // beyond 2⁵⁶, from being asked for as memory.
        let stated = first
            .first_chunk::<LENGTH>()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .ok_or_else(short)?;
        let length = usize::try_from(stated)
            .ok()
            .filter(|&length| length <= LONGEST);
        let length = length.ok_or_else(|| {
            Error::invalid_file(
                "a header of at most 100000000 bytes",
                format!("one of {stated} (is it a safetensors file?)"),
            )
        })?;
        if LENGTH as u64 + stated <= file {
            return Ok(length);
        }
        Err(Error::invalid_file(
            "a header within the file",
            format!("one of {stated} bytes in a file of {file}"),
        ))
    }

    /// Reads and validates a header with so many bytes of data after it.
    ///
    /// # Errors
    /// No UTF-8, no JSON, or no header; what [`validate`](Self::validate) finds.
    pub(crate) fn parse(text: &[u8], data: u64) -> Result<Header> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let found = error.to_string();
            Error::invalid_file("a header in UTF-8", found)
        })?;
        let raw: RawHeader = serde_json::from_str(text).map_err(|error| {
            let found = error.to_string();
            Error::invalid_file("a header in JSON", found)
        })?;
        let Ok(data) = usize::try_from(data) else {
            let expected = "data that fits an address space";
            let found = format!("{data} bytes");
            return Err(Error::invalid_file(expected, found));
        };
        Header::validate(raw.tensors, raw.metadata, data)
    }

    /// Brings the tensors into the order of the file and checks that they cover the data, each byte
    /// once.
    ///
    /// # Errors
    /// A name twice; a gap, an overlap, data that is left over; a shape that overflows or does not
    /// fit its bytes; metadata of this crate that do not fit.
    fn validate(
        mut raw: Vec<(String, TensorInfo)>,
        metadata: BTreeMap<String, String>,
        data: usize,
    ) -> Result<Header> {
        // Tensors without elements begin where the next one does, and their end says so.
        raw.sort_by_key(|tensor| tensor.1.data_offsets);
        let mut end = 0;
        let mut tensors = Vec::with_capacity(raw.len());
        for (name, info) in raw {
            end = check(&info, end, data).map_err(|error| error.at(&name))?;
            tensors.push(Tensor::new(name, info));
        }
        if end != data {
            return Err(Error::invalid_file(
                &format!("{end} bytes of data"),
                data.to_string(),
            ));
        }
        Header::of(tensors, metadata)
    }

    /// # Errors
    /// A name twice; metadata of this crate that do not fit.
    pub(crate) fn of(tensors: Vec<Tensor>, entries: BTreeMap<String, String>) -> Result<Header> {
        let by_name = sorted_names(&tensors)?;
        let find = |name: &str| search(&tensors, &by_name, name);
        let metadata = Metadata::read(entries, &tensors, find)?;
        Ok(Header::with(tensors, by_name, metadata))
    }

    /// Of tensors whose aliases are known.
    ///
    /// # Errors
    /// A name twice.
    pub(crate) fn of_part(tensors: Vec<Tensor>, metadata: Metadata) -> Result<Header> {
        let by_name = sorted_names(&tensors)?;
        Ok(Header::with(tensors, by_name, metadata))
    }

    fn with(tensors: Vec<Tensor>, by_name: Vec<u32>, metadata: Metadata) -> Header {
        let own = tensors.iter().map(|tensor| &tensor.name);
        let names = own.chain(metadata.aliases().iter().map(|alias| &alias.name));
        // Few files have such names, and whoever asks by path must find them all the same.
        let by_path = names.filter_map(|name| {
            let path = path_of(name);
            (path != name.as_str()).then(|| (path.into_owned(), name.clone()))
        });
        Header {
            by_path: by_path.collect(),
            tensors,
            by_name,
            metadata,
        }
    }

    /// Bytes of all tensors together.
    pub(crate) fn data_len(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.bytes.len()).sum()
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        search(&self.tensors, &self.by_name, name)
    }

    /// The tensor of a name, an alias, or the path of one, and the axes with which it is seen.
    pub(crate) fn find_any(&self, name: &str) -> Option<(usize, Option<&AxisMap>)> {
        if let Some(found) = self.find_named(name) {
            return Some(found);
        }
        let named_otherwise = self.by_path.get(name)?;
        self.find_named(named_otherwise)
    }

    fn find_named(&self, name: &str) -> Option<(usize, Option<&AxisMap>)> {
        // A tensor's own name counts before an alias, as in every other place.
        if let Some(index) = self.find(name) {
            let axes = self.tensors[index].axes.as_ref();
            return Some((index, axes));
        }
        let alias = self.metadata.alias(name)?;
        Some((alias.tensor, alias.axes.as_ref()))
    }

    /// The tensors that are the model's, not those of the sections beside it.
    pub(crate) fn models(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.tensors
            .iter()
            .enumerate()
            .filter(|(_, tensor)| !self.metadata.is_extra(&tensor.name))
    }

    /// A tensor's name and its aliases.
    pub(crate) fn names_of(&self, tensor: usize) -> impl Iterator<Item = &str> {
        let own = self.tensors[tensor].name();
        let aliases = self.metadata.aliases_of(tensor);
        let others = aliases.map(|alias| alias.name.as_str());
        iter::once(own).chain(others)
    }

    /// The bytes before the data: length, header and the padding that aligns the data.
    ///
    /// # Errors
    /// More than a header may have.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut text = String::from("{");
        if !self.metadata.entries.is_empty() {
            push_entry(&mut text, METADATA, &self.metadata.entries);
        }
        for tensor in &self.tensors {
            let (dtype, shape) = tensor.stated();
            let info = TensorInfo {
                dtype,
                shape: shape.to_vec(),
                data_offsets: (tensor.bytes.start, tensor.bytes.end),
            };
            push_entry(&mut text, &tensor.name, &info);
        }
        text.push('}');
        // The data begin at a multiple of eight, so that numbers in a mapped file are aligned.
        text.extend(std::iter::repeat_n(
            ' ',
            text.len().next_multiple_of(LENGTH) - text.len(),
        ));
        if text.len() > LONGEST {
            return Err(Error::invalid_file(
                "names and shapes that fit a header of 100000000 bytes",
                format!("{} bytes", text.len()),
            ));
        }
        Ok([
            (text.len() as u64).to_le_bytes().as_slice(),
            text.as_bytes(),
        ]
        .concat())
    }

    /// Tensors one after the other, those of wider elements first.
    ///
    /// # Errors
    /// A name twice; more bytes than there are addresses.
    pub(crate) fn lay_out(
        mut entries: Vec<(String, OnDisk, Vec<usize>)>,
        metadata: BTreeMap<String, String>,
    ) -> Result<Header> {
        // A tensor that begins behind wider ones begins at a multiple of its own element's size.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.1.bitsize()));
        let mut end = 0_usize;
        let mut raw = Vec::with_capacity(entries.len());
        for (name, dtype, shape) in entries {
            let start = end;
            end = size(dtype, &shape)
                .and_then(|size| end.checked_add(size))
                .ok_or_else(|| overflow(&shape).at(&name))?;
            raw.push((
                name,
                TensorInfo {
                    dtype,
                    shape,
                    data_offsets: (start, end),
                },
            ));
        }
        Header::validate(raw, metadata, end)
    }
}

/// Indices of the tensors, by name.
///
/// # Errors
/// A name twice.
fn sorted_names(tensors: &[Tensor]) -> Result<Vec<u32>> {
    let name = |index: u32| tensors[index as usize].name.as_str();
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    by_name.sort_by(|&a, &b| {
        work::count(1);
        name(a).cmp(name(b))
    });
    // JSON allows a key twice, and other readers let the last one win.
    let twice = by_name
        .windows(2)
        .find(|pair| name(pair[0]) == name(pair[1]));
    match twice {
        Some(pair) => Err(Error::invalid_file("each name once", "it twice").at(name(pair[0]))),
        None => Ok(by_name),
    }
}

fn search(tensors: &[Tensor], by_name: &[u32], name: &str) -> Option<usize> {
    let found = by_name.binary_search_by(|&index| {
        work::count(1);
        tensors[index as usize].name.as_str().cmp(name)
    });
    found.ok().map(|position| by_name[position] as usize)
}

fn push_entry(text: &mut String, name: &str, value: &impl serde::Serialize) {
    if text.len() > 1 {
        text.push(',');
    }
    text.push_str(&metadata::json(&name));
    text.push(':');
    text.push_str(&metadata::json(value));
}

/// Checks a tensor that should begin where the one before it ends; where it ends itself.
fn check(info: &TensorInfo, begin: usize, data: usize) -> Result<usize> {
    // Each tensor begins where the one before it ends: so there is no gap, no overlap, and no byte
    // has two owners, whatever order the header lists them in.
    let (start, end) = info.data_offsets;
    let found = || format!("bytes {start} to {end}");
    if start != begin {
        let what = if start > begin { "a gap" } else { "an overlap" };
        return Err(Error::invalid_file(
            &format!("bytes from {begin} on"),
            format!("{}: {what}", found()),
        ));
    }
    // A complex number is an axis of two.
    let most = MAX_AXES - usize::from(info.dtype == OnDisk::C64);
    if info.shape.len() > most {
        let found = format!("{} of them", info.shape.len());
        return Err(Error::invalid_file(&format!("at most {most} axes"), found));
    }
    let size = size(info.dtype, &info.shape).ok_or_else(|| overflow(&info.shape))?;
    if end.checked_sub(start) != Some(size) {
        return Err(Error::invalid_file(
            &format!("{size} bytes for {} of shape {:?}", info.dtype, info.shape),
            found(),
        ));
    }
    if end > data {
        return Err(Error::invalid_file(
            &format!("bytes within the data, which has {data}"),
            found(),
        ));
    }
    Ok(end)
}

fn overflow(shape: &[usize]) -> Error {
    Error::invalid_file(
        "whole bytes that memory can hold",
        format!("shape {shape:?}"),
    )
}

/// The bytes of a tensor, if they are whole and an array of the shape can exist, without elements
/// too.
fn size(dtype: OnDisk, shape: &[usize]) -> Option<usize> {
    // An array of shape [0, 2⁶³] has no elements, and still no address space holds its strides.
    let mut nonzero = shape.iter().filter(|&&len| len != 0);
    let elements = nonzero.try_fold(1_usize, |count, &len| count.checked_mul(len))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    if bits / 8 > isize::MAX as usize {
        return None;
    }
    // Elements of less than a byte have to fill their last byte: half of one has no place.
    let bits = if shape.contains(&0) { 0 } else { bits };
    bits.is_multiple_of(8).then_some(bits / 8)
}
