//! An optimiser that is stored and taken up again, on the same layout or another.

use crate::common::bits;
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Sgd, Snapshot};
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
    assert_eq!(
        stored["leaves"][1],
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
    assert_eq!(
        (migration.added, migration.removed),
        (vec!["middle".to_owned()], vec!["encoder.b".to_owned()])
    );
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

    let reshaped = Layout::of(&tree!({ "head": [1.0] })).unwrap();
    let error = Optimizer::migrate(optimizer.snapshot(), &reshaped).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(
        error.to_string(),
        "`head`: expected shape [3], found shape [1]"
    );
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
