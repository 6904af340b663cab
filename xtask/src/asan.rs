//! `cargo xtask asan`: AddressSanitizer over the tests of `pjrt`, and valgrind over a real `meshc run`.
//!
//! The runtime of the sanitizer is part of the toolchain, but the option is unstable: `RUSTC_BOOTSTRAP`
//! allows it. Plugins are not instrumented, so the sanitizer sees their calls of `malloc` and `free`, and
//! what our code does with their memory. `meshc` replaces `malloc`, and runs under valgrind for that reason,
//! which replaces it again. The files beside this one name faults of others and their owners.

use anyhow::{Context, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The only target that is tested.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs both parts, or the one that `args` names: `tests` or `run`.
pub fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let parts: &[&str] = match args {
        [] => &["tests", "run"],
        ["tests" | "run"] => args,
        _ => bail!("usage: cargo xtask asan [tests | run]"),
    };
    for part in parts {
        let passed = if *part == "tests" { tests(root)? } else { meshc(root)? };
        if !passed {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests of `pjrt` under AddressSanitizer and LeakSanitizer.
fn tests(root: &Path) -> Result<bool> {
    let leaks = format!("suppressions={}", root.join("xtask/src/asan/leaks.txt").display());
    // The test of leaks measures memory, of which the sanitizer keeps much after `free` by default.
    let most =
        ["--lib", "--test", "bad_plugins", "--test", "cpu", "--test", "custom_calls", "--test", "fake"];
    let short = ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64";
    for (tests, quarantine) in [(&most[..], ""), (&["--test", "leaks"], short)] {
        let mut command = cargo(root);
        command.args(["test", "--package", "pjrt", "--target", TARGET, "--target-dir", "target/asan"]);
        command.args(tests).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
        let options = "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1";
        command.env("ASAN_OPTIONS", format!("{options}{quarantine}")).env("LSAN_OPTIONS", &leaks);
        if !command.status().context("starting cargo")?.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compiles a small program, and runs it under valgrind.
fn meshc(root: &Path) -> Result<bool> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        bail!("there is no valgrind: install it, or run `cargo xtask asan tests` alone");
    }
    let built = cargo(root).args(["build", "--package", "meshc"]).status().context("starting cargo")?;
    if !built.success() {
        return Ok(false);
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let (meshc, place) = (target.join("debug/meshc"), target.join("asan/run"));
    let artefact = place.join("a");
    let model = root.join("models/matmul.rs");
    let mut compile = Command::new(&meshc);
    compile.arg("compile").arg(model).args(["--mesh", "data=2", "-o"]).arg(&artefact);
    if !compile.status().context("starting meshc")?.success() {
        return Ok(false);
    }
    let mut command = Command::new("valgrind");
    // `malloc` is that of the executable, and not of a library that valgrind knows.
    command.args(["--soname-synonyms=somalloc=NONE", "--error-exitcode=9", "--num-callers=25"]);
    // meshc replaces itself once to set variables of plugins. Python, which it asks for its packages, can be
    // a chain of scripts.
    command.args(["--trace-children=yes", "--trace-children-skip=*python*"]);
    command.arg(format!("--suppressions={}", root.join("xtask/src/asan/valgrind.supp").display()));
    command.arg(&meshc).arg("run").arg(&artefact).args(["init", "--seed", "1", "--no-executable-cache"]);
    command.arg("--outputs").arg(place.join("w.safetensors"));
    // Code of the compiler's lowest level takes valgrind the least time.
    command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
    Ok(command.status().context("starting valgrind")?.success())
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
