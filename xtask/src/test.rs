//! `cargo xtask test`: installs the CPU plugin and runs all tests.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Installs the CPU plugin into the cache and runs `cargo test --workspace ARGS`. If the first argument is
/// `--slow`, the slow suites run too. Tests fail rather than skip if the plugin is missing.
pub fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let (slow, args) = match args {
        ["--slow", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let install = ["run", "--quiet", "--package", "meshc", "--", "plugin", "install", "cpu"];
    if !cargo(root, &install).status().context("starting cargo")?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let mut tests = cargo(root, &["test", "--workspace"]);
    tests.args(args).env("MESH_REQUIRE_PLUGIN", "1");
    if slow {
        tests.env("MESH_SLOW", "1");
    }
    let passed = tests.status().context("starting cargo")?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(args);
    command
}
