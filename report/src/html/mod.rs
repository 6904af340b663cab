//! The report as one self-contained page: no scripts, no fonts, no network.
//!
//! Its charts are drawn from the same numbers as the tables: the shards of each tensor by device (the Switch
//! Transformers paper's Figure 9, from the actual layout), memory over the program, bytes by mesh axis, FLOPs
//! by purpose, and for a slice the torus and the step time by part.

mod charts;
mod devices;
pub mod routes;
mod slice;

use super::{
    Report,
    compiled::Compiled,
    table::{count, size},
};
use page::html::{document, escape, section, table};
use std::fmt::Write;

/// The page for a report, and for the compiled function if there is one.
pub fn page(report: &Report, compiled: Option<&Compiled>) -> String {
    let mut html = String::new();
    let title = format!("{} · {}", report.program, report.function);
    let mesh = if report.mesh.is_empty() { "one device" } else { &report.mesh };
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<h1>{0}</h1><p class=\"note\">{1}, {2} devices{3}; {4} parameters; {5} sequences per step</p>",
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
    html += &slice::torus(compiled);
    html += &charts::timeline(report, compiled);
    html += &charts::axes(report, compiled);
    html += &charts::arithmetic(report, compiled);
    html += &slice::roofline(compiled);
    html += &collectives(report);
    html += &largest(report);
    document(&title, &html)
}

fn collectives(report: &Report) -> String {
    let rows = report.collectives.iter().map(|c| {
        let cells =
            [&c.kind, &c.axes.join("+"), &c.dtype, &size(c.bytes), &size(c.wire_bytes), &c.count.to_string()];
        let cells = cells.map(|s| s.clone());
        [&cells[..], &[c.direction.to_string(), c.source.clone()]].concat()
    });
    let heads = ["collective", "axes", "dtype", "bytes", "sent", "times", "direction", "model line"];
    section("Collectives", "Bytes per device and per execution.", &table(&heads, "lllrrrll", rows))
}

fn largest(report: &Report) -> String {
    let held = &report.peak_bytes_per_device.largest;
    let rows = held.iter().map(|h| vec![size(h.bytes), h.r#type.clone(), h.scope.clone(), h.source.clone()]);
    let heads = ["bytes", "type", "scope", "model line"];
    section("Largest tensors at the peak", "Without state.", &table(&heads, "rlll", rows))
}
