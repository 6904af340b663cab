//! The report as text, and the formatting of numbers and tables.

use super::{CollectiveUse, Pipeline, Report, Share};
use std::fmt;

/// The number of shares of the peak that are shown of each kind.
const SHARES: usize = 8;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mesh = if self.mesh.is_empty() { "one device".into() } else { self.mesh.clone() };
        writeln!(f, "{} · {} · {mesh} ({} devices)", self.program, self.function, self.devices)?;
        writeln!(f)?;
        let state: Vec<Vec<String>> = self
            .state
            .iter()
            .filter(|s| s.tensors > 0)
            .map(|s| {
                vec![
                    s.kind.clone(),
                    s.tensors.to_string(),
                    count(s.elements),
                    size(s.bytes),
                    size(s.bytes_per_device),
                ]
            })
            .collect();
        table(f, &["state", "tensors", "elements", "bytes", "per device"], "<>>>>", &state)?;
        self.arithmetic(f)?;
        self.memory(f)?;
        self.communication(f)
    }
}

impl Report {
    fn arithmetic(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, purpose) = (self.flops_per_device_by_phase, self.flops_per_device_by_purpose);
        let rows = [
            ("per sequence, forward, as the paper counts", self.flops_per_sequence),
            ("per device and step", self.flops_per_device),
            ("  forward", by.forward),
            ("  backward", by.backward),
            ("  model", purpose.model),
            ("  computed again", purpose.remat),
            ("  routing", purpose.routing),
            ("  empty slots of experts", purpose.empty_slots),
        ];
        let bubbles = ("  bubbles of pipelines", purpose.bubbles);
        let rows = rows.iter().chain([&bubbles].into_iter().filter(|_| !self.pipelines.is_empty()));
        let rows: Vec<Vec<String>> = rows.map(|(what, n)| vec![(*what).into(), count(*n)]).collect();
        table(f, &["arithmetic", "FLOPs"], "<>", &rows)?;
        let row = |p: &Pipeline| {
            let bubbles = format!("{:.1} %", 100.0 * p.bubbles);
            vec![p.scope.clone(), p.stages.to_string(), p.microbatches.to_string(), bubbles]
        };
        let rows: Vec<Vec<String>> = self.pipelines.iter().map(row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        table(f, &["pipeline", "stages", "microbatches", "bubbles"], "<>>>", &rows)
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.peak_bytes_per_device;
        let rows = [
            ("parameters", m.parameters),
            ("slots", m.slots),
            ("counters", m.counters),
            ("inputs", m.inputs),
            ("activations", m.activations),
            ("temporaries", m.temporaries),
            ("total", m.total),
        ];
        let rows: Vec<Vec<String>> = rows.iter().map(|(what, n)| vec![(*what).into(), size(*n)]).collect();
        table(f, &["peak memory (estimate)", "per device"], "<>", &rows)?;
        let shares = |all: &[Share]| -> Vec<Vec<String>> {
            all.iter().take(SHARES).map(|s| vec![s.what.clone(), size(s.bytes)]).collect()
        };
        table(f, &["at the peak, for", "per device"], "<>", &shares(&m.purposes))?;
        table(f, &["made in", "per device"], "<>", &shares(&m.scopes))?;
        table(f, &["with dims", "per device"], "<>", &shares(&m.dims))?;
        let held: Vec<Vec<String>> =
            m.largest.iter().map(|h| vec![size(h.bytes), h.r#type.clone(), h.source.clone()]).collect();
        table(f, &["held at the peak", "type", "source"], "><<", &held)
    }

    fn communication(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<Vec<String>> = self.collectives.iter().map(row).collect();
        let heads = ["collective", "axes", "dtype", "bytes", "sent", "count", "direction", "source"];
        table(f, &heads, "<<<>>><<", &rows)?;
        let rows: Vec<Vec<String>> = self
            .traffic
            .iter()
            .map(|t| vec![t.axes.join("+"), t.count.to_string(), size(t.wire_bytes)])
            .collect();
        table(f, &["sent over", "count", "per device and step"], "<>>", &rows)
    }
}

fn row(used: &CollectiveUse) -> Vec<String> {
    vec![
        used.kind.clone(),
        used.axes.join("+"),
        used.dtype.clone(),
        size(used.bytes),
        size(used.wire_bytes),
        used.count.to_string(),
        used.direction.to_string(),
        used.source.clone(),
    ]
}

/// Writes rows under heads; each column is as wide as its widest cell, and `align` has `<` or `>` for each
/// column. Writes nothing without rows.
pub fn table(f: &mut dyn fmt::Write, heads: &[&str], align: &str, rows: &[Vec<String>]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let heads: Vec<String> = heads.iter().map(|h| (*h).into()).collect();
    let cells = |i: usize| rows.iter().chain([&heads]).map(move |r| r[i].chars().count());
    let widths: Vec<usize> = (0..heads.len()).map(|i| cells(i).max().unwrap_or(0)).collect();
    for row in [&heads].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, width), align) in row.iter().zip(&widths).zip(align.chars()) {
            // Not by a format's width, which has at most 16 bits: names may be longer.
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if align == '<' { ("", blanks.as_str()) } else { (blanks.as_str(), "") };
            line.extend([before, cell, after, "  "]);
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    writeln!(f)
}

/// `7.41 G`: three digits and a decimal prefix.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", " k", " M", " G", " T", " P", " E"])
}

/// `1.43 GiB`: three digits and a binary prefix.
pub fn size(n: u64) -> String {
    scaled(n, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// `12.3 %`: a share with one digit.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let (mut x, mut unit) = (n as f64, 0);
    while x >= step && unit + 1 < units.len() {
        x /= step;
        unit += 1;
    }
    let digits = if unit == 0 || x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    format!("{x:.digits$}{}", units[unit])
}
