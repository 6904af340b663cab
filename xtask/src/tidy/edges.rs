//! Allowed dependencies between our crates, as ARCHITECTURE.md lists them.
//!
//! The compiler and the runtime never depend on each other, the language depends on none of our crates, and
//! only `driver` and `meshc`, and `tests` and `bench`, know both.

use super::Tree;
use crate::Finding;

/// A crate and those of our crates that it may depend on.
const EDGES: [(&str, &[&str]); 21] = [
    ("mesh", &[]),
    ("proto", &[]),
    ("pjrt", &[]),
    ("cpu-heap", &[]),
    ("job", &["proto"]),
    ("page", &[]),
    ("models", &["mesh"]),
    ("compiler", &["mesh", "proto"]),
    ("report", &["mesh", "compiler", "proto", "page"]),
    ("plan", &["mesh", "compiler", "report"]),
    ("selftest", &["mesh", "compiler", "models"]),
    ("data", &["proto"]),
    ("tasks", &["proto", "data"]),
    ("runtime", &["proto", "pjrt", "data", "job"]),
    ("interchange", &["mesh", "proto", "data", "models", "runtime"]),
    (
        "driver",
        &[
            "mesh",
            "compiler",
            "report",
            "plan",
            "page",
            "proto",
            "pjrt",
            "data",
            "tasks",
            "runtime",
            "models",
            "interchange",
            "job",
            "selftest",
        ],
    ),
    ("options", &["mesh", "proto", "driver"]),
    ("meshc", &ALL),
    ("tests", &ALL),
    ("bench", &ALL),
    ("xtask", &[]),
];

/// The crates that `meshc`, `tests` and `bench` may use.
const ALL: [&str; 18] = [
    "mesh",
    "proto",
    "pjrt",
    "cpu-heap",
    "job",
    "page",
    "models",
    "compiler",
    "report",
    "plan",
    "selftest",
    "data",
    "tasks",
    "runtime",
    "interchange",
    "driver",
    "options",
    "meshc",
];

/// Reports dependencies in `Cargo.toml` files that the table does not allow.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("").filter(|(path, _)| path.ends_with("/Cargo.toml")) {
        let Some(folder) = path.strip_suffix("/Cargo.toml") else { continue };
        let name = if folder == "pjrt/heap" { "cpu-heap" } else { folder };
        let Some((_, allowed)) = EDGES.iter().find(|(from, _)| *from == name) else {
            let todo = "add it to the table in xtask/src/tidy/edges.rs and to ARCHITECTURE.md";
            findings.push(Finding::new(
                path,
                1,
                format!("crate `{name}` is not in the table of crates"),
                todo,
            ));
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

/// Returns the lines of dependency sections that name one of our crates.
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
            &["util/Cargo.toml:1: crate `util` is not in the table of crates"],
        );
    }
}
