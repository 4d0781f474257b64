//! What it costs to save and load a file of 90 MB, beside plain reading and writing of the same bytes, and beside Python's `safetensors`.
//!
//! `cargo bench --bench checkpoint [-- --python PATH]`: a Python that has what `peers/requirements.txt` names.
//!
//! Whoever writes does the same: a new file beside the old one, its bytes, `fsync`, a rename, `fsync` of the folder. Python's writer does
//! not synchronise; the row says where that is added. Files are in the page cache when they are read.

mod support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    println!("{} tensors, {:.1} MB\n{:<8} {:<44} {:>10} {:>8}", model.len(), bytes.len() as f64 / 1e6, "", "", "median", "× fs");
    write(&folder, &model, &bytes);
    read(&path, &model);
    open(&path, "90 MB");
    let sparse = four_gigabytes(&folder);
    open(&sparse, "4 GB");
    if let Some(python) = python() {
        run_python(&python, &path);
    }
    fs::remove_dir_all(&folder).expect("the folder is ours");
}

/// The 101 weights of all-MiniLM-L6-v2: 22.7 million numbers.
fn minilm() -> Vec<Vec<usize>> {
    const WIDTH: usize = 384;
    const INNER: usize = 1536;
    let mut shapes = vec![vec![30_522, WIDTH], vec![512, WIDTH], vec![2, WIDTH], vec![WIDTH], vec![WIDTH]];
    for _ in 0..6 {
        shapes.extend((0..4).flat_map(|_| [vec![WIDTH, WIDTH], vec![WIDTH]]));
        shapes.extend([vec![WIDTH], vec![WIDTH], vec![INNER, WIDTH], vec![INNER]]);
        shapes.extend([vec![WIDTH, INNER], vec![WIDTH], vec![WIDTH], vec![WIDTH]]);
    }
    shapes
}

fn write(folder: &Path, model: &Arrays, bytes: &[u8]) {
    let [plain, ours, unsynced] = ["plain", "ours", "unsynced"].map(|name| folder.join(name));
    let mut jobs: [(&str, &mut dyn FnMut()); 3] = [
        ("std::fs: create, write, fsync, rename, fsync", &mut || write_plainly(&plain, bytes)),
        ("checkpoint::save", &mut || checkpoint::save(&ours, model).expect("it is saved")),
        ("std::fs::write, not synchronised", &mut || fs::write(&unsynced, bytes).expect("it is written")),
    ];
    let times = alternate(&mut jobs, Duration::from_secs(3));
    assert!(fs::read(&ours).expect("it was saved") == bytes && fs::read(&plain).expect("it was written") == bytes);
    report("write", &jobs.map(|job| job.0), &times);
}

fn write_plainly(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    let mut file = File::create(&new).expect("a new file");
    file.write_all(bytes).and_then(|()| file.sync_all()).expect("it is written");
    fs::rename(&new, path).expect("it is renamed");
    File::open(path.parent().expect("a folder")).and_then(|folder| folder.sync_all()).expect("it is synchronised");
}

fn read(path: &Path, model: &Arrays) {
    let mut target: Arrays = model.iter().map(|array| ArrayD::zeros(array.raw_dim())).collect();
    let options = LoadOptions::new();
    checkpoint::load_into(path, &mut target, &options).expect("it loads");
    assert_eq!(&target, model);
    let layout = Layout::of(model).expect("a plain tree");
    let mut buffer = fs::read(path).expect("the file is there");
    let mut jobs: [(&str, &mut dyn FnMut()); 5] = [
        ("std::fs::read", &mut || drop(black_box(fs::read(path).expect("it is read")))),
        ("std::fs, into a ready buffer", &mut || {
            let mut file = File::open(path).expect("the file is there");
            std::io::Read::read_exact(&mut file, &mut buffer).expect("it is read");
        }),
        ("checkpoint::load_into, a model that is there", &mut || {
            checkpoint::load_into(path, &mut target, &options).expect("it loads");
        }),
        ("DynTree::of(&open), a new model", &mut || {
            drop(black_box(DynTree::of(&checkpoint::open(path).expect("it opens")).expect("it is a tree")));
        }),
        ("open, flat_as, sum: every page touched", &mut || {
            let file = checkpoint::open(path).expect("it opens");
            black_box(flatleaf::ops::sum(&file.flat_as(&layout).expect("it fits")));
        }),
    ];
    let times = alternate(&mut jobs, Duration::from_secs(2));
    report("read", &jobs.map(|job| job.0), &times);
}

fn open(path: &Path, name: &str) {
    let mut open = || {
        let file = checkpoint::open(path).expect("it opens");
        let tensor = file.tensors().last().expect("a tensor").name().to_owned();
        black_box(file.view::<f32>(&tensor).expect("it is there")[[0]]);
    };
    let times = alternate(&mut [("open", &mut open)], Duration::from_millis(300));
    println!("{:<8} {:<44} {:>7.3} ms", "open", format!("checkpoint::open and one view, {name}"), 1e3 * median(&times[0]));
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
    file.write_all(&[(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes()].concat()).expect("it is written");
    file.set_len(8 + header.len() as u64 + (64 << 26)).expect("it is long");
    path
}

fn report(what: &str, jobs: &[&str], times: &[Vec<f64>]) {
    let plain = median(&times[0]);
    for (job, times) in jobs.iter().zip(times) {
        println!("{what:<8} {job:<44} {:>7.2} ms {:>8.2}", 1e3 * median(times), median(times) / plain);
    }
}

fn python() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--python");
    arguments.nth(1)
}

/// The same file, in the same run.
fn run_python(python: &str, path: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/checkpoint.py");
    let status = Command::new(python).arg(script).arg(path).status().expect("Python runs");
    assert!(status.success(), "the Python script failed");
}
