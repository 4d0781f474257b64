//! A layout as a table for people.

use std::fmt;

use super::{Layout, Leaf};
use crate::element::Dtype;

/// The cells of a line, as in the header.
type Row = [String; 7];

const HEADER: [&str; 7] = [
    "path", "shape", "type", "offset", "count", "share", "also at",
];
/// Columns of numbers are set flush right.
const NUMBERS: std::ops::Range<usize> = 3..6;

/// One row a leaf, in flat order, then the frozen and carried ones and the bare floats that are no
/// parameters; totals last.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<Row> = vec![HEADER.map(str::to_owned)];
        for leaf in self.inner.all_leaves() {
            rows.push(row(leaf, self.len()));
        }
        for (path, dtype) in self.settings() {
            rows.push(setting(path, dtype));
        }
        // A column is as wide as its widest cell, so that no line is written before all are known.
        let widths = widths(&rows);
        for row in &rows {
            let line = line(row, &widths);
            writeln!(f, "{line}")?;
        }
        f.write_str(&totals(self))
    }
}

fn row(leaf: &Leaf, total: usize) -> Row {
    let mut share = String::new();
    let offset = if leaf.is_trainable() {
        let percent = percent(leaf.len(), total);
        share = format!("{percent:.2} %");
        grouped(leaf.range().start as u128)
    } else if leaf.dtype().is_float() {
        "frozen".to_owned()
    } else {
        "carried".to_owned()
    };
    [
        path_or_root(leaf.path()),
        format!("{:?}", leaf.shape()),
        leaf.dtype().to_string(),
        offset,
        grouped(leaf.len() as u128),
        share,
        other_places(leaf),
    ]
}

/// A bare float: somebody may have meant it to be trained.
fn setting(path: String, dtype: Dtype) -> Row {
    [
        path_or_root(&path),
        "[]".to_owned(),
        dtype.to_string(),
        "setting".to_owned(),
        "1".to_owned(),
        String::new(),
        String::new(),
    ]
}

fn path_or_root(path: &str) -> String {
    let shown = if path.is_empty() { "(root)" } else { path };
    shown.to_owned()
}

/// The other places of a tie, the first few of many.
fn other_places(leaf: &Leaf) -> String {
    const SHOWN: usize = 4;
    let others = &leaf.places()[1..];
    if others.len() <= SHOWN {
        return others.join(", ");
    }
    let shown = others[..SHOWN].join(", ");
    let more = others.len() - SHOWN;
    format!("{shown} and {more} more")
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

fn widths(rows: &[Row]) -> [usize; 7] {
    let mut widths = [0; 7];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    widths
}

fn line(row: &Row, widths: &[usize; 7]) -> String {
    let mut line = String::new();
    for (column, text) in row.iter().enumerate() {
        let missing = widths[column] - text.chars().count();
        let padding = " ".repeat(missing);
        if column > 0 {
            line.push_str("  ");
        }
        if NUMBERS.contains(&column) {
            line.push_str(&padding);
            line.push_str(text);
        } else {
            line.push_str(text);
            line.push_str(&padding);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

fn totals(layout: &Layout) -> String {
    let trained = sizes(layout.leaves());
    let rest = sizes(layout.others());
    let leaves = layout.leaves().len() as u128;
    let others = layout.others().len() as u128;
    let leaves = counted(leaves, "leaf", "leaves");
    let others = counted(others, "other", "others");
    format!("{leaves}, {trained}; {others}, {rest}")
}

/// Elements and bytes. A layout that was read may claim more than 64 bits count.
fn sizes(leaves: &[Leaf]) -> String {
    let mut elements = 0;
    let mut bytes = 0;
    for leaf in leaves {
        let count = leaf.len() as u128;
        let size = leaf.dtype().size() as u128;
        elements += count;
        bytes += count * size;
    }
    let elements = counted(elements, "element", "elements");
    let bytes = counted(bytes, "byte", "bytes");
    format!("{elements}, {bytes}")
}

pub(super) fn counted(number: u128, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{} {noun}", grouped(number))
}

/// A number with a comma after every third digit from the right.
fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        let left = digits.len() - position;
        if position > 0 && left.is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
