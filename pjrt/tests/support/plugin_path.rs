//! Finds a CPU plugin for the tests.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns the CPU plugin to test with: `MESH_PJRT_PLUGIN`, else the one installed in the cache.
///
/// Without one, the test prints that it is skipped; with `MESH_REQUIRE_PLUGIN=1` it fails.
pub fn cpu_plugin_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MESH_PJRT_PLUGIN") {
        return Some(path.into());
    }
    let cache = cache_dir();
    let found = cache.as_deref().and_then(|cache| find(cache, 6));
    if found.is_none() {
        let searched = cache.map_or("no cache directory".to_owned(), |dir| dir.display().to_string());
        let why = format!("no CPU plugin: MESH_PJRT_PLUGIN is not set, and there is none in {searched}");
        assert!(std::env::var_os("MESH_REQUIRE_PLUGIN").is_none_or(|value| value != "1"), "{why}");
        say_skipped(&why);
    }
    found
}

/// Prints that a test is skipped, bypassing the test harness, which hides the output of passing tests.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // If standard error is closed, the message is not needed.
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}

/// `MESH_CACHE`, else `mesh` in the user's cache directory.
fn cache_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MESH_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("mesh")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache").join("mesh")))
}

/// Returns the first file in `dir` or below, by name, that is named like a CPU plugin.
fn find(dir: &Path, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let is_plugin = |path: &&PathBuf| {
        path.is_file() && path.file_name().is_some_and(|name| name == "pjrt_c_api_cpu_plugin.so")
    };
    entries
        .iter()
        .find(is_plugin)
        .cloned()
        .or_else(|| entries.iter().filter(|_| depth > 0).find_map(|path| find(path, depth - 1)))
}

/// Runs the tests of this program whose names contain `filter` once more for each plugin in
/// `MESH_PJRT_MATRIX` (paths separated by `:`), each in its own process.
#[allow(dead_code)] // Every test file is a crate of its own and uses a part of this.
pub fn for_other_plugins(filter: &str) {
    let Some(paths) = std::env::var_os("MESH_PJRT_MATRIX").filter(|paths| !paths.is_empty()) else {
        return say_skipped("MESH_PJRT_MATRIX names no further plugins");
    };
    for path in std::env::split_paths(&paths) {
        let this = std::env::current_exe().expect("a test is a program");
        let output = std::process::Command::new(this)
            .arg(filter)
            .env("MESH_PJRT_PLUGIN", &path)
            .env_remove("MESH_PJRT_MATRIX")
            .output()
            .expect("a program can be started again");
        assert!(
            output.status.success(),
            "{}: {}\n{}{}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
