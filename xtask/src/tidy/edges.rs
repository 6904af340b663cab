//! Which crate may use which: the table of ARCHITECTURE.md.
//!
//! Compiler and runtime never see each other, the language sees nobody, and only `meshc` and what
//! tests it see everything.

use super::Tree;
use crate::Finding;

/// A crate and the crates of ours that it may use.
const EDGES: [(&str, &[&str]); 11] = [
    ("mesh", &[]),
    ("proto", &[]),
    ("pjrt", &[]),
    ("models", &["mesh"]),
    ("compiler", &["mesh", "proto"]),
    ("runtime", &["proto", "pjrt"]),
    ("tokenizer", &["runtime"]),
    ("meshc", &["mesh", "proto", "pjrt", "models", "compiler", "runtime", "tokenizer"]),
    ("tests", &["mesh", "proto", "pjrt", "models", "compiler", "runtime", "meshc"]),
    ("bench", &["mesh", "proto", "pjrt", "models", "compiler", "runtime", "meshc"]),
    ("xtask", &[]),
];

/// Every `Cargo.toml` of a crate against the table.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("").filter(|(path, _)| path.ends_with("/Cargo.toml")) {
        let Some(name) = path.strip_suffix("/Cargo.toml") else { continue };
        let Some((_, allowed)) = EDGES.iter().find(|(from, _)| *from == name) else {
            let todo = "add it to the table in xtask/src/tidy/edges.rs and to ARCHITECTURE.md";
            findings.push(Finding::new(path, 1, format!("crate `{name}` has no place in the design"), todo));
            continue;
        };
        for (line, used) in ours(text) {
            if !allowed.contains(&used) {
                let what = format!("`{name}` must not use `{used}`");
                let todo = match *allowed {
                    [] => format!("`{name}` uses none of our crates"),
                    _ => format!("`{name}` may use {}", allowed.join(", ")),
                };
                findings.push(Finding::new(path, line, what, todo));
            }
        }
    }
    findings
}

/// The lines of dependency sections that name a crate of ours.
fn ours(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut section = "";
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        let word = if let Some(head) = content.strip_prefix('[') {
            section = head.trim_end_matches(']');
            // `[dependencies.mesh]`
            section.rsplit_once("dependencies.").map(|(_, name)| name)
        } else if section.ends_with("dependencies") {
            // `other = { package = "mesh" }`, or else `mesh = …` and `mesh.workspace = true`
            let renamed = content.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            renamed.or(content.split(['=', '.', ' ']).next())
        } else {
            None
        };
        if let Some((name, _)) = EDGES.iter().find(|(name, _)| Some(*name) == word) {
            found.push((line, *name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::expect;
    use super::check;

    #[test]
    fn edges() {
        let good = "[dependencies]\nmesh.workspace = true\nproto = { path = \"../proto\" }\nprost = \"1\"\n";
        expect(check, &[("compiler/Cargo.toml", good), ("Cargo.toml", "[workspace]\n")], &[]);
        expect(
            check,
            &[("mesh/Cargo.toml", "[package]\nname = \"mesh\"\n\n[lints]\nworkspace = true\n")],
            &[],
        );
        let bad = "[dependencies]\nmesh = \"0\"\nx = { package = \"runtime\" }\n\n[dev-dependencies.meshc]\npath = \"\"\n";
        expect(
            check,
            &[("compiler/Cargo.toml", bad)],
            &[
                "compiler/Cargo.toml:3: `compiler` must not use `runtime`",
                "compiler/Cargo.toml:5: `compiler` must not use `meshc`",
            ],
        );
        expect(
            check,
            &[("mesh/Cargo.toml", "[target.x.build-dependencies]\nproto.workspace = true\n")],
            &["mesh/Cargo.toml:2: `mesh` must not use `proto`"],
        );
        expect(
            check,
            &[("util/Cargo.toml", "")],
            &["util/Cargo.toml:1: crate `util` has no place in the design"],
        );
    }
}
