//! `cargo xtask test`: installs the CPU plugin and runs all tests.

use anyhow::{Context, Result};
use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The seed of random tests, unless the environment has another: one change gets one verdict. Runs without
/// this command take a new seed each time.
const PROPTEST_RNG_SEED: &str = "1";

/// Installs the CPU plugin into the cache and runs `cargo test --workspace ARGS`. If the first argument is
/// `--slow`, the slow suites run too. Tests fail rather than skip if the plugin is missing.
pub fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let (slow, args) = match args {
        ["--slow", rest @ ..] => (true, rest),
        all => (false, all),
    };
    // The build of the tests has `meshc`; `cargo run -p meshc` would build it with other features.
    if !passes(cargo(root, &["test", "--workspace", "--no-run"]))? {
        return Ok(ExitCode::FAILURE);
    }
    let meshc = env::current_exe().context("looking for the folder of executables")?.with_file_name("meshc");
    let mut install = Command::new(meshc);
    install.current_dir(root).args(["plugin", "install", "cpu"]);
    if !passes(install)? {
        return Ok(ExitCode::FAILURE);
    }
    let mut tests = cargo(root, &["test", "--workspace"]);
    tests.args(args).env("MESH_REQUIRE_PLUGIN", "1");
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        tests.env("PROPTEST_RNG_SEED", PROPTEST_RNG_SEED);
    }
    if slow {
        tests.env("MESH_SLOW", "1");
    }
    Ok(if passes(tests)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn passes(mut command: Command) -> Result<bool> {
    let status = command.status();
    Ok(status.with_context(|| format!("starting {}", command.get_program().display()))?.success())
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(args);
    command
}
