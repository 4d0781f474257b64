//! Checkpoints of several files, and the index that names these.
//!
//! An index is a file of JSON, `model.safetensors.index.json` by custom, whose `weight_map` says of
//! each tensor which file it is in:
//!
//! ```text
//! {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
//! ```
//!
//! The files become one header: their tensors one file after the other, in the order of the files'
//! names, with bytes counted as if the data lay one after the other too. With 8 bytes of data in
//! the first file and `b` at bytes 0 to 4 of the second, `b` has bytes 8 to 12 of the whole. Nothing
//! else in this folder knows of several files, but for whoever turns these bytes into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::header::{Header, LENGTH, LONGEST};
use super::metadata::{AXES, FINGERPRINT, PARTS, TIES, json};
use super::raw_header::StringMap;
use super::tensor::Tensor;
use crate::error::{Error, Findings, Result};

/// A file that has been opened: one of tensors, or the text of an index.
pub(crate) enum Opened<F> {
    File(Header, F),
    Index(Vec<u8>),
}

/// One of the files of a checkpoint.
pub(crate) struct Shard<F> {
    pub(crate) file: F,
    /// Where its data begin in the data of all files together.
    pub(crate) begin: usize,
}

/// The file that has these bytes of the whole data, and where its own data begin there.
pub(crate) fn shard_at<F>(shards: &[Shard<F>], from: usize) -> usize {
    // The first one begins at 0, if there is any. What has no bytes may be said to be in any.
    let behind = shards.partition_point(|shard| shard.begin <= from);
    behind.saturating_sub(1)
}

/// Whether a file that begins so is text and no tensors: as a length, `{` and the seven characters
/// after it are far beyond what a header may have.
pub(crate) fn is_index(first: &[u8]) -> bool {
    let Some(length) = first.first_chunk::<LENGTH>() else {
        return false;
    };
    let is_length = u64::from_le_bytes(*length) <= LONGEST as u64;
    first.starts_with(b"{") && !is_length
}

/// Opens the one file at a path, or all files that the index there names.
///
/// # Errors
/// What `open` returns, for every file that cannot be opened; an index that is none, names files
/// beyond its folder, or does not agree with the files about who has which tensor; names or
/// metadata of two files that contradict each other.
pub(crate) fn open_all<F>(
    path: &Path,
    open: impl Fn(&Path) -> Result<Opened<F>>,
) -> Result<(Header, Vec<Shard<F>>)> {
    let at_path = |error: Error| error.or_at(|| path.display().to_string());
    let index = match open(path)? {
        Opened::File(header, file) => {
            let shard = Shard { file, begin: 0 };
            return Ok((header, vec![shard]));
        }
        Opened::Index(text) => Index::parse(&text).map_err(at_path)?,
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut headers = Vec::new();
    let mut files = Vec::new();
    let mut failed = Findings::default();
    for name in &index.files {
        let path = folder.join(name);
        match open(&path) {
            Ok(Opened::File(header, file)) => {
                headers.push(header);
                files.push(file);
            }
            Ok(Opened::Index(_)) => {
                let error = Error::invalid_file("a file of tensors", "another index");
                failed.add(error.at(&path.display().to_string()));
            }
            // All of them: whoever has to fetch files wants to know which.
            Err(error) => failed.add(error),
        }
    }
    failed.into_result()?;
    index.check(&headers)?;
    let merged = merge(headers, index.entries);
    let (header, begins) = merged.map_err(at_path)?;
    let shards = files.into_iter().zip(begins);
    let shards = shards.map(|(file, begin)| Shard { file, begin });
    Ok((header, shards.collect()))
}

/// What an index says.
struct Index {
    /// For each tensor its file.
    file_of: BTreeMap<String, String>,
    files: BTreeSet<String>,
    /// What Hugging Face's tools write into the file where there is one only: ties, above all.
    entries: BTreeMap<String, String>,
}

/// An index as JSON states it. Programs write other things into it too, sizes for example, which
/// need not be right; the files themselves know.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: StringMap,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    // A field that takes whatever is left makes serde refuse a list in place of the map.
    #[serde(flatten)]
    _others: BTreeMap<String, IgnoredAny>,
}

impl Index {
    /// # Errors
    /// No JSON, or no index; a tensor that is named twice; a file that is not in the folder of the
    /// index or below it.
    fn parse(text: &[u8]) -> Result<Index> {
        if text.len() > LONGEST {
            let expected = "an index of at most 100000000 bytes";
            let found = format!("{} bytes", text.len());
            return Err(Error::invalid_file(expected, found));
        }
        let raw: RawIndex = serde_json::from_slice(text).map_err(|error| {
            let expected = "a safetensors file, or an index of several: JSON with a `weight_map` \
                            from tensors to files";
            Error::invalid_file(expected, error.to_string())
        })?;
        let file_of = raw.weight_map.0;
        let files: BTreeSet<String> = file_of.values().cloned().collect();
        for file in &files {
            // Whoever wrote the index must not choose among all files of this machine.
            let mut components = Path::new(file).components();
            let stays = components.all(|component| matches!(component, Component::Normal(_)));
            if !stays || file.is_empty() || file.contains('\\') {
                let expected = "names of files in the folder of the index";
                let found = format!("`{file}`");
                return Err(Error::invalid_file(expected, found));
            }
        }
        // What is no text, as `total_size`, is about the files and says nothing of tensors.
        let entries = raw
            .metadata
            .into_iter()
            .filter_map(|(key, value)| match value {
                Value::String(text) => Some((key, text)),
                _ => None,
            });
        Ok(Index {
            file_of,
            files,
            entries: entries.collect(),
        })
    }

    /// Checks that the files, in the order of their names, have the tensors that the index says,
    /// and no others.
    ///
    /// # Errors
    /// All tensors that are not where they should be.
    fn check(&self, headers: &[Header]) -> Result<()> {
        let mut findings = Findings::default();
        let files = self.files.iter().map(String::as_str);
        let headers: BTreeMap<&str, &Header> = files.zip(headers).collect();
        for (tensor, file) in &self.file_of {
            if headers[file.as_str()].find(tensor).is_none() {
                let expected = format!("a tensor in `{file}`, where the index has it");
                let error = Error::invalid_file(&expected, "none");
                findings.add(error.at(tensor));
            }
        }
        for (&file, header) in &headers {
            for Tensor { name, .. } in &header.tensors {
                let found = match self.file_of.get(name) {
                    Some(own) if own == file => continue,
                    Some(other) => format!("one for `{other}`"),
                    None => "none".to_owned(),
                };
                let expected = format!("an entry of the index for the tensor in `{file}`");
                let error = Error::invalid_file(&expected, found);
                findings.add(error.at(name));
            }
        }
        findings.into_result()
    }
}

/// One header of several, and where the data of each begin in the data of all.
///
/// # Errors
/// An entry of the metadata that two files give differently; more bytes than there are addresses.
fn merge(
    headers: Vec<Header>,
    mut entries: BTreeMap<String, String>,
) -> Result<(Header, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut begins = Vec::new();
    let mut begin = 0_usize;
    for header in headers {
        begins.push(begin);
        let end = begin.checked_add(header.data_len());
        let end = end.filter(|&end| end <= isize::MAX as usize);
        for mut tensor in header.tensors {
            tensor.bytes.start += begin;
            tensor.bytes.end += begin;
            tensors.push(tensor);
        }
        begin = end.ok_or_else(|| {
            Error::invalid_file("data that fits an address space", "more in all files")
        })?;
        for (key, value) in header.metadata.entries {
            let value = match (entries.get(&key), key.as_str()) {
                // That of one file's layout is not that of the whole.
                (_, FINGERPRINT) => continue,
                (Some(first), PARTS | TIES | AXES) => joined(first, &value)?,
                // Which of two values holds would be a guess, and ties are such entries.
                (Some(first), _) if *first != value => {
                    let expected = "an entry of the metadata that is one in all files";
                    return Err(Error::invalid_file(expected, "two").at(&key));
                }
                _ => value,
            };
            entries.insert(key, value);
        }
    }
    Ok((Header::of(tensors, entries)?, begins))
}

/// Two lists, or two maps, in JSON as one.
fn joined(first: &str, second: &str) -> Result<String> {
    let read = |text| serde_json::from_str::<Value>(text).ok();
    match (read(first), read(second)) {
        (Some(Value::Array(mut all)), Some(Value::Array(more))) => {
            all.extend(more);
            Ok(json(&all))
        }
        (Some(Value::Object(mut all)), Some(Value::Object(more))) => {
            all.extend(more);
            Ok(json(&all))
        }
        _ => {
            let expected = "metadata as this crate writes it";
            Err(Error::invalid_file(expected, "another kind of JSON"))
        }
    }
}
