//! The flat vector of a file: lent where it lies there as a whole.

use std::borrow::Cow;
use std::ops::Range;

use safetensors::Dtype as OnDisk;

use super::dtype;
use super::open::Checkpoint;
use super::sources::{FoundLeaves, StoredLeaf, TensorNames};
use crate::element::FlatElement;
use crate::error::{Error, Findings, Result};
use crate::layout::Layout;
use crate::memory;

impl Checkpoint {
    /// The flat vector of that layout: every float of the file once. It is not copied if all are
    /// `f32`, lie together in the order of the layout and are aligned, as [`save`](super::save)
    /// leaves a model of `f32`.
    ///
    /// # Errors
    /// [`is_element_type`](Error::is_element_type): the file has `f64` tensors; use
    /// [`flat_for_as`](Checkpoint::flat_for_as). [`is_invalid_file`](Error::is_invalid_file) and
    /// [`is_too_deep`](Error::is_too_deep): the names make no tree.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// use std::borrow::Cow;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [[1.0, 2.0]], "b": [3.0] }))?;
    /// assert!(matches!(checkpoint::open(&path)?.flat()?, Cow::Borrowed([1.0, 2.0, 3.0])));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat(&self) -> Result<Cow<'_, [f32]>> {
        self.flat_for(&self.layout()?)
    }

    /// The flat vector of a layout, by the names of its leaves. It is not copied where the leaves
    /// are `f32` in the file and lie together in flat order; otherwise one pass copies or converts
    /// them. Tensors that are no leaves are passed by.
    ///
    /// # Errors
    /// [`is_missing`](Error::is_missing), [`is_shape`](Error::is_shape),
    /// [`is_element_type`](Error::is_element_type): leaves that are not in the file, or are of
    /// another shape or type there, all in one error; `f64` leaves.
    /// [`is_broken_tie`](Error::is_broken_tie): the places of a tie have tensors that differ.
    /// [`is_out_of_memory`](Error::is_out_of_memory): the copy does not fit.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-for-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [1.0], "b": [2.0] }))?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.flat_for(&Layout::of(&tree!({ "b": [0.0], "w": [0.0] }))?)?, [2.0, 1.0].as_slice());
    ///
    /// let error = file.flat_for(&Layout::of(&tree!({ "head": [0.0] }))?).unwrap_err();
    /// assert_eq!((error.is_missing(), error.path()), (true, Some("head")));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat_for(&self, layout: &Layout) -> Result<Cow<'_, [f32]>> {
        self.flat_for_as(layout)
    }

    /// The flat vector of a layout, by the names of its leaves, as `f32` or `f64`: a vector of
    /// `f64` holds the leaves of models of `f64` too, and what is `f32` in the file is widened.
    /// It is not copied where all leaves are of the vector's type in the file and lie together in
    /// flat order.
    ///
    /// # Errors
    /// [`is_missing`](Error::is_missing), [`is_shape`](Error::is_shape),
    /// [`is_element_type`](Error::is_element_type): leaves that are not in the file, or are of
    /// another shape or type there, all in one error; `f64` leaves where the vector is of `f32`.
    /// [`is_broken_tie`](Error::is_broken_tie): the places of a tie have tensors that differ.
    /// [`is_out_of_memory`](Error::is_out_of_memory): the copy does not fit.
    ///
    /// ```
    /// use flatleaf::{checkpoint, Layout};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-open-flat-for-as-{}", std::process::id()));
    ///
    /// let model = (vec![0.1_f64], vec![2.0_f32]);
    /// checkpoint::save(&path, &model)?;
    /// let layout = Layout::of(&model)?;
    /// let file = checkpoint::open(&path)?;
    /// assert_eq!(file.flat_for_as::<f64>(&layout)?, [0.1, 2.0].as_slice());
    /// assert!(file.flat_for_as::<f32>(&layout).unwrap_err().is_element_type());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flat_for_as<E: FlatElement>(&self, layout: &Layout) -> Result<Cow<'_, [E]>> {
        layout.check_element::<E>()?;
        let leaves = layout.leaves();
        let names = TensorNames::new(self, &[])?;
        let found = names.find(layout, leaves.iter())?;
        check_all_found(&found)?;
        let stored = found.leaves.into_iter().flatten();
        let stored: Vec<StoredLeaf<'_>> = stored.collect();

        if let Some(flat) = self.whole_vector(&stored)? {
            return Ok(Cow::Borrowed(flat));
        }
        let mut flat = memory::try_zeroed(layout.len())?;
        for (leaf, stored) in leaves.iter().zip(&stored) {
            let elements = &mut flat[leaf.range()];
            stored.write(E::DTYPE, bytemuck::cast_slice_mut(elements));
        }
        Ok(Cow::Owned(flat))
    }

    /// The tensors as one vector, which they are already if they lie together as the leaves do.
    fn whole_vector<E>(&self, leaves: &[StoredLeaf<'_>]) -> Result<Option<&[E]>>
    where
        E: FlatElement,
    {
        let dtype = dtype::on_disk(E::DTYPE)?;
        let Some(range) = self.contiguous(leaves, dtype) else {
            return Ok(None);
        };
        let Some(bytes) = self.data(range) else {
            return Ok(None);
        };
        // The file may begin where no such element may, and is copied then.
        Ok(bytemuck::try_cast_slice(bytes).ok())
    }

    /// Where the leaves lie in the data, if they are of a type and one after the other.
    fn contiguous(&self, leaves: &[StoredLeaf<'_>], dtype: OnDisk) -> Option<Range<usize>> {
        let mut range: Option<Range<usize>> = None;
        for stored in leaves.iter().filter(|stored| !stored.elements.is_empty()) {
            let own = stored.in_place(dtype, &self.header)?;
            let range = range.get_or_insert(own.start..own.start);
            if range.end != own.start {
                return None;
            }
            range.end = own.end;
        }
        Some(range.unwrap_or(0..0))
    }
}

/// # Errors
/// Leaves that are missing, or of another shape or type in the file.
fn check_all_found(found: &FoundLeaves<'_>) -> Result<()> {
    let mut findings = Findings::default();
    if !found.missing.is_empty() {
        findings.add(Error::missing_tensors(found.missing.clone()));
    }
    for error in &found.mismatched {
        findings.add(error.clone());
    }
    findings.into_result()
}
