//! What goes into a file: tensors with their elements, and the metadata that ties them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype as OnDisk;

use super::header::Header;
use super::notes::{self, below, join, json};
use super::stated::METADATA;
use super::{atomic, dtype};
use crate::error::{Error, Result};
use crate::layout::{Layout, LayoutData, Leaf, Place};
use crate::memory;
use crate::traversal::validate::Take;
use crate::tree::axes::AxisMap;
use crate::tree::{LeafRef, Source};

#[derive(Default)]
pub(crate) struct Contents<'a> {
    entries: Vec<(String, OnDisk, Vec<usize>)>,
    elements: HashMap<String, Cow<'a, [u8]>>,
    metadata: BTreeMap<String, String>,
    axes: BTreeMap<String, AxisMap>,
    parts: Vec<String>,
}

impl<'a> Contents<'a> {
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
            self.note(alias, name.clone())?;
        }
        if name == METADATA || self.elements.insert(name.clone(), elements).is_some() {
            return Err(Error::duplicate(name));
        }
        self.entries.push((name, on_disk, leaf.shape().to_vec()));
        Ok(())
    }

    /// # Errors
    /// A key that is taken.
    pub(crate) fn note(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let key = key.into();
        match self.metadata.insert(key.clone(), value.into()) {
            None => Ok(()),
            Some(_first) => Err(Error::duplicate(key)),
        }
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
        let names = self
            .entries
            .iter()
            .map(|entry| &entry.0)
            .chain(self.metadata.keys());
        if let Some(taken) = names.filter(|name| below(part, name).is_some()).min() {
            return Err(Error::duplicate(taken.clone()));
        }
        self.parts.push(part.to_owned());
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A name that is taken; a header that is too long; what the system says.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        if !self.parts.is_empty() {
            self.note(notes::PARTS, json(&self.parts))?;
        }
        if !self.axes.is_empty() {
            self.note(notes::AXES, json(&self.axes))?;
        }
        if let Some(name) = self
            .metadata
            .keys()
            .find(|key| self.elements.contains_key(*key))
        {
            return Err(Error::duplicate(name.clone()));
        }
        let header = Header::lay_out(self.entries, self.metadata)?;
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

/// The elements of a tree's leaves, as bytes, each as its first place shows it: lent where the tree
/// lends them.
pub(crate) struct Elements<'a> {
    pub(crate) leaves: Vec<Cow<'a, [u8]>>,
    pub(crate) others: Vec<Cow<'a, [u8]>>,
    /// Whether the trainable ones are taken too.
    trainable: bool,
}

impl Elements<'_> {
    pub(crate) fn of(layout: &LayoutData, trainable: bool) -> Self {
        Elements {
            leaves: vec![Cow::default(); layout.leaves.len()],
            others: vec![Cow::default(); layout.others.len()],
            trainable,
        }
    }
}

impl<'a> Take<'a> for Elements<'a> {
    fn wants(&self, place: &Place) -> bool {
        place.first && (self.trainable || !place.leaf.trainable)
    }

    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
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
