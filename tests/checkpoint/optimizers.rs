//! An optimiser's state in a model's file, and taken up again.

use flatleaf::checkpoint::{self, Extras};
use flatleaf::optim::{Accumulate, AdamW, ClipNorm, Ema, Optimizer, Rounding, Sgd, Storage};
use flatleaf::{DynTree, Layout, tree};

use crate::common::models;
use crate::files::{self, Folder};

type Chain = (ClipNorm, AdamW, Ema);

fn model() -> DynTree {
    tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5] })
}

fn gradient(step: usize) -> DynTree {
    let x = step as f32;
    DynTree::map([
        (
            "w",
            DynTree::from(ndarray::arr2(&[[x, -x], [0.25, 1.0 / (x + 1.0)]])),
        ),
        (
            "b",
            if step.is_multiple_of(2) {
                DynTree::from(vec![x])
            } else {
                DynTree::absent()
            },
        ),
    ])
}

/// The whole state goes on bit for bit, and the model's own tensors are as without it.
#[test]
fn an_optimizer_goes_on_from_the_file() {
    let folder = Folder::new();
    let path = folder.path("training");
    let mut model = model();
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Chain::default(), &layout).unwrap();
    for step in 0..5 {
        optimizer.update(&mut model, &gradient(step)).unwrap();
    }
    checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer)).unwrap();

    let file = checkpoint::open(&path).unwrap();
    assert_eq!(file.parts(), ["opt"]);
    assert_eq!(DynTree::of(&file).unwrap(), model);
    let mut resumed: Optimizer<Chain> = file.part("opt").unwrap().resume(&layout).unwrap();
    assert_eq!(resumed.step_count("w"), Some(5));
    assert_eq!(resumed.step_count("b"), Some(3));
    let states = |optimizer: &Optimizer<Chain>| {
        let states = optimizer.state().map(|(name, x)| (name, x.to_vec()));
        states.collect::<Vec<_>>()
    };
    assert_eq!(states(&resumed), states(&optimizer));
    let mut twin = model.clone();
    for step in 5..9 {
        optimizer.update(&mut model, &gradient(step)).unwrap();
        resumed.update(&mut twin, &gradient(step)).unwrap();
    }
    assert_eq!(twin, model);
    assert_eq!(states(&resumed), states(&optimizer));
}

/// Places in windows, which differ from leaf to leaf, and the weight of an average.
#[test]
fn what_an_optimizer_counts_goes_on_from_the_file() {
    type Windowed = (Accumulate, AdamW, Ema);
    let folder = Folder::new();
    let (mut model, mut twin) = (model(), model());
    let layout = Layout::of(&model).unwrap();
    let average = Ema {
        warm_up: true,
        debias: true,
        ..Ema::default()
    };
    let rule = (Accumulate { steps: 3 }, AdamW::default(), average);
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    let mut resumed = optimizer.clone();
    for step in 0..8 {
        optimizer.update(&mut model, &gradient(step)).unwrap();
        resumed.update(&mut twin, &gradient(step)).unwrap();
        assert_eq!(twin, model, "step {step}");
        let path = folder.path(&format!("step_{step}"));
        checkpoint::save_with(&path, &twin, &Extras::new().optimizer("opt", &resumed)).unwrap();
        let file = checkpoint::open(&path).unwrap();
        resumed = file
            .part("opt")
            .unwrap()
            .resume::<Windowed>(&layout)
            .unwrap();
        for ((name, found), (_, expected)) in resumed.state().zip(optimizer.state()) {
            assert_eq!(found, expected, "`{name}`, step {step}");
        }
    }
    assert_eq!(
        ["w", "b"].map(|path| resumed.step_count(path)),
        [Some(2), Some(1)]
    );
}

/// Tied models, vectors of zeros, several optimisers in one file.
#[test]
fn several_optimizers_stand_beside_a_tied_model() {
    let folder = Folder::new();
    let path = folder.path("training");
    let model = models::tied();
    let layout = Layout::of(&model).unwrap();
    let new = Optimizer::new(AdamW::default(), &layout).unwrap();
    let momentum = Sgd {
        momentum: 0.9,
        ..Default::default()
    };
    let other = Optimizer::new(momentum, &layout).unwrap();
    let extras = Extras::new().optimizer("a", &new).optimizer("b.c", &other);
    checkpoint::save_with(&path, &model, &extras).unwrap();
    let file = checkpoint::open(&path).unwrap();
    // A state of zeros is no tensor.
    let part = file.part("a").unwrap();
    assert_eq!(part.tensors().len(), 1);
    assert!(part.resume::<AdamW>(&layout).is_ok());
    assert!(file.part("b.c").unwrap().resume::<Sgd>(&layout).is_ok());
    let error = file.part("a").unwrap().resume::<Sgd>(&layout).unwrap_err();
    assert!(error.is_invalid_state());
    let error = file.resume::<AdamW>(&layout).unwrap_err();
    assert!(error.is_unknown());
    let wider = Layout::of(&tree!({ "x": [1.0] })).unwrap();
    assert!(part.resume::<AdamW>(&wider).unwrap_err().is_other_layout());
}

/// Settings are numbers of `f64` in text, and come back to the bit. The first ones are known for
/// being read wrongly in the last place where digits are not all looked at.
#[test]
fn settings_come_back_to_the_bit() {
    let mut rates = vec![
        0.1 + 0.2,
        f64::from(0.1_f32),
        1.0 / 3.0,
        2.638_344_616_030_823e-10,
        0.299_999_999_999_999_93,
        1.0_f64.next_down(),
        7.120_000_000_000_000_5e-3,
        f64::from(f32::MIN_POSITIVE),
        1e-37_f64.next_up(),
    ];
    // Splitmix64: bits without a pattern, in numbers between 2⁻⁶⁴ and 1.
    let mut state = 1_u64;
    rates.extend((0..400).map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let exponent = 1023 - 1 - mixed % 63;
        f64::from_bits((exponent << 52) | (mixed >> 12))
    }));
    let model: Vec<Vec<f32>> = rates.iter().map(|_| vec![1.0]).collect();
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Sgd::default(), &layout).unwrap();
    for (index, &rate) in rates.iter().enumerate() {
        let path = index.to_string();
        optimizer.adjust(&path, |sgd| sgd.lr = rate).unwrap();
    }
    let folder = Folder::new();
    let path = folder.path("training");
    checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer)).unwrap();
    let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
    let mut resumed: Optimizer<Sgd> = part.resume(&layout).unwrap();
    for (index, &rate) in rates.iter().enumerate() {
        let seen = |sgd: &mut Sgd| assert_eq!(sgd.lr.to_bits(), rate.to_bits(), "{rate:e}");
        resumed.adjust(&index.to_string(), seen).unwrap();
    }
}

/// However long a vector is, text holds none of it: the snapshot's text is as long for a thousand
/// elements as for a hundred thousand, and the vectors are tensors of the file.
#[test]
fn vectors_are_tensors_and_not_text() {
    let folder = Folder::new();
    let text_of = |len: usize| {
        let mut model = vec![1.0_f32; len];
        let layout = Layout::of(&model).unwrap();
        let mut optimizer = Optimizer::new(AdamW::default(), &layout).unwrap();
        optimizer.update(&mut model, &vec![0.3_f32; len]).unwrap();
        let path = folder.path("training");
        checkpoint::save_with(&path, &model, &Extras::new().optimizer("o", &optimizer)).unwrap();
        let part = checkpoint::open(&path).unwrap().part("o").unwrap();
        assert_eq!(part.tensor("0.exp_avg").unwrap().len(), len);
        let resumed: Optimizer<AdamW> = part.resume(&layout).unwrap();
        assert_eq!(
            resumed.state_of("exp_avg_sq"),
            optimizer.state_of("exp_avg_sq")
        );
        part.bytes("snapshot").unwrap().len()
    };
    let digits = "100000".len() - "1000".len();
    assert_eq!(text_of(100_000), text_of(1_000) + digits);
}

/// What is kept in fewer bytes is written in them, and goes on bit for bit.
#[test]
fn state_in_fewer_bytes_goes_on_from_the_file() {
    let of_300 = |step: usize| -> Vec<f32> {
        let element = |index: usize| ((index * 29 + step * 13) % 23) as f32 / 11.0 - 1.0;
        (0..300).map(element).collect()
    };
    let folder = Folder::new();
    let path = folder.path("training");
    let layout = Layout::of(&(of_300(0), vec![0.0_f32; 2])).unwrap();
    let grad = |step: usize| [of_300(step), vec![0.5, -0.5]].concat();
    for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 3 }] {
        for storage in [Storage::Bf16(rounding), Storage::EightBits(rounding)] {
            let mut flat = grad(0);
            let rule = Chain::default();
            let mut optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
            for step in 1..4 {
                optimizer.step(&mut flat, &grad(step)).unwrap();
            }
            let extras = Extras::new().optimizer("opt", &optimizer);
            checkpoint::save_flat(&path, &layout, &flat, &extras).unwrap();

            let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
            let mut resumed: Optimizer<Chain> = part.resume(&layout).unwrap();
            assert_eq!(resumed.storage(), storage);
            let mut twin = flat.clone();
            for step in 4..7 {
                optimizer.step(&mut flat, &grad(step)).unwrap();
                resumed.step(&mut twin, &grad(step)).unwrap();
            }
            assert_eq!(twin, flat, "{storage:?}");
            for name in ["exp_avg", "exp_avg_sq", "average"] {
                let expected = optimizer.state_to_vec(name);
                assert_eq!(
                    resumed.state_to_vec(name),
                    expected,
                    "`{name}`, {storage:?}"
                );
            }

            let tensors = part.tensors().iter();
            let mut kept: Vec<(&str, String, usize)> = tensors
                .map(|tensor| (tensor.name(), tensor.type_name(), tensor.len()))
                .filter(|(name, ..)| *name != "snapshot")
                .collect();
            kept.sort();
            let expected = match storage {
                Storage::Bf16(_) => vec![
                    ("0.exp_avg", "BF16".to_owned(), 302),
                    ("1.exp_avg_sq", "BF16".to_owned(), 302),
                    ("3.average", "BF16".to_owned(), 302),
                ],
                // Blocks of 256 elements of a leaf: two and one.
                _ => vec![
                    ("0.exp_avg", "U8".to_owned(), 302),
                    ("0.exp_avg_scales", "F32".to_owned(), 3),
                    ("1.exp_avg_sq", "U8".to_owned(), 302),
                    ("1.exp_avg_sq_scales", "F32".to_owned(), 3),
                    ("3.average", "F32".to_owned(), 302),
                ],
            };
            assert_eq!(kept, expected, "{storage:?}");
        }
    }
}

/// Codes without scales, with too few of them, and of another type.
#[test]
fn codes_that_do_not_fit_are_an_error() {
    let folder = Folder::new();
    let path = folder.path("training");
    let layout = Layout::of(&vec![0.0_f32; 300]).unwrap();
    let rule = Sgd {
        momentum: 0.9,
        ..Sgd::default()
    };
    let storage = Storage::EightBits(Rounding::Nearest);
    let mut optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
    let mut flat = vec![0.0_f32; 300];
    optimizer.step(&mut flat, &[1.0; 300]).unwrap();
    let extras = Extras::new().optimizer("opt", &optimizer);
    checkpoint::save_flat(&path, &layout, &flat, &extras).unwrap();
    let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
    let snapshot = part.bytes("snapshot").unwrap();
    let codes = part.bytes("0.momentum_buffer").unwrap();
    let scales = part.bytes("0.momentum_buffer_scales").unwrap();

    let resume = |tensors: &[(&str, &str, &[u8])]| {
        let snapshot = [("opt.snapshot", "U8", snapshot)];
        let tensors = [&snapshot[..], tensors].concat();
        let path = folder.path("otherwise");
        std::fs::write(&path, files::tensors(&tensors, "")).unwrap();
        let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
        part.resume::<Sgd>(&layout)
    };
    let (name, scales_name) = ("opt.0.momentum_buffer", "opt.0.momentum_buffer_scales");
    let whole = resume(&[(name, "U8", codes), (scales_name, "F32", scales)]).unwrap();
    assert_eq!(whole.state_to_vec("momentum_buffer"), Some(vec![1.0; 300]));
    let error = resume(&[(name, "U8", codes)]).unwrap_err();
    assert!(error.is_missing(), "{error}");
    let error = resume(&[(name, "U8", codes), (scales_name, "F32", &scales[4..])]).unwrap_err();
    assert!(error.is_invalid_state(), "{error}");
    let error = resume(&[(name, "U8", &codes[1..]), (scales_name, "F32", scales)]).unwrap_err();
    assert!(error.is_invalid_state(), "{error}");
    let error = resume(&[(name, "I8", codes), (scales_name, "F32", scales)]).unwrap_err();
    assert!(error.is_element_type(), "{error}");
}

#[test]
fn the_state_of_another_rule_says_as_which_it_was_read_and_what_it_has() {
    let (folder, model) = (Folder::new(), model());
    let layout = Layout::of(&model).unwrap();
    let optimizer = Optimizer::new((ClipNorm::default(), AdamW::default()), &layout).unwrap();
    let path = folder.path("m");
    checkpoint::save_with(&path, &model, &Extras::new().optimizer("opt", &optimizer)).unwrap();
    let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
    let error = part.resume::<AdamW>(&layout).unwrap_err();
    assert!(error.is_invalid_state());
    assert_eq!(error.path(), Some("snapshot"));
    let found = error.found().unwrap();
    assert!(
        found.starts_with("what is no state of the rule `"),
        "{error}"
    );
    assert!(found.contains("AdamW`, as which it is read"), "{error}");
    // The first stage is what says that this is a chain.
    assert!(
        found.contains(r#"one with the settings [{"max":1.0,"#),
        "{error}"
    );
    assert!(found.contains(r#""lr":0.001"#), "{error}");
    assert!(found.contains("Optimizer::migrate_with"), "{error}");
}
