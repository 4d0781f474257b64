//! One file of a sharded run: written by any number of ranks, taken up by any other, and whole
//! whenever a rank dies.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use flatleaf::checkpoint::{self, Extras};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
use flatleaf::{Alone, Communicator, FlatGrad, Layout, Result};

use crate::{Ended, job_with};

/// Where the file of a job is.
const FILE: &str = "FLATLEAF_MPI_TEST_FILE";
/// At which of its exchanges rank 1 dies.
const DIES_AT: &str = "FLATLEAF_MPI_TEST_DIES_AT";

type Rule = (ClipNorm, AdamW);

/// One leaf goes over several ranks.
fn layout() -> Result<Layout> {
    Layout::of(&(vec![0.0_f32; 40], vec![0.0_f32; 70_000], vec![0.0_f32; 7]))
}

fn rule() -> Rule {
    let clip = ClipNorm {
        max: 1.0,
        ..Default::default()
    };
    (clip, AdamW::default())
}

/// Whole numbers, so that sums and means are exact whatever the number of ranks.
fn train(
    communicator: &mut impl Communicator,
    optimizer: &mut Optimizer<Rule>,
    flat: &mut [f32],
    steps: Range<usize>,
) -> Result<()> {
    let layout = optimizer.layout().clone();
    for step in steps {
        let element = |index: usize| ((index * 7 + step * 13) % 101) as f32 - 50.0;
        let gradient = (0..layout.len()).map(element).collect();
        let mut grad = FlatGrad::from_flat(&layout, gradient)?;
        optimizer.step_with(communicator, flat, &mut grad)?;
    }
    Ok(())
}

fn shard(communicator: &impl Communicator, layout: &Layout) -> Range<usize> {
    layout.shards(communicator.size())[communicator.rank()].clone()
}

/// A number of the parameters' bits.
fn digest(flat: &[f32]) -> u64 {
    flat.iter().fold(0, |hash, x| {
        (hash ^ u64::from(x.to_bits()))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// The parameters after so many steps of one member that nothing interrupted.
fn uninterrupted(steps: usize) -> u64 {
    let layout = layout().unwrap();
    let mut flat = vec![0.5; layout.len()];
    let mut optimizer = Optimizer::new(rule(), &layout).unwrap();
    train(&mut Alone, &mut optimizer, &mut flat, 0..steps).unwrap();
    digest(&flat)
}

fn file_of_job() -> PathBuf {
    std::env::var_os(FILE).expect("started by a test").into()
}

/// Five steps, and a checkpoint.
pub(crate) fn save(communicator: &mut impl Communicator) -> Result<()> {
    let layout = layout()?;
    let mut flat = vec![0.5; layout.len()];
    let mut optimizer = Optimizer::of_range(rule(), &layout, shard(communicator, &layout))?;
    train(communicator, &mut optimizer, &mut flat, 0..5)?;
    let extras = Extras::new().optimizer("opt", &optimizer);
    checkpoint::save_flat_with(communicator, file_of_job(), &layout, &flat, &extras)
}

/// Five more steps, from the checkpoint.
pub(crate) fn resume(communicator: &mut impl Communicator) -> Result<()> {
    let layout = layout()?;
    let file = checkpoint::open(file_of_job())?;
    file.check_shards(communicator, &layout)?;
    let mut flat = file.flat_for(&layout)?.into_owned();
    let range = shard(communicator, &layout);
    let mut optimizer: Optimizer<Rule> = file.part("opt")?.resume_range(&layout, range)?;
    train(communicator, &mut optimizer, &mut flat, 5..10)?;
    println!("digest {:016x} rank {}", digest(&flat), communicator.rank());
    Ok(())
}

/// Saves with a rank 1 that dies at one of its exchanges; tells how many there were if it did not.
pub(crate) fn save_and_die(communicator: &mut impl Communicator) -> Result<()> {
    let dies_at = std::env::var(DIES_AT).ok();
    let layout = layout()?;
    let flat = vec![0.25; layout.len()];
    let optimizer = Optimizer::of_range(rule(), &layout, shard(communicator, &layout))?;
    let extras = Extras::new().optimizer("opt", &optimizer);
    let mut mortal = Mortal {
        dies_at: dies_at.map(|number| number.parse().expect("a number")),
        exchanges: Cell::new(0),
        inner: communicator,
    };
    checkpoint::save_flat_with(&mut mortal, file_of_job(), &layout, &flat, &extras)?;
    if mortal.rank() == 1 {
        println!("{} exchanges", mortal.exchanges.get());
    }
    Ok(())
}

/// A communicator whose rank 1 is killed when it begins one of its exchanges.
struct Mortal<'c, C> {
    inner: &'c mut C,
    dies_at: Option<usize>,
    exchanges: Cell<usize>,
}

impl<C: Communicator> Mortal<'_, C> {
    fn count(&self) {
        let number = self.exchanges.get();
        self.exchanges.set(number + 1);
        if self.inner.rank() == 1 && self.dies_at == Some(number) {
            let own = std::process::id().to_string();
            let _ = Command::new("kill").args(["-KILL", &own]).status();
        }
    }
}

impl<C: Communicator> Communicator for Mortal<'_, C> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn reduce_scatter(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        self.count();
        self.inner.reduce_scatter(x, ranges)
    }

    fn all_gather(&mut self, x: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        self.count();
        self.inner.all_gather(x, ranges)
    }

    fn all_reduce(&mut self, x: &mut [f64]) -> Result<()> {
        self.count();
        self.inner.all_reduce(x)
    }
}

/// A folder of a test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("flatleaf-mpi-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("run.safetensors")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn job(member: &str, size: usize, file: &Path) -> Ended {
    job_with(member, size, &[(FILE, file.to_str().unwrap())])
}

#[test]
fn any_number_of_ranks_goes_on_from_what_any_other_number_wrote() {
    let folder = Folder::new("ranks");
    let file = folder.file();
    let line = format!("digest {:016x} rank", uninterrupted(10));
    for (writers, readers) in [(1, 3), (2, 1), (3, 4), (4, 2)] {
        let ended = job("save", writers, &file);
        assert!(ended.success, "{}", ended.text);
        let ended = job("resume", readers, &file);
        assert!(ended.success, "{}", ended.text);
        let same = ended.text.matches(&line).count();
        assert_eq!(same, readers, "from {writers} to {readers}: {}", ended.text);
    }
}

#[test]
fn a_torn_share_is_an_error_that_names_its_member() {
    let folder = Folder::new("torn");
    let file = folder.file();
    assert!(job("save", 2, &file).success);
    let mut bytes = std::fs::read(&file).unwrap();
    // Three vectors of one length, the model's and the two moments': in the middle of the file is the
    // middle of the second, element 35,023, and member 1 has those from 32,808 on.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let ended = job("resume", 3, &file);
    assert!(!ended.success);
    assert!(
        ended.text.contains("the share of member 1"),
        "{}",
        ended.text
    );
}

/// Killed at each of its exchanges in turn: the job ends, and the file is the old one or the new one,
/// never a part of either.
#[test]
fn a_rank_that_dies_while_a_checkpoint_is_written_leaves_a_whole_file() {
    let folder = Folder::new("killed");
    let file = folder.file();
    assert!(job("save and die", 2, &file).success);
    let new = std::fs::read(&file).unwrap();
    assert!(job("save", 2, &file).success);
    let old = std::fs::read(&file).unwrap();
    assert!(old != new);

    let counted = job("save and die", 2, &folder.0.join("other.safetensors"));
    let exchanges = counted.text.lines().find_map(|line| {
        let number = line.strip_suffix(" exchanges")?;
        number.rsplit(' ').next()?.parse::<usize>().ok()
    });
    let exchanges = exchanges.unwrap_or_else(|| panic!("no count in: {}", counted.text));
    // The last exchange says that the file has been replaced.
    for dies_at in 0..exchanges {
        let variables = [
            (FILE, file.to_str().unwrap()),
            (DIES_AT, &dies_at.to_string()),
        ];
        let ended = job_with("save and die", 2, &variables);
        assert!(!ended.success, "{}", ended.text);
        let found = std::fs::read(&file).unwrap();
        let is_replaced = dies_at + 1 == exchanges && found == new;
        assert!(found == old || is_replaced, "killed at exchange {dies_at}");
    }
    // What the dead left beside it is in nobody's way.
    assert!(job("save", 2, &file).success);
    assert!(std::fs::read(&file).unwrap() == old);
}
