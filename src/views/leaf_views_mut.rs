//! The leaves of a view that writes, one after the other.

use std::sync::Arc;
use std::vec;

use ndarray::{ArrayView, ArrayViewMut, ArrayViewMutD, Dimension, IxDyn};

use super::array_mut::{ArrayMut, FrozenLeaf};
use super::leaf_views::{aligned_alike, other_leaves};
use super::met::{Node, Step};
use super::tied::{Cell, Lend, TiedMut};
use super::{Viewable, leaf_views, tied};
use crate::element::Element as _;
use crate::error::{Error, Result};
use crate::layout::{Layout, LeafId};
use crate::tree::ArrayElement;
use crate::tree::axes::{AxisMap, Shape};
use crate::tree::stack::{self, MAX_LEVELS};

/// Gives the leaves of a view that writes, in the order of [`Tree::visit`](crate::Tree::visit):
/// what an implementation of [`Viewable`] by hand takes its arrays from.
///
/// [`LeafViews`](super::LeafViews) shows such an implementation.
///
/// ```
/// use flatleaf::implementing::LeafViewsMut;
/// use flatleaf::{Result, Viewable};
///
/// /// How a container makes the view of what is in it.
/// fn pair<'v, T: Viewable>(pair: &'v (T, T), leaves: &mut LeafViewsMut<'v>) -> Result<[T::ViewMut<'v>; 2]> {
///     Ok([leaves.child(&pair.0)?, leaves.child(&pair.1)?])
/// }
/// ```
pub struct LeafViewsMut<'v> {
    source: Source<'v>,
    levels: usize,
}

enum Source<'v> {
    InOrder(InOrder<'v>),
    Pieces(vec::IntoIter<Piece<'v>>),
}

/// A vector that is cut as the leaves come, where each has one place and they come in order.
struct InOrder<'v> {
    layout: Layout,
    /// The bytes behind the leaves that have been taken.
    rest: &'v mut [u8],
    /// Of an element, in bytes.
    size: usize,
    is_gradient: bool,
    next: u32,
}

/// What a leaf, or a shared node, of a view that writes lies over.
pub(super) enum Piece<'v> {
    Frozen(FrozenLeaf),
    /// Its part of the vector.
    Own(&'v mut [u8], Option<Arc<Turn>>),
    /// What several places take turns at.
    Tied(Arc<Cell<'v>>, Option<Arc<Turn>>),
}

/// How a place shows its leaf, if not as it is.
pub(super) struct Turn {
    axes: AxisMap,
    /// The leaf's shape.
    leaf: Shape,
}

impl<'v> LeafViewsMut<'v> {
    pub(super) fn in_order(
        layout: &Layout,
        bytes: &'v mut [u8],
        size: usize,
        is_gradient: bool,
    ) -> Self {
        LeafViewsMut {
            source: Source::InOrder(InOrder {
                layout: layout.clone(),
                rest: bytes,
                size,
                is_gradient,
                next: 0,
            }),
            levels: 0,
        }
    }

    pub(super) fn of_pieces(pieces: Vec<Piece<'v>>) -> Self {
        LeafViewsMut {
            source: Source::Pieces(pieces.into_iter()),
            levels: 0,
        }
    }

    /// The view of a child.
    ///
    /// # Errors
    /// `is_too_deep`: more than 1,024 levels. `is_unstable`: the child has other leaves than its
    /// `visit` has shown. `is_broken_tie`: an array that is no handle and is one with another.
    ///
    /// ```
    /// use flatleaf::implementing::LeafViewsMut;
    /// use flatleaf::{Result, Viewable};
    ///
    /// fn first<'v, T: Viewable>(list: &'v [T; 1], leaves: &mut LeafViewsMut<'v>) -> Result<T::ViewMut<'v>> {
    ///     leaves.child(&list[0])
    /// }
    /// ```
    #[inline]
    pub fn child<T: Viewable>(&mut self, tree: &'v T) -> Result<T::ViewMut<'v>> {
        self.levels += 1;
        if self.levels > MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS));
        }
        let view = stack::with_stack_space(self.levels, || tree.view_mut_from(self))?;
        self.levels -= 1;
        Ok(view)
    }

    /// The next leaf: over the vector if it is trainable, the model's own array otherwise.
    // Always: as a call of its own it takes a third longer for a small array.
    #[inline(always)]
    pub(super) fn array<E, D>(&mut self, own: ArrayView<'v, E, D>) -> Result<ArrayMut<'v, E, D>>
    where
        E: ArrayElement,
        D: Dimension,
    {
        let shape = own.raw_dim();
        match self.next()? {
            Piece::Own(bytes, turn) => {
                let elements = elements_of(bytes, own)?;
                let array = match turn {
                    None => ArrayViewMut::from_shape(shape, elements).map_err(other_leaves)?,
                    Some(turn) => turn.view(elements)?,
                };
                Ok(ArrayMut::of_vector(array))
            }
            Piece::Frozen(leaf) => Ok(ArrayMut::of_model(own, leaf)),
            Piece::Tied(cell, _) => Err(cell.no_handle()),
        }
    }

    /// The next shared node, or a leaf that may be one with others.
    pub(super) fn tied<T: Lend>(&mut self, content: &'v T) -> Result<TiedMut<'v, T>> {
        let (cell, turn) = match self.next()? {
            Piece::Tied(cell, turn) => (cell, turn),
            // It could be tied, and stands at one place.
            piece => (Arc::new(Cell::of_one_place(piece)), None),
        };
        TiedMut::new(content, cell, turn)
    }

    #[inline]
    fn next(&mut self) -> Result<Piece<'v>> {
        let piece = match &mut self.source {
            Source::InOrder(vector) => vector.next(),
            Source::Pieces(pieces) => pieces.next(),
        };
        piece.ok_or_else(Error::other_leaves_in_view)
    }

    /// # Errors
    /// Leaves that the view has not taken.
    pub(super) fn finish(self) -> Result<()> {
        let left = match &self.source {
            Source::InOrder(vector) => vector.layout.inner.places.len() - vector.next as usize,
            Source::Pieces(pieces) => pieces.len(),
        };
        if left > 0 {
            return Err(Error::other_leaves_in_view());
        }
        Ok(())
    }
}

/// The elements in a part of the vector, for an array that shows the model's.
#[inline]
fn elements_of<'v, E, D>(bytes: &'v mut [u8], own: ArrayView<'v, E, D>) -> Result<&'v mut [E]>
where
    E: ArrayElement,
    D: Dimension,
{
    // Elements without numbers are nowhere in the vector. They take no memory, so that what is leaked
    // is none.
    if size_of::<E>() == 0 {
        return Ok(Box::leak(own.iter().copied().collect()));
    }
    // The type has been compared with the vector's, which no boolean is.
    let numbers = E::Number::overwritable(bytes).ok_or_else(Error::other_leaves_in_view)?;
    aligned_alike::<E, _>(E::of_numbers_mut(numbers))
}

impl<'v> InOrder<'v> {
    #[inline]
    fn next(&mut self) -> Option<Piece<'v>> {
        let index = self.next;
        let place = self.layout.inner.places.get(index as usize)?;
        self.next += 1;
        if !place.leaf.trainable {
            return Some(Piece::Frozen(FrozenLeaf {
                layout: self.layout.clone(),
                place: index,
                is_in_gradient: self.is_gradient,
            }));
        }
        let rest = std::mem::take(&mut self.rest);
        let (bytes, rest) = rest.split_at_mut(place.len * self.size);
        self.rest = rest;
        Some(Piece::Own(bytes, None))
    }
}

impl Turn {
    // Few leaves are turned, and the code for all others is faster without this in it.
    #[inline(never)]
    fn view<'v, E, D>(&self, elements: &'v mut [E]) -> Result<ArrayViewMut<'v, E, D>>
    where
        E: ArrayElement,
        D: Dimension,
    {
        let turn = leaf_views::Turn {
            axes: &self.axes,
            leaf: &self.leaf,
        };
        let (shape, axes) = turn.of_elements::<E>()?;
        let leaf = ArrayViewMutD::from_shape(IxDyn(shape), elements).map_err(other_leaves)?;
        let place = axes.to_place(leaf);
        place.into_dimensionality().map_err(other_leaves)
    }
}

/// Cuts a vector into the leaves of a tree.
pub(super) struct Cut<'v, 'm> {
    layout: &'m Layout,
    nodes: &'m [Node],
    is_gradient: bool,
    /// Of each trainable leaf, until somebody takes it.
    slices: Vec<&'v mut [u8]>,
    /// How often each trainable leaf stands in the steps.
    counts: Vec<u32>,
    /// Of leaves that stand there several times.
    leaf_cells: Vec<(LeafId, Arc<Cell<'v>>)>,
    node_cells: Vec<Option<Arc<Cell<'v>>>>,
}

impl<'v, 'm> Cut<'v, 'm> {
    /// `bytes` are the vector's, of elements of `size` bytes.
    pub(super) fn new(
        layout: &'m Layout,
        steps: &[Step],
        nodes: &'m [Node],
        bytes: &'v mut [u8],
        size: usize,
        is_gradient: bool,
    ) -> Self {
        let mut rest = bytes;
        let mut slices = Vec::with_capacity(layout.leaves().len());
        for leaf in layout.leaves() {
            let (slice, behind) = rest.split_at_mut(leaf.len() * size);
            slices.push(slice);
            rest = behind;
        }
        let mut cut = Cut {
            layout,
            nodes,
            is_gradient,
            slices,
            counts: vec![0; layout.leaves().len()],
            leaf_cells: Vec::new(),
            node_cells: nodes.iter().map(|_| None).collect(),
        };
        cut.count(steps);
        nodes.iter().for_each(|node| cut.count(&node.steps));
        cut
    }

    fn count(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Leaf(index) = *step {
                let leaf = self.layout.inner.place(index).leaf;
                if leaf.trainable {
                    self.counts[leaf.index as usize] += 1;
                }
            }
        }
    }

    pub(super) fn pieces_of(&mut self, steps: &[Step]) -> Vec<Piece<'v>> {
        let mut pieces = Vec::with_capacity(steps.len());
        for step in steps {
            pieces.push(match *step {
                Step::Leaf(place) => self.leaf(place),
                Step::Shared(node) => Piece::Tied(self.node(node), None),
            });
        }
        pieces
    }

    #[inline]
    fn leaf(&mut self, index: u32) -> Piece<'v> {
        let place = self.layout.inner.place(index);
        if !place.leaf.trainable {
            return Piece::Frozen(FrozenLeaf {
                layout: self.layout.clone(),
                place: index,
                is_in_gradient: self.is_gradient,
            });
        }
        let turn = place.axes.as_deref().map(|axes| {
            let leaf = self.layout.inner.leaf(place.leaf);
            Arc::new(Turn {
                axes: axes.clone(),
                leaf: leaf.shape.clone(),
            })
        });
        let leaf = place.leaf.index as usize;
        if self.counts[leaf] == 1 {
            let bytes = std::mem::take(&mut self.slices[leaf]);
            return Piece::Own(bytes, turn);
        }
        // Several places of one leaf share its elements, which each of them borrows for a while.
        let mut known = self.leaf_cells.iter();
        if let Some((_, cell)) = known.find(|(leaf, _)| *leaf == place.leaf) {
            return Piece::Tied(Arc::clone(cell), turn);
        }
        let bytes = std::mem::take(&mut self.slices[leaf]);
        let own = Piece::Own(bytes, None);
        let cell = Cell::new(vec![own], self.layout, place.node);
        let cell = Arc::new(cell);
        self.leaf_cells.push((place.leaf, Arc::clone(&cell)));
        Piece::Tied(cell, turn)
    }

    fn node(&mut self, index: u32) -> Arc<Cell<'v>> {
        if let Some(cell) = &self.node_cells[index as usize] {
            return Arc::clone(cell);
        }
        let node = &self.nodes[index as usize];
        let pieces = self.pieces_of(&node.steps);
        let cell = Arc::new(Cell::new(pieces, self.layout, node.at));
        self.node_cells[index as usize] = Some(Arc::clone(&cell));
        cell
    }
}

/// The pieces of a node that is lent, for as long as it is.
///
/// Shared nodes within it are lent with it: `inner` has their pieces, and each gets a new cell,
/// from which its places within this node take turns.
pub(super) fn reborrow<'l, 'v: 'l>(
    pieces: &'l mut [Piece<'v>],
    turn: Option<&Arc<Turn>>,
    inner: &mut tied::InnerCells<'l, 'v>,
) -> Vec<Piece<'l>> {
    let mut lent = Vec::with_capacity(pieces.len());
    for piece in pieces {
        lent.push(match piece {
            Piece::Frozen(leaf) => Piece::Frozen(leaf.clone()),
            Piece::Own(bytes, own) => {
                let turn = turn.or(own.as_ref());
                Piece::Own(bytes, turn.cloned())
            }
            Piece::Tied(cell, turn) => {
                let cell = inner.lent(cell);
                Piece::Tied(cell, turn.clone())
            }
        });
    }
    lent
}
