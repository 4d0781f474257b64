//! The validating walk: a tree compared with a layout, before anything is written.
//!
//! Every operation begins with it. It visits a tree once, follows it through the layout's paths
//! with a [`Cursor`], and compares each leaf that it meets with the layout's place there: shape,
//! element type, whether it can be written, whether the places of a tie agree. Disagreements are
//! collected, so that one error names all leaves that are wrong; only what makes it senseless to
//! go on (a cycle, a poisoned lock, a path that stands twice) ends the walk at once. Leaves that
//! are right are handed to a [`ReadLeaf`] on the way, which may keep slices but writes nothing that
//! anybody sees before the walk is over.
//!
//! # An example
//!
//! A model of three fields:
//!
//! ```text
//! embed: Arc<[1 2]>                 ─┐ one node, two handles: a tie
//! norm:  Rc<{ scale: RefCell<[3]>,   │
//!             mean: [4] (frozen) }>  │ a shared node with a cell in it
//! head:  Arc<[1 2]>                 ─┘
//! ```
//!
//! Its layout has two trainable leaves, `embed` (places `embed` and `head`) and `norm.scale`, and
//! another leaf, `norm.mean`. To write it in place, the walk does this:
//!
//! 1. It enters `embed`. The tree says: a shared node of this identity. It is new, so the walk
//!    remembers that it was met at `embed` and opens it. The leaf is known and is outside of any
//!    cell: the open node has an *unguarded leaf*. Leaving closes the node.
//! 2. It enters `norm`, another shared node, and opens it. `scale` is a cell: the walk takes the
//!    guard that writing will take later, so that a lock that cannot be had is an error now. The
//!    leaf in it is one *guarded leaf* of the open node, which *has a cell*. `mean` is not moved
//!    by this walk and says nothing about the node.
//! 3. It enters `head`: a shared node that has been met and closed before. The layout must know
//!    that: the leaves below `embed` and below `head` must be the same ones, each shown alike.
//!    Otherwise two parameters of the layout would be one piece of memory, and one of the two
//!    values would be lost: an error. They are the same, so nothing in it has to be compared with
//!    what was read at `embed`. (Had `head` been met while `embed` was still open, the node would
//!    contain itself: a cycle.)
//! 4. All places have been met, so no leaf is missing.
//!
//! What is left is a [`Validated`]: the node of `embed` has an unguarded leaf, so writing has to
//! replace it where others hold it too; the node of `norm` has guarded leaves only, so it stays and
//! is written through its cell. `in_place.rs` goes on with the example from here.
//!
//! # What was tried and dropped
//!
//! - Two walks, one that checks and one that reads: a third more instructions for small leaves than
//!   one walk that hands leaves on, to a reader that keeps slices until the walk is over.
//! - To skip a shared node that has been visited: cheaper, but then its places are not met one by
//!   one, and a layout that gives its two places different leaves goes unnoticed.
//! - One general path for all leaves. Nearly all leaves are lent slices at the place that comes
//!   next, with nothing around them. For these [`leaf_at`](Visitor::leaf_at) asks one question
//!   (`is_plain`) and moves on; all else goes the long way round.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::element::Dtype;
use crate::error::{Error, Findings, FirstError, Result};
use crate::layout::{Cursor, LayoutData, LeafId, NodeId, NodeKind, Place};
use crate::traversal::holder::{CellId, Holder, OpenCells};
use crate::traversal::purpose::Purpose;
use crate::traversal::seen_places::SeenPlaces;
use crate::traversal::tied_values::TiedValues;
use crate::traversal::validated::{SharedContent, Validated};
use crate::tree::axes::AxisMap;
use crate::tree::{Guarded, Identity, Key, LeafRef, Source, Tree, UnderGuard, Visitor};

/// Reads leaves, as the validating walk meets them.
pub(crate) trait ReadLeaf<'a> {
    /// Whether the leaf at a place is wanted at all.
    fn wants(&self, place: &Place) -> bool;

    /// A wanted leaf, of the shape that the layout has there.
    fn read_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()>;

    /// A wanted gradient at one of the places of a tie, and the object that holds it.
    fn read_tied_gradient(
        &mut self,
        place: &Place,
        leaf: &LeafRef<'_, 'a>,
        holder: Holder,
    ) -> Result<()> {
        let _ = holder;
        self.read_leaf(place, leaf)
    }

    /// A node that others may hold too begins here, and so does what is in it.
    fn enter_shared(&mut self) {}

    fn leave_shared(&mut self) {}
}

/// Compares a tree with a layout.
///
/// # Errors
/// All leaves that disagree, in one; or the first that keeps the walk from going on.
pub(crate) fn validate<T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &T,
    purpose: Purpose,
) -> Result<Validated> {
    validate_and_read(layout, tree, purpose, &mut ReadNothing)
}

/// Compares a tree with a layout and hands its leaves on as it goes: for output that nobody sees if
/// the tree turns out to be wrong.
///
/// # Errors
/// All leaves that disagree, in one; or the first that keeps the walk from going on; or what the
/// reader returns.
pub(crate) fn validate_and_read<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a T,
    purpose: Purpose,
    reader: &mut impl ReadLeaf<'a>,
) -> Result<Validated> {
    validate_but_for(layout, tree, purpose, reader, |_| false)
}

/// Compares a tree with a layout, but for leaves that the layout has not got and whose path
/// `is_allowed` accepts: these are passed by.
///
/// # Errors
/// All leaves that disagree, in one; or the first that keeps the walk from going on; or what the
/// reader returns.
pub(crate) fn validate_but_for<'a, T: Tree + ?Sized>(
    layout: &LayoutData,
    tree: &'a T,
    purpose: Purpose,
    reader: &mut impl ReadLeaf<'a>,
    mut is_allowed: impl FnMut(&str) -> bool,
) -> Result<Validated> {
    let mut validation = Validation::new(layout, purpose, reader, &mut is_allowed);
    tree.visit(&mut validation)
        .map_err(|error| error.or_at(|| validation.cursor.path()))?;
    validation.finish()
}

struct ReadNothing;

impl<'a> ReadLeaf<'a> for ReadNothing {
    #[inline]
    fn wants(&self, _place: &Place) -> bool {
        false
    }

    fn read_leaf(&mut self, _place: &Place, _leaf: &LeafRef<'_, 'a>) -> Result<()> {
        Ok(())
    }
}

/// The walk.
struct Validation<'l, 't, 'a, R> {
    layout: &'l LayoutData,
    reader: &'t mut R,
    is_allowed: &'t mut dyn FnMut(&str) -> bool,
    purpose: Purpose,
    cursor: Cursor<'l>,
    seen: SeenPlaces,
    findings: Findings,
    /// The first error that was returned to the tree, which may keep it to itself.
    failed: FirstError,
    shared: HashMap<Identity, SharedNode>,
    /// The shared nodes around what is visited, from the outermost to the innermost.
    open: Vec<OpenNode>,
    cells: OpenCells,
    /// The level from which on nothing can be written.
    read_only_from: usize,
    /// Whether trainable leaves are moved and nothing around the one that comes next asks for a
    /// closer look.
    is_plain_here: bool,
    ties: TiedValues<'a>,
    /// Where leaves with an identity of their own were met first.
    identified: HashMap<Identity, NodeId>,
    strided: HashSet<u32>,
}

/// A shared node that has been met.
struct SharedNode {
    /// Where it was met first, if the layout has a node there.
    node: Option<NodeId>,
    /// Known once the node has been left.
    content: Option<SharedContent>,
    has_leaf: bool,
}

/// A shared node that is being visited.
struct OpenNode {
    identity: Identity,
    content: SharedContent,
    /// The number of cells around it.
    cells: usize,
    has_leaf: bool,
    /// Whether it has been visited before, at another place of the same leaves.
    again: bool,
}

impl<'l, 't, 'a, R: ReadLeaf<'a>> Validation<'l, 't, 'a, R> {
    fn new(
        layout: &'l LayoutData,
        purpose: Purpose,
        reader: &'t mut R,
        is_allowed: &'t mut dyn FnMut(&str) -> bool,
    ) -> Self {
        Validation {
            layout,
            reader,
            is_allowed,
            purpose,
            cursor: Cursor::new(&layout.paths),
            seen: SeenPlaces::default(),
            findings: Findings::default(),
            failed: FirstError::default(),
            shared: HashMap::new(),
            open: Vec::new(),
            cells: OpenCells::default(),
            read_only_from: usize::MAX,
            is_plain_here: purpose.moves_trainable(),
            ties: TiedValues::default(),
            identified: HashMap::new(),
            strided: HashSet::new(),
        }
    }

    fn finish(mut self) -> Result<Validated> {
        std::mem::take(&mut self.failed).into_result()?;
        if self.purpose != Purpose::ReadGradients {
            self.find_missing();
        }
        self.findings.into_result()?;
        let closed = self
            .shared
            .into_iter()
            .filter_map(|(identity, node)| Some((identity, node.content?)));
        Ok(Validated {
            shared: closed.collect(),
            strided: self.strided,
        })
    }

    fn find_missing(&mut self) {
        for index in self.seen.missing(self.layout.places.len()) {
            if self.findings.is_full() {
                // What is not listed need not be rendered: a layout may have a million leaves.
                self.findings.count(1);
                continue;
            }
            let place = &self.layout.places[index];
            let expected = format!("a leaf of shape {:?}", &place.shape[..]);
            let path = self.layout.paths.render(place.node);
            self.findings.add(Error::missing(path, expected));
        }
    }

    /// Remembers an error, should the tree keep it to itself.
    #[cold]
    fn noted(&mut self, error: Error) -> Error {
        self.failed.note(error, || self.cursor.path())
    }
}

/// Leaves.
impl<'a, R: ReadLeaf<'a>> Validation<'_, '_, 'a, R> {
    /// Whether there is nothing to say about a leaf: it is as the layout has it, at its only place,
    /// and lends its slice.
    #[inline]
    fn is_plain(&self, place: &Place, leaf: &LeafRef<'_, 'a>) -> bool {
        let is_lent = matches!(leaf.source, Source::Borrowed(_));
        self.is_plain_here
            && place.plain
            && is_lent
            && leaf.dtype == place.dtype
            && place.has_shape(leaf.shape)
    }

    #[inline]
    fn met_leaf(&mut self, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if let Some(open) = self.open.last_mut() {
            open.has_leaf = true;
        }
        self.cells.count_leaf();
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
        // After the first disagreement nothing that is read will be used.
        if self.findings.is_empty() && self.reader.wants(place) {
            self.read(place, leaf)
        } else {
            Ok(())
        }
    }

    #[inline]
    fn read(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if place.plain || self.purpose != Purpose::ReadGradients {
            return self.reader.read_leaf(place, leaf);
        }
        let holder = self.cells.holder_of(leaf);
        self.reader.read_tied_gradient(place, leaf, holder)
    }

    /// A leaf that the layout knows and that has something about it.
    #[inline(never)]
    fn known_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let is_ignored = self.purpose == Purpose::ReadGradients && place.frozen;
        if is_ignored || !self.purpose.moves(place.leaf) {
            return Ok(());
        }
        if !place.has_shape(leaf.shape) {
            let path = self.cursor.path();
            self.findings
                .add(Error::shape(path, &place.shape, leaf.shape));
            return Ok(());
        }
        if place.len > 0 {
            self.note_content();
        }
        let is_same_address = self.meet_identity(place, leaf)?;
        if self.purpose == Purpose::Rebuild && matches!(leaf.source, Source::Reader(_)) {
            self.strided.insert(place.leaf.index);
        }
        self.check_type(place.dtype, leaf.dtype);
        self.check_writable();
        let is_tied = self.layout.leaf(place.leaf).nodes.len() > 1;
        if is_tied && self.purpose.compares_ties() && !is_same_address {
            self.compare_tied(place, leaf)?;
        }
        Ok(())
    }

    /// Whether the object at an address has been met at another place of the same parameter.
    ///
    /// An identifier that a library gives out ties places too, but does not prove that they hold
    /// one object: for it the answer is no, and the places are compared.
    fn meet_identity(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<bool> {
        let Some(identity) = leaf.identity.filter(|_| place.len > 0) else {
            return Ok(false);
        };
        let entry = self.identified.entry(identity.clone());
        let first = *entry.or_insert(place.node);
        if first == place.node {
            return Ok(false);
        }
        let has_same_leaves = self.moved_below(first).eq(self.moved_below(place.node));
        self.check_tie(first, place.node, has_same_leaves)?;
        Ok(has_same_leaves && identity.is_address())
    }

    #[inline]
    fn check_type(&mut self, known: Dtype, found: Dtype) {
        let (fits, expected) = match self.purpose {
            Purpose::ReadGradients => (found.is_float(), "a gradient of floats"),
            _ => (found == known, known.name()),
        };
        if !fits {
            let path = self.cursor.path();
            let (expected, found) = (expected.into(), found.to_string());
            self.findings
                .add(Error::element_type(path, expected, found));
        }
    }

    #[inline]
    fn check_writable(&mut self) {
        if self.cursor.levels() >= self.read_only_from && self.purpose.is_writing() {
            let error = Error::read_only("one that can only be read");
            self.findings.add(error.or_at(|| self.cursor.path()));
        }
    }

    /// Notes for the shared node around a leaf that there is one that is moved.
    #[inline]
    fn note_content(&mut self) {
        if let Some(open) = self.open.last_mut() {
            let is_guarded = self.cells.count() > open.cells;
            open.content.has_guarded_leaf |= is_guarded;
            open.content.has_unguarded_leaf |= !is_guarded;
        }
    }

    /// Places of one leaf hold the same bits, unless they are the same object, which need not be
    /// read twice.
    fn compare_tied(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        let is_same_node = self.open.iter().any(|open| open.again);
        if leaf.dtype != place.dtype || is_same_node {
            return Ok(());
        }
        let is_free = self.cells.count() == 0;
        let other = self.ties.compare(self.layout, place, leaf, is_free)?;
        if let Some(first) = other {
            self.findings.add(Error::broken_tie(
                self.layout.paths.render(first),
                self.layout.paths.render(place.node),
                "equal values at the places of one parameter",
                "different ones",
            ));
        }
        Ok(())
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
}

/// What the layout has not got.
impl<'a, R: ReadLeaf<'a>> Validation<'_, '_, 'a, R> {
    fn unknown(&mut self, found: String) {
        let known = *self.layout.paths.node(self.cursor.known());
        let is_known = self.cursor.node().is_some();
        let (is_ignored, expected) = match known.kind {
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
        if self.purpose == Purpose::ReadGradients && (is_ignored || known.frozen) {
            return;
        }
        let path = self.cursor.path();
        if (self.is_allowed)(&path) {
            return;
        }
        // To look for the path that was meant costs more than to count what is not listed.
        let meant = if self.findings.is_full() {
            None
        } else {
            self.layout.meant(&path)
        };
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?"));
        let found = found + &hint.unwrap_or_default();
        self.findings.add(Error::unknown(path, expected, found));
    }

    /// Whether a branch is a field without parameters: a list of strings, a pair of numbers.
    fn holds_no_leaf(&self, node: NodeId) -> bool {
        let end = self.layout.paths.node(node).end;
        let mut kinds = (node..end).map(|node| self.layout.paths.node(node).kind);
        self.layout.places_below(node).next().is_none()
            && kinds.any(|kind| matches!(kind, NodeKind::NoLeaf(_)))
    }
}

/// Shared nodes.
impl<'a, R: ReadLeaf<'a>> Validation<'_, '_, 'a, R> {
    fn met_shared(&mut self, identity: Identity) -> Result<bool> {
        let mut again = false;
        if !self.first_visit(&identity) {
            let Some(here) = self.cursor.node() else {
                return self.met_again_where_nothing_is_known(&identity);
            };
            again = self.met_again(&identity, here)?;
        }
        self.open.push(OpenNode {
            identity,
            content: SharedContent::default(),
            cells: self.cells.count(),
            has_leaf: false,
            again,
        });
        self.reader.enter_shared();
        self.look_around();
        Ok(true)
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

    /// A node that has been met before; whether its places here are of the same leaves as there.
    fn met_again(&mut self, identity: &Identity, here: NodeId) -> Result<bool> {
        let first = self.closed_node(identity)?.node;
        // Within a node that is here again everything is, and need not be compared level by level.
        let is_around_the_same = self.open.last().is_some_and(|open| open.again);
        let has_same_leaves = is_around_the_same
            || first.is_some_and(|first| self.moved_below(first).eq(self.moved_below(here)));
        if let Some(first) = first {
            self.check_tie(first, here, has_same_leaves)?;
        }
        Ok(has_same_leaves)
    }

    /// Once more where the layout knows nothing: no need to look into it again to refuse it.
    fn met_again_where_nothing_is_known(&mut self, identity: &Identity) -> Result<bool> {
        if self.closed_node(identity)?.has_leaf {
            self.open.iter_mut().for_each(|open| open.has_leaf = true);
            self.unknown("a shared node with leaves".into());
        }
        Ok(false)
    }

    /// A node that has been visited and left; one that is still open contains itself.
    fn closed_node(&self, identity: &Identity) -> Result<&SharedNode> {
        let known = &self.shared[identity];
        if known.content.is_some() {
            return Ok(known);
        }
        let path = known.node.map(|node| self.layout.paths.render(node));
        Err(Error::cycle(path.unwrap_or_default()))
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
    /// of them would be lost. To read it twice does no harm.
    fn check_tie(&self, first: NodeId, second: NodeId, has_same_leaves: bool) -> Result<()> {
        if self.purpose.is_reading() || has_same_leaves {
            return Ok(());
        }
        Err(Error::broken_tie(
            self.layout.paths.render(first),
            self.layout.paths.render(second),
            "two parameters",
            "one shared node",
        ))
    }

    fn close(&mut self, closed: OpenNode) {
        if let Some(around) = self.open.last_mut() {
            let is_in_cell = closed.cells > around.cells;
            around.has_leaf |= closed.has_leaf;
            around.content.include(closed.content, is_in_cell);
        }
        if let Some(node) = self.shared.get_mut(&closed.identity) {
            node.content = Some(closed.content);
            node.has_leaf |= closed.has_leaf;
        }
    }

    fn look_around(&mut self) {
        self.is_plain_here = self.purpose.moves_trainable()
            && self.open.is_empty()
            && self.read_only_from == usize::MAX;
    }
}

impl<'a, R: ReadLeaf<'a>> Visitor<'a> for Validation<'_, '_, 'a, R> {
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
            if self.reader.wants(place) {
                self.reader.read_leaf(place, &leaf)?;
            }
            self.cursor.pass_leaf();
            return Ok(());
        }
        self.other_leaf_at(key, frozen, leaf)
    }

    fn no_leaf(&mut self) -> Result<()> {
        Ok(())
    }

    fn guarded(&mut self, cell: &'a dyn Guarded) -> Result<()> {
        UnderGuard(&mut *self)
            .guarded(cell)
            .map_err(|error| self.noted(error))
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
        if let Some(closed) = self.open.pop() {
            self.reader.leave_shared();
            self.look_around();
            self.close(closed);
        }
    }

    /// Where the tree is to be written, the guard that is taken now is the one that writing will
    /// take: a reader elsewhere would let this walk pass and that one fail.
    fn enter_guarded(&mut self, cell: &dyn Guarded) -> bool {
        self.cells.enter(CellId::of(cell));
        if let Some(open) = self.open.last_mut() {
            open.content.has_cell = true;
        }
        self.purpose.is_writing()
    }

    fn leave_guarded(&mut self) {
        self.cells.leave();
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
