//! Memory in proportion to bytes that are there, whatever a file says of itself.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use flatleaf::{DynTree, checkpoint};
use ndarray::Array1;

use crate::files::{Folder, open, raw};

struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: forwards every call to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        let now = NOW.get() + memory.size();
        NOW.set(now);
        PEAK.set(PEAK.get().max(now));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, memory: Memory) {
        NOW.set(NOW.get().saturating_sub(memory.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that was in use during a call, beyond what was before.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

/// Headers that promise much, and headers that make much of few bytes.
#[test]
fn a_hostile_header_costs_no_more_than_a_multiple_of_its_bytes() {
    let max = u64::MAX;
    let promising = format!(
        r#"{{"a":{{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}},"b":{{"dtype":"U8","shape":[{max}],"data_offsets":[4398046511104,{max}]}}}}"#
    );
    let axes = format!(
        r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#,
        "1,".repeat(100_000)
    );
    let metadata: Vec<String> = (0..30_000).map(|key| format!(r#""{key}":"""#)).collect();
    let metadata = format!(r#"{{"__metadata__":{{{}}}}}"#, metadata.join(","));
    let names: Vec<String> = (0..10_000)
        .map(|name| format!(r#""{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let names = format!("{{{}}}", names.join(","));
    for header in [promising, axes, metadata, names] {
        let bytes = raw(&header, &[]);
        let used = peak(|| drop(open(&bytes)));
        assert!(used < 24 * bytes.len() + 4096, "{used} for {}", bytes.len());
    }
    for length in [u64::MAX, 100_000_000, 99_999_999] {
        let bytes = [length.to_le_bytes().as_slice(), b"{}"].concat();
        assert!(peak(|| drop(open(&bytes))) < 4096);
    }
}

/// Every dot is a level, and every level a node: of the walk over the names, which needs 40 bytes for
/// one, and of the copy, which needs 56. A tree that kept the path of each of its nodes would need
/// half a megabyte for a name of a thousand dots.
#[test]
fn a_copy_of_a_file_takes_memory_in_proportion_to_its_names() {
    let bytes_a_byte = |names: usize, dots: usize| {
        let dots = ".".repeat(dots);
        let entry = |name: usize| {
            format!(r#""{name}{dots}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)
        };
        let entries: Vec<String> = (0..names).map(entry).collect();
        let bytes = raw(&format!("{{{}}}", entries.join(",")), &[]);
        let file = open(&bytes).unwrap();
        let used = peak(|| assert!(!DynTree::of(&file).unwrap().is_absent()));
        used as f64 / bytes.len() as f64
    };
    for (names, dots) in [(10, 1000), (100, 1000), (100, 500), (100, 250)] {
        let factor = bytes_a_byte(names, dots);
        assert!(factor < 128.0, "{names} names of {dots} dots: {factor}");
    }
}

/// Streams over files many times as large as their buffers: a leaf alone is larger than what is
/// allowed.
#[test]
fn streaming_takes_constant_memory() {
    let folder = Folder::new();
    let model = |x: f32| {
        vec![
            Array1::from_elem(500_000, x),
            Array1::from_elem(1_500_000, x),
        ]
    };
    let paths = [1.0, 2.0, 6.0].map(|x| folder.path(&x.to_string()));
    for (path, x) in paths.iter().zip([1.0, 2.0, 6.0]) {
        checkpoint::save(path, &model(x)).unwrap();
    }
    let out = folder.path("out");
    assert!(peak(|| checkpoint::average(&paths, &out).unwrap()) < 4 << 20);
    assert!(
        checkpoint::open(&out)
            .unwrap()
            .flat()
            .unwrap()
            .iter()
            .all(|&x| x == 3.0)
    );
    assert!(peak(|| checkpoint::ema(&paths, 0.5, &out).unwrap()) < 4 << 20);
    assert!(
        checkpoint::open(&out)
            .unwrap()
            .flat()
            .unwrap()
            .iter()
            .all(|&x| x == 3.75)
    );
    assert!(peak(|| drop(checkpoint::compare(&paths[0], &paths[1]).unwrap())) < 4 << 20);
    assert!(peak(|| checkpoint::scan(&paths, |_, _| ()).unwrap()) < 4 << 20);
}

/// A mapped file is not on the heap, and neither is what is seen of it.
#[cfg(feature = "mmap")]
#[test]
fn a_mapped_file_takes_no_memory_but_its_header() {
    let folder = Folder::new();
    checkpoint::save(
        folder.path("large"),
        &vec![Array1::from_elem(4_000_000, 1.0_f32)],
    )
    .unwrap();
    let used = peak(|| {
        let file = checkpoint::open(folder.path("large")).unwrap();
        assert_eq!(file.flat().unwrap().len(), 4_000_000);
        assert_eq!(file.view::<f32>("0").unwrap()[7], 1.0);
    });
    assert!(used < 1 << 16, "{used}");
}
