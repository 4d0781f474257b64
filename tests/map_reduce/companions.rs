//! Map and reduce over a model and its companions.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use flatleaf::Companion::{Grads, Totals, Values};
use flatleaf::{Layout, Tree, deep_clone, destructure, ops, tree};
use ndarray::{ArcArray2, Array2, arr2};

/// A tie of two shared pointers, one of a view and its transpose, one behind a lock, a plain leaf,
/// a frozen one, integers.
#[derive(Tree)]
struct Model {
    embed: Rc<Vec<f32>>,
    plain: Array2<f32>,
    #[tree(frozen)]
    mean: Vec<f32>,
    view: ArcArray2<f32>,
    transposed: ArcArray2<f32>,
    locked: Arc<Mutex<Vec<f32>>>,
    counts: Vec<i32>,
    head: Rc<Vec<f32>>,
    again: Arc<Mutex<Vec<f32>>>,
}

fn model() -> Model {
    let embed = Rc::new(vec![1.0, 2.0]);
    let view = arr2(&[[5.0_f32, 6.0, 7.0]]).into_shared();
    let locked = Arc::new(Mutex::new(vec![8.0]));
    Model {
        embed: embed.clone(),
        plain: arr2(&[[3.0], [4.0]]),
        mean: vec![100.0],
        view: view.clone(),
        transposed: view.reversed_axes(),
        locked: locked.clone(),
        counts: vec![7],
        head: embed,
        again: locked,
    }
}

/// A gradient at every place but `plain`.
fn grads() -> flatleaf::DynTree {
    tree!({
        "embed": [1.0, 0.0], "mean": [9.0], "view": [[1.0, 2.0, 3.0]], "transposed": [[10.0], [20.0], [30.0]],
        "locked": [0.5], "head": [0.0, 1.0], "again": [0.25]
    })
}

#[test]
fn a_closure_is_called_once_a_leaf_with_one_slice_a_tree() {
    let (model, grads) = (model(), grads());
    let layout = Layout::of(&model).unwrap();
    let mut seen = Vec::new();
    let note = |(), leaf: flatleaf::LeafAt<'_, 2>, x: &[f32], [dx, s]: [&[f32]; 2]| {
        seen.push((
            leaf.path().to_owned(),
            x.to_vec(),
            dx.to_vec(),
            s.to_vec(),
            leaf.is_present(0),
        ));
    };
    layout
        .fold(&model, [Grads(&grads), Values(&model)], (), note)
        .unwrap();
    let row = |path: &str, x: &[f32], dx: &[f32], present| {
        (
            path.to_owned(),
            x.to_vec(),
            dx.to_vec(),
            x.to_vec(),
            present,
        )
    };
    let expected = [
        row("embed", &[1.0, 2.0], &[1.0, 1.0], true),
        row("plain", &[3.0, 4.0], &[0.0, 0.0], false),
        row("view", &[5.0, 6.0, 7.0], &[11.0, 22.0, 33.0], true),
        row("locked", &[8.0], &[0.75], true),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn totals_read_the_first_place_that_is_there() {
    let model = model();
    let layout = Layout::of(&model).unwrap();
    let first = |_: flatleaf::LeafAt<'_, 1>, _: &[f32], [dx]: [&[f32]; 1]| ops::sum(dx);
    let total = layout
        .map_reduce(&model, [Totals(&grads())], first, |a, b| a + b)
        .unwrap();
    assert_eq!(total, Some(1.0 + 0.0 + 6.0 + 0.5));
    let second_only = tree!({ "head": [4.0, 4.0] });
    assert_eq!(
        layout
            .map_reduce(&model, [Totals(&second_only)], first, |a, b| a + b)
            .unwrap(),
        Some(8.0)
    );
}

#[test]
fn reduce_goes_from_left_to_right_and_gives_none_for_no_leaf() {
    let tree = (vec![1.0_f32], vec![2.0_f32], vec![3.0_f32]);
    let layout = Layout::of(&tree).unwrap();
    let text = layout
        .map_reduce(
            &tree,
            [],
            |leaf, x, []| format!("{}={}", leaf.path(), x[0]),
            |a, b| format!("({a} {b})"),
        )
        .unwrap();
    assert_eq!(text.as_deref(), Some("((0=1 1=2) 2=3)"));
    let par = layout
        .par_map_reduce(
            &tree,
            [],
            |leaf, x, []| format!("{}={}", leaf.path(), x[0]),
            |a, b| format!("({a} {b})"),
        )
        .unwrap();
    assert_eq!(par, text);
    let empty = Layout::of(&()).unwrap();
    assert_eq!(
        empty
            .map_reduce(&(), [], |_, _, []| 1.0, |a, b| a + b)
            .unwrap(),
        None
    );
    assert_eq!(empty.norm_l2(&()).unwrap(), 0.0);
}

#[test]
fn map_makes_a_new_tree_and_keeps_ties() {
    let model = model();
    let (flat, layout) = destructure(&model).unwrap();
    let stepped = layout
        .map(&model, [Grads(&grads())], |_, x, [dx]| {
            ops::axpy(x, -1.0, dx)
        })
        .unwrap();
    assert!(
        Rc::ptr_eq(&stepped.embed, &stepped.head) && Arc::ptr_eq(&stepped.locked, &stepped.again)
    );
    assert_eq!(stepped.view.as_ptr(), stepped.transposed.as_ptr());
    assert_eq!(
        layout.gather(&stepped).unwrap(),
        [0.0, 1.0, 3.0, 4.0, -6.0, -16.0, -26.0, 7.25]
    );
    assert_eq!(stepped.transposed, arr2(&[[-6.0], [-16.0], [-26.0]]));
    assert_eq!((stepped.mean, stepped.counts), (vec![100.0], vec![7]));
    assert_eq!(layout.gather(&model).unwrap(), flat);
    assert_eq!(Layout::of(&model).unwrap(), layout);
}

#[test]
fn map_into_writes_in_place_and_calls_once_a_leaf() {
    let mut target = model();
    let lock = target.locked.clone();
    let layout = Layout::of(&target).unwrap();
    let mut calls = 0;
    let step = |_: flatleaf::LeafAt<'_, 1>, x: &mut [f32], [dx]: [&[f32]; 1]| {
        calls += 1;
        ops::axpy(x, -1.0, dx);
    };
    layout
        .map_into(&mut target, [Grads(&grads())], step)
        .unwrap();
    assert_eq!(calls, 4);
    assert_eq!(
        layout.gather(&target).unwrap(),
        [0.0, 1.0, 3.0, 4.0, -6.0, -16.0, -26.0, 7.25]
    );
    assert!(Rc::ptr_eq(&target.embed, &target.head));
    assert_eq!(*lock.lock().unwrap(), [7.25]);
    assert_eq!(Layout::of(&target).unwrap(), layout);
}

#[test]
fn two_plain_trees_are_zipped_where_they_are() {
    let (mut target, policy) = (vec![vec![0.0_f32; 3]; 2], vec![vec![4.0_f32; 3]; 2]);
    let layout = Layout::of(&policy).unwrap();
    let addresses: Vec<_> = target
        .iter()
        .chain(&policy)
        .map(|leaf| leaf.as_ptr())
        .collect();
    let mut met = Vec::new();
    layout
        .map_into(&mut target, [Values(&policy)], |_, t, [p]| {
            met.push((t.as_ptr(), p.as_ptr()));
            ops::lerp(t, p, 0.25);
        })
        .unwrap();
    assert_eq!(target, [[1.0; 3], [1.0; 3]]);
    assert_eq!(
        met,
        [(addresses[0], addresses[2]), (addresses[1], addresses[3])]
    );
}

#[test]
fn nothing_is_written_if_a_companion_does_not_fit() {
    let mut target = vec![vec![1.0_f32], vec![2.0]];
    let layout = Layout::of(&target).unwrap();
    let never = |_: flatleaf::LeafAt<'_, 1>, _: &mut [f32], _: [&[f32]; 1]| {
        unreachable!("nothing is to be called")
    };
    let error = layout
        .map_into(&mut target, [Values(&tree!([[1.0, 2.0], null]))], never)
        .unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.paths().collect::<Vec<_>>(), ["0", "1"]);
    let error = layout
        .map_into(
            &mut target,
            [Grads(&tree!({ "0": [1.0], "2": [3.0] }))],
            never,
        )
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("2"));
    assert_eq!(target, [[1.0], [2.0]]);
}

#[test]
fn a_mask_flattens_to_the_gradient() {
    let (model, grads) = (model(), grads());
    let layout = Layout::of(&model).unwrap();
    let mask = layout.mask(&grads).unwrap();
    assert_eq!(
        mask,
        tree!({
            "embed": [1.0, 1.0], "plain": null, "mean": null, "view": [[11.0, 22.0, 33.0]], "transposed": null,
            "locked": [0.75], "counts": null, "head": null, "again": null
        })
    );
    assert_eq!(
        layout.gather_grad(&mask).unwrap(),
        layout.gather_grad(&grads).unwrap()
    );
    assert_eq!(layout.mask(&mask).unwrap(), mask);
    assert_eq!(
        layout.mask(&tree!(null)).unwrap().get("view"),
        Some(&tree!(null))
    );
}

#[test]
fn the_norm_of_a_gradient_tree_sums_ties_before_it_squares() {
    // P.C7, P.F14
    let shared = Rc::new(RefCell::new(vec![3.0_f32]));
    let layout = Layout::of(&(vec![1.0_f32, 2.0], shared.clone(), shared.clone())).unwrap();
    let norm = layout.norm_l2(&tree!([[0.1, 0.2], [1.0], [10.0]])).unwrap();
    approx::assert_relative_eq!(norm, 11.002_272_5, max_relative = 1e-7);

    let (model, grads) = (model(), grads());
    let layout = Layout::of(&model).unwrap();
    let (in_one_pass, flat) = (
        layout.norm_l2(&grads).unwrap(),
        ops::norm_l2(&layout.gather_grad(&grads).unwrap()),
    );
    approx::assert_relative_eq!(
        in_one_pass,
        flat,
        max_relative = f64::from(f32::EPSILON) / 2.0
    );
}

#[test]
fn the_parallel_forms_give_the_same_bits() {
    let leaves: Vec<Vec<f32>> = (0..40)
        .map(|leaf| {
            (0..20_000 + leaf)
                .map(|x| (x as f32 * 0.37 + leaf as f32).sin())
                .collect()
        })
        .collect();
    let layout = Layout::of(&leaves).unwrap();
    let dot = |_: flatleaf::LeafAt<'_, 1>, x: &[f32], [y]: [&[f32]; 1]| ops::dot(x, y);
    let serial = layout
        .map_reduce(&leaves, [Values(&leaves)], dot, |a, b| a + b)
        .unwrap();
    let mut expected = deep_clone(&leaves).unwrap();
    layout
        .map_into(&mut expected, [Values(&leaves)], |_, t, [p]| {
            ops::axpy(t, 0.3, p)
        })
        .unwrap();
    for threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            assert_eq!(
                layout
                    .par_map_reduce(&leaves, [Values(&leaves)], dot, |a, b| a + b)
                    .unwrap(),
                serial
            );
            let mut target = leaves.clone();
            layout
                .par_map_into(&mut target, [Values(&leaves)], |_, t, [p]| {
                    ops::axpy(t, 0.3, p)
                })
                .unwrap();
            assert_eq!(target, expected);
            assert_eq!(
                layout.norm_l2(&leaves).unwrap(),
                layout.norm_l2(&leaves).unwrap()
            );
        });
    }
    assert_eq!(
        layout
            .par_map_reduce(&leaves, [Values(&leaves)], dot, |a, b| a + b)
            .unwrap(),
        serial
    );
}

#[test]
fn clipping_names_the_leaf_and_keeps_to_its_layout() {
    let layout = Layout::of(&tree!({ "a": [3.0], "b": [4.0] })).unwrap();
    let other = Layout::of(&tree!({ "a": [3.0], "c": [4.0] })).unwrap();
    let mut grad = layout
        .gather_grad(&tree!({ "a": [3.0], "b": [4.0] }))
        .unwrap();
    assert!(
        other
            .clip_norm(&mut grad, 1.0)
            .unwrap_err()
            .is_other_layout()
    );
    assert!(layout.clip_norm(&mut grad, -1.0).unwrap_err().is_argument());
    assert!(
        layout
            .clip_norm(&mut vec![0.0; 3], 1.0)
            .unwrap_err()
            .is_length()
    );
    // P.F12: global is not per leaf.
    let each = layout.clip_norm_per_leaf(&mut grad.clone(), 1.0).unwrap();
    assert_eq!(
        each.iter().map(|clip| clip.norm_before).collect::<Vec<_>>(),
        [3.0, 4.0]
    );
    let mut per_leaf = vec![3.0, 4.0];
    layout.clip_norm_per_leaf(&mut per_leaf, 1.0).unwrap();
    assert_eq!(per_leaf, [1.0, 1.0]);
    let clip = layout.clip_norm(&mut grad, 5.0).unwrap();
    assert_eq!((clip.norm_before, clip.scale, grad[0]), (5.0, 1.0, 3.0));
    // P.E11
    let layout = Layout::of(&tree!({ "x": [3.0, 4.0], "y": [0.0], "z": [5.0, 12.0] })).unwrap();
    assert_eq!(
        layout.leaf_norms(&[3.0, 4.0, 0.0, 5.0, 12.0], 2.0).unwrap(),
        [5.0, 0.0, 13.0]
    );
}

#[test]
fn a_companion_may_hold_more_where_that_is_said() {
    use flatleaf::Companion::ValuesWithExtra;
    let teacher = tree!({ "w": [0], "b": [0] });
    let student = tree!({ "b": [1], "w": [2], "lora": { "up": [3], "down": [4] }, "head": [5] });
    let layout = Layout::of(&teacher).unwrap();
    let copy = |patterns: &[&str]| {
        let mut target = teacher.clone();
        let companions = [ValuesWithExtra(&student, patterns)];
        let copied = layout.map_into(&mut target, companions, |_, t, [s]| t.copy_from_slice(s));
        copied.map(|()| target)
    };
    let copied = tree!({ "w": [2], "b": [1] });
    assert_eq!(copy(&["**"]).unwrap(), copied);
    assert_eq!(copy(&["lora.*", "head"]).unwrap(), copied);
    // What no pattern matches is an error as ever.
    let error = copy(&["lora.**"]).unwrap_err();
    assert!(
        error.is_unknown() && error.path() == Some("head"),
        "{error}"
    );
    // And so is a pattern that matches nothing.
    let error = copy(&["lora.**", "head", "adapter.**"]).unwrap_err();
    assert!(
        error.is_pattern() && error.path() == Some("adapter.**"),
        "{error}"
    );
    // A missing leaf stays one.
    let mut target = teacher.clone();
    let part = tree!({ "w": [2], "head": [5] });
    let error = layout
        .map_into(
            &mut target,
            [ValuesWithExtra(&part, &["**"])],
            |_, _, [_]| (),
        )
        .unwrap_err();
    assert!(error.is_missing() && error.path() == Some("b"));
    assert_eq!(target, teacher);
}

#[test]
fn a_companion_whose_size_is_not_known_is_passed_by_a_reference_to_the_reference() {
    fn total<T: Tree + ?Sized>(layout: &Layout, model: &T) -> f64 {
        let sum = |_: flatleaf::LeafAt<'_, 1>, _: &[f32], [x]: [&[f32]; 1]| ops::sum(x);
        let total = layout.map_reduce(model, [Values(&model)], sum, |a, b| a + b);
        total.unwrap().unwrap()
    }
    let model: Box<dyn Tree> = Box::new((vec![1.0_f32], vec![2.0_f32]));
    assert_eq!(total(&Layout::of(&*model).unwrap(), &*model), 3.0);
}
