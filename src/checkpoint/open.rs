//! A file that is open: its header is read, its elements are where they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::checked;
use ndarray::{ArrayViewD, CowArray, IxDyn};
use safetensors::Dtype as OnDisk;

use super::bytes::Bytes;
use super::dtype;
use super::header::{Header, LENGTH, Tensor};
use super::notes::{FINGERPRINT, below};
use super::sources::{Names, Stored};
use crate::element::{Dtype, Element, FlatElement, to_elements};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::memory;
use crate::tree::axes::AxisMap;

/// A safetensors file of which the header has been read. Cheap to clone.
///
/// It is a [`Tree`](crate::Tree) for reading, too: its tensors, those of the parts beside the model
/// left out, are leaves at their dotted names, in the order of the file, and aliases are ties. So
/// `Layout::of(&file)?` is its table, `DynTree::of(&file)?` a copy of it that can be trained, and
/// `Values(&file)` a companion of a model.
///
/// ```
/// use flatleaf::{checkpoint, tree, DynTree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-checkpoint-{}", std::process::id()));
///
/// let model = tree!({ "w": [[1.0, 2.0]], "b": [3.0] });
/// checkpoint::save(&path, &model)?;
/// assert_eq!(DynTree::of(&checkpoint::open(&path)?)?, model);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Checkpoint {
    pub(crate) header: Arc<Header>,
    /// Where the data begin.
    start: usize,
    bytes: Arc<Bytes>,
}

/// Opens a file: with feature `mmap` it is mapped, and costs no more time than its header does and
/// no more memory than is touched; otherwise it is read.
///
/// While a mapped file is open nobody may write into it or truncate it: elements would change under
/// the views of them, and a lost page ends the process. Files saved by this crate are replaced,
/// never written into, and so are those of Python's `safetensors` from 0.8 on.
///
/// # Errors
/// What the system says ([`is_io`](Error::is_io)); a header that is not one
/// ([`is_invalid_file`](Error::is_invalid_file)).
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-open-{}", std::process::id()));
///
/// checkpoint::save(&path, &tree!({ "w": [1.0, 2.0] }))?;
/// assert_eq!(checkpoint::open(&path)?.flat()?, [1.0, 2.0].as_slice());
/// std::fs::write(&path, "no model")?;
/// assert!(checkpoint::open(&path).unwrap_err().is_invalid_file());
/// # std::fs::remove_file(&path)?;
/// assert!(checkpoint::open("nowhere.safetensors").unwrap_err().is_io());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = path.as_ref();
    Checkpoint::new(Bytes::open(path)?).map_err(|error| error.or_at(|| path.display().to_string()))
}

impl Checkpoint {
    /// A file that is in memory already.
    ///
    /// # Errors
    /// A header that is not one.
    ///
    /// ```
    /// use flatleaf::checkpoint::Checkpoint;
    ///
    /// let file = Checkpoint::from_bytes(b"\x08\0\0\0\0\0\0\0{}      ".to_vec())?;
    /// assert_eq!(file.tensors().len(), 0);
    /// assert!(Checkpoint::from_bytes(b"\x09\0\0\0\0\0\0\0{}      ".to_vec()).unwrap_err().is_invalid_file());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Checkpoint> {
        Checkpoint::new(Bytes::Owned(bytes))
    }

    fn new(bytes: Bytes) -> Result<Checkpoint> {
        let start = LENGTH + Header::length(&bytes, bytes.len() as u64)?;
        // A copy: a file that changes while it is mapped must not change under the text.
        let text = bytes[LENGTH..start].to_vec();
        let header = Header::parse(&text, (bytes.len() - start) as u64)?;
        Ok(Checkpoint {
            header: Arc::new(header),
            start,
            bytes: Arc::new(bytes),
        })
    }

    /// The tensors, as they lie in the file.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-tensors-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &(vec![1.0_f32], vec![2.0_f64]))?; // wider elements come first
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.tensors().iter().map(|tensor| tensor.name()).collect::<Vec<_>>(), ["1", "0"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// The tensor of a name, or of an alias.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// use std::rc::Rc;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-tensor-{}", std::process::id()));
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// checkpoint::save(&path, &(shared.clone(), shared))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["0", "1", "2"].map(|name| file.tensor(name).map(|tensor| tensor.name())), [Some("0"), Some("0"), None]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.find(name)
            .map(|(tensor, _)| &self.header.tensors[tensor])
    }

    /// The other names of tensors, each with the name it stands for, sorted.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// use std::rc::Rc;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-aliases-{}", std::process::id()));
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// checkpoint::save(&path, &(shared.clone(), shared))?;
    /// assert_eq!(checkpoint::open(&path)?.aliases().collect::<Vec<_>>(), [("1", "0")]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header
            .notes
            .aliases
            .iter()
            .map(|(name, alias)| (name.as_str(), self.header.tensors[alias.tensor].name()))
    }

    /// The names of what was written beside the model.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-parts-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().vector("ema", &[0.5]))?;
    /// assert_eq!(checkpoint::open(&path)?.parts(), ["ema"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parts(&self) -> &[String] {
        &self.header.notes.parts
    }

    /// The metadata, aliases and the notes of this crate among them.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-metadata-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().metadata("epoch", "3"))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.metadata().keys().collect::<Vec<_>>(), ["epoch", "flatleaf.fingerprint"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The [fingerprint](Layout::fingerprint) of the layout that was saved, if the file has one.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-fingerprint-{}", std::process::id()));
    ///
    /// let model = tree!({ "w": [1.0] });
    /// checkpoint::save(&path, &model)?;
    /// assert_eq!(checkpoint::open(&path)?.fingerprint(), Some(Layout::of(&model)?.fingerprint()));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fingerprint(&self) -> Option<u64> {
        u64::from_str_radix(self.metadata().get(FINGERPRINT)?, 16).ok()
    }

    /// What was written beside the model under a name, or any tensors below a dotted prefix, as a
    /// file of their own: names without the prefix, the same bytes.
    ///
    /// # Errors
    /// A prefix below which there is nothing.
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
        let header = &self.header;
        let rest = |name: &str| below(prefix, name).map(str::to_owned);
        let renamed = |tensor: &Tensor| rest(&tensor.name).map(|name| tensor.renamed(name));
        let tensors: Vec<Tensor> = header.tensors.iter().filter_map(renamed).collect();
        if tensors.is_empty() {
            return Err(Error::unknown(
                prefix.to_owned(),
                "a name or prefix of tensors",
                "no tensor of that name or below it".into(),
            ));
        }
        let mut part = Header::of(tensors, BTreeMap::new())?;
        part.notes.parts = header
            .notes
            .parts
            .iter()
            .filter_map(|name| rest(name).filter(|name| !name.is_empty()))
            .collect();
        for (name, alias) in &header.notes.aliases {
            let tensor =
                rest(header.tensors[alias.tensor].name()).and_then(|kept| part.find(&kept));
            if let (Some(name), Some(tensor)) = (rest(name), tensor) {
                part.notes.aliases.insert(
                    name,
                    super::notes::Alias {
                        tensor,
                        axes: alias.axes.clone(),
                    },
                );
            }
        }
        Ok(Checkpoint {
            header: Arc::new(part),
            start: self.start,
            bytes: Arc::clone(&self.bytes),
        })
    }

    /// The array of a name or an alias. It is not copied, unless its bytes are not aligned or it
    /// holds booleans, which are checked.
    ///
    /// # Errors
    /// A name that the file has not got; another element type than `E`; a byte that is no boolean.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-view-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0], [3.0, 4.0]] }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.view::<f32>("w")?[[1, 0]], 3.0);
    /// assert!(file.view::<f64>("w").unwrap_err().is_element_type());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn view<E: Element>(&self, name: &str) -> Result<CowArray<'_, E, IxDyn>> {
        let unknown = || Error::unknown(name.to_owned(), "the name of a tensor", "another".into());
        let (tensor, axes) = self.find(name).ok_or_else(unknown)?;
        let tensor = &self.header.tensors[tensor];
        if dtype::on_disk(E::DTYPE).is_ok_and(|own| own == tensor.on_disk) {
            return self.array(tensor, axes);
        }
        let expected = format!("a view of {} elements", tensor.type_name());
        Err(Error::element_type(
            name.to_owned(),
            expected,
            format!("one of {}", E::DTYPE),
        ))
    }

    fn array<E: Element>(
        &self,
        tensor: &Tensor,
        axes: Option<&AxisMap>,
    ) -> Result<CowArray<'_, E, IxDyn>> {
        self.check_booleans(tensor)?;
        let bytes = self.bytes_of(tensor);
        let view = match checked::try_cast_slice(bytes) {
            Ok(elements) if E::DTYPE != Dtype::Bool => {
                ArrayViewD::from_shape(IxDyn(tensor.shape()), elements).map(CowArray::from)
            }
            _ => ndarray::ArrayD::from_shape_vec(IxDyn(tensor.shape()), to_elements(bytes))
                .map(CowArray::from),
        };
        let array =
            view.map_err(|_| Error::unstable("a tensor of another length than its shape"))?;
        let Some(axes) = axes else { return Ok(array) };
        match array.is_view() {
            true => {
                let view =
                    ArrayViewD::from_shape(IxDyn(tensor.shape()), checked::cast_slice(bytes));
                Ok(CowArray::from(axes.to_place(view.map_err(|_| {
                    Error::unstable("a tensor of another length")
                })?)))
            }
            false => Ok(CowArray::from(axes.to_place(array.into_owned()))),
        }
    }

    /// The layout of the file: its float tensors are the leaves, in the order of the file, its
    /// integers and booleans the others. Planned anew by every call.
    ///
    /// # Errors
    /// A name that is the beginning of another's path; more than 1,024 levels.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-layout-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "b": [3.0] }))?;
    /// let layout = checkpoint::open(&path)?.layout()?;
    /// assert_eq!(layout.leaf("b").unwrap().range(), 2..3);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layout(&self) -> Result<Layout> {
        Layout::of(self)
    }

    /// The flat vector of that layout: every float of the file once. It is not copied if all are
    /// `f32`, lie together in the order of the layout and are aligned, as [`save`](super::save)
    /// leaves a model of `f32`.
    ///
    /// # Errors
    /// As [`layout`](Checkpoint::layout); `f64` tensors.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// use std::borrow::Cow;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "b": [3.0] }))?;
    /// assert!(matches!(checkpoint::open(&path)?.flat()?, Cow::Borrowed([1.0, 2.0, 3.0])));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat(&self) -> Result<Cow<'_, [f32]>> {
        self.flat_for(&self.layout()?)
    }

    /// The flat vector of a layout, by the names of its leaves. It is not copied where the leaves
    /// are `f32` in the file and lie together in flat order; otherwise one pass copies or converts
    /// them. Tensors that are no leaves are passed by.
    ///
    /// # Errors
    /// Leaves that are missing or of another shape or type; an `f64` leaf; a tie whose places have
    /// tensors of their own that differ; more elements than there is memory for.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-for-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.flat_for(&Layout::of(&tree!({ "b": [0.0], "w": [0.0] }))?)?, [2.0, 1.0].as_slice());
    ///
    /// let error = file.flat_for(&Layout::of(&tree!({ "head": [0.0] }))?).unwrap_err();
    /// assert_eq!((error.is_missing(), error.path()), (true, Some("head")));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat_for(&self, layout: &Layout) -> Result<Cow<'_, [f32]>> {
        self.flat_for_as(layout)
    }

    /// The same as `f32` or `f64`.
    ///
    /// # Errors
    /// As [`flat_for`](Checkpoint::flat_for); an `f64` leaf only if the vector is of `f32`.
    ///
    /// ```
    /// use flatleaf::{checkpoint, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-for-as-{}", std::process::id()));
    ///
    /// let model = (vec![0.1_f64], vec![2.0_f32]);
    /// checkpoint::save(&path, &model)?;
    /// let layout = Layout::of(&model)?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.flat_for_as::<f64>(&layout)?, [0.1, 2.0].as_slice());
    /// assert!(file.flat_for_as::<f32>(&layout).unwrap_err().is_element_type());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat_for_as<E: FlatElement>(&self, layout: &Layout) -> Result<Cow<'_, [E]>> {
        layout.check_element::<E>()?;
        let found = Names::new(self, &[])?.find(layout, layout.leaves().iter())?;
        found.differences(Vec::new())?;
        let leaves: Vec<Stored<'_>> = found.leaves.into_iter().flatten().collect();
        let range = self.contiguous(&leaves, dtype::on_disk(E::DTYPE)?);
        if let Some(flat) =
            range.and_then(|range| bytemuck::try_cast_slice(&self.data()[range]).ok())
        {
            return Ok(Cow::Borrowed(flat));
        }
        let mut flat = memory::try_zeroed(layout.len())?;
        for (leaf, stored) in layout.leaves().iter().zip(&leaves) {
            stored.write(E::DTYPE, bytemuck::cast_slice_mut(&mut flat[leaf.range()]));
        }
        Ok(Cow::Owned(flat))
    }

    /// Where the leaves lie, if they are of a type and one after the other.
    fn contiguous(&self, leaves: &[Stored<'_>], dtype: OnDisk) -> Option<Range<usize>> {
        let mut range: Option<Range<usize>> = None;
        for stored in leaves.iter().filter(|stored| !stored.elements.is_empty()) {
            let own = stored.in_place(dtype, &self.header)?;
            let range = range.get_or_insert(own.start..own.start);
            if range.end != own.start {
                return None;
            }
            range.end = own.end;
        }
        Some(range.unwrap_or(0..0))
    }

    /// The tensor of a name or an alias, and the axes with which the alias shows it.
    fn find(&self, name: &str) -> Option<(usize, Option<&AxisMap>)> {
        let alias = || {
            self.header
                .notes
                .aliases
                .get(name)
                .map(|alias| (alias.tensor, alias.axes.as_ref()))
        };
        self.header
            .find(name)
            .map(|tensor| (tensor, None))
            .or_else(alias)
    }

    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn bytes_of(&self, tensor: &Tensor) -> &[u8] {
        &self.data()[tensor.byte_range()]
    }

    /// A number that no other file in this process has while this one is open.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.bytes) as usize
    }

    /// # Errors
    /// A byte of a boolean tensor that is neither 0 nor 1.
    pub(crate) fn check_booleans(&self, tensor: &Tensor) -> Result<()> {
        if tensor.on_disk != OnDisk::BOOL {
            return Ok(());
        }
        match self.bytes_of(tensor).iter().find(|&&byte| byte > 1) {
            Some(byte) => Err(Error::invalid_file(
                "booleans, bytes of 0 or 1",
                format!("a byte of {byte}"),
            )
            .at(tensor.name())),
            None => Ok(()),
        }
    }
}

/// What the file holds, not its numbers.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Checkpoint({} tensors, {} bytes)",
            self.tensors().len(),
            self.bytes.len()
        )
    }
}
