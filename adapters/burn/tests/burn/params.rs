//! A module's parameters as a tree.

use std::process::Command;

use burn_core::module::{Lora, Module};
use burn_core::tensor::{DType, Device, Tensor};
use burn_nn::{BatchNormConfig, LayerNormConfig, LinearConfig, LinearLayout};
use flatleaf::{Dtype, Layout, deep_clone};
use flatleaf_burn::{Flat, Params, change};

use crate::models::{Mlp, Pair, Tied, device, parameter, paths};

#[test]
fn a_network_has_266_610_parameters_in_6_leaves_in_its_own_order() {
    let network = Mlp::of(&[784, 300, 100, 10]);
    let layout = Layout::of(&Params::of(&network).unwrap()).unwrap();
    assert_eq!((layout.len(), layout.leaves().len()), (266_610, 6));
    let leaves: Vec<&str> = layout.leaves().iter().map(|leaf| leaf.path()).collect();
    let expected = [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "layers.2.weight",
        "layers.2.bias",
    ];
    assert_eq!(leaves, expected);
    // Ids are random, and no part of a layout.
    let another = Layout::of(&Params::of(&Mlp::of(&[784, 300, 100, 10])).unwrap()).unwrap();
    assert_eq!(layout.fingerprint(), another.fingerprint());
}

/// Names, order and values of modules whose ids this process has drawn.
fn names_order_and_values() -> String {
    let tied = Layout::of(&Params::of(&Tied::new()).unwrap()).unwrap();
    let adapted = Mlp::of(&[4, 3, 2]).apply_lora(Lora::new(2, 4.0));
    let adapted = Layout::of(&Params::of(&adapted).unwrap()).unwrap();
    // Each holds its number, and a third of them stand at a second place.
    let mut numbers: Vec<_> = (0..30).map(|n| parameter([n as f32])).collect();
    numbers.extend_from_within(10..20);
    let flat = Flat::of(&numbers).unwrap();

    let mut text = String::new();
    for layout in [&tied, &adapted, flat.layout()] {
        let leaves = layout.leaves().iter().chain(layout.others());
        let places: Vec<_> = leaves.map(|leaf| leaf.places().join("=")).collect();
        text += &format!("{} {:?} ", places.join(" "), layout.fingerprint());
    }
    text + &format!("{:?}", flat.flatten(&numbers).unwrap())
}

/// burn draws ids at random, and Rust the seeds of hash maps, anew in every process.
#[test]
fn names_order_and_values_are_the_same_in_ten_processes() {
    const NAME: &str = "params::names_order_and_values_are_the_same_in_ten_processes";
    const IS_OTHER: &str = "FLATLEAF_BURN_IS_OTHER_PROCESS";
    let here = names_order_and_values();
    if std::env::var_os(IS_OTHER).is_some() {
        println!("found: {here}");
        return;
    }
    assert!(here.contains("embed=head norm.gamma"), "{here}");
    assert!(
        here.contains("layers.0.weight.lora.a layers.0.weight.lora.b"),
        "{here}"
    );
    for _ in 0..10 {
        let mut other = Command::new(std::env::current_exe().unwrap());
        let other = other.args(["--exact", NAME, "--nocapture"]);
        let output = other.env(IS_OTHER, "1").output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let (_, there) = printed.split_once("found: ").expect(&printed);
        assert_eq!(there.lines().next(), Some(&here[..]));
    }
}

#[test]
fn a_parameter_at_two_places_is_one_leaf_and_statistics_are_frozen() {
    let model = Tied::new();
    let layout = Layout::of(&Params::of(&model).unwrap()).unwrap();
    // burn counts the tie twice, and the statistics.
    assert_eq!((model.num_params(), layout.len()), (342, 264));
    assert_eq!(layout.leaf("embed").unwrap().places(), ["embed", "head"]);
    let others: Vec<&str> = layout.others().iter().map(|leaf| leaf.path()).collect();
    assert_eq!(others, ["norm.running_mean", "norm.running_var"]);
}

#[test]
fn clones_share_their_ids_and_are_one_layer_at_two_places() {
    let layer = LinearConfig::new(2, 3).init(&device());
    let twice = vec![layer.clone(), layer];
    let layout = Layout::of(&Params::of(&twice).unwrap()).unwrap();
    assert_eq!(layout.len(), 9);
    assert_eq!(layout.leaves()[0].places(), ["0.weight", "1.weight"]);
}

#[test]
fn an_adapter_makes_a_branch_of_the_parameter_that_it_adapts() {
    let layer = vec![LinearConfig::new(4, 3).init(&device())];
    let layer = layer.apply_lora(Lora::new(2, 4.0));
    assert_eq!(
        paths(&layer),
        [
            "0.weight.base",
            "0.weight.lora.a",
            "0.weight.lora.b",
            "0.bias"
        ]
    );
    let layout = Layout::of(&Params::of(&layer).unwrap()).unwrap();
    assert!(layout.leaf("0.weight.lora.a").unwrap().is_trainable());
    let others = layout.others().iter().map(|leaf| leaf.path());
    assert!(others.eq(["0.weight.base", "0.bias"]));
}

#[test]
fn planning_initialises_lazy_parameters() {
    let layer = LinearConfig::new(4, 3).init(&device());
    assert!(!layer.weight.is_initialized());
    Flat::of(&layer).unwrap();
    assert!(layer.weight.is_initialized());
}

#[test]
fn a_module_that_is_evaluated_is_refused_and_the_message_says_which_one_to_plan_on() {
    let model = Tied::new();
    let error = Flat::of(&model.valid()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("plan on the module that is trained"),
        "{error}"
    );
    let flat = Flat::of(&model).unwrap();
    // Planned on the one that is trained, it reads the other.
    assert_eq!(
        flat.flatten(&model).unwrap(),
        flat.flatten(&model.valid()).unwrap()
    );
}

#[test]
fn a_layer_whose_weight_is_kept_by_columns_is_read_as_burn_shows_it() {
    let config = LinearConfig::new(2, 3).with_layout(LinearLayout::Col);
    let layer = config.init(&device());
    let flat = Flat::of(&layer).unwrap();
    assert_eq!(flat.layout().leaf("weight").unwrap().shape(), [2, 3]);
    let weight = layer.weight.val().into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(flat.flatten(&layer).unwrap()[..6], weight);

    // And written: the record of burn, which has columns first, follows.
    let mut layer = layer;
    flat.unflatten(
        &mut layer,
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0][..],
    )
    .unwrap();
    let record = layer.clone().into_record();
    let loaded = config.init(&device()).load_record(record);
    assert_eq!(
        loaded.weight.val().into_data().try_to_vec::<f32>().unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
}

#[test]
fn halves_are_leaves_of_their_own_type() {
    let layer = LinearConfig::new(2, 2).init(&device());
    let layer = layer.map(&mut Cast(DType::BF16));
    let layout = Layout::of(&Params::of(&layer).unwrap()).unwrap();
    assert_eq!(layout.leaves()[0].dtype(), Dtype::BF16);
    assert_eq!(Flat::of(&layer).unwrap().flatten(&layer).unwrap().len(), 6);
}

struct Cast(DType);

impl burn_core::module::ModuleMapper for Cast {
    fn map_float<const D: usize>(
        &mut self,
        param: burn_core::module::Param<Tensor<D>>,
    ) -> burn_core::module::Param<Tensor<D>> {
        param.map(|tensor| {
            let cast = tensor.inner().cast(self.0);
            Tensor::from_inner(cast).require_grad()
        })
    }
}

#[test]
fn a_tree_of_its_own_is_made_of_one() {
    let model = Tied::new();
    let params = Params::of(&model).unwrap();
    let copy = deep_clone(&params).unwrap();
    let layout = Layout::of(&params).unwrap();
    assert_eq!(
        layout.gather(&copy).unwrap(),
        layout.gather(&params).unwrap()
    );
    assert_eq!(
        Layout::of(&copy).unwrap().fingerprint(),
        layout.fingerprint()
    );
}

#[test]
fn a_module_is_whole_after_an_error_and_after_a_panic() {
    let mut model = Pair::tied(1.0);
    let error = change(&mut model, |_| -> flatleaf::Result<()> {
        Err(flatleaf::Error::custom("no"))
    });
    assert!(error.is_err());
    assert_eq!(model.values(), [1.0, 1.0]);

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        change(&mut model, |_| -> flatleaf::Result<()> {
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(model.values(), [1.0, 1.0]);
    assert!(model.a.is_require_grad());
}

#[test]
fn pytorch_has_outputs_first_and_other_names_for_norms() {
    let device = Device::flex().autodiff();
    let linear = LinearConfig::new(3, 2).init(&device);
    let norms = (
        LayerNormConfig::new(2).init(&device),
        BatchNormConfig::new(2).init(&device),
    );
    let model = (linear, norms.0, norms.1);
    let layout = Layout::everything(&Params::torch(&model).unwrap()).unwrap();
    let leaves = layout.leaves().iter();
    let shapes: Vec<_> = leaves.map(|leaf| (leaf.path(), leaf.shape())).collect();
    let expected: [(&str, &[usize]); 8] = [
        ("0.weight", &[2, 3]),
        ("0.bias", &[2]),
        ("1.weight", &[2]),
        ("1.bias", &[2]),
        ("2.weight", &[2]),
        ("2.bias", &[2]),
        ("2.running_mean", &[2]),
        ("2.running_var", &[2]),
    ];
    assert_eq!(shapes, expected);
}
