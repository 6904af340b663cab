//! What is about to be trained, in a few lines.

use compiler::report::table::{count, size};
use proto::manifest::Manifest;
use runtime::data::Source;
use std::fmt::Write;

/// A program, where it lies, and what it takes.
pub fn artefact(manifest: &Manifest) -> String {
    let summary = manifest.summary.unwrap_or_default();
    let devices = proto::manifest_check::devices(manifest).unwrap_or(1);
    let axes: Vec<String> =
        manifest.mesh.iter().flat_map(|m| &m.axes).map(|a| format!("{}={}", a.name, a.size)).collect();
    let functions: Vec<&str> = manifest.functions.iter().map(|f| f.name.as_str()).collect();
    let peak = manifest.functions.iter().filter_map(|f| f.cost).map(|c| c.peak_bytes_per_device).max();
    let collectives = manifest
        .functions
        .iter()
        .find(|f| f.name == "train_step")
        .and_then(|f| f.cost)
        .map_or(0, |c| c.collective_bytes_per_device);
    let is = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let lines = [
        ("program", format!("{}, {} parameters", manifest.program, count(summary.parameters))),
        ("functions", functions.join(", ")),
        ("mesh", format!("{} ({devices} {} devices)", is(&axes.join(",")), manifest.target)),
        ("layout", is(&manifest.layout)),
        ("state layout", is(&manifest.state_layout)),
        (
            "memory",
            format!(
                "{} a device, estimated; {} of it state",
                size(peak.unwrap_or(summary.state_bytes_per_device)),
                size(summary.state_bytes_per_device)
            ),
        ),
        (
            "a step",
            format!(
                "{}FLOP on all devices, {} a device into collectives",
                with_unit(summary.flops_per_step),
                size(collectives)
            ),
        ),
    ];
    table(&lines)
}

/// Text for training.
pub fn data(source: &Source) -> String {
    let text = source.text();
    let skipped = match text.skipped.len() {
        0 => String::new(),
        n => format!(", {n} left out"),
    };
    let held_out = match source.held_out() {
        0 => String::new(),
        n => format!(", {n} more held out"),
    };
    let bytes = size(text.bytes.len() as u64);
    let examples = format!("{} examples{held_out}", source.examples());
    table(&[("data", format!("{bytes} in {} files{skipped}: {examples}", text.files.len()))])
}

fn with_unit(n: u64) -> String {
    let text = count(n);
    if text.contains(' ') { text } else { format!("{text} ") }
}

fn table(lines: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (what, value) in lines {
        writeln!(out, "{what:12}  {value}").expect("writing to a String does not fail");
    }
    out
}
