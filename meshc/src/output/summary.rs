//! What is about to be trained, in a few lines.

use data::{Mixture, PreparedTokens, Stats, Tokenizer};
use proto::manifest::Manifest;
use report::table::{count, size};
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
pub fn data(source: &Mixture) -> String {
    let (mut files, mut bytes, mut left_out, mut folders) = (0, 0, 0, 0);
    for text in source.corpora() {
        let about = text.tokens.provenance();
        (files, bytes, left_out) = (files + about.files, bytes + about.bytes, left_out + about.skipped.len());
        folders += usize::from(about.prepared.is_some());
    }
    let skipped = match left_out {
        0 => String::new(),
        n => format!(", {n} left out"),
    };
    let held_out = match source.held_out_rows() {
        0 => String::new(),
        n => format!(", {n} more held out"),
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
    let all = format!("{} in {files} files{prepared}{skipped}{tokens}", size(bytes));
    let mut out = table(&[("data", format!("{all}: {} {rows}{held_out}", source.train_rows()))]);
    if source.corpora().nth(1).is_some() {
        for (text, share) in source.corpora().zip(source.shares()) {
            let tokens = count(text.tokens.len() as u64);
            out += &table(&[("", format!("{:5.2} % {}, {tokens} tokens", share * 100.0, text.name))]);
        }
    }
    out
}

/// Tokens that were just prepared.
pub fn prepared(prepared: &PreparedTokens) -> String {
    let manifest = prepared.manifest();
    let lines = [
        ("folder", prepared.dir().display().to_string()),
        (
            "text",
            format!(
                "{} in {} files, {} documents",
                size(manifest.bytes),
                manifest.sources.len(),
                manifest.documents
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

/// What a text is like.
pub fn stats(stats: &Stats, tokenizer: &Tokenizer) -> String {
    let left_out = match stats.skipped {
        0 => String::new(),
        n => format!(", {n} left out"),
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
                "{} ({}), {:.2} bytes each, {} different",
                count(stats.tokens),
                tokenizer.name(),
                stats.bytes_per_token,
                all(stats.distinct_tokens)
            ),
        ),
        ("entropy", format!("{:.4} nats a token, by frequency alone", stats.unigram_entropy)),
        (
            "a document",
            format!(
                "{:.1} tokens on average; {} to {}; median {}, 10 % up to {}, 90 % up to {}, 99 % up to {}",
                of.mean, of.min, of.max, of.median, of.p10, of.p90, of.p99
            ),
        ),
    ])
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
