//! An optimiser's state beside a model, and back.
//!
//! Below the part's name there is one tensor for each state vector that is not all zeros, as long
//! as the flat vector, named by its position and its own name, `opt.0.exp_avg`, of the type that it
//! is kept in; beside codes of 8 bits the scales of their blocks, leaf by leaf,
//! `opt.0.exp_avg_scales`; and `opt.snapshot`,
//! bytes of JSON that say all else: configurations, steps, groups, the paths and shapes of the
//! leaves. Vectors are written from where they are and read from where the file is mapped; text
//! would take thirty times as long.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::extras::{ExtraPart, Extras};
use super::metadata::json;
use super::names::join;
use super::open::Checkpoint;
use super::state::{Keeper, StateTensor, tensors_of};
use crate::element::FlatElement;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::optim::{Optimizer, Rule, RuleFor, Snapshot, element_of};
use crate::tree::Key;
use crate::tree::key::push_segment;

/// The name, below the part's, of all that is no vector.
pub(crate) const SNAPSHOT: &str = "snapshot";

/// The name of a state vector, below the part's.
pub(super) fn vector_name(index: usize, name: &str) -> String {
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
    pub fn optimizer<R, E>(
        mut self,
        name: impl Into<String>,
        optimizer: &'e Optimizer<R, E>,
    ) -> Self
    where
        R: RuleFor<E> + Serialize,
        E: FlatElement + Serialize,
    {
        let (snapshot, vectors) = optimizer.snapshot_apart();
        let keeper = Keeper {
            layout: optimizer.layout(),
            range: optimizer.range(),
        };
        let vectors = vectors.into_iter().enumerate();
        let tensors = vectors.flat_map(|(index, (name, form, elements))| {
            tensors_of((index, &name), form, elements, &keeper)
        });
        let part = ExtraPart::State {
            tensors: tensors.collect(),
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
    pub fn resume<R>(&self, layout: &Layout) -> Result<Optimizer<R>>
    where
        R: Rule + DeserializeOwned,
    {
        self.resume_as(layout)
    }

    /// The optimiser of vectors of another element type that was written as this part, going on
    /// where it was.
    ///
    /// # Errors
    /// [`is_element_type`](Error::is_element_type): its vectors are of another type than `E`.
    /// [`is_other_layout`](Error::is_other_layout): it belongs to another layout.
    /// [`is_unknown`](Error::is_unknown): there is no optimiser here.
    /// [`is_invalid_state`](Error::is_invalid_state): it is one of another rule, or contradicts
    /// itself.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::Layout;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-resume-as-{}", std::process::id()));
    ///
    /// let mut model = vec![1.0_f64];
    /// let layout = Layout::of(&model)?;
    /// let rule = Sgd { momentum: 0.9, ..Default::default() };
    /// let mut optimizer = Optimizer::new_as::<f64>(rule, &layout)?;
    /// optimizer.update(&mut model, &vec![0.1_f64])?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    ///
    /// let part = checkpoint::open(&path)?.part("opt")?;
    /// let resumed: Optimizer<Sgd, f64> = part.resume_as(&layout)?;
    /// assert_eq!(resumed.state_of("momentum_buffer"), Some(&[0.1][..]));
    /// assert!(part.resume::<Sgd>(&layout).is_err_and(|error| error.is_element_type()));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume_as<R, E>(&self, layout: &Layout) -> Result<Optimizer<R, E>>
    where
        R: RuleFor<E> + DeserializeOwned,
        E: FlatElement + DeserializeOwned,
    {
        Optimizer::resume(self.snapshot_as()?, layout)
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
    /// [`is_element_type`](Error::is_element_type): a vector is not of the type that it was kept
    /// in. [`is_missing`](Error::is_missing): codes of 8 bits without their scales.
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
        self.snapshot_as()
    }

    /// The state of an optimiser of vectors of another element type that was written as this part,
    /// its vectors lent by the file.
    ///
    /// # Errors
    /// [`is_element_type`](Error::is_element_type): its vectors are of another type than `E`.
    /// [`is_unknown`](Error::is_unknown): there is no optimiser here.
    /// [`is_invalid_state`](Error::is_invalid_state): it is one of another rule.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::Layout;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-snapshot-as-{}", std::process::id()));
    ///
    /// let model = vec![1.0_f64];
    /// let optimizer = Optimizer::new_as::<f64>(Sgd::default(), &Layout::of(&model)?)?;
    /// checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer))?;
    ///
    /// let part = checkpoint::open(&path)?.part("opt")?;
    /// let grown = Layout::of(&vec![1.0_f64, 2.0])?;
    /// let (_, migration) = Optimizer::<Sgd, f64>::migrate(part.snapshot_as()?, &grown)?;
    /// assert_eq!(migration.reshaped[0].now, [2]);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot_as<R, E>(&self) -> Result<Snapshot<'_, R, E>>
    where
        R: DeserializeOwned,
        E: FlatElement + DeserializeOwned,
    {
        if self.tensor(SNAPSHOT).is_none() {
            let expected = "an optimiser, written with `Extras::optimizer`";
            return Err(Error::unknown(SNAPSHOT.into(), expected, "none".into()));
        }
        let rest = self.bytes(SNAPSHOT)?;
        check_element::<E>(rest)?;
        // Most often it is one of another rule, and what serde says of that is a column of text.
        let unreadable = |error: serde_json::Error| {
            let rule = std::any::type_name::<R>();
            let settings = settings_of(rest);
            let found = format!(
                "what is no state of the rule `{rule}`, as which it is read, but that of one with {settings}: \
                 read it as that rule, and `Optimizer::migrate_with` goes on with another ({error})"
            );
            Error::invalid_state(found).at(SNAPSHOT)
        };
        let read = serde_json::from_slice(rest);
        let mut snapshot: Snapshot<'_, R, E> = read.map_err(unreadable)?;
        let blocks = snapshot.blocks();
        let mut vectors = Vec::new();
        for (index, (name, form)) in snapshot.state_forms().enumerate() {
            let vector = self.state_vector((index, name), form, &blocks)?;
            vectors.push(vector);
        }
        snapshot.put_states(vectors);
        Ok(snapshot)
    }
}

/// The settings with which a snapshot was written, from which a reader knows the rule: its type has
/// no name there.
fn settings_of(snapshot: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Groups {
        groups: Vec<serde_json::Value>,
    }

    let groups = serde_json::from_slice(snapshot).map(|Groups { groups }| groups);
    match groups.as_deref() {
        Ok([first, ..]) => {
            let mut text = format!("the settings {first}");
            if let Some((end, _)) = text.char_indices().nth(GREATEST_LENGTH) {
                text.replace_range(end.., "…");
            }
            text
        }
        _ => "settings that cannot be read".to_owned(),
    }
}

/// Characters of settings that an error shows: those of a chain of five.
const GREATEST_LENGTH: usize = 400;

/// # Errors
/// A snapshot whose vectors are of another type.
fn check_element<E: FlatElement>(snapshot: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }

    // What cannot be read is found, and named, by whoever reads all of it.
    let Ok(Head { version }) = serde_json::from_slice(snapshot) else {
        return Ok(());
    };
    let expected = E::DTYPE;
    let found = element_of(version);
    if found == expected {
        return Ok(());
    }
    let expected = format!(
        "an optimiser of vectors of {expected} (`resume` reads one of f32, `resume_as` one of any)"
    );
    let found = format!("one of vectors of {found}");
    Err(Error::element_type(SNAPSHOT.into(), expected, found))
}

/// The name of what belongs to an optimiser, with its part's.
pub(crate) fn state_name(part: &str, name: &str) -> String {
    join(part, name)
}

/// The tensors of a state below a part's name, with their shapes and elements.
pub(crate) fn state_tensors<'s>(
    part: &str,
    tensors: &'s [StateTensor<'_>],
    rest: &'s [u8],
) -> impl Iterator<Item = (String, safetensors::Dtype, &'s [u8])> {
    let text = (join(part, SNAPSHOT), safetensors::Dtype::U8, rest);
    let tensors = tensors.iter().filter_map(move |tensor| {
        // Whoever resumes begins with zeros.
        let bytes = tensor.bytes?;
        let name = join(part, &tensor.name);
        Some((name, tensor.dtype, bytes))
    });
    tensors.collect::<Vec<_>>().into_iter().chain([text])
}
