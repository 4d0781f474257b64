//! A part of a file as a file of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::header::Header;
use super::metadata::{Alias, Metadata};
use super::names::below;
use super::open::Checkpoint;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::tree::key::split;

impl Checkpoint {
    /// What was written beside the model under a name, or any tensors below a dotted prefix, as a
    /// file of their own: names without the prefix, the same bytes.
    ///
    /// A tie of which one place is below the prefix is in the part, wherever its tensor is: the
    /// place is then the tensor's name. Costs one pass over the names.
    ///
    /// # Errors
    /// [`is_unknown`](Error::is_unknown): there is no tensor below the prefix, and nothing was
    /// written beside the model under that name.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-part-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "encoder": { "w": [1.0] }, "head": { "w": [2.0] } }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.part("head")?.view::<f32>("w")?[0], 2.0);
    /// assert!(file.part("decoder").unwrap_err().is_unknown());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn part(&self, prefix: &str) -> Result<Checkpoint> {
        let part = part(&self.header, prefix)?;
        // A vector of no elements leaves no tensor, and is a part all the same.
        if part.tensors.is_empty() && !self.parts().iter().any(|part| part == prefix) {
            let there = names_at_the_top(&self.header);
            return Err(Error::unknown(
                prefix.to_owned(),
                "a name or prefix of tensors",
                format!("no tensor of that name or below it, but {there}"),
            ));
        }
        Ok(self.with_header(Arc::new(part)))
    }
}

/// The parts of a file, then the first segments of its names: as many as help.
fn names_at_the_top(whole: &Header) -> String {
    const GREATEST: usize = 8;
    let tensors = whole.tensors.iter();
    let segments = tensors.filter_map(|tensor| split(&tensor.name).next());
    let parts = whole.metadata.parts.iter().map(String::as_str);
    let mut names: Vec<&str> = Vec::new();
    for name in parts.chain(segments) {
        if names.contains(&name) {
            continue;
        }
        if names.len() == GREATEST {
            return format!("`{}` and others", names.join("`, `"));
        }
        names.push(name);
    }
    match names.is_empty() {
        true => "no tensor at all".to_owned(),
        false => format!("`{}`", names.join("`, `")),
    }
}

/// The header of what is below a prefix.
///
/// Of a file with the tensors `encoder.embed` and `decoder.w` and the tie `decoder.embed` →
/// `encoder.embed` the part `decoder` has the tensors `embed` and `w`: the first place of a tie
/// that is below the prefix stands for the tensor, one with the tensor's own axes before others,
/// and what other places there are below the prefix are ties with it.
fn part(whole: &Header, prefix: &str) -> Result<Header> {
    let count = whole.tensors.len();
    // By its index in the whole, each tensor of the part under its name there.
    let mut tensors: Vec<(usize, Tensor)> = Vec::new();
    let mut is_in = vec![false; count];
    for (index, tensor) in whole.tensors.iter().enumerate() {
        if let Some(name) = below(prefix, &tensor.name) {
            let axes = tensor.axes.clone();
            tensors.push((index, tensor.seen_as(name, axes)));
            is_in[index] = true;
        }
    }

    let aliases = aliases_below(prefix, whole);
    let mut others: Vec<(&str, &Alias)> = Vec::new();
    for (name, alias) in aliases {
        let index = alias.tensor;
        if is_in[index] {
            others.push((name, alias));
            continue;
        }
        is_in[index] = true;
        let axes = alias.axes.clone();
        let tensor = whole.tensors[index].seen_as(name, axes);
        tensors.push((index, tensor));
    }
    // In the order of the bytes, as in every file.
    tensors.sort_by_key(|&(index, _)| index);

    let mut index_in_part = vec![0; count];
    for (position, &(index, _)) in tensors.iter().enumerate() {
        index_in_part[index] = position;
    }
    let others = others.into_iter();
    let mut kept: Vec<Alias> = others
        .map(|(name, alias)| Alias {
            name: name.to_owned(),
            tensor: index_in_part[alias.tensor],
            ..alias.clone()
        })
        .collect();
    kept.sort_by(|a, b| a.name.cmp(&b.name));

    let metadata = Metadata::new(BTreeMap::new(), kept, parts_below(prefix, whole));
    let tensors = tensors.into_iter();
    let tensors = tensors.map(|(_, tensor)| tensor);
    Header::of_part(tensors.collect(), metadata)
}

/// The ties of which a place is below the prefix, by the name there: first those with the tensor's
/// own axes.
fn aliases_below<'h>(prefix: &str, whole: &'h Header) -> Vec<(&'h str, &'h Alias)> {
    let mut aliases = Vec::new();
    for alias in whole.metadata.aliases() {
        if let Some(name) = below(prefix, &alias.name) {
            aliases.push((name, alias));
        }
    }
    // The sort is stable: among those of one kind the order of the file stays.
    aliases.sort_by_key(|(_, alias)| alias.axes.is_some());
    aliases
}

/// The names of the parts within the part.
fn parts_below(prefix: &str, whole: &Header) -> Vec<String> {
    let names = whole.metadata.parts.iter();
    let names = names.filter_map(|name| below(prefix, name));
    // Of the part itself there is no name left.
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}
