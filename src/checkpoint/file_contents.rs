//! What goes into a file: tensors with their elements, and the metadata that ties them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype as OnDisk;

use super::header::Header;
use super::metadata::{self, json};
use super::names::{below, join};
use super::raw_header::METADATA;
use super::{atomic, dtype};
use crate::error::{Error, Result};
use crate::layout::{Layout, LayoutData, Leaf, Place};
use crate::memory;
use crate::traversal::read_leaf::ReadLeaf;
use crate::tree::axes::AxisMap;
use crate::tree::{LeafRef, Source};

#[derive(Default)]
pub(crate) struct FileContents<'a> {
    entries: Vec<(String, OnDisk, Vec<usize>)>,
    elements: BTreeMap<String, Cow<'a, [u8]>>,
    metadata: BTreeMap<String, String>,
    ties: BTreeSet<String>,
    axes: BTreeMap<String, AxisMap>,
    parts: Vec<String>,
}

impl<'a> FileContents<'a> {
    /// Adds a leaf, below a prefix, with the elements of its first place; its other places as
    /// aliases.
    ///
    /// # Errors
    /// A name that is taken; an element type that files have not got.
    pub(crate) fn push(
        &mut self,
        prefix: &str,
        layout: &Layout,
        leaf: &Leaf,
        on_disk: OnDisk,
        elements: Cow<'a, [u8]>,
    ) -> Result<()> {
        let name = join(prefix, leaf.path());
        for (place, &node) in leaf.places().iter().zip(&leaf.nodes).skip(1) {
            let alias = join(prefix, place);
            let axes = layout
                .inner
                .paths
                .place(node)
                .and_then(|place| layout.inner.place(place).axes.as_deref());
            self.axes
                .extend(axes.map(|axes| (alias.clone(), axes.clone())));
            self.insert_entry(alias.clone(), name.clone())?;
            self.ties.insert(alias);
        }
        // Complex numbers of two F32 have a type of their own in a file; those of two F64 have not.
        if let Some(complex) = leaf.complex_shape().filter(|_| on_disk == OnDisk::F32) {
            return self.push_tensor(name, OnDisk::C64, complex.to_vec(), elements);
        }
        self.push_tensor(name, on_disk, leaf.shape().to_vec(), elements)
    }

    /// # Errors
    /// A name that is taken, or kept for the metadata.
    pub(crate) fn push_tensor(
        &mut self,
        name: String,
        on_disk: OnDisk,
        shape: Vec<usize>,
        elements: Cow<'a, [u8]>,
    ) -> Result<()> {
        if name == METADATA {
            return Err(reserved_name(&name));
        }
        if self.elements.insert(name.clone(), elements).is_some() {
            return Err(Error::duplicate(name));
        }
        self.entries.push((name, on_disk, shape));
        Ok(())
    }

    /// Adds an entry of this crate's own to the metadata.
    ///
    /// # Errors
    /// A key that is taken.
    pub(crate) fn insert_entry(
        &mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<()> {
        let key = key.into();
        match self.metadata.insert(key.clone(), value.into()) {
            None => Ok(()),
            Some(_first) => Err(Error::duplicate(key)),
        }
    }

    /// Adds an entry of the caller's to the metadata.
    ///
    /// # Errors
    /// A key that is taken, or is kept for this crate.
    pub(crate) fn insert_user_entry(&mut self, key: &str, value: &str) -> Result<()> {
        if key.starts_with(metadata::RESERVED) {
            let expected = format!("a key that does not begin with `{}`", metadata::RESERVED);
            return Err(Error::argument(&expected, "one that this crate writes itself").at(key));
        }
        self.insert_entry(key, value)
    }

    /// Names a part; what is added below it is not the model's.
    ///
    /// # Errors
    /// An empty name; one below which there is something of the model's.
    pub(crate) fn open_part(&mut self, part: &str) -> Result<()> {
        if part.is_empty() {
            return Err(Error::argument(
                "a name for what is written beside the model",
                "an empty one",
            ));
        }
        let first = |names: &mut dyn Iterator<Item = &String>| {
            let from_part = names.take_while(|name| name.starts_with(part));
            from_part
                .filter(|name| below(part, name).is_some())
                .min()
                .cloned()
        };
        let start = part.to_owned();
        let tensors = &mut self.elements.range(start.clone()..).map(|entry| entry.0);
        let entries = &mut self.metadata.range(start..).map(|entry| entry.0);
        if let Some(taken) = first(tensors).or_else(|| first(entries)) {
            return Err(Error::duplicate(taken));
        }
        self.parts.push(part.to_owned());
        Ok(())
    }

    /// The elements of a tensor.
    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        &self.elements[name]
    }

    /// The header of the file, once all is in it.
    ///
    /// # Errors
    /// A name that is taken.
    pub(crate) fn header(&mut self) -> Result<Header> {
        // An entry that leads to a tensor is a tie to whoever reads it, unless the file has a list.
        let is_name = |value: &String| self.elements.contains_key(value);
        if self.metadata.values().any(is_name) {
            self.insert_entry(metadata::TIES, json(&self.ties))?;
        }
        if !self.parts.is_empty() {
            self.insert_entry(metadata::PARTS, json(&self.parts))?;
        }
        if !self.axes.is_empty() {
            self.insert_entry(metadata::AXES, json(&self.axes))?;
        }
        if let Some(name) = self
            .metadata
            .keys()
            .find(|key| self.elements.contains_key(*key))
        {
            return Err(Error::duplicate(name.clone()));
        }
        let entries = std::mem::take(&mut self.entries);
        Header::lay_out(entries, std::mem::take(&mut self.metadata))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A name that is taken; a header that is too long; what the system says.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        let header = self.header()?;
        let start = header.encode()?;
        atomic::replace(path, header.data_len(), |output| {
            output.write(&start)?;
            header
                .tensors
                .iter()
                .try_for_each(|tensor| output.write(&self.elements[&tensor.name]))
        })
    }
}

fn reserved_name(name: &str) -> Error {
    let expected = "a path that is a tensor's name: safetensors keeps this one for the metadata";
    Error::argument(expected, "a leaf of that path; rename it").at(name)
}

/// The elements of a tree's leaves, as bytes, each as its first place shows it: lent where the tree
/// lends them.
pub(crate) struct LeafBytes<'a> {
    pub(crate) leaves: Vec<Cow<'a, [u8]>>,
    pub(crate) others: Vec<Cow<'a, [u8]>>,
    /// Whether the trainable ones are taken too.
    trainable: bool,
}

impl LeafBytes<'_> {
    pub(crate) fn of(layout: &LayoutData, trainable: bool) -> Self {
        LeafBytes {
            leaves: vec![Cow::default(); layout.leaves.len()],
            others: vec![Cow::default(); layout.others.len()],
            trainable,
        }
    }
}

impl<'a> ReadLeaf<'a> for LeafBytes<'a> {
    fn wants(&self, place: &Place) -> bool {
        place.first && (self.trainable || !place.leaf.trainable)
    }

    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        // The walk compares the leaves that it reads values of: the trainable ones.
        if leaf.dtype != place.dtype || !place.has_shape(leaf.shape) {
            return Err(Error::unstable(
                "a leaf that changed its shape or element type between two visits",
            ));
        }
        let elements = match leaf.source {
            Source::Borrowed(bytes) if bytes.len() == place.len * leaf.dtype.size() => {
                Cow::Borrowed(bytes)
            }
            _ => {
                let mut bytes = memory::try_zeroed(place.len * leaf.dtype.size())?;
                leaf.read_bytes(&mut bytes)?;
                Cow::Owned(bytes)
            }
        };
        let all = if place.leaf.trainable {
            &mut self.leaves
        } else {
            &mut self.others
        };
        all[place.leaf.index as usize] = elements;
        Ok(())
    }
}

/// How a leaf is written if nothing else is said.
///
/// # Errors
/// An element type that files have not got, with the leaf's path.
pub(crate) fn own_type(leaf: &Leaf) -> Result<OnDisk> {
    dtype::on_disk(leaf.dtype()).map_err(|error| error.at(leaf.path()))
}
