//! What it costs to save and load a file of 90 MB, beside plain reading and writing of the same
//! bytes, and beside Python's `safetensors`.
//!
//! `cargo bench --bench checkpoint [-- --python PATH]`: a Python that has what
//! `peers/requirements.txt` names.
//!
//! Whoever writes does the same: a new file beside the old one, its bytes, `fsync`, a rename,
//! `fsync` of the folder. Python's writer does not synchronise; the row says where that is added,
//! in the same order. Files are in the page cache when they are read. All jobs are done in turn.

mod support;

use std::cell::RefCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use flatleaf::checkpoint::{self, LoadOptions};
use flatleaf::{DynTree, Layout};
use ndarray::ArrayD;
use support::{Arrays, alternate, arrays, median};

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-checkpoint");
    fs::create_dir_all(&folder).expect("a folder");
    let model = arrays(&minilm(), 1.0);
    let path = folder.join("model.safetensors");
    checkpoint::save(&path, &model).expect("the model is saved");
    let bytes = fs::read(&path).expect("the file is there");
    println!(
        "{} tensors, {:.1} MB\n{:<8} {:<44} {:>10} {:>8}",
        model.len(),
        bytes.len() as f64 / 1e6,
        "",
        "",
        "median",
        "× fs"
    );
    let python =
        python().map(|python| RefCell::new(Python::start(&python, &path, &folder.join("python"))));
    write(&folder, &model, &bytes, python.as_ref());
    read(&path, &model, python.as_ref());
    open(&path, "90 MB");
    let sparse = four_gigabytes(&folder);
    open(&sparse, "4 GB");
    drop(python);
    fs::remove_dir_all(&folder).expect("the folder is ours");
}

/// The 101 weights of all-MiniLM-L6-v2: 22.7 million numbers.
fn minilm() -> Vec<Vec<usize>> {
    const WIDTH: usize = 384;
    const INNER: usize = 1536;
    let mut shapes = vec![
        vec![30_522, WIDTH],
        vec![512, WIDTH],
        vec![2, WIDTH],
        vec![WIDTH],
        vec![WIDTH],
    ];
    for _ in 0..6 {
        shapes.extend((0..4).flat_map(|_| [vec![WIDTH, WIDTH], vec![WIDTH]]));
        shapes.extend([vec![WIDTH], vec![WIDTH], vec![INNER, WIDTH], vec![INNER]]);
        shapes.extend([vec![WIDTH, INNER], vec![WIDTH], vec![WIDTH], vec![WIDTH]]);
    }
    shapes
}

/// A job, as [`alternate`] takes it.
type Job<'j> = (&'static str, &'j mut dyn FnMut());

fn write(folder: &Path, model: &Arrays, bytes: &[u8], python: Option<&RefCell<Python>>) {
    let [plain, ours, unsynced] = ["plain", "ours", "unsynced"].map(|name| folder.join(name));
    let mut write_plainly = || write_plainly(&plain, bytes);
    let mut save = || checkpoint::save(&ours, model).expect("it is saved");
    let mut write_unsynced = || fs::write(&unsynced, bytes).expect("it is written");
    let mut jobs: Vec<Job<'_>> = vec![
        (
            "std::fs: create, write, fsync, rename, fsync",
            &mut write_plainly,
        ),
        ("checkpoint::save", &mut save),
        ("std::fs::write, not synchronised", &mut write_unsynced),
    ];
    let [mut synced, mut unsynced] = ["save safely", "save"].map(|job| move || ask(python, job));
    if python.is_some() {
        jobs.push(("Python: save_file, fsync, rename, fsync", &mut synced));
        jobs.push(("Python: save_file, not synchronised", &mut unsynced));
    }
    measure("write", &mut jobs);
    assert!(
        fs::read(&ours).expect("it was saved") == bytes
            && fs::read(&plain).expect("it was written") == bytes
    );
}

fn write_plainly(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    let mut file = File::create(&new).expect("a new file");
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .expect("it is written");
    fs::rename(&new, path).expect("it is renamed");
    File::open(path.parent().expect("a folder"))
        .and_then(|folder| folder.sync_all())
        .expect("it is synchronised");
}

fn read(path: &Path, model: &Arrays, python: Option<&RefCell<Python>>) {
    let mut target: Arrays = model
        .iter()
        .map(|array| ArrayD::zeros(array.raw_dim()))
        .collect();
    let options = LoadOptions::new();
    checkpoint::load_into(path, &mut target, &options).expect("it loads");
    assert_eq!(&target, model);
    let layout = Layout::of(model).expect("a plain tree");
    let mut buffer = fs::read(path).expect("the file is there");
    let mut read_all = || drop(black_box(fs::read(path).expect("it is read")));
    let mut read_into = || {
        let mut file = File::open(path).expect("the file is there");
        std::io::Read::read_exact(&mut file, &mut buffer).expect("it is read");
    };
    let mut load = || drop(checkpoint::load_into(path, &mut target, &options).expect("it loads"));
    let open = || checkpoint::open(path).expect("it opens");
    let mut copy = || drop(black_box(DynTree::of(&open()).expect("it is a tree")));
    let mut sum = || {
        black_box(flatleaf::ops::sum(
            &open().flat_for(&layout).expect("it fits"),
        ));
    };
    let mut python_load = || ask(python, "load");
    let mut jobs: Vec<Job<'_>> = vec![
        ("std::fs::read", &mut read_all),
        ("std::fs, into a ready buffer", &mut read_into),
        ("checkpoint::load_into, a model that is there", &mut load),
        ("DynTree::of(&open), a new model", &mut copy),
        ("open, flat_for, sum: every page touched", &mut sum),
    ];
    if python.is_some() {
        jobs.push(("Python: load_file, new arrays", &mut python_load));
    }
    measure("read", &mut jobs);
}

fn open(path: &Path, name: &str) {
    let mut open = || {
        let file = checkpoint::open(path).expect("it opens");
        let tensor = file.tensors().last().expect("a tensor").name().to_owned();
        black_box(file.view::<f32>(&tensor).expect("it is there")[[0]]);
    };
    let times = alternate(&mut [("open", &mut open)], Duration::from_millis(300));
    println!(
        "{:<8} {:<44} {:>7.3} ms",
        "open",
        format!("checkpoint::open and one view, {name}"),
        1e3 * median(&times[0])
    );
}

/// A file that is mostly a hole.
fn four_gigabytes(folder: &Path) -> PathBuf {
    let entry = |name: usize| {
        let (start, end) = (name << 26, (name + 1) << 26);
        format!(r#""{name}":{{"dtype":"F32","shape":[16777216],"data_offsets":[{start},{end}]}}"#)
    };
    let header = format!("{{{}}}", (0..64).map(entry).collect::<Vec<_>>().join(","));
    let header = format!("{header:0$}", header.len().next_multiple_of(8));
    let path = folder.join("sparse.safetensors");
    let mut file = File::create(&path).expect("a new file");
    file.write_all(
        &[
            (header.len() as u64).to_le_bytes().as_slice(),
            header.as_bytes(),
        ]
        .concat(),
    )
    .expect("it is written");
    file.set_len(8 + header.len() as u64 + (64 << 26))
        .expect("it is long");
    path
}

fn measure(what: &str, jobs: &mut [Job<'_>]) {
    let times = alternate(jobs, Duration::from_secs(3));
    let plain = median(&times[0]);
    for (job, times) in jobs.iter().zip(&times) {
        println!(
            "{what:<8} {:<44} {:>7.2} ms {:>8.2}",
            job.0,
            1e3 * median(times),
            median(times) / plain
        );
    }
}

fn python() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--python");
    arguments.nth(1)
}

/// A process that does a job at a word.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(python: &str, path: &Path, out: &Path) -> Python {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/checkpoint.py");
        let mut command = Command::new(python);
        let command = command
            .arg(script)
            .args([path, out])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python starts");
        let (input, output) = (
            child.stdin.take().expect("a pipe"),
            child.stdout.take().expect("a pipe"),
        );
        Python {
            child,
            input,
            output: BufReader::new(output),
        }
    }
}

fn ask(python: Option<&RefCell<Python>>, job: &str) {
    let Some(python) = python else { return };
    let Python { input, output, .. } = &mut *python.borrow_mut();
    let mut answer = String::new();
    writeln!(input, "{job}")
        .and_then(|()| output.read_line(&mut answer))
        .expect("Python answers");
    assert_eq!(answer, "done\n", "the Python script failed");
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
