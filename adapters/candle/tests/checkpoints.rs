//! Files: both ways with candle's own, optimiser and average in the same file, another process.

use std::path::PathBuf;

use candle_core::{DType, Module, Tensor, Var};
use candle_nn::{Init, VarMap};
use flatleaf::Layout;
use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
use flatleaf_candle::{FlatOptimizer, VarTree};

use crate::models::{CPU, mlp, tensor, tree, values, var};
use crate::{Folder, Outcome, run_member};

type Chain = (ClipNorm, AdamW, Ema);

fn bits(vars: &VarTree) -> flatleaf::Result<Vec<u32>> {
    let flat = Layout::of(vars)?.gather(vars)?;
    Ok(flat.into_iter().map(f32::to_bits).collect())
}

/// A map of the names and shapes of another, all zeros.
fn empty_like(map: &VarMap) -> Result<VarMap, Box<dyn std::error::Error>> {
    let empty = VarMap::new();
    for (name, var) in map.data().lock().unwrap().iter() {
        empty.get(var.dims(), name, Init::Const(0.0), var.dtype(), &CPU)?;
    }
    Ok(empty)
}

#[test]
fn a_file_of_candle_s_is_loaded_and_ours_loads_into_candle_s() -> Outcome {
    let folder = Folder::new("both-ways")?;
    let (map, _) = mlp(&[4, 3, 2]);
    map.get(2, "steps", Init::Const(7.0), DType::I64, &CPU)?;
    let vars = VarTree::of(&map)?;

    map.save(folder.file("theirs"))?;
    let mut loaded = VarTree::of(&empty_like(&map)?)?;
    checkpoint::load_into(folder.file("theirs"), &mut loaded, &LoadOptions::new())?;
    assert_eq!(bits(&loaded)?, bits(&vars)?);
    assert_eq!(loaded.get("steps").unwrap().to_vec1::<i64>()?, [7, 7]);

    for (name, is_lent) in [("ours", false), ("lent", true)] {
        match is_lent {
            false => checkpoint::save(folder.file(name), &vars)?,
            true => checkpoint::save(folder.file(name), &vars.lend()?)?,
        }
        let mut empty = empty_like(&map)?;
        empty.load(folder.file(name))?;
        assert_eq!(bits(&VarTree::of(&empty)?)?, bits(&vars)?);
    }
    Ok(())
}

#[test]
fn python_reads_the_file_and_what_it_writes_is_loaded() -> Outcome {
    // numpy and safetensors in the versions that tests/checkpoint/interop/requirements.txt of flatleaf names.
    let Ok(python) = std::env::var("FLATLEAF_PYTHON") else {
        println!("skipped: FLATLEAF_PYTHON is not set");
        return Ok(());
    };
    let folder = Folder::new("python")?;
    let half = Tensor::new(&[1.5_f32, -0.0, 65504.0], &CPU)?.to_dtype(DType::F16)?;
    let weight = Tensor::arange(0.0_f32, 6.0, &CPU)?.reshape((2, 3))?;
    let named = [
        ("body.bias", var(&[0.5, -0.25])),
        ("body.weight", Var::from_tensor(&weight)?),
        ("head.half", Var::from_tensor(&half)?),
        ("steps", Var::new(&[7_i64, 8], &CPU)?),
    ];
    let mut vars = VarTree::named(named)?;
    checkpoint::save(folder.file("ours"), &vars)?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop.py");
    let status = std::process::Command::new(python)
        .arg(script)
        .args([folder.file("ours"), folder.file("theirs")])
        .status()?;
    assert!(status.success());

    checkpoint::load_into(folder.file("theirs"), &mut vars, &LoadOptions::new())?;
    let get = |name: &str| vars.get(name).expect("a variable").clone();
    assert_eq!(values(&get("body.bias")), [1.0, -0.5]);
    assert_eq!(
        get("body.weight").to_vec2::<f32>()?,
        [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    );
    let half = get("head.half").to_dtype(DType::F32)?.to_vec1::<f32>()?;
    assert_eq!(half, [0.75, 0.0, 32752.0]);
    assert_eq!(get("steps").to_vec1::<i64>()?, [14, 16]);
    Ok(())
}

#[test]
fn what_candle_refuses_is_refused_and_nothing_is_loaded() -> Outcome {
    let folder = Folder::new("refused")?;
    let (map, _) = mlp(&[4, 3, 2]);
    map.save(folder.file("file"))?;
    let changes = [
        ("1.bias", candle_core::Var::zeros(5, DType::F32, &CPU)?), // another shape
        ("2.bias", candle_core::Var::zeros(5, DType::F32, &CPU)?), // not in the file
        ("1.bias", candle_core::Var::zeros(2, DType::I64, &CPU)?), // another type
    ];
    for (path, var) in changes {
        let change = |map: &VarMap| {
            let mut data = map.data().lock().unwrap();
            data.insert(path.into(), var.clone());
        };
        let mut empty = empty_like(&map)?;
        change(&empty);
        assert!(empty.load(folder.file("file")).is_err());
        let empty = empty_like(&map)?;
        change(&empty);
        let mut vars = VarTree::of(&empty)?;
        let error =
            checkpoint::load_into(folder.file("file"), &mut vars, &LoadOptions::new()).unwrap_err();
        assert!(
            error.is_shape() || error.is_missing() || error.is_element_type(),
            "{error:?}"
        );
        assert_eq!(error.path(), Some(path));
        assert!(bits(&vars)?.iter().all(|bits| *bits == 0));
    }
    Ok(())
}

#[test]
fn a_tensor_that_the_map_has_not_got_is_passed_by_where_that_is_said() -> Outcome {
    let folder = Folder::new("lax")?;
    let (map, _) = mlp(&[4, 3, 2]);
    map.get(2, "more", Init::Const(7.0), DType::F32, &CPU)?;
    map.save(folder.file("file"))?;
    let (smaller, _) = mlp(&[4, 3, 2]);
    let mut vars = VarTree::of(&empty_like(&smaller)?)?;
    let error =
        checkpoint::load_into(folder.file("file"), &mut vars, &LoadOptions::new()).unwrap_err();
    assert_eq!((error.is_unknown(), error.path()), (true, Some("more")));
    // As `VarMap::load` does.
    checkpoint::load_into(
        folder.file("file"),
        &mut vars,
        &LoadOptions::new().lax_matching("more"),
    )?;
    assert_eq!(bits(&vars)?, bits(&VarTree::of(&smaller)?)?);
    Ok(())
}

#[test]
fn ties_are_written_once_or_under_every_name() -> Outcome {
    let folder = Folder::new("ties")?;
    let shared = var(&[1.0, 2.0]);
    let vars = tree(&[("wte.weight", &shared), ("lm_head.weight", &shared)]);
    let map = VarMap::new();
    for name in ["wte.weight", "lm_head.weight"] {
        map.get(2, name, Init::Const(0.0), DType::F32, &CPU)?;
    }
    checkpoint::save(folder.file("once"), &vars)?;
    assert!(map.clone().load(folder.file("once")).is_err()); // it wants both
    checkpoint::save(folder.file("twice"), &vars.untied())?;
    map.clone().load(folder.file("twice"))?;
    let loaded = VarTree::of(&map)?;
    assert!(loaded.iter().all(|(_, var)| values(var) == [1.0, 2.0]));

    // Both load into a tie again.
    for name in ["once", "twice"] {
        shared.zero_set()?;
        checkpoint::load_into(folder.file(name), &mut vars.clone(), &LoadOptions::new())?;
        assert_eq!(values(&shared), [1.0, 2.0], "{name}");
    }
    Ok(())
}

#[test]
fn half_precision_is_kept_in_files() -> Outcome {
    let folder = Folder::new("half")?;
    let half = Tensor::new(&[0.1_f32, -2.0], &CPU)?.to_dtype(DType::BF16)?;
    let w = candle_core::Var::from_tensor(&half)?;
    let mut vars = tree(&[("w", &w)]);
    checkpoint::save(folder.file("file"), &vars)?;
    let tensors = candle_core::safetensors::load(folder.file("file"), &CPU)?;
    assert_eq!(tensors["w"].dtype(), DType::BF16);
    w.zero_set()?;
    checkpoint::load_into(folder.file("file"), &mut vars, &LoadOptions::new())?;
    assert_eq!(
        w.to_dtype(DType::F32)?.to_vec1::<f32>()?,
        half.to_dtype(DType::F32)?.to_vec1::<f32>()?
    );
    Ok(())
}

fn chain() -> Chain {
    let clip = ClipNorm {
        max: 0.1,
        ..Default::default()
    };
    (
        clip,
        AdamW {
            lr: 0.01,
            ..Default::default()
        },
        Ema {
            decay: 0.9,
            ..Default::default()
        },
    )
}

const SIZES: [usize; 3] = [6, 5, 3];

fn train(
    optimizer: &mut FlatOptimizer<Chain>,
    model: &impl Module,
    steps: std::ops::Range<u64>,
) -> Outcome {
    for step in steps {
        let loss = model.forward(&tensor(step, &[4, 6]))?.sqr()?.mean_all()?;
        optimizer.update(&loss.backward()?)?;
    }
    Ok(())
}

fn file() -> PathBuf {
    PathBuf::from(std::env::var_os("FLATLEAF_CANDLE_FOLDER").unwrap()).join("training.safetensors")
}

pub(crate) fn train_first_half() -> Outcome {
    let (map, model) = mlp(&SIZES);
    let mut optimizer = FlatOptimizer::of(&VarTree::of(&map)?, chain())?;
    optimizer
        .optimizer_mut()
        .adjust("**.bias", |(_, adamw, _)| adamw.weight_decay = 0.0)?;
    train(&mut optimizer, &model, 0..10)?;
    let extras = Extras::new()
        .optimizer("opt", optimizer.optimizer())
        .metadata("step", "10");
    checkpoint::save_with(file(), optimizer.vars(), &extras)?;
    Ok(())
}

pub(crate) fn train_second_half() -> Outcome {
    let (map, model) = mlp(&SIZES);
    let mut vars = VarTree::of(&map)?;
    let saved = checkpoint::open(file())?;
    saved.load_into(&mut vars, &LoadOptions::new())?;
    let resumed: Optimizer<Chain> = saved.part("opt")?.resume(&Layout::of(&vars)?)?;
    let mut optimizer = FlatOptimizer::with_optimizer(&vars, resumed)?;
    train(&mut optimizer, &model, 10..20)?;
    println!("weights {:?}", bits(&vars)?);
    optimizer.write_state("average", &mut vars)?;
    println!("average {:?}", bits(&vars)?);
    Ok(())
}

#[test]
fn training_that_is_stopped_and_resumed_in_another_process_has_the_same_bits() -> Outcome {
    let folder = Folder::new("resumed")?;
    run_member("first half", &folder.0)?;
    let printed = run_member("second half", &folder.0)?;

    let (map, model) = mlp(&SIZES);
    let mut vars = VarTree::of(&map)?;
    let mut optimizer = FlatOptimizer::of(&vars, chain())?;
    optimizer
        .optimizer_mut()
        .adjust("**.bias", |(_, adamw, _)| adamw.weight_decay = 0.0)?;
    train(&mut optimizer, &model, 0..20)?;
    let weights = format!("weights {:?}", bits(&vars)?);
    optimizer.write_state("average", &mut vars)?;
    let average = format!("average {:?}", bits(&vars)?);
    assert!(
        printed.contains(&weights) && printed.contains(&average),
        "{printed}"
    );
    assert_ne!(weights[8..], average[8..]);

    // candle reads the weights out of the same file.
    let mut theirs = empty_like(&map)?;
    theirs.load(folder.file("training.safetensors"))?;
    Ok(())
}
