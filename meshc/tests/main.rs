//! Tests of the command line.
//!
//! They form one executable, which is linked once and runs tests of all files in parallel.

mod cli_bf16;
mod cli_checkpoints;
mod cli_commands;
mod cli_contract;
mod cli_data;
mod cli_day;
mod cli_distill;
mod cli_errors;
mod cli_experts;
mod cli_faults;
mod cli_generate;
mod cli_hosts;
mod cli_injection;
mod cli_long;
mod cli_losses;
mod cli_machine;
mod cli_pages;
mod cli_phases;
mod cli_routes;
mod cli_runs;
mod cli_selftest;
mod cli_streams;
mod cli_tasks;
mod cli_tpu;
mod cli_training;
mod cli_watch;
mod convert;
mod docs;
mod oracle_models;
mod support;
mod tpu_scripts;

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
