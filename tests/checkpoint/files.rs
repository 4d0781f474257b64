//! Files for tests: folders that go away, and bytes written by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flatleaf::checkpoint::{Checkpoint, LoadOptions, LoadReport};
use flatleaf::{Result, Tree, checkpoint};

/// A folder of its own for a test, removed with all that is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("checkpoint-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names of what is in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of a header and data, as they are.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [
        (header.len() as u64).to_le_bytes().as_slice(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// A file of one-axis tensors of one element type each, one after the other.
pub(crate) fn tensors(tensors: &[(&str, &str, &[u8])], metadata: &str) -> Vec<u8> {
    let mut entries = if metadata.is_empty() {
        Vec::new()
    } else {
        vec![format!(r#""__metadata__":{metadata}"#)]
    };
    let mut data = Vec::new();
    for (name, dtype, bytes) in tensors {
        let size = match *dtype {
            "F64" | "I64" | "U64" => 8,
            "F32" | "I32" | "U32" => 4,
            "F16" | "BF16" | "I16" | "U16" => 2,
            _ => 1,
        };
        let (start, end) = (data.len(), data.len() + bytes.len());
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{start},{end}]}}"#,
            bytes.len() / size
        ));
        data.extend_from_slice(bytes);
    }
    raw(&format!("{{{}}}", entries.join(",")), &data)
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn open(bytes: &[u8]) -> Result<Checkpoint> {
    Checkpoint::from_bytes(bytes.to_vec())
}

/// Loads bytes, strictly.
pub(crate) fn load<T: Tree + ?Sized>(bytes: &[u8], model: &mut T) -> Result<LoadReport> {
    open(bytes)?.load_into(model, &LoadOptions::new())
}

/// What a model is saved as.
pub(crate) fn saved<T: Tree + ?Sized>(model: &T) -> Vec<u8> {
    let folder = Folder::new();
    checkpoint::save(folder.path("model"), model).unwrap();
    fs::read(folder.path("model")).unwrap()
}

/// The header of a file, and its data.
pub(crate) fn parts(bytes: &[u8]) -> (&str, &[u8]) {
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (
        std::str::from_utf8(&bytes[8..8 + length]).unwrap(),
        &bytes[8 + length..],
    )
}
