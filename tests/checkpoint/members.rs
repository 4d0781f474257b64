//! One file to which the members of a run write, each its own bytes, and runs that go on from it.

use std::ops::Range;
use std::path::Path;

use flatleaf::checkpoint::{self, Extras};
use flatleaf::optim::{Accumulate, AdamW, ClipNorm, Ema, Optimizer, Rounding, Storage};
use flatleaf::{Communicator, Error, FlatGrad, Layout, Result, Threads, tree};

use crate::files::Folder;

type Chain = (Accumulate, ClipNorm, AdamW, Ema);

fn rule() -> Chain {
    (
        Accumulate { steps: 2 },
        ClipNorm::default(),
        AdamW::default(),
        Ema::default(),
    )
}

/// One leaf is long enough to be cut.
fn layout() -> Layout {
    let zeros = |len: usize| vec![0.0_f32; len];
    let model = tree!({ "a": [[0.0, 0.0], [0.0, 0.0]], "b": (zeros(70_000)), "c": (zeros(3)) });
    Layout::of(&model).unwrap()
}

fn parameters(len: usize) -> Vec<f32> {
    periodic(len, 37, |index| index as f32 * 0.1 - 1.5)
}

fn gradient(layout: &Layout, step: usize) -> FlatGrad {
    let element = |index: usize| ((index * 29 + step * 13) % 23) as f32 / 11.0 - 1.0;
    FlatGrad::from_flat(layout, periodic(layout.len(), 23, element)).unwrap()
}

/// Copies one period, since these vectors are made many times, in debug builds too.
fn periodic(len: usize, period: usize, of: impl Fn(usize) -> f32) -> Vec<f32> {
    let period: Vec<f32> = (0..period).map(of).collect();
    let mut elements = period.repeat(len.div_ceil(period.len()));
    elements.truncate(len);
    elements
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Steps of a member by the gradient of the first one, so that their number makes no difference.
fn train(
    member: &mut impl Communicator,
    optimizer: &mut Optimizer<Chain>,
    flat: &mut [f32],
    steps: Range<usize>,
) {
    let weight = if member.rank() == 0 { 1.0 } else { 0.0 };
    for step in steps {
        let mut grad = gradient(optimizer.layout(), step);
        let report = optimizer.step_weighted_with(member, flat, &mut grad, weight);
        report.unwrap();
    }
}

/// A run of so many members that takes three steps and writes one file.
fn run_and_save(size: usize, storage: Storage, path: &Path) {
    let ends = Threads::run(size, |member| -> Result<()> {
        let layout = layout();
        let shard = layout.shards(size)[member.rank()].clone();
        let mut optimizer = Optimizer::of_range(rule(), &layout, shard)?;
        optimizer.store_in(storage)?;
        let mut flat = parameters(layout.len());
        train(member, &mut optimizer, &mut flat, 0..3);
        let extras = Extras::new()
            .optimizer("opt", &optimizer)
            .metadata("epoch", "3");
        checkpoint::save_flat_with(member, path, &layout, &flat, &extras)
    });
    for end in ends {
        end.unwrap();
    }
}

/// Three steps more, by so many members.
fn run_goes_on(size: usize, path: &Path) -> Vec<(Vec<f32>, Optimizer<Chain>)> {
    Threads::run(size, |member| {
        let layout = layout();
        let file = checkpoint::open(path).unwrap();
        file.check_shards(member, &layout).unwrap();
        let shard = layout.shards(size)[member.rank()].clone();
        let part = file.part("opt").unwrap();
        let mut optimizer = part.resume_range(&layout, shard).unwrap();
        let mut flat = file.flat_for(&layout).unwrap().into_owned();
        train(member, &mut optimizer, &mut flat, 3..6);
        (flat, optimizer)
    })
}

#[test]
fn a_run_whose_state_is_in_fewer_bytes_goes_on_so_too() {
    let folder = Folder::new();
    let path = folder.path("training");
    let layout = layout();
    for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 3 }] {
        for storage in [Storage::Bf16(rounding), Storage::EightBits(rounding)] {
            let mut expected = parameters(layout.len());
            let mut alone = Optimizer::with_storage(rule(), &layout, storage).unwrap();
            for step in 0..6 {
                alone.step(&mut expected, &gradient(&layout, step)).unwrap();
            }
            // What is drawn depends on where every element is: a debug build tries all numbers of
            // members with that.
            let numbers = match cfg!(debug_assertions) && rounding == Rounding::Nearest {
                true => &[(3, 2)][..],
                false => &[(1, 3), (3, 2), (4, 1)],
            };
            for &(before, after) in numbers {
                run_and_save(before, storage, &path);
                for (flat, optimizer) in run_goes_on(after, &path) {
                    let what = format!("{storage:?} from {before} to {after}");
                    assert_eq!(optimizer.storage(), storage);
                    assert!(bits(&flat) == bits(&expected), "{what}");
                    for name in ["accumulated", "exp_avg", "exp_avg_sq", "average"] {
                        let own = optimizer.state_to_vec(name).unwrap();
                        let all = alone.state_to_vec(name).unwrap();
                        assert!(
                            bits(&own) == bits(&all[optimizer.range()]),
                            "`{name}`, {what}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_run_goes_on_from_one_file_with_another_number_of_members() {
    let folder = Folder::new();
    let layout = layout();
    let mut expected = parameters(layout.len());
    let mut alone = Optimizer::new(rule(), &layout).unwrap();
    for step in 0..6 {
        alone.step(&mut expected, &gradient(&layout, step)).unwrap();
    }
    for before in 1..=4 {
        let path = folder.path(&format!("{before}.safetensors"));
        run_and_save(before, Storage::Full, &path);
        for after in (1..=4).filter(|after| !cfg!(debug_assertions) || after % 2 == 1) {
            let ends = run_goes_on(after, &path);
            for (flat, optimizer) in ends {
                let what = format!("from {before} to {after}");
                assert!(bits(&flat) == bits(&expected), "{what}");
                for ((_, state), (_, expected)) in optimizer.state().zip(alone.state()) {
                    assert!(bits(state) == bits(&expected[optimizer.range()]), "{what}");
                }
            }
        }
        // It is an ordinary file.
        let file = checkpoint::open(&path).unwrap();
        assert_eq!(file.metadata()["epoch"], "3");
        assert_eq!(file.fingerprint(), Some(layout.fingerprint()));
        let mut resumed: Optimizer<Chain> = file.part("opt").unwrap().resume(&layout).unwrap();
        let mut flat = file.flat_for(&layout).unwrap().into_owned();
        for step in 3..6 {
            resumed.step(&mut flat, &gradient(&layout, step)).unwrap();
        }
        assert!(bits(&flat) == bits(&expected), "{before}");
        assert_eq!(resumed.step_count("b"), Some(3));
    }
}

#[test]
fn a_file_of_one_member_is_taken_up_by_several() {
    let folder = Folder::new();
    let layout = layout();
    let mut optimizer = Optimizer::new(rule(), &layout).unwrap();
    let mut flat = parameters(layout.len());
    optimizer.step(&mut flat, &gradient(&layout, 0)).unwrap();
    let path = folder.path("one.safetensors");
    let extras = Extras::new().optimizer("opt", &optimizer);
    checkpoint::save_flat(&path, &layout, &flat, &extras).unwrap();
    let part = checkpoint::open(&path).unwrap().part("opt").unwrap();
    for range in layout.shards(3) {
        let member: Optimizer<Chain> = part.resume_range(&layout, range.clone()).unwrap();
        let state = member.state_of("accumulated").unwrap();
        assert_eq!(state, &optimizer.state_of("accumulated").unwrap()[range]);
    }
}

#[test]
fn a_torn_share_is_an_error_on_all_members_that_names_its_member() {
    let folder = Folder::new();
    let path = folder.path("torn.safetensors");
    run_and_save(2, Storage::Full, &path);
    let layout = layout();
    let shards = layout.shards(2);
    // One byte of the model that member 1 wrote, and the file's last kilobyte.
    let file = checkpoint::open(&path).unwrap();
    let data = std::fs::read(&path).unwrap();
    let b = file.bytes("b").unwrap();
    let at = data
        .windows(b.len())
        .position(|window| window == b)
        .unwrap();
    drop(file);
    let mut torn = data.clone();
    let within_b = shards[1].start - layout.leaf("b").unwrap().range().start;
    torn[at + 4 * within_b] ^= 1;
    std::fs::write(&path, &torn).unwrap();
    for size in 1..=4 {
        let answers = Threads::run(size, |member| {
            let file = checkpoint::open(&path).unwrap();
            file.check_shards(member, &layout).unwrap_err()
        });
        for (rank, error) in answers.into_iter().enumerate() {
            let found_here = rank == 1 % size;
            assert!(
                if found_here {
                    error.is_invalid_file()
                } else {
                    error.is_member()
                },
                "{error:?}"
            );
            let share = format!(
                "the share of member 1, elements {}..{}",
                shards[1].start, shards[1].end
            );
            assert!(error.to_string().contains(&share), "{error}");
        }
    }
    // Cut off, it does not open.
    std::fs::write(&path, &data[..data.len() - 1000]).unwrap();
    let answers = Threads::run(2, |member| {
        let opened = checkpoint::open(&path);
        member.agree(opened).unwrap_err()
    });
    assert!(answers.iter().all(Error::is_invalid_file));
}

#[test]
fn a_member_that_cannot_write_leaves_the_old_file_to_all() {
    let folder = Folder::new();
    let path = folder.path("kept.safetensors");
    run_and_save(2, Storage::Full, &path);
    let before = std::fs::read(&path).unwrap();
    let layout = layout();
    let gone = folder.path("gone").join("kept.safetensors");
    let answers = Threads::run(3, |member| {
        let rank = member.rank();
        let flat = vec![rank as f32; layout.len() - usize::from(rank == 2)];
        let own = &flat[..];
        // First a vector of another length on one member, then a folder that another one lacks.
        let first = checkpoint::save_flat_with(member, &path, &layout, own, &Extras::new());
        let whole = vec![0.0; layout.len()];
        let place = if rank == 1 { &gone } else { &path };
        let second = checkpoint::save_flat_with(member, place, &layout, &whole, &Extras::new());
        let ranged = Optimizer::of_range(rule(), &layout, layout.shards(3)[0].clone()).unwrap();
        let extras = Extras::new().optimizer("opt", &ranged); // the first range on all
        let third = checkpoint::save_flat_with(member, &path, &layout, &whole, &extras);
        [first, second, third].map(Result::unwrap_err)
    });
    for (rank, [first, second, third]) in answers.into_iter().enumerate() {
        assert!(
            if rank == 2 {
                first.is_length()
            } else {
                first.is_member()
            },
            "{first:?}"
        );
        assert!(
            if rank == 1 {
                second.is_io()
            } else {
                second.is_member()
            },
            "{second:?}"
        );
        assert!(third.is_argument(), "{third:?}");
    }
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(folder.names(), ["kept.safetensors"]);
}

#[test]
fn one_member_does_not_write_the_state_of_a_range_alone() {
    let folder = Folder::new();
    let layout = layout();
    let shard = layout.shards(2)[0].clone();
    let optimizer = Optimizer::of_range(rule(), &layout, shard).unwrap();
    let extras = Extras::new().optimizer("opt", &optimizer);
    let path = folder.path("alone.safetensors");
    let flat = parameters(layout.len());
    let error = checkpoint::save_flat(&path, &layout, &flat, &extras).unwrap_err();
    assert!(
        error.is_argument() && error.path() == Some("opt"),
        "{error}"
    );
    assert!(error.to_string().contains("save_flat_with"), "{error}");
    assert!(!path.exists());
}
