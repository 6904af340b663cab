//! Markdown has one sentence a line, so that a change shows as the sentences that it changes.

use super::paths::prose;
use super::{Tree, allowed};
use crate::Finding;

/// Abbreviations after which a sentence goes on.
const ABBREVIATIONS: [&str; 6] = ["e.g.", "i.e.", "vs.", "cf.", "et al.", "Fig."];

/// Reports lines with two sentences, and sentences over two lines.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let found = crowded(tree).into_iter().map(|finding| (finding.file.clone(), finding));
    allowed(tree, "sentences.txt", found.collect())
}

fn crowded(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.texts("").filter(|(file, _)| file.ends_with(".md")) {
        let mut open: Option<usize> = None;
        for (line, content) in prose(text) {
            let content = content.trim();
            let special = content.is_empty() || content.starts_with(['#', '|', '<', '!']);
            let item = content.starts_with("- ") || content.starts_with("* ") || starts_with_number(content);
            if open == Some(line.saturating_sub(1)) && !special && !item {
                let todo = "join it with the line before: one sentence a line";
                findings.push(Finding::new(file, line, "a sentence goes on from the line before", todo));
            }
            open = None;
            if special {
                continue;
            }
            if has_two(content) {
                findings.push(Finding::new(
                    file,
                    line,
                    "two sentences in a line",
                    "break the line between them",
                ));
            }
            if !content.ends_with(['.', ':', '!', '?', ')', '`', '*', '"']) {
                open = Some(line);
            }
        }
    }
    findings
}

fn starts_with_number(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.len() < line.len() && rest.starts_with(". ")
}

/// True if a sentence ends and another one begins after it.
fn has_two(line: &str) -> bool {
    let text = line.split('`').step_by(2).collect::<Vec<_>>().join("`x`");
    let text =
        if starts_with_number(&text) { text.split_once(". ").map_or("", |(_, rest)| rest) } else { &text };
    [". ", "! ", "? ", ".) "].iter().any(|end| {
        text.match_indices(end).any(|(at, _)| {
            let next = text[at + end.len()..].trim_start_matches(['*', '[', '(', '"']);
            let begins = next.starts_with(|c: char| c.is_uppercase() || c == '`');
            let before = &text[..at + 1];
            begins && !ABBREVIATIONS.iter().any(|abbreviation| before.ends_with(abbreviation))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::crowded;

    #[test]
    fn lines() {
        let good = "# Title. Two\n\nOne sentence, e.g. This.\nAnother `a. B` one:\n\n- item\n- item\n\n1. First.\n| a. B |\n";
        expect(crowded, &[("a.md", good)], &[]);
        let code = "```\na. B\nc\nd\n```\n";
        expect(crowded, &[("a.md", code)], &[]);
        expect(crowded, &[("a.md", "One. Two.\n")], &["a.md:1: two sentences in a line"]);
        expect(crowded, &[("a.md", "One. `two` is.\n")], &["a.md:1: two sentences in a line"]);
        expect(
            crowded,
            &[("a.md", "One that is\nwrapped.\n")],
            &["a.md:2: a sentence goes on from the line before"],
        );
        expect(
            crowded,
            &[("a.md", "- an item\n  that is wrapped.\n")],
            &["a.md:2: a sentence goes on from the line before"],
        );
    }
}
