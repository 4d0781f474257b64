//! Variables as a tree: order, ties, types, reading and writing.

use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, Linear, VarBuilder, VarMap, linear};
use flatleaf::{Companion, Dtype, Layout, deep_clone, ops};
use flatleaf_candle::VarTree;

use crate::Outcome;
use crate::models::{CPU, Mlp, mlp, tree, values, var};

const SIZES: [usize; 4] = [784, 300, 100, 10];

#[test]
fn a_network_of_six_leaves_is_in_one_order_in_ten_processes() -> Outcome {
    let (map, _) = mlp(&SIZES);
    let layout = Layout::of(&VarTree::of(&map)?)?;
    assert_eq!((layout.len(), layout.leaves().len()), (266_610, 6));
    let paths: Vec<_> = layout.leaves().iter().map(|leaf| leaf.path()).collect();
    assert_eq!(
        paths,
        [
            "0.bias", "0.weight", "1.bias", "1.weight", "2.bias", "2.weight"
        ]
    );

    let expected = format!("fingerprint {:016x}", layout.fingerprint());
    let folder = crate::Folder::new("fingerprints")?;
    for _ in 0..10 {
        let printed = crate::run_member("fingerprint", &folder.0)?;
        assert!(printed.contains(&expected), "{printed}");
    }
    Ok(())
}

pub(crate) fn print_fingerprint() -> Outcome {
    let (map, _) = mlp(&SIZES);
    println!(
        "fingerprint {:016x}",
        Layout::of(&VarTree::of(&map)?)?.fingerprint()
    );
    Ok(())
}

#[test]
fn a_map_that_is_filled_in_another_order_gives_the_same_layout() -> Outcome {
    let (one, other) = (VarMap::new(), VarMap::new());
    let builders = [&one, &other].map(|map| VarBuilder::from_varmap(map, DType::F32, &CPU));
    Mlp::new(&[4, 3, 2], builders[0].clone())?;
    for index in [1, 0] {
        linear([4, 3][index], [3, 2][index], builders[1].pp(index))?;
    }
    let layouts = [
        Layout::of(&VarTree::of(&one)?)?,
        Layout::of(&VarTree::of(&other)?)?,
    ];
    assert_eq!(layouts[0].fingerprint(), layouts[1].fingerprint());
    assert_eq!(layouts[0], layouts[1]);
    Ok(())
}

#[test]
fn numbers_in_names_are_in_order_by_value() {
    let w = var(&[1.0]);
    let (a, b) = (w.clone(), var(&[2.0]));
    let names: Vec<_> = tree(&[("x.10", &a), ("x.9", &b)])
        .names()
        .map(str::to_owned)
        .collect();
    assert_eq!(names, ["x.9", "x.10"]);
}

#[test]
fn a_name_that_is_another_s_beginning_is_an_error_with_both() {
    let (a, b) = (var(&[1.0]), var(&[2.0]));
    let error = VarTree::named([("w", a.clone()), ("w.scale", b)]).unwrap_err();
    assert!(error.is_duplicate());
    assert_eq!(
        (error.path(), error.other_path()),
        (Some("w"), Some("w.scale"))
    );
    let twice = VarTree::named([("w", a.clone()), ("w", a)]).unwrap_err();
    assert_eq!((twice.is_duplicate(), twice.path()), (true, Some("w")));
}

#[test]
fn names_with_stars_backslashes_and_empty_segments_are_what_files_call_them() -> Outcome {
    let folder = crate::Folder::new("names")?;
    let map = VarMap::new();
    for name in ["a..b", "w*", r"c\d", "e"] {
        map.get(1, name, Init::Const(0.5), DType::F32, &CPU)?;
    }
    map.save(folder.file("theirs"))?;
    let mut vars = VarTree::of(&map)?;
    for (_, var) in vars.iter() {
        var.zero_set()?;
    }
    let options = flatleaf::checkpoint::LoadOptions::new();
    flatleaf::checkpoint::load_into(folder.file("theirs"), &mut vars, &options)?;
    assert_eq!(Layout::of(&vars)?.gather(&vars)?, [0.5; 4]);
    Ok(())
}

#[test]
fn below_is_one_of_two_networks_of_a_map() -> Outcome {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &CPU);
    linear(3, 2, builder.pp("actor"))?;
    linear(3, 1, builder.pp("critic"))?;
    linear(3, 1, builder.pp("actors"))?;
    let vars = VarTree::of(&map)?;
    let actor = vars.below("actor")?;
    assert_eq!(actor.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(
        actor.get("weight").unwrap().id(),
        vars.get("actor.weight").unwrap().id()
    );
    let error = vars.below("act").unwrap_err();
    assert!(error.is_custom());
    assert_eq!(
        error.to_string(),
        "`act`: expected variables below it, found none of 6"
    );
    Ok(())
}

#[test]
fn a_variable_of_two_names_is_one_parameter_and_equal_values_are_two() -> Outcome {
    let (shared, equal) = (var(&[1.0, 2.0]), var(&[1.0, 2.0]));
    let mut vars = tree(&[("a", &shared), ("b", &shared), ("c", &equal)]);
    let layout = Layout::of(&vars)?;
    assert_eq!(layout.leaves()[0].places(), ["a", "b"]);
    assert_eq!(layout.gather(&vars)?, [1.0, 2.0, 1.0, 2.0]);
    layout.restructure_into(&mut vars, &[3.0, 4.0, 5.0, 6.0])?;
    assert_eq!(
        (values(&shared), values(&equal)),
        (vec![3.0, 4.0], vec![5.0, 6.0])
    );

    // A new tree has new variables, and the tie is one of them.
    let copy = layout.restructure(&vars, &[7.0; 4])?;
    assert_eq!(copy.get("a").unwrap().id(), copy.get("b").unwrap().id());
    assert_ne!(copy.get("a").unwrap().id(), shared.id());
    assert_eq!(
        (values(copy.get("b").unwrap()), values(&shared)),
        (vec![7.0; 2], vec![3.0, 4.0])
    );
    Ok(())
}

#[test]
fn a_variable_of_a_variable_is_the_same_one() -> Outcome {
    let w = var(&[1.0]);
    let again = Var::from_tensor(w.as_tensor())?;
    assert_eq!(
        Layout::of(&tree(&[("a", &w), ("b", &again)]))?
            .leaves()
            .len(),
        1
    );
    Ok(())
}

#[test]
fn candle_s_usual_tie_has_one_name_and_needs_no_tie() -> Outcome {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &CPU);
    let embedding = candle_nn::embedding(3, 2, builder.pp("wte"))?;
    let _head = Linear::new(embedding.embeddings().clone(), None);
    let layout = Layout::of(&VarTree::of(&map)?)?;
    assert_eq!(layout.leaves()[0].places(), ["wte.weight"]);
    Ok(())
}

#[test]
fn half_precision_is_trained_integers_are_carried_and_f64_says_what_to_call() -> Outcome {
    let half = Var::from_tensor(&Tensor::new(&[1.5_f32], &CPU)?.to_dtype(DType::F16)?)?;
    let brain = Var::from_tensor(&Tensor::new(&[2.5_f32], &CPU)?.to_dtype(DType::BF16)?)?;
    let steps = Var::new(&[7_i64], &CPU)?;
    let mut vars = tree(&[("half", &half), ("brain", &brain), ("steps", &steps)]);
    let layout = Layout::of(&vars)?;
    assert_eq!(layout.gather(&vars)?, [2.5, 1.5]);
    assert_eq!(layout.others()[0].dtype(), Dtype::I64);
    layout.restructure_into(&mut vars, &[0.1, 0.1])?; // to the nearest
    assert_eq!(
        brain.to_dtype(DType::F32)?.to_vec1::<f32>()?,
        [0.100_097_656]
    );
    assert_eq!(half.to_dtype(DType::F32)?.to_vec1::<f32>()?, [0.099975586]);
    assert_eq!(steps.to_vec1::<i64>()?, [7]);

    let double = Var::new(&[0.1_f64], &CPU)?;
    let vars = tree(&[("x.double", &double)]);
    let error = Layout::of(&vars)?.gather(&vars).unwrap_err();
    assert_eq!(
        (error.is_element_type(), error.path()),
        (true, Some("x.double"))
    );
    assert_eq!(Layout::of(&vars)?.gather_as::<f64>(&vars)?, [0.1]);
    assert_eq!(
        Layout::planner().round_f64().of(&vars)?.gather(&vars)?,
        [0.1]
    );
    Ok(())
}

#[test]
fn a_type_that_no_array_has_is_an_error_with_its_name() -> Outcome {
    let tiny = Var::from_tensor(&Tensor::new(&[1.0_f32], &CPU)?.to_dtype(DType::F8E4M3)?)?;
    let error = Layout::of(&tree(&[("a.tiny", &tiny)])).unwrap_err();
    assert_eq!((error.is_custom(), error.path()), (true, Some("a.tiny")));
    assert!(error.to_string().contains("found f8e4m3"), "{error}");
    Ok(())
}

#[test]
fn scalars_and_empty_variables_keep_their_shapes() -> Outcome {
    let scalar = Var::new(3.0_f32, &CPU)?;
    let empty = Var::zeros((0, 4), DType::F32, &CPU)?;
    let mut vars = tree(&[("scalar", &scalar), ("empty", &empty)]);
    let layout = Layout::of(&vars)?;
    assert_eq!(layout.leaf("empty").unwrap().shape(), [0, 4]);
    assert!(layout.leaf("scalar").unwrap().shape().is_empty());
    layout.restructure_into(&mut vars, &[4.0])?;
    assert_eq!(scalar.to_scalar::<f32>()?, 4.0);
    assert_eq!(
        layout
            .restructure(&vars, &[5.0])?
            .get("empty")
            .unwrap()
            .dims(),
        [0, 4]
    );
    Ok(())
}

#[test]
fn what_is_lent_is_where_the_variable_is() -> Outcome {
    let w = var(&[3.0, 4.0]);
    let vars = tree(&[("w", &w), ("v", &w)]);
    let address = |vars: &VarTree| {
        vars.lend()
            .unwrap()
            .elements::<f32>("w")
            .unwrap()
            .as_ptr()
            .addr()
    };
    assert_eq!(address(&vars), address(&vars));
    assert_ne!(address(&vars), address(&vars.clone().through_copies()));
    let lent = vars.lend()?;
    let layout = Layout::of(&lent)?;
    assert_eq!(layout, Layout::of(&vars)?);
    assert_eq!(layout.gather(&lent)?, [3.0, 4.0]);
    assert_eq!(
        (lent.elements::<f32>("v"), lent.elements::<f64>("w")),
        (Some(&[3.0, 4.0][..]), None)
    );
    drop(lent);
    let error = layout
        .restructure_into(&mut vars.lend()?, &[0.0; 2])
        .unwrap_err();
    assert!(error.is_custom());
    assert_eq!(values(&w), [3.0, 4.0]);
    Ok(())
}

#[test]
fn a_vector_of_another_length_or_tree_leaves_everything_as_it_was() -> Outcome {
    let (a, b) = (var(&[1.0]), var(&[2.0, 3.0]));
    let mut vars = tree(&[("a", &a), ("b", &b)]);
    let layout = Layout::of(&vars)?;
    assert!(
        layout
            .restructure_into(&mut vars, &[9.0])
            .unwrap_err()
            .is_length()
    );
    let other = tree(&[("a", &a), ("b", &var(&[2.0]))]);
    let error = layout.gather(&other).unwrap_err();
    assert_eq!((error.is_shape(), error.path()), (true, Some("b")));
    assert_eq!(
        error.to_string(),
        "`b`: expected shape [2], found shape [1]"
    );
    assert_eq!((values(&a), values(&b)), (vec![1.0], vec![2.0, 3.0]));
    Ok(())
}

#[test]
fn maps_norms_and_averages_run_over_two_models() -> Outcome {
    let (map, _) = mlp(&[4, 3, 2]);
    let online = VarTree::of(&map)?;
    let layout = Layout::of(&online)?;
    let mut target = deep_clone(&online)?;
    let zeros = vec![0.0; layout.len()];
    layout.restructure_into(&mut target, &zeros)?;
    layout.map_into(
        &mut target,
        [Companion::Values(&online)],
        |_, target, [online]| ops::lerp(target, online, 0.25),
    )?;
    let expected: Vec<f32> = layout.gather(&online)?.iter().map(|x| 0.25 * x).collect();
    assert_eq!(layout.gather(&target)?, expected);
    let norms = layout.leaf_norms(&expected, 2.0)?;
    assert_eq!(norms.len(), 4);
    Ok(())
}

#[test]
fn what_is_forced_through_copies_behaves_alike() -> Outcome {
    let (a, b) = (
        var(&[1.0]),
        Var::from_tensor(&Tensor::new(&[2.5_f32], &CPU)?.to_dtype(DType::BF16)?)?,
    );
    let vars = tree(&[("a", &a), ("b", &b)]);
    let mut copied = vars.clone().through_copies();
    let layout = Layout::of(&vars)?;
    assert_eq!(layout, Layout::of(&copied)?);
    assert_eq!(layout.gather(&copied)?, [1.0, 2.5]);
    layout.restructure_into(&mut copied, &[4.0, 0.5])?;
    assert_eq!(layout.gather(&vars)?, [4.0, 0.5]);
    assert_eq!(
        layout.gather(&layout.restructure(&copied, &[8.0, 1.5])?)?,
        [8.0, 1.5]
    );
    Ok(())
}
