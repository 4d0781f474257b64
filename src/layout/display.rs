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
        let leaves = self.leaves().iter().chain(self.others());
        let leaves = leaves.map(|leaf| row(leaf, self.len()));
        let settings = self.settings().map(|(path, dtype)| setting(path, dtype));
        let rows: Vec<Row> = leaves.chain(settings).collect();
        let widths = widths(&rows);
        let header = HEADER.map(str::to_owned);
        for row in std::iter::once(&header).chain(&rows) {
            writeln!(f, "{}", line(row, &widths))?;
        }
        f.write_str(&totals(self))
    }
}

fn row(leaf: &Leaf, total: usize) -> Row {
    let (offset, share) = if leaf.is_trainable() {
        let share = percent(leaf.len(), total);
        let offset = grouped(leaf.range().start as u128);
        (offset, format!("{share:.2} %"))
    } else if leaf.dtype().is_float() {
        ("frozen".into(), String::new())
    } else {
        ("carried".into(), String::new())
    };
    let shape = format!("{:?}", leaf.shape());
    let count = grouped(leaf.len() as u128);
    let dtype = leaf.dtype().to_string();
    let path = path_or_root(leaf.path());
    let also_at = other_places(leaf);
    [path, shape, dtype, offset, count, share, also_at]
}

/// A bare float: somebody may have meant it to be trained.
fn setting(path: String, dtype: Dtype) -> Row {
    let path = path_or_root(&path);
    let dtype = dtype.to_string();
    let [shape, offset, count] = ["[]", "setting", "1"].map(str::to_owned);
    let (share, also_at) = (String::new(), String::new());
    [path, shape, dtype, offset, count, share, also_at]
}

fn path_or_root(path: &str) -> String {
    let shown = if path.is_empty() { "(root)" } else { path };
    shown.to_owned()
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

fn widths(rows: &[Row]) -> [usize; 7] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADER[column].len()]).max().unwrap_or(0)
    })
}

fn line(row: &Row, widths: &[usize; 7]) -> String {
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
    let leaves = counted(layout.leaves().len() as u128, "leaf", "leaves");
    let others = counted(layout.others().len() as u128, "other", "others");
    let (trained, rest) = (sizes(layout.leaves()), sizes(layout.others()));
    format!("{leaves}, {trained}; {others}, {rest}")
}

/// Elements and bytes. A layout that was read may claim more than 64 bits count.
fn sizes(leaves: &[Leaf]) -> String {
    let (mut elements, mut bytes) = (0, 0);
    for leaf in leaves {
        elements += leaf.len() as u128;
        bytes += leaf.len() as u128 * leaf.dtype().size() as u128;
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
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
