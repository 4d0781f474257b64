//! An optimiser that is stored and taken up again, on the same layout or another.

use crate::common::bits;
use flatleaf::optim::{
    Accumulate, AdaBelief, Adam, AdamW, ClipNorm, Ema, Lamb, Migration, Optimizer, RAdam, Reshaped,
    Rule, Sgd, Snapshot, Swa,
};
use flatleaf::{DynTree, Error, Layout, tree};
use ndarray::{arr1, arr2};
use serde_json::{Value, json};

type Chain = (ClipNorm, AdamW, Ema);

fn chain() -> Chain {
    (
        ClipNorm {
            max: 1.0,
            ..Default::default()
        },
        AdamW {
            lr: 0.1,
            ..Default::default()
        },
        Ema {
            decay: 0.9,
            ..Default::default()
        },
    )
}

fn model() -> DynTree {
    tree!({ "encoder": { "w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5] }, "head": [1.0, -1.0, 0.25] })
}

fn grads(step: u32) -> DynTree {
    let g = 0.1 + step as f32 / 7.0;
    match step % 3 {
        0 => {
            tree!({ "encoder": { "w": (arr2(&[[g, 0.3], [0.1, -g]])), "b": (arr1(&[g])) }, "head": null })
        }
        1 => tree!({ "encoder": null, "head": (arr1(&[g, 0.7, -0.2])) }),
        _ => tree!({ "encoder": { "w": null, "b": [0.9] }, "head": (arr1(&[0.3, g, 0.1])) }),
    }
}

/// Some steps, with a group and a frozen leaf.
fn trained() -> (DynTree, Layout, Optimizer<Chain>) {
    let mut model = model();
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(chain(), &layout).unwrap();
    (0..4).for_each(|step| drop(optimizer.update(&mut model, &grads(step)).unwrap()));
    optimizer
        .adjust("head", |(_, adamw, _)| adamw.lr = 0.01)
        .unwrap();
    optimizer.freeze("encoder.b").unwrap();
    (model, layout, optimizer)
}

fn stored(optimizer: &Optimizer<Chain>) -> Value {
    serde_json::to_value(optimizer.snapshot()).unwrap()
}

fn read(value: &Value) -> Snapshot<'static, Chain> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn a_stored_optimizer_goes_on_bit_for_bit() {
    let (mut model, layout, mut optimizer) = trained();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    let mut copy = flatleaf::deep_clone(&model).unwrap();
    let mut resumed: Optimizer<Chain> =
        Optimizer::resume(serde_json::from_str(&text).unwrap(), &layout).unwrap();
    for step in 4..10 {
        optimizer.update(&mut model, &grads(step)).unwrap();
        resumed.update(&mut copy, &grads(step)).unwrap();
    }
    assert_eq!(
        bits(&layout.gather(&model).unwrap()),
        bits(&layout.gather(&copy).unwrap())
    );
    optimizer
        .state()
        .zip(resumed.state())
        .for_each(|(a, b)| assert_eq!((a.0, bits(a.1)), (b.0, bits(b.1))));
    assert_eq!(
        (
            resumed.is_frozen("encoder.b"),
            resumed.rule("head").unwrap().1.lr
        ),
        (Some(true), 0.01)
    );
    assert_eq!(stored(&optimizer), stored(&resumed));
}

#[test]
fn a_snapshot_is_readable_data() {
    let (_, layout, optimizer) = trained();
    let stored = stored(&optimizer);
    assert_eq!(stored["fingerprint"], layout.fingerprint());
    // Steps of the chain and of its three stages, and the average's weight, 1 − 0.9³.
    let mut leaf = stored["leaves"][1].clone();
    let counted = leaf.as_object_mut().unwrap().remove("counted").unwrap();
    let counted: Vec<f64> = serde_json::from_value(counted).unwrap();
    assert_eq!(counted[..4], [3.0; 4]);
    approx::assert_relative_eq!(counted[4], 0.271, max_relative = 1e-12);
    assert_eq!(
        leaf,
        json!({ "path": "encoder.b", "shape": [1], "steps": 3, "group": 0, "frozen": true })
    );
    assert_eq!(stored["groups"][1][1]["lr"], 0.01);
    let names: Vec<&str> = stored["states"]
        .as_array()
        .unwrap()
        .iter()
        .map(|state| state["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "average"]
    );
    // A vector that was never touched takes no room.
    assert_eq!(stored["states"][2]["elements"], Value::Null);
}

fn resume(value: &Value, layout: &Layout) -> Error {
    Optimizer::resume(read(value), layout).unwrap_err()
}

#[test]
fn another_layout_is_an_error_that_lists_what_differs() {
    let (_, _, optimizer) = trained();
    let other = tree!({ "encoder": { "w": [[1.0, 2.0]], "b": [0.5] }, "tail": [1.0] });
    let error = resume(&stored(&optimizer), &Layout::of(&other).unwrap());
    assert!(error.is_other_layout());
    let expected = "`encoder.w`: expected state of shape [1, 2], found state of shape [2, 2]; \
                    `tail`: expected state of shape [1], found no state; `head`: expected no state, found state of shape [3]";
    assert_eq!(error.to_string(), expected);

    let frozen = flatleaf::Layout::planner()
        .freeze("head")
        .of(&model())
        .unwrap();
    let advice = "(`Optimizer::migrate` takes over what the two have in common)";
    let expected = format!("`head`: expected no state, found state of shape [3] {advice}");
    assert_eq!(resume(&stored(&optimizer), &frozen).to_string(), expected);
}

#[test]
fn equal_leaves_with_other_ties_are_another_layout() {
    let shared = std::rc::Rc::new(vec![1.0_f32]);
    let (tied, plain) = (
        Layout::of(&(shared.clone(), shared)).unwrap(),
        Layout::of(&(vec![1.0_f32],)).unwrap(),
    );
    let optimizer = Optimizer::new(Sgd::default(), &plain).unwrap();
    let error = Optimizer::resume(optimizer.snapshot(), &tied).unwrap_err();
    assert!(error.is_other_layout());
    let expected = "expected a snapshot whose ties, order, element types and frozen leaves have the fingerprint ";
    assert!(
        error.to_string().starts_with(expected) && error.to_string().contains("Optimizer::migrate"),
        "{error}"
    );
}

#[test]
fn a_migration_carries_state_by_path() {
    let (_, _, optimizer) = trained();
    let grown = tree!({ "head": [1.0, -1.0, 0.25], "middle": [7.0], "encoder": { "w": [[1.0, 2.0], [3.0, 4.0]] } });
    let layout = Layout::of(&grown).unwrap();
    let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &layout).unwrap();
    let expected = Migration {
        added: vec!["middle".into()],
        removed: vec!["encoder.b".into()],
        ..Migration::default()
    };
    assert_eq!(migration, expected);
    for path in ["head", "encoder.w"] {
        assert_eq!(migrated.step_count(path), optimizer.step_count(path));
        assert_eq!(migrated.rule(path), optimizer.rule(path));
        for ((name, new), (_, old)) in migrated.state().zip(optimizer.state()) {
            let (new, old) = (
                &new[layout.leaf(path).unwrap().range()],
                &old[optimizer.layout().leaf(path).unwrap().range()],
            );
            assert_eq!(bits(new), bits(old), "{path}: {name}");
        }
    }
    assert_eq!(
        (
            migrated.step_count("middle"),
            migrated.rule("middle").unwrap().1.lr
        ),
        (Some(0), 0.1)
    );
}

/// The state of a leaf whose shape changed starts anew, by the configuration that it had.
#[test]
fn a_migration_starts_reshaped_leaves_anew_and_says_so() {
    let (_, _, optimizer) = trained();
    let wider =
        tree!({ "encoder": { "w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5] }, "head": [1.0, -1.0] });
    let layout = Layout::of(&wider).unwrap();
    let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &layout).unwrap();
    let reshaped = Reshaped {
        path: "head".into(),
        before: vec![3],
        now: vec![2],
    };
    let expected = Migration {
        reshaped: vec![reshaped],
        ..Migration::default()
    };
    assert_eq!(migration, expected);
    let said = "reshaped: `head` from [3] to [2]";
    assert_eq!(migration.to_string(), said);
    assert_eq!(migrated.step_count("head"), Some(0));
    assert_eq!(migrated.rule("head").unwrap().1.lr, 0.01);
    let range = layout.leaf("head").unwrap().range();
    for (name, state) in migrated.state() {
        assert_eq!(state[range.clone()], [0.0, 0.0], "{name}");
    }
    assert_eq!(migrated.is_frozen("encoder.b"), Some(true));
}

#[test]
fn a_migration_finds_the_leaves_of_a_renamed_module() {
    let (_, _, optimizer) = trained();
    let renamed = tree!({ "body": { "layers": [{ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5] }] }, "head": [1.0, -1.0, 0.25] });
    let layout = Layout::of(&renamed).unwrap();
    let snapshot = optimizer.snapshot();
    let snapshot = snapshot
        .rename_matching("encoder.*", "body.layers.0.*")
        .unwrap();
    let (migrated, migration) = Optimizer::migrate(snapshot, &layout).unwrap();
    assert_eq!(migration, Migration::default());
    assert_eq!(
        migrated.step_count("body.layers.0.w"),
        optimizer.step_count("encoder.w")
    );
    assert_eq!(migrated.state_of("exp_avg"), optimizer.state_of("exp_avg"));

    let error = optimizer
        .snapshot()
        .rename_matching("decoder.**", "**")
        .unwrap_err();
    assert!(error.is_pattern(), "{error}");
    let error = optimizer
        .snapshot()
        .rename_matching("encoder.*", "x")
        .unwrap_err();
    assert!(error.is_pattern(), "{error}");
    let error = optimizer
        .snapshot()
        .rename_matching("encoder.w", "head")
        .unwrap_err();
    assert_eq!((error.is_duplicate(), error.path()), (true, Some("head")));
}

/// From `A` to `(ClipNorm, A, Ema)`, and back.
#[test]
fn a_migration_carries_state_to_a_chain_that_grew() {
    let mut model = model();
    let layout = Layout::of(&model).unwrap();
    let rule = AdamW {
        lr: 0.1,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    (0..4).for_each(|step| drop(optimizer.update(&mut model, &grads(step)).unwrap()));
    optimizer.adjust("head", |adamw| adamw.lr = 0.01).unwrap();

    let grow = |adamw: &AdamW| (ClipNorm::default(), *adamw, Ema::default());
    let (grown, migration) = Optimizer::migrate_with(optimizer.snapshot(), &layout, grow).unwrap();
    let expected = Migration {
        added_states: vec!["average".into()],
        ..Migration::default()
    };
    assert_eq!(migration, expected);
    assert_eq!(migration.to_string(), "state vectors added: `average`");
    assert_eq!(Migration::default().to_string(), "nothing changed");
    for name in ["exp_avg", "exp_avg_sq"] {
        assert_eq!(grown.state_of(name), optimizer.state_of(name));
    }
    assert_eq!(grown.rule("head").unwrap().1.lr, 0.01);
    assert_eq!(grown.step_count("head"), optimizer.step_count("head"));

    let shrink = |chain: &(ClipNorm, AdamW, Ema)| chain.1;
    let (shrunk, migration) = Optimizer::migrate_with(grown.snapshot(), &layout, shrink).unwrap();
    let expected = Migration {
        removed_states: vec!["average".into()],
        ..Migration::default()
    };
    assert_eq!(migration, expected);
    assert_eq!(stored_json(&shrunk), stored_json(&optimizer));

    let refused = |adamw: &AdamW| AdamW { lr: -1.0, ..*adamw };
    let error = Optimizer::migrate_with(optimizer.snapshot(), &layout, refused).unwrap_err();
    assert_eq!(error.path(), Some("lr"));
}

/// Leaves have taken steps, but the average has not: it begins with the leaf's value, not with 0.
#[test]
fn an_average_that_a_chain_grew_begins_with_the_leafs_value() {
    for debias in [false, true] {
        let mut model = vec![8.0_f32];
        let layout = Layout::of(&model).unwrap();
        let descent = Sgd {
            lr: 1.0,
            ..Sgd::default()
        };
        let mut optimizer = Optimizer::new(descent, &layout).unwrap();
        for _ in 0..3 {
            optimizer.update(&mut model, &[1.0_f32]).unwrap();
        }
        let ema = Ema {
            decay: 0.75,
            debias,
            ..Ema::default()
        };
        let grow = |sgd: &Sgd| (*sgd, ema);
        let (mut grown, _) = Optimizer::migrate_with(optimizer.snapshot(), &layout, grow).unwrap();
        assert_eq!(grown.state_over("average", &model).unwrap(), [5.0]);
        grown.update(&mut model, &[1.0_f32]).unwrap();
        assert_eq!(grown.state_of("average"), Some(&[4.0][..]));
        grown.update(&mut model, &[4.0_f32]).unwrap();
        let expected = if debias {
            4.0 - 4.0 * 0.25 / (1.0 - 0.75 * 0.75)
        } else {
            3.0
        };
        let average = grown.state_of("average").unwrap()[0];
        assert!((average - expected).abs() < 1e-6, "{average}");
        assert_eq!(grown.step_count(""), Some(5));
    }
}

/// In the middle of windows that differ from leaf to leaf, with a decay that has changed.
#[test]
fn what_is_counted_goes_on_bit_for_bit() {
    let rule = (
        Accumulate { steps: 3 },
        AdamW {
            lr: 0.1,
            ..AdamW::default()
        },
        Ema {
            decay: 0.9,
            warm_up: true,
            debias: true,
        },
    );
    let (mut model, mut twin) = (model(), model());
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut resumed = optimizer.clone();
    for step in 0..14 {
        if step == 7 {
            let slower = |rule: &mut (Accumulate, AdamW, Ema)| rule.2.decay = 0.5;
            optimizer.adjust("**", slower).unwrap();
            resumed.adjust("**", slower).unwrap();
        }
        optimizer.update(&mut model, &grads(step)).unwrap();
        resumed.update(&mut twin, &grads(step)).unwrap();
        assert_eq!(
            stored_json(&resumed),
            stored_json(&optimizer),
            "step {step}"
        );
        assert_eq!(twin, model, "step {step}");
        let stored = serde_json::to_vec(&resumed.snapshot()).unwrap();
        let snapshot: Snapshot<(Accumulate, AdamW, Ema)> = serde_json::from_slice(&stored).unwrap();
        resumed = Optimizer::resume(snapshot, &layout).unwrap();
    }
}

/// Ten steps with a gradient of 1, then one more by the rule that the state was carried to.
fn stepped_after_migration<Old: Rule, New: Rule>(old: Old, new: New) -> (f32, Migration) {
    let mut model = vec![0.0_f32];
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(old, &layout).unwrap();
    for _ in 0..10 {
        optimizer.update(&mut model, &[1.0_f32]).unwrap();
    }
    let exchange = |_: &Old| new.clone();
    let snapshot = optimizer.snapshot();
    let (mut migrated, migration) = Optimizer::migrate_with(snapshot, &layout, exchange).unwrap();
    model[0] = 0.0;
    migrated.update(&mut model, &[1.0_f32]).unwrap();
    (model[0], migration)
}

/// Adam's first average at step 11 beside a second one at step 1 would be a step of 0.4 and not of
/// the rate, 0.1.
#[test]
fn a_migration_begins_a_stage_anew_that_would_have_half_of_its_vectors() {
    let adabelief = AdaBelief {
        lr: 0.1,
        ..Default::default()
    };
    let (_, migration) = stepped_after_migration(Adam::default(), adabelief);
    assert_eq!(migration.added_states, ["exp_avg", "exp_avg_var"]);
    let given_up = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
    assert_eq!(migration.removed_states, given_up);
    let fresh = {
        let mut model = vec![0.0_f32];
        let layout = Layout::of(&model).unwrap();
        let mut optimizer = Optimizer::new(adabelief, &layout).unwrap();
        optimizer.update(&mut model, &[1.0_f32]).unwrap();
        model[0]
    };
    assert_eq!(stepped_after_migration(Adam::default(), adabelief).0, fresh);
}

/// The maximum so far may begin at zero; the moments and their count are those of the relative.
#[test]
fn a_migration_to_adamw_takes_the_moments_of_its_relatives() {
    let adamw = AdamW {
        lr: 0.1,
        weight_decay: 0.0,
        ..Default::default()
    };
    let (of_adamw, nothing) = stepped_after_migration(adamw, adamw);
    assert_eq!(nothing, Migration::default());
    let (of_lamb, migration) = stepped_after_migration(Lamb::default(), adamw);
    assert!((of_adamw + 0.1).abs() < 1e-6);
    assert_eq!(of_lamb, of_adamw);
    assert_eq!(migration.added_states, ["max_exp_avg_sq"]);
    let (of_radam, _) = stepped_after_migration(RAdam::default(), adamw);
    assert_eq!(of_radam, of_adamw);
}

/// Both call their vector `average`, but one counts weights and the other parameters.
#[test]
fn a_migration_does_not_take_one_average_for_another() {
    let (ema, swa) = (Ema::default(), Swa::default());
    let (_, migration) = stepped_after_migration((Sgd::default(), ema), (Sgd::default(), swa));
    assert_eq!(migration.added_states, ["average"]);
    assert_eq!(migration.removed_states, ["average"]);
}

/// Which of two equal names it is, nobody can say.
#[test]
fn a_migration_does_not_guess_between_states_of_one_name() {
    let mut model = tree!([1.0]);
    let layout = Layout::of(&model).unwrap();
    let sgd = Sgd {
        momentum: 0.5,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new((sgd, sgd), &layout).unwrap();
    optimizer.update(&mut model, &tree!([1.0])).unwrap();
    let same = |chain: &(Sgd, Sgd)| *chain;
    let (_, migration) = Optimizer::migrate_with(optimizer.snapshot(), &layout, same).unwrap();
    assert_eq!(migration, Migration::default());
    let one = |chain: &(Sgd, Sgd)| chain.1;
    let (_, migration) = Optimizer::migrate_with(optimizer.snapshot(), &layout, one).unwrap();
    assert_eq!(migration.added_states, ["momentum_buffer"]);
    assert_eq!(migration.removed_states, ["momentum_buffer"; 2]);
}

fn stored_json<R: Rule + serde::Serialize>(optimizer: &Optimizer<R>) -> Value {
    serde_json::to_value(optimizer.snapshot()).unwrap()
}

#[test]
fn a_migration_finds_a_leaf_by_any_place_of_its_tie() {
    let separate = Layout::of(&tree!({ "0": [1.0], "1": [2.0] })).unwrap();
    let mut optimizer = Optimizer::new(
        Sgd {
            momentum: 0.9,
            ..Default::default()
        },
        &separate,
    )
    .unwrap();
    let mut flat = vec![0.0, 0.0];
    optimizer
        .step(
            &mut flat,
            &flatleaf::FlatGrad::from_flat(&separate, vec![3.0, 4.0]).unwrap(),
        )
        .unwrap();
    let shared = std::rc::Rc::new(vec![1.0_f32]);
    let tied = Layout::of(&(shared.clone(), shared)).unwrap();
    let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &tied).unwrap();
    assert_eq!(migrated.state_of("momentum_buffer"), Some(&[3.0][..]));
    assert_eq!(migration.removed, ["1"]);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_an_error() {
    let (_, layout, optimizer) = trained();
    let error = |change: &dyn Fn(&mut Value)| {
        let mut value = stored(&optimizer);
        change(&mut value);
        let error = resume(&value, &layout);
        assert!(error.is_invalid_state() || error.is_argument(), "{error}");
        error.to_string()
    };
    let prefix = "expected a state that agrees with itself, found ";
    assert_eq!(
        error(&|value| value["groups"] = json!([])),
        format!("{prefix}no configuration")
    );
    assert_eq!(
        error(&|value| value["leaves"][1]["group"] = json!(2)),
        format!("`encoder.b`: {prefix}group 2 of 2")
    );
    let short = error(&|value| value["states"][0]["elements"] = json!([1.0]));
    assert_eq!(
        short,
        format!("{prefix}a state vector `exp_avg` of another length than 8")
    );
    let huge = error(&|value| value["leaves"][0]["shape"] = json!([u64::MAX, 3]));
    assert_eq!(huge, format!("{prefix}shapes beyond any memory"));
    assert!(
        error(&|value| value["states"][0]["name"] = json!("other"))
            .contains("state vectors [\"other\"")
    );
    assert_eq!(
        error(&|value| value["groups"][0][1]["lr"] = json!(-1.0)),
        "`lr`: expected a finite number of 0 or more, found -1"
    );
}

/// JSON has no infinity, and the greatest norm of an element is one of order infinity.
#[test]
fn infinite_numbers_of_a_configuration_are_stored() {
    let layout = Layout::of(&tree!([1.0])).unwrap();
    let rule = ClipNorm {
        p: f64::INFINITY,
        max: f64::INFINITY,
        ..Default::default()
    };
    let optimizer = Optimizer::new(rule, &layout).unwrap();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    assert!(text.contains(r#""max":"inf","p":"inf""#), "{text}");
    let resumed: Optimizer<ClipNorm> =
        Optimizer::resume(serde_json::from_str(&text).unwrap(), &layout).unwrap();
    assert_eq!(resumed.rule(""), Some(&rule));
    let wrong = text.replace("inf", "large");
    let error = serde_json::from_str::<Snapshot<'_, ClipNorm>>(&wrong).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("expected a number or `inf`, found `large`"),
        "{error}"
    );
}

/// State that a step made infinite or NaN is stored to the bit, in JSON too.
#[test]
fn state_that_is_not_finite_is_stored() {
    let payload = f32::from_bits(0xffc0_1234);
    let elements = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        payload,
        -0.0,
        1e-45,
        f32::MAX,
    ];
    let mut model = vec![0.0_f32; elements.len()];
    let layout = Layout::of(&model).unwrap();
    let sgd = Sgd {
        momentum: 0.5,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(sgd, &layout).unwrap();
    optimizer
        .update(&mut model, &vec![1.0_f32; elements.len()])
        .unwrap();
    let mut value = stored_json(&optimizer);
    value["states"][0]["elements"] = json!([
        "inf",
        "-inf",
        "NaN 0x7fc00000",
        "NaN 0xffc01234",
        -0.0,
        1e-45_f32,
        f32::MAX
    ]);
    let read: Snapshot<'_, Sgd> = serde_json::from_value(value.clone()).unwrap();
    let resumed = Optimizer::resume(read, &layout).unwrap();
    assert_eq!(
        bits(resumed.state_of("momentum_buffer").unwrap()),
        bits(&elements)
    );
    assert_eq!(stored_json(&resumed), value);
    let text = serde_json::to_string(&resumed.snapshot()).unwrap();
    let read: Snapshot<'_, Sgd> = serde_json::from_str(&text).unwrap();
    let again = Optimizer::resume(read, &layout).unwrap();
    assert_eq!(
        bits(again.state_of("momentum_buffer").unwrap()),
        bits(&elements)
    );

    for wrong in [
        json!("infinite"),
        json!("NaN 0x3f800000"),
        json!(1e39),
        json!(null),
    ] {
        value["states"][0]["elements"][0] = wrong.clone();
        let error = serde_json::from_value::<Snapshot<'_, Sgd>>(value.clone()).unwrap_err();
        assert!(error.to_string().contains("number"), "{wrong}: {error}");
    }
}

/// As they were stored before snapshots had a version, with a configuration that lacks fields.
#[test]
fn old_snapshots_are_read() {
    let text = include_str!("stored/before_versions.json");
    let layout = Layout::of(&tree!({ "w": [1.0, 2.0], "b": [0.5] })).unwrap();
    let read: Snapshot<'_, (ClipNorm, AdamW)> = serde_json::from_str(text).unwrap();
    let optimizer = Optimizer::resume(read, &layout).unwrap();
    assert_eq!(optimizer.step_count("w"), Some(3));
    let adamw = AdamW {
        lr: 0.25,
        ..Default::default()
    };
    assert_eq!(optimizer.rule("b").unwrap().1, adamw);
    assert_eq!(
        optimizer.state_of("exp_avg"),
        Some(&[0.5, -0.25, 0.125][..])
    );
}

#[test]
fn a_snapshot_of_a_later_version_says_so() {
    let (_, _, optimizer) = trained();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    assert!(text.starts_with(r#"{"version":1,"#), "{text}");
    // The version comes before what this reader does not know.
    let later = text.replacen(r#""version":1"#, r#""version":7,"invention":true"#, 1);
    let error = serde_json::from_str::<Snapshot<'_, Chain>>(&later).unwrap_err();
    let expected = "expected a snapshot of version 1 to 2, found version 7: a later release of flatleaf reads it";
    assert!(error.to_string().starts_with(expected), "{error}");
}
