//! What is written beside a model.

use std::collections::BTreeMap;

use super::open::Checkpoint;
use super::state::StateTensor;
use crate::element::{FlatElement, FlatSlice};
use crate::tree::Tree;

/// What else to write into a file: averages of the weights, an optimiser's state, metadata.
///
/// Each part is named. Its tensors are named as its leaves with the part's name before them, and
/// [`Checkpoint::part`](super::Checkpoint::part) gets it back as a file of its own. Loading the
/// model passes them by.
///
/// ```
/// use flatleaf::{checkpoint::{self, Extras, LoadOptions}, destructure};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-extras-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("training.safetensors");
///
/// let model = (vec![1.0_f32, 2.0], vec![3.0_f32]);
/// let (flat, layout) = destructure(&model)?;
/// let (average, steps) = ([0.9, 1.9, 2.9], (vec![7_u64],));
/// let extras = Extras::new().vector("ema", &average).tree("optimizer", &steps).metadata("epoch", "3");
/// checkpoint::save_flat(&path, &layout, &flat, &extras)?;
///
/// let file = checkpoint::open(&path)?;
/// assert_eq!(file.flat_for(&layout)?, flat);
/// assert_eq!(file.part("ema")?.flat_for(&layout)?, average.as_slice());
/// assert_eq!(file.metadata()["epoch"], "3");
/// let mut smooth = model.clone();
/// file.part("ema")?.load_into(&mut smooth, &LoadOptions::new())?; // the averaged model
/// assert_eq!(smooth, (vec![0.9, 1.9], vec![2.9]));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct Extras<'e> {
    pub(crate) others: Others<'e>,
    pub(crate) parts: Vec<(String, ExtraPart<'e>)>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) is_plain: bool,
}

/// Where [`save_flat`](super::save_flat) finds the leaves that are not in the flat vector.
#[derive(Default)]
pub(crate) enum Others<'e> {
    /// It is an error if there are any.
    #[default]
    Unknown,
    Of(&'e dyn Tree),
    LeftOut,
}

pub(crate) enum ExtraPart<'e> {
    Vector(FlatSlice<'e>),
    Tree(&'e dyn Tree),
    /// An optimiser's: its vectors, and the rest as text.
    State {
        tensors: Vec<StateTensor<'e>>,
        rest: Vec<u8>,
    },
}

impl<'e> Extras<'e> {
    /// Nothing beside the model but what every file of this crate has: the ties of its leaves and
    /// the fingerprint of its layout. Saving with it is [`save`](super::save).
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-new-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new())?; // as `save`
    /// assert!(checkpoint::open(&path)?.parts().is_empty());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A vector as long as the flat one, under a name: an average of the weights, an optimiser's
    /// moments. It is written leaf by leaf, `ema.layers.0.weight`, so that it loads into a model
    /// like the model's own weights, and comes back as one slice.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, Extras}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-vector-{}", std::process::id()));
    ///
    /// let model = tree!({ "w": [1.0, 2.0], "b": [3.0] });
    /// checkpoint::save_with(&path, &model, &Extras::new().vector("ema", &[0.9, 1.9, 2.9]))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.view::<f32>("ema.b")?[0], 2.9);
    /// assert_eq!(file.part("ema")?.flat()?, [0.9, 1.9, 2.9].as_slice());
    ///
    /// let error = checkpoint::save_with(&path, &model, &Extras::new().vector("ema", &[0.9])).unwrap_err();
    /// assert!(error.is_length());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn vector(self, name: impl Into<String>, vector: &'e [f32]) -> Self {
        self.vector_as(name, vector)
    }

    /// A vector of another element type, as long as the flat one, under a name; its tensors are of
    /// that type.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, Extras}, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-vector-as-{}", std::process::id()));
    ///
    /// let model = (vec![1.0_f64], vec![2.0_f64]);
    /// let average = [0.9_f64, 1.9];
    /// checkpoint::save_with(&path, &model, &Extras::new().vector_as("average", &average))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.part("average")?.flat_for_as::<f64>(&Layout::of(&model)?)?, average.as_slice());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn vector_as<E>(mut self, name: impl Into<String>, vector: &'e [E]) -> Self
    where
        E: FlatElement,
    {
        let part = ExtraPart::Vector(E::slice(vector));
        self.parts.push((name.into(), part));
        self
    }

    /// A tree of any shape under a name, with leaves of any type: step counts, buffers, another
    /// model. It comes back with [`part`](super::Checkpoint::part) and
    /// [`load_into`](super::Checkpoint::load_into).
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-tree-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().tree("steps", &(vec![7_u64], vec![8_u64])))?;
    /// assert_eq!(checkpoint::open(&path)?.view::<u64>("steps.1")?[0], 8);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tree(mut self, name: impl Into<String>, tree: &'e dyn Tree) -> Self {
        self.parts.push((name.into(), ExtraPart::Tree(tree)));
        self
    }

    /// An entry of the metadata.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-metadata-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().metadata("epoch", "3"))?;
    /// assert_eq!(checkpoint::open(&path)?.metadata()["epoch"], "3");
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The [`user_metadata`](Checkpoint::user_metadata) of a file, for another version of it.
    /// Entries that were given before under the same keys are replaced.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-metadata-of-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &vec![1.0_f32], &Extras::new().metadata("license", "MIT"))?;
    /// let before = checkpoint::open(&path)?;
    /// let extras = Extras::new().metadata_of(&before).metadata("epoch", "4");
    /// checkpoint::save_with(&path, &vec![2.0_f32], &extras)?;
    /// let after = checkpoint::open(&path)?;
    /// assert_eq!((&*after.metadata()["license"], &*after.metadata()["epoch"]), ("MIT", "4"));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metadata_of(mut self, file: &Checkpoint) -> Self {
        let entries = file.user_metadata();
        self.metadata
            .extend(entries.map(|(key, value)| (key.to_owned(), value.to_owned())));
        self
    }

    /// For [`save_flat`](super::save_flat): the frozen and carried leaves are those of this tree.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, Extras}, destructure};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-others-{}", std::process::id()));
    ///
    /// let model = (vec![1.0_f32], vec![7_i64]); // integers are in the file, not in the vector
    /// let (flat, layout) = destructure(&model)?;
    /// let error = checkpoint::save_flat(&path, &layout, &flat, &Extras::new()).unwrap_err();
    /// assert_eq!((error.is_missing(), error.path()), (true, Some("1")));
    ///
    /// checkpoint::save_flat(&path, &layout, &flat, &Extras::new().others_of(&model))?;
    /// assert_eq!(checkpoint::open(&path)?.view::<i64>("1")?[0], 7);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn others_of(mut self, tree: &'e dyn Tree) -> Self {
        self.others = Others::Of(tree);
        self
    }

    /// For [`save_flat`](super::save_flat): the frozen and carried leaves are left out. The file
    /// then does not load into a model that has any, unless loading is lax.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, Extras}, destructure};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-trainable-{}", std::process::id()));
    ///
    /// let (flat, layout) = destructure(&(vec![1.0_f32], vec![7_i64]))?;
    /// checkpoint::save_flat(&path, &layout, &flat, &Extras::new().trainable_only())?;
    /// assert!(checkpoint::open(&path)?.tensor("1").is_none());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trainable_only(mut self) -> Self {
        self.others = Others::LeftOut;
        self
    }

    /// Leaves out the layout's fingerprint: where there are no ties, no parts and no metadata, the
    /// file is as any other program would write it.
    ///
    /// ```
    /// use flatleaf::{checkpoint::{self, Extras}, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-plain-{}", std::process::id()));
    ///
    /// checkpoint::save_with(&path, &tree!({ "w": [1.0] }), &Extras::new().plain())?;
    /// assert!(checkpoint::open(&path)?.metadata().is_empty());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn plain(mut self) -> Self {
        self.is_plain = true;
        self
    }
}
