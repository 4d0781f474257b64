//! One parameter at two places.

use burn_core::module::Module;
use burn_optim::{GradientsParams, SgdConfig};
use flatleaf::ops::norm_l2;
use flatleaf::optim::{Optimizer, Sgd};
use flatleaf_burn::Flat;

use crate::models::{Pair, Tied, addresses, grads_of, parameter};

fn sgd(lr: f64) -> Sgd {
    Sgd {
        lr,
        ..Default::default()
    }
}

#[test]
fn a_tie_moves_once_by_the_sum_and_stays_one() {
    let mut model = Pair::tied(1.0);
    let flat = Flat::of(&model).unwrap();
    let mut optimizer = Optimizer::new(sgd(0.1), flat.layout()).unwrap();
    for expected in [0.8, 0.6] {
        // 1 at each place: burn's autodiff has their sum.
        let loss = (model.a.val() + model.b.val()).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        flat.step(&mut optimizer, &mut model, grads).unwrap();
        let values = model.values();
        assert!(
            values.iter().all(|x| (x - expected).abs() < 1e-6),
            "{values:?}"
        );
        let places = addresses(&model);
        assert_eq!(places[0], places[1]);
    }
}

#[test]
fn burns_optimiser_takes_a_tie_apart_and_loses_a_gradient() {
    let loss = |model: &Pair| (model.a.val() + model.b.val() * 3.0).sum();
    let model = Pair::tied(1.0);
    let flat = Flat::of(&model).unwrap();
    let mut sgd_of_burn = SgdConfig::new().init();

    let grads = GradientsParams::from_grads(loss(&model).backward(), &model);
    let model = sgd_of_burn.step(0.1, model, grads);
    // The first place has moved by the whole gradient, the second not at all.
    let values = model.values();
    assert!(
        (values[0] - 0.6).abs() < 1e-6 && values[1] == 1.0,
        "{values:?}"
    );
    let error = flat.flatten(&model).unwrap_err();
    assert!(error.is_broken_tie(), "{error}");
    assert!(
        error.to_string().contains("`a`") && error.to_string().contains("`b`"),
        "{error}"
    );

    // From now on burn has the gradient of the last place only: 3, where the whole is 4.
    let grads = GradientsParams::from_grads(loss(&model).backward(), &model);
    assert_eq!(
        grads.get::<1>(model.a.id).unwrap().into_scalar::<f32>(),
        3.0
    );
    let error = flat.flatten_grads(&model, &grads).unwrap_err();
    assert!(error.to_string().contains("`Flat::retie`"), "{error}");
}

#[test]
fn a_record_takes_a_tie_apart_and_unflatten_makes_it_one_again() {
    let norm = |model: &Tied| {
        let grads = model.grads();
        let total = grads.get::<2>(model.embed.id).unwrap();
        total.powi_scalar(2).sum().sqrt().into_scalar::<f32>()
    };
    let model = Tied::new();
    let flat = Flat::of(&model).unwrap();
    let whole = norm(&model);

    let mut loaded = model.clone().load_record(model.clone().into_record());
    let part = norm(&loaded);
    assert!((part - whole).abs() > 1e-3, "{part} {whole}");
    let grads = loaded.grads();
    let error = flat.flatten_grads(&loaded, &grads).unwrap_err();
    assert!(
        error.to_string().contains("several at `embed`, `head`"),
        "{error}"
    );

    let mut optimizer = Optimizer::new(sgd(0.1), flat.layout()).unwrap();
    let before = flat.flatten(&loaded).unwrap();
    assert!(flat.step(&mut optimizer, &mut loaded, grads).is_err());
    assert_eq!(flat.flatten(&loaded).unwrap(), before);

    flat.retie(&mut loaded).unwrap();
    assert!((norm(&loaded) - whole).abs() < 1e-6);
    let places = addresses(&loaded);
    assert_eq!(places[0], places[8]);

    let mut again = model.clone().load_record(model.clone().into_record());
    flat.unflatten(&mut again, flat.flatten(&model).unwrap())
        .unwrap();
    assert!((norm(&again) - whole).abs() < 1e-6);
}

#[test]
fn what_valid_and_train_return_has_lost_the_tie_and_its_gradients() {
    let mut model = Pair::tied(1.0);
    let flat = Flat::of(&model).unwrap();
    model = model.valid().train();
    // One storage, and two tensors to autodiff.
    let places = addresses(&model);
    assert_eq!(places[0], places[1]);
    let grads = grads_of([(&model.a, vec![1.0])]);
    let error = flat.flatten_grads(&model, &grads).unwrap_err();
    assert!(error.to_string().contains("several at `a`, `b`"), "{error}");
    flat.retie(&mut model).unwrap();
    assert_eq!(*flat.flatten_grads(&model, &grads).unwrap(), [1.0]);
}

#[test]
fn of_the_gradients_of_two_places_burn_keeps_the_last_and_flatleaf_the_sum() {
    let grad = |model: &Tied, id| {
        let grad = model.grads().get::<2>(id).unwrap().into_data();
        grad.try_to_vec::<f32>().unwrap()
    };
    let tied = Tied::new();
    let whole = grad(&tied, tied.embed.id);

    // The same values at two parameters: what each place adds.
    let mut untied = tied.clone();
    untied.head = burn_core::module::Param::from_tensor(tied.head.val().detach());
    let (at_embed, at_head) = (
        grad(&untied, untied.embed.id),
        grad(&untied, untied.head.id),
    );
    let sum: Vec<f32> = at_embed.iter().zip(&at_head).map(|(a, b)| a + b).collect();
    let difference: Vec<f32> = whole.iter().zip(&sum).map(|(a, b)| a - b).collect();
    assert!(norm_l2(&difference) < 1e-6);

    // What has been taken apart, by a record: the last place's, and nothing of the other.
    let apart = tied.clone().load_record(tied.clone().into_record());
    assert_eq!(grad(&apart, apart.embed.id), at_head);

    let norms = [&at_embed, &at_head, &whole].map(|grad| norm_l2(grad));
    for (norm, expected) in norms.into_iter().zip([0.1278, 0.0729, 0.1475]) {
        assert!((norm - expected).abs() < 1e-4, "{norms:?}");
    }
}

#[test]
fn a_tie_that_burn_freezes_at_its_first_place_is_refused_and_has_not_moved() {
    let tie = parameter([1.0]);
    let first = tie.clone().set_require_grad(false);
    let mut model = vec![first, parameter([5.0]), tie];
    let flat = Flat::of(&model).unwrap();
    // It stands where it is trainable, behind the other, and is two tensors to autodiff.
    let leaves = flat.layout().leaves().iter();
    assert_eq!(
        leaves.map(|leaf| leaf.path()).collect::<Vec<_>>(),
        ["1", "2"]
    );
    let mut optimizer = Optimizer::new(sgd(1.0), flat.layout()).unwrap();
    let grads = grads_of([(&model[0], vec![2.0]), (&model[1], vec![3.0])]);
    let error = flat.step(&mut optimizer, &mut model, grads).unwrap_err();
    assert!(error.to_string().contains("several at"), "{error}");
    assert_eq!(flat.flatten(&model).unwrap(), [5.0, 1.0]);
}

#[test]
fn a_tie_of_two_values_is_refused_where_autodiff_knows_nothing_of_it() {
    let model = Pair::tied(1.0);
    let flat = Flat::of(&model).unwrap();
    let mut plain = model.valid();
    plain.b = plain.b.map(|b| b + 1.0);
    let mut optimizer = Optimizer::new(sgd(1.0), flat.layout()).unwrap();
    let grads = grads_of([(&plain.a, vec![1.0])]);
    let error = flat.step(&mut optimizer, &mut plain, grads).unwrap_err();
    assert!(error.is_broken_tie(), "{error}");
    assert_eq!(plain.values(), [1.0, 2.0]);
}
