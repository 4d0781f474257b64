//! A tie in a view that writes: one memory, several places, one of which has it at a time.
//!
//! A *cell* holds what the places share: the pieces of the vector below a shared node, or of one
//! array. To lend it is to lock it, to borrow its pieces for the call, and to make a view of them.
//! The view lives as long as the call, so that nothing has to be given back.
//!
//! # Cells within cells
//!
//! A shared node may hold another: `Arc<Block>` with an `Arc<Array2<f32>>` in it that stands
//! elsewhere in the model too. While the outer one is lent so is the inner one, or two views could
//! show it. So lending locks the cell *and all cells below it*, in one order for everybody, the
//! order in which they were made, and no two threads can wait for each other:
//!
//! ```text
//! cells  1: w       2: block { 1, b }       lend 2: locks 1, 2;  makes  1': w  and  block { 1', b }
//! ```
//!
//! Within the lent block `w` is behind a new cell, over the same memory for the time of the call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use smallvec::SmallVec;

use super::leaf_views_mut::{LeafViewsMut, Piece, Turn, reborrow};
use crate::error::{Error, Result};
use crate::layout::{Layout, NodeId};

/// A part of a view that writes whose arrays may stand at other places too: behind an `Rc`, an
/// `Arc` or in an `ArcArray`. It lends them to one place at a time, so that every place can add to
/// the same gradient.
///
/// A lent array is an [`ArrayMut`](super::ArrayMut), transposed where the place's is; a lent struct
/// is the struct's view. A handle is `Send` where what it points to is `Sync`.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use std::sync::Arc;
/// use flatleaf::{FlatGrad, Layout, Tree};
/// use ndarray::{arr2, Array2};
///
/// #[derive(Tree)]
/// #[tree(view)]
/// struct Net { embed: Arc<Array2<f32>>, head: Arc<Array2<f32>> }
///
/// let shared = Arc::new(arr2(&[[1.0, 2.0]]));
/// let net = Net { embed: shared.clone(), head: shared };
/// let layout = Layout::of(&net)?;
/// let mut grad: FlatGrad = FlatGrad::zeros(&layout);
/// let view = layout.view_grad(&net, &mut grad)?;
/// view.head.lend(|mut head| head += &arr2(&[[0.5, 0.5]]));
/// view.embed.lend(|mut embed| embed[[0, 1]] += 1.0);
/// assert_eq!(*grad, [0.5, 1.5]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub struct TiedMut<'v, T> {
    content: &'v T,
    cell: Arc<Cell<'v>>,
    turn: Option<Arc<Turn>>,
}

/// A pointer or an array that a [`TiedMut`] lends.
///
/// Implemented for `Rc`, `Arc` and `ArcArray`.
///
/// ```
/// use flatleaf::{Lend, TiedMut};
///
/// /// What is lent is whatever the pointer points to.
/// fn call<T: Lend>(tied: &TiedMut<'_, T>, each: impl FnOnce(T::Lent<'_>)) {
///     tied.lend(each)
/// }
/// ```
pub trait Lend: 'static {
    /// What is lent: an [`ArrayMut`](super::ArrayMut), or the view of a struct.
    type Lent<'l>;

    #[doc(hidden)]
    fn lent_from<'l>(&'l self, leaves: &mut LeafViewsMut<'l>) -> Result<Self::Lent<'l>>;
}

impl<'v, T: Lend> TiedMut<'v, T> {
    /// # Errors
    /// A content that takes other pieces than are there.
    pub(super) fn new(
        content: &'v T,
        cell: Arc<Cell<'v>>,
        turn: Option<Arc<Turn>>,
    ) -> Result<Self> {
        let tied = TiedMut {
            content,
            cell,
            turn,
        };
        // Made once, so that what is wrong with it is an error now and no panic later.
        tied.try_lend(|_| ())?;
        Ok(tied)
    }

    /// Calls `write` with the arrays, for writing, while no other place has them.
    ///
    /// Another thread that has them is waited for. Two threads that lend two ties, one within the
    /// other, in opposite orders wait for each other, as with any two locks.
    ///
    /// # Panics
    /// If this thread has them already: `lend` within a `lend` of another place of the tie, or of
    /// what holds it.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use std::rc::Rc;
    /// use flatleaf::{destructure, Tree};
    /// use ndarray::{arr1, Array1};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Layer { bias: Array1<f32> }
    ///
    /// let layer = Rc::new(Layer { bias: arr1(&[1.0, 2.0]) });
    /// let net = [layer.clone(), layer]; // one layer, twice
    /// let (mut flat, layout) = destructure(&net)?;
    /// let view = layout.view_tree_mut(&net, &mut flat)?;
    /// let sum = view[1].lend(|mut layer| {
    ///     layer.bias[0] = 5.0;
    ///     layer.bias.sum()
    /// });
    /// assert_eq!((sum, flat), (7.0, vec![5.0, 2.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    #[track_caller]
    pub fn lend<R>(&self, write: impl FnOnce(T::Lent<'_>) -> R) -> R {
        self.try_lend(write)
            .expect("the same view as when the handle was made")
    }

    #[track_caller]
    fn try_lend<R>(&self, write: impl FnOnce(T::Lent<'_>) -> R) -> Result<R> {
        let mut held: SmallVec<[Held<'_, 'v>; 1]> = SmallVec::new();
        if self.cell.inner.is_empty() {
            held.push(self.cell.hold());
        } else {
            let mut below = BTreeMap::new();
            self.cell.collect(&mut below);
            held.extend(below.into_values().map(Cell::hold));
        }
        let mut inner = InnerCells::new(&mut held);
        let pieces = inner.take(self.cell.id);
        let pieces = reborrow(pieces, self.turn.as_ref(), &mut inner);
        let mut leaves = LeafViewsMut::of_pieces(pieces);
        let lent = self.content.lent_from(&mut leaves)?;
        leaves.finish()?;
        Ok(write(lent))
    }
}

impl<T> fmt::Debug for TiedMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TiedMut")
    }
}

/// What several places take turns at.
pub(super) struct Cell<'v> {
    id: u64,
    /// Of what is shared within it.
    inner: Vec<Arc<Cell<'v>>>,
    pieces: Mutex<Vec<Piece<'v>>>,
    holder: Mutex<Option<ThreadId>>,
    /// Where it was met first, for a message.
    at: Option<(Layout, NodeId)>,
}

/// Cells are locked by this number: smaller ones first.
static CELLS: AtomicU64 = AtomicU64::new(0);

impl<'v> Cell<'v> {
    pub(super) fn new(pieces: Vec<Piece<'v>>, layout: &Layout, at: NodeId) -> Self {
        Cell::at(pieces, Some((layout.clone(), at)))
    }

    pub(super) fn of_one_place(piece: Piece<'v>) -> Self {
        Cell::at(vec![piece], None)
    }

    fn at(pieces: Vec<Piece<'v>>, at: Option<(Layout, NodeId)>) -> Self {
        let inner = pieces.iter().filter_map(|piece| match piece {
            Piece::Tied(cell, _) => Some(Arc::clone(cell)),
            Piece::Frozen(_) | Piece::Own(..) => None,
        });
        Cell {
            id: CELLS.fetch_add(1, Ordering::Relaxed),
            inner: inner.collect(),
            pieces: Mutex::new(pieces),
            holder: Mutex::new(None),
            at,
        }
    }

    /// This cell and those below it, each once, by number.
    fn collect<'c>(&'c self, cells: &mut BTreeMap<u64, &'c Cell<'v>>) {
        if cells.insert(self.id, self).is_none() {
            self.inner.iter().for_each(|cell| cell.collect(cells));
        }
    }

    #[track_caller]
    fn hold(&self) -> Held<'_, 'v> {
        let this_thread = thread::current().id();
        if *self.holder() == Some(this_thread) {
            self.refuse();
        }
        // A panic while it was lent left numbers behind, as it does in any array.
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        *self.holder() = Some(this_thread);
        Held { cell: self, pieces }
    }

    fn holder(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a place that cannot take turns.
    #[cold]
    pub(super) fn no_handle(&self) -> Error {
        let node = self.at.as_ref();
        let place = node.and_then(|(layout, node)| {
            let place = layout.inner.paths.place(*node)?;
            Some(layout.inner.leaf(layout.inner.place(place).leaf).places())
        });
        match place {
            Some([first, second, ..]) => Error::no_handle(first, second),
            _ => Error::other_leaves_in_view(),
        }
    }

    #[cold]
    #[track_caller]
    fn refuse(&self) -> ! {
        let at = self.at.as_ref();
        let path = at.map(|(layout, node)| layout.inner.paths.render(*node));
        let path = path.map_or(String::new(), |path| format!("`{path}`: "));
        panic!("{path}expected a tie that is lent to one place at a time, found it lent to another")
    }
}

/// A cell that is locked.
struct Held<'c, 'v> {
    cell: &'c Cell<'v>,
    pieces: MutexGuard<'c, Vec<Piece<'v>>>,
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        *self.cell.holder() = None;
    }
}

/// The pieces of all cells that are locked for one call.
pub(super) struct InnerCells<'l, 'v> {
    pieces: SmallVec<[(u64, &'l mut Vec<Piece<'v>>); 1]>,
    lent: BTreeMap<u64, Arc<Cell<'l>>>,
}

impl<'l, 'v: 'l> InnerCells<'l, 'v> {
    fn new(held: &'l mut [Held<'_, 'v>]) -> Self {
        let pieces = held
            .iter_mut()
            .map(|held| (held.cell.id, &mut *held.pieces));
        InnerCells {
            pieces: pieces.collect(),
            lent: BTreeMap::new(),
        }
    }

    fn take(&mut self, id: u64) -> &'l mut Vec<Piece<'v>> {
        let cell = self.pieces.iter().position(|cell| cell.0 == id);
        let cell = cell.expect("every cell that is below is locked, and taken once");
        self.pieces.swap_remove(cell).1
    }

    /// The cell that stands in for one below the lent one.
    pub(super) fn lent(&mut self, cell: &Cell<'v>) -> Arc<Cell<'l>> {
        if let Some(lent) = self.lent.get(&cell.id) {
            return Arc::clone(lent);
        }
        let pieces = self.take(cell.id);
        let pieces = reborrow(pieces, None, self);
        let lent = Arc::new(Cell::at(pieces, cell.at.clone()));
        self.lent.insert(cell.id, Arc::clone(&lent));
        lent
    }
}
