//! `cargo xtask bless`: runs the tests so that they rewrite what they expect.
//!
//! Filetest runners and goldens write the actual text instead of comparing when `MESH_BLESS` is set.
//! What they wrote is read in `git diff` as one reads code.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Runs `cargo test` with the arguments given, or for the whole workspace.
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
    println!("\nwhat changed (read it with git diff):");
    Command::new("git").args(["status", "--short"]).current_dir(root).status().context("cannot run git")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
