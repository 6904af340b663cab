//! `cargo xtask bless`: runs the tests in the mode in which they rewrite their expectations.
//!
//! Filetest runners and goldens write the actual text instead of comparing when `MESH_BLESS` is set. Review
//! the changes with `git diff` like code.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Runs `cargo test` with the given arguments; without arguments, for the whole workspace.
pub fn run(root: &Path, args: &[&str]) -> Result<ExitCode> {
    let args = if args.is_empty() { &["--workspace", "--no-fail-fast"] } else { args };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .arg("test")
        .args(args)
        .env("MESH_BLESS", "1")
        .env("INSTA_UPDATE", "always")
        .current_dir(root)
        .status()
        .context("cannot run cargo test")?;
    println!("\nchanged files (review them with git diff):");
    Command::new("git").args(["status", "--short"]).current_dir(root).status().context("cannot run git")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
