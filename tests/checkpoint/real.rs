//! A real file: the weights of a voice-activity network, as PyTorch saved them.

use std::fs;
use std::path::{Path, PathBuf};

use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::{DynTree, Layout, Tree, ops};
use ndarray::{Array1, Array2, Array3};
use safetensors::SafeTensors;

use crate::files::Folder;

fn silero() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/silero_vad_16k.safetensors")
}

#[derive(Tree, Default)]
struct Conv {
    weight: Array3<f32>,
    bias: Option<Array1<f32>>,
}

#[derive(Tree, Default)]
struct Lstm {
    weight_ih: Array2<f32>,
    weight_hh: Array2<f32>,
    bias_ih: Array1<f32>,
    bias_hh: Array1<f32>,
}

#[derive(Tree, Default)]
struct Silero {
    stft_conv: Conv,
    conv1: Conv,
    conv2: Conv,
    conv3: Conv,
    conv4: Conv,
    lstm_cell: Lstm,
    final_conv: Conv,
}

fn empty() -> Silero {
    let conv = |(outputs, inputs, width), bias: bool| Conv {
        weight: Array3::zeros((outputs, inputs, width)),
        bias: bias.then(|| Array1::zeros(outputs)),
    };
    Silero {
        stft_conv: conv((258, 1, 256), false),
        conv1: conv((128, 129, 3), true),
        conv2: conv((64, 128, 3), true),
        conv3: conv((64, 64, 3), true),
        conv4: conv((128, 64, 3), true),
        lstm_cell: Lstm {
            weight_ih: Array2::zeros((512, 128)),
            weight_hh: Array2::zeros((512, 128)),
            bias_ih: Array1::zeros(512),
            bias_hh: Array1::zeros(512),
        },
        final_conv: conv((1, 128, 1), true),
    }
}

#[test]
fn it_comes_back_byte_for_byte() {
    let (folder, plain) = (Folder::new(), Extras::new().plain());
    let original = fs::read(silero()).unwrap();

    let file = checkpoint::open(silero()).unwrap();
    checkpoint::save_with(folder.path("file"), &file, &plain).unwrap();
    assert!(
        fs::read(folder.path("file")).unwrap() == original,
        "saved from the open file"
    );

    let mut model = empty();
    checkpoint::load_into(silero(), &mut model, &LoadOptions::new()).unwrap();
    checkpoint::save_with(folder.path("model"), &model, &plain).unwrap();
    assert!(
        fs::read(folder.path("model")).unwrap() == original,
        "saved from a model"
    );

    let layout = Layout::of(&model).unwrap();
    let flat = layout.gather(&model).unwrap();
    checkpoint::save_flat(folder.path("flat"), &layout, &flat, &plain).unwrap();
    assert!(
        fs::read(folder.path("flat")).unwrap() == original,
        "saved from a flat vector"
    );
}

#[test]
fn it_comes_back_by_value_in_another_order() {
    let folder = Folder::new();
    let original = fs::read(silero()).unwrap();
    let reference = SafeTensors::deserialize(&original).unwrap();
    // As the crate sorts it: by name.
    fs::write(
        folder.path("sorted"),
        safetensors::serialize(reference.iter(), None).unwrap(),
    )
    .unwrap();
    let (mut first, mut second) = (empty(), empty());
    checkpoint::load_into(silero(), &mut first, &LoadOptions::new()).unwrap();
    checkpoint::load_into(folder.path("sorted"), &mut second, &LoadOptions::new()).unwrap();
    assert_eq!(DynTree::of(&first).unwrap(), DynTree::of(&second).unwrap());
    let comparison = checkpoint::compare(silero(), folder.path("sorted")).unwrap();
    assert_eq!((comparison.tensors.len(), comparison.distance()), (15, 0.0));
}

#[test]
fn its_data_is_the_flat_vector() {
    let file = checkpoint::open(silero()).unwrap();
    let flat = file.flat().unwrap();
    assert_eq!(flat.len(), 309_633);
    assert!(matches!(flat, std::borrow::Cow::Borrowed(_)) || cfg!(not(feature = "mmap")));
    let (_, metadata) = SafeTensors::read_metadata(&fs::read(silero()).unwrap()).unwrap();
    let paths: Vec<_> = file
        .layout()
        .unwrap()
        .leaves()
        .iter()
        .map(|leaf| leaf.path().to_owned())
        .collect();
    assert_eq!(paths, metadata.offset_keys());
    let norm: f64 = flat
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!((ops::norm_l2(&flat) - norm).abs() < 1e-9 * norm);
}

/// The bundled network, saved in half precision and compared with itself.
#[test]
fn it_survives_sixteen_bits() {
    let folder = Folder::new();
    let file = checkpoint::open(silero()).unwrap();
    let halves = file.tensors().iter().map(|tensor| {
        let half = file
            .view::<f32>(tensor.name())
            .unwrap()
            .mapv(half::bf16::from_f32);
        (tensor.name().replace('.', "/"), DynTree::from(half))
    });
    checkpoint::save(folder.path("half"), &DynTree::map(halves)).unwrap();
    let mut model = empty();
    let names = LoadOptions::new().rename(|name| name.replace('/', "."));
    checkpoint::load_into(folder.path("half"), &mut model, &names).unwrap();
    let rounded = file
        .view::<f32>("conv1.weight")
        .unwrap()
        .mapv(|x| half::bf16::from_f32(x).to_f32());
    assert_eq!(model.conv1.weight.into_dyn(), rounded);
}
