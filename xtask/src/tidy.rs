//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! Each check is a function from the tree to findings, in a separate file. A finding says where, what, and
//! what to do. Checks read text or syntax, never types: they are right for code as it is written here, not
//! for everything that Rust allows. `xtask/src/tidy/lists/` has the exceptions of each rule; an exception
//! that is no longer needed is a finding.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{Finding, codegen};

mod arms;
mod cheatsheet;
mod circles;
mod edges;
mod files;
mod functions;
mod labels;
mod paths;
mod phrases;
mod sentences;
mod source;
mod unsafety;

/// A function from the tree to findings.
type Check = fn(&Tree) -> Vec<Finding>;

/// The checks, in the order in which `tidy` reports them. Generated code is checked before them.
const CHECKS: [(&str, Check); 16] = [
    ("crate edges", edges::check),
    ("circles of files", circles::check),
    ("no catch-all arms on IR enums", arms::check),
    ("unsafe code", unsafety::check),
    ("module docs", files::module_docs),
    ("spec labels", labels::check),
    ("file length", files::length),
    ("function length", functions::check),
    ("comment width", files::comment_width),
    ("plain words", phrases::check),
    ("one sentence a line", sentences::check),
    ("paths in documentation", paths::check),
    ("cheatsheet of the DSL", cheatsheet::check),
    ("machine paths", files::machine_paths),
    ("binaries", files::binaries),
    ("decision records", files::decision_records),
];

/// Runs all checks and prints their findings; with `all`, also those that are listed as exceptions.
pub fn run(root: &Path, all: bool) -> Result<ExitCode> {
    let tree = Tree::of_repository(root, all)?;
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

/// Removes the findings that the list of exceptions `name` covers, and adds one for each exception that
/// covers none.
///
/// A line of a list is the beginning of a finding's key: a folder, a file, or `file::function`. Lines that
/// begin with `#` are comments.
fn allowed(tree: &Tree, name: &str, found: Vec<(String, Finding)>) -> Vec<Finding> {
    if tree.all {
        return found.into_iter().map(|(_, finding)| finding).collect();
    }
    let file = format!("xtask/src/tidy/lists/{name}");
    let list = tree.text(&file).unwrap_or_default();
    let entries =
        (1..).zip(list.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let entries: Vec<(usize, &str)> = entries.collect();
    let mut unused = vec![true; entries.len()];
    let mut findings = Vec::new();
    for (key, finding) in found {
        let covering = entries.iter().position(|(_, entry)| key.starts_with(entry));
        match covering {
            Some(entry) => unused[entry] = false,
            None => findings.push(finding),
        }
    }
    for ((line, entry), _) in entries.iter().zip(&unused).filter(|(_, unused)| **unused) {
        let what = format!("the exception `{entry}` is no longer needed");
        findings.push(Finding::new(&file, *line, what, "remove the line"));
    }
    findings
}

/// The files of the repository: relative path with `/` to text, or to `None` if the file is not text.
pub struct Tree {
    files: BTreeMap<String, Option<String>>,
    /// True if the lists of exceptions are ignored.
    all: bool,
}

impl Tree {
    /// Reads tracked files, and untracked ones that git does not ignore: what the next commit can contain.
    fn of_repository(root: &Path, all: bool) -> Result<Tree> {
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
            // A file that is listed but missing is one whose deletion is not committed yet.
            if let Ok(bytes) = std::fs::read(root.join(name)) {
                files.insert(name.to_string(), String::from_utf8(bytes).ok());
            }
        }
        Ok(Tree { files, all })
    }

    /// Returns the text of one file.
    fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Returns all paths.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Returns all text files below a folder (`""` for all).
    fn texts<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.files.iter().filter(move |(path, _)| path.starts_with(folder));
        files.filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// Returns the Rust files that people write. Generated code is exempt from all checks of style.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts("").filter(|(path, _)| path.ends_with(".rs") && !is_generated(path))
    }
}

fn is_generated(path: &str) -> bool {
    path.starts_with("proto/src/gen/") || path.starts_with("job/src/gen/")
}

#[cfg(test)]
impl Tree {
    /// Makes a tree for tests.
    fn new(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| (path.to_string(), Some(text.to_string())));
        Tree { files: files.collect(), all: false }
    }
}

/// Asserts the findings of `check` on `files`, each written `file:line: what`.
#[cfg(test)]
#[track_caller]
fn expect(check: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], expected: &[&str]) {
    let found = check(&Tree::new(files));
    assert!(found.iter().all(|finding| !finding.todo.is_empty()));
    let found: Vec<String> = found.iter().map(|f| format!("{}:{}: {}", f.file, f.line, f.what)).collect();
    assert_eq!(found, expected);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions() {
        let found = ["a/b.rs", "a/c.rs", "d.rs::f"]
            .map(|key| (key.to_string(), Finding::new(key, 1, "bad", "mend it")));
        let list = [("xtask/src/tidy/lists/x.txt", "# why\na/\nd.rs::g\n")];
        let left = allowed(&Tree::new(&list), "x.txt", found.to_vec());
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        let unused =
            "xtask/src/tidy/lists/x.txt:3: the exception `d.rs::g` is no longer needed: remove the line";
        assert_eq!(left, ["d.rs::f:1: bad: mend it", unused]);
    }
}
