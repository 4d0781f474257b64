//! A checkpoint that is open, of one file or several: headers are read, elements are where they
//! are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::checked;
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};
use safetensors::Dtype as OnDisk;

use super::bytes::Bytes;
use super::dtype;
use super::header::{Header, LENGTH};
use super::index::{Opened, Shard, is_index, open_all, shard_at};
use super::metadata::FINGERPRINT;
use super::tensor::Tensor;
use crate::element::{Dtype, Element, to_elements};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::tree::axes::AxisMap;

/// A safetensors file of which the header has been read, or several with an index. Cheap to clone.
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
    files: Arc<[Shard<FileData>]>,
}

/// A file's bytes.
struct FileData {
    bytes: Bytes,
    /// Where the data begin.
    start: usize,
}

impl FileData {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Opens a file: with feature `mmap` it is mapped, and costs no more time than its header does and
/// no more memory than is touched; otherwise it is read.
///
/// While a mapped file is open nobody may write into it or truncate it: elements would change under
/// the views of them, and a lost page ends the process. Files saved by this crate are replaced,
/// never written into, and so are those of Python's `safetensors` from 0.8 on.
///
/// The path of an index, `model.safetensors.index.json`, opens all files that it names as one
/// checkpoint: tensors of all of them, in the order of the files' names. The index and the files
/// have to agree about which tensor is where, and the files are those in the folder of the index.
///
/// # Errors
/// [`is_io`](Error::is_io): the file, or files of the index, cannot be opened; a folder cannot.
/// [`is_invalid_file`](Error::is_invalid_file): a header is not one; an index names files
/// elsewhere, has tensors that its files have not or the other way round, or two files contradict
/// each other.
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
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-open-index-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
///
/// checkpoint::save(folder.join("1.safetensors"), &tree!({ "a": [1.0] }))?;
/// checkpoint::save(folder.join("2.safetensors"), &tree!({ "b": [2.0] }))?;
/// let index = folder.join("model.safetensors.index.json");
/// std::fs::write(&index, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#)?;
/// assert_eq!(checkpoint::open(&index)?.flat()?, [1.0, 2.0].as_slice());
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let (header, files) = open_all(path.as_ref(), |path| {
        let bytes = Bytes::open(path)?;
        // An index is text, and small. It is told by its first bytes and not by its name.
        if is_index(&bytes) {
            return Ok(Opened::Index(bytes.to_vec()));
        }
        let at_path = |error: Error| error.or_at(|| path.display().to_string());
        let (header, data) = read_header(bytes).map_err(at_path)?;
        Ok(Opened::File(header, data))
    })?;
    Ok(Checkpoint::of(header, files))
}

fn read_header(bytes: Bytes) -> Result<(Header, FileData)> {
    let size = bytes.len();
    let length = Header::length(&bytes, size as u64)?;
    let start = LENGTH + length;
    // A copy: a file that changes while it is mapped must not change under the text.
    let text = bytes[LENGTH..start].to_vec();
    let header = Header::parse(&text, (size - start) as u64)?;
    Ok((header, FileData { bytes, start }))
}

impl Checkpoint {
    /// A file that is in memory already: out of an archive, or from the network. Its bytes are
    /// validated as those of a file on disk are, and not copied.
    ///
    /// # Errors
    /// [`is_invalid_file`](Error::is_invalid_file): a header that is not one, or that does not
    /// agree with the bytes behind it. An index of several files has no folder here, and is no
    /// file.
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
        let (header, file) = read_header(Bytes::Owned(bytes))?;
        Ok(Checkpoint::of(header, vec![Shard { file, begin: 0 }]))
    }

    fn of(header: Header, files: Vec<Shard<FileData>>) -> Checkpoint {
        Checkpoint {
            header: Arc::new(header),
            files: files.into(),
        }
    }

    /// The tensors, as they lie in the file, those of the parts beside the model too. Of several
    /// files: one file after the other, in the order of their names.
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

    /// The tensor of a name, or of an alias, as far as the header describes it: its own name, shape
    /// and type. A name that the file has not got is `None`.
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
        let (tensor, _axes) = self.header.find_any(name)?;
        Some(&self.header.tensors[tensor])
    }

    /// The other names of tensors, each with the name it stands for, sorted: the places of ties
    /// that are not stored themselves. In a file of another program every entry of the metadata
    /// that leads to a tensor's name is taken for one.
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
        let aliases = self.header.metadata.aliases().iter();
        aliases.map(|alias| {
            let tensor = &self.header.tensors[alias.tensor];
            (alias.name.as_str(), tensor.name())
        })
    }

    /// The names of the sections that were written beside the model with
    /// [`Extras`](super::Extras): averages of the weights, an optimiser's state. Each of them is a
    /// file of its own by [`part`](Checkpoint::part).
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
        &self.header.metadata.parts
    }

    /// All entries of the metadata: those that were given when the file was written, ties, and
    /// this crate's own, which begin with `flatleaf.`. [`user_metadata`](Checkpoint::user_metadata)
    /// has only the first of these.
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
        &self.header.metadata.entries
    }

    /// The entries of the metadata that whoever wrote the file gave it: no ties, and none of this
    /// crate's. In a file of another program an entry that leads to the name of a tensor counts as
    /// a tie. [`Extras::metadata_of`](super::Extras::metadata_of) writes them into another file.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use std::rc::Rc;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-user-metadata-{}", std::process::id()));
    ///
    /// let shared = Rc::new(vec![1.0_f32]);
    /// checkpoint::save_with(&path, &(shared.clone(), shared), &Extras::new().metadata("epoch", "3"))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.metadata().len(), 4); // a tie, the list of ties and the fingerprint too
    /// assert_eq!(file.user_metadata().collect::<Vec<_>>(), [("epoch", "3")]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn user_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header.metadata.user_entries()
    }

    /// The [fingerprint](Layout::fingerprint) of the layout that was saved, if the file has one.
    /// Files of other programs have none, and a checkpoint of several files has none of its own.
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
        let digits = self.metadata().get(FINGERPRINT)?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// The array of a name or an alias. It is not copied, unless its bytes are not aligned or it
    /// holds booleans, which are checked.
    ///
    /// # Errors
    /// [`is_unknown`](Error::is_unknown): a name that the file has not got.
    /// [`is_element_type`](Error::is_element_type): the tensor is of another type than `E`.
    /// [`is_invalid_file`](Error::is_invalid_file): a byte that is no boolean.
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
        let (tensor, axes) = self.find(name)?;
        let tensor = &self.header.tensors[tensor];
        // By the type of the file: `isize` is one of its integers there, and may be read as such.
        if dtype::on_disk(E::DTYPE).is_ok_and(|own| own == tensor.on_disk) {
            return self.array(tensor, axes);
        }
        let expected = format!("a view of {} elements", tensor.type_name());
        let found = format!("one of {}", E::DTYPE);
        Err(Error::element_type(name.to_owned(), expected, found))
    }

    fn array<E: Element>(
        &self,
        tensor: &Tensor,
        axes: Option<&AxisMap>,
    ) -> Result<CowArray<'_, E, IxDyn>> {
        self.check_booleans(tensor)?;
        let bytes = self.bytes_of(tensor);
        let shape = IxDyn(tensor.stored_shape());
        // Every pattern of bits is a number. A byte that is no boolean was refused above, and
        // booleans are copied because the file may change after that.
        let array = match checked::try_cast_slice(bytes) {
            Ok(elements) if E::DTYPE != Dtype::Bool => {
                let view = ArrayViewD::from_shape(shape, elements);
                view.map(CowArray::from)
            }
            _ => {
                let elements = to_elements(bytes);
                let copy = ArrayD::from_shape_vec(shape, elements);
                copy.map(CowArray::from)
            }
        };
        let Ok(array) = array else {
            let found = "a tensor of another length than its shape";
            return Err(Error::unstable(found));
        };
        Ok(match axes {
            Some(axes) => axes.to_place(array),
            None => array,
        })
    }

    /// The bytes of a tensor as they lie in the file, by its name or an alias: of any type, those
    /// that arrays cannot hold too. Never copied.
    ///
    /// # Errors
    /// [`is_unknown`](Error::is_unknown): the file has no tensor of that name.
    ///
    /// ```
    /// use flatleaf::checkpoint::Checkpoint;
    ///
    /// // {"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}
    /// # let header = br#"{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
    /// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0x38, 0x40]].concat();
    /// let file = Checkpoint::from_bytes(bytes)?;
    /// assert_eq!(file.bytes("w")?, [0x38, 0x40]);
    /// assert!(file.bytes("v").unwrap_err().is_unknown());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (tensor, _axes) = self.find(name)?;
        Ok(self.bytes_of(&self.header.tensors[tensor]))
    }

    fn find(&self, name: &str) -> Result<(usize, Option<&AxisMap>)> {
        let Some(found) = self.header.find_any(name) else {
            let expected = "the name of a tensor";
            return Err(Error::unknown(name.to_owned(), expected, "another".into()));
        };
        Ok(found)
    }

    /// The layout of the file: its float tensors are the leaves, in the order of the file; its
    /// integers, its booleans, and what is carried as bytes (floats of 8 bits) the others. Complex
    /// numbers are leaves with a last axis of 2. Planned anew by every call.
    ///
    /// # Errors
    /// [`is_invalid_file`](Error::is_invalid_file): a name is the beginning of another's path; both
    /// are named. [`is_too_deep`](Error::is_too_deep): more than 1,024 levels.
    /// [`is_element_type`](Error::is_element_type): floats of less than 8 bits, which have no
    /// arrays; [`bytes`](Checkpoint::bytes) has what is in the file.
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

    pub(crate) fn with_header(&self, header: Arc<Header>) -> Checkpoint {
        Checkpoint {
            header,
            ..self.clone()
        }
    }

    /// Some bytes of the data, if one file has all of them.
    pub(crate) fn data(&self, range: Range<usize>) -> Option<&[u8]> {
        let shard = shard_at(&self.files, range.start);
        let Shard { file, begin } = self.files.get(shard)?;
        file.data().get(range.start - begin..range.end - begin)
    }

    pub(crate) fn bytes_of(&self, tensor: &Tensor) -> &[u8] {
        let bytes = self.data(tensor.byte_range());
        bytes.expect("a tensor is in one file")
    }

    /// A number that no other file in this process has while this one is open.
    pub(crate) fn address(&self) -> usize {
        self.files.as_ptr().addr()
    }

    /// # Errors
    /// A byte of a boolean tensor that is neither 0 nor 1.
    pub(crate) fn check_booleans(&self, tensor: &Tensor) -> Result<()> {
        if tensor.on_disk != OnDisk::BOOL {
            return Ok(());
        }
        let mut bytes = self.bytes_of(tensor).iter();
        let Some(byte) = bytes.find(|&&byte| byte > 1) else {
            return Ok(());
        };
        let found = format!("a byte of {byte}");
        let error = Error::invalid_file("booleans, bytes of 0 or 1", found);
        Err(error.at(tensor.name()))
    }
}

/// What the file holds, not its numbers.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tensors = self.tensors().len();
        let sizes = self.files.iter().map(|shard| shard.file.bytes.len());
        let bytes: usize = sizes.sum();
        write!(f, "Checkpoint({tensors} tensors, {bytes} bytes)")
    }
}
