//! Sizes that no memory holds: an error in place of an aborted process.

use flatleaf::Companion::{Grads, Values};
use flatleaf::{
    Builder, DynTree, Layout, LeafRef, Reader, Result, Tree, Visitor, VisitorMut, deep_clone,
};
use ndarray::{ArrayView1, ArrayView2, arr1};

/// A petabyte and more.
const HOSTILE: usize = 1 << 50;

/// An array that is as large as it says, in four bytes.
fn broadcast(one: &ndarray::Array1<f32>) -> ArrayView1<'_, f32> {
    one.broadcast(HOSTILE).unwrap()
}

fn is_out_of_memory<T>(result: Result<T>, path: Option<&str>) {
    let error = result.err().expect("nobody has so much memory");
    assert!(error.is_out_of_memory(), "{error:?}");
    assert_eq!(error.path(), path, "{error}");
    assert!(
        error.to_string().ends_with("bytes of memory, found less"),
        "{error}"
    );
}

#[test]
fn a_view_that_is_larger_than_memory_is_read_with_an_error() {
    let one = arr1(&[1.0]);
    let tree = (vec![1.0_f32], broadcast(&one));
    let layout = Layout::of(&tree).unwrap();
    assert_eq!(layout.len(), HOSTILE + 1);
    is_out_of_memory(layout.gather(&tree), Some("1"));
    is_out_of_memory(layout.gather_as::<f64>(&tree), Some("1"));
    is_out_of_memory(layout.gather_grad(&tree), Some("1"));
    is_out_of_memory(layout.mask(&tree), Some("1"));
    is_out_of_memory(layout.norm_l2(&tree), Some("1"));
    is_out_of_memory(
        layout.map_reduce(&tree, [], |_, x, []| x.len(), |a, b| a + b),
        Some("1"),
    );
    is_out_of_memory(layout.map(&tree, [], |_, _, []| ()), Some("1"));
    is_out_of_memory(DynTree::of(&tree), Some("1"));
    assert!(deep_clone(&tree).is_ok(), "a view is cloned as a view");
}

#[test]
fn companions_that_have_nothing_to_say_of_a_huge_leaf() {
    let one = arr1(&[1.0]);
    let tree = (broadcast(&one),);
    let layout = Layout::of(&tree).unwrap();
    is_out_of_memory(
        layout.map_into(&mut (vec![1.0_f32],), [Grads(&())], |_, _, [_]| ()),
        None,
    );
    is_out_of_memory(
        layout.map_into(&mut (vec![1.0_f32],), [Values(&tree)], |_, _, [_]| ()),
        Some("0"),
    );
}

/// Reads nothing; the shape is all there is.
struct Claim<'s>(&'s [usize]);

impl Tree for Claim<'_> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.leaf(LeafRef::from_reader(
            self.0,
            &Reader::new(|_: &mut [i128]| Ok(())),
        ))
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        builder
            .leaf::<i128>(LeafRef::from_reader(
                self.0,
                &Reader::new(|_: &mut [i128]| Ok(())),
            ))
            .map(|_| Claim(self.0))
    }
}

#[test]
fn a_shape_beyond_all_numbers_is_refused_by_the_plan() {
    for shape in [
        &[usize::MAX][..],
        &[usize::MAX, 2],
        &[1 << 32, 1 << 32],
        &[0, usize::MAX, 2],
        &[(1 << 60) - 1],
    ] {
        let error = Layout::of(&Claim(shape)).unwrap_err();
        assert!(error.is_invalid_layout(), "{error:?}");
        assert!(DynTree::of(&Claim(shape)).is_err());
    }
    let claim = Claim(&[HOSTILE]);
    is_out_of_memory(deep_clone(&claim), Some(""));
    is_out_of_memory(DynTree::of(&claim), Some(""));
}

#[test]
#[should_panic(expected = "a leaf of shape [4294967296, 4294967296] was given 0 elements")]
fn a_shape_beyond_all_numbers_is_no_empty_slice() {
    let _ = LeafRef::from_slice::<f32>(&[1 << 32, 1 << 32], &[]);
}

#[test]
fn an_overlap_of_views_that_are_larger_than_memory() {
    let data = arr1(&[1.0_f32, 2.0]);
    let wide: ArrayView2<'_, f32> = data.broadcast((HOSTILE, 2)).unwrap();
    let error = Layout::of(&(wide, data.view())).unwrap_err();
    assert!(error.is_overlap());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
}

#[cfg(feature = "serde")]
mod stored {
    use std::panic::catch_unwind;

    use flatleaf::FlatGrad;

    use super::*;

    fn layout() -> Layout {
        let text = r#"{"format":"flatleaf layout 1","len":1125899906842624,"leaves":[
            {"shape":[1125899906842624],"dtype":"f32","trainable":true,"offset":0}],"nodes":[{"path":"w","leaf":0}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_layout_that_is_larger_than_memory_makes_no_vector() {
        let layout = layout();
        is_out_of_memory(layout.gather_grad(&()), None);
        is_out_of_memory(layout.gather_grad_as::<f64>(&()), None);
        let panic = catch_unwind(|| FlatGrad::<f32>::zeros(&layout)).unwrap_err();
        assert_eq!(
            panic.downcast_ref::<String>().unwrap(),
            "expected 4503599627370496 bytes of memory, found less"
        );
        assert!(layout.gather(&()).unwrap_err().is_missing());
        assert!(
            layout
                .restructure_into(&mut (), &[])
                .unwrap_err()
                .is_length()
        );
    }
}

#[cfg(feature = "safetensors")]
#[test]
fn a_file_that_is_larger_than_memory_is_not_begun() {
    let path =
        std::env::temp_dir().join(format!("flatleaf-room-{}.safetensors", std::process::id()));
    let one = arr1(&[1.0]);
    is_out_of_memory(
        flatleaf::checkpoint::save(&path, &(broadcast(&one),)),
        Some("0"),
    );
    assert!(!path.exists());
}

/// Bytes of this process that are in memory.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

// A layout that claims 4 GiB of elements, and gradients that have none of them.
#[cfg(target_os = "linux")]
#[test]
fn zeros_that_nobody_wrote_are_not_written() {
    let one = arr1(&[1.0_f32]);
    let layout = Layout::of(&(one.broadcast(1 << 30).unwrap(),)).unwrap();
    let before = resident();
    let mut grad = layout.gather_grad(&()).unwrap();
    layout.gather_grad_into(&(), &mut grad).unwrap();
    grad.reset();
    assert!(!grad.is_present(0));
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 30, "{grown} bytes have been touched");
}
