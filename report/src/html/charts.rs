//! Bar and line charts.

use crate::{
    Moment, Report,
    compiled::Compiled,
    table::{count, size},
};
use page::{
    bars::{WIDTH, bars},
    html::{escape, section, table},
};
use std::fmt::Write;

const COLOURS: [&str; 10] = [
    "#3b6fb6", "#7fa7d9", "#9aa3b0", "#c9ced8", "#d9822b", "#e8b36f", "#5a9e6f", "#a3cfae", "#b05b8a",
    "#d9a6c4",
];

/// The estimated peak memory beside the memory of a device and the compiler's figure.
pub(super) fn fit(report: &Report, compiled: Option<&Compiled>) -> String {
    let m = &report.peak_bytes_per_device;
    let state = [
        ("parameters", m.parameters),
        ("optimizer slots", m.slots),
        ("counters", m.counters),
        ("inputs", m.inputs),
    ];
    let mut parts: Vec<(String, u64)> = state.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect();
    parts.extend(m.purposes.iter().map(|s| (s.what.clone(), s.bytes)));
    let usable = compiled.map_or(0, |c| c.usable_bytes);
    let peak = compiled.and_then(|c| c.memory).map_or(0, |m| m.peak);
    let bar = stacked(&parts, m.total, peak, usable);
    let shares = |title: &str, all: &[crate::Share]| {
        let rows = all.iter().take(12).map(|s| vec![s.what.clone(), size(s.bytes)]);
        table(&[title, "bytes"], "lr", rows)
    };
    let more = format!(
        "<details><summary>by scope and by dims</summary><div class=\"grids\">{}{}</div></details>",
        shares("scope", &m.scopes),
        shares("dims", &m.dims)
    );
    let legend = legend(&parts, m.total);
    let body = format!(
        "<svg width=\"{WIDTH}\" height=\"70\" viewBox=\"0 0 {WIDTH} 70\" role=\"img\">{bar}</svg><table>{legend}</table>{more}"
    );
    section("Memory per device", &verdict(m.total, peak, usable), &body)
}

/// A bar of the parts, with marks at the compiler's peak and at the memory of a device, where known.
fn stacked(parts: &[(String, u64)], total: u64, peak: u64, usable: u64) -> String {
    let most = [usable, peak, total, 1].into_iter().max().unwrap_or(1) as f64;
    let mut svg = String::new();
    let mut x = 0.0;
    for (i, (what, bytes)) in parts.iter().enumerate() {
        let width = *bytes as f64 / most * WIDTH;
        let colour = COLOURS[i % COLOURS.len()];
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"34\" fill=\"{colour}\"><title>{}: {}</title></rect>",
            escape(what),
            size(*bytes)
        );
        x += width;
    }
    let mut mark = |bytes: u64, words: &str, y: u32| {
        if bytes > 0 {
            let x = bytes as f64 / most * (WIDTH - 2.0);
            let _ = write!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{y}\" stroke=\"#b3261e\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{y}\" text-anchor=\"end\">{words} {}</text>",
                x - 4.0,
                size(bytes)
            );
        }
    };
    mark(peak, "peak of the plugin’s compiler", 48);
    mark(usable, "device memory", 64);
    svg
}

/// A table row for each part that is not empty: its colour, name, bytes and share.
fn legend(parts: &[(String, u64)], total: u64) -> String {
    let rows = parts.iter().enumerate().filter(|(_, (_, bytes))| *bytes > 0).map(|(i, (what, bytes))| {
        let share = 100.0 * *bytes as f64 / (total.max(1)) as f64;
        format!(
            "<tr><td><svg width=\"12\" height=\"12\"><rect width=\"12\" height=\"12\" fill=\"{}\"/></svg></td>\
             <td>{}</td><td class=\"n\">{}</td><td class=\"n\">{share:.1} %</td></tr>",
            COLOURS[i % COLOURS.len()],
            escape(what),
            size(*bytes)
        )
    });
    rows.collect()
}

/// The sentence that says if the program fits; `peak` and `usable` are 0 if unknown.
fn verdict(total: u64, peak: u64, usable: u64) -> String {
    match (usable, peak) {
        (0, _) => format!("Estimated peak memory per device: {}.", size(total)),
        (usable, 0) => format!("Estimated peak memory per device: {} of {}.", size(total), size(usable)),
        (usable, peak) => format!(
            "The program {}: the plugin’s compiler needs {} of {}, {} {}; the estimate is {}.",
            if peak <= usable { "fits" } else { "does not fit" },
            size(peak),
            size(usable),
            size(usable.abs_diff(peak)),
            if peak <= usable { "less" } else { "too much" },
            size(total)
        ),
    }
}

/// Memory over the program.
pub(super) fn timeline(report: &Report, compiled: Option<&Compiled>) -> String {
    let all = &report.timeline;
    let usable = compiled.map_or(0, |c| c.usable_bytes);
    let Some(most) = all.iter().map(|m| m.bytes).max().filter(|n| *n > 0) else { return String::new() };
    let top = most.max(usable.min(most * 2)) as f64 * 1.05;
    let (height, step) = (220.0, WIDTH / all.len() as f64);
    let y = |bytes: u64| height - bytes as f64 / top * height;
    let mut svg = String::new();
    for (i, m) in all.iter().enumerate() {
        let colour = if m.backward { "#d9822b" } else { "#3b6fb6" };
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<rect x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{:.1}\" fill=\"{colour}\"><title>{}{}: {}</title></rect>",
            i as f64 * step,
            y(m.bytes),
            step + 0.3,
            height - y(m.bytes),
            escape(if m.scope.is_empty() { "top" } else { &m.scope }),
            if m.backward { ", backward" } else { "" },
            size(m.bytes)
        );
    }
    for (bytes, words) in [(most, "peak"), (usable, "device memory")] {
        if bytes > 0 && bytes as f64 <= top {
            let y = y(bytes);
            let _ = write!(
                svg,
                "<line x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#b3261e\"/>\
                 <text x=\"4\" y=\"{:.1}\">{words} {}</text>",
                (y - 3.0).max(10.0),
                size(bytes)
            );
        }
    }
    svg += &scales(all, top, height);
    let note = "Estimated memory after each instruction, with one iteration of each loop. Blue is the forward pass and \
                the optimizer, orange is the backward pass. Hover over a column for its scope.";
    let all = height + 34.0;
    let body = format!(
        "<svg width=\"{WIDTH}\" height=\"{all}\" viewBox=\"0 0 {WIDTH} {all}\" role=\"img\">{svg}</svg>"
    );
    section("Memory over the program", note, &body)
}

/// The scales of the timeline: bytes, numbers of instructions, and the names of its phases.
fn scales(all: &[Moment], top: f64, height: f64) -> String {
    let mut svg = String::new();
    for quarter in 1..4 {
        let bytes = top * f64::from(quarter) / 4.0;
        let y = height - height * f64::from(quarter) / 4.0;
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M0 {y:.1}H{WIDTH}\"/><text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y - 3.0,
            size(bytes as u64)
        );
    }
    let text = |x: f64, y: f64, anchor: &str, words: &str| {
        format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
    };
    let last = all.len();
    svg += &text(0.0, height + 14.0, "start", "instruction 1");
    svg += &text(WIDTH / 2.0, height + 14.0, "middle", &(last / 2).max(1).to_string());
    svg += &text(WIDTH, height + 14.0, "end", &last.to_string());
    let first = all.iter().position(|m| m.backward);
    let end = all.iter().rposition(|m| m.backward);
    let phases = match (first, end) {
        (Some(first), Some(end)) => {
            vec![(0, first, "forward"), (first, end + 1, "backward"), (end + 1, last, "optimizer")]
        }
        _ => vec![(0, last, "forward")],
    };
    for (from, to, words) in phases.into_iter().filter(|(from, to, _)| to > from) {
        let middle = (from + to) as f64 / 2.0 / last as f64 * WIDTH;
        svg += &text(middle.clamp(30.0, WIDTH - 30.0), height + 30.0, "middle", words);
    }
    svg
}

/// Traffic by mesh axes: our estimate, and that of the optimized program.
pub(super) fn axes(report: &Report, compiled: Option<&Compiled>) -> String {
    let program = compiled.and_then(|c| c.program.as_ref());
    let mut names: Vec<String> = report.traffic.iter().map(|t| t.axes.join("+")).collect();
    for used in program.iter().flat_map(|p| &p.axes) {
        let name = used.axes.join("+");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rows: Vec<(String, Vec<f64>)> = names
        .into_iter()
        .map(|name| {
            let ours =
                report.traffic.iter().filter(|t| t.axes.join("+") == name).map(|t| t.wire_bytes as f64);
            let theirs = |p: &crate::optimized::Optimized| -> f64 {
                p.axes.iter().filter(|t| t.axes.join("+") == name).map(|t| t.wire_bytes).sum()
            };
            let mut bars = vec![ours.sum::<f64>()];
            bars.extend(program.map(theirs));
            (name, bars)
        })
        .collect();
    let note = match program {
        Some(_) => {
            "Bytes sent per device and step. Blue is the estimate, orange is the plugin’s optimized program."
        }
        None => "Bytes sent per device and step.",
    };
    section("Traffic by mesh axes", note, &bars(&rows, |n| size(n.round() as u64)))
}

/// FLOPs by purpose and part, and cycles by part.
pub(super) fn arithmetic(report: &Report, compiled: Option<&Compiled>) -> String {
    let p = report.flops_per_device_by_purpose;
    let purposes = [
        ("model and its gradient", p.model),
        ("recomputation (remat)", p.remat),
        ("routing", p.routing),
        ("empty expert slots", p.empty_slots),
    ];
    let one = |(what, n): (&str, u64)| (what.to_owned(), vec![n as f64]);
    let flops = |n: f64| format!("{}FLOP", count(n.round() as u64));
    let rows: Vec<_> = purposes.into_iter().filter(|(_, n)| *n > 0).map(one).collect();
    let mut html = bars(&rows, flops);
    let parts: Vec<_> =
        report.flops_per_device_by_part.iter().map(|p| one((p.part.as_str(), p.flops))).collect();
    html += &bars(&parts, flops);
    if let Some(program) = compiled.and_then(|c| c.program.as_ref()) {
        let cycles: Vec<_> =
            program.parts.iter().map(|p| one((p.part.as_str(), p.estimated_cycles))).collect();
        html += "<p class=\"note\">Cycles estimated by the plugin's compiler, without collectives:</p>";
        html += &bars(&cycles, |n| format!("{} cycles", count(n.round() as u64)));
    }
    section("Arithmetic per device and step", "FLOPs of einsums, two per multiply-add.", &html)
}
