//! The bounded run of what `fuzz/` does without end: bytes of the corpus, changed by a generator with a fixed seed, are read in every
//! way there is. Whatever they are, there is an answer or an error, and what is accepted the `safetensors` crate accepts too.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/fuzz_targets/read.rs"]
mod read;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/safetensors");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

const WORDS: [&str; 16] =
    ["0", "1", "2", "4", "8", "18446744073709551615", "-1", "[]", "[0,0]", "null", "\"F32\"", "\"BOOL\"", "\"a\"", "{}", "\\u0000", ","];

fn mutated(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
            _ if !bytes.is_empty() => drop(bytes.splice(at..(at + 1).min(bytes.len()), WORDS[random.below(WORDS.len())].bytes())),
            _ => {}
        }
    }
    // Most changes make the header longer or shorter: half the time its length is put right.
    if bytes.len() > 8 && random.below(2) == 0 {
        let end = bytes.iter().rposition(|&byte| byte == b'}').map_or(8, |end| end + 1).max(8);
        bytes[..8].copy_from_slice(&(end as u64 - 8).to_le_bytes());
    }
    bytes
}

#[test]
fn the_corpus_is_read() {
    let accepted = corpus().iter().filter(|bytes| read::in_every_way(bytes)).count();
    assert!(accepted >= 8, "{accepted}");
}

#[test]
fn no_change_makes_it_panic() {
    let (corpus, mut random) = (corpus(), Random(0x9e37_79b9_7f4a_7c15));
    let mut accepted = 0;
    for _ in 0..40_000 {
        let bytes = mutated(&corpus[random.below(corpus.len())], &mut random);
        accepted += usize::from(read::in_every_way(&bytes));
    }
    assert!(accepted > 200, "{accepted}");
}
