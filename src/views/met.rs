//! The first of the two walks that make a view: a tree compared with a layout, and which places its
//! leaves are, in the order in which they are met.
//!
//! Nearly all trees are right, so this walk only notices that something is wrong. What it is, and
//! at how many leaves, is then for the validating walk, which is slower and knows.

use std::collections::HashMap;

use crate::element::Dtype;
use crate::error::{Error, Findings, Result};
use crate::layout::{Cursor, LayoutData, LeafId, NodeId};
use crate::traversal::purpose::Purpose;
use crate::traversal::seen_places::SeenPlaces;
use crate::traversal::validate::validate;
use crate::tree::axes::AxisMap;
use crate::tree::{Guarded, Identity, Key, LeafRef, Tree, Visitor};

/// What a walk has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A leaf, at this place.
    Leaf(u32),
    /// A shared node, by its index in [`Met::nodes`].
    Shared(u32),
}

/// The leaves of a tree in the order in which a walk meets them.
pub(super) enum Met {
    /// Each place of the layout, one after the other, none in a shared node: nearly every tree, for
    /// which nothing is listed.
    InOrder,
    Steps {
        steps: Vec<Step>,
        /// What is in each shared node, as it was met first.
        nodes: Vec<Node>,
    },
}

pub(super) struct Node {
    pub(super) steps: Vec<Step>,
    /// Where it was met first.
    pub(super) at: NodeId,
}

impl Met {
    /// Follows a tree that a view is asked of, over a vector of `dtype`.
    ///
    /// # Errors
    /// All trainable leaves of another type than the vector's, in one; or all leaves of the tree
    /// that disagree with the layout.
    pub(super) fn of<T>(layout: &LayoutData, tree: &T, dtype: Dtype) -> Result<Met>
    where
        T: Tree + ?Sized,
    {
        let mut meet = Meet {
            layout,
            dtype,
            cursor: Cursor::new(&layout.paths),
            seen: SeenPlaces::default(),
            count: 0,
            is_wrong: false,
            steps: None,
            nodes: Vec::new(),
            known: HashMap::new(),
            open: Vec::new(),
        };
        let visited = tree.visit(&mut meet);
        let is_wrong = meet.is_wrong || visited.is_err();
        if is_wrong || meet.count < layout.places.len() {
            check_types(layout, dtype)?;
            // A frozen leaf may be missing, and that is all that may be.
            validate(layout, tree, Purpose::Rebuild)?;
        }
        visited.map_err(|error| error.or_at(|| meet.cursor.path()))?;
        if is_wrong {
            return Err(Error::unstable("a tree that answers in two ways"));
        }
        if meet.steps.is_none() && meet.count == layout.places.len() {
            return Ok(Met::InOrder);
        }
        let steps = std::mem::take(meet.steps());
        let nodes = meet.nodes;
        Ok(Met::Steps { steps, nodes })
    }

    /// The steps and the shared nodes, listed.
    pub(super) fn into_steps(self, layout: &LayoutData) -> (Vec<Step>, Vec<Node>) {
        match self {
            Met::InOrder => {
                let places = 0..layout.places.len() as u32;
                (places.map(Step::Leaf).collect(), Vec::new())
            }
            Met::Steps { steps, nodes } => (steps, nodes),
        }
    }

    /// The places as they are read: what is in a shared node at each of its places. `None` if they
    /// are those of the layout, in order.
    pub(super) fn into_places(self) -> Option<Vec<u32>> {
        let Met::Steps { steps, nodes } = self else {
            return None;
        };
        let mut places = Vec::with_capacity(steps.len());
        push_places(&steps, &nodes, &mut places);
        Some(places)
    }
}

fn push_places(steps: &[Step], nodes: &[Node], places: &mut Vec<u32>) {
    for step in steps {
        match *step {
            Step::Leaf(place) => places.push(place),
            Step::Shared(node) => push_places(&nodes[node as usize].steps, nodes, places),
        }
    }
}

/// # Errors
/// Trainable leaves that a vector of `dtype` holds as numbers of another type.
#[cold]
fn check_types(layout: &LayoutData, dtype: Dtype) -> Result<()> {
    let mut findings = Findings::default();
    for leaf in layout.leaves.iter().filter(|leaf| leaf.dtype != dtype) {
        findings.add(Error::no_view(leaf.path().to_owned(), dtype, leaf.dtype));
    }
    findings.into_result()
}

struct Meet<'l> {
    layout: &'l LayoutData,
    /// Of the vector.
    dtype: Dtype,
    cursor: Cursor<'l>,
    seen: SeenPlaces,
    /// How many places have been met.
    count: usize,
    /// Remembered here too, should the tree keep an error to itself.
    is_wrong: bool,
    /// Of the innermost shared node that is open, or of the tree; `None` as long as every place has
    /// come in order.
    steps: Option<Vec<Step>>,
    nodes: Vec<Node>,
    known: HashMap<Identity, u32>,
    open: Vec<OpenNode>,
}

/// A shared node that the walk is in.
struct OpenNode {
    index: u32,
    is_known: bool,
    /// The steps of what is around it.
    around: Vec<Step>,
}

/// Nobody reads it, unless the tree answers in two ways.
#[cold]
fn something_else() -> Error {
    Error::unstable("a tree that is not as its layout has it")
}

impl Meet<'_> {
    #[inline]
    fn fits(&self, index: u32, leaf: &LeafRef<'_, '_>) -> bool {
        let place = self.layout.place(index);
        // What is not trainable is shown as the model has it.
        !place.leaf.trainable
            || (leaf.dtype == self.dtype
                && place.dtype == self.dtype
                && place.has_shape(leaf.shape))
    }

    #[inline]
    fn push(&mut self, index: u32) {
        // Only a place that comes in order may go without a list.
        if self.steps.is_some() || index as usize != self.count {
            self.steps().push(Step::Leaf(index));
        }
        self.count += 1;
    }

    /// The steps, listed from now on.
    #[inline(never)]
    fn steps(&mut self) -> &mut Vec<Step> {
        let in_order = 0..self.count as u32;
        self.steps
            .get_or_insert_with(|| in_order.map(Step::Leaf).collect())
    }

    #[cold]
    fn wrong(&mut self) -> Error {
        self.is_wrong = true;
        something_else()
    }

    /// Whether the same leaves were met in a node, each shown alike, as where it was met first.
    fn is_as_known(&self, first: u32, now: &[Step]) -> bool {
        let mut then = Vec::new();
        let mut again = Vec::new();
        self.push_moved(&self.nodes[first as usize].steps, &mut then);
        self.push_moved(now, &mut again);
        then == again
    }

    /// The trainable leaves in these steps, each as its place shows it. Those without elements are
    /// never tied.
    fn push_moved<'s>(
        &'s self,
        steps: &[Step],
        moved: &mut Vec<(LeafId, &'s Option<Box<AxisMap>>)>,
    ) {
        for step in steps {
            match *step {
                Step::Leaf(index) => {
                    let place = self.layout.place(index);
                    if place.leaf.trainable && place.len > 0 {
                        moved.push((place.leaf, &place.axes));
                    }
                }
                Step::Shared(node) => self.push_moved(&self.nodes[node as usize].steps, moved),
            }
        }
    }
}

impl<'a> Visitor<'a> for Meet<'_> {
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        match self.cursor.place() {
            Some(index) if self.fits(index, &leaf) && self.seen.mark(index) => self.push(index),
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    #[inline]
    fn leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        if let Some(index) = self.cursor.next_leaf(key)
            && self.fits(index, &leaf)
            && self.seen.mark_next(index)
        {
            self.push(index);
            self.cursor.pass_leaf();
            return Ok(());
        }
        self.enter(key, frozen)?;
        self.leaf(leaf)?;
        self.leave(key);
        Ok(())
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    fn guarded(&mut self, _cell: &'a dyn Guarded) -> Result<()> {
        // Cells have no view, so that only a tree by hand can show one.
        self.is_wrong = true;
        Err(Error::unstable("a view of what lies in a cell"))
    }

    #[inline]
    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        self.cursor.enter(key)
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.cursor.leave(key);
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        let Some(at) = self.cursor.node() else {
            return Err(self.wrong());
        };
        let known = self.known.get(&identity).copied();
        if known.is_some_and(|index| self.open.iter().any(|node| node.index == index)) {
            return Err(self.wrong());
        }
        let index = known.unwrap_or(self.nodes.len() as u32);
        if known.is_none() {
            self.known.insert(identity, index);
            let steps = Vec::new();
            self.nodes.push(Node { steps, at });
        }
        let around = std::mem::take(self.steps());
        self.open.push(OpenNode {
            index,
            is_known: known.is_some(),
            around,
        });
        Ok(true)
    }

    fn leave_shared(&mut self) {
        let node = self.open.pop().expect("entered before");
        let steps = std::mem::replace(self.steps(), node.around);
        // What is in a node that is met again is compared with that node as a whole.
        let is_inside_known = self.open.iter().any(|around| around.is_known);
        if !node.is_known {
            self.nodes[node.index as usize].steps = steps;
        } else if !is_inside_known && !self.is_as_known(node.index, &steps) {
            self.is_wrong = true;
        }
        self.steps().push(Step::Shared(node.index));
    }
}
