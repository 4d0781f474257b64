//! Which tensor of a file is which leaf of a layout: by name, through aliases and renames, with
//! ties resolved on both sides.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ndarray::{Array, ArrayD, IxDyn};
use safetensors::Dtype as OnDisk;

use super::dtype;
use super::header::Header;
use super::names::path_of;
use super::open::Checkpoint;
use super::tensor::Tensor;
use super::work;
use crate::element::Dtype;
use crate::error::{Error, Findings, Result};
use crate::layout::{Layout, Leaf, Rename};
use crate::tree::axes::AxisMap;

/// The paths by which a model may ask for the tensors of a file.
pub(crate) struct TensorNames<'c> {
    file: &'c Checkpoint,
    by_path: BTreeMap<Cow<'c, str>, NamedTensor<'c>>,
}

#[derive(Clone, Copy)]
struct NamedTensor<'c> {
    tensor: usize,
    /// Whether the name is the tensor's own.
    is_own: bool,
    /// Whether the name is a guess: an entry of another program's metadata that looks like a tie.
    is_guess: bool,
    axes: Option<&'c AxisMap>,
}

/// What a file has for the leaves of a layout.
#[derive(Default)]
pub(crate) struct FoundLeaves<'c> {
    /// For each leaf that was asked for.
    pub(crate) leaves: Vec<Option<StoredLeaf<'c>>>,
    /// Leaves that the file has nothing for.
    pub(crate) missing: Vec<String>,
    /// Leaves of another shape or type.
    pub(crate) mismatched: Vec<Error>,
    /// Tensors that are no leaf's, sorted by name.
    pub(crate) unexpected: Vec<UnexpectedTensor>,
}

/// A tensor that no leaf of a model asked for.
#[derive(Clone)]
pub(crate) struct UnexpectedTensor {
    pub(crate) name: String,
    /// Where the model would have it, after renames.
    pub(crate) path: String,
    pub(crate) type_name: String,
}

/// A leaf's elements in a file, in the order of the leaf.
pub(crate) struct StoredLeaf<'c> {
    pub(crate) tensor: usize,
    pub(crate) dtype: Dtype,
    pub(crate) elements: Cow<'c, [u8]>,
}

impl<'c> TensorNames<'c> {
    /// # Errors
    /// Two tensors that get one path; a pattern that is malformed or matches no name.
    pub(crate) fn new(file: &'c Checkpoint, renames: &[Rename<'_>]) -> Result<TensorNames<'c>> {
        let all = named_tensors(file);
        let names = all.iter().map(|&(name, _)| Cow::Borrowed(name));
        let mut names: Vec<Cow<'c, str>> = names.collect();
        for rename in renames {
            rename.apply(&mut names)?;
        }
        // By the path that a model would have, for a name that this crate did not write may be
        // written otherwise than the path it stands for.
        let mut by_path = BTreeMap::new();
        for (name, (_, tensor)) in names.into_iter().zip(all) {
            let path = match name {
                Cow::Borrowed(name) => path_of(name),
                Cow::Owned(name) => {
                    let path = path_of(&name);
                    Cow::Owned(path.into_owned())
                }
            };
            match by_path.entry(path) {
                Entry::Vacant(new) => drop(new.insert(tensor)),
                // What is no more than a guess gives way. Tensors come before aliases.
                Entry::Occupied(_) if tensor.is_guess => {}
                Entry::Occupied(taken) => {
                    let path = taken.key().clone();
                    return Err(Error::duplicate(path.into_owned()));
                }
            }
        }
        Ok(TensorNames { file, by_path })
    }

    /// The paths that the tensors of the file have, after renames, sorted; those of aliases too,
    /// and without what was written beside the model.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(|path| &**path)
    }

    /// Looks for leaves by any of their places.
    ///
    /// # Errors
    /// Ties whose places have tensors of their own that differ.
    pub(crate) fn find<'l>(
        &self,
        layout: &'l Layout,
        leaves: impl Iterator<Item = &'l Leaf>,
    ) -> Result<FoundLeaves<'c>> {
        let mut found = FoundLeaves::default();
        let mut used = vec![false; self.file.tensors().len()];
        let mut broken = Findings::default();
        for leaf in leaves {
            // A tensor counts as used though it does not fit: it is told as a mismatch, and once.
            let places = self.places(layout, leaf);
            places
                .iter()
                .for_each(|place| used[place.source.tensor] = true);
            let stored = match self.stored(leaf, &places) {
                Ok(stored) => stored,
                // Not a matter of being strict: no choice among two values would be right.
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
        // An alias that no leaf asked for is no tensor that is lost.
        let unused = self.by_path.iter();
        let unused = unused.filter(|(_, named)| named.is_own && !used[named.tensor]);
        let unexpected = unused.map(|(path, named)| {
            let tensor = &self.file.tensors()[named.tensor];
            UnexpectedTensor {
                name: tensor.name().to_owned(),
                path: path.clone().into_owned(),
                type_name: tensor.type_name(),
            }
        });
        found.unexpected = unexpected.collect();
        found
            .unexpected
            .sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found.missing.sort_unstable();
        Ok(found)
    }

    /// The places of a leaf that the file has something for; a tensor of that very name first.
    fn places<'l>(&self, layout: &'l Layout, leaf: &'l Leaf) -> Vec<StoredPlace<'l, 'c>> {
        let place = |(path, &node): (&'l String, &u32)| {
            work::count(1);
            let source = *self.by_path.get(path.as_str())?;
            let place = layout.inner.place(layout.inner.paths.place(node)?);
            // A guess that does not fit is no tie but any other entry of the metadata.
            if source.is_guess && self.shape_of(&source) != &*place.shape {
                return None;
            }
            Some(StoredPlace {
                path,
                shape: &place.shape,
                axes: place.axes.as_deref(),
                source,
            })
        };
        let mut places: Vec<StoredPlace<'l, 'c>> = leaf
            .places()
            .iter()
            .zip(&leaf.nodes)
            .filter_map(place)
            .collect();
        places.sort_by_key(|place| !place.source.is_own);
        places
    }

    fn shape_of(&self, named: &NamedTensor<'c>) -> &[usize] {
        match named.axes {
            Some(axes) => &axes.shape,
            None => self.file.tensors()[named.tensor].stored_shape(),
        }
    }

    /// The elements of a leaf, the same at each of its places.
    fn stored(
        &self,
        leaf: &Leaf,
        places: &[StoredPlace<'_, 'c>],
    ) -> Result<Option<StoredLeaf<'c>>> {
        let Some((first, others)) = places.split_first() else {
            return Ok(None);
        };
        let stored = self.at_place(leaf, first)?;
        // Files that were saved untied have a tensor for every place. They fit if these are equal;
        // one tensor under several names need not be compared with itself.
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
    fn at_place(&self, leaf: &Leaf, place: &StoredPlace<'_, 'c>) -> Result<StoredLeaf<'c>> {
        let NamedTensor { tensor, axes, .. } = place.source;
        let stated = &self.file.tensors()[tensor];
        let shape = self.shape_of(&place.source);
        if shape != place.shape {
            return Err(Error::shape(place.path.to_owned(), place.shape, shape));
        }
        let dtype = check_type(stated, leaf).map_err(|error| error.at(place.path))?;
        self.file.check_booleans(stated)?;
        // From the bytes to the file's view of them, and from the place's view to the leaf's.
        let mut elements = Cow::Borrowed(self.file.bytes_of(stated));
        if let Some(axes) = axes {
            elements = reordered(&elements, dtype, stated.stored_shape(), |order| {
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
        Ok(StoredLeaf {
            tensor,
            dtype,
            elements,
        })
    }
}

/// The tensors and aliases of the model, without the sections beside it.
fn named_tensors(file: &Checkpoint) -> Vec<(&str, NamedTensor<'_>)> {
    let header = &file.header;
    let own = header.tensors.iter().enumerate().map(|(index, tensor)| {
        let named = NamedTensor {
            tensor: index,
            is_own: true,
            is_guess: false,
            axes: tensor.axes.as_ref(),
        };
        (tensor.name(), named)
    });
    let aliases = header.metadata.aliases().iter().map(|alias| {
        let named = NamedTensor {
            tensor: alias.tensor,
            is_own: false,
            is_guess: !alias.is_stated,
            axes: alias.axes.as_ref(),
        };
        (alias.name.as_str(), named)
    });
    let all = own.chain(aliases);
    all.filter(|(name, _)| !header.metadata.is_extra(name))
        .collect()
}

struct StoredPlace<'l, 'c> {
    path: &'l str,
    shape: &'l [usize],
    axes: Option<&'l AxisMap>,
    source: NamedTensor<'c>,
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
    // ndarray permutes the numbers of the elements, whatever these are, and their bytes follow.
    let size = dtype.size();
    let order = Array::from_iter(0..elements.len() / size).into_shape_with_order(IxDyn(shape));
    let order = permute(order.expect("a tensor has as many elements as its shape"));
    order
        .iter()
        .flat_map(|&element| &elements[element * size..][..size])
        .copied()
        .collect()
}

impl StoredLeaf<'_> {
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
        let is_as_stored = matches!(self.elements, Cow::Borrowed(_));
        let lies_there = is_as_stored && tensor.on_disk == dtype;
        lies_there.then(|| tensor.byte_range())
    }
}
