//! An optimiser's state as plain data: kept, stored, and taken up again on the same layout or
//! carried to another.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::optimizer::{LeafProgress, Optimizer};
use super::rule::Rule;
use crate::error::{Error, Findings, Result};
use crate::layout::{Layout, Leaf};

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
/// (`serde_json` does with its feature `float_roundtrip`, and has no NaN and no infinity; binary
/// formats are smaller.) A rule of one's own derives `Serialize` and `Deserialize` too.
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
#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Snapshot<'s, R> {
    fingerprint: u64,
    groups: Vec<R>,
    leaves: Vec<SavedLeaf>,
    states: Vec<SavedState<'s>>,
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
}

#[derive(Clone, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
struct SavedState<'s> {
    name: Cow<'s, str>,
    /// None of a vector that is all zeros.
    elements: Option<Cow<'s, [f32]>>,
}

/// What a migration found different.
///
/// ```
/// use flatleaf::optim::{Migration, Optimizer, Sgd};
/// use flatleaf::{tree, Layout};
///
/// let optimizer = Optimizer::new(Sgd::default(), &Layout::of(&tree!({ "body": [1.0], "old": [1.0] }))?)?;
/// let (_, migration) = Optimizer::migrate(optimizer.snapshot(), &Layout::of(&tree!({ "body": [1.0], "new": [1.0] }))?)?;
/// assert_eq!(migration, Migration { added: vec!["new".into()], removed: vec!["old".into()] });
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// Paths of leaves that begin at step 0, by the first configuration.
    pub added: Vec<String>,
    /// Paths of leaves whose state was given up.
    pub removed: Vec<String>,
}

impl<R: Rule> Optimizer<R> {
    /// All that it knows, as plain data. Copies no vector; reads all of them once.
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
    pub fn snapshot(&self) -> Snapshot<'_, R> {
        let leaf = |(leaf, progress): (&Leaf, &LeafProgress)| SavedLeaf {
            path: leaf.path().to_owned(),
            shape: leaf.shape().to_vec(),
            steps: progress.steps,
            group: progress.group,
            frozen: progress.is_frozen,
        };
        let is_zero = |elements: &[f32]| elements.iter().all(|x| x.to_bits() == 0);
        let state = |(name, elements)| SavedState {
            name: Cow::Borrowed(name),
            elements: (!is_zero(elements)).then_some(elements.into()),
        };
        Snapshot {
            fingerprint: self.layout.fingerprint(),
            groups: self.groups.clone(),
            leaves: self
                .layout
                .leaves()
                .iter()
                .zip(&self.leaves)
                .map(leaf)
                .collect(),
            states: self.state().map(state).collect(),
        }
    }

    /// An optimiser that goes on where the snapshot was taken, bit for bit. Vectors that the
    /// snapshot owns are taken over, borrowed ones are copied.
    ///
    /// # Errors
    /// A snapshot of another layout, with the paths that differ ([`migrate`](Optimizer::migrate)
    /// takes it); one that contradicts itself; as [`new`](Optimizer::new).
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
    pub fn resume(snapshot: Snapshot<'_, R>, layout: &Layout) -> Result<Self> {
        snapshot.validate()?;
        snapshot.check_same(layout)?;
        let leaves = snapshot.leaves.iter().map(SavedLeaf::progress).collect();
        let mut optimizer = Optimizer::new(snapshot.groups[0].clone(), layout)?;
        optimizer.states = snapshot
            .states
            .into_iter()
            .zip(optimizer.states)
            .map(|(saved, zeros)| saved.elements.map_or(zeros, Cow::into_owned))
            .collect();
        Ok(Optimizer {
            groups: snapshot.groups,
            leaves,
            ..optimizer
        })
    }

    /// An optimiser for another layout, with the step counts, groups and state of those leaves
    /// whose path is one of the layout's, among all places of a tie. Other leaves begin at step 0,
    /// by the first configuration.
    ///
    /// # Errors
    /// A leaf that has another shape now; a snapshot that contradicts itself; as
    /// [`new`](Optimizer::new).
    ///
    /// ```
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{tree, Layout};
    ///
    /// let mut model = tree!({ "w": [1.0] });
    /// let mut optimizer = Optimizer::new(Sgd::default(), &Layout::of(&model)?)?;
    /// optimizer.update(&mut model, &tree!({ "w": [1.0] }))?;
    ///
    /// let grown = Layout::of(&tree!({ "w": [1.0], "b": [0.0] }))?;
    /// let (migrated, _) = Optimizer::migrate(optimizer.snapshot(), &grown)?;
    /// assert_eq!(["w", "b"].map(|path| migrated.step_count(path)), [Some(1), Some(0)]);
    ///
    /// let wider = Layout::of(&tree!({ "w": [1.0, 2.0] }))?;
    /// assert!(Optimizer::migrate(optimizer.snapshot(), &wider).unwrap_err().is_shape());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn migrate(snapshot: Snapshot<'_, R>, layout: &Layout) -> Result<(Self, Migration)> {
        snapshot.validate()?;
        let mut optimizer = Optimizer::new(snapshot.groups[0].clone(), layout)?;
        optimizer.groups.clone_from(&snapshot.groups);
        let (mut migration, mut is_carried) =
            (Migration::default(), vec![false; layout.leaves().len()]);
        let mut findings = Findings::default();
        for (saved, from) in snapshot.leaves.iter().zip(snapshot.ranges()) {
            match layout.index_of(&saved.path) {
                None => migration.removed.push(saved.path.clone()),
                Some(index) if layout.leaves()[index].shape() != saved.shape => {
                    findings.add(Error::shape(
                        saved.path.clone(),
                        &saved.shape,
                        layout.leaves()[index].shape(),
                    ));
                }
                Some(index) if is_carried[index] => migration.removed.push(saved.path.clone()),
                Some(index) => {
                    is_carried[index] = true;
                    optimizer.leaves[index] = saved.progress();
                    let to = layout.leaves()[index].range();
                    let states = optimizer.states.iter_mut().zip(&snapshot.states);
                    states.for_each(|(state, saved)| {
                        saved.copy_to(from.clone(), &mut state[to.clone()])
                    });
                }
            }
        }
        findings.into_result()?;
        let added = layout
            .leaves()
            .iter()
            .zip(is_carried)
            .filter(|leaf| !leaf.1);
        migration.added = added.map(|(leaf, _)| leaf.path().to_owned()).collect();
        Ok((optimizer, migration))
    }
}

impl SavedLeaf {
    fn progress(&self) -> LeafProgress {
        LeafProgress {
            steps: self.steps,
            group: self.group,
            is_frozen: self.frozen,
        }
    }
}

impl SavedState<'_> {
    fn copy_to(&self, from: Range<usize>, to: &mut [f32]) {
        if let Some(elements) = &self.elements {
            to.copy_from_slice(&elements[from]);
        }
    }
}

impl<R: Rule> Snapshot<'_, R> {
    /// Where each leaf's elements are in the state vectors; call after
    /// [`validate`](Snapshot::validate).
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.leaves.iter().scan(0, |end, leaf| {
            let start = *end;
            *end += leaf.shape.iter().product::<usize>();
            Some(start..*end)
        })
    }

    /// Data that was read may say anything.
    fn validate(&self) -> Result<()> {
        let Some(first) = self.groups.first() else {
            return Err(Error::invalid_state("no configuration"));
        };
        self.groups.iter().try_for_each(Rule::validate)?;
        if let Some(leaf) = self
            .leaves
            .iter()
            .find(|leaf| leaf.group as usize >= self.groups.len())
        {
            return Err(Error::invalid_state(format!(
                "group {} of {}",
                leaf.group,
                self.groups.len()
            ))
            .at(&leaf.path));
        }
        let names: Vec<&str> = self.states.iter().map(|state| &*state.name).collect();
        if names != first.states() {
            return Err(Error::invalid_state(format!(
                "state vectors {names:?}, the rule keeps {:?}",
                first.states()
            )));
        }
        let elements = |leaf: &SavedLeaf| {
            leaf.shape
                .iter()
                .try_fold(1_usize, |product, &len| product.checked_mul(len))
        };
        let len = self
            .leaves
            .iter()
            .try_fold(0_usize, |sum, leaf| sum.checked_add(elements(leaf)?));
        let Some(len) = len else {
            return Err(Error::invalid_state("shapes beyond any memory"));
        };
        let is_wrong = |state: &&SavedState<'_>| {
            state
                .elements
                .as_ref()
                .is_some_and(|elements| elements.len() != len)
        };
        match self.states.iter().find(is_wrong) {
            Some(state) => Err(Error::invalid_state(format!(
                "a state vector `{}` of another length than {len}",
                state.name
            ))),
            None => Ok(()),
        }
    }

    /// Lists the leaves that differ.
    fn check_same(&self, layout: &Layout) -> Result<()> {
        if self.fingerprint == layout.fingerprint()
            && self.leaves.len() == layout.leaves().len()
            && self.agrees(layout)
        {
            return Ok(());
        }
        let differences = self.differences(layout);
        let same_shapes = differences
            .iter()
            .all(|(_, expected, found)| expected.is_none() || found.is_none());
        let advice = |findings: &Findings| {
            if same_shapes && findings.is_empty() {
                ADVICE
            } else {
                ""
            }
        };
        let mut findings = Findings::default();
        for (path, expected, found) in differences {
            let found = state(found) + advice(&findings);
            findings.add(Error::other_layout(state(expected), found).at(path));
        }
        if findings.is_empty() {
            let expected = "a snapshot whose ties, order, element types and frozen leaves have the fingerprint";
            let (expected, found) = (
                format!("{expected} {:016x}", layout.fingerprint()),
                format!("{:016x}{ADVICE}", self.fingerprint),
            );
            findings.add(Error::other_layout(expected, found));
        }
        findings.into_result()
    }

    fn differences<'d>(&'d self, layout: &'d Layout) -> Vec<Difference<'d>> {
        let saved: HashMap<&str, &[usize]> = self
            .leaves
            .iter()
            .map(|leaf| (&*leaf.path, &leaf.shape[..]))
            .collect();
        let expected = layout.leaves().iter().map(|leaf| {
            (
                leaf.path(),
                Some(leaf.shape()),
                saved.get(leaf.path()).copied(),
            )
        });
        let is_gone = |saved: &&SavedLeaf| {
            layout
                .leaf(&saved.path)
                .is_none_or(|leaf| leaf.path() != saved.path)
        };
        let gone = self
            .leaves
            .iter()
            .filter(is_gone)
            .map(|saved| (&*saved.path, None, Some(&saved.shape[..])));
        expected
            .filter(|(_, expected, found)| expected != found)
            .chain(gone)
            .collect()
    }

    fn agrees(&self, layout: &Layout) -> bool {
        self.leaves
            .iter()
            .zip(layout.leaves())
            .all(|(saved, leaf)| saved.path == leaf.path() && saved.shape == leaf.shape())
    }
}

/// The path of a leaf that differs, and its shape in the layout and in the snapshot, where it is
/// there.
type Difference<'d> = (&'d str, Option<&'d [usize]>, Option<&'d [usize]>);

/// To those who resume a snapshot of another layout.
const ADVICE: &str = " (`Optimizer::migrate` takes over what the two have in common)";

fn state(shape: Option<&[usize]>) -> String {
    shape.map_or("no state".into(), |shape| {
        format!("state of shape {shape:?}")
    })
}
