//! Models as safetensors files: a layout and its flat vector are a file's header and its data.
//!
//! [`save`] writes a model, [`save_flat`] a flat vector; [`load_into`] reads a file into a model,
//! [`open`] maps one without reading it. [`average`], [`ema`], [`compare`] and [`scan`] stream over
//! files that are larger than memory.
//!
//! # What is in a file
//!
//! A safetensors file is a length of eight bytes, a header in JSON, and the elements of its
//! tensors, little-endian and row-major, one after the other without a gap ([the
//! format](https://github.com/huggingface/safetensors#format)). Here
//!
//! - a tensor is named as its leaf's [`path`](crate::Leaf::path), the first trainable place; frozen
//!   and carried leaves are tensors too;
//! - tensors of wider elements come first, as alignment wants it, otherwise they keep flat order:
//!   the trainable leaves of a model of `f32` lie in the file as they lie in the flat vector;
//! - an array of `Complex<f32>` is a tensor of type `C64` and of the array's own shape, which
//!   PyTorch and NumPy read as `complex64`. All other elements of several numbers, `Complex<f64>`
//!   too, for which the format has no type, are tensors of these numbers with the element's axes
//!   last. Read, `C64` and an axis of two are one: either loads into either;
//! - the other places of a tie are entries of `__metadata__` from their path to the tensor's name,
//!   as Hugging Face's `save_model` writes them. A place that shows its parameter with other axes
//!   is noted under `flatleaf.axes` besides;
//! - `flatleaf.fingerprint` is the [layout's](crate::Layout::fingerprint); `flatleaf.parts` lists
//!   what was written beside the model: an average of its weights, an optimiser's state
//!   ([`Extras`]).
//!
//! The bytes depend on nothing but that. `isize` and `usize` are written as integers of their
//! width; `i128` and `u128` have no type in a file.
//!
//! A model may be in several files with an index of JSON beside them that says which tensor is
//! where, `model.safetensors.index.json` as Hugging Face's tools write it. Wherever a file is read
//! here, the path of such an index stands for all of its files. What is written is always one file.
//!
//! # A model of a file's shapes
//!
//! Where the shapes of a model are known to the file alone, `DynTree::of(&file)?` is a model with
//! these, and can be trained, and [`Checkpoint::layout`] is the plan of its flat vector. A model of
//! one's own types asks the file before it is built: `file.tensor("embed.weight")` knows its
//! [`shape`](Tensor::shape).
//!
//! # Files that nobody vouches for
//!
//! Every header goes through one validator before anything else looks at it: a truncated file, a
//! header longer than the file or than 100 MB, tensors that overlap or leave gaps, a shape that
//! does not fit its bytes, an overflow, a name twice, text that is no UTF-8 or no JSON are errors
//! that [`is_invalid_file`](crate::Error::is_invalid_file) knows. Memory is allocated in proportion
//! to bytes that are there. What is accepted here the `safetensors` crate accepts too; it is laxer
//! in that the last of two equal names wins.
//!
//! ```
//! use std::sync::Arc;
//! use flatleaf::{checkpoint, tree, Layout, Tree};
//! use ndarray::{arr1, arr2, Array1, Array2};
//!
//! #[derive(Tree)]
//! struct Net { embed: Arc<Array2<f32>>, bias: Array1<f32>, head: Arc<Array2<f32>> }
//!
//! let embed = Arc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
//! let net = Net { embed: embed.clone(), bias: arr1(&[5.0]), head: embed };
//! # let folder = std::env::temp_dir().join(format!("flatleaf-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("net.safetensors");
//! checkpoint::save(&path, &net)?;
//!
//! let file = checkpoint::open(&path)?;
//! assert_eq!(file.flat()?, [1.0, 2.0, 3.0, 4.0, 5.0].as_slice()); // not copied
//! assert_eq!(file.view::<f32>("head")?[[1, 0]], 3.0);
//!
//! let mut other = tree!({ "embed": [[0.0, 0.0], [0.0, 0.0]], "bias": [0.0], "head": [[0.0, 0.0], [0.0, 0.0]] });
//! checkpoint::load_into(&path, &mut other, &checkpoint::LoadOptions::new())?;
//! assert_eq!(Layout::of(&other)?.gather(&other)?, [1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 3.0, 4.0]);
//! # std::fs::remove_dir_all(folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(target_endian = "big")]
compile_error!(
    "the elements of a safetensors file are little-endian, and so must be those of a machine that maps it"
);

// What a file says of itself:
mod dtype;
mod error;
mod header;
mod index;
mod metadata;
mod names;
mod raw_header;
mod tensor;
mod work;

// model → file:
mod atomic;
mod extras;
mod file_contents;
mod members;
mod save;

// file → model:
mod bytes;
mod flat;
mod load;
mod open;
mod optimizer;
mod part;
mod sources;
mod state;
mod tree;

// files larger than memory:
mod average;
mod compare;
mod stream;

pub use average::{AverageOptions, AverageReport, average, average_with, ema};
pub use compare::{Comparison, Difference, compare, compare_with};
pub use extras::Extras;
pub use load::{LoadOptions, LoadReport, load_into};
pub use members::save_flat_with;
pub use open::{Checkpoint, open};
pub use save::{save, save_flat, save_with};
pub use stream::scan;
pub use tensor::Tensor;
