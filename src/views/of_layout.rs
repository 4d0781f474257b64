//! The methods that make a view.

use super::leaf_views_mut::Cut;
use super::met::Met;
use super::{LeafViews, LeafViewsMut, Viewable};
use crate::element::FlatElement;
use crate::error::Result;
use crate::flat::gradient::FlatGrad;
use crate::layout::Layout;

/// A model seen through its own arrays: the struct that [`Layout::view_tree`] gives over a vector,
/// so that one forward pass serves both.
///
/// No element is copied: small allocations for the lists and maps of the model are all. Some 10 ns
/// a leaf.
///
/// # Errors
/// [`is_too_deep`](crate::Error::is_too_deep): more than 1,024 levels.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```ignore")]
/// use flatleaf::Tree;
/// use ndarray::{Array1, arr1};
///
/// #[derive(Tree)]
/// #[tree(view)]
/// struct Line { slope: Array1<f32>, offset: Array1<f32> }
///
/// fn forward(line: &LineView<'_>, x: f32) -> f32 {
///     line.slope[0] * x + line.offset[0]
/// }
///
/// let line = Line { slope: arr1(&[3.0]), offset: arr1(&[-1.0]) };
/// assert_eq!(forward(&flatleaf::view(&line)?, 2.0), 5.0);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn view<T: Viewable>(tree: &T) -> Result<T::View<'_>> {
    tree.view_from(&mut LeafViews::of_model())
}

impl Layout {
    /// A flat vector seen as the model: the model's struct with `ArrayView`s, for its forward pass.
    ///
    /// Trainable leaves are over the vector, all others over the model; bare numbers and skipped
    /// fields are borrowed from it. A tie shows one array at all of its places, transposed where
    /// the place is. The vector is of `f32` or `f64` and every trainable leaf is of its type. No
    /// element is copied: the cost grows with the number of leaves and not with their size.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_element_type`](crate::Error::is_element_type): trainable leaves of another type than
    /// the vector's, all of them in one error. [`is_missing`](crate::Error::is_missing),
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_broken_tie`](crate::Error::is_broken_tie): a model of another layout.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use flatleaf::{Tree, destructure};
    /// use ndarray::{Array1, Array2, arr1, arr2};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Net {
    ///     layers: Vec<Dense>,
    ///     #[tree(frozen)]
    ///     mean: Array1<f32>,
    ///     #[tree(skip)]
    ///     act: fn(f32) -> f32,
    /// }
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Dense { weight: Array2<f32> }
    ///
    /// fn forward(net: &NetView<'_>, x: Array1<f32>) -> Array1<f32> {
    ///     net.layers.iter().fold(x - &net.mean, |x, layer| x.dot(&layer.weight).mapv(net.act))
    /// }
    ///
    /// let layers = vec![Dense { weight: arr2(&[[1.0]]) }];
    /// let net = Net { layers, mean: arr1(&[0.5]), act: f32::abs };
    /// let (mut flat, layout) = destructure(&net)?;
    /// flat[0] = -4.0;
    /// assert_eq!(forward(&layout.view_tree(&net, &flat)?, arr1(&[1.0])), arr1(&[2.0]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_tree<'v, T, E>(&self, tree: &'v T, flat: &'v [E]) -> Result<T::View<'v>>
    where
        T: Viewable,
        E: FlatElement,
    {
        self.check_len("the flat vector", flat.len())?;
        let met = Met::of(&self.inner, tree, E::DTYPE)?;
        let bytes = bytemuck::cast_slice(flat);
        let mut leaves = LeafViews::of_vector(self, bytes, met.into_places());
        let view = tree.view_from(&mut leaves)?;
        leaves.finish()?;
        Ok(view)
    }

    /// A flat vector seen as the model, to be written: the model's struct with
    /// [`ArrayMut`](crate::ArrayMut)s over the vector.
    ///
    /// What `Rc`, `Arc` and `ArcArray` hold is behind a [`TiedMut`](crate::TiedMut), which lends it
    /// to one place at a time. A frozen leaf shows the model's array and panics if it is written;
    /// the model is not changed. No element is copied: the cost grows with the number of leaves and not
    /// with their size.
    ///
    /// # Errors
    /// [`is_length`](crate::Error::is_length): the slice is not as long as the layout.
    /// [`is_element_type`](crate::Error::is_element_type): trainable leaves of another type than
    /// the vector's. [`is_missing`](crate::Error::is_missing),
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_broken_tie`](crate::Error::is_broken_tie): a model of another layout.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use flatleaf::{Tree, destructure};
    /// use ndarray::{Array1, Array2, arr1, arr2};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Dense { weight: Array2<f32>, bias: Option<Array1<f32>> }
    ///
    /// let dense = Dense { weight: arr2(&[[1.0, 2.0]]), bias: Some(arr1(&[3.0])) };
    /// let (mut flat, layout) = destructure(&dense)?;
    /// let mut view = layout.view_tree_mut(&dense, &mut flat)?;
    /// view.weight *= 10.0;
    /// if let Some(bias) = &mut view.bias {
    ///     bias.fill(0.0);
    /// }
    /// assert_eq!(flat, [10.0, 20.0, 0.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_tree_mut<'v, T, E>(&self, tree: &'v T, flat: &'v mut [E]) -> Result<T::ViewMut<'v>>
    where
        T: Viewable,
        E: FlatElement,
    {
        self.check_len("the flat vector", flat.len())?;
        self.view_mut_of(tree, flat, false)
    }

    /// A flat gradient seen as the model, for the backward pass to write. All leaves are present
    /// from now on, whatever is written; [`set_present_at`](FlatGrad::set_present_at) makes one
    /// absent again.
    ///
    /// What the gradient holds stays, so that batches add up; [`reset`](FlatGrad::reset) makes
    /// zeros of it. What is written to a frozen leaf is ignored. No element is copied: the
    /// cost grows with the number of leaves and not with their size.
    ///
    /// # Errors
    /// [`is_other_layout`](crate::Error::is_other_layout): a gradient of another layout.
    /// [`is_element_type`](crate::Error::is_element_type): trainable leaves of another type than
    /// the gradient's. [`is_missing`](crate::Error::is_missing),
    /// [`is_unknown`](crate::Error::is_unknown), [`is_shape`](crate::Error::is_shape),
    /// [`is_broken_tie`](crate::Error::is_broken_tie): a model of another layout. Then the gradient
    /// is as it was.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```ignore")]
    /// use flatleaf::optim::{Optimizer, Sgd};
    /// use flatleaf::{FlatGrad, Tree, destructure};
    /// use ndarray::{Array1, arr1};
    ///
    /// #[derive(Tree)]
    /// #[tree(view)]
    /// struct Line { slope: Array1<f32>, offset: Array1<f32> }
    ///
    /// /// The square of the error on y = 3 x - 1.
    /// fn backward(line: &LineView<'_>, x: f32, grad: &mut LineViewMut<'_>) -> f32 {
    ///     let error = line.slope[0] * x + line.offset[0] - (3.0 * x - 1.0);
    ///     grad.slope[0] += 2.0 * error * x;
    ///     grad.offset[0] += 2.0 * error;
    ///     error * error
    /// }
    ///
    /// let line = Line { slope: arr1(&[0.0]), offset: arr1(&[0.0]) };
    /// let (mut flat, layout) = destructure(&line)?;
    /// let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    /// let mut optimizer = Optimizer::new(Sgd { lr: 0.1, ..Default::default() }, &layout)?;
    /// let mut loss = f32::INFINITY;
    /// for step in 0..200 {
    ///     grad.reset();
    ///     let x = (step % 3) as f32 - 1.0;
    ///     let view = layout.view_tree(&line, &flat)?;
    ///     loss = backward(&view, x, &mut layout.view_grad(&line, &mut grad)?);
    ///     optimizer.step(&mut flat, &grad)?;
    /// }
    /// assert!(loss < 1e-6);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn view_grad<'v, T, E>(
        &self,
        tree: &'v T,
        grad: &'v mut FlatGrad<E>,
    ) -> Result<T::ViewMut<'v>>
    where
        T: Viewable,
        E: FlatElement,
    {
        self.check_same(grad.layout())?;
        let (elements, presence) = grad.parts_mut();
        let view = self.view_mut_of(tree, elements, true)?;
        for leaf in 0..self.leaves().len() {
            presence.set(leaf, true);
        }
        Ok(view)
    }

    fn view_mut_of<'v, T, E>(
        &self,
        tree: &'v T,
        elements: &'v mut [E],
        is_gradient: bool,
    ) -> Result<T::ViewMut<'v>>
    where
        T: Viewable,
        E: FlatElement,
    {
        let met = Met::of(&self.inner, tree, E::DTYPE)?;
        let bytes = bytemuck::cast_slice_mut(elements);
        let mut leaves = match met {
            Met::InOrder if self.inner.is_plain => {
                LeafViewsMut::in_order(self, bytes, size_of::<E>(), is_gradient)
            }
            met => {
                let (steps, nodes) = met.into_steps(&self.inner);
                let mut cut = Cut::new(self, &steps, &nodes, bytes, size_of::<E>(), is_gradient);
                LeafViewsMut::of_pieces(cut.pieces_of(&steps))
            }
        };
        let view = tree.view_mut_from(&mut leaves)?;
        leaves.finish()?;
        Ok(view)
    }
}
