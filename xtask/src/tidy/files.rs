//! Rules about files: module docs, length, comment width, paths of machines, binaries, decision records.

use std::collections::HashMap;

use super::source::comments;
use super::{Tree, allowed, is_generated};
use crate::Finding;

/// The largest number of lines of a source file.
const MAX_LINES: usize = 700;

/// The last column of a comment.
const MAX_COLUMNS: usize = 110;

/// Folders that exist on one machine and not in the project.
const MACHINE: [&str; 2] = [concat!("/", "work", "/"), concat!("/", "root", "/")];

/// Extensions of files that are generated or downloaded.
const BINARIES: [&str; 4] = ["whl", "so", "safetensors", "pb"];

/// Reports Rust files that do not begin with module docs.
pub fn module_docs(tree: &Tree) -> Vec<Finding> {
    let silent = tree.rust().filter(|(_, text)| {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        !first.is_some_and(|line| line.starts_with("//!"))
    });
    let todo = "begin it with `//!` and a sentence that says what it is for";
    silent.map(|(path, _)| Finding::new(path, 1, "no module docs", todo)).collect()
}

/// Reports source files that are too long to read at one sitting.
pub fn length(tree: &Tree) -> Vec<Finding> {
    let sources = tree.texts("").filter(|(path, _)| {
        [".rs", ".py", ".sh", ".proto"].iter().any(|end| path.ends_with(end)) && !is_generated(path)
    });
    let long = sources.map(|(path, text)| (path, text.lines().count())).filter(|(_, n)| *n > MAX_LINES);
    let todo = format!("split it: the limit is {MAX_LINES}");
    long.map(|(path, n)| Finding::new(path, MAX_LINES + 1, format!("{n} lines"), todo.as_str())).collect()
}

/// Reports comment lines that are too wide. Lines with a URL are exempt.
pub fn comment_width(tree: &Tree) -> Vec<Finding> {
    let found = wide_comments(tree).into_iter().map(|finding| (finding.file.clone(), finding));
    allowed(tree, "width.txt", found.collect())
}

fn wide_comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let todo = format!("break the line: the limit is {MAX_COLUMNS}");
    for (path, text) in tree.texts("").filter(|(path, _)| !is_generated(path)) {
        let lines: Vec<usize> = match path.rsplit('.').next() {
            Some("rs") => comments(text).into_iter().map(|comment| comment.line).collect(),
            Some("py" | "sh") => commented(text, "#"),
            Some("proto") => commented(text, "//"),
            _ => continue,
        };
        for line in lines {
            let content = text.lines().nth(line - 1).unwrap_or_default();
            let columns = content.chars().count();
            if columns > MAX_COLUMNS && !content.contains("://") {
                findings.push(Finding::new(
                    path,
                    line,
                    format!("a comment of {columns} columns"),
                    todo.as_str(),
                ));
            }
        }
    }
    findings
}

/// Returns the numbers of the lines that begin with `marker`.
fn commented(text: &str, marker: &str) -> Vec<usize> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| line.trim_start().starts_with(marker));
    lines.map(|(line, _)| line).collect()
}

/// Reports paths of the machine that a file was written on.
pub fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("") {
        for (line, content) in (1..).zip(text.lines()) {
            for place in MACHINE.into_iter().filter(|place| has_path(content, place)) {
                let todo = "write it relative to the repository, or read it from the environment";
                findings.push(Finding::new(path, line, format!("the path `{place}` of one machine"), todo));
            }
        }
    }
    findings
}

/// True if `place` occurs at the beginning of a path rather than inside one.
fn has_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}~*".contains(c))
    })
}

/// Reports files that a command can generate or download.
pub fn binaries(tree: &Tree) -> Vec<Finding> {
    let binaries = tree
        .names()
        .filter(|path| path.rsplit_once('.').is_some_and(|(_, extension)| BINARIES.contains(&extension)));
    let todo = "remove it from git; generate or download it where it is needed";
    binaries.map(|path| Finding::new(path, 1, "a binary file in the repository", todo)).collect()
}

/// Reports decision records without a number, and numbers that occur twice.
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
    fn widths() {
        let (fits, wide) = ("x".repeat(107), "x".repeat(108));
        let text = format!("// {fits}\n// {wide}\n// {wide} https://a.b\nlet x = \"{wide}{wide}\";\n");
        expect(wide_comments, &[("a.rs", &text), ("a.md", &text)], &["a.rs:2: a comment of 111 columns"]);
        let text = format!("# x{wide}\n");
        expect(wide_comments, &[("a.py", &text)], &["a.py:1: a comment of 111 columns"]);
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
    fn generated_files() {
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
