//! What bad input gets: the kind, the paths, what was expected and found, and outputs that are as
//! they were.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use flatleaf::{
    Builder, DynTree, Error, FlatGrad, Key, Layout, LeafMut, LeafRef, Result, Tree, Visitor,
    VisitorMut, Writer, deep_clone, tree,
};
use ndarray::{Array1, ArrayViewMut, CowArray, Ix2, ShapeBuilder, arr1, arr2};

#[derive(Tree, Clone, Debug, PartialEq)]
struct Dense {
    weight: Vec<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

fn dense() -> Dense {
    Dense {
        weight: vec![vec![1.0, 2.0], vec![3.0, 4.0]],
        bias: Some(vec![5.0]),
    }
}

fn layout() -> Layout {
    Layout::of(&dense()).unwrap()
}

/// Everything that reads values and everything that writes them refuses a tree with the same error;
/// nothing is written.
fn refused(layout: &Layout, tree: Dense) -> Error {
    let mut flat = vec![-1.0; layout.len()];
    let error = layout.gather_into(&tree, &mut flat).unwrap_err();
    assert_eq!(flat, vec![-1.0; layout.len()]);
    assert_eq!(layout.gather(&tree).unwrap_err(), error);
    let values = vec![9.0; layout.len()];
    assert_eq!(layout.restructure(&tree, &values).unwrap_err(), error);
    let mut target = tree.clone();
    assert_eq!(
        layout.restructure_into(&mut target, &values).unwrap_err(),
        error
    );
    assert_eq!(target, tree);
    error
}

#[test]
fn wrong_length() {
    let layout = layout();
    for values in [vec![0.0; 4], vec![0.0; 6]] {
        let mut tree = dense();
        let error = layout.restructure_into(&mut tree, &values).unwrap_err();
        assert!(error.is_length());
        assert_eq!(
            error.to_string(),
            format!(
                "the flat vector: expected 5 elements, found {}",
                values.len()
            )
        );
        assert_eq!(tree, dense());
        assert_eq!(layout.restructure(&tree, &values).unwrap_err(), error);
        assert_eq!(
            layout.gather_into(&tree, &mut values.clone()).unwrap_err(),
            error
        );
        assert_eq!(layout.view(&values, "bias").unwrap_err(), error);
        assert_eq!(
            layout.view_mut(&mut values.clone(), "bias").unwrap_err(),
            error
        );
        assert_eq!(layout.views(&values).unwrap_err(), error);
        assert_eq!(layout.views_mut(&mut values.clone()).unwrap_err(), error);
        let error = FlatGrad::from_flat(&layout, values.clone()).unwrap_err();
        assert!(error.is_length());
        assert_eq!(
            error.to_string(),
            format!("the gradient: expected 5 elements, found {}", values.len())
        );
    }
}

#[test]
fn wrong_shape() {
    let error = refused(
        &layout(),
        Dense {
            weight: vec![vec![1.0, 2.0], vec![3.0]],
            bias: Some(vec![5.0]),
        },
    );
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("weight.1"));
    assert_eq!(
        error.to_string(),
        "`weight.1`: expected shape [2], found shape [1]"
    );
}

#[test]
fn missing_leaf_where_an_option_is_none_now() {
    let error = refused(
        &layout(),
        Dense {
            bias: None,
            ..dense()
        },
    );
    assert!(error.is_missing());
    assert_eq!(error.path(), Some("bias"));
    assert_eq!(
        error.to_string(),
        "`bias`: expected a leaf of shape [1], found no leaf"
    );
}

#[test]
fn unknown_leaf_where_a_list_has_grown() {
    let error = refused(
        &layout(),
        Dense {
            weight: vec![vec![0.0; 2]; 3],
            bias: Some(vec![5.0]),
        },
    );
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("weight.2"));
}

#[test]
fn unknown_leaf_where_the_model_had_nothing() {
    let layout = Layout::of(&Dense {
        bias: None,
        ..dense()
    })
    .unwrap();
    let error = refused(&layout, dense());
    assert!(error.is_unknown());
    assert_eq!(
        (error.path(), error.expected()),
        (Some("bias"), Some("nothing"))
    );
    let error = layout.gather_grad(&tree!({ "bias": [1.0] })).unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("bias"));
    let error = layout
        .gather_grad(&tree!({ "bias": { "deeper": [1.0] } }))
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("bias.deeper"));
}

#[derive(Tree, Clone, Debug, PartialEq)]
enum Head {
    Linear { weight: Vec<f32> },
    Gated(Vec<f32>, Vec<f32>),
}

#[test]
fn another_variant_shows_as_missing_and_unknown_leaves() {
    let layout = Layout::of(&Head::Linear { weight: vec![1.0] }).unwrap();
    let mut gated = Head::Gated(vec![1.0], vec![2.0]);
    let error = layout.restructure_into(&mut gated, &[3.0]).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["0", "1", "weight"]);
    let text = error.to_string();
    assert!(
        text.contains("`weight`: expected a leaf of shape [1], found no leaf"),
        "{text}"
    );
    assert!(
        text.contains("`0`: expected a path that the layout has, found a leaf of shape [1]"),
        "{text}"
    );
    assert_eq!(gated, Head::Gated(vec![1.0], vec![2.0]));
}

#[test]
fn changed_map_keys() {
    let map = |keys: [&str; 2]| {
        keys.into_iter()
            .map(|key| (key.to_owned(), vec![1.0_f32]))
            .collect::<BTreeMap<_, _>>()
    };
    let layout = Layout::of(&map(["a", "b"])).unwrap();
    let error = layout.gather(&map(["a", "c"])).unwrap_err();
    assert_eq!(error.paths().collect::<Vec<_>>(), ["c", "b"]);
    assert!(error.is_unknown());
}

#[test]
fn many_disagreements_are_listed_up_to_eight() {
    let wrong = vec![vec![1.0_f32, 2.0]; 20];
    let layout = Layout::of(&vec![vec![1.0_f32]; 20]).unwrap();
    let error = layout.gather(&wrong).unwrap_err();
    assert_eq!(
        error.paths().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "6", "7"]
    );
    assert!(
        error
            .to_string()
            .ends_with("`7`: expected shape [1], found shape [2]; and 12 more"),
        "{error}"
    );
    let error = layout.gather(&Vec::<Vec<f32>>::new()).unwrap_err();
    assert!(error.is_missing());
    assert!(error.to_string().ends_with("; and 12 more"), "{error}");
}

#[test]
fn broken_tie() {
    let shared = Rc::new(vec![1.0_f32, 2.0]);
    let layout = Layout::of(&(shared.clone(), shared)).unwrap();
    let equal = (Rc::new(vec![1.0_f32, 2.0]), Rc::new(vec![1.0_f32, 2.0]));
    assert_eq!(layout.gather(&equal).unwrap(), [1.0, 2.0]);

    let mut flat = vec![-1.0; 2];
    let error = layout
        .gather_into(&tree!([[1.0, 2.0], [1.0, 3.0]]), &mut flat)
        .unwrap_err();
    assert_eq!(flat, [-1.0, -1.0]);
    let error_of_lists = layout
        .gather(&(vec![1.0_f32, 2.0], vec![1.0_f32, 3.0]))
        .unwrap_err();
    assert!(error_of_lists.is_broken_tie());
    assert_eq!(
        (error_of_lists.path(), error_of_lists.other_path()),
        (Some("0"), Some("1"))
    );
    // The two equal lists of the literal are one array, which is no leaf of this layout.
    assert!(error.is_unknown());
}

#[test]
fn two_parameters_that_the_tree_holds_as_one() {
    let layout = Layout::of(&(Rc::new(vec![1.0_f32]), Rc::new(vec![2.0_f32]))).unwrap();
    let shared = Rc::new(vec![1.0_f32]);
    let mut tied = (shared.clone(), shared);
    let error = layout.restructure_into(&mut tied, &[3.0, 4.0]).unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
    assert_eq!(*tied.0, [1.0]);
    assert_eq!(layout.restructure(&tied, &[3.0, 4.0]).unwrap_err(), error);
    assert_eq!(layout.gather(&tied).unwrap(), [1.0, 1.0]);
}

#[test]
fn overlapping_views() {
    let all = arr1(&[1.0_f32, 2.0, 3.0]).into_shared();
    let views = (
        all.clone().slice_move(ndarray::s![..2]),
        all.slice_move(ndarray::s![1..]),
    );
    let error = Layout::of(&views).unwrap_err();
    assert!(error.is_overlap());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
}

#[test]
fn poisoned_lock() {
    let lock = Arc::new(Mutex::new(vec![1.0_f32]));
    let mut tree = (
        vec![7.0_f32],
        lock.clone(),
        Arc::new(RwLock::new(vec![2.0_f32])),
    );
    let layout = Layout::of(&tree).unwrap();
    let other = lock.clone();
    let _ = std::thread::spawn(move || {
        let _guard = other.lock();
        panic!("poison the lock");
    })
    .join();
    let error = layout
        .restructure_into(&mut tree, &[1.0, 2.0, 3.0])
        .unwrap_err();
    assert!(error.is_poisoned());
    assert_eq!(error.path(), Some("1"));
    assert_eq!(tree.0, [7.0]);
    assert!(layout.gather(&tree).unwrap_err().is_poisoned());
    assert!(Layout::of(&tree).unwrap_err().is_poisoned());
    assert!(deep_clone(&tree).unwrap_err().is_poisoned());
    assert!(layout.gather_grad(&tree).unwrap_err().is_poisoned());
}

#[test]
fn borrowed_cell() {
    let cell = Rc::new(RefCell::new(vec![1.0_f32]));
    let mut tree = (vec![7.0_f32], cell.clone());
    let layout = Layout::of(&tree).unwrap();
    let reading = cell.borrow();
    assert_eq!(layout.gather(&tree).unwrap(), [7.0, 1.0]);
    let error = layout.restructure_into(&mut tree, &[8.0, 9.0]).unwrap_err();
    assert!(error.is_borrowed());
    assert_eq!(error.path(), Some("1"));
    assert_eq!(tree.0, [7.0]);
    drop(reading);
    let _writing = cell.borrow_mut();
    assert!(layout.gather(&tree).unwrap_err().is_borrowed());
}

#[derive(Tree, Default)]
struct Link {
    value: Vec<f32>,
    next: Option<Rc<RefCell<Link>>>,
}

#[test]
fn cycle() {
    let link = Rc::new(RefCell::new(Link {
        value: vec![1.0],
        next: None,
    }));
    let plain = Layout::of(&link).unwrap();
    link.borrow_mut().next = Some(link.clone());
    let error = Layout::of(&vec![link.clone()]).unwrap_err();
    assert!(error.is_cycle());
    assert_eq!(
        (error.path(), error.other_path()),
        (Some("0.next"), Some("0"))
    );
    assert!(plain.gather(&link).unwrap_err().is_cycle());
    assert!(plain.gather_grad(&link).unwrap_err().is_cycle());
    assert!(DynTree::of(&link).unwrap_err().is_cycle());
    link.borrow_mut().next = None;
}

fn nested(levels: usize) -> DynTree {
    (0..levels).fold(tree!([1.0]), |tree, _| DynTree::list([tree]))
}

#[test]
fn nested_too_deep() {
    let deepest = nested(1024);
    let layout = Layout::of(&deepest).unwrap();
    assert_eq!(layout.gather(&deepest).unwrap(), [1.0]);
    assert_eq!(
        layout
            .gather(&layout.restructure(&deepest, &[2.0]).unwrap())
            .unwrap(),
        [2.0]
    );
    for levels in [1025, 100_000] {
        let error = Layout::of(&nested(levels)).unwrap_err();
        assert!(error.is_too_deep());
        assert_eq!(error.path().unwrap().matches('0').count(), 1024);
        assert!(
            error.to_string().contains('…') && error.to_string().len() < 500,
            "{error}"
        );
        assert!(layout.gather(&nested(levels)).unwrap_err().is_too_deep());
        assert!(
            layout
                .gather_grad(&nested(levels))
                .unwrap_err()
                .is_too_deep()
        );
        assert!(DynTree::of(&nested(levels)).unwrap_err().is_too_deep());
    }
}

#[derive(Tree)]
#[tree(transparent)]
struct Wrap(Option<Box<Wrap>>);

#[test]
fn wrappers_without_a_segment_count_as_levels() {
    let wrapped = |levels| (0..levels).fold(Wrap(None), |wrap, _| Wrap(Some(Box::new(wrap))));
    assert!(Layout::of(&wrapped(1000)).unwrap().is_empty());
    assert!(Layout::of(&wrapped(2000)).unwrap_err().is_too_deep());
}

#[derive(Tree)]
struct Fork(Option<Rc<Fork>>, Option<Rc<Fork>>, Vec<f32>);

#[test]
fn diamond_of_shared_nodes() {
    let diamond = |levels| {
        (0..levels).fold(Rc::new(Fork(None, None, vec![1.0])), |below, _| {
            Rc::new(Fork(Some(below.clone()), Some(below), vec![]))
        })
    };
    let layout = Layout::of(&diamond(8)).unwrap();
    assert_eq!(layout.leaves()[0].places().len(), 256);
    assert_eq!(layout.gather(&diamond(8)).unwrap(), [1.0]);
    assert_eq!(layout.gather_grad(&diamond(8)).unwrap()[0], 256.0);
    let error = Layout::of(&diamond(40)).unwrap_err();
    assert!(error.is_too_many_places());
}

#[test]
fn a_gradient_may_not_blow_up_where_the_model_has_nothing() {
    let diamond = (0..64).fold(Rc::new(Fork(None, None, vec![1.0])), |below, _| {
        Rc::new(Fork(Some(below.clone()), Some(below), vec![]))
    });
    let layout = Layout::of(&vec![1.0_f32]).unwrap();
    assert!(layout.gather_grad(&diamond).unwrap_err().is_unknown());
}

#[test]
fn read_only_trees() {
    let array = arr2(&[[1.0_f32, 2.0]]);
    let layout = Layout::of(&(array.clone(),)).unwrap();
    let values = [3.0, 4.0];
    let refused = |error: Error| {
        assert!(error.is_read_only());
        assert_eq!(error.path(), Some("0"));
    };
    assert_eq!(layout.gather(&(&array,)).unwrap(), [1.0, 2.0]);
    refused(
        layout
            .restructure_into(&mut (&array,), &values)
            .unwrap_err(),
    );
    refused(layout.restructure(&(&array,), &values).unwrap_err());
    refused(
        layout
            .restructure_into(&mut (array.view(),), &values)
            .unwrap_err(),
    );
    refused(layout.restructure(&(array.view(),), &values).unwrap_err());
    refused(
        layout
            .restructure_into(&mut (CowArray::from(array.view()),), &values)
            .unwrap_err(),
    );
    let flat = Layout::of(&(vec![1.0_f32, 2.0],)).unwrap();
    refused(
        flat.restructure_into(&mut (&[1.0_f32, 2.0][..],), &values)
            .unwrap_err(),
    );
    refused(
        flat.restructure(&(&[1.0_f32, 2.0][..],), &values)
            .unwrap_err(),
    );
    assert_eq!(array, arr2(&[[1.0, 2.0]]));
}

#[test]
fn broadcast_can_be_read_but_not_written() {
    let one = arr1(&[5.0_f32]);
    let wide = one.broadcast(3).unwrap();
    let (flat, layout) = flatleaf::destructure(&wide).unwrap();
    assert_eq!(flat, [5.0, 5.0, 5.0]);
    let mut target = wide;
    let error = layout
        .restructure_into(&mut target, &[1.0, 2.0, 3.0])
        .unwrap_err();
    assert!(error.is_read_only());
    assert_eq!(target, arr1(&[5.0, 5.0, 5.0]));
}

#[test]
fn mutable_views_are_written_through() {
    let mut buffer = [1.0_f32, 2.0, 3.0, 4.0];
    let mut tree = (ArrayViewMut::<f32, Ix2>::from_shape((2, 2).f(), &mut buffer).unwrap(),);
    let layout = Layout::of(&tree).unwrap();
    layout
        .restructure_into(&mut tree, &[1.0, 2.0, 3.0, 4.0])
        .unwrap();
    assert!(
        layout
            .restructure(&tree, &[0.0; 4])
            .unwrap_err()
            .is_read_only()
    );
    assert_eq!(buffer, [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn a_gradient_of_another_layout() {
    let (small, large) = (Layout::of(&vec![1.0_f32]).unwrap(), layout());
    let mut grad = FlatGrad::zeros(&large);
    let error = small
        .gather_grad_into(&vec![1.0_f32], &mut grad)
        .unwrap_err();
    assert!(error.is_other_layout());
    assert!(
        error
            .to_string()
            .starts_with("expected a gradient of this layout (1 leaf, 1 element, fingerprint "),
        "{error}"
    );
    assert!((0..3).all(|index| !grad.is_present(index)));
    // The same tree planned twice is the same layout.
    layout().gather_grad_into(&dense(), &mut grad).unwrap();
    assert_eq!(*grad, [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn element_types() {
    let tree = (vec![1.0_f64], vec![2.0_f32], vec![3_i32]);
    let layout = Layout::of(&tree).unwrap();
    assert_eq!(layout.leaves().len(), 2);
    let error = layout.gather(&tree).unwrap_err();
    assert!(error.is_element_type());
    assert_eq!((error.path(), error.found()), (Some("0"), Some("f64")));
    let layout = Layout::of(&vec![1.0_f32]).unwrap();
    assert_eq!(*layout.gather_grad(&vec![0.5_f64]).unwrap(), [0.5]);
    let error = layout.gather_grad(&vec![1_i32]).unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(
        error.to_string(),
        "the root: expected a gradient of floats, found i32"
    );
    assert!(layout.gather(&vec![1.0_f64]).unwrap_err().is_element_type());
}

#[test]
fn one_path_twice() {
    struct Twice(Vec<f32>, Vec<f32>);
    impl Tree for Twice {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            visitor.child(Key::Name("x"), &self.0)?;
            visitor.child(Key::Name("x"), &self.1)
        }
        fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            visitor.child(Key::Name("x"), &mut self.0)?;
            visitor.child(Key::Name("x"), &mut self.1)
        }
        fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
            Ok(Twice(
                builder.child(Key::Name("x"), &self.0)?,
                builder.child(Key::Name("x"), &self.1)?,
            ))
        }
    }
    let mut twice = Twice(vec![1.0], vec![2.0]);
    let error = Layout::of(&twice).unwrap_err();
    assert!(error.is_duplicate());
    assert_eq!(error.path(), Some("x"));
    let layout = Layout::of(&tree!({ "x": [1.0] })).unwrap();
    assert!(layout.gather(&twice).unwrap_err().is_duplicate());
    assert!(layout.gather_grad(&twice).unwrap_err().is_duplicate());
    assert!(
        layout
            .restructure_into(&mut twice, &[3.0])
            .unwrap_err()
            .is_duplicate()
    );
    assert_eq!(twice.0, [1.0]);
}

/// A tree that changes between two visits.
struct Liar {
    visits: std::cell::Cell<usize>,
    first: Vec<f32>,
    later: Vec<f32>,
}

impl Liar {
    fn new(first: &[f32], later: &[f32]) -> Self {
        Liar {
            visits: 0.into(),
            first: first.to_vec(),
            later: later.to_vec(),
        }
    }
}

impl Tree for Liar {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let elements = if self.visits.replace(self.visits.get() + 1) == 0 {
            &self.first
        } else {
            &self.later
        };
        if elements.is_empty() {
            Ok(())
        } else {
            visitor.leaf(LeafRef::from_slice(&[elements.len()], elements))
        }
    }
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        if self.later.is_empty() {
            Ok(())
        } else {
            visitor.leaf(LeafMut::from_slice(&[self.later.len()], &mut self.later))
        }
    }
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let later = builder.leaf(LeafRef::from_slice(&[self.later.len()], &self.later))?;
        Ok(Liar {
            visits: 0.into(),
            first: Vec::new(),
            later,
        })
    }
}

#[test]
fn a_tree_that_answers_differently_gets_an_error() {
    let layout = Layout::of(&vec![1.0_f32, 2.0]).unwrap();
    for later in [&[1.0_f32][..], &[1.0, 2.0, 3.0], &[]] {
        // What is asked once has no chance to answer twice.
        let mut flat = [0.0; 2];
        layout
            .gather_into(&Liar::new(&[1.0, 2.0], later), &mut flat)
            .unwrap();
        assert_eq!(flat, [1.0, 2.0]);
        assert!(
            layout
                .restructure_into(&mut Liar::new(&[1.0, 2.0], later), &[3.0, 4.0])
                .unwrap_err()
                .is_unstable()
        );
        assert!(
            layout
                .restructure(&Liar::new(&[1.0, 2.0], later), &[3.0, 4.0])
                .is_err_and(|error| error.is_unstable())
        );
    }
}

#[test]
fn an_error_of_a_foreign_leaf_gets_its_path() {
    struct Offline;
    impl Tree for Offline {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            let reader =
                flatleaf::Reader::new(|_: &mut [f32]| Err(Error::custom("the device is gone")));
            visitor.leaf(LeafRef::from_reader(&[2], &reader))
        }
        fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            visitor.leaf(LeafMut::from_writer(
                &[2],
                &mut Writer::new(|_: &[f32]| Err(Error::custom("the device is gone"))),
            ))
        }
        fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
            Ok(Offline)
        }
    }
    let mut tree = (vec![1.0_f32], Offline);
    let layout = Layout::of(&tree).unwrap();
    let error = layout.gather(&tree).unwrap_err();
    assert!(error.is_custom());
    assert_eq!(error.to_string(), "`1`: the device is gone");
    let error = layout.restructure_into(&mut tree, &[7.0; 3]).unwrap_err();
    assert!(error.is_custom());
    assert_eq!(
        error.to_string(),
        "every other leaf has been written: `1`: the device is gone"
    );
    assert_eq!(tree.0, [7.0]);
}

trait Layer: Tree {}

struct Silent(Array1<f32>);
impl Layer for Silent {}
impl Tree for Silent {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.0.visit(visitor)
    }
    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.0.visit_mut(visitor)
    }
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(Silent(self.0.rebuild(builder)?))
    }
}

#[test]
fn a_trait_object_without_a_line_from_its_type_is_written_in_place_only() {
    let mut layers: Vec<Box<dyn Layer>> = vec![Box::new(Silent(arr1(&[1.0])))];
    let layout = Layout::of(&layers).unwrap();
    layout.restructure_into(&mut layers, &[2.0]).unwrap();
    assert_eq!(layout.gather(&layers).unwrap(), [2.0]);
    let Err(error) = layout.restructure(&layers, &[3.0]) else {
        panic!("nothing tells how to make a new one")
    };
    assert!(error.is_object());
    assert_eq!(error.path(), Some("0"));
    assert!(
        error.to_string().contains("#[tree(object")
            && error.to_string().contains("errors::Layer")
            && error.to_string().contains("errors::Silent"),
        "{error}"
    );
}

#[test]
fn unknown_paths_of_views() {
    let layout = layout();
    let error = layout.view(&[0.0; 5], "weight.7").unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("weight.7"));
    assert!(layout.leaf("weight").is_none());
}

#[test]
fn errors_can_be_sent() {
    fn send<T: Send + Sync + std::error::Error + 'static>() {}
    send::<Error>();
    assert!(size_of::<Result<()>>() <= size_of::<usize>());
}

#[test]
fn as_many_elements_in_another_shape_are_another_leaf() {
    let layout = Layout::of(&vec![ndarray::Array2::<f32>::zeros((2, 3))]).unwrap();
    let mut turned = vec![ndarray::Array2::<f32>::zeros((3, 2))];
    let error = layout.restructure_into(&mut turned, &[1.0; 6]).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(
        error.to_string(),
        "`0`: expected shape [2, 3], found shape [3, 2]"
    );
    let error = layout
        .map_into(&mut turned, [], |_, x, []| x.fill(1.0))
        .unwrap_err();
    assert!(error.is_shape() && error.path() == Some("0"));
    assert_eq!(turned[0], ndarray::Array2::<f32>::zeros((3, 2)));
}

#[test]
fn a_view_of_what_is_not_in_the_vector() {
    let layout = Layout::planner()
        .freeze("mean")
        .of(&tree!({ "w": [1.0], "mean": [2.0] }))
        .unwrap();
    let message = |path: &str| layout.view(&[0.0], path).unwrap_err().to_string();
    assert_eq!(
        message("mean"),
        "`mean`: expected the path of a trainable leaf, found one that is frozen or carried"
    );
    assert_eq!(
        message("meen"),
        "`meen`: expected the path of a trainable leaf, found no leaf there; the tree has `w`, `mean`"
    );
}

#[test]
fn a_path_that_leads_nowhere() {
    let layers = (0..10).map(|_| tree!([1.0]));
    let encoder = tree!({ "weight": [1.0], "bias": [1.0], "a.b": [1.0] });
    let model = DynTree::map([
        ("encoder", encoder),
        ("layers", DynTree::list(layers)),
        ("empty", DynTree::list([])),
    ]);
    let layout = Layout::of(&model).unwrap();
    let flat = vec![0.0; layout.len()];
    for (path, instead) in [
        ("encodr.wieght", "did you mean `encoder.weight`?"),
        ("encoder.bais", "did you mean `encoder.bias`?"),
        ("encoder.a\\.c", "did you mean `encoder.a\\.b`?"),
        ("encoder.gamma", "`encoder` has `weight`, `bias`, `a\\.b`"),
        ("encoder", "`encoder` has `weight`, `bias`, `a\\.b`"),
        ("encoder.bias.x", "`encoder.bias` is a leaf"),
        (
            "layers.12",
            "`layers` has `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` and 2 more",
        ),
        ("empty.0", "`empty` has nothing below it"),
        ("weight", "the tree has `encoder`, `layers`, `empty`"),
        ("", "the tree has `encoder`, `layers`, `empty`"),
        ("..", "the tree has `encoder`, `layers`, `empty`"),
    ] {
        let error = layout.view(&flat, path).unwrap_err();
        let named = if path.is_empty() {
            "the root".to_owned()
        } else {
            format!("`{path}`")
        };
        assert_eq!(
            error.to_string(),
            format!(
                "{named}: expected the path of a trainable leaf, found no leaf there; {instead}"
            )
        );
    }
    let message = |pattern: &str| {
        Layout::planner()
            .freeze(pattern)
            .of(&model)
            .unwrap_err()
            .to_string()
    };
    let meant = "`encodr.bias`: expected a pattern that matches a leaf, found no leaf there; did you mean `encoder.bias`?";
    assert_eq!(message("encodr.bias"), meant);
    let spans =
        "found none that it matches (`*` stays within a segment, `**` spans any number of them)";
    assert!(message("encoder.*.x").ends_with(spans));
    assert!(message("encodr.*").ends_with("; the tree has `encoder`, `layers`, `empty`"));
    assert!(message("encoder").ends_with("found a branch; `encoder.**` is all below it"));
    assert!(message("empty").ends_with("found no leaf there; `empty` has nothing below it"));
}

#[test]
fn a_path_that_leads_nowhere_costs_little_in_a_wide_tree_or_a_long_path() {
    let model = DynTree::map((0..100_000).map(|index| (format!("layer{index:06}"), tree!([1.0]))));
    let layout = Layout::of(&model).unwrap();
    let flat = vec![0.0; layout.len()];
    let message = |path: &str| layout.view(&flat, path).unwrap_err().to_string();
    assert!(message("lyer000005").ends_with("did you mean `layer000005`?"));
    assert!(message(&"x".repeat(1 << 20)).ends_with("`layer000007` and 99992 more"));
    assert!(message(&"x.".repeat(1 << 20)).ends_with("`layer000007` and 99992 more"));
}

#[test]
fn a_misspelt_leaf_of_another_tree() {
    let layout = Layout::of(&tree!({ "head": [1.0], "body": [1.0] })).unwrap();
    let error = layout
        .gather_grad(&tree!({ "haed": [1.0], "tail": [1.0] }))
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["haed", "tail"]);
    let message = error.to_string();
    assert!(message.contains("`haed`: expected a path that the layout has, found a leaf of shape [1]; did you mean `head`?"), "{message}");
    assert!(
        message.contains("`tail`: expected a path that the layout has, found a leaf of shape [1]"),
        "{message}"
    );
}

#[test]
fn a_view_of_a_bare_number() {
    #[derive(Tree)]
    struct Scaled {
        w: Vec<f32>,
        scale: f32,
    }

    let layout = Layout::of(&Scaled {
        w: vec![1.0],
        scale: 2.0,
    })
    .unwrap();
    let error = layout.view(&[1.0], "scale").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`scale`: expected the path of a trainable leaf, found no leaf there; `scale` is no parameter (`#[tree(param)]` makes a number one)"
    );
}

/// The empty path is no pair of backticks, alone or beside another.
#[test]
fn the_root_has_a_name() {
    let layout = Layout::of(&vec![1.0_f32, 2.0]).unwrap();
    let error = layout.gather(&vec![1.0_f32]).unwrap_err();
    assert_eq!(error.path(), Some(""));
    assert_eq!(
        error.to_string(),
        "the root: expected shape [2], found shape [1]"
    );
    let error = Layout::planner()
        .freeze("w")
        .of(&vec![1.0_f32])
        .unwrap_err();
    assert!(error.is_pattern());
    assert_eq!(
        error.to_string(),
        "`w`: expected a pattern that matches a leaf, found no leaf there; the tree is a leaf"
    );
}
