//! File → model, in place.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use super::open::{Checkpoint, open};
use super::sources::{FoundLeaves, StoredLeaf, TensorNames, UnexpectedTensor, reordered};
use crate::element::{Dtype, Sink};
use crate::error::{Error, Findings, Printable, Result};
use crate::layout::{Layout, LayoutData, LeafId, NamePattern, NodeKind, Place, Rename};
use crate::slices::copies::Copies;
use crate::slices::{Floats, FloatsMut};
use crate::traversal::in_place::{self, WriteLeaf};
use crate::traversal::purpose::Purpose;
use crate::traversal::rebuild::{LeafValues, Rebuilding, Values};
use crate::traversal::validate;
use crate::tree::{LeafMut, Tree};

/// How a file is matched to a model. Strict, with the names as they are, unless something else is
/// said.
///
/// ```
/// use flatleaf::{checkpoint::{Checkpoint, LoadOptions}, tree};
///
/// // {"model.fc.gamma":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}
/// # let header = br#"{"model.fc.gamma":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
/// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &2.5_f32.to_le_bytes()].concat();
/// let file = Checkpoint::from_bytes(bytes)?;
/// let mut model = tree!({ "fc": { "weight": [0.0] } });
///
/// let error = file.load_into(&mut model, &LoadOptions::new()).unwrap_err();
/// assert!(error.is_missing());
/// assert_eq!(
///     error.to_string(),
///     "`fc.weight`: expected a tensor in the file, found none; `model.fc.gamma`: expected a leaf in the model, found none"
/// );
/// let names = LoadOptions::new().rename_matching("model.**", "**").rename_matching("**.gamma", "**.weight");
/// file.load_into(&mut model, &names)?;
/// assert_eq!(model, tree!({ "fc": { "weight": [2.5] } }));
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct LoadOptions<'o> {
    is_lax: bool,
    lax_names: Vec<NamePattern>,
    renames: Vec<Rename<'o>>,
}

impl<'o> LoadOptions<'o> {
    /// Strict: file and model have the same names and shapes. A leaf that the file has nothing for,
    /// a tensor that no leaf takes, another shape or type is an error, and nothing is loaded.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-strict-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0] }))?;
    /// let mut model = tree!({ "w": [0.0], "b": [0.0] });
    /// let error = checkpoint::load_into(&path, &mut model, &LoadOptions::new()).unwrap_err();
    /// assert_eq!((error.is_missing(), error.path()), (true, Some("b")));
    /// assert_eq!(model, tree!({ "w": [0.0], "b": [0.0] })); // nothing is loaded
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads what fits and leaves the rest of the model as it is; the [`LoadReport`] says what did
    /// not fit. For some names alone there is [`lax_matching`](LoadOptions::lax_matching), which lets
    /// no misspelt name pass.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-lax-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0] }))?;
    /// let mut model = tree!({ "w": [0.0], "b": [0.0] });
    /// let report = checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?;
    /// assert_eq!(model, tree!({ "w": [1.0], "b": [0.0] }));
    /// assert_eq!(report.missing(), ["b"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lax(mut self) -> Self {
        self.is_lax = true;
        self
    }

    /// Strict but for names that a pattern matches: leaves and tensors of these names may be
    /// missing, unexpected, or of another shape, and the [`LoadReport`] lists them. `head.**` is
    /// for a pretrained body under a new head. `*` is any run within a segment, `**` as a segment
    /// any number of segments; a leaf is matched by any of its places, a tensor by its name after
    /// renames. Loading fails if the pattern matches neither a leaf nor a tensor
    /// ([`is_pattern`](Error::is_pattern)).
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-lax-matching-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "body": [1.0], "head": { "w": [1.0, 2.0] } }))?;
    /// let mut model = tree!({ "body": [0.0], "head": { "w": [0.0, 0.0, 0.0], "b": [0.0] } });
    /// let options = LoadOptions::new().lax_matching("head.**");
    /// let report = checkpoint::load_into(&path, &mut model, &options)?;
    /// assert_eq!(report.loaded(), ["body"]);
    /// assert_eq!((report.missing(), report.mismatched()[0].path()), (&["head.b".to_owned()][..], Some("head.w")));
    ///
    /// let mut other = tree!({ "body": [0.0], "tail": [0.0] });
    /// assert!(checkpoint::load_into(&path, &mut other, &options).unwrap_err().is_missing());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lax_matching(mut self, pattern: impl Into<String>) -> Self {
        self.lax_names.push(NamePattern::new(pattern.into()));
        self
    }

    /// Renames tensors: from a name in the file to a path in the model. Renames are applied one
    /// after the other, to aliases too. Loading fails if two tensors get one name
    /// ([`is_duplicate`](Error::is_duplicate)).
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-rename-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "LayerNorm": { "gamma": [1.0] } }))?;
    /// let mut model = tree!({ "norm": { "weight": [0.0] } });
    /// let names = LoadOptions::new().rename(|name| name.replace("LayerNorm.gamma", "norm.weight"));
    /// checkpoint::load_into(&path, &mut model, &names)?;
    /// assert_eq!(model, tree!({ "norm": { "weight": [1.0] } }));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rename(mut self, rename: impl Fn(&str) -> String + 'o) -> Self {
        self.renames.push(Rename::Call(Box::new(rename)));
        self
    }

    /// Renames the tensors that a pattern matches: `*` is any run within a segment, `**` as a
    /// segment any number of segments, and the same stars in the replacement stand for the same
    /// text. `model.**` to `**` takes a prefix off. Loading fails if the pattern matches nothing or
    /// the stars differ ([`is_pattern`](Error::is_pattern)).
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-rename-matching-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "model": { "block_0": { "w": [1.0] } } }))?;
    /// let mut model = tree!({ "blocks": [{ "w": [0.0] }] });
    /// let names = LoadOptions::new().rename_matching("model.block_*.**", "blocks.*.**");
    /// checkpoint::load_into(&path, &mut model, &names)?;
    /// assert_eq!(model, tree!({ "blocks": [{ "w": [1.0] }] }));
    ///
    /// let names = LoadOptions::new().rename_matching("decoder.**", "**");
    /// assert!(checkpoint::load_into(&path, &mut model, &names).unwrap_err().is_pattern());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rename_matching(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.renames.push(Rename::Pattern {
            from: from.into(),
            to: to.into(),
        });
        self
    }
}

/// What was loaded, and what did not fit: returned by [`load_into`]. After a strict load all lists
/// but that of the loaded leaves are empty; [`is_complete`](LoadReport::is_complete) tells.
///
/// ```
/// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-report-{}", std::process::id()));
///
/// checkpoint::save(&path, &tree!({ "w": [1.0], "b": [2.0], "scale": [3.0] }))?;
/// let mut model = tree!({ "w": [0.0], "b": [0.0], "head": [0.0] });
/// let report = checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?;
/// assert_eq!(report.to_string(), "2 leaves loaded; missing: `head`; unexpected: `scale`");
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    loaded: Vec<String>,
    missing: Vec<String>,
    unexpected: Vec<String>,
    mismatched: Vec<Error>,
}

impl LoadReport {
    /// The paths of the leaves that have new values, in the order of the layout, frozen and carried
    /// ones behind the trainable. A tied leaf is named once, by its first place.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-report-loaded-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0] }))?;
    /// let mut model = tree!({ "w": [0.0], "head": [0.0] });
    /// assert_eq!(checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?.loaded(), ["w"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn loaded(&self) -> &[String] {
        &self.loaded
    }

    /// The paths of leaves that the file has nothing for under any of their places, sorted. They
    /// keep the values that they had before.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-report-missing-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0] }))?;
    /// let mut model = tree!({ "w": [0.0], "head": [0.0] });
    /// assert_eq!(checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?.missing(), ["head"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The names of tensors that the model has no leaf for, sorted: as the file has them, before
    /// renames. Tensors of what was written beside the model are not among them.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-report-unexpected-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0], "scale": [2.0] }))?;
    /// let mut model = tree!({ "w": [0.0] });
    /// assert_eq!(checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?.unexpected(), ["scale"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unexpected(&self) -> &[String] {
        &self.unexpected
    }

    /// For each leaf of another shape or type than its tensor, what differs: an error with the
    /// leaf's path, what the model has and what the file has. These leaves keep their values.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-report-mismatched-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0, 2.0] }))?;
    /// let mut model = tree!({ "w": [0.0] });
    /// let report = checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax())?;
    /// assert_eq!(report.mismatched()[0].path(), Some("w"));
    /// assert!(report.mismatched()[0].is_shape());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mismatched(&self) -> &[Error] {
        &self.mismatched
    }

    /// Whether file and model had the same names, shapes and types: nothing is missing, unexpected
    /// or mismatched. Always so after a strict load.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, LoadOptions}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-report-is-complete-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0] }))?;
    /// let mut load = |mut model| checkpoint::load_into(&path, &mut model, &LoadOptions::new().lax());
    /// assert!(load(tree!({ "w": [0.0] }))?.is_complete());
    /// assert!(!load(tree!({ "w": [0.0], "head": [0.0] }))?.is_complete());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

/// `3 leaves loaded; missing: …; unexpected: …`
impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leaves loaded", self.loaded.len())?;
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            let names: Vec<String> = names
                .iter()
                .map(|name| format!("`{}`", Printable(name)))
                .collect();
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        self.mismatched
            .iter()
            .try_for_each(|error| write!(f, "; {error}"))
    }
}

/// Loads a file into a model, in place, by name: every leaf, frozen and carried ones too.
///
/// The order in the file does not matter. Any float type becomes the leaf's own, rounded once, to
/// nearest and ties to even; integers and booleans have to be of the leaf's type. A tied leaf is
/// found by any of its places, or by an alias of the file; if several of them have tensors of their
/// own these must be equal. An alias of the file is as good as a tensor: where the model is not
/// tied, both leaves get the value. What was written beside the model is passed by.
///
/// Ties of the model stay; locks and cells are written through; a plain `Rc` or `Arc` with other
/// holders gets a new allocation. Nothing is written before everything has been checked. Large
/// leaves are copied by all threads.
///
/// # Errors
/// [`is_io`](Error::is_io) and [`is_invalid_file`](Error::is_invalid_file): the file cannot be read,
/// or is no safetensors file. All differences in one error: [`is_missing`](Error::is_missing), leaves
/// without a tensor; [`is_unknown`](Error::is_unknown), tensors without a leaf;
/// [`is_shape`](Error::is_shape) and [`is_element_type`](Error::is_element_type). Lax or not,
/// [`is_broken_tie`](Error::is_broken_tie): a tie whose tensors differ;
/// [`is_duplicate`](Error::is_duplicate) and [`is_pattern`](Error::is_pattern): renames that give
/// two tensors one name, or patterns that match nothing. A model that cannot be planned or written:
/// [`is_overlap`](Error::is_overlap), leaves that share some elements;
/// [`is_borrowed`](Error::is_borrowed) and [`is_poisoned`](Error::is_poisoned), a cell or a lock
/// that cannot be had; [`is_read_only`](Error::is_read_only).
///
/// ```
/// use flatleaf::checkpoint::{self, LoadOptions};
/// # let path = std::env::temp_dir().join(format!("flatleaf-load-into-{}", std::process::id()));
///
/// checkpoint::save(&path, &(vec![1.5_f64], vec![true]))?;
/// let mut model = (vec![0.0_f32], vec![false]); // floats become the leaf's own
/// checkpoint::load_into(&path, &mut model, &LoadOptions::new())?;
/// assert_eq!(model, (vec![1.5], vec![true]));
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load_into<T: Tree + ?Sized>(
    path: impl AsRef<Path>,
    model: &mut T,
    options: &LoadOptions<'_>,
) -> Result<LoadReport> {
    open(path)?.load_into(model, options)
}

impl Checkpoint {
    /// Loads the file into a model, in place and by name, as [`load_into`] does of a path: for one
    /// file that several models are loaded from, or a [`part`](Checkpoint::part) of it.
    ///
    /// # Errors
    /// All differences in one error: [`is_missing`](Error::is_missing), leaves without a tensor;
    /// [`is_unknown`](Error::is_unknown), tensors without a leaf; [`is_shape`](Error::is_shape) and
    /// [`is_element_type`](Error::is_element_type). Lax or not,
    /// [`is_broken_tie`](Error::is_broken_tie): a tie whose tensors differ;
    /// [`is_duplicate`](Error::is_duplicate) and [`is_pattern`](Error::is_pattern): renames that
    /// give two tensors one name, or patterns that match nothing.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras, LoadOptions};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-load-open-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().vector("ema", &[0.5]))?;
    /// let file = checkpoint::open(&path)?; // one file, several models
    /// let (mut model, mut average) = (vec![0.0_f32], vec![0.0_f32]);
    /// file.load_into(&mut model, &LoadOptions::new())?;
    /// file.part("ema")?.load_into(&mut average, &LoadOptions::new())?;
    /// assert_eq!((model[0], average[0]), (1.0, 0.5));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load_into<T: Tree + ?Sized>(
        &self,
        model: &mut T,
        options: &LoadOptions<'_>,
    ) -> Result<LoadReport> {
        // Frozen leaves are written like trained ones; integers and booleans remain.
        let layout = Layout::everything(model)?;
        let names = TensorNames::new(self, &options.renames)?;
        let found = names.find(&layout, layout.inner.all_leaves())?;
        check_patterns(&options.lax_names, &layout, &names)?;
        if !options.is_lax {
            check_differences(&layout, &found, &options.lax_names)?;
        }
        // What was found is taken apart below, so the report comes first.
        let report = report(&layout, &found);
        let (floats, others) = found.leaves.split_at(layout.leaves().len());
        let load = Load {
            layout: &layout.inner,
            floats,
            others,
        };
        // The first walk may write only if the second will be able to.
        load.pass(model, false, |pass, model, builder| {
            in_place::check_renewable(&layout.inner, model, builder, &mut Write::new(pass))
        })?;
        // Trainable leaves and the others are two walks, because a plan of a model has them in two
        // lists, and a walk over the one does not see the other.
        load.write(model, true)?;
        load.write(model, false)?;
        Ok(report)
    }
}

/// # Errors
/// A pattern that matches no place of the model and no tensor.
fn check_patterns(
    patterns: &[NamePattern],
    layout: &Layout,
    names: &TensorNames<'_>,
) -> Result<()> {
    for pattern in patterns {
        // A misspelt pattern would excuse nothing, and nobody would notice before it matters.
        let mut places = layout.inner.all_leaves().flat_map(|leaf| leaf.places());
        let is_used = places.any(|place| pattern.matches(place))
            || names.paths().any(|path| pattern.matches(path));
        if !is_used {
            return Err(Error::pattern(
                &pattern.text,
                "a pattern that matches a leaf of the model or a tensor of the file",
                "none that it matches",
            ));
        }
    }
    Ok(())
}

/// All that keeps the file from being the model's, in one error; names that a pattern matches are
/// excused.
///
/// # Errors
/// If there is anything.
fn check_differences(
    layout: &Layout,
    found: &FoundLeaves<'_>,
    excused: &[NamePattern],
) -> Result<()> {
    let is_excused = |name: &str| excused.iter().any(|pattern| pattern.matches(name));
    let is_excused_leaf = |path: &str| {
        // A tied leaf has several names, and is excused by any of them.
        let leaf = layout.leaf(path);
        let mut places = leaf.map_or(&[][..], |leaf| leaf.places()).iter();
        is_excused(path) || places.any(|place| is_excused(place))
    };
    // Each kind once, with all its names: a user corrects all of them at a time.
    let mut findings = Findings::default();
    let missing = found.missing.iter();
    let missing = missing.filter(|path| !is_excused_leaf(path));
    let missing: Vec<String> = missing.cloned().collect();
    if !missing.is_empty() {
        findings.add(Error::missing_tensors(missing));
    }
    let unexpected = found.unexpected.iter();
    let unexpected = unexpected.filter(|tensor| !is_excused(&tensor.path));
    // What is a field, and no leaf, is told apart from what is nowhere: the way out is another.
    let paths = &layout.inner.paths;
    let is_field = |tensor: &&UnexpectedTensor| {
        let Some(node) = paths.find(&tensor.path) else {
            return false;
        };
        matches!(paths.node(node).kind, NodeKind::NoLeaf(_))
    };
    let (fields, unknown): (Vec<_>, Vec<_>) = unexpected.partition(is_field);
    if !unknown.is_empty() {
        let names = unknown.iter().map(|tensor| tensor.name.clone());
        findings.add(Error::unexpected_tensors(names.collect()));
    }
    for tensor in fields {
        findings.add(no_leaf(tensor));
    }
    for error in &found.mismatched {
        if !error.path().is_some_and(is_excused_leaf) {
            findings.add(error.clone());
        }
    }
    findings.into_result()
}

/// A tensor for which the model has a field that is no leaf: a bare number, most often.
fn no_leaf(tensor: &UnexpectedTensor) -> Error {
    let found = match tensor.type_name.as_str() {
        "F32" | "F64" | "C64" => {
            "a field that is no leaf: mark it `#[tree(param)]`, or `#[tree(param, frozen)]`, or \
             hold an `Array0`"
                .to_owned()
        }
        other => {
            let element = other.to_lowercase();
            format!("a field that is no leaf: an `Array0<{element}>` is one, a bare number is not")
        }
    };
    Error::unknown(tensor.path.clone(), "a leaf in the model", found)
}

fn report(layout: &Layout, found: &FoundLeaves<'_>) -> LoadReport {
    let loaded = layout
        .inner
        .all_leaves()
        .zip(&found.leaves)
        .filter(|(_, stored)| stored.is_some());
    LoadReport {
        loaded: loaded.map(|(leaf, _)| leaf.path().to_owned()).collect(),
        missing: found.missing.clone(),
        unexpected: found
            .unexpected
            .iter()
            .map(|tensor| tensor.name.clone())
            .collect(),
        mismatched: found.mismatched.clone(),
    }
}

/// The elements that leaves get.
struct Load<'l, 'c> {
    layout: &'l LayoutData,
    floats: &'l [Option<StoredLeaf<'c>>],
    others: &'l [Option<StoredLeaf<'c>>],
}

impl<'l, 'c> Load<'l, 'c> {
    fn of(&self, leaf: LeafId) -> Option<&'l StoredLeaf<'c>> {
        let leaves = if leaf.trainable {
            self.floats
        } else {
            self.others
        };
        leaves[leaf.index as usize].as_ref()
    }

    /// Writes the floats, or the others.
    fn write<T: Tree + ?Sized>(&self, model: &mut T, floats: bool) -> Result<()> {
        self.pass(model, floats, |pass, model, builder| {
            let mut write = Write::new(pass);
            let written = in_place::write(self.layout, model, builder, &mut write);
            // Leaves that could be written are, even if another one could not.
            write.copies.finish();
            written
        })
    }

    /// Checks that the floats, or the others, can be written, and begins a walk over them if there
    /// are any.
    fn pass<T: Tree + ?Sized>(
        &self,
        model: &mut T,
        floats: bool,
        walk: impl FnOnce(&Pass<'_, 'l, 'c>, &mut T, Rebuilding<'_>) -> Result<()>,
    ) -> Result<()> {
        let (leaves, purpose) = if floats {
            (self.floats, Purpose::WriteTrainable)
        } else {
            (self.others, Purpose::WriteOthers)
        };
        // Nothing to write: a model of frozen leaves only is not walked for its trainable ones.
        if leaves.iter().all(Option::is_none) {
            return Ok(());
        }
        let contents = validate::validate(self.layout, model, purpose)?;
        let pass = Pass { load: self, floats };
        walk(
            &pass,
            model,
            Rebuilding::new(self.layout, Values::Elsewhere(&pass), &contents).in_place(),
        )
    }
}

/// One of the two walks that write a model.
struct Pass<'p, 'l, 'c> {
    load: &'p Load<'l, 'c>,
    floats: bool,
}

impl<'l, 'c> Pass<'_, 'l, 'c> {
    fn of(&self, leaf: LeafId) -> Option<&'l StoredLeaf<'c>> {
        // A walk may come by leaves of the other kind, which have their own turn.
        if leaf.trainable == self.floats {
            self.load.of(leaf)
        } else {
            None
        }
    }
}

impl LeafValues for Pass<'_, '_, '_> {
    fn has(&self, leaf: LeafId) -> bool {
        self.of(leaf).is_some()
    }

    fn elements(&self, leaf: LeafId, dtype: Dtype) -> Option<Cow<'_, [u8]>> {
        self.of(leaf).map(|stored| stored.converted(dtype))
    }
}

struct Write<'p, 'l, 'c, 'a> {
    pass: &'p Pass<'p, 'l, 'c>,
    /// Large leaves are copied by all threads, once the walk is done.
    copies: Copies<'a, 'l>,
}

impl<'a> WriteLeaf<'a> for Write<'_, '_, '_, 'a> {
    fn wants(&self, place: &Place) -> bool {
        self.pass.of(place.leaf).is_some()
    }

    fn write_leaf(&mut self, place: &Place, leaf: LeafMut<'_, 'a>) -> Result<()> {
        let stored = self.pass.of(place.leaf).expect("a leaf that is wanted");
        match leaf.sink {
            // Memory in the order of the tensor, mostly: it is noted down, and all threads copy it
            // after the walk. What is strided or transposed is written at once.
            Sink::Bytes(to)
                if place.axes.is_none() && to.len() == place.len * place.dtype.size() =>
            {
                match Floats::from_bytes(stored.dtype, &stored.elements) {
                    Some(from) => {
                        let to = FloatsMut::from_bytes(place.dtype, to);
                        self.copies.add(to.expect("floats take floats"), from);
                    }
                    None => to.copy_from_slice(&stored.elements),
                }
                Ok(())
            }
            _ => leaf.write_bytes(&self.at_place(place, stored)),
        }
    }
}

impl<'p, 'l, 'c> Write<'p, 'l, 'c, '_> {
    fn new(pass: &'p Pass<'p, 'l, 'c>) -> Self {
        Write {
            copies: Copies::of(pass.load.layout.len),
            pass,
        }
    }

    fn at_place<'s>(&self, place: &Place, stored: &'s StoredLeaf<'_>) -> Cow<'s, [u8]> {
        let elements = stored.converted(place.dtype);
        let Some(axes) = &place.axes else {
            return elements;
        };
        // A place that shows its leaf transposed gets the elements in its own order.
        let shape = self.pass.load.layout.leaf(place.leaf).shape();
        let in_order = reordered(&elements, place.dtype, shape, |order| axes.to_place(order));
        in_order.into()
    }
}
