//! Every rule does what its loop says, at every length, and gives the same bits at every vector
//! width and on a tree.
//!
//! Worth running with `--release` too: without optimisation nothing is vectorised.

use std::fmt::Debug;

use flatleaf::Layout;
use flatleaf::optim::{Kernel, NAdam, Optimizer, Rule, RuleFor};

use crate::common::bits;
use crate::common::widths::at_every_width;
use crate::naive::{self, Twin};
use crate::numbers::{assert_close, assert_close_to, flat_grad, gradient, parameters, widened};
use crate::rules::{self, Law};

/// Elements that a kernel treats as one row.
const LANES: usize = 16;

/// Elements that one thread moves at a time.
const PIECE: usize = 1 << 13;

/// Elements that one thread takes the norm of at a time: several of the other pieces.
const NORM_PIECE: usize = 1 << 15;

/// So many that RAdam has rectified and an accumulation has begun anew.
const STEPS: usize = 8;

/// Every length up to two rows and a bit, and those around the first pieces: in a debug build,
/// where these take most of the time, only the one that begins another piece.
fn lengths<R: Rule>(rule: &R) -> impl Iterator<Item = usize> + use<R> {
    let left_out = usize::from(cfg!(debug_assertions));
    let around = [piece_of(rule) - 1, beyond_a_piece(rule)];
    (0..=2 * LANES + 3).chain(around.into_iter().skip(left_out))
}

fn beyond_a_piece<R: Rule>(rule: &R) -> usize {
    piece_of(rule) + LANES / 2
}

fn piece_of<R: Rule>(rule: &R) -> usize {
    match norms_of(&rule.kernel(1)) {
        0 => PIECE,
        _ => NORM_PIECE,
    }
}

fn norms_of<K: Kernel>(_: &K) -> usize {
    K::NORMS
}

/// The parameters after the steps, and the states.
fn trained<R: Rule>(rule: &R, length: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut flat = parameters(length);
    let layout = Layout::of(&flat).unwrap();
    let mut optimizer = Optimizer::new(rule.clone(), &layout).unwrap();
    for step in 1..=STEPS {
        optimizer
            .step(&mut flat, &flat_grad(&layout, &gradient(length, step)))
            .unwrap();
    }
    (
        flat,
        optimizer.state().map(|(_, state)| state.to_vec()).collect(),
    )
}

fn trained_in_a_loop<R: Rule>(rule: &R, twin: Twin<R>, length: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut x = widened(&parameters(length));
    let mut states = vec![vec![0.0; length]; rule.states().len()];
    for step in 1..=STEPS {
        twin(
            rule,
            step as i32,
            &mut x,
            &widened(&gradient(length, step)),
            &mut states,
        );
    }
    (x, states)
}

struct LikeItsLoop;

impl Law for LikeItsLoop {
    fn holds<R: Rule + Debug>(&self, rule: R, twin: Twin<R>) {
        for length in lengths(&rule) {
            let (x, states) = trained(&rule, length);
            let (plain, plain_states) = trained_in_a_loop(&rule, twin, length);
            assert_close(&format!("{rule:?}, {length} elements"), &x, &plain);
            for ((name, state), plain) in rule.states().iter().zip(&states).zip(&plain_states) {
                assert_close(
                    &format!("`{name}` of {rule:?}, {length} elements"),
                    state,
                    plain,
                );
            }
        }
    }
}

#[test]
fn rules_do_what_their_loops_say() {
    rules::every(&LikeItsLoop);
}

/// In vectors of f64: what is left between two ways of adding is 1e-12 of max(|expected|, 1).
struct LikeItsLoopInDoubles;

impl Law for LikeItsLoopInDoubles {
    fn holds<R: RuleFor<f64> + Debug>(&self, rule: R, twin: Twin<R>) {
        // How a vector is cut does not depend on its type: a debug build is spared the last one.
        let lengths = [0, 1, 2 * LANES + 3, beyond_a_piece(&rule)];
        let left_out = usize::from(cfg!(debug_assertions));
        for &length in &lengths[..lengths.len() - left_out] {
            let mut flat = widened(&parameters(length));
            let layout = Layout::of(&flat).unwrap();
            let mut optimizer = Optimizer::new_as::<f64>(rule.clone(), &layout).unwrap();
            for step in 1..=STEPS {
                let grad = widened(&gradient(length, step));
                optimizer.step(&mut flat, &grad).unwrap();
            }
            let (plain, plain_states) = trained_in_a_loop(&rule, twin, length);
            let what = format!("{rule:?}, {length} elements of f64");
            assert_close_to(1e-12, &what, &flat, &plain);
            for ((name, state), plain) in optimizer.state().zip(&plain_states) {
                assert_close_to(1e-12, &format!("`{name}` of {what}"), state, plain);
            }
        }
    }
}

#[test]
fn rules_do_in_f64_what_their_loops_say() {
    rules::every(&LikeItsLoopInDoubles);
}

struct AtEveryWidth;

impl Law for AtEveryWidth {
    fn holds<R: Rule + Debug>(&self, rule: R, _: Twin<R>) {
        let all_bits = |length| {
            let (x, states) = trained(&rule, length);
            (
                bits(&x),
                states.iter().map(|state| bits(state)).collect::<Vec<_>>(),
            )
        };
        // A width is a matter of rows: a debug build, which vectorises none, is spared the pieces.
        let is_tried = |length: &usize| !cfg!(debug_assertions) || *length <= 2 * LANES + 3;
        for length in lengths(&rule).filter(is_tried) {
            at_every_width(
                || all_bits(length),
                |width, found, widest| {
                    assert!(
                        found == widest,
                        "{rule:?} differs at {width:?}, {length} elements"
                    );
                },
            );
        }
    }
}

#[test]
fn widths_agree() {
    rules::every(&AtEveryWidth);
}

/// NAdam's product of momenta is in closed form: thousands of factors, and those that are all
/// alike.
#[test]
fn nadam_agrees_with_its_loop_after_many_steps() {
    for (betas, momentum_decay) in [
        ((0.9, 0.999), 4e-3),
        ((0.9, 0.999), 0.0),
        ((0.999, 0.999), 4e-3),
        ((0.999, 0.9), 2.0),
    ] {
        let rule = NAdam {
            betas,
            momentum_decay,
            ..NAdam::default()
        };
        let (mut flat, mut x) = (parameters(3), widened(&parameters(3)));
        let (layout, mut states) = (Layout::of(&flat).unwrap(), vec![vec![0.0; 3]; 2]);
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        for step in 1..=700 {
            let grad = gradient(3, step);
            optimizer
                .step(&mut flat, &flat_grad(&layout, &grad))
                .unwrap();
            naive::nadam(&rule, step as i32, &mut x, &widened(&grad), &mut states);
            assert_close(&format!("{rule:?}, step {step}"), &flat, &x);
            x = widened(&flat); // so that roundings do not add up
        }
    }
}
