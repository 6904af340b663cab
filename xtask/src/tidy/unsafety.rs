//! `unsafe` occurs only in `pjrt/`, and there each use has a `// SAFETY:` comment.
//!
//! The check looks at tokens rather than at syntax, so that it sees into macros. The word in comments and
//! strings is not a token.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Tree;
use crate::Finding;

const HOME: &str = "pjrt/";

/// Reports `unsafe` outside of `pjrt/` and without a reason.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        // A file that does not lex is reported by the checks that parse it.
        let Ok(tokens) = text.parse::<TokenStream>() else { continue };
        let lines: Vec<&str> = text.lines().collect();
        for (line, promises) in uses(tokens) {
            if !path.starts_with(HOME) {
                let todo = "move it into pjrt/ behind a safe function, or do without";
                findings.push(Finding::new(path, line, "unsafe outside pjrt/", todo));
            } else if promises && !is_explained(&lines, line) {
                let todo = "say above it, after `// SAFETY:`, why it is sound";
                findings.push(Finding::new(path, line, "unsafe without a reason", todo));
            }
        }
    }
    findings
}

/// Returns the lines of the keyword, and true where the code makes a promise (a block, an `impl`, an
/// attribute) rather than requires one (a function, a function type, a trait).
fn uses(tokens: TokenStream) -> Vec<(usize, bool)> {
    let mut found = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => {
                let promises = match tokens.peek() {
                    Some(TokenTree::Group(group)) => {
                        matches!(group.delimiter(), Delimiter::Brace | Delimiter::Parenthesis)
                    }
                    Some(TokenTree::Ident(next)) => next == "impl",
                    _ => false,
                };
                found.push((ident.span().start().line, promises));
            }
            TokenTree::Group(group) => found.extend(uses(group.stream())),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

/// True if a `// SAFETY:` comment precedes the statement that contains line `line` (from 1).
fn is_explained(lines: &[&str], line: usize) -> bool {
    let mut above = lines[..line - 1].iter().rev().map(|line| line.trim()).peekable();
    while let Some(&text) = above.peek() {
        if text.starts_with("//") {
            return above
                .take_while(|text| text.starts_with("//"))
                .any(|text| text.starts_with("// SAFETY:"));
        }
        // The end of the previous statement, or the beginning of the surrounding block.
        if text.is_empty() || text.ends_with([';', '{', '}', ',']) {
            return false;
        }
        above.next();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::check;

    #[track_caller]
    fn in_pjrt(text: &str, expected: &[&str]) {
        expect(check, &[("pjrt/src/x.rs", text)], expected);
    }

    #[test]
    fn elsewhere() {
        let what = &["mesh/src/x.rs:1: unsafe outside pjrt/"];
        expect(check, &[("mesh/src/x.rs", "fn f() { unsafe { g() } }")], what);
        expect(check, &[("mesh/src/x.rs", "m! { unsafe fn f() {} }")], what);
        expect(
            check,
            &[("mesh/src/x.rs", "#![deny(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";")],
            &[],
        );
    }

    #[test]
    fn reasons() {
        let what = &["pjrt/src/x.rs:3: unsafe without a reason"];
        in_pjrt("fn f() {\n    // SAFETY: g is fine.\n    unsafe { g() }\n}", &[]);
        in_pjrt("fn f() {\n    // SAFETY: g is\n    // fine.\n    let x =\n        unsafe { g() };\n}", &[]);
        in_pjrt("// SAFETY: it has no threads.\nunsafe impl Send for X {}", &[]);
        in_pjrt("fn f() {\n    // g is fine.\n    unsafe { g() }\n}", what);
        in_pjrt("fn f() {\n    // SAFETY: h is fine.\n    unsafe { h() }; unsafe { g() };\n}", &[]);
        in_pjrt("fn f() {\n    h();\n    unsafe { g() }\n}", what);
        in_pjrt("\n\nunsafe impl Send for X {}", what);
        in_pjrt("\n\n#[unsafe(no_mangle)] fn f() {}", what);
        // Declarations require a promise; clippy checks their `# Safety` section.
        in_pjrt("pub unsafe fn f() {}\ntype F = unsafe extern \"C\" fn();", &[]);
    }
}
