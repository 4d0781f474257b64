//! Faults that were found by reading and by fuzzing, each as it should be.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{
    Builder, DynTree, FlatGrad, Identity, Layout, LeafMut, LeafRef, Reader, Result, Tree, Visitor,
    VisitorMut, Writer, deep_clone, tree,
};
use ndarray::{Array2, ArrayView1, ArrayView2, ShapeBuilder, arr2, s};

#[test]
fn a_cell_in_a_node_that_is_renewed_stays_tied() {
    for swapped in [false, true] {
        let inner = Rc::new(RefCell::new(vec![1.0_f32]));
        let outer = Rc::new((inner.clone(), vec![2.0_f32]));
        let outside = outer.clone();
        let mut model = if swapped {
            (None, inner.clone(), Some(outer))
        } else {
            (Some(outer), inner.clone(), None)
        };
        let layout = Layout::of(&model).unwrap();
        let values: Vec<f32> = (0..layout.len()).map(|index| 10.0 + index as f32).collect();
        layout.restructure_into(&mut model, &values).unwrap();
        assert_eq!(Layout::of(&model).unwrap(), layout);
        assert_eq!(layout.gather(&model).unwrap(), values);
        // Whoever holds the cell sees the new value; whoever holds the plain node keeps the old
        // one.
        assert_eq!(*inner.borrow(), [10.0]);
        assert_eq!(
            (outside.1.as_slice(), Rc::ptr_eq(&outside.0, &inner)),
            (&[2.0][..], true)
        );
    }
}

trait Layer: Tree {}

struct Foreign(Vec<f32>);

impl Tree for Foreign {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.0.visit(visitor)
    }
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.0.visit_mut(visitor)
    }
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(Foreign(self.0.rebuild(builder)?))
    }
}

impl Layer for Foreign {}

#[derive(Tree)]
#[tree(object = "dyn Layer")]
struct Scale(Vec<f32>);

impl Layer for Scale {}

#[test]
fn a_shared_node_that_cannot_be_rebuilt_is_an_error_before_anything_is_written() {
    let object: Rc<dyn Layer> = Rc::new(Foreign(vec![1.0]));
    let mut model = (vec![0.0_f32], object.clone(), object);
    let layout = Layout::of(&model).unwrap();
    let error = layout
        .restructure_into(&mut model, &[7.0, 8.0])
        .unwrap_err();
    assert!(error.is_object());
    assert_eq!((error.path(), model.0[0]), (Some("1"), 0.0));

    let sized = Rc::new(Foreign(vec![1.0]));
    let mut model = (vec![0.0_f32], sized.clone(), sized);
    let error = layout
        .restructure_into(&mut model, &[7.0, 8.0])
        .unwrap_err();
    assert!(error.to_string().contains("rebuild_object!"), "{error}");
    assert_eq!(model.0, [0.0]);

    let scale = Rc::new(Scale(vec![1.0]));
    let mut model = (vec![0.0_f32], scale.clone(), scale as Rc<dyn Layer>);
    let error = Layout::of(&model)
        .unwrap()
        .restructure_into(&mut model, &[7.0, 8.0])
        .unwrap_err();
    assert!(error.is_object());
    assert_eq!((model.0[0], model.1.0[0]), (0.0, 1.0));
}

#[derive(Tree)]
#[tree(transparent)]
struct Frozen(#[tree(frozen)] Arc<Vec<f32>>);

#[test]
fn a_frozen_wrapper_freezes_its_own_place_and_no_other() {
    let shared = Arc::new(vec![1.0, 2.0]);
    let (first, second) = (
        (Frozen(shared.clone()), shared.clone()),
        (shared.clone(), Frozen(shared)),
    );
    for (layout, trainable) in [
        (Layout::of(&first).unwrap(), "1"),
        (Layout::of(&second).unwrap(), "0"),
    ] {
        assert_eq!(layout.leaves()[0].path(), trainable);
        let grad_at = |path: &str| vec![if path == trainable { 1.0_f32 } else { 10.0 }; 2];
        let grads = (grad_at("0"), grad_at("1"));
        assert_eq!(*layout.gather_grad(&grads).unwrap(), [1.0, 1.0]);
    }
}

#[test]
fn one_object_cannot_stand_for_a_matrix_and_its_transpose() {
    let matrix = arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]).into_shared();
    let model = (Rc::new(matrix.clone()), Rc::new(matrix.reversed_axes()));
    let layout = Layout::of(&model).unwrap();
    let same = (model.0.clone(), model.0.clone());
    let error = layout.gather(&same).unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
    assert!(
        layout
            .restructure(&same, &[1.0, 2.0, 3.0, 4.0])
            .unwrap_err()
            .is_broken_tie()
    );
}

/// A value elsewhere, with an identity of its own; every reading is counted.
#[derive(Clone)]
struct Tensor(u64, Rc<RefCell<Vec<f32>>>, Rc<RefCell<usize>>);

impl Tree for Tensor {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let reader = Reader::new(|out: &mut [f32]| {
            *self.2.borrow_mut() += 1;
            out.copy_from_slice(&self.1.borrow());
            Ok(())
        });
        visitor.leaf(LeafRef::from_reader(&[2], &reader).with_identity(&Identity::of(self.0)))
    }
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let mut writer = Writer::new(|values: &[f32]| {
            self.1.borrow_mut().copy_from_slice(values);
            Ok(())
        });
        visitor.leaf(LeafMut::from_writer(&[2], &mut writer))
    }
    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Ok(self.clone())
    }
}

#[test]
fn an_identity_of_its_own_counts_after_the_plan_too() {
    let tensor = |id| Tensor(id, Rc::new(RefCell::new(vec![1.0, 2.0])), Rc::default());
    let layout = Layout::of(&(tensor(1), tensor(2))).unwrap();
    let one = tensor(3);
    let error = layout
        .restructure_into(&mut (one.clone(), one.clone()), &[1.0, 2.0, 3.0, 4.0])
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!(*one.1.borrow(), [1.0, 2.0]);

    let tied = Layout::of(&(one.clone(), one.clone())).unwrap();
    *one.2.borrow_mut() = 0;
    assert_eq!(
        tied.gather(&(one.clone(), one.clone())).unwrap(),
        [1.0, 2.0]
    );
    // Once for the vector, and once a place to see that the two hold the same.
    assert_eq!(*one.2.borrow(), 3);
}

#[test]
fn arrays_without_elements_are_never_ties() {
    let empty = Arc::new(Array2::<f32>::zeros((0, 3)));
    let mut model = (empty.clone(), empty, Rc::new(vec![1.0_f32]));
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        layout
            .leaves()
            .iter()
            .map(|leaf| leaf.places().len())
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
    layout.restructure_into(&mut model, &[2.0]).unwrap();
    assert_eq!(
        layout
            .gather(&layout.restructure(&model, &[3.0]).unwrap())
            .unwrap(),
        [3.0]
    );
}

#[test]
fn a_callback_that_fails_half_way_leaves_the_output_as_it_was() {
    struct Failing;
    impl Tree for Failing {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            let reader = Reader::new(|out: &mut [f32]| {
                out[0] = 99.0;
                Err(flatleaf::Error::custom("lost"))
            });
            visitor.leaf(LeafRef::from_reader(&[2], &reader))
        }
        fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            Ok(())
        }
        fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
            Ok(Failing)
        }
    }
    let layout = Layout::of(&(vec![1.0_f32, 2.0], Failing)).unwrap();
    let mut flat = vec![0.0; 4];
    assert_eq!(
        layout
            .gather_into(&(vec![1.0_f32, 2.0], Failing), &mut flat)
            .unwrap_err()
            .path(),
        Some("1")
    );
    assert_eq!(flat, [0.0; 4]);
    let mut grad = FlatGrad::zeros(&layout);
    assert!(
        layout
            .gather_grad_into(&(vec![1.0_f32, 2.0], Failing), &mut grad)
            .unwrap_err()
            .is_custom()
    );
    assert_eq!((grad.to_vec(), grad.is_present(0)), (vec![0.0; 4], false));
}

#[test]
fn a_view_that_overlaps_itself_is_told_from_one_that_overlaps_another() {
    let data = [1.0_f32, 2.0, 3.0, 4.0, 5.0];
    let hankel = ArrayView2::from_shape((2, 2).strides((1, 1)), &data).unwrap();
    assert_eq!(
        Layout::of(&(hankel, ArrayView1::from(&data[3..])))
            .unwrap()
            .leaves()
            .len(),
        2
    );
    let error = Layout::of(&(hankel, ArrayView1::from(&data[2..4]))).unwrap_err();
    assert!(error.is_overlap());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
}

#[test]
fn a_table_counts_one_as_one() {
    let layout = |leaves: usize| {
        Layout::of(&(vec![vec![1.0_f32]; leaves], vec![vec![1_u8]; leaves]))
            .unwrap()
            .to_string()
    };
    assert!(layout(1).ends_with("\n1 leaf, 1 element, 4 bytes; 1 other, 1 element, 1 byte"));
    assert!(layout(2).ends_with("\n2 leaves, 2 elements, 8 bytes; 2 others, 2 elements, 2 bytes"));
}

#[test]
fn a_table_of_any_width_is_printed() {
    let shared = Arc::new(vec![1.0_f32]);
    let text = Layout::of(&vec![shared; 20_000]).unwrap().to_string();
    assert!(
        text.contains("1, 2, 3, 4 and 19995 more"),
        "{}",
        &text[..200]
    );
    let key = "k".repeat(70_000);
    assert!(
        Layout::of(&DynTree::map([(key.clone(), tree!([1.0]))]))
            .unwrap()
            .to_string()
            .contains(&key)
    );
}

#[test]
fn pointers_in_pointers_run_out_of_levels_not_of_stack() {
    /// All the nodes, the innermost first.
    fn nested(levels: usize) -> Vec<Rc<dyn Tree>> {
        let innermost = Rc::new(vec![1.0_f32]) as Rc<dyn Tree>;
        std::iter::successors(Some(innermost), |inner| Some(Rc::new(inner.clone())))
            .take(levels + 1)
            .collect()
    }
    assert_eq!(Layout::of(&nested(500)[500]).unwrap().len(), 1);
    let mut deep = nested(200_000);
    assert!(Layout::of(&deep[200_000]).unwrap_err().is_too_deep());
    // From the outermost on: so many pointers that drop one another would overflow the stack by
    // themselves.
    while deep.pop().is_some() {}
}

#[test]
fn a_very_deep_tree_can_be_cloned_and_compared() {
    let deep = (0..200_000).fold(tree!([1.0]), |inner, _| DynTree::list([inner]));
    let copy = deep.clone();
    assert!(copy == deep);
}

#[test]
fn a_copy_of_a_diamond_is_bounded() {
    struct Pair(Rc<dyn Tree>, Rc<dyn Tree>);
    impl Tree for Pair {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            visitor.child(flatleaf::Key::Index(0), &self.0)?;
            visitor.child(flatleaf::Key::Index(1), &self.1)
        }
        fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            Ok(())
        }
        fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
            Ok(Pair(self.0.clone(), self.1.clone()))
        }
    }
    let diamond = (0..40).fold(Rc::new(vec![1.0_f32]) as Rc<dyn Tree>, |below, _| {
        Rc::new(Pair(below.clone(), below))
    });
    assert!(DynTree::of(&diamond).unwrap_err().is_too_many_places());
}

#[test]
fn kept_arrays_keep_the_order_of_their_axes() {
    let wide = Array2::from_shape_fn((3, 4), |(i, j)| (4 * i + j) as f32);
    let strided = wide.reversed_axes().slice_move(s![..;2, ..]);
    let copy = deep_clone(&strided).unwrap();
    assert_eq!((copy.strides(), &copy), (&[1, 2][..], &strided));
}

#[test]
fn layouts_whose_places_are_frozen_otherwise_are_other_layouts() {
    #[derive(Tree)]
    struct Half {
        a: Rc<Vec<f32>>,
        #[tree(frozen)]
        b: Rc<Vec<f32>>,
    }
    let shared = Rc::new(vec![1.0]);
    let half = Layout::of(&Half {
        a: shared.clone(),
        b: shared.clone(),
    })
    .unwrap();
    let whole = Layout::everything(&Half {
        a: shared.clone(),
        b: shared,
    })
    .unwrap();
    assert_ne!(half, whole);
    assert_ne!(half.fingerprint(), whole.fingerprint());
}

#[test]
fn an_unknown_leaf_behind_a_shared_one_is_unknown() {
    let inner = Rc::new(vec![1.0_f32]);
    let outer = Rc::new((inner.clone(),));
    let layout = Layout::of(&(vec![1.0_f32], 0.5_f32)).unwrap();
    let error = layout
        .gather_grad(&(inner, outer.clone(), outer))
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path().map(|path| path.starts_with('2')), Some(true));
}

#[test]
fn fields_without_parameters_may_have_gradients_of_any_shape() {
    let layout = Layout::of(&(vec![1.0_f32], vec!["a".to_owned()], (0.5_f32, 0.25_f32))).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&(vec![1.0_f32], vec![2.0_f32], vec![3.0_f32, 4.0]))
            .unwrap(),
        [1.0]
    );
}

#[test]
fn map_into_refuses_a_target_whose_tied_places_differ() {
    let shared = Rc::new(vec![0.0_f32]);
    let layout = Layout::of(&(shared.clone(), shared)).unwrap();
    let mut grads = (vec![1.0_f32], vec![2.0_f32]);
    let error = layout
        .map_into(&mut grads, [], |_, x, []| x[0] *= 0.5)
        .unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!(grads, (vec![1.0], vec![2.0]));
}

#[test]
#[cfg(feature = "serde")]
fn a_stored_layout_of_hostile_size_is_printed() {
    let text = r#"{"format":"flatleaf layout 1","len":0,"leaves":[
        {"shape":[1152921504606846975],"dtype":"i64","trainable":false,"offset":0},
        {"shape":[1152921504606846975],"dtype":"i64","trainable":false,"offset":0}],
        "nodes":[{"path":"0","leaf":0},{"path":"1","leaf":1}]}"#;
    let layout: Layout = serde_json::from_str(text).unwrap();
    assert!(
        layout.to_string().contains("2,305,843,009,213,693,950"),
        "{layout}"
    );
    let both = r#"{"format":"flatleaf layout 1","len":0,"leaves":[{"shape":[1],"dtype":"i8","trainable":false,"offset":0}],
        "nodes":[{"path":"0","leaf":0,"no_leaf":true}]}"#;
    assert!(
        serde_json::from_str::<Layout>(both)
            .unwrap_err()
            .to_string()
            .contains("no leaf and has something of one")
    );
}

#[test]
fn a_strided_array_is_mapped_into_a_new_tree() {
    let mut reversed = arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]);
    reversed.invert_axis(ndarray::Axis(0));
    let layout = Layout::of(&(reversed.clone(),)).unwrap();
    let doubled = layout
        .map(&(reversed,), [], |_, x, []| flatleaf::ops::scale(x, 2.0))
        .unwrap();
    assert_eq!(doubled.0, arr2(&[[6.0, 8.0], [2.0, 4.0]]));
}

#[test]
#[cfg(feature = "serde")]
fn a_frozen_root_is_stored() {
    #[derive(Tree)]
    #[tree(transparent)]
    struct Fixed<T: Tree>(#[tree(frozen)] T);
    let read = |layout: &Layout| -> Layout {
        serde_json::from_str(&serde_json::to_string(layout).unwrap()).unwrap()
    };
    let leaf = Layout::of(&Fixed(vec![1.0_f32])).unwrap();
    assert_eq!(read(&leaf), leaf);
    let branch = Layout::of(&Fixed((vec![1.0_f32], vec![2.0_f32]))).unwrap();
    assert_eq!(read(&branch), branch);
    // What lies below what is frozen has no gradient, whatever is there.
    assert_eq!(
        branch.gather_grad(&tree!({ "more": [1.0] })).unwrap().len(),
        0
    );
    assert_eq!(
        read(&branch)
            .gather_grad(&tree!({ "more": [1.0] }))
            .unwrap()
            .len(),
        0
    );
}

/// A layout of the tree after it was written in place, and the one before.
fn layouts_around_writing<T: Tree>(model: &mut T) -> [Layout; 2] {
    let before = Layout::of(model).unwrap();
    let flat = before.gather(model).unwrap();
    before.restructure_into(model, &flat).unwrap();
    [Layout::of(model).unwrap(), before]
}

#[test]
fn a_cell_of_integers_in_a_node_that_is_renewed_stays_tied() {
    let counter = Rc::new(RefCell::new(vec![1_u64]));
    let layer = Rc::new((vec![1.0_f32], counter.clone()));
    let mut before_it = (counter.clone(), layer.clone(), layer);
    let [after, before] = layouts_around_writing(&mut before_it);
    assert_eq!(after, before);
    assert!(Rc::ptr_eq(&before_it.1.1, &counter));
    let mut behind_it = (before_it.1, before_it.2, counter);
    let [after, before] = layouts_around_writing(&mut behind_it);
    assert_eq!(after, before);
}

#[test]
fn a_cell_is_written_once_however_many_nodes_hold_it() {
    let inner = Rc::new(vec![1.0_f32]);
    let cell = Rc::new(RefCell::new(inner.clone()));
    let mut model = (cell.clone(), inner, Rc::new(cell));
    let [after, before] = layouts_around_writing(&mut model);
    assert_eq!(after, before);
}

#[test]
fn an_array_without_elements_that_is_frozen_at_one_place_does_not_part_what_it_stands_beside() {
    #[derive(Tree)]
    struct Model<T: Tree> {
        trained: T,
        #[tree(frozen)]
        fixed: T,
    }
    let content = || (vec![1_i32], Vec::<f32>::new());
    let cell = Rc::new(RefCell::new(content()));
    let [after, before] = layouts_around_writing(&mut Model {
        trained: cell.clone(),
        fixed: cell,
    });
    assert_eq!(after, before);
    let node = Rc::new(content());
    let [after, before] = layouts_around_writing(&mut Model {
        trained: node.clone(),
        fixed: node,
    });
    assert_eq!(after, before);
}

#[test]
fn a_shared_node_without_a_gradient_stays_tied_in_one_that_is_renewed() {
    let embed = Rc::new(vec![2.0_f32]);
    let layer = Rc::new((vec![1.0_f32], embed.clone()));
    let grads = tree!({ "1": { "0": [1.0] } });
    let mut before_it = (embed.clone(), layer.clone(), layer.clone());
    let mut behind_it = (Option::<Rc<Vec<f32>>>::None, layer.clone(), layer, embed);
    update(&mut before_it, &grads);
    update(&mut behind_it, &grads);
    assert_eq!((&before_it.1.0, &behind_it.1.0), (&vec![0.0], &vec![0.0]));
}

#[test]
fn a_view_without_a_gradient_stays_tied_in_a_node_that_is_renewed() {
    let embed = arr2(&[[2.0_f32, 3.0]]).into_shared();
    let layer = Rc::new((vec![1.0_f32], embed.clone()));
    let mut model = (embed.clone(), layer.clone(), layer, embed.reversed_axes());
    update(&mut model, &tree!({ "1": { "0": [1.0] } }));
    assert_eq!((&model.1.0, &model.0), (&vec![0.0], &model.1.1));
}

/// One step against a gradient, with the ties as before.
fn update<T: Tree>(model: &mut T, grads: &DynTree) {
    let layout = Layout::of(model).unwrap();
    Optimizer::new(
        Sgd {
            lr: 1.0,
            ..Sgd::default()
        },
        &layout,
    )
    .unwrap()
    .update(model, grads)
    .unwrap();
    assert_eq!(Layout::of(model).unwrap(), layout);
}
