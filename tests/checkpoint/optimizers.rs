//! An optimiser's state in a model's file, and taken up again.

use flatleaf::checkpoint::{self, Extras};
use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer, Sgd};
use flatleaf::{DynTree, Layout, tree};

use crate::common::models;
use crate::files::Folder;

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
            if step % 2 == 0 {
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
