//! A part of a file as a file of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::header::Header;
use super::metadata::{Alias, Metadata};
use super::names::below;
use super::open::Checkpoint;
use super::tensor::Tensor;
use crate::error::{Error, Result};

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
            return Err(Error::unknown(
                prefix.to_owned(),
                "a name or prefix of tensors",
                "no tensor of that name or below it".into(),
            ));
        }
        Ok(self.with_header(Arc::new(part)))
    }
}

/// The header of what is below a prefix.
///
/// Of a file with the tensors `encoder.embed` and `decoder.w` and the tie `decoder.embed` →
/// `encoder.embed` the part `decoder` has the tensors `embed` and `w`: the first place of a tie
/// that is below the prefix stands for the tensor, one with the tensor's own axes before others,
/// and what other places there are below the prefix are ties with it.
fn part(whole: &Header, prefix: &str) -> Result<Header> {
    let own = whole.tensors.iter().enumerate();
    let own = own.filter_map(|(index, tensor)| {
        let name = below(prefix, &tensor.name)?;
        Some((index, tensor.seen_as(name, tensor.axes.clone())))
    });
    let mut tensors: Vec<(usize, Tensor)> = own.collect();
    let mut is_in = vec![false; whole.tensors.len()];
    tensors.iter().for_each(|&(index, _)| is_in[index] = true);

    let aliases = whole.metadata.aliases().iter();
    let aliases: Vec<(&str, &Alias)> = aliases
        .filter_map(|alias| Some((below(prefix, &alias.name)?, alias)))
        .collect();
    let mut stands_for_tensor = vec![false; aliases.len()];
    for takes_axes in [false, true] {
        for (position, &(name, alias)) in aliases.iter().enumerate() {
            if alias.axes.is_some() == takes_axes && !is_in[alias.tensor] {
                is_in[alias.tensor] = true;
                stands_for_tensor[position] = true;
                let tensor = &whole.tensors[alias.tensor];
                tensors.push((alias.tensor, tensor.seen_as(name, alias.axes.clone())));
            }
        }
    }
    // In the order of the bytes, as in every file.
    tensors.sort_by_key(|&(index, _)| index);

    let mut index_in_part = vec![0; whole.tensors.len()];
    for (position, &(index, _)) in tensors.iter().enumerate() {
        index_in_part[index] = position;
    }
    let others = aliases.iter().zip(&stands_for_tensor);
    let others = others.filter(|(_, stands_for_tensor)| !**stands_for_tensor);
    let mut kept: Vec<Alias> = others
        .map(|(&(name, alias), _)| Alias {
            name: name.to_owned(),
            tensor: index_in_part[alias.tensor],
            ..alias.clone()
        })
        .collect();
    kept.sort_by(|a, b| a.name.cmp(&b.name));

    let parts = whole.metadata.parts.iter();
    let parts = parts.filter_map(|name| below(prefix, name).filter(|rest| !rest.is_empty()));
    let metadata = Metadata::new(BTreeMap::new(), kept, parts.map(str::to_owned).collect());
    let tensors = tensors.into_iter().map(|(_, tensor)| tensor).collect();
    Header::of_part(tensors, metadata)
}
