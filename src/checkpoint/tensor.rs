//! One tensor of a file.

use std::ops::Range;

use safetensors::Dtype as OnDisk;
use safetensors::tensor::TensorInfo;

use super::dtype;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::tree::axes::AxisMap;
use crate::tree::elements::{Fields, complex_fields};

/// One tensor of a file, as the header has it.
///
/// A tensor of complex numbers, `C64`, is seen as the `f32` that these consist of, real and
/// imaginary parts along one more axis behind its own, as PyTorch's `view_as_real` shows it.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-{}", std::process::id()));
///
/// checkpoint::save(&path, &tree!({ "layers": [{ "w": [[1.0, 2.0]] }] }))?;
/// let file = checkpoint::open(&path)?;
/// let rows = file.tensors().iter().map(|tensor| format!("{} {} {:?}", tensor.name(), tensor.type_name(), tensor.shape()));
/// assert_eq!(rows.collect::<Vec<_>>(), ["layers.0.w F32 [1, 2]"]);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(crate) name: String,
    pub(crate) on_disk: OnDisk,
    pub(crate) shape: Vec<usize>,
    /// Whether the file has complex numbers, C64, for which this has two F32 along one more axis:
    /// with real numbers all the rest need not know of it.
    pub(crate) is_complex: bool,
    /// In the data, which comes after the header.
    pub(crate) bytes: Range<usize>,
    /// How the array lies on the bytes if not as they are: in a part of a file that has only a
    /// transposed place of a tie.
    pub(crate) axes: Option<AxisMap>,
}

impl Tensor {
    /// A tensor as a header states it.
    pub(crate) fn new(name: String, info: TensorInfo) -> Tensor {
        let is_complex = info.dtype == OnDisk::C64;
        let mut on_disk = info.dtype;
        let mut shape = info.shape;
        if is_complex {
            on_disk = OnDisk::F32;
            shape.push(2);
        }
        Tensor {
            name,
            on_disk,
            shape,
            is_complex,
            bytes: info.data_offsets.0..info.data_offsets.1,
            axes: None,
        }
    }

    /// Its type and shape as a header states them.
    pub(crate) fn stated(&self) -> (OnDisk, &[usize]) {
        match self.shape.split_last() {
            Some((_, complex)) if self.is_complex => (OnDisk::C64, complex),
            _ => (self.on_disk, &self.shape),
        }
    }

    /// What the numbers along its last axis are called, if they have names.
    pub(crate) fn fields(&self) -> Option<Fields> {
        self.is_complex.then_some(complex_fields)
    }

    /// Its name: the path of a leaf.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-name-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "layers": [{ "w": [1.0] }] }))?;
    /// assert_eq!(checkpoint::open(&path)?.tensors()[0].name(), "layers.0.w");
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The length of each axis; empty for a 0-d tensor.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-shape-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "temperature": 0.5 }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "temperature"].map(|name| file.tensor(name).unwrap().shape()), [&[1, 2][..], &[]]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shape(&self) -> &[usize] {
        match &self.axes {
            Some(axes) => &axes.shape,
            None => &self.shape,
        }
    }

    /// The length of each axis as the bytes have them.
    pub(crate) fn stored_shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of its elements: the product of its [`shape`](Tensor::shape), 1 of a tensor
    /// without axes, 0 where an axis has length 0.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-len-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "temperature": 0.5 }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "temperature"].map(|name| file.tensor(name).unwrap().len()), [2, 1]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements, because one of its axes has length 0. A tensor without axes has
    /// one element and is not empty.
    ///
    /// ```
    /// use flatleaf::checkpoint;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-is-empty-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &(vec![1.0_f32], Vec::<f32>::new()))?;
    /// let file = checkpoint::open(&path)?;
    /// assert!(!file.tensor("0").unwrap().is_empty() && file.tensor("1").unwrap().is_empty());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of its elements: `None` for floats of less than 8 bits, of which several share a
    /// byte. Floats of 8 bits are carried as their bytes. Of complex numbers it is that of their
    /// parts.
    ///
    /// ```
    /// use flatleaf::{checkpoint::Checkpoint, Dtype};
    ///
    /// // {"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}}
    /// # let header = br#"{"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"x":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}}"#;
    /// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0; 5]].concat();
    /// let file = Checkpoint::from_bytes(bytes)?;
    /// assert_eq!(["w", "x"].map(|name| file.tensor(name).unwrap().dtype()), [Some(Dtype::F32), None]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn dtype(&self) -> Option<Dtype> {
        dtype::in_memory(self.on_disk)
    }

    /// The name of that type as the format has it: `F32`, `BF16`, `F8_E4M3`, and `C64` for complex
    /// numbers.
    ///
    /// ```
    /// use flatleaf::checkpoint::Checkpoint;
    ///
    /// // {"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}
    /// # let header = br#"{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    /// # let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header, &[0]].concat();
    /// assert_eq!(Checkpoint::from_bytes(bytes)?.tensors()[0].type_name(), "F8_E4M3");
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn type_name(&self) -> String {
        self.stated().0.to_string()
    }

    /// Where its bytes are in the data, which begins after the header. Of a checkpoint of several
    /// files they are counted as if the data of these lay one after the other.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-tensor-bytes-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(["w", "b"].map(|name| file.tensor(name).unwrap().byte_range()), [0..8, 8..12]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn byte_range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// The tensor under another name, with other axes.
    pub(crate) fn seen_as(&self, name: &str, axes: Option<AxisMap>) -> Tensor {
        Tensor {
            name: name.to_owned(),
            axes,
            ..self.clone()
        }
    }

    /// The type of its elements, if they are numbers here.
    pub(crate) fn number_type(&self) -> Option<Dtype> {
        self.dtype().filter(|dtype| !dtype.is_opaque())
    }

    /// # Errors
    /// A type of which arrays hold no elements.
    pub(crate) fn element_type(&self) -> Result<Dtype> {
        self.dtype().ok_or_else(|| {
            Error::element_type(
                self.name.clone(),
                "a type that arrays can hold".into(),
                self.type_name(),
            )
        })
    }
}
