//! What the metadata of a file says of its tensors: ties, and what was written beside the model.

use std::collections::BTreeMap;

use super::header::Header;
use crate::error::{Error, Result};
use crate::tree::axes::AxisMap;

/// The layout's fingerprint, in hexadecimal.
pub(crate) const FINGERPRINT: &str = "flatleaf.fingerprint";

/// A list, in JSON, of the prefixes of what was written beside the model.
pub(crate) const PARTS: &str = "flatleaf.parts";

/// A map, in JSON, from the aliases that show their tensor with other axes to these.
pub(crate) const AXES: &str = "flatleaf.axes";

/// Read from the metadata, once the tensors are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) aliases: BTreeMap<String, Alias>,
    pub(crate) parts: Vec<String>,
}

/// Another name of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) tensor: usize,
    /// How its array lies on the tensor, if not as it is.
    pub(crate) axes: Option<AxisMap>,
}

impl Notes {
    /// An entry is an alias if it leads from what is no tensor's name to what is one: metadata may
    /// hold anything else too.
    ///
    /// # Errors
    /// Notes of this crate that are none, or axes that do not fit their tensor.
    pub(crate) fn read(header: &Header) -> Result<Notes> {
        let parts: Vec<String> = read(header, PARTS)?;
        let mut axes: BTreeMap<String, AxisMap> = read(header, AXES)?;
        let mut aliases = BTreeMap::new();
        for (name, kept) in &header.metadata {
            let Some(tensor) = header.find(kept).filter(|_| header.find(name).is_none()) else {
                continue;
            };
            let axes = axes.remove(name);
            if let Some(axes) = &axes {
                let fits = axes.validate(header.tensors[tensor].shape());
                fits.map_err(|_| {
                    Error::invalid_file("axes that fit the tensor", format!("{axes:?}")).at(name)
                })?;
            }
            aliases.insert(name.clone(), Alias { tensor, axes });
        }
        Ok(Notes { aliases, parts })
    }

    /// Notes the axes of the aliases that metadata has.
    pub(crate) fn write_axes(&self, metadata: &mut BTreeMap<String, String>) {
        metadata.remove(AXES);
        let kept = self
            .aliases
            .iter()
            .filter(|(name, _)| metadata.contains_key(*name));
        let axes: BTreeMap<_, _> = kept
            .filter_map(|(name, alias)| Some((name, alias.axes.as_ref()?)))
            .collect();
        if !axes.is_empty() {
            metadata.insert(AXES.to_owned(), json(&axes));
        }
    }

    /// Whether a name is below one of the parts that were written beside the model.
    pub(crate) fn is_beside(&self, name: &str) -> bool {
        self.parts.iter().any(|part| below(part, name).is_some())
    }
}

fn read<T: Default + serde::de::DeserializeOwned>(header: &Header, key: &str) -> Result<T> {
    let Some(text) = header.metadata.get(key) else {
        return Ok(T::default());
    };
    serde_json::from_str(text)
        .map_err(|error| Error::invalid_file("a note of this crate", error.to_string()).at(key))
}

/// Text, numbers, lists and maps of these.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("text, numbers, lists and maps are JSON")
}

/// The rest of a name below a prefix; empty for the prefix itself.
pub(crate) fn below<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    let rest = name.strip_prefix(prefix)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('.')
    }
}

/// A path below a prefix, as [`below`] takes it off again.
pub(crate) fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}
