//! Maps as trees: what a key is in a path, and flat maps of dotted names.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use flatleaf::{
    DynTree, Layout, StateArray, StateDict, TiedGrads, Tree, deep_clone, destructure, tree,
};
use ndarray::{Array1, Array2, ArrayD, arr1, arr2};

fn paths(layout: &Layout) -> Vec<&str> {
    layout.leaves().iter().map(|leaf| leaf.path()).collect()
}

mod keys {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum Part {
        Encoder,
        Decoder,
    }

    impl fmt::Display for Part {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Part::Encoder => "encoder",
                Part::Decoder => "decoder",
            })
        }
    }

    #[test]
    fn integers_are_indices_in_their_order() {
        let model = BTreeMap::from([(10_u32, vec![1.0_f32]), (9, vec![2.0]), (2, vec![3.0])]);
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(paths(&layout), ["2", "9", "10"]);
        assert_eq!(flat, [3.0, 2.0, 1.0]);
        let grads = tree!({ "2": [0.5], "10": [0.25] });
        assert_eq!(*layout.gather_grad(&grads).unwrap(), [0.5, 0.0, 0.25]);
        let new = layout.restructure(&model, &[7.0, 8.0, 9.0]).unwrap();
        assert_eq!((&new[&2], &new[&10]), (&vec![7.0], &vec![9.0]));

        let hashed: HashMap<u32, Vec<f32>> = model.clone().into_iter().collect();
        assert_eq!(destructure(&hashed).unwrap(), (flat, layout));
    }

    #[test]
    fn negative_ones_are_names() {
        let model = BTreeMap::from([(-1_i64, vec![1.0_f32]), (i64::MAX, vec![2.0])]);
        let (_, layout) = destructure(&model).unwrap();
        assert_eq!(paths(&layout), ["-1", "9223372036854775807"]);
        assert_eq!(deep_clone(&model).unwrap(), model);
    }

    #[test]
    fn an_enum_is_what_it_prints_in_its_own_order() {
        let entries = [(Part::Decoder, vec![2.0_f32]), (Part::Encoder, vec![1.0])];
        let mut model = HashMap::from(entries);
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(paths(&layout), ["encoder", "decoder"]);
        assert_eq!(flat, [1.0, 2.0]);
        layout.restructure_into(&mut model, &[3.0, 4.0]).unwrap();
        assert_eq!(model[&Part::Decoder], [4.0]);
    }

    #[test]
    fn a_long_key_is_whole() {
        let key = "k".repeat(500);
        let model = BTreeMap::from([(key.clone(), vec![1.0_f32])]);
        assert_eq!(paths(&Layout::of(&model).unwrap()), [key]);
    }

    #[test]
    fn keys_that_print_alike_are_an_error() {
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        struct Alike(u8);

        impl fmt::Display for Alike {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("same")
            }
        }

        let model = BTreeMap::from([(Alike(0), vec![1.0_f32]), (Alike(1), vec![2.0])]);
        let error = Layout::of(&model).unwrap_err();
        assert!(error.is_duplicate());
        assert_eq!(error.path(), Some("same"));
    }

    #[test]
    fn one_that_fails_to_print_is_an_error() {
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        struct Mute;

        impl fmt::Display for Mute {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }

        let error = Layout::of(&BTreeMap::from([(Mute, vec![1.0_f32])])).unwrap_err();
        assert!(error.is_custom(), "{error}");
    }
}

mod state_dict {
    use super::*;

    #[derive(Tree)]
    struct Dense {
        weight: Array2<f32>,
        bias: Array1<f32>,
    }

    /// Eleven layers, so that 10 sorts after 9 and not after 1.
    fn model() -> Vec<Dense> {
        let layer = |index: usize| Dense {
            weight: arr2(&[[index as f32, 0.5]]),
            bias: arr1(&[-(index as f32)]),
        };
        (0..11).map(layer).collect()
    }

    #[test]
    fn of_a_model_has_its_leaves_at_their_paths() {
        let model = model();
        let state_dict = StateDict::of(&model).unwrap();
        assert_eq!(state_dict.len(), 22);
        assert_eq!(state_dict.names().next(), Some("0.bias"));
        assert_eq!(state_dict.names().last(), Some("10.weight"));
        let weight = state_dict.get::<f32>("10.weight").unwrap();
        assert_eq!(weight, model[10].weight.view().into_dyn());
        assert_eq!(weight.as_ptr(), model[10].weight.as_ptr(), "lent");
    }

    #[test]
    fn gathers_as_values_and_as_a_gradient_of_the_nested_model() {
        let model = model();
        let (flat, layout) = destructure(&model).unwrap();
        let state_dict = StateDict::of(&model).unwrap();
        assert_eq!(layout.gather(&state_dict).unwrap(), flat);
        assert_eq!(*layout.gather_grad(&state_dict).unwrap(), flat[..]);

        let some = StateDict::from_iter([("3.bias", vec![7.0_f32])]).unwrap();
        let grad = layout.gather_grad(&some).unwrap();
        assert_eq!(grad.iter().sum::<f32>(), 7.0);
        assert_eq!((0..22).filter(|&index| grad.is_present(index)).count(), 1);
        assert!(layout.gather(&some).unwrap_err().is_missing());

        let unknown = StateDict::from_iter([("11.bias", vec![7.0_f32])]).unwrap();
        let error = layout.gather_grad(&unknown).unwrap_err();
        assert!(error.is_unknown());
        assert_eq!(error.path(), Some("11.bias"));
    }

    /// An array of elements is one entry, with the element's axes last.
    #[test]
    fn of_a_model_of_elements_has_an_array_of_numbers_for_each() {
        let mut model = (vec![[1.0_f32, 2.0, 3.0]; 2], arr2(&[[[4.0_f32, 5.0]]]));
        let state_dict = StateDict::of(&model).unwrap();
        let points = state_dict.get::<f32>("0").unwrap();
        assert_eq!(points, arr2(&[[1.0, 2.0, 3.0]; 2]).into_dyn());
        assert_eq!(points.as_ptr(), model.0[0].as_ptr(), "lent");
        assert_eq!(state_dict.get::<f32>("1").unwrap().shape(), [1, 1, 2]);
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(layout.gather(&state_dict).unwrap(), flat);

        // Into the model from arrays of numbers, as another program has them.
        let arrays = [
            (
                "0",
                arr2(&[[6.0_f32, 7.0, 8.0], [9.0, 10.0, 11.0]]).into_dyn(),
            ),
            ("1", ndarray::arr3(&[[[12.0_f32, 13.0]]]).into_dyn()),
        ];
        let other = layout
            .gather(&StateDict::from_iter(arrays).unwrap())
            .unwrap();
        layout.restructure_into(&mut model, &other).unwrap();
        assert_eq!(model.0, [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]);
        assert_eq!(model.1[[0, 0]], [12.0, 13.0]);
        let flattened = [("0", vec![0.0_f32; 6]), ("1", vec![0.0; 2])];
        let error = layout.gather(&StateDict::from_iter(flattened).unwrap());
        let error = error.unwrap_err();
        assert_eq!((error.is_shape(), error.path()), (true, Some("0")));
    }

    #[test]
    fn one_hash_map_is_planned_like_another() {
        let names = ["b.10.w", "b.9.w", "a", "b.9.v", "c.x.y"];
        let entries = |names: &[&str]| -> HashMap<String, ArrayD<f32>> {
            let entry = |name: &&str| (name.to_string(), arr1(&[name.len() as f32]).into_dyn());
            names.iter().map(entry).collect()
        };
        let mut reversed = names;
        reversed.reverse();
        let (first, second) = (entries(&names), entries(&reversed));
        let (first, second) = (
            StateDict::from_iter(&first).unwrap(),
            StateDict::from_iter(&second).unwrap(),
        );
        let layout = Layout::of(&first).unwrap();
        assert_eq!(paths(&layout), ["a", "b.9.v", "b.9.w", "b.10.w", "c.x.y"]);
        let fingerprint = Layout::of(&second).unwrap().fingerprint();
        assert_eq!(layout.fingerprint(), fingerprint);
    }

    #[test]
    fn is_rebuilt_and_written_in_place_where_it_owns_its_arrays() {
        let entries = [("a.w", vec![1.0_f32, 2.0]), ("b", vec![3.0])];
        let mut state_dict = StateDict::from_iter(entries).unwrap();
        let (_, layout) = destructure(&state_dict).unwrap();
        let new = layout.restructure(&state_dict, &[4.0, 5.0, 6.0]).unwrap();
        assert_eq!(layout.gather(&new).unwrap(), [4.0, 5.0, 6.0]);
        layout
            .restructure_into(&mut state_dict, &[7.0, 8.0, 9.0])
            .unwrap();
        assert_eq!(state_dict.get::<f32>("b").unwrap()[[0]], 9.0);
    }

    #[test]
    fn what_is_lent_is_not_written() {
        let array = vec![1.0_f32, 2.0];
        let mut state_dict = StateDict::from_iter([("w", &array)]).unwrap();
        let layout = Layout::of(&state_dict).unwrap();
        let error = layout
            .restructure_into(&mut state_dict, &[3.0, 4.0])
            .unwrap_err();
        assert!(error.is_read_only());
        assert_eq!(error.path(), Some("w"));
        let error = layout.restructure(&state_dict, &[3.0, 4.0]).err().unwrap();
        assert!(error.is_read_only());
        assert_eq!(state_dict.get::<f32>("w").unwrap()[[1]], 2.0);
    }

    #[test]
    fn a_leaf_below_a_leaf_is_an_error_that_names_both() {
        let names = ["l.weight.absmax", "k", "l.weight"];
        let entries = names.map(|name| (name, vec![1.0_f32]));
        let error = StateDict::from_iter(entries).unwrap_err();
        assert!(error.is_duplicate());
        assert_eq!(error.path(), Some("l.weight"));
        assert_eq!(error.other_path(), Some("l.weight.absmax"));

        // The beginning of a name is not the beginning of a path.
        assert!(StateDict::from_iter([("w", vec![1.0_f32]), ("weight", vec![2.0])]).is_ok());

        let error = StateDict::from_iter([("w", vec![1.0_f32]), ("w", vec![2.0])]).unwrap_err();
        assert!(error.is_duplicate());
        assert_eq!((error.path(), error.other_path()), (Some("w"), None));
    }

    #[test]
    fn names_need_no_escapes() {
        let names = ["*", "a..b", "b.", "w\\", "x.*.y"];
        let entries = names.map(|name| (name, vec![1.0_f32]));
        let state_dict = StateDict::from_iter(entries).unwrap();
        let layout = Layout::of(&state_dict).unwrap();
        assert_eq!(layout.gather(&state_dict).unwrap(), [1.0; 5]);
        let copy = DynTree::of(&state_dict).unwrap();
        assert_eq!(layout.gather(&copy).unwrap(), [1.0; 5]);
        for name in names {
            assert!(state_dict.get::<f32>(name).is_some(), "{name}");
            assert!(copy.get(name).is_some(), "{name}");
        }
        // And with them they are the same names.
        assert!(state_dict.get::<f32>("a.\\e.b").is_some());
        let twice = [("a..b", vec![1.0_f32]), ("a.\\e.b", vec![2.0])];
        assert!(StateDict::from_iter(twice).unwrap_err().is_duplicate());
    }

    #[test]
    fn a_key_with_a_dot_goes_out_and_in() {
        let model = BTreeMap::from([("a.b".to_owned(), vec![1.0_f32])]);
        let (_, layout) = destructure(&model).unwrap();
        let state_dict = StateDict::of(&model).unwrap();
        assert_eq!(state_dict.names().collect::<Vec<_>>(), ["a\\.b"]);
        assert_eq!(layout.gather(&state_dict).unwrap(), [1.0]);
    }

    #[test]
    fn a_tied_leaf_stands_at_each_of_its_places() {
        let shared = Rc::new(vec![1.0_f32, 2.0]);
        let model = (Rc::clone(&shared), shared);
        let (flat, layout) = destructure(&model).unwrap();
        let state_dict = StateDict::of(&model).unwrap();
        assert_eq!(state_dict.names().collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(layout.gather(&state_dict).unwrap(), flat);
        assert_eq!(*layout.gather_grad(&state_dict).unwrap(), [2.0, 4.0]);
        let totals = layout.gather_grad_with(&state_dict, TiedGrads::AlreadyTotal);
        assert_eq!(*totals.unwrap(), [1.0, 2.0]);
        // It lends one array under two names, which are still one parameter.
        assert_eq!(Layout::of(&state_dict).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_lent_is_copied() {
        let (locked, transposed) = (
            Arc::new(Mutex::new(vec![1.0_f32])),
            arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]).reversed_axes(),
        );
        let model = (locked, transposed);
        let state_dict = StateDict::of(&model).unwrap();
        assert_eq!(state_dict.get::<f32>("0").unwrap()[[0]], 1.0);
        assert_eq!(state_dict.get::<f32>("1").unwrap()[[0, 1]], 3.0);
        let (flat, layout) = destructure(&model).unwrap();
        assert_eq!(layout.gather(&state_dict).unwrap(), flat);

        let lent = StateDict::from_iter([("t", &model.1)]).unwrap();
        assert_eq!(lent.get::<f32>("t").unwrap(), model.1.view().into_dyn());
    }

    #[test]
    fn holds_any_element_types_and_gives_them_back() {
        let entries = [
            ("n", StateArray::from(vec![7_i64])),
            ("w", StateArray::from(arr1(&[0.5_f64]))),
        ];
        let state_dict = StateDict::from_iter(entries).unwrap();
        let layout = Layout::of(&state_dict).unwrap();
        assert_eq!((layout.len(), layout.others().len()), (1, 1));
        let renamed = state_dict
            .into_iter()
            .map(|(name, array)| (format!("m.{name}"), array));
        let renamed = StateDict::from_iter(renamed).unwrap();
        assert_eq!(renamed.get::<i64>("m.n").unwrap()[[0]], 7);
        assert_eq!(format!("{renamed:?}"), r#"{"m.n": i64[1], "m.w": f64[1]}"#);
    }

    #[test]
    fn a_name_may_be_the_root() {
        let state_dict = StateDict::from_iter([("", vec![1.0_f32])]).unwrap();
        let layout = Layout::of(&vec![5.0_f32]).unwrap();
        assert_eq!(layout.gather(&state_dict).unwrap(), [1.0]);
        let entries = [("", vec![1.0_f32]), ("a", vec![2.0])];
        assert!(StateDict::from_iter(entries).unwrap_err().is_duplicate());
    }

    #[test]
    fn a_name_of_too_many_levels_is_an_error() {
        let name = "a.".repeat(1024) + "a";
        let state_dict = StateDict::from_iter([(name, vec![1.0_f32])]).unwrap();
        assert!(Layout::of(&state_dict).unwrap_err().is_too_deep());
    }
}
