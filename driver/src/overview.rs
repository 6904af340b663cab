//! Summaries in a few labelled lines: programs, data, finished runs.

use crate::source::Source;
use data::{Mixture, PairMixture, PreparedTokens, Stats, Tokenizer};
use proto::manifest::Manifest;
use report::table::{count, size};
use runtime::train;
use std::fmt::Write;

/// Describes a program: sizes, mesh and layouts, memory and work.
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
                "{} per device (estimate), of which {} state",
                size(peak.unwrap_or(summary.state_bytes_per_device)),
                size(summary.state_bytes_per_device)
            ),
        ),
        (
            "step",
            format!(
                "{}FLOP on all devices, {} per device sent by collectives",
                with_unit(summary.flops_per_step),
                size(collectives)
            ),
        ),
    ];
    table(&lines)
}

/// Describes the text of a run.
pub fn data(source: &Mixture) -> String {
    let (mut files, mut bytes, mut left_out, mut folders) = (0, 0, 0, 0);
    for text in source.corpora() {
        let about = text.tokens.provenance();
        (files, bytes, left_out) = (files + about.files, bytes + about.bytes, left_out + about.skipped.len());
        folders += usize::from(about.prepared.is_some());
    }
    let skipped = match left_out {
        0 => String::new(),
        n => format!(", {n} skipped"),
    };
    let held_out = match source.held_out_rows() {
        0 => String::new(),
        n => format!(", {n} held out"),
    };
    let tokens = match source.tokenizer() {
        Tokenizer::Bytes if folders == 0 => String::new(),
        tokenizer => format!(", {} tokens of {}", count(source.tokens() as u64), tokenizer.name()),
    };
    let prepared = if folders > 0 { ", prepared" } else { "" };
    let rows = match source.examples_per_row() {
        None => "examples".to_owned(),
        Some(per_row) => format!("rows of {per_row:.1} examples on average"),
    };
    let files = number(files as u64, "file");
    let all = format!("{} in {files}{prepared}{skipped}{tokens}", size(bytes));
    let mut out = table(&[("data", format!("{all}: {} {rows}{held_out}", source.train_rows()))]);
    if source.corpora().nth(1).is_some() {
        for (text, share) in source.corpora().zip(source.shares()) {
            let tokens = count(text.tokens.len() as u64);
            out += &table(&[("", format!("{:5.2} % {}, {tokens} tokens", share * 100.0, text.name))]);
        }
    }
    out
}

/// Describes the tasks of a run.
fn tasks(source: &PairMixture) -> String {
    let lines = tasks::source::describe(source);
    let of = |(at, line): (usize, String)| (if at == 0 { "tasks" } else { "" }, line);
    table(&lines.into_iter().enumerate().map(of).collect::<Vec<_>>())
}

/// Describes the data of a run.
pub fn source(source: &Source) -> String {
    match source {
        Source::Text(mixture) => data(mixture),
        Source::Tasks(mixture) => tasks(mixture),
        Source::Teacher(rows) => table(&[("data", rows.describe())]),
    }
}

/// Describes tokens that were just prepared.
pub fn prepared(prepared: &PreparedTokens) -> String {
    let manifest = prepared.manifest();
    let lines = [
        ("folder", prepared.dir().display().to_string()),
        (
            "text",
            format!(
                "{} in {}, {}",
                size(manifest.bytes),
                number(manifest.sources.len() as u64, "file"),
                number(manifest.documents, "document")
            ),
        ),
        (
            "tokens",
            format!(
                "{} of {}, {} bytes each",
                count(manifest.tokens),
                manifest.tokenizer.name,
                manifest.width
            ),
        ),
    ];
    table(&lines)
}

/// Describes the statistics of a text.
pub fn stats(stats: &Stats, tokenizer: &Tokenizer) -> String {
    let left_out = match stats.skipped {
        0 => String::new(),
        n => format!(", {n} skipped"),
    };
    let all = |n: usize| count(n as u64);
    let of = &stats.document_tokens;
    table(&[
        ("files", format!("{}{left_out}", all(stats.files))),
        ("documents", all(stats.documents)),
        ("bytes", size(stats.bytes)),
        (
            "tokens",
            format!(
                "{} ({}), {:.2} bytes each, {} distinct",
                count(stats.tokens),
                tokenizer.name(),
                stats.bytes_per_token,
                all(stats.distinct_tokens)
            ),
        ),
        ("entropy", format!("{:.4} nats per token (unigram)", stats.unigram_entropy)),
        (
            "document",
            format!(
                "{:.1} tokens on average; {} to {}; median {}; 10th, 90th and 99th percentile {}, {}, {}",
                of.mean, of.min, of.max, of.median, of.p10, of.p90, of.p99
            ),
        ),
    ])
}

/// Describes a finished run.
pub fn run(run: &train::Summary) -> String {
    let how = match (run.stopped, run.stopped_early) {
        (true, _) => "stopped",
        (false, true) => "stopped early",
        (false, false) => "finished",
    };
    let mut lines = vec![("run", format!("{how} after step {}, {:.1} s", run.step, run.wall_s))];
    if let (Some(first), Some(last), Some(mean)) = (run.first_loss, run.last_loss, run.mean_loss) {
        let (below, unigram) = (run.unigram_entropy - mean, run.unigram_entropy);
        let side = if below >= 0.0 { "below" } else { "above" };
        lines.extend([
            ("first loss", format!("{first:.4}")),
            ("last loss", format!("{last:.4}")),
            ("mean loss", format!("{mean:.4} (last {} steps)", run.steps.min(20))),
            ("unigram", format!("{unigram:.4} (baseline; the mean is {:.4} {side} it)", below.abs())),
        ]);
    }
    if let Some(eval) = &run.eval {
        let values: Vec<String> = eval.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        lines.push(("held-out", values.join(", ")));
    }
    if let Some((step, value)) = run.best_eval {
        let name = run.best_metric.as_deref().unwrap_or("held-out loss");
        lines.push(("best", format!("{name} {value:.4} after step {step}")));
    }
    if run.rollbacks > 0 {
        lines.push(("rollbacks", run.rollbacks.to_string()));
    }
    if let (Some(speed), Some(step)) = (run.tokens_per_s, run.step_ms) {
        let wait = run.wait_share * 100.0;
        lines.push((
            "speed",
            format!("{speed:.0} tokens/s, {step:.1} ms per step, {wait:.2} % waiting for data"),
        ));
    }
    if let Some(bytes) = run.peak_memory {
        lines.push(("host memory", format!("{:.2} GB at the peak", bytes as f64 / 1e9)));
    }
    table(&lines)
}

/// Formats a number and its noun: `1 file`, `2 files`.
pub fn number(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
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
