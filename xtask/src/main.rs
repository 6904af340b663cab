//! Developer commands: `cargo xtask test`, `tidy`, `codegen`, `bless`, `fuzz`, `asan`,
//! `dist`.
//!
//! These replace a Makefile and are not part of the product.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

mod asan;
mod bless;
mod codegen;
mod dist;
mod fuzz;
mod test;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands:
  test [--slow] [ARGS] install the CPU plugin, then run cargo test --workspace ARGS
  tidy [--all]         check the house rules that a machine can check (--all: also list the exceptions)
  bless [ARGS]         run cargo test ARGS (default: all tests) and let tests rewrite their expectations
  fuzz [SECONDS [N]]   read damaged inputs of every kind, from input N, and report panics, hangs and memory
  asan [tests|run]     run the tests of pjrt under AddressSanitizer, and meshc run under valgrind
  dist [TARGET]        write a release archive for x86_64-unknown-linux-gnu (default) or aarch64-unknown-linux-gnu
  codegen [--check]    generate {proto,job}/src/gen/ from proto/protos/ (or list stale files)
";

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => return tidy::run(&root(), false),
        ["tidy", "--all"] => return tidy::run(&root(), true),
        ["test", args @ ..] => return test::run(&root(), args),
        ["fuzz", args @ ..] => return fuzz::run(&root(), args),
        ["asan", args @ ..] => return asan::run(&root(), args),
        ["bless", args @ ..] => return bless::run(&root(), args),
        ["dist"] => dist::run(&root(), "x86_64-unknown-linux-gnu")?,
        ["dist", target] => dist::run(&root(), target)?,
        ["codegen"] => codegen::run(&root(), false)?,
        ["codegen", "--check"] => codegen::run(&root(), true)?,
        ["help" | "--help" | "-h"] => print!("{USAGE}"),
        _ => bail!("unknown command `{}`\n\n{USAGE}", words.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the root of the repository: the parent of this crate, which cargo names, or else the current
/// directory.
fn root() -> PathBuf {
    match env::var_os("CARGO_MANIFEST_DIR") {
        Some(here) => {
            Path::new(&here).parent().expect("the crate is in a folder of the repository").to_path_buf()
        }
        None => PathBuf::from("."),
    }
}

/// One violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the repository.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The problem.
    pub what: String,
    /// The remedy.
    pub todo: String,
}

impl Finding {
    /// Makes a finding at `file:line`.
    pub fn new(file: &str, line: usize, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding { file: file.to_string(), line, what: what.into(), todo: todo.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.what, self.todo)
    }
}
