//! Horizontal bar charts, as SVG.

use crate::html::escape;
use std::fmt::Write;

/// Width of a chart.
pub const WIDTH: f64 = 1040.0;

/// Renders rows of one or more bars. `label` formats a value. No rows, or only zeros, give an empty string.
pub fn bars(rows: &[(String, Vec<f64>)], label: impl Fn(f64) -> String) -> String {
    let most = rows.iter().flat_map(|(_, bars)| bars).fold(0.0, |a: f64, b| a.max(*b));
    if most == 0.0 {
        return String::new();
    }
    let (left, room) = (200.0, WIDTH - 330.0);
    let mut svg = String::new();
    let mut y = 0;
    for (name, bars) in rows {
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 12,
            escape(name)
        );
        for (value, colour) in bars.iter().zip(["#3b6fb6", "#d9822b"]) {
            let width = value / most * room;
            let _ = write!(
                svg,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                left + width + 5.0,
                y + 12,
                escape(&label(*value))
            );
            y += 17;
        }
        y += 5;
    }
    format!("<svg width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" role=\"img\">{svg}</svg>")
}
