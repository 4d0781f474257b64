//! The flat vector as a picture: one band a tensor in flat order, as wide as it is long, coloured
//! by its norm.

use std::fmt::Write;

use super::Row;
use super::table::{grouped, number};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 30.0;
const BAND: f64 = 240.0;
const TOP: f64 = 70.0;
/// Bands that would be narrower are drawn so wide, so that every tensor is seen.
const NARROWEST: f64 = 2.0;
const LETTER: f64 = 6.6;
const LINE: f64 = 18.0;

struct Band {
    name: String,
    label: String,
    norm: f64,
    x: f64,
    width: f64,
}

pub(crate) fn draw(title: &str, rows: &[Row]) -> String {
    let bands = bands(rows);
    let scale = Scale::of(&bands);
    let columns = columns(&bands);
    let lines = bands.len().div_ceil(columns);
    let height = TOP + BAND + 80.0 + lines as f64 * LINE + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fcfcfa\"/>\n"
    );
    let name = title.rsplit('/').next().unwrap_or(title);
    text(
        &mut svg,
        MARGIN,
        30.0,
        "font-size=\"17\" font-weight=\"bold\"",
        name,
    );
    let total: usize = rows.iter().map(|row| row.0.len()).sum();
    let subtitle = format!(
        "{} tensors, {} elements, in flat order; width: elements, colour: L2 norm",
        rows.len(),
        grouped(total)
    );
    text(&mut svg, MARGIN, 50.0, "fill=\"#666\"", &subtitle);
    bands
        .iter()
        .for_each(|band| draw_band(&mut svg, band, &scale));
    draw_scale(&mut svg, &scale);
    draw_legend(&mut svg, &bands, &scale, columns, lines);
    svg + "</svg>\n"
}

/// Small ones get the narrowest band, and the others share what is left.
fn bands(rows: &[Row]) -> Vec<Band> {
    let room = WIDTH - 2.0 * MARGIN;
    let narrowest = NARROWEST.min(room / rows.len().max(1) as f64);
    let total: usize = rows.iter().map(|row| row.0.len()).sum();
    let is_narrow = |len: usize| len as f64 / total.max(1) as f64 * room < narrowest;
    let narrow = rows.iter().filter(|row| is_narrow(row.0.len()));
    let (count, elements) = narrow.fold((0, 0), |(count, elements), row| {
        (count + 1, elements + row.0.len())
    });
    let width = |len: usize| match is_narrow(len) {
        true => narrowest,
        false => len as f64 / (total - elements) as f64 * (room - f64::from(count) * narrowest),
    };
    let mut x = MARGIN;
    let band = |(tensor, stats): &Row| {
        let norm = stats.as_ref().map_or(0.0, |stats| stats.norm());
        let shape: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
        let name = if tensor.name().is_empty() {
            "(root)".to_owned()
        } else {
            tensor.name().to_owned()
        };
        let label = format!("{name}  {}  {}", shape.join("×"), number(norm));
        let band = Band {
            name,
            label,
            norm,
            x,
            width: width(tensor.len()),
        };
        x += band.width;
        band
    };
    rows.iter().map(band).collect()
}

fn draw_band(svg: &mut String, band: &Band, scale: &Scale) {
    let Band {
        name,
        label,
        x,
        width,
        norm,
    } = band;
    let (fill, ink) = scale.colours(*norm);
    let stroke = width.min(4.0) / 8.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.2}\" y=\"{TOP}\" width=\"{width:.2}\" height=\"{BAND}\" fill=\"{fill}\" stroke=\"#fcfcfa\" \
         stroke-width=\"{stroke:.2}\"><title>{}</title></rect>",
        escaped(label)
    );
    let (middle, centre) = (x + width / 2.0, TOP + BAND / 2.0);
    let length = name.chars().count() as f64 * LETTER;
    let anchor = format!(
        "fill=\"{ink}\" text-anchor=\"middle\" dominant-baseline=\"central\" pointer-events=\"none\""
    );
    if length + 8.0 < *width {
        text(svg, middle, centre, &anchor, name);
    } else if *width > 14.0 && length + 8.0 < BAND {
        text(
            svg,
            middle,
            centre,
            &format!("{anchor} transform=\"rotate(-90 {middle:.2} {centre:.2})\""),
            name,
        );
    }
}

/// What the colours say, from the smallest norm to the largest.
fn draw_scale(svg: &mut String, scale: &Scale) {
    const LENGTH: f64 = 240.0;
    const STEPS: usize = 48;
    let (left, y) = (WIDTH - MARGIN - LENGTH, TOP + BAND + 18.0);
    for step in 0..STEPS {
        let fill = colour(step as f64 / (STEPS - 1) as f64);
        let x = left + LENGTH * step as f64 / STEPS as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"10\" fill=\"{fill}\"/>",
            LENGTH / STEPS as f64 + 0.5
        );
    }
    text(
        svg,
        left - 8.0,
        y + 9.0,
        "fill=\"#666\" text-anchor=\"end\"",
        "norm (logarithmic)",
    );
    text(svg, left, y + 24.0, "fill=\"#666\"", &number(scale.least));
    text(
        svg,
        left + LENGTH,
        y + 24.0,
        "fill=\"#666\" text-anchor=\"end\"",
        &number(scale.most),
    );
}

/// As many as the longest label leaves room for, at most four.
fn columns(bands: &[Band]) -> usize {
    let longest = bands
        .iter()
        .map(|band| band.label.chars().count())
        .max()
        .unwrap_or(1) as f64
        * LETTER
        + 40.0;
    (((WIDTH - 2.0 * MARGIN) / longest) as usize).clamp(1, 4)
}

/// Every tensor by name, in flat order, down the columns.
fn draw_legend(svg: &mut String, bands: &[Band], scale: &Scale, columns: usize, lines: usize) {
    let column = (WIDTH - 2.0 * MARGIN) / columns as f64;
    for (index, band) in bands.iter().enumerate() {
        let x = MARGIN + (index / lines.max(1)) as f64 * column;
        let y = TOP + BAND + 70.0 + (index % lines.max(1)) as f64 * LINE;
        let fill = scale.colours(band.norm).0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.2}\" y=\"{:.2}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{fill}\"/>",
            y - 9.5
        );
        text(
            svg,
            x + 18.0,
            y,
            "fill=\"#222\" xml:space=\"preserve\"",
            &band.label,
        );
    }
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, content: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.2}\" y=\"{y:.2}\" {attributes}>{}</text>",
        escaped(content)
    );
}

fn escaped(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

/// Norms, on a logarithm, as colours.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(bands: &[Band]) -> Scale {
        let norms = || {
            bands
                .iter()
                .map(|band| band.norm)
                .filter(|norm| *norm > 0.0 && norm.is_finite())
        };
        let (least, most) = (
            norms().fold(f64::INFINITY, f64::min),
            norms().fold(0.0, f64::max),
        );
        if most > 0.0 {
            Scale { least, most }
        } else {
            Scale {
                least: 1.0,
                most: 1.0,
            }
        }
    }

    /// Of a band, and of the text on it. A norm of zero is grey.
    fn colours(&self, norm: f64) -> (String, &'static str) {
        if norm.is_nan() || norm <= 0.0 {
            return ("#bbbbbb".to_owned(), "#222");
        }
        let at = ((norm / self.least).ln() / (self.most / self.least).ln()).clamp(0.0, 1.0);
        let at = if at.is_nan() { 1.0 } else { at };
        (colour(at), if at < 0.6 { "#fff" } else { "#111" })
    }
}

/// A few points of viridis (van der Walt and Smith, 2015), which is as even to those who see fewer
/// colours.
fn colour(at: f64) -> String {
    const POINTS: [[f64; 3]; 6] = [
        [68.0, 1.0, 84.0],
        [65.0, 68.0, 135.0],
        [42.0, 120.0, 142.0],
        [34.0, 168.0, 132.0],
        [122.0, 209.0, 81.0],
        [253.0, 231.0, 37.0],
    ];
    let position = at.clamp(0.0, 1.0) * (POINTS.len() - 1) as f64;
    let low = (position as usize).min(POINTS.len() - 2);
    let channel = |channel: usize| {
        let (from, to) = (POINTS[low][channel], POINTS[low + 1][channel]);
        (from + (to - from) * (position - low as f64)).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2))
}
