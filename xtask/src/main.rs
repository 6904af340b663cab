//! Developer commands: `cargo xtask test`, `tidy`, `codegen`, `bless`.
//!
//! A Makefile in Rust: nothing here is part of the product.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

mod bless;
mod codegen;
mod test;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask COMMAND

commands:
  test [--slow] [ARGS] install the CPU plugin, then run cargo test --workspace ARGS
  tidy                check the house rules that a machine can check
  bless [ARGS]        run cargo test ARGS (all tests if none) and let tests rewrite what they expect
  codegen [--check]   generate proto/src/gen/ from proto/protos/ (or say what is stale)
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
        ["tidy"] => return tidy::run(&root()),
        ["test", args @ ..] => return test::run(&root(), args),
        ["bless", args @ ..] => return bless::run(&root(), args),
        ["codegen"] => codegen::run(&root(), false)?,
        ["codegen", "--check"] => codegen::run(&root(), true)?,
        ["help" | "--help" | "-h"] => print!("{USAGE}"),
        _ => bail!("unknown command `{}`\n\n{USAGE}", words.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// The repository: the parent of this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the repository").to_path_buf()
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the repository.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

impl Finding {
    /// A finding at `file:line`.
    pub fn new(file: &str, line: usize, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding { file: file.to_string(), line, what: what.into(), todo: todo.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.what, self.todo)
    }
}
