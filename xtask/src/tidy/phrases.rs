//! Plain words: phrasings that are not allowed in comments and Markdown.
//!
//! `xtask/src/tidy/lists/phrases.txt` lists them. A line is `where | phrase | use instead`; `where` is `head`
//! (the first words of a file's `//!` docs), `docs` (the first words of a `///` comment) or `text` (anywhere,
//! as whole words).

use super::paths::prose;
use super::source::comments;
use super::{Tree, allowed};
use crate::Finding;

const PHRASES: &str = include_str!("lists/phrases.txt");

/// The page that explains the terms may name those to avoid.
const GLOSSARY: &str = "docs/glossary.md";

/// Reports banned phrasings.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let found = banned(tree).into_iter().map(|finding| (finding.file.clone(), finding));
    allowed(tree, "prose.txt", found.collect())
}

/// One line of the list.
struct Phrase<'a> {
    place: &'a str,
    words: String,
    instead: &'a str,
}

fn phrases() -> Vec<Phrase<'static>> {
    let lines = PHRASES.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let split = lines.filter_map(|line| {
        let (place, rest) = line.split_once('|')?;
        let (words, instead) = rest.split_once('|')?;
        Some(Phrase { place: place.trim(), words: words.trim().to_lowercase(), instead: instead.trim() })
    });
    split.collect()
}

fn banned(tree: &Tree) -> Vec<Finding> {
    let phrases = phrases();
    let mut findings = Vec::new();
    let mut look = |file: &str, line: usize, text: &str, places: &[&str]| {
        let text = without_code(text).to_lowercase();
        for phrase in phrases.iter().filter(|phrase| places.contains(&phrase.place)) {
            let found = if phrase.place == "text" {
                has_words(&text, &phrase.words)
            } else {
                begins(&text, &phrase.words)
            };
            if found {
                let what = format!("\"{}\" is not a phrase of the field", phrase.words);
                findings.push(Finding::new(file, line, what, phrase.instead));
            }
        }
    };
    for (file, text) in tree.rust() {
        for comment in comments(text) {
            let places: &[&str] = match comment.marker {
                "//!" if comment.first => &["head", "text"],
                "///" if comment.first => &["docs", "text"],
                _ => &["text"],
            };
            look(file, comment.line, comment.text, places);
        }
    }
    for (file, text) in tree.texts("").filter(|(file, _)| file.ends_with(".md") && *file != GLOSSARY) {
        prose(text).for_each(|(line, content)| look(file, line, content, &["text"]));
    }
    findings
}

/// Replaces what stands between backticks, so that names in code are not taken for words.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

fn begins(text: &str, words: &str) -> bool {
    text.trim_start().strip_prefix(words).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn has_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let (before, after) = (text[..at].chars().next_back(), text[at + words.len()..].chars().next());
        // A phrase that ends in punctuation needs no boundary after it.
        !word(before) && (!word(after) || words.ends_with(|c: char| !c.is_alphanumeric()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    #[track_caller]
    fn found(file: &str, text: &str, expected: &[(usize, &str)]) {
        let what = expected
            .iter()
            .map(|(line, words)| format!("{file}:{line}: \"{words}\" is not a phrase of the field"));
        let what: Vec<String> = what.collect();
        expect(banned, &[(file, text)], &what.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn beginnings() {
        found("a.rs", "//! What is made.\n//! How so.\n", &[(1, "what")]);
        found("a.rs", "//! Whatever\n", &[]);
        found("a.rs", "/// Whether it is.\n/// Which one.\nfn f() {}\n", &[(1, "whether")]);
        found("a.rs", "// What follows is plain.\n", &[]);
    }

    #[test]
    fn anywhere() {
        found("a.rs", "fn f() {\n    // Nothing: all of them.\n}\n", &[(2, "nothing:")]);
        found("a.md", "It settles the sums.\n```\nsettles\n```\n", &[(1, "settles")]);
        found("a.md", "`settles` is code; unsettles is another word.\n", &[]);
        found("docs/glossary.md", "settles\n", &[]);
    }

    #[test]
    fn the_list() {
        for phrase in phrases() {
            assert!(["head", "docs", "text"].contains(&phrase.place), "{}", phrase.words);
            assert!(!phrase.instead.is_empty(), "{}", phrase.words);
        }
    }
}
