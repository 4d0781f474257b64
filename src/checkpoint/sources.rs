//! Which tensor of a file is which leaf of a layout: by name, through aliases and renames, with
//! ties resolved on both sides.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ndarray::{Array, ArrayD, IxDyn};
use safetensors::Dtype as OnDisk;

use super::dtype;
use super::header::{Header, Tensor};
use super::open::Checkpoint;
use super::rename::Rename;
use crate::element::Dtype;
use crate::error::{Error, Findings, Result};
use crate::layout::{Layout, Leaf};
use crate::tree::axes::AxisMap;

/// The names by which a model may ask for the tensors of a file.
pub(crate) struct Names<'c> {
    file: &'c Checkpoint,
    sources: BTreeMap<Cow<'c, str>, Source<'c>>,
}

#[derive(Clone, Copy)]
struct Source<'c> {
    tensor: usize,
    /// Whether the name is the tensor's own.
    is_own: bool,
    axes: Option<&'c AxisMap>,
}

/// What a file has for the leaves of a layout.
pub(crate) struct Found<'c> {
    /// For each leaf that was asked for.
    pub(crate) leaves: Vec<Option<Stored<'c>>>,
    /// Leaves that the file has nothing for.
    pub(crate) missing: Vec<String>,
    /// Leaves of another shape or type.
    pub(crate) mismatched: Vec<Error>,
    /// Tensors that are no leaf's.
    pub(crate) unexpected: Vec<String>,
}

/// A leaf's elements in a file, in the order of the leaf.
pub(crate) struct Stored<'c> {
    pub(crate) tensor: usize,
    pub(crate) dtype: Dtype,
    pub(crate) elements: Cow<'c, [u8]>,
}

impl<'c> Names<'c> {
    /// # Errors
    /// Two tensors that get one name; a pattern that is malformed or matches no name.
    pub(crate) fn new(file: &'c Checkpoint, renames: &[Rename<'_>]) -> Result<Names<'c>> {
        let header = &file.header;
        let own = header.tensors.iter().enumerate();
        let own = own.map(|(tensor, stated)| {
            (
                stated.name(),
                Source {
                    tensor,
                    is_own: true,
                    axes: None,
                },
            )
        });
        let aliases = header.notes.aliases.iter();
        let aliases = aliases.map(|(name, alias)| {
            (
                name.as_str(),
                Source {
                    tensor: alias.tensor,
                    is_own: false,
                    axes: alias.axes.as_ref(),
                },
            )
        });
        let all: Vec<_> = own
            .chain(aliases)
            .filter(|(name, _)| !header.notes.is_beside(name))
            .collect();
        let mut names: Vec<Cow<'c, str>> =
            all.iter().map(|&(name, _)| Cow::Borrowed(name)).collect();
        renames
            .iter()
            .try_for_each(|rename| rename.apply(&mut names))?;
        let mut sources = BTreeMap::new();
        for (name, (_, source)) in names.into_iter().zip(all) {
            match sources.entry(name) {
                Entry::Vacant(new) => drop(new.insert(source)),
                Entry::Occupied(taken) => {
                    return Err(Error::duplicate(taken.key().clone().into_owned()));
                }
            }
        }
        Ok(Names { file, sources })
    }

    /// Looks for leaves by any of their places.
    ///
    /// # Errors
    /// Ties whose places have tensors of their own that differ.
    pub(crate) fn find<'l>(
        &self,
        layout: &'l Layout,
        leaves: impl Iterator<Item = &'l Leaf>,
    ) -> Result<Found<'c>> {
        let mut found = Found {
            leaves: Vec::new(),
            missing: Vec::new(),
            mismatched: Vec::new(),
            unexpected: Vec::new(),
        };
        let mut used = vec![false; self.file.tensors().len()];
        let mut broken = Findings::default();
        for leaf in leaves {
            let places = self.places(layout, leaf);
            places
                .iter()
                .for_each(|place| used[place.source.tensor] = true);
            let stored = match self.stored(leaf, &places) {
                Ok(stored) => stored,
                Err(error) if error.is_broken_tie() => {
                    broken.add(error);
                    None
                }
                Err(error) => {
                    found.mismatched.push(error);
                    None
                }
            };
            if places.is_empty() {
                found.missing.push(leaf.path().to_owned());
            }
            found.leaves.push(stored);
        }
        broken.into_result()?;
        let unused = self
            .sources
            .values()
            .filter(|source| source.is_own && !used[source.tensor]);
        found.unexpected = unused
            .map(|source| self.file.tensors()[source.tensor].name().to_owned())
            .collect();
        found.unexpected.sort_unstable();
        found.missing.sort_unstable();
        Ok(found)
    }

    /// The places of a leaf that the file has something for; a tensor of that very name first.
    fn places<'l>(&self, layout: &'l Layout, leaf: &'l Leaf) -> Vec<Place<'l, 'c>> {
        let place = |(path, &node): (&'l String, &u32)| {
            let source = *self.sources.get(path.as_str())?;
            let place = layout.inner.place(layout.inner.paths.place(node)?);
            Some(Place {
                path,
                shape: &place.shape,
                axes: place.axes.as_deref(),
                source,
            })
        };
        let mut places: Vec<Place<'l, 'c>> = leaf
            .places()
            .iter()
            .zip(&leaf.nodes)
            .filter_map(place)
            .collect();
        places.sort_by_key(|place| !place.source.is_own);
        places
    }

    /// The elements of a leaf, the same at each of its places.
    fn stored(&self, leaf: &Leaf, places: &[Place<'_, 'c>]) -> Result<Option<Stored<'c>>> {
        let Some((first, others)) = places.split_first() else {
            return Ok(None);
        };
        let stored = self.at_place(leaf, first)?;
        for other in others
            .iter()
            .filter(|other| other.source.tensor != first.source.tensor)
        {
            if self.at_place(leaf, other)?.converted(leaf.dtype()) != stored.converted(leaf.dtype())
            {
                let expected = "equal tensors for the places of one parameter";
                return Err(Error::broken_tie(
                    first.path.to_owned(),
                    other.path.to_owned(),
                    expected,
                    "different ones",
                ));
            }
        }
        Ok(Some(stored))
    }

    /// The elements that a place has in the file, in the order of its leaf.
    fn at_place(&self, leaf: &Leaf, place: &Place<'_, 'c>) -> Result<Stored<'c>> {
        let Source { tensor, axes, .. } = place.source;
        let stated = &self.file.tensors()[tensor];
        let shape = axes.map_or(stated.shape(), |axes| &axes.shape);
        if shape != place.shape {
            return Err(Error::shape(place.path.to_owned(), place.shape, shape));
        }
        let dtype = check_type(stated, leaf).map_err(|error| error.at(place.path))?;
        self.file.check_booleans(stated)?;
        let mut elements = Cow::Borrowed(self.file.bytes_of(stated));
        if let Some(axes) = axes {
            elements = reordered(&elements, dtype, stated.shape(), |order| {
                axes.to_place(order)
            })
            .into();
        }
        if let Some(axes) = place.axes {
            elements = reordered(&elements, dtype, shape, |order| {
                axes.to_leaf(order, leaf.shape())
            })
            .into();
        }
        Ok(Stored {
            tensor,
            dtype,
            elements,
        })
    }
}

struct Place<'l, 'c> {
    path: &'l str,
    shape: &'l [usize],
    axes: Option<&'l AxisMap>,
    source: Source<'c>,
}

fn check_type(tensor: &Tensor, leaf: &Leaf) -> Result<Dtype> {
    if dtype::is_convertible(tensor.on_disk, leaf.dtype()) {
        return tensor.element_type();
    }
    let expected = if leaf.dtype().is_float() {
        "floats of 16 bits or more".to_owned()
    } else {
        leaf.dtype().to_string()
    };
    Err(Error::element_type(
        String::new(),
        expected,
        tensor.type_name(),
    ))
}

/// Elements in the order in which a permuted array has them.
pub(crate) fn reordered(
    elements: &[u8],
    dtype: Dtype,
    shape: &[usize],
    permute: impl FnOnce(ArrayD<usize>) -> ArrayD<usize>,
) -> Vec<u8> {
    let size = dtype.size();
    let order = Array::from_iter(0..elements.len() / size).into_shape_with_order(IxDyn(shape));
    let order = permute(order.expect("a tensor has as many elements as its shape"));
    order
        .iter()
        .flat_map(|&element| &elements[element * size..][..size])
        .copied()
        .collect()
}

impl Found<'_> {
    /// All that keeps the file from being the layout's, and further differences, in one error.
    ///
    /// # Errors
    /// If there are any.
    pub(crate) fn differences(&self, unexpected: Vec<String>) -> Result<()> {
        let mut findings = Findings::default();
        if !self.missing.is_empty() {
            findings.add(Error::missing_tensors(self.missing.clone()));
        }
        if !unexpected.is_empty() {
            findings.add(Error::unexpected_tensors(unexpected));
        }
        self.mismatched
            .iter()
            .cloned()
            .for_each(|error| findings.add(error));
        findings.into_result()
    }
}

impl Stored<'_> {
    pub(crate) fn write(&self, dtype: Dtype, out: &mut [u8]) {
        dtype::convert(self.dtype, &self.elements, dtype, out);
    }

    /// The elements as those of a type.
    pub(crate) fn converted(&self, dtype: Dtype) -> Cow<'_, [u8]> {
        if self.dtype == dtype || !dtype.is_float() {
            return Cow::Borrowed(&self.elements);
        }
        let mut out = vec![0; self.elements.len() / self.dtype.size() * dtype.size()];
        self.write(dtype, &mut out);
        Cow::Owned(out)
    }

    /// Where they lie in the data, if they are of a type and in the order of the leaf there.
    pub(crate) fn in_place(&self, dtype: OnDisk, header: &Header) -> Option<Range<usize>> {
        let tensor = &header.tensors[self.tensor];
        let lies_there = matches!(self.elements, Cow::Borrowed(_)) && tensor.on_disk == dtype;
        lies_there.then(|| tensor.byte_range())
    }
}
