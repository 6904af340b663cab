//! No function is longer than a screen.

use syn::spanned::Spanned;
use syn::visit::Visit;

use super::source::{is_cfg_test, is_test};
use super::{Tree, allowed};
use crate::Finding;

/// The largest number of lines from `fn` to the closing brace.
const MAX_LINES: usize = 60;

/// Reports functions outside of tests that are too long.
pub fn check(tree: &Tree) -> Vec<Finding> {
    allowed(tree, "functions.txt", long_functions(tree))
}

fn long_functions(tree: &Tree) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !is_test(path)) {
        // A file that does not parse is reported by the check of arms, or by rustc.
        let Ok(file) = syn::parse_file(text) else { continue };
        Functions { path, found: &mut found }.visit_file(&file);
    }
    found
}

struct Functions<'a> {
    path: &'a str,
    found: &'a mut Vec<(String, Finding)>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        let lines = last + 1 - first;
        if lines > MAX_LINES {
            let what = format!("function `{}` has {lines} lines", signature.ident);
            let todo = format!("split it: the limit is {MAX_LINES}");
            let key = format!("{}::{}", self.path, signature.ident);
            self.found.push((key, Finding::new(self.path, first, what, todo)));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_cfg_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_cfg_test(&item.attrs) {
            self.measure(&item.sig, &item.block);
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::*;

    fn all(tree: &Tree) -> Vec<Finding> {
        long_functions(tree).into_iter().map(|(_, finding)| finding).collect()
    }

    #[test]
    fn lengths() {
        let (fits, long) = ("\n".repeat(59), "\n".repeat(60));
        let bodies = format!("fn fits() {{{fits}}}\nimpl X {{\n/// Docs.\nfn long() {{{long}}} }}");
        expect(all, &[("a/src/x.rs", &bodies)], &["a/src/x.rs:63: function `long` has 61 lines"]);
        let test = format!("#[cfg(test)]\nmod tests {{ fn long() {{{long}}} }}");
        expect(all, &[("a/src/x.rs", &test), ("a/tests/x.rs", &bodies)], &[]);
    }
}
