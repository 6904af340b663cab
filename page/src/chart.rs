//! Line charts over steps, as SVG.

use crate::html::escape;
use serde_json::{Value, json};
use std::fmt::Write;

/// Values by step.
pub type Points = Vec<(u64, f64)>;

/// Number of colours of lines.
pub const COLOURS: usize = 6;

/// Width of a chart, and its height without the legend.
const SIZE: (f64, f64) = (560.0, 236.0);
/// Left, top, right and bottom of the plot area.
pub const PLOT: (f64, f64, f64, f64) = (58.0, 30.0, 548.0, 212.0);
/// Height of a row of the legend, which has two columns.
const ROW: f64 = 15.0;
/// Largest number of points of a line: more would be closer than pixels.
const MOST: usize = 400;

/// A line of a chart.
pub struct Line {
    /// The label in the legend.
    pub label: String,
    /// The number of the colour, modulo [`COLOURS`].
    pub colour: usize,
    /// The number of its run.
    pub run: usize,
    /// True for a dashed line with markers.
    pub dashed: bool,
    /// The values.
    pub points: Points,
}

/// A line chart.
pub struct Chart {
    /// The title above the chart.
    pub title: String,
    /// The unit of the values.
    pub unit: String,
    /// The lines.
    pub lines: Vec<Line>,
    /// Steps that are marked by a vertical line.
    pub marks: Vec<u64>,
}

impl Chart {
    /// Renders the chart with the number `number` on its page. `None` means that no line has a finite value.
    pub fn svg(&self, number: usize) -> Option<String> {
        let all = || self.lines.iter().flat_map(|l| &l.points).filter(|(_, y)| y.is_finite());
        let (first, last) = (all().map(|p| p.0).min()?, all().map(|p| p.0).max()?);
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(a, b), (_, y)| (a.min(*y), b.max(*y)));
        let is_constant = low == high;
        let ticks = if is_constant { vec![low] } else { ticks(low, high) };
        let room = if is_constant { (low.abs() / 2.0).max(1e-9) } else { 0.0 };
        let (low, high) = (ticks[0] - room, ticks[ticks.len() - 1] + room);
        let (left, top, right, bottom) = PLOT;
        let x = |step: u64| left + (right - left) * (step - first) as f64 / ((last - first).max(1)) as f64;
        let y = |value: f64| bottom - (bottom - top) * (value - low) / (high - low);
        let height = SIZE.1 + ROW * self.legend_rows() as f64;
        let mut out = format!(
            "<figure class=\"chart\"><svg viewBox=\"0 0 {} {height}\" role=\"img\" data-chart=\"{number}\">\n",
            SIZE.0
        );
        let unit = if self.unit.is_empty() { String::new() } else { format!(" ({})", self.unit) };
        let constant = if is_constant { ": constant" } else { "" };
        let _ = writeln!(
            out,
            "<text class=\"title\" x=\"2\" y=\"15\">{}{}{constant}</text>\n<g class=\"body\">",
            escape(&self.title),
            escape(&unit)
        );
        for (tick, label) in ticks.iter().zip(labels(&ticks)) {
            let at = y(*tick);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                at + 4.0,
                label
            );
        }
        for step in steps(first, last) {
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{0:.1} {bottom}v4\"/><text x=\"{0:.1}\" y=\"{1}\" text-anchor=\"middle\">{2}</text>",
                x(step),
                bottom + 16.0,
                short(step as f64)
            );
        }
        for mark in self.marks.iter().filter(|m| (first..=last).contains(m)) {
            let _ = writeln!(
                out,
                "<path class=\"mark\" d=\"M{:.1} {top}V{bottom}\"><title>rollback to a checkpoint before step {mark}</title></path>",
                x(*mark)
            );
        }
        for line in &self.lines {
            out += &line.svg(&x, &y);
        }
        out += "</g>\n";
        out += &self.legend();
        Some(out + "</svg></figure>\n")
    }

    /// Returns the values of the chart for the script of the page.
    pub fn data(&self) -> Value {
        let line = |line: &Line| {
            let points: Vec<Value> =
                thinned(&line.points).iter().map(|(step, value)| json!([step, rounded(*value)])).collect();
            json!({ "label": line.label, "colour": line.colour % COLOURS, "run": line.run, "dashed": line.dashed,
                "points": points })
        };
        json!({ "lines": self.lines.iter().map(line).collect::<Vec<_>>(), "marks": self.marks })
    }

    fn legend_rows(&self) -> usize {
        if self.lines.len() > 1 { self.lines.len().div_ceil(2) } else { 0 }
    }

    /// Returns the legend below the plot area; a single line has none.
    fn legend(&self) -> String {
        let mut out = String::new();
        for (i, line) in self.lines.iter().enumerate().take(2 * self.legend_rows()) {
            let _ = writeln!(
                out,
                "<text class=\"f{}\" x=\"{}\" y=\"{}\">{} {}</text>",
                line.colour % COLOURS,
                PLOT.0 + (i % 2) as f64 * 250.0,
                PLOT.3 + 34.0 + ROW * (i / 2) as f64,
                if line.dashed { "- -" } else { "—" },
                escape(&line.label)
            );
        }
        out
    }
}

impl Line {
    fn svg(&self, x: &dyn Fn(u64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
        let colour = self.colour % COLOURS;
        let points = thinned(&self.points);
        let mut path = String::new();
        for (i, (step, value)) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x(*step), y(*value));
        }
        let dashed = if self.dashed { " dashed" } else { "" };
        let mut out = format!("<path class=\"line{dashed} s{colour}\" d=\"{path}\"/>\n");
        if self.dashed || points.len() == 1 {
            for (step, value) in &points {
                let (at, height) = (x(*step), y(*value));
                let _ = writeln!(
                    out,
                    "<circle class=\"f{colour}\" cx=\"{at:.1}\" cy=\"{height:.1}\" r=\"2.5\"><title>step {step}: {value:.4}</title></circle>"
                );
            }
        }
        out
    }
}

/// Reduces a line to at most [`MOST`] points, each the mean of equally many values.
fn thinned(points: &Points) -> Points {
    let finite: Points = points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
    let each = finite.len().div_ceil(MOST).max(1);
    let mean = |part: &[(u64, f64)]| {
        let middle = part[part.len() / 2].0;
        (middle, part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64)
    };
    finite.chunks(each).map(mean).collect()
}

/// Returns a value with five digits, which the script shows.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// Returns round steps from `first` to `last`.
fn steps(first: u64, last: u64) -> Vec<u64> {
    if last == first {
        return vec![first];
    }
    let all = ticks(first as f64, last as f64).into_iter().map(|tick| tick.round() as u64);
    let mut all: Vec<u64> = all.filter(|step| (first..=last).contains(step)).collect();
    all.dedup();
    all
}

/// Returns at least two round numbers that enclose a range that is not empty.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let unit =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|u| *u >= rough).unwrap_or(power * 10.0);
    let first = (low / unit).floor();
    let last = (high / unit).ceil().max(first + 1.0);
    (0..=(last - first).min(20.0) as u32).map(|i| (first + f64::from(i)) * unit).collect()
}

/// Formats ticks in a few characters, with as many digits as distinguish them.
fn labels(ticks: &[f64]) -> Vec<String> {
    let with = |digits: usize| -> Vec<String> { ticks.iter().map(|tick| precise(*tick, digits)).collect() };
    let is_distinct = |all: &Vec<String>| all.windows(2).all(|two| two[0] != two[1]);
    (2..9).map(with).find(is_distinct).unwrap_or_else(|| with(9))
}

/// Formats a number in a few characters.
fn short(value: f64) -> String {
    precise(value, 2)
}

/// Formats a number; with a letter for its unit, it has at most `digits` digits behind the point.
fn precise(value: f64, digits: usize) -> String {
    let size = value.abs();
    let scaled =
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(unit, _)| size >= *unit);
    let trimmed = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match scaled {
        Some((unit, letter)) => format!("{}{letter}", trimmed(format!("{:.digits$}", value / unit))),
        None if size > 0.0 && size < 1e-3 => format!("{value:.1e}"),
        None => trimmed(format!("{value:.4}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_lines_short() {
        assert_eq!(ticks(0.3, 4.1), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(ticks(-3e12, 7e12).len() < 12);
        assert_eq!((steps(1, 1000), steps(7, 7)), (vec![500, 1000], vec![7]));
        assert_eq!([rounded(1.234_567), rounded(0.0)], [1.2346, 0.0]);
        assert_eq!([0.0, 1.5, 25_000.0, 2.5e6, 1e-5].map(short), ["0", "1.5", "25k", "2.5M", "1.0e-5"]);
        assert_eq!(labels(&[0.0, 2e4, 4e4]), ["0", "20k", "40k"]);
        assert_eq!(labels(&[155.0e6, 155.001e6, 155.002e6]), ["155M", "155.001M", "155.002M"]);
        let many: Points = (0..100_000).map(|s| (s, s as f64)).collect();
        let few = thinned(&many);
        assert!(few.len() <= MOST && few[0].1 > 100.0 && few[0].1 < 130.0);
        assert_eq!(thinned(&vec![(1, f64::NAN), (2, 1.0)]), [(2, 1.0)]);
        let line = |value| Line {
            label: "l".into(),
            colour: 0,
            run: 0,
            dashed: false,
            points: vec![(1, value), (9, value)],
        };
        let chart = |value| Chart {
            title: "t".into(),
            unit: String::new(),
            lines: vec![line(value), line(value)],
            marks: Vec::new(),
        };
        let text = chart(0.0).svg(3).unwrap();
        assert!(text.contains(">t: constant</text>") && text.contains(">0</text>"), "{text}");
        assert!(text.contains("data-chart=\"3\"") && text.contains("M58.0 121.0L548.0 121.0"), "{text}");
        assert_eq!(chart(0.25).data()["lines"][1]["points"], json!([[1, 0.25], [9, 0.25]]));
        let empty = Chart { title: "t".into(), unit: String::new(), lines: Vec::new(), marks: Vec::new() };
        assert_eq!(empty.svg(0), None);
    }
}
