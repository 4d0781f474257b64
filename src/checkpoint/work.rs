//! The work that names of a file cost, counted where it is tested.
//!
//! Anybody may write a header of 100 MB, and what takes a step for every pair of its names would
//! not end. A clock shows that only where it is bad already and the machine is idle; so whatever
//! looks at a name says so here, and the test below holds the number against the header's bytes.
//! Where nothing is tested, [`count`] is nothing.

#[cfg(test)]
std::thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// So many names were looked at.
#[inline(always)]
pub(crate) fn count(_steps: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + _steps as u64);
}

#[cfg(test)]
mod tests {
    use super::STEPS;
    use crate::checkpoint::{Checkpoint, LoadOptions, compare};
    use crate::tree::DynTree;

    /// A header of empty tensors of these names.
    fn header(metadata: &str, names: impl Iterator<Item = String>) -> Vec<u8> {
        let tensors = names
            .map(|name| format!(r#","{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
        let tensors: String = tensors.collect();
        let header = format!(r#"{{"__metadata__":{{{metadata}}}{tensors}}}"#);
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes()].concat()
    }

    fn list(entries: impl Iterator<Item = String>) -> String {
        entries.collect::<Vec<_>>().join(",")
    }

    /// Steps for each byte of a file that is used in every way.
    fn steps_per_byte(bytes: &[u8]) -> f64 {
        STEPS.set(0);
        let file = Checkpoint::from_bytes(bytes.to_vec()).unwrap();
        let mut tree = DynTree::of(&file).unwrap();
        let _ = file.load_into(&mut tree, &LoadOptions::new()).unwrap();
        let _ = file.part("p0");
        let _ = file.user_metadata().count();
        let path = std::env::temp_dir().join(format!("flatleaf-work-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let comparison = compare(&path, &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(comparison.only_in_first.is_empty());
        let steps = STEPS.get();
        assert!(steps > 0);
        steps as f64 / bytes.len() as f64
    }

    /// Eight times as many names take eight times as many steps, and some more because a search
    /// in a sorted list takes a few more; a step for every pair would be 64 times as many.
    #[test]
    fn steps_grow_as_the_header_does() {
        let tensors = |n: usize| (0..n).map(|index| format!("t{index}"));
        let parts = |n: usize| {
            let parts = list((0..n).map(|index| format!(r#"\"p{index}\""#)));
            let metadata = format!(r#""flatleaf.parts":"[{parts}]""#);
            header(
                &metadata,
                tensors(n).chain((0..n).map(|index| format!("p{index}.x"))),
            )
        };
        let aliases = |n: usize| {
            let metadata = list((0..n).map(|index| format!(r#""a{index}":"t{index}""#)));
            header(&metadata, tensors(n))
        };
        let one_tensor = |n: usize| {
            let metadata = list((0..n).map(|index| format!(r#""a{index}":"t0""#)));
            header(&metadata, tensors(1))
        };
        let ties = |n: usize| {
            let names = list((0..n).map(|index| format!(r#"\"a{index}\""#)));
            let entries = list((0..n).map(|index| format!(r#""a{index}":"t{index}""#)));
            header(
                &format!(r#""flatleaf.ties":"[{names}]",{entries}"#),
                tensors(n),
            )
        };
        let deep = |n: usize| {
            header(
                "",
                (0..n / 50).map(|index| format!("{}{index}", "a.".repeat(100))),
            )
        };
        let empty_segments = |n: usize| header("", (0..n).map(|index| format!("..{index}.*")));
        type File<'f> = &'f dyn Fn(usize) -> Vec<u8>;
        let kinds: [(&str, File<'_>); 6] = [
            ("parts", &parts),
            ("aliases", &aliases),
            ("aliases of one tensor", &one_tensor),
            ("ties", &ties),
            ("deep names", &deep),
            ("empty segments", &empty_segments),
        ];
        for (kind, file) in kinds {
            let [few, many] = [500, 4_000].map(|n| steps_per_byte(&file(n)));
            assert!(many < 1.6 * few, "{kind}: {few} steps a byte, then {many}");
        }
    }
}
