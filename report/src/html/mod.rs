//! The report as one page that needs nothing else: no scripts, no fonts, no network.
//!
//! Its pictures are drawn from the same numbers as the tables: which device holds which part of which tensor (the
//! Switch Transformers paper's Figure 9, from the actual layout), memory along the program, bytes by mesh axis,
//! arithmetic by purpose.

mod charts;
mod devices;

use super::{
    Report,
    compiled::Compiled,
    table::{count, size},
};
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1d2430;background:#fff}\
h1{font-size:1.5em;margin-bottom:.1em}h2{font-size:1.15em;margin:2em 0 .4em;border-bottom:1px solid #d9dee7}\
p{margin:.4em 0}small,.note{color:#5c6675}table{border-collapse:collapse;font-size:13px}\
td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.grids{display:flex;flex-wrap:wrap;gap:1.4em}figure{margin:0;max-width:330px}figcaption{font-size:13px;margin-bottom:.3em}\
svg text{font:11px system-ui,sans-serif;fill:#1d2430}details{margin:.6em 0}";

/// The page for a report, and for what a plugin's compiler made of the function if it has.
pub fn page(report: &Report, compiled: Option<&Compiled>) -> String {
    let mut html = String::new();
    let title = format!("{} · {}", report.program, report.function);
    let mesh = if report.mesh.is_empty() { "one device" } else { &report.mesh };
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style>\
         <h1>{0}</h1><p class=\"note\">{1}, {2} devices{3}; {4} parameters; {5} sequences a step</p>",
        escape(&title),
        escape(mesh),
        report.devices,
        compiled.map_or_else(String::new, |c| format!(
            "; compiled for {} in {:.0} s",
            escape(&c.target),
            c.seconds
        )),
        count(report.parameters),
        report.sequences,
    );
    html += &charts::fit(report, compiled);
    html += &devices::devices(report);
    html += &charts::timeline(report, compiled);
    html += &charts::axes(report, compiled);
    html += &charts::arithmetic(report, compiled);
    html += &collectives(report);
    html += &largest(report);
    html += "</html>\n";
    html
}

fn collectives(report: &Report) -> String {
    let rows = report.collectives.iter().map(|c| {
        let cells =
            [&c.kind, &c.axes.join("+"), &c.dtype, &size(c.bytes), &size(c.wire_bytes), &c.count.to_string()];
        let cells = cells.map(|s| s.clone());
        [&cells[..], &[c.direction.to_string(), c.source.clone()]].concat()
    });
    let heads = ["collective", "axes", "dtype", "bytes", "sent", "times", "direction", "model line"];
    section("Collectives", "Bytes are of one device and of one execution.", &table(&heads, "lllrrrll", rows))
}

fn largest(report: &Report) -> String {
    let held = &report.peak_bytes_per_device.largest;
    let rows = held.iter().map(|h| vec![size(h.bytes), h.r#type.clone(), h.scope.clone(), h.source.clone()]);
    let heads = ["bytes", "type", "scope", "model line"];
    section("Largest tensors at the peak", "State apart.", &table(&heads, "rlll", rows))
}

/// A heading, a note and contents; nothing without contents.
fn section(title: &str, note: &str, contents: &str) -> String {
    match contents {
        "" => String::new(),
        _ => format!("<h2>{title}</h2><p class=\"note\">{note}</p>{contents}"),
    }
}

/// A table; nothing without rows. `align` has `l` or `r` for each column.
fn table(heads: &[&str], align: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |tag: &str, (text, align): (&str, char)| {
        let class = if align == 'r' { " class=\"n\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let line = |tag: &str, cells: &[&str]| -> String {
        let cells: String = cells.iter().copied().zip(align.chars()).map(|c| cell(tag, c)).collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String =
        rows.map(|row| line("td", &row.iter().map(String::as_str).collect::<Vec<_>>())).collect();
    if body.is_empty() { String::new() } else { format!("<table>{}{body}</table>", line("th", heads)) }
}

/// Text that may stand in an element or an attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_empty_parts_are_left_out() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
        assert_eq!(table(&["x"], "l", std::iter::empty()), "");
        assert_eq!(section("x", "y", ""), "");
        assert!(
            table(&["x"], "r", [vec!["<1".to_owned()]].into_iter()).contains("<td class=\"n\">&lt;1</td>")
        );
    }
}
