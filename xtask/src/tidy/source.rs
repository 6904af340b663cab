//! Lexical facts about Rust files that several checks need: comments, and which code is test code.

use std::collections::HashSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;

/// One comment line of a Rust file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment<'a> {
    /// The line number, from 1.
    pub line: usize,
    /// The marker: `//!`, `///` or `//`.
    pub marker: &'a str,
    /// The text after the marker, without the space that follows it.
    pub text: &'a str,
    /// True if the line before is not a comment with the same marker.
    pub first: bool,
}

/// Returns the lines of `text` that are comments. Lines inside of string literals are not comments.
pub fn comments(text: &str) -> Vec<Comment<'_>> {
    let inside = text.parse::<TokenStream>().map(string_lines).unwrap_or_default();
    let mut comments: Vec<Comment> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        let marker = ["//!", "///", "//"].into_iter().find(|marker| content.starts_with(marker));
        let Some(marker) = marker.filter(|_| !inside.contains(&line)) else { continue };
        let rest = &content[marker.len()..];
        let last = comments.last();
        let first = !last.is_some_and(|last| last.line + 1 == line && last.marker == marker);
        comments.push(Comment { line, marker, text: rest.strip_prefix(' ').unwrap_or(rest), first });
    }
    comments
}

/// Returns the lines, except the first, of literals that span several lines.
fn string_lines(tokens: TokenStream) -> HashSet<usize> {
    let mut lines = HashSet::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => lines.extend(string_lines(group.stream())),
            TokenTree::Literal(literal) => {
                let span = literal.span();
                lines.extend(span.start().line + 1..=span.end().line);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
    lines
}

/// True if a whole file is test code: an integration test, a `tests.rs` or a file in a folder `tests`.
pub fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// True if one of the attributes is `#[cfg(test)]`.
pub fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::Path(_) | syn::Meta::NameValue(_) => false,
    })
}

/// Returns the first and last lines of the modules and other items under `#[cfg(test)]`.
pub fn test_ranges(file: &syn::File) -> Vec<(usize, usize)> {
    let tests = file.items.iter().filter(|item| match item {
        syn::Item::Mod(item) => is_cfg_test(&item.attrs),
        syn::Item::Fn(item) => is_cfg_test(&item.attrs),
        syn::Item::Impl(item) => is_cfg_test(&item.attrs),
        syn::Item::Use(item) => is_cfg_test(&item.attrs),
        _ => false,
    });
    tests.map(|item| (item.span().start().line, item.span().end().line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_lines() {
        let text = "//! A.\n//! B.\nfn f() { // not alone\n    /// C.\n    let s = \"\n// inside\n\";\n}\n";
        let found = comments(text);
        let found: Vec<_> = found.iter().map(|c| (c.line, c.marker, c.text, c.first)).collect();
        assert_eq!(found, [(1, "//!", "A.", true), (2, "//!", "B.", false), (4, "///", "C.", true)]);
    }

    #[test]
    fn test_code() {
        assert!(
            is_test("mesh/src/dsl/tests.rs") && is_test("meshc/tests/cli.rs") && is_test("tests/src/law.rs")
        );
        assert!(!is_test("mesh/src/dsl/mod.rs"));
        let file =
            syn::parse_file("fn f() {}\n#[cfg(test)]\nmod tests {\n}\n#[cfg(unix)]\nmod x {}").unwrap();
        assert_eq!(test_ranges(&file), [(2, 4)]);
    }
}
