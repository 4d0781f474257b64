//! Starting an MPI job and ending it, on all ranks whatever happens on one.

use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use ferrompi::{Mpi as Library, ThreadLevel};

use crate::Mpi;

/// How launchers tell a process how many there are, in the order in which they are believed: Open
/// MPI's, MPICH's and Intel's, and a Slurm step without either.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Initialises MPI, runs `work` with this process's [`Mpi`], finalises MPI, and returns what `work`
/// returned.
///
/// An `Err` or a panic of `work` on one rank ends the whole job: its message is printed on standard
/// error with the rank, and all processes end, with a code that is not 0 (1 for an error, 101 for a
/// panic). Without that the other ranks would wait for ever in their next exchange.
///
/// Only the thread that calls `run` may use the communicator; others may work meanwhile, as rayon's
/// do. To be called once in a process.
///
/// # Panics
/// Ends the process with a message and code 1 if MPI cannot be initialised, and if it knows of
/// another number of processes than the launcher started, which is how a program that was built for
/// one MPI behaves under the launcher of another: as so many jobs of one.
///
/// ```no_run
/// use flatleaf::Communicator;
///
/// let size = flatleaf_mpi::run(|communicator| Ok::<_, flatleaf::Error>(communicator.size()));
/// println!("{size} processes");
/// ```
pub fn run<T, E: Display>(work: impl FnOnce(&mut Mpi) -> Result<T, E>) -> T {
    // Asked before MPI starts, since an MPI without its launcher may say 1 here itself.
    let asked = SIZES.iter().find_map(|name| Some((*name, size_in(name)?)));
    let library = Library::init_thread(ThreadLevel::Funneled).unwrap_or_else(|error| {
        say(format!("MPI cannot be initialised: {error}"));
        exit(1)
    });
    let world = library.world();
    let (rank, size) = (world.rank(), world.size());
    if let Some((name, asked)) = asked.filter(|(_, asked)| *asked != size as usize) {
        say(format!(
            "the launcher started {asked} processes ({name}), and MPI knows of {size}: start the \
             program with the launcher of the MPI that it was built with, or build it anew"
        ));
        world.abort(1);
    }
    let mut communicator = Mpi::new(library.world());
    // What is broken by a panic is never seen again: the job ends.
    match catch_unwind(AssertUnwindSafe(|| work(&mut communicator))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            say(format!("rank {rank} of {size} failed: {error}"));
            world.abort(1)
        }
        Err(_) => {
            // The message and the place have been printed by the panic hook.
            say(format!("rank {rank} of {size} panicked"));
            world.abort(101)
        }
    }
}

/// How long a launcher has for passing on what a rank printed before the job is aborted.
const LAST_WORD: Duration = Duration::from_millis(250);

/// Prints a last word, and lets it arrive: MPICH's launcher drops what it has not read when a job is
/// aborted. In one write, since `eprintln!` writes a message in pieces.
fn say(message: String) {
    let line = format!("flatleaf-mpi: {message}\n");
    // Nobody is left to tell that it cannot be written.
    let _ = std::io::stderr().write_all(line.as_bytes());
    sleep(LAST_WORD);
}

fn size_in(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}
