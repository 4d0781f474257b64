//! A process that is killed while it saves leaves the old file or the new one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use flatleaf::checkpoint;
use ndarray::Array1;

use crate::files::Folder;

const TARGET: &str = "FLATLEAF_TEST_SAVES_INTO";

/// Not a test: what the killed process does. Saves one constant after the other, for as long as it
/// lives.
#[test]
fn saves_until_it_is_killed() {
    let Ok(path) = std::env::var(TARGET) else {
        return;
    };
    for version in 1.. {
        checkpoint::save(&path, &vec![Array1::from_elem(200_000, version as f32); 3]).unwrap();
        println!("\nsaved {version}");
    }
}

/// Killed after one more moment each time, all over the course of a save.
#[test]
fn there_is_always_a_whole_file() {
    let folder = Folder::new();
    let path = folder.path("model");
    for delay in 0..24 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::saves_until_it_is_killed", "--nocapture"])
            .env(TARGET, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let last = lines
            .by_ref()
            .filter(|line| line.starts_with("saved"))
            .nth(1);
        assert!(last.is_some(), "the process saved nothing");
        std::thread::sleep(std::time::Duration::from_micros(300 * delay));
        child.kill().unwrap();
        child.wait().unwrap();

        let file = checkpoint::open(&path).unwrap();
        let flat = file.flat().unwrap();
        assert_eq!(flat.len(), 600_000);
        assert!(flat[0] >= 2.0 && flat.iter().all(|&x| x == flat[0]));
        // No more than the last one has left.
        assert!(folder.names().len() <= 2, "{:?}", folder.names());
    }
}
