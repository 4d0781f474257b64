//! The header of a file, and the one validator that every header goes through, read or written.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype as OnDisk;
use safetensors::tensor::TensorInfo;

use super::dtype;
use super::notes::{self, Notes};
use super::stated::{METADATA, Stated};
use crate::element::Dtype;
use crate::error::{Error, Result};

/// Bytes of the length before a header.
pub(crate) const LENGTH: usize = 8;

/// The most bytes a header may have.
pub(crate) const LONGEST: usize = 100_000_000;

/// One tensor of a file, as the header has it.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-{}", std::process::id()));
///
/// checkpoint::save(&path, &tree!({ "layers": [{ "w": [[1.0, 2.0]] }] }))?;
/// let file = checkpoint::open(&path)?;
/// let rows = file.tensors().iter().map(|tensor| format!("{} {} {:?}", tensor.name(), tensor.type_name(), tensor.shape()));
/// assert_eq!(rows.collect::<Vec<_>>(), ["layers.0.w F32 [1, 2]"]);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(crate) name: String,
    pub(crate) on_disk: OnDisk,
    shape: Vec<usize>,
    /// In the data, which comes after the header.
    bytes: Range<usize>,
}

impl Header {
    /// Bytes of all tensors together.
    pub(crate) fn data_len(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.bytes.len()).sum()
    }
}

impl Tensor {
    /// Its name: the path of a leaf.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-name-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "layers": [{ "w": [1.0] }] }))?;
    /// assert_eq!(checkpoint::open(&path)?.tensors()[0].name(), "layers.0.w");
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The length of each axis; empty for a 0-d tensor.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-shape-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "temperature": 0.5 }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "temperature"].map(|name| file.tensor(name).unwrap().shape()), [&[1, 2][..], &[]]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of its elements.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-len-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "temperature": 0.5 }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "temperature"].map(|name| file.tensor(name).unwrap().len()), [2, 1]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-is-empty-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &(vec![1.0_f32], Vec::<f32>::new()))?;
    /// let file = checkpoint::open(&path)?;
    /// assert!(!file.tensor("0").unwrap().is_empty() && file.tensor("1").unwrap().is_empty());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of its elements, if arrays can hold such: `None` for floats of 8 bits and less and
    /// for complex numbers.
    ///
    /// ```
    /// use flatleaf::{checkpoint::Checkpoint, Dtype};
    ///
    /// // {"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F8_E4M3","shape":[],"data_offsets":[4,5]}}
    /// # let header = br#"{"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F8_E4M3","shape":[],"data_offsets":[4,5]}}"#;
    /// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0; 5]].concat();
    /// let file = Checkpoint::from_bytes(bytes)?;
    /// assert_eq!(["w", "x"].map(|name| file.tensor(name).unwrap().dtype()), [Some(Dtype::F32), None]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn dtype(&self) -> Option<Dtype> {
        dtype::in_memory(self.on_disk)
    }

    /// The name of that type as the format has it: `F32`, `BF16`, `F8_E4M3`.
    ///
    /// ```
    /// use flatleaf::checkpoint::Checkpoint;
    ///
    /// // {"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}
    /// # let header = br#"{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    /// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0]].concat();
    /// assert_eq!(Checkpoint::from_bytes(bytes)?.tensors()[0].type_name(), "F8_E4M3");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn type_name(&self) -> String {
        self.on_disk.to_string()
    }

    /// Where its bytes are in the data, which begins after the header.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-bytes-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "b"].map(|name| file.tensor(name).unwrap().byte_range()), [0..8, 8..12]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn byte_range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    pub(crate) fn renamed(&self, name: String) -> Tensor {
        Tensor {
            name,
            ..self.clone()
        }
    }

    /// # Errors
    /// A type of which arrays hold no elements.
    pub(crate) fn element_type(&self) -> Result<Dtype> {
        self.dtype().ok_or_else(|| {
            Error::element_type(
                self.name.clone(),
                "a type that arrays can hold".into(),
                self.type_name(),
            )
        })
    }
}

/// What a file says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    /// As their bytes lie in the file.
    pub(crate) tensors: Vec<Tensor>,
    /// Indices of the tensors, by name.
    by_name: Vec<u32>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) notes: Notes,
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
        let text = std::str::from_utf8(text)
            .map_err(|error| Error::invalid_file("a header in UTF-8", error.to_string()))?;
        let stated: Stated = serde_json::from_str(text)
            .map_err(|error| Error::invalid_file("a header in JSON", error.to_string()))?;
        let data = usize::try_from(data).map_err(|_| {
            Error::invalid_file("data that fits an address space", format!("{data} bytes"))
        })?;
        Header::validate(stated.tensors, stated.metadata, data)
    }

    /// Brings the tensors into the order of the file and checks that they cover the data, each byte
    /// once.
    ///
    /// # Errors
    /// A name twice; a gap, an overlap, data that is left over; a shape that overflows or does not
    /// fit its bytes; notes of this crate that do not fit.
    fn validate(
        stated: Vec<(String, TensorInfo)>,
        metadata: BTreeMap<String, String>,
        data: usize,
    ) -> Result<Header> {
        let mut stated = stated;
        stated.sort_by_key(|tensor| tensor.1.data_offsets);
        let mut end = 0;
        let mut tensors = Vec::with_capacity(stated.len());
        for (name, info) in stated {
            end = check(&info, end, data).map_err(|error| error.at(&name))?;
            tensors.push(Tensor {
                name,
                on_disk: info.dtype,
                shape: info.shape,
                bytes: info.data_offsets.0..info.data_offsets.1,
            });
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
    /// A name twice; notes of this crate that do not fit.
    pub(crate) fn of(tensors: Vec<Tensor>, metadata: BTreeMap<String, String>) -> Result<Header> {
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_by_key(|&index| &tensors[index as usize].name);
        let twice = by_name
            .windows(2)
            .find(|pair| tensors[pair[0] as usize].name == tensors[pair[1] as usize].name);
        if let Some(pair) = twice {
            return Err(Error::invalid_file("each name once", "it twice")
                .at(&tensors[pair[0] as usize].name));
        }
        let mut header = Header {
            tensors,
            by_name,
            metadata,
            notes: Notes::default(),
        };
        header.notes = Notes::read(&header)?;
        Ok(header)
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let found = self
            .by_name
            .binary_search_by_key(&name, |&index| &self.tensors[index as usize].name);
        found.ok().map(|position| self.by_name[position] as usize)
    }

    /// The tensor of a name or an alias.
    pub(crate) fn find_any(&self, name: &str) -> Option<usize> {
        self.find(name)
            .or_else(|| self.notes.aliases.get(name).map(|alias| alias.tensor))
    }

    /// The tensors that are not beside the model.
    pub(crate) fn models(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.tensors
            .iter()
            .enumerate()
            .filter(|(_, tensor)| !self.notes.is_beside(&tensor.name))
    }

    /// A tensor's name and its aliases.
    pub(crate) fn names_of(&self, tensor: usize) -> impl Iterator<Item = &str> {
        let aliases = self
            .notes
            .aliases
            .iter()
            .filter(move |(_, alias)| alias.tensor == tensor);
        std::iter::once(self.tensors[tensor].name()).chain(aliases.map(|(name, _)| name.as_str()))
    }

    /// The bytes before the data: length, header and the padding that aligns the data.
    ///
    /// # Errors
    /// More than a header may have.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut text = String::from("{");
        if !self.metadata.is_empty() {
            push_entry(&mut text, METADATA, &self.metadata);
        }
        for Tensor {
            name,
            on_disk,
            shape,
            bytes,
        } in &self.tensors
        {
            let info = TensorInfo {
                dtype: *on_disk,
                shape: shape.clone(),
                data_offsets: (bytes.start, bytes.end),
            };
            push_entry(&mut text, name, &info);
        }
        text.push('}');
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
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.1.bitsize()));
        let mut end = 0_usize;
        let mut stated = Vec::with_capacity(entries.len());
        for (name, dtype, shape) in entries {
            let start = end;
            end = size(dtype, &shape)
                .and_then(|size| end.checked_add(size))
                .ok_or_else(|| overflow(&shape).at(&name))?;
            stated.push((
                name,
                TensorInfo {
                    dtype,
                    shape,
                    data_offsets: (start, end),
                },
            ));
        }
        Header::validate(stated, metadata, end)
    }
}

fn push_entry(text: &mut String, name: &str, value: &impl serde::Serialize) {
    if text.len() > 1 {
        text.push(',');
    }
    text.push_str(&notes::json(&name));
    text.push(':');
    text.push_str(&notes::json(value));
}

/// Checks a tensor that should begin where the one before it ends; where it ends itself.
fn check(info: &TensorInfo, begin: usize, data: usize) -> Result<usize> {
    let (start, end) = info.data_offsets;
    let found = || format!("bytes {start} to {end}");
    if start != begin {
        let what = if start > begin { "a gap" } else { "an overlap" };
        return Err(Error::invalid_file(
            &format!("bytes from {begin} on"),
            format!("{}: {what}", found()),
        ));
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
    let mut nonzero = shape.iter().filter(|&&len| len != 0);
    let elements = nonzero.try_fold(1_usize, |count, &len| count.checked_mul(len))?;
    let bits = elements
        .checked_mul(dtype.bitsize())
        .filter(|&bits| bits / 8 <= isize::MAX as usize)?;
    let bits = if shape.contains(&0) { 0 } else { bits };
    bits.is_multiple_of(8).then_some(bits / 8)
}
