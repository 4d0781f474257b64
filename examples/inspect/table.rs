//! Tables and numbers for people.

pub(crate) struct Column {
    header: &'static str,
    cells: Vec<String>,
    is_right: bool,
}

impl Column {
    pub(crate) fn left(header: &'static str, cells: Vec<String>) -> Column {
        Column {
            header,
            cells,
            is_right: false,
        }
    }

    /// For numbers.
    pub(crate) fn right(header: &'static str, cells: Vec<String>) -> Column {
        Column {
            header,
            cells,
            is_right: true,
        }
    }

    fn is_empty(&self) -> bool {
        self.cells.iter().all(String::is_empty)
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        cells.chain([self.header.len()]).max().unwrap_or(0)
    }

    fn pad(&self, text: &str) -> String {
        let width = self.width();
        if self.is_right {
            format!("{text:>width$}")
        } else {
            format!("{text:<width$}")
        }
    }
}

/// One line a row, a rule under the header; columns without content are left out.
pub(crate) fn render(columns: &[Column]) -> String {
    let columns: Vec<&Column> = columns.iter().filter(|column| !column.is_empty()).collect();
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let line = |cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| column.pad(&cell(column)))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let header = line(&|column| column.header.to_owned());
    let rule = "─".repeat(
        columns
            .iter()
            .map(|column| column.width() + 2)
            .sum::<usize>()
            .saturating_sub(2),
    ) + "\n";
    let body: String = (0..rows)
        .map(|row| line(&|column| column.cells[row].clone()))
        .collect();
    format!("{header}{rule}{body}{rule}")
}

/// With a comma after every third digit from the right.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

/// Four digits that count, as short as they get.
pub(crate) fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        small if small < 1e-3 => format!("{x:.2e}"),
        large if large >= 1e6 => format!("{x:.3e}"),
        size if size.is_finite() => format!(
            "{x:.*}",
            (3 - size.log10().floor() as i32).clamp(0, 6) as usize
        ),
        _ => x.to_string(),
    }
}

/// A text of a file for a terminal, which would obey its control characters.
pub(crate) fn printable(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// The norm of tensors together, of their norms: squares of large ones overflow, so these are
/// divided first.
pub(crate) fn norm(norms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = norms.clone().fold(0.0, f64::max);
    if largest == 0.0 {
        return 0.0;
    }
    let squares = norms.map(|norm| (norm / largest).powi(2));
    squares.sum::<f64>().sqrt() * largest
}
