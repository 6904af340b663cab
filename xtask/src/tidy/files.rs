//! Rules about files: their heads, lengths, names and contents.

use std::collections::HashMap;

use super::{Tree, is_generated};
use crate::Finding;

/// Files longer than this take more than one sitting to read.
const MAX_LINES: usize = 700;

/// Places of a machine, not of the project.
const MACHINE: [&str; 2] = [concat!("/", "work", "/"), concat!("/", "root", "/")];

/// Extensions of files that are made, fetched or downloaded, not written.
const BINARIES: [&str; 4] = ["whl", "so", "safetensors", "pb"];

/// Every Rust file begins by saying what it is.
pub fn module_docs(tree: &Tree) -> Vec<Finding> {
    let silent = tree.rust().filter(|(_, text)| {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        !first.is_some_and(|line| line.starts_with("//!"))
    });
    let todo = "begin it with `//!` and a sentence that says what it is for";
    silent.map(|(path, _)| Finding::new(path, 1, "no module docs", todo)).collect()
}

/// No source file is too long to read.
pub fn length(tree: &Tree) -> Vec<Finding> {
    let sources = tree.texts("").filter(|(path, _)| {
        [".rs", ".py", ".sh", ".proto"].iter().any(|end| path.ends_with(end)) && !is_generated(path)
    });
    let long = sources.map(|(path, text)| (path, text.lines().count())).filter(|(_, n)| *n > MAX_LINES);
    let todo = format!("split it: the limit is {MAX_LINES}");
    long.map(|(path, n)| Finding::new(path, MAX_LINES + 1, format!("{n} lines"), todo.as_str())).collect()
}

/// Nothing refers to the machine it was written on.
pub fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("") {
        for (line, content) in (1..).zip(text.lines()) {
            for place in MACHINE.into_iter().filter(|place| has_path(content, place)) {
                let todo = "say it relative to the repository, or take it from the environment";
                findings.push(Finding::new(path, line, format!("the path `{place}` of one machine"), todo));
            }
        }
    }
    findings
}

/// Whether `place` occurs as the beginning of a path rather than inside one.
fn has_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}~*".contains(c))
    })
}

/// Nothing is kept that a command can make or fetch.
pub fn binaries(tree: &Tree) -> Vec<Finding> {
    let kept = tree
        .names()
        .filter(|path| path.rsplit_once('.').is_some_and(|(_, extension)| BINARIES.contains(&extension)));
    let todo = "remove it from git; make or fetch it where it is needed";
    kept.map(|path| Finding::new(path, 1, "a binary file in the repository", todo)).collect()
}

/// Decision records are numbered, each number once.
pub fn decision_records(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for path in tree.names() {
        let Some(name) = path.strip_prefix("docs/adr/").filter(|name| *name != "README.md") else { continue };
        let number = name.split('-').next().unwrap_or_default();
        let title = name.strip_prefix(number).and_then(|rest| rest.strip_suffix(".md"));
        let digits = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit());
        if !digits || title.is_none_or(|title| title.len() < 2) {
            let todo = "call it NNNN-what-was-decided.md, four digits";
            findings.push(Finding::new(path, 1, "a decision record without a number", todo));
        } else if let Some(first) = seen.insert(number, path) {
            let what = format!("number {number} is taken by {first}");
            findings.push(Finding::new(path, 1, what, "take the next free number"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    #[test]
    fn heads() {
        let files =
            [("a.rs", "\n//! Docs.\n"), ("b.rs", "// no\n"), ("c.rs", ""), ("proto/src/gen/x.rs", "")];
        expect(module_docs, &files, &["b.rs:1: no module docs", "c.rs:1: no module docs"]);
    }

    #[test]
    fn lengths() {
        let (fits, long) = ("\n".repeat(700), "\n".repeat(701));
        let files =
            [("a.rs", fits.as_str()), ("b.rs", &long), ("c.md", &long), ("proto/src/gen/x.rs", &long)];
        expect(length, &files, &["b.rs:701: 701 lines"]);
    }

    #[test]
    fn paths() {
        let text = format!("cd {}x\n../a{0}\nhttps://a.b{0}c\n`{}`", MACHINE[0], MACHINE[1]);
        expect(
            machine_paths,
            &[("a.md", &text)],
            &[
                &format!("a.md:1: the path `{}` of one machine", MACHINE[0]),
                &format!("a.md:4: the path `{}` of one machine", MACHINE[1]),
            ],
        );
    }

    #[test]
    fn made_files() {
        let files = [("a.pb", ""), ("x/b.safetensors", ""), ("pb", ""), ("c.proto", "")];
        let what = "a binary file in the repository";
        expect(binaries, &files, &[&format!("a.pb:1: {what}"), &format!("x/b.safetensors:1: {what}")]);
    }

    #[test]
    fn records() {
        let files = ["README.md", "0001-a.md", "0001-b.md", "2-c.md", "0003.md", "0004-x.txt"];
        let files = files.map(|name| format!("docs/adr/{name}"));
        let files: Vec<(&str, &str)> = files.iter().map(|path| (path.as_str(), "")).collect();
        let what = "a decision record without a number";
        expect(
            decision_records,
            &files,
            &[
                "docs/adr/0001-b.md:1: number 0001 is taken by docs/adr/0001-a.md",
                &format!("docs/adr/0003.md:1: {what}"),
                &format!("docs/adr/0004-x.txt:1: {what}"),
                &format!("docs/adr/2-c.md:1: {what}"),
            ],
        );
    }
}
