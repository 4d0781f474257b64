//! Jobs of several processes: each test starts the launcher with this very program, told to be one
//! member of a job, and reads what the ranks print.
//!
//! `FLATLEAF_MPIEXEC` names another launcher than `mpirun`.

mod checkpoints;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flatleaf::optim::{AdamW, ClipNorm, Lamb, Optimizer, OuterOptimizer, Rule, Sgd};
use flatleaf::{Alone, Communicator, FlatGrad, Layout, Result, Threads};

/// Which program a member of a job is.
const MEMBER: &str = "FLATLEAF_MPI_TEST_MEMBER";
/// A job that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// How a job ended, and what all its ranks printed.
struct Ended {
    success: bool,
    text: String,
}

fn launcher() -> String {
    std::env::var("FLATLEAF_MPIEXEC").unwrap_or_else(|_| "mpirun".into())
}

/// Starts a job of this program as `member`, and waits for its end.
fn job(member: &str, size: usize) -> Ended {
    job_with(member, size, &[])
}

/// As [`job`], with these variables in the environment of its ranks.
fn job_with(member: &str, size: usize, variables: &[(&str, &str)]) -> Ended {
    let mut child = Command::new(launcher())
        .args(["-np", &size.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "member", "--ignored", "--nocapture"])
        .env(MEMBER, member)
        .envs(variables.iter().copied())
        // Containers run as root, and have fewer cores than ranks.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{}` cannot be started: {error}", launcher()));
    let reader = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("the job `{member}` of {size} ranks hangs");
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = out.join().unwrap() + &err.join().unwrap();
    Ended {
        success: status.success(),
        text,
    }
}

/// What a rank of a job does.
#[test]
#[ignore = "a member of a job, started by the other tests"]
fn member() {
    let program = std::env::var(MEMBER).expect("started by a test");
    flatleaf_mpi::run(|communicator| match program.as_str() {
        "suite" => {
            communicator.set_largest_message(1 << 26);
            let whole = digest(communicator)?;
            // The same numbers in pieces.
            communicator.set_largest_message(400);
            let pieces = digest(communicator)?;
            println!("digest {whole:016x} rank {}", communicator.rank());
            println!("digest {pieces:016x} rank {}", communicator.rank());
            Ok(())
        }
        "panic" => {
            assert!(communicator.rank() != 1, "rank 1 has no data");
            communicator.sum(&mut [1.0])
        }
        "error" => {
            let found = match communicator.rank() {
                1 => Err(flatleaf::Error::custom("no data")),
                _ => Ok(()),
            };
            found?;
            communicator.sum(&mut [1.0])
        }
        "layout" => {
            let len = if communicator.rank() == 1 { 4 } else { 3 };
            communicator.check_layout(&Layout::of(&vec![0.0_f32; len])?)
        }
        "killed" => {
            if communicator.rank() == 1 {
                let own = std::process::id().to_string();
                let _ = Command::new("kill").args(["-KILL", &own]).status();
            }
            communicator.sum(&mut [1.0])
        }
        "save" => checkpoints::save(communicator),
        "resume" => checkpoints::resume(communicator),
        "save and die" => checkpoints::save_and_die(communicator),
        other => panic!("no program {other}"),
    });
}

/// The bits of everything that a run exchanges and computes.
fn digest(communicator: &mut impl Communicator) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut keep = |x: &[f32]| x.iter().for_each(|x| x.to_bits().hash(&mut hasher));
    let (rank, size) = (communicator.rank(), communicator.size());
    let vector = |len: usize| -> Vec<f32> {
        (0..len)
            .map(|index| ((rank * 31 + index * 7) % 101) as f32 * 1.1e-3)
            .collect()
    };
    for len in [0, 1, 3, 1000] {
        let mut x = vector(len);
        communicator.sum(&mut x)?;
        keep(&x);
        let mut x = vector(len);
        communicator.broadcast(&mut x, size - 1)?;
        keep(&x);
        let mut x = vector(len);
        communicator.mean(&mut x, 1.0 + rank as f64)?;
        keep(&x);
    }
    // A gap, an empty range, and ranges in another order than the ranks.
    let ranges: Vec<_> = (0..size)
        .rev()
        .map(|at| 10 * at..10 * at + at % 7)
        .collect();
    let mut x = vector(10 * size);
    communicator.reduce_scatter(&mut x, &ranges)?;
    communicator.all_gather(&mut x, &ranges)?;
    ranges.iter().for_each(|range| keep(&x[range.clone()]));

    // One leaf goes over several ranks.
    let model = (vec![0.5_f32; 40], vec![0.25_f32; 70_000], vec![1.0_f32; 7]);
    let layout = Layout::of(&model)?;
    communicator.check_layout(&layout)?;
    let mut flat = layout.gather(&model)?;
    let clip = ClipNorm {
        max: 1.0,
        ..Default::default()
    };
    let shard = layout.shards(size)[rank].clone();
    for range in [0..layout.len(), shard] {
        let adamw = Optimizer::of_range((clip, AdamW::default()), &layout, range.clone())?;
        keep(&trained(adamw, communicator, flat.clone())?);
        let lamb = Optimizer::of_range((clip, Lamb::default()), &layout, range)?;
        keep(&trained(lamb, communicator, flat.clone())?);
    }
    // Less talk: a round of steps of each rank's own.
    let mut outer = OuterOptimizer::new(Sgd::default(), &layout, &flat)?;
    let mut inner = Optimizer::new(AdamW::default(), &layout)?;
    for _ in 0..3 {
        inner.step(&mut flat, &vector(layout.len())[..])?;
    }
    outer.end_round(communicator, &mut flat, 1.0 + rank as f64)?;
    keep(&flat);
    Ok(hasher.finish())
}

/// Five steps; one leaf is absent on the last rank.
fn trained(
    mut optimizer: Optimizer<impl Rule>,
    communicator: &mut impl Communicator,
    mut flat: Vec<f32>,
) -> Result<Vec<f32>> {
    let layout = optimizer.layout().clone();
    let (rank, size) = (communicator.rank(), communicator.size());
    for step in 0..5 {
        let element = |index: usize| ((rank * 31 + index * 7 + step * 13) % 101) as f32 * 1e-2;
        let gradient = (0..layout.len()).map(element).collect();
        let mut grad = FlatGrad::from_flat(&layout, gradient)?;
        grad.set_present(2, rank + 1 < size);
        let examples = 32.0 + rank as f64;
        optimizer.step_weighted_with(communicator, &mut flat, &mut grad, examples)?;
    }
    Ok(flat)
}

#[test]
fn every_exchange_gives_the_bits_that_threads_give() {
    for size in 1..=4 {
        let expected = match size {
            1 => digest(&mut Alone).unwrap(),
            _ => Threads::run(size, |member| digest(member).unwrap())[0],
        };
        let ended = job("suite", size);
        assert!(ended.success, "{}", ended.text);
        let line = format!("digest {expected:016x} rank");
        assert_eq!(
            ended.text.matches(&line).count(),
            2 * size,
            "{size} ranks: {}",
            ended.text
        );
    }
}

#[test]
fn a_panic_on_one_rank_ends_the_job_and_names_it() {
    let ended = job("panic", 4);
    assert!(!ended.success);
    assert!(
        ended.text.contains("rank 1 of 4 panicked"),
        "{}",
        ended.text
    );
    assert!(ended.text.contains("rank 1 has no data"), "{}", ended.text);
}

#[test]
fn an_error_on_one_rank_ends_the_job_and_names_it() {
    let ended = job("error", 4);
    assert!(!ended.success);
    assert!(
        ended.text.contains("rank 1 of 4 failed: "),
        "{}",
        ended.text
    );
    assert!(ended.text.contains("no data"), "{}", ended.text);
}

#[test]
fn another_layout_on_one_rank_ends_the_job() {
    let ended = job("layout", 3);
    assert!(!ended.success);
    assert!(ended.text.contains("on member 1"), "{}", ended.text);
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    assert!(!job("killed", 3).success);
}
