//! No circles of files inside a crate.
//!
//! File A uses file B if a path in A that begins with `crate::`, `super::` or `self::`, or with the name of a
//! module that A imported, leads to an item of B. Re-exports are followed to the file that defines the item.
//! A file may use its ancestors freely: a module's file holds the vocabulary of the files below it. Test code
//! is not looked at.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{is_cfg_test, is_test, test_ranges};
use super::{Tree, allowed};
use crate::Finding;

/// Reports every circle with the uses that close it.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let found = circles(tree).into_iter().map(|finding| (finding.file.clone(), finding));
    allowed(tree, "circles.txt", found.collect())
}

fn circles(tree: &Tree) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (path, text) in tree.rust().filter(|(path, _)| !is_test(path)) {
        if let Some((name, _)) = path.split_once("/src/") {
            crates.entry(name).or_default().push((path, text));
        }
    }
    let mut findings = Vec::new();
    for (name, files) in crates {
        let uses = Crate::new(name, &files).uses();
        for members in components(&uses) {
            findings.push(finding(&members, &uses));
        }
    }
    findings
}

/// From a file to the files that it uses, each with the line of the first use.
type Uses<'a> = BTreeMap<&'a str, BTreeMap<&'a str, usize>>;

fn finding(members: &BTreeSet<&str>, uses: &Uses) -> Finding {
    let inside = members.iter().flat_map(|from| {
        let used = uses[from].iter().filter(|(to, _)| members.contains(*to));
        used.map(move |(to, line)| format!("\n    {from}:{line} uses {to}"))
    });
    let first = members.first().expect("a circle has files");
    let what = format!("a circle of {} files:{}", members.len(), inside.collect::<String>());
    let todo = "\n    move what both sides need into a file below them";
    Finding::new(first, 1, what, todo)
}

/// Returns the strongly connected components with more than one file.
fn components<'a>(uses: &Uses<'a>) -> Vec<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|from| (*from, reach(uses, from))).collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for from in uses.keys() {
        let circle: BTreeSet<&str> = reached[from]
            .iter()
            .copied()
            .filter(|to| reached.get(to).is_some_and(|r| r.contains(from)))
            .collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// Returns all files that `from` uses directly or indirectly.
fn reach<'a>(uses: &Uses<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = uses[from].keys().copied().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(uses.get(file).into_iter().flat_map(|used| used.keys().copied()));
        }
    }
    reached
}

/// The path of a module from the root of its crate.
type Module = Vec<String>;

/// The files of a crate by module.
struct Crate<'a> {
    files: BTreeMap<Module, File<'a>>,
}

struct File<'a> {
    path: &'a str,
    /// All paths in the file, resolved against its place in the crate, with their lines.
    paths: Vec<(Module, usize)>,
    /// Names that `use` items bring into the module, and the paths they stand for.
    imports: BTreeMap<String, Module>,
    /// Modules of which everything is imported.
    globs: Vec<Module>,
    /// Names that the file itself defines.
    items: BTreeSet<String>,
}

impl<'a> Crate<'a> {
    fn new(name: &str, sources: &[(&'a str, &'a str)]) -> Crate<'a> {
        let mut files = BTreeMap::new();
        for (path, text) in sources {
            let module = module_of(path.strip_prefix(&format!("{name}/src/")).unwrap_or(path));
            if let Ok(parsed) = syn::parse_file(text) {
                files.insert(module.clone(), File::new(path, text, &parsed, &module));
            }
        }
        Crate { files }
    }

    fn uses(&self) -> Uses<'a> {
        let mut uses = Uses::new();
        for (module, file) in &self.files {
            let used = uses.entry(file.path).or_default();
            for (path, line) in &file.paths {
                if let Some(target) = self.resolve(path, 0) {
                    let target_file = &self.files[&target];
                    if target_file.path != file.path && !module.starts_with(&target) {
                        used.entry(target_file.path).or_insert(*line);
                    }
                }
            }
        }
        uses
    }

    /// Returns the modules whose files define what a path leads to.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Module> {
        let known = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n]))?;
        let (module, rest) = path.split_at(known);
        let file = &self.files[module];
        let Some((name, below)) = rest.split_first().filter(|_| depth < 8) else {
            return Some(module.to_vec());
        };
        if file.items.contains(name) {
            return Some(module.to_vec());
        }
        if let Some(import) = file.imports.get(name) {
            let path: Module = import.iter().chain(below).cloned().collect();
            // A path out of the crate stays with the file that imports it.
            return self.resolve(&path, depth + 1).or_else(|| Some(module.to_vec()));
        }
        let glob =
            file.globs.iter().find(|glob| self.files.get(*glob).is_some_and(|f| f.items.contains(name)));
        Some(glob.cloned().unwrap_or_else(|| module.to_vec()))
    }
}

/// `text/parse.rs` and `text/parse/mod.rs` are the module `text::parse`, `lib.rs` and `main.rs` the root.
fn module_of(path: &str) -> Module {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let root = matches!(path, "lib" | "main" | "mod");
    if root { Vec::new() } else { path.split('/').map(str::to_string).collect() }
}

impl<'a> File<'a> {
    fn new(path: &'a str, text: &str, parsed: &syn::File, module: &[String]) -> File<'a> {
        let mut file = File {
            path,
            paths: Vec::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
            items: BTreeSet::new(),
        };
        for item in &parsed.items {
            if let syn::Item::Use(item) = item {
                if !is_cfg_test(&item.attrs) {
                    file.import(&item.tree, &mut Vec::new(), module);
                }
            } else {
                file.items.extend(name_of(item));
            }
        }
        let tests = test_ranges(parsed);
        if let Ok(tokens) = text.parse::<TokenStream>() {
            file.scan(tokens, module, &tests);
        }
        file
    }

    /// Records the names of a `use` tree.
    fn import(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, module: &[String]) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, module);
                before.pop();
            }
            syn::UseTree::Name(name) => {
                self.bind(&name.ident.to_string(), &name.ident.to_string(), before, module)
            }
            syn::UseTree::Rename(name) => {
                self.bind(&name.rename.to_string(), &name.ident.to_string(), before, module)
            }
            syn::UseTree::Glob(_) => self.globs.push(absolute(before, module)),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.import(item, before, module));
            }
        }
    }

    fn bind(&mut self, alias: &str, name: &str, before: &[String], module: &[String]) {
        let mut path = before.to_vec();
        let alias =
            if alias == "self" { before.last().cloned().unwrap_or_default() } else { alias.to_string() };
        if name != "self" {
            path.push(name.to_string());
        }
        self.imports.insert(alias, absolute(&path, module));
    }

    /// Collects the paths in the tokens, macros included, outside of test code.
    fn scan(&mut self, tokens: TokenStream, module: &[String], tests: &[(usize, usize)]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let line = tokens[at].span().start().line;
            let test = tests.iter().any(|(first, last)| (*first..=*last).contains(&line));
            match &tokens[at] {
                TokenTree::Ident(ident)
                    if !test && is_colons(&tokens, at + 1) && !after_colons(&tokens[..at]) =>
                {
                    let name = ident.to_string();
                    let start = match self.imports.get(&name) {
                        Some(path) => path.clone(),
                        None => absolute(&[name], module),
                    };
                    at = self.path(&tokens, at + 1, start, line);
                }
                TokenTree::Group(group) => {
                    if !test {
                        self.scan(group.stream(), module, tests);
                    }
                    at += 1;
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// Follows `:: name` and `:: { … }` from `at`; returns where the path ends.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, mut path: Module, line: usize) -> usize {
        while is_colons(tokens, at) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(next)) => {
                    push(&mut path, &next.to_string());
                    at += 3;
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.group(&inner, &path);
                    return at + 3;
                }
                _ => break,
            }
        }
        self.paths.push((path, line));
        at
    }

    /// The paths of a braced group of a `use` item, below `path`.
    fn group(&mut self, tokens: &[TokenTree], path: &[String]) {
        let mut at = 0;
        while at < tokens.len() {
            let line = tokens[at].span().start().line;
            at = match &tokens[at] {
                TokenTree::Ident(ident) => {
                    let mut below = path.to_vec();
                    push(&mut below, &ident.to_string());
                    let end = self.path(tokens, at + 1, below, line);
                    // `name as other`
                    let renamed = matches!(tokens.get(end), Some(TokenTree::Ident(word)) if word == "as");
                    if renamed { end + 2 } else { end }
                }
                TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }
}

fn push(path: &mut Module, name: &str) {
    match name {
        "super" => _ = path.pop(),
        "self" => {}
        name => path.push(name.to_string()),
    }
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}

fn after_colons(before: &[TokenTree]) -> bool {
    before.len() >= 2 && is_colons(before, before.len() - 2)
}

/// The path from the crate's root. A first word that is neither `crate`, `super` nor `self` names something
/// in the module itself.
fn absolute(path: &[String], module: &[String]) -> Module {
    let mut words = path.iter().map(String::as_str).peekable();
    let mut found = if words.next_if_eq(&"crate").is_some() { Vec::new() } else { module.to_vec() };
    words.for_each(|word| push(&mut found, word));
    found
}

/// The name that an item defines in its module.
fn name_of(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::circles;

    #[track_caller]
    fn found(files: &[(&str, &str)], edges: &[&str]) {
        let what = match edges {
            [] => Vec::new(),
            [first, ..] => {
                let file = first.split(':').next().unwrap_or_default();
                let members: std::collections::BTreeSet<_> =
                    edges.iter().filter_map(|edge| edge.split(':').next()).collect();
                let edges: String = edges.iter().map(|edge| format!("\n    {edge}")).collect();
                vec![format!("{file}:1: a circle of {} files:{edges}", members.len())]
            }
        };
        let what: Vec<&str> = what.iter().map(String::as_str).collect();
        expect(circles, files, &what);
    }

    #[test]
    fn direct() {
        let files = [
            ("x/src/a.rs", "\nuse crate::b::B;\nstruct A;"),
            ("x/src/b.rs", "use super::a;\nstruct B(a::A);"),
        ];
        found(&files, &["x/src/a.rs:2 uses x/src/b.rs", "x/src/b.rs:1 uses x/src/a.rs"]);
        // The same files in two crates.
        found(&[("x/src/a.rs", "use crate::b;"), ("y/src/b.rs", "use crate::a;")], &[]);
    }

    #[test]
    fn through_a_parent() {
        let (root, sub) = ("pub use sub::c::C; mod sub;", "pub mod c; fn f() { c::g() }");
        // `a` uses the file of `sub`, which uses its child, which uses `a`.
        let files = [
            ("x/src/lib.rs", root),
            ("x/src/a.rs", "fn f() { crate::sub::f() }"),
            ("x/src/sub/mod.rs", sub),
            ("x/src/sub/c.rs", "use crate::a; struct C;"),
        ];
        let edges = [
            "x/src/a.rs:1 uses x/src/sub/mod.rs",
            "x/src/sub/c.rs:1 uses x/src/a.rs",
            "x/src/sub/mod.rs:1 uses x/src/sub/c.rs",
        ];
        found(&files, &edges);
        // A re-export leads to the file that defines the item.
        let files = [
            ("x/src/lib.rs", root),
            ("x/src/a.rs", "use crate::C;"),
            ("x/src/sub/mod.rs", sub),
            ("x/src/sub/c.rs", "struct C; fn f() { m!(crate::a::f()) }"),
        ];
        found(&files, &["x/src/a.rs:1 uses x/src/sub/c.rs", "x/src/sub/c.rs:1 uses x/src/a.rs"]);
    }

    #[test]
    fn allowed() {
        // A child uses its parent's vocabulary.
        found(
            &[
                ("x/src/a.rs", "mod b; struct A; fn f() { b::g() }"),
                ("x/src/a/b.rs", "use super::A; fn g() {}"),
            ],
            &[],
        );
        // Tests and comments do not count.
        let test = "// crate::b\n#[cfg(test)]\nmod tests { use crate::b; }";
        found(&[("x/src/a.rs", test), ("x/src/b.rs", "use crate::a;")], &[]);
        found(&[("x/src/a/tests.rs", "use crate::b;"), ("x/src/b.rs", "use crate::a;")], &[]);
    }
}
