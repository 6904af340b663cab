//! Every rule of the specification has a check and a filetest, and every check and filetest has a rule.
//!
//! A label is a family, an underscore, a letter and a number: `contract_c2`. `docs/ir.md` declares it at the
//! beginning of a list item (``- `contract_c2`: …``), the check carries it as a string (in `mesh/src`; for
//! layouts in `compiler/src/partition`), and a filetest that breaks the rule expects it (`; error: …
//! [contract_c2]`).

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};

use super::Tree;
use crate::Finding;

const SPEC: &str = "docs/ir.md";
/// The folders of the checks: the language, and layouts.
const CHECKS: [&str; 2] = ["mesh/src/", "compiler/src/partition/"];
const FILETESTS: &str = "tests/filetests/";

/// From a label to the file and line of its first occurrence.
type Places = BTreeMap<String, (String, usize)>;

/// Compares rules, checks and filetests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(spec) = tree.text(SPEC) else {
        let todo = "write the specification of the language there";
        return vec![Finding::new(SPEC, 1, "the file is missing", todo)];
    };
    let (spec, mut findings) = declared(spec);
    let checks = checked(tree);
    let tests = tested(tree);
    for (label, (file, line)) in &spec {
        if !checks.contains_key(label) {
            let todo = "give the check in mesh/src this label, or remove the rule";
            findings.push(Finding::new(file, *line, format!("no check for rule `{label}`"), todo));
        }
        if !tests.contains_key(label) {
            let todo = format!("add one under {FILETESTS} that breaks exactly this rule");
            findings.push(Finding::new(file, *line, format!("no filetest for rule `{label}`"), todo));
        }
    }
    for (label, (file, line)) in checks.iter().chain(&tests).filter(|(label, _)| !spec.contains_key(*label)) {
        let todo = format!("declare it there: - `{label}`: …");
        findings.push(Finding::new(file, *line, format!("`{label}` is not a rule of {SPEC}"), todo));
    }
    findings
}

/// Returns the labels at the beginnings of list items, and findings for those that occur twice.
fn declared(spec: &str) -> (Places, Vec<Finding>) {
    let (mut places, mut findings) = (Places::new(), Vec::new());
    for (line, content) in (1..).zip(spec.lines()) {
        let item = content.trim_start().strip_prefix("- `");
        let Some((label, rest)) = item.and_then(|item| item.split_once('`')) else { continue };
        if !is_label(label) || !rest.starts_with(':') {
            continue;
        }
        if let Some((_, first)) = places.get(label) {
            let what = format!("rule `{label}` is declared in line {first} already");
            findings.push(Finding::new(SPEC, line, what, "give one of them the next free number"));
        } else {
            places.insert(label.to_string(), (SPEC.to_string(), line));
        }
    }
    (places, findings)
}

/// Returns the labels that are strings in the code of the checks.
fn checked(tree: &Tree) -> Places {
    let mut places = Places::new();
    let files = CHECKS.into_iter().flat_map(|folder| tree.texts(folder));
    for (path, text) in files.filter(|(path, _)| path.ends_with(".rs")) {
        let Ok(tokens) = text.parse::<TokenStream>() else { continue };
        for (label, line) in strings(tokens).into_iter().filter(|(string, _)| is_label(string)) {
            places.entry(label).or_insert((path.to_string(), line));
        }
    }
    places
}

/// Returns the string literals of a file with their lines.
fn strings(tokens: TokenStream) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => found.extend(strings(group.stream())),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let string = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                found.extend(string.map(|string| (string.to_string(), literal.span().start().line)));
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
    found
}

/// Returns the labels that filetests expect.
fn tested(tree: &Tree) -> Places {
    let mut places = Places::new();
    for (path, text) in tree.texts(FILETESTS) {
        for (line, content) in (1..).zip(text.lines()).filter(|(_, content)| content.contains("error")) {
            let bracketed = content.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
            for (label, _) in bracketed.filter(|(label, _)| is_label(label)) {
                places.entry(label.to_string()).or_insert((path.to_string(), line));
            }
        }
    }
    places
}

/// True for a family, an underscore, one letter and a number. Names such as `cast_f32` are not labels.
fn is_label(text: &str) -> bool {
    let Some((family, rule)) = text.rsplit_once('_') else { return false };
    let mut chars = rule.chars();
    let letter = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    let number = chars.as_str();
    !family.is_empty()
        && family.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        && letter
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && !["f16", "f32", "f64", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64"].contains(&rule)
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    const RULES: &str = "# Rules\n- `shape_s1`: a rule.\n  - `shape_s2`: a rule under it; see `type_t1`.\n";

    #[test]
    fn labels() {
        for good in ["contract_c2", "top_k_k12"] {
            assert!(is_label(good), "{good}");
        }
        for bad in
            ["c2", "_c2", "contract_2", "contract_cc2", "contract_c", "cast_f32", "Contract_c2", "x_c123"]
        {
            assert!(!is_label(bad), "{bad}");
        }
    }

    #[test]
    fn all_three() {
        let code = "fn f() { error(\"shape_s1\"); m!(\"shape_s2\") } // \"type_t9\"";
        let test = "; error: bad [shape_s1]\n; error: f32[x_x1=3] and bad [shape_s2]\nf32[x_y1]\n";
        // A name in brackets on a line of an error is a label only if nothing else is in them.
        expect(check, &[(SPEC, RULES), ("mesh/src/a.rs", code), ("tests/filetests/a.mesh", test)], &[]);
    }

    #[test]
    fn missing() {
        expect(check, &[], &["docs/ir.md:1: the file is missing"]);
        expect(
            check,
            &[(SPEC, RULES), ("mesh/src/a.rs", "fn f() { e(\"shape_s1\") }")],
            &[
                "docs/ir.md:2: no filetest for rule `shape_s1`",
                "docs/ir.md:3: no check for rule `shape_s2`",
                "docs/ir.md:3: no filetest for rule `shape_s2`",
            ],
        );
        let files = [
            (SPEC, ""),
            ("mesh/src/a.rs", "fn f() {\n e(\"shape_s1\") }"),
            ("tests/filetests/verify/a.mesh", "\n\n; error: bad [shape_s2]"),
        ];
        expect(
            check,
            &files,
            &[
                "mesh/src/a.rs:2: `shape_s1` is not a rule of docs/ir.md",
                "tests/filetests/verify/a.mesh:3: `shape_s2` is not a rule of docs/ir.md",
            ],
        );
        let twice = "- `shape_s1`: one.\n- `shape_s1`: two.\n";
        let files = [
            (SPEC, twice),
            ("mesh/src/a.rs", "e!(\"shape_s1\");"),
            ("tests/filetests/a", "error [shape_s1]"),
        ];
        expect(check, &files, &["docs/ir.md:2: rule `shape_s1` is declared in line 1 already"]);
    }
}
