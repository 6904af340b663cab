//! The line of a model that called library code in which a mistake is found.
//!
//! A site is the line that calls the language. In a layer of the library that is a line of the library, so
//! the line of the model is read from the call stack: of all crates only the model has line numbers in debug
//! information.

use crate::Site;
use std::{backtrace::Backtrace, cell::RefCell};

/// Folders of library code, as rustc names them in builds of models.
const LIBRARIES: [&str; 2] = ["mesh/src/", "models/src/"];

thread_local! {
    /// The file with the `main` of the model program; `None` in other programs.
    static MAIN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Begins a model program whose `main` is in `file`.
pub(super) fn begin(file: &str) {
    MAIN.set(Some(file.to_owned()));
}

/// Returns the line of the model that led to `site`, if `site` is in library code of a model program.
pub(super) fn caller(site: &Site) -> Option<Site> {
    let main = MAIN.with_borrow(Clone::clone)?;
    if !is_library(&site.file, &main) {
        return None;
    }
    let (file, line, column) = innermost(&Backtrace::force_capture().to_string(), &main)?;
    Some(Site::new(file.as_str(), line, column, site.scope.clone()))
}

fn is_library(file: &str, main: &str) -> bool {
    file != main && LIBRARIES.iter().any(|folder| file.starts_with(folder))
}

/// Returns the innermost frame of a backtrace in code of the model, as file, line and column. `main` itself
/// says nothing about a mistake, so it does not count.
fn innermost(backtrace: &str, main: &str) -> Option<(String, u32, u32)> {
    let mut frames = Vec::new();
    let mut function = "";
    for line in backtrace.lines() {
        match line.trim_start().strip_prefix("at ") {
            Some(place) => frames.extend(parse(place).map(|place| (function, place))),
            None => function = line.trim_start().split_once(": ").map_or("", |(_, name)| name),
        }
    }
    // Debug information has the folder of the build before the path that sites have.
    let root = frames.iter().rev().find_map(|(_, (path, ..))| path.strip_suffix(main))?;
    frames.iter().find_map(|(function, (path, line, column))| {
        let file = path.strip_prefix(root)?;
        let counts = !file.starts_with('/') && !is_library(file, main) && !function.ends_with("::main");
        counts.then(|| (file.to_owned(), *line, *column))
    })
}

/// Parses `PATH:LINE:COLUMN`.
fn parse(place: &str) -> Option<(&str, u32, u32)> {
    let (rest, column) = place.rsplit_once(':')?;
    let (path, line) = rest.rsplit_once(':')?;
    Some((path, line.parse().ok()?, column.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "   0: std::backtrace::Backtrace::create
   1: mesh::dsl::shared::Shared::note
   2: models::layers::attention
             at /tree/models/src/layers.rs:40:9
   3: decoder::block::{{closure}}
             at /cache/m/my/decoder.rs:21:13
   4: decoder::model
             at /cache/m/my/decoder.rs:11:5
   5: core::ops::function::FnOnce::call_once
             at /rustc/abc/library/core/src/ops/function.rs:250:5
   6: decoder::main
             at /cache/m/my/decoder.rs:5:5
";

    #[track_caller]
    fn check(trace: &str, main: &str, expected: Option<(&str, u32, u32)>) {
        let expected = expected.map(|(file, line, column)| (file.to_owned(), line, column));
        assert_eq!(innermost(trace, main), expected);
    }

    #[test]
    fn the_innermost_line_of_the_model_is_found() {
        check(TRACE, "my/decoder.rs", Some(("my/decoder.rs", 21, 13)));
        // A package has several files, and relative paths have no folder of the build.
        let relative = TRACE.replace("/cache/m/my/", "my/").replace("my/decoder.rs:21", "my/block.rs:21");
        check(&relative, "my/decoder.rs", Some(("my/block.rs", 21, 13)));
        // Only `main` of the model is on the stack, or no line numbers are known.
        let of_main: String = TRACE.lines().skip(9).map(|line| format!("{line}\n")).collect();
        check(&of_main, "my/decoder.rs", None);
        check("   0: a\n   1: b\n", "my/decoder.rs", None);
        check(TRACE, "other.rs", None);
    }

    #[test]
    fn only_library_code_of_a_model_program_has_a_caller() {
        assert_eq!(caller(&Site::new("models/src/layers.rs", 1, 1, "")), None);
        assert!(is_library("models/src/layers.rs", "models/mine.rs"));
        assert!(!is_library("models/mine.rs", "models/mine.rs"));
        assert!(!is_library("models/src/mine.rs", "models/src/mine.rs"));
    }
}
