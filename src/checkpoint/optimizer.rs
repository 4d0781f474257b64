//! An optimiser's state beside a model, and back.
//!
//! Below the part's name there is one tensor for each state vector that is not all zeros, as long
//! as the flat vector, named by its position and its own name, `opt.0.exp_avg`; and `opt.snapshot`,
//! bytes of JSON that say all else: configurations, steps, groups, the paths and shapes of the
//! leaves. Vectors are written from where they are and read from where the file is mapped; text
//! would take thirty times as long.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::extras::{ExtraPart, Extras};
use super::metadata::json;
use super::names::join;
use super::open::Checkpoint;
use crate::element::to_elements;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::optim::{Optimizer, Rule, Snapshot};
use crate::tree::Key;
use crate::tree::key::push_segment;

/// The name, below the part's, of all that is no vector.
pub(crate) const SNAPSHOT: &str = "snapshot";

/// The name of a state vector, below the part's.
fn vector_name(index: usize, name: &str) -> String {
    let mut path = String::new();
    push_segment(&mut path, Key::Index(index));
    push_segment(&mut path, Key::Name(name));
    path
}

impl<'e> Extras<'e> {
    /// An optimiser's state under a name: all that its
    /// [`snapshot`](crate::optim::Optimizer::snapshot) knows, so that it goes on bit for bit.
    /// [`Checkpoint::resume`] on that [`part`](Checkpoint::part) takes it up again. The state
    /// vectors are borrowed until the file is written; each is a tensor as long as the flat vector.
    /// An optimiser [of a range](Optimizer::of_range) is written by all members together, with
    /// [`save_flat_with`](super::save_flat_with).
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::{tree, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-extras-optimizer-{}", std::process::id()));
    ///
    /// let mut model = tree!({ "w": [1.0, 2.0] });
    /// let layout = Layout::of(&model)?;
    /// let mut optimizer = Optimizer::new(AdamW::default(), &layout)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0, -1.0] }))?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    ///
    /// let file = checkpoint::open(&path)?;
    /// let resumed: Optimizer<AdamW> = file.part("opt")?.resume(&layout)?;
    /// assert_eq!(resumed.step_count("w"), Some(1));
    /// assert_eq!(resumed.state_of("exp_avg"), optimizer.state_of("exp_avg"));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn optimizer<R: Rule + Serialize>(
        mut self,
        name: impl Into<String>,
        optimizer: &'e Optimizer<R>,
    ) -> Self {
        let mut snapshot = optimizer.snapshot();
        snapshot.take_range();
        let states = snapshot.take_states().into_iter().enumerate();
        let vectors = states.map(|(index, (name, elements))| (vector_name(index, &name), elements));
        let part = ExtraPart::State {
            vectors: vectors.collect(),
            range: optimizer.range(),
            len: optimizer.layout().len(),
            rest: json(&snapshot).into_bytes(),
        };
        self.parts.push((name.into(), part));
        self
    }
}

impl Checkpoint {
    /// The optimiser that was written as this part with [`Extras::optimizer`], going on where it
    /// was. Its vectors are copied once, out of the file.
    ///
    /// # Errors
    /// [`is_other_layout`](Error::is_other_layout): it belongs to another layout, whose leaves
    /// differ by name or shape; [`snapshot`](Checkpoint::snapshot) and
    /// [`Optimizer::migrate`](crate::optim::Optimizer::migrate) take it there.
    /// [`is_unknown`](Error::is_unknown): there is no optimiser here.
    /// [`is_invalid_state`](Error::is_invalid_state): it is one of another rule, or contradicts
    /// itself.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{Adam, Optimizer, Sgd};
    /// use flatleaf::Layout;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-resume-{}", std::process::id()));
    ///
    /// let model = vec![1.0_f32];
    /// let layout = Layout::of(&model)?;
    /// let optimizer = Optimizer::new(Sgd { lr: 0.5, ..Default::default() }, &layout)?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    /// let part = checkpoint::open(&path)?.part("opt")?;
    /// let resumed = part.resume::<Sgd>(&layout)?;
    /// assert_eq!(resumed.step_count(""), Some(0));
    /// assert!(part.resume::<Adam>(&layout).is_err_and(|error| error.is_invalid_state()));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume<R: Rule + DeserializeOwned>(&self, layout: &Layout) -> Result<Optimizer<R>> {
        Optimizer::resume(self.snapshot()?, layout)
    }

    /// The optimiser that was written as this part, as one member of a run that goes on: with the
    /// state of a range only, of which no more than that is read. Whoever wrote the file, one or
    /// several members ([`save_flat_with`](super::save_flat_with)).
    ///
    /// # Errors
    /// Those of [`Optimizer::resume_range`] and of [`snapshot`](Checkpoint::snapshot):
    /// [`is_other_layout`](Error::is_other_layout), [`is_argument`](Error::is_argument) for a range
    /// that cannot be one member's, [`is_unknown`](Error::is_unknown),
    /// [`is_invalid_state`](Error::is_invalid_state).
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{AdamW, Optimizer};
    /// use flatleaf::Layout;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-resume-range-{}", std::process::id()));
    ///
    /// let model = (vec![1.0_f32; 3], vec![2.0_f32; 4]);
    /// let layout = Layout::of(&model)?;
    /// let optimizer = Optimizer::new(AdamW::default(), &layout)?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    /// let part = checkpoint::open(&path)?.part("opt")?;
    /// let second: Optimizer<AdamW> = part.resume_range(&layout, layout.shards(2)[1].clone())?;
    /// assert_eq!(second.range(), 3..7);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume_range<R: Rule + DeserializeOwned>(
        &self,
        layout: &Layout,
        range: Range<usize>,
    ) -> Result<Optimizer<R>> {
        Optimizer::resume_range(&[self.snapshot()?], layout, range)
    }

    /// The state of an optimiser that was written as this part with [`Extras::optimizer`], its
    /// vectors lent by the file: to be resumed, or carried to another layout.
    ///
    /// # Errors
    /// [`is_unknown`](Error::is_unknown): there is no optimiser here.
    /// [`is_invalid_state`](Error::is_invalid_state): it is one of another rule.
    /// [`is_element_type`](Error::is_element_type): a vector is not of `f32`.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-snapshot-{}", std::process::id()));
    ///
    /// let model = tree!({ "w": [1.0] });
    /// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    ///
    /// let part = checkpoint::open(&path)?.part("opt")?;
    /// let grown = Layout::of(&tree!({ "w": [1.0], "b": [0.0] }))?;
    /// let (_, migration) = Optimizer::<Sgd>::migrate(part.snapshot()?, &grown)?;
    /// assert_eq!(migration.added, ["b"]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot<R: DeserializeOwned>(&self) -> Result<Snapshot<'_, R>> {
        if self.tensor(SNAPSHOT).is_none() {
            let expected = "an optimiser, written with `Extras::optimizer`";
            return Err(Error::unknown(SNAPSHOT.into(), expected, "none".into()));
        }
        let rest = self.bytes(SNAPSHOT)?;
        let mut snapshot: Snapshot<'_, R> = serde_json::from_slice(rest)
            .map_err(|error| Error::invalid_state(error.to_string()).at(SNAPSHOT))?;
        let names = snapshot.state_names().enumerate();
        let names: Vec<String> = names
            .map(|(index, name)| vector_name(index, name))
            .collect();
        let vectors = names.iter().map(|name| self.state_vector(name));
        let vectors = vectors.collect::<Result<Vec<_>>>()?;
        snapshot.put_states(vectors);
        Ok(snapshot)
    }

    /// A state vector; none of one that was all zeros.
    fn state_vector(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>> {
        let Some(tensor) = self.tensor(name) else {
            return Ok(None);
        };
        if tensor.type_name() != "F32" {
            let found = tensor.type_name();
            return Err(Error::element_type(name.to_owned(), "F32".into(), found));
        }
        let bytes = self.bytes(name)?;
        let elements = match bytemuck::try_cast_slice(bytes) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => Cow::Owned(to_elements(bytes)),
        };
        Ok(Some(elements))
    }
}

/// The name of what belongs to an optimiser, with its part's.
pub(crate) fn state_name(part: &str, name: &str) -> String {
    join(part, name)
}

/// The tensors of a state below a part's name, with their shapes and elements.
pub(crate) fn state_tensors<'s>(
    part: &str,
    vectors: &'s [(String, Option<Cow<'_, [f32]>>)],
    rest: &'s [u8],
) -> impl Iterator<Item = (String, safetensors::Dtype, &'s [u8])> {
    let text = (join(part, SNAPSHOT), safetensors::Dtype::U8, rest);
    let vectors = vectors.iter().filter_map(move |(name, elements)| {
        // Whoever resumes begins with zeros.
        let bytes = bytemuck::cast_slice(elements.as_ref()?);
        Some((join(part, name), safetensors::Dtype::F32, bytes))
    });
    vectors.collect::<Vec<_>>().into_iter().chain([text])
}
