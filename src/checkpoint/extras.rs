//! What is written beside a model.

use std::collections::BTreeMap;

use crate::tree::Tree;

/// What else to write into a file: averages of the weights, an optimiser's state, metadata.
///
/// Each part is named. Its tensors are named as its leaves with the part's name before them, and
/// [`Checkpoint::part`](super::Checkpoint::part) gets it back as a file of its own. Loading the model passes them by.
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
    pub(crate) parts: Vec<(String, Part<'e>)>,
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

pub(crate) enum Part<'e> {
    Vector(&'e [f32]),
    Tree(&'e dyn Tree),
}

impl<'e> Extras<'e> {
    /// Nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// A vector as long as the flat one, under a name: an average of the weights, an optimiser's moments. It is written leaf by leaf,
    /// `ema.layers.0.weight`, so that it loads into a model like the model's own weights, and comes back as one slice.
    pub fn vector(mut self, name: impl Into<String>, vector: &'e [f32]) -> Self {
        self.parts.push((name.into(), Part::Vector(vector)));
        self
    }

    /// A tree of any shape under a name: step counts, an optimiser's state.
    pub fn tree(mut self, name: impl Into<String>, tree: &'e dyn Tree) -> Self {
        self.parts.push((name.into(), Part::Tree(tree)));
        self
    }

    /// An entry of the metadata.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// For [`save_flat`](super::save_flat): the frozen and carried leaves are those of this tree.
    pub fn others_of(mut self, tree: &'e dyn Tree) -> Self {
        self.others = Others::Of(tree);
        self
    }

    /// For [`save_flat`](super::save_flat): the frozen and carried leaves are left out. The file then does not load into a model that
    /// has any, unless loading is lax.
    pub fn trainable_only(mut self) -> Self {
        self.others = Others::LeftOut;
        self
    }

    /// Leaves out the layout's fingerprint: where there are no ties, no parts and no metadata, the file is as any other program would
    /// write it.
    pub fn plain(mut self) -> Self {
        self.is_plain = true;
        self
    }
}
