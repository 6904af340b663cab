//! No catch-all arm in a `match` on the enums of `mesh/src/ir/op.rs`.
//!
//! A new operation must make rustc list every place that has to handle it, and a `_` arm hides such a place.
//! The check looks at `match` expressions in which an arm names one of these enums. `if let` and `matches!`
//! ask about one variant and are allowed. Test code is exempt.

use std::collections::{HashMap, HashSet};

use syn::spanned::Spanned;
use syn::visit::Visit;

use super::Tree;
use super::source::{is_cfg_test, is_test};
use crate::Finding;

/// The file that declares the enums.
const OPS: &str = "mesh/src/ir/op.rs";

/// The crates that can see the enums, without `tests`.
const CRATES: [&str; 9] =
    ["mesh/", "compiler/", "report/", "plan/", "interchange/", "models/", "driver/", "meshc/", "bench/"];

/// Reports the catch-all arms of matches on the enums.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let todo = "name the file that declares the operations in xtask/src/tidy/arms.rs";
    let Some(ops) = tree.text(OPS) else {
        return vec![Finding::new(OPS, 1, "the file is missing", todo)];
    };
    let Ok(ops) = syn::parse_file(ops) else {
        return vec![Finding::new(OPS, 1, "does not parse", "make it compile first")];
    };
    let enums = enums(&ops);
    let mut findings = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| is_watched(path)) {
        match syn::parse_file(text) {
            Ok(file) => {
                let imported = imported(&file, &enums);
                let mut visitor =
                    Matches { path, enums: &enums, imported, impl_of: None, findings: &mut findings };
                visitor.visit_file(&file);
            }
            Err(error) => {
                let line = error.span().start().line;
                let todo = format!("make it compile first: {error}");
                findings.push(Finding::new(path, line, "does not parse", todo));
            }
        }
    }
    findings
}

fn is_watched(path: &str) -> bool {
    !is_test(path) && CRATES.iter().any(|c| path.starts_with(c))
}

/// Returns the public enums of a file with the names of their variants.
fn enums(file: &syn::File) -> HashMap<String, Vec<String>> {
    let enums = file.items.iter().filter_map(|item| match item {
        syn::Item::Enum(e) if matches!(e.vis, syn::Visibility::Public(_)) => {
            Some((e.ident.to_string(), e.variants.iter().map(|v| v.ident.to_string()).collect()))
        }
        _ => None,
    });
    enums.collect()
}

/// Returns the variants that the file can name without their enum.
fn imported(file: &syn::File, enums: &HashMap<String, Vec<String>>) -> HashSet<String> {
    struct Uses<'a>(&'a HashMap<String, Vec<String>>, HashSet<String>);
    impl<'ast> Visit<'ast> for Uses<'_> {
        fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
            if let Some(variants) = self.0.get(&path.ident.to_string()) {
                self.under(&path.tree, variants);
            }
            syn::visit::visit_use_path(self, path);
        }
    }
    impl Uses<'_> {
        fn under(&mut self, tree: &syn::UseTree, variants: &[String]) {
            match tree {
                syn::UseTree::Glob(_) => self.1.extend(variants.iter().cloned()),
                syn::UseTree::Name(name) => _ = self.1.insert(name.ident.to_string()),
                syn::UseTree::Rename(name) => _ = self.1.insert(name.rename.to_string()),
                syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.under(item, variants)),
                _ => {}
            }
        }
    }
    let mut uses = Uses(enums, HashSet::new());
    uses.visit_file(file);
    uses.1
}

struct Matches<'a> {
    path: &'a str,
    enums: &'a HashMap<String, Vec<String>>,
    imported: HashSet<String>,
    /// The enum of the surrounding `impl`, which `Self::` stands for.
    impl_of: Option<String>,
    findings: &'a mut Vec<Finding>,
}

impl<'ast> Visit<'ast> for Matches<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_cfg_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outer = self.impl_of.take();
        if let syn::Type::Path(path) = &*item.self_ty {
            self.impl_of = path.path.segments.last().map(|segment| segment.ident.to_string());
        }
        syn::visit::visit_item_impl(self, item);
        self.impl_of = outer;
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        if let Some(name) = expr.arms.iter().find_map(|arm| self.names(&arm.pat)) {
            for arm in expr.arms.iter().filter(|arm| catches_all(&arm.pat)) {
                let what = format!("a catch-all arm in a match on `{name}`");
                let todo = "name every variant, so that a new one shows up here";
                self.findings.push(Finding::new(self.path, arm.pat.span().start().line, what, todo));
            }
        }
        syn::visit::visit_expr_match(self, expr);
    }
}

impl Matches<'_> {
    /// Returns the enum whose variant a pattern names.
    fn names(&self, pat: &syn::Pat) -> Option<String> {
        match pat {
            syn::Pat::Or(or) => or.cases.iter().find_map(|case| self.names(case)),
            syn::Pat::Paren(paren) => self.names(&paren.pat),
            syn::Pat::Reference(reference) => self.names(&reference.pat),
            syn::Pat::Ident(ident) => match &ident.subpat {
                Some((_, pat)) => self.names(pat),
                None => self.variant(&ident.ident.to_string()),
            },
            syn::Pat::Guard(guard) => self.names(&guard.pat),
            syn::Pat::Path(path) => self.of_path(&path.path),
            syn::Pat::Struct(pat) => self.of_path(&pat.path),
            syn::Pat::TupleStruct(pat) => self.of_path(&pat.path),
            _ => None,
        }
    }

    fn of_path(&self, path: &syn::Path) -> Option<String> {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let [before @ .., last] = segments.as_slice() else { return None };
        let Some(name) = before.last() else { return self.variant(last) };
        let name = if name == "Self" { self.impl_of.as_ref()? } else { name };
        // A variant that the enum does not have belongs to another enum of the same name.
        self.enums.get(name).filter(|variants| variants.contains(last)).map(|_| name.clone())
    }

    /// Returns `name` if it is an imported variant.
    fn variant(&self, name: &str) -> Option<String> {
        self.imported.contains(name).then(|| name.to_string())
    }
}

/// True for `_`, `other`, `&_` and alternatives that contain one of them, without a guard.
fn catches_all(pat: &syn::Pat) -> bool {
    match pat {
        syn::Pat::Wild(_) => true,
        syn::Pat::Ident(ident) => match &ident.subpat {
            Some((_, pat)) => catches_all(pat),
            None => ident.ident.to_string().starts_with(|c: char| c.is_lowercase() || c == '_'),
        },
        syn::Pat::Or(or) => or.cases.iter().any(catches_all),
        syn::Pat::Paren(paren) => catches_all(&paren.pat),
        syn::Pat::Reference(reference) => catches_all(&reference.pat),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::{OPS, check};

    const ENUMS: &str = "pub enum Op { A, B(u32), C }\npub enum Shape { Pad }\nenum Private { X }\n";

    #[track_caller]
    fn in_a_file(text: &str, expected: &[&str]) {
        expect(check, &[(OPS, ENUMS), ("compiler/src/x.rs", text)], expected);
    }

    #[test]
    fn catch_all_arms() {
        let what = "compiler/src/x.rs:2: a catch-all arm in a match on `Op`";
        in_a_file("fn f(o: Op) { match o { Op::A => 1,\n _ => 2 } }", &[what]);
        in_a_file("fn f(o: Op) { match o { ir::Op::A | Op::C => 1,\n other => 2 } }", &[what]);
        in_a_file("fn f(o: &Op) { match o { &Op::B(_) => 1,\n &_ => 2 } }", &[what]);
        in_a_file("impl Op { fn f(self) { match self { Self::B(_) => 1,\n _ => 2 } } }", &[what]);
        let imported = "compiler/src/x.rs:2: a catch-all arm in a match on `A`";
        in_a_file("use ir::Op::*; fn f(o: Op) { match o { A => 1,\n _ => 2 } }", &[imported]);
        in_a_file("use ir::{Op::{self, A}, x}; fn f(o: Op) { match o { A => 1,\n _ => 2 } }", &[imported]);
    }

    #[test]
    fn allowed() {
        in_a_file("fn f(o: Op) { match o { Op::A => 1, Op::B(_) | Op::C => 2 } }", &[]);
        in_a_file("fn f(o: Op) { match o { Op::A => 1, _ if g() => 3, Op::B(_) | Op::C => 2 } }", &[]);
        in_a_file("fn f(o: Private) { match o { Private::X => 1, _ => 2 } }", &[]);
        in_a_file("fn f(s: other::Shape) { match s { Shape::Round => 1, _ => 2 } }", &[]);
        in_a_file("fn f(n: u32) { match n { 0 => 1, n => n } }", &[]);
        in_a_file("fn f(o: Op) -> bool { if let Op::A = o { true } else { matches!(o, Op::C) } }", &[]);
        in_a_file("#[cfg(test)] mod tests { fn f(o: Op) { match o { Op::A => 1, _ => 2 } } }", &[]);
        // The runtime cannot see the enums.
        let text = "fn f(o: Op) { match o { Op::A => 1, _ => 2 } }";
        expect(check, &[(OPS, ENUMS), ("runtime/src/x.rs", text)], &[]);
        expect(check, &[(OPS, ENUMS), ("mesh/src/x/tests.rs", text)], &[]);
    }

    #[test]
    fn broken_input() {
        expect(check, &[], &["mesh/src/ir/op.rs:1: the file is missing"]);
        expect(check, &[(OPS, "pub enum {")], &["mesh/src/ir/op.rs:1: does not parse"]);
        in_a_file("\nfn f() -> ;", &["compiler/src/x.rs:2: does not parse"]);
    }
}
