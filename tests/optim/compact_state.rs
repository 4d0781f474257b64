//! State in fewer bytes: a step is that of full state, whose vectors are rounded after it, for
//! every rule and chain; with the same bits for any number of threads and members, and after a
//! resume.

use std::fmt::Debug;

use flatleaf::ops::NonFinite;
use flatleaf::ops::compact::{self, BLOCK, Codes, RandomBits};
use flatleaf::optim::{
    Accumulate, AdaGrad, Adam, AdamW, ClipNorm, Ema, Kernel, Lamb, LeafState, Lion, Moment, Muon,
    Optimizer, OuterOptimizer, Rounding, Rule, Sgd, Snapshot, Storage, each,
};
use flatleaf::{Alone, Communicator, FlatGrad, Layout, Threads, tree};

use crate::common::bits;
use crate::common::widths::at_every_width;
use crate::lent;
use crate::members;
use crate::numbers::{gradient, parameters};
use crate::rules::{self, AnyLaw};

const STORAGES: [Storage; 4] = [
    Storage::Bf16(Rounding::Nearest),
    Storage::Bf16(Rounding::Stochastic { seed: 7 }),
    Storage::EightBits(Rounding::Nearest),
    Storage::EightBits(Rounding::Stochastic { seed: 7 }),
];

/// Those that draw, as the draws tell apart where an element is.
const STOCHASTIC: [Storage; 2] = [STORAGES[1], STORAGES[3]];

/// One is of an absent leaf, the third, and one comes after it.
const STEPS: usize = if cfg!(debug_assertions) { 4 } else { 5 };

/// Leaves around rows, blocks and stages, matrices of one shape, one without elements, and one of
/// several pieces.
fn layout() -> Layout {
    layout_with(8192 + 1030)
}

/// With a long leaf of so many elements.
fn layout_with(long: usize) -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    Layout::of(&tree!({
        "a": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "b": (zeros(37)),
        "c": (zeros(0)),
        "d": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "e": (zeros(257)),
        "f": (zeros(long)),
        "g": (zeros(16)),
    }))
    .unwrap()
}

/// One leaf is absent at the third step.
fn gradient_of(layout: &Layout, step: usize) -> FlatGrad {
    let mut grad = FlatGrad::from_flat(layout, gradient(layout.len(), step)).unwrap();
    if step == 3 && layout.leaves().len() > 4 {
        grad.set_present(4, false);
    }
    grad
}

/// The parameters, and all that the optimiser knows.
type Everything = (Vec<u32>, Vec<(u64, Vec<u64>, Vec<Vec<u32>>)>);

fn everything<R: Rule>(flat: &[f32], optimizer: &Optimizer<R>) -> Everything {
    let leaves = optimizer.layout().leaves().iter();
    let leaves = leaves.map(|leaf| {
        let state = optimizer.leaf_state(leaf.path()).unwrap();
        let counters = state.counters.iter().map(|(_, x)| x.to_bits());
        let vectors = state.vectors.iter().map(|(_, x)| bits(x));
        (state.steps, counters.collect(), vectors.collect())
    });
    (bits(flat), leaves.collect())
}

// ---- The plain way: full state, rounded after the step.

/// Which codes a vector has.
fn codes_of<R: Rule>(rule: &R, name: &str) -> Option<Codes> {
    let moments = rule.moments();
    let moment = moments.iter().find(|(moment, _)| *moment == name)?;
    Some(match moment.1 {
        Moment::First => Codes::Signed,
        Moment::Second => Codes::Unsigned,
    })
}

fn rounded(
    x: &[f32],
    storage: Storage,
    codes: Option<Codes>,
    draw: (u64, usize, usize),
) -> Vec<f32> {
    let (step, state, first) = draw;
    let random = |rounding| match rounding {
        Rounding::Nearest => None,
        Rounding::Stochastic { seed } => {
            Some((RandomBits::new(seed, step, state as u64), first as u64))
        }
    };
    let mut back = vec![0.0; x.len()];
    match (storage, codes) {
        (Storage::Bf16(rounding), _) => {
            let mut halves = vec![0; x.len()];
            compact::narrow(x, &mut halves, random(rounding));
            compact::widen(&halves, &mut back);
        }
        (Storage::EightBits(rounding), Some(kind)) => {
            let (mut codes, mut scales) = (vec![0; x.len()], vec![0.0; x.len().div_ceil(BLOCK)]);
            compact::encode(x, kind, (&mut codes, &mut scales), random(rounding));
            compact::decode((&codes, &scales), kind, &mut back);
        }
        _ => back.copy_from_slice(x),
    }
    back
}

/// Rounds what a full optimiser keeps of the leaves that have just taken part.
fn round_state<R: Rule>(optimizer: &mut Optimizer<R>, rule: &R, storage: Storage, grad: &FlatGrad) {
    let leaves = optimizer.layout().leaves().to_vec();
    for (index, leaf) in leaves.iter().enumerate() {
        if !grad.is_present(index) {
            continue;
        }
        let state = optimizer.leaf_state(leaf.path()).unwrap();
        let step = state.counters[0].1 as u64;
        let vectors = state.vectors.iter().enumerate().map(|(place, (name, x))| {
            let codes = codes_of(rule, name);
            let draw = (step, place, leaf.range().start);
            let x = rounded(x, storage, codes, draw);
            (name.to_string().into(), x.into())
        });
        let state = LeafState {
            steps: state.steps,
            counters: state
                .counters
                .iter()
                .map(|(name, x)| (name.to_string().into(), *x))
                .collect(),
            vectors: vectors.collect(),
        };
        optimizer.set_leaf_state(leaf.path(), &state).unwrap();
    }
}

fn plainly<R: Rule>(rule: &R, layout: &Layout, storage: Storage) -> Everything {
    let mut flat = parameters(layout.len());
    let mut optimizer = Optimizer::new(rule.clone(), layout).unwrap();
    for step in 1..=STEPS {
        let grad = gradient_of(layout, step);
        optimizer.step(&mut flat, &grad).unwrap();
        round_state(&mut optimizer, rule, storage, &grad);
    }
    everything(&flat, &optimizer)
}

fn trained<R: Rule>(rule: &R, layout: &Layout, storage: Storage) -> (Vec<f32>, Optimizer<R>) {
    let mut flat = parameters(layout.len());
    let mut optimizer = Optimizer::with_storage(rule.clone(), layout, storage).unwrap();
    for step in 1..=STEPS {
        optimizer
            .step(&mut flat, &gradient_of(layout, step))
            .unwrap();
    }
    (flat, optimizer)
}

/// On leaves that are lent one at a time.
fn trained_each<R: Rule>(rule: &R, layout: &Layout, storage: Storage) -> Everything {
    let mut leaves = lent::leaves_of(layout, &parameters(layout.len()));
    let mut optimizer = Optimizer::with_storage(rule.clone(), layout, storage).unwrap();
    for step in 1..=STEPS {
        let grad = gradient_of(layout, step);
        lent::update(&mut optimizer, &mut leaves, &grad).unwrap();
    }
    everything(&leaves.concat(), &optimizer)
}

/// On a layout, in these storages.
struct LikeFullStateThatIsRounded(Layout, &'static [Storage]);

impl AnyLaw for LikeFullStateThatIsRounded {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        let LikeFullStateThatIsRounded(layout, storages) = self;
        for &storage in *storages {
            let plain = plainly(&rule, layout, storage);
            let (flat, optimizer) = trained(&rule, layout, storage);
            let what = format!("{rule:?} in {storage:?}");
            assert!(everything(&flat, &optimizer) == plain, "{what}");
            assert!(
                trained_each(&rule, layout, storage) == plain,
                "{what}, leaves lent"
            );
        }
    }
}

#[test]
fn a_step_is_that_of_full_state_which_is_rounded_then() {
    // A rule knows rows, blocks and stages; that a leaf is cut to pieces is the same code for all.
    rules::every_rule_and_chain(&LikeFullStateThatIsRounded(layout_with(1030), &STORAGES));
    // Where it is cut, drawn numbers tell; in a release build the others are tried too.
    let storages = match cfg!(debug_assertions) {
        true => &STOCHASTIC[..],
        false => &STORAGES,
    };
    rules::chains(&LikeFullStateThatIsRounded(layout(), storages));
}

/// As many vectors as share one draw, and one more: then they are drawn for one by one, as they are
/// where a rule has an option that rows of bf16 do without.
#[test]
fn eight_vectors_and_nine_are_rounded_by_what_each_of_them_draws() {
    fn holds<R: Rule + Debug>(rule: R, vectors: usize) {
        assert_eq!(rule.states().len(), vectors, "{rule:?}");
        LikeFullStateThatIsRounded(layout_with(1030), &STOCHASTIC).holds(rule);
    }
    let adamw = AdamW::default;
    let amsgrad = || AdamW {
        amsgrad: true,
        ..AdamW::default()
    };
    let sgd = Sgd {
        momentum: 0.9,
        ..Sgd::default()
    };
    holds((adamw(), adamw(), sgd, Ema::default()), 8);
    holds((amsgrad(), adamw(), sgd, Ema::default()), 8);
    holds((adamw(), adamw(), adamw()), 9);
    holds((amsgrad(), amsgrad(), amsgrad()), 9);
}

/// A rule whose second piece reads and changes a vector that its first one has changed.
#[derive(Clone, Debug, PartialEq)]
struct TwoPieces;

impl Rule for TwoPieces {
    fn states(&self) -> Vec<&'static str> {
        vec!["average"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        let blended = each(|_x, dx, [average]: &mut [f32; 1]| {
            *average += 0.1 * (dx - *average);
            dx
        });
        let corrected = each(|_x, dx, [average]: &mut [f32; 1]| {
            *average *= 1.01;
            0.1 * (dx + *average)
        });
        (blended, corrected)
    }
}

#[test]
fn a_piece_reads_what_the_one_before_wrote_and_not_what_is_kept_of_it() {
    let last = ClipNorm {
        max: 0.01,
        ..ClipNorm::default()
    };
    let like_full_state = LikeFullStateThatIsRounded(layout(), &STORAGES);
    like_full_state.holds(TwoPieces);
    like_full_state.holds((TwoPieces,));
    like_full_state.holds((Sgd::default(), TwoPieces, last, Ema::default()));
    like_full_state.holds(((ClipNorm::default(), TwoPieces), AdamW::default()));
}

struct AtEveryWidth;

impl AnyLaw for AtEveryWidth {
    fn holds<R: Rule + Debug>(&self, rule: R) {
        // A width is a matter of rows and blocks: a debug build, which vectorises none, is spared the
        // leaf of several pieces.
        let layout = match cfg!(debug_assertions) {
            true => layout_with(1030),
            false => layout(),
        };
        for storage in STORAGES {
            let all = || {
                let (flat, optimizer) = trained(&rule, &layout, storage);
                everything(&flat, &optimizer)
            };
            at_every_width(all, |width, found, widest| {
                assert!(found == widest, "{rule:?} in {storage:?} at {width:?}");
            });
        }
    }
}

#[test]
fn widths_agree() {
    rules::chains(&AtEveryWidth);
    AtEveryWidth.holds((AdamW::default(), TwoPieces));
}

#[test]
fn a_tree_moves_as_its_vector() {
    let model = tree!({ "w": (parameters(3000)), "b": [[1.0, 2.0], [3.0, 4.0]] });
    let layout = Layout::of(&model).unwrap();
    for storage in STORAGES {
        let (mut tree, mut flat) = (model.clone(), layout.gather(&model).unwrap());
        let rule = (ClipNorm::default(), AdamW::default(), Ema::default());
        let mut on_tree = Optimizer::with_storage(rule, &layout, storage).unwrap();
        let mut on_flat = on_tree.clone();
        for step in 1..=3 {
            let grads = tree!({ "w": (gradient(3000, step)), "b": [[0.1, 0.2], [0.3, -0.4]] });
            on_tree.update(&mut tree, &grads).unwrap();
            let grad = layout.gather_grad(&grads).unwrap();
            on_flat.step(&mut flat, &grad).unwrap();
        }
        let gathered = layout.gather(&tree).unwrap();
        assert!(everything(&gathered, &on_tree) == everything(&flat, &on_flat));
    }
}

// ---- Threads and members.

#[cfg(feature = "rayon")]
#[test]
fn numbers_of_threads_agree() {
    let layout = Layout::of(&(vec![0.0_f32; 5000], vec![0.0_f32; 1 << 18])).unwrap();
    let rule = (ClipNorm::default(), AdamW::default());
    // Where a thread begins, drawn numbers tell; in a release build the others are tried too.
    let storages = match cfg!(debug_assertions) {
        true => &STOCHASTIC[..],
        false => &STORAGES,
    };
    for &storage in storages {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                let mut flat = parameters(layout.len());
                let mut optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
                for step in 1..=2 {
                    let grad = gradient(layout.len(), step);
                    optimizer.step(&mut flat, &grad).unwrap();
                }
                everything(&flat, &optimizer)
            })
        };
        let one = with(1);
        assert!(with(3) == one, "{storage:?}");
    }
}

/// A leaf that shards cut, among small ones: in a debug build, once.
fn long_layout() -> Layout {
    let long = if cfg!(debug_assertions) {
        40_000
    } else {
        70_000
    };
    Layout::of(&(vec![0.0_f32; 300], vec![0.0_f32; long], vec![0.0_f32; 5])).unwrap()
}

/// Every member's gradients are others.
fn gradient_of_member(layout: &Layout, rank: usize, step: usize) -> FlatGrad {
    let elements = gradient(layout.len(), 10 * step + rank);
    FlatGrad::from_flat(layout, elements).unwrap()
}

const MEMBERS_STEPS: usize = 3;

/// What a member has after its steps, which keeps a range of the state or all of it.
fn member_of<R: Rule>(
    member: &mut Threads,
    rule: &R,
    storage: Storage,
    is_sharded: bool,
) -> (Vec<f32>, Optimizer<R>) {
    let layout = long_layout();
    let range = match is_sharded {
        true => layout.shards(member.size())[member.rank()].clone(),
        false => 0..layout.len(),
    };
    let mut flat = parameters(layout.len());
    let mut optimizer = Optimizer::of_range(rule.clone(), &layout, range).unwrap();
    optimizer.store_in(storage).unwrap();
    for step in 1..=MEMBERS_STEPS {
        let mut grad = gradient_of_member(&layout, member.rank(), step);
        optimizer.step_with(member, &mut flat, &mut grad).unwrap();
    }
    (flat, optimizer)
}

/// One that has the mean of so many members' gradients.
fn alone<R: Rule>(rule: &R, storage: Storage, size: usize) -> (Vec<f32>, Optimizer<R>) {
    let layout = long_layout();
    let mut flat = parameters(layout.len());
    let mut optimizer = Optimizer::with_storage(rule.clone(), &layout, storage).unwrap();
    for step in 1..=MEMBERS_STEPS {
        let members = (0..size).map(|rank| gradient_of_member(&layout, rank, step));
        let grad = members::mean(&layout, &members.collect::<Vec<_>>());
        optimizer.step(&mut flat, &grad).unwrap();
    }
    (flat, optimizer)
}

#[test]
fn members_keep_shards_of_what_one_keeps() {
    let layout = long_layout();
    let last = ClipNorm {
        max: 0.01,
        ..ClipNorm::default()
    };
    let rule = (ClipNorm::default(), AdamW::default(), last, Ema::default());
    for (storage, size) in STORAGES.into_iter().zip([2, 3, 3, 2]) {
        let what = format!("{storage:?}, {size} members");
        let (flat, alone) = alone(&rule, storage, size);
        let expected = everything(&flat, &alone);
        let ends = Threads::run(size, |member| member_of(member, &rule, storage, true));
        let snapshots = ends.iter().map(|(_, optimizer)| optimizer.snapshot());
        let snapshots: Vec<Snapshot<'_, _>> = snapshots.collect();
        let whole = Optimizer::resume_range(&snapshots, &layout, 0..layout.len()).unwrap();
        assert_eq!(whole.storage(), storage);
        for (flat, _) in &ends {
            assert!(everything(flat, &whole) == expected, "{what}");
        }
        // And cut anew.
        let again = layout.shards(5)[2].clone();
        let part = Optimizer::resume_range(&snapshots, &layout, again.clone()).unwrap();
        for name in ["exp_avg", "exp_avg_sq", "average"] {
            let all = alone.state_to_vec(name).unwrap();
            let own = part.state_to_vec(name).unwrap();
            assert!(own == all[again.clone()], "`{name}` in {what}");
        }
        // Whoever has all of the state draws as one member does; in a release build the storages that
        // do not draw are tried too.
        if cfg!(debug_assertions) && !STOCHASTIC.contains(&storage) {
            continue;
        }
        let ends = Threads::run(size, |member| member_of(member, &rule, storage, false));
        for (flat, optimizer) in &ends {
            assert!(
                everything(flat, optimizer) == expected,
                "{what}, replicated"
            );
        }
    }
}

#[test]
fn members_that_store_otherwise_do_not_step() {
    let layout = long_layout();
    let answers = Threads::run(2, |member| {
        let mut optimizer = Optimizer::new(Adam::default(), &layout).unwrap();
        let seed = member.rank() as u64;
        let rounding = Rounding::Stochastic { seed };
        optimizer.store_in(Storage::Bf16(rounding)).unwrap();
        let mut grad = FlatGrad::zeros(&layout);
        grad.set_present(0, true);
        let mut flat = parameters(layout.len());
        optimizer
            .step_with(member, &mut flat, &mut grad)
            .unwrap_err()
    });
    assert!(answers.iter().all(|error| error.is_member()));
}

// ---- What stays.

#[test]
fn a_step_that_is_refused_or_skipped_leaves_the_state() {
    let layout = layout();
    for storage in STORAGES {
        for non_finite in [NonFinite::Error, NonFinite::Skip] {
            let clip = ClipNorm {
                non_finite,
                ..ClipNorm::default()
            };
            let rule = (
                Sgd {
                    momentum: 0.9,
                    ..Sgd::default()
                },
                clip,
                Lion::default(),
            );
            let (mut flat, mut optimizer) = trained(&rule, &layout, storage);
            let before = everything(&flat, &optimizer);
            let mut grad = gradient(layout.len(), 9);
            grad[300] = f32::NAN;
            let answer = optimizer.step(&mut flat, &grad);
            assert!(answer.is_err() == (non_finite == NonFinite::Error));
            assert!(everything(&flat, &optimizer) == before, "{storage:?}");
        }
    }
}

/// Moments that a gate holds back are not read and rounded anew.
#[test]
fn what_no_stage_touches_is_not_rounded_again() {
    let layout = layout();
    let rule = (Accumulate { steps: 3 }, AdamW::default());
    for storage in STORAGES {
        let mut flat = parameters(layout.len());
        let mut optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
        let mut moments = Vec::new();
        for step in 1..=6 {
            optimizer
                .step(&mut flat, &gradient(layout.len(), step))
                .unwrap();
            let [m, v] =
                ["exp_avg", "exp_avg_sq"].map(|name| optimizer.state_to_vec(name).unwrap());
            moments.push((bits(&m), bits(&v)));
        }
        assert!(moments[0] == moments[1] && moments[2] == moments[4]);
        assert!(moments[1] != moments[2] && moments[4] != moments[5]);
    }
}

#[test]
fn absent_and_frozen_leaves_keep_their_codes() {
    let layout = Layout::of(&(vec![0.0_f32; 300], vec![0.0_f32; 300], vec![0.0_f32; 300])).unwrap();
    for storage in STORAGES {
        let (mut flat, mut optimizer) = trained(&AdamW::default(), &layout, storage);
        optimizer.freeze("2").unwrap();
        let before = everything(&flat, &optimizer);
        let mut grad = FlatGrad::from_flat(&layout, gradient(900, 6)).unwrap();
        grad.set_present(1, false);
        optimizer.step(&mut flat, &grad).unwrap();
        let after = everything(&flat, &optimizer);
        assert!(after.1[0] != before.1[0]);
        assert!(after.1[1..] == before.1[1..], "{storage:?}");
    }
}

#[test]
fn a_nan_in_a_moment_stays_one() {
    let layout = Layout::of(&vec![0.0_f32; 1000]).unwrap();
    for (storage, spoilt) in [
        (STORAGES[0], 300..301),
        (STORAGES[1], 300..301),
        (STORAGES[2], 256..512),
        (STORAGES[3], 256..512),
    ] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut flat = parameters(1000);
            let mut optimizer =
                Optimizer::with_storage(AdamW::default(), &layout, storage).unwrap();
            let mut grad = gradient(1000, 1);
            grad[300] = bad;
            optimizer.step(&mut flat, &grad).unwrap();
            optimizer.step(&mut flat, &gradient(1000, 2)).unwrap();
            let moment = optimizer.state_to_vec("exp_avg").unwrap();
            for (index, x) in moment.iter().enumerate() {
                assert_eq!(
                    x.is_finite(),
                    !spoilt.contains(&index),
                    "{storage:?}, {index}"
                );
            }
        }
    }
}

// ---- Stored, taken up, changed.

/// Resumed after two steps, by way of `through`, and compared with a run that was not interrupted.
fn goes_on<R: Rule>(rule: R, through: impl Fn(&Optimizer<R>, &Layout) -> Optimizer<R>) {
    let layout = layout();
    for storage in STORAGES {
        let (expected, whole) = trained(&rule, &layout, storage);
        let mut flat = parameters(layout.len());
        let mut optimizer = Optimizer::with_storage(rule.clone(), &layout, storage).unwrap();
        for step in 1..=STEPS {
            if step == 3 {
                optimizer = through(&optimizer, &layout);
                assert_eq!(optimizer.storage(), storage);
            }
            optimizer
                .step(&mut flat, &gradient_of(&layout, step))
                .unwrap();
        }
        assert!(
            everything(&flat, &optimizer) == everything(&expected, &whole),
            "{storage:?}"
        );
    }
}

type Chain = (ClipNorm, AdamW, Ema);

#[test]
fn a_resumed_run_has_the_bits_of_one_that_was_not_interrupted() {
    goes_on(Chain::default(), |optimizer, layout| {
        Optimizer::resume(optimizer.snapshot(), layout).unwrap()
    });
    goes_on(Chain::default(), |optimizer, layout| {
        let mut resumed = Optimizer::new(Chain::default(), layout).unwrap();
        resumed.store_in(optimizer.storage()).unwrap();
        for leaf in layout.leaves() {
            let state = optimizer.leaf_state(leaf.path()).unwrap();
            resumed.set_leaf_state(leaf.path(), &state).unwrap();
        }
        resumed
    });
    goes_on(Chain::default(), |optimizer, layout| {
        let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), layout).unwrap();
        assert_eq!(migration, Default::default());
        migrated
    });
}

#[cfg(feature = "serde")]
#[test]
fn a_snapshot_in_text_keeps_the_bits() {
    goes_on(Chain::default(), |optimizer, layout| {
        let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
        assert!(text.starts_with(r#"{"version":2,"#), "{text:.40}");
        let snapshot: Snapshot<'_, Chain> = serde_json::from_str(&text).unwrap();
        Optimizer::resume(snapshot, layout).unwrap()
    });
    let layout = Layout::of(&vec![0.0_f32; 2]).unwrap();
    let mut optimizer =
        Optimizer::with_storage(Lion::default(), &layout, Storage::Bf16(Rounding::default()))
            .unwrap();
    optimizer.step(&mut [0.0, 0.0], &[100.0, -200.0]).unwrap();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    let state = r#"{"name":"exp_avg as bf16, at random with seed 0","elements":[1.0,-2.0]}"#;
    assert!(text.contains(state), "{text}");
    // A NaN of a block.
    optimizer
        .store_in(Storage::EightBits(Rounding::Nearest))
        .unwrap();
    optimizer.step(&mut [0.0, 0.0], &[f32::NAN, 1.0]).unwrap();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    let snapshot: Snapshot<'_, Lion> = serde_json::from_str(&text).unwrap();
    let resumed = Optimizer::resume(snapshot, &layout).unwrap();
    assert!(
        resumed
            .state_to_vec("exp_avg")
            .unwrap()
            .iter()
            .all(|x| x.is_nan())
    );
}

#[cfg(feature = "serde")]
#[test]
fn what_a_snapshot_cannot_say_is_an_error() {
    let layout = Layout::of(&vec![0.0_f32; 3]).unwrap();
    let storage = Storage::Bf16(Rounding::Nearest);
    let mut optimizer = Optimizer::with_storage(Adam::default(), &layout, storage).unwrap();
    optimizer.step(&mut [0.0; 3], &[1.0; 3]).unwrap();
    let text = serde_json::to_string(&optimizer.snapshot()).unwrap();
    let mixed = text.replace("exp_avg_sq as bf16", "exp_avg_sq as 8 bits signed");
    let error = Optimizer::resume(
        serde_json::from_str::<Snapshot<'_, Adam>>(&mixed).unwrap(),
        &layout,
    );
    assert!(error.unwrap_err().is_invalid_state());
    let unknown = text.replace("as bf16", "as bf17");
    let error = Optimizer::resume(
        serde_json::from_str::<Snapshot<'_, Adam>>(&unknown).unwrap(),
        &layout,
    );
    assert!(error.unwrap_err().is_invalid_state());
    // Of f64 there is none in fewer bytes.
    let of_f64 = text.replacen(
        r#""version":2"#,
        &format!(r#""version":{}"#, 2 + (1 << 16)),
        1,
    );
    let snapshot: Snapshot<'_, Adam, f64> = serde_json::from_str(&of_f64).unwrap();
    let error = Optimizer::resume(snapshot, &layout).unwrap_err();
    assert!(error.is_invalid_state());
}

#[test]
fn state_is_migrated_to_fewer_bytes_and_back() {
    let layout = layout();
    let full = trained(&Chain::default(), &layout, Storage::Full).1;
    for storage in STORAGES {
        let snapshot = full.snapshot().stored_in(storage);
        let (packed, migration) = Optimizer::migrate(snapshot, &layout).unwrap();
        assert_eq!(packed.storage(), storage);
        let mut otherwise = vec!["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
        if let Storage::Bf16(_) = storage {
            otherwise.push("average");
        }
        assert_eq!(migration.stored_otherwise, otherwise);
        for name in otherwise {
            let (x, y) = (
                full.state_to_vec(name).unwrap(),
                packed.state_to_vec(name).unwrap(),
            );
            let greatest = x.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
            let near = x
                .iter()
                .zip(&y)
                .all(|(x, y)| (x - y).abs() <= 0.008 * greatest);
            assert!(near, "`{name}` in {storage:?}");
        }
        assert!(packed.state_bytes() < full.state_bytes());
        // Back nothing is lost.
        let snapshot = packed.snapshot().stored_in(Storage::Full);
        let (back, migration) = Optimizer::migrate(snapshot, &layout).unwrap();
        assert_eq!(back.storage(), Storage::Full);
        assert_eq!(migration.stored_otherwise[..2], ["exp_avg", "exp_avg_sq"]);
        assert!(everything(&[], &back) == everything(&[], &packed));
        let mut stored = full.clone();
        stored.store_in(storage).unwrap();
        assert!(everything(&[], &stored) == everything(&[], &packed));
        stored.store_in(Storage::Full).unwrap();
        assert!(everything(&[], &stored) == everything(&[], &packed));
        assert_eq!(
            stored.state_of("exp_avg").map(<[f32]>::len),
            Some(layout.len())
        );
    }
}

#[test]
fn a_migration_to_a_grown_model_carries_codes_over() {
    let layout = Layout::of(&tree!({ "a": (parameters(300)), "b": (parameters(700)) })).unwrap();
    let grown = Layout::of(&tree!({ "0": [1.0, 2.0, 3.0], "b": (parameters(700)) })).unwrap();
    for storage in STORAGES {
        let mut flat = parameters(1000);
        let mut optimizer = Optimizer::with_storage(AdamW::default(), &layout, storage).unwrap();
        optimizer.step(&mut flat, &gradient(1000, 1)).unwrap();
        let (migrated, migration) = Optimizer::migrate(optimizer.snapshot(), &grown).unwrap();
        assert_eq!(
            (migration.added, migration.removed),
            (vec!["0".into()], vec!["a".into()])
        );
        assert!(migrated.leaf_state("b") == optimizer.leaf_state("b"));
        assert_eq!(migrated.storage(), storage);
    }
}

#[test]
fn a_leaf_is_reset_by_itself() {
    let layout = layout();
    for storage in STORAGES {
        let (flat, mut optimizer) = trained(&Chain::default(), &layout, storage);
        let before = everything(&flat, &optimizer);
        optimizer.reset("e").unwrap();
        let after = everything(&flat, &optimizer);
        assert!(after.1[4].2.iter().flatten().all(|bits| *bits == 0));
        assert!(after.1[..4] == before.1[..4] && after.1[5..] == before.1[5..]);
        optimizer.reset_state("average", "**").unwrap();
        let average = optimizer.state_to_vec("average").unwrap();
        assert!(average.iter().all(|x| *x == 0.0));
        let moment = optimizer.state_to_vec("exp_avg").unwrap();
        assert!(moment.iter().any(|x| *x != 0.0));
    }
}

#[test]
fn an_average_in_bf16_is_taken_over_the_model() {
    let layout = Layout::of(&tree!({ "a": [1.0, 2.0], "b": [3.0] })).unwrap();
    let rule = (
        Sgd {
            lr: 1.0,
            ..Sgd::default()
        },
        Ema::default(),
    );
    let storage = Storage::Bf16(Rounding::Nearest);
    let mut optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
    optimizer.freeze("b").unwrap();
    let mut flat = [1.0, 2.0, 3.3];
    optimizer.step(&mut flat, &[0.5, 0.5, 0.5]).unwrap();
    assert_eq!(
        optimizer.state_over("average", &flat).unwrap(),
        [0.5, 1.5, 3.3]
    );
}

#[test]
fn an_outer_optimizer_keeps_its_state_so_too() {
    let layout = Layout::of(&vec![0.0_f32; 300]).unwrap();
    let rule = Sgd {
        lr: 0.7,
        momentum: 0.9,
        ..Sgd::default()
    };
    let storage = Storage::Bf16(Rounding::default());
    let optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
    let mut flat = parameters(300);
    let mut outer = OuterOptimizer::of_parts(optimizer, &flat).unwrap();
    flat.iter_mut().for_each(|x| *x -= 0.1);
    outer.end_round(&mut Alone, &mut flat, 1.0).unwrap();
    assert_eq!(outer.optimizer().state_bytes(), 600);
    assert_eq!(outer.start(), flat);
}

// ---- What is kept how.

#[test]
fn bytes_are_a_half_and_a_quarter() {
    let layout = Layout::of(&vec![0.0_f32; 1 << 16]).unwrap();
    let bytes = |storage| {
        let optimizer = Optimizer::with_storage(AdamW::default(), &layout, storage).unwrap();
        optimizer.state_bytes()
    };
    let full = bytes(Storage::Full);
    assert_eq!(full, 3 << 18);
    assert_eq!(bytes(STORAGES[0]), full / 2);
    assert_eq!(bytes(STORAGES[2]), full / 4 + 3 * 4 * 256);
}

#[test]
fn what_is_no_moment_stays_full_in_8_bits() {
    fn kept<R: Rule>(rule: R) -> Vec<(&'static str, bool)> {
        let layout = Layout::of(&vec![0.0_f32; 3]).unwrap();
        let storage = STORAGES[2];
        let optimizer = Optimizer::with_storage(rule, &layout, storage).unwrap();
        let names = optimizer.rule("").unwrap().states();
        let is_full = |name: &&'static str| {
            let kept = optimizer.storage_of(name).unwrap();
            assert!(kept == storage || kept == Storage::Full);
            (*name, kept == Storage::Full)
        };
        names.iter().map(is_full).collect()
    }
    assert_eq!(kept(AdaGrad::default()), [("sum", true)]);
    assert_eq!(
        kept((Accumulate { steps: 2 }, Lamb::default(), Ema::default())),
        [
            ("accumulated", true),
            ("exp_avg", false),
            ("exp_avg_sq", false),
            ("average", true)
        ]
    );
    assert_eq!(
        kept(Muon::default()),
        [
            ("momentum_buffer", false),
            ("exp_avg", false),
            ("exp_avg_sq", false)
        ]
    );
}

#[test]
fn there_is_no_slice_of_what_is_in_fewer_bytes() {
    let layout = Layout::of(&vec![0.0_f32; 3]).unwrap();
    for storage in STORAGES {
        let optimizer = Optimizer::with_storage(Lion::default(), &layout, storage).unwrap();
        assert_eq!(optimizer.state_of("exp_avg"), None);
        assert_eq!(optimizer.state_to_vec("exp_avg"), Some(vec![0.0; 3]));
        assert_eq!(optimizer.storage_of("exp_avg"), Some(storage));
    }
}

#[test]
#[should_panic = "expected a state vector that is kept full, found `exp_avg` in Bf16(Nearest) (`state_to_vec` copies it)"]
fn all_slices_are_handed_out_or_none() {
    let layout = Layout::of(&vec![0.0_f32; 3]).unwrap();
    let optimizer = Optimizer::with_storage(Lion::default(), &layout, STORAGES[0]).unwrap();
    optimizer.state().next();
}
