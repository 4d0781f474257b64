//! What is in a safetensors file, and how far is it from another?
//!
//! Every tensor with its place in the file and what its elements are like; the distances to a
//! second file; a picture. Files may be larger than memory: they are read once, a little at a time.
//!
//! ```text
//! cargo run --release --example inspect --features mmap [-- FILE [FILE2] [--svg OUT.svg]]
//! ```
//!
//! Without a file it looks at a real one that comes with the project.

mod picture;
mod progress;
mod stats;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use flatleaf::checkpoint::{self, Checkpoint, Comparison, Tensor};
use flatleaf::{Dtype, Result};
use progress::Progress;
use stats::Stats;
use table::{Column, grouped, number, printable};

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/data/silero_vad_16k.safetensors"
);

/// A tensor and what its elements are like, if they are numbers.
type Row = (Tensor, Option<Stats>);

fn main() -> Result<()> {
    let (files, picture) = arguments();
    let file = checkpoint::open(&files[0])?;
    let rows = look(&files[0], &file)?;
    println!("{}\n", title(&files[0], &file));
    println!("{}", parameters(&file, &rows));
    println!("{}", totals(&rows));
    notes(&file);
    if let Some(second) = files.get(1) {
        println!("\n{} − {}\n", files[0].display(), second.display());
        println!("{}", distances(&files[0], second)?);
    }
    if let Some(path) = picture {
        std::fs::write(&path, picture::draw(&files[0].display().to_string(), &rows))
            .expect("the picture can be written");
        println!("\npicture: {}", path.display());
    }
    Ok(())
}

fn arguments() -> (Vec<PathBuf>, Option<PathBuf>) {
    let (mut files, mut picture) = (Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" => {
                println!("inspect [FILE [FILE2]] [--svg OUT.svg]");
                std::process::exit(0);
            }
            "--svg" => {
                picture = Some(
                    arguments
                        .next()
                        .expect("--svg wants a file to write")
                        .into(),
                )
            }
            _ => files.push(PathBuf::from(argument)),
        }
    }
    if files.is_empty() {
        files.push(SAMPLE.into());
    }
    assert!(files.len() <= 2, "one file or two");
    (files, picture)
}

/// Reads every tensor once.
fn look(path: &Path, file: &Checkpoint) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = file
        .tensors()
        .iter()
        .map(|tensor| (tensor.clone(), None))
        .collect();
    let mut progress = Progress::over(elements(file.tensors()));
    let mut at = 0;
    checkpoint::scan(&[path], |tensor, chunks| {
        at += rows[at..]
            .iter()
            .position(|row| row.0.name() == tensor.name())
            .expect("the same file");
        rows[at].1.get_or_insert_default().add(&chunks[0]);
        progress.advance(chunks[0].len());
    })?;
    Ok(rows)
}

fn elements(tensors: &[Tensor]) -> usize {
    tensors.iter().map(Tensor::len).sum()
}

fn title(path: &Path, file: &Checkpoint) -> String {
    let bytes: usize = file
        .tensors()
        .iter()
        .map(|tensor| tensor.byte_range().len())
        .sum();
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    format!(
        "{name}: {} tensors, {} elements, {} bytes",
        file.tensors().len(),
        grouped(elements(file.tensors())),
        grouped(bytes)
    )
}

fn parameters(file: &Checkpoint, rows: &[Row]) -> String {
    let total = elements(file.tensors());
    let others = OtherNames::of_file(file);
    let stated = |text: &dyn Fn(&Tensor) -> String| {
        rows.iter()
            .map(|(tensor, _)| text(tensor))
            .collect::<Vec<_>>()
    };
    let measured = |value: &dyn Fn(&Stats) -> f64| {
        let text = |(_, stats): &Row| {
            stats
                .as_ref()
                .map(|stats| number(value(stats)))
                .unwrap_or_default()
        };
        rows.iter().map(text).collect::<Vec<_>>()
    };
    let non_finite = |(_, stats): &Row| {
        stats
            .as_ref()
            .filter(|stats| stats.non_finite > 0)
            .map(|stats| grouped(stats.non_finite))
    };
    let columns = [
        Column::left(
            "path",
            stated(&|tensor| {
                if tensor.name().is_empty() {
                    "(root)".into()
                } else {
                    printable(tensor.name())
                }
            }),
        ),
        Column::left("shape", stated(&|tensor| format!("{:?}", tensor.shape()))),
        Column::left("type", stated(&Tensor::type_name)),
        Column::right(
            "offset",
            stated(&|tensor| grouped(tensor.byte_range().start)),
        ),
        Column::right("count", stated(&|tensor| grouped(tensor.len()))),
        Column::right(
            "share",
            stated(&|tensor| format!("{:.2} %", 100.0 * tensor.len() as f64 / total.max(1) as f64)),
        ),
        Column::right("mean", measured(&Stats::mean)),
        Column::right("std", measured(&Stats::std)),
        Column::right("min", measured(&|stats| stats.min)),
        Column::right("max", measured(&|stats| stats.max)),
        Column::right("norm", measured(&Stats::norm)),
        Column::right(
            "non-finite",
            rows.iter()
                .map(|row| non_finite(row).unwrap_or_default())
                .collect(),
        ),
        Column::left("also at", stated(&|tensor| others.of(tensor))),
    ];
    table::render(&columns)
}

/// The aliases of each tensor, by its name.
struct OtherNames(HashMap<String, Vec<String>>);

impl OtherNames {
    fn of_file(file: &Checkpoint) -> OtherNames {
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        for (alias, kept) in file.aliases() {
            names
                .entry(kept.to_owned())
                .or_default()
                .push(printable(alias));
        }
        OtherNames(names)
    }

    fn of(&self, tensor: &Tensor) -> String {
        let names = self.0.get(tensor.name());
        names.map(|names| names.join(", ")).unwrap_or_default()
    }
}

fn totals(rows: &[Row]) -> String {
    // Counters and positions are no parameters, and large enough to hide those.
    let floats = rows.iter().filter(|(tensor, _)| is_float(tensor));
    let stats = || floats.clone().filter_map(|row| row.1.as_ref());
    let norm = table::norm(stats().map(Stats::norm));
    let non_finite: usize = stats().map(|stats| stats.non_finite).sum();
    let others = if non_finite == 0 {
        "all finite".to_owned()
    } else {
        format!("{} not finite, left out", grouped(non_finite))
    };
    format!("norm of all floats {}, {others}", number(norm))
}

fn is_float(tensor: &Tensor) -> bool {
    tensor.dtype().is_some_and(Dtype::is_float)
}

/// Metadata, and what was written beside a model.
fn notes(file: &Checkpoint) {
    for part in file.parts() {
        let tensors = file
            .part(part)
            .map(|part| part.tensors().to_vec())
            .unwrap_or_default();
        println!(
            "beside the model: {}, {} tensors, {} elements (not measured)",
            printable(part),
            tensors.len(),
            grouped(elements(&tensors))
        );
    }
    for (key, value) in file.user_metadata() {
        let value: String = value.chars().take(100).collect();
        println!("metadata: {} = {}", printable(key), printable(&value));
    }
}

fn distances(first: &Path, second: &Path) -> Result<String> {
    let mut progress = Progress::over(elements(checkpoint::open(first)?.tensors()));
    let comparison =
        checkpoint::compare_with(first, second, |elements| progress.advance(elements))?;
    let tensors = &comparison.tensors;
    let relative = |distance: f64, norm: f64| {
        if norm == 0.0 {
            String::new()
        } else {
            number(distance / norm)
        }
    };
    let columns = [
        Column::left(
            "path",
            tensors
                .iter()
                .map(|tensor| printable(&tensor.name))
                .collect(),
        ),
        Column::right(
            "count",
            tensors.iter().map(|tensor| grouped(tensor.len)).collect(),
        ),
        Column::right(
            "distance",
            tensors
                .iter()
                .map(|tensor| number(tensor.distance))
                .collect(),
        ),
        Column::right(
            "relative",
            tensors
                .iter()
                .map(|tensor| relative(tensor.distance, tensor.norm_first))
                .collect(),
        ),
        Column::right(
            "largest",
            tensors
                .iter()
                .map(|tensor| number(tensor.max_abs))
                .collect(),
        ),
    ];
    let total = format!(
        "distance of all {}, relative {}",
        number(comparison.distance()),
        relative(comparison.distance(), comparison.norms().0)
    );
    Ok(table::render(&columns) + &total + &unpaired(&comparison))
}

fn unpaired(comparison: &Comparison) -> String {
    let Comparison {
        only_in_first,
        only_in_second,
        other_shapes,
        not_compared,
        ..
    } = comparison;
    let kinds = [
        ("only in the first", only_in_first),
        ("only in the second", only_in_second),
        ("of other shapes", other_shapes),
        ("not compared, types", not_compared),
    ];
    kinds
        .iter()
        .filter(|kind| !kind.1.is_empty())
        .map(|(what, names)| format!("\n{what}: {}", printable(&names.join(", "))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of norm 5, positions of norm 1,000, and a flag.
    #[test]
    fn norms_are_of_floats_alone() {
        let name = format!("flatleaf-inspect-{}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        let model = (vec![3.0_f32, f32::NAN], vec![1000_i64], vec![4.0_f64], true);
        checkpoint::save(&path, &model).unwrap();
        let file = checkpoint::open(&path).unwrap();
        let rows = look(&path, &file).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            totals(&rows),
            "norm of all floats 5.000, 1 not finite, left out"
        );
        // In the order of the file, which begins with the widest types.
        let norms = rows
            .iter()
            .map(|(_, stats)| stats.as_ref().map(Stats::norm));
        let norms: Vec<Option<f64>> = norms.collect();
        assert_eq!(norms[..3], [Some(4.0), Some(1000.0), Some(3.0)]);
    }
}
