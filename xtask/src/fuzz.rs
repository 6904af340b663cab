//! `cargo xtask fuzz`: the campaign of damaged inputs, for a time.

use anyhow::{Context, Result, bail};
use std::{
    path::Path,
    process::{Command, ExitCode},
};

/// Seconds of a campaign by default.
const SECONDS: u64 = 600;

/// Runs the campaign of `tests/tests/fuzz.rs` for `args[0]` seconds. `args[1]` is the number of the first
/// input; the same number is always the same input.
pub fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let number = |at: usize, default: u64| match args.get(at) {
        None => Ok(default),
        Some(text) => text.parse().with_context(|| format!("`{text}` is not a number")),
    };
    if args.len() > 2 {
        bail!("usage: cargo xtask fuzz [SECONDS [FIRST INPUT]]");
    }
    let (seconds, first) = (number(0, SECONDS)?, number(1, 0)?);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["test", "--quiet", "--package", "tests", "--test", "all", "--"]);
    command.args(["--exact", "fuzz::damaged_inputs_are_refused_or_read_as_before", "--nocapture"]);
    command.env("MESH_FUZZ_SECONDS", seconds.to_string()).env("MESH_FUZZ_FIRST", first.to_string());
    let passed = command.status().context("starting cargo")?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
