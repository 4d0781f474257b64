//! Steps that the members of a run take together: the bits of one member that has the mean of the
//! gradients, whether each keeps the whole state or its range; errors on all members, after which
//! the next step works; and runs that go on with another number of members.

use std::fmt::Debug;
use std::ops::Range;

use flatleaf::ops::NonFinite;
use flatleaf::optim::{
    Accumulate, Adam, AdamW, ClipNorm, Ema, Lamb, Muon, Optimizer, Rule, Sgd, Snapshot, StepReport,
};
use flatleaf::{Alone, Communicator, Error, FlatGrad, Layout, Result, Threads, tree};

use crate::common::bits;
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

const SIZES: [usize; 5] = [1, 2, 3, 4, 7];

/// One leaf is long enough to be cut within it.
fn layout() -> Layout {
    layout_of(33_000)
}

/// A layout in which one leaf has so many elements.
fn layout_of(len: usize) -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    Layout::of(&tree!({
        "a": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "b": (zeros(len)),
        "c": (zeros(0)),
        "d": (zeros(5)),
        "e": [[0.0, 0.0], [0.0, 0.0]],
    }))
    .unwrap()
}

/// The gradient of a member at a step. Some leaves are absent on some members, one on all.
fn gradient_of(layout: &Layout, rank: usize, step: usize) -> FlatGrad {
    let elements = gradient(layout.len(), 10 * step + rank);
    let mut grad = FlatGrad::from_flat(layout, elements).unwrap();
    for leaf in 0..layout.leaves().len() {
        grad.set_present(leaf, is_present(leaf, rank, step));
    }
    grad
}

fn is_present(leaf: usize, rank: usize, step: usize) -> bool {
    match (leaf, step) {
        (1, 2) => rank == 1,
        (3, 2) => false,
        _ => true,
    }
}

fn mean_of(layout: &Layout, size: usize, step: usize) -> FlatGrad {
    let members = (0..size).map(|rank| gradient_of(layout, rank, step));
    mean(layout, &members.collect::<Vec<_>>())
}

/// The plain loop: in the order of the ranks, in `f64`, rounded once, divided by the number.
pub(crate) fn mean(layout: &Layout, members: &[FlatGrad]) -> FlatGrad {
    let mut sums = vec![0.0_f64; layout.len()];
    for member in members {
        let elements: &[f32] = member;
        for (sum, &x) in sums.iter_mut().zip(elements) {
            *sum += f64::from(x);
        }
    }
    let mean = |sum: &f64| (f64::from(*sum as f32) / members.len() as f64) as f32;
    let mut grad = FlatGrad::from_flat(layout, sums.iter().map(mean).collect()).unwrap();
    for leaf in 0..layout.leaves().len() {
        grad.set_present(leaf, members.iter().any(|member| member.is_present(leaf)));
    }
    grad
}

/// What is changed between two steps.
fn change<R: Rule>(optimizer: &mut Optimizer<R>, step: usize) {
    let halve = |rule: &mut R| {
        if let Some(lr) = rule.lr_mut() {
            *lr *= 0.5;
        }
    };
    match step {
        2 => optimizer.freeze("d").unwrap(),
        3 => optimizer.adjust("b", halve).unwrap(),
        _ => {}
    }
}

/// What a member has after its steps.
struct End {
    range: Range<usize>,
    flat: Vec<f32>,
    states: Vec<Vec<f32>>,
    reports: Vec<StepReport>,
    counts: Vec<u64>,
}

fn end_of<R: Rule>(optimizer: &Optimizer<R>, flat: Vec<f32>, reports: Vec<StepReport>) -> End {
    let leaves = optimizer.layout().leaves().iter();
    let counts = leaves.map(|leaf| optimizer.step_count(leaf.path()).unwrap());
    let states = optimizer.state();
    End {
        range: optimizer.range(),
        states: states.map(|(_, state)| state.to_vec()).collect(),
        counts: counts.collect(),
        flat,
        reports,
    }
}

const STEPS: usize = 3;

fn trained<R: Rule>(member: &mut Threads, layout: &Layout, rule: &R, is_sharded: bool) -> End {
    let shards = layout.shards(member.size());
    let range = match is_sharded {
        true => shards[member.rank()].clone(),
        false => 0..layout.len(),
    };
    let mut optimizer = Optimizer::of_range(rule.clone(), layout, range).unwrap();
    let mut flat = parameters(layout.len());
    let mut reports = Vec::new();
    for step in 1..=STEPS {
        change(&mut optimizer, step);
        let mut grad = gradient_of(layout, member.rank(), step);
        let report = optimizer.step_with(member, &mut flat, &mut grad).unwrap();
        for leaf in [0, 1, 2, 4] {
            let on_any = (0..member.size()).any(|rank| is_present(leaf, rank, step));
            assert_eq!(grad.is_present(leaf), on_any, "leaf {leaf}");
        }
        reports.push(report);
    }
    reports.push(optimizer.flush_with(member, &mut flat).unwrap());
    end_of(&optimizer, flat, reports)
}

fn trained_alone<R: Rule>(size: usize, layout: &Layout, rule: &R) -> End {
    let mut optimizer = Optimizer::new(rule.clone(), layout).unwrap();
    let mut flat = parameters(layout.len());
    let mut reports = Vec::new();
    for step in 1..=STEPS {
        change(&mut optimizer, step);
        let grad = mean_of(layout, size, step);
        reports.push(optimizer.step(&mut flat, &grad).unwrap());
    }
    reports.push(optimizer.flush(&mut flat).unwrap());
    end_of(&optimizer, flat, reports)
}

struct LikeOneMember {
    layout: Layout,
    sizes: &'static [usize],
    /// Whether members have shards of the state, or all of it.
    are_sharded: &'static [bool],
}

impl AnyLaw for LikeOneMember {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let layout = &self.layout;
        for &size in self.sizes {
            let expected = trained_alone(size, layout, &rule);
            for &is_sharded in self.are_sharded {
                let ends = Threads::run(size, |member| trained(member, layout, &rule, is_sharded));
                for (rank, end) in ends.iter().enumerate() {
                    let what = format!("{rule:?}, member {rank} of {size}, sharded: {is_sharded}");
                    assert!(bits(&end.flat) == bits(&expected.flat), "{what}");
                    assert_eq!(end.reports, expected.reports, "{what}");
                    assert_eq!(end.counts, expected.counts, "{what}");
                    for (state, expected) in end.states.iter().zip(&expected.states) {
                        assert!(bits(state) == bits(&expected[end.range.clone()]), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn members_get_the_bits_of_one_that_has_the_mean_of_their_gradients() {
    // What depends on the number of members stands around the rules: a debug build tries all numbers
    // with the chains, and two of them with every rule.
    let of_sizes = |sizes| LikeOneMember {
        layout: layout_of(37),
        sizes,
        are_sharded: &[true, false],
    };
    rules::chains(&of_sizes(&SIZES));
    rules::every_rule(&of_sizes(match cfg!(debug_assertions) {
        true => &[3, 7],
        false => &SIZES,
    }));
}

/// Sums of whole numbers are exact and so are quarters of them: nothing tells four members, each with
/// a quarter of the batch, from one that has all of it.
struct WholeNumbers;

const QUARTERS: usize = 4;

fn whole_numbers(layout: &Layout, rank: usize, step: usize) -> Vec<i32> {
    let number = |index: usize| ((31 * rank + 7 * index + 13 * step) % 101) as i32 - 50;
    (0..layout.len()).map(number).collect()
}

/// The bits of the parameters once every step has been taken.
fn after_steps(layout: &Layout, mut step_by: impl FnMut(usize, &mut [f32])) -> Vec<u32> {
    let mut flat = parameters(layout.len());
    (1..=STEPS).for_each(|step| step_by(step, &mut flat));
    bits(&flat)
}

impl AnyLaw for WholeNumbers {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let layout = layout_of(37);
        let mut optimizer = Optimizer::new(rule.clone(), &layout).unwrap();
        let alone = after_steps(&layout, |step, flat| {
            let quarters = (0..QUARTERS).map(|rank| whole_numbers(&layout, rank, step));
            let quarters: Vec<Vec<i32>> = quarters.collect();
            let sum = |index: usize| quarters.iter().map(|quarter| quarter[index]).sum::<i32>();
            let grad = (0..layout.len()).map(|index| sum(index) as f32 / QUARTERS as f32);
            let grad = FlatGrad::from_flat(&layout, grad.collect()).unwrap();
            optimizer.step(flat, &grad).unwrap();
        });
        let together = Threads::run(QUARTERS, |member| {
            let shard = layout.shards(QUARTERS)[member.rank()].clone();
            let mut optimizer = Optimizer::of_range(rule.clone(), &layout, shard).unwrap();
            after_steps(&layout, |step, flat| {
                let grad = whole_numbers(&layout, member.rank(), step);
                let grad = grad.into_iter().map(|number| number as f32).collect();
                let mut grad = FlatGrad::from_flat(&layout, grad).unwrap();
                optimizer.step_with(member, flat, &mut grad).unwrap();
            })
        });
        assert!(together.iter().all(|bits| *bits == alone), "{rule:?}");
    }
}

#[test]
fn whole_numbers_give_the_bits_of_one_member_that_has_the_whole_batch() {
    rules::every_rule_and_chain(&WholeNumbers);
}

/// Norms of a leaf that two members have are put together from their pieces.
#[test]
fn members_get_the_bits_of_one_where_a_leaf_is_cut() {
    // Whoever has all of the state cuts nothing: that takes the longest, and a debug build is spared
    // it.
    rules::chains(&LikeOneMember {
        layout: layout_of(66_000),
        sizes: &[3],
        are_sharded: match cfg!(debug_assertions) {
            true => &[true],
            false => &[true, false],
        },
    });
}

fn descent() -> Sgd {
    Sgd {
        lr: 1.0,
        momentum: 0.5,
        ..Sgd::default()
    }
}

#[test]
fn members_without_elements_take_part() {
    let ends = Threads::run(5, |member| {
        let layout = Layout::of(&vec![0.0_f32; 3]).unwrap();
        let range = layout.shards(5)[member.rank()].clone();
        let rule = (ClipNorm::default(), descent());
        let mut optimizer = Optimizer::of_range(rule, &layout, range.clone()).unwrap();
        let mut flat = vec![1.0, 2.0, 3.0];
        let mut grad = FlatGrad::from_flat(&layout, vec![0.0, 3.0, 4.0]).unwrap();
        let report = optimizer.step_with(member, &mut flat, &mut grad).unwrap();
        (range.len(), flat, report.clips[0].scale)
    });
    assert_eq!(ends.iter().filter(|end| end.0 == 3).count(), 1);
    for (_, flat, scale) in ends {
        assert_eq!((flat, scale), (vec![1.0, 1.4, 2.2], 0.2));
    }
}

#[test]
fn gradients_count_by_their_weights() {
    for is_sharded in [false, true] {
        let ends = Threads::run(3, |member| {
            let layout = Layout::of(&(vec![0.0_f32], vec![0.0_f32], vec![0.0_f32])).unwrap();
            let shard = layout.shards(3)[member.rank()].clone();
            let range = if is_sharded { shard } else { 0..3 };
            let mut optimizer = Optimizer::of_range(descent(), &layout, range).unwrap();
            let mut flat = vec![0.0; 3];
            let (weight, elements) = [
                (3.0, [1.0, 1.0, 0.0]),
                (1.0, [5.0, 0.0, 0.0]),
                (0.0, [f32::NAN; 3]),
            ][member.rank()];
            let mut grad = FlatGrad::from_flat(&layout, elements.to_vec()).unwrap();
            // The second leaf is absent on one that counts, the third on both.
            grad.set_present(1, member.rank() != 1);
            grad.set_present(2, member.rank() == 2);
            let report = optimizer.step_weighted_with(member, &mut flat, &mut grad, weight);
            (flat, report.unwrap().leaves, optimizer.step_count("2"))
        });
        for end in ends {
            assert_eq!(end, (vec![-2.0, -0.75, 0.0], 2, Some(0)));
        }
    }
}

/// What goes wrong on member 1 of three, in the second of three steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    GradientOfAnotherLayout,
    LengthOfFlat,
    NotANumber,
    Weight,
    Rate,
    Frozen,
    AbsentOnAll,
}

/// A run of three members in which something goes wrong once: what each was told, and has in the end.
fn run_with(wrong: Wrong, is_sharded: bool) -> Vec<(Option<Error>, Vec<f32>, Vec<u64>)> {
    Threads::run(3, |member| {
        let layout = Layout::of(&(vec![0.0_f32; 2], vec![0.0_f32; 2], vec![0.0_f32; 2])).unwrap();
        let shard = layout.shards(3)[member.rank()].clone();
        let range = if is_sharded { shard } else { 0..6 };
        let rule = (ClipNorm::default(), descent());
        let mut optimizer = Optimizer::of_range(rule, &layout, range).unwrap();
        optimizer.deny_absent(true);
        let mut flat = vec![1.0_f32; 6];
        let mut told = None;
        for step in 0..3 {
            let mut grad = FlatGrad::from_flat(&layout, vec![0.125; 6]).unwrap();
            if step != 1 || wrong == Wrong::Nothing {
                if step != 1 {
                    optimizer.step_with(member, &mut flat, &mut grad).unwrap();
                }
                continue;
            }
            let before = flat.clone();
            let (mut weight, mut short) = (1.0, vec![0.0; 5]);
            let mut x = &mut flat[..];
            if wrong == Wrong::AbsentOnAll {
                grad.set_present(1, false);
            }
            if member.rank() == 1 {
                match wrong {
                    Wrong::GradientOfAnotherLayout => {
                        grad = FlatGrad::zeros(&Layout::of(&vec![0.0_f32; 6]).unwrap());
                    }
                    Wrong::LengthOfFlat => x = &mut short,
                    Wrong::NotANumber => grad[3] = f32::NAN,
                    Wrong::Weight => weight = -1.0,
                    Wrong::Rate => optimizer.set_lr(0.5).unwrap(),
                    Wrong::Frozen => optimizer.freeze("2").unwrap(),
                    Wrong::Nothing | Wrong::AbsentOnAll => {}
                }
            }
            let answer = optimizer.step_weighted_with(member, x, &mut grad, weight);
            told = Some(answer.unwrap_err());
            assert_eq!(flat, before, "{wrong:?}");
            optimizer.set_lr(1.0).unwrap();
            optimizer.thaw("2").unwrap();
        }
        let leaves = layout.leaves().iter();
        let counts = leaves.map(|leaf| optimizer.step_count(leaf.path()).unwrap());
        (told, flat, counts.collect())
    })
}

#[test]
fn an_error_on_one_member_is_one_on_all_and_the_next_step_works() {
    for is_sharded in [true, false] {
        let expected = run_with(Wrong::Nothing, is_sharded);
        for (wrong, own) in [
            (
                Wrong::GradientOfAnotherLayout,
                Error::is_other_layout as fn(&Error) -> bool,
            ),
            (Wrong::LengthOfFlat, Error::is_length),
            (Wrong::NotANumber, Error::is_non_finite),
            (Wrong::Weight, Error::is_argument),
            (Wrong::Rate, Error::is_member),
            (Wrong::Frozen, Error::is_member),
            (Wrong::AbsentOnAll, Error::is_missing),
        ] {
            let ends = run_with(wrong, is_sharded);
            for (rank, (end, expected)) in ends.iter().zip(&expected).enumerate() {
                let what = format!("{wrong:?}, member {rank}, sharded: {is_sharded}");
                let error = end.0.as_ref().unwrap();
                let is_everybodys = matches!(wrong, Wrong::NotANumber | Wrong::AbsentOnAll);
                let is_right = match rank == 1 || is_everybodys {
                    true => own(error),
                    false => error.is_member() && error.to_string().contains("member 1: "),
                };
                assert!(is_right, "{what}: {error:?}");
                if wrong == Wrong::NotANumber {
                    assert_eq!(error.path(), Some("1"));
                    let keeper = if is_sharded {
                        ", which member 1 keeps"
                    } else {
                        ""
                    };
                    let expected =
                        format!("`1`: expected finite elements, found NaN at index 1{keeper}");
                    assert_eq!(error.to_string(), expected);
                }
                assert_eq!((&end.1, &end.2), (&expected.1, &expected.2), "{what}");
            }
        }
    }
}

#[test]
fn members_with_other_layouts_are_told_so() {
    let answers = Threads::run(3, |member| {
        let len = if member.rank() == 2 { 4 } else { 3 };
        let layout = Layout::of(&vec![0.0_f32; len]).unwrap();
        let mut optimizer = Optimizer::new(descent(), &layout).unwrap();
        let mut grad = FlatGrad::from_flat(&layout, vec![1.0; len]).unwrap();
        let mut flat = vec![0.0; len];
        let error = optimizer
            .step_with(member, &mut flat, &mut grad)
            .unwrap_err();
        (error, flat.iter().all(|x| *x == 0.0))
    });
    for (error, stayed) in answers {
        assert!(
            error.is_other_layout() && error.to_string().contains("member 2"),
            "{error}"
        );
        assert!(stayed);
    }
}

#[test]
fn a_step_is_skipped_by_all_or_by_none() {
    let ends = Threads::run(4, |member| {
        let layout = layout();
        let clip = ClipNorm {
            non_finite: NonFinite::Skip,
            ..ClipNorm::default()
        };
        let range = layout.shards(4)[member.rank()].clone();
        let rule = (Accumulate { steps: 2 }, clip, AdamW::default());
        let mut optimizer = Optimizer::of_range(rule, &layout, range).unwrap();
        let mut flat = parameters(layout.len());
        let mut skipped = Vec::new();
        for step in 1..=3 {
            let mut grad = gradient_of(&layout, member.rank(), 1);
            if step == 2 && member.rank() == 3 {
                grad[33_001] = f32::INFINITY;
            }
            let report = optimizer.step_with(member, &mut flat, &mut grad).unwrap();
            skipped.push((report.skipped, report.leaves, report.held_back));
        }
        (skipped, optimizer.step_count("b"))
    });
    for end in ends {
        let expected = vec![(false, 0, 5), (true, 0, 0), (false, 5, 0)];
        assert_eq!(end, (expected, Some(1)));
    }
}

#[test]
fn ranges_that_are_not_the_vector_together_are_an_error_on_all() {
    let layout = Layout::of(&(vec![0.0_f32; 2], vec![0.0_f32; 2], vec![0.0_f32; 2])).unwrap();
    for ranges in [[0..2, 4..6], [0..4, 2..6], [2..6, 0..2], [0..6, 6..6]] {
        let is_good = ranges == [0..6, 6..6];
        let answers = Threads::run(2, |member| {
            let range = ranges[member.rank()].clone();
            let mut optimizer = Optimizer::of_range(descent(), &layout, range).unwrap();
            let mut grad = FlatGrad::from_flat(&layout, vec![1.0; 6]).unwrap();
            optimizer.step_with(member, &mut [0.0; 6], &mut grad)
        });
        for answer in answers {
            assert_eq!(answer.is_ok(), is_good);
            assert!(is_good || answer.is_err_and(|error| error.is_argument()));
        }
    }
    for range in [1..6, 0..3, 0..7, 4..9] {
        let error = Optimizer::of_range(descent(), &layout, range).unwrap_err();
        assert!(error.is_argument(), "{error}");
    }
}

#[test]
fn one_member_takes_no_step_of_a_range_without_the_others() {
    let model = (vec![0.0_f32; 2], vec![0.0_f32; 2]);
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::of_range(descent(), &layout, 0..2).unwrap();
    let grads: [Option<&[f32]>; 2] = [Some(&[1.0; 2]); 2];
    let errors = [
        optimizer.step(&mut [0.0; 4], &[0.0; 4]).unwrap_err(),
        optimizer.update(&mut model.clone(), &model).unwrap_err(),
        optimizer.update_each(&grads, |_, _| Ok(())).unwrap_err(),
        optimizer.flush(&mut [0.0; 4]).unwrap_err(),
        optimizer.flush_tree(&mut model.clone()).unwrap_err(),
        optimizer.flush_each(|_, _| Ok(())).unwrap_err(),
        optimizer
            .state_over("momentum_buffer", &[0.0; 4])
            .unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_argument(), "{error}");
        assert!(error.to_string().contains("elements 0..2"), "{error}");
    }
    let error = Optimizer::resume(optimizer.snapshot(), &layout).unwrap_err();
    assert!(error.is_invalid_state(), "{error}");
    let error = Optimizer::migrate(optimizer.snapshot(), &layout).unwrap_err();
    assert!(error.is_invalid_state(), "{error}");
    #[cfg(feature = "serde")]
    {
        let error = serde_json::to_string(&optimizer.snapshot()).unwrap_err();
        assert!(error.to_string().contains("resume_range"), "{error}");
    }
}

#[test]
fn what_is_kept_of_a_leaf_is_reset_and_taken_out_within_the_range() {
    let layout = Layout::of(&vec![0.0_f32; 40_000]).unwrap();
    let range = layout.shards(2)[1].clone();
    assert_eq!(range, 32_768..40_000);
    let ends = Threads::run(2, |member| {
        let range = layout.shards(2)[member.rank()].clone();
        let mut optimizer = Optimizer::of_range(descent(), &layout, range).unwrap();
        let mut flat = vec![0.0; 40_000];
        let mut grad = FlatGrad::from_flat(&layout, vec![2.0; 40_000]).unwrap();
        optimizer.step_with(member, &mut flat, &mut grad).unwrap();
        let state = optimizer.leaf_state("").unwrap();
        let vector = state.vectors[0].1.to_vec();
        optimizer.reset("**").unwrap();
        let all_zeros = optimizer
            .state_of("momentum_buffer")
            .unwrap()
            .iter()
            .all(|x| *x == 0.0);
        (vector, all_zeros)
    });
    assert_eq!(ends[0], (vec![2.0; 32_768], true));
    assert_eq!(ends[1], (vec![2.0; 7_232], true));
}

/// A matrix that an even share would cut.
fn wide() -> Layout {
    let matrix = ndarray::Array2::<f32>::zeros((40, 1000));
    Layout::of(&(matrix, vec![0.0_f32; 5000])).unwrap()
}

#[test]
fn a_matrix_is_made_orthogonal_by_one_member() {
    let layout = wide();
    let rule = (ClipNorm::default(), Muon::default());
    let cut = Threads::run(2, |member| {
        let range = layout.shards(2)[member.rank()].clone();
        let mut optimizer = Optimizer::of_range(rule, &layout, range).unwrap();
        let mut flat = parameters(layout.len());
        let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
        let error = optimizer
            .step_with(member, &mut flat, &mut grad)
            .unwrap_err();
        assert_eq!(flat, parameters(layout.len()));
        error
    });
    for error in cut {
        assert!(error.is_argument() && error.path() == Some("0"));
        assert!(
            error
                .to_string()
                .contains("its elements 0..40000 cut at 32768"),
            "{error}"
        );
    }
    let mut alone = parameters(layout.len());
    let mut optimizer = Optimizer::new(rule, &layout).unwrap();
    optimizer
        .step(&mut alone, &gradient(layout.len(), 1))
        .unwrap();
    let ends = Threads::run(2, |member| {
        let range = layout.shards_of_whole_leaves(2)[member.rank()].clone();
        let mut optimizer = Optimizer::of_range(rule, &layout, range).unwrap();
        let mut flat = parameters(layout.len());
        let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), 1)).unwrap();
        optimizer.step_with(member, &mut flat, &mut grad).unwrap();
        flat
    });
    for end in ends {
        assert_eq!(bits(&end), bits(&alone));
    }
}

/// A shard may end within an element, whose numbers are moved each by itself; a shard of whole leaves
/// ends behind one.
#[test]
fn elements_are_shared_out_among_members() {
    let points = vec![[0.0_f32; 3]; 30_000];
    let layout = Layout::of(&(points, vec![0.0_f32; 20_000])).unwrap();
    assert_eq!(layout.shards(2), [0..65_536, 65_536..110_000]);
    assert!(!65_536_usize.is_multiple_of(3));
    assert_eq!(
        layout.shards_of_whole_leaves(2),
        [0..90_000, 90_000..110_000]
    );
    fn members<R: Rule>(rule: R, layout: &Layout, shards: &[Range<usize>]) {
        let mut alone = parameters(layout.len());
        let mut optimizer = Optimizer::new(rule.clone(), layout).unwrap();
        for step in 1..=2 {
            let grad = gradient(layout.len(), step);
            optimizer.step(&mut alone, &grad).unwrap();
        }
        let ends = Threads::run(shards.len(), |member| {
            let range = shards[member.rank()].clone();
            let mut optimizer = Optimizer::of_range(rule.clone(), layout, range).unwrap();
            let mut flat = parameters(layout.len());
            for step in 1..=2 {
                let elements = gradient(layout.len(), step);
                let mut grad = FlatGrad::from_flat(layout, elements).unwrap();
                optimizer.step_with(member, &mut flat, &mut grad).unwrap();
            }
            flat
        });
        for end in ends {
            assert_eq!(bits(&end), bits(&alone));
        }
    }
    let clip = ClipNorm::default();
    let average = Ema::default();
    members(
        (clip, AdamW::default(), average),
        &layout,
        &layout.shards(2),
    );
    members(
        (clip, Muon::default()),
        &layout,
        &layout.shards_of_whole_leaves(2),
    );
}

/// Runs `size` members from where snapshots were taken, or from the beginning.
fn run_from<R: Rule + 'static>(
    size: usize,
    rule: &R,
    from: Option<(&[Snapshot<'static, R>], &[f32])>,
    steps: Range<usize>,
) -> Vec<(Optimizer<R>, Vec<f32>)> {
    let layout = layout();
    Threads::run(size, |member| {
        let range = layout.shards(size)[member.rank()].clone();
        let (mut optimizer, mut flat) = match from {
            Some((snapshots, flat)) => {
                let optimizer = Optimizer::resume_range(snapshots, &layout, range).unwrap();
                (optimizer, flat.to_vec())
            }
            None => {
                let optimizer = Optimizer::of_range(rule.clone(), &layout, range).unwrap();
                (optimizer, parameters(layout.len()))
            }
        };
        for step in steps.clone() {
            // Of one member, so that the mean is that, to the bit, whatever their number.
            let weight = if member.rank() == 0 { 1.0 } else { 0.0 };
            let mut grad = FlatGrad::from_flat(&layout, gradient(layout.len(), step)).unwrap();
            let stepped = optimizer.step_weighted_with(member, &mut flat, &mut grad, weight);
            stepped.unwrap();
        }
        (optimizer, flat)
    })
}

/// A snapshot that owns what it has.
fn owned<R: Rule + 'static>(optimizer: Optimizer<R>) -> Snapshot<'static, R> {
    let optimizer: &'static Optimizer<R> = Box::leak(Box::new(optimizer));
    optimizer.snapshot()
}

#[test]
fn a_run_goes_on_with_another_number_of_members() {
    let rule = (
        Accumulate { steps: 2 },
        ClipNorm::default(),
        Lamb::default(),
        Ema::default(),
    );
    let expected = run_from(1, &rule, None, 0..7).remove(0);
    for before in 1..=4 {
        let ends = run_from(before, &rule, None, 0..3);
        let flat = ends[0].1.clone();
        let snapshots: Vec<_> = ends
            .into_iter()
            .map(|(optimizer, _)| owned(optimizer))
            .collect();
        for after in (1..=4).filter(|after| !cfg!(debug_assertions) || after % 2 == 1) {
            let ends = run_from(after, &rule, Some((&snapshots, &flat)), 3..7);
            for (optimizer, flat) in ends {
                let what = format!("from {before} to {after}");
                assert!(bits(&flat) == bits(&expected.1), "{what}");
                for ((_, state), (_, expected)) in optimizer.state().zip(expected.0.state()) {
                    assert!(bits(state) == bits(&expected[optimizer.range()]), "{what}");
                }
                assert_eq!(optimizer.step_count("b"), expected.0.step_count("b"));
            }
        }
        if before == 1 {
            continue;
        }
        // One is missing.
        let layout = layout();
        let error = Optimizer::resume_range(&snapshots[1..], &layout, 0..layout.len()).unwrap_err();
        assert!(error.is_missing() && error.path() == Some("a"), "{error}");
        let end = layout.shards(before)[0].end;
        let elements = format!("the state of elements 0..{end} of the flat vector");
        assert!(error.to_string().contains(&elements), "{error}");
    }
}

#[test]
fn snapshots_of_other_steps_settings_or_layouts_are_no_run() {
    let layout = layout();
    let shards = layout.shards(2);
    let member =
        |rank: usize| Optimizer::of_range(Adam::default(), &layout, shards[rank].clone()).unwrap();
    let refused = |second: &Optimizer<Adam>| {
        let first = member(0);
        let snapshots = [first.snapshot(), second.snapshot()];
        Optimizer::resume_range(&snapshots, &layout, 0..layout.len()).unwrap_err()
    };
    let mut second = member(1);
    let template = member(1);
    let mut ahead = template.leaf_state("e").unwrap();
    ahead.steps = 1;
    ahead.counters[0].1 = 1.0;
    second.set_leaf_state("e", &ahead).unwrap();
    let error = refused(&second);
    assert!(error.is_invalid_state(), "{error}");
    assert!(
        error
            .to_string()
            .contains("snapshot 1 at another step than snapshot 0"),
        "{error}"
    );

    let mut second = member(1);
    second.set_lr(0.5).unwrap();
    let error = refused(&second);
    assert!(
        error
            .to_string()
            .contains("snapshot 1 at another setting than snapshot 0"),
        "{error}"
    );

    let other = Layout::of(&vec![0.0_f32; 3]).unwrap();
    let second = Optimizer::new(Adam::default(), &other).unwrap();
    assert!(refused(&second).is_other_layout());

    let none: [Snapshot<'_, Adam>; 0] = [];
    assert!(
        Optimizer::resume_range(&none, &layout, 0..6)
            .unwrap_err()
            .is_argument()
    );
}

#[test]
fn a_run_of_one_member_takes_the_step_that_one_takes() -> Result<()> {
    let layout = layout();
    let rule = (ClipNorm::default(), AdamW::default());
    let mut optimizer = Optimizer::new(rule, &layout)?;
    let mut twin = optimizer.clone();
    let (mut flat, mut x) = (parameters(layout.len()), parameters(layout.len()));
    for step in 1..=3 {
        let mut grad = gradient_of(&layout, 1, step);
        let report = twin.step(&mut x, &grad)?;
        assert_eq!(
            optimizer.step_with(&mut Alone, &mut flat, &mut grad)?,
            report
        );
    }
    assert_eq!(bits(&flat), bits(&x));
    Ok(())
}
