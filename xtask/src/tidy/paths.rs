//! Paths that documentation names exist.
//!
//! In Markdown, code spans that look like paths of the repository and the targets of links are checked; in
//! Rust comments, code spans whose first part is a folder of the repository. `{a,b}` stands for both, `*` for
//! anything. A part in capitals, such as `MODEL.rs`, is a placeholder.

use super::source::comments;
use super::{Tree, allowed};
use crate::Finding;

/// Extensions by which a code span is taken for a file of the repository.
const EXTENSIONS: [&str; 5] = [".rs", ".md", ".toml", ".py", ".proto"];

/// Reports paths in Markdown and in Rust comments that lead nowhere.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let found = dead_paths(tree).into_iter().map(|finding| (finding.file.clone(), finding));
    allowed(tree, "paths.txt", found.collect())
}

fn dead_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |file: &str, line: usize, path: &str| {
        let what = format!("`{path}` does not exist");
        findings.push(Finding::new(
            file,
            line,
            what,
            "name the file where it is now, from the repository's root",
        ));
    };
    for (file, text) in tree.texts("").filter(|(path, _)| path.ends_with(".md")) {
        for (line, content) in prose(text) {
            let spans = code_spans(content).filter(|span| {
                in_folder(tree, span)
                    || span.contains('/') && EXTENSIONS.iter().any(|end| span.ends_with(end))
            });
            for path in spans.filter(|path| is_path(path) && !exists(tree, path)) {
                report(file, line, path);
            }
            for path in links(content).filter(|path| !exists(tree, &beside(file, path))) {
                report(file, line, path);
            }
        }
    }
    for (file, text) in tree.rust() {
        for comment in comments(text) {
            let spans = code_spans(comment.text).filter(|span| in_folder(tree, span) && is_path(span));
            for path in spans.filter(|path| !exists(tree, path)) {
                report(file, comment.line, path);
            }
        }
    }
    findings
}

/// Returns the lines outside of fenced code, with their numbers.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Returns what stands between single backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Returns the targets of `[text](target)` that are files, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    files.map(|target| target.split('#').next().unwrap_or_default())
}

/// True if the first part of a path is a folder of the repository and more follows it.
fn in_folder(tree: &Tree, path: &str) -> bool {
    let folder = path.split_once('/').map(|(folder, _)| format!("{folder}/"));
    folder.is_some_and(|folder| folder.len() > 1 && tree.names().any(|name| name.starts_with(&folder)))
}

/// True for a relative path without placeholders.
fn is_path(span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*{,}".contains(c));
    let upward = span.starts_with(['.', '/', '~']) || span.contains("//");
    plain && !upward && !span.split('/').any(is_placeholder)
}

/// True for `MODEL.rs`, `NNNN-title.md`: a first word of capitals, other than README and its like.
fn is_placeholder(part: &str) -> bool {
    let word: String = part.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '_').collect();
    let known = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "LICENSE"];
    word.len() > 1
        && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        && !known.contains(&word.as_str())
}

fn exists(tree: &Tree, path: &str) -> bool {
    if let Some((before, rest)) = path.split_once('{')
        && let Some((choices, after)) = rest.split_once('}')
    {
        return choices.split(',').all(|choice| exists(tree, &format!("{before}{choice}{after}")));
    }
    let path = path.trim_end_matches('/');
    tree.names().any(|name| match path.split_once('*') {
        Some((before, after)) => {
            let last = after.rsplit('*').next().unwrap_or_default();
            name.starts_with(before) && name.ends_with(last)
        }
        None => name == path || name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')),
    })
}

/// Resolves a link against the folder of the file that it stands in.
fn beside(file: &str, target: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    const FILES: [(&str, &str); 3] = [("mesh/src/a.rs", ""), ("mesh/src/b.rs", ""), ("docs/x.md", "")];

    #[track_caller]
    fn dead(file: &str, text: &str, expected: &[&str]) {
        let what: Vec<String> =
            expected.iter().map(|path| format!("{file}:1: `{path}` does not exist")).collect();
        let what: Vec<&str> = what.iter().map(String::as_str).collect();
        expect(dead_paths, &[&FILES[..], &[(file, text)]].concat(), &what);
    }

    #[test]
    fn markdown() {
        dead("a.md", "`mesh/src/a.rs`, `mesh/src/{a,b}.rs`, `mesh/src/*.rs`, `mesh/`, `mesh/src`", &[]);
        dead("a.md", "`mesh/src/c.rs`, `mesh/src/{a,c}.rs`", &["mesh/src/c.rs", "mesh/src/{a,c}.rs"]);
        dead("a.md", "`mesh/old/`, `ir/op.rs`", &["mesh/old/", "ir/op.rs"]);
        dead(
            "a.md",
            "`d/01-verify.mesh`, `../a/b.rs`, `mesh/NNNN-x.rs`, `a b/c.rs`, `~/x.rs`, `and/or`",
            &[],
        );
        dead("a.md", "```\n`mesh/src/c.rs`\n```", &[]);
        dead("docs/y.md", "[x](x.md) [a](../mesh/src/a.rs#L1) [web](https://a.b/c.md) [here](#here)", &[]);
        dead("docs/y.md", "[z](z.md)", &["z.md"]);
    }

    #[test]
    fn comments_of_rust() {
        dead("mesh/src/c.rs", "//! `mesh/src/a.rs`, `op/x.rs`, `encoder/block_1`", &[]);
        dead("mesh/src/c.rs", "// see `mesh/src/d.rs`", &["mesh/src/d.rs"]);
    }
}
