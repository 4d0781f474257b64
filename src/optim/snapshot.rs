//! An optimiser's state as plain data: kept, stored, and taken up again on the same layout or
//! carried to another.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::carried::Carried;
use super::optimizer::Optimizer;
#[cfg(feature = "safetensors")]
use super::packed::BlockStarts;
use super::packed::{Form, OfLeaf};
use super::progress::LeafProgress;
use super::rule::{Rule, RuleFor};
use super::saved_state::{Kept, SavedElements, SavedState};
use super::sharded::intersection;
#[cfg(feature = "safetensors")]
use super::states::LentVector;
use super::states::{StateVector, forms};
use super::storage::Storage;
use crate::element::{Dtype, FlatElement};
use crate::error::{Error, Findings, Printable, Result};
use crate::layout::{Layout, Leaf, Rename};

/// All that an [`Optimizer`] knows, keyed by the paths of the leaves and the layout's fingerprint:
/// configurations, step counts, groups, what is frozen, and the state vectors, which are borrowed
/// until it is stored. Serialisable with feature `serde`.
///
/// ```
/// use flatleaf::optim::{Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "w": [1.0] });
/// let layout = Layout::of(&model)?;
/// let mut optimizer = Optimizer::new(Sgd { lr: 0.1, momentum: 0.9, ..Default::default() }, &layout)?;
/// optimizer.update(&mut model, &tree!({ "w": [1.0] }))?;
///
/// let resumed = Optimizer::resume(optimizer.snapshot(), &layout)?;
/// assert_eq!(resumed.step_count("w"), Some(1));
///
/// let grown = Layout::of(&tree!({ "w": [1.0], "b": [0.0] }))?;
/// assert!(Optimizer::resume(optimizer.snapshot(), &grown).unwrap_err().is_other_layout());
/// let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &grown)?;
/// assert_eq!((migrated.step_count("w"), migrated.step_count("b")), (Some(1), Some(0)));
/// assert_eq!(migration.added, ["b"]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
///
/// Stored and taken up by another process, beside the model's
/// [checkpoint](crate::checkpoint::save), in any format of serde that keeps the bits of floats.
/// (`serde_json` does with its feature `float_roundtrip`; elements that are infinite or NaN, which
/// JSON has not, are texts there. Binary formats are smaller.) A rule of one's own derives
/// `Serialize` and `Deserialize` too.
///
/// ```
/// # #[cfg(feature = "serde")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use flatleaf::optim::{AdamW, ClipNorm, Optimizer, Snapshot};
/// use flatleaf::{tree, Layout};
///
/// let mut model = tree!({ "w": [1.0, 2.0] });
/// let layout = Layout::of(&model)?;
/// let mut optimizer = Optimizer::new((ClipNorm::default(), AdamW::default()), &layout)?;
/// optimizer.update(&mut model, &tree!({ "w": [1.0, -1.0] }))?;
/// let stored = serde_json::to_vec(&optimizer.snapshot())?;
///
/// let snapshot: Snapshot<(ClipNorm, AdamW)> = serde_json::from_slice(&stored)?;
/// let mut resumed = Optimizer::resume(snapshot, &layout)?;
/// let mut twin = model.clone();
/// resumed.update(&mut twin, &tree!({ "w": [0.5, 0.5] }))?;
/// optimizer.update(&mut model, &tree!({ "w": [0.5, 0.5] }))?;
/// assert_eq!(twin, model);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "serde"))]
/// # fn main() {}
/// ```
///
/// What is stored has a version: of a later one than this crate knows, reading says so. A field
/// that a rule got since the state was stored is at its default.
#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(
        deny_unknown_fields,
        bound(
            serialize = "R: serde::Serialize, E: FlatElement + serde::Serialize",
            deserialize = "R: serde::Deserialize<'de>, E: FlatElement + serde::Deserialize<'de>"
        )
    )
)]
pub struct Snapshot<'s, R, E: Clone = f32> {
    // First, so that a reader knows it before it meets a field that it does not know.
    #[cfg_attr(
        feature = "serde",
        serde(
            default = "first_version",
            deserialize_with = "known_version::<_, E>",
            serialize_with = "version_of_whole"
        )
    )]
    version: u32,
    fingerprint: u64,
    groups: Vec<R>,
    leaves: Vec<SavedLeaf>,
    states: Vec<SavedState<'s, E>>,
    /// Which elements the states are of; none of a snapshot of all. Its version is `OF_RANGE`.
    #[cfg_attr(feature = "serde", serde(skip))]
    range: Option<Range<usize>>,
}

#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
struct SavedLeaf {
    path: String,
    shape: Vec<usize>,
    steps: u64,
    group: u32,
    frozen: bool,
    /// The rule's steps, and behind them its counters. None of state that was stored before they
    /// were: then every stage has taken the leaf's steps, and counts begin anew.
    #[cfg_attr(feature = "serde", serde(default))]
    counted: Vec<f64>,
}

/// The version of what is stored. It grows with every change that an older reader would get wrong.
const VERSION: u32 = 2;

/// That of a snapshot whose vectors are all full, which is what it always was.
const VERSION_OF_FULL: u32 = 1;

/// In the version of a snapshot whose vectors are of f64: a reader of one element type takes none
/// of the other for its own, not even in a format that names no fields.
const OF_F64: u32 = 1 << 16;

/// The version of a snapshot of these vectors.
fn version_of<E: FlatElement>(states: &[SavedState<'_, E>]) -> u32 {
    let is_full = |state: &SavedState<'_, E>| state.kept.form == Form::Full;
    let version = match states.iter().all(is_full) {
        true => VERSION_OF_FULL,
        false => VERSION,
    };
    match E::DTYPE {
        Dtype::F64 => version | OF_F64,
        _ => version,
    }
}

/// In place of a version that of a snapshot of a range, which is not stored: a reader could not
/// tell it from one of the whole vector.
const OF_RANGE: u32 = 0;

#[cfg(feature = "serde")]
fn version_of_whole<S: serde::Serializer>(
    version: &u32,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    if *version == OF_RANGE {
        return Err(serde::ser::Error::custom(
            "expected a snapshot of the whole flat vector, found one of a range, of one member: \
             `Optimizer::resume_range` puts those of all members together",
        ));
    }
    serializer.serialize_u32(*version)
}

/// That of state which was stored before there were versions.
#[cfg(feature = "serde")]
fn first_version() -> u32 {
    1
}

#[cfg(feature = "serde")]
fn known_version<'de, D, E>(deserializer: D) -> std::result::Result<u32, D::Error>
where
    D: serde::Deserializer<'de>,
    E: FlatElement,
{
    let version: u32 = serde::Deserialize::deserialize(deserializer)?;
    let number = version & !OF_F64;
    if !(1..=VERSION).contains(&number) {
        return Err(serde::de::Error::custom(format_args!(
            "expected a snapshot of version 1 to {VERSION}, found version {number}: \
             a later release of flatleaf reads it"
        )));
    }
    let found = element_of(version);
    if found == E::DTYPE {
        return Ok(version);
    }
    Err(serde::de::Error::custom(format_args!(
        "expected a snapshot of vectors of {}, found one of {found}: it is a `Snapshot<_, {found}>`",
        E::DTYPE
    )))
}

/// The element type of the vectors of a snapshot of this version.
#[cfg(feature = "serde")]
pub(crate) fn element_of(version: u32) -> Dtype {
    match version & OF_F64 {
        0 => Dtype::F32,
        _ => Dtype::F64,
    }
}

/// What a migration found different: all that starts anew and all that was given up. Empty lists
/// mean that everything was carried over.
///
/// ```
/// use flatleaf::optim::{Migration, Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&tree!({ "body": [1.0], "old": [1.0] }))?)?;
/// let (_, migration) = Optimizer::migrate(optimizer.snapshot(), &Layout::of(&tree!({ "body": [1.0], "new": [1.0] }))?)?;
/// let expected = Migration { added: vec!["new".into()], removed: vec!["old".into()], ..Default::default() };
/// assert_eq!(migration, expected);
/// assert_eq!(migration.to_string(), "added: `new`; removed: `old`");
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// Paths of leaves that the snapshot has not got. They begin at step 0 with state of zero, by
    /// the first configuration.
    pub added: Vec<String>,
    /// Paths of leaves that the layout has not got, or that another leaf of the snapshot has
    /// already been carried to because the two are tied now. Their state was given up.
    pub removed: Vec<String>,
    /// Leaves whose shape changed. They keep their configuration and whether they are frozen; their
    /// state and their step count start anew.
    pub reshaped: Vec<Reshaped>,
    /// Names of state vectors that the rule keeps now and the snapshot has not got, or has another
    /// number of, so that none could be told from another. They are zero.
    pub added_states: Vec<String>,
    /// Names of state vectors of the snapshot that the rule does not keep now, or keeps another
    /// number of. They were given up.
    pub removed_states: Vec<String>,
    /// Names of state vectors that were carried over and are kept in other bytes than they were, as
    /// [`Snapshot::stored_in`] asked for.
    pub stored_otherwise: Vec<String>,
}

/// `nothing changed`, or `added: `new`; removed: `old`; reshaped: `head` from [1] to [2]; …`
impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |name: &String| format!("`{}`", Printable(name));
        let all = |names: &[String]| -> Vec<String> {
            let names = names.iter();
            names.map(quoted).collect()
        };
        let reshaped = self.reshaped.iter().map(|leaf| {
            let Reshaped { path, before, now } = leaf;
            let path = quoted(path);
            format!("{path} from {before:?} to {now:?}")
        });
        let added_states = all(&self.added_states);
        let removed_states = all(&self.removed_states);
        let stored_otherwise = all(&self.stored_otherwise);
        let changes = [
            ("added", all(&self.added)),
            ("removed", all(&self.removed)),
            ("reshaped", reshaped.collect()),
            ("state vectors added", added_states),
            ("state vectors removed", removed_states),
            ("state vectors stored otherwise", stored_otherwise),
        ];
        let mut stated = Vec::new();
        for (what, names) in changes {
            if !names.is_empty() {
                let names = names.join(", ");
                stated.push(format!("{what}: {names}"));
            }
        }
        if stated.is_empty() {
            return write!(f, "nothing changed");
        }
        write!(f, "{}", stated.join("; "))
    }
}

/// A leaf that changed its shape between a snapshot and the layout that it was migrated to.
///
/// ```
/// use flatleaf::optim::{Optimizer, Reshaped, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&tree!({ "head": [1.0] }))?)?;
/// let (_, migration) = Optimizer::migrate(optimizer.snapshot(), &Layout::of(&tree!({ "head": [1.0, 2.0] }))?)?;
/// assert_eq!(migration.reshaped, [Reshaped { path: "head".into(), before: vec![1], now: vec![2] }]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshaped {
    /// The leaf's path, as it is in the layout.
    pub path: String,
    /// Its shape when the snapshot was taken.
    pub before: Vec<usize>,
    /// Its shape in the layout.
    pub now: Vec<usize>,
}

impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// All that it knows, as plain data. Copies no vector; reads all of them once.
    ///
    /// Of an optimiser [of a range](Optimizer::of_range) the snapshot is of that range, for
    /// [`resume_range`](Optimizer::resume_range), and is not serialised.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::Layout;
    ///
    /// let mut model = vec![1.0_f32];
    /// let layout = Layout::of(&model)?;
    /// let mut optimizer = Optimizer::new(Sgd { momentum: 0.5, ..Default::default() }, &layout)?;
    /// optimizer.update(&mut model, &[3.0_f32])?;
    /// let twin = Optimizer::resume(optimizer.snapshot(), &layout)?;
    /// assert_eq!(twin.state_of("momentum_buffer"), Some(&[3.0][..]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot<'_, R, E> {
        let leaves = self.layout.leaves().iter().enumerate();
        let leaves = leaves.map(|(index, leaf)| self.saved_leaf(index, leaf));
        let names = self.groups[0].states().into_iter();
        let states = names.enumerate();
        let states = states.map(|(vector, name)| self.saved_state(vector, name));
        let states: Vec<SavedState<'_, E>> = states.collect();
        let is_whole = self.range == (0..self.layout.len());
        let version = match is_whole {
            true => version_of(&states),
            false => OF_RANGE,
        };
        Snapshot {
            version,
            range: (!is_whole).then(|| self.range.clone()),
            fingerprint: self.layout.fingerprint(),
            groups: self.groups.clone(),
            leaves: leaves.collect(),
            states,
        }
    }

    fn saved_leaf(&self, index: usize, leaf: &Leaf) -> SavedLeaf {
        let LeafProgress {
            steps,
            group,
            is_frozen,
        } = self.progress.leaves[index];
        SavedLeaf {
            path: leaf.path().to_owned(),
            shape: leaf.shape().to_vec(),
            steps,
            group,
            frozen: is_frozen,
            counted: self.progress.of(index).to_vec(),
        }
    }

    fn saved_state(&self, vector: usize, name: &'static str) -> SavedState<'_, E> {
        let states = &self.states;
        let kept = Kept::new(states.vectors[vector].form(), states.storage);
        // Many rules have vectors for options that are off: those of zeros are left out.
        let elements = match &states.vectors[vector] {
            StateVector::Full(elements) => {
                // Bits and not numbers: −0 has to come back as −0.
                let is_zero = elements.iter().all(|x| x.bits() == 0);
                let elements = SavedElements::Full(elements.into());
                (!is_zero).then_some(elements)
            }
            StateVector::Packed(packed) => {
                let blocks = Arc::clone(&states.blocks);
                let elements = SavedElements::Packed(Cow::Borrowed(packed), blocks);
                (!packed.is_zero()).then_some(elements)
            }
        };
        SavedState {
            name: Cow::Borrowed(name),
            was: kept,
            kept,
            elements,
        }
    }

    /// An optimiser that goes on where the snapshot was taken, bit for bit. Vectors that the
    /// snapshot owns are taken over, borrowed ones are copied.
    ///
    /// # Errors
    /// `is_other_layout`: the snapshot is of another layout, with the paths that differ
    /// ([`migrate`](Optimizer::migrate) takes it). `is_invalid_state`: it contradicts itself.
    /// `is_argument`: a configuration that its rule refuses. `is_out_of_memory`: no memory for a
    /// state vector.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::of(&tree!({ "w": [1.0] }))?;
    /// let mut optimizer = Optimizer::new(Sgd::default(), &layout)?;
    /// optimizer.freeze("w")?;
    /// assert_eq!(Optimizer::resume(optimizer.snapshot(), &layout)?.is_frozen("w"), Some(true));
    ///
    /// let error = Optimizer::resume(optimizer.snapshot(), &Layout::of(&tree!({ "v": [1.0] }))?).unwrap_err();
    /// assert!(error.is_other_layout());
    /// assert_eq!(error.paths().collect::<Vec<_>>(), ["v", "w"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn resume(snapshot: Snapshot<'_, R, E>, layout: &Layout) -> Result<Self> {
        snapshot.check_is_whole()?;
        snapshot.check_is_of(layout)?;
        let mut optimizer = snapshot.resumed_without_vectors(layout, 0..layout.len())?;
        let leaves: Vec<OfLeaf> = optimizer.leaves_kept().collect();
        for (vector, saved) in snapshot.states.into_iter().enumerate() {
            // The optimiser's own are zeros already.
            let Some(elements) = saved.elements else {
                continue;
            };
            match (elements, &mut optimizer.states.vectors[vector]) {
                (SavedElements::Full(elements), StateVector::Full(own)) => {
                    *own = elements.into_owned();
                }
                (SavedElements::Packed(packed, _), StateVector::Packed(own))
                    if packed.form() == own.form() =>
                {
                    *own = packed.into_owned();
                }
                // Kept otherwise from now on. A block ends with its leaf, so leaves go one by one.
                (elements, _) => {
                    for leaf in &leaves {
                        let from = (elements.lent(), leaf);
                        optimizer.states.copy(vector, leaf, from);
                    }
                }
            }
        }
        Ok(optimizer)
    }

    /// An optimiser for another layout, with the step counts, groups and state of those leaves
    /// whose path is one of the layout's, among all places of a tie. What starts anew and what was
    /// given up is in the [`Migration`].
    ///
    /// Where modules were renamed, [rename the snapshot's paths](Snapshot::rename_matching) first;
    /// for another rule or a chain that grew, see [`migrate_with`](Optimizer::migrate_with).
    ///
    /// # Errors
    /// `is_invalid_state`: the snapshot contradicts itself. `is_argument`: a configuration that its
    /// rule refuses. `is_out_of_memory`: no memory for a state vector of the layout's length.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0], "v": [1.0] });
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0], "v": [1.0] }))?;
    ///
    /// let grown = Layout::of(&tree!({ "w": [1.0], "b": [0.0], "v": [1.0, 2.0] }))?;
    /// let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &grown)?;
    /// assert_eq!(["w", "b", "v"].map(|path| migrated.step_count(path)), [Some(1), Some(0), Some(0)]);
    /// assert_eq!((&migration.added[0][..], &migration.reshaped[0].path[..]), ("b", "v"));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn migrate(snapshot: Snapshot<'_, R, E>, layout: &Layout) -> Result<(Self, Migration)> {
        Optimizer::migrate_with(snapshot, layout, R::clone)
    }

    /// An optimiser with another rule, and maybe another layout, that carries on from a snapshot:
    /// for a chain that grew or shrank, or a rule that is exchanged for a relative. `change` makes
    /// of each group's old configuration the new one.
    ///
    /// A stage goes on from one that has all of its vectors, by their names, and its counters:
    /// AdamW's from Adam's or Lamb's, behind whatever stages. One that would have only some of them
    /// begins anew with all, at step 0, as AdaBelief's behind Adam: an old count would correct the
    /// bias of moments that are new. So does one of which it is not clear from which of several it
    /// goes on. The [`Migration`] lists the vectors that start at zero and those that were given
    /// up. Leaves are found as by [`migrate`](Optimizer::migrate).
    ///
    /// # Errors
    /// `is_invalid_state`: the snapshot contradicts itself. `is_argument`: a configuration, old or
    /// new, that its rule refuses. `is_out_of_memory`: no memory for a state vector.
    ///
    /// ```
    /// use flatleaf::optim::{Adam, ClipNorm, Optimizer};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0] });
    /// let layout = Layout::of(&model)?;
    /// let mut optimizer = Optimizer::new(Adam::default(), &layout)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0] }))?;
    ///
    /// let clip = ClipNorm { max: 1.0, ..Default::default() };
    /// let (clipped, migration) = Optimizer::migrate_with(optimizer.snapshot(), &layout, |adam: &Adam| (clip, *adam))?;
    /// assert_eq!(clipped.state_of("exp_avg"), optimizer.state_of("exp_avg"));
    /// assert_eq!(migration, Default::default()); // everything was carried over
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn migrate_with<Q: Rule>(
        snapshot: Snapshot<'_, Q, E>,
        layout: &Layout,
        change: impl FnMut(&Q) -> R,
    ) -> Result<(Self, Migration)> {
        snapshot.check_is_whole()?;
        snapshot.validate()?;
        let groups: Vec<R> = snapshot.groups.iter().map(change).collect();
        // `change` is the caller's own code: what it made may be out of range.
        groups.iter().try_for_each(Rule::validate)?;
        let carried = Carried::between(&snapshot.groups[0], &groups[0]);
        let storage = snapshot.storage();
        let mut forms = forms(&groups[0], storage);
        // What is carried over stays in what it is kept in, and what is new follows the setting.
        for (form, carried) in forms.iter_mut().zip(&carried.vectors) {
            if let Some(carried) = carried {
                *form = snapshot.states[*carried].kept.form;
            }
        }
        let all = 0..layout.len();
        let rule = groups[0].clone();
        let mut optimizer = Optimizer::with_forms(rule, layout, all, (&forms, storage))?;
        optimizer.groups = groups;
        let mut migration = Migration::default();
        snapshot.note_states(&optimizer, &carried, &mut migration);
        let mut is_found = vec![false; layout.leaves().len()];
        for (saved, from) in snapshot.leaves.iter().zip(snapshot.of_leaves()) {
            // Two leaves of before may be places of one tie now: the first one gives its state.
            let index = layout.index_of(&saved.path);
            let Some(index) = index.filter(|&index| !is_found[index]) else {
                migration.removed.push(saved.path.clone());
                continue;
            };
            is_found[index] = true;
            let leaf = &layout.leaves()[index];
            if leaf.shape() != saved.shape {
                // Zero state is that of step 0: a bias correction by a later step would be wrong.
                let mut anew = saved.progress();
                anew.steps = 0;
                optimizer.progress.leaves[index] = anew;
                migration.reshaped.push(Reshaped {
                    path: leaf.path().to_owned(),
                    before: saved.shape.clone(),
                    now: leaf.shape().to_vec(),
                });
                continue;
            }
            let counted = (&saved.counted[..], &carried);
            optimizer.restore(index, saved.progress(), counted);
            let to = optimizer.leaf_kept(index);
            for (vector, carried) in carried.vectors.iter().enumerate() {
                let Some(carried) = *carried else {
                    continue;
                };
                // One of zeros is not in the snapshot, and is zeros in the optimiser already.
                if let Some(saved) = &snapshot.states[carried].elements {
                    let from = (saved.lent(), &from);
                    optimizer.states.copy(vector, &to, from);
                }
            }
        }
        for (leaf, is_found) in layout.leaves().iter().zip(is_found) {
            if !is_found {
                migration.added.push(leaf.path().to_owned());
            }
        }
        Ok((optimizer, migration))
    }
}

impl<R, E: FlatElement> Snapshot<'_, R, E> {
    /// How the vectors that are in fewer bytes are kept.
    fn storage(&self) -> Storage {
        // Vectors that are no moments stay full at 8 bits, so one that is packed tells the setting.
        let storages = self.states.iter().map(|state| state.kept.storage());
        let mut packed = storages.filter(|storage| *storage != Storage::Full);
        packed.next().unwrap_or_default()
    }
}

impl<R, E: FlatElement> Snapshot<'_, R, E> {
    /// Renames the leaves that a pattern matches, for [`Optimizer::migrate`] to a model in which a
    /// module has another name: `*` is any run within a segment, `**` as a segment any number of
    /// segments, and the same stars in the replacement stand for the same text. `model.**` to `**`
    /// takes a prefix off.
    ///
    /// # Errors
    /// `is_pattern`: the pattern matches no leaf, or the stars of the two differ. `is_duplicate`:
    /// two leaves would have one path.
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "block_0": { "w": [1.0] } });
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "block_0": { "w": [1.0] } }))?;
    ///
    /// let renamed = Layout::of(&tree!({ "blocks": [{ "w": [1.0] }] }))?;
    /// let snapshot = optimizer.snapshot().rename_matching("block_*.**", "blocks.*.**")?;
    /// let (migrated, migration) = Optimizer::migrate(snapshot, &renamed)?;
    /// assert_eq!((migrated.step_count("blocks.0.w"), migration), (Some(1), Default::default()));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn rename_matching(
        mut self,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Result<Self> {
        let leaves = self.leaves.iter_mut();
        let taken = leaves.map(|leaf| std::mem::take(&mut leaf.path));
        let mut paths: Vec<Cow<'_, str>> = taken.map(Cow::Owned).collect();
        let rename = Rename::Pattern {
            from: from.into(),
            to: to.into(),
        };
        rename.apply(&mut paths)?;
        // Two leaves of one name would both claim the state of one leaf of the layout.
        let mut seen = HashSet::new();
        if let Some(twice) = paths.iter().find(|path| !seen.insert(&***path)) {
            return Err(Error::duplicate(twice.to_string()));
        }
        for (leaf, path) in self.leaves.iter_mut().zip(paths) {
            leaf.path = path.into_owned();
        }
        Ok(self)
    }

    /// Lists the vectors of either side that have no other half.
    fn note_states<New: Rule>(
        &self,
        optimizer: &Optimizer<New, E>,
        carried: &Carried,
        migration: &mut Migration,
    ) {
        let names = optimizer.groups[0].states();
        for (name, from) in names.into_iter().zip(&carried.vectors) {
            let Some(from) = *from else {
                migration.added_states.push(name.to_owned());
                continue;
            };
            let state = &self.states[from];
            if state.was != state.kept {
                let name = state.name.to_string();
                migration.stored_otherwise.push(name);
            }
        }
        for (index, state) in self.states.iter().enumerate() {
            let is_carried = carried.vectors.contains(&Some(index));
            if !is_carried {
                let name = state.name.to_string();
                migration.removed_states.push(name);
            }
        }
    }
}

impl<R: Rule> Snapshot<'_, R> {
    /// Has the state kept otherwise by who takes it up: an optimiser that is migrated to `bf16` or
    /// to 8 bits, or from there back to `f32`. What is rounded is rounded to the nearest, once.
    ///
    /// ```
    /// use flatleaf::optim::{AdamW, Optimizer, Rounding, Storage};
    /// use flatleaf::Layout;
    ///
    /// let layout = Layout::of(&vec![0.0_f32; 1000])?;
    /// let optimizer = Optimizer::new(AdamW::default(), &layout)?;
    /// let snapshot = optimizer.snapshot().stored_in(Storage::Bf16(Rounding::default()));
    /// let (migrated, migration) = Optimizer::migrate(snapshot, &layout)?;
    /// assert_eq!((optimizer.state_bytes(), migrated.state_bytes()), (3 * 4000, 3 * 2000));
    /// assert_eq!(migration.stored_otherwise, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn stored_in(mut self, storage: Storage) -> Self {
        // One that was read may have no configuration, which who takes it up refuses.
        let forms = self.groups.first().map(|rule| forms(rule, storage));
        for (state, form) in self.states.iter_mut().zip(forms.unwrap_or_default()) {
            state.kept = Kept::new(form, storage);
        }
        if self.range.is_none() {
            self.version = version_of(&self.states);
        }
        self
    }
}

/// For those who store the state vectors apart from all else: a file of tensors.
#[cfg(feature = "safetensors")]
impl<R: RuleFor<E>, E: FlatElement> Optimizer<R, E> {
    /// All that is no state vector, and the vectors, with their names and in what they are kept, in
    /// their order. None is one of zeros. The range is not part of it: it is kept beside the
    /// vectors.
    pub(crate) fn snapshot_apart(&self) -> (Snapshot<'_, R, E>, Vec<NamedVector<'_, E>>) {
        let mut snapshot = self.snapshot();
        snapshot.range = None;
        snapshot.version = version_of(&snapshot.states);
        let mut vectors = Vec::new();
        for (vector, state) in snapshot.states.iter_mut().enumerate() {
            let saved = state.elements.take();
            let elements = saved.map(|_| self.states.lent(vector));
            let name = state.name.to_string();
            vectors.push((name, state.kept.form, elements));
        }
        (snapshot, vectors)
    }
}

/// The name of a state vector, in what it is kept, and its elements unless they are all zeros.
#[cfg(feature = "safetensors")]
type NamedVector<'s, E> = (String, Form, Option<LentVector<'s, E>>);

#[cfg(feature = "safetensors")]
impl<'s, R, E: FlatElement> Snapshot<'s, R, E> {
    /// The names of the state vectors, in their order, and in what they are kept.
    pub(crate) fn state_forms(&self) -> impl Iterator<Item = (&str, Form)> {
        let states = self.states.iter();
        states.map(|state| (&*state.name, state.kept.form))
    }

    /// Where the blocks of the leaves are in a vector of 8 bits.
    pub(crate) fn blocks(&self) -> Arc<BlockStarts> {
        Arc::new(BlockStarts::of(self.leaves.iter().map(SavedLeaf::len)))
    }

    /// Puts state vectors in again, in their order.
    pub(crate) fn put_states(&mut self, elements: Vec<Option<SavedElements<'s, E>>>) {
        for (state, elements) in self.states.iter_mut().zip(elements) {
            state.elements = elements;
        }
    }
}

impl SavedLeaf {
    /// Its elements; of a shape that was read and is beyond any memory, as many as there can be.
    fn len(&self) -> usize {
        let lens = self.shape.iter();
        lens.fold(1, |len: usize, axis| len.saturating_mul(*axis))
    }

    fn progress(&self) -> LeafProgress {
        LeafProgress {
            steps: self.steps,
            group: self.group,
            is_frozen: self.frozen,
        }
    }
}

impl<R: Rule, E: FlatElement> Snapshot<'_, R, E> {
    /// Where each leaf's elements are in the state vectors, of all leaves; call after
    /// [`validate`](Snapshot::validate).
    fn of_leaves(&self) -> impl Iterator<Item = OfLeaf> {
        let leaves = self.leaves.iter().enumerate();
        leaves.scan(0, |end, (index, leaf)| {
            let start = *end;
            *end += leaf.len();
            Some(OfLeaf {
                leaf: index,
                place: 0,
                range: start..*end,
            })
        })
    }

    /// Data that was read may say anything.
    fn validate(&self) -> Result<()> {
        let version = self.version;
        let number = version & !OF_F64;
        let is_known = (1..=VERSION).contains(&number);
        if !is_known && self.range.is_none() {
            let found = format!("version {version} of at most {VERSION}");
            return Err(Error::invalid_state(found));
        }
        let Some(first) = self.groups.first() else {
            return Err(Error::invalid_state("no configuration"));
        };
        self.groups.iter().try_for_each(Rule::validate)?;
        let groups = self.groups.len();
        let is_beyond = |leaf: &&SavedLeaf| leaf.group as usize >= groups;
        if let Some(leaf) = self.leaves.iter().find(is_beyond) {
            let found = format!("group {} of {groups}", leaf.group);
            return Err(Error::invalid_state(found).at(&leaf.path));
        }
        let names = self.states.iter().map(|state| &*state.name);
        let names: Vec<&str> = names.collect();
        let expected = first.states();
        if names != expected {
            let found = format!("state vectors {names:?}, the rule keeps {expected:?}");
            return Err(Error::invalid_state(found));
        }
        let Some(all) = self.checked_len() else {
            return Err(Error::invalid_state("shapes beyond any memory"));
        };
        let len = self.range.as_ref().map_or(all, Range::len);
        self.check_kept()?;
        for SavedState { name, elements, .. } in &self.states {
            // A vector of zeros is left out, and has any length.
            let Some(elements) = elements else {
                continue;
            };
            if !elements.has_len(len) {
                let found = format!("a state vector `{name}` of another length than {len}");
                return Err(Error::invalid_state(found));
            }
        }
        Ok(())
    }

    /// How many elements all leaves have; none if no number says it.
    fn checked_len(&self) -> Option<usize> {
        let mut sum = 0_usize;
        for leaf in &self.leaves {
            let mut len = 1_usize;
            for &axis in &leaf.shape {
                len = len.checked_mul(axis)?;
            }
            sum = sum.checked_add(len)?;
        }
        Some(sum)
    }

    /// # Errors
    /// Vectors in fewer bytes that are kept in several ways, or are not of f32.
    fn check_kept(&self) -> Result<()> {
        let storage = self.storage();
        let is_of_f32 = E::DTYPE == Dtype::F32;
        for SavedState { name, kept, .. } in &self.states {
            let own = kept.storage();
            if own == Storage::Full || (own == storage && is_of_f32) {
                continue;
            }
            let found = format!("the state vector `{name}` in {own:?}");
            return Err(Error::invalid_state(found));
        }
        Ok(())
    }

    /// # Errors
    /// It is a snapshot of one member of a sharded run.
    fn check_is_whole(&self) -> Result<()> {
        let Some(Range { start, end }) = self.range.clone() else {
            return Ok(());
        };
        let advice = "`Optimizer::resume_range` puts those of all members together";
        let found = format!("the state of elements {start}..{end} only ({advice})");
        Err(Error::invalid_state(found))
    }

    /// # Errors
    /// It contradicts itself, or is of another layout.
    pub(super) fn check_is_of(&self, layout: &Layout) -> Result<()> {
        self.validate()?;
        self.check_same(layout)
    }

    /// Which elements of the flat vector it has the state of.
    pub(super) fn range(&self, layout: &Layout) -> Range<usize> {
        self.range.clone().unwrap_or(0..layout.len())
    }

    /// In what another snapshot of the same layout is not as far as this one, but for vectors.
    pub(super) fn difference_from(&self, other: &Self) -> Option<&'static str> {
        let leaves = self.leaves.iter().zip(&other.leaves);
        for (a, b) in leaves.clone() {
            if a.steps != b.steps || a.counted != b.counted {
                return Some("step");
            }
        }
        for (a, b) in self.states.iter().zip(&other.states) {
            if a.kept != b.kept {
                return Some("storage");
            }
        }
        for (a, b) in leaves {
            // By content: members may have made like groups in another order.
            let rule = &self.groups[a.group as usize];
            let other_rule = &other.groups[b.group as usize];
            if rule != other_rule || a.frozen != b.frozen {
                return Some("setting");
            }
        }
        None
    }

    /// An optimiser that is as far, of a range, with vectors of zeros; call after
    /// [`check_is_of`](Snapshot::check_is_of).
    pub(super) fn resumed_without_vectors(
        &self,
        layout: &Layout,
        range: Range<usize>,
    ) -> Result<Optimizer<R, E>>
    where
        R: RuleFor<E>,
    {
        let rule = &self.groups[0];
        let forms = self.states.iter().map(|state| state.kept.form);
        let forms: Vec<Form> = forms.collect();
        let kept = (&forms[..], self.storage());
        let mut optimizer = Optimizer::with_forms(rule.clone(), layout, range, kept)?;
        optimizer.groups = self.groups.clone();
        // The rule is the one of before, so every vector and counter stays in its place.
        let carried = Carried::between(rule, rule);
        for (index, saved) in self.leaves.iter().enumerate() {
            let counted = (&saved.counted[..], &carried);
            optimizer.restore(index, saved.progress(), counted);
        }
        Ok(optimizer)
    }

    /// Copies the state of some elements, of which this snapshot has all.
    pub(super) fn copy_vectors(
        &self,
        layout: &Layout,
        elements: Range<usize>,
        optimizer: &mut Optimizer<R, E>,
    ) {
        let own = self.range(layout);
        for (index, leaf) in layout.leaves().iter().enumerate() {
            let leaf = leaf.range();
            let piece = intersection(&leaf, &elements);
            if piece.is_empty() {
                continue;
            }
            // In the vectors of a range, of which the leaf may begin before it does.
            let within = |range: &Range<usize>| {
                let first = leaf.start.max(range.start).min(piece.start);
                OfLeaf {
                    leaf: index,
                    place: piece.start - first,
                    range: piece.start - range.start..piece.end - range.start,
                }
            };
            let from = within(&own);
            let to = within(&optimizer.range);
            for (vector, saved) in self.states.iter().enumerate() {
                if let Some(saved) = &saved.elements {
                    let from = (saved.lent(), &from);
                    optimizer.states.copy(vector, &to, from);
                }
            }
        }
    }

    /// Lists the leaves that differ.
    fn check_same(&self, layout: &Layout) -> Result<()> {
        // A file may name the fingerprint of one layout and the leaves of another.
        let is_same_length = self.leaves.len() == layout.leaves().len();
        let is_same = is_same_length && self.agrees(layout);
        if self.fingerprint == layout.fingerprint() && is_same {
            return Ok(());
        }
        let differences = self.differences(layout);
        // Migrated, a leaf of another shape would begin anew, so that is not advised.
        let same_shapes = !differences.iter().any(Difference::is_reshaped);
        let mut findings = Findings::default();
        for difference in differences {
            let expected = state(difference.expected);
            let mut found = state(difference.found);
            // Said once, behind the first of what may be thousands of leaves.
            if same_shapes && findings.is_empty() {
                found += ADVICE;
            }
            let error = Error::other_layout(expected, found);
            findings.add(error.at(difference.path));
        }
        // Leaf by leaf all is alike, so it is something else that goes into the fingerprint.
        if findings.is_empty() {
            let expected = "a snapshot whose ties, order, element types and frozen leaves have the fingerprint";
            let expected = format!("{expected} {:016x}", layout.fingerprint());
            let found = format!("{:016x}{ADVICE}", self.fingerprint);
            findings.add(Error::other_layout(expected, found));
        }
        findings.into_result()
    }

    fn differences<'d>(&'d self, layout: &'d Layout) -> Vec<Difference<'d>> {
        let saved = self.leaves.iter();
        let shapes = saved.map(|leaf| (&*leaf.path, &leaf.shape[..]));
        let shapes: HashMap<&str, &[usize]> = shapes.collect();
        let mut differences = Vec::new();
        for leaf in layout.leaves() {
            let expected = Some(leaf.shape());
            let found = shapes.get(leaf.path()).copied();
            if expected != found {
                differences.push(Difference {
                    path: leaf.path(),
                    expected,
                    found,
                });
            }
        }
        for saved in &self.leaves {
            // A layout finds a tied leaf by any of its places, and only one of them is its name.
            let leaf = layout.leaf(&saved.path);
            if leaf.is_none_or(|leaf| leaf.path() != saved.path) {
                differences.push(Difference {
                    path: &saved.path,
                    expected: None,
                    found: Some(&saved.shape),
                });
            }
        }
        differences
    }

    fn agrees(&self, layout: &Layout) -> bool {
        let leaves = layout.leaves().iter();
        let mut pairs = self.leaves.iter().zip(leaves);
        pairs.all(|(saved, leaf)| saved.path == leaf.path() && saved.shape == leaf.shape())
    }
}

/// A leaf that differs.
struct Difference<'d> {
    path: &'d str,
    /// Its shape in the layout, if it is there.
    expected: Option<&'d [usize]>,
    /// Its shape in the snapshot, if it is there.
    found: Option<&'d [usize]>,
}

impl Difference<'_> {
    fn is_reshaped(&self) -> bool {
        self.expected.is_some() && self.found.is_some()
    }
}

/// To those who resume a snapshot of another layout.
const ADVICE: &str = " (`Optimizer::migrate` takes over what the two have in common)";

fn state(shape: Option<&[usize]>) -> String {
    match shape {
        Some(shape) => format!("state of shape {shape:?}"),
        None => "no state".to_owned(),
    }
}
