//! What the metadata of a file says of its tensors: which entries are ties, and which sections
//! stand beside the model.
//!
//! A tie is an entry from one place's path to the name of the tensor, as Hugging Face's
//! `save_model` writes it. But metadata may hold anything, and `"best_layer": "encoder"` looks like
//! a tie as soon as a tensor is called `encoder`. Files of this crate therefore list their ties
//! under [`TIES`], and nothing else is one. In files that have no such list every entry that leads
//! from no tensor's name to a tensor's is a guess: whoever has a model at hand counts it only where
//! the model has a leaf of that path and of the tensor's shape.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Prefixes;
use super::tensor::Tensor;
use super::work;
use crate::error::{Error, Result};
use crate::tree::MAX_AXES;
use crate::tree::axes::AxisMap;

/// The layout's fingerprint, in hexadecimal.
pub(crate) const FINGERPRINT: &str = "flatleaf.fingerprint";

/// A list, in JSON, of the prefixes of the sections beside the model.
pub(crate) const PARTS: &str = "flatleaf.parts";

/// A map, in JSON, from the aliases that show their tensor with other axes to these.
pub(crate) const AXES: &str = "flatleaf.axes";

/// A list, in JSON, of the entries that are ties.
pub(crate) const TIES: &str = "flatleaf.ties";

/// In JSON, what the members of a run wrote, each of it.
pub(crate) const SHARDS: &str = "flatleaf.shards";

/// Keys that begin so are this crate's.
pub(crate) const RESERVED: &str = "flatleaf.";

/// Read once the tensors are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// All of it, as the file has it.
    pub(crate) entries: BTreeMap<String, String>,
    /// Sorted by name.
    aliases: Vec<Alias>,
    /// Indices of the aliases, sorted by their tensors.
    by_tensor: Vec<u32>,
    /// The tensors that an alias shows with other axes.
    transposed: BTreeSet<usize>,
    pub(crate) parts: Vec<String>,
    extra: Prefixes,
}

/// Another name of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) tensor: usize,
    /// How its array lies on the tensor's bytes, if not as they are.
    pub(crate) axes: Option<AxisMap>,
    /// Whether the file calls it a tie; otherwise it is a guess.
    pub(crate) is_stated: bool,
}

impl Metadata {
    /// Reads the entries of a file, of whose tensors `find` gives the index by name.
    ///
    /// # Errors
    /// Entries of this crate that are none, or axes that do not fit their tensor.
    pub(crate) fn read(
        entries: BTreeMap<String, String>,
        tensors: &[Tensor],
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<Metadata> {
        let parts: Vec<String> = read_json(&entries, PARTS)?.unwrap_or_default();
        let ties: Option<BTreeSet<String>> = read_json(&entries, TIES)?;
        let all_axes: Option<BTreeMap<String, AxisMap>> = read_json(&entries, AXES)?;
        let mut all_axes = all_axes.unwrap_or_default();
        let mut aliases = Vec::new();
        for (name, kept) in &entries {
            let is_tie = ties.as_ref().map(|ties| ties.contains(name));
            let Some(tensor) = find(kept) else {
                continue;
            };
            // A tensor of that name is found first, so the entry would never be looked at.
            if is_tie == Some(false) || find(name).is_some() {
                continue;
            }
            let axes = all_axes.remove(name);
            if let Some(axes) = &axes {
                check_axes(axes, &tensors[tensor]).map_err(|error| error.at(name))?;
            }
            aliases.push(Alias {
                name: name.clone(),
                tensor,
                axes,
                is_stated: is_tie.is_some(),
            });
        }
        Ok(Metadata::new(entries, aliases, parts))
    }

    /// Of aliases that are sorted by name.
    pub(crate) fn new(
        entries: BTreeMap<String, String>,
        aliases: Vec<Alias>,
        parts: Vec<String>,
    ) -> Metadata {
        let mut by_tensor: Vec<u32> = (0..aliases.len() as u32).collect();
        by_tensor.sort_by_key(|&alias| aliases[alias as usize].tensor);
        let transposed = aliases.iter().filter(|alias| alias.axes.is_some());
        let transposed = transposed.map(|alias| alias.tensor).collect();
        Metadata {
            entries,
            aliases,
            by_tensor,
            transposed,
            extra: Prefixes::new(&parts),
            parts,
        }
    }

    pub(crate) fn aliases(&self) -> &[Alias] {
        &self.aliases
    }

    pub(crate) fn alias(&self, name: &str) -> Option<&Alias> {
        let found = self.aliases.binary_search_by(|alias| {
            work::count(1);
            alias.name.as_str().cmp(name)
        });
        found.ok().map(|index| &self.aliases[index])
    }

    /// The aliases of one tensor, sorted.
    pub(crate) fn aliases_of(&self, tensor: usize) -> impl Iterator<Item = &Alias> {
        let of = |&alias: &u32| self.aliases[alias as usize].tensor;
        let first = self.by_tensor.partition_point(|alias| of(alias) < tensor);
        self.by_tensor[first..]
            .iter()
            .map(|&alias| &self.aliases[alias as usize])
            .take_while(move |alias| {
                work::count(1);
                alias.tensor == tensor
            })
    }

    /// Whether an alias shows a tensor with other axes. Asked at every place of it, of which there
    /// may be as many as names in the file.
    pub(crate) fn is_transposed(&self, tensor: usize) -> bool {
        self.transposed.contains(&tensor)
    }

    /// Whether a name is in one of the sections beside the model.
    pub(crate) fn is_extra(&self, name: &str) -> bool {
        self.extra.cover(name)
    }

    /// The entries for a file of some of the tensors, none of them of the sections beside the
    /// model.
    pub(crate) fn of_tensors(&self, is_kept: impl Fn(usize) -> bool) -> BTreeMap<String, String> {
        let mut entries = self.entries.clone();
        entries.remove(PARTS);
        entries.remove(AXES);
        let mut names: Vec<&str> = Vec::new();
        let mut axes: BTreeMap<&str, &AxisMap> = BTreeMap::new();
        for alias in &self.aliases {
            let name = alias.name.as_str();
            if !is_kept(alias.tensor) || self.is_extra(name) {
                entries.remove(name);
                continue;
            }
            names.push(name);
            if let Some(own) = &alias.axes {
                axes.insert(name, own);
            }
        }
        if entries.contains_key(TIES) {
            entries.insert(TIES.to_owned(), json(&names));
        }
        if !axes.is_empty() {
            entries.insert(AXES.to_owned(), json(&axes));
        }
        entries
    }

    /// The entries that say nothing of tensors: neither aliases nor this crate's.
    pub(crate) fn user_entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.entries.iter();
        let entries = entries.map(|(key, value)| (key.as_str(), value.as_str()));
        // Ties stand among the entries, where other readers of such files find them too.
        entries.filter(|(key, _)| !key.starts_with(RESERVED) && self.alias(key).is_none())
    }
}

fn check_axes(axes: &AxisMap, tensor: &Tensor) -> Result<()> {
    let error = || Error::invalid_file("axes that fit the tensor", format!("{axes:?}"));
    if axes.shape.len() > MAX_AXES {
        let found = format!("{} of them", axes.shape.len());
        return Err(Error::invalid_file(
            &format!("at most {MAX_AXES} axes"),
            found,
        ));
    }
    axes.validate(tensor.stored_shape()).map_err(|_| error())
}

fn read_json<T: serde::de::DeserializeOwned>(
    entries: &BTreeMap<String, String>,
    key: &str,
) -> Result<Option<T>> {
    let Some(text) = entries.get(key) else {
        return Ok(None);
    };
    let read = serde_json::from_str(text).map_err(|error| {
        Error::invalid_file("metadata as this crate writes it", error.to_string()).at(key)
    });
    read.map(Some)
}

/// Text, numbers, lists and maps of these.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("text, numbers, lists and maps are JSON")
}
