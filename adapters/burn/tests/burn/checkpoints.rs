//! Modules in files.

use std::path::PathBuf;

use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
use flatleaf::{Error, StateArray, StateDict};
use flatleaf_burn::{Flat, Params, change, change_torch, objective};
use ndarray::{arr1, arr2};

use crate::models::{Mlp, Tied, addresses};

pub fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("flatleaf-burn-{name}-{}", std::process::id()))
}

#[test]
fn weights_statistics_state_and_average_are_one_file_and_go_on_to_the_bit() {
    let path = file("resume");
    type Rule = (ClipNorm, AdamW, Ema);
    let mut model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Rule::default(), flat.layout()).unwrap();
    let step = |model: &mut Tied, optimizer: &mut Optimizer<Rule>| {
        let grads = model.grads();
        flat.step(optimizer, model, grads).unwrap();
    };
    (0..3).for_each(|_| step(&mut model, &mut optimizer));
    // What each thread has seen becomes one average when it is asked for.
    model.norm.running_mean.value_sync();
    model.norm.running_var.value_sync();
    let extras = Extras::new().optimizer("optimizer", &optimizer);
    checkpoint::save_with(&path, &Params::of(&model).unwrap(), &extras).unwrap();
    (0..3).for_each(|_| step(&mut model, &mut optimizer));

    let mut resumed = Tied::new();
    let saved = checkpoint::open(&path).unwrap();
    let report = change(&mut resumed, |params| {
        saved.load_into(params, &LoadOptions::new())
    });
    assert!(report.unwrap().is_complete());
    let part = saved.part("optimizer").unwrap();
    let mut resumed_optimizer: Optimizer<Rule> = part.resume(flat.layout()).unwrap();
    (0..3).for_each(|_| step(&mut resumed, &mut resumed_optimizer));
    assert_eq!(
        flat.flatten(&resumed).unwrap(),
        flat.flatten(&model).unwrap()
    );
    assert_eq!(
        resumed_optimizer.state_of("average"),
        optimizer.state_of("average")
    );
    let mean = |model: &Tied| model.norm.running_mean.value_sync().into_data();
    assert_eq!(mean(&resumed), mean(&model));
    // The tie is in the file once, and one tensor in the module that loaded it.
    let places = addresses(&resumed);
    assert_eq!(places[0], places[8]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_state_dict_of_pytorchs_is_loaded_by_patterns() {
    let path = file("torch");
    let zeros = |rows, columns| ndarray::Array2::<f32>::zeros((rows, columns));
    let mut first = zeros(3, 4); // outputs first
    first[[2, 1]] = 7.0;
    let entries = [
        ("net.fc.0.weight", StateArray::from(first)),
        (
            "net.fc.0.bias",
            StateArray::from(arr1(&[1.0_f32, 2.0, 3.0])),
        ),
        (
            "net.fc.1.weight",
            StateArray::from(arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]])),
        ),
        ("net.fc.1.bias", StateArray::from(arr1(&[0.5_f32, 0.25]))),
    ];
    checkpoint::save(&path, &StateDict::from_iter(entries).unwrap()).unwrap();

    let mut model = Mlp::of(&[4, 3, 2]);
    let options = LoadOptions::new().rename_matching("net.fc.**", "layers.**");
    let saved = checkpoint::open(&path).unwrap();
    change_torch(&mut model, |params| saved.load_into(params, &options)).unwrap();
    let flat = Flat::of(&model).unwrap();
    let values = flat.flatten(&model).unwrap();
    let mut expected = vec![0.0; 12];
    expected[5] = 7.0; // input 1, output 2
    expected.extend([1.0, 2.0, 3.0]);
    expected.extend([1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 0.5, 0.25]);
    assert_eq!(values, expected);

    // And back: what is saved for PyTorch is what came from it.
    let layout = flatleaf::Layout::of(&Params::torch(&model).unwrap()).unwrap();
    assert_eq!(layout.leaf("layers.1.weight").unwrap().shape(), [2, 3]);
    let torch = layout.gather(&Params::torch(&model).unwrap()).unwrap();
    assert_eq!(
        (torch[9], &torch[15..21]),
        (7.0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..])
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_file_of_another_network_is_refused_and_nothing_is_loaded() {
    let path = file("other");
    checkpoint::save(&path, &Params::of(&Mlp::of(&[4, 5, 2])).unwrap()).unwrap();
    let mut model = Mlp::of(&[4, 3, 2]);
    let flat = Flat::of(&model).unwrap();
    let before = flat.flatten(&model).unwrap();
    let saved = checkpoint::open(&path).unwrap();
    let error = change(&mut model, |params| {
        saved.load_into(params, &LoadOptions::new())
    });
    let error: Error = error.unwrap_err();
    assert!(error.is_shape(), "{error}");
    assert_eq!(flat.flatten(&model).unwrap(), before);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_module_with_a_batch_norm_is_a_function_of_its_264_parameters() {
    let model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let loss = objective(&flat, &model, Tied::loss).unwrap();
    let mut point = flat.flatten(&model).unwrap();
    let mut gradient = vec![0.0; 264];
    let first = loss.value_and_gradient(&point, &mut gradient).unwrap();
    flatleaf::ops::axpy(&mut point, -0.5, &gradient);
    assert!(loss.value(&point).unwrap() < first);
    // The module that it was made of is as it was.
    assert_ne!(flat.flatten(&model).unwrap(), point);
    assert_eq!(flat.flatten(&model).unwrap().len(), 264);
}
