//! Tests of several crates.
//!
//! They form one executable, which is linked once and runs tests of all files in parallel.

mod causal;
mod checkpoints;
mod composed;
mod decoder_generation;
mod decoder_only;
mod decoding;
mod distillation;
mod dropless;
mod expert_sizes;
mod filetests;
mod fine_tuning;
mod fuzz;
mod generation;
mod gradients;
mod hlo;
mod initial_values;
mod meaning;
mod microbatches;
mod models;
mod oracle_moe;
mod oracle_optimizers;
mod oracle_spans;
mod packing;
mod pipelines;
mod pods;
mod precision;
mod processes;
mod reference;
mod region;
mod repetition;
mod reports;
mod resume;
mod routes;
mod routing;
mod targets;
mod teaching;
mod train_layouts;
mod training;
mod transformers;
mod vocab_padding;
mod watch;
mod windows;

/// A file of tests that is not listed above would never run.
#[test]
fn every_file_of_tests_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder of this file can be read")
        .map(|entry| entry.expect("entries can be read").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "main")
        .collect();
    files.sort();
    let this = include_str!("main.rs");
    let listed: Vec<&str> =
        this.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let unlisted: Vec<&String> = files.iter().filter(|file| !listed.contains(&file.as_str())).collect();
    assert!(unlisted.is_empty(), "add to tests/main.rs: {unlisted:?}");
}
