//! Shared pointers, cells and locks: what is new, what is written through, what is shared (decision
//! by decision of the design).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use flatleaf::{Layout, Tree, deep_clone, destructure};
use ndarray::{ArcArray1, Array2, arr1, arr2};

#[test]
fn a_new_tree_has_one_new_allocation_a_tie() {
    let shared = Rc::new(arr1(&[1.0_f32, 2.0]));
    let tree = (shared.clone(), vec![3.0_f32], shared.clone());
    let (flat, layout) = destructure(&tree).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0]);
    let new = layout.restructure(&tree, &[4.0, 5.0, 6.0]).unwrap();
    assert!(Rc::ptr_eq(&new.0, &new.2) && !Rc::ptr_eq(&new.0, &shared));
    assert_eq!(
        (&*new.2, &*shared),
        (&arr1(&[4.0, 5.0]), &arr1(&[1.0, 2.0]))
    );
}

#[test]
fn in_place_a_plain_shared_pointer_is_renewed_and_others_keep_the_old_one() {
    let shared = Arc::new(arr1(&[1.0_f32]));
    let mut tree = [shared.clone(), shared.clone(), Arc::new(arr1(&[2.0]))];
    let untied = Arc::as_ptr(&tree[2]);
    let layout = Layout::of(&tree).unwrap();
    layout.restructure_into(&mut tree, &[3.0, 4.0]).unwrap();
    assert!(Arc::ptr_eq(&tree[0], &tree[1]));
    assert_eq!(
        (&*tree[1], &*tree[2], &*shared),
        (&arr1(&[3.0]), &arr1(&[4.0]), &arr1(&[1.0]))
    );
    // The only handle of a node is written where it is.
    assert_eq!(Arc::as_ptr(&tree[2]), untied);
}

#[test]
fn in_place_a_tie_without_other_handles_stays_a_tie() {
    let shared = Rc::new(vec![1.0_f32]);
    let mut tree = (shared.clone(), shared);
    let layout = Layout::of(&tree).unwrap();
    layout.restructure_into(&mut tree, &[5.0]).unwrap();
    assert!(Rc::ptr_eq(&tree.0, &tree.1));
    assert_eq!(*tree.1, [5.0]);
}

#[test]
fn cells_and_locks_are_written_through_in_place_and_new_in_a_new_tree() {
    let (cell, lock) = (
        Rc::new(RefCell::new(vec![1.0_f32])),
        Arc::new(RwLock::new(vec![2.0_f32])),
    );
    let mut tree = (cell.clone(), lock.clone(), cell.clone());
    let layout = Layout::of(&tree).unwrap();
    assert_eq!(layout.len(), 2);

    let new = layout.restructure(&tree, &[7.0, 8.0]).unwrap();
    assert!(
        Rc::ptr_eq(&new.0, &new.2) && !Rc::ptr_eq(&new.0, &cell) && !Arc::ptr_eq(&new.1, &lock)
    );
    assert_eq!(
        (&*cell.borrow(), &*lock.read().unwrap()),
        (&vec![1.0], &vec![2.0])
    );

    layout.restructure_into(&mut tree, &[3.0, 4.0]).unwrap();
    assert!(Rc::ptr_eq(&tree.0, &cell) && Arc::ptr_eq(&tree.1, &lock));
    assert_eq!(
        (&*cell.borrow(), &*lock.read().unwrap()),
        (&vec![3.0], &vec![4.0])
    );
}

#[derive(Tree)]
struct Locked {
    weight: Mutex<Vec<f32>>,
    biases: Vec<RwLock<Vec<f32>>>,
    name: String,
}

#[test]
fn locks_inside_a_shared_node_are_written_through_too() {
    let layer = Arc::new(Locked {
        weight: vec![1.0].into(),
        biases: vec![vec![2.0].into(), vec![3.0].into()],
        name: "first".into(),
    });
    let mut tree = (layer.clone(), layer.clone());
    let layout = Layout::of(&tree).unwrap();
    layout
        .restructure_into(&mut tree, &[4.0, 5.0, 6.0])
        .unwrap();
    assert!(Arc::ptr_eq(&tree.0, &layer) && Arc::ptr_eq(&tree.1, &layer));
    assert_eq!(layout.gather(&tree).unwrap(), [4.0, 5.0, 6.0]);
    assert_eq!(*layer.biases[1].read().unwrap(), [6.0]);
    assert_eq!(layer.name, "first");
}

#[derive(Tree)]
struct Half {
    plain: Vec<f32>,
    locked: Mutex<Vec<f32>>,
}

#[test]
fn a_shared_node_that_is_not_all_cells_is_renewed_whole() {
    let half = Arc::new(Half {
        plain: vec![1.0],
        locked: vec![2.0].into(),
    });
    let mut tree = (half.clone(), half.clone());
    let layout = Layout::of(&tree).unwrap();
    layout.restructure_into(&mut tree, &[3.0, 4.0]).unwrap();
    assert!(Arc::ptr_eq(&tree.0, &tree.1) && !Arc::ptr_eq(&tree.0, &half));
    assert_eq!(layout.gather(&tree).unwrap(), [3.0, 4.0]);
    assert_eq!(
        (&half.plain, &*half.locked.lock().unwrap()),
        (&vec![1.0], &vec![2.0])
    );
}

#[derive(Tree)]
struct WithBackbone {
    head: Vec<f32>,
    #[tree(frozen)]
    backbone: Arc<Array2<f32>>,
    #[tree(frozen)]
    statistics: Arc<Mutex<Vec<f32>>>,
    table: Rc<[u32]>,
    name: Arc<str>,
}

#[test]
fn what_is_frozen_and_cannot_change_is_shared_by_a_new_tree() {
    let tree = WithBackbone {
        head: vec![1.0],
        backbone: Arc::new(arr2(&[[2.0, 3.0]])),
        statistics: Arc::new(Mutex::new(vec![4.0])),
        table: Rc::from([5, 6]),
        name: "net".into(),
    };
    let layout = Layout::of(&tree).unwrap();
    for new in [
        layout.restructure(&tree, &[9.0]).unwrap(),
        deep_clone(&tree).unwrap(),
    ] {
        assert!(Arc::ptr_eq(&new.backbone, &tree.backbone));
        assert!(Rc::ptr_eq(&new.table, &tree.table));
        assert!(Arc::ptr_eq(&new.name, &tree.name));
        assert!(!Arc::ptr_eq(&new.statistics, &tree.statistics));
        assert_eq!(*new.statistics.lock().unwrap(), [4.0]);
    }
}

#[test]
fn a_tie_of_frozen_and_trainable_places_is_trainable_at_all_of_them() {
    #[derive(Tree)]
    struct Model {
        #[tree(frozen)]
        early: Rc<Vec<f32>>,
        late: Rc<Vec<f32>>,
    }
    let shared = Rc::new(vec![1.0, 2.0]);
    let mut model = Model {
        early: shared.clone(),
        late: shared,
    };
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.leaves()[0].places(), ["late", "early"]);
    let grad = layout
        .gather_grad(&flatleaf::tree!({ "early": [10.0, 10.0], "late": [1.0, 2.0] }))
        .unwrap();
    assert_eq!(*grad, [1.0, 2.0]);
    layout.restructure_into(&mut model, &[3.0, 4.0]).unwrap();
    assert!(Rc::ptr_eq(&model.early, &model.late));
    assert_eq!(*model.early, [3.0, 4.0]);
}

#[test]
fn deep_clone_shares_nothing_mutable_and_keeps_ties() {
    let shared = Arc::new(Mutex::new(vec![1.0_f32]));
    let policy = (shared.clone(), shared.clone());
    let target = deep_clone(&policy).unwrap();
    shared.lock().unwrap()[0] = 2.0;
    assert!(Arc::ptr_eq(&target.0, &target.1));
    assert_eq!(*target.0.lock().unwrap(), [1.0]);
}

#[test]
fn views_of_one_allocation_stay_views_of_one() {
    let whole = arr2(&[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]).into_shared();
    let mut flipped = whole.clone();
    flipped.invert_axis(ndarray::Axis(0));
    let mut tree = (whole.clone(), whole.clone().reversed_axes(), flipped);
    let (flat, layout) = destructure(&tree).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let values = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
    let new = layout.restructure(&tree, &values).unwrap();
    layout.restructure_into(&mut tree, &values).unwrap();
    for tree in [&new, &tree] {
        assert_eq!(tree.0, arr2(&[[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]));
        assert_eq!(tree.1, arr2(&[[10.0, 30.0, 50.0], [20.0, 40.0, 60.0]]));
        assert_eq!(tree.2, arr2(&[[50.0, 60.0], [30.0, 40.0], [10.0, 20.0]]));
        assert_eq!(tree.0.as_ptr(), tree.1.as_ptr());
        assert_eq!(Layout::of(tree).unwrap(), layout);
    }
    assert_eq!(whole[[0, 0]], 1.0);
}

#[test]
fn a_frozen_view_and_an_outside_handle_keep_their_elements() {
    let array: ArcArray1<f32> = arr1(&[1.0, 2.0]).into_shared();
    let outside = array.clone();
    let mut tree = (array,);
    let layout = Layout::of(&tree).unwrap();
    layout.restructure_into(&mut tree, &[3.0, 4.0]).unwrap();
    assert_eq!(
        (tree.0, outside),
        (
            arr1(&[3.0, 4.0]).into_shared(),
            arr1(&[1.0, 2.0]).into_shared()
        )
    );
}

#[derive(Tree)]
struct Link {
    value: Vec<f32>,
    next: Option<Rc<RefCell<Link>>>,
}

#[test]
fn a_chain_of_cells_as_deep_as_is_allowed() {
    let mut chain = Link {
        value: vec![0.0],
        next: None,
    };
    for level in 1..1000 {
        chain = Link {
            value: vec![level as f32],
            next: Some(Rc::new(RefCell::new(chain))),
        };
    }
    let (flat, layout) = destructure(&chain).unwrap();
    assert_eq!((flat.len(), flat[0], flat[999]), (1000, 999.0, 0.0));
    let negated: Vec<f32> = flat.iter().map(|x| -x).collect();
    let new = layout.restructure(&chain, &negated).unwrap();
    layout.restructure_into(&mut chain, &negated).unwrap();
    assert_eq!(layout.gather(&new).unwrap(), negated);
    assert_eq!(layout.gather(&chain).unwrap(), negated);
}

#[test]
fn one_allocation_seen_as_two_types_is_one_parameter() {
    trait Layer: Tree {}
    #[derive(Tree)]
    #[tree(object = "dyn Layer")]
    struct Scale(Vec<f32>);
    impl Layer for Scale {}
    let scale = Rc::new(Scale(vec![1.0]));
    let tree = (scale.clone(), scale as Rc<dyn Layer>);
    let (flat, layout) = destructure(&tree).unwrap();
    assert_eq!(flat, [1.0]);
    let error = layout.restructure(&tree, &[2.0]).err().unwrap();
    assert!(error.is_object());
    assert_eq!(
        error.to_string(),
        "`1`: expected one type for all handles of a shared node, found two"
    );
}

#[test]
fn a_frozen_wrapper_that_is_shared_is_frozen_at_all_its_places() {
    #[derive(Tree)]
    #[tree(transparent)]
    struct Constant(#[tree(frozen)] Vec<f32>);
    let shared = Rc::new(Constant(vec![1.0]));
    let layout = Layout::of(&(shared.clone(), shared, Constant(vec![2.0]))).unwrap();
    assert!(layout.is_empty());
    assert_eq!(layout.others()[0].places(), ["0", "1"]);
}
