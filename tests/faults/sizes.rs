//! Very many leaves, very deep trees, very many places, and nothing at all.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use flatleaf::Companion::{Grads, Values};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
use flatleaf::{DynTree, Error, FlatGrad, Layout, Tree, deep_clone, destructure, tree};
use ndarray::{ArcArray2, Array2, Array3};

/// Fewer in a debug build: what grows with their square takes minutes for these too.
const LEAVES: usize = if cfg!(debug_assertions) {
    1 << 18
} else {
    1_000_000
};

#[test]
fn a_million_leaves() {
    let mut model: Vec<Vec<f32>> = (0..LEAVES).map(|leaf| vec![leaf as f32]).collect();
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(
        (layout.leaves().len(), layout.len(), flat[LEAVES - 1]),
        (LEAVES, LEAVES, (LEAVES - 1) as f32)
    );
    let last = (LEAVES - 1).to_string();
    assert_eq!(layout.leaf(&last).unwrap().range(), LEAVES - 1..LEAVES);
    let negated: Vec<f32> = flat.iter().map(|x| -x).collect();
    layout.restructure_into(&mut model, &negated).unwrap();
    assert_eq!(
        (model[1][0], model[LEAVES - 1][0]),
        (-1.0, 1.0 - LEAVES as f32)
    );
    let grad = layout.gather_grad(&model).unwrap();
    assert_eq!(*grad, negated);
}

/// As many as there may be; fewer in a debug build: what grows with their square takes minutes for
/// these too.
const PLACES: usize = if cfg!(debug_assertions) {
    1 << 15
} else {
    1 << 20
};

#[test]
fn a_million_places_of_one_leaf() {
    let leaf = Rc::new(vec![1.0_f32]);
    let mut model = vec![leaf; PLACES];
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        (layout.len(), layout.leaves()[0].places().len()),
        (1, PLACES)
    );
    assert_eq!(layout.gather_grad(&model).unwrap()[0], PLACES as f32);
    layout.restructure_into(&mut model, &[2.0]).unwrap();
    assert!(Rc::ptr_eq(&model[0], &model[PLACES - 1]));
    // In a debug build this takes seconds, and the diamond below has it too.
    if !cfg!(debug_assertions) {
        let too_many = vec![model[0].clone(); (1 << 20) + 2];
        assert!(Layout::of(&too_many).unwrap_err().is_too_many_places());
    }
}

#[derive(Tree)]
enum Diamond {
    Both {
        left: Rc<Diamond>,
        right: Rc<Diamond>,
    },
    End {
        w: Vec<f32>,
    },
}

fn diamond(levels: usize) -> Rc<Diamond> {
    let end = Rc::new(Diamond::End { w: vec![1.0] });
    (0..levels).fold(end, |below, _| {
        Rc::new(Diamond::Both {
            left: below.clone(),
            right: below,
        })
    })
}

#[test]
fn a_diamond_below_the_bound_works_and_beyond_it_is_an_error() {
    let mut model = diamond(14);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(
        (layout.len(), layout.leaves()[0].places().len()),
        (1, 1 << 14)
    );
    assert_eq!(layout.gather(&model).unwrap(), [1.0]);
    assert_eq!(layout.gather_grad(&model).unwrap()[0], (1 << 14) as f32);
    layout.restructure_into(&mut model, &[2.0]).unwrap();
    let new = layout.restructure(&model, &[3.0]).unwrap();
    assert_eq!(
        (layout.gather(&model).unwrap(), layout.gather(&new).unwrap()),
        (vec![2.0], vec![3.0])
    );
    assert_eq!(Layout::of(&new).unwrap(), layout);

    let huge = diamond(30);
    assert!(Layout::of(&huge).unwrap_err().is_too_many_places());
    // In a debug build this takes seconds, and `contract` has it of another diamond.
    if !cfg!(debug_assertions) {
        assert!(DynTree::of(&huge).unwrap_err().is_too_many_places());
    }
    // The layout of another tree knows none of its places.
    assert!(layout.gather(&huge).unwrap_err().is_unknown());
    assert!(layout.gather_grad(&huge).unwrap_err().is_unknown());
    assert!(
        layout
            .restructure_into(&mut diamond(30), &[1.0])
            .unwrap_err()
            .is_unknown()
    );
}

#[derive(Tree)]
struct Link {
    value: Vec<f32>,
    next: Option<Box<Link>>,
}

/// One link after the other: what is dropped as it was built would overflow the stack.
impl Drop for Link {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut link) = next {
            next = link.next.take();
        }
    }
}

fn chain(levels: usize) -> Link {
    let last = Link {
        value: vec![1.0],
        next: None,
    };
    (0..levels).fold(last, |next, _| Link {
        value: vec![1.0],
        next: Some(Box::new(next)),
    })
}

#[test]
fn a_chain_of_a_hundred_thousand_boxes_is_nested_too_deep_for_everything() {
    let is_too_deep = |error: Error| {
        assert!(error.is_too_deep());
        assert_eq!(
            error.path().unwrap().matches("next").count(),
            1024,
            "{error}"
        );
        assert!(error.to_string().contains("nested too deep"), "{error}");
    };
    let mut deep = chain(100_000);
    is_too_deep(Layout::of(&deep).unwrap_err());
    is_too_deep(destructure(&deep).unwrap_err());
    is_too_deep(DynTree::of(&deep).unwrap_err());
    is_too_deep(deep_clone(&deep).err().unwrap());
    let layout = Layout::of(&chain(3)).unwrap();
    let flat = vec![2.0; layout.len()];
    is_too_deep(layout.gather(&deep).unwrap_err());
    is_too_deep(layout.gather_grad(&deep).unwrap_err());
    is_too_deep(
        layout
            .gather_grad_into(&deep, &mut FlatGrad::zeros(&layout))
            .unwrap_err(),
    );
    is_too_deep(layout.restructure(&deep, &flat).err().unwrap());
    is_too_deep(layout.restructure_into(&mut deep, &flat).unwrap_err());
    is_too_deep(layout.copy_frozen(&deep, &mut chain(3)).unwrap_err());
    is_too_deep(layout.mask(&deep).unwrap_err());
    is_too_deep(
        layout
            .map_into(&mut deep, [], |_, x, []| x.fill(2.0))
            .unwrap_err(),
    );
    is_too_deep(
        layout
            .map_into(&mut chain(3), [Values(&deep)], |_, x, [_]| x.fill(2.0))
            .unwrap_err(),
    );
    is_too_deep(
        layout
            .map_reduce(&chain(3), [Grads(&deep)], |_, _, [_]| (), |(), ()| ())
            .unwrap_err(),
    );
    let mut optimizer = Optimizer::new(AdamW::default(), &layout).unwrap();
    is_too_deep(optimizer.update(&mut deep, &chain(3)).unwrap_err());
    is_too_deep(optimizer.update(&mut chain(3), &deep).unwrap_err());
    assert_eq!(deep.value, [1.0]);
}

#[cfg(feature = "safetensors")]
#[test]
fn a_deep_chain_is_neither_saved_nor_loaded() {
    use flatleaf::checkpoint::{self, LoadOptions};

    let path =
        std::env::temp_dir().join(format!("flatleaf-deep-{}.safetensors", std::process::id()));
    assert!(
        checkpoint::save(&path, &chain(100_000))
            .unwrap_err()
            .is_too_deep()
    );
    assert!(!path.exists());
    checkpoint::save(&path, &chain(1)).unwrap();
    assert!(
        checkpoint::load_into(&path, &mut chain(100_000), &LoadOptions::new())
            .unwrap_err()
            .is_too_deep()
    );
    std::fs::remove_file(path).unwrap();
}

/// Every kind of leaf, and no element in any of them.
#[derive(Tree)]
struct Nothing {
    list: Vec<f32>,
    array: [f32; 0],
    boxed: Box<[f64]>,
    rows: Array2<f32>,
    columns: Array3<f32>,
    view: ArcArray2<f32>,
    tied: Rc<Vec<f32>>,
    tied_again: Rc<Vec<f32>>,
    lock: Arc<Mutex<Vec<f32>>>,
    #[tree(frozen)]
    frozen: Vec<f32>,
    integers: Vec<i32>,
    branches: Vec<Vec<f32>>,
    option: Option<Vec<f32>>,
    tree: DynTree,
    unit: (),
}

fn nothing() -> Nothing {
    let tied = Rc::new(Vec::new());
    Nothing {
        list: Vec::new(),
        array: [],
        boxed: Box::new([]),
        rows: Array2::zeros((0, 3)),
        columns: Array3::zeros((3, 0, 2)).reversed_axes(),
        view: ArcArray2::zeros((0, 0)),
        tied: tied.clone(),
        tied_again: tied,
        lock: Arc::default(),
        frozen: Vec::new(),
        integers: Vec::new(),
        branches: Vec::new(),
        option: None,
        tree: tree!({}),
        unit: (),
    }
}

#[test]
fn trees_of_nothing_go_through_everything() {
    let mut model = nothing();
    let layout = Layout::planner().round_f64().of(&model).unwrap();
    assert_eq!(
        (layout.len(), layout.leaves().len(), layout.others().len()),
        (0, 9, 2)
    );
    assert_eq!(layout.leaf("columns").unwrap().shape(), [2, 0, 3]);
    assert_eq!(layout.leaf("tied").unwrap().places(), ["tied"]);
    assert!(layout.gather(&model).unwrap().is_empty());
    assert!(layout.gather_as::<f64>(&model).unwrap().is_empty());
    let mut grad = layout.gather_grad(&model).unwrap();
    assert!((0..9).all(|leaf| grad.is_present(leaf)));
    layout.restructure_into(&mut model, &[]).unwrap();
    let new = layout.restructure(&model, &[]).unwrap();
    assert_eq!(Layout::planner().round_f64().of(&new).unwrap(), layout);
    assert_eq!(deep_clone(&model).unwrap().columns.dim(), (2, 0, 3));
    layout.copy_frozen(&new, &mut model).unwrap();
    layout
        .map_into(&mut model, [Grads(&new), Values(&new)], |_, x, [dx, y]| {
            assert!(x.is_empty() && dx.is_empty() && y.is_empty())
        })
        .unwrap();
    assert_eq!(
        layout
            .map_reduce(&model, [], |_, x, []| x.len(), |a, b| a + b)
            .unwrap(),
        Some(0)
    );
    assert_eq!(
        (
            layout.norm_l2(&model).unwrap(),
            layout.clip_norm(&mut grad, 1.0).unwrap().scale
        ),
        (0.0, 1.0)
    );
    assert_eq!(layout.leaf_norms(&[], 2.0).unwrap(), [0.0; 9]);
    assert!(
        layout
            .views(&[])
            .unwrap()
            .all(|(_, array)| array.is_empty())
    );
    let mut optimizer = Optimizer::new((ClipNorm::default(), AdamW::default()), &layout).unwrap();
    optimizer.update(&mut model, &new).unwrap();
    optimizer.step(&mut [], &grad).unwrap();
    assert_eq!(optimizer.step_count("rows"), Some(2));
}

#[cfg(feature = "safetensors")]
#[test]
fn a_file_of_nothing_is_saved_and_loaded() {
    use flatleaf::checkpoint::{self, LoadOptions};

    let path = std::env::temp_dir().join(format!(
        "flatleaf-nothing-{}.safetensors",
        std::process::id()
    ));
    checkpoint::save(&path, &nothing()).unwrap();
    let report = checkpoint::load_into(&path, &mut nothing(), &LoadOptions::new()).unwrap();
    assert!(report.is_complete());
    assert_eq!(report.loaded().len(), 11);
    std::fs::remove_file(path).unwrap();
}
