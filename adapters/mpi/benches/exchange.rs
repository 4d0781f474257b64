//! One exchange of a flat gradient, beside MPI's own sum and beside one exchange for each leaf; and a
//! step of clip + AdamW that is sharded beside one that is replicated.
//!
//! `cargo bench --bench exchange -- [ranks] [rounds]` starts itself as a job of so many ranks, 2
//! unless told otherwise. Rows take turns within a round, every rank's time is the longest of all,
//! and the ratios are medians over the rounds. Each answer is checked: ranks hold small whole
//! numbers, whose sums are exact in any order; a sharded step has to give the bits of a replicated one.

use std::process::Command;
use std::time::Instant;

use ferrompi::{Communicator as World, Mpi as Library, ReduceOp, ThreadLevel};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
use flatleaf::{Communicator, FlatGrad, Result, destructure};

/// The adapter's own source, since a world of MPI's is no part of its interface.
#[allow(dead_code)]
#[path = "../src/communicator.rs"]
mod communicator;

use communicator::Mpi;

/// Set for the ranks, which the launcher starts.
const RANK: &str = "FLATLEAF_MPI_BENCH_RANK";

fn main() {
    let numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let numbers: Vec<usize> = numbers.collect();
    let ranks = numbers.first().copied().unwrap_or(2);
    let rounds = numbers.get(1).copied().unwrap_or(7);
    if std::env::var(RANK).is_ok() {
        run(rounds);
    } else {
        start(ranks, rounds);
    }
}

fn start(ranks: usize, rounds: usize) {
    let launcher = std::env::var("FLATLEAF_MPIEXEC").unwrap_or_else(|_| "mpirun".into());
    let status = Command::new(&launcher)
        .args(["-np", &ranks.to_string()])
        .arg(std::env::current_exe().expect("this program"))
        .args([ranks.to_string(), rounds.to_string()])
        .env(RANK, "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .env("RAYON_NUM_THREADS", "1")
        .status();
    let status = status.unwrap_or_else(|error| panic!("`{launcher}` cannot be started: {error}"));
    assert!(status.success(), "{status}");
}

/// A tree as a gradient of it arrives: leaves, one behind the other.
struct Tree {
    name: &'static str,
    leaves: usize,
    leaf: usize,
}

const TREES: [Tree; 3] = [
    Tree {
        name: "269k in 6",
        leaves: 6,
        leaf: 44_848,
    },
    Tree {
        name: "25.6M in 160",
        leaves: 160,
        leaf: 160_000,
    },
    Tree {
        name: "10,000 of 64",
        leaves: 10_000,
        leaf: 64,
    },
];

const ROWS: [&str; 4] = [
    "memcpy",
    "ordered sum, one vector",
    "MPI's sum, one vector",
    "MPI's sum, each leaf",
];

fn run(rounds: usize) {
    let library = Library::init_thread(ThreadLevel::Funneled).expect("MPI");
    let world = library.world();
    let mut communicator = Mpi::new(library.world());
    let is_first = communicator.rank() == 0;
    let print = |line: String| {
        if is_first {
            println!("{line}");
        }
    };
    print("| gradient | exchange | × memcpy | × ordered sum |".into());
    print("| --- | --- | --- | --- |".into());
    for tree in &TREES {
        let times = turns(tree, &world, &mut communicator, rounds);
        for (row, name) in ROWS.iter().enumerate() {
            let beside = |other: usize| {
                median(
                    times
                        .iter()
                        .map(|times| times[row] / times[other])
                        .collect(),
                )
            };
            let (copy, ordered) = (beside(0), beside(1));
            print(format!(
                "| {} | {name} | {copy:.1} | {ordered:.2} |",
                tree.name
            ));
        }
    }
    print(
        "\n| clip + AdamW | sharded, × replicated | state on rank 0, replicated | sharded |".into(),
    );
    print("| --- | --- | --- | --- |".into());
    for tree in &TREES {
        let (ratio, bytes) = steps(tree, &world, &mut communicator, rounds).expect("steps");
        let [replicated, sharded] = bytes.map(|bytes| bytes as f64 / 1e6);
        print(format!(
            "| {} | {ratio:.2} | {replicated:.1} MB | {sharded:.1} MB |",
            tree.name
        ));
    }
}

/// The time of a sharded step over that of a replicated one, and the bytes of state of each here.
fn steps(
    tree: &Tree,
    world: &World,
    communicator: &mut Mpi,
    rounds: usize,
) -> Result<(f64, [usize; 2])> {
    let model = vec![vec![0.5_f32; tree.leaf]; tree.leaves];
    let (flat, layout) = destructure(&model)?;
    let shard = layout.shards(communicator.size())[communicator.rank()].clone();
    let mut flats = [flat.clone(), flat];
    let rule = (ClipNorm::default(), AdamW::default());
    let mut optimizers = [
        Optimizer::new(rule, &layout)?,
        Optimizer::of_range(rule, &layout, shard)?,
    ];
    let own = gradient(tree, communicator.rank());
    let mut grad = FlatGrad::zeros(&layout);
    let mut quotients = Vec::new();
    // The first round touches memory and makes connections.
    for round in 0..=rounds {
        let mut seconds = [0.0; 2];
        let pairs = optimizers.iter_mut().zip(&mut flats);
        for ((optimizer, flat), seconds) in pairs.zip(&mut seconds) {
            grad.copy_from_slice(&own);
            (0..tree.leaves).for_each(|leaf| grad.set_present(leaf, true));
            world.barrier().expect("all ranks");
            let start = Instant::now();
            optimizer.step_with(communicator, flat, &mut grad)?;
            *seconds = longest(world, start);
        }
        if round > 0 {
            quotients.push(seconds[1] / seconds[0]);
        }
        assert!(flats[0] == flats[1], "a sharded step is another one");
    }
    let bytes = optimizers.map(|optimizer| {
        let vectors = optimizer.state().map(|(_, state)| 4 * state.len());
        vectors.sum()
    });
    Ok((median(quotients), bytes))
}

/// The seconds of the slowest rank.
fn longest(world: &World, start: Instant) -> f64 {
    let mut longest = [start.elapsed().as_secs_f64()];
    let greatest = world.allreduce_inplace(&mut longest, ReduceOp::Max);
    greatest.expect("an exchange");
    longest[0]
}

/// For every round the seconds of every row.
fn turns(tree: &Tree, world: &World, communicator: &mut Mpi, rounds: usize) -> Vec<[f64; 4]> {
    let own = gradient(tree, communicator.rank());
    let size = communicator.size();
    let mut x = own.clone();
    let mut round = || {
        let mut seconds = [0.0; ROWS.len()];
        for (row, seconds) in seconds.iter_mut().enumerate() {
            x.copy_from_slice(&own);
            world.barrier().expect("all ranks");
            let start = Instant::now();
            exchange(row, tree, world, communicator, (&mut x, &own)).expect("an exchange");
            *seconds = longest(world, start);
            check(&x, row, communicator.rank(), size);
        }
        seconds
    };
    round(); // memory is touched, and connections are made
    (0..rounds).map(|_| round()).collect()
}

fn exchange(
    row: usize,
    tree: &Tree,
    world: &World,
    communicator: &mut Mpi,
    (x, own): (&mut [f32], &[f32]),
) -> Result<()> {
    let of_mpi = |result: ferrompi::Result<()>| result.map_err(flatleaf::Error::custom);
    match row {
        0 => {
            x.copy_from_slice(std::hint::black_box(own));
            Ok(())
        }
        1 => communicator.sum(x),
        2 => of_mpi(world.allreduce_inplace(x, ReduceOp::Sum)),
        _ => {
            let mut leaves = x.chunks_mut(tree.leaf);
            leaves.try_for_each(|leaf| of_mpi(world.allreduce_inplace(leaf, ReduceOp::Sum)))
        }
    }
}

/// Whole numbers: index modulo 251, times one more than the rank.
fn gradient(tree: &Tree, rank: usize) -> Vec<f32> {
    let elements = 0..tree.leaves * tree.leaf;
    elements
        .map(|index| ((index % 251) * (rank + 1)) as f32)
        .collect()
}

fn check(x: &[f32], row: usize, rank: usize, size: usize) {
    let factor = match row {
        0 => rank + 1,
        _ => size * (size + 1) / 2,
    };
    for (index, x) in x.iter().enumerate() {
        assert_eq!(*x, ((index % 251) * factor) as f32, "{} {index}", ROWS[row]);
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
