//! A layout as a table for people.

use std::fmt;

use super::{Layout, Leaf};
use crate::element::Dtype;

const HEADER: [&str; 7] = [
    "path", "shape", "type", "offset", "count", "share", "also at",
];
/// Columns of numbers are set flush right.
const NUMBERS: std::ops::Range<usize> = 3..6;

/// One row a leaf, in flat order, then the frozen and carried ones and the bare floats that are no
/// parameters; totals last.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 7]> = self
            .leaves()
            .iter()
            .chain(self.others())
            .map(|leaf| row(leaf, self.len()))
            .chain(self.settings().map(|(path, dtype)| setting(path, dtype)))
            .collect();
        let widths = widths(&rows);
        let header = HEADER.map(str::to_owned);
        for row in std::iter::once(&header).chain(&rows) {
            writeln!(f, "{}", line(row, &widths))?;
        }
        f.write_str(&totals(self))
    }
}

fn row(leaf: &Leaf, total: usize) -> [String; 7] {
    let path = if leaf.path().is_empty() {
        "(root)"
    } else {
        leaf.path()
    };
    let (offset, share) = match leaf.is_trainable() {
        true => (
            grouped(leaf.range().start as u128),
            format!("{:.2} %", percent(leaf.len(), total)),
        ),
        false if leaf.dtype().is_float() => ("frozen".into(), String::new()),
        false => ("carried".into(), String::new()),
    };
    let shape = format!("{:?}", leaf.shape());
    [
        path.into(),
        shape,
        leaf.dtype().to_string(),
        offset,
        grouped(leaf.len() as u128),
        share,
        other_places(leaf),
    ]
}

/// A bare float: somebody may have meant it to be trained.
fn setting(path: String, dtype: Dtype) -> [String; 7] {
    let path = if path.is_empty() {
        "(root)".into()
    } else {
        path
    };
    let (shape, offset, count) = ("[]".into(), "setting".into(), "1".into());
    [
        path,
        shape,
        dtype.to_string(),
        offset,
        count,
        String::new(),
        String::new(),
    ]
}

/// The other places of a tie, the first few of many.
fn other_places(leaf: &Leaf) -> String {
    const SHOWN: usize = 4;
    let others = &leaf.places()[1..];
    let shown = others[..others.len().min(SHOWN)].join(", ");
    if others.len() > SHOWN {
        format!("{shown} and {} more", others.len() - SHOWN)
    } else {
        shown
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

fn widths(rows: &[[String; 7]]) -> [usize; 7] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADER[column].len()]).max().unwrap_or(0)
    })
}

fn line(row: &[String; 7], widths: &[usize; 7]) -> String {
    let cell = |column: usize| {
        let (text, width) = (&row[column], widths[column]);
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        if NUMBERS.contains(&column) {
            padding + text
        } else {
            text.clone() + &padding
        }
    };
    let cells: Vec<String> = (0..row.len()).map(cell).collect();
    cells.join("  ").trim_end().to_owned()
}

fn totals(layout: &Layout) -> String {
    let count = |leaves: &[Leaf]| leaves.iter().map(|leaf| leaf.len() as u128).sum::<u128>();
    let bytes = |leaves: &[Leaf]| {
        leaves
            .iter()
            .map(|leaf| leaf.len() as u128 * leaf.dtype().size() as u128)
            .sum::<u128>()
    };
    let totals = |leaves: &[Leaf]| {
        [
            counted(count(leaves), "element", "elements"),
            counted(bytes(leaves), "byte", "bytes"),
        ]
        .join(", ")
    };
    let leaves = counted(layout.leaves().len() as u128, "leaf", "leaves");
    let others = counted(layout.others().len() as u128, "other", "others");
    format!(
        "{leaves}, {}; {others}, {}",
        totals(layout.leaves()),
        totals(layout.others())
    )
}

pub(super) fn counted(number: u128, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// A number with a comma after every third digit from the right.
fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
