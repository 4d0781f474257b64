//! Rounds of many steps between two exchanges, in exact numbers.

use flatleaf::optim::{Adam, ClipNorm, Optimizer, OuterOptimizer, Rule, Sgd};
use flatleaf::{Alone, Communicator, Layout, Threads};

fn layout() -> Layout {
    Layout::of(&vec![0.0_f32; 2]).unwrap()
}

/// What all members have after rounds in which they come to given places, by rank; all the same.
fn ends<R: Rule>(rule: R, rounds: &[&[(f64, [f32; 2])]]) -> Vec<[f32; 2]> {
    let members = rounds[0].len();
    let mut all = Threads::run(members, |member| {
        let mut flat = [8.0, 0.0];
        let mut outer = OuterOptimizer::new(rule.clone(), &layout(), &flat).unwrap();
        let mut ends = Vec::new();
        for round in rounds {
            let (weight, place) = round[member.rank()];
            flat = place;
            outer.end_round(member, &mut flat, weight).unwrap();
            assert_eq!(outer.start(), flat);
            ends.push(flat);
        }
        ends
    });
    let first = all.remove(0);
    assert!(all.into_iter().all(|other| other == first));
    first
}

fn sgd(lr: f64, momentum: f64, nesterov: bool) -> Sgd {
    Sgd {
        lr,
        momentum,
        nesterov,
        ..Sgd::default()
    }
}

#[test]
fn local_steps_end_at_the_mean_of_the_models() {
    let round: &[_] = &[(1.0, [6.0, 1.0]), (1.0, [2.0, 5.0])];
    assert_eq!(ends(sgd(1.0, 0.0, false), &[round]), [[4.0, 3.0]]);
}

#[test]
fn models_count_by_their_examples_and_an_absent_member_gets_the_mean() {
    let away = (0.0, [f32::NAN; 2]);
    let rounds: [&[_]; 2] = [
        &[(3.0, [4.0, 0.0]), (1.0, [8.0, 4.0]), away],
        &[away, (1.0, [1.0, 1.0]), (3.0, [5.0, 1.0])],
    ];
    let found = ends(sgd(1.0, 0.0, false), &rounds);
    assert_eq!(found, [[5.0, 1.0], [4.0, 1.0]]);
}

/// By hand: away 4, buffer 4, step 0.5·(4 + 0.5·4) = 3, from 8 to 5; then away 1, buffer
/// 0.5·4 + 1 = 3, step 0.5·(1 + 0.5·3) = 1.25, from 5 to 3.75.
#[test]
fn diloco_moves_the_start_by_nesterovs_momentum() {
    let rounds: [&[_]; 2] = [
        &[(1.0, [6.0, 0.0]), (1.0, [2.0, 0.0])],
        &[(1.0, [4.0, 0.0]), (1.0, [4.0, 0.0])],
    ];
    let found = ends(sgd(0.5, 0.5, true), &rounds);
    assert_eq!(found, [[5.0, 0.0], [3.75, 0.0]]);
}

#[test]
fn the_outer_step_is_any_rules_and_goes_on_from_what_was_stored() {
    let rule = (ClipNorm::default(), Adam::default());
    let mut outer = OuterOptimizer::new(rule, &layout(), &[8.0, 0.0]).unwrap();
    let mut by_hand = Optimizer::new(rule, &layout()).unwrap();
    let mut start = [8.0, 0.0];
    for place in [[7.0, 1.0], [6.5, -1.0], [3.0, 0.5]] {
        let mut flat = place;
        outer.end_round(&mut Alone, &mut flat, 1.0).unwrap();
        let away = [start[0] - place[0], start[1] - place[1]];
        by_hand.step(&mut start, &away).unwrap();
        assert_eq!(flat, start);
        let stored = Optimizer::resume(outer.optimizer().snapshot(), &layout()).unwrap();
        outer = OuterOptimizer::of_parts(stored, &start).unwrap();
    }
    let error = OuterOptimizer::of_parts(by_hand, &[0.0]).unwrap_err();
    assert!(error.is_length(), "{error}");
}

#[test]
fn a_round_that_one_member_cannot_end_is_an_error_on_all() {
    for (lengths, weights) in [
        ([2, 3], [1.0, 1.0]),
        ([2, 2], [1.0, -1.0]),
        ([2, 2], [0.0, 0.0]),
    ] {
        let answers = Threads::run(2, |member| {
            let mut outer =
                OuterOptimizer::new(sgd(1.0, 0.0, false), &layout(), &[8.0, 0.0]).unwrap();
            let mut flat = vec![1.0; lengths[member.rank()]];
            let error = outer
                .end_round(member, &mut flat, weights[member.rank()])
                .unwrap_err();
            assert!(flat.iter().all(|x| *x == 1.0) && outer.start() == [8.0, 0.0]);
            // The next round works.
            let mut flat = [member.rank() as f32, 0.0];
            outer.end_round(member, &mut flat, 1.0).unwrap();
            assert_eq!(flat, [0.5, 0.0]);
            error
        });
        assert!(answers[1].is_length() || answers[1].is_argument());
        assert!(answers[0].is_member() || weights == [0.0, 0.0]);
    }
}
