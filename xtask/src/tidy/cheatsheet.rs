//! `docs/cheatsheet.md` lists every public function of the DSL, and no other.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Tree;
use super::source::is_test;
use crate::Finding;

const PAGE: &str = "docs/cheatsheet.md";
const DSL: &str = "mesh/src/dsl/";
/// The file with the tables of elementwise functions, from which the DSL has methods.
const TABLES: &str = "mesh/src/ir/op.rs";

/// Compares the first column of the page's tables with the functions of the DSL.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.text(PAGE) else {
        return vec![Finding::new(PAGE, 1, "the file is missing", "list the functions of the DSL there")];
    };
    let functions = functions(tree);
    let listed = listed(page);
    let missing =
        functions.iter().filter(|(name, _)| !listed.contains_key(*name)).map(|(name, (file, line))| {
            Finding::new(file, *line, format!("`{name}` is not in {PAGE}"), "add a row for it")
        });
    let gone = listed.iter().filter(|(name, _)| !functions.contains_key(*name)).map(|(name, line)| {
        Finding::new(PAGE, *line, format!("the DSL has no function `{name}`"), "remove the row")
    });
    missing.chain(gone).collect()
}

/// Returns the functions that the rows of the page call, with their lines.
fn listed(page: &str) -> BTreeMap<String, usize> {
    let rows = (1..).zip(page.lines()).filter_map(|(line, row)| Some((row.strip_prefix("| `")?, line)));
    let calls = rows.filter_map(|(row, line)| {
        let (before, _) = row.split_once('(')?;
        let name = before.rsplit(['.', ':']).next()?;
        Some((name.to_string(), line))
    });
    calls.collect()
}

/// Returns the public functions of the DSL and those that its macros define, with a place of each.
fn functions(tree: &Tree) -> BTreeMap<String, (String, usize)> {
    let mut found = BTreeMap::new();
    let mut add = |path: &str, text: &str, in_tables: bool| {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let Ok(tokens) = code.parse::<TokenStream>() else { return };
        let all = defined(tokens, false).into_iter();
        for (name, line, _) in all.filter(|(_, _, in_table)| *in_table || !in_tables) {
            found.entry(name).or_insert((path.to_string(), line));
        }
    };
    let files = tree.texts(DSL).filter(|(path, _)| path.ends_with(".rs") && !is_test(path));
    files.for_each(|(path, text)| add(path, text, false));
    tree.text(TABLES).into_iter().for_each(|text| add(TABLES, text, true));
    found
}

/// Returns the names after `pub fn`, and in macro calls of methods the lower-case names before a variant. The
/// `bool` is true for the latter.
fn defined(tokens: TokenStream, in_macro: bool) -> Vec<(String, usize, bool)> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) => {
                let before =
                    |n: usize| at.checked_sub(n).map(|at| tokens[at].to_string()).unwrap_or_default();
                let next = tokens.get(at + 1).map(ToString::to_string).unwrap_or_default();
                let is_function = before(1) == "fn" && before(2) == "pub";
                let is_method = in_macro
                    && before(1).starts_with('[')
                    && next.starts_with(|c: char| c.is_uppercase())
                    && !next.is_empty();
                if is_function || is_method {
                    found.push((word.to_string(), word.span().start().line, is_method));
                }
            }
            TokenTree::Group(group) => {
                let call = group.delimiter() == Delimiter::Parenthesis
                    && at > 1
                    && tokens[at - 1].to_string() == "!"
                    && tokens[at - 2].to_string() != "macro_rules";
                found.extend(defined(group.stream(), call));
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    #[test]
    fn both_ways() {
        let code = "impl T {\n pub fn f(self) {}\n pub(super) fn g() {} }\nm!(\n/// A.\nabs Abs);\n\
                    macro_rules! m { ($x:ident) => { pub fn $x() {} } }\n#[cfg(test)]\nmod tests { pub fn t() {} }";
        let tables =
            "macro_rules! words { ($m:ident) => { $m!(Unary; Neg \"neg\";\n/// B.\nexp Exp \"exp\",); } }";
        let page = "| `x.f()` | a |\n| `x.abs()` | b |\n| `Init::h(1)` | c |\ntext `z()`\n";
        let tests = ("mesh/src/dsl/tests.rs", "pub fn u() {}");
        let files = [(PAGE, page), ("mesh/src/dsl/a.rs", code), (TABLES, tables), tests];
        let what = [
            "mesh/src/ir/op.rs:3: `exp` is not in docs/cheatsheet.md",
            "docs/cheatsheet.md:3: the DSL has no function `h`",
        ];
        expect(check, &files, &what);
        expect(check, &[], &["docs/cheatsheet.md:1: the file is missing"]);
    }
}
