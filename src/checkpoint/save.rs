//! Model → file.

use std::borrow::Cow;
use std::path::Path;

use super::extras::{ExtraPart, Extras, Others};
use super::file_contents::{FileContents, LeafBytes, own_type};
use super::optimizer::state_tensors;
use super::state::StateTensor;
use super::{dtype, metadata};
use crate::element::{FlatElement, FlatSlice};
use crate::error::{Error, Findings, Result};
use crate::layout::Layout;
use crate::traversal::purpose::Purpose;
use crate::traversal::validate;
use crate::tree::Tree;

/// Writes a model: all its leaves, frozen and carried ones too, each in its own type.
///
/// The file is written beside the old one, synchronised and renamed, so that a crash at any moment
/// leaves the old file or the new one (and perhaps a file whose name begins with `.flatleaf-`,
/// which the next save into that folder removes). It has the permissions of the old one, and its
/// owner where that is allowed. A link is followed, whether what it leads to is there or not. Cost:
/// one walk and one write; leaves behind a lock or on a device, and strided arrays, are copied
/// first.
///
/// # Errors
/// [`is_io`](Error::is_io): the folder is gone, full, or cannot be read; at the path there is a
/// folder, a pipe or a device. The old file stays then, unless the error speaks of a folder that
/// cannot be synchronised, the last step: the new file is in place, but may not outlive a crash of
/// the machine. [`is_element_type`](Error::is_element_type): integers of 128 bits.
/// [`is_argument`](Error::is_argument): a leaf is called `__metadata__`, which the format keeps for
/// itself. [`is_invalid_file`](Error::is_invalid_file): the names make a header of more than
/// 100 MB. What planning the model refuses: a cycle, views that overlap, a poisoned lock, more than
/// 1,024 levels.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-save-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("model.safetensors");
///
/// checkpoint::save(&path, &tree!({ "weight": [[1.0, 2.0]], "bias": [0.5] }))?;
/// assert_eq!(checkpoint::open(&path)?.view::<f32>("bias")?[0], 0.5);
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save<T: Tree + ?Sized>(path: impl AsRef<Path>, model: &T) -> Result<()> {
    save_with(path, model, &Extras::new())
}

/// Writes a model and what is to stand beside it: averages of the weights, an optimiser's state,
/// other trees, metadata. All else is as [`save`] does it.
///
/// # Errors
/// [`is_length`](Error::is_length): a vector is not as long as the flat one; its name is the path.
/// [`is_duplicate`](Error::is_duplicate): a name that is given twice, or that the model has.
/// [`is_argument`](Error::is_argument): an empty name, or a metadata key that begins with
/// `flatleaf.`. And what [`save`] refuses.
///
/// ```
/// use flatleaf::{checkpoint::{self, Extras}, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-save-with-{}", std::process::id()));
///
/// let extras = Extras::new().vector("ema", &[0.5]).metadata("epoch", "3");
/// checkpoint::save_with(&path, &tree!({ "w": [1.0] }), &extras)?;
/// let file = checkpoint::open(&path)?;
/// assert_eq!((file.view::<f32>("w")?[0], file.view::<f32>("ema.w")?[0]), (1.0, 0.5));
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_with<T: Tree + ?Sized>(
    path: impl AsRef<Path>,
    model: &T,
    extras: &Extras<'_>,
) -> Result<()> {
    let layout = Layout::of(model)?;
    let mut contents = FileContents::default();
    push_tree(&mut contents, "", &layout, model)?;
    push_extras(&mut contents, &layout, extras)?;
    contents.write(path.as_ref())
}

/// Writes a flat vector, of `f32` or `f64`, as the leaves of its layout, all in the type of the
/// vector: whatever the leaves are, nothing of it is lost, and it comes back without a copy. Loaded
/// into a model it is rounded to the leaves' own types.
///
/// The frozen and carried leaves are those of [`Extras::others_of`], in their own types; a layout
/// that has some needs that, or [`Extras::trainable_only`].
///
/// # Errors
/// [`is_length`](Error::is_length): the vector is not as long as the layout.
/// [`is_missing`](Error::is_missing): frozen or carried leaves that are nowhere. And what
/// [`save_with`] refuses.
///
/// ```
/// use flatleaf::{checkpoint::{self, Extras}, destructure, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-save-flat-{}", std::process::id()));
///
/// let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
/// flatleaf::ops::scale(&mut flat, 2.0);
/// checkpoint::save_flat(&path, &layout, &flat, &Extras::new())?;
/// assert_eq!(checkpoint::open(&path)?.view::<f32>("b")?[0], 6.0);
/// assert!(checkpoint::save_flat(&path, &layout, &flat[1..], &Extras::new()).unwrap_err().is_length());
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_flat<E: FlatElement>(
    path: impl AsRef<Path>,
    layout: &Layout,
    flat: &[E],
    extras: &Extras<'_>,
) -> Result<()> {
    let mut contents = FileContents::default();
    push_vector(&mut contents, "", layout, flat)?;
    push_others(&mut contents, layout, &extras.others)?;
    push_extras(&mut contents, layout, extras)?;
    contents.write(path.as_ref())
}

fn push_tree<'a, T: Tree + ?Sized>(
    contents: &mut FileContents<'a>,
    prefix: &str,
    layout: &Layout,
    tree: &'a T,
) -> Result<()> {
    let mut elements = LeafBytes::of(&layout.inner, true);
    validate::validate_and_read(&layout.inner, tree, Purpose::ReadValues, &mut elements)?;
    let all = elements.leaves.into_iter().chain(elements.others);
    layout
        .inner
        .all_leaves()
        .zip(all)
        .try_for_each(|(leaf, elements)| {
            contents.push(prefix, layout, leaf, own_type(leaf)?, elements)
        })
}

pub(crate) fn push_vector<'a, E: FlatElement>(
    contents: &mut FileContents<'a>,
    prefix: &str,
    layout: &Layout,
    flat: &'a [E],
) -> Result<()> {
    if prefix.is_empty() {
        layout.check_len("the flat vector", flat.len())?;
    } else {
        let checked = layout.check_len("a vector beside the model", flat.len());
        checked.map_err(|error| error.at(prefix))?;
    }
    let on_disk = dtype::on_disk(E::DTYPE)?;
    layout.leaves().iter().try_for_each(|leaf| {
        let elements = Cow::Borrowed(bytemuck::cast_slice(&flat[leaf.range()]));
        contents.push(prefix, layout, leaf, on_disk, elements)
    })
}

pub(crate) fn push_others<'a>(
    contents: &mut FileContents<'a>,
    layout: &Layout,
    others: &Others<'a>,
) -> Result<()> {
    match others {
        Others::LeftOut => Ok(()),
        Others::Unknown => no_others(layout),
        Others::Of(tree) => {
            let mut elements = LeafBytes::of(&layout.inner, false);
            validate::validate_and_read(&layout.inner, *tree, Purpose::ReadOthers, &mut elements)?;
            let mut all = layout.others().iter().zip(elements.others);
            all.try_for_each(|(leaf, elements)| {
                contents.push("", layout, leaf, own_type(leaf)?, elements)
            })
        }
    }
}

fn no_others(layout: &Layout) -> Result<()> {
    let mut findings = Findings::default();
    for leaf in layout.others() {
        let expected = "a tree that has this leaf, given with `Extras::others_of`, or `Extras::trainable_only`";
        findings.add(Error::missing(leaf.path().to_owned(), expected.to_owned()));
    }
    findings.into_result()
}

fn push_extras<'a>(
    contents: &mut FileContents<'a>,
    layout: &Layout,
    extras: &'a Extras<'_>,
) -> Result<()> {
    push_extras_but_state(contents, layout, extras)?;
    for (part, extra) in &extras.parts {
        let ExtraPart::State { tensors, rest } = extra else {
            continue;
        };
        let is_cut = |tensor: &&StateTensor<'_>| tensor.range != (0..tensor.len);
        if let Some(StateTensor { range, .. }) = tensors.iter().find(is_cut) {
            let expected = "an optimiser that keeps the state of the whole flat vector";
            let found = format!(
                "that of elements {range:?} (`checkpoint::save_flat_with` writes those of all members)"
            );
            return Err(Error::argument(expected, found).at(part));
        }
        for (name, dtype, bytes) in state_tensors(part, tensors, rest) {
            let len = bytes.len() * 8 / dtype.bitsize();
            contents.push_tensor(name, dtype, vec![len], Cow::Borrowed(bytes))?;
        }
    }
    Ok(())
}

/// What stands beside a model, but for optimisers' state, of which only the names of the parts are
/// taken.
pub(crate) fn push_extras_but_state<'a>(
    contents: &mut FileContents<'a>,
    layout: &Layout,
    extras: &'a Extras<'_>,
) -> Result<()> {
    extras
        .parts
        .iter()
        .try_for_each(|(name, _)| contents.open_part(name))?;
    for (name, part) in &extras.parts {
        match part {
            ExtraPart::Vector(FlatSlice::F32(vector)) => {
                push_vector(contents, name, layout, vector)?
            }
            ExtraPart::Vector(FlatSlice::F64(vector)) => {
                push_vector(contents, name, layout, vector)?
            }
            ExtraPart::Tree(tree) => push_tree(contents, name, &Layout::of(*tree)?, *tree)?,
            ExtraPart::State { .. } => {}
        }
    }
    if !extras.is_plain {
        let fingerprint = format!("{:016x}", layout.fingerprint());
        contents.insert_entry(metadata::FINGERPRINT, fingerprint)?;
    }
    extras
        .metadata
        .iter()
        .try_for_each(|(key, value)| contents.insert_user_entry(key, value))
}
