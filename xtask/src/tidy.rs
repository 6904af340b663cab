//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! Each check is a function from the tree to findings, in a file of its own; a finding says where,
//! what, and what to do. Checks read text or syntax, never types: they are meant to be right on code
//! as it is written here, not on everything Rust allows.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{Finding, codegen};

mod arms;
mod edges;
mod files;
mod labels;
mod unsafety;

/// Looks at the tree and says what it finds.
type Check = fn(&Tree) -> Vec<Finding>;

/// What `tidy` runs, in the order it reports; beside these, generated code must be fresh.
const CHECKS: [(&str, Check); 9] = [
    ("crate edges", edges::check),
    ("no catch-all arms on IR enums", arms::check),
    ("unsafe code", unsafety::check),
    ("module docs", files::module_docs),
    ("spec labels", labels::check),
    ("file length", files::length),
    ("machine paths", files::machine_paths),
    ("binaries", files::binaries),
    ("decision records", files::decision_records),
];

/// Runs all checks and prints what they find.
pub fn run(root: &Path) -> Result<ExitCode> {
    let tree = Tree::of_repository(root)?;
    let mut findings = codegen::stale(root)?;
    report("generated code", &findings);
    for (name, check) in CHECKS {
        let found = check(&tree);
        report(name, &found);
        findings.extend(found);
    }
    if findings.is_empty() {
        println!("tidy: {} files, {} checks, nothing found", tree.files.len(), CHECKS.len() + 1);
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

fn report(name: &str, findings: &[Finding]) {
    if !findings.is_empty() {
        println!("{name}:");
    }
    for finding in findings {
        println!("  {finding}");
    }
}

/// The files of the repository: path, relative and with `/`, to text. Files that are no text have
/// `None`.
pub struct Tree {
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    /// Tracked files, and untracked ones that git does not ignore: what the next commit may have.
    fn of_repository(root: &Path) -> Result<Tree> {
        let listing = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot run git")?;
        if !listing.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&listing.stderr).trim());
        }
        let names = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
        let mut files = BTreeMap::new();
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            // A file that is listed but gone is one whose deletion is not committed yet.
            if let Ok(bytes) = std::fs::read(root.join(name)) {
                files.insert(name.to_string(), String::from_utf8(bytes).ok());
            }
        }
        Ok(Tree { files })
    }

    /// The text of one file.
    fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// All files.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// All text files below a folder (`""` for all).
    fn texts<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.files.iter().filter(move |(path, _)| path.starts_with(folder));
        files.filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// The Rust that people write: what `codegen` writes is excepted from all checks of style.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts("").filter(|(path, _)| path.ends_with(".rs") && !is_generated(path))
    }
}

fn is_generated(path: &str) -> bool {
    path.starts_with("proto/src/gen/")
}

#[cfg(test)]
impl Tree {
    /// A tree for tests.
    fn new(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| (path.to_string(), Some(text.to_string())));
        Tree { files: files.collect() }
    }
}

/// For tests of checks: the findings of `check` on `files`, as `file:line: what`.
#[cfg(test)]
#[track_caller]
fn expect(check: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], expected: &[&str]) {
    let found = check(&Tree::new(files));
    assert!(found.iter().all(|finding| !finding.todo.is_empty()));
    let found: Vec<String> = found.iter().map(|f| format!("{}:{}: {}", f.file, f.line, f.what)).collect();
    assert_eq!(found, expected);
}
