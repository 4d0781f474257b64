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
//! # Why not simpler
//!
//! - Two walks, one that checks and one that reads, take a third more instructions for small leaves
//!   than one walk that hands leaves on to a reader which keeps slices until the walk is over.
//! - A shared node that has been visited could be passed by. But then its places would not be met
//!   one by one, and a layout that gives its two places different leaves would go unnoticed.
//! - One general path for all leaves. Nearly all leaves are lent slices at the place that comes
//!   next, with nothing around them. For these [`leaf_at`](Visitor::leaf_at) asks one question
//!   (`is_plain`) and moves on: a gather takes 214 instructions for a leaf of 8 elements, and 302
//!   where all leaves go the long way round.

use std::collections::{HashMap, HashSet};

use crate::element::Dtype;
use crate::error::{Error, Findings, FirstError, Result};
use crate::layout::{Cursor, LayoutData, LeafId, NodeId, Place};
use crate::traversal::holder::{CellId, OpenCells};
use crate::traversal::purpose::Purpose;
use crate::traversal::read_leaf::{ReadLeaf, ReadNothing};
use crate::traversal::seen_places::SeenPlaces;
use crate::traversal::shared_nodes::{Meeting, SharedNodes};
use crate::traversal::tied_values::TiedValues;
use crate::traversal::unmatched::{self, UnknownLeaf};
use crate::traversal::validated::Validated;
use crate::tree::axes::AxisMap;
use crate::tree::{Guarded, Identity, Key, LeafRef, Source, Tree, UnderGuard, Visitor};

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
    shared: SharedNodes,
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
            shared: SharedNodes::default(),
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
        // What is not in a gradient is absent there.
        if self.purpose != Purpose::ReadGradients {
            unmatched::find_missing(self.layout, &self.seen, &mut self.findings);
        }
        self.findings.into_result()?;
        Ok(Validated {
            shared: self.shared.into_contents(),
            strided: self.strided,
        })
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
        self.shared.note_leaf();
        self.cells.count_leaf();
        let Some(index) = self.cursor.place() else {
            self.unknown(format!("a leaf of shape {:?}", leaf.shape));
            return Ok(());
        };
        if !self.seen.mark(index) {
            return Err(Error::duplicate(self.cursor.path()));
        }
        let place = self.layout.place(index);
        // Nearly every leaf is plain. What is asked of the others stands in a function of its own,
        // so that this one stays small enough to be inlined.
        if !self.is_plain(place, leaf) {
            self.known_leaf(place, leaf)?;
        }
        // After the first disagreement nothing that is read will be used, and reading may fail in
        // ways that say less than what has been found.
        if self.findings.is_empty() && self.reader.wants(place) {
            self.read(place, leaf)
        } else {
            Ok(())
        }
    }

    #[inline]
    fn read(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        // Values of a tie are equal, so that any place will do. Gradients are added up, and for
        // that it matters which of them are one object.
        if place.plain || self.purpose != Purpose::ReadGradients {
            return self.reader.read_leaf(place, leaf);
        }
        let holder = self.cells.holder_of(leaf);
        self.reader.read_tied_gradient(place, leaf, holder)
    }

    /// A leaf that the layout knows and that has something about it.
    #[inline(never)]
    fn known_leaf(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        // A tool that differentiates everything has gradients of what is frozen here, of any shape.
        let is_ignored = self.purpose == Purpose::ReadGradients && place.frozen;
        if is_ignored || !self.purpose.moves(place.leaf) {
            return Ok(());
        }
        if !place.has_shape(leaf.shape) {
            let path = self.cursor.path();
            let error = Error::shape(path, &place.shape, leaf.shape);
            self.findings.add(error);
            return Ok(());
        }
        // A leaf without elements never changes, so it is no reason to replace what holds it.
        if place.len > 0 {
            self.shared.note_moved_leaf(self.cells.count());
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
        let has_same_leaves = self.has_same_leaves(first, place.node);
        self.check_tie(first, place.node, has_same_leaves)?;
        Ok(has_same_leaves && identity.is_address())
    }

    #[inline]
    fn check_type(&mut self, known: Dtype, found: Dtype) {
        // A gradient may be of another float type than its leaf: it is converted, as an f32
        // gradient of an f16 parameter has to be.
        let (fits, expected) = match self.purpose {
            Purpose::ReadGradients => (found.is_float(), "a gradient of floats"),
            _ => (found == known, known.name()),
        };
        if !fits {
            let path = self.cursor.path();
            let expected = expected.into();
            let found = found.to_string();
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

    /// Places of one leaf hold the same bits, unless they are the same object, which need not be
    /// read twice.
    fn compare_tied(&mut self, place: &Place, leaf: &LeafRef<'_, 'a>) -> Result<()> {
        if leaf.dtype != place.dtype || self.shared.is_inside_known() {
            return Ok(());
        }
        // What is behind a guard may be a copy made for the call, whose address says nothing.
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
        let unknown = UnknownLeaf::at(self.layout, &self.cursor);
        if unknown.is_ignored(self.purpose) {
            return;
        }
        let path = self.cursor.path();
        if !(self.is_allowed)(&path) {
            unknown.report(self.layout, path, found, &mut self.findings);
        }
    }
}

/// Shared nodes.
impl<'a, R: ReadLeaf<'a>> Validation<'_, '_, 'a, R> {
    /// Whether the content of a shared node is to be visited.
    fn met_shared(&mut self, identity: Identity) -> Result<bool> {
        let here = self.cursor.node();
        let again = match self.shared.meet(&identity, here) {
            Meeting::New => false,
            Meeting::Again { first, has_leaf } => match here {
                Some(here) => self.met_again(first, here)?,
                None => {
                    self.met_again_where_nothing_is_known(has_leaf);
                    return Ok(false);
                }
            },
            Meeting::Cycle { first } => {
                let path = first.map(|node| self.layout.paths.render(node));
                let path = path.unwrap_or_default();
                return Err(Error::cycle(path));
            }
        };
        self.shared.open(identity, self.cells.count(), again);
        self.reader.enter_shared();
        self.look_around();
        Ok(true)
    }

    /// A node that has been met before; whether its places here are of the same leaves as there.
    fn met_again(&mut self, first: Option<NodeId>, here: NodeId) -> Result<bool> {
        // Within a node that is here again everything is. To compare level by level would take time
        // that grows with the square of the depth.
        let is_around_the_same = self.shared.is_directly_inside_known();
        let Some(first) = first else {
            return Ok(is_around_the_same);
        };
        let has_same_leaves = is_around_the_same || self.has_same_leaves(first, here);
        self.check_tie(first, here, has_same_leaves)?;
        Ok(has_same_leaves)
    }

    /// Once more where the layout knows nothing: no need to look into it again to refuse it.
    fn met_again_where_nothing_is_known(&mut self, has_leaf: bool) {
        if has_leaf {
            self.shared.note_leaf();
            self.unknown("a shared node with leaves".into());
        }
    }

    /// Whether the same leaves are moved below two nodes, each shown alike at both.
    fn has_same_leaves(&self, first: NodeId, second: NodeId) -> bool {
        self.moved_below(first).eq(self.moved_below(second))
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

    fn look_around(&mut self) {
        self.is_plain_here = self.purpose.moves_trainable()
            && !self.shared.is_inside_any()
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
        // Only what is below the level can not be written; the rest of the tree can again.
        if self.cursor.levels() < self.read_only_from && self.read_only_from != usize::MAX {
            self.read_only_from = usize::MAX;
            self.look_around();
        }
    }

    fn enter_shared(&mut self, identity: Identity) -> Result<bool> {
        self.met_shared(identity).map_err(|error| self.noted(error))
    }

    fn leave_shared(&mut self) {
        if self.shared.close() {
            self.reader.leave_shared();
            self.look_around();
        }
    }

    /// Where the tree is to be written, the guard that is taken now is the one that writing will
    /// take: a reader elsewhere would let this walk pass and that one fail.
    fn enter_guarded(&mut self, cell: &dyn Guarded) -> bool {
        self.cells.enter(CellId::of(cell));
        self.shared.note_cell();
        self.purpose.is_writing()
    }

    fn leave_guarded(&mut self) {
        self.cells.leave();
    }
}
