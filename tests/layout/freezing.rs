//! What is trained: frozen fields, path patterns, predicates.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::common::models::{self, Law};
use crate::common::{count_from, flat, other_paths, paths, present};
use flatleaf::{DynTree, Layout, Planner, Tree, destructure, tree};
use ndarray::{ArcArray2, Array1, Array2, arr0, arr1, arr2};

/// The trainable leaves that are left.
fn trained<T: Tree>(model: &T, planner: Planner<'_>) -> Vec<String> {
    paths(&planner.of(model).unwrap())
        .into_iter()
        .map(str::to_owned)
        .collect()
}

fn frozen(patterns: &[&str]) -> Planner<'static> {
    patterns.iter().fold(Layout::planner(), |planner, pattern| {
        planner.freeze(*pattern)
    })
}

fn only(patterns: &[&str]) -> Planner<'static> {
    patterns.iter().fold(Layout::planner(), |planner, pattern| {
        planner.train_only(*pattern)
    })
}

// J.D8
#[test]
fn a_frozen_branch_has_no_gradient_and_stays() {
    let model = models::Foo {
        x: arr1(&[1.0_f32, 2.0]),
        y: models::Layered(models::relu, arr1(&[3.0, 4.0])),
    };
    let grads = tree!({ "x": [1, 10], "y": { "1": [100, 1000] } });
    let layout = frozen(&["y.**"]).of(&model).unwrap();
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [1.0, 10.0]);
    assert_eq!(other_paths(&layout), ["y.1"]);
    let new = layout.restructure(&model, &[0.9, 1.0]).unwrap();
    assert_eq!((&new.x, &new.y.1), (&arr1(&[0.9, 1.0]), &arr1(&[3.0, 4.0])));
    let thawed = Layout::of(&new).unwrap();
    assert_eq!(
        *thawed.gather_grad(&grads).unwrap(),
        [1.0, 10.0, 100.0, 1000.0]
    );
    assert_eq!(thawed.gather(&new).unwrap(), [0.9, 1.0, 3.0, 4.0]);
}

// Decision 4
#[test]
fn any_gradient_of_what_a_pattern_freezes_is_ignored() {
    let layout = frozen(&["y", "z.**"])
        .of(&tree!({ "x": [1], "y": [2], "z": { "a": [3] } }))
        .unwrap();
    for odd in [
        tree!([1, 2]),
        tree!({ "b": [1] }),
        DynTree::from(vec![1_i32]),
        tree!(null),
    ] {
        let grads = DynTree::map([
            ("x", tree!([5])),
            ("y", odd.clone()),
            ("z", DynTree::map([("a", odd)])),
        ]);
        assert_eq!(*layout.gather_grad(&grads).unwrap(), [5.0], "{grads}");
    }
    let error = layout
        .gather_grad(&tree!({ "z": { "b": [1] } }))
        .unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.path(), Some("z.b"));
}

// J.D8
#[test]
fn a_frozen_branch_is_not_written_in_place() {
    let mut model = tree!({ "x": [1, 2], "y": [[3, 4]] });
    let layout = frozen(&["y"]).of(&model).unwrap();
    layout
        .restructure_into(&mut model, &[8, 9].map(|x| x as f32))
        .unwrap();
    assert_eq!(model, tree!({ "x": [8, 9], "y": [[3, 4]] }));
}

// J.D22
#[test]
fn an_absent_branch_is_not_frozen() {
    let layout = Layout::of(&tree!({ "p": [1, 2], "q": { "a": [3, 4] } })).unwrap();
    let grad = layout
        .gather_grad(&tree!({ "p": [5, 6], "q": null }))
        .unwrap();
    assert_eq!(
        (&*grad, present(&grad)),
        (&[5.0, 6.0, 0.0, 0.0][..], vec![true, false])
    );
    assert_eq!(paths(&layout), ["p", "q.a"]);
}

fn masked_tree() -> DynTree {
    tree!({ "a": 1, "b": [2, { "x": 3 }], "c": { "d": 4, "e": [5, { "x": 6 }] } })
}

// P.D3
#[test]
fn a_mask_is_a_list_of_patterns() {
    let layout = frozen(&["b.0", "c.e.0"]).of(&masked_tree()).unwrap();
    assert_eq!(layout.gather(&masked_tree()).unwrap(), [1.0, 3.0, 4.0, 6.0]);
    assert_eq!(other_paths(&layout), ["b.0", "c.e.0"]);
    let grads =
        tree!({ "a": 0.1, "b": [0.2, { "x": 0.3 }], "c": { "d": 0.4, "e": [0.5, { "x": 0.6 }] } });
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [0.1, 0.3, 0.4, 0.6]);
}

// P.D3
#[test]
fn a_mask_may_name_what_is_trained() {
    let layout = only(&["a", "b.1.*", "c.d", "c.e.1.x"])
        .of(&masked_tree())
        .unwrap();
    assert_eq!(layout.gather(&masked_tree()).unwrap(), [1.0, 3.0, 4.0, 6.0]);
    assert_eq!(
        layout,
        frozen(&["b.0", "c.e.0"]).of(&masked_tree()).unwrap()
    );
}

// P.D4
#[test]
fn a_prefix_freezes_all_that_is_below() {
    let model = tree!({ "a": 1, "b": { "f": 2 }, "c": { "d": 3, "e": [[4, 5], 6] } });
    let layout = frozen(&["b.**", "c.d.**"]).of(&model).unwrap();
    assert_eq!(layout.gather(&model).unwrap(), [1.0, 4.0, 5.0, 6.0]);
    let same = only(&["a", "c.e.**"]).of(&model).unwrap();
    assert_eq!(same, layout);
}

// P.D7
#[test]
fn freezing_is_by_name() {
    let model = tree!({ "w": [1, 2], "b": [3] });
    let layout = frozen(&["w"]).of(&model).unwrap();
    assert_eq!(
        *layout
            .gather_grad(&tree!({ "w": [0.1, 0.2], "b": [0.3] }))
            .unwrap(),
        [0.3]
    );
    assert_eq!(
        layout.restructure(&model, &[2.7]).unwrap(),
        tree!({ "w": [1, 2], "b": [2.7] })
    );
}

// J.A36
#[test]
fn a_frozen_field_is_frozen_at_every_level() {
    assert_eq!(flat(&models::recursive_mask()), [1.0, 2.0, 4.0]);
}

// J.G8
#[test]
fn freezing_a_weight_leaves_the_bias() {
    let model = models::Dense::counting(1.0, 5, 5, true);
    let layout = frozen(&["weight"]).of(&model).unwrap();
    assert_eq!((paths(&layout), layout.len()), (vec!["bias"], 5));
    assert_eq!(
        layout
            .restructure(&model, &layout.gather(&model).unwrap())
            .unwrap(),
        model
    );
    assert_eq!(
        Layout::planner().of(&model).unwrap(),
        Layout::of(&model).unwrap()
    );
}

// J.G7
#[test]
fn a_pattern_that_matches_nothing_is_an_error() {
    let model = models::chain();
    for pattern in [
        "wieght",
        "0",
        "0.weight.x",
        "3.*",
        "**.scale",
        "",
        "0.Weight",
        "*",
    ] {
        let error = frozen(&["0.bias", pattern]).of(&model).unwrap_err();
        assert!(error.is_pattern(), "{pattern}: {error}");
        assert_eq!(error.path(), Some(pattern));
        let error = only(&["0.bias", pattern]).of(&model).unwrap_err();
        assert!(error.is_pattern(), "{pattern}: {error}");
        assert_eq!(error.path(), Some(pattern));
    }
}

// Decision 9
#[test]
fn a_malformed_pattern_is_an_error() {
    for pattern in [
        "0..weight",
        ".weight",
        "weight.",
        ".",
        "\\weight",
        "0.\\",
        "wei\\ght",
    ] {
        let error = frozen(&[pattern]).of(&models::chain()).unwrap_err();
        assert!(error.is_pattern(), "{pattern}: {error}");
        assert_eq!(error.path(), Some(pattern));
    }
}

// Decision 9
#[test]
fn a_star_is_any_run_within_a_segment() {
    let model = models::chain();
    assert_eq!(
        trained(&model, only(&["*.weight"])),
        ["0.weight", "1.weight", "2.weight"]
    );
    assert_eq!(trained(&model, only(&["1.*"])), ["1.weight", "1.bias"]);
    assert_eq!(trained(&model, only(&["0.w*t"])), ["0.weight"]);
    assert_eq!(trained(&model, only(&["0.*i*"])), ["0.weight", "0.bias"]);
    assert_eq!(trained(&model, only(&["0.weight*"])), ["0.weight"]);
    let keys = tree!({ "ab": [1], "aba": [2], "a": [3], "b": [4] });
    assert_eq!(trained(&keys, only(&["a*b"])), ["ab"]);
    assert_eq!(trained(&keys, only(&["a*a"])), ["aba"]);
    assert_eq!(trained(&keys, only(&["*b*"])), ["ab", "aba", "b"]);
}

// Decision 9
#[test]
fn two_stars_are_any_number_of_segments() {
    let model = tree!({ "y": [1], "x": { "y": [2], "z": { "y": [3], "w": [4] } } });
    assert_eq!(trained(&model, only(&["y.**"])), ["y"]);
    assert_eq!(trained(&model, only(&["**.y"])), ["y", "x.y", "x.z.y"]);
    assert_eq!(
        trained(&model, only(&["**"])),
        ["y", "x.y", "x.z.y", "x.z.w"]
    );
    assert_eq!(trained(&model, only(&["x.**.y"])), ["x.y", "x.z.y"]);
    assert_eq!(trained(&model, only(&["x.**"])), ["x.y", "x.z.y", "x.z.w"]);
    assert_eq!(trained(&model, only(&["**.z.**"])), ["x.z.y", "x.z.w"]);
    assert_eq!(trained(&model, only(&["**.**.w"])), ["x.z.w"]);
    assert_eq!(trained(&model, only(&["**.*.y"])), ["x.y", "x.z.y"]);
    assert_eq!(trained(&model, only(&["x.*"])), ["x.y"]);
}

// Decision 9
#[test]
fn two_stars_beside_other_characters_stay_within_their_segment() {
    let model = tree!({ "ab": { "c": [1] }, "abc": [2] });
    assert_eq!(trained(&model, only(&["a**"])), ["abc"]);
}

// Decision 9
#[test]
fn the_pattern_of_a_root_leaf() {
    let model = arr1(&[1.0_f32]);
    assert_eq!(trained(&model, only(&["**"])), [""]);
    assert_eq!(trained(&model, only(&[""])), [""]);
    assert!(frozen(&["**"]).of(&model).unwrap().is_empty());
    let error = frozen(&["*"]).of(&model).unwrap_err();
    assert!(error.is_pattern());
    assert_eq!(error.path(), Some("*"));
}

// Decision 9
#[test]
fn characters_are_escaped_in_patterns_as_in_paths() {
    let keys = || ["", "*", ".", "\\", "a.b", "ab"].map(|key| (key, tree!([1])));
    let model = DynTree::map(keys());
    for leaf in Layout::of(&model).unwrap().leaves() {
        assert_eq!(trained(&model, only(&[leaf.path()])), [leaf.path()]);
    }
    assert_eq!(trained(&model, only(&["a*b"])), ["a\\.b", "ab"]);
    assert_eq!(trained(&model, only(&["*"])).len(), keys().len());
}

// Decision 9
#[test]
fn a_pattern_matches_a_tie_by_any_of_its_places() {
    let model = models::tied();
    for pattern in ["x", "y"] {
        let layout = frozen(&[pattern]).of(&model).unwrap();
        assert_eq!(
            (paths(&layout), other_paths(&layout)),
            (vec!["z"], vec!["x"])
        );
        assert_eq!(layout.others()[0].places(), ["x", "y"]);
        assert_eq!(trained(&model, only(&[pattern])), ["x"]);
    }
    let layout = frozen(&["z"]).of(&model).unwrap();
    assert_eq!(layout.leaves()[0].places(), ["x", "y"]);
}

// Decision 11
#[test]
fn a_tie_that_a_pattern_freezes_is_shared_with_a_new_tree() {
    let model = models::tied();
    let new = frozen(&["x"])
        .of(&model)
        .unwrap()
        .restructure(&model, &[7.0, 8.0, 9.0])
        .unwrap();
    assert!(Arc::ptr_eq(&new.x, &model.x) && Arc::ptr_eq(&new.y, &model.x));
    assert_eq!(new.z, arr1(&[7.0, 8.0, 9.0]));
}

#[test]
fn part_of_a_shared_node_is_frozen_by_a_pattern() {
    let model = models::tied_subtree();
    let layout = frozen(&["b.weight"]).of(&model).unwrap();
    assert_eq!(
        (layout.gather(&model).unwrap(), other_paths(&layout)),
        (vec![2.0], vec!["a.weight"])
    );
    let new = layout.restructure(&model, &[9.0]).unwrap();
    assert!(Rc::ptr_eq(&new.a, &new.b) && !Rc::ptr_eq(&new.a, &model.a));
    assert_eq!(
        *new.a,
        models::Dense {
            weight: arr2(&[[1.0]]),
            bias: Some(arr1(&[9.0]))
        }
    );
}

#[test]
fn to_freeze_is_stronger_than_to_train() {
    let model = models::chain();
    assert_eq!(
        trained(&model, only(&["*.weight"]).freeze("0.*")),
        ["1.weight", "2.weight"]
    );
    assert_eq!(trained(&model, frozen(&["0.*"]).train_only("0.*")), [""; 0]);
}

#[test]
fn several_patterns_add_up() {
    let model = models::chain();
    assert_eq!(
        trained(&model, frozen(&["0.*", "*.bias"])),
        ["1.weight", "2.weight"]
    );
    assert_eq!(
        trained(&model, only(&["0.bias", "2.*"])),
        ["0.bias", "2.weight", "2.bias"]
    );
}

#[test]
fn a_field_that_is_frozen_stays_frozen() {
    let model = models::batch_norm();
    assert_eq!(trained(&model, only(&["beta", "mean"])), ["beta"]);
    assert_eq!(trained(&model, frozen(&["beta", "var"])), ["gamma"]);
}

// P.D6
#[test]
fn a_predicate_sees_the_leaf() {
    let model = models::Foo {
        x: Array2::<f32>::ones((1, 2)),
        y: (Array1::<f32>::ones(1), models::array(&[1, 2, 3], &[1.0; 6])),
    };
    let layout = Layout::planner()
        .keep(|leaf| leaf.shape().len() > 1)
        .of(&model)
        .unwrap();
    assert_eq!((paths(&layout), layout.len()), (vec!["x", "y.1"], 8));
    let layout = Layout::planner()
        .keep(|leaf| leaf.range().start == 2)
        .of(&model)
        .unwrap();
    assert_eq!(
        (paths(&layout), layout.leaves()[0].range()),
        (vec!["y.0"], 0..1)
    );
}

#[test]
fn all_predicates_must_accept() {
    let model = models::chain();
    let longest = 15;
    let planner = Layout::planner()
        .keep(move |leaf| leaf.len() <= longest)
        .keep(|leaf| leaf.path().ends_with("weight"));
    assert_eq!(trained(&model, planner), ["0.weight", "2.weight"]);
    let planner = Layout::planner()
        .keep(|leaf| leaf.len() == 4)
        .freeze("*.weight");
    assert_eq!(trained(&model, planner), ["1.bias"]);
}

#[test]
fn a_predicate_sees_all_places_and_only_trainable_leaves() {
    let seen = Mutex::new(Vec::new());
    let note = |leaf: &flatleaf::Leaf| {
        seen.lock().unwrap().push(leaf.places().to_vec());
        true
    };
    let model = models::tied_across_frozen();
    Layout::planner().keep(note).of(&model).unwrap();
    assert_eq!(*seen.lock().unwrap(), [vec!["b"], vec!["c", "a", "d"]]);
    seen.lock().unwrap().clear();
    Layout::planner()
        .keep(note)
        .of(&models::batch_norm())
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [["beta"], ["gamma"]]);
}

#[test]
fn a_planner_plans_several_trees() {
    let planner = frozen(&["*.bias"]);
    assert_eq!(planner.of(&models::chain()).unwrap().len(), 47);
    assert_eq!(planner.of(&models::chain()[..1]).unwrap().len(), 15);
    assert!(planner.of(&models::pair()).unwrap_err().is_pattern());
}

#[test]
fn everything_takes_frozen_floats_in_walk_order() {
    let model = models::batch_norm();
    let layout = Layout::everything(&model).unwrap();
    assert_eq!(layout.gather(&model).unwrap(), count_from(1.0, 12));
    assert_eq!(
        (paths(&layout), other_paths(&layout)),
        (vec!["beta", "gamma", "mean", "var"], vec!["seen"])
    );
    let new = layout.restructure(&model, &count_from(21.0, 12)).unwrap();
    assert_eq!(
        (new.mean, new.var, new.seen),
        (
            arr1(&[27.0, 28.0, 29.0]),
            arr1(&[30.0, 31.0, 32.0]),
            arr0(100)
        )
    );
}

#[test]
fn everything_takes_no_skipped_fields_and_no_integers() {
    assert_eq!(
        paths(&Layout::everything(&models::masked()).unwrap()),
        ["a.1", "c.1"]
    );
    assert_eq!(
        paths(&Layout::everything(&models::carried()).unwrap()),
        ["a"]
    );
    assert_eq!(
        paths(&Layout::everything(&models::scalars()).unwrap()),
        ["temperature", "scale"]
    );
    assert_eq!(
        paths(&Layout::everything(&models::recursive_mask()).unwrap()),
        ["a.a", "a.b", "a.c", "b", "c"]
    );
}

// Decision 3
#[test]
fn everything_names_a_tie_by_its_first_place() {
    let model = models::tied_across_frozen();
    let layout = Layout::everything(&model).unwrap();
    assert_eq!(paths(&layout), ["a", "b"]);
    assert_eq!(layout.leaves()[0].places(), ["a", "c", "d"]);
    assert_eq!(layout.gather(&model).unwrap(), [2.0, 3.0, 1.0]);
    let grads = tree!({ "a": [100, 100], "c": [1, 2], "d": [10, 20] });
    assert_eq!(*layout.gather_grad(&grads).unwrap(), [111.0, 122.0, 0.0]);
}

#[derive(Tree)]
struct FrozenFirst {
    #[tree(frozen)]
    t: ArcArray2<f32>,
    m: ArcArray2<f32>,
}

// Decision 3
#[test]
fn everything_shows_a_tie_as_its_first_place_does() {
    let m = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let model = FrozenFirst {
        t: m.clone().reversed_axes(),
        m,
    };
    let layout = Layout::everything(&model).unwrap();
    assert_eq!(
        (layout.leaves()[0].path(), layout.leaves()[0].shape()),
        ("t", &[3, 2][..])
    );
    assert_eq!(
        layout.gather(&model).unwrap(),
        [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
    );
    let new = layout.restructure(&model, &count_from(1.0, 6)).unwrap();
    assert_eq!(new.t, arr2(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]));
    assert_eq!(new.m, arr2(&[[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]));
}

#[test]
fn everything_and_patterns_go_together() {
    let model = models::batch_norm();
    assert_eq!(
        trained(&model, frozen(&["beta", "var"]).everything()),
        ["gamma", "mean"]
    );
    assert_eq!(trained(&model, only(&["mean"]).everything()), ["mean"]);
}

// Decision 3
#[test]
fn a_tie_with_a_frozen_place_is_frozen_by_a_pattern() {
    let model = models::tied_across_frozen();
    for pattern in ["a", "c", "d"] {
        let layout = frozen(&[pattern]).of(&model).unwrap();
        assert_eq!(
            (paths(&layout), layout.gather(&model).unwrap()),
            (vec!["b"], vec![1.0]),
            "{pattern}"
        );
    }
}

#[test]
fn layouts_of_other_masks_are_other_layouts() {
    let model = models::chain();
    let (all, some) = (
        Layout::of(&model).unwrap(),
        frozen(&["0.*"]).of(&model).unwrap(),
    );
    assert_ne!(all, some);
    assert_ne!(all.fingerprint(), some.fingerprint());
    let mut grad = some.gather_grad(&model).unwrap();
    let error = all.gather_grad_into(&model, &mut grad).unwrap_err();
    assert!(error.is_other_layout());
    assert_eq!(grad, some.gather_grad(&model).unwrap());
    assert_ne!(
        Layout::of(&models::batch_norm()).unwrap(),
        Layout::everything(&models::batch_norm()).unwrap()
    );
}

// J.G4
#[test]
fn the_other_leaves_are_copied() {
    let policy = models::batch_norm();
    let layout = Layout::of(&policy).unwrap();
    let mut target = Layout::everything(&policy)
        .unwrap()
        .restructure(&policy, &[0.0; 12])
        .unwrap();
    target.seen = arr0(0);
    layout.copy_frozen(&policy, &mut target).unwrap();
    assert_eq!(
        (&target.mean, &target.var, &target.seen),
        (&policy.mean, &policy.var, &policy.seen)
    );
    assert_eq!(layout.gather(&target).unwrap(), [0.0; 6]);
}

#[test]
fn leaves_that_a_pattern_freezes_are_copied() {
    let layout = frozen(&["0.*", "*.bias"]).of(&models::chain()).unwrap();
    let mut target = models::chain();
    target.iter_mut().for_each(|dense| dense.weight.fill(0.0));
    target[2].bias = Some(arr1(&[0.0; 3]));
    layout.copy_frozen(&models::chain(), &mut target).unwrap();
    assert_eq!(target[0], models::chain()[0]);
    assert_eq!(target[2].bias, models::chain()[2].bias);
    assert_eq!(target[1].weight, Array2::<f32>::zeros((4, 5)));
}

#[test]
fn frozen_leaves_of_any_order_in_memory_are_copied() {
    let layout = frozen(&["**"]).of(&models::strided()).unwrap();
    let everything = Layout::of(&models::strided()).unwrap();
    let mut target = everything
        .restructure(&models::strided(), &count_from(1.0, 13))
        .unwrap();
    layout.copy_frozen(&models::strided(), &mut target).unwrap();
    assert_eq!(flat(&target), flat(&models::strided()));
}

// Decision 2
#[test]
fn a_frozen_tie_is_copied_to_all_its_places() {
    let layout = frozen(&["t"]).of(&models::tied_transposed()).unwrap();
    let mut target = models::tied_transposed();
    Layout::of(&target)
        .unwrap()
        .restructure_into(&mut target, &[0.0; 6])
        .unwrap();
    layout
        .copy_frozen(&models::tied_transposed(), &mut target)
        .unwrap();
    assert_eq!(
        (&target.m, &target.t),
        (&models::tied_transposed().m, &models::tied_transposed().t)
    );
    assert_eq!(target.m.as_ptr(), target.t.as_ptr());
}

fn assert_target_is_kept(from: &DynTree, path: &str, is_kind: fn(&flatleaf::Error) -> bool) {
    let layout = frozen(&["a", "b"])
        .of(&tree!({ "w": [0], "a": [1], "b": [2] }))
        .unwrap();
    let mut target = tree!({ "w": [7], "a": [8], "b": [9] });
    let error = layout.copy_frozen(from, &mut target).unwrap_err();
    assert!(is_kind(&error), "{error}");
    assert_eq!(error.path(), Some(path));
    assert_eq!(target, tree!({ "w": [7], "a": [8], "b": [9] }));
    let mut target = from.clone();
    let error = layout
        .copy_frozen(&tree!({ "w": [7], "a": [8], "b": [9] }), &mut target)
        .unwrap_err();
    assert!(is_kind(&error), "{error}");
    assert_eq!(error.path(), Some(path));
    assert_eq!(&target, from);
}

// Decision 7
#[test]
fn copying_the_other_leaves_writes_all_or_nothing() {
    assert_target_is_kept(
        &tree!({ "w": [0], "a": [1], "b": [2, 3] }),
        "b",
        flatleaf::Error::is_shape,
    );
    assert_target_is_kept(
        &tree!({ "w": [0], "a": [1] }),
        "b",
        flatleaf::Error::is_missing,
    );
    assert_target_is_kept(
        &tree!({ "w": [0], "a": [1], "b": [2], "c": [3] }),
        "c",
        flatleaf::Error::is_unknown,
    );
    assert_target_is_kept(
        &tree!({ "w": [0], "a": [1], "b": (vec![2_i32]) }),
        "b",
        flatleaf::Error::is_element_type,
    );
}

struct OthersAreCopied;

impl Law for OthersAreCopied {
    fn holds<T: Tree>(&self, name: &str, mut model: T) {
        let (flat, layout) = destructure(&model).unwrap();
        let everything = Layout::everything(&model).unwrap();
        let zeros = everything
            .restructure(&model, &vec![0.0; everything.len()])
            .unwrap();
        let template = layout.restructure(&model, &flat).unwrap();
        layout.copy_frozen(&zeros, &mut model).unwrap();
        assert_eq!(layout.gather(&model).unwrap(), flat, "{name}");
        layout.copy_frozen(&template, &mut model).unwrap();
        assert_eq!(
            everything.gather(&model).unwrap(),
            everything.gather(&template).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn copying_the_other_leaves_of_every_model_leaves_the_trainable_ones() {
    models::every(&OthersAreCopied);
}

struct AllFrozen;

impl Law for AllFrozen {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let layout = Layout::planner().keep(|_| false).of(&model).unwrap();
        assert!(layout.is_empty() && layout.leaves().is_empty(), "{name}");
        let copy = layout.restructure(&model, &[]).unwrap();
        let whole = Layout::of(&model).unwrap();
        assert_eq!(
            whole.gather(&copy).unwrap(),
            whole.gather(&model).unwrap(),
            "{name}"
        );
        assert_eq!(Layout::of(&copy).unwrap(), whole, "{name}");
        assert!(layout.gather_grad(&model).unwrap().is_empty(), "{name}");
    }
}

#[test]
fn every_model_may_be_frozen_as_a_whole() {
    models::every(&AllFrozen);
}

#[test]
fn predicates_stand_wherever_patterns_do() {
    let model = tree!({ "embed": [[1.0, 2.0]], "w": [[3.0]], "b": [4.0], "t": 5.0 });
    let is_matrix = |leaf: &flatleaf::Leaf| leaf.shape().len() == 2;
    let plan = Layout::planner;
    assert_eq!(trained(&model, plan().freeze_where(is_matrix)), ["b", "t"]);
    assert_eq!(
        trained(&model, plan().train_only_where(is_matrix)),
        ["embed", "w"]
    );
    assert_eq!(trained(&model, plan().keep(is_matrix)), ["embed", "w"]);
    // What is named by either is trained, and what is frozen by either is not.
    let planner = plan().train_only("t").train_only_where(is_matrix);
    assert_eq!(trained(&model, planner.freeze("w")), ["embed", "t"]);
    let planner = plan()
        .freeze_where(is_matrix)
        .freeze_where(|leaf| leaf.shape().is_empty());
    assert_eq!(trained(&model, planner), ["b"]);
    // A predicate that names none is no mistake; none is trained then.
    assert!(trained(&model, plan().train_only_where(|_| false)).is_empty());
    assert_eq!(trained(&model, plan().freeze_where(|_| false)).len(), 4);
    // It sees what the vector would be with nothing frozen here.
    let planner = plan().freeze_where(|leaf| leaf.range().start >= 3);
    assert_eq!(trained(&model, planner), ["embed", "w"]);
}
