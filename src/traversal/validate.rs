//! Everything is checked before anything is written: one walk over a tree that compares it with a
//! layout and moves nothing.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytemuck::Pod;

use crate::element::Dtype;
use crate::error::{Error, Findings, FirstError, Result};
use crate::layout::{Cursor, LayoutData, LeafId, NodeId, NodeKind, Place};
use crate::traversal::place_elements::elements_of;
use crate::tree::axes::AxisMap;
use crate::tree::{Guarded, Identity, Key, LeafRef, Source, Tree, UnderGuard, Visitor};

/// What a tree is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Every leaf is there; tied places agree.
    ReadValues,
    /// What is there belongs to the layout; the rest is absent.
    ReadGradients,
    /// Every leaf is there and can be written, in place.
    WriteTrainable,
    /// The same, and tied places agree.
    Change,
    /// The same for the leaves that are not trainable.
    WriteOthers,
    /// The leaves that are not trainable are there.
    ReadOthers,
    /// Every leaf is there, to make a new tree.
    Rebuild,
}

impl Purpose {
    fn is_writing(self) -> bool {
        matches!(
            self,
            Purpose::WriteTrainable | Purpose::Change | Purpose::WriteOthers
        )
    }

    fn compares(self) -> bool {
        matches!(self, Purpose::ReadValues | Purpose::Change)
    }

    fn moves_trainable(self) -> bool {
        !matches!(self, Purpose::WriteOthers | Purpose::ReadOthers)
    }

    /// Whether elements of such a leaf are moved.
    fn moves(self, leaf: LeafId) -> bool {
        leaf.trainable == self.moves_trainable()
    }
}

/// Takes the leaves of a tree.
pub(crate) trait Take<'a> {
    /// Whether the leaf at a place is wanted at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there.
    fn take(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()>;

    /// A node that others may hold too begins here, and so does what is in it.
    fn enter_shared(&mut self) {}

    fn leave_shared(&mut self) {}
}

/// Checks a tree.
///
/// # Errors
/// All leaves that disagree, in one; or the first that keeps the walk from going on.
pub(crate) fn check<T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &T,
    purpose: Purpose,
) -> Result<Contents> {
    check_and_take(layout, tree, purpose, &mut Nothing)
}

/// Checks a tree and hands its leaves on as it goes: for output that nobody sees if the check
/// fails.
///
/// # Errors
/// As [`check`], and what `take` returns.
pub(crate) fn check_and_take<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a T,
    purpose: Purpose,
    take: &mut impl Take<'a>,
) -> Result<Contents> {
    let mut check = Check::new(layout, purpose, take);
    tree.visit(&mut check)
        .map_err(|error| error.or_at(|| check.cursor.path()))?;
    check.finish()
}

/// Takes no leaf.
struct Nothing;

impl<'a> Take<'a> for Nothing {
    #[inline]
    fn wants(&self, _place: &Place) -> bool {
        false
    }

    fn take(&mut self, _place: &Place, _leaf: &LeafRef<'_, 'a>) -> Result<()> {
        Ok(())
    }
}

/// What a check found out about a tree besides.
#[derive(Default)]
pub(crate) struct Contents {
    /// What is below its shared nodes.
    shared: HashMap<Identity, Content>,
    /// Trainable leaves whose elements are not in row-major order.
    strided: HashSet<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Content {
    /// A leaf that is moved, outside of any cell. One without elements does not count: it may be
    /// trainable at one place of the node and frozen at another.
    pub(crate) plain: bool,
    /// A leaf that is moved, in a cell.
    pub(crate) guarded: bool,
    pub(crate) cells: bool,
}

impl Contents {
    pub(crate) fn of(&self, identity: &Identity) -> Option<Content> {
        self.shared.get(identity).copied()
    }

    pub(crate) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    pub(crate) fn is_strided(&self, leaf: usize) -> bool {
        self.strided.contains(&(leaf as u32))
    }
}

impl Content {
    /// Nothing in it is moved and nothing can change.
    pub(crate) fn is_constant(self) -> bool {
        !self.plain && !self.guarded && !self.cells
    }
}

struct Check<'l, 't, 'a, T> {
    layout: &'l LayoutData,
    take: &'t mut T,
    purpose: Purpose,
    cursor: Cursor<'l>,
    seen: Seen,
    findings: Findings,
    failed: FirstError,
    shared: HashMap<Identity, SharedNode>,
    open: Vec<Open>,
    cells: usize,
    /// The level from which on nothing can be written.
    read_only_from: usize,
    /// Whether trainable leaves are moved and nothing around the one that comes next asks for a
    /// closer look.
    is_plain_here: bool,
    ties: HashMap<LeafId, Tied<'a>>,
    /// Where leaves with an identity of their own were met first.
    identified: HashMap<Identity, NodeId>,
    strided: HashSet<u32>,
}

struct SharedNode {
    node: Option<NodeId>,
    /// Known once it has been left.
    content: Option<Content>,
    has_leaf: bool,
}

/// A shared node that is being visited.
struct Open {
    identity: Identity,
    content: Content,
    /// The number of cells around it.
    cells: usize,
    has_leaf: bool,
    /// Whether it has been visited before, at another place of the same leaves.
    again: bool,
}

/// A tied leaf as it was met first.
struct Tied<'a> {
    node: NodeId,
    elements: Exact<'a>,
}

/// A leaf's elements in a type that holds them without loss.
enum Exact<'a> {
    F32(Cow<'a, [f32]>),
    F64(Cow<'a, [f64]>),
}

impl<'a> Exact<'a> {
    fn of(layout: &LayoutData, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<Self> {
        match leaf.dtype {
            Dtype::F64 => elements_of(layout, place, leaf).map(Exact::F64),
            _ => elements_of(layout, place, leaf).map(Exact::F32),
        }
    }

    fn has_same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Exact::F32(a), Exact::F32(b)) => same_bits::<_, u32>(a, b),
            (Exact::F64(a), Exact::F64(b)) => same_bits::<_, u64>(a, b),
            _ => false,
        }
    }
}

fn same_bits<E: Pod, Bits: Pod + PartialEq>(a: &[E], b: &[E]) -> bool {
    std::ptr::eq(a, b) || bytemuck::cast_slice::<_, Bits>(a) == bytemuck::cast_slice::<_, Bits>(b)
}

impl<'l, 't, 'a, T: Take<'a>> Check<'l, 't, 'a, T> {
    fn new(layout: &'l LayoutData, purpose: Purpose, take: &'t mut T) -> Self {
        Check {
            layout,
            take,
            purpose,
            cursor: Cursor::new(&layout.paths),
            seen: Seen::default(),
            findings: Findings::default(),
            failed: FirstError::default(),
            shared: HashMap::new(),
            open: Vec::new(),
            cells: 0,
            read_only_from: usize::MAX,
            is_plain_here: purpose.moves_trainable(),
            ties: HashMap::new(),
            identified: HashMap::new(),
            strided: HashSet::new(),
        }
    }

    fn finish(mut self) -> Result<Contents> {
        std::mem::take(&mut self.failed).into_result()?;
        if self.purpose != Purpose::ReadGradients {
            self.find_missing();
        }
        self.findings.into_result()?;
        let closed = self
            .shared
            .into_iter()
            .filter_map(|(identity, node)| Some((identity, node.content?)));
        Ok(Contents {
            shared: closed.collect(),
            strided: self.strided,
        })
    }

    fn find_missing(&mut self) {
        for index in self.seen.missing(self.layout.places.len()) {
            if self.findings.is_full() {
                self.findings.count(1);
                continue;
            }
            let place = &self.layout.places[index];
            let expected = format!("a leaf of shape {:?}", &place.shape[..]);
            self.findings.add(Error::missing(
                self.layout.paths.render(place.node),
                expected,
            ));
        }
    }

    /// Whether there is nothing to say about a leaf: it is as the layout has it, at its only place,
    /// and lends its slice.
    #[inline]
    fn is_plain(&self, place: &Place, leaf: &LeafRef<'_, 'a>) -> bool {
        let lent = matches!(leaf.source, Source::Borrowed(_));
        self.is_plain_here
            && place.plain
            && lent
            && leaf.dtype == place.dtype
            && place.has_shape(leaf.shape)
    }

    #[inline]
    fn met_leaf(&mut self, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if let Some(open) = self.open.last_mut() {
            open.has_leaf = true;
        }
        let Some(index) = self.cursor.place() else {
            self.unknown(format!("a leaf of shape {:?}", leaf.shape));
            return Ok(());
        };
        if !self.seen.mark(index) {
            return Err(Error::duplicate(self.cursor.path()));
        }
        let place = self.layout.place(index);
        if !self.is_plain(place, leaf) {
            self.known_leaf(place, leaf)?;
        }
        if self.findings.is_empty() && self.take.wants(place) {
            self.take.take(place, leaf)
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn known_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let ignored = self.purpose == Purpose::ReadGradients && place.frozen;
        if ignored || !self.purpose.moves(place.leaf) {
            return Ok(());
        }
        if !place.has_shape(leaf.shape) {
            self.findings
                .add(Error::shape(self.cursor.path(), &place.shape, leaf.shape));
            return Ok(());
        }
        if place.len > 0 {
            self.note_content();
        }
        let is_known_object = self.meet_identity(place, leaf)?;
        if self.purpose == Purpose::Rebuild && matches!(leaf.source, Source::Reader(_)) {
            self.strided.insert(place.leaf.index);
        }
        self.check_type(place.dtype, leaf.dtype);
        self.check_writable();
        let is_to_compare = self.purpose.compares() && !place.plain && !is_known_object;
        if is_to_compare {
            self.compare_tied(place, leaf)
        } else {
            Ok(())
        }
    }

    /// Whether a leaf with an identity of its own has been met at another place of the same
    /// parameter.
    fn meet_identity(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<bool> {
        let Some(identity) = leaf.identity.filter(|_| place.len > 0) else {
            return Ok(false);
        };
        let first = *self
            .identified
            .entry(identity.clone())
            .or_insert(place.node);
        if first == place.node {
            return Ok(false);
        }
        let same = self.moved_below(first).eq(self.moved_below(place.node));
        self.check_tie(first, place.node, same).map(|()| same)
    }

    #[inline]
    fn check_type(&mut self, known: Dtype, found: Dtype) {
        let (fits, expected) = match self.purpose {
            Purpose::ReadGradients => (found.is_float(), "a gradient of floats"),
            _ => (found == known, known.name()),
        };
        if !fits {
            self.findings.add(Error::element_type(
                self.cursor.path(),
                expected.into(),
                found.to_string(),
            ));
        }
    }

    #[inline]
    fn check_writable(&mut self) {
        if self.cursor.levels() >= self.read_only_from && self.purpose.is_writing() {
            self.findings
                .add(Error::read_only("one that can only be read").or_at(|| self.cursor.path()));
        }
    }

    fn look_around(&mut self) {
        self.is_plain_here = self.purpose.moves_trainable()
            && self.open.is_empty()
            && self.read_only_from == usize::MAX;
    }

    #[inline]
    fn note_content(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.content.guarded |= self.cells > open.cells;
            open.content.plain |= self.cells == open.cells;
        }
    }

    /// Places of one leaf hold the same bits, unless they are the same object, which need not be
    /// read twice.
    fn compare_tied(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if leaf.dtype != place.dtype || self.open.iter().any(|open| open.again) {
            return Ok(());
        }
        let elements = Exact::of(self.layout, place, leaf)?;
        match self.ties.entry(place.leaf) {
            Entry::Vacant(new) => {
                new.insert(Tied {
                    node: place.node,
                    elements,
                });
            }
            Entry::Occupied(first) if first.get().elements.has_same_bits(&elements) => {}
            Entry::Occupied(first) => {
                let (first, second) = (
                    self.layout.paths.render(first.get().node),
                    self.layout.paths.render(place.node),
                );
                self.findings.add(Error::broken_tie(
                    first,
                    second,
                    "equal values at the places of one parameter",
                    "different ones",
                ));
            }
        }
        Ok(())
    }

    fn unknown(&mut self, found: String) {
        let known = *self.layout.paths.node(self.cursor.known());
        let is_known = self.cursor.node().is_some();
        let (ignored, expected) = match known.kind {
            NodeKind::NoLeaf(number) => (true, expected_of_no_leaf(number)),
            NodeKind::Place(index) => (
                !self.layout.place(index).leaf.trainable,
                "nothing below a leaf",
            ),
            NodeKind::Branch if is_known && known.end > self.cursor.known() + 1 => {
                (self.holds_no_leaf(self.cursor.known()), "a branch")
            }
            NodeKind::Branch if is_known => (false, "nothing"),
            NodeKind::Branch => (false, "a path that the layout has"),
        };
        if self.purpose == Purpose::ReadGradients && (ignored || known.frozen) {
            return;
        }
        let path = self.cursor.path();
        let meant = if self.findings.is_full() {
            None
        } else {
            self.layout.meant(&path)
        };
        let hint = meant
            .map(|meant| format!("; did you mean `{meant}`?"))
            .unwrap_or_default();
        self.findings
            .add(Error::unknown(path, expected, found + &hint));
    }

    /// Whether a branch is a field without parameters: a list of strings, a pair of numbers.
    fn holds_no_leaf(&self, node: NodeId) -> bool {
        let mut kinds =
            (node..self.layout.paths.node(node).end).map(|node| self.layout.paths.node(node).kind);
        self.layout.places_below(node).next().is_none()
            && kinds.any(|kind| matches!(kind, NodeKind::NoLeaf(_)))
    }

    /// Remembers an error, should the tree keep it to itself.
    #[cold]
    fn noted(&mut self, error: Error) -> Error {
        self.failed.note(error, || self.cursor.path())
    }

    fn first_visit(&mut self, identity: &Identity) -> bool {
        let node = self.cursor.node();
        match self.shared.entry(identity.clone()) {
            Entry::Vacant(new) => {
                new.insert(SharedNode {
                    node,
                    content: None,
                    has_leaf: false,
                });
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// The leaves that are moved there, each as its place shows it.
    fn moved_below(&self, node: NodeId) -> impl Iterator<Item = (LeafId, &Option<Box<AxisMap>>)> {
        let places = self
            .layout
            .places_below(node)
            .filter(|place| self.purpose.moves(place.leaf) && place.len > 0);
        places.map(|place| (place.leaf, &place.axes))
    }

    /// Two places of one node must be two places in the layout too: written as two parameters, one
    /// of them would be lost.
    fn check_tie(&self, first: NodeId, second: NodeId, same_leaves: bool) -> Result<()> {
        let reads = matches!(
            self.purpose,
            Purpose::ReadValues | Purpose::ReadGradients | Purpose::ReadOthers
        );
        if reads || same_leaves {
            return Ok(());
        }
        let (first, second) = (
            self.layout.paths.render(first),
            self.layout.paths.render(second),
        );
        Err(Error::broken_tie(
            first,
            second,
            "two parameters",
            "one shared node",
        ))
    }

    /// A leaf that is not the one that comes next, or has something about it.
    #[cold]
    #[inline(never)]
    fn other_leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.enter(key, frozen)?;
        self.leaf(leaf)?;
        self.leave(key);
        Ok(())
    }

    fn met_shared(&mut self, identity: Identity) -> Result<bool> {
        let again = !self.first_visit(&identity);
        let mut same_leaves = false;
        if again {
            let &SharedNode {
                node,
                content,
                has_leaf,
            } = &self.shared[&identity];
            if content.is_none() {
                return Err(Error::cycle(
                    node.map(|node| self.layout.paths.render(node))
                        .unwrap_or_default(),
                ));
            }
            let Some(here) = self.cursor.node() else {
                // Once more where the layout knows nothing: no need to look into it again to refuse
                // it.
                if has_leaf {
                    self.open.iter_mut().for_each(|open| open.has_leaf = true);
                    self.unknown("a shared node with leaves".into());
                }
                return Ok(false);
            };
            let around_is_same = self.open.last().is_some_and(|open| open.again);
            same_leaves = around_is_same
                || node.is_some_and(|first| self.moved_below(first).eq(self.moved_below(here)));
            node.map_or(Ok(()), |first| self.check_tie(first, here, same_leaves))?;
        }
        self.open.push(Open {
            identity,
            content: Content::default(),
            cells: self.cells,
            has_leaf: false,
            again: same_leaves,
        });
        self.take.enter_shared();
        self.look_around();
        Ok(true)
    }
}

impl<'a, T: Take<'a>> Visitor<'a> for Check<'_, '_, 'a, T> {
    #[inline]
    fn leaf(&mut self, leaf: LeafRef<'_, 'a>) -> Result<()> {
        self.met_leaf(&leaf).map_err(|error| self.noted(error))
    }

    #[inline]
    fn leaf_at(&mut self, key: Key<'_>, frozen: bool, leaf: LeafRef<'_, 'a>) -> Result<()> {
        if let Some(index) = self.cursor.next_leaf(key)
            && self.is_plain(self.layout.place(index), &leaf)
            && self.seen.mark_next(index)
        {
            let place = self.layout.place(index);
            if self.take.wants(place) {
                self.take.take(place, &leaf)?;
            }
            self.cursor.pass_leaf();
            return Ok(());
        }
        self.other_leaf_at(key, frozen, leaf)
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    /// Where the tree is to be written, the guard that is taken now is the one that writing will
    /// take.
    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        self.enter_guarded();
        let visited = if self.purpose.is_writing() {
            cell.write(&mut |content| content.visit(&mut UnderGuard(&mut *self)))
        } else {
            cell.read(&mut |content| content.visit(&mut UnderGuard(&mut *self)))
        };
        self.leave_guarded();
        visited.map_err(|error| self.noted(error))
    }

    fn read_only(&mut self) {
        self.read_only_from = self.read_only_from.min(self.cursor.levels());
        self.look_around();
    }

    #[inline]
    fn enter(&mut self, key: Key<'_>, _frozen: bool) -> Result<usize> {
        self.cursor.enter(key).map_err(|error| self.noted(error))
    }

    #[inline]
    fn leave(&mut self, key: Key<'_>) {
        self.cursor.leave(key);
        if self.cursor.levels() < self.read_only_from && self.read_only_from != usize::MAX {
            self.read_only_from = usize::MAX;
            self.look_around();
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.met_shared(identity).map_err(|error| self.noted(error))
    }

    fn leave_shared(&mut self) {
        let Some(closed) = self.open.pop() else {
            return;
        };
        self.take.leave_shared();
        self.look_around();
        if let Some(around) = self.open.last_mut() {
            around.has_leaf |= closed.has_leaf;
            let in_cell = closed.cells > around.cells;
            around.content.cells |= closed.content.cells || in_cell;
            around.content.plain |= closed.content.plain && !in_cell;
            around.content.guarded |= closed.content.guarded || closed.content.plain && in_cell;
        }
        if let Some(node) = self.shared.get_mut(&closed.identity) {
            node.content = Some(closed.content);
            node.has_leaf |= closed.has_leaf;
        }
    }

    fn enter_guarded(&mut self) {
        self.cells += 1;
        if let Some(open) = self.open.last_mut() {
            open.content.cells = true;
        }
    }

    fn leave_guarded(&mut self) {
        self.cells -= 1;
    }
}

/// What to do where a tree has a leaf and the model a field that is none.
fn expected_of_no_leaf(number: Option<Dtype>) -> &'static str {
    match number {
        None => "no leaf: the field holds no parameter",
        Some(dtype) if dtype.is_float() => {
            "no leaf: the field is a bare float, which is a parameter by `#[tree(param)]`"
        }
        Some(_) => {
            "no leaf: the field is a bare number, which is carried as a leaf by `Array0<…>`, \
             `Array0<i64>` say"
        }
    }
}

/// Which places have been met: those before `next`, as long as they come in order without a gap.
#[derive(Default)]
pub(crate) struct Seen {
    next: u32,
    marks: Option<Vec<bool>>,
}

impl Seen {
    /// Marks a place; false if it was marked before.
    #[inline]
    pub(crate) fn mark(&mut self, place: u32) -> bool {
        self.mark_next(place) || self.mark_out_of_order(place as usize)
    }

    /// Marks a place if it is the one that comes next.
    #[inline]
    pub(crate) fn mark_next(&mut self, place: u32) -> bool {
        let is_next = self.marks.is_none() && place == self.next;
        self.next += u32::from(is_next);
        is_next
    }

    #[cold]
    fn mark_out_of_order(&mut self, place: usize) -> bool {
        let marks = self
            .marks
            .get_or_insert_with(|| vec![true; self.next as usize]);
        if marks.len() <= place {
            marks.resize(place + 1, false);
        }
        !std::mem::replace(&mut marks[place], true)
    }

    pub(crate) fn missing(&self, count: usize) -> Vec<usize> {
        let is_marked = |place: &usize| match &self.marks {
            Some(marks) => marks.get(*place) == Some(&true),
            None => *place < self.next as usize,
        };
        (0..count).filter(|place| !is_marked(place)).collect()
    }
}
