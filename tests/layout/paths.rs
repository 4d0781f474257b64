//! Paths: how the places of a tree are named, and found again.

use std::collections::{BTreeMap, HashMap};

use crate::common::models::{self, Law};
use crate::common::{other_paths, paths};
use flatleaf::{Builder, DynTree, Key, Layout, Result, Tree, Visitor, VisitorMut, tree};
use ndarray::{Array1, arr0, arr1};

fn map<const N: usize>(keys: [&'static str; N]) -> BTreeMap<&'static str, Array1<f32>> {
    keys.into_iter().map(|key| (key, arr1(&[1.0]))).collect()
}

// J.B1, J.B4, P.C4
#[test]
fn a_tied_leaf_is_named_by_its_first_place_and_knows_them_all() {
    let layout = Layout::of(&models::tied()).unwrap();
    assert_eq!(paths(&layout), ["x", "z"]);
    assert_eq!(layout.leaf("x").unwrap().places(), ["x", "y"]);
    assert_eq!(layout.leaf("y").unwrap().path(), "x");
    assert_eq!(layout.leaf("y").unwrap().range(), 0..3);
    assert_eq!(layout.leaf("z").unwrap().places(), ["z"]);
    assert_eq!(
        (layout.index_of("y"), layout.index_of("z")),
        (Some(0), Some(1))
    );
}

#[derive(Tree)]
struct Entry {
    c: Array1<f32>,
    d: f32,
}

// J.B2
#[test]
fn tuple_fields_are_counted_from_zero() {
    let entry = Entry {
        c: arr1(&[3.0, 4.0]),
        d: 5.0,
    };
    let model = BTreeMap::from([("b", (entry, arr1(&[6.0_f32, 7.0])))]);
    let layout = Layout::of(&model).unwrap();
    assert_eq!(paths(&layout), ["b.0.c", "b.1"]);
    assert_eq!(layout.leaf("b.0.d").map(|leaf| leaf.path()), None);
}

// J.B3
#[test]
fn a_path_leads_to_its_part() {
    let model = tree!({ "a": [1.0, 2.0], "b": [{ "c": [3.0, 4.0], "d": 5.0 }, [6.0, 7.0]] });
    assert_eq!(model.get("b.0.c"), Some(&tree!([3.0, 4.0])));
    assert_eq!(model.get("b.1"), Some(&tree!([6.0, 7.0])));
    assert_eq!(model.get(""), Some(&model));
    for unknown in [
        "c", "b.2", "b.0.x", "a.0", "b..c", ".", "b.0.c.", "\\", "b\\.0", "*",
    ] {
        assert_eq!(model.get(unknown), None, "{unknown}");
    }
}

// J.B3
#[test]
fn an_unknown_path_leads_to_no_leaf() {
    let (flat, layout) =
        flatleaf::destructure(&tree!({ "a": [1.0, 2.0], "b": [{ "c": [3.0] }] })).unwrap();
    assert_eq!(layout.leaf("b.0.c").unwrap().range(), 2..3);
    for unknown in [
        "", "b", "b.0", "c", "a.0", "b.00.c", "b.0.c.", "..", "\\", "a\\", "*",
    ] {
        assert!(layout.leaf(unknown).is_none(), "{unknown}");
        assert_eq!(layout.index_of(unknown), None, "{unknown}");
        let error = layout.view(&flat, unknown).unwrap_err();
        assert!(error.is_unknown(), "{unknown}");
        assert_eq!(error.path(), Some(unknown));
    }
}

// J.B3
#[test]
fn the_root_is_the_empty_path() {
    let layout = Layout::of(&arr1(&[1.0_f32])).unwrap();
    assert_eq!(paths(&layout), [""]);
    assert_eq!(layout.leaf("").unwrap().range(), 0..1);
    let error = layout.gather(&arr1(&[1.0_f32, 2.0])).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some(""));
}

// J.B7
#[test]
fn leaves_are_looked_up_in_any_order() {
    let layout = Layout::of(&models::deep()).unwrap();
    let ranges = ["c.b", "a", "c.a.b"].map(|path| layout.leaf(path).unwrap().range());
    assert_eq!(ranges, [6..10, 0..1, 4..6]);
}

struct FoundAgain;

impl Law for FoundAgain {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let layout = Layout::of(&model).unwrap();
        for (index, leaf) in layout.leaves().iter().enumerate() {
            assert_eq!(leaf.places()[0], leaf.path(), "{name}");
            for place in leaf.places() {
                assert_eq!(layout.index_of(place), Some(index), "{name}: {place}");
                assert_eq!(
                    layout.leaf(place).unwrap().range(),
                    leaf.range(),
                    "{name}: {place}"
                );
            }
        }
        for leaf in layout.others() {
            assert!(
                layout.leaf(leaf.path()).is_none(),
                "{name}: {}",
                leaf.path()
            );
        }
    }
}

#[test]
fn every_place_of_every_model_is_found_again() {
    models::every(&FoundAgain);
}

struct Distinct;

impl Law for Distinct {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let layout = Layout::of(&model).unwrap();
        let mut places: Vec<&String> = layout
            .leaves()
            .iter()
            .chain(layout.others())
            .flat_map(|leaf| leaf.places())
            .collect();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count, "{name}");
    }
}

#[test]
fn no_two_places_of_any_model_print_alike() {
    models::every(&Distinct);
}

// P.H6
#[test]
fn paths_are_dotted_through_lists_structs_and_maps() {
    let inner = tree!({ "foo": 12, "bar": { "cin": [[1], [4, 5], [10]], "bar": null } });
    let layout = Layout::of(&(inner, arr1(&[1.0_f32]))).unwrap();
    assert_eq!(
        paths(&layout),
        ["0.foo", "0.bar.cin.0", "0.bar.cin.1", "0.bar.cin.2", "1"]
    );
}

// P.H7
#[test]
fn a_dot_in_a_key_is_no_step_down() {
    let layout = Layout::of(&tree!({ "a.b": 1, "a": { "b": 2 } })).unwrap();
    assert_eq!(paths(&layout), ["a\\.b", "a.b"]);
    assert_eq!(layout.leaf("a\\.b").unwrap().range(), 0..1);
    assert_eq!(layout.leaf("a.b").unwrap().range(), 1..2);
}

// Decision 9
#[test]
fn special_characters_are_escaped() {
    let layout = Layout::of(&map(["", "*", ".", "\\", "\\e", "a.b", "e"])).unwrap();
    assert_eq!(
        paths(&layout),
        ["\\e", "\\*", "\\.", "\\\\", "\\\\e", "a\\.b", "e"]
    );
    for (index, leaf) in layout.leaves().iter().enumerate() {
        assert_eq!(layout.index_of(leaf.path()), Some(index), "{}", leaf.path());
    }
}

// Decision 9
#[test]
fn a_path_that_is_not_escaped_leads_nowhere() {
    let layout = Layout::of(&map(["", "*", "\\", "a.b"])).unwrap();
    for unknown in ["*", "\\", "a.b", "\\a", "\\\\\\", "", "."] {
        assert_eq!(layout.index_of(unknown), None, "{unknown}");
    }
}

// Decision 9
#[test]
fn escaped_paths_lead_to_the_parts_of_a_tree() {
    let model = tree!({ "": [1.0], "a.b": { "*": [2.0] } });
    assert_eq!(model.get("\\e"), Some(&tree!([1.0])));
    assert_eq!(model.get("a\\.b.\\*"), Some(&tree!([2.0])));
    assert_eq!(model.get("a.b"), None);
}

// P.H7
#[test]
fn a_key_that_is_an_index_is_the_same_place_as_the_index() {
    let by_key = BTreeMap::from([("0", arr1(&[1.0_f32])), ("1", arr1(&[2.0]))]);
    let layout = Layout::of(&[arr1(&[1.0_f32]), arr1(&[2.0])]).unwrap();
    assert_eq!(Layout::of(&by_key).unwrap(), layout);
    assert_eq!(layout.gather(&by_key).unwrap(), [1.0, 2.0]);
    assert_eq!(
        paths(&Layout::of(&map(["0", "00", "01"])).unwrap()),
        ["0", "00", "01"]
    );
}

// P.H7: a tree that has both
struct Twice(Array1<f32>, Array1<f32>);

impl Tree for Twice {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.child(Key::Index(0), &self.0)?;
        visitor.child(Key::Name("0"), &self.1)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visitor.child(Key::Index(0), &mut self.0)?;
        visitor.child(Key::Name("0"), &mut self.1)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(Twice(
            builder.child(Key::Index(0), &self.0)?,
            builder.child(Key::Name("0"), &self.1)?,
        ))
    }
}

// P.H7
#[test]
fn one_path_twice_is_an_error() {
    let model = BTreeMap::from([("a", Twice(arr1(&[1.0]), arr1(&[2.0])))]);
    let error = Layout::of(&model).unwrap_err();
    assert!(error.is_duplicate());
    assert_eq!(error.path(), Some("a.0"));
    let layout = Layout::of(&tree!({ "a": [[1.0], 3.0] })).unwrap();
    let error = layout.gather_grad(&model).unwrap_err();
    assert!(error.is_duplicate());
    assert_eq!(error.path(), Some("a.0"));
}

// P.H8
#[test]
fn empty_branches_are_kept() {
    let model = tree!({ "foo": 1, "bar": { "a": 2, "b": {} } });
    let layout = Layout::of(&model).unwrap();
    assert_eq!(paths(&layout), ["foo", "bar.a"]);
    assert_eq!(
        layout.restructure(&model, &[3.0, 4.0]).unwrap(),
        tree!({ "foo": 3, "bar": { "a": 4, "b": {} } })
    );
    let nested = HashMap::from([
        ("a", HashMap::new()),
        ("b", HashMap::from([("c", arr1(&[1.0_f32]))])),
    ]);
    let new = Layout::of(&nested)
        .unwrap()
        .restructure(&nested, &[2.0])
        .unwrap();
    assert_eq!(new["a"], HashMap::new());
    assert_eq!(new["b"]["c"], arr1(&[2.0]));
}

// P.H5
#[test]
fn keys_of_any_kind_fit_a_message() {
    let keys = ["{oops}", "{}", "`", "%s", "ключ", "\n"];
    let with = |len: usize| DynTree::map(keys.map(|key| (key, DynTree::from(vec![1.0_f32; len]))));
    let layout = Layout::of(&with(1)).unwrap();
    assert_eq!(paths(&layout), keys);
    let error = layout.gather(&with(2)).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.paths().collect::<Vec<_>>(), keys);
    assert!(
        error
            .to_string()
            .starts_with("`{oops}`: expected shape [1], found shape [2]; `{}`: "),
        "{error}"
    );
}

// P.H10
#[test]
fn an_error_names_the_whole_path() {
    let layout = Layout::of(&tree!([[1.0], { "a.b": [[2.0], { "c": [3.0] }] }])).unwrap();
    let error = layout
        .gather(&tree!([[1.0], { "a.b": [[2.0], { "c": [3.0, 4.0] }] }]))
        .unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("1.a\\.b.1.c"));
    assert_eq!(
        error.to_string(),
        "`1.a\\.b.1.c`: expected shape [1], found shape [2]"
    );
}

// Decision 9
#[test]
fn variants_boxes_options_pointers_and_locks_add_no_segment() {
    assert_eq!(
        paths(&Layout::of(&models::activation()).unwrap()),
        ["1.slope", "2.0", "2.1"]
    );
    assert_eq!(
        paths(&Layout::of(&models::layers()).unwrap()),
        ["0.weight", "1.0"]
    );
    assert_eq!(
        paths(&Layout::of(&models::chain()[..1]).unwrap()),
        ["0.weight", "0.bias"]
    );
    assert_eq!(
        paths(&Layout::of(&models::tied_cells()).unwrap()),
        ["x", "z"]
    );
    assert_eq!(
        paths(&Layout::of(&models::tied_locks()).unwrap()),
        ["x", "z"]
    );
    assert_eq!(paths(&Layout::of(&models::rw_lock()).unwrap()), ["x"]);
    assert_eq!(
        paths(&Layout::of(&models::boxed_slices()).unwrap()),
        ["0", "1"]
    );
}

#[test]
fn a_transparent_struct_adds_no_segment() {
    assert_eq!(paths(&Layout::of(&models::transparent()).unwrap()), ["x"]);
}

#[test]
fn a_skipped_tuple_field_keeps_its_index() {
    let layout = Layout::of(&models::masked()).unwrap();
    assert_eq!(paths(&layout), ["a.1"]);
    assert_eq!(other_paths(&layout), ["c.1"]);
}

#[test]
fn a_renamed_field_has_that_key_and_a_raw_name_its_plain_one() {
    assert_eq!(
        paths(&Layout::of(&models::renamed()).unwrap()),
        ["weight\\.raw", "type"]
    );
}

#[test]
fn frozen_and_carried_leaves_are_named_in_walk_order() {
    assert_eq!(
        other_paths(&Layout::of(&models::batch_norm()).unwrap()),
        ["mean", "var", "seen"]
    );
    assert_eq!(
        other_paths(&Layout::of(&models::recursive_mask()).unwrap()),
        ["a.c", "c"]
    );
}

#[test]
fn leaves_know_their_shape_type_and_range() {
    let layout = Layout::of(&(arr0(1.0_f32), arr1(&[1.0_f64, 2.0]), arr1(&[3_u8]))).unwrap();
    let described: Vec<_> = layout
        .leaves()
        .iter()
        .map(|leaf| (leaf.shape().to_vec(), leaf.dtype().name(), leaf.range()))
        .collect();
    assert_eq!(described, [(vec![], "f32", 0..1), (vec![2], "f64", 1..3)]);
    assert_eq!(
        (
            layout.others()[0].dtype().name(),
            layout.others()[0].range()
        ),
        ("u8", 0..0)
    );
}

#[test]
fn an_element_is_named_by_its_leaf_and_where_it_is_there() {
    let shared = std::rc::Rc::new(ndarray::arr2(&[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]));
    let model = BTreeMap::from([
        ("a", (shared.clone(), Array1::<f32>::zeros(0))),
        ("b", (shared, arr1(&[7.0]))),
    ]);
    let layout = Layout::of(&model).unwrap();
    let names: Vec<String> = (0..layout.len())
        .map(|index| layout.element_name(index))
        .collect();
    let expected = [
        "a.0[0, 0]",
        "a.0[0, 1]",
        "a.0[1, 0]",
        "a.0[1, 1]",
        "a.0[2, 0]",
        "a.0[2, 1]",
        "b.1[0]",
    ];
    assert_eq!(names, expected);
    let layout = Layout::of(&tree!({ "spring": { "k": 4.0 }, "w": [[1.0, 2.0]] })).unwrap();
    assert_eq!(layout.element_name(0), "spring.k");
    assert_eq!(layout.element_name(2), "w[0, 1]");
    assert_eq!(
        Layout::of(&arr0(1.0_f32)).unwrap().element_name(0),
        "the root"
    );
    assert_eq!(
        Layout::of(&arr1(&[1.0_f32, 2.0])).unwrap().element_name(1),
        "[1]"
    );
}

#[test]
#[should_panic(expected = "expected the index of one of 2 elements, found 2")]
fn an_element_beyond_the_vector_has_no_name() {
    let _ = Layout::of(&arr1(&[1.0_f32, 2.0])).unwrap().element_name(2);
}

#[test]
fn a_pattern_finds_leaves_by_any_of_their_places() {
    let tied = Layout::of(&models::tied()).unwrap();
    assert_eq!(tied.matching("y").unwrap(), [0]);
    assert_eq!(tied.matching("?").unwrap_err().path(), Some("?"));
    assert_eq!(tied.matching("*").unwrap(), [0, 1]);
    let odd = Layout::of(&map(["", "a.b", "*"])).unwrap();
    for (index, leaf) in odd.leaves().iter().enumerate() {
        assert_eq!(odd.matching(leaf.path()).unwrap(), [index]);
    }
    for malformed in ["a..b", "\\x", "a."] {
        assert!(odd.matching(malformed).unwrap_err().is_pattern());
    }
    let frozen = Layout::planner().freeze("a").of(&map(["a", "b"])).unwrap();
    assert!(frozen.matching("a").unwrap_err().is_pattern());
}
