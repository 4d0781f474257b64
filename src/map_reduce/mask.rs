//! A gradient cut down to what a model trains, as a tree again.

use std::borrow::Cow;

use ndarray::{ArrayD, IxDyn};

use crate::element::FlatElement;
use crate::error::Result;
use crate::layout::{Layout, LayoutData, Place};
use crate::traversal::leaf_slices;
use crate::traversal::tied_places::TiedGrads;
use crate::tree::{DynTree, Tree};

impl Layout {
    /// The gradients of the trainable leaves as a tree of the model's paths: a tie's sum at its
    /// first place, all else absent.
    ///
    /// It can be walked or flattened again: `gather_grad(&mask(grads)?)` equals
    /// `gather_grad(grads)`.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers.
    /// [`is_element_type`](crate::Error::is_element_type): an f64 leaf for a vector of f32, unless
    /// the planner was told to [round](crate::Planner::round_f64) it.
    /// [`is_poisoned`](crate::Error::is_poisoned), [`is_borrowed`](crate::Error::is_borrowed): a
    /// lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{tree, Layout, Tree};
    ///
    /// #[derive(Tree)]
    /// struct Norm { scale: Vec<f32>, #[tree(frozen)] mean: Vec<f32> }
    ///
    /// let layout = Layout::of(&Norm { scale: vec![1.0], mean: vec![0.5] })?;
    /// assert_eq!(layout.mask(&tree!({ "scale": [2.0], "mean": [3.0] }))?, tree!({ "scale": [2.0], "mean": null }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn mask<T: Tree + ?Sized>(&self, grads: &T) -> Result<DynTree> {
        self.mask_as::<f32>(grads)
    }

    /// The gradients of the trainable leaves as a tree of the model's paths, as
    /// [`mask`](Layout::mask) makes it, of numbers of another element type.
    ///
    /// # Errors
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_element_type`](crate::Error::is_element_type): a gradient that the layout has not got,
    /// of another shape than its leaf, or of integers; of vectors of `f64` no float type is an
    /// error. [`is_poisoned`](crate::Error::is_poisoned),
    /// [`is_borrowed`](crate::Error::is_borrowed): a lock or a cell that cannot be had.
    ///
    /// ```
    /// use flatleaf::{tree, Layout};
    ///
    /// let layout = Layout::planner().freeze("mean").of(&tree!({ "w": (vec![0.1_f64]), "mean": (vec![0.2_f64]) }))?;
    /// let masked = layout.mask_as::<f64>(&tree!({ "w": (vec![0.3_f64]), "mean": (vec![0.4_f64]) }))?;
    /// assert_eq!(masked, tree!({ "w": (vec![0.3_f64]), "mean": null }));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn mask_as<E>(&self, grads: &(impl Tree + ?Sized)) -> Result<DynTree>
    where
        E: FlatElement,
    {
        let slices: Vec<OptionalSlice<'_, E>> =
            leaf_slices::gradients(self, grads, TiedGrads::Sum)?;
        Ok(tree_of(&self.inner, &slices))
    }
}

/// The elements of a leaf, if it has a gradient.
type OptionalSlice<'g, E> = Option<Cow<'g, [E]>>;

/// A tree of the layout's paths with these elements at the first places of its trainable leaves,
/// and nothing at the others.
fn tree_of<E>(layout: &LayoutData, leaves: &[OptionalSlice<'_, E>]) -> DynTree
where
    E: FlatElement,
{
    let paths = &layout.paths;
    let mut trees: Vec<DynTree> = Vec::new();
    trees.resize_with(paths.len(), DynTree::absent);
    // Children come after their parents, so that they are ready when their parent takes them.
    for node in paths.ids().rev() {
        let place = paths.place(node).map(|place| layout.place(place));
        let array = place.and_then(|place| array_at(place, leaves));
        if let Some(array) = array {
            trees[node as usize] = array;
            continue;
        }
        let mut entries = Vec::new();
        for child in paths.children(node) {
            let tree = std::mem::take(&mut trees[child as usize]);
            let name = paths.key(child).text();
            entries.push((name, tree));
        }
        trees[node as usize] = DynTree::branch(entries);
    }
    std::mem::take(&mut trees[0])
}

fn array_at<E>(place: &Place, leaves: &[OptionalSlice<'_, E>]) -> Option<DynTree>
where
    E: FlatElement,
{
    if !place.first || !place.leaf.trainable {
        return None;
    }
    let index = place.leaf.index as usize;
    let elements = leaves[index].as_deref()?;
    let shape = IxDyn(&place.shape);
    let array = ArrayD::from_shape_vec(shape, elements.to_vec());
    array.map(DynTree::from).ok()
}
